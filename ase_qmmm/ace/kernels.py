"""Energy, forces and virial of a linear ACE model, compiled."""

# numba infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

from .surroundings import gather, places, project, see

__all__ = ["weighted_energy"]

_FAST = {"contract", "reassoc", "nsz"}


@njit(cache=True, fastmath=_FAST)
def _site_energy(z0, size, linear, nodes, left, right, node, terms, index, value, x, adjoint):
    """Energy of one site from its projections x[:size], and dE/dx[:size]; see :class:`.plan.Plan`."""
    begin, end = nodes[z0], nodes[z0 + 1]
    count = end - begin
    left, right, node = left[begin:end], right[begin:end], node[begin:end]
    firsts, lasts = terms[begin:end], terms[begin + 1 : end + 1]
    products, pulls = x[size : size + count], adjoint[size : size + count]
    energy = 0.0
    for a in range(size):
        energy += linear[z0, a] * x[a]
        adjoint[a] = linear[z0, a]
    for p in range(count):
        products[p] = x[left[p]] * x[right[p]]
        pulls[p] = 0.0
    for p in range(count):
        product = products[p]
        slope = node[p]
        for t in range(firsts[p], lasts[p]):
            i = index[t]
            c = value[t]
            slope += c * x[i]
            adjoint[i] += c * product
        energy += slope * product
        pulls[p] += slope
    # Last to first: a product may be a factor of those after it.
    for q in range(count):
        p = count - 1 - q
        slope = pulls[p]
        i, j = left[p], right[p]
        adjoint[i] += slope * x[j]
        adjoint[j] += slope * x[i]
    return energy


@njit(cache=True, fastmath=_FAST)
def _pull(segments, channel_starts, radial_starts, n_max, adjoint, values, slopes, y, grad, w, dw, out):
    """Derivatives of a site energy by the distance, out[3], and direction, out[:3], of neighbours."""
    for z in range(len(segments) - 1):
        begin, end = segments[z], segments[z + 1]
        for c in range(4):
            o = out[c]
            for k in range(begin, end):
                o[k] = 0.0
        ox, oy, oz, orad = out[0], out[1], out[2], out[3]
        for l in range(len(n_max)):
            count = n_max[l]
            v = values[radial_starts[l] : radial_starts[l] + count]
            s = slopes[radial_starts[l] : radial_starts[l] + count]
            for i in range(l * l, (l + 1) * (l + 1)):
                start = channel_starts[z, i]
                for k in range(begin, end):
                    w[k] = 0.0
                    dw[k] = 0.0
                n = 0
                while n + 4 <= count:
                    a0, a1 = adjoint[start + n], adjoint[start + n + 1]
                    a2, a3 = adjoint[start + n + 2], adjoint[start + n + 3]
                    v0, v1, v2, v3 = v[n], v[n + 1], v[n + 2], v[n + 3]
                    s0, s1, s2, s3 = s[n], s[n + 1], s[n + 2], s[n + 3]
                    for k in range(begin, end):
                        w[k] += a0 * v0[k] + a1 * v1[k] + a2 * v2[k] + a3 * v3[k]
                        dw[k] += a0 * s0[k] + a1 * s1[k] + a2 * s2[k] + a3 * s3[k]
                    n += 4
                while n < count:
                    a0 = adjoint[start + n]
                    v0, s0 = v[n], s[n]
                    for k in range(begin, end):
                        w[k] += a0 * v0[k]
                        dw[k] += a0 * s0[k]
                    n += 1
                q, gx, gy, gz = y[i], grad[i, 0], grad[i, 1], grad[i, 2]
                for k in range(begin, end):
                    orad[k] += dw[k] * q[k]
                    ox[k] += w[k] * gx[k]
                    oy[k] += w[k] * gy[k]
                    oz[k] += w[k] * gz[k]


