"""NRL tight-binding models: environment-dependent on-site terms, non-orthogonal two-centre integrals.

Semantics follow the NRL total-energy method (M. J. Mehl and D. A. Papaconstantopoulos, Phys. Rev. B 54,
4519 (1996)); the silicon set is that of N. Bernstein et al., Phys. Rev. B 62, 4477 (2000). Parameters and
their sources lie in ``data/nrl_tb_params.json``.
"""

from __future__ import annotations

import difflib
import json
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np

from .hamiltonian import Hamiltonian
from .radial import exponential, half_cosine, leibniz, logistic, polynomial
from .slater_koster import shell_channels

__all__ = ["NRLModel", "model_names"]

# CODATA 2014, as the published reference values use; ase.units differs in the tenth digit.
RYDBERG = 13.60569301  # eV
BOHR = 0.52917721067  # Å


@lru_cache(maxsize=1)
def _packaged() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("data/nrl_tb_params.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def model_names() -> list[str]:
    """Names of the packaged parameter sets, e.g. ``nrl-Si-sp``."""
    return [
        "nrl-" + name.replace("_", "-") for name, s in _packaged()["sets"].items() if _unsupported(s) is None
    ]


def _unsupported(parameters: dict[str, Any]) -> str | None:
    for key, text in (
        ("short_range_spline", "a short-range spline"),
        ("pair_repulsion", "a pair repulsion"),
        ("force_harrison_signs", "Harrison signs"),
        ("orthogonal", "an orthogonal basis"),
    ):
        if parameters.get(key):
            return text
    return None


class NRLModel(Hamiltonian):
    """One NRL parameter set, as radial functions in eV and Å.

    Parameters
    ----------
    name : str
        ``"nrl-<set>"`` with a packaged set, e.g. ``"nrl-Si-sp"``.
    cutoff_form : {"smooth", "original"}
        With x = (r - r_cut) / l + 5 the cutoff is 1 / (1 + exp x), times a half cosine over the last l
        ("smooth", continuously differentiable) or a step at r_cut ("original", which jumps by 0.0067).

    Attributes
    ----------
    cutoff : float
        Range of the Hamiltonian (Å).
    minimum_distance : float
        Separation (Å) below which a pair of atoms is refused as overlapping.
    """

    def __init__(self, name: str, cutoff_form: str = "smooth") -> None:
        if cutoff_form not in ("smooth", "original"):
            raise ValueError(f"cutoff_form: got {cutoff_form!r}, expected 'smooth' or 'original'")
        key = name.removeprefix("nrl-").replace("-", "_")
        sets = _packaged()["sets"]
        if not name.startswith("nrl-") or key not in sets:
            near = difflib.get_close_matches(name, model_names(), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"model: got {name!r}{hint} (known: {', '.join(model_names())})")
        reason = _unsupported(sets[key])
        if reason is not None:
            raise ValueError(f"model: {name!r} needs {reason}, which TightBinding does not treat")
        self.name = name
        self.cutoff_form = cutoff_form
        self._set = sets[key]
        self.citation: str = self._set["citation"]
        self.symbols: tuple[str, ...] = tuple(s["symbol"] for s in self._set["species"])
        self.shells: tuple[tuple[int, ...], ...] = tuple(tuple(s["shells"]) for s in self._set["species"])
        self.n_spin: int = self._set["n_spin"]
        self.n_electrons = np.array([float(s["n_electrons"]) for s in self._set["species"]])
        self._pairs = {(p["first"], p["second"]): p for p in self._set["pairs"]}
        self._onsite = {(p["centre"], p["neighbour"]): p["abcd"] for p in self._set["onsite"]}
        self.cutoff: float = max(p["r_cut"] for p in self._pairs.values()) * BOHR

    def __repr__(self) -> str:
        return f"NRLModel({self.name!r}, cutoff_form={self.cutoff_form!r})"

    def _fade(self, a: int, b: int, r: np.ndarray, order: int) -> np.ndarray:
        pair = (
            self._pairs.get((self.symbols[a], self.symbols[b]))
            or self._pairs[self.symbols[b], self.symbols[a]]
        )
        r_cut, width = pair["r_cut"], pair["screen_l"]
        fermi: np.ndarray = logistic((r - r_cut) / width + 5.0, width, order)
        if self.cutoff_form == "original":
            step: np.ndarray = fermi * (r <= r_cut)
            return step
        return leibniz(fermi, half_cosine(r, r_cut - width, r_cut, order))

    @staticmethod
    def _in_angstrom(f: np.ndarray, energy: bool) -> np.ndarray:
        """From Rydberg and Bohr to eV and Å, derivatives along the second last axis."""
        scale = BOHR ** -np.arange(f.shape[-2], dtype=float) * (RYDBERG if energy else 1.0)
        return f * scale[:, None]

    def two_centre(
        self, a: int, b: int, distances: np.ndarray, order: int, spin: int = 0
    ) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
        """Hopping (eV) and overlap functions; see :meth:`Hamiltonian.two_centre`."""
        r = distances / BOHR
        fade = self._fade(a, b, r, order)
        cache: dict[tuple[str, str, str], tuple[np.ndarray, np.ndarray]] = {}
        out = {}
        for l1 in self.shells[a]:
            for l2 in self.shells[b]:
                # The lower-l orbital sits on the first atom of a table.
                first, second = (a, b) if l1 <= l2 else (b, a)
                key = (self.symbols[first], self.symbols[second])
                hopping, overlap = [], []
                for channel in shell_channels(l1, l2):
                    if (*key, channel) not in cache:
                        cache[(*key, channel)] = self._channel(key, channel, r, fade, order, spin)
                    h, s = cache[(*key, channel)]
                    hopping.append(h)
                    overlap.append(s)
                out[l1, l2] = (
                    self._in_angstrom(np.array(hopping), energy=True),
                    self._in_angstrom(np.array(overlap), energy=False),
                )
        return out

    def _channel(
        self, key: tuple[str, str], channel: str, r: np.ndarray, fade: np.ndarray, order: int, spin: int
    ) -> tuple[np.ndarray, np.ndarray]:
        pair = self._pairs[key]
        h = pair["hopping"][channel][spin]
        s = pair["overlap"][channel][spin]
        hopping = leibniz(leibniz(polynomial(h[:3], r, order), exponential(h[3], r, order)), fade)
        coefficients = s[:3]
        if self._set["overlap_zero_limit"] and key[0] == key[1]:
            coefficients = [1.0 if channel[0] == channel[1] else 0.0, *s[:3]]
        overlap = leibniz(leibniz(polynomial(coefficients, r, order), exponential(s[3], r, order)), fade)
        return hopping, overlap

    def density(
        self, centre: int, neighbour: int, distances: np.ndarray, order: int, spin: int = 0
    ) -> np.ndarray:
        """Contribution of one neighbour to the on-site density, with derivatives (order + 1, p), 1/Å^k."""
        r = distances / BOHR
        rate = self._set["species"][neighbour]["lambda_sq"][spin]
        density = leibniz(exponential(rate, r, order), self._fade(centre, neighbour, r, order))
        return self._in_angstrom(density, energy=False)

    def onsite(self, centre: int, neighbour: int, rho: np.ndarray, order: int, spin: int = 0) -> np.ndarray:
        """On-site terms of each orbital from the density of one species of neighbours.

        ``h_l = a + b rho^(2/3) + c rho^(4/3) + d rho^2`` (a only from the centre's own species).

        Returns
        -------
        ndarray, shape (order + 1, n, n_orbitals)
            eV, derivatives with respect to rho. At rho = 0 the derivatives, singular there, are zero.
        """
        table = self._onsite[self.symbols[centre], self.symbols[neighbour]]
        safe = np.where(rho > 0, rho, 1.0)
        out = np.zeros((order + 1, len(rho), sum(2 * l + 1 for l in self.shells[centre])))
        start = 0
        for l in self.shells[centre]:
            a, *bcd = table["spd"[l]][spin]
            a = a if centre == neighbour else 0.0
            for k in range(order + 1):
                value = np.full(len(rho), a if k == 0 else 0.0)
                for factor, power in zip(bcd, (2 / 3, 4 / 3, 2.0), strict=True):
                    falling = float(np.prod([power - m for m in range(k)]))
                    value += np.where(rho > 0, factor * falling * safe ** (power - k), 0.0)
                out[k, :, start : start + 2 * l + 1] = value[:, None] * RYDBERG
            start += 2 * l + 1
        return out
