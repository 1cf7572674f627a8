"""Two-centre (Slater–Koster) blocks of s, p and d orbitals and their Cartesian derivatives.

An element between orbital a of shell l on atom i and orbital b of shell l' on atom j is
``sum_c P_abc(r) h_c(|r|) / |r|^(l + l')`` with ``r = r_j - r_i``, channels c (sigma, pi, delta) and
homogeneous polynomials P of degree l + l'. Derivatives of any order follow from those of polynomials, so
no formula is differentiated by hand.

Orbital order: s; p_y, p_z, p_x; d_xy, d_yz, d_3z2-r2, d_xz, d_x2-y2. The polynomials are the closed form
of J. C. Slater and G. F. Koster, Phys. Rev. 94, 1498 (1954), table I, for any pair of real orbitals.
"""

from __future__ import annotations

from functools import cache, reduce
from itertools import combinations, product

import numpy as np

from .radial import cartesian_derivatives, inverse_power, leibniz, reduced_derivatives

__all__ = ["CHANNELS", "shell_channels", "shell_terms", "two_centre_block"]

CHANNELS = ("sss", "sps", "pps", "ppp", "sds", "pds", "pdp", "dds", "ddp", "ddd")
_AXES = (1, 2, 0)  # p_y, p_z, p_x
_S3 = np.sqrt(3.0)
_MAX_ORDER = 6
# d orbital m is the quadratic form n.T_m.n, normalised so that sum_m (n.T_m.n)^2 = 1.
_D = np.zeros((5, 3, 3))
_D[0, 0, 1] = _D[0, 1, 0] = _S3 / 2
_D[1, 1, 2] = _D[1, 2, 1] = _S3 / 2
_D[2] = np.diag([-0.5, -0.5, 1.0])
_D[3, 0, 2] = _D[3, 2, 0] = _S3 / 2
_D[4] = np.diag([_S3 / 2, -_S3 / 2, 0.0])

Poly = dict[tuple[int, int, int], float]


def _add(*terms: tuple[float, Poly]) -> Poly:
    out: Poly = {}
    for factor, poly in terms:
        for key, value in poly.items():
            out[key] = out.get(key, 0.0) + factor * value
    return out


def _mul(*polys: Poly) -> Poly:
    out: Poly = {(0, 0, 0): 1.0}
    for poly in polys:
        new: Poly = {}
        for (a, va), (b, vb) in product(out.items(), poly.items()):
            key = (a[0] + b[0], a[1] + b[1], a[2] + b[2])
            new[key] = new.get(key, 0.0) + va * vb
        out = new
    return out


def _unit(axis: int) -> tuple[int, int, int]:
    return (int(axis == 0), int(axis == 1), int(axis == 2))


def _linear(vector: np.ndarray) -> Poly:
    return {_unit(a): float(v) for a, v in enumerate(vector) if v}


def _quadratic(matrix: np.ndarray) -> Poly:
    return _add(
        *[(float(matrix[a, b]), _mul({_unit(a): 1.0}, {_unit(b): 1.0})) for a in range(3) for b in range(3)]
    )


_R2 = _quadratic(np.eye(3))


def _element(l1: int, l2: int, a: int, b: int) -> dict[str, Poly]:
    """Polynomials by channel of orbital a of shell l1 with orbital b of shell l2."""
    if l1 > l2:
        # d-p and p-s follow from p-d and s-p by the parity (-1)^(l1 + l2) of the polynomials.
        sign = (-1.0) ** (l1 + l2)
        return {channel: _add((sign, poly)) for channel, poly in _element(l2, l1, b, a).items()}
    if (l1, l2) == (0, 0):
        return {"sss": {(0, 0, 0): 1.0}}
    if (l1, l2) == (0, 1):
        return {"sps": {_unit(_AXES[b]): 1.0}}
    if (l1, l2) == (0, 2):
        return {"sds": _quadratic(_D[b])}
    if (l1, l2) == (1, 1):
        sigma = _mul({_unit(_AXES[a]): 1.0}, {_unit(_AXES[b]): 1.0})
        return {"pps": sigma, "ppp": _add((float(a == b), _R2), (-1.0, sigma))}
    if (l1, l2) == (1, 2):
        sigma = _mul({_unit(_AXES[a]): 1.0}, _quadratic(_D[b]))
        pi = _add((2 / _S3, _mul(_linear(_D[b][_AXES[a]]), _R2)), (-2 / _S3, sigma))
        return {"pds": sigma, "pdp": pi}
    sigma = _mul(_quadratic(_D[a]), _quadratic(_D[b]))
    symmetric = (_D[a] @ _D[b] + _D[b] @ _D[a]) / 2
    pi = _add((4 / 3, _mul(_quadratic(symmetric), _R2)), (-4 / 3, sigma))
    delta = _add((float(a == b), _mul(_R2, _R2)), (-1.0, sigma), (-1.0, pi))
    return {"dds": sigma, "ddp": pi, "ddd": delta}


