"""Taylor series of site energies along a displacement: what a model gives in place of tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from ..crystal import Crystal
from ..symmetry import space_group, stencil_permutation

__all__ = ["SiteSeries"]


class SiteSeries(ABC):
    """Truncated Taylor series of the site energies of a crystal by the displacements of their stencils.

    For the displacement differences ``g_rho`` of the stencil of basis atom alpha, all other atoms on their
    sites, the series along the line ``t g`` gives

        T_k V(g) = sum_(j = 1 .. k) 1/j! d^j V[g, .., g] = sum_j [t^j] V(t g),
        grad T_k V(g) = T_(k-1) grad V(g) = sum_(j < k) [t^j] grad V(t g).

    A subclass sets the attributes and implements :meth:`_series` for the basis atoms in `computed`; the
    others follow by symmetry.

    Attributes
    ----------
    crystal : Crystal
    order : int
        k.
    cutoff : float
        Radius of the stencils (Å).
    energies : ndarray, shape (n_basis,)
        Site energies of the perfect crystal (eV), the order zero.
    label : str
        The model.
    """

    crystal: Crystal
    order: int
    cutoff: float
    energies: np.ndarray
    label: str

    def _set_symmetry(self) -> None:
        """Find the basis atoms to be computed, and how the others are mapped onto them."""
        self.computed: list[int] = []
        self._images: dict[int, tuple[int, np.ndarray, np.ndarray]] = {}
        group = space_group(self.crystal)
        for basis in range(self.crystal.n_basis):
            op = next((op for op in group if op.sites[basis] in self.computed), None)
            if op is None:
                self.computed.append(basis)
                continue
            permutation = stencil_permutation(self.crystal, op, basis, self.cutoff)
            self._images[basis] = int(op.sites[basis]), op.rotation, permutation

    def expand(
        self, basis: int, g: np.ndarray, lowest: int = 1, highest: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Orders `lowest` .. `highest` of energies (m,) in eV, and their gradients (m, s, 3) in eV/Å.

        Parameters
        ----------
        basis : int
        g : ndarray, shape (m, s, 3)
            Displacement differences (Å) of m sites.
        lowest, highest : int
            All orders by default.
        """
        orders = lowest, self.order if highest is None else highest
        if basis not in self._images:
            return self._series(basis, g, *orders)
        there, rotation, permutation = self._images[basis]
        turned = np.empty_like(g)
        turned[:, permutation] = g @ rotation.T
        energies, gradients = self._series(there, turned, *orders)
        return energies, gradients[:, permutation] @ rotation

    @abstractmethod
    def _series(self, basis: int, g: np.ndarray, lowest: int, highest: int) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`expand`, for the basis atoms in `computed`."""
