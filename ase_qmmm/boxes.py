"""Boxes of lattice vectors out of a larger crystal: which atoms, and which of their images, they hold.

A box is filled by sites, not by positions, so that it holds whole lattice cells however the atoms are
displaced. With periodic faces it has no surface.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from ase import Atoms

from .lattice_sites import LatticeSites

__all__ = ["BoxContent", "BoxFrame", "fill_box", "images_near"]


class BoxFrame:
    """Coordinates in which boxes are axis-parallel, and the table of what sits on which site.

    Their unit vectors are those of the smallest cubic cell, else of the unit cell of the crystal, under the
    deformation of `sites`.

    Attributes
    ----------
    integer : ndarray of int, shape (d, d)
        Unit vectors in lattice vectors.
    axes : ndarray, shape (d, 3)
        The same in Å.
    heights : ndarray, shape (d,)
        Distances (Å) between opposite faces of the unit.
    """

    def __init__(self, sites: LatticeSites) -> None:
        self.sites = sites
        crystal = sites.crystal
        cubic = crystal.cubic_vectors()
        self.integer = np.eye(len(sites.lattice), dtype=int)
        if cubic is not None:
            self.integer = np.rint(cubic @ np.linalg.inv(crystal.lattice)).astype(int)
        self.axes: np.ndarray = self.integer @ sites.lattice
        self.inverse: np.ndarray = np.linalg.pinv(self.axes)
        self.heights: np.ndarray = 1 / np.linalg.norm(self.inverse, axis=0)
        on_site = np.flatnonzero(sites.basis >= 0)
        atom_keys = self._keys(sites.cells[on_site], sites.basis[on_site])
        vacant_keys = self._keys(sites.vacant_cells, sites.vacant_basis)
        keys = np.concatenate([atom_keys, vacant_keys])
        # Atoms by their number, vacant sites as -2.
        values = np.concatenate([on_site, np.full(len(vacant_keys), -2)])
        self._low = keys.min(axis=0)
        self._size = np.ptp(keys, axis=0) + 1
        codes = np.ravel_multi_index(tuple((keys - self._low).T), tuple(self._size))
        order = np.argsort(codes, kind="stable")
        self._codes, self._values = codes[order], values[order]

    def _keys(self, cells: np.ndarray, basis: np.ndarray) -> np.ndarray:
        keys: np.ndarray = np.column_stack([self.sites.canonical(cells), basis])
        return keys

    def scaled(self, positions: np.ndarray) -> np.ndarray:
        """Coordinates (m, d) of positions (m, 3), in units of the axes."""
        q: np.ndarray = (positions - self.sites.origin) @ self.inverse
        return q

    def occupants(self, cells: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """Atom on each site (m,), -2 for a vacant site, -1 where no site of the system is."""
        keys = self._keys(cells, basis) - self._low
        known = ((keys >= 0) & (keys < self._size)).all(axis=1)
        out = np.full(len(keys), -1)
        codes = np.ravel_multi_index(tuple(keys[known].T), tuple(self._size))
        place = np.minimum(np.searchsorted(self._codes, codes), len(self._codes) - 1)
        out[known] = np.where(self._codes[place] == codes, self._values[place], -1)
        return out


@dataclass
class BoxContent:
    """What a box holds: s sites, m atoms.

    Attributes
    ----------
    vectors : ndarray, shape (d, 3)
        Edges (Å).
    site_positions : ndarray, shape (s, 3)
        Å.
    occupants : ndarray of int, shape (s,)
        Atom on each site, -2 for a vacant site.
    index : ndarray of int, shape (m,)
        Atoms: those on sites, then those on no site whose position falls into the box.
    offsets : ndarray, shape (m, 3)
        Position in the box minus position in the system (Å): a lattice vector of the system.
    folded : bool
        Whether some site of the system is in the box more than once.
    """

    vectors: np.ndarray
    site_positions: np.ndarray
    occupants: np.ndarray
    index: np.ndarray
    offsets: np.ndarray
    folded: bool


def fill_box(system: Atoms, frame: BoxFrame, repeats: np.ndarray, start: np.ndarray) -> BoxContent | str:
    """Sites and atoms in the box of `repeats` units from `start`, or the reason why it cannot be filled.

    Parameters
    ----------
    system : ase.Atoms
        The structure that the sites of `frame` belong to.
    frame : BoxFrame
    repeats : ndarray of int, shape (d,)
    start : ndarray, shape (d,)
        Corner, in units of the axes.
    """
    sites = frame.sites
    n_sites = int(round(abs(np.linalg.det(repeats[:, None] * frame.integer)))) * sites.crystal.n_basis
    cells, basis = _sites_in_box(frame, repeats, start)
    if len(cells) != n_sites:
        return f"a box of {repeats.tolist()} cells holds {len(cells)} sites instead of {n_sites}"
    occupants = frame.occupants(cells, basis)
    if (occupants == -1).any():
        return "the box reaches beyond the crystal"
    keys = np.column_stack([sites.canonical(cells), basis])
    folded = len(np.unique(keys, axis=0)) < n_sites
    positions = sites.site_positions(cells, basis)
    filled = occupants >= 0
    chosen = occupants[filled]
    offsets = positions[filled] - sites.positions[chosen]
    extra, extra_offsets = _extra_atoms(system, frame, start, repeats)
    return BoxContent(
        vectors=repeats[:, None] * frame.axes,
        site_positions=positions,
        occupants=occupants,
        index=np.concatenate([chosen, extra]).astype(int),
        offsets=np.concatenate([offsets, extra_offsets]),
        folded=folded,
    )


def _sites_in_box(frame: BoxFrame, repeats: np.ndarray, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cells (m, d) and basis numbers (m,) of the lattice sites inside the box."""
    sites, d = frame.sites, len(frame.integer)
    corners = (start + np.array(list(product((0, 1), repeat=d))) * repeats) @ frame.integer
    low = np.floor(corners.min(axis=0)).astype(int) - 2
    high = np.ceil(corners.max(axis=0)).astype(int) + 2
    grid = np.stack(
        np.meshgrid(*[np.arange(a, b + 1) for a, b in zip(low, high, strict=True)], indexing="ij"), -1
    )
    grid = grid.reshape(-1, d)
    cells, basis = [], []
    for b in range(sites.crystal.n_basis):
        q = frame.scaled(sites.site_positions(grid, np.full(len(grid), b))) - start
        inside = ((q >= 0) & (q < repeats)).all(axis=1)
        cells.append(grid[inside])
        basis.append(np.full(int(inside.sum()), b))
    return np.concatenate(cells), np.concatenate(basis)


