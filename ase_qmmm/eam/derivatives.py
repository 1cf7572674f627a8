"""Exact derivatives of EAM site energies, forces and energy per cell at the perfect crystal.

A site energy ``V = F(rho) + 1/2 sum_k phi(r_k)`` depends on the vectors r_k to the neighbours, and these
linearly on the parameters q: displacements of atoms, or a deformation. Derivatives of a composition are sums
over the partitions of the indices into blocks (Faà di Bruno)::

    d^j F(rho) = sum_partitions F^(n) prod_blocks d^|B| rho,    d^p rho = sum_k d^p f(r_k) (dr_k/dq)^p,

with n the number of blocks. A force is one more derivative, along the direction in which its atom moves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..crystal import Crystal
from ..errors import check_positive
from ..taylor.cauchy_born import CauchyBornDerivatives, cell_derivatives
from ..taylor.crystal_derivatives import CrystalDerivatives, check_memory
from ..tightbinding.radial import cartesian_derivatives, reduced_derivatives
from .potential import EAMPotential

__all__ = ["cauchy_born_derivatives", "force_derivatives", "site_energy_derivatives"]


class Site:
    """Site energy of one basis atom: its neighbours and the derivatives of the functions there.

    Parameters
    ----------
    potential : EAMPotential
    crystal : Crystal
    basis : int
    order : int
        Highest derivative.

    Attributes
    ----------
    vectors, sites, cells
        As of :meth:`Crystal.stencil_sites` for the whole range.
    embedding : ndarray, shape (order + 1,)
        Derivatives of F at the density of the crystal.
    density, pair : ndarray, shape (order + 1, s)
        Derivatives of the density and of the pair energy of each neighbour by its distance.
    """

    def __init__(self, potential: EAMPotential, crystal: Crystal, basis: int, order: int) -> None:
        self.vectors, self.sites, self.cells = crystal.stencil_sites(basis, potential.cutoff)
        species = [potential.symbols.index(s) for s in crystal.unit_cell.symbols]
        a = species[basis]
        r = np.linalg.norm(self.vectors, axis=1)
        density = np.zeros((order + 1, len(r)))
        pair = np.zeros((order + 1, len(r)))
        for b in set(species):
            chosen = np.array([species[s] == b for s in self.sites], dtype=bool)
            if chosen.any():
                density[:, chosen] = potential.density(a, b, r[chosen], order)
                pair[:, chosen] = potential.pair(a, b, r[chosen], order)
        self.embedding = potential.embedding(a, np.array([density[0].sum()]), order)[:, 0]
        self.energy = float(self.embedding[0] + pair[0].sum() / 2)
        self.density, self.pair = density, pair
        self._reduced = {"density": reduced_derivatives(density, r), "pair": reduced_derivatives(pair, r)}
        self._known: dict[tuple[str, int], np.ndarray] = {}

    def _tensors(self, name: str, order: int) -> np.ndarray:
        """``d^order f(r_k)`` (s, 3, .., 3) of the density or of the pair function."""
        if (name, order) not in self._known:
            self._known[name, order] = cartesian_derivatives(self._reduced[name], self.vectors, order)
        return self._known[name, order]

    def derivative(self, slope: np.ndarray, order: int) -> np.ndarray:
        """``d^order V`` by parameters q (n, .., n) with ``dr_k/dq = slope[k]``, (s, 3, n)."""
        sums = {p: _mapped(self._tensors("density", p), slope) for p in range(1, order + 1)}
        total = 0.5 * _mapped(self._tensors("pair", order), slope)
        for blocks in _partitions(tuple(range(order))):
            total += self.embedding[len(blocks)] * _product(blocks, [sums[len(block)] for block in blocks])
        return total

    def pulled(self, slope: np.ndarray, order: int, towards: np.ndarray) -> np.ndarray:
        """Derivatives (3, n, .., n) of that along x, y, z for neighbours k displaced by ``towards[k]``."""
        sums = {p: _mapped(self._tensors("density", p), slope) for p in range(1, order + 1)}
        moving = np.flatnonzero(towards)

        def along(name: str, p: int) -> np.ndarray:
            weighted = np.einsum("s...x,s->xs...", self._tensors(name, p + 1)[moving], towards[moving])
            return np.array([_mapped(tensors, slope[moving]) for tensors in weighted])

        turns = {p: along("density", p) for p in range(order + 1)}
        out = 0.5 * along("pair", order)
        for blocks in _partitions(tuple(range(order))):
            n = len(blocks)
            factors = [sums[len(block)] for block in blocks]
            product = self.embedding[n + 1] * _product(blocks, factors)
            for axis in range(3):
                out[axis] += turns[0][axis] * product
                for k, block in enumerate(blocks):
                    replaced = [*factors[:k], turns[len(block)][axis], *factors[k + 1 :]]
                    out[axis] += self.embedding[n] * _product(blocks, replaced)
        return out


def _mapped(tensors: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """``sum_k t_k,cd.. slope_k,cq slope_k,dr ..`` (n, .., n) of tensors (s, 3, .., 3)."""
    s, _, n = slope.shape
    order = tensors.ndim - 1
    if order == 0:
        total: np.ndarray = tensors.sum()
        return total
    # One index after the other; the last one with the sum over the neighbours, in one product.
    for _ in range(order - 1):
        tensors = np.moveaxis(np.einsum("sc...,scq->sq...", tensors, slope), 1, -1)
    rest = np.moveaxis(tensors, 1, -1).reshape(s, -1, 3).transpose(1, 0, 2).reshape(-1, 3 * s)
    summed: np.ndarray = rest @ slope.reshape(3 * s, n)
    return summed.reshape((n,) * order)


def _partitions(items: tuple[int, ...]) -> Iterator[list[tuple[int, ...]]]:
    """All ways to divide the items into blocks."""
    if not items:
        yield []
        return
    first, rest = items[0], items[1:]
    for blocks in _partitions(rest):
        yield [(first,), *blocks]
        for k, block in enumerate(blocks):
            yield [*blocks[:k], (first, *block), *blocks[k + 1 :]]


def _product(blocks: list[tuple[int, ...]], factors: list[np.ndarray]) -> np.ndarray:
    """Outer product of symmetric tensors, whose indices are those of the blocks."""
    product = factors[0]
    for factor in factors[1:]:
        product = np.multiply.outer(product, factor)
    axes = [axis for block in blocks for axis in block]
    shaped: np.ndarray = product.transpose(np.argsort(axes))
    return shaped


def _radii(
    crystal: Crystal, kind: str, order: int, cutoff: float | Sequence[float] | None, full: float
) -> dict[int, float]:
    """Radius by order; the whole range for None and infinity."""
    highest = 4 if kind == "energy" else 3
    if order not in range(1, highest + 1):
        raise ValueError(f"order: got {order!r}, expected 1 to {highest}")
    given = np.atleast_1d(np.asarray(np.inf if cutoff is None else cutoff, dtype=float))
    radii = [full if x == np.inf else check_positive("cutoff", float(x), "Å") for x in given]
    radii = radii * order if len(radii) == 1 else radii
    if len(radii) != order:
        raise ValueError(f"cutoff: got {len(radii)} radii for {order} orders; give one, or one per order")
    return dict(enumerate(radii, start=1))


def site_energy_derivatives(
    potential: EAMPotential,
    crystal: Crystal,
    order: int,
    cutoff: float | Sequence[float] | None,
    max_memory: float,
    label: str,
) -> CrystalDerivatives:
    """See :meth:`ase_qmmm.EAM.site_energy_derivatives`."""
    radii = _radii(crystal, "energy", order, cutoff, potential.cutoff)
    check_memory("energy", crystal, radii, check_positive("max_memory", max_memory, "GB"))
    tensors: dict[int, list[np.ndarray]] = {j: [] for j in radii}
    energies = []
    for basis in range(crystal.n_basis):
        site = Site(potential, crystal, basis, order)
        energies.append(site.energy)
        for j, radius in radii.items():
            # Neighbours come by distance, so that the stencil is the first of them.
            own, n = len(site.vectors), len(crystal.stencil(basis, radius))
            slope = np.einsum("kr,cd->kcrd", np.eye(own, n), np.eye(3)).reshape(own, 3, 3 * n)
            tensors[j].append(site.derivative(slope, j).reshape((n, 3) * j))
    return CrystalDerivatives(crystal, "energy", radii, tensors, np.array(energies), label)


def force_derivatives(
    potential: EAMPotential,
    crystal: Crystal,
    order: int,
    cutoff: float | Sequence[float] | None,
    max_memory: float,
    label: str,
) -> CrystalDerivatives:
    """See :meth:`ase_qmmm.EAM.force_derivatives`."""
    radii = _radii(crystal, "force", order, cutoff, 2 * potential.cutoff)
    check_memory("force", crystal, radii, check_positive("max_memory", max_memory, "GB"))
    sites = [Site(potential, crystal, basis, order + 1) for basis in range(crystal.n_basis)]
    tensors = {
        j: [_one_force(sites, crystal, basis, j, radius) for basis in range(crystal.n_basis)]
        for j, radius in radii.items()
    }
    energies = np.array([site.energy for site in sites])
    return CrystalDerivatives(crystal, "force", radii, tensors, energies, label)


def _one_force(sites: list[Site], crystal: Crystal, basis: int, order: int, radius: float) -> np.ndarray:
    """``d^order F`` of one basis atom: minus the derivatives of its own and its neighbours' site energies."""
    _, others, cells = crystal.stencil_sites(basis, radius)
    lookup = {(int(b), *map(int, c)): k for k, (b, c) in enumerate(zip(others, cells, strict=True))}
    n = len(others)
    out = np.zeros((3, *(n, 3) * order))
    home = sites[basis]
    origin = np.zeros((1, home.cells.shape[1]), dtype=int)
    centres = zip([basis, *home.sites], np.concatenate([origin, home.cells]), strict=True)
    for b, cell in centres:
        site = sites[int(b)]
        keys = [(int(s), *map(int, c + cell)) for s, c in zip(site.sites, site.cells, strict=True)]
        own = (int(b), *map(int, cell))
        here = (basis, *map(int, origin[0]))
        # Atoms of the stencil that this site energy depends on; moving its own atom moves all its vectors.
        atoms = [lookup[key] for key in dict.fromkeys([own, *keys]) if key in lookup]
        column = {atom: k for k, atom in enumerate(atoms)}
        shifts = np.zeros((len(keys), len(atoms)))
        for k, key in enumerate(keys):
            if key in lookup:
                shifts[k, column[lookup[key]]] += 1.0
        if own in lookup:
            shifts[:, column[lookup[own]]] -= 1.0
        towards = np.array([float(key == here) for key in keys]) - float(own == here)
        slope = np.einsum("kr,cd->kcrd", shifts, np.eye(3)).reshape(len(keys), 3, -1)
        place = np.ix_(range(3), *(atoms, range(3)) * order)
        pulled = site.pulled(slope, order, towards).reshape((3, *(len(atoms), 3) * order))
        out[place] -= pulled
    return out


