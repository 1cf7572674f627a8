"""Neighbour pairs slab by slab, so that those of a large structure are never held all at once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ase import Atoms

from .neighbours import neighbour_pairs

__all__ = ["Pairs"]

# i, j (p,), D (p, 3), S (p, 3) as of neighbour_pairs.
Chunk = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


class Pairs:
    """All ordered pairs closer than a cutoff, each atom i in one of the chunks, which iteration gives.

    Parameters
    ----------
    atoms : ase.Atoms
    cutoff : float
        Å.
    size : int
        Number of atoms of a chunk, about. The slabs are cut across the longest direction and come with a halo
        of the cutoff on both sides, so that thin ones cost more time.
    """

    def __init__(self, atoms: Atoms, cutoff: float, size: int = 30_000) -> None:
        self._atoms, self._cutoff = atoms, float(cutoff)
        self._whole: Chunk | None = None
        self._members: list[np.ndarray] = []
        self._axis: int | None = None
        if len(atoms) > 1.5 * size and np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell).all():
            self._cut(size)

    def _cut(self, size: int) -> None:
        atoms, pbc = self._atoms, self._atoms.pbc
        cell = atoms.cell.array
        periodic = cell[pbc]
        heights, normals = [], []
        for axis in range(3):
            # Normal to the periodic vectors but that of this axis; among the open directions, one for each.
            others = cell[[c for c in range(3) if pbc[c] and c != axis]]
            if pbc[axis]:
                own = cell[axis] - np.linalg.pinv(others) @ others @ cell[axis] if len(others) else cell[axis]
                height = float(np.linalg.norm(own))
                normals.append(own / max(height, 1e-300))
            else:
                complement = np.linalg.svd(periodic)[2][len(periodic) :] if len(periodic) else np.eye(3)
                normal = complement[int((~pbc[:axis]).sum())]
                normals.append(normal)
                height = float(np.ptp(atoms.positions @ normal))
            heights.append(height)
        axis = int(np.argmax(heights))
        slabs = min(len(atoms) // size, int(heights[axis] / (2 * self._cutoff)))
        if slabs < 3:
            return
        self._axis, self._height = axis, heights[axis]
        along = atoms.positions @ normals[axis]
        self._cells = np.floor(along / self._height).astype(int) if pbc[axis] else np.zeros(len(atoms), int)
        self._along = along - self._cells * self._height
        self._order = np.argsort(self._along, kind="stable")
        self._members = np.array_split(self._order, slabs)

    def __iter__(self) -> Iterator[Chunk]:
        if not self._members:
            if self._whole is None:
                i, j, D, S = neighbour_pairs(self._atoms, self._cutoff, "ijDS")
                self._whole = i, j, D, S
            yield self._whole
            return
        for members in self._members:
            yield self._slab(members)

    def _slab(self, members: np.ndarray) -> Chunk:
        atoms, axis = self._atoms, self._axis
        assert axis is not None
        low, high = self._along[members[0]] - self._cutoff, self._along[members[-1]] + self._cutoff
        inside = np.zeros(len(atoms), dtype=bool)
        inside[members] = True
        numbers, images = [members], [np.zeros(len(members), dtype=int)]
        for image in (-1, 0, 1) if atoms.pbc[axis] else (0,):
            near = (self._along + image * self._height >= low) & (self._along + image * self._height <= high)
            if image == 0:
                near &= ~inside
            numbers.append(np.flatnonzero(near))
            images.append(np.full(len(numbers[-1]), image))
        number, turn = np.concatenate(numbers), np.concatenate(images)
        cells = turn - self._cells[number]
        pbc = atoms.pbc.copy()
        pbc[axis] = False
        positions = atoms.positions[number] + cells[:, None] * atoms.cell.array[axis] * atoms.pbc[axis]
        part = Atoms(numbers=atoms.numbers[number], positions=positions, cell=atoms.cell, pbc=pbc)
        i, j, D, S = neighbour_pairs(part, self._cutoff, "ijDS")
        mine = i < len(members)
        i, j, D, S = i[mine], j[mine], D[mine], S[mine]
        S[:, axis] = cells[j] - cells[i]
        return number[i], number[j], D, S