def _extra_atoms(
    system: Atoms, frame: BoxFrame, start: np.ndarray, repeats: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Atoms on no site of which images lie in the box, with the offsets of those images."""
    extra = np.flatnonzero(frame.sites.basis < 0)
    centre = (start + repeats / 2) @ frame.axes + frame.sites.origin
    images, moves = images_near(system, system.positions[extra], centre, system.pbc)
    q = (images - frame.sites.origin) @ frame.inverse - start
    inside = ((q >= 0) & (q < repeats)).all(axis=2)
    atom, image = np.nonzero(inside)
    return extra[atom], moves[atom, image]


def images_near(
    system: Atoms, positions: np.ndarray, centre: np.ndarray, axes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Periodic images (m, i, 3) of positions (m, 3) around a point, and their translations (m, i, 3)."""
    cell = system.cell.array
    inverse = np.zeros((3, 3))
    inverse[:, system.pbc] = np.linalg.pinv(cell[system.pbc])
    nearest = np.rint((centre - positions) @ inverse) @ cell
    # Two cells to each side reach all neighbouring images of a strongly skewed cell.
    reach = [(-2, -1, 0, 1, 2) if p else (0,) for p in axes]
    steps = np.array(list(product(*reach)), dtype=float) @ cell
    moves = nearest[:, None] + steps[None]
    return positions[:, None] + moves, moves
