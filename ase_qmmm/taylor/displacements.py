"""Displaced supercells of a crystal: which are needed, up to symmetry, and what one says about its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce

from ..crystal import Crystal
from ..symmetry import Operation, Site, canonical_cluster, cluster_order, space_group

__all__ = ["DisplacedSupercells", "Image", "Supercell", "spanning_directions", "symmetry_operations"]

# Components of displacements (Å) that agree to so many decimals are the same.
_DECIMALS = 9
# A direction counts as new if the part of its images outside the span of the others is longer than this.
_NEW = 0.3

# Sites in canonical order with their displacements (Å).
Configuration = tuple[tuple[Site, tuple[float, ...]], ...]


class Supercell:
    """A supercell of a crystal, with the site of every atom.

    Parameters
    ----------
    crystal : Crystal
    repeats : int, sequence of int, or (3, 3) integer matrix
        See :meth:`ase_qmmm.Crystal.supercell`; None for the smallest that holds the stencils.
    cutoff : float
        Radius (Å) that its Wigner–Seitz cell must hold, so that no atom is a neighbour twice.

    Raises
    ------
    ValueError
        It is too small.
    """

    def __init__(self, crystal: Crystal, repeats: Any, cutoff: float) -> None:
        needed = tuple(int(n) for n in crystal.box_for_radius(cutoff))
        self.crystal = crystal
        self.atoms: Atoms = crystal.supercell(needed if repeats is None else repeats)
        vectors = self.atoms.cell.array[crystal._unit_cell.pbc]
        shortest = _shortest_vector(vectors)
        if shortest <= 2 * cutoff:
            raise ValueError(
                f"supercell: got {repeats!r}, whose images are {shortest:.2f} Å apart, expected more than "
                f"{2 * cutoff:.2f} Å for these cutoffs; the smallest that repeats the unit cell is {needed}"
            )
        self._matrix = np.rint(vectors @ np.linalg.pinv(crystal.lattice))
        self._inverse = np.linalg.inv(self._matrix)
        basis, cells = self._sites()
        self.sites: list[Site] = [(int(b), tuple(map(int, c))) for b, c in zip(basis, cells, strict=True)]
        self._lookup = {(b, *cell): k for k, (b, cell) in enumerate(self.sites)}

    def _sites(self) -> tuple[np.ndarray, np.ndarray]:
        difference = self.atoms.positions[:, None] - self.crystal.basis_positions[None]
        cells = np.rint(difference @ np.linalg.pinv(self.crystal.lattice))
        miss = np.linalg.norm(difference - cells @ self.crystal.lattice, axis=2)
        basis = miss.argmin(axis=1)
        return basis, self._folded(cells[np.arange(len(basis)), basis])

    def _folded(self, cells: np.ndarray) -> np.ndarray:
        """The same cells modulo the supercell, as integers."""
        scaled = cells @ self._inverse
        folded: np.ndarray = np.rint((scaled - np.floor(scaled + 1e-9)) @ self._matrix).astype(int)
        return folded

    def indices(self, sites: Sequence[Site]) -> np.ndarray:
        """Numbers (m,) of the atoms on sites."""
        cells = self._folded(np.array([cell for _, cell in sites], dtype=float))
        return np.array(
            [self._lookup[(b, *map(int, c))] for (b, _), c in zip(sites, cells, strict=True)], dtype=int
        )


def _shortest_vector(vectors: np.ndarray) -> float:
    padded = np.zeros((3, 3))
    padded[: len(vectors)] = vectors
    reduced, _ = minkowski_reduce(padded, pbc=np.arange(3) < len(vectors))
    return float(np.linalg.norm(reduced[: len(vectors)], axis=1).min())


def symmetry_operations(crystal: Crystal, symmetry: bool = True) -> list[Operation]:
    """The space group, without what exchanges atoms of different initial moments or charges.

    Parameters
    ----------
    crystal : Crystal
    symmetry : bool
        False: the identity alone.
    """
    group = space_group(crystal)
    if not symmetry:
        return [op for op in group if np.allclose(op.rotation, np.eye(3)) and not op.cells.any()][:1]
    arrays = crystal._unit_cell.arrays
    for name in ("initial_magmoms", "initial_charges"):
        if name in arrays:
            group = [op for op in group if np.allclose(arrays[name][op.sites], arrays[name])]
    return group


@dataclass(frozen=True)
class Image:
    """A configuration as the image of a structure that is computed.

    Attributes
    ----------
    number : int
        Of that structure.
    operation : Operation
        Maps the configuration onto the structure.
    shift : ndarray of int, shape (d,)
        Cells by which the operation's result is translated back.
    """

    number: int
    operation: Operation
    shift: np.ndarray


class DisplacedSupercells:
    """A growing list of displaced supercells, of which no two are images of each other.

    Parameters
    ----------
    supercell : Supercell
    group : list of Operation
    """

    def __init__(self, supercell: Supercell, group: list[Operation]) -> None:
        self.supercell = supercell
        self.group = group
        self._rotations = np.array([op.rotation for op in group])
        self._numbers: dict[Configuration, int] = {}
        self._places: dict[tuple[Site, ...], list[tuple[tuple[Site, ...], list[int], np.ndarray]]] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def canonical(
        self, sites: tuple[Site, ...], displacements: np.ndarray
    ) -> tuple[Configuration, Operation, np.ndarray]:
        """The first of all images of a configuration, and the operation that leads there."""
        if sites not in self._places:
            self._places[sites] = [_sorted_image(op, sites) for op in self.group]
        turned = np.einsum("ocd,nd->onc", self._rotations, displacements)
        turned = np.round(turned, _DECIMALS) + 0.0  # no negative zeros
        best: tuple[Configuration, int] | None = None
        for number, (places, order, _) in enumerate(self._places[sites]):
            rows = turned[number][order].tolist()
            image = tuple((place, tuple(row)) for place, row in zip(places, rows, strict=True))
            if best is None or image < best[0]:
                best = image, number
        assert best is not None
        return best[0], self.group[best[1]], self._places[sites][best[1]][2]

    def add(self, sites: tuple[Site, ...], displacements: np.ndarray) -> Image:
        """Have forces of a configuration computed, unless those of an image of it are already."""
        configuration, operation, shift = self.canonical(sites, displacements)
        return Image(self._numbers.setdefault(configuration, len(self._numbers)), operation, shift)

    def cost(self, configurations: list[tuple[tuple[Site, ...], np.ndarray]]) -> int:
        """How many structures more these would take."""
        return len({self.canonical(*c)[0] for c in configurations} - self._numbers.keys())

    def structures(self) -> tuple[list[Atoms], list[str]]:
        """All structures, and what is displaced in each."""
        structures, names = [], []
        for configuration in self._numbers:
            atoms = self.supercell.atoms.copy()
            where = self.supercell.indices([site for site, _ in configuration])
            atoms.positions[where] += np.array([u for _, u in configuration])
            structures.append(atoms)
            names.append(
                ", ".join(
                    f"atom {k} by {np.round(u, 5).tolist()} Å"
                    for k, (_, u) in zip(where, configuration, strict=True)
                )
            )
        return structures, names

    def forces(self, image: Image, sites: Sequence[Site], forces: Sequence[np.ndarray]) -> np.ndarray:
        """Forces (m, 3) on `sites` in a configuration, from the forces of all structures."""
        there = []
        for site in sites:
            basis, cell = image.operation.site(site)
            there.append((basis, tuple(int(x) for x in np.array(cell) - image.shift)))
        found: np.ndarray = forces[image.number][self.supercell.indices(there)] @ image.operation.rotation
        return found

    def asymmetry(self, cutoff: float, forces: Sequence[np.ndarray], perfect: np.ndarray) -> float:
        """How far forces (eV/Å) are from the symmetry of their structures.

        Compared are forces within the cutoff of the first displaced atom, under the operations that map the
        displacements onto themselves, less those of the perfect crystal (n_basis, 3).
        """
        worst = 0.0
        basis_of = np.array([b for b, _ in self.supercell.sites])
        changes = [f - perfect[basis_of] for f in forces]
        for configuration, number in self._numbers.items():
            sites = tuple(site for site, _ in configuration)
            displacements = np.array([u for _, u in configuration])
            (basis, cell), crystal = sites[0], self.supercell.crystal
            _, others, cells = crystal.stencil_sites(basis, cutoff)
            near = [sites[0]]
            near += [
                (int(b), tuple(map(int, np.array(cell) + c))) for b, c in zip(others, cells, strict=True)
            ]
            here = changes[number][self.supercell.indices(near)]
            for op in self.group:
                places, order, shift = _sorted_image(op, sites)
                turned = (displacements @ op.rotation.T)[order]
                if places == sites and np.abs(turned - displacements).max() < 3 * 10.0**-_DECIMALS:
                    image = self.forces(Image(number, op, shift), near, changes)
                    worst = max(worst, float(np.abs(image - here).max()))
        return worst


def _sorted_image(
    operation: Operation, sites: tuple[Site, ...]
) -> tuple[tuple[Site, ...], list[int], np.ndarray]:
    """Images of sites, sorted and with the first in the cell at the origin; their order; the shift."""
    images = [operation.site(site) for site in sites]
    order = cluster_order(images)
    return canonical_cluster(images), order, np.array(images[order[0]][1])


def spanning_directions(
    crystal: Crystal,
    rotations: list[np.ndarray],
    order: int,
    cost: Callable[[tuple[np.ndarray, ...]], int],
) -> list[tuple[np.ndarray, ...]]:
    """Directions of `order` atoms whose products, turned by `rotations`, span all 3^order of them.

    Parameters
    ----------
    crystal : Crystal
        Gives the axes from which directions are made.
    rotations : list of ndarray
        Of operations that leave the atoms where they are.
    order : int
    cost : callable
        Number of force calculations that a choice of directions takes.
    """
    axes = _frame(crystal)
    pairs = [axes[i] + sign * axes[j] for i, j in ((0, 1), (0, 2), (1, 2)) for sign in (1, -1)]
    candidates = [*axes, *(v / np.sqrt(2) for v in pairs)]
    choices = [(c, _products(c, rotations)) for c in product(candidates, repeat=order)]
    span = np.zeros((0, 3**order))
    chosen: list[tuple[np.ndarray, ...]] = []
    while len(span) < 3**order:
        gains = []
        for _, images in choices:
            _, values, vectors = np.linalg.svd(images - images @ span.T @ span, full_matrices=False)
            gains.append((values / np.sqrt(len(rotations)) > _NEW / np.sqrt(3**order), vectors))
        largest = max(int(new.sum()) for new, _ in gains)
        best = min(
            (k for k, (new, _) in enumerate(gains) if new.sum() == largest), key=lambda k: cost(choices[k][0])
        )
        new, vectors = gains[best]
        span = np.vstack([span, vectors[new]])
        chosen.append(choices[best][0])
    return chosen


def _products(directions: tuple[np.ndarray, ...], rotations: list[np.ndarray]) -> np.ndarray:
    """Outer products (m, 3^order) of directions under each rotation."""
    rows = []
    for rotation in rotations:
        row = np.ones(1)
        for direction in directions:
            row = np.kron(row, rotation @ direction)
        rows.append(row)
    return np.array(rows)


def _frame(crystal: Crystal) -> np.ndarray:
    """Orthonormal axes (3, 3) that lie with the lattice: cubic ones, else the first vector and its plane."""
    cubic = crystal.cubic_vectors()
    vectors = crystal.lattice if cubic is None else cubic
    axes: np.ndarray = np.linalg.qr(vectors.T, mode="complete")[0].T
    return axes
