"""Global labels: the lattice site of every atom of a crystal with point defects, and the vacant sites.

A stencil match is local. Where one lattice runs through the whole structure (point defects, not
dislocations) each atom also has a site ``x = F (cell . lattice + basis) + origin``, with the deformation F
of the periodic cell. Carving boxes and filling vacancies needs these.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms

from .crystal import Crystal
from .stencils import StencilMatch, cell_deformation

__all__ = ["LatticeSites", "lattice_sites"]


@dataclass
class LatticeSites:
    """Sites of n atoms in a lattice with d directions.

    Attributes
    ----------
    crystal : Crystal
    gradient : ndarray, shape (3, 3)
        Deformation (rotation and strain) F from the crystal to the perfect lattice underneath the atoms.
    lattice : ndarray, shape (d, 3)
        Its lattice vectors (Å).
    origin : ndarray, shape (3,)
        Position of the origin of cell 0 (Å).
    cells : ndarray of int, shape (n, d)
        Lattice cell of each atom.
    basis : ndarray of int, shape (n,)
        Basis site, -1 for atoms on no site.
    positions : ndarray, shape (n, 3)
        Position of the site (Å), the image next to the atom; that of the atom itself if it has none.
    vacant_cells, vacant_basis : ndarray of int, shapes (v, d), (v,)
        Sites without an atom.
    periods : ndarray of int, shape (p, d)
        Periodic cell vectors in units of lattice vectors.
    """

    crystal: Crystal
    gradient: np.ndarray
    lattice: np.ndarray
    origin: np.ndarray
    cells: np.ndarray
    basis: np.ndarray
    positions: np.ndarray
    vacant_cells: np.ndarray
    vacant_basis: np.ndarray
    periods: np.ndarray

    def site_positions(self, cells: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """Positions (m, 3) of sites given by cells (m, d) and basis numbers (m,)."""
        offsets = self.crystal.basis_positions @ self.gradient.T
        positions: np.ndarray = cells @ self.lattice + offsets[basis] + self.origin
        return positions

    @property
    def vacant_positions(self) -> np.ndarray:
        """Positions (v, 3) of the vacant sites, Å."""
        return self.site_positions(self.vacant_cells, self.vacant_basis)

    def canonical(self, cells: np.ndarray) -> np.ndarray:
        """The same cells, periodic images brought to one representative."""
        return reduce_cells(cells, self.periods)


def reduce_cells(cells: np.ndarray, periods: np.ndarray) -> np.ndarray:
    """Lattice cells (m, d) modulo integer period vectors (p, d), one representative for each class."""
    if not len(periods):
        return cells
    # The hair keeps whole numbers from falling to either side of the floor by rounding.
    turns = np.floor(cells @ np.linalg.pinv(periods.astype(float)) + 1e-9).astype(int)
    reduced: np.ndarray = cells - turns @ periods
    return reduced


def _torn(match: StencilMatch, atoms: Atoms, sites: np.ndarray, bulk: np.ndarray) -> bool:
    """Whether nearest neighbours in the bulk have sites (n, 3) that are none.

    Around a dislocation the sites slip by its Burgers vector somewhere, though each is near its atom.
    """
    atom, slot = np.nonzero((match.neighbours >= 0) & bulk[:, None])
    other = match.neighbours[atom, slot]
    both = bulk[other]
    atom, slot, other = atom[both], slot[both], other[both]
    apart = sites[other] + match.shifts[atom, slot] @ atoms.cell.array - sites[atom]
    wrong = apart - match.vectors[atom, slot]
    limit = 0.5 * match.crystal.nearest_neighbour_distance
    return bool(np.einsum("pc,pc->p", wrong, wrong).max(initial=0.0) > limit**2)


def lattice_sites(match: StencilMatch, atoms: Atoms) -> LatticeSites | None:
    """Label all atoms with the sites of one lattice; None where no single lattice runs through them.

    Parameters
    ----------
    match : StencilMatch
        Of `atoms`, with a radius that holds the nearest neighbours.
    atoms : ase.Atoms
    """
    crystal = match.crystal
    near = crystal.nearest_neighbour_distance
    gradient = cell_deformation(crystal, atoms, match.rotation)
    gradient = match.rotation if gradient is None else gradient
    lattice = crystal.lattice @ gradient.T
    inverse = np.linalg.pinv(lattice)  # (3, d)
    periods_real = atoms.cell.array[atoms.pbc] @ inverse
    periods = np.rint(periods_real).astype(int)
    if len(periods) and (
        np.abs(periods @ lattice - atoms.cell.array[atoms.pbc]).max()
        > 0.05 * near * max(1, np.abs(periods).max())
        or np.linalg.matrix_rank(periods) < len(periods)
    ):
        return None
    good = match.basis >= 0
    if not good.any():
        return None
    offsets = crystal.basis_positions @ gradient.T
    bulk = good & ~match.defect()
    bulk = bulk if bulk.any() else good
    shifted = atoms.positions - offsets[np.maximum(match.basis, 0)]
    # Mean of the positions modulo the lattice, then of what lies outside its span (2D).
    phases = np.exp(2j * np.pi * (shifted[bulk] @ inverse)).mean(axis=0)
    origin = (np.angle(phases) / (2 * np.pi)) @ lattice
    origin = origin + (shifted[bulk] - shifted[bulk] @ inverse @ lattice).mean(axis=0)
    cells = np.rint((shifted - origin) @ inverse).astype(int)
    sites = cells @ lattice + offsets[np.maximum(match.basis, 0)] + origin
    distance = np.linalg.norm(atoms.positions - sites, axis=1)
    if distance[bulk].max() > 0.5 * near or _torn(match, atoms, sites, bulk):
        return None
    basis = np.where(good & (distance < 0.6 * near), match.basis, -1)
    # Of atoms that claim one site, the nearest gets it.
    key = np.column_stack([reduce_cells(cells, periods), basis])
    order = np.lexsort((distance, *key.T))
    same = np.zeros(len(atoms), dtype=bool)
    same[1:] = (key[order][1:] == key[order][:-1]).all(axis=1)
    basis[order[same & (basis[order] >= 0)]] = -1
    result = LatticeSites(
        crystal=crystal,
        gradient=gradient,
        lattice=lattice,
        origin=origin,
        cells=cells,
        basis=basis,
        positions=sites,
        vacant_cells=np.zeros((0, len(lattice)), dtype=int),
        vacant_basis=np.zeros(0, dtype=int),
        periods=periods,
    )
    _adopt(result, atoms)
    sites[result.basis < 0] = atoms.positions[result.basis < 0]
    _find_vacancies(result)
    return result


def _adopt(sites: LatticeSites, atoms: Atoms) -> None:
    """Give free sites to unmatched atoms that lie on them (at surfaces, which lack half of their stencil)."""
    crystal = sites.crystal
    lost = np.flatnonzero(sites.basis < 0)
    if not len(lost):
        return
    best = np.full(len(lost), 0.2 * crystal.nearest_neighbour_distance)
    cells, basis = sites.cells[lost], np.full(len(lost), -1)
    inverse = np.linalg.pinv(sites.lattice)
    offsets = crystal.basis_positions @ sites.gradient.T
    for b, number in enumerate(crystal.numbers):
        guess = np.rint((atoms.positions[lost] - offsets[b] - sites.origin) @ inverse).astype(int)
        site = sites.site_positions(guess, np.full(len(lost), b))
        distance = np.linalg.norm(atoms.positions[lost] - site, axis=1)
        better = (distance < best) & (atoms.numbers[lost] == number)
        cells[better], basis[better], best[better] = guess[better], b, distance[better]
    key = np.column_stack([sites.canonical(cells), basis])
    on_site = sites.basis >= 0
    taken = set(map(tuple, np.column_stack([sites.canonical(sites.cells), sites.basis])[on_site]))
    for k in np.argsort(best):
        if basis[k] >= 0 and tuple(key[k]) not in taken:
            taken.add(tuple(key[k]))
            atom = lost[k]
            sites.cells[atom], sites.basis[atom] = cells[k], basis[k]
            sites.positions[atom] = sites.site_positions(cells[k : k + 1], basis[k : k + 1])[0]


def _row_numbers(rows: np.ndarray) -> np.ndarray:
    """One integer for each row of integers, in the order of the rows: sorted much faster than they are."""
    low = rows.min(axis=0, initial=0)
    spans = rows.max(axis=0, initial=0) - low + 1
    if np.prod(spans.astype(float)) < 2**62:
        numbers: np.ndarray = np.ravel_multi_index(tuple((rows - low).T), tuple(spans))
        return numbers
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel()


def _find_vacancies(sites: LatticeSites) -> None:
    """Sites without an atom of which more than half of the nearest neighbours are occupied."""
    crystal = sites.crystal
    near = 1.2 * crystal.nearest_neighbour_distance
    on_site = np.flatnonzero(sites.basis >= 0)
    claimed, shell_size = [], np.zeros(crystal.n_basis, dtype=int)
    for b in range(crystal.n_basis):
        _, neighbours, steps = crystal.stencil_sites(b, near)
        shell_size[b] = len(neighbours)
        mine = on_site[sites.basis[on_site] == b]
        cells = sites.cells[mine][:, None, :] + steps[None]
        target = np.broadcast_to(neighbours[:, None], (len(mine), len(neighbours), 1))
        claimed.append(np.concatenate([cells, target], axis=2).reshape(-1, cells.shape[2] + 1))
    keys = np.concatenate(claimed)
    keys[:, :-1] = sites.canonical(keys[:, :-1])
    occupied = np.column_stack([sites.canonical(sites.cells[on_site]), sites.basis[on_site]])
    numbers = _row_numbers(np.concatenate([keys, occupied]))
    claims, first, counts = np.unique(numbers[: len(keys)], return_index=True, return_counts=True)
    free = ~np.isin(claims, numbers[len(keys) :])
    keys, counts = keys[first[free]], counts[free]
    vacant = counts > shell_size[keys[:, -1]] / 2
    sites.vacant_cells, sites.vacant_basis = keys[vacant, :-1], keys[vacant, -1]
