"""Bad regions, failing models, calculators used again: the faults of force mixing, for other mixtures."""

from __future__ import annotations

import itertools
import logging
import os

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import InputError, PropertyNotImplementedError
from ase.io import read
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE
from mixing_fixtures import TUNGSTEN, FinnisSinclair, tungsten_vacancy

from ase_qmmm import (
    ChildCalculatorError,
    EnergyMixingCalculator,
    ForceMixingCalculator,
    Regions,
    SiteResult,
    StructureError,
    SubtractiveMixingCalculator,
)
from ase_qmmm.mixing import MovingRegions
from ase_qmmm.parallel import TaskPool

RANGE = FinnisSinclair.cutoff + 0.1
MIXTURES = [EnergyMixingCalculator, SubtractiveMixingCalculator]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Structures of failed calls are written into the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=MIXTURES, ids=["energy", "subtractive"])
def mixture(request):
    """Maker of a mixture, with a buffer of 3 Å unless regions bring one."""

    def make(regions=(0,), qm=None, mm=None, **options):
        if not isinstance(regions, Regions):
            options = {"r_buffer": 3.0} | options
        return request.param(qm or FinnisSinclair(), mm or FinnisSinclair(1.8), regions, **options)

    return make


def forces(calc, atoms):
    return calc.get_property("forces", atoms)


# -- regions and structures (masks, indices, empty sets, clusters, properties) -------------------------------


def nan_position(atoms):
    atoms.positions[7, 1] = np.nan
    return atoms


def no_cell(atoms):
    atoms.cell[1] = 0.0
    return atoms


def same(atoms):
    return atoms


def open_along_z(atoms):
    atoms.pbc = (True, True, False)
    return atoms


# Regions, options, what to do with 54 atoms of tungsten, property, what is expected.
FAULTS = {
    "NaN position": ([0], {}, nan_position, InputError, "atom 7 has y = nan"),
    "singular cell": ([0], {}, no_cell, InputError, "vector 1 is zero"),
    "no structure": ([0], {}, lambda atoms: 3, TypeError, "got int, expected ase.Atoms"),
    "mask of another length": (
        np.arange(50) < 2,
        {},
        same,
        ValueError,
        "made for 50 atoms, but there are 54",
    ),
    "index out of range": ([0, 54], {}, same, IndexError, "qm: index 54 .* 54 atoms"),
    "duplicate index": ([1, -53], {}, same, ValueError, "atom 1 is listed twice"),
    "indices as floats": ([0.0, 1.0], {}, same, TypeError, "float64"),
    "no qm atom": ([], {}, same, ValueError, "no qm atom.*allow_empty_qm=True"),
    "two buffers": (Regions([0], [1], n_atoms=54), {"r_buffer": 3.0}, same, ValueError, "buffer already"),
    "no box": ([0], {"cluster": "periodic"}, same, StructureError, "'periodic' is not possible.*crystal="),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name, mixture):
    regions, options, spoil, error, text = FAULTS[name]
    atoms = spoil(TUNGSTEN.supercell(3, cubic=True))
    with pytest.raises(error, match=text):
        forces(mixture(regions, **options), atoms)


