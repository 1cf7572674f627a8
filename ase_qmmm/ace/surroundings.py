"""What a site sees: its neighbours by element, radial functions, harmonics, density projections."""

# numba infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from .harmonics import real_harmonics
from .tables import radial_values

__all__ = ["LANES", "gather", "places", "project", "see"]

# Neighbours that a vectorised loop takes at once: four registers of four.
LANES = 16

_FAST = {"contract", "reassoc", "nsz"}


@njit(cache=True)
def places(starts, n_elements):
    """Room for the neighbours of any atom, with their filling."""
    most = 0
    for l in range(len(starts) - 1):
        most = max(most, starts[l + 1] - starts[l])
    return most + LANES * n_elements


@njit(cache=True, fastmath=_FAST)
def gather(l, positions, starts, neighbours, offsets, species, segments, cutoff, beyond, who, r, u):
    """Neighbours of atom l inside the cutoff, sorted by element.

    Those of each element are filled up to a multiple of `LANES` with places at the distance `beyond`, where
    all radial functions are zero: loops over neighbours have no remainder then.

    Out: atoms `who` (-1: filling), distances `r`, unit vectors `u` (3, size), and where each element begins,
    `segments`. Returns the number of places and that of the closest neighbour. Segments and number are
    unsigned: indices that might be negative keep loops from being vectorised.
    """
    n = 0
    closest = 0
    square = cutoff * cutoff
    for z in range(len(segments) - 1):
        segments[z] = n
        for p in range(starts[l], starts[l + 1]):
            j = neighbours[p]
            if species[j] != z:
                continue
            x = positions[j, 0] - positions[l, 0] + offsets[p, 0]
            y = positions[j, 1] - positions[l, 1] + offsets[p, 1]
            w = positions[j, 2] - positions[l, 2] + offsets[p, 2]
            d = x * x + y * y + w * w
            if d < square:
                who[n] = j
                r[n] = np.sqrt(d)
                u[0, n] = x
                u[1, n] = y
                u[2, n] = w
                if r[n] < r[closest]:
                    closest = n
                n += 1
        while n % LANES != 0:
            who[n] = -1
            r[n] = beyond
            u[0, n] = 0.0
            u[1, n] = 0.0
            u[2, n] = beyond
            n += 1
    segments[len(segments) - 1] = n
    for k in range(n):
        # A distance of zero is reported by the caller; until then it must not divide.
        inverse = 1.0 / max(r[k], 1e-300)
        u[0, k] *= inverse
        u[1, k] *= inverse
        u[2, k] *= inverse
    return np.uint64(n), closest


@njit(cache=True, fastmath=_FAST)
def see(n, z0, segments, r, u, nodes, pair, spacing, harmonics, values, slopes, y, grad, work):
    """Radial functions and harmonics of the n neighbours of a site of element z0."""
    for z in range(len(segments) - 1):
        if segments[z + 1] > segments[z]:
            radial_values(r, segments[z], segments[z + 1], nodes[pair[z0, z]], spacing, values, slopes)
    a, b, d = harmonics
    real_harmonics(u, n, len(a) - 1, a, b, d, y, grad, work)


@njit(cache=True, fastmath=_FAST)
def project(segments, channel_starts, radial_starts, n_max, values, y, projections):
    """Density projections ``A[z, l, m, n] = sum_j R_nl(r_j) Y_lm(u_j)``, four n at a time.

    R_nl of one l are `values` from ``radial_starts[l]`` on.
    """
    for z in range(len(segments) - 1):
        begin, end = segments[z], segments[z + 1]
        for l in range(len(n_max)):
            count = n_max[l]
            of_l = values[radial_starts[l] : radial_starts[l] + count]
            for i in range(l * l, (l + 1) * (l + 1)):
                o = channel_starts[z, i]
                q = y[i]
                n = 0
                while n + 4 <= count:
                    v0, v1, v2, v3 = of_l[n], of_l[n + 1], of_l[n + 2], of_l[n + 3]
                    s0 = s1 = s2 = s3 = 0.0
                    for k in range(begin, end):
                        s0 += q[k] * v0[k]
                        s1 += q[k] * v1[k]
                        s2 += q[k] * v2[k]
                        s3 += q[k] * v3[k]
                    projections[o + n] = s0
                    projections[o + n + 1] = s1
                    projections[o + n + 2] = s2
                    projections[o + n + 3] = s3
                    n += 4
                while n < count:
                    v0 = of_l[n]
                    s0 = 0.0
                    for k in range(begin, end):
                        s0 += q[k] * v0[k]
                    projections[o + n] = s0
                    n += 1
