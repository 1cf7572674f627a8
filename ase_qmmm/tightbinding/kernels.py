"""Compiled loops over the pairs of a tight-binding structure.

Array names: p pairs, k k-points, a and b orbitals of the first and second atom, s states. `first_i` and
`first_j` (p,) are the numbers of the first orbital of the atoms of each pair; all orbitals of a structure are
numbered 0 to N - 1. Float and complex arguments are the only two signatures of each function.
"""

# numba infers the types of what it compiles.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import numpy as np
from numba import njit

__all__ = [
    "shell_blocks",
    "scatter",
    "mirror",
    "gather",
    "row_products",
    "pair_products",
    "pair_gradients",
    "overlap_product",
    "divided_rows",
    "weigh_rows",
]

# States per pass: 8 rows of this length fit the first cache.
_CHUNK = 512


@njit(cache=True)
def shell_blocks(
    vectors,
    hopping,
    overlap,
    degree,
    entries,
    starts,
    exponents,
    coefficients,
    row,
    column,
    h0,
    h1,
    m0,
    m1,
):
    """Add the blocks of two shells to H (p, a, b), dH/dr (p, 3, a, b) and the same of M, from orbital `row`.

    Element (a, b) is ``sum_c P_abc(r) h_c(|r|) / |r|^degree``; `hopping` and `overlap` (c, order + 1, p) hold
    h_c and its derivative, `entries` (e, 3) the a, b, c whose polynomials are not zero, and
    ``starts[e]:starts[e + 1]`` their terms. At order 0 the arrays of derivatives are not touched.
    """
    gradient = hopping.shape[1] > 1
    powers = np.ones((3, 5))
    radial = np.zeros((len(hopping), 4))
    for p in range(len(vectors)):
        x, y, z = vectors[p, 0], vectors[p, 1], vectors[p, 2]
        inverse = 1.0 / np.sqrt(x * x + y * y + z * z)
        scale = 1.0
        for n in range(degree):
            scale *= inverse
            powers[0, n + 1] = powers[0, n] * x
            powers[1, n + 1] = powers[1, n] * y
            powers[2, n + 1] = powers[2, n] * z
        for c in range(len(hopping)):
            radial[c, 0] = hopping[c, 0, p] * scale
            radial[c, 2] = overlap[c, 0, p] * scale
            if gradient:
                # (1/r) d/dr of h / r^degree, which multiplies the vector.
                radial[c, 1] = (hopping[c, 1, p] - degree * hopping[c, 0, p] * inverse) * scale * inverse
                radial[c, 3] = (overlap[c, 1, p] - degree * overlap[c, 0, p] * inverse) * scale * inverse
        for e in range(len(entries)):
            a, b, c = row + entries[e, 0], column + entries[e, 1], entries[e, 2]
            value, dx, dy, dz = 0.0, 0.0, 0.0, 0.0
            for t in range(starts[e], starts[e + 1]):
                i, j, k = exponents[t, 0], exponents[t, 1], exponents[t, 2]
                factor = coefficients[t]
                px, py, pz = powers[0, i], powers[1, j], powers[2, k]
                value += factor * px * py * pz
                if i > 0:
                    dx += factor * i * powers[0, i - 1] * py * pz
                if j > 0:
                    dy += factor * j * px * powers[1, j - 1] * pz
                if k > 0:
                    dz += factor * k * px * py * powers[2, k - 1]
            h0[p, a, b] += value * radial[c, 0]
            m0[p, a, b] += value * radial[c, 2]
            if gradient:
                h1[p, 0, a, b] += dx * radial[c, 0] + value * radial[c, 1] * x
                h1[p, 1, a, b] += dy * radial[c, 0] + value * radial[c, 1] * y
                h1[p, 2, a, b] += dz * radial[c, 0] + value * radial[c, 1] * z
                m1[p, 0, a, b] += dx * radial[c, 2] + value * radial[c, 3] * x
                m1[p, 1, a, b] += dy * radial[c, 2] + value * radial[c, 3] * y
                m1[p, 2, a, b] += dz * radial[c, 2] + value * radial[c, 3] * z


