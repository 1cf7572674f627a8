"""Compiled loops of Taylor series of tight-binding site energies, `LANES` sites side by side.

Array names: q orders, n sites of a region, o orbitals per site, N = n o, p pairs, t species, a monomials, d
displaced sites, c columns (of x, then of y). The last axis is that of the lanes.
"""

# numba infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = [
    "LANES",
    "accumulate",
    "gradients",
    "matrix_series",
    "onsite_pulls",
    "onsite_series",
    "right_sides",
]

LANES = 8

_compiled = njit(cache=True, fastmath={"contract"}, error_model="numpy")


@_compiled
def _fill_monomials(out, step, axis, lower):
    for s in range(LANES):
        out[0, s] = 1.0
    for a in range(1, len(axis)):
        c = axis[a]
        one = lower[a, c]
        for s in range(LANES):
            out[a, s] = out[one, s] * step[c, s]


@_compiled
def _fill_step(step, g, first, second):
    """Change of a pair vector; atoms numbered -1 stay where they are."""
    step[:] = 0.0
    if first >= 0:
        for c in range(3):
            for s in range(LANES):
                step[c, s] -= g[first, c, s]
    if second >= 0:
        for c in range(3):
            for s in range(LANES):
                step[c, s] += g[second, c, s]


@_compiled
def matrix_series(
    g, i, j, first, second, kinds, species, of_h, of_m, of_ij, of_ji, starts, axis, lower, order, h, m, rho
):
    """Coefficients of t^1 .. t^order of the pair blocks and of the sums over neighbours.

    Parameters
    ----------
    g : (d, 3, LANES)
    i, j, first, second, kinds : (p,)
        Sites of each pair, their numbers among the displaced (or -1), and the row of the tables.
    species : (n,)
    of_h, of_m, of_ij, of_ji : (kinds, a, o o), (kinds, a, o o or 0), (kinds, a), (kinds, a)
        Taylor coefficients of the blocks and of the densities of j at i and of i at j.
    h, m, rho : (q, p, o o, LANES), the same or (q, p, 0, LANES), (t, q, n, LANES)
        Written.
    """
    step, power = np.empty((3, LANES)), np.empty((len(axis), LANES))
    h[:] = 0.0
    m[:] = 0.0
    rho[:] = 0.0
    for p in range(len(i)):
        _fill_step(step, g, first[p], second[p])
        _fill_monomials(power, step, axis, lower)
        k = kinds[p]
        a_species, b_species = species[i[p]], species[j[p]]
        for q in range(order):
            for a in range(starts[q + 1], starts[q + 2]):
                for e in range(of_h.shape[2]):
                    f = of_h[k, a, e]
                    if f != 0.0:
                        for s in range(LANES):
                            h[q, p, e, s] += f * power[a, s]
                for e in range(of_m.shape[2]):
                    f = of_m[k, a, e]
                    if f != 0.0:
                        for s in range(LANES):
                            m[q, p, e, s] += f * power[a, s]
                u, v = of_ij[k, a], of_ji[k, a]
                for s in range(LANES):
                    rho[b_species, q, i[p], s] += u * power[a, s]
                    rho[a_species, q, j[p], s] += v * power[a, s]


@_compiled
def onsite_series(rho, functions, order, values, slopes):
    """Series of functions of the sums over neighbours, by powers of their series.

    Parameters
    ----------
    rho : (t, q, n, LANES)
        Coefficients of t^1 and higher.
    functions : (t, order + 1, n, o)
        Derivatives over factorials.
    values : (q, n o, LANES)
        Written: coefficients of t^1 .. t^order.
    slopes : (t, q, n o, LANES)
        Written: coefficients of t^0 .. t^(order - 1) of the derivatives.
    """
    n, o = functions.shape[2], functions.shape[3]
    values[:] = 0.0
    slopes[:] = 0.0
    power, last = np.empty((order + 1, LANES)), np.empty((order + 1, LANES))
    for t in range(functions.shape[0]):
        for l in range(n):
            power[:] = 0.0
            for s in range(LANES):
                power[0, s] = 1.0
            for b in range(order + 1):
                for e in range(o):
                    f = functions[t, b, l, e]
                    for q in range(1, order + 1):
                        for s in range(LANES):
                            values[q - 1, l * o + e, s] += f * power[q, s]
                    if b < order:
                        f = (b + 1) * functions[t, b + 1, l, e]
                        for q in range(order):
                            for s in range(LANES):
                                slopes[t, q, l * o + e, s] += f * power[q, s]
                last[:] = power
                power[:] = 0.0
                for q in range(b + 1, order + 1):
                    for r in range(b, q):
                        for s in range(LANES):
                            power[q, s] += last[r, s] * rho[t, q - r - 1, l, s]


