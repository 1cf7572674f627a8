"""Radial functions: every derivative is that of the one before."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import assert_derivative

from ase_qmmm.tightbinding import NRLModel
from ase_qmmm.tightbinding.radial import (
    cartesian_derivatives,
    exponential,
    half_cosine,
    inverse_power,
    leibniz,
    logistic,
    polynomial,
    reduced_derivatives,
)

R = np.array([1.7, 2.35, 3.1, 4.4])
FUNCTIONS = {
    "polynomial": lambda r, k: polynomial(np.array([0.3, -1.2, 0.7, 0.05]), r, k),
    "exponential": lambda r, k: exponential(1.3, r, k),
    "inverse_power": lambda r, k: inverse_power(3, r, k),
    "logistic": lambda r, k: logistic((r - 3.0) / 0.6 + 1.0, 0.6, k),
    "half_cosine": lambda r, k: half_cosine(r, 2.0, 4.0, k),
    "leibniz": lambda r, k: leibniz(exponential(0.8, r, k), polynomial(np.array([1.0, -0.4, 0.2]), r, k)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_derivatives(name, order):
    function = FUNCTIONS[name]
    assert_derivative(lambda h: function(R + h, order)[order - 1], function(R, order)[order], noise=1e-12)


def test_half_cosine_ends():
    values = half_cosine(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 2.0, 4.0, 1)
    assert values[0] == pytest.approx([1.0, 1.0, 0.5, 0.0, 0.0])
    assert values[1][[0, 1, 3, 4]] == pytest.approx([0.0] * 4)


def test_reduced_derivatives_are_cartesian_derivatives(rng):
    x, u = rng.normal(size=3) * 2, rng.normal(size=3)

    def value(y):
        return exponential(0.7, np.array([np.linalg.norm(y)]), 0)[0, 0]

    def gradient(y):
        r = np.array([np.linalg.norm(y)])
        return y * reduced_derivatives(exponential(0.7, r, 2), r)[1, 0]

    r = np.array([np.linalg.norm(x)])
    t = reduced_derivatives(exponential(0.7, r, 2), r)[:, 0]
    assert_derivative(lambda h: value(x + h * u), gradient(x) @ u, noise=1e-13)
    assert_derivative(
        lambda h: gradient(x + h * u), (np.eye(3) * t[1] + np.outer(x, x) * t[2]) @ u, noise=1e-13
    )


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_cartesian_derivatives(order, rng):
    x, u = rng.normal(size=3) * 2, rng.normal(size=3)

    def tensor(y, k):
        r = np.array([np.linalg.norm(y)])
        reduced = reduced_derivatives(exponential(0.7, r, k), r)
        return cartesian_derivatives(reduced, y[None], k)[0]

    assert_derivative(lambda h: tensor(x + h * u, order - 1), tensor(x, order) @ u, noise=1e-12)


@pytest.mark.parametrize("form", ["smooth", "original"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_model_functions(form, order):
    model = NRLModel("nrl-CuAu-spd", form)

    def functions(h, k):
        out = [model.density(a, b, R + h, order)[k] for a in (0, 1) for b in (0, 1)]
        for a in (0, 1):
            for b in (0, 1):
                out += [
                    f[:, k].ravel() for pair in model.two_centre(a, b, R + h, order).values() for f in pair
                ]
        return np.concatenate(out)

    assert_derivative(lambda h: functions(h, order - 1), functions(0.0, order), noise=1e-12)


def test_onsite_derivatives():
    model = NRLModel("nrl-Si-sp")
    rho = np.array([0.01, 0.03, 0.1])
    steps = 0.05 * np.array([0.1, 0.03, 0.01, 3e-3, 1e-3])
    for order in (1, 2):
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
