"""Green's function of the infinite perfect crystal between pairs of lattice sites."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..crystal import Crystal
from .hamiltonian import Hamiltonian
from .matrices import build_matrices
from .spectrum import overlap_error

__all__ = ["CrystalMatrices"]


class CrystalMatrices:
    """H, M and ``G(z) = (z M - H)^-1`` of a perfect crystal, by differences of lattice sites.

    ``X(R)_ab = (1/K) sum_k exp(-2 pi i k.R) X(k)_ab`` on a grid of K k-points: exact for H and M, and for G
    up to its periodic images on the grid, which decay exponentially with the extent of the grid.

    Parameters
    ----------
    model : Hamiltonian
    crystal : Crystal
    grid : array_like of int, shape (d,)
        k-points along each of the d lattice vectors; G is right for distances well below half the extent
        of the grid times the lattice vector.
    spin : int
    kpoint : array_like, shape (d,), optional
        Added to the grid: with one grid point along a lattice vector, sums over images along it carry the
        Bloch factors of this k.
    """

    def __init__(
        self, model: Hamiltonian, crystal: Crystal, grid: Any, spin: int = 0, kpoint: Any = 0.0
    ) -> None:
        self.crystal, self.spin = crystal, spin
        self.grid = tuple(int(n) for n in np.broadcast_to(grid, len(crystal.lattice)))
        cell = crystal.unit_cell
        matrices = self._matrices = build_matrices(model, cell, order=0, spin=spin)
        #: First orbital of each basis atom, and the number of orbitals of the cell last.
        self.first_orbital = matrices.first_orbital
        axes = [np.arange(n) / n for n in self.grid]
        mesh = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(self.grid)) + kpoint
        self._kpoints = np.zeros((len(mesh), 3))
        self._kpoints[:, np.flatnonzero(cell.pbc)] = mesh
        self._h = matrices.hamiltonian(self._kpoints).astype(complex)
        self._m = matrices.overlap(self._kpoints).astype(complex)

    def bounds(self) -> tuple[float, float]:
        """Lowest and highest level (eV) of the crystal.

        Raises
        ------
        NumericsError
            An overlap matrix is not positive definite (atoms too close for the model).
        """
        try:
            factor = np.linalg.inv(np.linalg.cholesky(self._m))
        except np.linalg.LinAlgError as error:
            raise overlap_error(self._matrices, self._kpoints) from error
        levels = np.linalg.eigvalsh(factor @ self._h @ factor.conj().swapaxes(1, 2))
        return float(levels.min()), float(levels.max())

    def resolvent(self, z: complex) -> np.ndarray:
        """``G(R)`` for all cell differences R on the grid, shape ``(*grid, N, N)`` complex, 1/eV."""
        return self._to_lattice(np.linalg.inv(z * self._m - self._h))

    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """H(R) (eV) and M(R), ``(*grid, N, N)`` complex; images on the grid add up, if it is small."""
        return self._to_lattice(self._h), self._to_lattice(self._m)

    def _to_lattice(self, of_k: np.ndarray) -> np.ndarray:
        shape = (*self.grid, *of_k.shape[1:])
        out: np.ndarray = np.fft.fftn(of_k.reshape(shape), axes=tuple(range(len(self.grid))), norm="forward")
        return out

    def indices(self, basis: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Where the matrix elements of given sites lie in the flattened ``X(R)``.

        Parameters
        ----------
        basis : ndarray of int, shape (n,)
            Basis atom of each site.
        cells : ndarray of int, shape (n, d)

        Returns
        -------
        ndarray of int, shape (N, N)
            Element (i a, j b) is ``X(cell_j - cell_i)_ab``.
        """
        size = self._h.shape[-1]
        counts = np.diff(self.first_orbital)[basis]
        site = np.repeat(np.arange(len(basis)), counts)
        within = np.arange(len(site)) - np.repeat(np.cumsum(counts) - counts, counts)
        orbital = self.first_orbital[basis][site] + within
        index = np.zeros((len(site), len(site)), dtype=np.int64)
        for axis, n in enumerate(self.grid):
            index *= n
            index += (cells[site, axis] - cells[site, axis][:, None]) % n
        index *= size
        index += orbital[:, None]
        index *= size
        index += orbital
        return index

    def gather(self, lattice_function: np.ndarray, basis: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Dense (N, N) of ``X(R)``, ``(*grid, N_cell, N_cell)``, over given sites, see :meth:`indices`."""
        out: np.ndarray = lattice_function.reshape(-1)[self.indices(basis, cells)]
        return out
