"""High derivatives of tabulated functions from polynomials fitted over many intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.polynomial import Polynomial

from .potential import EAMPotential, Tables, TabulatedPotential

__all__ = ["SmoothedPotential"]

FIRST = 3  # energies, forces and force constants remain those of the table
DEGREE = 6
SAMPLES = 401


class SmoothedPotential(EAMPotential):
    """A tabulated potential whose derivatives of third and higher order come from local polynomials.

    The n-th derivative of a table with last digit e and step h has noise ``e / h^n``, and a table made of
    cubic splines has third derivatives that jump. Here they are those of the polynomial of degree six that
    is nearest to the function (least squares) within `width` of the point.

    Parameters
    ----------
    table : TabulatedPotential
    width : float
        Å; of F the same share of its range as of the cutoff.
    """

    def __init__(self, table: TabulatedPotential, width: float) -> None:
        self._table, self.width = table, width
        self.name, self.citation, self.symbols = table.name, table.citation, table.symbols
        self.cutoff, self.density_ranges = table.cutoff, table.density_ranges

    def tables(self) -> Tables:
        """Those of the table."""
        return self._table.tables()

    def embedding(self, a: int, rho: np.ndarray, order: int, where: np.ndarray | None = None) -> np.ndarray:
        """See :class:`EAMPotential`."""
        width = self.width / self.cutoff * self.density_ranges[a]
        return _smoothed(lambda x, k: self._table.embedding(a, x, k), rho, order, width)

    def density(self, a: int, b: int, r: np.ndarray, order: int) -> np.ndarray:
        """See :class:`EAMPotential`."""
        return _smoothed(lambda x, k: self._table.density(a, b, x, k), r, order, self.width)

    def pair(self, a: int, b: int, r: np.ndarray, order: int) -> np.ndarray:
        """See :class:`EAMPotential`."""
        return _smoothed(lambda x, k: self._table.pair(a, b, x, k), r, order, self.width)


def _smoothed(
    function: Callable[[np.ndarray, int], np.ndarray], x: np.ndarray, order: int, width: float
) -> np.ndarray:
    """Derivatives (order + 1, n) of `function` at `x` (n,), the high ones smoothed over +- `width`."""
    out = function(x, order)
    if order < FIRST:
        return out
    t = np.linspace(-1.0, 1.0, SAMPLES)
    for k, centre in enumerate(x):
        fit = Polynomial.fit(t, function(centre + width * t, 0)[0], DEGREE, domain=[-1, 1], window=[-1, 1])
        for n in range(FIRST, order + 1):
            out[n, k] = fit.deriv(n)(0.0) / width**n
    return out
