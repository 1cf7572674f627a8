"""MixingCalculator: what all mixtures share, from the regions to the clusters that the quantum model sees."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from ..crystal import Crystal
from ..errors import StructureError, check_positive, check_structure
from ..lattice_sites import LatticeSites, lattice_sites
from ..neighbours import unwrap
from ..parallel import TaskPool
from ..sites import SiteCalculator
from .blending import blend_weights
from .buffers import BufferEstimate, buffer_error
from .carving import CLUSTER_KINDS, Cluster, buffer_width, carve, embedded_cluster
from .children import Children, check_child, own_copy
from .embedding import embedded_calculator, embeds
from .regions import Regions, grow_mask

__all__ = ["MixingCalculator"]

log = logging.getLogger(__name__)

WHOLE_SIZE = 256  # atoms; an own model treats as many in a second
LARGEST_STRAIN = 0.05  # of a cell that clusters and dead loads may follow


class MixingCalculator(Calculator):
    """Regions, clusters and children of a mixture; subclasses say what is mixed.

    Clusters are carved across periodic boundaries of any cell without being torn, and anew when elements,
    cell or regions change or an atom moves by more than 1 Å. A ``TightBinding`` without `mu` is used at the
    Fermi level of the crystal in carved clusters.
    """

    #: Both children must be ``SiteCalculator``.
    _needs_sites = False
    #: ``cluster="auto"`` may choose embedded clusters.
    _may_embed = True
    #: Clusters are kept, and deform with the cell, under a small strain: the energy stays one function.
    _follows_strain = False

    def __init__(
        self,
        qm: Calculator,
        mm: Calculator,
        regions: Any,
        *,
        r_buffer: float | None,
        cluster: str,
        crystal: Crystal | None,
        blend: float,
        allow_empty_qm: bool,
        pool: TaskPool | None,
        folder: str | Path,
    ) -> None:
        super().__init__()
        for name, child in (("qm", qm), ("mm", mm)):
            check_child(name, child, sites=self._needs_sites)
        if cluster not in CLUSTER_KINDS:
            raise ValueError(f"cluster: got {cluster!r}, expected one of {', '.join(CLUSTER_KINDS)}")
        if crystal is not None and not isinstance(crystal, Crystal):
            raise TypeError(f"crystal: got {type(crystal).__name__}, expected Crystal")
        if pool is not None and not isinstance(pool, TaskPool):
            raise TypeError(f"pool: got {type(pool).__name__}, expected parallel.TaskPool")
        if cluster == "embedded" and not embeds(qm):
            raise ValueError(f"cluster: 'embedded' needs a TightBinding as qm, got {type(qm).__name__}")
        self.qm, self.mm = qm, mm
        self.cluster = cluster
        self.crystal: Crystal | None = crystal if crystal is not None else getattr(mm, "crystal", None)
        self.blend = check_positive("blend", blend, "Å", zero=True)
        self.allow_empty_qm = bool(allow_empty_qm)
        self.r_buffer = None if r_buffer is None else check_positive("r_buffer", r_buffer, "Å", zero=True)
        self._children = Children(pool, Path(folder))
        #: Seconds spent in the children and in all, summed over the calls.
        self.timings = self._children.timings
        self.regions = regions

    def __repr__(self) -> str:
        models = f"qm={self.qm!r}, mm={self.mm!r}"
        return f"{type(self).__name__}({models}, {self._regions!r}, cluster={self.cluster!r})"

    def _options(self) -> dict[str, Any]:
        """Keywords that make the same mixture with other regions or clusters."""
        return {
            "cluster": self.cluster,
            "crystal": self.crystal,
            "allow_empty_qm": self.allow_empty_qm,
            "pool": self._children.pool,
            "folder": self._children.folder,
        }

    # -- regions and clusters ------------------------------------------------------------------------------

    @property
    def regions(self) -> Regions:
        """The regions in use; setting them (``Regions`` or qm atoms) resets what depends on them."""
        return self._regions

    @regions.setter
    def regions(self, regions: Any) -> None:
        if isinstance(regions, Regions):
            self._given = regions
        else:
            if self.r_buffer is None and not _selects_all(regions):
                raise ValueError(
                    "r_buffer: give the width of the buffer (Å), as regions is a plain selection of qm atoms"
                )
            self._given = Regions(regions)
        self._regions = self._given
        self._buffer_told = False
        self._forget()
        self.reset()

    def _forget(self) -> None:
        """Drop what belongs to one system."""
        self._clusters: list[Cluster] | None = None
        #: Deformation (3, 3) of the clusters since they were carved, None for none.
        self._strain: np.ndarray | None = None
        #: The first geometry of the system: what surrounds embedded clusters off any one lattice.
        self._first: Atoms | None = None

    @property
    def clusters(self) -> list[Cluster]:
        """The clusters of the last call."""
        if self._clusters is None:
            raise ValueError("clusters: not carved yet; ask for forces first, or call prepare(atoms)")
        return self._clusters

    @property
    def cluster_calculators(self) -> list[Calculator]:
        """The quantum calculator of each cluster: the one given, or its version for carved clusters."""
        return list(self._qm_calcs) if self._clusters is not None else []

    @property
    def weights(self) -> np.ndarray:
        """Weight (n,) of the quantum model on each atom of the last structure."""
        _ = self.clusters
        return self._weights.copy()

    def prepare(self, atoms: Atoms) -> list[Cluster]:
        """Find the regions of `atoms` and carve the clusters, if that has not been done for them."""
        check_structure(atoms)
        if self._clusters is not None and not self._same_system(atoms) and not self._follow(atoms):
            self._forget()
        if self._clusters is None or not self._fits(atoms):
            self._carve(atoms)
        return self.clusters

    def _same_system(self, atoms: Atoms) -> bool:
        """Whether these are the elements and the cell that were carved."""
        seen = self._seen
        same = (
            np.array_equal(atoms.numbers, seen.numbers)
            and np.array_equal(atoms.pbc, seen.pbc)
            and np.array_equal(atoms.cell.array, seen.cell.array)
        )
        if same and self._clusters is not self._carved:
            self._clusters, self._strain = self._carved, None
        return same

    def _follow(self, atoms: Atoms) -> bool:
        """Deform the clusters with a cell that is a little strained; False where that is not possible."""
        seen = self._seen
        if (
            not self._follows_strain
            or not np.array_equal(atoms.numbers, seen.numbers)
            or not np.array_equal(atoms.pbc, seen.pbc)
            or seen.cell.rank < 3
            or any(c.kind == "embedded" for c in self._carved)
        ):
            return False
        gradient = np.linalg.solve(seen.cell.array, atoms.cell.array).T
        excess = gradient - np.eye(3)
        # A turned cell is another orientation, of which the loads know nothing.
        if np.abs(excess).max() > LARGEST_STRAIN or np.abs(excess - excess.T).max() > 1e-8:
            return False
        self._strain = gradient
        self._clusters = [c.deformed(gradient) for c in self._carved]
        return True

    def _fits(self, atoms: Atoms) -> bool:
        """Whether the atoms are near the positions at which the clusters were carved."""
        seen = self._seen.positions if self._strain is None else self._seen.positions @ self._strain.T
        moved = unwrap(atoms.positions, seen, atoms.cell.array, atoms.pbc) - seen
        if 3 * _largest(moved) ** 2 <= 1.0:
            return True
        if np.einsum("nc,nc->n", moved, moved).max(initial=0.0) > 1.0:
            log.info("an atom has moved by more than 1 Å: carving anew")
            return False
        return True

    def _carve(self, atoms: Atoms) -> None:
        self._clusters = None
        regions = self._given.for_atoms(len(atoms))
        if self._first is None:
            self._first = atoms.copy()
        sites, faulty = self._label(atoms)
        # Distances in the crystal, or in the first geometry: the weights do not depend on where atoms are.
        still = self._first.copy()
        if sites is not None:
            still.positions = sites.positions
        weights = blend_weights(still, regions.qm, self.blend)
        weights[regions.frozen & ~regions.qm] = 0.0
        used = weights > 0
        if self.r_buffer is not None:
            if regions.buffer.any():
                raise ValueError("r_buffer: the regions have a buffer already; leave r_buffer out")
            regions = Regions(regions.qm, grow_mask(atoms, used, self.r_buffer), regions.frozen)
        if not regions.qm.any() and not self.allow_empty_qm:
            raise ValueError(
                "regions: no qm atom; choose some, or pass allow_empty_qm=True for the mm model alone"
            )
        self._regions, self._weights = regions, weights
        self._mm_mask = self._mm_atoms(atoms)
        self._mm_rows = np.flatnonzero(self._mm_mask)
        self._other_rows = np.flatnonzero(~self._mm_mask)
        clusters, self._qm_calcs = self._carved_clusters(atoms, used, sites, faulty)
        if len(clusters) > 1:
            log.info("%d separate clusters: %s", len(clusters), clusters)
        self._seen = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        self._carved, self._strain = clusters, None
        self._prepare_loads(atoms, clusters, sites, faulty)
        self._clusters = clusters
        for c in clusters:
            log.info("%s: %r", regions, c)
        self._buffer_checked = False

    def _mm_atoms(self, atoms: Atoms) -> np.ndarray:
        """Mask (n,) of the atoms that the MM model is asked for."""
        asked: np.ndarray = (self._weights < 1) & ~self._regions.frozen
        return asked

    def _prepare_loads(
        self,
        atoms: Atoms,
        clusters: list[Cluster],
        sites: LatticeSites | None,
        faulty: np.ndarray | None,
    ) -> None:
        """Whatever constant corrections a mixture makes, found once for freshly carved clusters."""

    def _carved_clusters(
        self, atoms: Atoms, used: np.ndarray, sites: LatticeSites | None, faulty: np.ndarray | None
    ) -> tuple[list[Cluster], list[Calculator]]:
        """Clusters and the quantum calculator of each."""
        if not used.any():
            return [], []
        kind = self.cluster
        embeddable = self._may_embed and embeds(self.qm)
        if kind == "auto" and embeddable and getattr(self.qm, "solver", "dense") != "dense":
            kind = "embedded"
        clusters = carve(atoms, used, self._regions.buffer, kind, sites, faulty, self._whole_size())
        calcs: list[Calculator] = []
        for k, cluster in enumerate(clusters):
            if cluster.kind == "embedded":
                calcs.append(self._embedded(atoms, used, cluster, sites))
                continue
            if kind == "auto" and cluster.kind == "open" and embeddable:
                # Where there is no box: its errors are one to two orders below those of an open cluster.
                candidate = embedded_cluster(atoms, cluster)
                try:
                    calc = self._embedded(atoms, used, candidate, sites)
                except (StructureError, ValueError) as error:
                    log.info("open rather than embedded: %s", error)
                else:
                    clusters[k] = candidate
                    calcs.append(calc)
                    continue
            calcs.append(self._cluster_calculator(cluster, atoms))
        if self._children.pool is not None and len(clusters) > 1:
            shared = [sum(c is calc for c in calcs) > 1 for calc in calcs]
            calcs = [own_copy("qm", c) if s else c for c, s in zip(calcs, shared, strict=True)]
        return clusters, calcs

    def _embedded(
        self, atoms: Atoms, used: np.ndarray, cluster: Cluster, sites: LatticeSites | None
    ) -> Calculator:
        """The quantum model in the frozen self-energy of the crystal, or of the first geometry."""
        width = self.r_buffer
        if width is None:
            enough = float(getattr(self.qm, "cutoff", 0.0))
            width = buffer_width_of(atoms, used, used | self._regions.buffer, enough)
        assert self._first is not None
        reference = self.crystal if sites is not None else self._first
        return embedded_calculator(self.qm, atoms, cluster.qm, reference, self.crystal, width)

    def _check_buffer(self, atoms: Atoms) -> None:
        """Warn, once for given regions, of an open cluster that ends within the range of the qm model."""
        if self._buffer_checked or self._buffer_told:
            return
        self._buffer_checked = True
        cutoff = getattr(self.qm, "cutoff", None) if isinstance(self.qm, SiteCalculator) else None
        open_clusters = [c for c in self.clusters if c.kind == "open"]
        if cutoff is None or not open_clusters:
            return
        width = min(buffer_width(c, atoms, cutoff) for c in open_clusters)
        if width < cutoff:
            self._buffer_told = True
            log.warning(
                "buffer: an atom outside the open cluster is %.2f Å from a qm atom, within the range of "
                "the qm model, %.2f Å; the forces on qm atoms near it suffer. Use r_buffer >= %.2f Å",
                width,
                cutoff,
                cutoff,
            )

    def _start(self, atoms: Atoms | None, properties: list[str], system_changes: list[str]) -> Atoms:
        """What every call begins with: no results, checked atoms, clusters; returns the atoms in use."""
        self.results = {}
        if atoms is not None:
            check_structure(atoms)
        Calculator.calculate(self, atoms, properties, system_changes)
        system: Atoms = self.atoms  # type: ignore[assignment]  # set by the line above
        self.prepare(system)
        return system

    def buffer_error(self, atoms: Atoms, *, fmax: float = 0.01, wider: float | None = None) -> BufferEstimate:
        """Estimate what the finite buffer does to the forces, from one call with a better one.

        The better one is the same cluster embedded, where an open cluster of a ``TightBinding`` can be, else
        a buffer wider by `wider`. If the largest difference exceeds ``fmax / 10``, a warning with advice is
        logged.

        Parameters
        ----------
        atoms : ase.Atoms
        fmax : float
            Force (eV/Å) to which the structure is to be relaxed.
        wider : float, optional
            Å; 1.2 nearest-neighbour distances of the crystal, else 3 Å.

        Returns
        -------
        BufferEstimate
            ``print`` shows it in words.
        """
        return buffer_error(self, atoms, fmax, wider)

    def _label(self, atoms: Atoms) -> tuple[LatticeSites | None, np.ndarray | None]:
        """Lattice sites and defective atoms, where the crystal is known and its lattice runs through."""
        if self.crystal is None:
            return None, None
        try:
            match = self.crystal.match(atoms, 1.2 * self.crystal.nearest_neighbour_distance)
        except StructureError as error:
            log.warning(
                "the atoms do not match the crystal, clusters are open and without dead load: %s", error
            )
            return None, None
        return lattice_sites(match, atoms), match.defect()

    def _whole_size(self) -> int:
        """Number of atoms up to which the quantum model may as well take the whole system."""
        return WHOLE_SIZE if isinstance(self.qm, SiteCalculator) else 0

    def _cluster_calculator(self, cluster: Cluster, atoms: Atoms) -> Calculator:
        # Without an MM atom the answer is that of the quantum model as given; beside MM atoms both sides must
        # be in one ensemble, in a cluster that takes the whole system too.
        if not isinstance(self.qm, SiteCalculator) or (cluster.kind == "whole" and not len(self._mm_rows)):
            return self.qm
        return self.qm.for_cluster(cluster.atoms, atoms, self.crystal)


def _largest(values: np.ndarray) -> float:
    """Largest absolute value, without a copy."""
    return max(float(values.max(initial=0.0)), -float(values.min(initial=0.0)))


def buffer_width_of(atoms: Atoms, used: np.ndarray, members: np.ndarray, enough: float) -> float:
    """Smallest distance (Å) from an atom of `used` to one outside `members`, cut off 3 Å beyond `enough`."""
    cluster = Cluster(
        "open",
        np.flatnonzero(members),
        used[members],
        atoms[members],
        np.zeros((int(members.sum()), 3)),
        atoms.positions[members],
    )
    cluster.atoms.pbc = atoms.pbc
    width = buffer_width(cluster, atoms, enough + 3.0)
    return min(width, enough + 3.0)


def _selects_all(selection: Any) -> bool:
    if isinstance(selection, slice):
        return bool(selection == slice(None))
    array = np.asarray(selection)
    return bool(array.dtype == bool and array.all())
