"""Hamiltonian and overlap of a structure as blocks over pairs of atoms, and their adjoint.

Only pairs within the range of the model are stored, each once (half list); dense matrices are made per
k-point, and density-like matrices are read back on the same pattern. Nothing here loops over atoms or
pairs in Python.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from scipy.sparse import coo_array

from ..errors import StructureError
from ..neighbours import check_separations, half_pairs
from .hamiltonian import Hamiltonian
from .radial import cartesian_derivatives, reduced_derivatives
from .slater_koster import two_centre_block

__all__ = ["PairGroup", "Matrices", "PatternDensity", "build_matrices", "cartesian", "spin_channels"]


@dataclass
class PairGroup:
    """Pairs of one ordered pair of species; p pairs, a and b orbitals."""

    species: tuple[int, int]
    i: np.ndarray  # (p,)
    j: np.ndarray  # (p,)
    shifts: np.ndarray  # (p, 3) cells
    vectors: np.ndarray  # (p, 3) Å, from i to j
    rows: np.ndarray  # (p, a) orbital numbers of i
    columns: np.ndarray  # (p, b)
    hopping: tuple[np.ndarray, ...]  # (p, a, b), (p, 3, a, b), (p, 3, 3, a, b) up to the order asked for
    overlap: tuple[np.ndarray, ...]
    density_ij: tuple[np.ndarray, ...]  # density of j at i, its gradient (p, 3), ...
    density_ji: tuple[np.ndarray, ...]  # density of i at j, as function of the same vector


@dataclass
class PatternDensity:
    """A density-like matrix on the pattern of the pairs, averaged over k-points with phases."""

    diagonal: np.ndarray  # (N,)
    blocks: list[np.ndarray]  # per group (p, a, b), element (i a, j b)


def cartesian(radial: np.ndarray, vectors: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, ...]:
    """Value and derivatives (p, 3, .., 3) with respect to the vector of a function of its length."""
    reduced = reduced_derivatives(radial, r)
    return tuple(cartesian_derivatives(reduced, vectors, k) for k in range(len(radial)))


class Matrices:
    """Pair blocks and on-site terms of one structure (see :func:`build_matrices`)."""

    def __init__(self, model: Hamiltonian, atoms: Atoms, order: int, spin: int = 0) -> None:
        self.model = model
        self.spin = spin
        self.n_atoms = len(atoms)
        self.order = order
        self.species = _species(model, atoms)
        sizes = np.array([sum(2 * l + 1 for l in shells) for shells in model.shells])
        counts = sizes[self.species] if len(atoms) else np.zeros(0, int)
        self.first_orbital = np.concatenate([[0], np.cumsum(counts)]).astype(int)
        self.size = int(self.first_orbital[-1])
        self.atom_of_orbital = np.repeat(np.arange(self.n_atoms), counts)
        self.n_electrons = float(model.n_electrons[self.species].sum()) if len(atoms) else 0.0
        i, j, vectors, shifts = half_pairs(atoms, model.cutoff)
        distances = np.linalg.norm(vectors, axis=1)
        check_separations(i, j, distances, model.minimum_distance, model.name)
        self.closest_pair = None
        if len(distances):
            p = int(np.argmin(distances))
            self.closest_pair = (int(i[p]), int(j[p]), float(distances[p]))
        self.groups: list[PairGroup] = []
        for a in range(len(model.symbols)):
            for b in range(len(model.symbols)):
                mask = (self.species[i] == a) & (self.species[j] == b)
                if mask.any():
                    self.groups.append(
                        self._group(
                            (a, b), i[mask], j[mask], shifts[mask], vectors[mask], distances[mask], sizes
                        )
                    )
        self._add_onsite()
        self._flat = [g.rows[:, :, None] * self.size + g.columns[:, None, :] for g in self.groups]

    def _group(
        self,
        species: tuple[int, int],
        i: np.ndarray,
        j: np.ndarray,
        shifts: np.ndarray,
        vectors: np.ndarray,
        distances: np.ndarray,
        sizes: np.ndarray,
    ) -> PairGroup:
        a, b = species
        radial = self.model.two_centre(a, b, distances, self.order, self.spin)
        na, nb = int(sizes[a]), int(sizes[b])
        shapes = [(len(i), *(3,) * k, na, nb) for k in range(self.order + 1)]
        hopping = tuple(np.zeros(s) for s in shapes)
        overlap = tuple(np.zeros(s) for s in shapes)
        row = 0
        for l1 in self.model.shells[a]:
            column = 0
            for l2 in self.model.shells[b]:
                h, s = radial[l1, l2]
                block = (..., slice(row, row + 2 * l1 + 1), slice(column, column + 2 * l2 + 1))
                for target, functions in ((hopping, h), (overlap, s)):
                    for k, values in enumerate(two_centre_block(l1, l2, vectors, functions)):
                        target[k][block] = values
                column += 2 * l2 + 1
            row += 2 * l1 + 1
        rho_ij = self.model.density(a, b, distances, self.order, self.spin)
        rho_ji = self.model.density(b, a, distances, self.order, self.spin)
        return PairGroup(
            species=species,
            i=i,
            j=j,
            shifts=shifts,
            vectors=vectors,
            rows=self.first_orbital[i][:, None] + np.arange(na),
            columns=self.first_orbital[j][:, None] + np.arange(nb),
            hopping=hopping,
            overlap=overlap,
            density_ij=cartesian(rho_ij, vectors, distances),
            density_ji=cartesian(rho_ji, vectors, distances),
        )

    def _densities(self) -> np.ndarray:
        """On-site density (n_species, n) of the neighbours of each species around each atom."""
        rho = np.zeros((len(self.model.symbols), self.n_atoms))
        for g in self.groups:
            a, b = g.species
            rho[b] += np.bincount(g.i, g.density_ij[0], self.n_atoms)
            rho[a] += np.bincount(g.j, g.density_ji[0], self.n_atoms)
        return rho

    def _add_onsite(self) -> None:
        n_species = len(self.model.symbols)
        rho = self._densities()
        # onsite[t][k][orbital]: k-th derivative with respect to the density of species t around its atom
        self.onsite = np.zeros((n_species, self.order + 1, self.size))
        for centre in range(n_species):
            mask = self.species == centre
            orbitals = mask[self.atom_of_orbital]
            for t in range(n_species):
                values = self.model.onsite(centre, t, rho[t, mask], self.order, self.spin)
                self.onsite[t][:, orbitals] = values.reshape(self.order + 1, -1)

    def phases(self, group: PairGroup, kpoints: np.ndarray) -> np.ndarray | None:
        """Bloch factors exp(2 pi i k.S), (k, p): real where they all are +-1, None where all are 1."""
        if not np.any(kpoints):
            return None
        turns = kpoints @ group.shifts.T
        if is_real(kpoints):
            return np.where(np.rint(2 * turns).astype(int) % 2, -1.0, 1.0)
        factors: np.ndarray = np.exp(2j * np.pi * turns)
        return factors

    def dense(self, diagonal: np.ndarray, blocks: list[np.ndarray], kpoints: np.ndarray) -> np.ndarray:
        """Hermitian matrices (k, N, N) from their diagonal and pair blocks; real where all of them are."""
        n, n2 = self.size, self.size**2
        half = np.zeros((len(kpoints), n2), dtype=float if is_real(kpoints) else complex)
        for g, block, index in zip(self.groups, blocks, self._flat, strict=True):
            phase = self.phases(g, kpoints)
            if phase is None or len(kpoints) == 1:
                values = block if phase is None else block * phase[0][:, None, None]
                half += np.bincount(index.ravel(), values.real.ravel(), n2)
                if np.iscomplexobj(values):
                    half += 1j * np.bincount(index.ravel(), values.imag.ravel(), n2)
            else:
                pair = np.repeat(np.arange(len(block)), block[0].size)
                scatter = coo_array((block.ravel(), (index.ravel(), pair)), shape=(n2, len(block))).tocsr()
                half += (scatter @ phase.T).T
        matrix = half.reshape(len(kpoints), n, n)
        matrix = matrix + matrix.conj().swapaxes(1, 2)
        matrix[:, np.arange(n), np.arange(n)] += diagonal
        return matrix

    def hamiltonian(self, kpoints: np.ndarray) -> np.ndarray:
        """H(k) (k, N, N), eV."""
        return self.dense(self.onsite[:, 0].sum(axis=0), [g.hopping[0] for g in self.groups], kpoints)

    def overlap(self, kpoints: np.ndarray) -> np.ndarray:
        """M(k) (k, N, N)."""
        return self.dense(np.ones(self.size), [g.overlap[0] for g in self.groups], kpoints)

    def pattern(self) -> PatternDensity:
        """A zero density on the pattern of this structure."""
        return PatternDensity(np.zeros(self.size), [np.zeros(g.hopping[0].shape) for g in self.groups])

    def gather(
        self, target: PatternDensity, matrix: np.ndarray, kpoints: np.ndarray, weights: np.ndarray
    ) -> None:
        """Add ``sum_k weight_k Re(matrix_k conj(phase_k))`` on the pattern to `target`; matrix (k, N, N)."""
        target.diagonal += weights @ np.diagonal(matrix, axis1=1, axis2=2).real
        flat = matrix.reshape(len(matrix), -1)
        for b, (g, index) in enumerate(zip(self.groups, self._flat, strict=True)):
            phase = self.phases(g, kpoints)
            for k, (row, weight) in enumerate(zip(flat, weights, strict=True)):
                values = row[index]
                if phase is not None:
                    values = values * phase[k].conj()[:, None, None]
                target.blocks[b] += weight * values.real

    def site_traces(self, density: PatternDensity) -> np.ndarray:
        """Mulliken partition of Tr(density M): (n,)."""
        traces = np.bincount(self.atom_of_orbital, density.diagonal, self.n_atoms)
        for g, block in zip(self.groups, density.blocks, strict=True):
            pair = np.einsum("pab,pab->p", block, g.overlap[0])
            traces += np.bincount(g.i, pair, self.n_atoms) + np.bincount(g.j, pair, self.n_atoms)
        return traces

    def pair_gradients(self, d_h: PatternDensity, d_m: PatternDensity) -> list[np.ndarray]:
        """Derivatives of ``Tr(D_H H) + Tr(D_M M)`` with respect to each pair vector, (p, 3) per group."""
        gradients = []
        pull = self.onsite_pull(d_h.diagonal)
        for g, block_h, block_m in zip(self.groups, d_h.blocks, d_m.blocks, strict=True):
            a, b = g.species
            gradient = 2 * np.einsum("pab,pcab->pc", block_h, g.hopping[1], optimize=True)
            gradient += 2 * np.einsum("pab,pcab->pc", block_m, g.overlap[1], optimize=True)
            gradient += pull[b, g.i][:, None] * g.density_ij[1] + pull[a, g.j][:, None] * g.density_ji[1]
            gradients.append(gradient)
        return gradients

    def onsite_pull(self, diagonal: np.ndarray, k: int = 1) -> np.ndarray:
        """Sum over the orbitals of each atom of ``diagonal * d^k h / d rho_t^k``: (species t, n)."""
        return np.array(
            [np.bincount(self.atom_of_orbital, diagonal * terms[k], self.n_atoms) for terms in self.onsite]
        )

    def forces_and_virial(self, gradients: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Forces (n, 3) and virial (3, 3) = -dE/dstrain from derivatives by pair vectors."""
        forces = np.zeros((self.n_atoms, 3))
        virial = np.zeros((3, 3))
        for g, gradient in zip(self.groups, gradients, strict=True):
            for c in range(3):
                forces[:, c] += np.bincount(g.i, gradient[:, c], self.n_atoms)
                forces[:, c] -= np.bincount(g.j, gradient[:, c], self.n_atoms)
            virial -= gradient.T @ g.vectors
        return forces, (virial + virial.T) / 2


