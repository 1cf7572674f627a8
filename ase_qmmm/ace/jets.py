"""Derivatives of one-particle functions R_n(r) Y_lm(r / |r|) in space, up to third order, in closed form."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np

from .harmonics import harmonics_tables

__all__ = ["product_jets", "solid_harmonics"]

Polynomial = dict[tuple[int, int, int], float]
_X, _Y, _Z = (1, 0, 0), (0, 1, 0), (0, 0, 1)
_R2: Polynomial = {(2, 0, 0): 1.0, (0, 2, 0): 1.0, (0, 0, 2): 1.0}


def _product(a: Polynomial, b: Polynomial) -> Polynomial:
    out: Polynomial = {}
    for (i, j, k), v in a.items():
        for (l, m, n), w in b.items():
            key = (i + l, j + m, k + n)
            out[key] = out.get(key, 0.0) + v * w
    return out


def _sum(*terms: tuple[float, Polynomial]) -> Polynomial:
    out: Polynomial = {}
    for factor, polynomial in terms:
        for key, v in polynomial.items():
            out[key] = out.get(key, 0.0) + factor * v
    return out


@cache
def _solid_polynomials(l_max: int) -> tuple[Polynomial, ...]:
    """``r^l Y_lm`` as polynomials in x, y, z, in the order ``l^2 + l + m``."""
    a, b, _ = harmonics_tables(l_max)
    legendre: dict[tuple[int, int], Polynomial] = {(0, 0): {(0, 0, 0): 1.0}}
    cosine: list[Polynomial] = [{(0, 0, 0): 1.0}]
    sine: list[Polynomial] = [{}]
    for l in range(1, l_max + 1):
        for m in range(l):
            terms = [(float(a[l, m]), _product({_Z: 1.0}, legendre[l - 1, m]))]
            if l > m + 1:
                terms.append((float(b[l, m]), _product(_R2, legendre[l - 2, m])))
            legendre[l, m] = _sum(*terms)
        legendre[l, l] = _sum((float(a[l, l]), legendre[l - 1, l - 1]))
        c, s = cosine[-1], sine[-1]
        cosine.append(_sum((1.0, _product({_X: 1.0}, c)), (-1.0, _product({_Y: 1.0}, s))))
        sine.append(_sum((1.0, _product({_X: 1.0}, s)), (1.0, _product({_Y: 1.0}, c))))
    return tuple(
        _product(legendre[l, abs(m)], cosine[m] if m >= 0 else sine[-m])
        for l in range(l_max + 1)
        for m in range(-l, l + 1)
    )


def _differentiated(polynomial: Polynomial, axis: int) -> Polynomial:
    out: Polynomial = {}
    for key, v in polynomial.items():
        if key[axis]:
            lower = list(key)
            lower[axis] -= 1
            out[lower[0], lower[1], lower[2]] = v * key[axis]
    return out


def solid_harmonics(vectors: np.ndarray, l_max: int, order: int) -> list[np.ndarray]:
    """``r^l Y_lm`` at `vectors` (s, 3) and their derivatives: arrays ((l_max + 1)^2, s, 3, .., 3)."""
    x, y, z = vectors.T
    out = []
    for k in range(order + 1):
        values = np.zeros(((l_max + 1) ** 2, len(vectors)) + (3,) * k)
        for i, polynomial in enumerate(_solid_polynomials(l_max)):
            for axes in product(range(3), repeat=k):
                derived = polynomial
                for axis in axes:
                    derived = _differentiated(derived, axis)
                total = np.zeros(len(x))
                for (p, q, r), v in derived.items():
                    total += v * x**p * y**q * z**r
                values[i][(slice(None), *axes)] = total
        out.append(values)
    return out


def product_jets(
    vectors: np.ndarray, radial: np.ndarray, l: int, solid: list[np.ndarray], order: int
) -> list[np.ndarray]:
    """``R_n(r) Y_lm`` of one l and their derivatives, arrays (m, n, s, 3, .., 3).

    Parameters
    ----------
    vectors : ndarray, shape (s, 3)
    radial : ndarray, shape (order + 1, n, s)
        R_n and derivatives by r.
    solid : list of ndarray
        :func:`solid_harmonics` of this l, arrays (2 l + 1, s, 3, ..).
    """
    f = _scalar_jets(vectors, radial, l, order)
    out = [np.einsum("ns,ms->mns", f[0], solid[0])]
    if order >= 1:
        out.append(np.einsum("nsa,ms->mnsa", f[1], solid[0]) + np.einsum("ns,msa->mnsa", f[0], solid[1]))
    if order >= 2:
        mixed = np.einsum("nsa,msb->mnsab", f[1], solid[1])
        out.append(
            np.einsum("nsab,ms->mnsab", f[2], solid[0])
            + np.einsum("ns,msab->mnsab", f[0], solid[2])
            + mixed
            + mixed.swapaxes(-1, -2)
        )
    if order >= 3:
        two, one = (
            np.einsum("nsab,msc->mnsabc", f[2], solid[1]),
            np.einsum("nsa,msbc->mnsabc", f[1], solid[2]),
        )
        out.append(
            np.einsum("nsabc,ms->mnsabc", f[3], solid[0])
            + np.einsum("ns,msabc->mnsabc", f[0], solid[3])
            + two
            + two.swapaxes(-1, -2)
            + two.swapaxes(-1, -3)
            + one
            + one.swapaxes(-3, -2)
            + one.swapaxes(-3, -1)
        )
    return out


def _scalar_jets(vectors: np.ndarray, radial: np.ndarray, l: int, order: int) -> list[np.ndarray]:
    """``g(r) = R_n(r) / r^l`` and its derivatives in space, arrays (n, s, 3, ..), by ``D = (1/r) d/dr``."""
    x, r = vectors, np.linalg.norm(vectors, axis=1)
    # Derivatives of r^-l, then Leibniz.
    powers, factor = [], 1.0
    for k in range(order + 1):
        powers.append(factor * r ** (-l - k))
        factor *= -l - k
    choose = ((1,), (1, 1), (1, 2, 1), (1, 3, 3, 1))
    g = [sum(choose[k][i] * radial[i] * powers[k - i] for i in range(k + 1)) for k in range(order + 1)]
    out = [np.asarray(g[0])]
    if order >= 1:
        d1 = g[1] / r
        out.append(np.einsum("ns,sa->nsa", d1, x))
    if order >= 2:
        d2 = (g[2] - d1) / r**2
        xx = np.einsum("sa,sb->sab", x, x)
        out.append(np.einsum("ns,ab->nsab", d1, np.eye(3)) + np.einsum("ns,sab->nsab", d2, xx))
    if order >= 3:
        d3 = (g[3] / r - 3 * d2) / r**2
        dx = np.einsum("ab,sc->sabc", np.eye(3), x)
        dx = dx + dx.swapaxes(-1, -2) + dx.swapaxes(-1, -3)
        out.append(np.einsum("ns,sabc->nsabc", d2, dx) + np.einsum("ns,sab,sc->nsabc", d3, xx, x))
    return out
