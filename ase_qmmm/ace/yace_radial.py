"""Radial functions of ML-PACE: Chebyshev and Bessel bases, inner switch, core repulsion.

All are written once for arrays and for truncated Taylor series, so that every derivative is exact.
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np

from ..tightbinding.jets import TaylorSeries, derivatives
from .yace_file import Bond

__all__ = ["bond_functions", "core_function", "inner_switch", "radial_basis"]

# Beyond this exponent ML-PACE sets the core to zero.
_CORE_END = 50.0


def bond_functions(bond: Bond, r: np.ndarray, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Basis g_k, (order + 1, k, r), and core, (order + 1, r), with derivatives, at ``0 < r <= cutoff``.

    At the cutoff they are the limits from inside.
    """
    basis = np.zeros((order + 1, bond.coefficients.shape[2], len(r)))
    core = np.zeros((order + 1, len(r)))
    inside = (r <= bond.cutoff) & (r > 0)
    if bond.core:
        core[:, inside] = derivatives(lambda x: core_function(bond, x), r[inside], order, "core")
    if bond.by_distance:
        inside &= r > bond.inner_cutoff - bond.inner_width
    if bond.basis == "ChebPow" and bond.parameter != round(bond.parameter):
        # A broken power has no Taylor series at its zero; value and slope are zero there.
        inside &= r < bond.cutoff
    coefficients = np.zeros((order + 1, int(inside.sum())))
    coefficients[0] = r[inside]
    coefficients[1:2] = 1.0
    x = TaylorSeries(coefficients)
    switch = inner_switch(bond, x) if bond.by_distance else 1.0
    for k, function in enumerate(radial_basis(bond, x)):
        series = (function * switch).coefficients
        basis[:, k, inside] = [factorial(i) * c for i, c in enumerate(series)]
    return basis, core


def radial_basis(bond: Bond, r: Any) -> list[Any]:
    """g_k without the inner switch, at distances inside the cutoff."""
    count, rc = bond.coefficients.shape[2], bond.cutoff
    if bond.basis in ("SBessel", "TEST_SBessel"):
        return _bessel(count, rc, r)
    if bond.basis == "ChebExpCos":
        lam = bond.parameter
        low = np.exp(-lam)
        x = 1.0 - 2.0 * (np.exp(r * (-lam / rc)) - low) / (1.0 - low)
        envelope = 0.5 * (1.0 + np.cos(r * (np.pi / rc)))
        start = rc - bond.cutoff_width
        if bond.cutoff_width > 0:
            switch = 0.5 * (1.0 + np.cos((r - start) * (np.pi / bond.cutoff_width)))
            envelope = envelope * np.where(r > start, switch, 1.0 + 0.0 * r)
        return [envelope, *(0.5 * (1.0 - t) * envelope for t in _chebyshev(count - 1, x))]
    x = 1.0 - 2.0 * (1.0 - r * (1.0 / rc)) ** bond.parameter
    return [0.5 * (1.0 - t) for t in _chebyshev(count, x)]


def inner_switch(bond: Bond, r: Any) -> Any:
    """0 below ``inner_cutoff - inner_width``, 1 above the inner cutoff, with two continuous derivatives."""
    if bond.inner_width == 0.0:
        return np.where(r >= bond.inner_cutoff, 1.0 + 0.0 * r, 0.0 * r)
    t = (r - (bond.inner_cutoff - bond.inner_width)) * (1.0 / bond.inner_width)
    inside = t * t * t * (10.0 + t * (-15.0 + 6.0 * t))
    return np.where(t <= 0.0, 0.0 * r, np.where(t >= 1.0, 1.0 + 0.0 * r, inside))


def core_function(bond: Bond, r: Any) -> Any:
    """``core exp(-core_exponent r^2) / r`` under a cosine, below the inner cutoff only if `by_distance`."""
    exponent = bond.core_exponent * r * r
    value = bond.core * np.exp(-exponent) / r * (0.5 * (1.0 + np.cos(r * (np.pi / bond.cutoff))))
    value = np.where(exponent < _CORE_END, value, 0.0 * r)
    return value * (1.0 - inner_switch(bond, r)) if bond.by_distance else value


def _chebyshev(count: int, x: Any) -> list[Any]:
    """T_1 .. T_count."""
    out = [1.0 + 0.0 * x, x]
    for _ in range(count - 1):
        out.append(2.0 * x * out[-1] - out[-2])
    return out[1 : count + 1]


def _bessel(count: int, rc: float, r: Any) -> list[Any]:
    """Orthogonalised pairs of spherical Bessel functions that vanish smoothly at the cutoff.

    E. Kocer, J. K. Mason and H. Erturk, AIP Advances 10, 015021 (2020).
    """
    out: list[Any] = []
    last = 1.0
    for n in range(count):
        a, b = n + 1, n + 2
        scale = (-1) ** n * np.sqrt(2.0) * np.pi / rc**1.5 * a * b / np.sqrt(a * a + b * b)
        f = sum(np.sin(r * (i * np.pi / rc)) / (r * (i * np.pi / rc)) for i in (a, b)) * scale
        if n:
            e = n * n * (n + 2) ** 2 / (4.0 * (n + 1) ** 4 + 1.0)
            d = 1.0 - e / last
            f = (f + np.sqrt(e / last) * out[-1]) * (1.0 / np.sqrt(d))
            last = d
        out.append(f)
    return out
