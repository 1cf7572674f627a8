"""Exact derivatives of the energy of a crystal by homogeneous deformation, up to third order.

The grand potential per cell is ``-sum_q 2 Re[rho_q (1/K) sum_k log det K(k, z_q)]``, and the vector between two
atoms is linear in the deformation F, in the displacements of the basis atoms and, trivially, in the chemical
potential, which moves the poles. The derivatives by all of them are traces of products ``G A_1 G A_2 ..`` at each
k-point and sums over pairs; from these, inner displacements and the chemical potential can be eliminated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..crystal import Crystal
from ..errors import NumericsError
from .calculator import TightBinding
from .derivatives import at_fermi_level
from .matrices import Matrices, PatternDensity, build_matrices
from .perturbation import repulsive_stacks, repulsive_terms
from .poles import fermi_poles
from .spectrum import eigenstates, reduced_kpoints

__all__ = ["CauchyBornDerivatives", "cauchy_born_derivatives"]

# Elements of the arrays over parameters and k-points that are held at once.
_BATCH = 2_000_000


@dataclass(frozen=True)
class CauchyBornDerivatives:
    """Energy W of one cell of a crystal and its derivatives ``d^j W / dF^j`` at F = 1.

    Attributes
    ----------
    crystal : Crystal
    energy : float
        eV per cell: the grand potential, or the free energy at a fixed number of electrons.
    tensors : dict of int to ndarray
        By order: (3, 3), (3, 3, 3, 3) and so on, eV; ``x -> F x`` and F_ij = dx_i / dX_j.
    relaxed : bool
        Whether the basis atoms follow the deformation to stay in equilibrium.
    fixed_number : bool
        Whether the chemical potential follows to keep the cell neutral.
    label : str
        The model they come from.
    """

    crystal: Crystal
    energy: float
    tensors: dict[int, np.ndarray]
    relaxed: bool
    fixed_number: bool
    label: str

    @property
    def volume(self) -> float:
        """Volume of the cell (Å^3), or area or length of a crystal of lower dimension."""
        lattice = self.crystal.lattice
        return float(np.sqrt(np.linalg.det(lattice @ lattice.T)))

    @property
    def stress(self) -> np.ndarray:
        """``(dW/dF) / volume``, (3, 3), eV/Å^3."""
        return self.tensors[1] / self.volume

    def elastic_constants(self) -> np.ndarray:
        """Second derivatives by the Lagrangian strain ``E = (F^T F - 1) / 2`` per volume, (3, 3, 3, 3), eV/Å^3.

        ``C_ijkl = W_ij,kl / V - delta_ik sigma_jl``; those of the stress-strain curve where the stress is zero.
        """
        constants: np.ndarray = self.tensors[2] / self.volume
        return constants - np.einsum("ik,jl->ijkl", np.eye(3), self.stress)

    def third_order_elastic_constants(self) -> np.ndarray:
        """Third derivatives by the Lagrangian strain per volume (Brugger), (3, 3, 3, 3, 3, 3), eV/Å^3.

        From ``W_FFF[A, B, C] = C3[A, B, C] + C2[A^T B, C] + C2[A^T C, B] + C2[B^T C, A]``, as E is of
        second order in F.
        """
        c2 = self.elastic_constants()
        out = self.tensors[3] / self.volume
        # (A^T B)_jl = A_ij B_il, and c2 is symmetric in each pair of indices.
        delta = np.eye(3)
        out = out - np.einsum("ik,jlmn->ijklmn", delta, c2)
        out = out - np.einsum("im,jnkl->ijklmn", delta, c2)
        out = out - np.einsum("km,lnij->ijklmn", delta, c2)
        return out


def cauchy_born_derivatives(
    calc: TightBinding,
    crystal: Crystal,
    order: int = 2,
    *,
    relaxed: bool = False,
    fixed_number: bool = False,
    kpts: Any = None,
    error: float = 1e-9,
) -> CauchyBornDerivatives:
    """Exact derivatives of the energy per cell by the deformation gradient, orders 1 to `order` (at most 3).

    Parameters
    ----------
    calc : TightBinding
        At its chemical potential, or at that of the crystal.
    crystal : Crystal
    order : int
    relaxed : bool
        Eliminate the inner displacements of the basis atoms; they must be in equilibrium.
    fixed_number : bool
        Keep the number of electrons instead of the chemical potential. With a gap the two agree but for kT;
        in a metal this is what a neutral strained crystal has.
    kpts : optional
        Default: converged for the bulk crystal.
    error : float
        Of the pole sums, see :func:`~ase_qmmm.tightbinding.poles.fermi_poles`.

    Raises
    ------
    ValueError
        `order` out of range.
    NumericsError
        The inner displacements have no stable equilibrium.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order: got {order!r}, expected 1, 2 or 3")
    calc = at_fermi_level(calc, crystal)
    assert calc.mu is not None
    cell = crystal.unit_cell
    calc = calc.for_crystal(cell) if kpts is None else calc.with_options(kpts=kpts)
    points = reduced_kpoints(calc.kpts, cell)
    n_inner = 3 * (crystal.n_basis - 1) if relaxed else 0
    tensors: list[np.ndarray] = []
    for spin in range(calc.model.n_spin):
        matrices = build_matrices(calc.model, cell, order, spin)
        states = eigenstates(matrices, *points)
        poles = fermi_poles(*_bounds(states), calc.mu, calc.kT, error)
        expansion = _CellExpansion(matrices, n_inner, fixed_number, *points)
        residues = -2 / calc.model.n_spin * poles.occupation
        parts = expansion.derivatives(poles.poles, residues, order)
        tensors = [a + b for a, b in zip(tensors, parts, strict=True)] if tensors else parts
    if calc.model.repulsive:
        tensors = [a + b for a, b in zip(tensors, expansion.repulsive(order), strict=True)]
    energy = calc.evaluate(cell).energy
    if fixed_number:
        n_electrons = matrices.n_electrons
        # E = Omega + mu N is stationary in mu, so that mu is one more inner coordinate.
        tensors[0][-1] += n_electrons
        energy += calc.mu * n_electrons
    tensors = _eliminated(tensors, 9)
    shaped = {j: t.reshape((3,) * (2 * j)) for j, t in enumerate(tensors, start=1)}
    return CauchyBornDerivatives(crystal, energy, shaped, relaxed, fixed_number, repr(calc))


