"""Elastic fields of dislocations, loops and cracks against closed forms and matscipy."""

from __future__ import annotations

import numpy as np
import pytest
from ase.units import GPa
from helpers import assert_derivative
from matscipy.dislocation import AnisotropicDislocation
from matscipy.elasticity import Voigt_6x6_to_full_3x3x3x3, cubic_to_Voigt_6x6
from matscipy.fracture_mechanics.crack import isotropic_modeI_crack_tip_displacement_field

from ase_qmmm.defects import (
    CrackPredictor,
    DislocationPredictor,
    LoopPredictor,
    PeriodicDislocationPredictor,
    SlipCompatiblePredictor,
)
from ase_qmmm.defects.dislocation_fields import smooth_step, stiffness_tensor
from ase_qmmm.defects.loops import hill_poisson_ratio

COPPER = cubic_to_Voigt_6x6(1.06, 0.77, 0.47)  # eV/Å^3, anisotropy 3.2
MU, NU = 1.0, 0.29
LAMBDA = 2 * MU * NU / (1 - 2 * NU)
ISOTROPIC = cubic_to_Voigt_6x6(LAMBDA + 2 * MU, LAMBDA, MU)
BURGERS = np.array([2.1, 0.0, 1.3])
PAIRS = {
    "mixed": (BURGERS, [[10.0, 5.3, 25.0, 5.3]]),
    "screw": (np.array([0.0, 0.0, 2.7]), [[10.0, 5.3, 25.0, 6.1]]),
    "two edges": (np.array([2.7, 0.0, 0.0]), [[10.0, 5.3, 25.0, 5.3], [26.0, 22.3, 9.0, 22.3]]),
}


@pytest.fixture
def points(rng):
    r = rng.uniform(-20, 20, (40, 3))
    return r[np.abs(r[:, 1]) > 0.5]


@pytest.mark.parametrize("predictor", [DislocationPredictor, SlipCompatiblePredictor])
def test_circuit_closes_with_the_burgers_vector(predictor):
    """The field gains b anticlockwise around the line, summed from its gradient."""
    field = predictor(COPPER, BURGERS, core=(1.0, -2.0))
    angle = (np.arange(4000) + 0.5) * 2 * np.pi / 4000
    circle = np.column_stack([np.cos(angle), np.sin(angle), 0 * angle])
    tangent = np.column_stack([-np.sin(angle), np.cos(angle), 0 * angle])
    radius = 30.0
    gradient = field.gradient(radius * circle + [1.0, -2.0, 0.0])
    total = np.einsum("nij,nj->i", gradient, tangent) * radius * 2 * np.pi / 4000
    expected = BURGERS
    if predictor is SlipCompatiblePredictor:
        # Below the cut the field is that of the place one Burgers vector further on.
        ends = np.array([[31.0, -2.0 + 1e-9, 0], [31.0 + BURGERS[0], -2.0 + 1e-9, 0]])
        expected = BURGERS + np.diff(
            DislocationPredictor(COPPER, BURGERS, (1.0, -2.0)).displacement(ends), axis=0
        )
    assert np.abs(total - expected).max() < 1e-5


def test_screw_is_volterras():
    b = np.array([0, 0, 2.5])
    r = np.array([[3.0, 1.0, 0.0], [-2.0, 4.0, 1.0], [-1.0, -5.0, 0.0], [4.0, -0.1, 0.0]])
    angle = np.arctan2(r[:, 1], r[:, 0]) % (2 * np.pi)
    u = DislocationPredictor(ISOTROPIC, b).displacement(r)
    assert np.abs(u[:, 2] - 2.5 * angle / (2 * np.pi)).max() < 1e-5
    assert np.abs(u[:, :2]).max() < 1e-5


def test_edge_is_that_of_an_isotropic_medium(points):
    """Hirth and Lothe, eqs. (3-45, 3-46), up to a rigid shift."""
    b, (x, y) = 2.5, points[:, :2].T
    angle, square = np.arctan2(y, x) % (2 * np.pi), x**2 + y**2
    expected = np.zeros((len(points), 3))
    expected[:, 0] = b / (2 * np.pi) * (angle + x * y / (2 * (1 - NU) * square))
    expected[:, 1] = (
        -b
        / (2 * np.pi)
        * ((1 - 2 * NU) / (4 * (1 - NU)) * np.log(square) + (x**2 - y**2) / (4 * (1 - NU) * square))
    )
    difference = DislocationPredictor(ISOTROPIC, [b, 0, 0]).displacement(points) - expected
    assert np.abs(difference - difference[0]).max() < 1e-4


