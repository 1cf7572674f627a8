"""A neighbour list that is kept while atoms move by less than a skin."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from ..neighbours import neighbour_pairs

__all__ = ["VerletList"]


class VerletList:
    """All ordered pairs closer than ``cutoff + skin``, made again when a pair may have come closer unseen.

    Parameters
    ----------
    cutoff, skin : float
        Å.
    """

    def __init__(self, cutoff: float, skin: float) -> None:
        self.cutoff, self.skin = cutoff, skin
        self._made_for: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
        self._cell: np.ndarray | None = None

    def update(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where the neighbours of each atom begin (n + 1,), neighbours (p,), their translations (p, 3) in Å.

        The translations are those of ``atoms`` as it is, so that ``y_j - y_i + translation`` is the vector
        from i to j.
        """
        cell = np.array(atoms.cell.array)
        if not self._holds(atoms, cell):
            i, j, self._shifts = neighbour_pairs(atoms, self.cutoff + self.skin, "ijS")
            self._neighbours = j.astype(np.int64)
            self._starts = np.concatenate([[0], np.cumsum(np.bincount(i, minlength=len(atoms)))])
            self._made_for = (np.array(atoms.positions, dtype=float), cell, atoms.pbc.copy())
            self._cell = None
        if self._cell is None or not np.array_equal(cell, self._cell):
            self._translations = np.ascontiguousarray(self._shifts @ cell)
            self._cell = cell
        return self._starts, self._neighbours, self._translations

    def _holds(self, atoms: Atoms, cell: np.ndarray) -> bool:
        if self._made_for is None or not self.skin:
            return False
        positions, old_cell, pbc = self._made_for
        if len(positions) != len(atoms) or not np.array_equal(pbc, atoms.pbc):
            return False
        stretch = 0.0
        if not np.array_equal(cell, old_cell):
            if abs(np.linalg.det(old_cell)) < 1e-6:
                return False
            # Pairs and positions follow the cell; what remains are the atoms' own displacements.
            deformation = np.linalg.solve(old_cell, cell)
            positions = positions @ deformation
            stretch = float(np.linalg.norm(deformation - np.eye(3))) * (self.cutoff + self.skin)
            if stretch >= self.skin:
                return False
        moved = atoms.positions - positions
        # One translation of all atoms changes no pair.
        moved = moved - moved.mean(axis=0) if len(moved) else moved
        furthest = float(np.sqrt(np.einsum("nc,nc->n", moved, moved).max(initial=0.0)))
        return 2 * furthest + stretch < self.skin

    def __getstate__(self) -> dict[str, Any]:
        return {"cutoff": self.cutoff, "skin": self.skin, "_made_for": None, "_cell": None}
