"""SubtractiveMixingCalculator: MM everywhere, corrected by the difference of the models on a cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress

from ..crystal import Crystal
from ..errors import checked_keywords
from ..lattice_sites import LatticeSites
from ..parallel import TaskPool
from ..sites import SiteCalculator
from .base import MixingCalculator
from .carving import Cluster
from .children import Request, own_copy
from .passivation import LinkAtoms, link_atoms

__all__ = ["SubtractiveMixingCalculator"]


class SubtractiveMixingCalculator(MixingCalculator):
    """Energy of the MM model, plus what the quantum model says otherwise about a cluster.

        E = E_MM(all) + E_QM(cluster of qm and buffer atoms) - E_MM(cluster),

    [1]_, eq. (1), ONIOM's scheme, for any two ASE calculators with energy and forces. The forces are its
    exact gradient. Errors of the cluster's surface cancel as far as the two models agree on them; there is no
    correction of ghost forces. The MM model must be able to treat the cluster alone: a Taylor expansion
    about the crystal can in a periodic box only.

    Parameters
    ----------
    qm, mm : ase.calculators.calculator.Calculator
    regions : Regions, or mask, list of indices or slice
        With anything but ``Regions`` it names the qm atoms, and `r_buffer` the width of the buffer. The qm
        and buffer atoms are the cluster. Frozen atoms have no force.
    r_buffer : float, optional
        Width (Å) of the buffer around the qm atoms, if `regions` has none.
    cluster : {"auto", "periodic", "open"}
        See :class:`ForceMixingCalculator`.
    crystal : Crystal, optional
        Reference lattice; default that of `mm`.
    passivate : {False, True, "qm"}
        Put hydrogen on the bonds that an open cluster cuts, for both models or for the quantum one alone.
    allow_empty_qm : bool
        Accept regions without a qm atom.
    pool : parallel.TaskPool, optional
        Runs the calls on the clusters side by side.
    folder : path
        Where the structure of a failed call of a child is written (default: the working directory).

    Raises
    ------
    TypeError, ValueError, IndexError
        On construction: arguments of the wrong kind, no buffer width.
    StructureError, ChildCalculatorError
        On evaluation: a structure that cannot be treated; a child that failed (the message says which).
    PropertyNotImplementedError
        A property that one of the children lacks; stress with open directions or link atoms, and that of a
        cluster whose model offers none.

    References
    ----------
    .. [1] H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), QM/MM methods for crystalline
       defects, part 2.
    """

    implemented_properties = ["energy", "free_energy", "forces", "stress"]
    _follows_strain = True
    _may_embed = False

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
        passivate: bool | str = False,
        allow_empty_qm: bool = False,
        pool: TaskPool | None = None,
        folder: str | Path = ".",
    ) -> None:
        if passivate not in (False, True, "qm"):
            raise ValueError(f"passivate: got {passivate!r}, expected False, True or 'qm'")
        if cluster == "embedded":
            raise ValueError(
                "cluster: got 'embedded', expected auto, periodic or open: the subtractive energy is that of "
                "a cluster alone; use EnergyMixingCalculator"
            )
        self.passivate = passivate
        super().__init__(
            qm,
            mm,
            regions,
            r_buffer=r_buffer,
            cluster=cluster,
            crystal=crystal,
            blend=0.0,
            allow_empty_qm=allow_empty_qm,
            pool=pool,
            folder=folder,
        )

    def _options(self) -> dict[str, Any]:
        return super()._options() | {"passivate": self.passivate}

    def _mm_atoms(self, atoms: Atoms) -> np.ndarray:
        return ~self._weights.astype(bool)

    def _prepare_loads(
        self,
        atoms: Atoms,
        clusters: list[Cluster],
        sites: LatticeSites | None,
        faulty: np.ndarray | None,
    ) -> None:
        self._links: list[LinkAtoms | None] = [
            link_atoms(c, atoms) if self.passivate and c.kind == "open" else None for c in clusters
        ]
        # A calculator that went back and forth between system and cluster would set up both each time.
        self._mm_calcs = [own_copy("mm", self.mm) for _ in clusters]

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
                "stress: not defined here; needs a cell that is periodic in three directions, stress of both "
                "models for system and clusters, and no link atoms"
            )
        if "free_energy" in (properties or []) and not self._has_free_energy():
            raise PropertyNotImplementedError("free_energy: not offered by both models")
        self._check_buffer(system)
        self.results = self._mixed(system, stress)
        self.timings["total"] += time.perf_counter() - begin

    def _has_free_energy(self) -> bool:
        return all("free_energy" in c.implemented_properties for c in (self.qm, self.mm))

    def _has_stress(self, atoms: Atoms) -> bool:
        if not atoms.pbc.all() or any(links is not None for links in self._links):
            return False
        periodic = all(c.atoms.pbc.all() for c in self.clusters)
        return all(
            "stress" in c.implemented_properties and (periodic or isinstance(c, SiteCalculator))
            for c in (self.qm, self.mm)
        )

    def _requests(self, atoms: Atoms, names: tuple[str, ...]) -> list[tuple[float, int, Request]]:
        """Sign, number of the cluster (-1: all) and request of each term."""
        if [c.kind for c in self.clusters] == ["whole"]:
            # The terms of the MM model cancel.
            return [(1.0, 0, Request("qm", self._qm_calcs[0], self.clusters[0].update(atoms), names))]
        terms = [(1.0, -1, Request("mm", self.mm, atoms, names))]
        for k, (cluster, qm, mm) in enumerate(
            zip(self.clusters, self._qm_calcs, self._mm_calcs, strict=True)
        ):
            bare = cluster.update(atoms)
            links = self._current_links(k)
            capped = bare if links is None else links.added(bare, atoms)
            terms.append((1.0, k, Request("qm", qm, capped, names)))
            subtracted = bare if self.passivate == "qm" else capped
            terms.append((-1.0, k, Request("mm", mm, subtracted, names)))
        return terms

    def _current_links(self, k: int) -> LinkAtoms | None:
        links = self._links[k]
        return links if links is None or self._strain is None else links.deformed(self._strain)

    def _mixed(self, atoms: Atoms, stress: bool) -> dict[str, Any]:
        names = ["energy", "forces"]
        names += ["free_energy"] if self._has_free_energy() else []
        names += ["stress"] if stress else []
        terms = self._requests(atoms, tuple(names))
        answers = self._children.ask_all([request for _, _, request in terms])
        forces = np.zeros((len(atoms), 3))
        totals = {name: 0.0 for name in names if name.endswith("energy")}
        virial = np.zeros((3, 3))
        for (sign, k, request), answer in zip(terms, answers, strict=True):
            for name in totals:
                totals[name] += sign * float(answer[name])
            if stress:
                volume = request.atoms.get_volume()
                virial -= sign * volume * voigt_6_to_full_3x3_stress(answer["stress"])
            if k < 0:
                forces += sign * answer["forces"]
                continue
            cluster, links = self.clusters[k], self._current_links(k)
            if links is not None and len(answer["forces"]) > len(cluster.index):
                links.project(sign * answer["forces"], cluster.index, forces)
            else:
                cluster.add_forces(forces, sign * answer["forces"])
        forces[self._regions.frozen] = 0.0
        results: dict[str, Any] = {"forces": forces} | totals
        if stress:
            results["stress"] = full_3x3_to_voigt_6_stress(-virial / atoms.get_volume())
        return results
