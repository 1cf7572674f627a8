"""Compiled loops over packed polynomials, several sites of one basis atom side by side.

Array names: n atoms, s stencil vectors, b basis atoms, p prefixes, t terms, c Cartesian; i lanes, the
sites of one block. The innermost loops run over lanes: the processor takes several sites in one instruction.
"""

# numba infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def, call-arg"

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["polynomial_gradients", "polynomial_values"]

LANES = 64


@njit(cache=True)
def _differences(g, y, shifts, shift_numbers, neighbours, rho, sites, start, count, b, n_shell, far):
    """Fill g (3 s + 4, lanes) for a block of sites; `far`: the largest first-shell |g|^2 and its site."""
    s = neighbours.shape[1]
    for k in range(s):
        r0, r1, r2 = rho[b, k, 0], rho[b, k, 1], rho[b, k, 2]
        for i in range(count):
            l = sites[start + i]
            m = neighbours[l, k]
            if m < 0:
                g[3 * k, i], g[3 * k + 1, i], g[3 * k + 2, i] = 0.0, 0.0, 0.0
                continue
            q = shift_numbers[l, k]
            g0 = y[m, 0] - y[l, 0] + shifts[q, 0] - r0
            g1 = y[m, 1] - y[l, 1] + shifts[q, 1] - r1
            g2 = y[m, 2] - y[l, 2] + shifts[q, 2] - r2
            g[3 * k, i], g[3 * k + 1, i], g[3 * k + 2, i] = g0, g1, g2
            if k < n_shell[b]:
                size = g0 * g0 + g1 * g1 + g2 * g2
                if size > far[0]:
                    far[0], far[1] = size, l
        for i in range(count, LANES):
            g[3 * k, i], g[3 * k + 1, i], g[3 * k + 2, i] = 0.0, 0.0, 0.0


@njit(cache=True)
def _prefix(m, g, prefixes, p):
    """Product m (lanes,) of the factors of a prefix; returns how many there are."""
    depth = 0
    for i in range(LANES):
        m[i] = 1.0
    for q in range(prefixes.shape[1]):
        a = prefixes[p, q]
        if a < 0:
            break
        depth += 1
        for i in range(LANES):
            m[i] *= g[a, i]
    return depth


@njit(cache=True, fastmath={"contract"})
def _energies(e, m, g, starts, prefixes, leaf_starts, leaves, coefficients, b):
    for i in range(LANES):
        e[i] = 0.0
    for p in range(starts[b], starts[b + 1]):
        _prefix(m, g, prefixes, p)
        for t in range(leaf_starts[p], leaf_starts[p + 1], 4):
            # Four leaves in one loop: the sum stays in registers.
            j, k, q, r = leaves[t], leaves[t + 1], leaves[t + 2], leaves[t + 3]
            c, d = coefficients[t, 0], coefficients[t + 1, 0]
            u, v = coefficients[t + 2, 0], coefficients[t + 3, 0]
            for i in range(LANES):
                e[i] += m[i] * (c * g[j, i] + d * g[k, i] + u * g[q, i] + v * g[r, i])


@njit(cache=True, fastmath={"contract"})
def _vectors(f, m, g, starts, prefixes, leaf_starts, leaves, coefficients, b):
    for c in range(3):
        for i in range(LANES):
            f[c, i] = 0.0
    for p in range(starts[b], starts[b + 1]):
        _prefix(m, g, prefixes, p)
        for t in range(leaf_starts[p], leaf_starts[p + 1], 4):
            j, k, q, r = leaves[t], leaves[t + 1], leaves[t + 2], leaves[t + 3]
            for x in range(3):
                c, d = coefficients[t, x], coefficients[t + 1, x]
                u, v = coefficients[t + 2, x], coefficients[t + 3, x]
                if c == 0.0 and d == 0.0 and u == 0.0 and v == 0.0:
                    continue
                for i in range(LANES):
                    f[x, i] += m[i] * (c * g[j, i] + d * g[k, i] + u * g[q, i] + v * g[r, i])


