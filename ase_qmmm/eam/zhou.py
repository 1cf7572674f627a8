"""The closed form of Zhou, Johnson and Wadley for sixteen metals and their alloys."""

from __future__ import annotations

import difflib
import json
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np

from ..tightbinding.jets import derivatives
from .pieces import tail
from .potential import EAMPotential

__all__ = ["SUFFIX", "ZhouPotential"]

SUFFIX = "-zhou04"
# Å, over which the functions are led to zero at the cutoff.
WIDTH = 0.5
# Part of the equilibrium density over which the pieces of F are made to meet.
BLEND = 0.05
# Where the last piece of F begins, in parts of the equilibrium density.
HIGH = 1.15


@lru_cache(maxsize=1)
def _parameters() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("data/zhou04.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def known_symbols() -> list[str]:
    """Elements that have parameters."""
    return list(_parameters()["elements"])


class ZhouPotential(EAMPotential):
    """EAM of Zhou et al. [1]_ in closed form: all derivatives are exact.

    With ``x = r / r_e``::

        phi(r) = A exp(-alpha (x - 1)) / (1 + (x - kappa)^20) - B exp(-beta (x - 1)) / (1 + (x - lambda)^20),
        f(r)   = f_e exp(-beta (x - 1)) / (1 + (x - lambda)^20),
        F(rho) = sum_i F_ni (rho / rho_n - 1)^i,           rho < rho_n = 0.85 rho_e (platinum: 0.25 rho_e),
                 sum_i F_i (rho / rho_e - 1)^i,            rho < 1.15 rho_e,
                 F_e (1 - eta log(rho / rho_s)) (rho / rho_s)^eta  beyond,
        phi_ab = (f_b / f_a phi_aa + f_a / f_b phi_bb) / 2.

    Parameters
    ----------
    symbols : sequence of str

    Notes
    -----
    Two things are added to the paper. Its functions have no end; tables of them are cut at
    ``sqrt(10)/2 sqrt(2) r_e``, the largest of the elements, and what is left there (1e-6 eV and less) is
    taken off by a polynomial over the last 0.5 Å, so that three derivatives are continuous. The parts of F
    meet only to the six digits of the parameters; over 0.05 rho_e outside of the middle part the rest (1e-6
    eV) is taken off likewise: value, slope and curvature at rho_n, value and slope at 1.15 rho_e, where the
    curvature of the published form jumps.

    References
    ----------
    .. [1] X. W. Zhou, R. A. Johnson, H. N. G. Wadley, Phys. Rev. B 69, 144113 (2004).
    """

    def __init__(self, symbols: tuple[str, ...]) -> None:
        table = _parameters()["elements"]
        for symbol in symbols:
            if symbol not in table:
                near = difflib.get_close_matches(symbol, table, n=1)
                hint = f"; did you mean {near[0] + SUFFIX!r}?" if near else ""
                raise ValueError(
                    f"potential: no parameters for {symbol!r} in zhou04{hint} (known: {', '.join(table)})"
                )
        if len(set(symbols)) < len(symbols):
            raise ValueError(f"potential: got {'-'.join(symbols) + SUFFIX!r}, expected each element once")
        self.symbols = tuple(symbols)
        self.name = "-".join(symbols) + SUFFIX
        self.citation = _parameters()["citation"]
        self._sets: list[dict[str, float]] = [table[s] for s in symbols]
        # The cutoff of the published tables: the fifth neighbours of fcc.
        self.cutoff = max(float(np.sqrt(5.0) * p["re"]) for p in self._sets)
        self._corrections = [self._mismatches(p) for p in self._sets]
        self._ends: dict[tuple[str, int, int], np.ndarray] = {}
        # With a step of rho_e / 320 the pieces of F meet on nodes.
        self.density_ranges = [20 * p["rhoe"] for p in self._sets]

    # -- radial functions ---------------------------------------------------------------------------------

    def density(self, a: int, b: int, r: np.ndarray, order: int) -> np.ndarray:
        """The neighbour's f; see the class."""
        return self._ended(("density", b, b), lambda x: _density(self._sets[b], x), r, order)

    def pair(self, a: int, b: int, r: np.ndarray, order: int) -> np.ndarray:
        """Phi of like or unlike atoms; see the class."""
        first, second = self._sets[min(a, b)], self._sets[max(a, b)]

        def phi(x: Any) -> Any:
            if a == b:
                return _pair(first, x)
            ratio = _density(second, x) / _density(first, x)
            return 0.5 * (ratio * _pair(first, x) + _pair(second, x) / ratio)

        return self._ended(("pair", min(a, b), max(a, b)), phi, r, order)

    def _ended(self, key: tuple[str, int, int], function: Any, r: np.ndarray, order: int) -> np.ndarray:
        """Derivatives of a function less what it has left at the cutoff; zero beyond."""
        if key not in self._ends:
            self._ends[key] = derivatives(function, np.array([self.cutoff]), 3)[:, 0]
        out: np.ndarray = derivatives(function, r, order) - tail(
            self._ends[key], self.cutoff, WIDTH, r, order
        )
        out[:, np.asarray(r) >= self.cutoff] = 0.0
        return out

    # -- embedding ----------------------------------------------------------------------------------------

    def embedding(self, a: int, rho: np.ndarray, order: int, where: np.ndarray | None = None) -> np.ndarray:
        """F in three pieces; see the class."""
        p, (below, above) = self._sets[a], self._corrections[a]
        rho = np.asarray(rho, dtype=float)
        x = (rho if where is None else np.asarray(where)) / p["rhoe"]
        width = BLEND * p["rhoe"]
        out = derivatives(lambda t: _embedding_middle(p, t), rho, order)
        low, high = x < p["low"], x >= HIGH
        end = p["low"] * p["rhoe"]
        out[:, low] = derivatives(lambda t: _embedding_low(p, t), rho[low], order)
        out[:, low] -= tail(below, end, width, rho[low], order)
        end = HIGH * p["rhoe"]
        out[:, high] = derivatives(lambda t: _embedding_high(p, t), rho[high], order)
        out[:, high] -= tail(above, end, -width, rho[high], order)
        return out

    @staticmethod
    def _mismatches(p: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """By how much the outer pieces of F miss the middle one, with their derivatives."""
        low, high = np.array([p["low"] * p["rhoe"]]), np.array([HIGH * p["rhoe"]])
        middle = derivatives(lambda t: _embedding_middle(p, t), np.array([low, high]), 2)[..., 0]
        below = derivatives(lambda t: _embedding_low(p, t), low, 2)[:, 0] - middle[:, 0]
        above = derivatives(lambda t: _embedding_high(p, t), high, 1)[:, 0] - middle[:2, 1]
        return below, above


def _density(p: dict[str, float], r: Any) -> Any:
    x = r / p["re"]
    return p["fe"] * np.exp(-p["beta"] * (x - 1.0)) / (1.0 + (x - p["lambda"]) ** 20)


def _pair(p: dict[str, float], r: Any) -> Any:
    x = r / p["re"]
    repulsion = p["A"] * np.exp(-p["alpha"] * (x - 1.0)) / (1.0 + (x - p["kappa"]) ** 20)
    return repulsion - p["B"] * np.exp(-p["beta"] * (x - 1.0)) / (1.0 + (x - p["lambda"]) ** 20)


def _cubic(c: list[float], x: Any) -> Any:
    return c[0] + x * (c[1] + x * (c[2] + x * c[3]))


def _embedding_low(p: dict[str, float], rho: Any) -> Any:
    return _cubic([p[f"Fn{k}"] for k in range(4)], rho / (p["low"] * p["rhoe"]) - 1.0)


def _embedding_middle(p: dict[str, float], rho: Any) -> Any:
    return _cubic([p[f"F{k}"] for k in range(4)], rho / p["rhoe"] - 1.0)


def _embedding_high(p: dict[str, float], rho: Any) -> Any:
    x = rho / p["rhos"]
    return p["Fe"] * (1.0 - p["eta"] * np.log(x)) * x ** p["eta"]
