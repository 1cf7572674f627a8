"""A sum of monomials arranged for evaluation: products of two factors are formed once and shared."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .functions import Monomials

__all__ = ["Plan", "PlanTemplate", "join_plans"]


class Plan(NamedTuple):
    """``E = sum_a linear[a] X_a + sum_p X_(size + p) (node[p] + sum_t value[t] X_target[t])``, by element.

    X holds the `size` density projections and after them the products ``X[left[p]] X[right[p]]``, whose
    factors are projections or earlier products. Monomials of third order are a product times a projection,
    those of fourth order a product times a product.

    Attributes
    ----------
    linear : ndarray, shape (n_elements, size)
    nodes : ndarray of int, shape (n_elements + 1,)
        Where the products of each centre element begin.
    left, right : ndarray of unsigned int, shape (p,)
    node : ndarray, shape (p,)
    terms : ndarray of unsigned int, shape (p + 1,)
        Where the terms of each product begin.
    target : ndarray of unsigned int, shape (t,)
        Position in X; products count from `size` within their element.
    value : ndarray, shape (t,)
    """

    linear: np.ndarray
    nodes: np.ndarray
    left: np.ndarray
    right: np.ndarray
    node: np.ndarray
    terms: np.ndarray
    target: np.ndarray
    value: np.ndarray


class PlanTemplate:
    """The arrangement for one centre element, into which coefficients are put by one sparse product."""

    def __init__(self, monomials: Monomials, size: int) -> None:
        self.size = size
        self._function, self._weight = monomials.function, monomials.value
        factors, self._unique = np.unique(monomials.factors, axis=0, return_inverse=True)
        self._unique = self._unique.ravel()
        width = factors.shape[1]
        order = (factors >= 0).sum(axis=1)
        self._n_unique = len(factors)
        self._first = np.flatnonzero(order == 1)
        self._first_index = factors[self._first, 0]
        several = np.flatnonzero(order >= 2)
        heads = factors[several, :2] if width >= 2 else np.zeros((0, 2), np.int64)
        tails = factors[order == 4, 2:4] if width >= 4 else np.zeros((0, 2), np.int64)
        pairs, where = np.unique(np.vstack([heads, tails]), axis=0, return_inverse=True)
        where = where.ravel()
        # Products with equally many terms follow one another: loops of a steady length are predicted well.
        higher = order[several] >= 3
        sort = np.argsort(np.bincount(where[: len(heads)][higher], minlength=len(pairs)), kind="stable")
        place = np.empty_like(sort)
        place[sort] = np.arange(len(sort))
        pairs, where = pairs[sort], place[where]
        head, tail = where[: len(heads)], where[len(heads) :]
        self.left, self.right = pairs[:, 0].astype(np.uint64), pairs[:, 1].astype(np.uint64)
        self._second = several[order[several] == 2]
        self._second_node = head[order[several] == 2]
        target = np.zeros(len(several), np.int64)
        if width >= 3:
            target[order[several] == 3] = factors[several[order[several] == 3], 2]
        target[order[several] == 4] = size + tail
        sort = np.lexsort((target[higher], head[higher]))
        self._higher = several[higher][sort]
        self.target = target[higher][sort].astype(np.uint64)
        counts = np.bincount(head[higher], minlength=len(pairs))
        self.terms = np.concatenate([[0], np.cumsum(counts)]).astype(np.uint64)

    def fill(self, coefficients: np.ndarray) -> Plan:
        """The plan of ``sum_k coefficients[k] B_k``."""
        value = np.bincount(
            self._unique, self._weight * coefficients[self._function], minlength=self._n_unique
        )
        linear = np.zeros((1, self.size))
        linear[0, self._first_index] = value[self._first]
        node = np.zeros(len(self.left))
        node[self._second_node] = value[self._second]
        return Plan(
            linear,
            np.array([0, len(node)], dtype=np.int64),
            self.left,
            self.right,
            node,
            self.terms,
            self.target,
            value[self._higher],
        )


def join_plans(plans: list[Plan]) -> Plan:
    """One plan of those of all centre elements."""
    starts = np.cumsum([0] + [len(p.node) for p in plans]).astype(np.int64)
    terms = np.cumsum([0] + [len(p.value) for p in plans]).astype(np.uint64)
    left, right, node, target, value = (
        np.concatenate([getattr(p, name) for p in plans])
        for name in ("left", "right", "node", "target", "value")
    )
    return Plan(
        np.vstack([p.linear for p in plans]),
        starts,
        left,
        right,
        node,
        np.concatenate([p.terms[:-1] + t for p, t in zip(plans, terms[:-1], strict=True)] + [terms[-1:]]),
        target,
        value,
    )