@njit(cache=True, fastmath={"contract"})
def _pulls(e, h, m, w, g, starts, prefixes, leaf_starts, leaves, coefficients, b):
    """Energies (lanes,) and their derivatives h (3 s + 4, lanes) by g."""
    for i in range(LANES):
        e[i] = 0.0
    for k in range(h.shape[0]):
        for i in range(LANES):
            h[k, i] = 0.0
    for p in range(starts[b], starts[b + 1]):
        depth = _prefix(m, g, prefixes, p)
        for i in range(LANES):
            w[0, i] = 0.0
        for t in range(leaf_starts[p], leaf_starts[p + 1], 4):
            j, k, q, r = leaves[t], leaves[t + 1], leaves[t + 2], leaves[t + 3]
            c, d = coefficients[t, 0], coefficients[t + 1, 0]
            u, v = coefficients[t + 2, 0], coefficients[t + 3, 0]
            for i in range(LANES):
                w[0, i] += c * g[j, i] + d * g[k, i] + u * g[q, i] + v * g[r, i]
            for i in range(LANES):
                h[j, i] += c * m[i]
                h[k, i] += d * m[i]
                h[q, i] += u * m[i]
                h[r, i] += v * m[i]
        for i in range(LANES):
            e[i] += m[i] * w[0, i]
        for q in range(depth):
            for i in range(LANES):
                w[1, i] = w[0, i]
            for r in range(depth):
                if r != q:
                    a = prefixes[p, r]
                    for i in range(LANES):
                        w[1, i] *= g[a, i]
            a = prefixes[p, q]
            for i in range(LANES):
                h[a, i] += w[1, i]


@njit(cache=True)
def polynomial_values(
    y, shifts, shift_numbers, neighbours, rho, groups, sites, n_shell, energy_terms, force_terms
):
    """Energies (n,) and forces (n, 3) of the listed sites, each from its own stencil.

    `sites` are in groups of one basis atom, b from ``groups[b]`` on. Also returns the largest first-shell
    |g|^2 and its site.
    """
    n, s = neighbours.shape
    energies = np.zeros(n)
    forces = np.zeros((n, 3))
    g = np.zeros((3 * s + 4, LANES))  # four rows of zeros for padding
    e, m = np.zeros(LANES), np.zeros(LANES)
    f = np.zeros((3, LANES))
    far = np.array([0.0, -1.0])
    for b in range(len(groups) - 1):
        for start in range(groups[b], groups[b + 1], LANES):
            count = min(LANES, groups[b + 1] - start)
            _differences(g, y, shifts, shift_numbers, neighbours, rho, sites, start, count, b, n_shell, far)
            _energies(e, m, g, *energy_terms, b)
            _vectors(f, m, g, *force_terms, b)
            for i in range(count):
                l = sites[start + i]
                energies[l] = e[i]
                for c in range(3):
                    forces[l, c] = f[c, i]
    return energies, forces, far[0], int(far[1])


@njit(cache=True)
def polynomial_gradients(
    y, shifts, shift_numbers, neighbours, rho, groups, sites, n_shell, energy_terms, weights
):
    """Energies (n,) of the listed sites; forces (n, 3) and virial (3, 3) of ``sum_l w_l E_l`` over them.

    Arguments as in :func:`polynomial_values`. The virial is ``-sum_l w_l sum_rho dE_l/dg (g + rho)^T``.
    """
    n, s = neighbours.shape
    energies = np.zeros(n)
    forces = np.zeros((n, 3))
    virial = np.zeros((3, 3))
    g, h = np.zeros((3 * s + 4, LANES)), np.zeros((3 * s + 4, LANES))
    e, m, w = np.zeros(LANES), np.zeros(LANES), np.zeros((2, LANES))
    far = np.array([0.0, -1.0])
    for b in range(len(groups) - 1):
        for start in range(groups[b], groups[b + 1], LANES):
            count = min(LANES, groups[b + 1] - start)
            _differences(g, y, shifts, shift_numbers, neighbours, rho, sites, start, count, b, n_shell, far)
            _pulls(e, h, m, w, g, *energy_terms, b)
            for i in range(count):
                l = sites[start + i]
                energies[l] = e[i]
                for k in range(s):
                    j = neighbours[l, k]
                    if j < 0:
                        continue
                    for c in range(3):
                        pull = weights[l] * h[3 * k + c, i]
                        forces[j, c] -= pull
                        forces[l, c] += pull
                        for d in range(3):
                            virial[c, d] -= pull * (g[3 * k + d, i] + rho[b, k, d])
    return energies, forces, virial, far[0], int(far[1])