def shell_channels(l1: int, l2: int) -> tuple[str, ...]:
    """Channel names of two shells, e.g. ``("pps", "ppp")`` for l = 1, 1; the order of the shells is free."""
    return tuple(_element(l1, l2, 0, 0))


def _differentiate(poly: Poly, axis: int) -> Poly:
    out: Poly = {}
    for key, value in poly.items():
        if key[axis]:
            x, y, z = _unit(axis)
            out[key[0] - x, key[1] - y, key[2] - z] = value * key[axis]
    return out


@cache
def _tables(l1: int, l2: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """For derivative orders 0 to 6 the monomials (m, 3) and coefficients (c, ..., a, b, m)."""
    n_channels = len(shell_channels(l1, l2))
    na, nb = 2 * l1 + 1, 2 * l2 + 1
    levels = []
    for order in range(_MAX_ORDER + 1):
        degree = l1 + l2 - order
        exponents = [e for e in product(range(max(degree, 0) + 1), repeat=3) if sum(e) == degree]
        index = {e: k for k, e in enumerate(exponents)}
        table = np.zeros((n_channels, *(3,) * order, na, nb, len(exponents)))
        levels.append((np.array(exponents, dtype=int).reshape(-1, 3), table))
        if degree < 0:
            continue
        for a, b in product(range(na), range(nb)):
            elements = enumerate(_element(l1, l2, a, b).values())
            for (c, poly), axes in product(elements, product(range(3), repeat=order)):
                for key, value in reduce(_differentiate, axes, poly).items():
                    table[(c, *axes, a, b, index[key])] = value
    return levels


@cache
def shell_terms(l1: int, l2: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The polynomials as lists of terms, for :func:`ase_qmmm.tightbinding.kernels.shell_blocks`.

    Returns
    -------
    tuple of ndarray
        a, b, c of the elements that are not zero (e, 3); where their terms start (e + 1,); exponents (t, 3)
        and coefficients (t,) of the terms.
    """
    entries, starts, exponents, coefficients = [], [0], [], []
    for a, b in product(range(2 * l1 + 1), range(2 * l2 + 1)):
        for c, poly in enumerate(_element(l1, l2, a, b).values()):
            terms = [key for key, value in poly.items() if abs(value) > 1e-14]
            if terms:
                entries.append((a, b, c))
                exponents += terms
                coefficients += [poly[key] for key in terms]
                starts.append(len(exponents))
    return np.array(entries), np.array(starts), np.array(exponents), np.array(coefficients)


def two_centre_block(l1: int, l2: int, vectors: np.ndarray, radial: np.ndarray) -> tuple[np.ndarray, ...]:
    """Blocks between shell l1 on i and shell l2 on j, with Cartesian derivatives.

    Parameters
    ----------
    l1, l2 : int
        Angular momenta, 0 to 2.
    vectors : ndarray, shape (p, 3)
        From i to j (Å).
    radial : ndarray, shape (n_channels, order + 1, p)
        Channel functions h_c and their derivatives with respect to distance, channels in the order of
        :func:`shell_channels`; order 0 to 6.

    Returns
    -------
    tuple of ndarray
        B (p, a, b), dB/dr_c (p, 3, a, b), d2B/dr_c dr_d (p, 3, 3, a, b) and so on up to the order given.
    """
    order = radial.shape[1] - 1
    r = np.linalg.norm(vectors, axis=1)
    levels = _tables(l1, l2)
    if order > _MAX_ORDER:
        raise ValueError(f"radial: derivatives up to order {order}, expected at most {_MAX_ORDER}")
    theta = reduced_derivatives(leibniz(radial, inverse_power(l1 + l2, r, order)), r)  # (c, order + 1, p)
    powers = vectors.T[:, None, :] ** np.arange(l1 + l2 + 1)[None, :, None]  # (3, degree + 1, p)

    def polynomials(k: int) -> np.ndarray:
        exponents, table = levels[k]
        if not len(exponents):
            return np.zeros((*table.shape[:-1], len(vectors)))
        monomials = powers[0, exponents[:, 0]] * powers[1, exponents[:, 1]] * powers[2, exponents[:, 2]]
        values: np.ndarray = table @ monomials  # (c, ..., a, b, p)
        return values

    tables = [polynomials(k) for k in range(order + 1)]  # (c, 3, .., 3, a, b, p)
    functions = [cartesian_derivatives(theta, vectors, k) for k in range(order + 1)]  # (c, p, 3, .., 3)
    out = []
    for n in range(order + 1):
        letters = "efghij"[:n]
        total = np.zeros((len(vectors), *(3,) * n, 2 * l1 + 1, 2 * l2 + 1))
        # Leibniz rule: each index differentiates the polynomial or the function of distance.
        for k in range(n + 1):
            for chosen in combinations(range(n), k):
                poly = "".join(letters[m] for m in chosen)
                rest = "".join(letters[m] for m in range(n) if m not in chosen)
                spec = f"c{poly}abp,cp{rest}->p{letters}ab"
                total += np.einsum(spec, tables[k], functions[n - k])
        out.append(total)
    return tuple(out)
