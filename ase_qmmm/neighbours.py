"""One door to the neighbour list: refuses what would silently lose atoms, and takes any cell."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce
from matscipy.neighbours import neighbour_list as _matscipy_list
from numba import njit
from scipy.spatial import KDTree

from .errors import StructureError, check_structure

__all__ = ["SkinList", "check_separations", "distances_to", "half_pairs", "neighbour_pairs", "unwrap"]


def _padded_cell(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray]:
    """Cell and origin for the list: vectors along non-periodic directions enclose the atoms with a margin."""
    cell = atoms.cell.array.copy()
    pbc = atoms.pbc
    if pbc.all():
        return cell, np.zeros(3)
    basis = np.zeros((3, 3))
    basis[pbc] = cell[pbc]
    # Unit vectors orthogonal to the periodic ones: any basis of their complement will do.
    periodic = cell[pbc]
    _, _, vh = np.linalg.svd(periodic) if len(periodic) else (None, None, np.eye(3))
    complement = vh[len(periodic) :]
    open_directions = np.flatnonzero(~pbc)
    basis[open_directions] = complement
    if np.linalg.det(basis) < 0:
        basis[open_directions[0]] *= -1
    origin = np.zeros(3)
    for index in open_directions:
        coordinate = atoms.positions @ basis[index]
        low, high = (coordinate.min(), coordinate.max()) if len(atoms) else (0.0, 0.0)
        origin += (low - cutoff) * basis[index]
        basis[index] *= high - low + 2 * cutoff
    return basis, origin


def neighbour_pairs(atoms: Atoms, cutoff: float, quantities: str = "ijDS") -> tuple[np.ndarray, ...]:
    """All ordered pairs of atoms closer than `cutoff`, periodic images included.

    Parameters
    ----------
    atoms : ase.Atoms
        Any cell: triclinic, left-handed, partly periodic, or none at all (free cluster).
    cutoff : float
        Å.
    quantities : str
        Letters as in ``matscipy.neighbours.neighbour_list``; ``"S"`` counts cells of ``atoms.cell``.

    Returns
    -------
    tuple of ndarray
        One array per letter: i, j (p,) int; d (p,) Å; D (p, 3) Å, from i to j; S (p, 3) int.

    Raises
    ------
    StructureError
        A position or cell that is not finite, or a singular periodic cell.
    """
    check_structure(atoms)
    if len(atoms) == 0:
        empty: dict[str, Any] = {
            "i": np.zeros(0, int),
            "j": np.zeros(0, int),
            "d": np.zeros(0),
            "D": np.zeros((0, 3)),
            "S": np.zeros((0, 3), int),
        }
        return tuple(empty[letter] for letter in quantities)
    cell, origin = _padded_cell(atoms, cutoff)
    arrays = _matscipy_list(
        quantities,
        cutoff=float(cutoff),
        positions=np.ascontiguousarray(atoms.positions, dtype=float),
        cell=cell,
        pbc=np.asarray(atoms.pbc),
        cell_origin=origin,
    )
    return (arrays,) if len(quantities) == 1 else tuple(arrays)


def half_pairs(atoms: Atoms, cutoff: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Each unordered pair once: i, j (p,), D (p, 3) Å from i to j, S (p, 3).

    Of an atom and its own periodic images, the half with the first nonzero shift positive is kept.
    """
    i, j, D, S = neighbour_pairs(atoms, cutoff, "ijDS")
    lead = 4 * np.sign(S[:, 0]) + 2 * np.sign(S[:, 1]) + np.sign(S[:, 2])
    keep = (i < j) | ((i == j) & (lead > 0))
    return i[keep], j[keep], D[keep], S[keep]


def check_separations(
    i: np.ndarray, j: np.ndarray, distances: np.ndarray, minimum: float, model: str
) -> None:
    """Raise ``StructureError`` naming the closest pair if it is nearer than `minimum` (Å)."""
    if len(distances) and distances.min() < minimum:
        p = int(np.argmin(distances))
        raise StructureError(
            f"atoms: atoms {i[p]} and {j[p]} are {distances[p]:.3g} Å apart, {model} needs at least "
            f"{minimum:g} Å; remove one of them or separate them"
        )


