"""ASE's optimisers and dynamics on a mixture, its contract, its memory, its word about thin buffers."""

from __future__ import annotations

import logging
import tracemalloc

import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.precon import PreconLBFGS
from mixing_fixtures import SILICON, Zero, kumagai, silicon_cell, stillinger_weber, vacancy

from ase_qmmm import ForceMixingCalculator, Regions
from ase_qmmm.contract import check_calculator

LOGGER = "ase_qmmm.mixing.force_mixing"


def small_mixture(rattle=0.0):
    atoms, place = vacancy(3, rattle=rattle)
    regions = Regions.from_distance(atoms, place, 4.2, 3.0)
    atoms.calc = ForceMixingCalculator(kumagai(), stillinger_weber(), regions, cluster="open")
    return atoms


# -- optimisers and dynamics ---------------------------------------------------------------------------------

OPTIMISERS = {
    "BFGS": BFGS,
    "FIRE": FIRE,
    "LBFGS": LBFGS,
    # The Armijo line search needs an energy that belongs to the forces.
    "PreconLBFGS": lambda atoms, **options: PreconLBFGS(atoms, use_armijo=False, **options),
}


@pytest.fixture(scope="module")
def relaxed():
    atoms = small_mixture()
    with BFGS(atoms, logfile=None) as optimiser:
        assert optimiser.run(fmax=1e-4, steps=200)
    return atoms


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers(name, relaxed):
    atoms = small_mixture()
    start = np.abs(atoms.get_forces()).max()
    with OPTIMISERS[name](atoms, logfile=None) as optimiser:
        assert optimiser.run(fmax=0.005, steps=200)
    assert start > 0.05
    # Forces of 0.005 eV/Å over the softest springs of silicon, about 1 eV/Å^2, leave some 0.005 Å; the
    # same minimum, not another, is what is asked.
    assert np.abs(atoms.positions - relaxed.positions).max() < 0.03


def test_dynamics():
    atoms = small_mixture(rattle=0.02)
    spread = np.sqrt(300 * units.kB * atoms.get_masses())[:, None]
    atoms.set_momenta(spread * np.random.default_rng(3).normal(size=(len(atoms), 3)))
    first = atoms.get_forces()
    with VelocityVerlet(atoms, timestep=1.0 * units.fs) as dynamics:
        dynamics.run(5)
    moved = atoms.positions - small_mixture(rattle=0.02).positions
    assert 0 < np.abs(moved).max() < 0.2
    assert not np.array_equal(atoms.get_forces(), first)
    # The state on the way does not matter.
    fresh = small_mixture()
    fresh.positions = atoms.positions
    assert np.abs(fresh.get_forces() - atoms.get_forces()).max() < 1e-10


def test_atoms_wrapped_on_the_way():
    atoms = small_mixture(rattle=0.03)
    expected = atoms.get_forces()
    atoms.wrap()
    assert np.abs(atoms.get_forces() - expected).max() < 1e-10
    atoms.positions += np.random.default_rng(1).integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    assert np.abs(atoms.get_forces() - expected).max() < 1e-10


# -- contract ------------------------------------------------------------------------------------------------

# Regions given by atom neither follow another order nor are there in the second half of a supercell.
SKIP = ("permutation", "supercell")
# ASE's EMT holds a lambda, which pickle refuses.
SKIP_EMT = (*SKIP, "pickles")


def test_contract_of_the_whole_cell(copper_mm, copper_crystal):
    """All atoms qm but the buffer: one cluster, the whole cell."""
    atoms = copper_crystal.supercell(2, cubic=True)
    atoms.rattle(0.05, seed=2)
    calc = ForceMixingCalculator(EMT(), copper_mm, list(range(4)), r_buffer=8.0)
    assert not calc.conservative
    check_calculator(calc, atoms, skip=SKIP_EMT)
    assert calc.clusters[0].kind == "whole"


