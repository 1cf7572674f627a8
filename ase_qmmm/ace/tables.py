"""Radial functions on a uniform grid, interpolated with continuous second derivatives."""

# numba infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

__all__ = ["MINIMUM_DISTANCE", "RadialTable", "grid", "make_table", "radial_values"]

# Å. Quintic interpolation of polynomials of degree 16 is right to about 1e-9 of their size.
SPACING = 0.01

# Å. Closer pairs are refused: tables end here, and so does any sense of a potential without electrons.
MINIMUM_DISTANCE = 0.1


class RadialTable(NamedTuple):
    """Values and two derivatives at the nodes ``k * spacing``, by pair of elements.

    Attributes
    ----------
    nodes : ndarray, shape (pairs, nodes, 3, functions)
        f, f' times the spacing and f'' times its square.
    pair : ndarray of int, shape (n_elements, n_elements)
        Number of the pair of elements.
    spacing : float
        Å.
    """

    nodes: np.ndarray
    pair: np.ndarray
    spacing: float


def make_table(stacks: list[np.ndarray], pair: np.ndarray) -> RadialTable:
    """Table of derivatives (3, functions, nodes), one stack per pair of elements, on :func:`grid`."""
    scale = np.array([1.0, SPACING, SPACING**2])
    nodes = np.stack([np.transpose(s, (2, 0, 1)) * scale[:, None] for s in stacks])
    return RadialTable(np.ascontiguousarray(nodes), pair, SPACING)


def grid(cutoff: float, minimum: float) -> np.ndarray:
    """Nodes (Å) from zero past the cutoff; those below `minimum`, never used, are moved there."""
    r = SPACING * np.arange(int(np.ceil(cutoff / SPACING)) + 2)
    nodes: np.ndarray = np.maximum(r, minimum)
    return nodes


@njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def radial_values(r, begin, end, nodes, spacing, values, slopes):
    """Interpolate all functions of one pair of elements at distances r[begin:end].

    Parameters
    ----------
    nodes : ndarray, shape (nodes, 3, functions)
    values, slopes : ndarray, shape (functions, size)
        Out: functions and their derivatives by r.
    """
    count = nodes.shape[2]
    inverse = 1.0 / spacing
    for k in range(begin, end):
        x = r[k] * inverse
        i = int(x)
        t = x - i
        s = 1.0 - t
        # Quintic Hermite polynomials in t, and their derivatives.
        t2, s2 = t * t, s * s
        f0 = s2 * s * (1.0 + t * (3.0 + 6.0 * t))
        f1 = 1.0 - f0
        g0 = s2 * s * t * (1.0 + 3.0 * t)
        g1 = -t2 * t * s * (1.0 + 3.0 * s)
        h0 = 0.5 * s2 * s * t2
        h1 = 0.5 * t2 * t * s2
        df = -30.0 * s2 * t2 * inverse
        dg0 = s2 * (1.0 + t * (2.0 - 15.0 * t)) * inverse
        dg1 = t2 * (1.0 + s * (2.0 - 15.0 * s)) * inverse
        dh0 = 0.5 * s2 * t * (2.0 - 5.0 * t) * inverse
        dh1 = -0.5 * t2 * s * (2.0 - 5.0 * s) * inverse
        low, high = nodes[i], nodes[i + 1]
        for n in range(count):
            a0, a1, a2 = low[0, n], low[1, n], low[2, n]
            b0, b1, b2 = high[0, n], high[1, n], high[2, n]
            values[n, k] = f0 * a0 + f1 * b0 + g0 * a1 + g1 * b1 + h0 * a2 + h1 * b2
            slopes[n, k] = df * (a0 - b0) + dg0 * a1 + dg1 * b1 + dh0 * a2 + dh1 * b2
