"""Fourth derivatives of sums of log det K around one site.

Two displacements c, d are treated together, as in the lower orders, and three perturbations are fixed: the
source 0 and two displacements 1, 2 one by one. With ``d_c d_d log det K = Tr[G A_cd] - Tr[G A_c G A_d]`` the
product rule over the fixed ones is

    d_012 Tr[G A_cd]      = sum over S1 + S2 = {0, 1, 2}            of Tr[G_S1 A_cd,S2]
    d_012 Tr[G A_c G A_d] = sum over S1 + S2 + S3 + S4 = {0, 1, 2}  of Tr[G_S1 A_c,S2 G_S3 A_d,S4]

with the derivatives of the Green's function ``G_S = -sum_I G A_I G_{S - I}`` over the subsets I of S that are
not empty, from ``K G = 1``.
"""

from __future__ import annotations

from functools import cache
from itertools import chain, combinations, product
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from .traces import Operators, Pattern, Source, Symmetric, bilinear

if TYPE_CHECKING:
    from .expansion import Expansion

__all__ = ["fourth_derivatives"]

Fixed = tuple[int, ...]
ALL: Fixed = (0, 1, 2)


def _subsets(items: Fixed) -> list[Fixed]:
    return list(chain.from_iterable(combinations(items, k) for k in range(len(items) + 1)))


def _without(items: Fixed, part: Fixed) -> Fixed:
    return tuple(k for k in items if k not in part)


@cache
def _products() -> list[tuple[int, Fixed, Fixed, Fixed, Fixed, bool]]:
    """The 64 terms ``Tr[G_S1 A_c,S2 G_S3 A_d,S4]`` as 20: a factor, S1 .. S4, and whether to add c <-> d.

    All matrices are symmetric, so that G_S1 and G_S3 can be exchanged; S2 and S4 when c and d are too.
    """
    count: dict[tuple[Fixed, Fixed, Fixed, Fixed], int] = {}
    for places in product(range(4), repeat=3):
        s1, s2, s3, s4 = (tuple(k for k in ALL if places[k] == p) for p in range(4))
        if s2 > s4:
            continue  # the transpose of one that is kept
        key = (max(s1, s3), s2, min(s1, s3), s4)
        count[key] = count.get(key, 0) + 1
    return [(n, s1, s2, s3, s4, s2 != s4) for (s1, s2, s3, s4), n in count.items()]


class _Perturbations:
    """Sources with two displacements at choice; what repeats over the poles is kept."""

    def __init__(self, base: Source, sources: list[Source]) -> None:
        self._starts = [base, *sources]
        self._kept: dict[tuple[int, Fixed], Source] = {}
        #: Site and axis of all displacements.
        self.steps = [(int(s), c) for s in base.region.displaced for c in range(3)]

    def key(self, source: int, a: int, b: int, fixed: Fixed) -> tuple[int, Fixed]:
        """Source (0 for none) and displacements of the fixed indices of one set."""
        return (source + 1 if 0 in fixed else 0, tuple((a, b)[k - 1] for k in fixed if k))

    def __getitem__(self, key: tuple[int, Fixed]) -> Source:
        if key not in self._kept:
            start = self._starts[key[0]]
            for step in key[1]:
                start = start.and_then(*self.steps[step])
            self._kept[key] = start
        return self._kept[key]


