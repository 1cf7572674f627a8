"""Site energies whose sum is the lattice energy of one order of force constants.

Forces expanded to order j at every site are the gradient of one energy only if their coefficients are
symmetric across sites: ``d^j F_l,b / du_m,c .. = -d^(j+1) E / du_l,b du_m,c ..``. Truncation breaks that, and
the sum rules of translation. Both hold for any sum of polynomials of degree n = j + 1 in the differences
``g_rho = u(l + rho) - u(l)`` of each site,

    E = sum_l sum_t T_t prod_i g_(t, i),

so that this module looks for the T of least norm whose lattice force constants are nearest to those given,
in the sense of least squares. The map from T to the force constants is linear and sparse: expanding each
product of differences gives 2^n products of displacements. It commutes with the symmetry of the crystal, and
so does its pseudo-inverse: what is found has the symmetry of what was given.

Nothing is lost: with T over clusters of which each atom is within the cutoff of each other, the image of the
map has as many dimensions as there are independent force constants
(:func:`ase_qmmm.symmetry.count_force_constants`).
Few clusters are enough, and the cheapest set of them that gives the same force constants is kept.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import product
from math import factorial
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csc_array, csr_array
from scipy.sparse.linalg import lsqr

from ..crystal import Crystal
from ..symmetry import space_group, stencil_permutation
from .polynomials import ZERO, Terms, components, multiplicity, sorted_tuples

__all__ = ["LatticePotential", "lattice_forces", "lattice_potential"]

log = logging.getLogger(__name__)

# Nonzero elements times classes of clusters up to which a potential of few clusters is looked for: seconds.
MAX_WORK = 1e8


@dataclass
class LatticePotential:
    """One order of a force expansion, with its potential.

    Attributes
    ----------
    energies : list of Terms
        Of degree n, per basis atom.
    forces : list of Terms
        Of degree n - 1: the forces ``-dE/du_l`` of the sum of all site energies.
    change : float
        Largest change of a component that was given, ``d^j F`` (eV/Å^n), by the sum rules.
    """

    energies: list[Terms]
    forces: list[Terms]
    change: float


class _Codes:
    """Numbers for (site of the lattice, direction), ascending with the cell; linear in the cell."""

    def __init__(self, crystal: Crystal, cutoff: float) -> None:
        self.crystal, self.cutoff = crystal, cutoff
        self.stencils = [crystal.stencil_sites(a, cutoff) for a in range(crystal.n_basis)]
        reach = max(int(np.abs(cells).max(initial=0)) for _, _, cells in self.stencils)
        d = len(crystal.lattice)
        # Differences of two stencil cells reach twice as far, on both sides.
        self.powers = (8 * reach + 3) ** np.arange(d)[::-1]
        self.per_cell = 3 * crystal.n_basis

    def stencil(self, a: int) -> np.ndarray:
        """Codes (s,) of the stencil vectors of basis atom a in cell zero, direction x."""
        _, sites, cells = self.stencils[a]
        codes: np.ndarray = cells @ self.powers * self.per_cell + 3 * sites
        return codes

    def canonical(self, codes: np.ndarray) -> np.ndarray:
        """Rows (m, n) sorted, and translated so that the first is in cell zero."""
        codes = np.sort(codes, axis=1)
        out: np.ndarray = codes - codes[:, :1] // self.per_cell * self.per_cell
        return out

    def near(self, a: int) -> np.ndarray:
        """Which stencil vectors (s, s) are within the cutoff of each other."""
        rho = self.stencils[a][0]
        distances = np.linalg.norm(rho[:, None] - rho, axis=2)
        near: np.ndarray = distances <= self.cutoff + 1e-6
        return near


def lattice_potential(
    crystal: Crystal, cutoff: float, tensors: list[np.ndarray], threshold: float
) -> LatticePotential:
    """Potential, and the forces that go with it, of one order of a force expansion.

    Parameters
    ----------
    crystal : Crystal
    cutoff : float
        Å, of the stencils of the tensors. Force constants are kept for atoms of which each is within the
        cutoff of each other.
    tensors : list of ndarray, shape (3, s, 3, s, 3, ..)
        ``d^j F`` of each basis atom.
    threshold : float
        Coefficients of the potential below this part of the largest are left out.
    """
    degree = tensors[0].ndim // 2 + 1
    codes = _Codes(crystal, cutoff)
    tuples = [components(sorted_tuples(codes.near(a), degree)) for a in range(crystal.n_basis)]
    expanded, columns, signs = _expansion(codes, tuples)
    given, values, scales = _given(codes, tensors, degree)
    ids, rows = _unique(np.concatenate([expanded, given]))
    counts = multiplicity(rows)
    known, where = np.unique(ids[len(expanded) :], return_inverse=True)
    target = np.bincount(where, values) / np.bincount(where)

    # In the norm of the full tensors, which rotations do not change.
    weights = np.sqrt(np.concatenate([multiplicity(t) for t in tuples]))
    shape = (len(rows), len(weights))
    matrix = csr_array(coo_array((signs, (ids[: len(expanded)], columns)), shape=shape))
    scaled = csr_array(matrix.multiply(1 / np.sqrt(counts)[:, None]).multiply(weights[None, :]))
    solution = _least_squares(scaled[known], target / np.sqrt(counts[known]))
    log.info("order %d: %d coefficients, %d force constants", degree - 1, shape[1], len(known))
    solution = weights * _sparse(scaled, solution, _orbits(codes, tuples))
    solution[np.abs(solution) < max(threshold, ZERO) * np.abs(solution).max(initial=0.0)] = 0.0
    constants = matrix @ solution
    change = np.abs(constants[ids[len(expanded) :]] - values) * scales

    energies, start = [], 0
    for t in tuples:
        mine = solution[start : start + len(t)]
        start += len(t)
        kept = np.flatnonzero(mine)
        kept = kept[np.lexsort(t[kept].T[::-1])]
        energies.append(Terms(np.ascontiguousarray(t[kept]), mine[kept]))
    return LatticePotential(energies, _forces(codes, rows, constants), float(change.max(initial=0.0)))


def _least_squares(matrix: Any, target: np.ndarray) -> np.ndarray:
    """Solution of least norm."""
    found: np.ndarray = lsqr(matrix, target, atol=1e-14, btol=1e-14, iter_lim=20000)[0]
    return found


def _orbits(codes: _Codes, tuples: list[np.ndarray]) -> list[tuple[tuple[int, float], np.ndarray]]:
    """Coefficients in classes of clusters that the symmetry maps onto each other.

    Returns
    -------
    list
        For each class, its rank (number of atoms, and sum of their distances, the dearest classes last) and
        the numbers of its coefficients.
    """
    crystal, cutoff = codes.crystal, codes.cutoff
    group = space_group(crystal)
    size = max(len(rho) for rho, _, _ in codes.stencils) + 1
    keys, ranks = [], []
    for a, t in enumerate(tuples):
        sites = np.sort(t // 3, axis=1)
        clusters, number = np.unique(sites, axis=0, return_inverse=True)
        least = np.full(len(clusters), np.iinfo(np.int64).max)
        for op in group:
            image = np.sort(stencil_permutation(crystal, op, a, cutoff)[clusters], axis=1)
            key = np.full(len(clusters), int(op.sites[a]), dtype=np.int64)
            for column in image.T:
                key = key * size + column
            least = np.minimum(least, key)
        atoms = 1 + (np.diff(clusters, axis=1) > 0).sum(axis=1)
        reach = np.linalg.norm(codes.stencils[a][0], axis=1)[clusters].sum(axis=1)
        keys.append(least[number.ravel()])
        ranks.append(np.column_stack([atoms, np.round(reach, 6)])[number.ravel()])
    key, rank = np.concatenate(keys), np.concatenate(ranks)
    out = []
    for value in np.unique(key):
        mine = np.flatnonzero(key == value)
        out.append(((int(rank[mine[0], 0]), float(rank[mine[0], 1])), mine))
    return sorted(out, key=lambda item: item[0])


def _sparse(matrix: Any, solution: np.ndarray, orbits: list[tuple[Any, np.ndarray]]) -> np.ndarray:
    """A solution with the same force constants from fewer classes of clusters, the dearest left out first."""
    target = matrix @ solution
    scale = np.abs(target).max(initial=0.0)
    if matrix.nnz * len(orbits) > MAX_WORK or scale == 0.0:
        return solution
    columns = csc_array(matrix)
    kept = [mine for _, mine in orbits]
    # Large parts at first, then one by one.
    part = len(kept)
    while part > 0:
        for end in range(len(kept), 0, -part):
            rest = kept[: max(end - part, 0)] + kept[end:]
            if not rest:
                continue
            chosen = np.sort(np.concatenate(rest))
            found = _least_squares(columns[:, chosen], target)
            if np.abs(columns[:, chosen] @ found - target).max() < 1e-11 * scale:
                kept = rest
                solution = np.zeros(matrix.shape[1])
                solution[chosen] = found
        part //= 2
    return solution


def lattice_forces(crystal: Crystal, cutoff: float, energies: list[Terms]) -> list[Terms]:
    """Forces ``-dE/du_l`` at the crystal, over stencils of twice the cutoff, of given site energies.

    Parameters
    ----------
    crystal : Crystal
    cutoff : float
        Å, of the stencils of the site energies.
    energies : list of Terms
        Of one degree, per basis atom.
    """
    # Stencils are sorted by distance: a smaller one is the beginning of a larger one.
    codes = _Codes(crystal, 2 * cutoff)
    expanded, columns, signs = _expansion(codes, [t.tuples for t in energies])
    ids, rows = _unique(expanded)
    solution = np.concatenate([t.coefficients for t in energies])
    return _forces(codes, rows, np.bincount(ids, signs * solution[columns], len(rows)))


def _expansion(codes: _Codes, tuples: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Monomials (m, n) in displacements that each coefficient makes, its number (m,), and the sign (m,)."""
    out, columns, signs, start = [], [], [], 0
    for a, t in enumerate(tuples):
        outer = codes.stencil(a)[t // 3] + t % 3
        centre = 3 * a + t % 3
        for chosen in product((False, True), repeat=t.shape[1]):
            out.append(codes.canonical(np.where(np.array(chosen), centre, outer)))
            columns.append(np.arange(start, start + len(t)))
            signs.append(np.full(len(t), (-1.0) ** sum(chosen)))
        start += len(t)
    return np.concatenate(out), np.concatenate(columns), np.concatenate(signs)


def _given(
    codes: _Codes, tensors: list[np.ndarray], degree: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Monomials (m, n) of the lattice energy, as seen from each of their atoms.

    Also their coefficients (m,), and the components of the tensors per coefficient (m,).
    """
    out, values, scales = [], [], []
    for a, tensor in enumerate(tensors):
        size = tensor.shape[1]
        t = components(sorted_tuples(codes.near(a), degree - 1))
        matrix = tensor.reshape(3, *(3 * size,) * (degree - 1))
        factor = multiplicity(t) / factorial(degree - 1)
        outer = codes.stencil(a)[t // 3] + t % 3
        for b in range(3):
            out.append(codes.canonical(np.column_stack([np.full(len(t), 3 * a + b), outer])))
            values.append(-matrix[(b, *t.T)] * factor)
            scales.append(1 / factor)
    return np.concatenate(out), np.concatenate(values), np.concatenate(scales)


def _unique(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of each row (m,) among the different ones, and these."""
    compact, inverse = np.unique(rows, return_inverse=True)
    inverse = inverse.reshape(rows.shape)
    keys = np.zeros(len(rows), dtype=np.int64)
    if len(compact) ** rows.shape[1] >= 2**62:
        _, first, ids = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        return ids.ravel(), rows[first]
    for column in inverse.T:
        keys = keys * len(compact) + column
    _, first, ids = np.unique(keys, return_index=True, return_inverse=True)
    return ids, rows[first]


def _forces(codes: _Codes, rows: np.ndarray, constants: np.ndarray) -> list[Terms]:
    """``-dE/du_l`` where u_l = 0: of the monomials with one factor of atom l, the other factors."""
    scale = np.abs(constants).max(initial=0.0)
    kept = np.abs(constants) > ZERO * scale
    rows, constants = rows[kept], constants[kept]
    n = rows.shape[1]
    sites = rows // 3
    found: list[list[tuple[np.ndarray, ...]]] = [[] for _ in codes.stencils]
    for i in range(n):
        others = [k for k in range(n) if k != i]
        once = (sites[:, others] != sites[:, i : i + 1]).all(axis=1)
        cells = rows[:, i : i + 1] // codes.per_cell * codes.per_cell
        relative = rows - cells
        basis, direction = relative[:, i] // 3, relative[:, i] % 3
        for a in range(len(codes.stencils)):
            mine = once & (basis == a)
            known = codes.stencil(a)
            order = np.argsort(known)
            rest = relative[mine][:, others]
            position = np.searchsorted(known[order], rest - rest % 3)
            tuples = np.sort(3 * order[position] + rest % 3, axis=1)
            found[a].append((tuples, direction[mine], -constants[mine]))
    out = []
    for parts in found:
        tuples, direction, values = (np.concatenate(x) for x in zip(*parts, strict=True))
        if not len(tuples):
            out.append(Terms(np.zeros((0, n - 1), dtype=int), np.zeros((0, 3))))
            continue
        different, number = np.unique(tuples, axis=0, return_inverse=True)
        vectors = np.zeros((len(different), 3))
        np.add.at(vectors, (number.ravel(), direction), values)
        out.append(Terms(np.ascontiguousarray(different), vectors))
    return out