@_compiled
def right_sides(x, h, m, onsite, i, j, o, zr, zi, order, n_x, n_y, out):
    """``m_k - sum_(q = 1 .. order) A_q X_(order - q)`` of the recursion, A = z M - H.

    Parameters
    ----------
    x : (q, N, c, 2, LANES)
        Real and imaginary part; orders 0 .. order - 1 are read.
    h, m : as in :func:`matrix_series`
    onsite : (q, N, LANES)
    n_x, n_y : int
        Columns of x and of y; the latter have the overlap with the first site as their right-hand side.
    out : (N, c, 2, LANES)
        Written.
    """
    ar, ai = np.empty(LANES), np.zeros(LANES)
    overlap = m.shape[2] > 0
    columns = n_x + n_y
    for n in range(len(out)):
        for c in range(columns):
            for s in range(LANES):
                out[n, c, 0, s] = 0.0
                out[n, c, 1, s] = 0.0
            for q in range(order):
                for s in range(LANES):
                    out[n, c, 0, s] += onsite[q, n, s] * x[order - 1 - q, n, c, 0, s]
                    out[n, c, 1, s] += onsite[q, n, s] * x[order - 1 - q, n, c, 1, s]
    for p in range(len(i)):
        for a in range(o):
            row = i[p] * o + a
            for b in range(o):
                column = j[p] * o + b
                e = a * o + b
                for q in range(order):
                    past = order - 1 - q
                    if overlap:
                        for s in range(LANES):
                            ar[s] = zr * m[q, p, e, s] - h[q, p, e, s]
                            ai[s] = zi * m[q, p, e, s]
                    else:
                        for s in range(LANES):
                            ar[s] = -h[q, p, e, s]
                    for c in range(columns):
                        for s in range(LANES):
                            u, v = x[past, column, c, 0, s], x[past, column, c, 1, s]
                            out[row, c, 0, s] -= ar[s] * u - ai[s] * v
                            out[row, c, 1, s] -= ar[s] * v + ai[s] * u
                        for s in range(LANES):
                            u, v = x[past, row, c, 0, s], x[past, row, c, 1, s]
                            out[column, c, 0, s] -= ar[s] * u - ai[s] * v
                            out[column, c, 1, s] -= ar[s] * v + ai[s] * u
                if overlap and i[p] == 0 and a < n_y:
                    for s in range(LANES):
                        out[column, n_x + a, 0, s] += m[order - 1, p, e, s]
                if overlap and j[p] == 0 and b < n_y:
                    for s in range(LANES):
                        out[row, n_x + b, 0, s] += m[order - 1, p, e, s]


@_compiled
def accumulate(x, i, j, o, rho, z, order, n_x, n_y, of_h, of_m, diagonal):
    """Add one pole to the series of ``dV/dH`` and ``dV/dM`` on the pairs, and on the diagonal of H.

    Coefficients of t^0 .. t^(order - 1). Each pair block stands for itself and for its transpose.

    Parameters
    ----------
    x : (q, N, c, 2, LANES)
    rho, z : complex
        Residue and pole.
    of_h, of_m, diagonal : (q, p, o o, LANES), the same or (q, p, 0, LANES), (q, N, LANES)
    """
    wr, wi = np.empty(LANES), np.empty(LANES)
    overlap = n_y > 0
    start = n_x if overlap else 0
    twice = 2.0 if overlap else 4.0
    hr, hi = twice * rho.real, twice * rho.imag
    t = rho * z
    mr, mi = twice * t.real, twice * t.imag
    for p in range(len(i)):
        for a in range(o):
            row = i[p] * o + a
            for b in range(o):
                column = j[p] * o + b
                e = a * o + b
                for total in range(order):
                    for s in range(LANES):
                        wr[s] = 0.0
                        wi[s] = 0.0
                    for k in range(total + 1):
                        for c in range(n_x):
                            y = start + c
                            for s in range(LANES):
                                ur, ui = x[k, row, c, 0, s], x[k, row, c, 1, s]
                                vr, vi = x[total - k, column, y, 0, s], x[total - k, column, y, 1, s]
                                wr[s] += ur * vr - ui * vi
                                wi[s] += ur * vi + ui * vr
                            if overlap:
                                for s in range(LANES):
                                    ur, ui = x[k, row, y, 0, s], x[k, row, y, 1, s]
                                    vr, vi = x[total - k, column, c, 0, s], x[total - k, column, c, 1, s]
                                    wr[s] += ur * vr - ui * vi
                                    wi[s] += ur * vi + ui * vr
                    for s in range(LANES):
                        of_h[total, p, e, s] += hr * wr[s] - hi * wi[s]
                    if overlap:
                        for s in range(LANES):
                            of_m[total, p, e, s] -= mr * wr[s] - mi * wi[s]
                        if i[p] == 0 and a < n_x:
                            for s in range(LANES):
                                of_m[total, p, e, s] += (
                                    hr * x[total, column, a, 0, s] - hi * x[total, column, a, 1, s]
                                )
                        if j[p] == 0 and b < n_x:
                            for s in range(LANES):
                                of_m[total, p, e, s] += (
                                    hr * x[total, row, b, 0, s] - hi * x[total, row, b, 1, s]
                                )
    for n in range(x.shape[1]):
        for total in range(order):
            for s in range(LANES):
                wr[s] = 0.0
                wi[s] = 0.0
            for k in range(total + 1):
                for c in range(n_x):
                    for s in range(LANES):
                        ur, ui = x[k, n, c, 0, s], x[k, n, c, 1, s]
                        vr, vi = x[total - k, n, start + c, 0, s], x[total - k, n, start + c, 1, s]
                        wr[s] += ur * vr - ui * vi
                        wi[s] += ur * vi + ui * vr
            for s in range(LANES):
                diagonal[total, n, s] += 2.0 * (rho.real * wr[s] - rho.imag * wi[s])


