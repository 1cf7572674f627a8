"""Never torn: the forces do not know where in which cell the defect lies, nor how the atoms are wrapped."""

from __future__ import annotations

import numpy as np
import pytest
from mixing_fixtures import (
    KUMAGAI_RANGE,
    SILICON,
    kumagai,
    stillinger_weber,
    tetrahedral_interstitial,
    vacancy,
)

from ase_qmmm import ForceMixingCalculator, Regions

TOLERANCE = 1e-8  # eV/Å, rounding of sums over lattice images included
PLACES = {
    "middle": (0.5, 0.5, 0.5),
    "x face": (0.0, 0.5, 0.5),
    "y face": (0.5, 0.0, 0.5),
    "z face": (0.5, 0.5, 0.0),
    "edge": (0.0, 0.0, 0.5),
    "corner": (0.0, 0.0, 0.0),
    "far outside": (7.0, -4.5, 12.0),
}
CELLS = {
    "cubic": np.eye(3, dtype=int),
    "left-handed": np.diag([1, -1, 1]),
    "permuted": np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "triclinic": np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]]),
    "strongly skewed": np.array([[1, 2, -1], [0, 1, 2], [0, 0, 1]]),
}
# Every place in the cubic cell, every cell at the corner, and one of both.
CASES = [(place, "cubic") for place in PLACES] + [("corner", cell) for cell in CELLS if cell != "cubic"]
CASES += [("far outside", "triclinic"), ("x face", "strongly skewed")]


def relocated(atoms, centre, place, cell):
    """The same crystal with `centre` at the scaled position `place` of another cell of the same lattice."""
    copy = atoms.copy()
    new = CELLS[cell] @ atoms.cell.array
    copy.set_cell(new)
    shift = np.array(PLACES[place]) @ new - centre
    copy.translate(shift)
    if place != "far outside":
        copy.wrap()
    return copy, centre + shift


class Case:
    """A defect, its models, and the forces on it in the middle of a cubic cell."""

    def __init__(self, atoms, centre, make):
        self.atoms, self.centre, self.make = atoms, centre, make
        self.reference = self.forces(*relocated(atoms, centre, "middle", "cubic"))
        self.kinds = [c.kind for c in self.calc.clusters]

    def forces(self, atoms, centre):
        self.calc = self.make(atoms, centre)
        return self.calc.get_property("forces", atoms)

    def check(self, place, cell, rng=None):
        atoms, centre = relocated(self.atoms, self.centre, place, cell)
        if rng is not None:
            atoms.positions += rng.integers(-3, 4, (len(atoms), 3)) @ atoms.cell.array
        got = self.forces(atoms, centre)
        assert np.abs(got - self.reference).max() < TOLERANCE
        assert [c.kind for c in self.calc.clusters] == self.kinds


@pytest.fixture(scope="module")
def finite_range_open():
    """A quantum model that would not feel a torn cluster's surface, were the buffer not torn with it."""
    atoms, place = vacancy(5, rattle=0.04)

    def make(atoms, centre):
        regions = Regions.from_distance(atoms, centre, 3.0, KUMAGAI_RANGE)
        return ForceMixingCalculator(kumagai(), stillinger_weber(), regions, cluster="open")

    return Case(atoms, place, make)


@pytest.fixture(scope="module")
def finite_range_box():
    atoms, place = vacancy(5, rattle=0.04)

    def make(atoms, centre):
        # The box ends within the range: its faces are felt, and have to be the same ones.
        regions = Regions.from_distance(atoms, centre, 4.2, 0.0)
        return ForceMixingCalculator(kumagai(), stillinger_weber(), regions, crystal=SILICON)

    return Case(atoms, place, make)


@pytest.fixture(scope="module")
def interstitial_box():
    atoms, hole = tetrahedral_interstitial(4)
    atoms.rattle(0.03, seed=4)

    def make(atoms, centre):
        regions = Regions.from_distance(atoms, len(atoms) - 1, 4.6, 2.6)
        return ForceMixingCalculator(kumagai(), stillinger_weber(), regions, crystal=SILICON)

    return Case(atoms, hole, make)


@pytest.fixture(scope="module")
def tight_binding_open(silicon_qm, silicon_mm, silicon_crystal):
    atoms, place = vacancy(3, silicon_crystal, rattle=0.03)

    def make(atoms, centre):
        # Radii between the shells of the lattice: the rattle changes no region.
        regions = Regions.from_distance(atoms, centre, 5.0, 1.2)
        return ForceMixingCalculator(silicon_qm, silicon_mm, regions, cluster="open")

    return Case(atoms, place, make)


@pytest.fixture(scope="module")
def tight_binding_box(silicon_qm, silicon_mm, silicon_crystal):
    atoms, place = vacancy(4, silicon_crystal, rattle=0.03)

    def make(atoms, centre):
        regions = Regions.from_distance(atoms, centre, 4.2, 0.2)
        return ForceMixingCalculator(silicon_qm, silicon_mm, regions, cluster="periodic")

    return Case(atoms, place, make)


def test_kinds(finite_range_open, finite_range_box, interstitial_box, tight_binding_open, tight_binding_box):
    assert finite_range_open.kinds == tight_binding_open.kinds == ["open"]
    assert finite_range_box.kinds == interstitial_box.kinds == tight_binding_box.kinds == ["periodic"]


@pytest.mark.parametrize(("place", "cell"), CASES)
def test_open(place, cell, finite_range_open):
    finite_range_open.check(place, cell)


@pytest.mark.parametrize(("place", "cell"), CASES)
def test_open_tight_binding(place, cell, tight_binding_open):
    tight_binding_open.check(place, cell)


@pytest.mark.parametrize(("place", "cell"), CASES)
def test_box(place, cell, finite_range_box):
    finite_range_box.check(place, cell)


@pytest.mark.parametrize(("place", "cell"), CASES)
def test_box_around_an_interstitial(place, cell, interstitial_box):
    interstitial_box.check(place, cell)


@pytest.mark.parametrize(("place", "cell"), [("corner", "cubic"), ("far outside", "triclinic")])
def test_box_tight_binding(place, cell, tight_binding_box):
    tight_binding_box.check(place, cell)


def test_atoms_in_different_cells(
    finite_range_open, finite_range_box, interstitial_box, tight_binding_open, rng
):
    """Single atoms moved by lattice vectors of their own."""
    for case in (finite_range_open, finite_range_box, interstitial_box, tight_binding_open):
        case.check("corner", "triclinic", rng)
