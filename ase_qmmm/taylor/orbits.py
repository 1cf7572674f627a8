"""Tuples of stencil vectors that the symmetry of a site maps onto each other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement, permutations
from math import factorial

import numpy as np

from ..crystal import Crystal
from ..symmetry import Operation, space_group, stencil_permutation
from .crystal_derivatives import CrystalDerivatives

__all__ = ["TupleOrbits", "orbit_means", "picked", "tuple_orbits"]


@dataclass(frozen=True)
class TupleOrbits:
    """One tuple ``(rho_1, .. , rho_j)`` of each class that symmetry and exchange map onto each other.

    Attributes
    ----------
    basis : int
        Basis atom, the first of those that are equivalent.
    tuples : ndarray of int, shape (m, j)
        Numbers in its stencil, ascending in each row.
    sizes : ndarray of int, shape (m,)
        Ordered tuples in each class, those of equivalent basis atoms included.
    """

    basis: int
    tuples: np.ndarray
    sizes: np.ndarray


def tuple_orbits(crystal: Crystal, order: int, cutoff: float) -> list[TupleOrbits]:
    """Classes of tuples of `order` stencil vectors within `cutoff` (Å), per inequivalent basis atom."""
    group = space_group(crystal)
    out = []
    for basis in range(crystal.n_basis):
        images = {int(op.sites[basis]) for op in group}
        if min(images) < basis:
            continue
        size = len(crystal.stencil(basis, cutoff))
        sorted_tuples = np.array(list(combinations_with_replacement(range(size), order)), dtype=np.int64)
        sorted_tuples = sorted_tuples.reshape(-1, order)
        powers = size ** np.arange(order - 1, -1, -1)
        own = sorted_tuples @ powers
        lowest = own.copy()
        for op in group:
            if op.sites[basis] == basis:
                permutation = stencil_permutation(crystal, op, basis, cutoff)
                lowest = np.minimum(lowest, np.sort(permutation[sorted_tuples], axis=1) @ powers)
        first, where = np.unique(lowest, return_inverse=True)
        sizes = np.bincount(where, _orderings(sorted_tuples)).astype(int) * len(images)
        # Sorted tuples come in the order of their codes.
        out.append(TupleOrbits(basis, sorted_tuples[np.searchsorted(own, first)], sizes))
    return out


def _orderings(sorted_tuples: np.ndarray) -> np.ndarray:
    """Number of distinct orders of the entries of each row."""
    n, order = sorted_tuples.shape
    count = np.full(n, float(factorial(order)))
    run = np.ones(n)
    for k in range(1, order):
        run = np.where(sorted_tuples[:, k] == sorted_tuples[:, k - 1], run + 1, 1)
        count /= run
    return count


def picked(tensor: np.ndarray, tuples: np.ndarray, kind: str) -> np.ndarray:
    """Entries (m, 3, 3, ..) of a tensor (s, 3, s, 3, ..), of kind "force" (3, s, 3, ..), at tuples (m, j)."""
    lead = 1 if kind == "force" else 0
    order = tuples.shape[1]
    of_sites = [lead + 2 * k for k in range(order)]
    components = [*range(lead), *(lead + 2 * k + 1 for k in range(order))]
    out: np.ndarray = tensor.transpose(of_sites + components)[tuple(tuples.T)]
    return out


def orbit_means(derivatives: CrystalDerivatives, order: int, orbits: TupleOrbits) -> np.ndarray:
    """Derivatives (m, 3, 3, ..) at the tuples, averaged over their classes.

    The sum of squared deviations over a class from a tensor with the symmetry of the crystal is that from
    the mean, times the size of the class, and a constant.
    """
    crystal, kind, cutoff = derivatives.crystal, derivatives.kind, derivatives.cutoffs[order]
    lead = 1 if kind == "force" else 0
    total: np.ndarray | float = 0.0
    group: list[Operation] = space_group(crystal)
    orders = list(permutations(range(order)))
    for op in group:
        images = stencil_permutation(crystal, op, orbits.basis, cutoff)[orbits.tuples]
        tensor = derivatives.tensors[order][int(op.sites[orbits.basis])]
        for p in orders:
            values = picked(tensor, images[:, p], kind)
            # Entry k of the permuted tuple belongs to index p[k].
            back = np.argsort(p)
            values = values.transpose([*range(1 + lead), *(1 + lead + back)])
            for axis in range(1, values.ndim):
                values = np.moveaxis(np.tensordot(values, op.rotation, axes=(axis, 0)), -1, axis)
            total = total + values
    mean: np.ndarray = np.asarray(total) / (len(group) * len(orders))
    return mean
