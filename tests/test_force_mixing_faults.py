"""Bad arguments, failing models, and a calculator used again for something else."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from ase.calculators.calculator import InputError, PropertyNotImplementedError
from mixing_fixtures import (
    KUMAGAI_RANGE,
    SILICON,
    Faulty,
    kumagai,
    silicon_cell,
    stillinger_weber,
    vacancy,
)

from ase_qmmm import ChildCalculatorError, ForceMixingCalculator, Regions, StructureError, TaylorForces

FULL = KUMAGAI_RANGE + 0.1


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Structures of failed calls are written into the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def mixture(regions=(0,), qm=None, mm=None, **options):
    """Kumagai and Stillinger–Weber, with a buffer of 3 Å unless regions bring one."""
    if not isinstance(regions, Regions):
        options = {"r_buffer": 3.0} | options
    return ForceMixingCalculator(qm or kumagai(), mm or stillinger_weber(), regions, **options)


def forces(calc, atoms):
    return calc.get_property("forces", atoms)


# -- bad input (the table of faults: mask lengths, indices, empty sets, clusters, properties) ----------------

BAD_ARGUMENTS = {
    "no calculator": (lambda: mixture(qm=3), TypeError, "qm: got int.*ASE calculator"),
    "cluster kind": (
        lambda: mixture(cluster="ball"),
        ValueError,
        "cluster: got 'ball'.*auto, periodic, open",
    ),
    "crystal": (lambda: mixture(crystal="Si"), TypeError, "crystal: got str.*Crystal"),
    "unknown keyword": (lambda: mixture(r_bufer=3.0), TypeError, "'r_bufer'; did you mean 'r_buffer'"),
    "no buffer": (lambda: mixture([0], r_buffer=None), ValueError, "r_buffer: give the width"),
    "negative buffer": (lambda: mixture(r_buffer=-1.0), ValueError, "r_buffer: got -1.0.*>= 0"),
    "NaN buffer": (lambda: mixture(r_buffer=np.nan), ValueError, "r_buffer: got nan"),
    "word for a buffer": (lambda: mixture(r_buffer="wide"), TypeError, "r_buffer: got 'wide'"),
    "dead load without crystal": (lambda: mixture(dead_load=True), ValueError, "dead_load.*crystal="),
    "duplicate masks": (lambda: mixture(Regions([1, 1], n_atoms=64)), ValueError, "atom 1 is listed twice"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments(name):
    make, error, text = BAD_ARGUMENTS[name]
    with pytest.raises(error, match=text):
        make()


def nan_position(atoms):
    atoms.positions[7, 1] = np.nan
    return atoms


def no_cell(atoms):
    atoms.cell[1] = 0.0
    return atoms


def same(atoms):
    return atoms


def without_images(atoms):
    """A free cluster, of which a box of the crystal cannot be filled."""
    atoms.pbc = False
    return atoms


# calculator, what to do with 64 atoms of silicon, what is expected.
FAULTS = {
    "NaN position": (mixture, nan_position, InputError, "atom 7 has y = nan"),
    "singular cell": (mixture, no_cell, InputError, "vector 1 is zero"),
    "no structure": (mixture, lambda atoms: 3, TypeError, "got int, expected ase.Atoms"),
    "mask of another length": (
        lambda: mixture(np.arange(60) < 2),
        same,
        ValueError,
        "made for 60 atoms, but there are 64",
    ),
    "index out of range": (lambda: mixture([0, 64]), same, IndexError, "qm: index 64 .* 64 atoms"),
    "duplicate index": (lambda: mixture([1, -63]), same, ValueError, "atom 1 is listed twice"),
    "indices as floats": (lambda: mixture([0.0, 1.0]), same, TypeError, "float64"),
    "no qm atom": (lambda: mixture([]), same, ValueError, "no qm atom.*allow_empty_qm=True"),
    "two buffers": (
        lambda: mixture(Regions([0], [1], n_atoms=64), r_buffer=3.0),
        same,
        ValueError,
        "have a buffer already",
    ),
    "no box without a crystal": (
        lambda: mixture(cluster="periodic"),
        same,
        StructureError,
        "'periodic' is not possible.*pass crystal=",
    ),
    "no box in a free cluster": (
        lambda: mixture([20], cluster="periodic", crystal=SILICON),
        without_images,
        StructureError,
        "'periodic' is not possible.*use cluster='open'",
    ),
    "stress": (mixture, same, PropertyNotImplementedError, "stress"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name):
    make, spoil, error, text = FAULTS[name]
    atoms = spoil(silicon_cell(2))
    with pytest.raises(error, match=text):
        make().get_property("stress" if name == "stress" else "forces", atoms)


def test_a_bad_structure_leaves_no_results_and_no_harm():
    atoms = silicon_cell(2)
    atoms.rattle(0.05, seed=1)
    calc = mixture()
    expected = forces(calc, atoms)
    with pytest.raises(InputError):
        forces(calc, nan_position(atoms.copy()))
    assert calc.results == {}
    assert np.array_equal(forces(calc, atoms), expected)


# -- models that fail --------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["qm", "mm"])
@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("raise", "the disk is on fire"),
        ("silent", "RuntimeError"),
        ("nan", "forces not finite on atom 3"),
        ("shape", r"forces of shape \(\d+, 3\), expected \(\d+, 3\)"),
        ("infinite energy", "energy not finite"),
    ],
)
def test_failing_child(which, fault, text):
    atoms, place = vacancy(3, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, 3.0)
    children = {"qm": stillinger_weber(), "mm": stillinger_weber()}
    # The first call works; of the second the first evaluation fails.
    expected = forces(mixture(regions, **children), atoms)
    bad = children[which] = Faulty(fault, on_call=0)
    calc = mixture(regions, cluster="open", **children)
    before = atoms.copy()
    before.rattle(0.01, seed=9)
    forces(calc, before)
    bad.on_call = bad.calls + 1
    with pytest.raises(ChildCalculatorError, match=rf"^{which} calculator \(Faulty, on \d+ atoms\).*{text}"):
        forces(calc, atoms)
    assert calc.results == {}
    # Twice more: a child that caches its bad numbers would give them again.
    assert np.abs(forces(calc, atoms) - expected).max() < 1e-10
    assert np.abs(forces(calc, before.copy()) - forces(mixture(regions, **children), before)).max() < 1e-10


def test_failing_site_model_is_named(silicon_mm, silicon_qm, silicon_crystal):
    """A vacancy in the stencil of an MM atom: whose complaint it is stays visible, and what to do."""
    atoms, place = vacancy(3, silicon_crystal)
    regions = Regions.from_distance(atoms, place + 6.0, 3.0, 3.0)
    calc = ForceMixingCalculator(silicon_qm, silicon_mm, regions)
    with pytest.raises(StructureError, match=r"mm calculator \(TaylorForces\).*QM"):
        forces(calc, atoms)
    assert calc.results == {}


# -- used again --------------------------------------------------------------------------------------------


def swapped(atoms):
    order = np.random.default_rng(2).permutation(len(atoms))
    return atoms[order]


def strained_cell(atoms):
    atoms.set_cell(atoms.cell.array * 1.02, scale_atoms=True)
    return atoms


def another_species(atoms):
    atoms.numbers[5] = 14
    atoms.numbers[-1] = 14
    return atoms


def larger(atoms):
    del atoms
    bigger = silicon_cell(4)
    bigger.rattle(0.05, seed=8)
    return bigger


def open_along_z(atoms):
    atoms.pbc = (True, True, False)
    atoms.center(vacuum=8.0, axis=2)
    return atoms


def wrapped(atoms):
    atoms.translate([7.0, 1.0, 9.0])
    atoms.wrap()
    return atoms


def vacancy_elsewhere(atoms):
    """The atom at the far corner hops to the place of the vacancy."""
    _, place = vacancy(3)
    far = np.argmax(np.linalg.norm(atoms.positions - place, axis=1))
    atoms.positions[far] = place
    return atoms


@pytest.mark.parametrize("crystal", [None, SILICON])
@pytest.mark.parametrize(
    "change", [swapped, strained_cell, another_species, larger, open_along_z, wrapped, vacancy_elsewhere]
)
def test_used_again(change, crystal):
    """For another system the answer is that of a new calculator."""
    atoms, place = vacancy(3, rattle=0.05)
    near = np.linalg.norm(atoms.positions - place, axis=1)
    selection = np.flatnonzero(near < 4.2).tolist()
    calc = mixture(selection, crystal=crystal)
    forces(calc, atoms)
    other = change(atoms.copy())
    expected = forces(mixture(selection, crystal=crystal), other)
    assert np.abs(forces(calc, other) - expected).max() < 1e-9
    assert np.abs(forces(calc, atoms) - forces(mixture(selection, crystal=crystal), atoms)).max() < 1e-9


def test_masks_are_for_one_number_of_atoms():
    atoms = silicon_cell(2)
    calc = mixture(np.arange(64) < 4)
    forces(calc, atoms)
    with pytest.raises(ValueError, match="made for 64 atoms, but there are 63"):
        forces(calc, atoms[1:])
    assert calc.results == {}
    assert np.array_equal(forces(calc, atoms), forces(mixture(np.arange(64) < 4), atoms))


def test_drift_is_logged_and_carved_anew(caplog):
    """Regions go with the atoms; a cluster is never used for atoms that have left it."""
    atoms, place = vacancy(4, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, FULL)
    calc = ForceMixingCalculator(kumagai(), stillinger_weber(), regions, cluster="open")
    forces(calc, atoms)
    # One atom hops from the border of the cell into the vacancy.
    atoms.positions[0] = place
    with caplog.at_level(logging.INFO, logger="ase_qmmm"):
        got = forces(calc, atoms)
    assert "moved by more than 1 Å" in caplog.text
    fresh = ForceMixingCalculator(kumagai(), stillinger_weber(), regions, cluster="open")
    assert np.array_equal(got, forces(fresh, atoms))


def test_vacancy_elsewhere_with_a_taylor_model(silicon_qm, silicon_mm, silicon_crystal):
    """The matched model looks at its surroundings again when an atom has hopped within the qm region."""
    mm = TaylorForces(silicon_mm.force_constants)
    atoms, place = vacancy(3, silicon_crystal, rattle=0.02)
    regions = Regions.from_distance(atoms, place, 6.5, 0.5)
    calc = ForceMixingCalculator(silicon_qm, mm, regions, cluster="open")
    forces(calc, atoms)
    neighbour = np.argmin(np.linalg.norm(atoms.positions - place, axis=1))
    atoms.positions[neighbour] = place
    fresh_mm = TaylorForces(silicon_mm.force_constants)
    expected = forces(ForceMixingCalculator(silicon_qm, fresh_mm, regions, cluster="open"), atoms)
    assert np.abs(forces(calc, atoms) - expected).max() < 1e-9
