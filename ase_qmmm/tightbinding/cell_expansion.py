"""Derivatives of the grand potential of one cell by deformation, inner displacements, chemical potential.

The grand potential per cell is ``-sum_q 2 Re[rho_q sum_k w_k log det K(k, z_q)]``. The vector between two
atoms is linear in the deformation F and in the displacements of the basis atoms, and the chemical potential
shifts all poles, so that ``dK/dmu = M``. Derivatives are traces of products ``G A_1 G A_2 ..`` at each
k-point and contractions of density-like matrices with derivatives of the pairs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .matrices import Matrices, PatternDensity
from .perturbation import repulsive_stacks
from .repulsion import Repulsion

__all__ = ["CellExpansion"]

# Elements of the arrays over parameters and k-points that are held at once.
_BATCH = 2_000_000


class CellExpansion:
    """Derivatives of the sum over k-points and poles by the parameters of one cell, for one spin.

    Parameters are the nine F_ij, the displacements of all basis atoms but the first (`n_inner`), and mu.
    """

    def __init__(
        self, matrices: Matrices, n_inner: int, with_mu: bool, kpoints: np.ndarray, weights: np.ndarray
    ) -> None:
        self.matrices = matrices
        self.kpoints, self.weights = kpoints, weights
        self.with_mu = with_mu
        self.n = 9 + n_inner
        #: Derivative of each pair vector by the parameters (p, n, 3), per group.
        self.slopes = []
        for g in matrices.groups:
            slope = np.zeros((len(g.i), self.n, 3))
            for c in range(3):
                slope[:, 3 * c : 3 * c + 3, c] = g.vectors
            if n_inner:
                for atoms, sign in ((g.j, 1.0), (g.i, -1.0)):
                    moving = np.flatnonzero(atoms > 0)
                    for c in range(3):
                        slope[moving, 9 + 3 * (atoms[moving] - 1) + c, c] += sign
            self.slopes.append(slope)
        stacks = [(g.density_ij, g.density_ji) for g in matrices.groups]
        self.densities = [self._densities(stacks, k) for k in range(1, matrices.order + 1)]

    def _along(self, tensor: np.ndarray, slope: np.ndarray, order: int) -> np.ndarray:
        """Derivatives (p, 3, .., 3, ...) by the pair vector, contracted to those by the parameters."""
        for _ in range(order):
            # Each contraction puts a parameter index behind the ones before.
            tensor = np.einsum("pc...,pnc->p...n", tensor, slope)
        first = tensor.ndim - order
        return np.moveaxis(tensor, range(first, tensor.ndim), range(1, order + 1))

    def _densities(self, stacks: list[tuple[Any, Any]], order: int) -> np.ndarray:
        """Derivatives of sums over the neighbours by the parameters, (species, atoms, n, ..)."""
        m = self.matrices
        out = np.zeros((len(m.onsite), m.n_atoms, *(self.n,) * order))
        for g, slope, (of_j, of_i) in zip(m.groups, self.slopes, stacks, strict=True):
            a, b = g.species
            np.add.at(out[b], g.i, self._along(of_j[order], slope, order))
            np.add.at(out[a], g.j, self._along(of_i[order], slope, order))
        return out

    def repulsive(self, order: int) -> list[np.ndarray]:
        """The share of the repulsive energy in :meth:`derivatives`."""
        m, n = self.matrices, self.n
        stacks = [repulsive_stacks(m, g) for g in m.groups]
        densities = [self._densities(stacks, k) for k in range(1, order + 1)]
        terms = Repulsion(m).functions
        out = [np.zeros((n + self.with_mu,) * j) for j in range(1, order + 1)]
        for j, target in enumerate(out, start=1):
            target[(slice(0, n),) * j] = _chain([terms[:, k] for k in range(1, j + 1)], densities, j)
        return out

    def _first_order(self, k: slice) -> tuple[np.ndarray, np.ndarray]:
        """First derivatives of H and M (parameters, k, N, N) by F and the inner displacements."""
        m, zero = self.matrices, np.zeros(self.matrices.size)
        h: list[np.ndarray] = []
        s: list[np.ndarray] = []
        for n in range(self.n):
            diagonal = sum(
                terms[1] * d[:, n][m.atom_of_orbital]
                for terms, d in zip(m.onsite, self.densities[0], strict=True)
            )
            for out, diag, name in ((h, diagonal, "hopping"), (s, zero, "overlap")):
                blocks = [
                    np.einsum("pcab,pc->pab", getattr(g, name)[1], slope[:, n])
                    for g, slope in zip(m.groups, self.slopes, strict=True)
                ]
                out.append(m.dense(diag, blocks, self.kpoints[k]).astype(complex))
        return np.array(h), np.array(s)

    def derivatives(self, poles: np.ndarray, residues: np.ndarray, order: int) -> list[np.ndarray]:
        """Tensors over the parameters of orders 1 to `order`, eV."""
        n, size = self.n + self.with_mu, self.matrices.size
        out = [np.zeros((n,) * j) for j in range(1, order + 1)]
        zero = _Pair(self.matrices)
        singles = [_Pair(self.matrices) for _ in range(n if order > 1 else 0)]
        step = max(1, _BATCH // (n**2 * size**2))
        for start in range(0, len(self.kpoints), step):
            k = slice(start, start + step)
            points, weights = self.kpoints[k], self.weights[k]
            h, m = self.matrices.hamiltonian(points), self.matrices.overlap(points)
            dh, dm = self._first_order(k)
            # Sums over poles of rho X and rho z X, for X = G and the products G A G.
            sums = np.zeros((2, 1 + len(singles), *h.shape), dtype=complex)
            for z, rho in zip(poles, residues, strict=True):
                g = np.linalg.inv(z * m - h)
                products = g[None]
                if order > 1:
                    a = z * dm - dh
                    if self.with_mu:
                        a = np.concatenate([a, m[None].astype(complex)])
                    b = g @ a  # (n, k, N, N)
                    products = np.concatenate([products, b @ g])
                if order == 3:
                    self._third(out[2], b, rho, weights)
                sums[0] += rho * products
                sums[1] += rho * z * products
            for pair, of_h, of_m in zip([zero, *singles], *sums, strict=True):
                pair.add(of_h, of_m, points, weights)
        out[0] += self._functional(zero, 1)
        if order > 1:
            firsts = np.array([self._functional(single, 1) for single in singles])
            out[1] += self._functional(zero, 2) - firsts
        if order > 2:
            seconds = np.array([self._functional(single, 2) for single in singles])
            out[2] += self._functional(zero, 3)
            out[2] -= seconds + seconds.transpose(1, 0, 2) + seconds.transpose(1, 2, 0)
        return out

    def _third(self, out: np.ndarray, b: np.ndarray, rho: complex, weights: np.ndarray) -> None:
        """Add ``Tr(G A_1 G A_2 G A_3)`` for both cyclic orders."""
        n, nk, size = len(b), len(weights), b.shape[-1]
        pairs = (b[:, None] @ b[None]).reshape(n * n, nk * size * size)
        weighted = (b.swapaxes(2, 3) * weights[:, None, None]).reshape(n, nk * size * size)
        traces = 2 * (rho * (pairs @ weighted.T)).real.reshape(n, n, n)
        # Cyclic order (1, 2, 3) and its reverse; weights of k stand for k and -k.
        out += traces + traces.transpose(1, 0, 2)

    def _functional(self, z: _Pair, order: int) -> np.ndarray:
        """``Tr(Z_M A^M_I) - Tr(Z_H A^H_I)`` of one order; with mu, M is differentiated once less."""
        n, m = self.n, self.matrices
        out = np.zeros((self.n + self.with_mu,) * order)
        body = (slice(0, n),) * order
        out[body] = self._pairs(z.m, "overlap", order) - self._pairs(z.h, "hopping", order)
        pulls = [m.onsite_pull(z.h.diagonal, k) for k in range(1, order + 1)]
        out[body] -= _chain(pulls, self.densities, order)
        if self.with_mu:
            lower = self._pairs(z.h, "overlap", order - 1)
            if order == 1:
                lower = lower + z.h.diagonal.sum()
            for axis in range(order):
                place: list[Any] = [slice(0, n)] * order
                place[axis] = n
                out[tuple(place)] = lower
        return out

    def _pairs(self, z: PatternDensity, name: str, order: int) -> np.ndarray:
        total = np.zeros((self.n,) * order)
        for g, slope, block in zip(self.matrices.groups, self.slopes, z.blocks, strict=True):
            pulled = np.einsum("pab,p...ab->p...", block, getattr(g, name)[order])
            total += 2 * self._along(pulled, slope, order).sum(axis=0)
        return total


def _chain(pulls: list[np.ndarray], rho: list[np.ndarray], order: int) -> np.ndarray:
    """Derivatives of functions of densities (Faà di Bruno) from their pulls (species, atoms) by order."""
    if order == 1:
        first: np.ndarray = np.einsum("ti,tix->x", pulls[0], rho[0])
        return first
    if order == 2:
        second: np.ndarray = np.einsum("ti,tix,tiy->xy", pulls[1], rho[0], rho[0])
        second += np.einsum("ti,tixy->xy", pulls[0], rho[1])
        return second
    third: np.ndarray = np.einsum("ti,tixyz->xyz", pulls[0], rho[2])
    third += np.einsum("ti,tix,tiy,tiz->xyz", pulls[2], rho[0], rho[0], rho[0], optimize=True)
    mixed = np.einsum("ti,tix,tiyz->xyz", pulls[1], rho[0], rho[1], optimize=True)
    third += mixed + mixed.transpose(1, 0, 2) + mixed.transpose(1, 2, 0)
    return third


class _Pair:
    """Densities ``sum 2 Re[rho X]`` and ``sum 2 Re[rho z X]`` on the pattern of the cell."""

    def __init__(self, matrices: Matrices) -> None:
        self.matrices = matrices
        self.h, self.m = matrices.pattern(), matrices.pattern()

    def add(self, of_h: np.ndarray, of_m: np.ndarray, points: np.ndarray, weights: np.ndarray) -> None:
        """Add the sums over poles (k, N, N) at some k-points."""
        for target, part in ((self.h, of_h), (self.m, of_m)):
            self.matrices.gather(target, part + part.conj().swapaxes(1, 2), points, weights)
