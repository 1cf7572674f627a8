"""ForceMixingCalculator: quantum forces near the defect, matched forces far away."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.data import covalent_radii

from ..crystal import Crystal
from ..errors import StructureError, checked_keywords
from ..lattice_sites import LatticeSites
from ..neighbours import unwrap
from ..parallel import TaskPool
from ..sites import SiteCalculator
from .base import MixingCalculator
from .carving import Cluster, perfect_cluster
from .children import Request, has_sites
from .net_forces import balanced, interface_shares, rotation_axes

__all__ = ["ForceMixingCalculator"]

WORK_STEP = 0.25  # Å; beyond it the trapezoid of two forces says little about the work


class ForceMixingCalculator(MixingCalculator):
    """Forces of a quantum model on the qm atoms, of a matched model on all others.

        F_l = F_l^QM(cluster of qm and buffer atoms)   for qm atoms,
        F_l = F_l^MM                                   for buffer and mm atoms, zero for frozen ones.

    With `blend`, ``w_l F_l^QM + (1 - w_l) F_l^MM`` in a layer around the qm atoms, in which both models are
    asked. This is force mixing as in [1]_. No energy function has these as its gradient. ``energy`` is
    offered all the same: the sum of the quantum site energies of the qm atoms and of the MM site energies of
    the others, where both models have them; else the subtractive total E_MM(all) + E_QM(cluster) -
    E_MM(cluster), with the MM site energies outside the clusters for the difference where MM has them. It is
    not the potential of the forces: it has a slope (ghost forces at the interface) where the forces vanish,
    so that a line search on it stalls. While a structure without momenta is moved in small steps (an
    optimiser), the energy is therefore continued from the first geometry by the work of the forces; see
    `energy`. ``stress`` and ``free_energy`` do not exist and raise.

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
    cluster : {"auto", "periodic", "open", "embedded"}
        How to carve. ``"periodic"``: a box of lattice vectors around the qm and buffer atoms with all atoms
        at their actual positions. ``"open"``: qm and buffer atoms alone, periodic only along directions in
        which they connect to their own images. ``"embedded"``: a ``TightBinding`` in the frozen self-energy
        of the crystal, or of the first geometry where there is no one lattice; the buffer must be at least
        as wide as the range of the Hamiltonian. ``"auto"``: a periodic box where one smaller than the system
        fits and every atom near its faces matches the crystal, else embedded where that can be, else open;
        the whole system if that takes three quarters of the atoms, or if a box would and an own quantum model
        has at most 256 to treat.
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
    blend : float
        Width (Å) of the layer around the qm atoms in which the weight of the quantum forces falls from one to
        zero (``1 - smoothstep(d / blend)``, quintic, d the distance to the nearest qm atom in the crystal or
        the first geometry). 0: sharp.
    remove_net_force : {False, "all", "interface"}
        Take away the net force of the free atoms (third law broken at the interface), evenly from all of
        them, or from those at the interface.
    remove_net_torque : bool
        Take away the net torque as well: of a free cluster, or about the axis of a wire. From the same atoms.
    pool : parallel.TaskPool, optional
        Runs the clusters of separate qm regions side by side.
    folder : path
        Where the structure of a failed call of a child is written (default: the working directory).

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
        blend: float = 0.0,
        remove_net_force: bool | str = False,
        remove_net_torque: bool = False,
        pool: TaskPool | None = None,
        folder: str | Path = ".",
    ) -> None:
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
        if dead_load and self.crystal is None:
            raise ValueError("dead_load: needs the reference lattice; pass crystal=")
        if energy not in ("auto", "sites", "work"):
            raise ValueError(f"energy: got {energy!r}, expected 'auto', 'sites' or 'work'")
        if remove_net_force not in (False, "all", "interface"):
            raise ValueError(
                f"remove_net_force: got {remove_net_force!r}, expected False, 'all', 'interface'"
            )
        self.energy_mode = energy
        self.dead_load = dead_load
        self.remove_net_force = remove_net_force
        self.remove_net_torque = bool(remove_net_torque)

    def _options(self) -> dict[str, Any]:
        own = ("dead_load", "blend", "remove_net_force", "remove_net_torque")
        return super()._options() | {name: getattr(self, name) for name in own}

    def _forget(self) -> None:
        super()._forget()
        # No work leads from one system to another.
        self._last: tuple[np.ndarray, np.ndarray, float] | None = None

    def _prepare_loads(
        self,
        atoms: Atoms,
        clusters: list[Cluster],
        sites: LatticeSites | None,
        faulty: np.ndarray | None,
    ) -> None:
        self._loads = [
            self._dead_load_of(c, calc, sites, atoms)
            for c, calc in zip(clusters, self._qm_calcs, strict=True)
        ]
        self._axes = rotation_axes(atoms) if self.remove_net_torque else None
        self._free = ~self._regions.frozen
        self._shares = self._free.astype(float)
        if self.remove_net_force == "interface":
            if self.crystal is not None:
                reach = 1.2 * self.crystal.nearest_neighbour_distance
            else:
                reach = 2.6 * float(covalent_radii[atoms.numbers].max(initial=0.0))
            self._shares = interface_shares(atoms, self._weights, ~self._free, reach)

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
        forces = self._children.property("qm", calc, perfect, "forces")
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
        system = self._start(atoms, properties or ["forces"], system_changes)
        self._check_buffer(system)
        w = self._weights
        mm_forces, mm_energies, mm_total = self._evaluate_mm(system)
        # Most rows: a copy without the others is several times faster than choosing them.
        forces = mm_forces.copy()
        forces[self._other_rows] = 0.0
        layer = np.flatnonzero((w > 0) & (w < 1))
        forces[layer] *= (1 - w[layer])[:, None]
        additive = mm_energies is not None and all(map(has_sites, self._qm_calcs))
        requests = [
            self._request(cluster, calc, system, additive)
            for cluster, calc in zip(self.clusters, self._qm_calcs, strict=True)
        ]
        qm_energy: float | None = 0.0
        answers = self._children.ask_all(requests)
        for cluster, load, answer in zip(self.clusters, self._loads, answers, strict=True):
            cluster_forces = answer["forces"]
            if load is not None:
                cluster_forces = cluster_forces - load
            rows = cluster.index[cluster.qm]
            if len(layer):
                forces[rows] += w[rows, None] * cluster_forces[cluster.qm]
            else:
                forces[rows] = cluster_forces[cluster.qm]
            if qm_energy is None:
                continue
            if additive:
                energies = answer["energies"][cluster.qm]
                qm_energy += float((w[rows] * energies).sum() if len(layer) else energies.sum())
            else:
                qm_energy = qm_energy + float(answer["energy"]) if "energy" in answer else None
        if self.remove_net_force or self.remove_net_torque:
            forces = self._balanced(system, forces)
        results: dict[str, Any] = {"forces": forces}
        mm_energy = None if qm_energy is None else self._mm_energy(additive, mm_energies, mm_total)
        if qm_energy is not None and mm_energy is not None:
            results["energy"] = self._continued(system, forces, qm_energy + mm_energy)
        self.results = results
        self.timings["total"] += time.perf_counter() - begin

    def _request(self, cluster: Cluster, calc: Calculator, system: Atoms, additive: bool) -> Request:
        """What the quantum model is asked for, all of it at once: a calculator may serve several clusters."""
        atoms = cluster.update(system)
        if cluster.kind == "embedded":
            return Request("qm", calc, atoms, sites=cluster.qm)
        energy = "energies" if additive else "energy"
        offered = energy in calc.implemented_properties
        return Request("qm", calc, atoms, ("forces", energy) if offered else ("forces",))

    def _balanced(self, atoms: Atoms, forces: np.ndarray) -> np.ndarray:
        """Forces without what `remove_net_force` and `remove_net_torque` take away."""
        positions = unwrap(atoms.positions, self._seen.positions, atoms.cell.array, atoms.pbc)
        net_force = bool(self.remove_net_force)
        return balanced(forces, positions, self._shares, self._free, self._axes, net_force=net_force)

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
            answer = self._children.ask(Request("mm", self.mm, atoms, sites=self._mm_mask))
            return answer["forces"], answer["energies"], None
        offered = self.mm.implemented_properties
        names = [n for n in ("energies", "energy") if n in offered][:1]
        answer = self._children.ask(Request("mm", self.mm, atoms, ("forces", *names)))
        total = answer.get("energy")
        return answer["forces"], answer.get("energies"), None if total is None else float(total)

    def _mm_energy(
        self, additive: bool, mm_energies: np.ndarray | None, mm_total: float | None
    ) -> float | None:
        """The part of the MM model in the energy (eV), or None where it is not known."""
        if mm_energies is not None:
            rows = self._mm_mask.copy()
            if additive and self.blend:
                return float((1 - self._weights[rows]) @ mm_energies[rows])
            if not additive:
                # What remains of E_MM(all) - E_MM(cluster) without the cluster's surface.
                for cluster in self.clusters:
                    rows[cluster.index] = False
            return float(mm_energies[rows].sum())
        if mm_total is None:
            return None
        parts = [float(self._children.property("mm", self.mm, c.atoms, "energy")) for c in self.clusters]
        return mm_total - sum(parts)