def fourth_derivatives(expansion: Expansion, pairs: list[tuple[int, int]]) -> np.ndarray:
    """Fourth derivatives for given pairs of displaced atoms as the first two indices.

    Parameters
    ----------
    expansion : Expansion
        Of the site energy, its region with matrix elements differentiated to order 4.
    pairs : list of (int, int)
        Positions among the displaced atoms.

    Returns
    -------
    ndarray, shape (sources, pairs, 3, 3, n_d, 3, n_d, 3)
    """
    region, n = expansion.region, expansion.region.n_displaced
    perturbations = _Perturbations(Source(region), expansion.sources)
    n_sources = len(expansion.sources)
    # Both displacements of one atom: each pair of axes once.
    jobs = [
        (k, p, x, y, 3 * a + x, 3 * b + y)
        for k in range(n_sources)
        for p, (a, b) in enumerate(pairs)
        for x in range(3)
        for y in range(x if a == b else 0, 3)
    ]
    patterns: dict[tuple[int, Fixed], Pattern] = {}
    out = np.zeros((n_sources, len(pairs), 3, 3, n, 3, n, 3))
    for g, z, rho in expansion.resolvents():
        added: set[tuple[int, Fixed]] = set()
        rows: dict[tuple[int, Fixed], Operators] = {}
        for k, p, x, y, a, b in jobs:
            keys = {s: perturbations.key(k, a, b, s) for s in _subsets(ALL)}
            sources = {s: perturbations[key] for s, key in keys.items()}
            # What has one displacement or none is met again and again.
            mine = {
                s: rows.get(key) or (sources[s].family.rows(z), sources[s].family.diagonal)
                for s, key in keys.items()
            }
            rows |= {key: mine[s] for s, key in keys.items() if len(key[1]) < 2}
            greens = _resolvent_derivatives(g, sources, z)
            for s, key in keys.items():
                if key not in added:
                    patterns.setdefault(key, Pattern(region)).add(greens[s], rho, z)
                    added.add(key)
            out[k, p, x, y] -= 2 * (rho * _all_products(greens, mine)).real
            g.forget_all_but(rows[0, ()][0])
    for k, p, x, y, a, b in jobs:
        for s in _subsets(ALL):
            source = perturbations[perturbations.key(k, a, b, s)]
            rest = patterns[perturbations.key(k, a, b, _without(ALL, s))]
            out[k, p, x, y] += source.second(rest)
        if pairs[p][0] == pairs[p][1]:
            out[k, p, y, x] = out[k, p, x, y]
    return out


def _all_products(greens: dict[Fixed, Symmetric], rows: dict[Fixed, Operators]) -> np.ndarray:
    """``d_012 Tr[G A_c G A_d]`` for all c, d, (n_d, 3, n_d, 3)."""
    present = {s: bool(r.nnz) or bool(d.any()) for s, (r, d) in rows.items()}
    n = greens[()].region.n_displaced
    total = np.zeros((n, 3, n, 3), dtype=complex)
    for factor, s1, s2, s3, s4, both in _products():
        # Atoms out of each other's range have no common matrix elements.
        if present[s2] and present[s4]:
            term = factor * bilinear(greens[s1], rows[s2], greens[s3], rows[s4])
            total += term + term.transpose(2, 3, 0, 1) if both else term
    return total


def _resolvent_derivatives(g: Symmetric, sources: dict[Fixed, Source], z: complex) -> dict[Fixed, Symmetric]:
    """G_S for all subsets S of the fixed perturbations, each of as low a rank as its steps allow."""
    operators: dict[Fixed, tuple[csr_array, csr_array, np.ndarray]] = {}
    for s, source in sources.items():
        if s:
            p, q = source.operator(z)
            operators[s] = (p, q, (p @ g.dense).T)
    out: dict[Fixed, Symmetric] = {(): g}
    for s in _subsets(ALL)[1:]:
        lefts, rights = [], []
        for part in _subsets(s)[1:]:
            _, q, left = operators[part]
            rest = out[_without(s, part)]
            if rest.factors is None:
                lefts.append(-left)
                rights.append(q @ rest.dense)
                continue
            u, vt = rest.factors
            middle = q @ u
            if len(vt) < left.shape[1]:
                lefts.append(-(left @ middle))
                rights.append(vt)
            else:
                lefts.append(-left)
                rights.append(middle @ vt)
        out[s] = Symmetric(g.region, factors=(np.hstack(lefts), np.vstack(rights)))
    return out
