"""The sites around one atom of a perfect crystal that its displaced neighbours touch, and their matrices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..crystal import Crystal
from ..errors import StructureError
from .hamiltonian import Hamiltonian
from .matrices import Matrices, PairGroup, build_matrices, cartesian
from .pair_tables import PairTable, Stack
from .repulsion import Repulsion

__all__ = ["Region", "directed_pairs", "repulsive_stacks"]


class Region:
    """Sites around one atom of a perfect crystal: those displaced, and all that their displacement touches.

    Parameters
    ----------
    model : Hamiltonian
    crystal : Crystal
    basis : int
        The basis atom in the middle.
    cutoff : float
        Displaced are the atoms of its stencil within this radius (Å).
    grid : tuple of int, shape (d,)
        The crystal repeats after so many lattice vectors.
    order : int
        Highest derivative of matrix elements.
    spin : int
    centre : bool
        Whether the middle atom is among the displaced (then the last of them).
    """

    def __init__(
        self,
        model: Hamiltonian,
        crystal: Crystal,
        basis: int,
        cutoff: float,
        grid: tuple[int, ...],
        order: int,
        spin: int = 0,
        centre: bool = False,
    ) -> None:
        self.model = model
        periodic = crystal.unit_cell.pbc
        matrices = build_matrices(model, crystal.unit_cell, order, spin)
        sizes = np.diff(matrices.first_orbital)
        self.n_orbitals = o = int(sizes.max())
        self.n_species = len(model.symbols)
        pairs = directed_pairs(matrices, o)
        _, sites, cells = crystal.stencil_sites(basis, cutoff)
        active = [(basis, *np.zeros(len(grid), int)), *((b, *c) for b, c in zip(sites, cells, strict=True))]
        index: dict[tuple[int, ...], int] = {}

        def number(site: int, cell: np.ndarray) -> int:
            key = (int(site), *(int(x) % n for x, n in zip(cell, grid, strict=True)))
            return index.setdefault(key, len(index))

        for b, *cell in active:
            number(b, np.array(cell))
        if len(index) < len(active):
            raise StructureError(f"grid: {grid} repeats the crystal within the cutoff of {cutoff:g} Å")
        take, i, j = [], [], []
        for b, *cell in active:
            here = number(b, np.array(cell))
            for k in np.flatnonzero(pairs["bi"] == b):
                there = number(pairs["bj"][k], np.array(cell) + pairs["shift"][k][periodic])
                if there == here:
                    raise StructureError(f"grid: {grid} repeats the crystal within the range of {model.name}")
                # Pairs of two active atoms are met twice.
                if there >= len(active) or here < there:
                    take.append(k)
                    i.append(here)
                    j.append(there)
        self.n_sites = len(index)
        self.size = self.n_sites * o
        keys = np.array(list(index))
        self.basis, self.cells = keys[:, 0], keys[:, 1:]
        self.species = matrices.species[self.basis]
        displaced = [*range(1, len(active)), *([0] if centre else [])]
        self.displaced = np.array(displaced, dtype=int)
        self.n_displaced = len(displaced)
        self.displaced_index = np.full(self.n_sites, -1)
        self.displaced_index[self.displaced] = np.arange(len(displaced))
        self.displaced_orbitals = (self.displaced[:, None] * o + np.arange(o)).ravel()
        #: The rows of :func:`directed_pairs` that the pairs of the table are copies of.
        self.kinds = np.array(take, dtype=int)
        stacks = [tuple(t[take] for t in pairs[name]) for name in ("h", "m", "ij", "ji")]
        self.table = PairTable(self, np.arange(len(take)), np.array(i), np.array(j), *stacks)
        terms = np.zeros((self.n_species, order + 1, crystal.n_basis, o))
        for b in range(crystal.n_basis):
            mine = slice(matrices.first_orbital[b], matrices.first_orbital[b + 1])
            terms[:, :, b, : sizes[b]] = matrices.onsite[:, :, mine]
        self.onsite = terms[:, :, self.basis]
        if model.repulsive:
            stacks = [tuple(t[take] for t in pairs[name]) for name in ("repulsive_ij", "repulsive_ji")]
            self.repulsive_table = replace(self.table, density_ij=stacks[0], density_ji=stacks[1])
            self.repulsion = Repulsion(matrices).functions[:, :, self.basis, None]
        self.counts = sizes[self.basis]

    def spread(self, matrix: np.ndarray) -> np.ndarray:
        """A matrix over the orbitals of the sites, on o places per site (zero where a site has fewer)."""
        o = self.n_orbitals
        if len(matrix) == self.size:
            return matrix
        places = np.concatenate([s * o + np.arange(c) for s, c in enumerate(self.counts)])
        out = np.zeros((self.size, self.size), dtype=matrix.dtype)
        out[np.ix_(places, places)] = matrix
        return out


def repulsive_stacks(matrices: Matrices, group: PairGroup) -> tuple[Stack, Stack]:
    """Repulsive density of j at i and of i at j with derivatives by the vector from i to j, (p, 3, .., 3)."""
    a, b = group.species
    r = np.linalg.norm(group.vectors, axis=1)
    density = matrices.model.repulsive_density
    first, second = (
        cartesian(density(*pair, r, matrices.order), group.vectors, r) for pair in ((a, b), (b, a))
    )
    return first, second


def directed_pairs(matrices: Matrices, o: int) -> dict[str, Any]:
    """Every pair of the unit cell from both of its ends, blocks filled up to o orbitals."""
    stacks = ("h", "m", "ij", "ji", "repulsive_ij", "repulsive_ji")
    out: dict[str, Any] = {name: [] for name in ("bi", "bj", "shift", *stacks)}
    for g in matrices.groups:
        densities = [g.density_ij, g.density_ji]
        names = ["ij", "ji"]
        if matrices.model.repulsive:
            densities += repulsive_stacks(matrices, g)
            names += ["repulsive_ij", "repulsive_ji"]
        for flipped in (False, True):
            out["bi"].append(g.j if flipped else g.i)
            out["bj"].append(g.i if flipped else g.j)
            out["shift"].append(-g.shifts if flipped else g.shifts)
            sign = -1.0 if flipped else 1.0
            for name, stack in (("h", g.hopping), ("m", g.overlap)):
                full = []
                for n, t in enumerate(stack):
                    padded = np.zeros((*t.shape[:-2], o, o))
                    padded[..., : t.shape[-2], : t.shape[-1]] = t
                    full.append(sign**n * (padded.swapaxes(-1, -2) if flipped else padded))
                out[name].append(full)
            for k, name in enumerate(names):
                # Seen from the other end, "j at i" and "i at j" change places.
                density = densities[k ^ 1 if flipped else k]
                out[name].append([sign**n * t for n, t in enumerate(density)])
    for name in ("bi", "bj", "shift"):
        out[name] = np.concatenate(out[name])
    for name in stacks:
        out[name] = [np.concatenate(parts) for parts in zip(*out[name], strict=True)]
    return out
