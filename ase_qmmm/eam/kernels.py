"""Compiled loops of the embedded-atom method over half neighbour lists with images.

Array names: n atoms, e atoms and periodic images, p pairs, c Cartesian.
"""

# numba infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = ["densities", "embedding", "forces"]

# Contraction to fused multiply-adds only: sums keep their order.
_compiled = njit(cache=True, fastmath={"contract"}, error_model="numpy")


@_compiled
def densities(
    positions, start, neighbours, owners, species, tables, step, cutoff, rows, inside, slopes, rho, energies
):
    """Densities and halves of the pair energies; keeps what :func:`forces` needs of each pair in reach.

    Parameters
    ----------
    positions : (e, 3)
    start, neighbours : (n + 1,), (p,)
        Half list in rows.
    owners : (e,)
        The atom of which each is an image.
    species : (n,)
    tables : (species, species, intervals, 12)
        For the centre and the neighbour: coefficients of ``z = r phi`` and of the neighbour's density.
    rows, inside, slopes : (n + 1,), (p,), (p, 3)
        Written: rows of the pairs in reach; their neighbours; ``phi'/r`` and the slopes over r of the
        densities at the centre and at the neighbour.
    rho, energies : (n,)
        Written.

    Returns
    -------
    closest, first, second
        Square of the shortest distance, and the atoms.
    """
    n = len(start) - 1
    per_step = 1.0 / step
    last = tables.shape[2] - 1
    reach = cutoff * cutoff
    closest, first, second = np.inf, -1, -1
    rho[:] = 0.0
    energies[:] = 0.0
    count = 0
    for i in range(n):
        rows[i] = count
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        a = species[i]
        density, energy = 0.0, 0.0
        for q in range(start[i], start[i + 1]):
            j = neighbours[q]
            dx = positions[j, 0] - x
            dy = positions[j, 1] - y
            dz = positions[j, 2] - z
            square = dx * dx + dy * dy + dz * dz
            if square >= reach:
                continue
            if square < closest:
                closest, first, second = square, i, j
            r = np.sqrt(square)
            inverse = 1.0 / r
            t = r * per_step
            m = int(t)
            if m > last:
                m = last
            p = min(t - m, 1.0)
            o = owners[j]
            b = species[o]
            c = tables[a, b, m]
            value = ((((c[5] * p + c[4]) * p + c[3]) * p + c[2]) * p + c[1]) * p + c[0]
            slope = (((5 * c[5] * p + 4 * c[4]) * p + 3 * c[3]) * p + 2 * c[2]) * p + c[1]
            here = ((((c[11] * p + c[10]) * p + c[9]) * p + c[8]) * p + c[7]) * p + c[6]
            here_slope = (((5 * c[11] * p + 4 * c[10]) * p + 3 * c[9]) * p + 2 * c[8]) * p + c[7]
            there, there_slope = here, here_slope
            if a != b:
                c = tables[b, a, m]
                there = ((((c[11] * p + c[10]) * p + c[9]) * p + c[8]) * p + c[7]) * p + c[6]
                there_slope = (((5 * c[11] * p + 4 * c[10]) * p + 3 * c[9]) * p + 2 * c[8]) * p + c[7]
            half = 0.5 * value * inverse
            density += here
            rho[o] += there
            energy += half
            energies[o] += half
            inside[count] = j
            slopes[count, 0] = (slope * per_step - 2.0 * half) * inverse * inverse
            slopes[count, 1] = here_slope * per_step * inverse
            slopes[count, 2] = there_slope * per_step * inverse
            count += 1
        rho[i] += density
        energies[i] += energy
    rows[n] = count
    return closest, first, second


@_compiled
def embedding(rho, species, tables, steps, energies, slopes):
    """Add ``F(rho)`` to the energies and write ``F'``; beyond the tables F is a straight line."""
    last = tables.shape[1] - 1
    for i in range(len(rho)):
        step = steps[species[i]]
        per_step = 1.0 / step
        t = rho[i] * per_step
        m = min(max(int(t), 0), last)
        p = min(t - m, 1.0)
        c = tables[species[i], m]
        slope = ((((5 * c[5] * p + 4 * c[4]) * p + 3 * c[3]) * p + 2 * c[2]) * p + c[1]) * per_step
        value = ((((c[5] * p + c[4]) * p + c[3]) * p + c[2]) * p + c[1]) * p + c[0]
        if t > last + 1:
            value += slope * (rho[i] - (last + 1) * step)
        energies[i] += value
        slopes[i] = slope


@_compiled
def forces(positions, owners, rows, inside, slopes, pulls, weights, out, virial):
    """Forces and virial of ``sum_l w_l E_l`` from pairs in reach and ``pulls = w F'``."""
    out[:] = 0.0
    virial[:] = 0.0
    v0, v1, v2, v3, v4, v5 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(len(rows) - 1):
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        w, pull = weights[i], pulls[i]
        fx, fy, fz = 0.0, 0.0, 0.0
        for q in range(rows[i], rows[i + 1]):
            j = inside[q]
            o = owners[j]
            s = 0.5 * (w + weights[o]) * slopes[q, 0] + pull * slopes[q, 1] + pulls[o] * slopes[q, 2]
            dx = positions[j, 0] - x
            dy = positions[j, 1] - y
            dz = positions[j, 2] - z
            sx, sy, sz = s * dx, s * dy, s * dz
            fx += sx
            fy += sy
            fz += sz
            out[o, 0] -= sx
            out[o, 1] -= sy
            out[o, 2] -= sz
            v0 -= sx * dx
            v1 -= sy * dy
            v2 -= sz * dz
            v3 -= sx * dy
            v4 -= sx * dz
            v5 -= sy * dz
        out[i, 0] += fx
        out[i, 1] += fy
        out[i, 2] += fz
    virial[0, 0], virial[1, 1], virial[2, 2] = v0, v1, v2
    virial[0, 1] = virial[1, 0] = v3
    virial[0, 2] = virial[2, 0] = v4
    virial[1, 2] = virial[2, 1] = v5