def test_stress_is_in_equilibrium(points):
    field = DislocationPredictor(COPPER, BURGERS)
    tensor = Voigt_6x6_to_full_3x3x3x3(COPPER)
    h = 1e-3
    divergence = np.zeros((len(points), 3))
    for j in range(3):
        step = h * np.eye(3)[j]
        slope = (field.gradient(points + step) - field.gradient(points - step)) / (2 * h)
        divergence += np.einsum("ikl,nkl->ni", tensor[:, j], slope)
    assert np.abs(divergence).max() < 1e-5


def test_displacement_is_matscipys(points):
    """matscipy cuts along negative x; there both have the same gradient, above the line the same field."""
    reference = AnisotropicDislocation(np.eye(3), [0, 1, 0], [0, 0, 1], BURGERS, C=COPPER)
    above = points[points[:, 1] > 0]
    difference = DislocationPredictor(COPPER, BURGERS).displacement(above) - reference.displacement(above)
    assert np.abs(difference - difference[0]).max() < 1e-10


@pytest.mark.parametrize("r_hat", [0.0, 10.0])
def test_gradients_of_displacements(points, r_hat):
    for field in (
        SlipCompatiblePredictor(COPPER, BURGERS, r_hat=r_hat),
        SlipCompatiblePredictor(COPPER, [-2.1, 0.0, 0.4], r_hat=r_hat),
        CrackPredictor(COPPER, 1.2, 0.4),
    ):
        gradient = field.gradient(points)
        for k in range(3):
            step = np.eye(3)[k]
            assert_derivative(
                lambda h, s=step, f=field: f.displacement(points + h * s),
                gradient[:, :, k],
                steps=np.array([0.05, 0.01, 2e-3, 4e-4]),
            )


def test_slip_map_inverts_xi(points):
    field = SlipCompatiblePredictor(COPPER, BURGERS)
    z = field.unslipped(points)
    angle = np.arctan2(z[:, 1], z[:, 0]) % (2 * np.pi)
    assert np.abs(z[:, 0] - BURGERS[0] * angle / (2 * np.pi) - points[:, 0]).max() < 1e-10
    assert np.array_equal(z[:, 1], points[:, 1])


def test_no_trace_of_the_cut():
    """Below the cut the sites stand where those one Burgers vector further on stand above it."""
    field = SlipCompatiblePredictor(COPPER, BURGERS)
    x = np.linspace(3, 200, 50)
    above = np.column_stack([x + BURGERS[0], np.full(50, 1e-9), 0 * x])
    below = np.column_stack([x, np.full(50, -1e-9), 0 * x])
    gap = above + field.displacement(above) - below - field.displacement(below)
    assert np.abs(gap - [0, 0, -BURGERS[2]]).max() < 1e-7
    plain = DislocationPredictor(COPPER, BURGERS)
    gap = above + plain.displacement(above) - below - plain.displacement(below)
    assert np.abs(gap - [0, 0, -BURGERS[2]])[0].max() > 0.02


def test_smooth_step():
    value, slope = smooth_step(np.linspace(-1, 2, 3001))
    assert value[0] == 0 and value[-1] == 1 and (np.diff(value) >= 0).all()
    assert slope.max() < 2.001


@pytest.mark.parametrize("name", PAIRS)
def test_periodic_field(name, rng):
    """Periodic but for the mean slip and whole Burgers vectors; its gradient, and the mean of that."""
    b, pairs = PAIRS[name]
    cell = np.array([[33.0, 0.0], [3.0, 36.0]])
    field = PeriodicDislocationPredictor(COPPER, b, pairs, cell)
    x = rng.uniform(0, 30, (50, 3))
    for period in np.column_stack([cell, np.zeros(2)]):
        jump = field.displacement(x + period) - field.displacement(x) - field.mean_gradient @ period
        turns = jump @ b / (b @ b)
        assert np.abs(jump - np.outer(np.rint(turns), b)).max() < 1e-10
        assert np.abs(field.gradient(x + period) - field.gradient(x)).max() < 1e-10
    gradient = field.gradient(x)
    for k in range(3):
        step = np.eye(3)[k]
        assert_derivative(
            lambda h, s=step: field.displacement(x + h * s),
            gradient[:, :, k],
            noise=1e-10,
            steps=np.array([1e-2, 1e-3, 1e-4]),
        )
    if name == "screw":
        # Next to a core the gradient is that of the one dislocation, up to what the others add.
        near = np.array([[10.03, 5.28, 0.0]])
        single = DislocationPredictor(COPPER, b, core=pairs[0][:2]).gradient(near)
        assert np.abs(field.gradient(near) - single).max() < 0.01 * np.abs(single).max()