@njit(cache=True)
def scatter(matrix, first_i, first_j, blocks, phases):
    """Add pair blocks times phases (k, p) to ``matrix[k, column, row]``, for row >= column only."""
    for k in range(len(matrix)):
        for p in range(len(blocks)):
            phase = phases[k, p]
            for a in range(blocks.shape[1]):
                row = first_i[p] + a
                for b in range(blocks.shape[2]):
                    column = first_j[p] + b
                    value = blocks[p, a, b] * phase
                    if row > column:
                        matrix[k, column, row] += value
                    elif row < column:
                        matrix[k, row, column] += np.conj(value)
                    else:  # an atom and its own image: the pair counts in both directions
                        matrix[k, row, row] += value + np.conj(value)


@njit(cache=True)
def mirror(matrix):
    """From the triangle ``[k, column, row]`` of :func:`scatter` to whole matrices [k, row, column]."""
    n = matrix.shape[1]
    for k in range(len(matrix)):
        # In squares, as either the reads or the writes run against the order in memory.
        for top in range(0, n, 32):
            for left in range(0, top + 1, 32):
                for row in range(top, min(top + 32, n)):
                    for column in range(left, min(left + 32, row)):
                        value = matrix[k, column, row]
                        matrix[k, row, column] = value
                        matrix[k, column, row] = np.conj(value)


@njit(cache=True)
def gather(matrix, first_i, first_j, phases, weights, blocks):
    """Add ``sum_k weight_k Re(matrix_k conj(phase_k))`` of each pair to `blocks` (p, a, b)."""
    for k in range(len(matrix)):
        for p in range(len(blocks)):
            factor = weights[k] * np.conj(phases[k, p])
            for a in range(blocks.shape[1]):
                row = first_i[p] + a
                for b in range(blocks.shape[2]):
                    blocks[p, a, b] += (matrix[k, row, first_j[p] + b] * factor).real


@njit(cache=True, fastmath={"reassoc", "contract"})
def row_products(x, y, factors, start, out):
    """Add ``sum_s x[n, s] y[n, s] factors[s]`` for s from `start` on to `out` (N,)."""
    for n in range(len(x)):
        u, v = x[n, start : start + len(factors)], y[n, start : start + len(factors)]
        total = 0.0
        for s in range(len(factors)):
            total += u[s] * v[s] * factors[s]
        out[n] += total


@njit(cache=True, fastmath={"reassoc", "contract"})
def pair_products(x, y, factors, start, first_i, first_j, blocks):
    """Add ``sum_s x[i a, s] y[j b, s] factors[s]``, s from `start` on, to `blocks` (p, a, b).

    Elements of a product of matrices where they are needed only, a few per cent of all of them in a large
    structure. Two rows times four stay in registers; reassociation lets the sums run in vectors.
    """
    na, nb = blocks.shape[1], blocks.shape[2]
    for low in range(0, len(factors), _CHUNK):
        high = min(low + _CHUNK, len(factors))
        f = factors[low:high]
        here = slice(start + low, start + high)
        for p in range(len(blocks)):
            i, j = first_i[p], first_j[p]
            for a in range(0, na, 2):
                # Past the end of the block the last row is taken again, and not written.
                u0, u1 = x[i + a, here], x[i + min(a + 1, na - 1), here]
                for b in range(0, nb, 4):
                    v0 = y[j + b, here]
                    v1, v2 = y[j + min(b + 1, nb - 1), here], y[j + min(b + 2, nb - 1), here]
                    v3 = y[j + min(b + 3, nb - 1), here]
                    s00, s01, s02, s03 = 0.0, 0.0, 0.0, 0.0
                    s10, s11, s12, s13 = 0.0, 0.0, 0.0, 0.0
                    for s in range(high - low):
                        p0, p1 = u0[s] * f[s], u1[s] * f[s]
                        s00 += p0 * v0[s]
                        s01 += p0 * v1[s]
                        s02 += p0 * v2[s]
                        s03 += p0 * v3[s]
                        s10 += p1 * v0[s]
                        s11 += p1 * v1[s]
                        s12 += p1 * v2[s]
                        s13 += p1 * v3[s]
                    for c, value in enumerate((s00, s01, s02, s03)):
                        if b + c < nb:
                            blocks[p, a, b + c] += value
                    if a + 1 < na:
                        for c, value in enumerate((s10, s11, s12, s13)):
                            if b + c < nb:
                                blocks[p, a + 1, b + c] += value


