"""Derivatives of a model at its perfect crystal, of any order, as the Taylor models take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..crystal import Crystal

__all__ = ["CrystalDerivatives", "check_memory"]


@dataclass(frozen=True)
class CrystalDerivatives:
    """Derivatives of the site energies, or of the forces, of a perfect crystal over its stencils.

    With respect to the displacements ``g_rho = u(l + rho) - u(l)`` of the stencil vectors rho of basis atom
    alpha (part 2 of the papers, eqs. (36) and (71)),

        energy: d^j V_alpha / dg_rho,c dg_sigma,d ..,  shape (s, 3, s, 3, ..), eV/Å^j
        force:  d^j F_alpha,b / dg_rho,c dg_sigma,d ..,  shape (3, s, 3, s, 3, ..), eV/Å^(j+1)

    in the order of ``crystal.stencil(alpha, cutoffs[j])``. The derivative by u(l) itself follows from
    translation.

    Attributes
    ----------
    crystal : Crystal
    kind : {"energy", "force"}
    cutoffs : dict of int to float
        Radius of the stencils by order (Å).
    tensors : dict of int to list of ndarray
        By order, one per basis atom.
    energies : ndarray, shape (n_basis,)
        Site energies of the perfect crystal (eV), the order zero.
    label : str
        The model they come from.
    """

    crystal: Crystal
    kind: str
    cutoffs: dict[int, float]
    tensors: dict[int, list[np.ndarray]]
    energies: np.ndarray
    label: str

    def stencil(self, order: int, basis: int) -> np.ndarray:
        """Stencil vectors (s, 3) in Å of the tensors of one order."""
        return self.crystal.stencil(basis, self.cutoffs[order])


def check_memory(kind: str, crystal: Crystal, cutoffs: dict[int, float], limit: float) -> None:
    """Refuse tensors that do not fit before anything is computed."""
    sizes = []
    for j, radius in cutoffs.items():
        neighbours = [len(crystal.stencil(b, radius)) for b in range(crystal.n_basis)]
        sizes.append([8e-9 * (3.0 * s) ** j * (3 if kind == "force" else 1) for s in neighbours])
    # Symmetrising and turning a tensor take up to three copies of it.
    needed = sum(map(sum, sizes)) + 3 * max(map(max, sizes))
    if needed > limit:
        raise ValueError(
            f"cutoff: the tensors for {cutoffs[len(cutoffs)]:g} Å at order {len(cutoffs)} need "
            f"{needed:.3g} GB, more than max_memory = {limit:g} GB"
        )
