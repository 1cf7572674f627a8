"""Derivatives of functions of one distance, as stacks ``f[k] = d^k f / dr^k`` of shape (order + 1, p)."""

from __future__ import annotations

from math import comb

import numpy as np
from scipy.special import expit

__all__ = [
    "leibniz",
    "polynomial",
    "exponential",
    "inverse_power",
    "logistic",
    "half_cosine",
    "smooth_step",
    "flattened",
    "reduced_derivatives",
    "cartesian_derivatives",
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
    out = np.empty((order + 1, *np.shape(r)))
    current = np.asarray(coefficients, dtype=float)
    for k in range(order + 1):
        out[k] = _horner(current, r)
        current = current[1:] * np.arange(1, len(current))
    return out


def _horner(coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    value = np.zeros_like(x, dtype=float)
    for c in coefficients[::-1]:
        value = value * x + c
    return value


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
    f = expit(-x)
    poly = np.array([0.0, 1.0])
    out = np.empty((order + 1, *np.shape(f)))
    for k in range(order + 1):
        out[k] = _horner(poly, f) / scale**k
        poly = np.convolve(poly[1:] * np.arange(1, len(poly)), [0.0, -1.0, 1.0])
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


def smooth_step(r: np.ndarray, start: float, stop: float, order: int, smoothness: int = 4) -> np.ndarray:
    """Derivatives of the polynomial switch from 1 at `start` to 0 at `stop`.

    Its first `smoothness` derivatives are zero at both ends: 2 is the quintic, 4 has degree nine.
    """
    n = smoothness
    rising = np.zeros(2 * n + 2)
    for k in range(n + 1):
        rising[n + 1 + k] = (-1) ** k * comb(n + k, k) * comb(2 * n + 1, n - k)
    poly = np.polynomial.Polynomial(rising)
    out = np.zeros((order + 1, len(r)))
    out[0] = r <= start
    inside = (r > start) & (r < stop)
    # Counted from `stop`, so that the last small values keep their digits.
    x = (stop - r[inside]) / (stop - start)
    for k in range(order + 1):
        out[k, inside] = poly.deriv(k)(x) / (start - stop) ** k
    return out


def flattened(f: np.ndarray, r: np.ndarray, start: float, width: float, edge: np.ndarray) -> np.ndarray:
    """Replace f (order + 1, p) below `start` by a quartic that is constant below ``start - width``.

    The quartic has value, slope and second derivative of f at `start`, given as `edge`, and reaches its
    constant with slope and curvature zero: two derivatives are continuous everywhere.
    """
    value, slope, curvature = edge[0], width * edge[1], width**2 * edge[2]
    constant = value - slope / 2 + curvature / 12
    poly = np.polynomial.Polynomial([constant, 0.0, 0.0, slope - curvature / 3, -slope / 2 + curvature / 4])
    below = r < start
    x = np.maximum(r[below] - (start - width), 0.0) / width
    out = f.copy()
    for k in range(len(f)):
        out[k, below] = poly.deriv(k)(x) / width**k
        if k > 0:
            out[k, r <= start - width] = 0.0
    return out


def reduced_derivatives(f: np.ndarray, r: np.ndarray) -> np.ndarray:
    """Powers 0, 1, 2 ... of ``(1/r) d/dr`` applied to f, from its derivatives (..., order + 1, p).

    With ``t_k`` these, ``t_k = sum_m c_km f^(m) r^(m - 2k)`` and ``c_(k+1)m = c_k(m-1) + (m - 2k) c_km``. See
    :func:`cartesian_derivatives` for their use.
    """
    order = f.shape[-2] - 1
    out = np.empty_like(f)
    out[..., 0, :] = f[..., 0, :]
    factors = np.zeros(order + 2)
    factors[0] = 1.0
    for k in range(order):
        m = np.arange(order + 2)
        factors = np.roll(factors, 1) + (m - 2 * k) * factors
        out[..., k + 1, :] = sum(
            factors[n] * f[..., n, :] * r ** float(n - 2 * (k + 1)) for n in range(1, k + 2)
        )
    return out


def cartesian_derivatives(reduced: np.ndarray, vectors: np.ndarray, order: int) -> np.ndarray:
    """Derivative tensor of one order of f(|r|) by the vector, (..., p, 3, .., 3), from its ``t_k``.

    The sum over all ways to tie k of the n indices into m pairs, of ``t_(n - m)`` times a Kronecker delta per
    pair and a component of r per index left: e.g. ``d2f = delta_cd t_1 + r_c r_d t_2``.

    Parameters
    ----------
    reduced : ndarray, shape (..., at least order + 1, p)
        See :func:`reduced_derivatives`.
    vectors : ndarray, shape (p, 3)
    order : int
    """
    out = np.zeros((*reduced.shape[:-2], len(vectors), *(3,) * order))
    letters = "cdefgh"[:order]
    for pairs, singles in _ties(tuple(letters)):
        operands = [np.eye(3)] * len(pairs) + [vectors] * len(singles)
        terms = ["".join(pair) for pair in pairs] + ["p" + s for s in singles]
        spec = ",".join([*terms, "...p"]) + "->...p" + letters
        out += np.einsum(spec, *operands, reduced[..., order - len(pairs), :], optimize=True)
    return out


def _ties(items: tuple[str, ...]) -> list[tuple[list[tuple[str, str]], list[str]]]:
    """All ways to tie some of the items into pairs: (pairs, items left alone)."""
    if not items:
        return [([], [])]
    first, rest = items[0], items[1:]
    out = [(pairs, [first, *singles]) for pairs, singles in _ties(rest)]
    for k, other in enumerate(rest):
        out += [([(first, other), *pairs], singles) for pairs, singles in _ties(rest[:k] + rest[k + 1 :])]
    return out
