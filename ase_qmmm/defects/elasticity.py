"""Elastic constants and internal displacements of a crystal, from the model that will be used."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.fd import FiniteDifferenceCalculator
from ase.optimize import BFGS
from matscipy.elasticity import fit_elastic_constants, full_3x3x3x3_to_Voigt_6x6

from ..crystal import Crystal
from ..errors import NumericsError, StructureError, check_positive
from ..sites import SiteCalculator
from ..tightbinding import TightBinding
from ..tightbinding.cauchy_born import cauchy_born_derivatives

__all__ = ["InternalDisplacements", "elastic_constants"]


def _bulk(calc: Calculator, crystal: Crystal) -> Atoms:
    """The unit cell with the calculator, and its k-points for a bulk cell where it knows them."""
    if len(crystal.lattice) != 3:
        raise ValueError(f"crystal: got {crystal!r}, expected a lattice with three periodic directions")
    atoms = crystal.unit_cell
    atoms.calc = calc.for_crystal(atoms) if isinstance(calc, SiteCalculator) else calc
    return atoms


def elastic_constants(
    calc: Calculator, crystal: Crystal, *, delta: float = 1e-3, fmax: float = 1e-5
) -> np.ndarray:
    """Elastic constants with relaxed basis atoms, Voigt's matrix (6, 6) in eV/Å^3, in the axes of `crystal`.

    ``TightBinding`` gives exact second derivatives of its Cauchy–Born energy; for any other calculator the
    stress is fitted against strain (``matscipy.elasticity.fit_elastic_constants``).

    Parameters
    ----------
    calc : ase.calculators.calculator.Calculator
    crystal : Crystal
        At the lattice constant of `calc`.
    delta : float
        Step of the strains, of which there are five for each component.
    fmax : float
        Force (eV/Å) to which the basis atoms are relaxed.

    Raises
    ------
    ValueError
        A crystal of lower dimension.
    StructureError
        The crystal is not at the lattice constant of `calc`.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> from ase.units import GPa
    >>> from ase_qmmm import Crystal
    >>> from ase_qmmm.defects import elastic_constants
    >>> crystal = Crystal.relaxed(bulk("Cu"), EMT())
    >>> round(float(elastic_constants(EMT(), crystal)[0, 0] / GPa))
    173
    """
    check_positive("delta", delta)
    check_positive("fmax", fmax, "eV/Å")
    atoms = _bulk(calc, crystal)
    if isinstance(calc, TightBinding):
        tensors = cauchy_born_derivatives(
            calc, crystal, 2, relaxed=crystal.n_basis > 1, fixed_number=calc.mu is None
        )
        _check_stress(tensors.stress, crystal)
        exact = full_3x3x3x3_to_Voigt_6x6(tensors.elastic_constants(), check_symmetry=False)
        return np.asarray((exact + exact.T) / 2)
    try:
        stress = atoms.get_stress(voigt=False)
    except PropertyNotImplementedError:
        atoms.calc = FiniteDifferenceCalculator(atoms.calc, eps_disp=None, eps_strain=1e-4)
        stress = atoms.get_stress(voigt=False)
    _check_stress(stress, crystal)
    relax: dict[str, Any] = {} if crystal.n_basis == 1 else {"optimizer": BFGS, "fmax": fmax}
    fitted, _ = fit_elastic_constants(atoms, delta=delta, verbose=False, **relax)
    fitted = np.asarray(fitted)
    return np.asarray((fitted + fitted.T) / 2)


def _check_stress(stress: np.ndarray, crystal: Crystal) -> None:
    largest = float(np.abs(stress).max())
    if largest > 0.01:
        raise StructureError(
            f"crystal: the stress of {crystal!r} is {largest:.3g} eV/Å^3, expected none; take "
            f"Crystal.relaxed with the same calculator"
        )


@dataclass(frozen=True)
class InternalDisplacements:
    """How the basis atoms of a crystal follow a homogeneous strain, to second order.

    With the stretch ``E = sqrt(F^T F) - 1`` and the rotation R of a deformation gradient F,

        s_a(F) = R (L1_a : E + 1/2 E : L2_a : E),

    the Cauchy–Born displacements, zero in the mean over the cell. Without them the inner forces of a strained
    multi-lattice are of first order in the strain, with them of third.

    Attributes
    ----------
    crystal : Crystal
    linear : ndarray, shape (n_basis, 3, 6)
        L1 (Å), over the components xx, yy, zz, yz, xz, xy of E.
    quadratic : ndarray, shape (n_basis, 3, 6, 6)
        L2 (Å).
    """

    crystal: Crystal
    linear: np.ndarray
    quadratic: np.ndarray

    @classmethod
    def from_calculator(
        cls, calc: Calculator, crystal: Crystal, *, delta: float = 4e-3, fmax: float = 1e-7
    ) -> InternalDisplacements:
        """Differences of relaxed unit cells.

        Parameters
        ----------
        calc : ase.calculators.calculator.Calculator
        crystal : Crystal
            At the equilibrium of `calc`.
        delta : float
            Strain of the differences.
        fmax : float
            Force (eV/Å) to which each cell is relaxed.

        Raises
        ------
        NumericsError
            The basis has no stable equilibrium.
        """
        check_positive("delta", delta)
        check_positive("fmax", fmax, "eV/Å")
        n = crystal.n_basis
        linear, quadratic = np.zeros((n, 3, 6)), np.zeros((n, 3, 6, 6))
        if n == 1:
            return cls(crystal, linear, quadratic)
        atoms = _bulk(calc, crystal)
        inverse = _inner_compliance(atoms)

        def relaxed(*components: tuple[int, float]) -> np.ndarray:
            strain = np.zeros(6)
            for k, value in components:
                strain[k] += value
            return _relaxed_shift(atoms, _symmetric(strain), inverse, fmax)

        rest = relaxed()
        plus = [relaxed((k, delta)) for k in range(6)]
        minus = [relaxed((k, -delta)) for k in range(6)]
        for k, m in combinations_with_replacement(range(6), 2):
            if k == m:
                linear[:, :, k] = (plus[k] - minus[k]) / (2 * delta)
                quadratic[:, :, k, k] = (plus[k] + minus[k] - 2 * rest) / delta**2
                continue
            both = relaxed((k, delta), (m, delta)) + relaxed((k, -delta), (m, -delta))
            mixed = (both - plus[k] - minus[k] - plus[m] - minus[m] + 2 * rest) / (2 * delta**2)
            quadratic[:, :, k, m] = quadratic[:, :, m, k] = mixed
        return cls(crystal, linear, quadratic)

    def shift(self, gradient: np.ndarray, basis: np.ndarray) -> np.ndarray:
        """Displacements (n, 3) in Å of atoms on the sites `basis` (n,) under gradients F (n, 3, 3)."""
        gradient = np.asarray(gradient, dtype=float)
        if gradient.ndim != 3 or gradient.shape[1:] != (3, 3) or len(gradient) != len(basis):
            raise ValueError(f"gradient: got shape {gradient.shape}, expected ({len(basis)}, 3, 3)")
        u, stretches, vh = np.linalg.svd(gradient)
        strain = np.swapaxes(vh, 1, 2) * (stretches - 1)[:, None, :] @ vh
        voigt = np.stack([strain[:, i, j] for i, j in _PAIRS], axis=1)
        local = np.einsum("nik,nk->ni", self.linear[basis], voigt)
        local += np.einsum("nikm,nk,nm->ni", self.quadratic[basis], voigt, voigt) / 2
        shift: np.ndarray = np.einsum("nij,nj->ni", u @ vh, local)
        return shift


_PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


def _symmetric(components: np.ndarray) -> np.ndarray:
    strain = np.zeros((3, 3))
    for (i, j), value in zip(_PAIRS, components, strict=True):
        strain[i, j] = strain[j, i] = value
    return strain


def _inner_compliance(atoms: Atoms, step: float = 1e-3) -> np.ndarray:
    """Pseudo-inverse of the second derivatives of the energy per cell by the basis positions."""
    atoms = atoms.copy() if atoms.calc is None else _with_calc(atoms)
    rows = []
    for k in range(3 * len(atoms)):
        start = atoms.positions.copy()
        forces = []
        for sign in (1, -1):
            atoms.positions.flat[k] = start.flat[k] + sign * step
            forces.append(atoms.get_forces().ravel())
        atoms.positions[:] = start
        rows.append((forces[1] - forces[0]) / (2 * step))
    hessian = np.array(rows)
    values, vectors = np.linalg.eigh((hessian + hessian.T) / 2)
    # Three zeros: translations.
    order = np.argsort(np.abs(values))
    if len(values) > 3 and values[order[3:]].min() < 1e-4 * np.abs(values).max():
        raise NumericsError("crystal: the basis atoms have no stable equilibrium; use Crystal.relaxed first")
    keep = vectors[:, order[3:]]
    inverse: np.ndarray = keep / values[order[3:]] @ keep.T
    return inverse


def _with_calc(atoms: Atoms) -> Atoms:
    copy: Atoms = atoms.copy()
    copy.calc = atoms.calc
    return copy


def _relaxed_shift(atoms: Atoms, strain: np.ndarray, inverse: np.ndarray, fmax: float) -> np.ndarray:
    deformed = _with_calc(atoms)
    deformation = np.eye(3) + strain
    deformed.set_cell(atoms.cell.array @ deformation.T)
    affine = atoms.positions @ deformation.T
    shift = np.zeros_like(affine)
    for _ in range(40):
        deformed.positions = affine + shift
        forces = deformed.get_forces()
        if np.abs(forces - forces.mean(axis=0)).max() < fmax:
            return np.asarray(shift)
        shift = shift + (inverse @ forces.ravel()).reshape(-1, 3)
    raise NumericsError(
        f"crystal: the basis did not relax under a strain of {np.abs(strain).max():g} (force "
        f"{np.abs(forces).max():.2g} eV/Å); use Crystal.relaxed first, or raise fmax"
    )
