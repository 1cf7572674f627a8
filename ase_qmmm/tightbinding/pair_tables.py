"""Derivatives of the matrix elements around one site of a perfect crystal, with respect to displacements.

The matrices depend on displacements u through pairs, ``B_ij(r_j + u_j - r_i - u_i)``, and through the on-site
terms, functions of sums over pairs. A derivative with respect to any set of displacements is therefore again
a list of pairs, those that touch all displaced atoms, with the next derivative of their blocks: tables of
pairs are closed under differentiation (:meth:`PairTable.differentiated`). A change of the weight of a site
in the energy, ``H -> H + w_l (M Pi_l + Pi_l M) / 2``, has the same form (:meth:`PairTable.weighted`), so that
site energies and forces are one case of derivatives.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array, csr_array

if TYPE_CHECKING:
    from .perturbation import Region

__all__ = ["Family", "Onsite", "PairTable", "Stack"]

Stack = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Family:
    """First derivatives by all displacements: ``A_mc = E_m R_mc + (E_m R_mc)^T + diag(delta_mc)``.

    E_m are the orbitals of displaced atom m, the rows R (3 n_d o, N) are ordered by atom, axis, orbital.
    """

    rows_h: csr_array
    rows_m: csr_array
    diagonal: np.ndarray  # (3 n_d, N), of H only: the diagonal of M is constant

    def rows(self, z: complex) -> csr_array:
        """R of ``z M - H``."""
        return csr_array(
            (z * self.rows_m.data - self.rows_h.data, self.rows_h.indices, self.rows_h.indptr),
            shape=self.rows_h.shape,
        )


@dataclass(frozen=True)
class PairTable:
    """Pairs i, j of sites of a region, each once, with derivatives of their blocks by their vector.

    Attributes
    ----------
    region : Region
    pairs : ndarray, shape (p,)
        Position of each pair in the table of the region that all others derive from.
    i, j : ndarray, shape (p,)
    h, m : tuple of ndarray, shapes (p, 3, .., 3, o, o)
    density_ij, density_ji : tuple of ndarray, shapes (p, 3, .., 3)
        Density of j at i and of i at j.
    """

    region: Region
    pairs: np.ndarray
    i: np.ndarray
    j: np.ndarray
    h: Stack
    m: Stack
    density_ij: Stack
    density_ji: Stack

    def differentiated(self, site: int, axis: int) -> PairTable:
        """The derivative by the displacement of one site along one axis."""
        touch = (self.i == site) | (self.j == site)
        sign = np.where(self.j[touch] == site, 1.0, -1.0)

        def lowered(stack: Stack) -> Stack:
            return tuple(sign.reshape(-1, *(1,) * (t.ndim - 2)) * t[touch, axis] for t in stack[1:])

        stacks = [lowered(s) for s in (self.h, self.m, self.density_ij, self.density_ji)]
        return PairTable(self.region, self.pairs[touch], self.i[touch], self.j[touch], *stacks)

    def weighted(self, site: int) -> PairTable:
        """The derivative by the weight of one site, but for its on-site element, which is constant."""
        touch = (self.i == site) | (self.j == site)
        h = tuple(t[touch] / 2 for t in self.m)
        zeros = [
            tuple(np.zeros_like(t[touch]) for t in s) for s in (self.m, self.density_ij, self.density_ji)
        ]
        return PairTable(self.region, self.pairs[touch], self.i[touch], self.j[touch], h, *zeros)

    def rows(self) -> tuple[csr_array, csr_array]:
        """R of H and of M, see :class:`Family`; one pattern for both."""
        region = self.region
        o = region.n_orbitals
        a = np.arange(o)
        parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        for here, there, sign, transposed in ((self.i, self.j, -1.0, False), (self.j, self.i, 1.0, True)):
            mine = region.displaced_index[here] >= 0
            m = region.displaced_index[here[mine]]
            row = (m[:, None, None] * 3 + np.arange(3)[:, None]) * o + a  # (p, 3, o)
            column = there[mine][:, None] * o + a
            blocks = [sign * s[1][mine] for s in (self.h, self.m)]
            if transposed:
                blocks = [b.swapaxes(-1, -2) for b in blocks]
            shape = blocks[0].shape
            parts.append(
                (
                    np.broadcast_to(row[..., None], shape).ravel(),
                    np.broadcast_to(column[:, None, None, :], shape).ravel(),
                    blocks[0].ravel(),
                    blocks[1].ravel(),
                )
            )
        row, column, h, m = (np.concatenate([part[k] for part in parts]) for k in range(4))
        shape = (3 * region.n_displaced * o, region.size)
        both = coo_array((h + 1j * m, (row, column)), shape=shape).tocsr()
        h_rows = csr_array((both.data.real.copy(), both.indices, both.indptr), shape=shape)
        return h_rows, csr_array((both.data.imag.copy(), both.indices, both.indptr), shape=shape)

    def star(self, centre: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (o, N) of H and M at a site that all pairs of the table touch."""
        out = np.zeros((2, self.region.n_sites, self.region.n_orbitals, self.region.n_orbitals))
        for target, stack in zip(out, (self.h, self.m), strict=True):
            first = self.i == centre
            np.add.at(target, self.j[first], stack[0][first].swapaxes(1, 2))
            np.add.at(target, self.i[~first], stack[0][~first])
        # target[site, b, a] is element (centre a, site b)
        rows = out.transpose(0, 3, 1, 2).reshape(2, self.region.n_orbitals, -1)
        return rows[0], rows[1]

    def first(self, blocks_h: np.ndarray, blocks_m: np.ndarray) -> np.ndarray:
        """``Tr(Z_M A^M_mc) - Tr(Z_H A^H_mc)`` of the pairs for all displacements, (n_d, 3)."""
        value = 2 * np.einsum("pab,pcab->pc", blocks_m[self.pairs], self.m[1])
        value -= 2 * np.einsum("pab,pcab->pc", blocks_h[self.pairs], self.h[1])
        return self._to_sites(value)

    def second(self, blocks_h: np.ndarray, blocks_m: np.ndarray) -> np.ndarray:
        """The same with second derivatives, (n_d, 3, n_d, 3)."""
        value = 2 * np.einsum("pab,pcdab->pcd", blocks_m[self.pairs], self.m[2])
        value -= 2 * np.einsum("pab,pcdab->pcd", blocks_h[self.pairs], self.h[2])
        return self._to_site_pairs(value)

    def _to_sites(self, value: np.ndarray) -> np.ndarray:
        out = np.zeros((self.region.n_displaced + 1, 3))
        index = self.region.displaced_index
        np.add.at(out, index[self.j], value)
        np.add.at(out, index[self.i], -value)
        return out[:-1]

    def _to_site_pairs(self, value: np.ndarray) -> np.ndarray:
        n = self.region.n_displaced + 1  # atoms that are not displaced have index -1 and go last
        out = np.zeros((n, n, 3, 3))
        i, j = self.region.displaced_index[self.i], self.region.displaced_index[self.j]
        np.add.at(out, (i, i), value)
        np.add.at(out, (j, j), value)
        np.add.at(out, (i, j), -value)
        np.add.at(out, (j, i), -value)
        return out[:-1, :-1].transpose(0, 2, 1, 3)

    def densities(self) -> np.ndarray:
        """Sum of the densities at each site by species, (species, sites)."""
        region = self.region
        out = np.zeros((region.n_species, region.n_sites))
        np.add.at(out, (region.species[self.j], self.i), self.density_ij[0])
        np.add.at(out, (region.species[self.i], self.j), self.density_ji[0])
        return out

    def first_densities(self) -> np.ndarray:
        """Their derivatives by the displacements, (species, 3 n_d, sites)."""
        region = self.region
        out = np.zeros((region.n_species, region.n_displaced + 1, region.n_sites, 3))
        di, dj = region.displaced_index[self.i], region.displaced_index[self.j]
        for at, source, stack in ((self.i, self.j, self.density_ij), (self.j, self.i, self.density_ji)):
            t = region.species[source]
            np.add.at(out, (t, dj, at), stack[1])
            np.add.at(out, (t, di, at), -stack[1])
        return out[:, :-1].swapaxes(2, 3).reshape(region.n_species, -1, region.n_sites)

    def second_densities(self, weights: np.ndarray, species: int) -> np.ndarray:
        """``sum_i weights_i d2 rho_i`` of the density of one species, (n_d, 3, n_d, 3); weights (sites,)."""
        region = self.region
        of_j = (region.species[self.j] == species) * weights[self.i]
        of_i = (region.species[self.i] == species) * weights[self.j]
        value = of_j[:, None, None] * self.density_ij[2] + of_i[:, None, None] * self.density_ji[2]
        return self._to_site_pairs(value)