@njit(cache=True, fastmath=_FAST)
def weighted_energy(
    positions,
    species,
    starts,
    neighbours,
    offsets,
    weights,
    cutoff,
    minimum,
    nodes,
    pair,
    spacing,
    channel_starts,
    radial_starts,
    n_max,
    harmonics,
    linear,
    plan_nodes,
    left,
    right,
    node,
    terms,
    index,
    value,
):
    """Site energies (eV), forces and virial of ``sum_l w_l E_l``; sites of zero weight are left out.

    The last function of the radial table is the pair potential, half of which belongs to each site.

    Returns
    -------
    energies, forces, virial, closest
        `closest` holds two atoms nearer than `minimum` (Å), or -1, with their distance.
    """
    n_atoms = len(positions)
    size = linear.shape[1]
    most = places(starts, len(channel_starts))
    beyond = (nodes.shape[1] - 1.5) * spacing
    widest = 0
    for z in range(len(plan_nodes) - 1):
        widest = max(widest, plan_nodes[z + 1] - plan_nodes[z])
    n_y, n_radial = len(channel_starts[0]), nodes.shape[3]
    who = np.empty(most, np.int64)
    r, w, dw = np.empty(most), np.empty(most), np.empty(most)
    u, work, out = np.empty((3, most)), np.empty((4, most)), np.empty((4, most))
    values, slopes = np.empty((n_radial, most)), np.empty((n_radial, most))
    y, grad = np.empty((n_y, most)), np.empty((n_y, 3, most))
    x, adjoint = np.empty(size + widest), np.empty(size + widest)
    segments = np.empty(len(plan_nodes), np.uint64)
    energies, forces, virial = np.zeros(n_atoms), np.zeros((n_atoms, 3)), np.zeros((3, 3))
    near_l, near_j, near_r = -1, -1, minimum
    for l in range(n_atoms):
        weight = weights[l]
        if weight == 0.0:
            continue
        n, closest = gather(
            l, positions, starts, neighbours, offsets, species, segments, cutoff, beyond, who, r, u
        )
        if n == 0:
            continue
        if r[closest] < near_r:
            near_l, near_j, near_r = l, who[closest], r[closest]
        if near_l >= 0:
            continue
        z0 = species[l]
        see(n, z0, segments, r, u, nodes, pair, spacing, harmonics, values, slopes, y, grad, work)
        project(segments, channel_starts, radial_starts, n_max, values, y, x)
        energy = _site_energy(
            z0, size, linear, plan_nodes, left, right, node, terms, index, value, x, adjoint
        )
        _pull(segments, channel_starts, radial_starts, n_max, adjoint, values, slopes, y, grad, w, dw, out)
        repulsion, slope = values[n_radial - 1], slopes[n_radial - 1]
        fx = fy = fz = 0.0
        for k in range(n):
            energy += 0.5 * repulsion[k]
            # Only the part along the sphere counts of the gradients of harmonics.
            along = out[0, k] * u[0, k] + out[1, k] * u[1, k] + out[2, k] * u[2, k]
            out[0, k] -= along * u[0, k]
            out[1, k] -= along * u[1, k]
            out[2, k] -= along * u[2, k]
            inverse = weight / r[k]
            radial = weight * (out[3, k] + 0.5 * slope[k])
            dx = inverse * out[0, k] + radial * u[0, k]
            dy = inverse * out[1, k] + radial * u[1, k]
            dz = inverse * out[2, k] + radial * u[2, k]
            out[0, k] = dx
            out[1, k] = dy
            out[2, k] = dz
            fx += dx
            fy += dy
            fz += dz
        for k in range(n):
            j = who[k]
            if j < 0:
                continue
            for c in range(3):
                forces[j, c] -= out[c, k]
                for d in range(c, 3):
                    virial[c, d] -= out[c, k] * u[d, k] * r[k]
        forces[l, 0] += fx
        forces[l, 1] += fy
        forces[l, 2] += fz
        energies[l] = energy
    for c in range(3):
        for d in range(c):
            virial[c, d] = virial[d, c]
    return energies, forces, virial, (near_l, near_j, near_r)
