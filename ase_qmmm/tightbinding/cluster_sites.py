"""Where the atoms of an embedded cluster sit in its reference, and what surrounds them there."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from scipy.spatial import cKDTree

from ..crystal import Crystal
from ..errors import StructureError
from ..neighbours import neighbour_pairs
from .self_energy import CrystalSites, GeometrySites, Reference

if TYPE_CHECKING:
    from .embedding import Embedded

__all__ = ["crystal_sites", "geometry_sites", "near"]


def near(
    atoms: Atoms, index: np.ndarray, shifts: np.ndarray, wrapped: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms (p,) within `radius` of a cluster, not in it; offsets (p, 3) of their images; distances (p,)."""
    place = np.full(len(atoms), -1)
    place[index] = np.arange(len(index))
    own = np.where(wrapped, 0, shifts)
    i, j, d, S = neighbour_pairs(atoms, radius, "ijdS")
    from_cluster = place[i] >= 0
    i, j, d, S = i[from_cluster], j[from_cluster], d[from_cluster], S[from_cluster]
    target = np.where(wrapped, 0, own[place[i]] + S)
    outside = (place[j] < 0) | (target != own[np.maximum(place[j], 0)]).any(axis=1)
    keys, image = np.unique(np.column_stack([j, target])[outside], axis=0, return_inverse=True)
    distance = np.full(len(keys), np.inf)
    np.minimum.at(distance, image.ravel(), d[outside])
    return keys[:, 0], keys[:, 1:] @ atoms.cell.array, distance


def crystal_sites(
    atoms: Atoms,
    index: np.ndarray,
    placed: np.ndarray,
    wrapped: np.ndarray,
    labels: Any,
    cutoff: float,
) -> tuple[Reference, np.ndarray]:
    """Sites of the cluster and of vacancies in it, and the cluster atom (or -1) on each."""
    crystal = labels.crystal
    on_site = np.flatnonzero(labels.basis[index] >= 0)
    basis = labels.basis[index[on_site]]
    inverse = np.linalg.pinv(labels.lattice)
    moved = placed[on_site] - atoms.positions[index[on_site]]
    cells = labels.cells[index[on_site]] + np.rint(moved @ inverse).astype(int)
    vacant, vacant_basis = _vacant_sites(labels, cells, placed, atoms, wrapped)
    cells, basis = np.concatenate([cells, vacant]), np.concatenate([basis, vacant_basis])
    filled = np.full(len(basis), -1)
    filled[: len(on_site)] = on_site
    # Sites in the order of the lattice: translated clusters share one self-energy.
    order = np.lexsort((basis, *cells.T))
    basis, cells, filled = basis[order], cells[order], filled[order]
    unit_cell = crystal.unit_cell
    unit_cell.positions = crystal.basis_positions @ labels.gradient.T
    unit_cell.cell[unit_cell.pbc] = labels.lattice
    unit_cell.cell[~unit_cell.pbc] = unit_cell.cell.array[~unit_cell.pbc] @ labels.gradient.T
    deformed = Crystal(unit_cell)
    axes = [int(a) for a in np.flatnonzero(wrapped)]
    if len(axes) == len(labels.lattice):
        raise StructureError(
            f"atoms: the cluster of {len(index)} atoms meets its own images along every axis; embedding "
            f"needs surroundings: take a cell with heights above {np.ptp(placed, axis=0).max():.0f} Å, or "
            "solver='dense' with k-points"
        )
    periods = np.array([labels.periods[int(atoms.pbc[:a].sum())] for a in axes], dtype=int)
    sites = _along_periods(deformed, basis, cells, periods, axes)
    _check_strays(sites, placed, np.setdiff1d(np.arange(len(index)), on_site), index, labels, cutoff)
    return sites, filled


