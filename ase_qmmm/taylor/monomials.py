"""Monomials of one displacement vector, by degree, and Taylor coefficients by them.

``f(r + d) = sum_a c_a d^a`` over multi-indices a, with ``c_a = d^a f(r) / a!``: along ``t d`` the terms of
degree j are the coefficient of t^j.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement
from math import factorial, prod

import numpy as np

__all__ = ["Monomials"]


class Monomials:
    """All monomials of the components of a vector up to a degree.

    Parameters
    ----------
    order : int
        Highest degree.

    Attributes
    ----------
    exponents : ndarray of int, shape (a, 3)
        By rising degree.
    starts : ndarray of int, shape (order + 2,)
        The first monomial of each degree.
    lower : ndarray of int, shape (a, 3)
        The monomial with one power less of a component; -1 where it has none.
    axis : ndarray of int, shape (a,)
        A component that it has (0 for the constant).
    """

    def __init__(self, order: int) -> None:
        self.order = order
        tuples = [t for j in range(order + 1) for t in combinations_with_replacement(range(3), j)]
        self._tuples = tuples
        exponents = [tuple(t.count(c) for c in range(3)) for t in tuples]
        number = {e: k for k, e in enumerate(exponents)}
        self.exponents = np.array(exponents, dtype=np.int64)
        degrees = self.exponents.sum(axis=1)
        self.starts = np.searchsorted(degrees, np.arange(order + 2)).astype(np.int64)
        self.lower = np.full((len(tuples), 3), -1, dtype=np.int64)
        for k, e in enumerate(exponents):
            for c in range(3):
                if e[c]:
                    self.lower[k, c] = number[tuple(n - (c == d) for d, n in enumerate(e))]
        self.axis = np.argmax(self.exponents > 0, axis=1).astype(np.int64)

    def __len__(self) -> int:
        return len(self._tuples)

    def coefficients(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """Taylor coefficients (p, a, ...) from Cartesian derivatives of orders 0 .. `order`.

        Parameters
        ----------
        tensors : sequence of ndarray, shapes (p, 3, .., 3, ...)
        """
        out = np.zeros((len(tensors[0]), len(self), *tensors[0].shape[1:]))
        for k, t in enumerate(self._tuples):
            out[:, k] = np.moveaxis(tensors[len(t)], 0, len(t))[t] / prod(
                factorial(t.count(c)) for c in range(3)
            )
        return out
