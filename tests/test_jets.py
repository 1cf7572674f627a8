"""Taylor series of plain functions: every derivative, every operation, and what has no rule."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers import assert_derivative
from scipy.interpolate import make_interp_spline

from ase_qmmm.tightbinding.jets import derivatives

X = np.array([0.7, 1.6, 2.9])
FUNCTIONS = {
    "arithmetic": lambda x: 2 - (1 + x) * x / (3 - 0.2 * x) + (+x) - np.reciprocal(x),
    "powers": lambda x: x**3 - x**-2 + x**1.7 + 2.0**x + x**x + np.square(x) + (x - 1.6) ** 4,
    "exponentials": lambda x: np.exp(-(x**2)) * np.log(x) + np.sqrt(x),
    "waves": lambda x: np.sin(2 * x) * np.cos(x) + np.tanh(x) - np.sinh(x) / np.cosh(2 * x),
    "pieces": lambda x: np.where(x < 2.0, x**3, np.exp(-x)) + abs(x - 2.0) ** 3,
    "spline": make_interp_spline(np.linspace(0, 4, 30), np.exp(-np.linspace(0, 4, 30)), k=7),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_derivatives(name, order):
    function = FUNCTIONS[name]
    assert np.allclose(derivatives(function, X, order)[0], function(X), rtol=1e-14)
    steps = np.array([0.1, 0.03, 0.01, 3e-3, 1e-3])
    assert_derivative(
        lambda h: derivatives(function, X + h, order)[order - 1],
        derivatives(function, X, order)[order],
        noise=1e-11,
        steps=steps,
    )


def test_known_derivatives():
    exact = [math.exp(2), 2 * math.exp(2), 4 * math.exp(2), 8 * math.exp(2), 16 * math.exp(2)]
    assert derivatives(lambda x: np.exp(2 * x), np.array([1.0]), 4)[:, 0] == pytest.approx(exact, rel=1e-14)
    # Whole powers hold at zero, where logarithms do not.
    assert derivatives(lambda x: x**2, np.zeros(1), 3)[:, 0].tolist() == [0, 0, 2, 0]


def test_constants_and_shapes():
    assert derivatives(lambda x: 3.0, X, 2).tolist() == [[3.0] * 3, [0.0] * 3, [0.0] * 3]
    assert derivatives(lambda x: x * np.arange(3), X, 1)[1].tolist() == [0, 1, 2]
    assert derivatives(np.exp, np.ones((2, 3)), 2).shape == (3, 2, 3)
    assert derivatives(np.exp, np.ones(0), 2).shape == (3, 0)


@pytest.mark.parametrize(
    "function",
    [
        math.exp,
        np.arctan,
        np.sum,
        np.add.accumulate,
        lambda x: x.clip(1, 2),
        lambda x: x if x < 2 else x**2,
        lambda x: np.add(x, 1, out=x),
    ],
)
def test_operations_without_a_rule(function):
    with pytest.raises(TypeError, match="hopping: cannot be differentiated .*np.exp, log"):
        derivatives(function, X, 2, "hopping")


def test_operations_in_place():
    def function(x):
        y = x / 2
        y *= x
        return y

    with pytest.raises(TypeError, match="no rule for np.multiply in place"):
        derivatives(function, X, 2)


def test_a_forgotten_return():
    with pytest.raises(TypeError, match="hopping: returns nothing"):
        derivatives(lambda x: None, X, 2, "hopping")


def test_wrong_shape():
    with pytest.raises(ValueError, match=r"density: got shape \(2,\) for arguments of shape \(3,\)"):
        derivatives(lambda x: np.ones(2), X, 1, "density")
