"""Derivatives of ``sum_q 2 Re[rho_q log det K(z_q)]``, ``K = z M - H``, by one source and by displacements.

With ``G = K^-1`` and partial derivatives A_I of K by the perturbations in I,

    d_I log det K = sum over partitions of I into k blocks, (-1)^(k-1) sum over cyclic orders
                    of Tr[G A_1 .. G A_k].

The source (index 0) is a displacement of the middle atom or the weight of its site energy, so that it meets
few orbitals: products ``X = G A_0 .. G`` have low rank and are kept as ``U V^T``. All displacements 2, 3 are
then treated together; of four-index derivatives, index 1 runs over chosen displacements one by one.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from scipy.sparse import coo_array, csr_array

from .pair_tables import Family, Onsite, PairTable
from .perturbation import Region

__all__ = ["Operators", "Pattern", "Source", "Symmetric", "bilinear", "double_sandwich", "sandwich"]


class Source:
    """One fixed perturbation, or several in turn: what is left to differentiate by displacements.

    Parameters
    ----------
    region : Region
    weighted : bool
        Begin with the weight of the middle atom.
    displacements : tuple of (site, axis)
    """

    def __init__(
        self, region: Region, weighted: bool = False, displacements: tuple[tuple[int, int], ...] = ()
    ) -> None:
        self.region = region
        self.weighted = weighted
        self.displacements = displacements
        table: PairTable = region.table.weighted(0) if weighted else region.table
        for site, axis in displacements:
            table = table.differentiated(site, axis)
        self.table = table
        # Site weights multiply the overlap, whose on-site block is constant.
        self.onsite = None if weighted else Onsite(region, displacements)

    def and_then(self, site: int, axis: int) -> Source:
        """The same differentiated by one more displacement."""
        return Source(self.region, self.weighted, (*self.displacements, (site, axis)))

    @cached_property
    def family(self) -> Family:
        """Its first derivatives by all displacements."""
        region = self.region
        shape = (3 * region.n_displaced, region.size)
        diagonal = np.zeros(shape) if self.onsite is None else self.onsite.family()
        return Family(*self.table.rows(), diagonal)

    @cached_property
    def _star(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        centre = self.displacements[-1][0] if self.displacements else 0
        rows_h, rows_m = self.table.star(centre)
        diagonal = np.zeros(self.region.size)
        if self.onsite is not None:
            diagonal = self.onsite.value()
        elif not self.displacements:
            diagonal[: self.region.n_orbitals] = 1.0
        return rows_h, rows_m, diagonal, centre

    def operator(self, z: complex) -> tuple[csr_array, csr_array]:
        """``A = P^T Q`` of ``z M - H``: sparse P, Q (r, N)."""
        rows_h, rows_m, diagonal, centre = self._star
        o, n = self.region.n_orbitals, self.region.size
        rows = z * rows_m - rows_h
        support = np.flatnonzero(diagonal)
        r, c = np.nonzero(rows)
        a = np.arange(o)
        row = np.concatenate([a, o + r, 2 * o + np.arange(len(support))])
        column = np.concatenate([centre * o + a, c, support])
        shape = (2 * o + len(support), n)
        p = np.concatenate([np.ones(o), rows[r, c], -diagonal[support]])
        q = np.concatenate([np.ones(o), rows[r, c], np.ones(len(support))])
        swapped = np.concatenate([o + a, r, 2 * o + np.arange(len(support))])
        return (
            csr_array(coo_array((p, (row, column)), shape=shape)),
            csr_array(coo_array((q, (swapped, column)), shape=shape)),
        )

    def first(self, pattern: Pattern) -> np.ndarray:
        """``Tr(Z A)`` for its derivatives by all displacements, (n_d, 3)."""
        value = self.table.first(pattern.blocks_h, pattern.blocks_m)
        return value if self.onsite is None else value - self.onsite.first(pattern.diagonal)

    def second(self, pattern: Pattern) -> np.ndarray:
        """``Tr(Z A)`` for its second derivatives, (n_d, 3, n_d, 3)."""
        value = self.table.second(pattern.blocks_h, pattern.blocks_m)
        return value if self.onsite is None else value - self.onsite.second(pattern.diagonal)


class Pattern:
    """Sums over poles of a matrix at the pairs of a region: ``Z_H = sum 2 Re[rho X]``, ``Z_M`` with rho z."""

    def __init__(self, region: Region) -> None:
        shape = (len(region.table.pairs), region.n_orbitals, region.n_orbitals)
        self.blocks_h = np.zeros(shape)
        self.blocks_m = np.zeros(shape)
        self.diagonal = np.zeros(region.size)

    def add(self, x: Symmetric, rho: complex, z: complex) -> None:
        """Add the contribution of one pole."""
        blocks, diagonal = x.pattern
        self.blocks_h += 2 * (rho * blocks).real
        self.blocks_m += 2 * (rho * z * blocks).real
        self.diagonal += 2 * (rho * diagonal).real


class Symmetric:
    """A complex symmetric matrix (N, N) over a region: dense, or ``U V^T``, or ``U V^T + V U^T``.

    Parameters
    ----------
    region : Region
    dense : ndarray, optional
    factors : tuple of ndarray (N, r) and (r, N), optional
        U and V^T.
    doubled : bool
        Whether the transpose of the product is added.
    """

    def __init__(
        self,
        region: Region,
        dense: np.ndarray | None = None,
        factors: tuple[np.ndarray, np.ndarray] | None = None,
        doubled: bool = False,
    ) -> None:
        self.region = region
        self.factors = factors
        self.doubled = doubled
        self._dense = dense
        # The rows are kept beside the product, so that no other array can take their identity.
        self._products: dict[int, tuple[csr_array, np.ndarray]] = {}
        self._square: tuple[csr_array, np.ndarray] | None = None

    @property
    def dense(self) -> np.ndarray:
        """All elements."""
        if self._dense is None:
            assert self.factors is not None
            product = self.factors[0] @ self.factors[1]
            self._dense = product + product.T if self.doubled else product
        return self._dense

    @cached_property
    def at_displaced(self) -> np.ndarray:
        """Rows of the displaced atoms (n_d o, N)."""
        rows = self.region.displaced_orbitals
        if self.factors is None:
            return self.dense[rows]
        u, vt = self.factors
        product: np.ndarray = u[rows] @ vt
        return product + vt[:, rows].T @ u.T if self.doubled else product

    def left(self, rows: csr_array) -> np.ndarray:
        """``R X`` for sparse rows, kept for the next call with the same rows."""
        key = id(rows)
        if key not in self._products:
            if self.factors is None:
                product = rows @ self.dense
            else:
                u, vt = self.factors
                product = (rows @ u) @ vt
                if self.doubled:
                    product += (rows @ vt.T) @ u.T
            self._products[key] = (rows, product)
        return self._products[key][1]

    def forget_all_but(self, rows: csr_array) -> None:
        """Drop the products kept with other rows."""
        self._products = {k: v for k, v in self._products.items() if k == id(rows)}

    def between(self, left: csr_array, right: csr_array) -> np.ndarray:
        """``R X R'^T``, the sparser rows last; kept where both are the same."""
        if left is right:
            if self._square is None or self._square[0] is not left:
                self._square = (left, left @ self.left(left).T)
            return self._square[1]
        product: np.ndarray
        if left.nnz < right.nnz:
            product = left @ self.left(right).T
        else:
            product = (right @ self.left(left).T).T
        return product

    @cached_property
    def pattern(self) -> tuple[np.ndarray, np.ndarray]:
        """Blocks at the pairs of the region (p, o, o) and the diagonal (N,)."""
        region, o = self.region, self.region.n_orbitals
        i, j = region.table.i, region.table.j
        if self.factors is None:
            x = self.dense.reshape(region.n_sites, o, region.n_sites, o)
            return x[i, :, j], np.diagonal(self.dense)
        u, vt = self.factors
        u3 = u.reshape(region.n_sites, o, -1)
        v3 = np.ascontiguousarray(vt.T).reshape(region.n_sites, o, -1)
        blocks = u3[i] @ v3[j].swapaxes(1, 2)
        diagonal = np.einsum("sr,rs->s", u, vt)
        if self.doubled:
            return blocks + v3[i] @ u3[j].swapaxes(1, 2), 2 * diagonal
        return blocks, diagonal


