"""ForceMixingCalculator: quantum forces near the defect, matched forces far away."""

from __future__ import annotations

import logging
import time
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes

from ..crystal import Crystal
from ..errors import ChildCalculatorError, StructureError, check_positive, check_structure, checked_keywords
from ..lattice_sites import LatticeSites, lattice_sites
from ..neighbours import unwrap
from ..sites import SiteCalculator
from .carving import CLUSTER_KINDS, Cluster, buffer_width, carve, perfect_cluster
from .regions import Regions, grow_mask

__all__ = ["ForceMixingCalculator"]

log = logging.getLogger(__name__)

WHOLE_SIZE = 256  # atoms; an own model treats as many in a second
WORK_STEP = 0.25  # Å; beyond it the trapezoid of two forces says little about the work


class ForceMixingCalculator(Calculator):
    """Forces of a quantum model on the qm atoms, of a matched model on all others.

        F_l = F_l^QM(cluster of qm and buffer atoms)   for qm atoms,
        F_l = F_l^MM                                   for buffer and mm atoms, zero for frozen ones.

    This is force mixing as in [1]_. No energy function has these as its gradient. ``energy`` is offered
    all the same: the sum of the quantum site energies of the qm atoms and of the MM site energies of the
    others, where both models have them; else the subtractive total E_MM(all) + E_QM(cluster) - E_MM(cluster),
    with the MM site energies outside the clusters for the difference where MM has them. It is not the
    potential of the forces: it has a slope (ghost forces at the interface) where the forces vanish, so that a
    line search on it stalls. While a structure without momenta is moved in small steps (an optimiser), the
    energy is therefore continued from the first geometry by the work of the forces; see `energy`. ``stress``
    and ``free_energy`` do not exist and raise.

    The cluster is carved across periodic boundaries of any cell without being torn, and carved anew when
    elements, cell or regions change or an atom moves by more than 1 Å. A ``TightBinding`` without `mu` is
    used at the Fermi level of the crystal in carved clusters.

    Parameters
    ----------
    qm, mm : ase.calculators.calculator.Calculator
        Any two. A model with site energies evaluates only the atoms it is asked for.
    regions : Regions, or mask, list of indices or slice
        With anything but ``Regions`` it names the qm atoms, and `r_buffer` the width of the buffer.
    r_buffer : float, optional
        Width (Å) of the buffer around the qm atoms, if `regions` has none.
    cluster : {"auto", "periodic", "open"}
        How to carve. ``"periodic"``: a box of lattice vectors around the qm and buffer atoms with all atoms
        at their actual positions. ``"open"``: qm and buffer atoms alone, periodic only along directions in
        which they connect to their own images. ``"auto"``: a periodic box where one smaller than the system
        fits and every atom near its faces matches the crystal, else open; the whole system if that takes
        three quarters of the atoms, or if a box would and an own quantum model has at most 256 to treat.
    crystal : Crystal, optional
        Reference lattice; default that of `mm`.
    dead_load : bool, optional
        Subtract from the forces of an open cluster those that the same cluster has on the perfect crystal
        (defect sites filled), which its surface makes. Default: where the crystal is known.
    energy : {"auto", "sites", "work"}
        What ``energy`` is after the first call. ``"sites"``: the sum above, a function of the positions
        alone. ``"work"``: if no coordinate has moved by more than 0.25 Å since the last call, the energy
        changes by the work ``-(F_old + F_new) / 2 . (y_new - y_old)``, so that ``PreconLBFGS(atoms,
        use_armijo=False)`` converges. ``"auto"``: work, but sites for atoms with momenta: molecular dynamics
        shows its energy drift.
    allow_empty_qm : bool
        Accept regions without a qm atom, and return the forces of `mm`.

    Raises
    ------
    TypeError, ValueError, IndexError
        On construction: arguments of the wrong kind, no buffer width.
    StructureError, ChildCalculatorError
        On evaluation: a structure that cannot be treated; a child that failed (the message says which).

    References
    ----------
    .. [1] H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), QM/MM methods for crystalline
       defects, part 2, eq. (73); part 3, eq. (3.16).
    """

    implemented_properties = ["energy", "forces"]
    #: Forces are not the gradient of the energy.
    conservative = False

    @checked_keywords
    def __init__(
        self,
        qm: Calculator,
        mm: Calculator,
        regions: Any,
        *,
        r_buffer: float | None = None,
        cluster: str = "auto",
        crystal: Crystal | None = None,
        dead_load: bool | None = None,
        energy: str = "auto",
        allow_empty_qm: bool = False,
    ) -> None:
        super().__init__()
        for name, child in (("qm", qm), ("mm", mm)):
            if isinstance(child, type) or not hasattr(child, "get_property"):
                given = f"the class {child.__name__}" if isinstance(child, type) else type(child).__name__
                raise TypeError(f"{name}: got {given}, expected an ASE calculator")
        if cluster not in CLUSTER_KINDS:
            raise ValueError(f"cluster: got {cluster!r}, expected one of {', '.join(CLUSTER_KINDS)}")
        if crystal is not None and not isinstance(crystal, Crystal):
            raise TypeError(f"crystal: got {type(crystal).__name__}, expected Crystal")
        self.qm, self.mm = qm, mm
        self.cluster = cluster
        self.crystal: Crystal | None = crystal if crystal is not None else getattr(mm, "crystal", None)
        if dead_load and self.crystal is None:
            raise ValueError("dead_load: needs the reference lattice; pass crystal=")
        if energy not in ("auto", "sites", "work"):
            raise ValueError(f"energy: got {energy!r}, expected 'auto', 'sites' or 'work'")
        self.energy_mode = energy
        self.dead_load = dead_load
        self.allow_empty_qm = bool(allow_empty_qm)
        self.r_buffer = None if r_buffer is None else check_positive("r_buffer", r_buffer, "Å", zero=True)
        self.regions = regions
        #: Seconds spent in the children and in all, summed over the calls.
        self.timings = {"qm": 0.0, "mm": 0.0, "total": 0.0}

    def __repr__(self) -> str:
        models = f"qm={self.qm!r}, mm={self.mm!r}"
        return f"ForceMixingCalculator({models}, {self._regions!r}, cluster={self.cluster!r})"

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
        self._clusters: list[Cluster] | None = None
        self._buffer_told = False
        self._last: tuple[np.ndarray, np.ndarray, float] | None = None
        self.reset()

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

    def prepare(self, atoms: Atoms) -> list[Cluster]:
        """Find the regions of `atoms` and carve the clusters, if that has not been done for them."""
        check_structure(atoms)
        if self._clusters is not None and not self._same_system(atoms):
            # No work leads from one system to another.
            self._clusters, self._last = None, None
        if self._clusters is None or not self._fits(atoms):
            self._carve(atoms)
        return self.clusters

    def _same_system(self, atoms: Atoms) -> bool:
        """Whether these are the elements and the cell that were carved."""
        seen = self._seen
        return (
            np.array_equal(atoms.numbers, seen.numbers)
            and np.array_equal(atoms.pbc, seen.pbc)
            and np.array_equal(atoms.cell.array, seen.cell.array)
        )

    def _fits(self, atoms: Atoms) -> bool:
        """Whether the atoms are near the positions at which the clusters were carved."""
        seen = self._seen
        moved = unwrap(atoms.positions, seen.positions, seen.cell.array, seen.pbc) - seen.positions
        if np.einsum("nc,nc->n", moved, moved).max(initial=0.0) > 1.0:
            log.info("an atom has moved by more than 1 Å: carving anew")
            return False
        return True

    def _carve(self, atoms: Atoms) -> None:
        self._clusters = None
        regions = self._given.for_atoms(len(atoms))
        if self.r_buffer is not None:
            if regions.buffer.any():
                raise ValueError("r_buffer: the regions have a buffer already; leave r_buffer out")
            regions = Regions(regions.qm, grow_mask(atoms, regions.qm, self.r_buffer), regions.frozen)
        if not regions.qm.any() and not self.allow_empty_qm:
            raise ValueError(
                "regions: no qm atom; choose some, or pass allow_empty_qm=True for the mm model alone"
            )
        self._regions = regions
        sites, faulty = self._label(atoms)
        self._mm_mask = ~regions.qm & ~regions.frozen
        self._mm_rows = np.flatnonzero(self._mm_mask)
        clusters = (
            carve(atoms, regions.qm, regions.buffer, self.cluster, sites, faulty, self._whole_size())
            if regions.qm.any()
            else []
        )
        if len(clusters) > 1:
            log.info("%d separate clusters: %s", len(clusters), clusters)
        self._qm_calcs = [self._cluster_calculator(c, atoms) for c in clusters]
        self._loads = [
            self._dead_load_of(c, calc, sites, atoms)
            for c, calc in zip(clusters, self._qm_calcs, strict=True)
        ]
        self._seen = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        self._clusters = clusters
        for c in clusters:
            log.info("%s: %r", regions, c)
        self._buffer_checked = False

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

    def _dead_load_of(
        self, cluster: Cluster, calc: Calculator, sites: LatticeSites | None, atoms: Atoms
    ) -> np.ndarray | None:
        """Forces (m, 3) that the surface of an open cluster makes on the perfect crystal."""
        if cluster.kind != "open" or self.dead_load is False:
            return None
        if sites is None:
            if self.dead_load:
                raise StructureError(
                    "dead_load: the atoms do not lie on one lattice of the crystal; pass dead_load=False"
                )
            return None
        perfect, index = perfect_cluster(cluster, sites, atoms)
        if not len(perfect):
            return None
        forces = self._child("qm", calc, perfect, "forces")
        return np.where((index >= 0)[:, None], forces[index], 0.0)

    # -- evaluation ----------------------------------------------------------------------------------------

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill ``results`` (called by ASE)."""
        begin = time.perf_counter()
        self.results = {}
        if atoms is not None:
            check_structure(atoms)
        Calculator.calculate(self, atoms, properties or ["forces"], system_changes)
        system: Atoms = self.atoms  # type: ignore[assignment]  # set by the line above
        self.prepare(system)
        self._check_buffer(system)
        mm_forces, mm_energies, mm_total = self._evaluate_mm(system)
        forces = np.zeros((len(system), 3))
        forces[self._mm_rows] = mm_forces[self._mm_rows]
        # Of each cluster at once, while its results are there: a calculator may serve several.
        additive = mm_energies is not None and all(map(_has_sites, self._qm_calcs))
        qm_energy: float | None = 0.0
        for cluster, calc, load in zip(self.clusters, self._qm_calcs, self._loads, strict=True):
            cluster.update(system)
            cluster_forces = self._child("qm", calc, cluster.atoms, "forces")
            if load is not None:
                cluster_forces = cluster_forces - load
            forces[cluster.index[cluster.qm]] = cluster_forces[cluster.qm]
            if additive:
                energies = self._child("qm", calc, cluster.atoms, "energies")
                qm_energy = (qm_energy or 0.0) + float(energies[cluster.qm].sum())
            elif qm_energy is not None and "energy" in calc.implemented_properties:
                qm_energy += float(self._child("qm", calc, cluster.atoms, "energy"))
            else:
                qm_energy = None
        results: dict[str, Any] = {"forces": forces}
        mm_energy = None if qm_energy is None else self._mm_energy(additive, mm_energies, mm_total)
        if qm_energy is not None and mm_energy is not None:
            results["energy"] = self._continued(system, forces, qm_energy + mm_energy)
        self.results = results
        self.timings["total"] += time.perf_counter() - begin

    def _continued(self, atoms: Atoms, forces: np.ndarray, energy: float) -> float:
        """The energy of the last call plus the work since then, where `energy_mode` asks for that."""
        last = self._last
        moving = atoms.has("momenta") and bool(atoms.get_momenta().any())
        if self.energy_mode == "sites" or (self.energy_mode == "auto" and moving):
            self._last = None
            return energy
        if last is not None and len(last[0]) == len(atoms):
            step = unwrap(atoms.positions, last[0], atoms.cell.array, atoms.pbc) - last[0]
            if np.abs(step).max(initial=0.0) <= WORK_STEP:
                energy = last[2] - float(np.vdot(last[1] + forces, step)) / 2
        self._last = (atoms.positions.copy(), forces.copy(), energy)
        return energy

    def _evaluate_mm(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray | None, float | None]:
        """Forces, site energies (None if there are none), total energy (None if unknown) of the MM model."""
        if not len(self._mm_rows):
            return np.zeros((len(atoms), 3)), np.zeros(len(atoms)), 0.0
        if isinstance(self.mm, SiteCalculator):
            begin = time.perf_counter()
            try:
                energies, forces = self.mm.evaluate_sites(atoms, self._mm_mask)
            except Exception as error:
                raise _named_error("mm", self.mm, error) from error
            finally:
                self.timings["mm"] += time.perf_counter() - begin
            n = len(atoms)
            forces = self._checked("mm", self.mm, "forces", forces, n)
            return forces, self._checked("mm", self.mm, "energies", energies, n), None
        forces = self._child("mm", self.mm, atoms, "forces")
        if _has_sites(self.mm):
            return forces, self._child("mm", self.mm, atoms, "energies"), None
        total = (
            self._child("mm", self.mm, atoms, "energy")
            if "energy" in self.mm.implemented_properties
            else None
        )
        return forces, None, None if total is None else float(total)

    def _mm_energy(
        self, additive: bool, mm_energies: np.ndarray | None, mm_total: float | None
    ) -> float | None:
        """The part of the MM model in the energy (eV), or None where it is not known."""
        if mm_energies is not None:
            rows = self._mm_mask.copy()
            if not additive:
                # What remains of E_MM(all) - E_MM(cluster) without the cluster's surface.
                for cluster in self.clusters:
                    rows[cluster.index] = False
            return float(mm_energies[rows].sum())
        if mm_total is None:
            return None
        parts = [float(self._child("mm", self.mm, c.atoms, "energy")) for c in self.clusters]
        return mm_total - sum(parts)

    def _child(self, name: str, calc: Calculator, atoms: Atoms, what: str) -> Any:
        """A property of a child calculator, checked; failures say which child it was."""
        begin = time.perf_counter()
        try:
            value = calc.get_property(what, atoms)
        except Exception as error:
            raise _named_error(name, calc, error, atoms) from error
        finally:
            self.timings[name] += time.perf_counter() - begin
        return self._checked(name, calc, what, value, len(atoms))

    @staticmethod
    def _checked(name: str, calc: Calculator, what: str, value: Any, n: int) -> np.ndarray:
        """`value` as a finite array of the shape that property `what` has; else forget it and raise."""
        owner = f"{name} calculator ({type(calc).__name__}, on {n} atoms)"
        shape = {"forces": (n, 3), "energies": (n,)}.get(what, ())
        problem = ""
        if np.shape(value) != shape:
            problem = f"{what} of shape {np.shape(value)}, expected {shape}"
        elif not np.isfinite(value).all():
            where = f" on atom {np.argwhere(~np.isfinite(value))[0][0]}" if shape else ""
            problem = f"{what} not finite{where}"
        if problem:
            calc.reset()
            raise ChildCalculatorError(f"{owner}: {problem}")
        return np.asarray(value, dtype=float)


def _selects_all(selection: Any) -> bool:
    if isinstance(selection, slice):
        return bool(selection == slice(None))
    array = np.asarray(selection)
    return bool(array.dtype == bool and array.all())


def _has_sites(calc: Calculator) -> bool:
    return "energies" in calc.implemented_properties


def _named_error(name: str, calc: Calculator, error: Exception, atoms: Atoms | None = None) -> Exception:
    size = "" if atoms is None else f", on {len(atoms)} atoms"
    text = f"{name} calculator ({type(calc).__name__}{size}): {error}"
    if isinstance(error, PropertyNotImplementedError):
        return PropertyNotImplementedError(text)
    if isinstance(error, StructureError):
        return type(error)(text)
    return ChildCalculatorError(text if str(error) else f"{text}{type(error).__name__}")
