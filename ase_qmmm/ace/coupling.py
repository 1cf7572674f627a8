"""Invariant couplings of real spherical harmonics under rotations, reflections and exchange.

Tensors C with ``sum_m C[m1, .., mN] Y_l1m1 .. Y_lNmN`` invariant under O(3) come from a recursion over exact
Clebsch-Gordan coefficients. Where slots hold the same one-particle functions they are averaged over the
exchange of these slots and reduced to an orthonormal set, in a fixed order, so that the same functions come
out on every machine.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from itertools import permutations, product
from math import factorial, sqrt

import numpy as np

__all__ = ["clebsch_gordan", "invariant_tensors", "real_clebsch_gordan", "symmetric_invariants", "to_real"]

# Norm left of a unit tensor below which it depends on those before it; true ones are far above.
_DEPENDENT = 1e-8


def clebsch_gordan(l1: int, m1: int, l2: int, m2: int, L: int, M: int) -> float:
    """``<l1 m1 l2 m2 | L M>`` by Racah's formula in rational arithmetic, one square root at the end."""
    if M != m1 + m2 or not abs(l1 - l2) <= L <= l1 + l2 or abs(M) > L or abs(m1) > l1 or abs(m2) > l2:
        return 0.0
    f = factorial
    total = Fraction(0)
    for k in range(max(0, l2 - L - m1, l1 - L + m2), min(l1 + l2 - L, l1 - m1, l2 + m2) + 1):
        bottom = f(k) * f(l1 + l2 - L - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
        bottom *= f(L - l2 + m1 + k) * f(L - l1 - m2 + k)
        total += Fraction((-1) ** k, bottom)
    square = Fraction((2 * L + 1) * f(L + l1 - l2) * f(L - l1 + l2) * f(l1 + l2 - L), f(l1 + l2 + L + 1))
    square *= f(L + M) * f(L - M) * f(l1 - m1) * f(l1 + m1) * f(l2 - m2) * f(l2 + m2)
    sign = (total > 0) - (total < 0)
    return sign * sqrt(square * total * total)


def to_real(l: int) -> np.ndarray:
    """Unitary U with ``Y_real[m] = sum_m' U[m, m'] Y_complex[m']`` (Condon-Shortley phase)."""
    u = np.zeros((2 * l + 1, 2 * l + 1), dtype=complex)
    u[l, l] = 1.0
    for m in range(1, l + 1):
        u[l + m, l - m], u[l + m, l + m] = sqrt(0.5), (-1) ** m * sqrt(0.5)
        u[l - m, l - m], u[l - m, l + m] = 1j * sqrt(0.5), -1j * (-1) ** m * sqrt(0.5)
    return u


@cache
def real_clebsch_gordan(l1: int, l2: int, L: int) -> np.ndarray:
    """Coefficients (2 l1 + 1, 2 l2 + 1, 2 L + 1) that couple real harmonics to real harmonics.

    For odd ``l1 + l2 + L`` the coupled functions are imaginary; their imaginary part is returned.
    """
    complex_coupling = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * L + 1))
    for m1, m2 in product(range(-l1, l1 + 1), range(-l2, l2 + 1)):
        if abs(m1 + m2) <= L:
            value = clebsch_gordan(l1, m1, l2, m2, L, m1 + m2)
            complex_coupling[l1 + m1, l2 + m2, L + m1 + m2] = value
    real = np.einsum(
        "ai,bj,ck,ijk->abc", to_real(l1).conj(), to_real(l2).conj(), to_real(L), complex_coupling
    )
    part: np.ndarray = real.real if (l1 + l2 + L) % 2 == 0 else real.imag
    part[np.abs(part) < 1e-14] = 0.0
    return part


@cache
def invariant_tensors(ls: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Orthonormal tensors (2 l1 + 1, ..) that span the rotation invariants of ``l1 x l2 x ..``.

    The first slots are coupled one after the other to an intermediate L, which has to be the l of the last.
    With an even sum of l they are invariant under reflections too; else there are none of O(3).
    """
    if sum(ls) % 2:
        return ()
    if len(ls) == 1:
        return (np.ones(1),) if ls[0] == 0 else ()
    chains = [(ls[0], np.eye(2 * ls[0] + 1))]
    for l in ls[1:-1]:
        chains = [
            (K, np.tensordot(tensor, real_clebsch_gordan(L, l, K), axes=1))
            for L, tensor in chains
            for K in range(abs(L - l), L + l + 1)
        ]
    return tuple(tensor / np.linalg.norm(tensor) for L, tensor in chains if L == ls[-1])


@cache
def symmetric_invariants(ls: tuple[int, ...], groups: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Orthonormal invariants that do not change when slots of the same group are exchanged.

    Parameters
    ----------
    ls : tuple of int
    groups : tuple of int
        One label per slot, sorted; slots with the same label (and the same l) hold the same functions.
    """
    exchanges = [
        p for p in permutations(range(len(ls))) if all(groups[i] == groups[j] for i, j in enumerate(p))
    ]
    kept: list[np.ndarray] = []
    for tensor in invariant_tensors(ls):
        mean = np.mean([np.transpose(tensor, p) for p in exchanges], axis=0)
        # Twice is enough for orthogonality to rounding.
        for _ in range(2):
            for other in kept:
                mean = mean - float(np.vdot(other, mean)) * other
        norm = float(np.linalg.norm(mean))
        if norm > _DEPENDENT:
            mean = mean / norm
            mean[np.abs(mean) < 1e-13] = 0.0
            kept.append(mean)
    return tuple(kept)
