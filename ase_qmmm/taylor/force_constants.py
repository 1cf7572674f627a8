"""Second derivatives of the energy at the perfect crystal, on the stencils of its basis atoms."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..crystal import Crystal
from ..errors import check_positive
from .crystal_derivatives import CrystalDerivatives

__all__ = ["ForceConstants", "stencil_hessian"]

log = logging.getLogger(__name__)


@dataclass
class ForceConstants:
    """``Phi_alpha(rho) = d2E / dy_l dy_(l + rho)`` for every basis atom alpha and stencil vector rho.

    Attributes
    ----------
    crystal : Crystal
    cutoff : float
        Radius of the stencils (Å).
    matrices : list of ndarray, shape (s, 3, 3)
        One per basis atom, eV/Å^2, in the order of ``crystal.stencil(alpha, cutoff)``.
    energies : ndarray, shape (n_basis,)
        Site energies of the perfect crystal (eV).
    label : str
        The model they come from.
    """

    crystal: Crystal
    cutoff: float
    matrices: list[np.ndarray]
    energies: np.ndarray
    label: str

    def __post_init__(self) -> None:
        self.matrices = _reciprocal(self.crystal, self.cutoff, self.matrices)

    @classmethod
    def from_derivatives(cls, derivatives: CrystalDerivatives) -> ForceConstants:
        """The first derivatives of forces, with the opposite sign.

        Raises
        ------
        ValueError
            `derivatives` are those of energies.
        """
        if derivatives.kind != "force":
            raise ValueError(f"derivatives: got kind {derivatives.kind!r}, expected 'force'")
        matrices = [-np.moveaxis(tensor, 0, 1) for tensor in derivatives.tensors[1]]
        return cls(
            derivatives.crystal, derivatives.cutoffs[1], matrices, derivatives.energies, derivatives.label
        )

    def onsite(self, basis_index: int) -> np.ndarray:
        """``Phi_alpha(0) = -sum_rho Phi_alpha(rho)`` (3, 3): the acoustic sum rule."""
        total: np.ndarray = -self.matrices[basis_index].sum(axis=0)
        return total

    def dynamical_matrix(self, q: np.ndarray, masses: np.ndarray | None = None) -> np.ndarray:
        """Dynamical matrix (3 n_basis, 3 n_basis) at wave vector q (1/Å, with 2 pi), eV/Å^2 (per mass, u)."""
        n = self.crystal.n_basis
        d = np.zeros((n, 3, n, 3), dtype=complex)
        for a, phi in enumerate(self.matrices):
            rho, sites, _ = self.crystal.stencil_sites(a, self.cutoff)
            d[a, :, a] += self.onsite(a)
            for b in range(n):
                at = sites == b
                d[a, :, b] += np.einsum("s,scd->cd", np.exp(1j * rho[at] @ q), phi[at])
        if masses is not None:
            d /= np.sqrt(masses)[:, None, None, None] * np.sqrt(masses)[None, None, :, None]
        return d.reshape(3 * n, 3 * n)


def reverse_index(crystal: Crystal, cutoff: float) -> list[np.ndarray]:
    """For each stencil vector rho of alpha, the number of -rho in the stencil of the atom it leads to."""
    stencils = [crystal.stencil_sites(a, cutoff) for a in range(crystal.n_basis)]
    lookup = [
        {(int(b), *map(int, cell)): k for k, (b, cell) in enumerate(zip(sites, cells, strict=True))}
        for _, sites, cells in stencils
    ]
    return [
        np.array([lookup[b][(a, *(-cell).tolist())] for b, cell in zip(sites, cells, strict=True)], dtype=int)
        for a, (_, sites, cells) in enumerate(stencils)
    ]


def _reciprocal(crystal: Crystal, cutoff: float, matrices: list[np.ndarray]) -> list[np.ndarray]:
    """Average with the transpose seen from the other atom: ``Phi_ab(rho) = Phi_ba(-rho)^T``."""
    reverse = reverse_index(crystal, cutoff)
    out = []
    for a, phi in enumerate(matrices):
        sites = crystal.stencil_sites(a, cutoff)[1]
        other = np.array([matrices[b][k].T for b, k in zip(sites, reverse[a], strict=True)]).reshape(-1, 3, 3)
        out.append((phi + other) / 2)
    return out


def stencil_hessian(crystal: Crystal, cutoff: float, force_changes: Any) -> list[np.ndarray]:
    """Stencil matrices from the response of forces in a supercell that holds the stencils once.

    Parameters
    ----------
    crystal : Crystal
    cutoff : float
        Å.
    force_changes : callable
        ``force_changes(supercell, atoms)`` returns the change of the forces (len(atoms), 3, n, 3) per Å of
        displacement of each of the listed atoms along x, y, z.
    """
    check_positive("cutoff", cutoff, "Å")
    supercell = crystal.supercell(tuple(int(n) for n in crystal.box_for_radius(cutoff)))
    match = crystal.match(supercell, cutoff)
    atoms = [int(np.flatnonzero(match.basis == a)[0]) for a in range(crystal.n_basis)]
    log.info("force constants from a supercell of %d atoms", len(supercell))
    changes = force_changes(supercell, atoms)
    matrices = []
    for a, (atom, change) in enumerate(zip(atoms, changes, strict=True)):
        size = len(crystal.stencil_sites(a, cutoff)[0])
        neighbours = match.neighbours[atom, :size]
        matrices.append(-np.moveaxis(change[:, neighbours], 0, 1))
    return matrices
