"""Derivatives of functions of one distance, as stacks ``f[k] = d^k f / dr^k`` of shape (order + 1, p)."""

from __future__ import annotations

from math import comb

import numpy as np

__all__ = [
    "leibniz",
    "polynomial",
    "exponential",
    "inverse_power",
    "logistic",
    "half_cosine",
    "reduced_derivatives",
]


def leibniz(f: np.ndarray, g: np.ndarray) -> np.ndarray:
    """Derivatives of the product ``f g`` (Leibniz rule); leading axes before the last two broadcast."""
    order = f.shape[-2] - 1
    shape = np.broadcast_shapes(f.shape, g.shape)
    product = np.zeros(shape)
    for k in range(order + 1):
        for m in range(k + 1):
            product[..., k, :] += comb(k, m) * f[..., m, :] * g[..., k - m, :]
    return product


def polynomial(coefficients: np.ndarray, r: np.ndarray, order: int) -> np.ndarray:
    """Derivatives of ``sum_n c_n r^n``; `coefficients` in rising powers."""
    poly = np.polynomial.Polynomial(coefficients)
    return np.array([poly(r) if k == 0 else poly.deriv(k)(r) for k in range(order + 1)])


def exponential(rate: float, r: np.ndarray, order: int) -> np.ndarray:
    """Derivatives of ``exp(-rate r)``."""
    value = np.exp(-rate * r)
    return np.array([(-rate) ** k * value for k in range(order + 1)])


def inverse_power(n: int, r: np.ndarray, order: int) -> np.ndarray:
    """Derivatives of ``r^-n``."""
    factors = np.cumprod([1.0] + [-(n + k) for k in range(order)])
    return np.array([factors[k] * r ** -float(n + k) for k in range(order + 1)])


def logistic(x: np.ndarray, scale: float, order: int) -> np.ndarray:
    """Derivatives of ``f = 1 / (1 + exp x)`` with respect to r, where ``x = r / scale + const``.

    Every derivative is a polynomial in f, as ``df/dx = f^2 - f``.
    """
    f = 1.0 / (1.0 + np.exp(x))
    poly = np.polynomial.Polynomial([0.0, 1.0])
    slope = np.polynomial.Polynomial([0.0, -1.0, 1.0])
    out = np.empty((order + 1, *np.shape(f)))
    for k in range(order + 1):
        out[k] = poly(f) / scale**k
        poly = poly.deriv() * slope
    return out


def half_cosine(r: np.ndarray, start: float, stop: float, order: int) -> np.ndarray:
    """Derivatives of the switch ``(1 + cos(pi (r - start) / (stop - start))) / 2`` from 1 to 0."""
    out = np.zeros((order + 1, len(r)))
    out[0] = r < start
    inside = (r >= start) & (r < stop)
    wave = np.pi / (stop - start)
    phase = wave * (r[inside] - start)
    for k in range(order + 1):
        out[k, inside] = 0.5 * wave**k * np.cos(phase + k * np.pi / 2) + (0.5 if k == 0 else 0.0)
    return out


def reduced_derivatives(f: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Powers 0 to 4 of ``(1/r) d/dr`` applied to f, from its derivatives (..., order + 1, p).

    With ``t_k`` these, the Cartesian derivatives of f(|r|) are ``df/dr_c = r_c t_1`` and
    ``d2f/dr_c dr_d = delta_cd t_1 + r_c r_d t_2``.
    """
    order = f.shape[-2] - 1
    if order > 4:
        raise ValueError(f"order: got {order}, expected at most 4")
    t = np.empty_like(f)
    t[..., 0, :] = f[..., 0, :]
    if order >= 1:
        t[..., 1, :] = f[..., 1, :] / r
    if order >= 2:
        t[..., 2, :] = (f[..., 2, :] - t[..., 1, :]) / r**2
    if order >= 3:
        t[..., 3, :] = (f[..., 3, :] - 3 * r * t[..., 2, :]) / r**3
    if order >= 4:
        t[..., 4, :] = (f[..., 4, :] - 3 * t[..., 2, :] - 6 * r**2 * t[..., 3, :]) / r**4
    return t
