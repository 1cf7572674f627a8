"""Derivatives by homogeneous deformation against differences of the virial of the deformed cell."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from helpers import assert_derivative, random_rotation, rotated
from test_crystal_derivatives import Salt, salt, sheet

from ase_qmmm import Crystal, NumericsError, TightBinding
from ase_qmmm.taylor.cauchy_born import eliminated
from ase_qmmm.tightbinding import cauchy_born_derivatives

GRID = {"size": (3, 3, 3), "gamma": True}
SYSTEMS = {
    "silicon": (lambda: bulk("Si", a=5.5), "nrl-Si-sp", 5.822, GRID),
    "salt": (salt, Salt(), -1.0, GRID),
    "sheet": (sheet, "nrl-Si-sp", 5.0, {"size": (4, 4, 1), "gamma": True}),
    "tungsten": (lambda: bulk("W"), "nrl-W-spd", 10.0, {"size": (2, 2, 2), "gamma": True}),
    "iron": (lambda: bulk("Fe"), "nrl-Fe-spd-spin", 8.0, {"size": (2, 2, 2), "gamma": True}),
}
# Of the poles: finding those for 1e-9 takes longer than these tests.
ERROR = 1e-8
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("tungsten", "iron")]


def slope(calc, cell, change, h):
    """``dW/dF`` of the cell deformed by ``F = 1 + h change``: minus the virial times ``F^-T``."""
    deformation = np.eye(3) + h * change
    atoms = cell.copy()
    atoms.set_cell(cell.cell.array @ deformation.T)
    atoms.positions = cell.positions @ deformation.T
    return -calc.evaluate(atoms).virial @ np.linalg.inv(deformation).T


@pytest.mark.parametrize("fixed_number", [False, True])
@pytest.mark.parametrize("name", ["silicon", "salt", "sheet", *SLOW])
def test_all_orders(name, fixed_number, rng):
    build, model, mu, kpts = SYSTEMS[name]
    cell = build()
    calc = TightBinding(model, kT=0.1, kpts=kpts)
    if fixed_number:
        calc.evaluate(cell)
        mu = calc.last_mu
    else:
        calc = calc.with_options(mu=mu)
    d = cauchy_born_derivatives(
        calc.with_options(mu=mu), Crystal(cell), 3, kpts=kpts, fixed_number=fixed_number, error=ERROR
    )
    assert d.energy == pytest.approx(calc.evaluate(cell).energy, abs=1e-9)
    change = rng.uniform(-0.3, 0.3, (3, 3))
    size = np.abs(d.tensors[2]).max()
    here = slope(calc, cell, change, 0.0)
    assert np.abs(d.tensors[1] - here).max() < 1e-8 * size
    second = np.einsum("ijkl,kl->ij", d.tensors[2], change)
    assert_derivative(lambda h: slope(calc, cell, change, h), second, noise=1e-9)
    third = np.einsum("ijklmn,kl,mn->ij", d.tensors[3], change, change)
    assert_derivative(lambda h: 2 * (slope(calc, cell, change, h) - here) / h, third, noise=1e-8)
    for order in (2, 3):
        swapped = d.tensors[order].swapaxes(0, 2).swapaxes(1, 3)
        assert np.abs(d.tensors[order] - swapped).max() < 1e-9 * np.abs(d.tensors[order]).max()


def test_elastic_constants_are_slopes_of_the_stress():
    """At zero stress, by a sweep of the step; and second derivatives do not see rotations."""
    calc = TightBinding("nrl-Si-sp", mu=5.822, kpts={"size": (6, 6, 6), "gamma": True})
    crystal = Crystal.relaxed(bulk("Si"), calc)
    d = cauchy_born_derivatives(calc, crystal, 3, error=ERROR)
    calc = calc.for_crystal(crystal.unit_cell)
    assert np.abs(d.stress).max() < 1e-6
    constants = d.elastic_constants()
    strain = np.array([[1.0, 0.2, 0.0], [0.2, -0.3, 0.4], [0.0, 0.4, 0.5]])
    expected = np.einsum("ijkl,kl->ij", constants, strain)
    errors = []
    for h in (4e-3, 1e-3):
        forward, backward = (slope(calc, crystal.unit_cell, strain, s * h) / d.volume for s in (1, -1))
        errors.append(np.abs((forward - backward) / (2 * h) - expected).max())
    # The error falls as h^2: extrapolated to zero it is a rounding.
    assert abs(errors[0] / errors[1] - 16) < 0.5
    assert abs(16 * errors[1] - errors[0]) / 15 < 1e-6 * np.abs(expected).max()
    assert np.abs(constants - constants.swapaxes(0, 1)).max() < 1e-5
    third = d.third_order_elastic_constants()
    assert np.abs(third - third.swapaxes(0, 1)).max() < 1e-4
    # Three constants of second and six of third order in a cubic crystal.
    assert constants[0, 0, 0, 0] == pytest.approx(constants[1, 1, 1, 1])
    assert third[0, 0, 0, 0, 1, 1] == pytest.approx(third[0, 0, 0, 0, 2, 2])


def test_rotational_invariance_under_stress(rng):
    """``W(R F) = W(F)``: the constants by Lagrangian strain have both symmetries also off equilibrium."""
    calc = TightBinding("nrl-Si-sp", mu=5.8)
    d = cauchy_born_derivatives(calc, Crystal(bulk("Si", a=5.2)), 3, kpts=GRID, error=1e-6)
    assert np.abs(d.stress).max() > 1e-2
    second, third = d.elastic_constants(), d.third_order_elastic_constants()
    assert np.abs(second - second.swapaxes(0, 1)).max() < 1e-10
    assert np.abs(third - third.swapaxes(0, 1)).max() < 1e-10
    assert np.abs(third - third.swapaxes(4, 5)).max() < 1e-10


def test_turned_crystal(rng):
    calc, rotation = TightBinding("nrl-Si-sp", mu=5.8), random_rotation(rng)
    cell = bulk("Si", a=5.3)
    here = cauchy_born_derivatives(calc, Crystal(cell), 2, kpts=GRID, error=1e-6).tensors[2]
    there = cauchy_born_derivatives(calc, Crystal(rotated(cell, rotation)), 2, kpts=GRID, error=1e-6).tensors[
        2
    ]
    turned = np.einsum("Ii,Jj,Kk,Ll,ijkl->IJKL", *[rotation] * 4, here, optimize=True)
    assert np.abs(turned - there).max() < 1e-9 * np.abs(here).max()


@pytest.mark.parametrize("fixed_number", [False, True])
def test_relaxed_basis(fixed_number):
    """Shear of diamond moves its sublattices: the stress of cells whose basis was relaxed."""
    grid = {"size": (4, 4, 4), "gamma": True}
    calc = TightBinding("nrl-Si-sp", kpts=grid)
    cell = bulk("Si", a=5.43)
    calc.evaluate(cell)
    at_mu = calc.with_options(mu=calc.last_mu)
    d = cauchy_born_derivatives(
        at_mu, Crystal(cell), 3, kpts=grid, relaxed=True, fixed_number=fixed_number, error=ERROR
    )
    calc = calc if fixed_number else at_mu
    change = np.array([[0.1, 0.5, 0.2], [0.5, -0.2, 0.3], [0.2, 0.3, 0.1]])

    def relaxed_slope(h):
        deformation = np.eye(3) + h * change
        atoms = cell.copy()
        atoms.set_cell(cell.cell.array @ deformation.T)
        atoms.positions = cell.positions @ deformation.T
        stiffness = 13.0
        for _ in range(200):
            forces = calc.evaluate(atoms).forces
            if np.abs(forces).max() < 1e-11:
                break
            atoms.positions[1] += (forces[1] - forces[0]) / 2 / stiffness
        assert np.abs(forces).max() < 1e-9
        return -calc.evaluate(atoms).virial @ np.linalg.inv(deformation).T

    second = np.einsum("ijkl,kl->ij", d.tensors[2], change)
    third = np.einsum("ijklmn,kl,mn->ij", d.tensors[3], change, change)
    here = relaxed_slope(0.0)
    steps = np.array([0.04, 0.01, 2e-3, 4e-4])
    assert_derivative(relaxed_slope, second, noise=1e-8, steps=steps)
    assert_derivative(lambda h: 2 * (relaxed_slope(h) - here) / h, third, noise=1e-6, steps=steps)
    clamped = cauchy_born_derivatives(at_mu, Crystal(cell), 2, kpts=grid, error=ERROR).tensors[2]
    assert clamped[0, 1, 0, 1] > 1.1 * d.tensors[2][0, 1, 0, 1]


def test_elimination_of_a_polynomial():
    """``W = a F^2/2 + b F s + c s^2/2 + e F s^2 + g s^3`` along one F, whose minimum over s is known."""
    a, b, c, e, g = 2.0, 0.7, 3.0, 0.4, 0.3
    second = np.array([[a, b], [b, c]])
    third = np.zeros((2, 2, 2))
    third[0, 1, 1] = third[1, 0, 1] = third[1, 1, 0] = 2 * e
    third[1, 1, 1] = 6 * g
    _, two, three = eliminated([np.zeros(2), second, third], 1)

    def energy(f):
        s = 0.0
        for _ in range(60):
            s -= (b * f + c * s + 2 * e * f * s + 3 * g * s**2) / (c + 2 * e * f + 6 * g * s)
        return a * f**2 / 2 + b * f * s + c * s**2 / 2 + e * f * s**2 + g * s**3

    steps = np.linspace(-0.02, 0.02, 9)
    fit = np.polynomial.Polynomial.fit(steps, [energy(f) for f in steps], 7).convert().coef
    assert two[0, 0] == pytest.approx(2 * fit[2], rel=1e-7)
    assert three[0, 0, 0] == pytest.approx(6 * fit[3], rel=1e-5)


def test_refusals():
    calc = TightBinding("nrl-Si-sp", mu=5.8)
    bent = bulk("Si", a=5.43)
    bent.positions[1] += 0.1
    with pytest.raises(NumericsError, match="not in equilibrium"):
        cauchy_born_derivatives(calc, Crystal(bent), 2, kpts=GRID, relaxed=True, error=1e-6)
    with pytest.raises(ValueError, match="order: got 0"):
        cauchy_born_derivatives(calc, Crystal(bent), 0)


def test_fixed_number_on_coarse_k_points():
    """The chemical potential is that of the k-points used; a wrong one given is named."""
    calc = TightBinding("nrl-W-spd", kT=0.2)
    crystal = Crystal(bulk("W", a=3.14))
    found = cauchy_born_derivatives(calc, crystal, 1, kpts=(3, 3, 3), fixed_number=True)
    cell = crystal.unit_cell.copy()
    cell.calc = calc.with_options(kpts=(3, 3, 3))
    # Its free energy is that of a fixed number of electrons.
    assert found.energy == pytest.approx(cell.get_potential_energy(force_consistent=True), abs=1e-8)
    with pytest.raises(ValueError, match="leave mu out"):
        cauchy_born_derivatives(calc.with_options(mu=1.0), crystal, 1, kpts=(3, 3, 3), fixed_number=True)
