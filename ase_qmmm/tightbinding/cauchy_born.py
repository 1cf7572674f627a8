"""Exact derivatives of the energy of a crystal by homogeneous deformation, up to third order.

Derivatives by the deformation F, by the displacements of the basis atoms and by the chemical potential come
from the same sums over poles and k-points (:mod:`ase_qmmm.tightbinding.cell_expansion`); inner displacements
and the chemical potential are then eliminated, where asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..crystal import Crystal
from ..errors import NumericsError
from .calculator import TightBinding
from .cell_expansion import CellExpansion
from .derivatives import at_fermi_level
from .matrices import build_matrices
from .poles import fermi_poles
from .spectrum import eigenstates, reduced_kpoints

__all__ = ["CauchyBornDerivatives", "cauchy_born_derivatives"]


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
        """Second derivatives by the strain ``E = (F^T F - 1) / 2`` per volume, (3, 3, 3, 3), eV/Å^3.

        ``C_ijkl = W_ij,kl / V - delta_ik sigma_jl``: those of the stress-strain curve at zero stress.
        """
        stressed: np.ndarray = np.einsum("ik,jl->ijkl", np.eye(3), self.stress)
        constants: np.ndarray = self.tensors[2] / self.volume - stressed
        return constants

    def third_order_elastic_constants(self) -> np.ndarray:
        """Third derivatives by the Lagrangian strain per volume (Brugger), (3, 3, 3, 3, 3, 3), eV/Å^3.

        From ``W_FFF[A, B, C] = C3[A, B, C] + C2[A^T B, C] + C2[A^T C, B] + C2[B^T C, A]``, as E is of
        second order in F.
        """
        c2 = self.elastic_constants()
        out: np.ndarray = self.tensors[3] / self.volume
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
    mu = calc.mu
    cell = crystal.unit_cell
    calc = calc.for_crystal(cell) if kpts is None else calc.with_options(kpts=kpts)
    points = reduced_kpoints(calc.kpts, cell)
    n_inner = 3 * (crystal.n_basis - 1) if relaxed else 0
    tensors: list[np.ndarray] = []
    for spin in range(calc.model.n_spin):
        matrices = build_matrices(calc.model, cell, order, spin)
        states = eigenstates(matrices, *points)
        poles = fermi_poles(*_bounds(states), mu, calc.kT, error)
        expansion = CellExpansion(matrices, n_inner, fixed_number, *points)
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
        energy += mu * n_electrons
    tensors = _eliminated(tensors, 9)
    shaped = {j: t.reshape((3,) * (2 * j)) for j, t in enumerate(tensors, start=1)}
    return CauchyBornDerivatives(crystal, energy, shaped, relaxed, fixed_number, repr(calc))


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
        reduced = tensor
        for axis in range(tensor.ndim):
            reduced = np.moveaxis(np.tensordot(reduced, response, axes=(axis, 0)), -1, axis)
        out.append(reduced)
    return out