class _CellExpansion:
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
        for k in range(order):
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
        terms = repulsive_terms(m)
        out = [np.zeros((n + self.with_mu,) * j) for j in range(1, order + 1)]
        for j, target in enumerate(out, start=1):
            target[(slice(0, n),) * j] = _chain([terms[:, k] for k in range(1, j + 1)], densities, j)
        return out

    def _first_order(self, k: slice) -> tuple[np.ndarray, np.ndarray]:
        """dH and dM (parameters, k, N, N) by F and the inner displacements."""
        m, zero = self.matrices, np.zeros(self.matrices.size)
        h, s = [], []
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
        """``Tr(Z_M A^M_I) - Tr(Z_H A^H_I)`` for all I of one order; with mu, M is differentiated once less."""
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
                out[(*(slice(0, n),) * axis, n, *(slice(0, n),) * (order - 1 - axis))] = lower
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
    return third + mixed + mixed.transpose(1, 0, 2) + mixed.transpose(1, 2, 0)


class _Pair:
    """Densities ``sum 2 Re[rho X]`` and ``sum 2 Re[rho z X]`` on the pattern of the cell."""

    def __init__(self, matrices: Matrices) -> None:
        self.matrices = matrices
        self.h, self.m = matrices.pattern(), matrices.pattern()

    def add(self, of_h: np.ndarray, of_m: np.ndarray, points: np.ndarray, weights: np.ndarray) -> None:
        """Add the sums over poles (k, N, N) at some k-points."""
        for target, part in ((self.h, of_h), (self.m, of_m)):
            self.matrices.gather(target, part + part.conj().swapaxes(1, 2), points, weights)


def _bounds(states: Sequence[Any]) -> tuple[float, float]:
    return float(min(s.levels.min() for s in states)), float(max(s.levels.max() for s in states))


def _eliminated(tensors: list[np.ndarray], keep: int) -> list[np.ndarray]:
    """Derivatives of ``min_s W(F, s)`` (or its stationary value) by the first `keep` parameters.

    With ``s' = -W_ss^-1 W_sF`` the first two orders are those of W along (F, s' F); so is the third, as W is
    stationary in s (the 2n + 1 theorem).
    """
    n = len(tensors[0])
    if n == keep:
        return tensors
    scale = np.abs(tensors[0][:keep]).max() + 1.0
    if np.abs(tensors[0][keep:]).max() > 1e-3 * scale:
        raise NumericsError(
            f"relaxed: the basis is not in equilibrium (inner forces up to "
            f"{np.abs(tensors[0][keep:]).max():.2g} eV/Å); use Crystal.relaxed first"
        )
    if len(tensors) == 1:
        return [tensors[0][:keep]]
    inner = tensors[1][keep:, keep:]
    if np.linalg.cond(inner) > 1e12:
        raise NumericsError("relaxed: the inner displacements have no stable equilibrium (singular Hessian)")
    response = np.vstack([np.eye(keep), -np.linalg.solve(inner, tensors[1][keep:, :keep])])
    out = [tensors[0][:keep]]
    for tensor in tensors[1:]:
        for axis in range(tensor.ndim):
            tensor = np.moveaxis(np.tensordot(tensor, response, axes=(axis, 0)), -1, axis)
        out.append(tensor)
    return out
