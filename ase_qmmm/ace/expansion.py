"""Site energies of a crystal as functions of parameters: chain rule through the density projections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..crystal import Crystal
from .jets import product_jets, solid_harmonics

if TYPE_CHECKING:
    from .basis import ACEBasis

__all__ = ["Function", "SiteJets", "basis_functions", "combined", "site_jets"]


@dataclass(frozen=True)
class Function:
    """A polynomial in the projections of one centre element.

    Attributes
    ----------
    factors : ndarray of int, shape (t, order)
        Projections of each monomial, -1 in unused places at the end.
    value : ndarray, shape (t,)
    """

    factors: np.ndarray
    value: np.ndarray

    def derivatives(self, projections: np.ndarray, order: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Projections that it depends on (c,), and its value and derivatives by them (), (c,), (c, c) .."""
        used = np.unique(self.factors[self.factors >= 0])
        place = np.searchsorted(used, self.factors)
        filled = self.factors >= 0
        x = np.where(filled, projections[self.factors], 1.0)
        width = self.factors.shape[1]
        out = [np.array(self.value @ x.prod(axis=1))]
        for k in range(1, order + 1):
            tensor = np.zeros((len(used),) * k)
            for chosen in _ordered(width, k):
                valid = filled[:, list(chosen)].all(axis=1)
                if valid.any():
                    rest = [i for i in range(width) if i not in chosen]
                    term = self.value[valid] * x[valid][:, rest].prod(axis=1)
                    np.add.at(tensor, tuple(place[valid, i] for i in chosen), term)
            out.append(tensor)
        return used, out


def _ordered(n: int, k: int) -> list[tuple[int, ...]]:
    """All ordered choices of k of n places."""
    chosen: list[tuple[int, ...]] = [()]
    for _ in range(k):
        chosen = [(*c, i) for c in chosen for i in range(n) if i not in c]
    return chosen


def basis_functions(basis: ACEBasis, element: int) -> list[tuple[int, Function]]:
    """Column and polynomial of every function that a centre of this element has.

    Pair functions and the core (column -1) are projections of their own, after those of the channels: first
    by element of the neighbours, then n, the core last.
    """
    n, m = basis._n_cluster, basis._monomials
    edges = np.searchsorted(m.function, np.arange(n + 1))
    out = [
        (element * n + k, Function(m.factors[a:b], m.value[a:b]))
        for k, (a, b) in enumerate(zip(edges[:-1], edges[1:], strict=True))
    ]
    size, n_z = basis._channels.size, len(basis.elements)
    for z in range(n_z):
        start = n_z * n + int(basis._pair_index[element, z]) * basis._n_pair
        out += [
            (start + i, Function(np.array([[size + z * basis._n_pair + i]]), np.array([0.5])))
            for i in range(basis._n_pair)
        ]
    core = size + n_z * basis._n_pair
    return [*out, (-1, Function(np.array([[core]]), np.array([0.5])))]


def combined(functions: list[tuple[int, Function]], coefficients: np.ndarray) -> Function:
    """The one polynomial ``sum_k c_k B_k``, core included."""
    width = max(f.factors.shape[1] for _, f in functions)
    factors = [
        np.pad(f.factors, ((0, 0), (0, width - f.factors.shape[1])), constant_values=-1) for _, f in functions
    ]
    values = [f.value * (coefficients[k] if k >= 0 else 1.0) for k, f in functions]
    distinct, where = np.unique(np.vstack(factors), axis=0, return_inverse=True)
    return Function(distinct, np.bincount(where.ravel(), np.concatenate(values)))


