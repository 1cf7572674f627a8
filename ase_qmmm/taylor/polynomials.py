"""Polynomials of the displacement differences of a site, packed: each monomial once, zeros left out."""

from __future__ import annotations

from dataclasses import dataclass
from math import factorial

import numpy as np

__all__ = ["FlatTerms", "Terms", "flatten", "multiplicity", "pack", "sorted_tuples"]

# Components smaller than this part of the largest are zeros of the symmetry, up to rounding.
ZERO = 1e-12


@dataclass(frozen=True)
class Terms:
    """``P(g) = sum_t c_t prod_i g_(t, i)``, homogeneous, of one site.

    Attributes
    ----------
    tuples : ndarray of int, shape (t, j)
        Rows in ascending order of numbers ``3 k + c``: component c of the difference at stencil vector k.
    coefficients : ndarray, shape (t,) or (t, 3)
        Of an energy (eV/Å^j), or of the three components of a force (eV/Å^(j + 1)). The number of
        permutations of a tuple and 1/j! are in them.
    """

    tuples: np.ndarray
    coefficients: np.ndarray

    @property
    def degree(self) -> int:
        """Number j of factors."""
        return int(self.tuples.shape[1])

    def influence(self, size: int) -> np.ndarray:
        """Norm (size,) of the coefficients with a factor at each stencil vector."""
        out = np.zeros(size)
        if not len(self.tuples):
            return out
        squares = self.coefficients.reshape(len(self.tuples), -1) ** 2
        for column in np.atleast_2d(self.tuples.T // 3):
            np.add.at(out, column, squares.sum(axis=1))
        return np.sqrt(out)


def multiplicity(tuples: np.ndarray) -> np.ndarray:
    """Number (t,) of different orders of the elements of each sorted row (t, j)."""
    count, run = np.full(len(tuples), factorial(tuples.shape[1]), dtype=float), np.ones(len(tuples))
    for i in range(1, tuples.shape[1]):
        run = np.where(tuples[:, i] == tuples[:, i - 1], run + 1, 1)
        count /= run
    return count


def sorted_tuples(allowed: np.ndarray, length: int) -> np.ndarray:
    """Sorted tuples (t, length) of numbers each two of which are `allowed` (m, m) together."""
    tuples = np.flatnonzero(np.diagonal(allowed))[:, None]
    number = np.arange(len(allowed))
    for _ in range(length - 1):
        fits = allowed[tuples].all(axis=1) & (number >= tuples[:, -1:])
        row, new = np.nonzero(fits)
        tuples = np.column_stack([tuples[row], new])
    return tuples


def components(sites: np.ndarray) -> np.ndarray:
    """Sorted tuples of ``3 k + c`` from sorted tuples of stencil numbers k (t, j), all directions c."""
    degree = sites.shape[1]
    directions = np.indices((3,) * degree).reshape(degree, -1).T
    full = (3 * sites[:, None, :] + directions).reshape(-1, degree)
    return full[(np.diff(full, axis=1) >= 0).all(axis=1)]


def pack(tensor: np.ndarray, cut: float) -> tuple[Terms, float]:
    """Terms of ``V[g, .., g] / j!`` from a symmetric tensor (s, 3, s, 3, ..).

    Left out are the blocks of 3^j components, one per tuple of atoms, whose norm is below `cut` (eV/Å^j): a
    rule that rotations and permutations do not change.

    Returns
    -------
    Terms
    float
        Sum of the absolute values of the coefficients left out: no displacement differences below one Å can
        change the polynomial by more.
    """
    degree, size = tensor.ndim // 2, tensor.shape[0]
    sites = sorted_tuples(np.ones((size, size), dtype=bool), degree)
    matrix = tensor.reshape((3 * size,) * degree)
    blocks = tensor.transpose(*range(0, 2 * degree, 2), *range(1, 2 * degree, 2))
    norms = np.sqrt((blocks[tuple(sites.T)].reshape(len(sites), -1) ** 2).sum(axis=1))
    # Blocks that symmetry makes equal differ by rounding: cut between different ones.
    kept = (norms >= cut * (1 - 1e-6)) & (norms > 0)
    lost = components(sites[~kept])
    bound = float(np.abs(matrix[tuple(lost.T)] * multiplicity(lost)).sum() / factorial(degree))
    tuples = components(sites[kept])
    values = matrix[tuple(tuples.T)]
    nonzero = np.abs(values) > ZERO * np.abs(values).max(initial=0.0)
    tuples, values = tuples[nonzero], values[nonzero]
    order = np.lexsort(tuples.T[::-1])
    tuples = np.ascontiguousarray(tuples[order])
    return Terms(tuples, values[order] * multiplicity(tuples) / factorial(degree)), bound


@dataclass(frozen=True)
class FlatTerms:
    """Terms of all degrees and basis atoms for the compiled loops: leaves grouped by their other factors.

    Attributes
    ----------
    starts : ndarray of int, shape (n_basis + 1,)
        First prefix of each basis atom.
    prefixes : ndarray of int, shape (p, d)
        All factors but the last, -1 where there are fewer.
    leaf_starts : ndarray of int, shape (p + 1,)
        Multiples of four.
    leaves : ndarray of int, shape (t,)
        The last factor; ``3 s`` to ``3 s + 3`` in padding.
    coefficients : ndarray, shape (t, 1) or (t, 3)
    """

    starts: np.ndarray
    prefixes: np.ndarray
    leaf_starts: np.ndarray
    leaves: np.ndarray
    coefficients: np.ndarray

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """In the order in which the kernels take them."""
        return self.starts, self.prefixes, self.leaf_starts, self.leaves, self.coefficients


def flatten(terms: list[list[Terms]], size: int, width: int) -> FlatTerms:
    """Join the terms of each basis atom.

    Parameters
    ----------
    terms : list of list of Terms
        Per basis atom, any degrees.
    size : int
        Number of vectors of the largest stencil.
    width : int
        Number of components, 1 or 3.
    """
    depth = max((t.degree - 1 for site in terms for t in site), default=0)
    zero_rows = 3 * size
    starts, counts = [0], [0]
    prefixes, leaves, coefficients = [np.zeros((0, depth), int)], [np.zeros(0, int)], [np.zeros((0, width))]
    for site in terms:
        number = 0
        for t in site:
            if not len(t.tuples):
                continue
            head = t.tuples[:, :-1]
            new = np.ones(len(head), dtype=bool)
            new[1:] = (head[1:] != head[:-1]).any(axis=1)
            first = np.flatnonzero(new)
            padded = np.full((len(first), depth), -1)
            padded[:, : head.shape[1]] = head[first]
            prefixes.append(padded)
            # Leaves in fours; what is added has a row of zeros for its difference, different ones each.
            own = np.diff(np.append(first, len(head)))
            room = -(-own // 4) * 4
            offsets = np.concatenate([[0], np.cumsum(room)])
            place = np.arange(len(head)) - np.repeat(first, own) + np.repeat(offsets[:-1], own)
            leaf = zero_rows + np.arange(offsets[-1]) % 4
            leaf[place] = t.tuples[:, -1]
            value = np.zeros((offsets[-1], width))
            value[place] = t.coefficients.reshape(-1, width)
            counts.extend(room)
            leaves.append(leaf)
            coefficients.append(value)
            number += len(first)
        starts.append(starts[-1] + number)
    return FlatTerms(
        np.array(starts),
        np.concatenate(prefixes),
        np.cumsum(counts),
        np.concatenate(leaves),
        np.concatenate(coefficients),
    )
