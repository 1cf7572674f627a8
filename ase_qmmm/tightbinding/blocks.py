"""Blocks of atoms, and the cluster of atoms and images from which each of them is evaluated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce

from ..sites import SiteCalculator

if TYPE_CHECKING:
    from .calculator import TightBinding

__all__ = ["BlockCluster", "Boundary", "Carver", "Partition", "partition"]


@dataclass
class BlockCluster:
    """m atoms, images among them, around the atoms of a block.

    Attributes
    ----------
    index : ndarray of int, shape (m,)
        Atom of the system behind each atom of the cluster.
    shifts : ndarray, shape (m, 3)
        Its image, in cells of the system.
    rows : ndarray of int, shape (k,)
        Places of the block's own atoms in the cluster, in the order of the block.
    cell : ndarray, shape (3, 3)
        Cell vectors of the cluster in units of those of the system; the cluster strains with the system.
    pbc : ndarray of bool, shape (3,)
        Directions in which the cluster is periodic.
    whole : bool
        Whether the cluster is the system itself, atom by atom.
    """

    index: np.ndarray
    shifts: np.ndarray
    rows: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    whole: bool = False

    def atoms(self, system: Atoms, positions: np.ndarray) -> Atoms:
        """The cluster as ``ase.Atoms``; `positions` (n, 3) are those of `system` on the kept images."""
        cell = system.cell.array
        return Atoms(
            numbers=system.numbers[self.index],
            positions=positions[self.index] + self.shifts @ cell,
            cell=self.cell @ cell,
            pbc=self.pbc,
        )


class Carver(Protocol):
    """Blocks of one structure, and their clusters when they are asked for."""

    blocks: list[np.ndarray]  # atoms (k,) of each block

    def cluster(self, block: int) -> BlockCluster:
        """The cluster of block number `block`."""
        ...

    def calculator(self, calc: TightBinding, cluster: Atoms, system: Atoms) -> SiteCalculator:
        """What evaluates the weighted site energies of `cluster`."""
        ...


class Boundary(Protocol):
    """How a cluster ends; ``has_virial = False`` beside what is below says that results have no virial."""

    name: str
    default_buffer: float  # Å

    def carver(self, atoms: Atoms, block: float, buffer: float) -> Carver:
        """Blocks of edge `block` (Å) with buffers of `buffer` (Å) for `atoms`."""
        ...


@dataclass
class Partition:
    """Compact cells of n atoms.

    Attributes
    ----------
    blocks : list of ndarray of int
        Atoms of each block, ascending.
    shifts : ndarray of int, shape (n, 3)
        Cells of the system that bring the atoms of each block together.
    operation : ndarray of int, shape (3, 3)
        Reduced lattice vectors in cells of the system.
    short : ndarray of bool, shape (3,)
        Reduced vectors that are not split, as a cluster would reach round them.
    """

    blocks: list[np.ndarray]
    shifts: np.ndarray
    operation: np.ndarray
    short: np.ndarray

    def position(self, atoms: Atoms) -> np.ndarray:
        """Positions (n, 3) of the images that the blocks are made of."""
        positions: np.ndarray = atoms.positions + self.shifts @ atoms.cell.array
        return positions


def partition(atoms: Atoms, block: float, buffer: float) -> Partition:
    """Split `atoms` into compact cells of edge about `block`.

    Along the periodic vectors (reduced, so that it does not matter how the lattice is written) the cells have
    equal heights, and their faces lie in the widest gap between atoms modulo that height: they move with the
    atoms. Along open directions the principal axes of the atoms take the place of vectors.

    Parameters
    ----------
    atoms : ase.Atoms
    block, buffer : float
        Å. A vector is short if its height is at most that of one cell and two buffers; none is where `buffer`
        is minus infinity.
    """
    pbc = atoms.pbc
    cell = np.where(pbc[:, None], atoms.cell.array, 0.0)
    reduced, operation = minkowski_reduce(cell, pbc=pbc) if pbc.any() else (cell, np.eye(3, dtype=int))
    periodic = np.flatnonzero(pbc)
    inverse = np.linalg.pinv(reduced[periodic])  # (3, p)
    labels = np.zeros((len(atoms), 3), dtype=int)
    shifts = np.zeros((len(atoms), 3))
    short = np.zeros(3, dtype=bool)
    for k, axis in enumerate(periodic):
        height = 1 / float(np.linalg.norm(inverse[:, k]))
        count = max(1, round(height / block))
        short[axis] = height <= 2 * buffer + height / count
        count = 1 if short[axis] else count
        q = atoms.positions @ inverse[:, k] * count
        q = q - _widest_gap(q)
        labels[:, axis] = np.floor(q).astype(int) % count
        shifts -= np.floor(q / count)[:, None] * operation[axis]
    flat = atoms.positions - atoms.positions @ inverse @ reduced[periodic]
    flat = flat - flat.mean(axis=0)
    normals = np.linalg.eigh(flat.T @ flat)[1][:, len(periodic) :]
    for axis, normal in zip(np.flatnonzero(~pbc), normals.T, strict=True):
        x = flat @ normal
        extent = float(np.ptp(x))
        count = max(1, round(extent / block))
        labels[:, axis] = np.minimum((x - x.min()) / max(extent, 1e-9) * count, count - 1).astype(int)
    _, label = np.unique(labels, axis=0, return_inverse=True)
    order = np.argsort(label.ravel(), kind="stable")
    blocks = np.split(order, np.cumsum(np.bincount(label.ravel()))[:-1])
    return Partition(blocks, np.rint(shifts).astype(int), np.asarray(operation), short)


def _widest_gap(q: np.ndarray) -> float:
    """Middle of the widest gap between the numbers q modulo one."""
    q = np.sort(q % 1.0)
    gaps = np.diff(q, append=q[:1] + 1.0)
    widest = int(np.argmax(gaps))
    return float(q[widest] + gaps[widest] / 2)