def _vacant_sites(
    labels: Any, cells: np.ndarray, placed: np.ndarray, atoms: Atoms, wrapped: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Cells (v, d) and basis (v,) of the vacant sites between atoms of the cluster, on the image next to it.

    `cells` are those of its atoms, `placed` (m, 3) their positions.
    """
    crystal, periods = labels.crystal, labels.periods
    found, basis = labels.vacant_cells, labels.vacant_basis
    if not len(basis):
        return found, basis
    shell = 1.2 * crystal.nearest_neighbour_distance
    along = wrapped[atoms.pbc]
    images = [np.array(s) @ atoms.cell.array[wrapped] for s in product((-1, 0, 1), repeat=int(along.sum()))]
    tree = cKDTree(np.concatenate([placed + image for image in images]))
    sizes = np.array([len(crystal.stencil(int(b), shell)) for b in basis])
    turns = np.rint((cells.mean(axis=0) - found) @ np.linalg.pinv(periods.astype(float))).astype(int)
    all_cells, all_basis = [], []
    # Along an axis along which the cluster is periodic, all images are one.
    for step in product(*[(0,) if one else (-1, 0, 1) for one in along]):
        image = found + (turns + np.array(step, dtype=int)) @ periods
        around = tree.query_ball_point(labels.site_positions(image, basis), shell, return_length=True)
        between = around > sizes / 2
        all_cells.append(image[between])
        all_basis.append(basis[between])
    return np.concatenate(all_cells), np.concatenate(all_basis)


def _along_periods(
    crystal: Crystal, basis: np.ndarray, cells: np.ndarray, periods: np.ndarray, axes: list[int]
) -> CrystalSites:
    """The same sites in a cell of the crystal that has the periods (p, d) among its lattice vectors."""
    if not len(periods):
        return CrystalSites(crystal, basis, cells)
    d = len(crystal.lattice)
    # Complete the periods with unit vectors to the smallest cell that they allow.
    matrix = periods
    for row in sorted(
        np.eye(d, dtype=int).tolist(), key=lambda r: np.linalg.norm(np.array(r) @ crystal.lattice)
    ):
        grown = np.vstack([matrix, row])
        if len(matrix) < d and np.linalg.matrix_rank(grown) == len(grown):
            matrix = grown
    inverse = np.linalg.inv(matrix)
    box = np.abs(matrix).sum(axis=0)
    steps = np.stack(np.meshgrid(*[np.arange(-b, b + 1) for b in box], indexing="ij"), -1).reshape(-1, d)
    fractions = steps @ inverse
    inside = ((fractions > -1e-9) & (fractions < 1 - 1e-9)).all(axis=1)
    corners = steps[inside]
    number = {tuple(c): k for k, c in enumerate(corners.tolist())}
    n = crystal.n_basis
    cell = crystal.unit_cell
    grown_cell = Atoms(
        numbers=np.tile(cell.numbers, len(corners)),
        positions=(cell.positions[None] + (corners @ crystal.lattice)[:, None]).reshape(-1, 3),
        cell=cell.cell,
        pbc=cell.pbc,
    )
    grown_cell.cell[cell.pbc] = matrix @ crystal.lattice
    turns = np.floor(cells @ inverse + 1e-9).astype(int)
    rest = cells - turns @ matrix
    corner = np.array([number[tuple(r)] for r in rest.tolist()], dtype=int)
    periodic = tuple((k, axis) for k, axis in enumerate(axes))
    return CrystalSites(Crystal(grown_cell), corner * n + basis, turns, periodic)


def _check_strays(
    sites: CrystalSites,
    placed: np.ndarray,
    strays: np.ndarray,
    index: np.ndarray,
    labels: Any,
    cutoff: float,
) -> None:
    """Atoms on no site must not reach sites outside the cluster: the self-energy knows nothing of them."""
    inverse = np.linalg.pinv(sites.crystal.lattice)
    own = {(*map(int, c), int(b)) for c, b in zip(sites.folded(sites.cells), sites.basis, strict=True)}
    offsets = sites.crystal.basis_positions
    d = len(sites.crystal.lattice)
    reach = np.ceil(cutoff * np.linalg.norm(inverse, axis=0)).astype(int) + 1
    steps = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reach], indexing="ij"), -1).reshape(-1, d)
    for atom in strays:
        home = np.rint((placed[atom] - labels.origin) @ inverse).astype(int)
        for b, offset in enumerate(offsets):
            cells = home + steps
            distance = np.linalg.norm(
                cells @ sites.crystal.lattice + offset + labels.origin - placed[atom], axis=1
            )
            for c in sites.folded(cells[distance < cutoff]):
                if (*map(int, c), b) not in own:
                    raise StructureError(
                        f"atoms: atom {index[atom]} sits on no site of the reference and is within "
                        f"{cutoff:.2f} Å of atoms outside the embedded cluster; enlarge the buffer"
                    )


# An atom belongs to a site of a reference geometry if it is closer than this (Å).
_SAME_SITE = 1.2


def geometry_sites(
    solver: Embedded, atoms: Atoms, index: np.ndarray, placed: np.ndarray, wrapped: np.ndarray, cutoff: float
) -> tuple[Reference, np.ndarray]:
    """Sites of the cluster in a reference geometry, and the cluster atom on each."""
    reference = solver.reference
    assert isinstance(reference, Atoms)
    n = len(atoms)
    both = Atoms(
        numbers=np.concatenate([atoms.numbers, reference.numbers]),
        positions=np.concatenate([atoms.positions, reference.positions]),
        cell=atoms.cell,
        pbc=atoms.pbc,
    )
    i, j, d, S = neighbour_pairs(both, _SAME_SITE, "ijdS")
    cross = (i < n) & (j >= n)
    i, j, d, S = i[cross], j[cross] - n, d[cross], S[cross]
    order = np.lexsort((d, i))
    first = order[np.unique(i[order], return_index=True)[1]]
    site = np.full(n, -1)
    shift = np.zeros((n, 3), dtype=int)
    site[i[first]], shift[i[first]] = j[first], S[first]
    taken, times = np.unique(site[site >= 0], return_counts=True)
    if (times > 1).any():
        raise StructureError(f"reference: atom {taken[times > 1][0]} is the nearest one to several atoms")
    # Sites without an atom are vacancies of the surroundings too, and elements those of the structure.
    kept = np.sort(taken)
    renumber = np.full(len(reference), -1)
    renumber[kept] = np.arange(len(kept))
    occupied = reference[kept]
    occupied.numbers[renumber[site[site >= 0]]] = atoms.numbers[site >= 0]
    on_site = np.flatnonzero(site[index] >= 0)
    own = renumber[site[index[on_site]]]
    jumps = np.rint((placed[on_site] - atoms.positions[index[on_site]]) @ np.linalg.pinv(atoms.cell.array))
    own_shifts = (shift[index[on_site]] + jumps).astype(int)
    outside, outside_offsets, _ = near(occupied, own, own_shifts, wrapped, solver.depth)
    if not len(outside):
        raise StructureError(
            "reference: no atom outside the cluster; the whole system is in it, use solver='dense'"
        )
    cell = occupied.cell.array
    positions = np.concatenate(
        [occupied.positions[own] + own_shifts @ cell, occupied.positions[outside] + outside_offsets]
    )
    inner = np.concatenate([own, outside])
    inner_shifts = np.rint((positions - occupied.positions[inner]) @ np.linalg.pinv(cell)).astype(int)
    passive, passive_offsets, _ = near(occupied, inner, inner_shifts, wrapped, cutoff)
    sub = Atoms(
        numbers=occupied.numbers[np.concatenate([inner, passive])],
        positions=np.concatenate([positions, occupied.positions[passive] + passive_offsets]),
        cell=cell,
        pbc=wrapped,
    )
    strays = np.setdiff1d(np.arange(len(index)), on_site)
    if len(strays):
        distance = cKDTree(positions[len(own) :]).query(placed[strays])[0]
        if distance.min() < cutoff:
            atom = index[strays[int(np.argmin(distance))]]
            raise StructureError(
                f"atoms: atom {atom} sits on no site of the reference and is within {cutoff:.2f} Å of atoms "
                "outside the embedded cluster; enlarge the buffer"
            )
    return GeometrySites(sub, len(own), len(outside)), on_site
