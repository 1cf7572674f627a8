"""Force mixing against ase's ForceQMMM and matscipy's MCFM: time, memory, and error of the forces.

1728 atoms of silicon; Kumagai's potential as quantum model, Stillinger and Weber's as far field. The quantum
atoms are a ball of 6 Å, in the middle of the cell or about its corner, with a buffer as wide as the range of
the quantum model: their forces are then exact, if the cluster is cut as it should be. MCFM counts its buffer
in bonds, four of which are enough. Processor time in the two models is counted apart.

And what mixtures do themselves, by size, with models that return zeros at once.
"""

import time
import tracemalloc

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.qmmm import ForceQMMM
from conftest import kumagai, note, stillinger_weber
from matscipy.calculators.mcfm.calculator import MultiClusterForceMixingPotential
from matscipy.calculators.mcfm.neighbour_list_mcfm.neighbour_list_mcfm import NeighbourListMCFM
from matscipy.calculators.mcfm.qm_cluster import QMCluster

from ase_qmmm import EnergyMixingCalculator, ForceMixingCalculator, Regions, SiteCalculator, SiteResult

R_QM, R_BUFFER = 6.0, 6.7  # Å
HOPS = 4
CELLS = 6


class WithoutHydrogen(Calculator):
    """Kumagai's silicon that looks past the hydrogen which MCFM puts on cut bonds."""

    implemented_properties = ["energy", "forces"]

    def __init__(self):
        super().__init__()
        self.model = kumagai()

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        silicon = self.atoms.numbers == 14
        forces = np.zeros((len(self.atoms), 3))
        forces[silicon] = self.model.get_property("forces", self.atoms[silicon])
        self.results = {"energy": 0.0, "forces": forces}


SPENT = [0.0]  # s of processor time in the models


def clocked(calc):
    """`calc`, which adds its time to ``SPENT``."""
    calculate = calc.calculate

    def timed(*args, **kwargs):
        begin = time.process_time()
        calculate(*args, **kwargs)
        SPENT[0] += time.process_time() - begin

    calc.calculate = timed
    return calc


def mcfm(atoms, qm):
    cluster = QMCluster()
    cluster.attach_neighbour_list(NeighbourListMCFM(atoms, {("Si", "Si"): 2.8}, skin=0.0))
    cluster.neighbour_list.update(atoms)
    cluster.attach_clustering_module()
    calc = MultiClusterForceMixingPotential(
        classical_calculator=clocked(stillinger_weber()),
        qm_calculator=clocked(WithoutHydrogen()),
        qm_cluster=cluster,
        forced_qm_list=np.flatnonzero(qm).tolist(),
        buffer_hops=HOPS,
    )
    calc.doParallel = False
    return calc


CODES = {
    "ForceMixingCalculator": lambda atoms, qm: ForceMixingCalculator(
        clocked(kumagai()), clocked(stillinger_weber()), qm, r_buffer=R_BUFFER, cluster="open"
    ),
    "ase ForceQMMM": lambda atoms, qm: ForceQMMM(
        atoms, qm, clocked(kumagai()), clocked(stillinger_weber()), buffer_width=R_BUFFER, zero_mean=False
    ),
    "matscipy MCFM": mcfm,
}


@pytest.mark.parametrize("place", ["middle", "corner"])
@pytest.mark.parametrize("code", CODES)
@pytest.mark.filterwarnings("ignore")
def test_peers(benchmark, silicon, code, place):
    benchmark.group = f"force mixing, 1728 Si atoms, QM ball in the {place}"
    atoms = silicon.supercell(CELLS, cubic=True)
    atoms.rattle(0.05, seed=1)
    centre = atoms.cell.sum(axis=0) / 2 if place == "middle" else np.zeros(3)
    qm = Regions.from_distance(atoms, centre, R_QM).qm
    exact = kumagai().get_property("forces", atoms)

    tracemalloc.start()
    calc = CODES[code](atoms, qm)
    error = calc.get_property("forces", atoms) - exact
    benchmark.extra_info["peak_MB"] = round(tracemalloc.get_traced_memory()[1] / 1e6, 1)
    tracemalloc.stop()
    benchmark.extra_info["error_eV_per_A"] = float(f"{np.linalg.norm(error[qm], axis=1).max():.1e}")

    rng = np.random.default_rng(2)

    def move():
        atoms.positions += rng.normal(size=atoms.positions.shape) * 1e-4
        return (), {}

    begin, before = time.process_time(), SPENT[0]
    CODES[code](atoms.copy(), qm).get_property("forces", atoms.copy())
    first = time.process_time() - begin - SPENT[0] + before
    own, children = [], []

    def call():
        begin, before = time.process_time(), SPENT[0]
        calc.get_property("forces", atoms)
        children.append(SPENT[0] - before)
        own.append(time.process_time() - begin - children[-1])

    benchmark.pedantic(call, setup=move, rounds=5)
    ms = {"own_ms": min(own), "models_ms": min(children), "own_first_ms": first}
    ms = {name: round(1e3 * seconds, 1) for name, seconds in ms.items()}
    note(benchmark, len(atoms), qm_atoms=int(qm.sum()), **ms)
    print(f"\n{benchmark.group}, {code}: {benchmark.extra_info}")


class Nothing(SiteCalculator):
    """No energy, no forces: what is left is the work of the mixture."""

    cutoff = 5.0

    def evaluate(self, atoms, weights=None):
        n = len(atoms)
        return SiteResult(0.0, np.zeros(n), np.zeros((n, 3)), np.zeros((3, 3)))


@pytest.mark.parametrize(
    "cells", [6, 14, pytest.param(20, marks=pytest.mark.slow), pytest.param(30, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("mixing", [ForceMixingCalculator, EnergyMixingCalculator])
def test_own_work(benchmark, silicon, cells, mixing):
    atoms = silicon.supercell(cells, cubic=True)
    benchmark.group = f"own work of mixtures, {len(atoms)} Si atoms"
    regions = Regions.from_distance(atoms, atoms.cell.sum(axis=0) / 2, 8.0, R_BUFFER)
    tracemalloc.start()
    calc = mixing(Nothing(), Nothing(), regions, cluster="open")
    calc.get_property("forces", atoms)
    first = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    atoms.positions += 1e-4
    calc.get_property("forces", atoms)
    held, later = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    own = []

    def call():
        begin = time.process_time()
        calc.get_property("forces", atoms)
        own.append(time.process_time() - begin)

    def move():
        atoms.positions += 1e-4
        return (), {}

    benchmark.pedantic(call, setup=move, rounds=10)
    megabytes = {"first_peak_MB": first, "peak_MB": later, "held_MB": held}
    megabytes = {name: round(size / 1e6, 1) for name, size in megabytes.items()}
    note(benchmark, len(atoms), own_ms=round(1e3 * min(own), 2), **megabytes)
    print(f"\n{benchmark.group}, {mixing.__name__}: {benchmark.extra_info}")