def test_periodic_field_has_no_mean_strain():
    b, pairs = PAIRS["screw"]
    cell = np.array([[33.0, 0.0], [3.0, 36.0]])
    grid = np.stack(np.meshgrid(*[(np.arange(300) + 0.5) / 300] * 2), axis=-1).reshape(-1, 2) @ cell
    field = PeriodicDislocationPredictor(COPPER, b, pairs, cell)
    mean = field.gradient(np.column_stack([grid, np.zeros(len(grid))])).mean(axis=0)
    assert np.abs(mean).max() < 1e-4 < np.abs(field.mean_gradient).max()


@pytest.mark.parametrize("b", [[0, 0, 2.7], [1.0, 0.3, 2.0]])
def test_loop(b, rng):
    """Jump across the loop, equilibrium, and the far field of Kelvin's Green's function."""
    b = np.array(b)
    angle = np.arange(6) * np.pi / 3
    corners = 5 * np.column_stack([np.cos(angle), np.sin(angle), 0 * angle])
    loop = LoopPredictor(NU, b, corners)
    jump = loop.displacement([[0.3, 0.4, 1e-7]]) - loop.displacement([[0.3, 0.4, -1e-7]])
    assert np.abs(jump - b).max() < 1e-6
    outside = loop.displacement([[7.3, 0.4, 1e-7]]) - loop.displacement([[7.3, 0.4, -1e-7]])
    assert np.abs(outside).max() < 1e-6
    x = rng.normal(size=(5, 3))
    x *= 400 / np.linalg.norm(x, axis=1)[:, None]
    area = 6 * np.sqrt(3) / 4 * 25
    tensor = stiffness_tensor(ISOTROPIC)
    dipole = area * np.einsum("jklm,l,m->jk", tensor, b, [0, 0, 1.0])
    h = 0.5
    expected = np.zeros((5, 3))
    for k in range(3):
        step = h * np.eye(3)[k]
        slope = (_kelvin(x + step) - _kelvin(x - step)) / (2 * h)
        expected -= np.einsum("nij,j->ni", slope, dipole[:, k])
    assert np.abs(loop.displacement(x) - expected).max() < 2e-3 * np.abs(expected).max()


def _kelvin(r):
    """Kelvin's solution G_ij of an isotropic medium."""
    length = np.linalg.norm(r, axis=1)[:, None, None]
    outer = r[:, :, None] * r[:, None, :] / length**2
    return ((3 - 4 * NU) * np.eye(3) + outer) / (16 * np.pi * MU * (1 - NU) * length)


def test_hill_poisson_ratio():
    assert hill_poisson_ratio(ISOTROPIC) == pytest.approx(NU, abs=1e-12)


def test_crack_is_that_of_an_isotropic_medium():
    """matscipy's closed form in an isotropic medium, 1 MPa sqrt(m)."""
    r, angle = np.array([2.0, 5.0, 9.0, 4.0]), np.array([0.3, 2.0, -2.5, -1.0])
    points = np.column_stack([r * np.cos(angle), r * np.sin(angle), 0 * r])
    u = CrackPredictor(ISOTROPIC, 1.0).displacement(points)
    expected = isotropic_modeI_crack_tip_displacement_field(100 * GPa, MU, NU, r, angle)
    assert np.abs(u[:, :2] - np.column_stack(expected)).max() < 1e-5
    assert np.abs(u[:, 2]).max() == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DislocationPredictor(np.eye(3), BURGERS), "elastic_constants: got shape"),
        (lambda: DislocationPredictor(-COPPER, BURGERS), "positive definite"),
        (lambda: DislocationPredictor(COPPER, [0, 0, 0]), "burgers"),
        (lambda: DislocationPredictor(COPPER, BURGERS).displacement([1, 2, 3]), "positions: got shape"),
        (lambda: SlipCompatiblePredictor(COPPER, [1, 1, 0]), "y = 0"),
        (lambda: SlipCompatiblePredictor(COPPER, BURGERS, r_hat=1.0), "three times"),
        (lambda: PeriodicDislocationPredictor(COPPER, BURGERS, [[0, 0, 1, 1]], np.eye(2) * 9), "y_1 = y_2"),
        (lambda: PeriodicDislocationPredictor(COPPER, BURGERS, [[0, 0, 1, 0]], -np.eye(2)), "cell"),
        (lambda: LoopPredictor(0.6, BURGERS, np.eye(3)), "poisson_ratio"),
        (lambda: CrackPredictor(COPPER, np.nan), "k_i"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
