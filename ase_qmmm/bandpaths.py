"""Paths through the Brillouin zone, with errors that say what is wrong with them."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.dft.kpoints import BandPath, parse_path_string

from .errors import check_integer

__all__ = ["checked_bandpath"]


def checked_bandpath(cell: Atoms, path: Any, npoints: int) -> BandPath:
    """A path through the Brillouin zone of `cell` from special points, by default the lattice's own.

    Parameters
    ----------
    cell : ase.Atoms
        Periodic in at least one direction.
    path : ase.dft.kpoints.BandPath, str, or None
        Special points such as ``"LGXUG"``, or a path that fits `cell`.
    npoints : int
        Number of k-points on a path that is not a ``BandPath`` already.

    Raises
    ------
    ValueError, TypeError
        A special point that the lattice does not have, a path of another cell, fewer than two points.
    """
    if isinstance(path, BandPath):
        mine, theirs = (c[cell.pbc] @ c[cell.pbc].T for c in (cell.cell.array, path.cell.array))
        if np.abs(mine - theirs).max() > 1e-4 * np.abs(mine).max():
            raise ValueError(
                f"path: its cell has lengths and angles {path.cell.cellpar().round(4).tolist()}, expected "
                f"those of atoms, {cell.cell.cellpar().round(4).tolist()}; make it with atoms.cell.bandpath"
            )
        return path
    if path is not None and not isinstance(path, str):
        raise TypeError(f"path: got {type(path).__name__}, expected a string, an ase BandPath, or None")
    check_integer("npoints", npoints, 2)
    if path is not None:
        known = cell.cell.bandpath(npoints=0, pbc=cell.pbc).special_points
        try:
            pieces = parse_path_string(path)
        except ValueError as error:
            raise ValueError(f"path: got {path!r}, expected names of special points: {error}") from error
        unknown = sorted({name for piece in pieces for name in piece} - set(known))
        if unknown or not all(pieces) or sum(map(len, pieces)) < 2:
            what = "each of its pieces needs points, and the path two"
            if unknown:
                what = f"this lattice has no {', '.join(unknown)}"
            raise ValueError(
                f"path: got {path!r}, but {what}; its special points are {', '.join(sorted(known))}"
            )
    bandpath: BandPath = cell.cell.bandpath(path, npoints=int(npoints), pbc=cell.pbc)
    return bandpath
