"""Functions of complex density projections of any rank, arranged for the kernel."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .coupling import to_real
from .functions import Channels
from .plan import Plan
from .yace_file import ClusterTerm

__all__ = ["plan_of_terms"]


def real_tensor(term: ClusterTerm) -> np.ndarray:
    """Coefficients (2 l_1 + 1, ..) of products of real projections that give the real part of the term."""
    tensor = np.zeros(tuple(2 * l + 1 for l in term.l), dtype=complex)
    np.add.at(tensor, tuple((term.m + np.array(term.l)).T), term.coefficients)
    for l in term.l:
        # Each contraction takes the first axis and appends the new one: after all, the order is the old one.
        tensor = np.tensordot(tensor, to_real(l).conj(), axes=(0, 1))
    real: np.ndarray = tensor.real
    return np.where(np.abs(real) > 1e-14 * np.abs(term.coefficients).max(initial=0.0), real, 0.0)


def plan_of_terms(terms: Iterable[ClusterTerm], channels: Channels) -> Plan:
    """The plan of the sum of functions of rank two and more of one centre element."""
    by_rank: dict[int, list[tuple[np.ndarray, np.ndarray]]] = {}
    for term in terms:
        tensor = real_tensor(term)
        ms = np.argwhere(tensor != 0.0)
        factors = np.empty(ms.shape, dtype=np.int64)
        for t, (z, n, l) in enumerate(zip(term.elements, term.n, term.l, strict=True)):
            factors[:, t] = channels.starts[z, l * l + ms[:, t]] + n - 1
        by_rank.setdefault(len(term.l), []).append((np.sort(factors, axis=1), tensor[tuple(ms.T)]))
    products = _Products(channels.size)
    heads, targets, values = [], [], []
    nodes: list[tuple[np.ndarray, np.ndarray]] = []
    for rank, parts in sorted(by_rank.items()):
        factors, where = np.unique(np.vstack([f for f, _ in parts]), axis=0, return_inverse=True)
        value = np.bincount(where.ravel(), np.concatenate([v for _, v in parts]), minlength=len(factors))
        if rank == 2:
            nodes.append((products.of(factors) - channels.size, value))
            continue
        half = _first_part(rank)
        heads.append(products.of(factors[:, :half]) - channels.size)
        targets.append(products.of(factors[:, half:]))
        values.append(value)
    count = len(products.left)
    node = np.zeros(count)
    for p, value in nodes:
        node += np.bincount(p, value, minlength=count)
    head = np.concatenate([np.zeros(0, np.int64), *heads])
    target = np.concatenate([np.zeros(0, np.int64), *targets])
    order = np.lexsort((target, head))
    return Plan(
        np.zeros((1, channels.size)),
        np.array([0, count], dtype=np.int64),
        np.array(products.left, dtype=np.uint64),
        np.array(products.right, dtype=np.uint64),
        node,
        np.concatenate([[0], np.cumsum(np.bincount(head, minlength=count))]).astype(np.uint64),
        target[order].astype(np.uint64),
        np.concatenate([np.zeros(0), *values])[order],
    )


def _first_part(rank: int) -> int:
    """Factors in the first of two parts: the largest power of two below `rank`."""
    return 1 << ((rank - 1).bit_length() - 1)


class _Products:
    """Products of two factors, each formed once; factors are projections or earlier products."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.left: list[int] = []
        self.right: list[int] = []
        self._known: dict[tuple[int, int], int] = {}

    def of(self, factors: np.ndarray) -> np.ndarray:
        """Numbers (t,) of the products of the rows of `factors` (t, rank)."""
        rank = factors.shape[1]
        if rank == 1:
            single: np.ndarray = factors[:, 0]
            return single
        half = _first_part(rank)
        both = np.stack([self.of(factors[:, :half]), self.of(factors[:, half:])], axis=1)
        pairs, where = np.unique(both, axis=0, return_inverse=True)
        numbers = np.empty(len(pairs), dtype=np.int64)
        for k, (i, j) in enumerate(pairs.tolist()):
            if (i, j) not in self._known:
                self._known[i, j] = self.size + len(self.left)
                self.left.append(i)
                self.right.append(j)
            numbers[k] = self._known[i, j]
        return numbers[where.ravel()]
