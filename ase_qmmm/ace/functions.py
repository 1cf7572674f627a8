"""Which basis functions there are: labels, one-particle channels, and polynomials in projections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from .coupling import symmetric_invariants

__all__ = ["WEIGHT_L", "BasisFunction", "Channels", "Monomials", "list_functions", "list_monomials"]

# Weight of l in the total degree: 1.5 per l, kept in whole numbers as 2 n + 3 l <= 2 D.
WEIGHT_L = 1.5

Slot = tuple[int, int, int]  # l, element of the neighbours, n


@dataclass(frozen=True)
class BasisFunction:
    """Label of one invariant function ``B = sum_m C[m] prod_t A[z_t, n_t, l_t, m_t]``, or of a pair function.

    Attributes
    ----------
    kind : {"pair", "cluster"}
    centre : int
        Index of the element of the centre atom; for a pair function, of the first element of the pair.
    neighbours, n, l : tuple of int
        Per slot: index of the element of the neighbours, radial index from 1, angular momentum.
    coupling : int
        Counts the independent couplings of the same slots.
    """

    kind: str
    centre: int
    neighbours: tuple[int, ...]
    n: tuple[int, ...]
    l: tuple[int, ...]
    coupling: int = 0

    @property
    def order(self) -> int:
        """Number of neighbours that it correlates."""
        return len(self.n)

    @property
    def degree(self) -> float:
        """Total degree ``sum_t (n_t + 1.5 l_t)``."""
        return sum(self.n) + WEIGHT_L * sum(self.l)


def list_functions(
    n_elements: int, order: int, degree: float | Sequence[float]
) -> list[tuple[BasisFunction, np.ndarray]]:
    """All cluster functions of one centre element (index 0 as a placeholder) with their coupling tensors.

    `degree` is the largest total degree, one for all or one for each correlation order.
    """
    degrees = np.broadcast_to(np.asarray(degree, dtype=float), order)
    largest = float(degrees.max())
    slots = sorted(
        (l, z, n)
        for l in range(int(largest / WEIGHT_L) + 1)
        for z in range(n_elements)
        for n in range(1, int(largest - WEIGHT_L * l) + 1)
    )
    cost = [2 * n + 3 * l for l, z, n in slots]
    found: list[tuple[BasisFunction, np.ndarray]] = []

    def extend(chosen: list[int], spent: int, length: int) -> None:
        limit = int(np.floor(2 * degrees[length - 1] + 1e-9))
        if len(chosen) == length:
            found.extend(_coupled([slots[i] for i in chosen]))
            return
        # Each slot to come costs at least that of n = 1, l = 0.
        room = limit - spent - 2 * (length - len(chosen) - 1)
        for i in range(chosen[-1] if chosen else 0, len(slots)):
            if cost[i] <= room:
                extend([*chosen, i], spent + cost[i], length)

    for length in range(1, order + 1):
        extend([], 0, length)
    return found


def _coupled(slots: list[Slot]) -> list[tuple[BasisFunction, np.ndarray]]:
    ls = tuple(s[0] for s in slots)
    groups = tuple(slots.index(s) for s in slots)
    return [
        (BasisFunction("cluster", 0, tuple(s[1] for s in slots), tuple(s[2] for s in slots), ls, k), tensor)
        for k, tensor in enumerate(symmetric_invariants(ls, groups))
    ]


class Channels:
    """Numbering of the density projections A[z, l, m, n], n fastest.

    Attributes
    ----------
    n_max : ndarray of int, shape (l_max + 1,)
        Radial functions used with each l.
    starts : ndarray of int, shape (n_elements, (l_max + 1)^2)
        Number of the projection with n = 1, by element and by ``l^2 + l + m``.
    size : int
        Number of projections.
    """

    def __init__(self, n_elements: int, functions: list[BasisFunction]) -> None:
        l_max = max((l for f in functions for l in f.l), default=0)
        self.n_max = np.zeros(l_max + 1, dtype=np.int64)
        for f in functions:
            for l, n in zip(f.l, f.n, strict=True):
                self.n_max[l] = max(self.n_max[l], n)
        widths = np.repeat(self.n_max, 2 * np.arange(l_max + 1) + 1)
        ends = np.cumsum(np.tile(widths, n_elements))
        self.starts = (ends - np.tile(widths, n_elements)).reshape(n_elements, -1)
        self.size = int(ends[-1])

    @property
    def l_max(self) -> int:
        """Largest angular momentum."""
        return len(self.n_max) - 1

    def index(self, z: int, n: int, l: int, m: int) -> int:
        """Number of A[z, n, l, m], n from 1."""
        return int(self.starts[z, l * l + l + m]) + n - 1


@dataclass(frozen=True)
class Monomials:
    """Basis functions as polynomials ``B_k = sum_t value[t] prod_i A[factors[t, i]]``, sorted by function.

    Attributes
    ----------
    function : ndarray of int, shape (t,)
        Number k of the function, ascending.
    factors : ndarray of int, shape (t, order)
        Numbers of the projections, ascending, -1 in unused places at the end.
    value : ndarray, shape (t,)
    """

    function: np.ndarray
    factors: np.ndarray
    value: np.ndarray


def list_monomials(
    functions: list[tuple[BasisFunction, np.ndarray]], channels: Channels, order: int
) -> Monomials:
    """Expand invariant functions in monomials; products that differ by the order of factors are merged."""
    rows: list[tuple[int, tuple[int, ...], float]] = []
    for k, (f, tensor) in enumerate(functions):
        terms: dict[tuple[int, ...], float] = {}
        for ms in product(*(range(2 * l + 1) for l in f.l)):
            value = float(tensor[ms])
            if value == 0.0:
                continue
            key = tuple(
                sorted(
                    channels.index(z, n, l, m - l)
                    for z, n, l, m in zip(f.neighbours, f.n, f.l, ms, strict=True)
                )
            )
            terms[key] = terms.get(key, 0.0) + value
        padding = (-1,) * (order - f.order)
        rows.extend((k, key + padding, v) for key, v in sorted(terms.items()) if abs(v) > 1e-12)
    function = np.array([r[0] for r in rows], dtype=np.int64)
    factors = np.array([r[1] for r in rows], dtype=np.int64).reshape(len(rows), order)
    return Monomials(function, factors, np.array([r[2] for r in rows]))
