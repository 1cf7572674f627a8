"""Relaxed prismatic loops in tungsten: how far the predictor is off, and their energies."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from ase.constraints import FixAtoms
from defect_fixtures import decay, tungsten

from ase_qmmm.defects import dislocation_loop, formation_energy, interstitial
from ase_qmmm.defects.loops import _ball, hill_poisson_ratio
from ase_qmmm.preconditioning import PreconditionedLBFGS

RADIUS, RIM = 28.0, 12.5
KINDS = ["interstitial", "vacancy"]


@cache
def relaxed(kind):
    """Distance from the middle, predictor's forces, displacements by relaxation; energy and size."""
    calc, crystal, constants = tungsten()
    atoms = dislocation_loop(
        crystal,
        (0.5, 0.5, 0.5),
        elastic_constants=constants,
        loop_radius=8.0,
        radius=RADIUS,
        frozen_width=RIM,
        kind=kind,
    )
    atoms.calc = calc
    start = atoms.positions.copy()
    distance = np.linalg.norm(atoms.arrays["reference_positions"] - atoms.info["core"], axis=1)
    force = np.linalg.norm(atoms.get_forces(), axis=1)
    atoms.set_constraint(FixAtoms(mask=atoms.arrays["frozen"]))
    assert PreconditionedLBFGS(atoms, logfile=None).run(fmax=1e-3, steps=400)
    moved = np.linalg.norm(atoms.positions - start, axis=1)
    # Without the atoms that feel the surface of the rim.
    inner = distance < RADIUS + RIM - calc.cutoff - 0.5
    perfect = calc.evaluate(crystal.unit_cell).energy
    energy = float((calc.evaluate(atoms).energies - perfect)[inner].sum())
    return distance, force, moved, energy, len(atoms) - len(_ball(crystal, RADIUS + RIM)[0])


def rings(distance, values, edges):
    pairs = zip(edges[:-1], edges[1:], strict=True)
    return np.array([values[(distance >= a) & (distance < b)].max() for a, b in pairs])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_relaxation_of_the_predictor(kind):
    """Outside of the core little is left to relax, and less with the distance."""
    distance, force, moved, _, _ = relaxed(kind)
    assert decay(force, distance, 10.0, RADIUS) < -4.0
    largest = rings(distance, moved, [8.0, 12.0, 16.0, 20.0, 24.0, 28.0])
    assert (np.diff(largest) < 0).all()
    assert largest[0] < 0.5 and largest[-1] < 0.1 * largest[0]


@pytest.mark.slow
def test_energies():
    """Around the energy of a loop in an elastic medium; bound against single defects."""
    calc, crystal, constants = tungsten()
    b = crystal.nearest_neighbour_distance
    compliance = np.linalg.inv(constants)
    shear = (constants[3, 3] * 3 + constants[0, 0] - constants[0, 1]) / 10
    shear += 2.5 / (2 * (compliance[0, 0] - compliance[0, 1]) + 1.5 * compliance[3, 3]) / 2
    area = 1.5 * np.sqrt(3) * 8.0**2
    size = np.sqrt(area / np.pi)
    # J. P. Hirth, J. Lothe, Theory of Dislocations, chapter 6: circular prismatic loop, core radius b / 4.
    elastic = shear * b**2 * size / (2 * (1 - hill_poisson_ratio(constants))) * (np.log(16 * size / b) - 1)
    energies = {kind: relaxed(kind)[3] for kind in KINDS}
    counts = {kind: relaxed(kind)[4] for kind in KINDS}
    assert counts["interstitial"] == -counts["vacancy"] == 31
    assert 0.75 * elastic < energies["vacancy"] < energies["interstitial"] < 1.35 * elastic
    assert energies["vacancy"] / 31 < 3.575
    single = interstitial(crystal, 5, "crowdion")
    single.calc = calc
    assert PreconditionedLBFGS(single, logfile=None).run(fmax=1e-3, steps=200)
    assert energies["interstitial"] / 31 < 0.7 * formation_energy(single, crystal)