@njit(cache=True)
def pair_gradients(density_h, density_m, h1, m1, out):
    """Add ``2 Tr(D_H dH/dr) + 2 Tr(D_M dM/dr)`` of each pair to `out` (p, 3)."""
    for p in range(len(out)):
        for c in range(3):
            total = 0.0
            for a in range(h1.shape[2]):
                for b in range(h1.shape[3]):
                    total += density_h[p, a, b] * h1[p, c, a, b] + density_m[p, a, b] * m1[p, c, a, b]
            out[p, c] += 2 * total


@njit(cache=True, fastmath={"reassoc", "contract"})
def overlap_product(vectors, first_i, first_j, blocks, phases, place, out):
    """Add chosen rows of the product of the pair blocks of M (one k-point) with `vectors` (N, s) to `out`.

    As many columns as `out` has.
    ``place[row]`` is where a row goes in `out`, negative for rows that are left out; all orbitals of an
    atom are there, or none.
    """
    for low in range(0, out.shape[1], _CHUNK):
        here = slice(low, min(low + _CHUNK, out.shape[1]))
        for p in range(len(blocks)):
            i, j = first_i[p], first_j[p]
            if place[i] >= 0:
                _add_block(out, place[i], blocks[p], phases[p], vectors, j, here)
            if place[j] >= 0:
                _add_block(out, place[j], blocks[p].T, np.conj(phases[p]), vectors, i, here)


@njit(cache=True, inline="always")
def _add_block(out, row, block, phase, vectors, first, here):
    # Two rows by two: each row is read and written half as often.
    na, nb = block.shape
    for a in range(0, na - 1, 2):
        t0, t1 = out[row + a, here], out[row + a + 1, here]
        for b in range(0, nb - 1, 2):
            f00, f01 = block[a, b] * phase, block[a, b + 1] * phase
            f10, f11 = block[a + 1, b] * phase, block[a + 1, b + 1] * phase
            v0, v1 = vectors[first + b, here], vectors[first + b + 1, here]
            for s in range(len(t0)):
                x0, x1 = v0[s], v1[s]
                t0[s] += f00 * x0 + f01 * x1
                t1[s] += f10 * x0 + f11 * x1
        if nb % 2:
            f00, f10, v0 = (
                block[a, nb - 1] * phase,
                block[a + 1, nb - 1] * phase,
                vectors[first + nb - 1, here],
            )
            for s in range(len(t0)):
                t0[s] += f00 * v0[s]
                t1[s] += f10 * v0[s]
    if na % 2:
        t0 = out[row + na - 1, here]
        for b in range(nb):
            f00, v0 = block[na - 1, b] * phase, vectors[first + b, here]
            for s in range(len(t0)):
                t0[s] += f00 * v0[s]


@njit(cache=True)
def divided_rows(levels, values, slopes, near, out):
    """First rows of the divided differences of one k-point, as many as `out` (m, N) has."""
    for s in range(len(out)):
        for t in range(len(levels)):
            out[s, t] = _divided(levels, values, slopes, near, s, t)


@njit(cache=True, inline="always")
def _divided(levels, values, slopes, near, s, t):
    gap = levels[s] - levels[t]
    if abs(gap) < near:
        return (slopes[s] + slopes[t]) / 2
    return (values[s] - values[t]) / gap


@njit(cache=True)
def weigh_rows(levels, values, slopes, near, q, x):
    """Upper triangles of rows q (m, N) of a matrix Q, and x of ``Q o g[s,t]``, with half of the diagonal.

    Levels, and columns of q, begin with that of the first row.
    """
    for s in range(len(q)):
        q[s, :s], x[s, :s] = 0.0, 0.0
        q[s, s] /= 2
        for t in range(s, len(levels)):
            x[s, t] = q[s, t] * _divided(levels, values, slopes, near, s, t)
