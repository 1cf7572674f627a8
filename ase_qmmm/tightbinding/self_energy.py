"""Frozen self-energies: what the surroundings of a cluster do to its electrons.

For a cluster c in a larger reference system with Green's function ``G0(z) = (z M0 - H0)^-1``,

    Sigma(z) = (z M0 - H0)_cc - [G0(z)_cc]^-1 = A_cO (A_OO)^-1 A_Oc,      A = z M0 - H0,

O the atoms outside. It acts on the sites of c with neighbours in O only. The first form needs nothing but
the cluster where G0 is known: in the perfect crystal. The second serves any other reference, with O cut off
at a depth.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ase import Atoms
from scipy.linalg import eigh, inv, solve

from ..crystal import Crystal
from ..neighbours import neighbour_pairs
from .greens import CrystalMatrices
from .hamiltonian import Hamiltonian
from .surroundings import ClusterMatrices

__all__ = ["SelfEnergy", "Reference", "CrystalSites", "GeometrySites"]

log = logging.getLogger(__name__)


@dataclass
class SelfEnergy:
    """Sigma on the boundary orbitals of a cluster.

    Attributes
    ----------
    boundary : ndarray of bool, shape (m,)
        Sites of the cluster that have neighbours outside.
    values : ndarray of complex, shape (k, q, b, b)
        eV, on the orbitals of the boundary sites in their order, for each k-point and energy.
    change : float
        Largest change of an element (eV) when the k-grid of the crystal was refined; zero where none is used.
    """

    boundary: np.ndarray
    values: np.ndarray
    change: float


class Reference(Protocol):
    """Sites of a cluster in a reference system."""

    @property
    def numbers(self) -> np.ndarray:
        """Atomic number (m,) that belongs on each site, vacant ones included."""

    def bounds(self, model: Hamiltonian, spin: int) -> tuple[float, float]:
        """Bounds of the spectrum (eV)."""

    def self_energy(
        self, model: Hamiltonian, spin: int, energies: np.ndarray, kpoints: np.ndarray
    ) -> SelfEnergy:
        """Sigma at complex energies (q,) eV and scaled k-points (k, 3) of the cluster's cell."""

    def key(self) -> tuple[np.ndarray, ...]:
        """Arrays that determine the self-energy, for a cache."""


# The k-grid of the crystal grows until Sigma changes by less than this (eV).
GRID_CHANGE = 1e-4
_MAX_GRID = 64


@dataclass
class CrystalSites:
    """Sites of a cluster in a perfect crystal.

    Attributes
    ----------
    crystal : Crystal
        In the orientation and at the strain of the structure.
    basis : ndarray of int, shape (m,)
    cells : ndarray of int, shape (m, d)
    periodic : tuple of (int, int)
        Lattice vectors along which the cluster is periodic, each with that axis of the cluster's cell.
    """

    crystal: Crystal
    basis: np.ndarray
    cells: np.ndarray
    periodic: tuple[tuple[int, int], ...] = ()

    @property
    def numbers(self) -> np.ndarray:
        """Atomic number (m,) that belongs on each site."""
        numbers: np.ndarray = self.crystal.numbers[self.basis]
        return numbers

    def key(self) -> tuple[np.ndarray, ...]:
        """Arrays that determine the self-energy; a translated cluster has the same."""
        cell = self.crystal.unit_cell
        rounded = [np.round(x, 9) + 0.0 for x in (cell.cell.array, cell.positions)]
        periodic = np.array(self.periodic, dtype=int).reshape(-1, 2)
        return (*rounded, cell.numbers, cell.pbc, self.basis, self.cells - self.cells[0], periodic)

    def bounds(self, model: Hamiltonian, spin: int) -> tuple[float, float]:
        """Bounds of the spectrum (eV) of the crystal."""
        return CrystalMatrices(model, self.crystal, 4, spin).bounds()

    def folded(self, cells: np.ndarray) -> np.ndarray:
        """Cells with the periodic components set to zero: one image of each site."""
        folded: np.ndarray = cells.copy()
        folded[..., [lattice for lattice, _ in self.periodic]] = 0
        return folded

    def _boundary(self, cutoff: float) -> np.ndarray:
        """Sites with a neighbour within `cutoff` that is not in the cluster."""
        keys = np.column_stack([self.folded(self.cells), self.basis])
        low, span = keys.min(axis=0) - 64, np.ptp(keys, axis=0) + 129

        def codes(k: np.ndarray) -> np.ndarray:
            flat: np.ndarray = np.ravel_multi_index(tuple((k - low).T), tuple(span))
            return flat

        own = codes(keys)
        boundary = np.zeros(len(self.basis), dtype=bool)
        for b in np.unique(self.basis):
            _, neighbours, steps = self.crystal.stencil_sites(int(b), cutoff)
            mine = np.flatnonzero(self.basis == b)
            targets = self.folded(self.cells[mine][:, None] + steps)
            sites = np.broadcast_to(neighbours[:, None], (*targets.shape[:2], 1))
            found = np.isin(codes(np.concatenate([targets, sites], axis=2).reshape(-1, keys.shape[1])), own)
            boundary[mine] = ~found.reshape(len(mine), -1).all(axis=1)
        return boundary

    def self_energy(
        self, model: Hamiltonian, spin: int, energies: np.ndarray, kpoints: np.ndarray
    ) -> SelfEnergy:
        """Sigma from the Green's function of the infinite crystal, on a k-grid refined until it is local."""
        boundary = self._boundary(model.cutoff)
        heights = 1 / np.linalg.norm(np.linalg.pinv(self.crystal.lattice), axis=0)
        # G0 decays over some lattice constants at the poles next to the axis: start with a margin of 25 Å.
        grid = np.ptp(self.cells, axis=0) + np.ceil(np.maximum(25.0, 2 * model.cutoff) / heights).astype(int)
        # Poles nearest to the real axis converge last: they decide.
        nearest = energies[np.argsort(energies.imag)[:1]]
        found = self._sigma(model, spin, grid, boundary, nearest, kpoints[:1])
        while True:
            finer = np.minimum(np.ceil(1.25 * grid).astype(int), _MAX_GRID)
            better = self._sigma(model, spin, finer, boundary, nearest, kpoints[:1])
            change = float(np.abs(better - found).max(initial=0.0))
            grid, found = finer, better
            if change < GRID_CHANGE:
                break
            if finer.max() >= _MAX_GRID:
                log.warning("self-energy: still changes by %.1e eV on a grid of %s k-points", change, grid)
                break
        return SelfEnergy(boundary, self._sigma(model, spin, grid, boundary, energies, kpoints), change)

    def _sigma(
        self,
        model: Hamiltonian,
        spin: int,
        grid: np.ndarray,
        boundary: np.ndarray,
        energies: np.ndarray,
        kpoints: np.ndarray,
    ) -> np.ndarray:
        """Sigma (k, q, b, b), eV."""
        grid = grid.copy()
        grid[[lattice for lattice, _ in self.periodic]] = 1
        values = []
        for k in kpoints:
            along = np.zeros(len(grid))
            for lattice, axis in self.periodic:
                along[lattice] = k[axis]
            crystal = CrystalMatrices(model, self.crystal, grid, spin, along)
            index = crystal.indices(self.basis, self.cells)
            counts = np.diff(crystal.first_orbital)[self.basis]
            # Sites given by another image along a period than the first carry its Bloch factor.
            turns = np.repeat(np.exp(-2j * np.pi * (self.cells @ along)), counts)
            phase = turns.conj()[:, None] * turns if np.any(along) else 1.0
            rows = np.repeat(boundary, counts)
            h, m = (phase * x.reshape(-1)[index] for x in crystal.matrices())
            for z in energies:
                green = phase * crystal.resolvent(complex(z)).reshape(-1)[index]
                sigma = z * m - h - inv(green, overwrite_a=True, check_finite=False)
                values.append(sigma[np.ix_(rows, rows)])
        return np.array(values).reshape(len(kpoints), len(energies), *values[0].shape)