@_compiled
def onsite_pulls(diagonal, slopes, o, order, out):
    """Series of ``dV/drho`` of each site, (t, q, n, LANES), written to `out`."""
    out[:] = 0.0
    for t in range(out.shape[0]):
        for total in range(order):
            for k in range(total + 1):
                for n in range(out.shape[2]):
                    for e in range(n * o, (n + 1) * o):
                        for s in range(LANES):
                            out[t, total, n, s] += diagonal[k, e, s] * slopes[t, total - k, e, s]


@_compiled
def gradients(
    g,
    i,
    j,
    first,
    second,
    kinds,
    species,
    of_h,
    of_m,
    of_ij,
    of_ji,
    starts,
    axis,
    lower,
    exponents,
    lowest,
    order,
    pull_h,
    pull_m,
    pull_rho,
    energy,
    gradient,
):
    """Add the orders `lowest` .. `order` of energies (LANES,) and gradients (d, 3, LANES) of one spin.

    The gradient is that of the pair polynomials, those of degree q + 1 with what the poles gave in orders up
    to ``order - 1 - q``; the energy follows from its orders, ``j V_j = g . grad V_j``.
    """
    step, power = np.empty((3, LANES)), np.empty((len(axis), LANES))
    sum_h, sum_m = np.empty((2, of_h.shape[2], LANES)), np.empty((2, of_m.shape[2], LANES))
    sum_rho = np.empty((2, 2, LANES))
    pull = np.empty((2, LANES))
    force = np.empty((3, LANES))
    for p in range(len(i)):
        _fill_step(step, g, first[p], second[p])
        _fill_monomials(power, step, axis, lower)
        k = kinds[p]
        a_species, b_species = species[i[p]], species[j[p]]
        force[:] = 0.0
        for q in range(order):
            sum_h[:] = 0.0
            sum_m[:] = 0.0
            sum_rho[:] = 0.0
            for r in range(max(0, lowest - 1 - q), order - q):
                share = 1.0 / (r + q + 1)
                for e in range(of_h.shape[2]):
                    for s in range(LANES):
                        sum_h[0, e, s] += pull_h[r, p, e, s]
                        sum_h[1, e, s] += share * pull_h[r, p, e, s]
                for e in range(of_m.shape[2]):
                    for s in range(LANES):
                        sum_m[0, e, s] += pull_m[r, p, e, s]
                        sum_m[1, e, s] += share * pull_m[r, p, e, s]
                for s in range(LANES):
                    sum_rho[0, 0, s] += pull_rho[b_species, r, i[p], s]
                    sum_rho[1, 0, s] += share * pull_rho[b_species, r, i[p], s]
                    sum_rho[0, 1, s] += pull_rho[a_species, r, j[p], s]
                    sum_rho[1, 1, s] += share * pull_rho[a_species, r, j[p], s]
            for a in range(starts[q + 1], starts[q + 2]):
                u, v = of_ij[k, a], of_ji[k, a]
                for way in range(2):
                    for s in range(LANES):
                        pull[way, s] = u * sum_rho[way, 0, s] + v * sum_rho[way, 1, s]
                    for e in range(of_h.shape[2]):
                        f = of_h[k, a, e]
                        if f != 0.0:
                            for s in range(LANES):
                                pull[way, s] += f * sum_h[way, e, s]
                    for e in range(of_m.shape[2]):
                        f = of_m[k, a, e]
                        if f != 0.0:
                            for s in range(LANES):
                                pull[way, s] += f * sum_m[way, e, s]
                for s in range(LANES):
                    energy[s] += (q + 1) * pull[1, s] * power[a, s]
                for c in range(3):
                    if exponents[a, c]:
                        one = lower[a, c]
                        for s in range(LANES):
                            force[c, s] += exponents[a, c] * pull[0, s] * power[one, s]
        if first[p] >= 0:
            for c in range(3):
                for s in range(LANES):
                    gradient[first[p], c, s] -= force[c, s]
        if second[p] >= 0:
            for c in range(3):
                for s in range(LANES):
                    gradient[second[p], c, s] += force[c, s]
