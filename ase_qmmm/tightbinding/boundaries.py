"""How the clusters of divide and conquer end: open, as periodic boxes, or embedded in a crystal."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from scipy.spatial import cKDTree

from ..boxes import BoxFrame, fill_box
from ..crystal import Crystal
from ..errors import StructureError
from ..lattice_sites import lattice_sites
from ..neighbours import neighbour_pairs
from ..sites import SiteCalculator
from .blocks import BlockCluster, partition
from .embedding import Embedded

if TYPE_CHECKING:
    from .calculator import TightBinding

__all__ = ["EmbeddedBoundary", "OpenBoundary", "PeriodicBoundary"]

# Four of the eight points of a 2 x 2 x 2 grid, the images that they leave, and the distance (Å) from which
# these do no harm. In a box of 216 silicon atoms the energy per atom is then 0.08 meV off, 0.02 meV with the
# grid at twice the cost, and 6 meV at Gamma.
HALF_GRID = ((0.0, 0.0, 0.0), (0.5, 0.5, 0.0), (0.5, 0.0, 0.5), (0.0, 0.5, 0.5))
HALF_GRID_IMAGES = np.array([[1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1], [2, 0, 0], [0, 2, 0], [0, 0, 2]])
HALF_GRID_LENGTH = 20.0


class OpenBoundary:
    """Clusters end where the buffer ends, with a free surface there.

    Parameters
    ----------
    keep_periodic : bool
        Along a periodic vector no higher than a block and two buffers, e.g. the line of a dislocation, the
        cluster is periodic, with k-points; else images are atoms of the cluster there, too.
    """

    name = "open"
    default_buffer = 10.0  # Å

    def __init__(self, keep_periodic: bool = True) -> None:
        self.keep_periodic = bool(keep_periodic)

    def __repr__(self) -> str:
        return "'open'" if self.keep_periodic else "OpenBoundary(keep_periodic=False)"

    def carver(self, atoms: Atoms, block: float, buffer: float) -> OpenCarver:
        """Blocks and open clusters of `atoms`."""
        return OpenCarver(atoms, block, buffer, self.keep_periodic)


class OpenCarver:
    """Clusters of all atoms and images within the buffer radius of an atom of the block."""

    def __init__(self, atoms: Atoms, block: float, buffer: float, keep_periodic: bool) -> None:
        self.partition = partition(atoms, block, buffer if keep_periodic else -np.inf)
        self.blocks = self.partition.blocks
        self.buffer = buffer
        self.n_atoms = len(atoms)
        self.pbc = atoms.pbc.copy()
        self.kept = self.partition.short
        operation = self.partition.operation
        vectors = np.where(self.pbc[:, None], operation @ atoms.cell.array, 0.0)
        inverse = np.linalg.pinv(vectors)
        reach = np.where(self.pbc, buffer * np.linalg.norm(inverse, axis=0), 0.0)
        positions = self.partition.position(atoms)
        self._positions = positions
        scaled = positions @ inverse
        low, high = scaled.min(axis=0) - reach - 1e-9, scaled.max(axis=0) + reach + 1e-9
        images = [range(-m, m + 1) for m in np.ceil(np.ptp(scaled, axis=0) + reach).astype(int) * self.pbc]
        points, index, steps = [], [], []
        for image in product(*images):
            inside = np.flatnonzero(((scaled + image >= low) & (scaled + image <= high)).all(axis=1))
            points.append(positions[inside] + np.array(image) @ vectors)
            index.append(inside)
            steps.append(np.broadcast_to(image, (len(inside), 3)))
        self._points = np.concatenate(points)
        self._index = np.concatenate(index)
        self._steps = np.concatenate(steps)
        self._tree = cKDTree(self._points)

    def cluster(self, block: int) -> BlockCluster:
        """The open cluster of one block."""
        own = self.blocks[block]
        centres = self._positions[own]
        middle = centres.mean(axis=0)
        radius = np.linalg.norm(centres - middle, axis=1).max() + self.buffer + 1e-9
        near = np.array(self._tree.query_ball_point(middle, radius))
        distance = cKDTree(centres).query(self._points[near], distance_upper_bound=self.buffer + 1e-9)[0]
        near = near[np.isfinite(distance)]
        # Images along kept vectors are those of the periodic cluster itself.
        steps = np.where(self.kept, 0, self._steps[near])
        keys = np.unique(np.column_stack([self._index[near], steps]), axis=0)
        index, steps = keys[:, 0], keys[:, 1:]
        home = ~steps.any(axis=1)
        if np.array_equal(self.kept, self.pbc) and len(index) == self.n_atoms:
            return _whole(own, self.n_atoms, self.pbc)
        return BlockCluster(
            index=index,
            shifts=self.partition.shifts[index] + steps @ self.partition.operation,
            rows=np.flatnonzero(home & np.isin(index, own)),
            cell=self.partition.operation.astype(float),
            pbc=self.kept,
        )

    def calculator(self, calc: TightBinding, cluster: Atoms, system: Atoms) -> SiteCalculator:
        """The dense model, with k-points along directions in which the cluster is periodic."""
        return calc.for_cluster(cluster, system).with_options(solver="dense")


def _whole(block: np.ndarray, n: int, pbc: np.ndarray) -> BlockCluster:
    return BlockCluster(np.arange(n), np.zeros((n, 3)), block, np.eye(3), pbc.copy(), whole=True)


class PeriodicBoundary:
    """Clusters are boxes of lattice vectors around block and buffer, with periodic faces.

    Only for a crystal with point defects, periodic in all directions of its lattice.

    Parameters
    ----------
    crystal : Crystal
        The reference lattice.
    kpts : optional
        k-points of the boxes; default: those that sample 20 Å, or as much as the calculator's own; in place
        of a 2 x 2 x 2 grid those four of its points that have an even number of 1/2, where that is enough.
    """

    name = "periodic"
    default_buffer = 6.0  # Å

    def __init__(self, crystal: Crystal, kpts: Any = None) -> None:
        if not isinstance(crystal, Crystal):
            raise TypeError(f"crystal: got {crystal!r}, expected a Crystal: periodic boxes need its lattice")
        self.crystal = crystal
        self.kpts = kpts

    def __repr__(self) -> str:
        return "'periodic'" if self.kpts is None else f"PeriodicBoundary({self.crystal!r}, kpts={self.kpts})"

    def carver(self, atoms: Atoms, block: float, buffer: float) -> PeriodicCarver:
        """Blocks and boxes of `atoms`."""
        return PeriodicCarver(atoms, block, buffer, self)


class PeriodicCarver:
    """Boxes of lattice vectors, as large as the system at most."""

    def __init__(self, atoms: Atoms, block: float, buffer: float, boundary: PeriodicBoundary) -> None:
        self.partition = partition(atoms, block, buffer)
        self.blocks = self.partition.blocks
        self.buffer = buffer
        self.boundary = boundary
        self.system = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        # A system no larger than a box is taken as it is, whatever it consists of.
        self.frame = None
        if not np.array_equal(self.partition.short, atoms.pbc) or len(self.blocks) > 1:
            self.frame = self._label()

    def _label(self) -> BoxFrame:
        crystal, system = self.boundary.crystal, self.system
        reason = ""
        if system.pbc.sum() != len(crystal.lattice):
            reason = f"the atoms are not periodic in all {len(crystal.lattice)} directions of the crystal"
        else:
            match = crystal.match(system, 1.2 * crystal.nearest_neighbour_distance)
            sites = lattice_sites(match, system)
            if sites is None:
                reason = f"no single lattice of {crystal!r} runs through the atoms"
        if reason:
            raise StructureError(f"boundary: 'periodic' is not possible here: {reason}; use boundary='open'")
        assert sites is not None
        distances = neighbour_pairs(system, crystal.nearest_neighbour_distance, "d")[0]
        # Atoms that meet across the faces may come as close as atoms do anyway, or a little less.
        self._closest = 0.75 * min(crystal.nearest_neighbour_distance, distances.min(initial=np.inf))
        return BoxFrame(sites)

    def cluster(self, block: int) -> BlockCluster:
        """The box of one block: grown until atoms that meet across its faces keep a distance."""
        own = self.blocks[block]
        n, pbc = len(self.system), self.system.pbc
        if self.frame is None:
            return _whole(own, n, pbc)
        frame, sites = self.frame, self.frame.sites
        moves = self.partition.shifts[own] @ self.system.cell.array
        q = frame.scaled(sites.positions[own] + moves)
        low, high = q.min(axis=0) - self.buffer / frame.heights, q.max(axis=0) + self.buffer / frame.heights
        wanted = np.maximum(np.ceil(high - low - 1e-6).astype(int), 1)
        periods = np.linalg.inv(sites.periods.astype(float))
        total = abs(np.linalg.det(sites.periods))
        while True:
            repeats = np.array([_period(frame.integer[k], periods, m) for k, m in enumerate(wanted)])
            if abs(np.linalg.det(repeats[:, None] * frame.integer)) >= 0.9 * total:
                return _whole(own, n, pbc)
            # The hair breaks ties at the faces.
            start = (low + high) / 2 - repeats / 2 - 1e-4
            content = fill_box(self.system, frame, repeats, start)
            if isinstance(content, str):
                raise StructureError(f"boundary: 'periodic' is not possible here: {content}")
            cell = np.eye(3)
            cell[np.ix_(pbc, pbc)] = (repeats[:, None] * frame.integer) @ periods
            shifts = np.zeros((len(content.index), 3))
            shifts[:, pbc] = np.rint(content.offsets @ np.linalg.pinv(self.system.cell.array[pbc]))
            cluster = BlockCluster(content.index, shifts, np.zeros(0, dtype=int), cell, pbc)
            box = cluster.atoms(self.system, self.system.positions)
            if not len(neighbour_pairs(box, self._closest, "d")[0]):
                break
            wanted = wanted + 1
        # The block's own images, up to edges of the box.
        place = np.flatnonzero(np.isin(content.index, own))
        image = np.searchsorted(own, content.index[place])
        turns = (content.offsets[place] - moves[image]) @ np.linalg.pinv(content.vectors)
        home = np.abs(turns - np.rint(turns)).max(axis=1) < 1e-3
        place, image = place[home], image[home]
        if not np.array_equal(np.sort(image), np.arange(len(own))):
            raise StructureError(
                "boundary: 'periodic' is not possible here: a box does not hold its block once; "
                "use boundary='open'"
            )
        cluster.rows = place[np.argsort(image)]
        return cluster

    def calculator(self, calc: TightBinding, cluster: Atoms, system: Atoms) -> SiteCalculator:
        """The dense model, sampled as the boundary says."""
        if self.boundary.kpts is not None:
            return calc.with_options(solver="dense", kpts=self.boundary.kpts)
        child = calc.for_cluster(cluster, system).with_options(solver="dense")
        if child.kpts == {"size": (2, 2, 2), "gamma": True} and not _samples(calc.kpts):
            vectors = (HALF_GRID_IMAGES @ cluster.cell.array).reshape(-1, 3)
            if np.linalg.norm(vectors, axis=1).min() >= HALF_GRID_LENGTH:
                return child.with_options(kpts=HALF_GRID)
        return child


def _samples(kpts: Any) -> bool:
    """Whether k-points ask for more than the lengths that clusters sample anyway."""
    if isinstance(kpts, dict):
        return "density" in kpts
    return np.shape(kpts) == (3,) and bool(np.any(np.asarray(kpts) > 1))


def _period(vector: np.ndarray, inverse_periods: np.ndarray, repeats: int) -> int:
    """Smallest multiple of an integer vector that is a period of the system, `repeats` at most."""
    multiples = np.arange(1, repeats + 1)[:, None] * (vector @ inverse_periods)
    fits = (np.abs(multiples - np.rint(multiples)) < 1e-6).all(axis=1)
    return int(np.argmax(fits)) + 1 if fits.any() else repeats


class EmbeddedBoundary:
    """Clusters end in the perfect crystal, by its frozen self-energy (:class:`Embedded`).

    For a crystal with point defects, periodic in any direction. There is no stress: the self-energy is
    frozen. Blocks that are translated copies of each
    other share one self-energy: choose `block` so that it divides the system into whole cells.

    Parameters
    ----------
    crystal : Crystal
        The reference lattice.
    error : float
        Of the poles, see :class:`Embedded`.
    """

    name = "embedded"
    default_buffer = 8.0  # Å
    #: The self-energy is that of one strain.
    has_virial = False

    def __init__(self, crystal: Crystal, error: float = 1e-6) -> None:
        if not isinstance(crystal, Crystal):
            raise TypeError(f"crystal: got {crystal!r}, expected a Crystal: embedding needs its lattice")
        self.crystal = crystal
        self.error = error

    def __repr__(self) -> str:
        return "'embedded'"

    def carver(self, atoms: Atoms, block: float, buffer: float) -> EmbeddedCarver:
        """Blocks and embedded clusters of `atoms`."""
        return EmbeddedCarver(atoms, block, buffer, self)


class EmbeddedCarver:
    """The whole system for every block: the solver finds the cluster of its atoms itself."""

    def __init__(self, atoms: Atoms, block: float, buffer: float, boundary: EmbeddedBoundary) -> None:
        self.blocks = partition(atoms, block, -np.inf).blocks
        self._n, self._pbc = len(atoms), atoms.pbc.copy()
        self._solver = Embedded(boundary.crystal, buffer=buffer, error=boundary.error)
        self._solver.keep = len(self.blocks)

    def cluster(self, block: int) -> BlockCluster:
        """All atoms."""
        n = self._n
        return BlockCluster(np.arange(n), np.zeros((n, 3)), self.blocks[block], np.eye(3), self._pbc)

    def calculator(self, calc: TightBinding, cluster: Atoms, system: Atoms) -> SiteCalculator:
        """The embedded model; all blocks share the solver and what it keeps."""
        return calc.with_options(solver=self._solver)