@pytest.mark.parametrize("kind", ["open", "periodic"])
def test_contract_of_a_cluster(kind, copper_mm, copper_crystal):
    atoms = copper_crystal.supercell(4, cubic=True)
    atoms.rattle(0.05, seed=2)
    centre = atoms.positions[40]
    # A little off the lattice, so that no face of a box goes through a site.
    regions = Regions.from_distance(atoms, centre, 2.9, 1.0)
    calc = ForceMixingCalculator(EMT(), copper_mm, regions, cluster=kind)
    # Of lattice sites on two opposite faces of the box it holds those on one, by the direction of the
    # crystal's axes; a turned crystal has 24 equivalent choices of them.
    skip = (*SKIP_EMT, "rotation") if kind == "periodic" else SKIP_EMT
    check_calculator(calc, atoms, skip=skip)
    assert [c.kind for c in calc.clusters] == [kind]


def test_contract_with_tight_binding(silicon_qm, silicon_mm, silicon_crystal):
    atoms = silicon_cell(2, silicon_crystal)
    atoms.rattle(0.05, seed=2)
    qm = silicon_qm.with_options(mu=5.8)
    regions = Regions.from_distance(atoms, 5, 2.5, 0.5)
    check_calculator(ForceMixingCalculator(qm, silicon_mm, regions, cluster="open"), atoms, skip=SKIP)


# -- memory --------------------------------------------------------------------------------------------------


def peak(n, crystal, **options):
    """Largest memory (bytes) of a first and a second call with models that need none."""
    atoms = silicon_cell(n)
    centre = atoms.cell.array.sum(axis=0) / 2
    tracemalloc.start()
    try:
        if "r_buffer" in options:
            regions = np.linalg.norm(atoms.positions - centre, axis=1) < 5.0
        else:
            regions = Regions.from_distance(atoms, centre, 5.0, 4.0)
        calc = ForceMixingCalculator(Zero(), Zero(), regions, crystal=crystal, **options)
        calc.get_property("forces", atoms)
        atoms.rattle(0.01)
        calc.get_property("forces", atoms)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("crystal", "options"),
    [(None, {}), (None, {"r_buffer": 4.0}), pytest.param(SILICON, {}, marks=pytest.mark.slow)],
)
def test_memory_grows_linearly(crystal, options):
    small, large = (peak(n, crystal, **options) for n in (8, 13))
    atoms = 8 * 8**3, 8 * 13**3
    # 4096 and 17 576 atoms; a table of all pairs would need 18 times as much, not 4.3.
    assert large / small < 1.3 * atoms[1] / atoms[0]
    assert large < 20_000 * atoms[1]


# -- thin buffers ------------------------------------------------------------------------------------------


def test_thin_buffer_is_told_once(caplog, silicon_qm, silicon_mm, silicon_crystal):
    atoms = silicon_cell(3, silicon_crystal)
    distances = atoms.get_distances(40, range(len(atoms)), mic=True)
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, [40], r_buffer=4.0, cluster="open")
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        calc.get_property("forces", atoms)
        # Another carving for the same regions says nothing new.
        atoms.positions[100] += 1.5
        calc.prepare(atoms)
    (record,) = caplog.records
    width = distances[distances > 4.0].min()
    assert f"{width:.2f} Å from a qm atom" in record.getMessage()
    assert f"Use r_buffer >= {silicon_qm.cutoff:.2f} Å" in record.getMessage()


def test_thin_buffer_is_told_for_new_regions(caplog, silicon_qm, silicon_mm, silicon_crystal):
    atoms = silicon_cell(3, silicon_crystal)
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, [40], r_buffer=3.0, cluster="open")
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        for regions in ([40], [41]):
            calc.regions = regions
            calc.get_property("forces", atoms)
    assert len(caplog.records) == 2


@pytest.mark.parametrize("case", ["wide", "periodic", "no range"])
def test_no_word_about_other_buffers(case, caplog, silicon_qm, silicon_mm, silicon_crystal):
    """Enough buffer, no surface, or a model that does not tell its range."""
    atoms = silicon_cell(4, silicon_crystal)
    qm = kumagai() if case == "no range" else silicon_qm
    width = silicon_qm.cutoff + 0.1 if case == "wide" else 3.0
    kind = "periodic" if case == "periodic" else "open"
    calc = ForceMixingCalculator(qm, silicon_mm, [40], r_buffer=width, cluster=kind)
    with caplog.at_level(logging.WARNING, logger=LOGGER):
        calc.get_property("forces", atoms)
    assert calc.clusters[0].kind == kind
    assert not caplog.records
