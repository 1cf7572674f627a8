"""Rows of linear fits, compiled: each function depends on few density projections only."""

# numba infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from .harmonics import make_tangential
from .surroundings import gather, places, project, see

__all__ = ["all_rows"]

_FAST = {"contract", "reassoc", "nsz"}

# Functions whose gradients are formed together: one cache line of a row.
BLOCK = 8


@njit(cache=True, fastmath=_FAST)
def function_values(terms, orders, factors, slots, value, x, functions, slopes):
    """All functions of the projections x, and their derivatives by the projections they depend on."""
    slopes[:] = 0.0
    for k in range(len(orders)):
        total = 0.0
        order = orders[k]
        for t in range(terms[k], terms[k + 1]):
            c = value[t]
            if order == 1:
                total += c * x[factors[t, 0]]
                slopes[slots[t, 0]] += c
            elif order == 2:
                p, q = x[factors[t, 0]], x[factors[t, 1]]
                total += c * p * q
                slopes[slots[t, 0]] += c * q
                slopes[slots[t, 1]] += c * p
            elif order == 3:
                p, q, r = x[factors[t, 0]], x[factors[t, 1]], x[factors[t, 2]]
                cp, qr = c * p, q * r
                total += cp * qr
                slopes[slots[t, 0]] += c * qr
                slopes[slots[t, 1]] += cp * r
                slopes[slots[t, 2]] += cp * q
            else:
                p, q, r, s = x[factors[t, 0]], x[factors[t, 1]], x[factors[t, 2]], x[factors[t, 3]]
                cpq, rs = c * p * q, r * s
                total += cpq * rs
                slopes[slots[t, 0]] += c * q * rs
                slopes[slots[t, 1]] += c * p * rs
                slopes[slots[t, 2]] += cpq * s
                slopes[slots[t, 3]] += cpq * r
        functions[k] = total


@njit(cache=True, fastmath=_FAST)
def _projection_gradients(segments, n, channel_starts, n_max, r, u, values, slopes, y, grad, phi):
    """Gradients ``phi[a, c n + j]`` of projections by the neighbours, zero for those of other elements."""
    last = len(segments) - 1
    for z in range(last):
        begin, end = segments[z], segments[z + 1]
        for l in range(len(n_max)):
            for i in range(l * l, (l + 1) * (l + 1)):
                q = y[i]
                for m in range(n_max[l]):
                    a = channel_starts[z, i] + m
                    v, s = values[m], slopes[m]
                    for c in range(3):
                        g, o, e = grad[i, c], phi[a, c * n : (c + 1) * n], u[c]
                        if last > 1:
                            o[:] = 0.0
                        for k in range(begin, end):
                            o[k] = s[k] * q[k] * e[k] + v[k] * g[k] / r[k]


@njit(cache=True, fastmath=_FAST)
def _block_gradients(first, count, n, starts, channels, slopes, phi, gradient):
    """Gradients (functions, 3 n) of `count` functions, four projections at a time."""
    for b in range(count):
        t, end = starts[first + b], starts[first + b + 1]
        o = gradient[b]
        for k in range(3 * n):
            o[k] = 0.0
        while t + 4 <= end:
            f0, f1, f2, f3 = slopes[t], slopes[t + 1], slopes[t + 2], slopes[t + 3]
            g0, g1 = phi[channels[t]], phi[channels[t + 1]]
            g2, g3 = phi[channels[t + 2]], phi[channels[t + 3]]
            for k in range(3 * n):
                o[k] += f0 * g0[k] + f1 * g1[k] + f2 * g2[k] + f3 * g3[k]
            t += 4
        while t < end:
            f0 = slopes[t]
            g0 = phi[channels[t]]
            for k in range(3 * n):
                o[k] += f0 * g0[k]
            t += 1


@njit(cache=True, fastmath=_FAST)
def _scatter(l, n, column, count, gradient, who, r, u, with_forces, with_virial, forces, virial):
    """Add the gradients of a block of functions to the rows of forces and virial."""
    if with_forces:
        for c in range(3):
            own = forces[3 * l + c]
            for b in range(count):
                total = 0.0
                g = gradient[b, c * n : (c + 1) * n]
                for k in range(n):
                    total += g[k]
                own[column + b] += total
            if count == BLOCK:
                for k in range(n):
                    if who[k] < 0:
                        continue
                    row = forces[3 * who[k] + c, column : column + BLOCK]
                    for b in range(BLOCK):
                        row[b] -= gradient[b, c * n + k]
            else:
                for k in range(n):
                    if who[k] < 0:
                        continue
                    row = forces[3 * who[k] + c]
                    for b in range(count):
                        row[column + b] -= gradient[b, c * n + k]
    if with_virial:
        for b in range(count):
            for voigt in range(6):
                c = voigt if voigt < 3 else (1 if voigt == 3 else 0)
                d = voigt if voigt < 3 else (1 if voigt == 5 else 2)
                g, e = gradient[b, c * n : (c + 1) * n], u[d]
                total = 0.0
                for k in range(n):
                    total += g[k] * e[k] * r[k]
                virial[voigt, column + b] -= total