def _partitions(items: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
    """All partitions of a tuple into blocks."""
    if not items:
        return [[]]
    first, rest = items[0], items[1:]
    out = []
    for smaller in _partitions(rest):
        out.append([(first,), *smaller])
        for k in range(len(smaller)):
            out.append([*smaller[:k], (first, *smaller[k]), *smaller[k + 1 :]])
    return out


class Onsite:
    """Derivatives of ``h_t(rho_t)`` by the chain rule of Faà di Bruno, a sum over partitions of the indices.

    Parameters
    ----------
    region : Region
    fixed : sequence of tuple (site, axis)
        Displacements by which it has been differentiated.
    repulsive : bool
        Instead of the on-site terms the repulsive energy, of the same form with one "orbital" per atom.
    """

    def __init__(self, region: Region, fixed: tuple[tuple[int, int], ...], repulsive: bool = False) -> None:
        self.region = region
        self.fixed = fixed
        self.table = region.repulsive_table if repulsive else region.table
        #: Derivatives by the density, (species, order + 1, sites, o).
        self.terms = region.repulsion if repulsive else region.onsite

    def _table(self, block: tuple[int, ...]) -> PairTable:
        table = self.table
        for k in block:
            table = table.differentiated(*self.fixed[k])
        return table

    def value(self) -> np.ndarray:
        """The diagonal of the derivative by the fixed displacements (N,), eV/Å^k."""
        out = np.zeros(self.terms.shape[2:])
        for blocks in _partitions(tuple(range(len(self.fixed)))):
            factors = [self._table(b).densities() for b in blocks]
            for t, term in enumerate(self.terms):
                out += term[len(blocks)] * np.prod([f[t] for f in factors], axis=0)[..., None]
        return out.ravel()

    def family(self) -> np.ndarray:
        """Further derivatives by all displacements, (3 n_d, N)."""
        free = len(self.fixed)
        out = np.zeros((3 * self.region.n_displaced, *self.terms.shape[2:]))
        for blocks in _partitions((*range(free), free)):
            factors = []
            for b in blocks:
                table = self._table(tuple(k for k in b if k != free))
                factors.append(table.first_densities() if free in b else table.densities())
            for t, term in enumerate(self.terms):
                product = np.ones((1, self.region.n_sites))
                for f in factors:
                    product = product * f[t]
                out += term[len(blocks)] * product[..., None]
        return out.reshape(len(out), -1)

    def first(self, diagonal: np.ndarray) -> np.ndarray:
        """``sum_s diagonal_s d(delta_s)`` by all displacements (n_d, 3); diagonal (N,)."""
        pulled: np.ndarray = self.family() @ diagonal
        return pulled.reshape(-1, 3)

    def second(self, diagonal: np.ndarray) -> np.ndarray:
        """The same with second derivatives, (n_d, 3, n_d, 3)."""
        n = self.region.n_displaced
        out = np.zeros((n, 3, n, 3))
        p, q = len(self.fixed), len(self.fixed) + 1
        per_site = diagonal.reshape(self.terms.shape[2:])
        for blocks in _partitions((*range(p), p, q)):
            pulls = (self.terms[:, len(blocks)] * per_site).sum(axis=-1)  # (species, sites)
            for b in blocks:
                if p not in b and q not in b:
                    pulls = pulls * self._table(b).densities()
            tables = {k: self._table(tuple(x for x in b if x < p)) for b in blocks for k in (p, q) if k in b}
            together = any(p in b and q in b for b in blocks)
            for t, pull in enumerate(pulls):
                if together:
                    out += tables[p].second_densities(pull, t)
                else:
                    left, right = tables[p].first_densities()[t], tables[q].first_densities()[t]
                    out += ((left * pull) @ right.T).reshape(n, 3, n, 3)
        return out
