"""Taylor series of functions of sums over neighbours: ``E = sum_t F_t(sum_k f_t(r_k)) + sum_k phi(r_k)``."""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
from numba import njit

from ..tightbinding.radial import cartesian_derivatives, reduced_derivatives
from .monomials import Monomials

__all__ = ["EmbeddedSite"]

LANES = 16


class EmbeddedSite:
    """Energy of one site as the neighbours of its stencil move; those beyond stay.

    Parameters
    ----------
    monomials : Monomials
        Up to the order of the series.
    vectors : ndarray, shape (s, 3)
        Å.
    groups : ndarray of int, shape (s,)
        The sum to which each neighbour adds.
    density : ndarray, shape (order + 1, s)
        f with its derivatives at the distances of the crystal.
    functions : ndarray, shape (n_groups, order + 1)
        F with its derivatives at the sums of the crystal, eV.
    pair : ndarray, shape (order + 1, s), optional
        phi with its derivatives, eV.
    """

    def __init__(
        self,
        monomials: Monomials,
        vectors: np.ndarray,
        groups: np.ndarray,
        density: np.ndarray,
        functions: np.ndarray,
        pair: np.ndarray | None = None,
    ) -> None:
        self.monomials, self.groups = monomials, np.asarray(groups, dtype=np.int64)
        self._functions = functions / [factorial(k) for k in range(functions.shape[1])]
        self._density = self._coefficients(vectors, density)
        self._pair = np.zeros_like(self._density) if pair is None else self._coefficients(vectors, pair)

    def _coefficients(self, vectors: np.ndarray, radial: np.ndarray) -> np.ndarray:
        """Taylor coefficients (s, a) about each vector."""
        reduced = reduced_derivatives(radial, np.linalg.norm(vectors, axis=1))
        orders = range(self.monomials.order + 1)
        return self.monomials.coefficients([cartesian_derivatives(reduced, vectors, k) for k in orders])

    def expand(self, g: np.ndarray, lowest: int, highest: int) -> tuple[np.ndarray, np.ndarray]:
        """Energies (m,) and gradients (m, s, 3); see :meth:`SiteSeries.expand`."""
        mono = self.monomials
        found: tuple[np.ndarray, np.ndarray] = _kernel(
            np.ascontiguousarray(g, dtype=float),
            self.groups,
            self._density,
            self._pair,
            self._functions,
            mono.starts,
            mono.axis,
            mono.lower,
            mono.exponents,
            lowest,
            highest,
        )
        return found


@njit(cache=True, fastmath={"contract"}, error_model="numpy")
def _embedded(  # type: ignore[no-untyped-def]  # numba infers the types
    displacements, groups, density, pair, functions, starts, axis, lower, exponents, lowest, order
):
    """Energies (m,) and gradients (m, s, 3), `LANES` sites side by side."""
    m, n = displacements.shape[:2]
    n_groups = len(functions)
    energies, gradients = np.zeros(m), np.zeros(displacements.shape)
    power = np.empty((n, len(axis), LANES))
    sums = np.empty((n_groups, order + 1, LANES))
    slopes = np.empty((n_groups, order, LANES))
    powers, last = np.empty((order + 1, LANES)), np.empty((order + 1, LANES))
    energy, pull, force = np.empty(LANES), np.empty(LANES), np.empty((3, LANES))
    step = np.empty((3, LANES))
    for start in range(0, m, LANES):
        count = min(LANES, m - start)
        sums[:] = 0.0
        slopes[:] = 0.0
        energy[:] = 0.0
        step[:] = 0.0
        for k in range(n):
            for i in range(count):
                for c in range(3):
                    step[c, i] = displacements[start + i, k, c]
            for i in range(LANES):
                power[k, 0, i] = 1.0
            for a in range(1, starts[order + 1]):
                c = axis[a]
                one = lower[a, c]
                for i in range(LANES):
                    power[k, a, i] = power[k, one, i] * step[c, i]
            for q in range(1, order + 1):
                for a in range(starts[q], starts[q + 1]):
                    f, v = density[k, a], pair[k, a] if q >= lowest else 0.0
                    for i in range(LANES):
                        sums[groups[k], q, i] += f * power[k, a, i]
                        energy[i] += v * power[k, a, i]
        for t in range(n_groups):
            powers[:] = 0.0
            for i in range(LANES):
                powers[0, i] = 1.0
            for b in range(order + 1):
                f = functions[t, b]
                if b > 0:
                    for q in range(max(b, lowest), order + 1):
                        for i in range(LANES):
                            energy[i] += f * powers[q, i]
                if b < order:
                    f = (b + 1) * functions[t, b + 1]
                    for q in range(b, order):
                        for i in range(LANES):
                            slopes[t, q, i] += f * powers[q, i]
                last[:] = powers
                powers[:] = 0.0
                for q in range(b + 1, order + 1):
                    for r in range(b, q):
                        for i in range(LANES):
                            powers[q, i] += last[r, i] * sums[t, q - r, i]
            # Sums of the orders: a density of degree q meets slopes of orders lowest - q to order - q.
            for q in range(1, order):
                for i in range(LANES):
                    slopes[t, q, i] += slopes[t, q - 1, i]
        for k in range(n):
            force[:] = 0.0
            for q in range(1, order + 1):
                for a in range(starts[q], starts[q + 1]):
                    f, v = density[k, a], pair[k, a] if q >= lowest else 0.0
                    for i in range(LANES):
                        pull[i] = v + f * slopes[groups[k], order - q, i]
                    if q < lowest:
                        for i in range(LANES):
                            pull[i] -= f * slopes[groups[k], lowest - q - 1, i]
                    for c in range(3):
                        if exponents[a, c]:
                            one = lower[a, c]
                            for i in range(LANES):
                                force[c, i] += exponents[a, c] * pull[i] * power[k, one, i]
            for i in range(count):
                for c in range(3):
                    gradients[start + i, k, c] = force[c, i]
        for i in range(count):
            energies[start + i] = energy[i]
    return energies, gradients


# Types of compiled functions are numba's affair.
_kernel: Any = _embedded
