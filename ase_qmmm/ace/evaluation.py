"""What linear models made of density projections share: evaluation by the compiled kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from ..errors import StructureError, check_structure
from ..sites import SiteCalculator, SiteResult, check_weights
from .kernels import weighted_energy
from .tables import MINIMUM_DISTANCE
from .verlet import VerletList

__all__ = ["ProjectionCalculator"]

# Types of compiled functions are numba's affair.
_kernel: Any = weighted_energy


class ProjectionCalculator(SiteCalculator):
    """Base class of models that are polynomials in density projections.

    A subclass sets `cutoff` and the attributes below, and implements :meth:`_species`.
    """

    _neighbours: VerletList
    # Arguments of the kernel from the radial table on.
    _arrays: tuple[Any, ...]
    # Energies of free atoms by element (eV).
    _references: np.ndarray
    # Å; closer pairs are refused.
    minimum_distance: float = MINIMUM_DISTANCE

    def _species(self, atoms: Atoms) -> np.ndarray:
        """Index of the element of each atom (n,)."""
        raise NotImplementedError

    def evaluate(self, atoms: Atoms, weights: np.ndarray | None = None) -> SiteResult:
        """Weighted site energies and their exact gradient; see :class:`SiteCalculator`."""
        check_structure(atoms)
        site_weights = check_weights(weights, len(atoms))
        species = self._species(atoms)
        if site_weights is None:
            site_weights = np.ones(len(atoms))
        if len(atoms) == 0:
            return SiteResult(0.0, np.zeros(0), np.zeros((0, 3)), np.zeros((3, 3)))
        positions = np.ascontiguousarray(atoms.positions, dtype=float)
        starts, neighbours, translations = self._neighbours.update(atoms)
        energies, forces, virial, (l, j, distance) = _kernel(
            positions,
            species,
            starts,
            neighbours,
            translations,
            site_weights,
            self.cutoff,
            self.minimum_distance,
            *self._arrays,
        )
        if l >= 0:
            raise StructureError(
                f"atoms: atoms {l} and {j} are {distance:.3g} Å apart, {type(self).__name__} needs at least "
                f"{self.minimum_distance:.3g} Å; remove one of them or separate them"
            )
        energies = np.where(site_weights != 0.0, energies + self._references[species], 0.0)
        return SiteResult(float(site_weights @ energies), energies, forces, virial)

    def evaluate_sites(self, atoms: Atoms, sites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies (n,) and forces (n, 3), right on `sites`; atoms that see none of them are left out."""
        check_structure(atoms)
        needed = np.zeros(len(atoms), dtype=bool)
        needed[np.asarray(sites)] = True
        if not needed.any():
            return np.zeros(len(atoms)), np.zeros((len(atoms), 3))
        starts, neighbours, _ = self._neighbours.update(atoms)
        i = np.repeat(np.arange(len(atoms)), np.diff(starts))
        needed[i[needed[neighbours]]] = True
        result = self.evaluate(atoms, needed.astype(float))
        return result.energies, result.forces
