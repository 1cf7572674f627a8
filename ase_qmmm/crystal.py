"""The perfect reference lattice: its cell, its supercells, its stencils."""

from __future__ import annotations

from itertools import combinations, product
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.build import make_supercell
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.calculators.fd import FiniteDifferenceCalculator
from ase.filters import FrechetCellFilter
from ase.geometry import minkowski_reduce
from ase.optimize import BFGS

from .errors import NumericsError, StructureError, check_positive, check_structure
from .neighbours import neighbour_pairs
from .sites import SiteCalculator

if TYPE_CHECKING:
    from .stencils import StencilMatch

__all__ = ["Crystal"]


class Crystal:
    """A perfect crystal: any number of basis atoms, any orientation, two or three lattice directions.

    Parameters
    ----------
    unit_cell : ase.Atoms
        One cell; ``pbc`` marks the lattice directions (two for a 2D crystal).

    Raises
    ------
    StructureError
        No atoms, no periodic direction, or a cell that is not finite or singular.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_qmmm import Crystal
    >>> crystal = Crystal(bulk("Si", a=5.43))
    >>> crystal.stencil(0, 2.5).shape
    (4, 3)
    >>> len(crystal.supercell(2, cubic=True))
    64
    """

    def __init__(self, unit_cell: Atoms) -> None:
        check_structure(unit_cell)
        if len(unit_cell) == 0 or not unit_cell.pbc.any():
            raise StructureError("unit_cell: expected at least one atom and one periodic direction (set pbc)")
        cell = unit_cell.copy()
        cell.calc = None
        cell.set_constraint()
        self._unit_cell: Atoms = cell
        self._stencils: dict[tuple[int, float], tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    @property
    def unit_cell(self) -> Atoms:
        """A copy of the cell."""
        cell: Atoms = self._unit_cell.copy()
        return cell

    @property
    def lattice(self) -> np.ndarray:
        """Lattice vectors (d, 3) in Å, d the number of periodic directions."""
        vectors: np.ndarray = self._unit_cell.cell.array[self._unit_cell.pbc]
        return vectors

    @property
    def n_basis(self) -> int:
        """Number of atoms in the cell."""
        return len(self._unit_cell)

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers (n_basis,)."""
        numbers: np.ndarray = self._unit_cell.numbers.copy()
        return numbers

    @property
    def basis_positions(self) -> np.ndarray:
        """Positions of the basis atoms (n_basis, 3), Å."""
        positions: np.ndarray = self._unit_cell.positions.copy()
        return positions

    @property
    def nearest_neighbour_distance(self) -> float:
        """Shortest distance between two atoms (Å)."""
        radius = float(np.linalg.norm(self.lattice, axis=1).min()) * 1.001
        return float(neighbour_pairs(self._unit_cell, radius, "d")[0].min())

    def __repr__(self) -> str:
        lengths = ", ".join(f"{x:.5f}" for x in np.linalg.norm(self.lattice, axis=1))
        return (
            f"Crystal({self._unit_cell.get_chemical_formula()}, {len(self.lattice)}D, "
            f"cell vectors {lengths} Å, nearest neighbours {self.nearest_neighbour_distance:.5f} Å)"
        )

    # -- construction ------------------------------------------------------------------------------------

    @classmethod
    def relaxed(cls, unit_cell: Atoms, calc: Calculator, fmax: float = 1e-6, steps: int = 500) -> Crystal:
        """Relax cell and basis with `calc`.

        A cubic cell under isotropic stress keeps its shape; only its size and its basis move. A calculator
        without stress gets one by central differences of its energy. Own quantum models bring the k-points
        that converge a bulk cell (``calc.for_crystal``).

        Parameters
        ----------
        unit_cell : ase.Atoms
            Starting guess; not changed.
        calc : ase.calculators.calculator.Calculator
        fmax : float
            Largest generalised force (eV/Å, eV per unit strain).
        steps : int
            Largest number of optimiser steps.

        Raises
        ------
        NumericsError
            Not converged in `steps`.
        """
        check_positive("fmax", fmax, "eV/Å")
        crystal = cls(unit_cell)
        atoms = crystal.unit_cell
        pbc = atoms.pbc.copy()
        rank = int(pbc.sum())
        if rank < 3:
            # A cell that spans space, so that the stress has a volume to refer to.
            atoms.cell[~pbc] = 0.0
            atoms.cell = atoms.cell.complete()
            atoms.cell[~pbc] *= 20.0
        atoms.calc = calc.for_crystal(atoms) if isinstance(calc, SiteCalculator) else calc
        try:
            stress = atoms.get_stress(voigt=False)
        except PropertyNotImplementedError:
            atoms.calc = FiniteDifferenceCalculator(calc, eps_disp=None, eps_strain=1e-4)
            stress = atoms.get_stress(voigt=False)
        isotropic = np.abs(stress - np.eye(3) * np.trace(stress) / 3).max() < 1e-7
        cubic = rank == 3 and isotropic and _cubic_matrix(crystal.lattice) is not None
        strained: dict[str, Any] = {"hydrostatic_strain": cubic}
        if rank < 3:
            normals = np.linalg.qr(crystal.lattice.T, mode="complete")[0][:, rank:]
            if np.abs(np.abs(normals).max(axis=0) - 1).max() > 1e-10:
                raise StructureError(
                    "unit_cell: relaxing a low-dimensional crystal needs its open directions along x, y or z"
                )
            free = ~(np.abs(normals).max(axis=1) > 0.5)
            strained["mask"] = np.outer(free, free).astype(float)
        moving: Any = FrechetCellFilter(atoms, **strained)  # a filter stands in for Atoms
        with BFGS(moving, logfile=None) as optimizer:
            if not optimizer.run(fmax=fmax, steps=steps):
                raise NumericsError(
                    f"Crystal.relaxed: not converged to fmax = {fmax:g} in {steps} steps; start from a "
                    f"closer lattice constant or allow more steps"
                )
        result = unit_cell.copy()
        result.calc = None
        if cubic:
            # Exactly the shape given, without the rounding of the strain filter.
            scale = (atoms.get_volume() / abs(np.linalg.det(unit_cell.cell.array))) ** (1 / 3)
            scaled = atoms.get_scaled_positions(wrap=False)
            result.cell = unit_cell.cell.array * scale
            result.positions = scaled @ result.cell.array
        else:
            result.cell[pbc] = atoms.cell[pbc]
            result.positions = atoms.positions
        return cls(result)

    def supercell(self, n: int | tuple[int, ...] | np.ndarray, cubic: bool = False) -> Atoms:
        """A supercell as ``ase.Atoms``.

        Parameters
        ----------
        n : int, sequence of int, or (3, 3) integer matrix
            Repetitions of the unit cell (or of the cubic cell) along each lattice vector.
        cubic : bool
            Repeat the smallest cubic cell instead of the unit cell.

        Raises
        ------
        ValueError
            `n` is not positive, or the lattice is not cubic.
        """
        repeats = np.asarray(n)
        if repeats.ndim == 0:
            repeats = np.where(self._unit_cell.pbc, repeats, 1)
        if repeats.ndim == 1:
            if repeats.shape != (3,) or not np.issubdtype(repeats.dtype, np.integer) or (repeats < 1).any():
                raise ValueError(
                    f"n: got {n!r}, expected a positive integer, three of them, or a 3x3 integer matrix"
                )
            repeats = np.diag(repeats)
        matrix = repeats
        if cubic:
            transformation = _cubic_matrix(self.lattice) if len(self.lattice) == 3 else None
            if transformation is None:
                raise ValueError(f"cubic: {self!r} has no cubic supercell of moderate size; use cubic=False")
            matrix = repeats @ transformation
        supercell: Atoms = make_supercell(self._unit_cell, matrix)
        return supercell

    def cubic_vectors(self) -> np.ndarray | None:
        """Vectors (3, 3) of the smallest cubic cell in Å, or None if the lattice is not cubic."""
        matrix = _cubic_matrix(self.lattice) if len(self.lattice) == 3 else None
        return None if matrix is None else matrix @ self.lattice

    def box_for_radius(self, radius: float) -> np.ndarray:
        """Repetitions (3,) of the unit cell whose Wigner–Seitz cell holds a sphere of `radius` (Å).

        Equal lattice vectors are repeated equally often, so that the supercell keeps the symmetry of the
        lattice.
        """
        lengths = np.linalg.norm(self.lattice, axis=1)
        repeats = np.ones(len(lengths), dtype=int)
        while True:
            vectors = self.lattice * repeats[:, None]
            padded = np.zeros((3, 3))
            padded[: len(vectors)] = vectors
            reduced, _ = minkowski_reduce(padded, pbc=np.arange(3) < len(vectors))
            if np.linalg.norm(reduced[: len(vectors)], axis=1).min() > 2 * radius:
                break
            current = lengths * repeats
            repeats[current < current.min() * (1 + 1e-6)] += 1
        out = np.ones(3, dtype=int)
        out[self._unit_cell.pbc] = repeats
        return out

    # -- stencils ------------------------------------------------------------------------------------------

    def stencil(self, basis_index: int, radius: float) -> np.ndarray:
        """Vectors rho (s, 3) in Å from a basis atom to its neighbours within `radius`, nearest first."""
        return self.stencil_sites(basis_index, radius)[0].copy()

    def stencil_sites(self, basis_index: int, radius: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Stencil vectors (s, 3), the basis atom at each (s,), and its cell (s, d) in lattice vectors."""
        if not 0 <= basis_index < self.n_basis:
            raise ValueError(f"basis_index: got {basis_index}, expected 0 to {self.n_basis - 1}")
        check_positive("radius", radius, "Å")
        key = (int(basis_index), float(radius))
        if key not in self._stencils:
            # A hair beyond the radius, so that a shell exactly on it is whole.
            i, j, D, S = neighbour_pairs(self._unit_cell, radius + 1e-6, "ijDS")
            mine = i == basis_index
            j, D, S = j[mine], D[mine], S[mine][:, self._unit_cell.pbc]
            keys = np.round(np.column_stack([D[:, ::-1], np.linalg.norm(D, axis=1)]), 6)
            order = np.lexsort(keys.T)
            self._stencils[key] = (D[order], j[order], S[order])
        return self._stencils[key]

    def match(self, atoms: Atoms, radius: float, tolerance: float | None = None) -> StencilMatch:
        """Find which atom of a deformed, defective crystal sits on which stencil vector.

        Parameters
        ----------
        atoms : ase.Atoms
        radius : float
            Of the stencils (Å).
        tolerance : float, optional
            Largest distance (Å) of a neighbour from its stencil vector; 0.4 nearest-neighbour distances.

        Returns
        -------
        StencilMatch
        """
        from .stencils import match_stencils

        return match_stencils(self, atoms, radius, tolerance)


def _cubic_matrix(lattice: np.ndarray) -> np.ndarray | None:
    """Integer matrix from a 3D lattice to its smallest cubic cell, aligned with x, y, z where possible."""
    if len(lattice) != 3:
        return None
    reduced, operation = minkowski_reduce(lattice)
    coefficients = np.array([c for c in product(range(-2, 3), repeat=3) if any(c)])
    vectors = coefficients @ reduced
    lengths = np.linalg.norm(vectors, axis=1)
    matrix: np.ndarray
    for length in np.unique(np.round(lengths, 6)):
        shell = np.flatnonzero(np.abs(lengths - length) < 1e-5 * length)
        # One of each pair v, -v: the one whose largest component is positive.
        lead = np.abs(np.round(vectors[shell], 6)).argmax(axis=1)
        shell = shell[vectors[shell, lead] > 0]
        best = None
        for triple in combinations(shell, 3):
            v = vectors[list(triple)]
            if np.abs(v @ v.T - np.eye(3) * length**2).max() < 1e-5 * length**2:
                axes = np.argsort(np.abs(v).argmax(axis=1), kind="stable")
                matrix = coefficients[list(triple)][axes] @ operation
                if np.linalg.det(matrix @ lattice) * np.linalg.det(lattice) < 0:
                    matrix[2] *= -1
                alignment = np.abs(v).max(axis=1).sum()
                if best is None or alignment > best[0] + 1e-9:
                    best = (alignment, matrix)
        if best is not None:
            matrix = np.rint(best[1]).astype(int)
            return matrix
    return None
