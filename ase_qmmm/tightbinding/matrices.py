"""Hamiltonian and overlap of a structure as blocks over pairs of atoms, and their adjoint.

Only pairs within the range of the model are stored, each once (half list); dense matrices are made per
k-point, and density-like matrices are read back on the same pattern. Nothing here loops over atoms or
pairs in Python.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms

from ..errors import StructureError
from ..neighbours import check_separations, half_pairs
from . import kernels
from .hamiltonian import Hamiltonian
from .radial import cartesian_derivatives, reduced_derivatives
from .slater_koster import shell_terms, two_centre_block

__all__ = ["PairGroup", "Matrices", "PatternDensity", "build_matrices", "cartesian", "spin_channels"]


@dataclass
class PairGroup:
    """Pairs of one ordered pair of species; p pairs, a and b orbitals."""

    species: tuple[int, int]
    i: np.ndarray  # (p,)
    j: np.ndarray  # (p,)
    shifts: np.ndarray  # (p, 3) cells
    vectors: np.ndarray  # (p, 3) Å, from i to j
    first_i: np.ndarray  # (p,) number of the first orbital of i
    first_j: np.ndarray  # (p,)
    hopping: tuple[np.ndarray, ...]  # (p, a, b), (p, 3, a, b), (p, 3, 3, a, b) ... up to the order asked for
    overlap: tuple[np.ndarray, ...]
    density_ij: tuple[np.ndarray, ...]  # density of j at i, its gradient (p, 3), ...
    density_ji: tuple[np.ndarray, ...]  # density of i at j, as function of the same vector

    @property
    def rows(self) -> np.ndarray:
        """Numbers of the orbitals of each atom i, (p, a)."""
        return self.first_i[:, None] + np.arange(self.hopping[0].shape[1])

    @property
    def columns(self) -> np.ndarray:
        """Numbers of the orbitals of each atom j, (p, b)."""
        return self.first_j[:, None] + np.arange(self.hopping[0].shape[2])


@dataclass
class PatternDensity:
    """A density-like matrix on the pattern of the pairs, averaged over k-points with phases."""

    diagonal: np.ndarray  # (N,)
    blocks: list[np.ndarray]  # per group (p, a, b), element (i a, j b)


# i, j, vectors and shifts of a half list.
Pairs = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def cartesian(radial: np.ndarray, vectors: np.ndarray, r: np.ndarray) -> tuple[np.ndarray, ...]:
    """Value and derivatives (p, 3, .., 3) with respect to the vector of a function of its length."""
    reduced = reduced_derivatives(radial, r)
    return tuple(cartesian_derivatives(reduced, vectors, k) for k in range(len(radial)))


class Matrices:
    """Pair blocks and on-site terms of one structure (see :func:`build_matrices`)."""

    def __init__(
        self, model: Hamiltonian, atoms: Atoms, order: int, spin: int = 0, pairs: Pairs | None = None
    ) -> None:
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
        i, j, vectors, shifts = half_pairs(atoms, model.cutoff) if pairs is None else pairs
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
                    group = (i[mask], j[mask], shifts[mask], vectors[mask], distances[mask])
                    self.groups.append(self._group((a, b), *group, sizes))
        self._add_onsite()

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
                if self.order <= 1:
                    # At order 0 there are no derivatives to fill: any array of their rank will do.
                    first = (hopping[1], overlap[1]) if self.order else (hopping[0][None], overlap[0][None])
                    kernels.shell_blocks(
                        vectors,
                        *radial[l1, l2],
                        l1 + l2,
                        *shell_terms(l1, l2),
                        row,
                        column,
                        hopping[0],
                        first[0],
                        overlap[0],
                        first[1],
                    )
                else:
                    block = (..., slice(row, row + 2 * l1 + 1), slice(column, column + 2 * l2 + 1))
                    for target, functions in zip((hopping, overlap), radial[l1, l2], strict=True):
                        for k, values in enumerate(two_centre_block(l1, l2, vectors, functions)):
                            target[k][block] = values
                column += 2 * l2 + 1
            row += 2 * l1 + 1
        density_ij = self._density(a, b, distances, vectors)
        return PairGroup(
            species=species,
            i=i,
            j=j,
            shifts=shifts,
            vectors=vectors,
            first_i=self.first_orbital[i],
            first_j=self.first_orbital[j],
            hopping=hopping,
            overlap=overlap,
            density_ij=density_ij,
            density_ji=density_ij if a == b else self._density(b, a, distances, vectors),
        )

    def _density(self, a: int, b: int, distances: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, ...]:
        """Density of an atom of species b at one of species a, derivatives (p, 3), (p, 3, 3) and so on."""
        functions = self.model.density(a, b, distances, self.order, self.spin)
        return cartesian(functions, vectors, distances)

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

    def phases(self, group: PairGroup, kpoints: np.ndarray) -> np.ndarray:
        """Bloch factors exp(2 pi i k.S), (k, p): real where they all are +-1."""
        if not np.any(kpoints):
            return np.ones((len(kpoints), len(group.i)))
        turns = kpoints @ group.shifts.T
        if is_real(kpoints):
            return np.where(np.rint(2 * turns).astype(int) % 2, -1.0, 1.0)
        factors: np.ndarray = np.exp(2j * np.pi * turns)
        return factors

    def triangle(self, diagonal: np.ndarray, blocks: list[np.ndarray], kpoints: np.ndarray) -> np.ndarray:
        """Triangle ``[k, column, row]``, row >= column, of Hermitian matrices from diagonal and pair blocks.

        Transposed, each is the lower triangle of a matrix in Fortran order, which is all that LAPACK reads.
        Real where all of them are; the other triangle is zero.
        """
        n = self.size
        matrix = np.zeros((len(kpoints), n, n), dtype=float if is_real(kpoints) else complex)
        for g, block in zip(self.groups, blocks, strict=True):
            kernels.scatter(matrix, g.first_i, g.first_j, block, self.phases(g, kpoints))
        matrix[:, np.arange(n), np.arange(n)] += diagonal
        return matrix

    def hamiltonian_triangle(self, kpoints: np.ndarray) -> np.ndarray:
        """H(k), see :meth:`triangle`, eV."""
        return self.triangle(self.onsite[:, 0].sum(axis=0), [g.hopping[0] for g in self.groups], kpoints)

    def overlap_triangle(self, kpoints: np.ndarray) -> np.ndarray:
        """M(k), see :meth:`triangle`."""
        return self.triangle(np.ones(self.size), [g.overlap[0] for g in self.groups], kpoints)

    def dense(self, diagonal: np.ndarray, blocks: list[np.ndarray], kpoints: np.ndarray) -> np.ndarray:
        """Hermitian matrices (k, N, N) from their diagonal and pair blocks; real where all of them are."""
        matrix = self.triangle(diagonal, blocks, kpoints)
        kernels.mirror(matrix)
        return matrix

    def hamiltonian(self, kpoints: np.ndarray) -> np.ndarray:
        """H(k) (k, N, N), eV."""
        matrix = self.hamiltonian_triangle(kpoints)
        kernels.mirror(matrix)
        return matrix

    def overlap(self, kpoints: np.ndarray) -> np.ndarray:
        """M(k) (k, N, N)."""
        matrix = self.overlap_triangle(kpoints)
        kernels.mirror(matrix)
        return matrix

    def overlap_times(self, vectors: np.ndarray, kpoint: np.ndarray, atoms: np.ndarray) -> np.ndarray:
        """Rows of M(k) `vectors` that belong to the chosen `atoms` (mask); vectors (N, s)."""
        chosen = atoms[self.atom_of_orbital]
        out: np.ndarray = vectors[chosen]
        place = np.where(chosen, np.cumsum(chosen) - 1, -1)
        for g in self.groups:
            phases = self.phases(g, kpoint[None])[0]
            kernels.overlap_product(vectors, g.first_i, g.first_j, g.overlap[0], phases, place, out)
        return out

    def weight_reach(self, site_weights: np.ndarray) -> np.ndarray:
        """Atoms (mask) that have a weight, or a neighbour with one."""
        reached: np.ndarray = site_weights != 0
        weighted = reached.copy()
        for g in self.groups:
            reached[g.i[weighted[g.j]]] = True
            reached[g.j[weighted[g.i]]] = True
        return reached

    def weighted_overlap_times(
        self, vectors: np.ndarray, kpoint: np.ndarray, site_weights: np.ndarray, count: int
    ) -> np.ndarray:
        """``(W M(k) + M(k) W) / 2`` times the first `count` of `vectors`, rows of :meth:`weight_reach`."""
        orbital_weights = site_weights[self.atom_of_orbital]
        chosen = self.weight_reach(site_weights)[self.atom_of_orbital]
        out: np.ndarray = orbital_weights[chosen, None] * vectors[chosen, :count]
        place = np.where(chosen, np.cumsum(chosen) - 1, -1)
        for g in self.groups:
            mean = (site_weights[g.i] + site_weights[g.j]) / 2
            used = np.flatnonzero(mean)
            blocks = g.overlap[0][used] * mean[used, None, None]
            phases = self.phases(g, kpoint[None])[0][used]
            kernels.overlap_product(vectors, g.first_i[used], g.first_j[used], blocks, phases, place, out)
        return out

    def pattern(self) -> PatternDensity:
        """A zero density on the pattern of this structure."""
        return PatternDensity(np.zeros(self.size), [np.zeros(g.hopping[0].shape) for g in self.groups])

    def gather(
        self, target: PatternDensity, matrix: np.ndarray, kpoints: np.ndarray, weights: np.ndarray
    ) -> None:
        """Add ``sum_k weight_k Re(matrix_k conj(phase_k))`` on the pattern to `target`; matrix (k, N, N)."""
        target.diagonal += weights @ np.diagonal(matrix, axis1=1, axis2=2).real
        for g, block in zip(self.groups, target.blocks, strict=True):
            kernels.gather(matrix, g.first_i, g.first_j, self.phases(g, kpoints), weights, block)

    def add_product(
        self,
        target: PatternDensity,
        x: np.ndarray,
        y: np.ndarray,
        factors: np.ndarray,
        kpoint: np.ndarray,
        weight: float,
    ) -> None:
        """Add ``weight Re(x diag(factors) y^H conj(phase))`` on the pattern to `target`; x, y (N, s).

        As :meth:`gather` of the product, without its elements outside of the pattern.
        """
        used = np.flatnonzero(np.abs(factors) > 1e-17 * np.abs(factors).max(initial=0.0))
        if not len(used):
            return
        start = int(used[0])
        factors = np.ascontiguousarray(factors[start : used[-1] + 1] * weight)
        if np.iscomplexobj(x):
            # Re and Im of sum_s x_s conj(y_s) are sums over twice as many real numbers.
            columns = slice(start, start + len(factors))
            same = np.hstack([x.real[:, columns], x.imag[:, columns]])
            crossed = np.hstack([x.imag[:, columns], -x.real[:, columns]])
            y = np.hstack([y.real[:, columns], y.imag[:, columns]])
            start, factors = 0, np.tile(factors, 2)
        else:
            same = x
        kernels.row_products(same, y, factors, start, target.diagonal)
        for g, block in zip(self.groups, target.blocks, strict=True):
            phases = self.phases(g, kpoint[None])[0][:, None, None]
            part = np.zeros_like(block)
            kernels.pair_products(same, y, factors, start, g.first_i, g.first_j, part)
            np.add(block, phases.real * part, out=block)
            if np.iscomplexobj(x):
                part[:] = 0.0
                kernels.pair_products(crossed, y, factors, start, g.first_i, g.first_j, part)
                np.add(block, phases.imag * part, out=block)

    @property
    def sparse(self) -> bool:
        """Whether products are cheaper on the pattern alone than as whole matrices."""
        return sum(g.hopping[0].size for g in self.groups) < self.size**2

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
            gradient = pull[b, g.i][:, None] * g.density_ij[1] + pull[a, g.j][:, None] * g.density_ji[1]
            kernels.pair_gradients(block_h, block_m, g.hopping[1], g.overlap[1], gradient)
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
    pairs = half_pairs(atoms, model.cutoff)
    return [Matrices(model, atoms, order, spin, pairs) for spin in range(model.n_spin)]