@dataclass(frozen=True)
class SiteJets:
    """One basis atom of a crystal: its stencil and its projections.

    Attributes
    ----------
    vectors : ndarray, shape (s, 3)
        Stencil up to the cutoff of the basis (Å).
    sites : ndarray of int, shape (s,)
        Basis atom at each vector.
    projections : ndarray, shape (a,)
    jets : list of ndarray
        Derivatives of the projections by the position of one neighbour, (a, s, 3), (a, s, 3, 3) ..
    """

    vectors: np.ndarray
    sites: np.ndarray
    projections: np.ndarray
    jets: list[np.ndarray]

    def by_neighbours(self, function: Function, order: int, keep: np.ndarray) -> np.ndarray:
        """Derivative of one order by the displacements of the neighbours in `keep`, (s, 3, s, 3, ..)."""
        used, h = function.derivatives(self.projections, order)
        jets = [j[used][:, keep] for j in self.jets[:order]]
        s = len(keep)
        each = np.arange(s)
        one = jets[0].reshape(len(used), 3 * s)
        if order == 1:
            first: np.ndarray = (h[1] @ one).reshape(s, 3)
            return first
        if order == 2:
            second: np.ndarray = (one.T @ h[2] @ one).reshape(s, 3, s, 3)
            second[each, :, each] += np.tensordot(h[1], jets[1], axes=1)
            return second
        half = np.tensordot(h[3], one, axes=(2, 0))
        half = np.tensordot(one, half, axes=(0, 1))
        out = np.tensordot(one, half, axes=(0, 1)).reshape((s, 3) * 3)
        # Two derivatives of a projection are by the same neighbour.
        mixed = np.tensordot(jets[1], np.tensordot(h[2], one, axes=1), axes=(0, 0)).reshape(s, 3, 3, s, 3)
        out[each, :, each] += mixed
        out.transpose(0, 1, 4, 5, 2, 3)[each, :, each] += mixed
        out.transpose(2, 3, 4, 5, 0, 1)[each, :, each] += mixed
        third = np.tensordot(h[1], jets[2], axes=1)
        out[each, :, each, :, each] += third
        return out

    def parameter_jets(self, order: int, jacobian: np.ndarray) -> list[np.ndarray]:
        """Derivatives of the projections by parameters p with ``dr_j = jacobian[j] dp``, (a, p), (a, p, p) ..

        `jacobian` has the shape (s, 3, p).
        """
        count, s = self.jets[0].shape[:2]
        p = jacobian.shape[2]
        out = []
        for k in range(1, order + 1):
            # All but one index of each neighbour first, so that no (a, s, p, p, ..) is held.
            total = np.zeros((count,) + (p,) * k)
            for n in range(s):
                part = self.jets[k - 1][:, n]
                for _ in range(k):
                    part = np.tensordot(part, jacobian[n], axes=(1, 0))
                total += part
            out.append(total)
        return out

    def by_parameters(self, function: Function, order: int, jets: list[np.ndarray]) -> list[np.ndarray]:
        """Value and derivatives by the parameters of `jets`, see :meth:`parameter_jets`."""
        used, h = function.derivatives(self.projections, order)
        out = [h[0]]
        if order >= 1:
            one = jets[0][used]
            out.append(h[1] @ one)
        if order >= 2:
            two = jets[1][used]
            out.append(one.T @ h[2] @ one + np.tensordot(h[1], two, axes=1))
        if order >= 3:
            mixed = np.tensordot(two, h[2] @ one, axes=(0, 0))
            third = np.tensordot(one, np.tensordot(one, np.tensordot(h[3], one, axes=1), axes=(0, 1)), (0, 1))
            out.append(
                third
                + mixed
                + mixed.transpose(0, 2, 1)
                + mixed.transpose(2, 1, 0)
                + np.tensordot(h[1], jets[2][used], axes=1)
            )
        return out


def site_jets(basis: ACEBasis, crystal: Crystal, site: int, order: int) -> SiteJets:
    """Projections of a basis atom, and their derivatives up to `order`, from the untabulated functions."""
    vectors, sites, _ = crystal.stencil_sites(site, basis.cutoff)
    species = basis.species(crystal.unit_cell)
    channels, n_z = basis._channels, len(basis.elements)
    size = channels.size + n_z * basis._n_pair + 1
    s = len(vectors)
    jets = [np.zeros((size, s) + (3,) * k) for k in range(order + 1)]
    r = np.linalg.norm(vectors, axis=1)
    solid = solid_harmonics(vectors, channels.l_max, order)
    for z in range(n_z):
        mine = np.flatnonzero(species[sites] == z)
        if not len(mine):
            continue
        radial = basis.radials[basis._pair_index[species[site], z]]
        cluster = radial.cluster(r[mine], order)
        for l, count in enumerate(channels.n_max):
            block = [f[l * l : (l + 1) ** 2][:, mine] for f in solid]
            products = product_jets(vectors[mine], cluster[:, :count], l, block, order)
            for i in range(2 * l + 1):
                start = int(channels.starts[z, l * l + i])
                for k in range(order + 1):
                    jets[k][start : start + count, mine] = products[k][i]
        scalars = [(channels.size + z * basis._n_pair, radial.pair(r[mine], order)[:, : basis._n_pair])]
        scalars.append((size - 1, radial.core_energy(r[mine], order)[:, None]))
        unit = [f[:1][:, mine] for f in solid]
        for start, values in scalars:
            products = product_jets(vectors[mine], values, 0, unit, order)
            for k in range(order + 1):
                jets[k][start : start + values.shape[1], mine] = products[k][0]
    return SiteJets(vectors, sites, jets[0].sum(axis=1), jets[1:])