@dataclass
class GeometrySites:
    """Sites of a cluster in a reference geometry, e.g. that of a dislocation predictor.

    Attributes
    ----------
    atoms : ase.Atoms
        First the sites of the cluster, then the atoms outside up to some depth, then those that count only
        for the on-site terms of the others; periodic along the axes along which the cluster is.
    n_cluster, n_outside : int
    """

    atoms: Atoms
    n_cluster: int
    n_outside: int

    @property
    def numbers(self) -> np.ndarray:
        """Atomic number (m,) on each site of the cluster."""
        numbers: np.ndarray = self.atoms.numbers[: self.n_cluster]
        return numbers

    def key(self) -> tuple[np.ndarray, ...]:
        """Arrays that determine the self-energy."""
        a = self.atoms
        relative = np.round(a.positions - a.positions[0], 9) + 0.0
        return (relative, a.cell.array[a.pbc], a.pbc, a.numbers, np.array([self.n_cluster, self.n_outside]))

    def _matrices(self, model: Hamiltonian, spin: int) -> ClusterMatrices:
        return ClusterMatrices(model, self.atoms, self.n_cluster + self.n_outside, 0, spin)

    def bounds(self, model: Hamiltonian, spin: int) -> tuple[float, float]:
        """Bounds of the spectrum (eV), from the cluster and what it couples to at Gamma."""
        m = self._matrices(model, spin)
        gamma = np.zeros((1, 3))
        n = m.first_orbital[self.n_cluster]
        h, s = (x[0][:n, :n] for x in (m.hamiltonian(gamma), m.overlap(gamma)))
        levels = eigh(h, s, eigvals_only=True, driver="gvd", check_finite=False)
        return float(levels[0]), float(levels[-1])

    def self_energy(
        self, model: Hamiltonian, spin: int, energies: np.ndarray, kpoints: np.ndarray
    ) -> SelfEnergy:
        """Sigma by elimination of the atoms outside."""
        matrices = self._matrices(model, spin)
        inner = self.n_cluster
        i, j = neighbour_pairs(self.atoms[: inner + self.n_outside], model.cutoff, "ij")
        boundary = np.zeros(inner, dtype=bool)
        boundary[i[(i < inner) & (j >= inner)]] = True
        split = int(matrices.first_orbital[inner])
        rows = np.flatnonzero(boundary[matrices.atom_of_orbital[:split]])
        values = np.empty((len(kpoints), len(energies), len(rows), len(rows)), dtype=complex)
        for n, k in enumerate(kpoints):
            h = matrices.hamiltonian(k[None])[0]
            m = matrices.overlap(k[None])[0]
            for q, z in enumerate(energies):
                # z is complex: the lower coupling is not the adjoint of the upper one.
                upper = z * m[rows, split:] - h[rows, split:]
                lower = z * m[split:, rows] - h[split:, rows]
                outside = z * m[split:, split:] - h[split:, split:]
                values[n, q] = upper @ solve(outside, lower, overwrite_a=True, check_finite=False)
        return SelfEnergy(boundary, values, 0.0)
