"""NRL tight-binding models: environment-dependent on-site terms, non-orthogonal two-centre integrals.

Semantics follow the NRL total-energy method (M. J. Mehl and D. A. Papaconstantopoulos, Phys. Rev. B 54,
4519 (1996)); the silicon set is that of N. Bernstein et al., Phys. Rev. B 62, 4477 (2000). Parameters and
their sources lie in ``data/nrl_tb_params.json``.
"""

from __future__ import annotations

import copy
import os

import numpy as np

from .hamiltonian import Hamiltonian, checked_cutoff_form
from .nrl_files import is_parameter_file, packaged_set, packaged_sets, read_parameters
from .radial import exponential, flattened, half_cosine, leibniz, logistic, polynomial
from .slater_koster import shell_channels

__all__ = ["NRLModel", "nrl_names"]

# CODATA 2014, as the published reference values use; ase.units differs in the tenth digit.
RYDBERG = 13.60569301  # eV
BOHR = 0.52917721067  # Å


def nrl_names() -> list[str]:
    """Names of the packaged NRL sets, e.g. ``nrl-Si-sp``."""
    return ["nrl-" + name.replace("_", "-") for name in packaged_sets()]


class NRLModel(Hamiltonian):
    """One NRL parameter set, as radial functions in eV and Å.

    With ``rho_i(t) = sum_(j of species t) exp(-lambda_t^2 r_ij) F(r_ij)`` the on-site terms are
    ``h_il = sum_t a + b rho^(2/3) + c rho^(4/3) + d rho^2``, and each hopping and overlap is
    ``(e + f r + fbar r^2) exp(-g^2 r) F(r)``. Some sets let the overlap of equal atoms tend to that of one
    atom, ``(delta + p r + q r^2 + r3 r^3) exp(-s^2 r) F(r)``. Ti_spd bends hoppings and overlaps to a
    constant below a distance (D. R. Trinkle et al., Phys. Rev. B 73, 094123 (2006)). Fe_spd_spin has a
    Hamiltonian per spin. The total energy is that of the levels; there is no repulsion.

    Parameters
    ----------
    name : str or os.PathLike
        ``"nrl-<set>"`` with a packaged set, e.g. ``"nrl-Si-sp"``; or a file: ``"my.json"``,
        ``"my.json#set"``, ``"my.par"`` (see :mod:`ase_qmmm.tightbinding.nrl_files`).
    cutoff_form : {"smooth", "original"}
        With x = (r - r_cut) / l + 5 the cutoff is 1 / (1 + exp x), times a half cosine over the last l
        ("smooth", continuously differentiable) or a step at r_cut ("original", which jumps by 0.0067).

    Attributes
    ----------
    cutoff : float
        Range of the Hamiltonian (Å).
    minimum_distance : float
        Separation (Å) below which a pair of atoms is refused as overlapping.

    Raises
    ------
    ValueError
        Unknown name or cutoff; a file with missing, wrong or unknown entries.
    FileNotFoundError
    """

    def __init__(self, name: str | os.PathLike[str], cutoff_form: str = "smooth") -> None:
        self.cutoff_form = checked_cutoff_form(cutoff_form)
        self._set = read_parameters(name) if is_parameter_file(name) else packaged_set(str(name), nrl_names())
        self.name = os.fspath(name)
        self.citation: str = self._set["citation"]
        self.symbols: tuple[str, ...] = tuple(s["symbol"] for s in self._set["species"])
        self.shells: tuple[tuple[int, ...], ...] = tuple(tuple(s["shells"]) for s in self._set["species"])
        self.n_spin: int = self._set["n_spin"]
        self.n_electrons = np.array([float(s["n_electrons"]) for s in self._set["species"]])
        self._pairs = {(p["first"], p["second"]): p for p in self._set["pairs"]}
        self._onsite = {(p["centre"], p["neighbour"]): p["abcd"] for p in self._set["onsite"]}
        self.cutoff: float = max(p["r_cut"] for p in self._pairs.values()) * BOHR

    def with_cutoff_form(self, cutoff_form: str) -> NRLModel:
        """Same parameters with another end of the Hamiltonian."""
        if cutoff_form == self.cutoff_form:
            return self
        model: NRLModel = copy.copy(self)
        model.cutoff_form = checked_cutoff_form(cutoff_form)
        return model

    def __repr__(self) -> str:
        return f"NRLModel({self.name!r}, cutoff_form={self.cutoff_form!r})"

    def _fade(self, a: int, b: int, r: np.ndarray, order: int) -> np.ndarray:
        pair = self._pairs[self.symbols[a], self.symbols[b]]
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
        out: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        for l1 in self.shells[a]:
            for l2 in self.shells[b]:
                if a == b and (l2, l1) in out:
                    out[l1, l2] = out[l2, l1]
                    continue
                # The lower-l orbital sits on the first atom of a table.
                first, second = (a, b) if l1 <= l2 else (b, a)
                channels = [
                    self._channel(first, second, name, r, fade, spin) for name in shell_channels(l1, l2)
                ]
                out[l1, l2] = (
                    self._in_angstrom(np.array([h for h, _ in channels]), energy=True),
                    self._in_angstrom(np.array([m for _, m in channels]), energy=False),
                )
        return out

    def _channel(
        self, first: int, second: int, channel: str, r: np.ndarray, fade: np.ndarray, spin: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hopping (Rydberg) and overlap of one channel with derivatives by r in Bohr, (order + 1, p)."""
        pair = self._pairs[self.symbols[first], self.symbols[second]]
        h, s = pair["hopping"][channel][spin], pair["overlap"][channel][spin]
        coefficients = s[:3]
        if self._set["overlap_zero_limit"] and first == second:
            coefficients = [1.0 if channel[0] == channel[1] else 0.0, *s[:3]]
        parts = []
        for polynomial_part, rate in ((h[:3], h[3]), (coefficients, s[3])):
            f = _decaying(polynomial_part, rate, r, fade)
            if self._set["short_range_spline"]:
                r_min, width = pair["r_min_spline"], pair["sigma_spline"]
                end = np.array([r_min])
                edge = _decaying(polynomial_part, rate, end, self._fade(first, second, end, 2))
                f = flattened(f, r, r_min, width, edge[:, 0])
            parts.append(f)
        return parts[0], parts[1]

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


def _decaying(coefficients: list[float], rate: float, r: np.ndarray, fade: np.ndarray) -> np.ndarray:
    """Polynomial times exponential times cutoff, to the order of the cutoff."""
    order = len(fade) - 1
    return leibniz(leibniz(polynomial(np.array(coefficients), r, order), exponential(rate, r, order)), fade)
