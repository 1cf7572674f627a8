"""Packed polynomials evaluated over the atoms of a stencil match."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..stencils import StencilMatch
from .polynomial_kernels import polynomial_gradients, polynomial_values
from .polynomials import FlatTerms

__all__ = ["PolynomialTables"]

# Types of compiled functions are numba's affair.
_kernel_values: Any = polynomial_values
_kernel_gradients: Any = polynomial_gradients


class PolynomialTables:
    """Neighbours of a match as the kernels take them. Positions are turned into the axes of the crystal.

    Parameters
    ----------
    match : StencilMatch
    rho : ndarray, shape (n_basis, s, 3)
        Stencil vectors in the axes of the crystal (Å).
    shell : ndarray of int, shape (n_basis,)
        How many of them are nearest neighbours.
    """

    def __init__(self, match: StencilMatch, rho: np.ndarray, shell: np.ndarray) -> None:
        self._rotation, self._basis = match.rotation, match.basis
        # All translations that occur, once; a number of one byte or two for each neighbour.
        low = match.shifts.min(axis=(0, 1), initial=0)
        size = match.shifts.max(axis=(0, 1), initial=0) - low + 1
        kind = np.uint16 if size.prod() < 2**16 else np.int64
        numbers = np.zeros(match.neighbours.shape, dtype=kind)
        for c in range(3):
            numbers = numbers * kind(size[c]) + (match.shifts[:, :, c] - low[c]).astype(kind)
        cells = np.indices(size).reshape(3, -1).T + low
        shifts = cells @ (match.cell @ match.rotation)
        neighbours = match.neighbours.astype(np.int32, copy=False)
        self._tables = (np.ascontiguousarray(shifts), numbers, neighbours, rho)
        self._shell = shell

    def _grouped(self, sites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First site of each basis atom, and the sites sorted by them."""
        basis = self._basis[sites]
        order = np.argsort(basis, kind="stable")
        starts = np.searchsorted(basis[order], np.arange(len(self._shell) + 1))
        return starts, sites[order]

    def values(
        self, y: np.ndarray, sites: np.ndarray, energies: FlatTerms, forces: FlatTerms
    ) -> tuple[np.ndarray, np.ndarray, float, int]:
        """Energies (n,) and forces (n, 3) of `sites`, each from its own stencil; see the kernel."""
        found = _kernel_values(
            y @ self._rotation,
            *self._tables,
            *self._grouped(sites),
            self._shell,
            energies.arrays,
            forces.arrays,
        )
        return found[0], found[1] @ self._rotation.T, found[2], found[3]

    def gradients(
        self, y: np.ndarray, sites: np.ndarray, energies: FlatTerms, weights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, int]:
        """Energies (n,) of `sites`, forces (n, 3) and virial (3, 3) of their weighted sum; see the kernel."""
        found = _kernel_gradients(
            y @ self._rotation, *self._tables, *self._grouped(sites), self._shell, energies.arrays, weights
        )
        turn = self._rotation
        return found[0], found[1] @ turn.T, turn @ found[2] @ turn.T, found[3], found[4]
