"""EnergyMixingCalculator: quantum site energies near the defect, matched site energies far away."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from ..crystal import Crystal
from ..errors import checked_keywords
from ..lattice_sites import LatticeSites
from ..parallel import TaskPool
from ..sites import SiteCalculator, SiteResult
from .base import MixingCalculator
from .carving import Cluster
from .children import Request
from .ghost_forces import NOISE, GhostLoad, Hybrid, ghost_load
from .regions import grow_mask

__all__ = ["EnergyMixingCalculator"]

log = logging.getLogger(__name__)

FROZEN_MARGIN = 0.5  # Å beyond the range of the MM model, for atoms that move


class EnergyMixingCalculator(MixingCalculator):
    """Energy of quantum site energies on the qm atoms and of MM site energies on all others.

        E = sum_(l in qm) E_l^QM(cluster of qm and buffer atoms) + sum_(l not in qm) E_l^MM,

    as in [1]_, eq. (38), in general ``sum_l w_l E_l^QM + (1 - w_l) E_l^MM``; less a dead load, [2]_, (3.9).
    The forces are the exact gradient, on qm, buffer and mm atoms alike, so that any optimiser, line search
    or dynamics may use it. ``energies`` sums to ``energy``, ``free_energy`` is the potential of the forces.

    Where the MM model does not match the quantum one, atoms at the interface feel ghost forces even in the
    perfect crystal. They are computed once, in the crystal with the same weights and clusters (vacant sites
    filled), and subtracted as a constant load. What is left are changes of the ghost forces with strain;
    :class:`ForceMixingCalculator` has none, but no energy either.

    Parameters
    ----------
    qm, mm : SiteCalculator
        Both tell weighted site energies. Sites of zero weight are not evaluated. For other ASE calculators
        there is :class:`SubtractiveMixingCalculator`.
    regions : Regions, or mask, list of indices or slice
        With anything but ``Regions`` it names the qm atoms, and `r_buffer` the width of the buffer. Frozen
        atoms have no force; MM sites among them count as far as free atoms are within their range.
    r_buffer : float, optional
        Width (Å) of the buffer around the qm atoms, if `regions` has none.
    cluster : {"auto", "periodic", "open", "embedded"}
        See :class:`ForceMixingCalculator`. The gradient of embedded clusters is that at a frozen self-energy.
    ghost_force_correction : {"auto", True, False}
        Subtract the ghost forces. ``"auto"``: measure them, and do so where they exceed rounding (1e-9 eV/Å).
        Where no one lattice of `crystal` runs through the first structure, they are taken there, as the
        difference from the forces of force mixing.
    beta : {"sharp", "smooth"}
        Where the load acts, [2]_, eq. (3.10): not within half the distance from the defects to the nearest
        atom that is not qm. ``"smooth"``: rising from there to that distance. Without a defect: everywhere.
    crystal : Crystal, optional
        Reference lattice; default that of `mm`.
    blend : float
        Width (Å) of the layer around the qm atoms in which w falls from one to zero (``1 - smoothstep(d /
        blend)``, quintic, d the distance to the nearest qm atom in the crystal). 0: sharp.
    allow_empty_qm : bool
        Accept regions without a qm atom.
    pool : parallel.TaskPool, optional
        Runs the clusters of separate qm regions side by side.
    folder : path
        Where the structure of a failed call of a child is written (default: the working directory).

    Raises
    ------
    TypeError, ValueError, IndexError
        On construction: arguments of the wrong kind, a child without site energies, no buffer width.
    StructureError, ChildCalculatorError
        On evaluation: a structure that cannot be treated; a child that failed (the message says which, and
        where its structure was written).
    PropertyNotImplementedError
        Stress with open directions or embedded clusters.

    Notes
    -----
    One function of the positions as long as no atom moves by more than 1 Å; then clusters are carved anew,
    and the energy may jump by the error of the buffer. Clusters and loads follow a strain of the cell up to
    5 %.

    References
    ----------
    .. [1] H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), QM/MM methods for crystalline
       defects, part 2.
    .. [2] H. Chen, C. Ortner and Y. Wang, QM/MM methods for crystalline defects, part 3: machine-learned
       interatomic potentials.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]
    _needs_sites = True
    _follows_strain = True
    qm: SiteCalculator
    mm: SiteCalculator

    @checked_keywords
    def __init__(
        self,
        qm: SiteCalculator,
        mm: SiteCalculator,
        regions: Any,
        *,
        r_buffer: float | None = None,
        cluster: str = "auto",
        ghost_force_correction: bool | str = "auto",
        beta: str = "sharp",
        crystal: Crystal | None = None,
        blend: float = 0.0,
        allow_empty_qm: bool = False,
        pool: TaskPool | None = None,
        folder: str | Path = ".",
    ) -> None:
        if ghost_force_correction not in (True, False, "auto"):
            raise ValueError(
                f"ghost_force_correction: got {ghost_force_correction!r}, expected True, False or 'auto'"
            )
        if beta not in ("sharp", "smooth"):
            raise ValueError(f"beta: got {beta!r}, expected 'sharp' or 'smooth'")
        self.ghost_force_correction = ghost_force_correction
        self.beta = beta
        self._load: GhostLoad | None = None
        super().__init__(
            qm,
            mm,
            regions,
            r_buffer=r_buffer,
            cluster=cluster,
            crystal=crystal,
            blend=blend,
            allow_empty_qm=allow_empty_qm,
            pool=pool,
            folder=folder,
        )

    def _options(self) -> dict[str, Any]:
        own = ("ghost_force_correction", "beta", "blend")
        return super()._options() | {name: getattr(self, name) for name in own}

    @property
    def ghost_forces(self) -> np.ndarray:
        """Forces (n, 3) in eV/Å that are subtracted, times beta; zero if none are."""
        _ = self.clusters
        return np.zeros((len(self._weights), 3)) if self._load is None else self._load.forces.copy()

    # -- preparation -----------------------------------------------------------------------------------------

    def _mm_atoms(self, atoms: Atoms) -> np.ndarray:
        asked = self._weights < 1
        frozen = self._regions.frozen
        cutoff = getattr(self.mm, "cutoff", None)
        if frozen.any() and cutoff is not None:
            # The energies of all others are constant.
            asked &= grow_mask(atoms, ~frozen, cutoff + FROZEN_MARGIN)
        return asked

    def _prepare_loads(
        self,
        atoms: Atoms,
        clusters: list[Cluster],
        sites: LatticeSites | None,
        faulty: np.ndarray | None,
    ) -> None:
        self._mm_weights = np.where(self._mm_mask, 1 - self._weights, 0.0)
        self._cluster_weights = [np.where(c.qm, self._weights[c.index], 0.0) for c in clusters]
        self._load = None
        if self.ghost_force_correction is False or not clusters or not self._mm_weights.any():
            return
        assert self._first is not None
        hybrid = Hybrid(
            self._children,
            clusters,
            self._qm_calcs,
            self.mm,
            self._weights,
            self._mm_weights,
            sharp=self.blend == 0,
        )
        if sites is not None:
            centres = np.concatenate([sites.vacant_positions, atoms.positions[sites.basis < 0]])
        else:
            centres = np.zeros((0, 3)) if faulty is None else atoms.positions[faulty]
        reference = atoms if sites is not None else self._first
        frozen = self._regions.frozen
        load = ghost_load(hybrid, reference, sites, centres, self.beta == "smooth", frozen)
        where = "the perfect crystal" if load.on_crystal else "the first geometry"
        log.info("ghost forces on %s: largest %.3g eV/Å", where, load.largest)
        if self.ghost_force_correction is True or load.largest > NOISE:
            self._load = load

    # -- evaluation ------------------------------------------------------------------------------------------

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill ``results`` (called by ASE)."""
        begin = time.perf_counter()
        system = self._start(atoms, properties or ["energy"], system_changes)
        stress = self._has_stress(system)
        if not stress and "stress" in (properties or []):
            raise PropertyNotImplementedError(
                "stress: not defined with open directions or embedded clusters "
                "(their self-energy is frozen); needs a cell that is periodic in three directions and "
                "periodic, open or whole clusters"
            )
        self._check_buffer(system)
        self.results = self._mixed(system, stress)
        self.timings["total"] += time.perf_counter() - begin

    def _has_stress(self, atoms: Atoms) -> bool:
        whole = all(c.kind != "embedded" for c in self.clusters)
        return bool(atoms.pbc.all() and atoms.cell.rank == 3 and whole)

    def _mixed(self, atoms: Atoms, stress: bool) -> dict[str, Any]:
        """Energies, forces and stress of the hybrid, less the dead load."""
        n = len(atoms)
        free, cold = np.zeros(n), np.zeros(n)
        forces, virial = np.zeros((n, 3)), np.zeros((3, 3))
        if self._mm_weights.any():
            w = self._mm_weights
            request = Request("mm", self.mm, atoms, weights=_or_none(w), weighted=True)
            result: SiteResult = self._children.ask(request)["result"]
            free += w * result.energies
            cold += w * _zero_kT(result)
            forces += result.forces
            virial += _virial(result)
        requests = [
            Request("qm", calc, cluster.update(atoms), weights=_or_none(w), weighted=True)
            for cluster, calc, w in zip(self.clusters, self._qm_calcs, self._cluster_weights, strict=True)
        ]
        answers = self._children.ask_all(requests)
        for cluster, w, answer in zip(self.clusters, self._cluster_weights, answers, strict=True):
            result = answer["result"]
            cluster.add_forces(forces, result.forces)
            own = cluster.index[cluster.qm]
            free[own] += (w * result.energies)[cluster.qm]
            cold[own] += (w * _zero_kT(result))[cluster.qm]
            virial += _virial(result)
        if self._load is not None:
            load = self._load if self._strain is None else self._load.deformed(self._strain)
            energies, load_virial = load.apply(atoms)
            free += energies
            cold += energies
            forces -= load.forces
            virial += load_virial
        forces[self._regions.frozen] = 0.0
        results: dict[str, Any] = {
            "energy": float(cold.sum()),
            "free_energy": float(free.sum()),
            "energies": cold,
            "forces": forces,
        }
        if stress:
            results["stress"] = full_3x3_to_voigt_6_stress(-virial / atoms.get_volume())
        return results


def _or_none(weights: np.ndarray) -> np.ndarray | None:
    """None for weights of one: the plain energy of a model, to the last bit."""
    return None if (weights == 1).all() else weights


def _virial(result: SiteResult) -> np.ndarray | float:
    """Zero for models that have none (embedded clusters), with which no stress is offered."""
    return 0.0 if result.virial is None else result.virial


def _zero_kT(result: SiteResult) -> np.ndarray:
    return result.energies if result.energies_zero_kT is None else result.energies_zero_kT
