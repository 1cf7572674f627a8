"""Energies along a path from forces: against energies, and the barrier of a vacancy in tungsten."""

from __future__ import annotations

import importlib
import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from test_examples import EXAMPLES

from ase_qmmm import (
    EAM,
    Crystal,
    EnergyMixingCalculator,
    ForceMixingCalculator,
    NumericsError,
    Regions,
    TaylorForces,
    TaylorPotential,
)
from ase_qmmm.mixing import path_energies

QM = EAM("W-zhou04")


class Landscape(Calculator):
    """``sin(x) + y^2`` of every atom, plus a force that is no gradient: ``swirl`` along y, times x."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, swirl=0.0):
        super().__init__()
        self.swirl = swirl

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        x, y, _ = self.atoms.positions.T
        forces = np.stack([-np.cos(x), -2 * y + self.swirl * x, np.zeros_like(x)], axis=1)
        self.results = {"energy": float((np.sin(x) + y**2).sum()), "forces": forces}


def along(points, **options):
    """Images of two atoms, of which one goes through `points` (m, 2)."""
    images = []
    for x, y in points:
        image = Atoms("H2", [[x, y, 0.0], [5.0, 1.0, 2.0]])
        image.calc = Landscape(**options)
        images.append(image)
    return images


def bow(m):
    t = np.linspace(0.0, 1.0, m)
    return np.stack([3.0 * t, np.sin(np.pi * t)], axis=1)


def energies(images):
    values = np.array([image.get_potential_energy() for image in images])
    return values - values[0]


def test_order_of_convergence():
    """Fourth order in the distance of the images; the estimate is never too small by much."""
    errors = []
    for m in (9, 17, 33):
        images = along(bow(m))
        found = path_energies(images)
        error = np.abs(found.energies - energies(images)).max()
        assert error < 3 * found.errors.max()
        errors.append(error)
    assert errors[0] / errors[1] > 10 and errors[1] / errors[2] > 10
    assert errors[2] < 1e-5


def test_forces_between_images():
    images = along(bow(6))
    plain, finer = path_energies(images), path_energies(images, between=4)
    exact = energies(images)
    assert np.abs(finer.energies - exact).max() < 0.02 * np.abs(plain.energies - exact).max()
    assert np.abs(finer.energies - exact).max() < 3 * finer.errors.max() < 1e-3
    # Images and their calculators are as before.
    assert np.array_equal(energies(images), exact)


def test_curve_and_barrier():
    images = along(np.stack([np.linspace(0.0, 3.0, 13), np.zeros(13)], axis=1))
    found = path_energies(images)
    assert found.barrier == pytest.approx(1.0, abs=1e-4)  # sin(pi/2), between two images
    assert found.barrier_error < 1e-2
    assert np.allclose(found.curve(found.distances), found.energies, rtol=0, atol=1e-12)
    assert np.allclose(found.curve(found.distances, 1), found.slopes, rtol=0, atol=1e-12)
    assert np.allclose(found.slopes, np.cos(np.linspace(0.0, 3.0, 13)), rtol=0, atol=1e-6)
    assert "13 images: barrier 1.0000" in str(found)


def test_work_of_forces_that_are_no_gradient():
    """A closed loop: minus the swirl times its area."""
    t = np.linspace(0.0, 2 * np.pi, 41)
    images = along(np.stack([np.cos(t), np.sin(t)], axis=1), swirl=0.3)
    assert path_energies(images).energies[-1] == pytest.approx(-0.3 * np.pi, rel=1e-4)


def test_wrapped_atoms_and_constraints():
    """Forces of constrained atoms count where they move; a lattice vector is no work."""
    images = [bulk("Cu", cubic=True) * 2 for _ in range(5)]
    for k, image in enumerate(images):
        image.positions[3] += 0.1 * k * np.array([1.0, 0.4, 0.0])
        image.calc = EMT()
    expected = path_energies(images)
    assert np.allclose(expected.energies, energies(images), rtol=0, atol=5e-4)
    for k, image in enumerate(images):
        image.translate([3.0 * k, 0.0, 0.0] @ image.cell.array)
        image.positions[5] += image.cell[1]
        image.wrap()
    found = path_energies(images)
    assert np.allclose(found.energies, expected.energies, rtol=0, atol=1e-9)


class Broken(Landscape):
    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results["forces"][0] = np.nan


def other_cell(images):
    images[2].set_cell([3.0, 3.0, 3.0])


def other_element(images):
    images[1].numbers[0] = 2


def no_calculator(images):
    images[3].calc = None


def twice(images):
    images[3].positions[:] = images[2].positions


def broken(images):
    images[2].calc = Broken()


FAULTS = {
    "cell": (other_cell, ValueError, "cell of number 2"),
    "element": (other_element, ValueError, "elements of number 1"),
    "calculator": (no_calculator, ValueError, "number 3 has no calculator"),
    "same place": (twice, ValueError, "numbers 2 and 3 are at the same place"),
    "not finite": (broken, NumericsError, "number 2 are not finite"),
    "few": (lambda images: images.__delitem__(slice(2, None)), ValueError, "got 2, expected at least 3"),
    "no atoms": (lambda images: images.__setitem__(0, 3), TypeError, "sequence of ase.Atoms"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults(name):
    spoil, error, text = FAULTS[name]
    images = along(bow(5))
    spoil(images)
    with pytest.raises(error, match=text):
        path_energies(images)


@pytest.mark.parametrize("between", [-1, 0.5, True])
def test_between(between):
    with pytest.raises(ValueError, match="between"):
        path_energies(along(bow(5)), between=between)


# -- the barrier of a vacancy -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def migration():
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module("w_vacancy_migration")
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def jump(migration):
    """Crystal, path of the quantum model alone, and regions around both sites."""
    crystal = Crystal.relaxed(bulk("W"), QM)
    before, after, sites = migration.ends(crystal, 5)
    images = migration.minimum_energy_path(before, after, lambda: EAM("W-zhou04"), 7, 0.05)
    return crystal, images, Regions.from_distance(before, sites, 6.3, 6.2)


@pytest.mark.parametrize("mixing", ["force", pytest.param("energy", marks=pytest.mark.slow)])
def test_barrier_of_a_mixture(mixing, migration, jump):
    crystal, pure, regions = jump
    if mixing == "force":
        mm = TaylorForces.from_calculator(QM, crystal, cutoff=6.5)
        options = {"cluster": "open", "energy": "sites"}

        def calculator():
            return ForceMixingCalculator(QM, mm, regions, **options)
    else:
        mm = TaylorPotential.from_calculator(QM, crystal, order=2, cutoff=6.2)

        def calculator():
            return EnergyMixingCalculator(QM, mm, regions, cluster="open")

    images = migration.minimum_energy_path(pure[0], pure[-1], calculator, 7, 0.05)
    expected, found = path_energies(pure, between=3), path_energies(images, between=3)
    assert 1.7 < expected.barrier < 2.1
    assert found.barrier == pytest.approx(expected.barrier, abs=2e-3)
    # Ends are equal by symmetry.
    assert abs(found.energies[-1]) < 2e-3
    if mixing == "energy":
        assert np.abs(found.energies - energies(images)).max() < 2e-3
