"""Force constant errors of one model against another in a cell with or without a defect."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from scipy import linalg

from ..errors import NumericsError, check_positive, check_structure
from ..neighbours import neighbour_pairs

__all__ = ["force_constant_error", "hessian"]


def hessian(calc: Any, atoms: Atoms, step: float = 1e-3) -> np.ndarray:
    """Second derivatives (3 n, 3 n) of the energy of `atoms`, eV/Å^2, from central differences of forces.

    Parameters
    ----------
    calc : ase.calculators.calculator.Calculator
    atoms : ase.Atoms
        n atoms: 6 n calls.
    step : float
        Å; the error is of second order in it.

    Raises
    ------
    NumericsError
        Forces that are not finite.
    """
    check_structure(atoms)
    check_positive("step", step, "Å")
    n = len(atoms)
    out = np.empty((3 * n, 3 * n))
    for k in range(3 * n):
        forces = []
        for sign in (1.0, -1.0):
            moved = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
            moved.positions[k // 3, k % 3] += sign * step
            forces.append(calc.get_property("forces", moved).ravel())
        out[k] = (forces[1] - forces[0]) / (2 * step)
    if not np.isfinite(out).all():
        raise NumericsError(f"calc: {type(calc).__name__} gives forces that are not finite")
    return (out + out.T) / 2


def force_constant_error(qm: Any, mm: Any, atoms: Atoms, *, step: float = 1e-3) -> tuple[float, float]:
    """Largest difference of the force constants of two models in the energy norm, and its relative size.

        ``eps^FC = max_u |<u, (H_qm - H_mm) u>| / ||Du||^2``

    over the displacements of the cell, with the Hessians H of `atoms`: at the relaxed defect eps^FC, at the
    perfect crystal eps_hom^FC. The sum ``||Du||^2`` is over nearest neighbours, see :func:`energy_norm`.

    Parameters
    ----------
    qm, mm : ase.calculators.calculator.Calculator
    atoms : ase.Atoms
        A periodic cell of some hundred atoms at most: the Hessians are dense.
    step : float
        Of the difference quotients (Å).

    Returns
    -------
    error : float
        eV/Å^2.
    relative : float
        Ratio to the same maximum of H_qm alone.

    Raises
    ------
    ValueError
        Fewer than two atoms, or none within reach of another.

    References
    ----------
    Generalisation of point defects, eqs. (3.5), (3.6).
    """
    if len(atoms) < 2:
        raise ValueError(f"atoms: got {len(atoms)}, expected two or more")
    root = _inverse_root(atoms)
    exact = hessian(qm, atoms, step)
    difference = exact - hessian(mm, atoms, step)
    error, scale = (float(np.abs(linalg.eigvalsh(root.T @ h @ root)).max()) for h in (difference, exact))
    return error, error / scale if scale > 0.0 else float("nan")


def _inverse_root(atoms: Atoms) -> np.ndarray:
    """B (3 n, m) with ``||D B c|| = |c|``: all displacements but those that move nothing against another."""
    (distances,) = neighbour_pairs(atoms, 8.0, "d")
    if not len(distances):
        raise ValueError("atoms: none has another within 8 Å")
    i, j = neighbour_pairs(atoms, 1.2 * distances.min(), "ij")
    stiffness = np.zeros((len(atoms), len(atoms)))
    np.add.at(stiffness, (i, i), 1.0)
    np.add.at(stiffness, (j, j), 1.0)
    np.add.at(stiffness, (i, j), -1.0)
    np.add.at(stiffness, (j, i), -1.0)
    values, vectors = linalg.eigh(stiffness)
    kept = values > 1e-9 * values[-1]
    return np.kron(vectors[:, kept] / np.sqrt(values[kept]), np.eye(3))
