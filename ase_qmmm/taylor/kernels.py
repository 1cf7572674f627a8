"""Compiled loops of the order-1 Taylor model.

Array names: n atoms, s stencil vectors, b basis atoms, t triangles, c Cartesian.
"""

# numba infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["site_forces", "weighted_gradient"]


@njit(cache=True, fastmath=False)
def site_forces(
    y, translations, neighbours, basis, rho, phi, starts, first, second, axial, sites, n_shell, with_virial
):
    """Energies and forces of the listed sites, virial summed over them, and the largest first-shell |g|^2.

    F_l = -sum_rho Phi(rho) g_rho;  E_l = -1/4 sum g.Phi g + sum_t b.(g_first x g_second).
    """
    n, s = neighbours.shape
    energies = np.zeros(n)
    forces = np.zeros((n, 3))
    virial = np.zeros((3, 3))
    g = np.zeros((s, 3))
    largest, worst = 0.0, -1
    for index in range(len(sites)):
        l = sites[index]
        b = basis[l]
        energy = 0.0
        f0, f1, f2 = 0.0, 0.0, 0.0
        for k in range(s):
            m = neighbours[l, k]
            if m < 0:
                g[k, 0], g[k, 1], g[k, 2] = 0.0, 0.0, 0.0
                continue
            d0 = y[m, 0] - y[l, 0] + translations[l, k, 0]
            d1 = y[m, 1] - y[l, 1] + translations[l, k, 1]
            d2 = y[m, 2] - y[l, 2] + translations[l, k, 2]
            g0, g1, g2 = d0 - rho[b, k, 0], d1 - rho[b, k, 1], d2 - rho[b, k, 2]
            g[k, 0], g[k, 1], g[k, 2] = g0, g1, g2
            t0 = phi[b, k, 0, 0] * g0 + phi[b, k, 0, 1] * g1 + phi[b, k, 0, 2] * g2
            t1 = phi[b, k, 1, 0] * g0 + phi[b, k, 1, 1] * g1 + phi[b, k, 1, 2] * g2
            t2 = phi[b, k, 2, 0] * g0 + phi[b, k, 2, 1] * g1 + phi[b, k, 2, 2] * g2
            f0 -= t0
            f1 -= t1
            f2 -= t2
            energy -= 0.25 * (g0 * t0 + g1 * t1 + g2 * t2)
            if with_virial:
                # -dE/dg of the pair term is half the symmetric part of Phi applied to g.
                h0 = 0.25 * (t0 + phi[b, k, 0, 0] * g0 + phi[b, k, 1, 0] * g1 + phi[b, k, 2, 0] * g2)
                h1 = 0.25 * (t1 + phi[b, k, 0, 1] * g0 + phi[b, k, 1, 1] * g1 + phi[b, k, 2, 1] * g2)
                h2 = 0.25 * (t2 + phi[b, k, 0, 2] * g0 + phi[b, k, 1, 2] * g1 + phi[b, k, 2, 2] * g2)
                virial[0, 0] += h0 * d0
                virial[0, 1] += h0 * d1
                virial[0, 2] += h0 * d2
                virial[1, 0] += h1 * d0
                virial[1, 1] += h1 * d1
                virial[1, 2] += h1 * d2
                virial[2, 0] += h2 * d0
                virial[2, 1] += h2 * d1
                virial[2, 2] += h2 * d2
            if k < n_shell[b]:
                size = g0 * g0 + g1 * g1 + g2 * g2
                if size > largest:
                    largest, worst = size, l
        for t in range(starts[b], starts[b + 1]):
            p, q = first[t], second[t]
            if neighbours[l, p] < 0 or neighbours[l, q] < 0:
                continue
            energy += _triangle(g[p], g[q], axial[t])
            if with_virial:
                _add_triangle_virial(virial, g, rho[b], p, q, axial[t])
        energies[l] = energy
        forces[l, 0], forces[l, 1], forces[l, 2] = f0, f1, f2
    return energies, forces, virial, largest, worst


@njit(cache=True, inline="always")
def _triangle(a, b, v):
    return (
        v[0] * (a[1] * b[2] - a[2] * b[1])
        + v[1] * (a[2] * b[0] - a[0] * b[2])
        + v[2] * (a[0] * b[1] - a[1] * b[0])
    )


@njit(cache=True, inline="always")
def _triangle_gradient(a, b, v):
    """Derivatives of v.(a x b): b x v with respect to a, v x a with respect to b."""
    da = (b[1] * v[2] - b[2] * v[1], b[2] * v[0] - b[0] * v[2], b[0] * v[1] - b[1] * v[0])
    db = (v[1] * a[2] - v[2] * a[1], v[2] * a[0] - v[0] * a[2], v[0] * a[1] - v[1] * a[0])
    return da, db


@njit(cache=True)
def _add_triangle_virial(virial, g, rho, p, q, v):
    da, db = _triangle_gradient(g[p], g[q], v)
    for c in range(3):
        for d in range(3):
            virial[c, d] -= da[c] * (g[p, d] + rho[p, d]) + db[c] * (g[q, d] + rho[q, d])


@njit(cache=True)
def weighted_gradient(
    y, translations, neighbours, basis, rho, phi, starts, first, second, axial, sites, weights
):
    """Forces and virial of ``sum_l w_l E_l`` over the listed sites."""
    n, s = neighbours.shape
    forces = np.zeros((n, 3))
    virial = np.zeros((3, 3))
    g = np.zeros((s, 3))
    pull = np.zeros((s, 3))  # dE_l/dg
    for index in range(len(sites)):
        l = sites[index]
        b = basis[l]
        for k in range(s):
            m = neighbours[l, k]
            pull[k] = 0.0
            g[k] = 0.0
            if m < 0:
                continue
            for c in range(3):
                g[k, c] = y[m, c] - y[l, c] + translations[l, k, c] - rho[b, k, c]
            for c in range(3):
                for d in range(3):
                    pull[k, c] -= 0.25 * (phi[b, k, c, d] + phi[b, k, d, c]) * g[k, d]
        for t in range(starts[b], starts[b + 1]):
            p, q = first[t], second[t]
            if neighbours[l, p] < 0 or neighbours[l, q] < 0:
                continue
            da, db = _triangle_gradient(g[p], g[q], axial[t])
            for c in range(3):
                pull[p, c] += da[c]
                pull[q, c] += db[c]
        w = weights[l]
        for k in range(s):
            m = neighbours[l, k]
            if m < 0:
                continue
            for c in range(3):
                forces[m, c] -= w * pull[k, c]
                forces[l, c] += w * pull[k, c]
                for d in range(3):
                    virial[c, d] -= w * pull[k, c] * (g[k, d] + rho[b, k, d])
    return forces, virial
