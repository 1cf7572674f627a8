"""The energy of a mixture: its definitions, its continuation by work, and what is not offered."""

from __future__ import annotations

import numpy as np
import pytest
from ase import units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.optimize import BFGS
from mixing_fixtures import Springs, kumagai, stillinger_weber, vacancy

from ase_qmmm import ForceMixingCalculator, Regions


def mixture(atoms, place, **options):
    regions = Regions.from_distance(atoms, place, 3.0, 3.0)
    return ForceMixingCalculator(kumagai(), stillinger_weber(), regions, cluster="open", **options)


class NoSites(Springs):
    """Kumagai's silicon, without telling its site energies."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def calculate(self, atoms=None, properties=("energy",), system_changes=()):
        super().calculate(atoms, properties, system_changes)
        self.results = {n: self.model.get_property(n, self.atoms) for n in ("energy", "forces")}


def test_additive_energy():
    atoms, place = vacancy(4, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, 3.0)
    calc = ForceMixingCalculator(kumagai(), stillinger_weber(), regions, cluster="open")
    energy = calc.get_property("energy", atoms)
    (cluster,) = calc.clusters
    expected = kumagai().get_property("energies", cluster.atoms)[cluster.qm].sum()
    expected += stillinger_weber().get_property("energies", atoms)[~regions.qm].sum()
    assert energy == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("fragments", [1, 2])
@pytest.mark.parametrize("which", ["qm", "mm", "both"])
def test_subtractive_energy(which, fragments):
    atoms, place = vacancy(4, rattle=0.05)
    centres = np.array([place, place + atoms.cell.array.sum(axis=0) / 2])[:fragments]
    regions = Regions.from_distance(atoms, centres, 3.0, 2.5)
    qm = kumagai() if which == "mm" else NoSites(kumagai())
    mm = stillinger_weber() if which == "qm" else NoSites(stillinger_weber())
    calc = ForceMixingCalculator(qm, mm, regions, cluster="open")
    energy = calc.get_property("energy", atoms)
    assert len(calc.clusters) == fragments
    expected = sum(kumagai().get_property("energy", c.atoms) for c in calc.clusters)
    if which == "qm":
        rest = np.setdiff1d(np.arange(len(atoms)), np.concatenate([c.index for c in calc.clusters]))
        expected += stillinger_weber().get_property("energies", atoms)[rest].sum()
    else:
        expected += stillinger_weber().get_property("energy", atoms)
        expected -= sum(stillinger_weber().get_property("energy", c.atoms) for c in calc.clusters)
    assert energy == pytest.approx(expected, abs=1e-9)


class ForcesOnly(NoSites):
    """A model without an energy."""

    implemented_properties = ["forces"]


def test_no_energy_where_a_child_has_none():
    atoms, place = vacancy(3, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, 2.5)
    calc = ForceMixingCalculator(ForcesOnly(kumagai()), stillinger_weber(), regions, cluster="open")
    assert calc.get_property("forces", atoms).shape == (len(atoms), 3)
    with pytest.raises(PropertyNotImplementedError, match="energy"):
        calc.get_property("energy", atoms)


@pytest.mark.parametrize("name", ["stress", "free_energy", "energies", "magmom"])
def test_properties_that_do_not_exist(name):
    atoms, _ = vacancy(2)
    atoms.calc = ForceMixingCalculator(kumagai(), stillinger_weber(), [0], r_buffer=3.0)
    with pytest.raises(PropertyNotImplementedError):
        atoms.calc.get_property(name, atoms)
    assert name not in atoms.calc.results


# -- continuation by work ------------------------------------------------------------------------------------


def test_energy_is_continued_by_work():
    atoms, place = vacancy(3, rattle=0.05)
    calc = mixture(atoms, place)
    energies, positions, forces = [], [], []
    for step in range(3):
        energies.append(calc.get_property("energy", atoms))
        forces.append(calc.get_property("forces", atoms).copy())
        positions.append(atoms.positions.copy())
        atoms.rattle(0.02, seed=step)
        # A lattice translation is no work.
        atoms.positions[5 + step] += atoms.cell[1]
    for k in (1, 2):
        moved = positions[k] - positions[k - 1]
        moved -= np.rint(moved @ np.linalg.inv(atoms.cell)) @ atoms.cell.array
        work = -np.vdot(forces[k] + forces[k - 1], moved) / 2
        assert energies[k] - energies[k - 1] == pytest.approx(work, abs=1e-9)
    fresh = atoms.copy()
    fresh.positions = positions[2]
    assert abs(mixture(*vacancy(3, rattle=0.05)).get_property("energy", fresh) - energies[2]) > 1e-3


def strained(atoms):
    atoms.set_cell(1.005 * atoms.cell.array, scale_atoms=True)


def moved_far(atoms):
    atoms.positions[7] += 0.3


def in_motion(atoms):
    atoms.set_momenta(np.full((len(atoms), 3), 0.1 / units.fs))
    atoms.rattle(0.01)


def not_at_all(atoms):
    del atoms


@pytest.mark.parametrize("change", [strained, moved_far, in_motion, not_at_all])
def test_energy_that_is_not_continued(change):
    """Work leads neither to another cell, nor over large steps, and not through dynamics."""
    atoms, place = vacancy(3, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, 3.0)
    calc, fresh = (
        ForceMixingCalculator(kumagai(), stillinger_weber(), regions, cluster="open") for _ in range(2)
    )
    calc.get_property("energy", atoms)
    change(atoms)
    atoms.calc = calc
    expected = fresh.get_property("energy", atoms)
    assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-9)


def test_energy_of_sites_depends_on_positions_alone():
    atoms, place = vacancy(3, rattle=0.05)
    regions = Regions.from_distance(atoms, place, 3.0, 3.0)
    calc = ForceMixingCalculator(kumagai(), stillinger_weber(), regions, cluster="open", energy="sites")
    calc.get_property("energy", atoms)
    atoms.rattle(0.02, seed=3)
    fresh = ForceMixingCalculator(kumagai(), stillinger_weber(), regions, cluster="open")
    assert calc.get_property("energy", atoms) == pytest.approx(fresh.get_property("energy", atoms), abs=1e-9)


def test_energy_falls_while_an_optimiser_runs():
    atoms, place = vacancy(3)
    atoms.calc = mixture(atoms, place)
    energies = []
    with BFGS(atoms, logfile=None) as optimiser:
        optimiser.attach(lambda: energies.append(atoms.get_potential_energy()))
        assert optimiser.run(fmax=0.02, steps=50)
    assert len(energies) > 3
    assert (np.diff(energies) < 0).all()


def test_energy_of_another_kind():
    with pytest.raises(ValueError, match="energy: got 'free'"):
        ForceMixingCalculator(kumagai(), stillinger_weber(), [0], r_buffer=3.0, energy="free")
