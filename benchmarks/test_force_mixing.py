"""ForceMixingCalculator against the calls of its two models alone, and ase's ForceQMMM.

Kumagai's silicon is the quantum model (r_qm 8 Å, r_buffer 6 Å, an open cluster), Stillinger-Weber's or the
Taylor expansion of Kumagai's the far-field model. Kumagai's is cheap for a quantum model, which makes the
overhead look large.
"""

import time

import numpy as np
import pytest
from ase.calculators.qmmm import ForceQMMM
from conftest import kumagai, memory, note, reset_peak_memory, stillinger_weber

from ase_qmmm import EnergyMixingCalculator, ForceMixingCalculator, Regions, SiteCalculator, SiteResult

R_QM, R_BUFFER = 8.0, 6.0  # Å
CUTOFF = 5.0  # Å, of the Taylor model
SIZES = {1728: 6, 8000: 10, 21_952: 14, 216_000: 30}  # atoms: cubic cells per side
CASES = [
    pytest.param((n, mm), id=f"{n}-{mm}", marks=[pytest.mark.slow] if n > 100_000 else [])
    for n in SIZES
    for mm in ("sw", "taylor")
]


@pytest.fixture(params=CASES)
def case(request, benchmark, silicon, taylor):
    """Structure, regions, quantum and far-field model."""
    n, name = request.param
    benchmark.group = f"force mixing, {n} Si atoms, far field {name}"
    atoms = silicon.supercell(SIZES[n], cubic=True)
    atoms.rattle(0.03, seed=1)
    middle = atoms.cell.sum(axis=0) / 2
    regions = Regions.from_distance(atoms, middle, r_qm=R_QM, r_buffer=R_BUFFER)
    mm = stillinger_weber() if name == "sw" else taylor(CUTOFF)
    return atoms, regions, kumagai(), mm


class SiteModel(SiteCalculator):
    """Takes site energies and forces of a model for weighted ones: its work, not its sense."""

    cutoff = R_BUFFER

    def __init__(self, model):
        super().__init__()
        self.model = model

    def evaluate(self, atoms, weights=None):
        energies = self.model.get_property("energies", atoms)
        w = np.ones(len(atoms)) if weights is None else weights
        forces = self.model.get_property("forces", atoms)
        return SiteResult(float(w @ energies), energies, forces, np.zeros((3, 3)))


def moving(atoms):
    """Argument maker: the atoms at slightly new positions, so that nothing is taken from a cache."""
    rng = np.random.default_rng(2)

    def setup():
        atoms.positions += rng.normal(size=(len(atoms), 3)) * 1e-4
        return (), {}

    return setup


def run(benchmark, function, atoms):
    rounds = 2 if len(atoms) > 100_000 else 5
    benchmark.pedantic(function, setup=moving(atoms), rounds=rounds)
    note(benchmark, len(atoms))


@pytest.mark.parametrize("mixing", ["force", "energy"])
def test_mixture(benchmark, case, mixing):
    atoms, regions, qm, mm = case
    if mixing == "force":
        calc = ForceMixingCalculator(qm, mm, regions, cluster="open", dead_load=False)
    else:
        mm = mm if isinstance(mm, SiteCalculator) else SiteModel(mm)
        calc = EnergyMixingCalculator(SiteModel(qm), mm, regions, cluster="open")
    reset_peak_memory()
    before = memory("VmRSS")
    begin = time.perf_counter()
    calc.get_property("forces", atoms)  # carves the cluster, matches the stencils
    first = dict(calc.timings)
    benchmark.extra_info["first_call_s"] = round(time.perf_counter() - begin, 3)
    run(benchmark, lambda: calc.get_property("forces", atoms), atoms)
    later = {name: calc.timings[name] - first[name] for name in first}
    children = later["qm"] + later["mm"]
    info = {
        "cluster_atoms": sum(len(c.index) for c in calc.clusters),
        "first_overhead_s": round(first["total"] - first["qm"] - first["mm"], 3),
        "overhead_percent": round(100 * (later["total"] - children) / children, 2),
    }
    if before is not None:
        info["peak_memory_MB"] = round(memory("VmHWM") - before, 1)
    benchmark.extra_info.update(info)
    print(f"\n{benchmark.group}: {benchmark.extra_info}")


def test_floor_children(benchmark, case):
    """The quantum model on the cluster and the far-field model on what it is asked for, without a mixture."""
    atoms, regions, qm, mm = case
    calc = ForceMixingCalculator(qm, mm, regions, cluster="open", dead_load=False)
    (cluster,) = calc.prepare(atoms)
    outside = ~regions.qm

    def call():
        cluster.update(atoms)
        qm.get_property("forces", cluster.atoms)
        if hasattr(mm, "evaluate_sites"):
            mm.evaluate_sites(atoms, outside)
        else:
            mm.get_property("forces", atoms)

    call()
    run(benchmark, call, atoms)


@pytest.mark.filterwarnings("ignore")
def test_peer_ase_force_qmmm(benchmark, case):
    atoms, regions, qm, mm = case
    if len(atoms) > 2000:
        pytest.skip("ForceQMMM stores a dense table of distances")
    if hasattr(mm, "evaluate_sites"):
        pytest.skip("once is enough")
    reset_peak_memory()
    before = memory("VmRSS")
    begin = time.perf_counter()
    calc = ForceQMMM(atoms, regions.qm, qm, mm, buffer_width=R_BUFFER, zero_mean=False)
    calc.get_property("forces", atoms)
    benchmark.extra_info["first_call_s"] = round(time.perf_counter() - begin, 3)
    run(benchmark, lambda: calc.get_property("forces", atoms), atoms)
    benchmark.extra_info["cluster_atoms"] = len(calc.get_qm_cluster(atoms))
    if before is not None:
        benchmark.extra_info["peak_memory_MB"] = round(memory("VmHWM") - before, 1)
    print(f"\n{benchmark.group}: {benchmark.extra_info}")
