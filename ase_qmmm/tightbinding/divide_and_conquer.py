"""Divide and conquer: at a fixed chemical potential each block of atoms needs only its surroundings.

Site energies at fixed mu are local [1]_: those of the atoms of a block, and their gradient, follow from the
block and a buffer around it, with an error that falls exponentially with the width of the buffer. The energy
of the whole is the sum of the blocks' parts, its gradient that of the sum: forces are exact derivatives of
the energy that is returned, for any buffer.

References
----------
.. [1] H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), QM/MM methods for crystalline
   defects, part 2, theorem 3.1.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from ..crystal import Crystal
from ..errors import check_positive, check_structure, checked_keywords
from ..neighbours import unwrap
from ..parallel import TaskPool
from ..sites import SiteCalculator, SiteResult, check_weights
from .blocks import BlockCluster, Boundary, Carver
from .boundaries import EmbeddedBoundary, OpenBoundary, PeriodicBoundary

if TYPE_CHECKING:
    from .calculator import TightBinding

__all__ = ["DivideAndConquer"]

log = logging.getLogger(__name__)


def _boundary(name: str, crystal: Crystal | None) -> Boundary:
    if name == "open":
        return OpenBoundary()
    if name not in ("periodic", "embedded"):
        raise ValueError(f"boundary: got {name!r}, expected 'open', 'periodic' or 'embedded', or a Boundary")
    if crystal is None:
        raise ValueError(f"crystal: boundary={name!r} needs the reference lattice, give crystal=")
    return PeriodicBoundary(crystal) if name == "periodic" else EmbeddedBoundary(crystal)


class DivideAndConquer:
    """Solver of :class:`TightBinding` whose cost is linear in the number of atoms, block by block.

    Works at fixed `mu` only (take that of the crystal from :func:`fermi_level`). A cluster that would be as
    large as the system is the system, with the k-points of the calculator: small systems are solved exactly.

    Blocks and clusters are made for the first structure and kept for those that follow, as long as elements
    and periodic directions are the same, no atom has moved by more than `skin` (a rigid translation apart)
    and the cell is not strained by more than that over the length of a cluster. So energies along a
    relaxation are those of one smooth function. When blocks are made anew, the energy jumps by about the
    error that the buffer leaves; forces remain its gradient. The calculator keeps the blocks, so that one
    solver can serve several.

    Parameters
    ----------
    block : float
        Edge of a block (Å), about. Cheapest is something between the buffer and twice that.
    buffer : float, optional
        Width of the buffer around it (Å); default: that of the boundary, 6 Å for ``"periodic"`` and 10 Å for
        ``"open"``, which in silicon leave errors of about 3 and 10 meV/Å (rms) in forces.
    boundary : {"open", "periodic", "embedded"} or Boundary
        ``"periodic"``: boxes of lattice vectors of `crystal` with the atoms at their actual positions and
        periodic faces; an error of a fraction of that of open clusters of the same size, but only for a
        crystal with point defects, periodic in all its directions. ``"open"``: clusters with a free surface,
        for any structure; a periodic direction no longer than a block and two buffers stays periodic, with
        k-points. ``"embedded"``: clusters in the frozen self-energy of `crystal` (:class:`Embedded`), for
        a crystal with point defects; without stress.
        An object with ``name`` and ``carver`` (:class:`~ase_qmmm.tightbinding.blocks.Boundary`) decides
        itself.
    crystal : Crystal, optional
        The reference lattice, for ``"periodic"`` and ``"embedded"``.
    executor : optional
        None: blocks one after the other. Number of worker processes, or an executor
        (:class:`~ase_qmmm.parallel.TaskPool`): blocks at the same time.
    threads : int
        BLAS threads of each worker.
    skin : float
        Å.
    progress : bool
        Show a progress bar over the blocks.

    Raises
    ------
    TypeError, ValueError
        Unknown keyword or boundary; lengths not positive; ``"periodic"`` without crystal.
    StructureError
        On evaluation: ``"periodic"`` where no single lattice runs through the atoms.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_qmmm import DivideAndConquer, TightBinding
    >>> atoms = bulk("Si", a=5.43, cubic=True) * (1, 1, 4)
    >>> solver = DivideAndConquer(block=5.43, buffer=4.0)
    >>> atoms.calc = TightBinding("nrl-Si-sp", mu=5.8, solver=solver, kpts=(4, 4, 1))
    >>> atoms.get_forces().shape
    (32, 3)
    """

    @checked_keywords
    def __init__(
        self,
        *,
        block: float = 11.0,
        buffer: float | None = None,
        boundary: str | Boundary = "open",
        crystal: Crystal | None = None,
        executor: Any = None,
        threads: int = 1,
        skin: float = 0.5,
        progress: bool = False,
    ) -> None:
        self.block = check_positive("block", block, "Å")
        self.skin = check_positive("skin", skin, "Å", zero=True)
        if isinstance(boundary, str):
            boundary = _boundary(boundary, crystal)
        elif not callable(getattr(boundary, "carver", None)):
            raise TypeError(f"boundary: got {boundary!r}, expected 'open', 'periodic' or a Boundary")
        self.boundary: Boundary = boundary
        self.buffer = check_positive("buffer", boundary.default_buffer if buffer is None else buffer, "Å")
        self.pool = TaskPool(executor, threads=threads, progress=progress)

    def __repr__(self) -> str:
        parts = f"block={self.block:g}, buffer={self.buffer:g}, boundary={self.boundary!r}"
        workers = "" if self.pool.executor is None else f", executor={self.pool.executor!r}"
        return f"DivideAndConquer({parts}{workers})"

    @property
    def has_virial(self) -> bool:
        """Whether evaluations give a virial: not where blocks are embedded (:class:`Embedded`)."""
        return bool(getattr(self.boundary, "has_virial", True))

    def close(self) -> None:
        """End own worker processes; the next evaluation starts new ones."""
        self.pool.close()

    def __enter__(self) -> DivideAndConquer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def evaluate(self, calc: TightBinding, atoms: Atoms, weights: np.ndarray | None = None) -> SiteResult:
        """Weighted site energies and their exact gradient; see :meth:`SiteCalculator.evaluate`.

        Blocks without weight are left out; the energies of their atoms are zero.

        Raises
        ------
        ValueError
            `calc` has no `mu`.
        """
        check_structure(atoms)
        n = len(atoms)
        given = check_weights(weights, n)
        site_weights = np.ones(n) if given is None else given
        if calc.mu is None:
            raise ValueError(
                "mu: got None, expected a number (eV): divide and conquer works at a fixed chemical "
                "potential; use with_options(mu=fermi_level(calc, crystal))"
            )
        if n == 0:
            return SiteResult(0.0, np.zeros(0), np.zeros((0, 3)), np.zeros((3, 3)))
        plan = self._plan(calc, atoms)
        groups = plan.groups(site_weights)
        positions = plan.positions(atoms)
        tasks = []
        for cluster, rows, sites in groups:
            child_atoms = atoms if cluster.whole else cluster.atoms(atoms, positions)
            child = (
                calc.with_options(solver="dense")
                if cluster.whole
                else plan.carver.calculator(calc, child_atoms, atoms)
            )
            own = np.zeros(len(cluster.index))
            own[rows] = site_weights[sites]
            # The plain gradient costs less than that of weights of one.
            tasks.append(BlockTask(child, _bare(child_atoms), None if (own == 1.0).all() else own))
        results = self.pool.map(evaluate_block, tasks)
        return _sum(results, groups, site_weights, n)

    def _plan(self, calc: TightBinding, atoms: Atoms) -> Plan:
        plan = calc.solver_state
        key = (self.block, self.buffer)
        if (
            isinstance(plan, Plan)
            and plan.key == key
            and plan.boundary is self.boundary
            and plan.fits(atoms, self.skin, self.block + 2 * self.buffer)
        ):
            return plan
        carver = self.boundary.carver(atoms, self.block, self.buffer)
        log.info("%d atoms in %d blocks", len(atoms), len(carver.blocks))
        plan = Plan(key, self.boundary, _bare(atoms), carver)
        calc.solver_state = plan
        return plan


Group = tuple[BlockCluster, np.ndarray, np.ndarray]


@dataclass
class Plan:
    """Blocks and clusters of one structure, made as they are needed."""

    key: tuple[float, float]
    boundary: Boundary
    anchors: Atoms
    carver: Carver
    clusters: dict[int, BlockCluster] = field(default_factory=dict)

    def _carried(self, atoms: Atoms) -> np.ndarray:
        """Positions (n, 3) of the anchors, carried along by the cell of `atoms`."""
        pbc = self.anchors.pbc
        before, now = self.anchors.cell.array[pbc], atoms.cell.array[pbc]
        anchors = self.anchors.positions
        carried: np.ndarray = anchors + anchors @ np.linalg.pinv(before) @ (now - before)
        return carried

    def positions(self, atoms: Atoms) -> np.ndarray:
        """Positions (n, 3) of the images next to the anchors."""
        return unwrap(atoms.positions, self._carried(atoms), atoms.cell.array, atoms.pbc)

    def fits(self, atoms: Atoms, skin: float, length: float) -> bool:
        """Whether `atoms` are the same, moved by `skin` at most, and strained by that over `length`."""
        known = self.anchors
        if not (np.array_equal(atoms.numbers, known.numbers) and np.array_equal(atoms.pbc, known.pbc)):
            return False
        vectors, now = known.cell.array[known.pbc], atoms.cell.array[known.pbc]
        inverse = np.linalg.pinv(vectors)
        deformation = inverse @ now
        # Strain of the periodic directions, which a rotation leaves alone.
        strain = np.linalg.norm(deformation @ deformation.T - inverse @ vectors, 2) / 2
        if strain * length > skin:
            return False
        moved = self.positions(atoms) - self._carried(atoms)
        moved = moved - moved.mean(axis=0)
        return bool(np.einsum("nc,nc->n", moved, moved).max() <= skin**2)

    def groups(self, weights: np.ndarray) -> list[Group]:
        """Clusters to evaluate, with the places and the atoms whose site energies each of them gives.

        Blocks whose cluster is the whole system share one evaluation.
        """
        groups: list[Group] = []
        whole: list[np.ndarray] = []
        for number, block in enumerate(self.carver.blocks):
            if not weights[block].any():
                continue
            if number not in self.clusters:
                self.clusters[number] = self.carver.cluster(number)
            cluster = self.clusters[number]
            if cluster.whole:
                whole.append(block)
                last = cluster
            else:
                groups.append((cluster, cluster.rows, block))
        if whole:
            members = np.sort(np.concatenate(whole))
            groups.append((last, members, members))
        return groups


@dataclass
class BlockTask:
    """What a worker needs for one block."""

    calc: SiteCalculator
    atoms: Atoms
    weights: np.ndarray | None

    def __repr__(self) -> str:
        sites = len(self.atoms) if self.weights is None else np.count_nonzero(self.weights)
        return f"BlockTask({sites} sites in a cluster of {len(self.atoms)} atoms)"


def evaluate_block(task: BlockTask) -> SiteResult:
    """Weighted site energies of one cluster; runs in a worker."""
    return task.calc.evaluate(task.atoms, task.weights)


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def _sum(
    results: list[SiteResult],
    groups: list[Group],
    weights: np.ndarray,
    n: int,
) -> SiteResult:
    """The system's result from those of the clusters; images give their forces to their atom."""
    energies, forces, cold = np.zeros(n), np.zeros((n, 3)), np.zeros(n)
    for result, (cluster, rows, sites) in zip(results, groups, strict=True):
        energies[sites] = result.energies[rows]
        source = result.energies if result.energies_zero_kT is None else result.energies_zero_kT
        cold[sites] = source[rows]
        np.add.at(forces, cluster.index, result.forces)
    virials = [result.virial for result in results if result.virial is not None]
    virial = sum(virials, np.zeros((3, 3))) if len(virials) == len(results) else None
    has_cold = any(result.energies_zero_kT is not None for result in results)
    return SiteResult(float(weights @ energies), energies, forces, virial, cold if has_cold else None)