BAD_ARGUMENTS = {
    "no calculator": ({"qm": 3}, TypeError, "qm: got int.*ASE calculator"),
    "cluster kind": ({"cluster": "ball"}, ValueError, "cluster: got 'ball'"),
    "crystal": ({"crystal": "W"}, TypeError, "crystal: got str.*Crystal"),
    "unknown keyword": ({"r_bufer": 3.0}, TypeError, "'r_bufer'; did you mean 'r_buffer'"),
    "no buffer": ({"r_buffer": None}, ValueError, "r_buffer: give the width"),
    "negative buffer": ({"r_buffer": -1.0}, ValueError, "r_buffer: got -1.0.*>= 0"),
    "NaN buffer": ({"r_buffer": np.nan}, ValueError, "r_buffer: got nan"),
    "word for a buffer": ({"r_buffer": "wide"}, TypeError, "r_buffer: got 'wide'"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments(name, mixture):
    options, error, text = BAD_ARGUMENTS[name]
    with pytest.raises(error, match=text):
        mixture(**options)


@pytest.mark.parametrize(
    "selection", [[3, 4], (3, 4), np.array([3, 4]), slice(3, 5), np.isin(np.arange(54), [3, 4]), [-51, -50]]
)
def test_all_forms_of_a_selection_are_one(selection, mixture):
    atoms = TUNGSTEN.supercell(3, cubic=True)
    atoms.rattle(0.05, seed=1)
    assert np.array_equal(forces(mixture(selection), atoms), forces(mixture([3, 4]), atoms))


@pytest.mark.parametrize("name", ["stress", "magmom"])
def test_properties_that_do_not_exist_here(name, mixture):
    atoms = open_along_z(TUNGSTEN.supercell(3, cubic=True))
    calc = mixture(cluster="open")
    with pytest.raises(PropertyNotImplementedError):
        calc.get_property(name, atoms)
    assert name not in calc.results


def test_thin_buffer_is_told_once(mixture, caplog):
    atoms, place = tungsten_vacancy(5, rattle=0.05)
    calc = mixture(Regions.from_distance(atoms, place, 3.0, 2.0), cluster="open")
    with caplog.at_level(logging.WARNING, logger="ase_qmmm"):
        forces(calc, atoms)
        atoms.rattle(0.01)
        forces(calc, atoms)
    assert caplog.text.count(f"Use r_buffer >= {FinnisSinclair.cutoff:.2f} Å") == 1


# -- models that fail ----------------------------------------------------------------------------------------


class Faulty(FinnisSinclair):
    """Misbehaves once, at evaluation number `on_call`."""

    def __init__(self, fault, strength=1.896373, on_call=1):
        super().__init__(strength)
        self.fault, self.on_call, self.calls = fault, on_call, 0

    def evaluate(self, atoms, weights=None):
        self.calls += 1
        result = super().evaluate(atoms, weights)
        if self.calls != self.on_call:
            return result
        if self.fault == "raise":
            raise RuntimeError("the disk is on fire")
        if self.fault == "silent":
            raise RuntimeError
        values = dict(vars(result))
        if self.fault == "nan":
            values["forces"][3, 1] = np.nan
        if self.fault == "infinite":
            values["energies"][2] = np.inf
            values["energy"] = np.inf
        if self.fault == "shape":
            values["forces"] = values["forces"][:-1]
        return SiteResult(**values)


@pytest.mark.parametrize("which", ["qm", "mm"])
@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("raise", "the disk is on fire"),
        ("silent", "RuntimeError"),
        ("nan", "forces not finite on atom 3"),
        ("infinite", "energ(y|ies) not finite"),
        ("shape", r"forces.* of shape|shape"),
    ],
)
def test_failing_child(which, fault, text, mixture, folder):
    """The child is named, its structure written, nothing is kept, and the next call is right."""
    atoms, place = tungsten_vacancy(4, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, 2.0)
    options = {"cluster": "open", "crystal": TUNGSTEN}
    expected = forces(mixture(regions, **options), atoms)
    strength = {"qm": 1.896373, "mm": 1.8}[which]
    bad = Faulty(fault, strength, on_call=0)
    calc = mixture(regions, **options, **{which: bad})
    before = atoms.copy()
    before.rattle(0.01, seed=9)
    forces(calc, before)
    # Subtraction has copies of the MM model for its clusters; the system's own comes first.
    bad.on_call = bad.calls + 1
    with pytest.raises(ChildCalculatorError, match=rf"^{which} calculator \(Faulty.*{text}"):
        forces(calc, atoms)
    assert calc.results == {}
    assert len(read(folder / f"failed-{which}.extxyz")) > 0
    assert np.abs(forces(calc, atoms) - expected).max() < 1e-10
    assert np.abs(forces(calc, before.copy()) - forces(mixture(regions, **options), before)).max() < 1e-10


class Killed(FinnisSinclair):
    """Ends the worker process it runs in, the first time only if there is a file `flag`."""

    def __init__(self, flag=None):
        super().__init__()
        self.parent, self.flag = os.getpid(), flag

    def evaluate(self, atoms, weights=None):
        if os.getpid() != self.parent and (self.flag is None or self.flag.exists()):
            if self.flag is not None:
                self.flag.unlink()
            os._exit(9)
        return super().evaluate(atoms, weights)


@pytest.mark.slow
@pytest.mark.parametrize("once", [True, False])
def test_killed_worker(once, mixture, folder):
    """A worker that dies once costs nothing; the call that always kills is named, and nothing is kept."""
    atoms = TUNGSTEN.supercell(7, cubic=True)
    atoms.rattle(0.05, seed=1)
    centres = np.array([np.zeros(3), atoms.cell.array.sum(axis=0) / 2])
    regions = Regions.from_distance(atoms, centres, 3.0, 2.9)
    options = {"cluster": "open", "crystal": TUNGSTEN}
    expected = forces(mixture(regions, **options), atoms)
    flag = folder / "flag"
    with TaskPool(2, retries=1) as pool:
        calc = mixture(regions, qm=Killed(flag if once else None), pool=pool, **options)
        if once:
            calc.prepare(atoms)
            flag.touch()
            assert np.abs(forces(calc, atoms) - expected).max() < 1e-10
            assert not flag.exists()
        else:
            with pytest.raises(ChildCalculatorError, match=r"^qm calculator \(Killed"):
                forces(calc, atoms)
            assert calc.results == {}


# -- used again ----------------------------------------------------------------------------------------------


def swapped(atoms):
    return atoms[np.random.default_rng(2).permutation(len(atoms))]


def large_strain(atoms):
    atoms.set_cell(atoms.cell.array * 1.08, scale_atoms=True)
    return atoms


def larger(atoms):
    del atoms
    bigger = TUNGSTEN.supercell(6, cubic=True)
    bigger.rattle(0.05, seed=8)
    return bigger


def slab(atoms):
    atoms.pbc = (True, True, False)
    atoms.center(vacuum=8.0, axis=2)
    return atoms


def wrapped(atoms):
    atoms.translate([7.0, 1.0, 9.0])
    atoms.wrap()
    return atoms


