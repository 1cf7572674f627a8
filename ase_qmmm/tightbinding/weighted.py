"""Gradient of a weighted sum of site energies: the matrices ``D_H`` and ``D_M`` of :mod:`.functionals`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .functionals import NEAR, OCCUPIED, LevelFunctional, add_spectral, divided_differences
from .kernels import weigh_rows
from .matrices import Matrices, PatternDensity
from .spectrum import States, fermi_slopes

__all__ = ["Gradient", "weighted_gradients"]

# Levels of a panel: long enough for matrix products, short beside the number of levels.
_PANEL = 128

Gradient = tuple[PatternDensity, PatternDensity, PatternDensity | None]


def weighted_gradients(
    channels: list[tuple[Matrices, list[States]]], functional: LevelFunctional, site_weights: np.ndarray
) -> list[Gradient]:
    """``D_H``, ``D_M`` and ``P = C g C^H`` of each spin for site weights (n,).

    Parameters
    ----------
    channels : list of (Matrices, list of States)
        Per spin, with the vectors of all levels.
    functional : LevelFunctional
    site_weights : ndarray, shape (n,)
    """
    gradients: list[Gradient] = []
    everything = [s for _, states in channels for s in states]
    number_slope = 0.0
    if functional.fixed_number:
        number_slope = sum(_number_slope(s, functional) for s in everything)
    responds = abs(number_slope) > 1e-200
    # One k-point of one spin knows the response of mu at once, which saves two products.
    single = len(everything) == 1 and len(everything[0].kpoints) == 1 and channels[0][0].sparse
    alone = number_slope if responds and single else None
    mu_slope = 0.0
    for matrices, states in channels:
        d_h, d_m, p = matrices.pattern(), matrices.pattern(), matrices.pattern()
        orbital_weights = site_weights[matrices.atom_of_orbital]
        sums = _Sums(matrices, functional, site_weights, d_h, d_m)
        for s in states:
            one = len(s.kpoints) == 1 and matrices.sparse
            q = sums.add_sparse(s, alone) if one else sums.add_batch(s)
            mu_slope += _mu_slope(s, functional, q)
            add_spectral(matrices, p, s, functional.values(s.levels))
        d_m.diagonal += orbital_weights * p.diagonal
        for k, (pairs, block) in enumerate(zip(matrices.groups, p.blocks, strict=True)):
            mean = (site_weights[pairs.i] + site_weights[pairs.j]) / 2
            d_m.blocks[k] += block * mean[:, None, None]
        gradients.append((d_h, d_m, p))
    if responds and alone is None:
        shift = mu_slope / number_slope
        for (matrices, states), (d_h, d_m, _) in zip(channels, gradients, strict=True):
            for s in states:
                factors = shift * fermi_slopes(s.levels, functional.mu, functional.kT)[0]
                add_spectral(matrices, d_h, s, factors)
                add_spectral(matrices, d_m, s, -factors * s.levels)
    return gradients


def _number_slope(s: States, functional: LevelFunctional) -> float:
    """``sum f'``: where the number of electrons is fixed, ``d mu = sum f' d eps / sum f'``."""
    return float(s.weights @ fermi_slopes(s.levels, functional.mu, functional.kT)[0].sum(axis=1))


def _mu_slope(s: States, functional: LevelFunctional, q: np.ndarray) -> float:
    """Derivative of the energy with respect to mu at constant levels, from the diagonal of Q~ (k, levels)."""
    _, g_mu = functional.slopes(s.levels[:, : q.shape[1]])
    return float(s.weights @ (q * g_mu).sum(axis=1))


