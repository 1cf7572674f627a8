"""Radial functions: every derivative is that of the one before."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_derivative

from ase_qmmm.tightbinding import NRLModel
from ase_qmmm.tightbinding.radial import (
    cartesian_derivatives,
    exponential,
    flattened,
    half_cosine,
    inverse_power,
    leibniz,
    logistic,
    polynomial,
    reduced_derivatives,
    smooth_step,
)

R = np.array([1.7, 2.35, 3.1, 4.4])
FUNCTIONS = {
    "polynomial": lambda r, k: polynomial(np.array([0.3, -1.2, 0.7, 0.05]), r, k),
    "exponential": lambda r, k: exponential(1.3, r, k),
    "inverse_power": lambda r, k: inverse_power(3, r, k),
    "logistic": lambda r, k: logistic((r - 3.0) / 0.6 + 1.0, 0.6, k),
    "half_cosine": lambda r, k: half_cosine(r, 2.0, 4.0, k),
    "smooth_step": lambda r, k: smooth_step(r, 1.6, 4.5, k),
    "flattened": lambda r, k: flattened(
        exponential(1.3, r, k), r, 2.9, 1.0, exponential(1.3, np.array([2.9]), 2)[:, 0]
    ),
    "leibniz": lambda r, k: leibniz(exponential(0.8, r, k), polynomial(np.array([1.0, -0.4, 0.2]), r, k)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_derivatives(name, order):
    function = FUNCTIONS[name]
    assert_derivative(lambda h: function(R + h, order)[order - 1], function(R, order)[order], noise=1e-12)


def test_logistic_far_beyond_its_step():
    """Where the exponential would overflow: no warning, no NaN."""
    assert logistic(np.array([-1e4, 1e4]), 1e-3, 2).tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]


def test_half_cosine_ends():
    values = half_cosine(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 2.0, 4.0, 1)
    assert values[0] == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])
    assert values[1][[0, 1, 3, 4]] == pytest.approx([0.0] * 4)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_cartesian_derivatives(order, rng):
    x, u = rng.normal(size=(3, 3)) * 2, rng.normal(size=3)

    def tensor(h, k):
        y = x + h * u
        r = np.linalg.norm(y, axis=1)
        return cartesian_derivatives(reduced_derivatives(exponential(0.7, r, k), r), y, k)

    here = tensor(0.0, order)
    assert_derivative(lambda h: tensor(h, order - 1), np.einsum("pc...,c->p...", here, u), noise=1e-12)
    assert np.abs(here - here.swapaxes(1, -1)).max() < 1e-13


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_each_reduced_derivative_is_that_of_the_one_before(order):
    def reduced(h):
        return reduced_derivatives(exponential(0.7, R + h, order), R + h)

    assert_derivative(lambda h: reduced(h)[order - 1], R * reduced(0.0)[order], noise=1e-13)


def test_smooth_step_ends():
    for n in (2, 4):
        near = np.array([2.0 + 1e-9, 4.0 - 1e-9, 1.0, 2.0, 3.0, 4.0, 5.0])
        values = smooth_step(near, 2.0, 4.0, 4, smoothness=n)
        assert values[0] == pytest.approx([1.0, 0.0, 1.0, 1.0, 0.5, 0.0, 0.0])
        assert np.abs(values[1 : n + 1, :2]).max() < 1e-6
        assert not values[1:, [2, 3, 5, 6]].any()
    x = (4.0 - R[1]) / 2
    assert smooth_step(R, 2.0, 4.0, 0, smoothness=2)[0, 1] == pytest.approx(x**3 * (6 * x**2 - 15 * x + 10))


def test_flattened_joins_twice_differentiably_and_ends_constant():
    start, width, order = 2.4, 0.5, 4
    r = np.array([start - 1e-9, start + 1e-9, start - width - 1e-9, start - width + 1e-9, 1.0])
    edge = exponential(1.3, np.array([start]), 2)[:, 0]
    values = flattened(exponential(1.3, r, order), r, start, width, edge)
    assert np.abs(values[:3, 0] - values[:3, 1]).max() < 1e-6
    assert np.abs(values[:3, 2] - values[:3, 3]).max() < 1e-6
    assert values[0, 4] == values[0, 2]
    assert not values[1:, 4].any()


@pytest.mark.parametrize(("form", "name"), [("smooth", "CuAu"), ("original", "CuAu"), ("smooth", "Ti")])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_model_functions(form, name, order):
    model = NRLModel(f"nrl-{name}-spd", form)
    species = range(len(model.symbols))
    # Of Ti: the constant, the quartic, and beyond; no step crosses a joint.
    r = np.array([1.7, 2.22, 2.9, 4.4]) if name == "Ti" else R

    def functions(h, k):
        out = [model.density(a, b, r + h, order)[k] for a in species for b in species]
        for a in species:
            for b in species:
                out += [
                    f[:, k].ravel() for pair in model.two_centre(a, b, r + h, order).values() for f in pair
                ]
        return np.concatenate(out)

    assert_derivative(lambda h: functions(h, order - 1), functions(0.0, order), noise=1e-11)


@pytest.mark.parametrize("name", ["nrl-Si-sp", "nrl-W-spd"])
def test_onsite_derivatives(name):
    model = NRLModel(name)
    rho = np.array([0.01, 0.03, 0.1])
    steps = 0.05 * np.array([0.1, 0.03, 0.01, 3e-3, 1e-3])
    for order in (1, 2, 3, 4):
        derivative = model.onsite(0, 0, rho, order)[order]
        assert_derivative(lambda h, k=order: model.onsite(0, 0, rho + h, k)[k - 1], derivative, steps=steps)


def test_smooth_cutoff_ends_at_the_cutoff():
    model = NRLModel("nrl-Si-sp")
    near = model.cutoff - np.array([1e-3, 1e-4, -1e-4])
    values = model.two_centre(0, 0, near, 1)
    for hopping, overlap in values.values():
        assert np.abs(hopping[:, 0]).max() < 1e-7
        assert np.abs(overlap[:, 0]).max() < 1e-7
        assert not hopping[:, :, 2].any()