def cauchy_born_derivatives(
    potential: EAMPotential, crystal: Crystal, order: int, relaxed: bool, label: str
) -> CauchyBornDerivatives:
    """See :meth:`ase_qmmm.EAM.cauchy_born_derivatives`."""
    if order not in (1, 2, 3):
        raise ValueError(f"order: got {order!r}, expected 1, 2 or 3")
    n = crystal.n_basis
    n_inner = n - 1 if relaxed else 0
    tensors = [np.zeros((9 + 3 * n_inner,) * j) for j in range(1, order + 1)]
    energy = 0.0
    for basis in range(n):
        site = Site(potential, crystal, basis, order)
        energy += site.energy
        # r = F rho + s_b - s_a, the first basis atom fixed.
        moves = np.eye(n)[site.sites] - np.eye(n)[basis]
        of_strain = np.einsum("ci,kj->kcij", np.eye(3), site.vectors).reshape(-1, 3, 9)
        of_inner = np.einsum("kb,cd->kcbd", moves[:, n - n_inner :], np.eye(3)).reshape(
            len(moves), 3, 3 * n_inner
        )
        slope = np.concatenate([of_strain, of_inner], axis=2)
        for j in range(1, order + 1):
            tensors[j - 1] += site.derivative(slope, j)
    return cell_derivatives(crystal, energy, tensors, relaxed, False, label)