def sandwich(g: Symmetric, source: Source, z: complex) -> Symmetric:
    """``G A G`` for the perturbation of a source."""
    p, q = source.operator(z)
    return Symmetric(g.region, factors=((p @ g.dense).T, q @ g.dense))


def double_sandwich(x: Symmetric, second: Source, g: Symmetric, z: complex, extra: Symmetric) -> Symmetric:
    """``X A G + (X A G)^T`` for ``X = G A_0 G`` and the perturbation A of `second`, minus `extra`."""
    p, q = second.operator(z)
    assert x.factors is not None and extra.factors is not None
    u, vt = x.factors
    middle = (p @ vt.T).T  # (r0, r1)
    right = q @ g.dense
    left, right = (u, middle @ right) if len(middle) < len(right) else (u @ middle, right)
    # Half of `extra`, which the sum with the transpose makes whole.
    return Symmetric(
        g.region,
        factors=(np.hstack([left, -0.5 * extra.factors[0]]), np.vstack([right, extra.factors[1]])),
        doubled=True,
    )


Operators = tuple[csr_array, np.ndarray]


def bilinear(x: Symmetric, first: Operators, y: Symmetric, second: Operators) -> np.ndarray:
    """``Tr(X A_2 Y A_3)`` for all displacements 2 of one family and 3 of another, (n_d, 3, n_d, 3).

    With ``A = E R + (E R)^T - diag(delta)`` all products reduce to those of the rows R with X and Y.

    Parameters
    ----------
    x, y : Symmetric
    first, second : tuple
        Rows R (3 n_d o, N) of ``z M - H`` and diagonals delta (3 n_d, N) of H.
    """
    region = x.region
    n, o = region.n_displaced, region.n_orbitals
    (ra, da), (rb, db) = first, second
    ax, ay, bx, by = x.left(ra), y.left(ra), x.left(rb), y.left(rb)
    ex, ey = x.at_displaced, y.at_displaced
    places = region.displaced_orbitals

    def by_atom(rows: np.ndarray) -> np.ndarray:
        return rows.reshape(n, 3, o, n, o)

    # Indices: m d j are atom, axis and orbital of A_2; n e i of A_3.
    out = np.einsum("neimj,mdjni->mdne", by_atom(bx[:, places]), by_atom(ay[:, places]), optimize=True)
    out += np.einsum("neimj,mdjni->mdne", by_atom(by[:, places]), by_atom(ax[:, places]), optimize=True)
    if ra.nnz and rb.nnz:
        exe = ex[:, places].reshape(n, o, n, o)
        eye = exe if y is x else ey[:, places].reshape(n, o, n, o)
        for inner, outer in ((y, exe), (x, eye)):
            both = inner.between(rb, ra).reshape(n, 3, o, n, 3, o)  # [n e i, m d j]
            out += np.einsum("nimj,neimdj->mdne", outer, both, optimize=True)
    total = out.reshape(3 * n, 3 * n)
    if da.any():
        pulled = _by_orbital(ey, bx, n, o)
        pulled += pulled if y is x else _by_orbital(ex, by, n, o)
        total = total - _real_times(da, pulled.T)
    if db.any():
        pulled = _by_orbital(ex, ay, n, o)
        pulled += pulled if y is x else _by_orbital(ey, ax, n, o)
        total = total - _real_times(db, pulled.T).T
    if da.any() and db.any():
        total = total + _real_times(db, _real_times(da, x.dense * y.dense).T).T
    result: np.ndarray = total.reshape(n, 3, n, 3)
    return result


def _by_orbital(at_atoms: np.ndarray, rows: np.ndarray, n: int, o: int) -> np.ndarray:
    """``sum_i E[n i, s] R[n e i, s]``: (3 n, N)."""
    product: np.ndarray = np.einsum("nis,neis->nes", at_atoms.reshape(n, o, -1), rows.reshape(n, 3, o, -1))
    return product.reshape(3 * n, -1)


def _real_times(real: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Product of a real and a complex matrix, in real arithmetic."""
    m = np.ascontiguousarray(matrix)
    product: np.ndarray = (real @ m.view(float)).view(complex)
    return product
