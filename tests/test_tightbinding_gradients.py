"""Weighted forces, virials and the response of forces, by sweeps of the step."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene
from helpers import assert_derivative, moved, random_strain, strained

from ase_qmmm import TightBinding

ENSEMBLES = {
    "mu-grand": {"mu": 5.8, "energy": "grand"},
    "mu-band": {"mu": 5.8, "energy": "band"},
    "mu-free": {"mu": 5.8, "energy": "free"},
    "n-free": {"energy": "free"},
    "n-band": {"energy": "band"},
}


def open_cluster():
    atoms = Atoms("Si6", bulk("Si", cubic=True).positions[:6])
    atoms.rattle(0.1, seed=1)
    return atoms


def wire():
    atoms = Atoms("Si3", [[0.1, 0.3, 0], [1.9, -0.2, 0.9], [0.2, 1.8, 2.7]], cell=[0, 0, 4.1], pbc=(0, 0, 1))
    return atoms


def sheet():
    atoms = graphene("C2", a=3.9)
    atoms.numbers[:] = 14
    atoms.pbc = (True, True, False)
    atoms.cell[2] = 0
    atoms.rattle(0.1, seed=3)
    return atoms


def crystal():
    atoms = bulk("Si", a=5.43)
    atoms.rattle(0.1, seed=2)
    return atoms


# Gamma (real symmetric, one point), the zone boundary (real at k), and general points (complex Hermitian).
SYSTEMS = {
    "open": (open_cluster, (1, 1, 1)),
    "wire-gamma": (wire, (1, 1, 1)),
    "wire-boundary": (wire, [[0, 0, 0.5]]),
    "wire-complex": (wire, {"size": (1, 1, 3), "gamma": True}),
    "sheet-gamma": (sheet, (1, 1, 1)),
    "sheet-complex": (sheet, (2, 3, 1)),
    "crystal-gamma": (crystal, (1, 1, 1)),
    "crystal-one-complex": (crystal, [[0.1, 0.2, 0.37]]),
    "crystal-real": (crystal, {"size": (2, 2, 2), "gamma": True}),
    "crystal-complex": (crystal, {"size": (3, 3, 3), "gamma": True}),
}


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_weighted_gradient(system, ensemble, rng):
    build, kpts = SYSTEMS[system]
    atoms = build()
    calc = TightBinding(kpts=kpts, **ENSEMBLES[ensemble])
    weights = rng.uniform(-0.5, 1.5, len(atoms))
    weights[0] = 0.0
    for w in (weights, None):
        here = calc.evaluate(atoms, w)
        u = rng.uniform(-1, 1, (len(atoms), 3))
        slope = -(here.forces * u).sum()
        assert_derivative(lambda h, u=u, w=w: calc.evaluate(moved(atoms, u, h), w).energy, slope)
        strain = random_strain(rng)
        slope = -(here.virial * strain).sum()
        assert_derivative(lambda h, e=strain, w=w: calc.evaluate(strained(atoms, e, h), w).energy, slope)


@pytest.mark.parametrize("system", ["sheet-gamma", "crystal-complex"])
@pytest.mark.parametrize("ensemble", ENSEMBLES)
def test_degenerate_levels(system, ensemble, rng):
    """The perfect lattice, whose levels cross: divided differences take their limits."""
    build, kpts = SYSTEMS[system]
    atoms = build()
    atoms.positions = bulk("Si", a=5.43).positions if "crystal" in system else np.round(atoms.positions, 1)
    calc = TightBinding(kpts=kpts, **ENSEMBLES[ensemble])
    w = np.array([1.0, 0.0])
    u = rng.uniform(-1, 1, (2, 3))
    slope = -(calc.evaluate(atoms, w).forces * u).sum()
    assert_derivative(lambda h: calc.evaluate(moved(atoms, u, h), w).energy, slope)


@pytest.mark.parametrize("model", ["nrl-W-spd", "nrl-CuAu-spd", "nrl-Ti-spd", "nrl-Fe-spd-spin"])
def test_d_orbitals_and_two_species(model, rng):
    if model == "nrl-W-spd":
        atoms = bulk("W", cubic=True)
    elif model == "nrl-Fe-spd-spin":
        atoms = bulk("Fe", a=2.8, cubic=True)
    elif model == "nrl-Ti-spd":
        # One bond inside the quartic that flattens hoppings below 2.35 Å.
        atoms = Atoms("Ti2", [[0, 0, 0], [1.2, 1.2, 1.4]], cell=[4, 4, 5], pbc=True)
    else:
        atoms = Atoms("CuAu", [[0, 0, 0], [2.0, 2.0, 1.8]], cell=[2.8, 2.8, 3.7], pbc=True)
    atoms.rattle(0.05, seed=4)
    calc = TightBinding(model, kpts={"size": (2, 2, 1), "gamma": True}, energy="band")
    w = np.array([0.3, 1.1])
    here = calc.evaluate(atoms, w)
    u = rng.uniform(-1, 1, (2, 3))
    assert_derivative(lambda h: calc.evaluate(moved(atoms, u, h), w).energy, -(here.forces * u).sum())
    strain = random_strain(rng)
    assert_derivative(
        lambda h: calc.evaluate(strained(atoms, strain, h), w).energy, -(here.virial * strain).sum()
    )


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("ensemble", ["mu-grand", "mu-band", "mu-free"])
def test_force_response(system, ensemble, rng):
    build, kpts = SYSTEMS[system]
    atoms = build()
    calc = TightBinding(kpts=kpts, **ENSEMBLES[ensemble])
    u = rng.uniform(-1, 1, (2, len(atoms), 3))
    response = calc.force_response(atoms, u)
    for direction, change in zip(u, response, strict=True):
        assert_derivative(lambda h, d=direction: calc.evaluate(moved(atoms, d, h)).forces, change)


def test_force_response_is_symmetric_and_acoustic(rng):
    atoms = crystal()
    calc = TightBinding(mu=5.8, kpts=(2, 2, 2))
    hessian = -calc.force_response(atoms, np.eye(6).reshape(6, 2, 3)).reshape(6, 6)
    assert np.abs(hessian - hessian.T).max() < 1e-10
    assert np.abs(hessian.reshape(2, 3, 6).sum(axis=0)).max() < 1e-10


def test_force_response_with_d_orbitals(rng):
    atoms = bulk("W", cubic=True)
    atoms.rattle(0.05, seed=4)
    calc = TightBinding("nrl-W-spd", mu=10.0, kpts=(1, 1, 2))
    u = rng.uniform(-1, 1, (1, 2, 3))
    change = calc.force_response(atoms, u)[0]
    assert_derivative(lambda h: calc.evaluate(moved(atoms, u[0], h)).forces, change)


def test_sites_of_zero_weight_have_no_say(rng):
    """Weights of one atom only: the gradient of that site energy, for every atom around it."""
    atoms, calc = crystal().repeat((2, 1, 1)), TightBinding(mu=5.8)
    parts = [calc.evaluate(atoms, np.eye(4)[l]) for l in range(4)]
    whole = calc.evaluate(atoms)
    assert np.abs(sum(p.forces for p in parts) - whole.forces).max() < 1e-10
    assert [p.energy for p in parts] == pytest.approx(whole.energies.tolist(), abs=1e-10)