def unwrap(positions: np.ndarray, reference: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """`positions` (n, 3), each moved by lattice vectors to the image nearest to `reference` (n, 3).

    The nearest image is taken in scaled coordinates, which is right for displacements below half a cell.
    """
    if not np.any(pbc):
        return positions
    # Rows of the pseudo-inverse for the periodic vectors give their scaled coordinates.
    periodic = np.asarray(cell)[np.asarray(pbc)]
    moved = positions - reference
    to_scaled = np.linalg.pinv(periodic)
    longest = float(np.linalg.norm(to_scaled, axis=0).max())
    if np.sqrt(3) * max(moved.max(initial=0.0), -moved.min(initial=0.0)) * longest < 0.5:
        return positions  # by Cauchy and Schwarz no scaled coordinate can round to a jump
    jumps = np.rint(moved @ to_scaled)
    if not jumps.any():
        return positions
    unwrapped: np.ndarray = positions - jumps @ periodic
    return unwrapped


def distances_to(atoms: Atoms, points: np.ndarray, limit: float = np.inf) -> np.ndarray:
    """Distance (n,) in Å of each atom from the nearest of `points` or of their periodic images.

    Parameters
    ----------
    atoms : ase.Atoms
    points : ndarray, shape (m, 3)
        Å.
    limit : float
        Distances beyond it (Å) are infinite; a small one saves time.
    """
    points = np.asarray(points, dtype=float).reshape(-1, 3)
    if len(atoms) == 0 or len(points) == 0:
        return np.full(len(atoms), np.inf)
    periodic = np.flatnonzero(atoms.pbc)
    if len(periodic) == 0:
        distance: np.ndarray = KDTree(points).query(atoms.positions, distance_upper_bound=limit)[0]
        return distance
    cell = minkowski_reduce(atoms.cell.array, atoms.pbc)[0][periodic]
    inverse = np.linalg.pinv(cell)
    # No point of a cell is further from the nearest lattice point than half of the sum of its edges.
    reach = min(limit, np.linalg.norm(cell, axis=1).sum() / 2)
    counts = np.ceil(reach * np.linalg.norm(inverse, axis=0) + 1e-9).astype(int)
    steps = np.array(list(itertools.product(*(range(-n, n + 1) for n in counts))), dtype=float)
    home = points - np.floor(points @ inverse) @ cell
    images = (home[:, None] + steps[None] @ cell).reshape(-1, 3)
    wrapped = atoms.positions - np.floor(atoms.positions @ inverse) @ cell
    found: np.ndarray = KDTree(images).query(wrapped, distance_upper_bound=limit)[0]
    return found


class SkinList:
    """Half neighbour list that is kept from call to call, for compiled loops over pairs.

    Pairs closer than ``cutoff + skin`` are listed once. The list is made anew when an atom has moved by more
    than half the skin since, or when cell, pbc or the number of atoms changed. Loops must skip pairs beyond
    the cutoff; the order of the others does not depend on when the list was made, so that sums come out the
    same to the last bit.

    Parameters
    ----------
    cutoff, skin : float
        Å.

    Attributes
    ----------
    start : ndarray, shape (n + 1,)
        Row i of `neighbours` is ``start[i]:start[i + 1]``.
    neighbours : ndarray of int32, shape (p,)
        Numbers in `positions`, rising within each row.
    owners : ndarray of int32, shape (e,)
        The atom of which each of `positions` is an image; the first n are the atoms.
    positions : ndarray, shape (e, 3)
        The atoms and those periodic images that occur in pairs (Å), as of the last :meth:`update`.
    builds : int
        How often the list has been made.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        self.cutoff = float(cutoff)
        self.skin = float(skin)
        self.builds = 0
        self._reference: np.ndarray | None = None

    def update(self, atoms: Atoms) -> bool:
        """Take over the positions of `atoms`, checked already; returns whether the list was made anew."""
        current = np.ascontiguousarray(atoms.positions, dtype=float)
        stale = not self._fits(atoms, current)
        if stale:
            self._build(atoms, current)
        _place(self.positions, current, self.owners, self._translations)
        return stale

    def _fits(self, atoms: Atoms, current: np.ndarray) -> bool:
        if self._reference is None or self._reference.shape != current.shape:
            return False
        if not np.array_equal(self._pbc, atoms.pbc) or not np.array_equal(self._cell, atoms.cell.array):
            return False
        return bool(_largest_move(current, self._reference) <= (self.skin / 2) ** 2)

    def _build(self, atoms: Atoms, current: np.ndarray) -> None:
        n = len(atoms)
        i, j, S = neighbour_pairs(atoms, self.cutoff + self.skin, "ijS")
        start, neighbours, rows = _half_rows(i, j, S, n)
        # Images in the order of their cells, then of their atoms, each once.
        outer = np.flatnonzero(rows >= 0)
        shifts, atoms_of = S[rows[outer]], neighbours[outer]
        order = np.lexsort((atoms_of, *shifts.T[::-1]))
        keys = np.column_stack([shifts, atoms_of])[order]
        new = np.ones(len(keys), dtype=bool)
        new[1:] = (keys[1:] != keys[:-1]).any(axis=1)
        neighbours[outer[order]] = n - 1 + np.cumsum(new)
        _sort_rows(start, neighbours)
        images = keys[new]
        self.start, self.neighbours = start, neighbours
        self.owners = np.concatenate([np.arange(n), images[:, 3]]).astype(np.int32)
        self.positions = np.empty((n + len(images), 3))
        self._translations = images[:, :3].astype(float) @ atoms.cell.array
        self._reference = current.copy()
        self._cell, self._pbc = atoms.cell.array.copy(), atoms.pbc.copy()
        self.builds += 1


@njit(cache=True)
def _half_rows(i, j, S, n):  # type: ignore[no-untyped-def]  # numba infers the types
    """Rows of a half list; for pairs that need an image the number of the pair, else -1."""
    start = np.zeros(n + 1, np.int64)
    keep = np.zeros(len(i), np.bool_)
    for p in range(len(i)):
        lead = 4 * np.sign(S[p, 0]) + 2 * np.sign(S[p, 1]) + np.sign(S[p, 2])
        keep[p] = i[p] < j[p] or (i[p] == j[p] and lead > 0)
        if keep[p]:
            start[i[p] + 1] += 1
    for k in range(n):
        start[k + 1] += start[k]
    neighbours = np.empty(start[n], np.int32)
    rows = np.full(start[n], -1, np.int64)
    filled = start[:-1].copy()
    for p in range(len(i)):
        if keep[p]:
            q = filled[i[p]]
            filled[i[p]] += 1
            neighbours[q] = j[p]
            if S[p, 0] != 0 or S[p, 1] != 0 or S[p, 2] != 0:
                rows[q] = p
    return start, neighbours, rows


@njit(cache=True)
def _sort_rows(start, neighbours):  # type: ignore[no-untyped-def]
    for i in range(len(start) - 1):
        neighbours[start[i] : start[i + 1]].sort()


@njit(cache=True)
def _largest_move(current, reference):  # type: ignore[no-untyped-def]
    largest = 0.0
    for i in range(len(current)):
        square = 0.0
        for c in range(3):
            square += (current[i, c] - reference[i, c]) ** 2
        largest = max(largest, square)
    return largest


@njit(cache=True)
def _place(positions, current, owners, translations):  # type: ignore[no-untyped-def]
    n = len(current)
    for i in range(n):
        for c in range(3):
            positions[i, c] = current[i, c]
    for k in range(n, len(owners)):
        for c in range(3):
            positions[k, c] = current[owners[k], c] + translations[k - n, c]
