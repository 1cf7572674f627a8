"""Formation and surface energies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.calculators.calculator import Calculator
from ase.optimize import FIRE

from ..crystal import Crystal
from ..errors import NumericsError, StructureError, check_positive, checked_keywords
from .elasticity import _bulk, _with_calc
from .frame import plane_normal

__all__ = ["formation_energy", "surface_energy"]


@checked_keywords
def formation_energy(
    atoms: Atoms,
    crystal: Crystal,
    calc: Calculator | None = None,
    *,
    chemical_potentials: Mapping[str, float] | None = None,
    reference: Atoms | None = None,
) -> float:
    """``E_f = E(atoms) - sum_i n_i mu_i`` in eV; for an element mu is the energy per atom of the crystal.

    Parameters
    ----------
    atoms : ase.Atoms
        With the defect, relaxed, periodic in all directions of the lattice.
    crystal : Crystal
    calc : ase.calculators.calculator.Calculator, optional
        Default that of `atoms`.
    chemical_potentials : mapping of str to float, optional
        By element (eV). Needed where the composition is not that of a compound crystal, or for impurities.
    reference : ase.Atoms, optional
        Perfect crystal whose energy per atom is taken (with the same calculator); the supercell without
        the defect makes errors of k-points cancel. Default the unit cell of `crystal`, with the k-points
        of a bulk cell.

    Raises
    ------
    ValueError
        No calculator, or no chemical potential for an element in excess.
    StructureError
        A structure with surfaces, whose energy is in E(atoms) too.
    """
    calc = atoms.calc if calc is None else calc
    if calc is None:
        raise ValueError("calc: atoms have no calculator; give one")
    if not atoms.pbc.sum() == len(crystal.lattice):
        raise StructureError(
            f"atoms: periodic along {int(atoms.pbc.sum())} directions, expected {len(crystal.lattice)}; the "
            f"energy of a surface would be counted as that of the defect"
        )
    defective = atoms.copy()
    defective.calc = calc
    energy = float(defective.get_potential_energy())
    if reference is None:
        perfect = _bulk(calc, crystal) if len(crystal.lattice) == 3 else crystal.unit_cell
        if perfect.calc is None:
            perfect.calc = calc
    else:
        perfect = reference.copy()
        perfect.calc = calc
    per_atom = float(perfect.get_potential_energy()) / len(perfect)
    given = dict(chemical_potentials or {})
    formula = crystal.unit_cell.symbols.formula.count()
    counts = atoms.symbols.formula.count()
    n_units = min(counts.get(element, 0) / n for element, n in formula.items())
    if len(formula) == 1:
        given.setdefault(next(iter(formula)), per_atom)
        n_units = 0.0
    energy -= n_units * per_atom * crystal.n_basis
    for element, n in counts.items():
        excess = n - n_units * formula.get(element, 0)
        if excess == 0:
            continue
        if element not in given:
            raise ValueError(
                f"chemical_potentials: {excess:g} {element} more than in {crystal!r}; give its "
                f"chemical potential (eV)"
            )
        energy -= excess * given[element]
    return float(energy)


@checked_keywords
def surface_energy(
    calc: Calculator,
    crystal: Crystal,
    plane: Any,
    *,
    thickness: float = 20.0,
    vacuum: float = 15.0,
    fmax: float = 1e-3,
    steps: int = 500,
) -> float:
    """Energy of a relaxed surface (eV/Å^2): half the excess of a slab over the crystal, per area.

    Parameters
    ----------
    calc : ase.calculators.calculator.Calculator
    crystal : Crystal
        Of one element, or with a plane whose two sides are alike.
    plane : array_like, shape (3,)
        Miller indices, of the conventional cell.
    thickness, vacuum : float
        Least thickness of the slab and of the vacuum (Å).
    fmax, steps
        Of the relaxation (eV/Å); ``fmax=inf`` leaves the surface unrelaxed.

    Raises
    ------
    ValueError
        No low-index lattice vectors in the plane.
    NumericsError
        Not relaxed in `steps`.
    """
    check_positive("thickness", thickness, "Å")
    check_positive("vacuum", vacuum, "Å")
    slab = _with_calc(_slab(crystal, plane_normal(crystal, "plane", plane), thickness))
    bulk = _bulk(calc, crystal)
    energy = float(bulk.get_potential_energy()) / len(bulk)
    slab.center(vacuum=vacuum / 2, axis=2)
    slab.calc = calc
    if np.isfinite(fmax):
        with FIRE(slab, logfile=None) as optimizer:
            if not optimizer.run(fmax=check_positive("fmax", fmax, "eV/Å"), steps=steps):
                raise NumericsError(f"surface_energy: not relaxed to {fmax:g} eV/Å in {steps} steps")
    area = float(np.linalg.norm(np.cross(slab.cell[0], slab.cell[1])))
    return (float(slab.get_potential_energy()) - len(slab) * energy) / (2 * area)


def _slab(crystal: Crystal, normal: np.ndarray, thickness: float) -> Atoms:
    """A slab of the crystal, open along its third cell vector, z."""
    lattice = crystal.lattice
    integers = np.array(np.meshgrid(*[np.arange(-4, 5)] * 3, indexing="ij")).reshape(3, -1).T
    integers = integers[np.any(integers != 0, axis=1)]
    vectors = integers @ lattice
    heights = vectors @ normal
    order = np.argsort(np.round(np.linalg.norm(vectors, axis=1), 6), kind="stable")
    flat = order[np.abs(heights[order]) < 1e-6]
    if len(flat) < 2:
        raise ValueError("plane: no lattice vectors in it; give low Miller indices")
    first = flat[0]
    cross = np.linalg.norm(np.cross(vectors[first], vectors[flat]), axis=1)
    second = flat[np.flatnonzero(cross > 1e-6)[0]]
    up = next(
        k
        for k in order[np.argsort(np.round(np.abs(heights[order]), 6), kind="stable")]
        if heights[k] > 1e-6 and abs(round(np.linalg.det(integers[[first, second, k]]))) == 1
    )
    n_layers = int(np.ceil(thickness / heights[up]))
    matrix = integers[[first, second, up]] * np.array([[1], [1], [n_layers]])
    if np.linalg.det(matrix) < 0:
        matrix[0] *= -1
    slab: Atoms = make_supercell(crystal.unit_cell, matrix)
    x = slab.cell[0] / np.linalg.norm(slab.cell[0])
    z = normal if slab.cell[2] @ normal > 0 else -normal
    rotation = np.array([x, np.cross(z, x), z])
    slab.set_cell(slab.cell.array @ rotation.T, scale_atoms=False)
    slab.positions = slab.positions @ rotation.T
    cell = slab.cell.array.copy()
    # Atoms keep their columns; the third vector becomes normal to the surface.
    slab.wrap()
    cell[2, :2] = 0.0
    slab.set_cell(cell)
    slab.pbc = (True, True, False)
    return slab
