"""Stencil matching: which atom of a deformed, defective crystal sits on which stencil vector.

For an atom l on basis site alpha the neighbour at stencil vector rho is the atom m(rho) for which
``g_rho = y(m(rho)) - y(l) - R rho`` is small, R the orientation of the crystal. Matching is local, so that
it does not matter where the branch cut of a dislocation was drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from .errors import MatchError, check_positive
from .neighbours import unwrap
from .pair_chunks import Pairs

if TYPE_CHECKING:
    from .crystal import Crystal

__all__ = ["StencilMatch", "match_stencils"]

# Shells that decide on which basis site an atom sits, in nearest-neighbour distances: the second shell of
# diamond is needed to tell a lattice atom from a tetrahedral interstitial.
_CORE = 1.8


@dataclass
class StencilMatch:
    """The result of :meth:`ase_qmmm.Crystal.match` for n atoms and stencils of at most s vectors.

    Attributes
    ----------
    neighbours : ndarray of int, shape (n, s)
        Atom at each stencil vector, -1 where none was found.
    shifts : ndarray of int, shape (n, s, 3)
        Cells by which that neighbour is translated.
    basis : ndarray of int, shape (n,)
        Basis site of each atom, -1 for an atom that sits on no site.
    misfit : ndarray, shape (n,)
        Largest displacement difference to a nearest neighbour, ``max |g_rho|`` (Å); infinite if one is
        missing, if an extra atom is among them, or if the atom sits on no site.
    rotation : ndarray, shape (3, 3)
        Orientation R of the atoms relative to the crystal.
    vectors : ndarray, shape (n, s, 3)
        Stencil vectors in the orientation of the atoms (Å); zero beyond the stencil of the atom.
    """

    crystal: Crystal
    radius: float
    neighbours: np.ndarray
    shifts: np.ndarray
    basis: np.ndarray
    misfit: np.ndarray
    rotation: np.ndarray
    numbers: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    _sizes: np.ndarray = field(repr=False)

    def __repr__(self) -> str:
        n = len(self.basis)
        angle = np.degrees(Rotation.from_matrix(self.rotation).magnitude())
        return (
            f"StencilMatch({n} atoms, radius {self.radius:g} Å, {int(self.defect().sum())} at defects, "
            f"{int((self.basis < 0).sum())} without a site, rotated by {angle:.3g} degrees)"
        )

    @property
    def vectors(self) -> np.ndarray:
        """Made anew at each call: they are those of the basis site."""
        width = self.neighbours.shape[1]
        table = np.zeros((self.crystal.n_basis + 1, width, 3))  # the last for atoms without a site
        for b in range(self.crystal.n_basis):
            rho = self.crystal.stencil(b, self.radius)
            table[b, : len(rho)] = rho @ self.rotation.T
        vectors: np.ndarray = table[self.basis]
        return vectors

    @property
    def missing(self) -> np.ndarray:
        """Boolean (n, s): stencil vectors of the atom at which no atom was found."""
        inside = np.arange(self.neighbours.shape[1]) < self._sizes[:, None]
        missing: np.ndarray = inside & (self.neighbours < 0)
        return missing

    def defect(self, tolerance: float | None = None) -> np.ndarray:
        """Boolean (n,): atoms whose nearest neighbours are not those of the crystal.

        Parameters
        ----------
        tolerance : float, optional
            Misfit (Å) above which an atom counts as part of the defect; 0.15 nearest-neighbour distances.
        """
        if tolerance is None:
            tolerance = 0.15 * self.crystal.nearest_neighbour_distance
        defect: np.ndarray = self.misfit > tolerance
        return defect

    def fits(self, atoms: Atoms) -> bool:
        """Whether `atoms` has the species, cell and periodicity that were matched."""
        return (
            np.array_equal(atoms.numbers, self.numbers)
            and np.array_equal(atoms.pbc, self.pbc)
            and np.array_equal(atoms.cell.array[self.pbc], self.cell[self.pbc])
        )

    def displacements(self, positions: np.ndarray) -> np.ndarray:
        """``g_rho`` (n, s, 3) in Å, in the orientation of the atoms; zero where no neighbour is known.

        Positions may have been wrapped since the match was made.
        """
        y = unwrap(positions, self.positions, self.cell, self.pbc)
        g = y[self.neighbours] + self.shifts @ self.cell - y[:, None] - self.vectors
        return np.where((self.neighbours >= 0)[:, :, None], g, 0.0)


def match_stencils(
    crystal: Crystal, atoms: Atoms, radius: float, tolerance: float | None = None
) -> StencilMatch:
    """See :meth:`ase_qmmm.Crystal.match`."""
    radius = check_positive("radius", radius, "Å")
    near = crystal.nearest_neighbour_distance
    tolerance = 0.4 * near if tolerance is None else check_positive("tolerance", tolerance, "Å")
    inner = Pairs(atoms, _CORE * near + tolerance)
    rotation, basis = _orientation(crystal, atoms, inner, tolerance)
    stencils = [crystal.stencil_sites(b, radius) for b in range(crystal.n_basis)]
    n, width = len(atoms), max((len(s[0]) for s in stencils), default=0)
    neighbours = np.full((n, width), -1, dtype=np.int32)
    shifts = np.zeros((n, width, 3), dtype=np.int32)
    sizes = np.zeros(n, dtype=int)
    misfit, largest = np.full(n, np.inf), np.zeros(n)
    for b, (rho, _, _) in enumerate(stencils):
        sizes[basis == b] = len(rho)
        if not (np.linalg.norm(rho, axis=1) < 1.2 * near).any():
            raise ValueError(
                f"radius: {radius:g} Å is less than the nearest-neighbour distance, {near:.4f} Å"
            )
    trees = [cKDTree(rho) for rho, _, _ in stencils]
    for i, j, D, S in Pairs(atoms, max(radius, _CORE * near) + tolerance):
        for b, (rho, sites, _) in enumerate(stencils):
            shell = np.linalg.norm(rho, axis=1) < 1.2 * near
            pairs = np.flatnonzero(basis[i] == b)
            lattice_D = D[pairs] @ rotation  # R^T applied to each row
            gap, k = trees[b].query(lattice_D, distance_upper_bound=tolerance)
            found = np.isfinite(gap)
            found[found] = crystal.numbers[sites[k[found]]] == atoms.numbers[j[pairs[found]]]
            # The nearest atom takes the place, where several compete for one stencil vector.
            order = np.lexsort((gap[found], k[found], i[pairs[found]]))
            chosen, kc = np.flatnonzero(found)[order], k[found][order]
            ic = i[pairs[chosen]]
            first = np.ones(len(chosen), dtype=bool)
            first[1:] = (ic[1:] != ic[:-1]) | (kc[1:] != kc[:-1])
            chosen, kc, ic = chosen[first], kc[first], ic[first]
            neighbours[ic, kc] = j[pairs[chosen]]
            shifts[ic, kc] = S[pairs[chosen]]
            placed = np.zeros(len(pairs), dtype=bool)
            placed[chosen] = True
            # Misfit over the first shell.
            g = np.linalg.norm(lattice_D[chosen] - rho[kc], axis=1)
            near_places = shell[kc]
            np.maximum.at(largest, ic[near_places], g[near_places])
            distances = np.linalg.norm(D[pairs], axis=1)
            crowded = ~placed & (distances < 1.25 * np.linalg.norm(rho[shell], axis=1).max())
            crowded &= distances < radius
            largest[i[pairs[crowded]]] = np.inf
    for b, (rho, _, _) in enumerate(stencils):
        mine = np.flatnonzero(basis == b)
        shell = np.flatnonzero(np.linalg.norm(rho, axis=1) < 1.2 * near)
        lacking = (neighbours[np.ix_(mine, shell)] < 0).any(axis=1)
        misfit[mine] = np.where(lacking, np.inf, largest[mine])
    return StencilMatch(
        crystal=crystal,
        radius=radius,
        neighbours=neighbours,
        shifts=shifts,
        basis=basis,
        misfit=misfit,
        rotation=rotation,
        numbers=atoms.numbers.copy(),
        positions=atoms.positions.copy(),
        cell=atoms.cell.array.copy(),
        pbc=atoms.pbc.copy(),
        _sizes=sizes,
    )


def _assign_basis(
    crystal: Crystal, numbers: np.ndarray, pairs: Pairs, rotation: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Basis site of each atom (-1: none) and the mean distance of its first shells from their places (Å)."""
    n = len(numbers)
    radius = _CORE * crystal.nearest_neighbour_distance
    count, total, matched = (np.zeros((crystal.n_basis, n)) for _ in range(3))
    stencils = [crystal.stencil_sites(b, radius) for b in range(crystal.n_basis)]
    trees = [cKDTree(rho) for rho, _, _ in stencils]
    for i, j, D, _ in pairs:
        lattice_D = D @ rotation
        for b, (rho, sites, _) in enumerate(stencils):
            gap, k = trees[b].query(lattice_D, distance_upper_bound=tolerance)
            found = np.isfinite(gap) & (numbers[i] == crystal.numbers[b])
            found[found] = crystal.numbers[sites[k[found]]] == numbers[j[found]]
            atoms, number = np.unique(i[found], return_inverse=True)
            taken = np.zeros((len(atoms), len(rho)), dtype=bool)
            taken[number, k[found]] = True
            count[b, atoms] = taken.sum(axis=1)
            total[b, atoms] = np.bincount(number, gap[found], minlength=len(atoms))
            matched[b, atoms] = np.bincount(number, minlength=len(atoms))
    places = np.array([len(rho) for rho, _, _ in stencils])[:, None]
    # Small displacements decide between sites with equally many neighbours.
    score = count / places - 0.5 * total / (tolerance * np.maximum(count, 1) * places)
    best = np.argmax(score, axis=0) if n else np.zeros(0, int)
    each = np.arange(n)
    fraction, mean_gap = (count / places)[best, each], (total / np.maximum(matched, 1))[best, each]
    return np.where(fraction >= 0.5, best, -1), mean_gap


