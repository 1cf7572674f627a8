"""Regions that move: policies, hysteresis, buffers that are never stale, molecular dynamics."""

from __future__ import annotations

import itertools
import logging

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.geometry import get_distances
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE
from mixing_fixtures import SILICON, Springs, kumagai, stillinger_weber, vacancy
from scipy.spatial import KDTree

from ase_qmmm import ForceMixingCalculator, Regions, StructureError
from ase_qmmm.mixing import MovingRegions
from ase_qmmm.neighbours import distances_to


@pytest.fixture
def atoms():
    atoms, place = vacancy(3)
    regions = Regions.from_distance(atoms, place, 4.0, 3.5)
    atoms.calc = ForceMixingCalculator(
        kumagai(), stillinger_weber(), regions, cluster="open", dead_load=False
    )
    atoms.info["place"] = place
    return atoms


def radius_test(atoms, centre):
    return get_distances(centre[None], atoms.positions, cell=atoms.cell, pbc=atoms.pbc)[1][0]


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_distances_to(rng, pbc):
    """Against all images, in a strongly skewed cell with atoms far outside of it."""
    atoms = bulk("Si", a=5.43) * (4, 3, 2)
    atoms.set_cell(atoms.cell.array + np.array([[0, 0, 0], [9, 0, 0], [-7, 13, 0]]))
    atoms.pbc = pbc
    atoms.positions += rng.normal(size=(len(atoms), 3)) * 40
    points = rng.normal(size=(3, 3)) * 40
    steps = (
        np.array(list(itertools.product(*(range(-25, 26) if p else (0,) for p in pbc)))) @ atoms.cell.array
    )
    images = KDTree((points[:, None] + steps[None]).reshape(-1, 3))
    exact = images.query(atoms.positions)[0]
    assert np.allclose(distances_to(atoms, points), exact, atol=1e-10)
    near = distances_to(atoms, points, 6.0)
    assert np.allclose(near[exact < 6.0], exact[exact < 6.0], atol=1e-10)
    assert np.isinf(near[exact > 6.0]).all()


def test_hysteresis(atoms):
    """An atom enters below the inner radius and leaves beyond the outer one only."""
    place = atoms.info["place"]
    mover = MovingRegions(atoms, "hysteretic", centres=place, r_inner=4.0, r_outer=5.0, r_buffer=3.5)
    assert mover.history == []
    start = atoms.calc.regions
    atom = int(np.flatnonzero(start.buffer)[0])
    direction = (atoms.positions[atom] - place) / np.linalg.norm(atoms.positions[atom] - place)
    for radius, inside in ((4.5, False), (3.9, True), (4.9, True), (5.1, False), (4.5, False)):
        atoms.positions[atom] = place + radius * direction
        mover()
        assert atoms.calc.regions.qm[atom] == inside
    assert [(len(c.entered), len(c.left)) for c in mover.history] == [(1, 0), (0, 1)]
    assert mover.history[0].call == 2 and "1 atoms become qm" in str(mover.history[0])


def test_buffer_is_never_stale(atoms, caplog):
    """An atom that comes from far away joins the buffer, with QM atoms as they are."""
    mover = MovingRegions(atoms, "fixed", r_buffer=3.5)
    qm = atoms.calc.regions.qm
    far = int(np.argmax(distances_to(atoms, atoms.positions[qm])))
    near = int(np.flatnonzero(atoms.calc.regions.buffer)[0])
    atoms.positions[far] = atoms.positions[near] + [0.0, 0.0, 1.5]
    with caplog.at_level(logging.INFO):
        mover()
    assert atoms.calc.regions.buffer[far] and np.array_equal(atoms.calc.regions.qm, qm)
    assert "buffer renewed" in caplog.text and mover.history == []
    fresh = Regions.from_distance(atoms, atoms.info["place"], 4.0)
    expected = distances_to(atoms, atoms.positions[fresh.qm]) < 3.5
    assert np.array_equal(atoms.calc.regions.buffer, expected & ~fresh.qm)