@njit(cache=True, fastmath=_FAST)
def all_rows(
    positions,
    species,
    neighbour_starts,
    neighbours,
    offsets,
    cutoff,
    with_forces,
    with_virial,
    n_columns,
    n_pair,
    nodes,
    pair,
    spacing,
    channel_starts,
    n_max,
    harmonics,
    size,
    terms,
    orders,
    factors,
    slots,
    value,
    starts,
    channels,
):
    """Rows of energies (n, K), forces (3 n, K) and virial (6, K), and the core's energies, forces, virial."""
    n_atoms, n_z, n_cluster = len(positions), len(channel_starts), len(orders)
    most = places(neighbour_starts, n_z)
    beyond = (nodes.shape[1] - 1.5) * spacing
    n_y, n_radial = len(channel_starts[0]), nodes.shape[3]
    first_pair = n_radial - n_pair - 1
    who, r = np.empty(most, np.int64), np.empty(most)
    u, work = np.empty((3, most)), np.empty((4, most))
    values, slopes = np.empty((n_radial, most)), np.empty((n_radial, most))
    y, grad = np.empty((n_y, most)), np.empty((n_y, 3, most))
    x, phi = np.empty(size), np.empty((size, 3 * most))
    functions, derivatives = np.empty(n_cluster), np.empty(len(channels))
    gradient = np.empty((BLOCK, 3 * most))
    segments = np.empty(n_z + 1, np.uint64)
    radial_starts = np.zeros(len(n_max), np.int64)
    energies = np.zeros((n_atoms, n_columns))
    forces = np.zeros((3 * n_atoms if with_forces else 0, n_columns))
    virial = np.zeros((6 if with_virial else 0, n_columns))
    core_energies, core_forces, core_virial = np.zeros(n_atoms), np.zeros((n_atoms, 3)), np.zeros((3, 3))
    for l in range(n_atoms):
        unsigned, _ = gather(
            l, positions, neighbour_starts, neighbours, offsets, species, segments, cutoff, beyond, who, r, u
        )
        n = np.int64(unsigned)
        if n == 0:
            continue
        z0 = species[l]
        see(n, z0, segments, r, u, nodes, pair, spacing, harmonics, values, slopes, y, grad, work)
        project(segments, channel_starts, radial_starts, n_max, values, y, x)
        function_values(terms, orders, factors, slots, value, x, functions, derivatives)
        energies[l, z0 * n_cluster : (z0 + 1) * n_cluster] = functions
        for k in range(n):
            if who[k] < 0:
                continue
            core_energies[l] += 0.5 * values[n_radial - 1, k]
            for c in range(3):
                pull = 0.5 * slopes[n_radial - 1, k] * u[c, k]
                core_forces[l, c] += pull
                core_forces[who[k], c] -= pull
                for d in range(3):
                    core_virial[c, d] -= pull * u[d, k] * r[k]
        for z in range(n_z):
            column = n_z * n_cluster + pair[z0, z] * n_pair
            for m in range(n_pair):
                for k in range(segments[z], segments[z + 1]):
                    energies[l, column + m] += 0.5 * values[first_pair + m, k]
        if not (with_forces or with_virial):
            continue
        make_tangential(u, n, grad)
        _projection_gradients(segments, n, channel_starts, n_max, r, u, values, slopes, y, grad, phi)
        for first in range(0, n_cluster, BLOCK):
            count = min(BLOCK, n_cluster - first)
            _block_gradients(first, count, n, starts, channels, derivatives, phi, gradient)
            column = z0 * n_cluster + first
            _scatter(l, n, column, count, gradient, who, r, u, with_forces, with_virial, forces, virial)
        for z in range(n_z):
            for first in range(0, n_pair, BLOCK):
                count = min(BLOCK, n_pair - first)
                for b in range(count):
                    s = slopes[first_pair + first + b]
                    for c in range(3):
                        g = gradient[b, c * n : (c + 1) * n]
                        g[:] = 0.0
                        for k in range(segments[z], segments[z + 1]):
                            g[k] = 0.5 * s[k] * u[c, k]
                column = n_z * n_cluster + pair[z0, z] * n_pair + first
                _scatter(l, n, column, count, gradient, who, r, u, with_forces, with_virial, forces, virial)
    return energies, forces, virial, (core_energies, core_forces, core_virial)