def vacancy_elsewhere(atoms):
    _, place = tungsten_vacancy(5)
    far = np.argmax(np.linalg.norm(atoms.positions - place, axis=1))
    atoms.positions[far] = place
    return atoms


@pytest.mark.parametrize("change", [swapped, large_strain, larger, slab, wrapped, vacancy_elsewhere])
def test_used_again(change, mixture):
    """For another system the answer is that of a new calculator, and so it is back with the first."""
    atoms, place = tungsten_vacancy(5, rattle=0.05)
    selection = np.flatnonzero(np.linalg.norm(atoms.positions - place, axis=1) < 4.2).tolist()
    options = {"cluster": "open", "crystal": TUNGSTEN}
    calc = mixture(selection, **options)
    forces(calc, atoms)
    other = change(atoms.copy())
    expected = forces(mixture(selection, **options), other)
    assert np.abs(forces(calc, other) - expected).max() < 1e-9
    assert np.abs(forces(calc, atoms) - forces(mixture(selection, **options), atoms)).max() < 1e-9


def test_a_bad_structure_leaves_no_results_and_no_harm(mixture):
    atoms, place = tungsten_vacancy(4, rattle=0.05)
    calc = mixture(Regions.from_distance(atoms, place, 3.0, 2.0))
    expected = forces(calc, atoms)
    with pytest.raises(InputError):
        forces(calc, nan_position(atoms.copy()))
    assert calc.results == {}
    assert np.array_equal(forces(calc, atoms), expected)


# -- regions that move (stale buffers) -----------------------------------------------------------------------


@pytest.fixture
def moving(mixture):
    atoms, place = tungsten_vacancy(5)
    calc = mixture(Regions.from_distance(atoms, place, 4.0, RANGE), cluster="open", crystal=TUNGSTEN)
    atoms.calc = calc
    return atoms, place


def test_forces_are_those_of_the_moved_regions(moving, mixture):
    """A jump of the vacancy takes the regions along; then forces are those of a new calculator."""
    atoms, place = moving
    mover = MovingRegions(atoms, "detect", r_inner=4.0, r_outer=4.4, r_buffer=RANGE, crystal=TUNGSTEN)
    atoms.get_forces()
    jumper = int(np.argmin(np.linalg.norm(atoms.positions - place, axis=1)))
    vacant = atoms.positions[jumper].copy()
    atoms.positions[jumper] = place
    mover()
    assert len(mover.history) == 1
    regions = atoms.calc.regions
    assert regions.qm[Regions.from_distance(atoms, vacant, 4.0).qm].all()
    fresh = mixture(regions, cluster="open", crystal=TUNGSTEN)
    assert np.abs(atoms.get_forces() - forces(fresh, atoms)).max() < 1e-10
    assert atoms.get_potential_energy() == pytest.approx(fresh.get_property("energy", atoms), abs=1e-9)


def test_energy_jumps_with_the_regions_only(moving):
    """Between two changes of the regions the total energy is kept."""
    atoms, place = moving
    traveller = int(np.argmin(np.linalg.norm(atoms.positions - place, axis=1)))
    mover = MovingRegions(atoms, "hysteretic", centres=[traveller], r_inner=3.5, r_outer=4.5, r_buffer=RANGE)
    rng = np.random.default_rng(5)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(0.03 * atoms.get_masses())[:, None])
    atoms.arrays["momenta"][traveller] = (place - atoms.positions[traveller]) * 20.0
    energies, seen = [], []

    def look():
        mover()
        seen.append(atoms.calc.regions)
        energies.append(atoms.get_potential_energy() + atoms.get_kinetic_energy())

    with VelocityVerlet(atoms, 2 * units.fs) as dynamics:
        dynamics.attach(look)
        dynamics.run(60)
    # The buffer counts, too: subtraction gives a larger cluster another zero of energy.
    steps = np.abs(np.diff(energies))
    changed = np.array([one != other for one, other in itertools.pairwise(seen)])
    assert len(mover.history) > 0 and not changed.all()
    assert steps[~changed].max() < 0.02


def test_relaxation_with_moving_regions(moving):
    atoms, _ = moving
    mover = MovingRegions(atoms, "detect", r_inner=4.0, r_outer=5.0, r_buffer=RANGE, crystal=TUNGSTEN)
    with FIRE(atoms, logfile=None) as optimiser:
        optimiser.attach(mover, interval=1)
        assert optimiser.run(fmax=0.02, steps=80)
    assert len(mover.history) <= 1


def test_force_mixing_moves_alike():
    """The regions of all mixtures are the same, whatever is mixed."""
    atoms, place = tungsten_vacancy(5)
    found = []
    for make in (*MIXTURES, ForceMixingCalculator):
        copy = atoms.copy()
        copy.calc = make(
            FinnisSinclair(),
            FinnisSinclair(1.8),
            Regions.from_distance(copy, place, 4.0, RANGE),
            cluster="open",
        )
        MovingRegions(copy, "hysteretic", centres=place + 1.0, r_inner=4.0, r_outer=4.5, r_buffer=3.0)
        found.append(copy.calc.regions)
    assert found[0] == found[1] == found[2]