def test_forces_are_those_of_the_new_regions(atoms):
    """Shift the defect by hand: the vacancy moves by one site, and the regions with it."""
    mover = MovingRegions(atoms, "detect", r_inner=4.0, r_outer=4.4, r_buffer=3.5, crystal=SILICON)
    atoms.get_forces()
    place = atoms.info["place"]
    distance = np.linalg.norm(atoms.positions - place, axis=1)
    jumper = int(np.argmin(distance))
    new_place = atoms.positions[jumper].copy()
    atoms.positions[jumper] = place
    mover()
    expected = Regions.from_distance(atoms, new_place, 4.0)
    assert expected.qm[atoms.calc.regions.qm].mean() > 0.7 and atoms.calc.regions.qm[expected.qm].all()
    fresh = atoms.copy()
    fresh.calc = ForceMixingCalculator(
        kumagai(), stillinger_weber(), atoms.calc.regions, cluster="open", dead_load=False
    )
    assert np.allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-12)
    assert len(mover.history) == 1


def test_molecular_dynamics(atoms, rng):
    """Regions about an atom that travels: each step's QM atoms surround it."""
    traveller = int(np.argmin(np.linalg.norm(atoms.positions - atoms.info["place"], axis=1)))
    mover = MovingRegions(atoms, "hysteretic", centres=[traveller], r_inner=3.5, r_outer=4.5, r_buffer=3.5)
    velocities = rng.normal(size=(len(atoms), 3)) * np.sqrt(0.026 / 28.1)
    velocities[traveller] += [0.15, 0.1, 0.05]
    atoms.set_velocities(velocities)
    dynamics = VelocityVerlet(atoms, 2 * units.fs)
    dynamics.attach(mover, interval=1)

    def surrounded():
        distance = radius_test(atoms, atoms.positions[traveller])
        assert atoms.calc.regions.qm[distance <= 3.5].all()
        assert not atoms.calc.regions.qm[distance > 4.5].any()

    dynamics.attach(surrounded, interval=1)
    dynamics.run(10)
    assert len(mover.history) >= 1


def test_relaxation(atoms):
    """An optimiser converges with regions that are looked at in each step."""
    mover = MovingRegions(atoms, "detect", r_inner=4.0, r_outer=5.0, r_buffer=3.5, crystal=SILICON)
    optimizer = FIRE(atoms, logfile=None)
    optimizer.attach(mover, interval=1)
    assert optimizer.run(fmax=0.02, steps=60)
    assert len(mover.history) <= 1


def test_nothing_left(atoms):
    mover = MovingRegions(atoms, "hysteretic", centres=[5], r_inner=3.0, r_outer=4.0, r_buffer=3.5)
    mover._centres = np.full((1, 3), 1e4)
    atoms.pbc = False
    with pytest.raises(StructureError, match="no qm atom is left"):
        mover()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"policy": "follow"}, ValueError, "policy"),
        ({"policy": "fixed", "r_inner": 3.0}, ValueError, "takes none"),
        ({"policy": "hysteretic", "r_inner": 3.0, "r_outer": 4.0}, ValueError, "needs points"),
        ({"policy": "hysteretic", "centres": [3], "r_inner": 4.0}, ValueError, "needs both"),
        ({"policy": "hysteretic", "centres": [3], "r_inner": 4.0, "r_outer": 4.0}, ValueError, "r_outer"),
        ({"policy": "hysteretic", "centres": [999], "r_inner": 4.0, "r_outer": 5.0}, ValueError, "atom 999"),
        (
            {"policy": "hysteretic", "centres": [np.nan] * 3, "r_inner": 4.0, "r_outer": 5.0},
            ValueError,
            "centres",
        ),
        ({"policy": "detect", "r_inner": 4.0, "r_outer": 5.0}, ValueError, "crystal"),
        ({"policy": "fixed", "drift": 0.0}, ValueError, "drift"),
        ({"policy": "fixed", "r_bufer": 0.0}, TypeError, "r_buffer"),
    ],
)
def test_refused(atoms, options, error, message):
    with pytest.raises(error, match=message):
        MovingRegions(atoms, **({"r_buffer": 3.5} | options))


@pytest.mark.parametrize("calc", [EMT(), Springs()])
def test_calculators_without_regions(atoms, calc):
    atoms.calc = calc
    with pytest.raises(TypeError, match="no regions to move"):
        MovingRegions(atoms, "fixed", r_buffer=3.0)
