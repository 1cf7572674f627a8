"""One door to the neighbour list: refuses what would silently lose atoms, and takes any cell."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from matscipy.neighbours import neighbour_list as _matscipy_list

from .errors import StructureError, check_structure

__all__ = ["neighbour_pairs", "half_pairs", "unwrap", "check_separations"]


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
