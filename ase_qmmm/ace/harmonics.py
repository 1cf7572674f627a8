"""Real spherical harmonics and their gradients, for many directions at once.

Normalised so that ``Y_00 = 1`` and ``sum_m Y_lm^2 = 2 l + 1``, in the order ``l^2 + l + m``; m > 0 goes with
``cos(m phi)``, m < 0 with ``sin(|m| phi)``, all without the Condon-Shortley phase.
"""

# numba infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["harmonics_tables", "make_tangential", "real_harmonics"]


def harmonics_tables(l_max: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients of the recursion in l and of derivatives by z.

    With ``Pi_l^m(z)`` the normalised associated Legendre function without its factor ``sin(theta)^m``::

        Pi_m^m = a[m, m] Pi_(m-1)^(m-1)
        Pi_l^m = a[l, m] z Pi_(l-1)^m + b[l, m] Pi_(l-2)^m
        d Pi_l^m / dz = d[l, m] Pi_l^(m+1)
    """
    a, b, d = (np.zeros((l_max + 1, l_max + 2)) for _ in range(3))
    for l in range(l_max + 1):
        for m in range(l + 1):
            if m == l:
                a[l, m] = 1.0 if l == 0 else np.sqrt((2 * l + 1) / (2 * l) * (2.0 if l == 1 else 1.0))
            else:
                a[l, m] = np.sqrt((4 * l * l - 1) / (l * l - m * m))
                if l > m + 1:
                    square = (2 * l + 1) * ((l - 1) ** 2 - m * m) / ((2 * l - 3) * (l * l - m * m))
                    b[l, m] = -np.sqrt(square)
                d[l, m] = np.sqrt((l - m) * (l + m + 1) * (0.5 if m == 0 else 1.0))
    return a, b, d


@njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def real_harmonics(u, n, l_max, a, b, d, y, grad, work):
    """Harmonics of n unit vectors, and their gradients but for a part along these vectors.

    Parameters
    ----------
    u : ndarray, shape (3, size)
        Unit vectors; the first n are used.
    y : ndarray, shape ((l_max + 1)^2, size)
        Harmonics, out.
    grad : ndarray, shape ((l_max + 1)^2, 3, size)
        Out. Less their components along u (:func:`make_tangential`) and divided by r, gradients in space.
    work : ndarray, shape (4, size)
        Scratch.
    """
    for k in range(n):
        y[0, k] = 1.0
    grad[0, :, :n] = 0.0
    if l_max == 0:
        return
    # First Pi_l^m in the places of Y_lm, its derivative by z in those of the gradient by z, and a copy of it
    # in those of the gradient by x.
    for l in range(1, l_max + 1):
        o = l * l + l
        for m in range(l, -1, -1):
            _legendre(u[2], n, l, m, a, b, y)
        for m in range(l + 1):
            p = y[o + m]
            g = grad[o + m, 2]
            if m < l:
                above = y[o + m + 1]
                f = d[l, m]
                for k in range(n):
                    g[k] = f * above[k]
            else:
                for k in range(n):
                    g[k] = 0.0
            if m > 0:
                grad[o + m, 0, :n] = p[:n]
        grad[o, 0, :n] = 0.0
        grad[o, 1, :n] = 0.0
    # Then times cos(m phi) sin(theta)^m and sin(m phi) sin(theta)^m, polynomials in x and y; c and s are
    # those of m - 1.
    c, s = work[0], work[1]
    for k in range(n):
        c[k] = 1.0
        s[k] = 0.0
    nc, ns = work[2], work[3]
    for m in range(1, l_max + 1):
        for k in range(n):
            nc[k] = u[0, k] * c[k] - u[1, k] * s[k]
            ns[k] = u[0, k] * s[k] + u[1, k] * c[k]
        for l in range(m, l_max + 1):
            o = l * l + l
            # One array written per loop: checks that arrays do not overlap cost more than the work.
            p, dz = grad[o + m, 0], grad[o + m, 2]
            _times(p, nc, 1.0, n, y[o + m])
            _times(p, ns, 1.0, n, y[o - m])
            _times(p, s, -m, n, grad[o + m, 1])
            _times(p, s, m, n, grad[o - m, 0])
            _times(p, c, m, n, grad[o - m, 1])
            _times(p, c, m, n, p)
            _times(dz, ns, 1.0, n, grad[o - m, 2])
            _times(dz, nc, 1.0, n, dz)
        c, s, nc, ns = nc, ns, c, s


@njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def _times(a, b, factor, n, out):
    for k in range(n):
        out[k] = factor * a[k] * b[k]


@njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def make_tangential(u, n, grad):
    """Take from gradients (functions, 3, size) their components along the unit vectors u."""
    for i in range(len(grad)):
        gx, gy, gz = grad[i, 0], grad[i, 1], grad[i, 2]
        for k in range(n):
            radial = gx[k] * u[0, k] + gy[k] * u[1, k] + gz[k] * u[2, k]
            gx[k] -= radial * u[0, k]
            gy[k] -= radial * u[1, k]
            gz[k] -= radial * u[2, k]


@njit(cache=True, fastmath={"contract", "reassoc", "nsz"})
def _legendre(z, n, l, m, a, b, y):
    """Pi_l^m of those of l - 1 and l - 2, in the places of Y_lm with m >= 0."""
    out = y[l * l + l + m]
    f = a[l, m]
    if m == l:
        last = y[(l - 1) * (l - 1) + 2 * (l - 1)]
        for k in range(n):
            out[k] = f * last[k]
        return
    last = y[(l - 1) * l + m]
    if l == m + 1:
        for k in range(n):
            out[k] = f * z[k] * last[k]
        return
    h = b[l, m]
    before = y[(l - 2) * (l - 1) + m]
    for k in range(n):
        out[k] = f * z[k] * last[k] + h * before[k]