@dataclass
class _Sums:
    """``D_H`` and ``D_M`` of one spin, to which the states of each k-point are added."""

    matrices: Matrices
    functional: LevelFunctional
    site_weights: np.ndarray
    d_h: PatternDensity
    d_m: PatternDensity

    def add_batch(self, s: States) -> np.ndarray:
        """Add ``C (Q~ o g[s,t]) C^H`` and minus that of eps g by whole matrices; the diagonal of Q~."""
        matrices, functional = self.matrices, self.functional
        c, adjoint = s.vectors, s.vectors.conj().swapaxes(1, 2)
        orbital_weights = self.site_weights[matrices.atom_of_orbital]
        rows = np.flatnonzero(orbital_weights)
        g, (g_eps, _) = functional.values(s.levels), functional.slopes(s.levels)
        mc = matrices.overlap(s.kpoints)[:, rows] @ c
        half = adjoint[:, :, rows] @ (orbital_weights[rows, None] * mc)
        q = (half + half.conj().swapaxes(1, 2)) / 2
        difference = divided_differences(s.levels, g, g_eps, functional.kT)
        matrices.gather(self.d_h, c @ (q * difference) @ adjoint, s.kpoints, s.weights)
        difference = divided_differences(s.levels, s.levels * g, g + s.levels * g_eps, functional.kT)
        matrices.gather(self.d_m, -c @ (q * difference) @ adjoint, s.kpoints, s.weights)
        return np.diagonal(q, axis1=1, axis2=2).real

    def add_sparse(self, s: States, number_slope: float | None = None) -> np.ndarray:
        """As :meth:`add_batch` for one k-point, with as few products as possible.

        With `number_slope`, ``sum f'`` of these states, the response of mu by them is added as well.

        Levels are occupied (o) or empty, and g and its divided differences vanish between empty ones. Each
        pair of levels is visited once: with U the upper triangle of Q~ o g[s,t], rows o, half its diagonal,
        ``C X C^H = C_o Y + Y^H C_o^H``, ``Y = U C^H``, of which only elements on the pattern are needed. As
        ``(eps g)[s,t] = eps_s g[s,t] + g_t``, the same of eps g has ``eps Y + U' g C_o^H``, U' that triangle
        of Q~_oo. Rows of U go by panels, so that what lies below its diagonal is not computed.
        """
        matrices, functional = self.matrices, self.functional
        c, e = s.vectors[0], s.levels[0]
        g, (g_eps, _) = functional.values(s.levels)[0], functional.slopes(s.levels)
        o = max(1, int(np.searchsorted(e, functional.mu + OCCUPIED * functional.kT)))
        terms = self._weight_factors(c, s.kpoints[0], o)
        # Adjoints of Y and of the same of eps g, whose rows are orbitals.
        y, y_eps = np.empty((len(c), o), c.dtype), np.empty((len(c), o), c.dtype)
        diagonal = np.empty(o)
        for low in range(0, o, _PANEL):
            panel = slice(low, min(low + _PANEL, o))
            q = sum(left[:, panel].conj().T @ right[:, low:] for left, right in terms)
            diagonal[panel] = np.diagonal(q).real
            x = np.empty_like(q)
            weigh_rows(e[low:], g[low:], g_eps[0, low:], NEAR * functional.kT, q, x)
            np.matmul(c[:, low:], x.conj().T, out=y[:, panel])
            x = q[:, : o - low] * g[low:o]
            np.matmul(c[:, low:o], x.conj().T, out=y_eps[:, panel])
        del terms, q, x
        if number_slope is not None:
            factors = fermi_slopes(e[:o], functional.mu, functional.kT)[0]
            factors *= _mu_slope(s, functional, diagonal[None]) / number_slope / 2
            near = np.flatnonzero(factors)
            part = slice(near[0], near[-1] + 1)
            y[:, part] += c[:, part] * factors[part]
        _add_symmetric(matrices, self.d_h, c, y, np.ones(o), s)
        y *= e[:o]
        y_eps += y
        _add_symmetric(matrices, self.d_m, c, y_eps, -np.ones(o), s)
        return diagonal[None]

    def _weight_factors(
        self, c: np.ndarray, kpoint: np.ndarray, o: int
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Matrices (r, o) and (r, N) with ``sum left^H right`` the rows o of Q~, of least inner length r."""
        matrices, site_weights = self.matrices, self.site_weights
        orbital_weights = site_weights[matrices.atom_of_orbital]
        weighted = orbital_weights != 0
        reached = matrices.weight_reach(site_weights)[matrices.atom_of_orbital]
        if reached.sum() <= 2 * weighted.sum():
            # Q has few rows beside those of weighted orbitals: (Q C_o)^H C.
            right = c if reached.all() else c[reached]
            return [(matrices.weighted_overlap_times(c, kpoint, site_weights, o), right)]
        rows, products = c[weighted], matrices.overlap_times(c, kpoint, site_weights != 0)
        half = orbital_weights[weighted, None] / 2
        return [(half * rows[:, :o], products), (half * products[:, :o], rows)]


def _add_symmetric(
    matrices: Matrices, target: PatternDensity, x: np.ndarray, y: np.ndarray, factors: np.ndarray, s: States
) -> None:
    """Add ``x diag(factors) y^H`` and its adjoint."""
    matrices.add_product(target, x, y, factors, s.kpoints[0], float(s.weights[0]))
    matrices.add_product(target, y, x, factors, s.kpoints[0], float(s.weights[0]))