def is_real(kpoints: np.ndarray) -> bool:
    """Whether k and -k are equivalent, so that H(k) is real, for all of these k-points."""
    return bool(np.all(np.abs(2 * kpoints - np.rint(2 * kpoints)) < 1e-12))


def _species(model: Hamiltonian, atoms: Atoms) -> np.ndarray:
    match = atoms.numbers[:, None] == model.numbers
    unknown = ~match.any(axis=1)
    if unknown.any():
        symbols = sorted({atoms.symbols[k] for k in np.flatnonzero(unknown)})
        raise StructureError(
            f"atoms: {model.name} has no parameters for {', '.join(symbols)} "
            f"(first at atom {int(np.argmax(unknown))}); it knows {', '.join(model.symbols)}"
        )
    species: np.ndarray = np.argmax(match, axis=1)
    return species


def build_matrices(model: Hamiltonian, atoms: Atoms, order: int = 1, spin: int = 0) -> Matrices:
    """Blocks of the Hamiltonian (eV) and overlap of one spin, with derivatives up to `order`.

    Raises
    ------
    StructureError
        Positions or cell not finite, atoms closer than ``model.minimum_distance``, unknown elements.
    """
    return Matrices(model, atoms, order, spin)


def spin_channels(model: Hamiltonian, atoms: Atoms, order: int = 1) -> list[Matrices]:
    """The matrices of each spin of the model (one, unless it distinguishes spins)."""
    return [build_matrices(model, atoms, order, spin) for spin in range(model.n_spin)]
