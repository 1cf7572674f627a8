"""Exact derivatives of the energy of a crystal by homogeneous deformation, up to third order.

Derivatives by the deformation F, by the displacements of the basis atoms and by the chemical potential come
from the same sums over poles and k-points (:mod:`ase_qmmm.tightbinding.cell_expansion`); inner displacements
and the chemical potential are then eliminated, where asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..crystal import Crystal
from ..taylor.cauchy_born import CauchyBornDerivatives, cell_derivatives
from .calculator import TightBinding, fermi_level
from .cell_expansion import CellExpansion
from .derivatives import at_fermi_level
from .matrices import build_matrices
from .poles import fermi_poles
from .spectrum import eigenstates, reduced_kpoints

__all__ = ["cauchy_born_derivatives"]


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
        `order` out of range; with `fixed_number`, a mu at which the crystal is not neutral.
    NumericsError
        The inner displacements have no stable equilibrium.
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order: got {order!r}, expected 1, 2 or 3")
    cell = crystal.unit_cell
    if fixed_number and calc.mu is None:
        # Of the k-points that are used: on others the cell is not neutral.
        calc = calc.with_options(mu=fermi_level(calc, cell, kpts))
    calc = at_fermi_level(calc, crystal)
    assert calc.mu is not None
    mu = calc.mu
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
        excess = -float(tensors[0][-1])
        if abs(excess) > 1e-3:
            raise ValueError(
                f"calc: mu = {mu:.6g} eV holds {excess:+.3g} electrons per cell beyond neutrality on "
                f"these k-points; with fixed_number=True leave mu out"
            )
        energy += mu * n_electrons
    return cell_derivatives(crystal, energy, tensors, relaxed, fixed_number, repr(calc))


def _bounds(states: Sequence[Any]) -> tuple[float, float]:
    return float(min(s.levels.min() for s in states)), float(max(s.levels.max() for s in states))