def _plausible(basis: np.ndarray, gaps: np.ndarray, tolerance: float) -> bool:
    """Whether this is the crystal in its orientation, not atoms that fall near stencil vectors by chance.

    Chance fills the balls of radius `tolerance` evenly, with a mean distance of 0.75 tolerances; a strain of
    5 % or displacements of a tenth of a bond stay below 0.3.
    """
    sited = basis >= 0
    return bool(sited.mean() >= 0.5 and np.median(gaps[sited]) < 0.5 * tolerance)


def _orientation(
    crystal: Crystal, atoms: Atoms, pairs: Pairs, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Rotation R from the crystal to the atoms, exactly one where they are not rotated; basis sites there."""
    rotation = np.eye(3)
    basis, gaps = _assign_basis(crystal, atoms.numbers, pairs, rotation, tolerance)
    if len(atoms) == 0:
        return rotation, basis
    if not _plausible(basis, gaps, tolerance):
        rotation = _search_orientation(crystal, atoms, pairs, tolerance)
        basis, gaps = _assign_basis(crystal, atoms.numbers, pairs, rotation, tolerance)
        if not _plausible(basis, gaps, tolerance):
            raise MatchError(
                f"atoms: fewer than half of the {len(atoms)} atoms sit on sites of {crystal!r}, in any "
                f"orientation; check the crystal (structure, lattice constant, elements) and the structure"
            )
    exact = _rotation_of_cell(crystal, atoms, rotation)
    if exact is None:
        refined = _rotation_of_bonds(crystal, pairs, basis, rotation, tolerance)
        exact = _rotation_of_cell(crystal, atoms, refined)
        if exact is None:
            # An angle below a degree cannot be told from displacements; keep the axes of the crystal.
            small = Rotation.from_matrix(refined).magnitude() < np.radians(1.0)
            exact = np.eye(3) if small else refined
    if np.abs(exact - np.eye(3)).max() < 1e-9:
        exact = np.eye(3)
    if not np.array_equal(exact, rotation):
        basis = _assign_basis(crystal, atoms.numbers, pairs, exact, tolerance)[0]
    return exact, basis


def _rotation_of_cell(crystal: Crystal, atoms: Atoms, rotation: np.ndarray) -> np.ndarray | None:
    """Rotational part of the map from lattice vectors to the periodic cell, if that fixes it."""
    gradient = cell_deformation(crystal, atoms, rotation)
    if gradient is None or len(crystal.lattice) < 3:
        return None
    u, _, vh = np.linalg.svd(gradient)
    rotational: np.ndarray = u @ vh
    return rotational


def cell_deformation(crystal: Crystal, atoms: Atoms, rotation: np.ndarray) -> np.ndarray | None:
    """Deformation gradient F (3, 3), with cell vectors ``N F lattice`` for an integer N; None if without one.

    A cell periodic along fewer directions than the lattice fixes no F. For a 2D lattice the normal is
    rotated along.
    """
    rotated = crystal.lattice @ rotation.T
    periodic = atoms.cell.array[atoms.pbc]
    if len(periodic) != len(rotated):
        return None
    repeats = np.rint(periodic @ np.linalg.pinv(rotated))
    if abs(np.linalg.det(repeats)) < 0.5:
        return None
    actual = np.linalg.solve(repeats, periodic)
    lengths = np.linalg.norm(rotated, axis=1)
    if (np.linalg.norm(actual - rotated, axis=1) > 0.1 * lengths).any():
        return None
    if len(rotated) == 2:
        normal = np.cross(*crystal.lattice)
        normal /= np.linalg.norm(normal)
        reference = np.vstack([crystal.lattice, normal])
        actual = np.vstack([actual, rotation @ normal])
    else:
        reference = crystal.lattice
    if len(reference) != 3:
        return None
    gradient: np.ndarray = np.linalg.solve(reference, actual).T
    return gradient


def _rotation_of_bonds(
    crystal: Crystal, pairs: Pairs, basis: np.ndarray, rotation: np.ndarray, tolerance: float
) -> np.ndarray:
    """Best rotation (Kabsch) of the first shells of all matched atoms."""
    radius = _CORE * crystal.nearest_neighbour_distance
    stencils = [crystal.stencil(b, radius) for b in range(crystal.n_basis)]
    trees = [cKDTree(rho) for rho in stencils]
    correlation = np.zeros((3, 3))
    for i, _, D, _ in pairs:
        for b, rho in enumerate(stencils):
            mine = basis[i] == b
            gap, k = trees[b].query(D[mine] @ rotation, distance_upper_bound=tolerance)
            found = np.isfinite(gap)
            correlation += D[mine][found].T @ rho[k[found]]
    return _nearest_rotation(correlation)


def _nearest_rotation(correlation: np.ndarray) -> np.ndarray:
    u, _, vh = np.linalg.svd(correlation)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vh))])
    rotation: np.ndarray = u @ flip @ vh
    return rotation


def _search_orientation(crystal: Crystal, atoms: Atoms, pairs: Pairs, tolerance: float) -> np.ndarray:
    """Orientation in which trial atoms find most of their stencil; of equals the nearest to no rotation."""
    near = crystal.nearest_neighbour_distance
    trial_atoms = np.unique(np.linspace(0, len(atoms) - 1, min(len(atoms), 12)).astype(int))
    parts = [
        (i[wanted], j[wanted], D[wanted]) for i, j, D, _ in pairs for wanted in [np.isin(i, trial_atoms)]
    ]
    i, j, D = (np.concatenate(x) for x in zip(*parts, strict=True))
    lengths = np.linalg.norm(D, axis=1)
    best = (-1.0, -np.inf, np.eye(3))
    for b in range(crystal.n_basis):
        rho, sites, _ = crystal.stencil_sites(b, _CORE * near)
        species = np.append(crystal.numbers[sites], -1)  # the last for what the tree does not find
        tree = cKDTree(rho)
        first = rho[0]
        sines = np.linalg.norm(np.cross(first, rho), axis=1) / np.linalg.norm(rho, axis=1)
        second = rho[int(np.argmax(sines > 0.3 * np.linalg.norm(first)))]
        frame = np.array([first, second, np.cross(first, second)])
        cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
        for atom in trial_atoms[atoms.numbers[trial_atoms] == crystal.numbers[b]]:
            mine = np.flatnonzero(i == atom)
            d, r = D[mine], lengths[mine]
            close = np.flatnonzero(np.abs(r - np.linalg.norm(first)) < 0.12 * near)
            closer = np.flatnonzero(np.abs(r - np.linalg.norm(second)) < 0.12 * near)
            for p, q in permutations(np.union1d(close, closer), 2):
                if p not in close or q not in closer or abs(d[p] @ d[q] / r[p] / r[q] - cosine) > 0.15:
                    continue
                rotation = _nearest_rotation(np.array([d[p], d[q], np.cross(d[p], d[q])]).T @ frame)
                gap, k = tree.query(d @ rotation, distance_upper_bound=tolerance / 2)
                found = species[k] == atoms.numbers[j[mine]]
                score = round(found.sum() - 0.1 * gap[found].mean() / tolerance if found.any() else 0.0, 2)
                candidate = (float(score), round(float(np.trace(rotation)), 6), rotation)
                if candidate[:2] > best[:2]:
                    best = candidate
    if best[0] < 0:
        raise MatchError(
            f"atoms: no neighbours of the elements and at the distances of {crystal!r}; check the crystal "
            f"(structure, lattice constant, elements)"
        )
    return best[2]
