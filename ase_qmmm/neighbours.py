"""One door to the neighbour list: refuses what would silently lose atoms, and takes any cell."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce
from matscipy.neighbours import neighbour_list as _matscipy_list
from scipy.spatial import KDTree

from .errors import StructureError, check_structure

__all__ = ["check_separations", "distances_to", "half_pairs", "neighbour_pairs", "unwrap"]


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
    jumps = np.rint((positions - reference) @ np.linalg.pinv(periodic))
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
