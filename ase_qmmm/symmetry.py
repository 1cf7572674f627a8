"""Space group of a perfect crystal, found from its lattice and basis, and what it says about expansions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product
from math import factorial

import numpy as np
from ase.geometry import minkowski_reduce

from .crystal import Crystal
from .errors import check_integer

__all__ = [
    "Cluster",
    "Operation",
    "Site",
    "canonical_cluster",
    "cluster_order",
    "count_force_constants",
    "count_site_coefficients",
    "invariant_tensors",
    "space_group",
    "stencil_permutation",
    "translation_rules",
]

Site = tuple[int, tuple[int, ...]]
Cluster = tuple[Site, ...]


@dataclass(frozen=True)
class Operation:
    """``x -> R x + t``, which maps the crystal onto itself.

    Attributes
    ----------
    rotation : ndarray, shape (3, 3)
    lattice : ndarray of int, shape (d, d)
        W with ``R a_i = sum_j W_ij a_j`` for the lattice vectors a.
    sites : ndarray of int, shape (n_basis,)
        The basis atom to which each is mapped.
    cells : ndarray of int, shape (n_basis, d)
        In which cell.
    """

    rotation: np.ndarray
    lattice: np.ndarray
    sites: np.ndarray
    cells: np.ndarray

    def site(self, site: Site) -> Site:
        """Where a site, basis atom and cell, is mapped."""
        basis, cell = site
        there = self.cells[basis] + np.array(cell) @ self.lattice
        return int(self.sites[basis]), tuple(int(x) for x in there)


def space_group(crystal: Crystal, tolerance: float = 1e-5) -> list[Operation]:
    """Symmetry operations of a crystal, one of each class that differs by a lattice translation.

    Directions without periodicity are kept or, for two lattice directions, reflected: rotations about the
    axis of a crystal with one lattice direction are not looked for.

    Parameters
    ----------
    crystal : Crystal
    tolerance : float
        Largest distance (Å) between an atom, or the end of a lattice vector, and the place where an operation
        puts it.
    """
    lattice = crystal.lattice
    d = len(lattice)
    padded = np.zeros((3, 3))
    padded[:d] = lattice
    reduced, change = minkowski_reduce(padded, pbc=np.arange(3) < d)
    reduced, change = reduced[:d], np.rint(change[:d, :d]).astype(int)
    metric = reduced @ reduced.T
    # Of scalar products of vectors, Å^2.
    slack = 2 * tolerance * np.sqrt(metric.diagonal().max())
    # Minkowski-reduced vectors are mapped to vectors as short, whose coefficients are at most 2.
    coefficients = np.array(list(product(range(-2, 3), repeat=d)))
    vectors = coefficients @ reduced
    images = [np.flatnonzero(np.abs((vectors**2).sum(axis=1) - metric[i, i]) < slack) for i in range(d)]
    normals = np.linalg.qr(reduced.T, mode="complete")[0][:, d:]
    operations = []
    for chosen in product(*images):
        new = vectors[list(chosen)]
        if np.abs(new @ new.T - metric).max() > slack:
            continue
        for sign in (1.0, -1.0) if d == 2 else (1.0,):
            rotation = new.T @ np.linalg.pinv(reduced.T) + sign * normals @ normals.T
            whole = np.rint(np.linalg.inv(change) @ coefficients[list(chosen)] @ change).astype(int)
            operations += _with_translations(crystal, rotation, whole, tolerance)
    return operations


def _with_translations(
    crystal: Crystal, rotation: np.ndarray, lattice: np.ndarray, tolerance: float
) -> list[Operation]:
    """The operations of one rotation: translations that map the basis onto itself."""
    positions, numbers = crystal.basis_positions, crystal.numbers
    turned = positions @ rotation.T
    inverse = np.linalg.pinv(crystal.lattice)
    found = []
    for first in np.flatnonzero(numbers == numbers[0]):
        moved = turned + positions[first] - turned[0]
        difference = moved[:, None] - positions[None]
        cells = np.rint(difference @ inverse)
        miss = np.linalg.norm(difference - cells @ crystal.lattice, axis=2)
        fits = (miss < tolerance) & (numbers[:, None] == numbers)
        if (fits.sum(axis=1) == 1).all() and (fits.sum(axis=0) == 1).all():
            sites = fits.argmax(axis=1)
            shifts = cells[np.arange(len(sites)), sites].astype(int)
            found.append(Operation(rotation, lattice, sites, shifts))
    return found


def stencil_permutation(crystal: Crystal, operation: Operation, basis: int, cutoff: float) -> np.ndarray:
    """Number, in the stencil of the image of a basis atom, of the image of each stencil vector (s,)."""
    vectors, sites, cells = crystal.stencil_sites(basis, cutoff)
    _, others, other_cells = crystal.stencil_sites(int(operation.sites[basis]), cutoff)
    lookup = {(int(b), *map(int, c)): k for k, (b, c) in enumerate(zip(others, other_cells, strict=True))}
    origin = operation.cells[basis]
    images = [operation.site((b, tuple(c))) for b, c in zip(sites, cells, strict=True)]
    return np.array([lookup[b, *(int(x) for x in np.array(c) - origin)] for b, c in images], dtype=int)


def count_site_coefficients(crystal: Crystal, cutoff: float, order: int) -> int:
    """Independent coefficients of the derivatives of one order of the site energies over their stencils.

    The number of invariants of the site group and of permutations of the indices, from characters: per basis
    atom the mean over both groups of ``prod_cycles tr(P^n) tr(R^n)``.

    Raises
    ------
    ValueError
        `order` below 1.
    """
    check_integer("order", order, 1)
    group = space_group(crystal)
    total = 0
    for basis in _inequivalent(group, crystal.n_basis):
        own = [op for op in group if op.sites[basis] == basis]
        characters = []
        for op in own:
            permutation = stencil_permutation(crystal, op, basis, cutoff)
            power, turn, traces = np.arange(len(permutation)), np.eye(3), []
            for _ in range(order):
                power, turn = permutation[power], turn @ op.rotation
                traces.append(np.sum(power == np.arange(len(power))) * np.trace(turn))
            characters.append(
                sum(np.prod([traces[n - 1] for n in _cycles(p)]) for p in permutations(range(order)))
            )
        total += round(sum(characters) / (len(own) * factorial(order)))
    return total


def count_force_constants(crystal: Crystal, cutoff: float, order: int) -> int:
    """Independent force constants of one order among atoms of which each is within `cutoff` of each other.

    The space group, permutations of the indices and the translation of the whole crystal are accounted for:
    for each class of clusters the tensors that the operations mapping it onto itself leave alone, less the
    rank of the sum rules ``sum_k Phi(l, .., m, k) = 0``.

    Raises
    ------
    ValueError
        `order` below 2.
    """
    check_integer("order", order, 2)
    tensors, size = invariant_tensors(crystal, cutoff, order)
    return size - int(
        np.linalg.matrix_rank(translation_rules(crystal, cutoff, order, tensors, size), tol=1e-8)
    )


def translation_rules(
    crystal: Crystal,
    cutoff: float,
    order: int,
    tensors: dict[Cluster, tuple[int, np.ndarray]],
    size: int,
) -> np.ndarray:
    """Rows (m, size) that give zero times the parameters: the sum over the last site, for all the others.

    Parameters
    ----------
    crystal : Crystal
    cutoff : float
        Å.
    order : int
    tensors, size
        From :func:`invariant_tensors`.
    """
    rules = []
    for sites in _clusters(crystal, cutoff, order - 1):
        rule = np.zeros((3**order, size))
        basis, cell = sites[0]
        _, others, cells = crystal.stencil_sites(basis, cutoff)
        near = [
            (int(b), tuple(int(x) for x in np.array(cell) + c)) for b, c in zip(others, cells, strict=True)
        ]
        for site in [sites[0], *near]:
            full = [*sites, site]
            canonical = canonical_cluster(full)
            if canonical not in tensors:
                continue  # farther than the cutoff from one of the sites
            start, matrix = tensors[canonical]
            back = np.argsort(cluster_order(full))
            shaped = matrix.reshape((3,) * order + (-1,)).transpose(*back, order)
            rule[:, start : start + matrix.shape[1]] += shaped.reshape(3**order, -1)
        rules.append(rule)
    return np.concatenate(rules)


def invariant_tensors(
    crystal: Crystal, cutoff: float, order: int
) -> tuple[dict[Cluster, tuple[int, np.ndarray]], int]:
    """Tensors of every cluster as linear functions of the parameters of its class.

    Returns
    -------
    dict
        For each canonical cluster: number of its first parameter, matrix (3^order, parameters).
    int
        Number of all parameters.
    """
    group = space_group(crystal)
    tensors: dict[Cluster, tuple[int, np.ndarray]] = {}
    size = 0
    for cluster in _clusters(crystal, cutoff, order):
        if cluster in tensors:
            continue
        images = []
        for op in group:
            image = [op.site(s) for s in cluster]
            turn = np.ones((1, 1))
            for _ in range(order):
                turn = np.kron(turn, op.rotation)
            turned = turn.reshape((3,) * order + (-1,)).transpose(*cluster_order(image), order)
            images.append((canonical_cluster(image), turned.reshape(turn.shape)))
        own = np.mean([turn for canonical, turn in images if canonical == cluster], axis=0)
        # Sites that occur twice may be exchanged.
        same = [
            p for p in permutations(range(order)) if all(cluster[k] == cluster[p[k]] for k in range(order))
        ]
        shaped = own.reshape((3,) * order + (-1,))
        projector = np.mean([shaped.transpose(*p, order) for p in same], axis=0).reshape(own.shape)
        values, vectors = np.linalg.eigh((projector + projector.T) / 2)
        invariant = vectors[:, values > 0.5]
        for canonical, turn in images:
            tensors.setdefault(canonical, (size, turn @ invariant))
        size += invariant.shape[1]
    return tensors, size


def _inequivalent(group: list[Operation], n_basis: int) -> list[int]:
    """The first basis atom of each class of equivalent ones."""
    return [b for b in range(n_basis) if all(op.sites[b] >= b for op in group)]


def _cycles(permutation: tuple[int, ...]) -> list[int]:
    """Lengths of the cycles of a permutation."""
    left, lengths = set(range(len(permutation))), []
    while left:
        start = k = left.pop()
        length = 1
        while permutation[k] != start:
            k = permutation[k]
            left.discard(k)
            length += 1
        lengths.append(length)
    return lengths


def _key(site: Site) -> tuple[int, ...]:
    return (*site[1], site[0])


def cluster_order(sites: list[Site]) -> list[int]:
    """Which site comes first, second ... in the canonical order."""
    return sorted(range(len(sites)), key=lambda k: _key(sites[k]))


def canonical_cluster(sites: list[Site]) -> Cluster:
    """Sorted, the first site in the cell at the origin: the same for all translations."""
    ordered = sorted(sites, key=_key)
    origin = np.array(ordered[0][1])
    return tuple((b, tuple(int(x) for x in np.array(c) - origin)) for b, c in ordered)


def _clusters(crystal: Crystal, cutoff: float, order: int) -> list[Cluster]:
    """All clusters of `order` sites, some of them maybe the same, up to lattice translations."""
    found: set[Cluster] = set()
    positions, lattice = crystal.basis_positions, crystal.lattice

    def place(site: Site) -> np.ndarray:
        where: np.ndarray = positions[site[0]] + np.array(site[1]) @ lattice
        return where

    def grow(sites: list[Site], candidates: list[Site]) -> None:
        if len(sites) == order:
            found.add(canonical_cluster(sites))
            return
        for k, site in enumerate(candidates):
            near = [s for s in candidates[k:] if np.linalg.norm(place(s) - place(site)) <= cutoff + 1e-6]
            grow([*sites, site], near)

    for b in range(crystal.n_basis):
        _, others, cells = crystal.stencil_sites(b, cutoff)
        centre: Site = (b, (0,) * len(lattice))
        near = [(int(o), tuple(int(x) for x in c)) for o, c in zip(others, cells, strict=True)]
        grow([centre], [centre, *near])
    return sorted(found)
