"""Radial functions: a distance transform, orthonormal polynomials under an envelope, pair functions, core.

All are written once for arrays and for truncated Taylor series, so that every derivative is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii
from scipy.special import roots_jacobi

from ..errors import check_positive
from ..neighbours import neighbour_pairs
from ..tightbinding.jets import derivatives

__all__ = ["Radial", "agnesi_slope", "nearest_distance", "zbl"]

# e^2 / (4 pi epsilon_0) in eV Å, and the universal screening function of Ziegler, Biersack and Littmark,
# The Stopping and Range of Ions in Solids (1985).
_COULOMB = 14.399645
_ZBL = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
_ZBL_LENGTH = 0.46850

# Fractions of the nearest-neighbour distance: the cluster functions begin, the core ends.
_INNER, _CORE_END = 0.5, 0.8


def nearest_distance(symbol: str) -> float:
    """Nearest-neighbour distance (Å) of the element's crystal in ASE's data, else two covalent radii."""
    try:
        crystal = bulk(symbol)
    except (RuntimeError, ValueError, KeyError, NotImplementedError):
        return 2.0 * float(covalent_radii[atomic_numbers[symbol]])
    radius = 1.001 * float(np.linalg.norm(crystal.cell.array, axis=1).min())
    return float(neighbour_pairs(crystal, radius, "d")[0].min())


def zbl(r: Any, z1: int, z2: int) -> Any:
    """Screened Coulomb repulsion of two nuclei (eV) at a distance r (Å)."""
    length = _ZBL_LENGTH / (z1**0.23 + z2**0.23)
    screening = sum(a * np.exp(-b * r / length) for a, b in _ZBL)
    return _COULOMB * z1 * z2 * screening / r


def agnesi_slope(p: float, q: float) -> float:
    """The number a for which ``1 / (1 + a s^q / (1 + s^(q - p)))`` is steepest at s = 1."""
    # With f = s^q / (1 + s^(q-p)), the second derivative vanishes for a = f'' / (2 f'^2 - f f'').
    g, m = (p + q) / 2, q - p
    f1 = g / 2
    f2 = (g**2 - q - m * (m - 1) / 2 + m**2 / 4) / 2
    return f2 / (2 * f1**2 - f2 / 2)


def _smooth_step(x: Any) -> Any:
    """0 below 0, 1 above 1, with three continuous derivatives."""
    inside = x * x * x * x * (35.0 + x * (-84.0 + x * (70.0 - 20.0 * x)))
    return np.where(x <= 0.0, 0.0 * x, np.where(x >= 1.0, 1.0 + 0.0 * x, inside))


def _orthonormal_recursion(n: int, exponent: float) -> np.ndarray:
    """Coefficients (n, 3) of ``P_k = (a x + b) P_k-1 + c P_k-2``, orthonormal for (1 - x^2)^exponent."""
    points, weights = roots_jacobi(n + 1, exponent, exponent)
    weights = np.asarray(weights)
    values = [np.full(n + 1, 1 / np.sqrt(weights.sum()))]
    table = [(0.0, float(values[0][0]), 0.0)]
    for k in range(1, n):
        last = values[-1]
        trial = points * last
        before = values[-2] if k > 1 else np.zeros(n + 1)
        b, c = float(weights @ (trial * last)), float(weights @ (trial * before))
        trial = trial - b * last - c * before
        norm = float(np.sqrt(weights @ trial**2))
        values.append(trial / norm)
        table.append((1 / norm, -b / norm, -c / norm))
    return np.array(table)


class Radial:
    """Radial functions of one pair of elements.

    With ``s = r / r0`` the Agnesi transform ``t = 1 / (1 + a s^q / (1 + s^(q - p)))`` is steepest at r0,
    where resolution is wanted most; x is t mapped linearly to [-1, 1] between the inner cutoff and the
    cutoff. The cluster functions are

        R_n(r) = (1 - x^2)^k P_n(x),

    P_n orthonormal with the weight ``(1 - x^2)^(2 k)``; they vanish with k - 1 derivatives at both cutoffs.
    The pair functions are ``S(r) e(r) Q_n(x)`` with Legendre polynomials Q_n of x taken between zero and the
    cutoff, and e(r) equal to ``(r0 / r)^m`` less its Taylor polynomial of second order about the cutoff. With
    a core, S(r) rises from 0 at the inner cutoff to 1 at 0.8 r0, and the core is the repulsion of Ziegler,
    Biersack and Littmark times 1 - S(r); without one S = 1.

    Parameters
    ----------
    symbols : pair of str
    n_max : int
    cutoff : float
        Å.
    r0, inner_cutoff : float, optional
        Å; default: mean of the nearest-neighbour distances of the elements, and half of r0.
    p, q : float
        Exponents of the transform.
    envelope : int
        The exponent k.
    pair_exponent : float
        The exponent m.
    core : {"zbl", None}
    """

    def __init__(
        self,
        symbols: tuple[str, str],
        n_max: int,
        cutoff: float,
        *,
        r0: float | Mapping[str, float] | None = None,
        inner_cutoff: float | None = None,
        p: float = 2.0,
        q: float = 4.0,
        envelope: int = 3,
        pair_exponent: float = 2.0,
        core: str | None = "zbl",
    ) -> None:
        self.numbers = tuple(atomic_numbers[s] for s in symbols)
        self.n_max, self.cutoff = n_max, cutoff
        self.r0 = _reference_distance(symbols, r0)
        self.inner = (
            _INNER * self.r0
            if inner_cutoff is None
            else check_positive("inner_cutoff", inner_cutoff, "Å", zero=True)
        )
        if not self.inner < self.r0 < cutoff:
            raise ValueError(
                f"cutoff: got inner_cutoff {self.inner:g}, r0 {self.r0:g} and cutoff {cutoff:g} Å for "
                f"{'-'.join(symbols)}; expected inner_cutoff < r0 < cutoff"
            )
        self.p, self.q = check_positive("p", p), check_positive("q", q)
        if self.q < self.p:
            raise ValueError(f"q: got {q:g}, expected at least p = {p:g}")
        if isinstance(envelope, bool) or envelope != int(envelope) or not 2 <= envelope <= 8:
            raise ValueError(f"envelope: got {envelope!r}, expected a whole number from 2 to 8")
        self.envelope = int(envelope)
        self.pair_exponent = check_positive("pair_exponent", pair_exponent)
        if core not in ("zbl", None):
            raise ValueError(f"core: got {core!r}, expected 'zbl' or None")
        self.core = core
        self.core_end = max(_CORE_END * self.r0, (self.inner + self.r0) / 2)
        self._slope = agnesi_slope(self.p, self.q)
        if self._slope <= 0:
            raise ValueError(
                f"p, q: {p:g} and {q:g} give a transform that is not steepest at r0; try 2 and 4"
            )
        self._cluster_recursion = _orthonormal_recursion(n_max, 2.0 * self.envelope)
        self._pair_recursion = _orthonormal_recursion(n_max, 0.0)

    # -- derivatives -----------------------------------------------------------------------------------------

    def cluster(self, r: np.ndarray, order: int) -> np.ndarray:
        """R_n and derivatives, (order + 1, n_max, ...); zero outside the cutoffs."""
        return self._stack(self._cluster_function, r, order, self.inner)

    def pair(self, r: np.ndarray, order: int) -> np.ndarray:
        """Pair functions and derivatives, (order + 1, n_max, ...)."""
        return self._stack(self._pair_function, r, order, self.inner if self.core else 0.0)

    def core_energy(self, r: np.ndarray, order: int) -> np.ndarray:
        """Core repulsion and derivatives (eV/Å^k), (order + 1, ...)."""
        if self.core is None:
            return np.zeros((order + 1, *np.shape(r)))
        return derivatives(self._core_function, r, order, "core")

    def _stack(self, function: Any, r: np.ndarray, order: int, inner: float) -> np.ndarray:
        r = np.asarray(r, dtype=float)
        inside = (r > inner) & (r < self.cutoff)
        out = np.zeros((order + 1, self.n_max, *r.shape))
        if inside.any():
            for n in range(self.n_max):
                out[:, n, inside] = derivatives(partial(function, n=n), r[inside], order, "radial")
        return out

    # -- the functions, of arrays or Taylor series -----------------------------------------------------------

    def _transform(self, r: Any) -> Any:
        s = r * (1.0 / self.r0)
        return 1.0 / (1.0 + self._slope * s**self.q / (1.0 + s ** (self.q - self.p)))

    def _coordinate(self, r: Any, inner: float) -> Any:
        low, high = self._transform(inner) if inner else 1.0, self._transform(self.cutoff)
        # Minus one at the inner end.
        return (low + high - 2.0 * self._transform(r)) * (1.0 / (low - high))

    def _cluster_function(self, r: Any, n: int) -> Any:
        x = self._coordinate(r, self.inner)
        return (1.0 - x * x) ** self.envelope * _polynomial(self._cluster_recursion, x, n)

    def _pair_function(self, r: Any, n: int) -> Any:
        rc, m = self.cutoff, self.pair_exponent
        edge, d = (self.r0 / rc) ** m, (r - rc) * (1.0 / rc)
        envelope = (self.r0 / r) ** m - edge * (1.0 - m * d + 0.5 * m * (m + 1) * d * d)
        value = envelope * _polynomial(self._pair_recursion, self._coordinate(r, 0.0), n)
        return value * self._switch(r) if self.core else value

    def _switch(self, r: Any) -> Any:
        return _smooth_step((r - self.inner) * (1.0 / (self.core_end - self.inner)))

    def _core_function(self, r: Any) -> Any:
        return zbl(r, *self.numbers) * (1.0 - self._switch(r))


def _polynomial(recursion: np.ndarray, x: Any, n: int) -> Any:
    before, last = 0.0 * x, recursion[0, 1] + 0.0 * x
    for a, b, c in recursion[1 : n + 1]:
        before, last = last, (a * x + b) * last + c * before
    return last


def _reference_distance(symbols: tuple[str, str], r0: float | Mapping[str, float] | None) -> float:
    """Mean over the two elements of the distances given, or of ASE's data."""
    if r0 is None:
        return sum(nearest_distance(s) for s in symbols) / 2
    if isinstance(r0, Mapping):
        missing = sorted(set(symbols) - set(r0))
        if missing:
            raise ValueError(f"r0: no distance for {', '.join(missing)}, expected one (Å) per element")
        return sum(check_positive(f"r0[{s}]", r0[s], "Å") for s in symbols) / 2
    return check_positive("r0", r0, "Å")
