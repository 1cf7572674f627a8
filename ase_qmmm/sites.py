"""Calculators whose energy is a sum of site energies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress

from .errors import check_structure

__all__ = ["SiteCalculator", "SiteResult", "check_weights"]


@dataclass(frozen=True)
class SiteResult:
    """A weighted sum of site energies and its exact gradient.

    Attributes
    ----------
    energy : float
        ``E_w = sum_l w_l E_l`` (eV).
    energies : ndarray, shape (n,)
        Site energies ``E_l`` (eV), not multiplied by the weights. Sites of zero weight may be left out
        by the model; they hold zero then.
    forces : ndarray, shape (n, 3)
        ``-dE_w/dy`` (eV/Å).
    virial : ndarray, shape (3, 3), or None
        ``-dE_w/dstrain`` (eV), symmetric; None from a model that does not know it.
    energies_zero_kT : ndarray, shape (n,), optional
        Site energies extrapolated to zero electronic temperature, for models that have one.
    """

    energy: float
    energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray | None
    energies_zero_kT: np.ndarray | None = None


def check_weights(weights: Any, n: int) -> np.ndarray | None:
    """Return `weights` as an (n,) float array (or None), or raise ``ValueError``."""
    if weights is None:
        return None
    array = np.asarray(weights, dtype=float)
    if array.shape != (n,):
        raise ValueError(f"weights: got shape {array.shape}, expected ({n},): one number per atom")
    if not np.isfinite(array).all():
        raise ValueError(
            f"weights: atom {int(np.argmin(np.isfinite(array)))} has a weight that is not finite"
        )
    return array


class SiteCalculator(Calculator):
    """Base class of models that write their energy as a sum over atoms.

    A subclass implements :meth:`evaluate`; the ASE properties follow from it: ``free_energy`` is the sum
    of the site energies whose gradient the forces are, ``energy`` the same (or its extrapolation to zero
    electronic temperature where the model gives one, as is usual in ASE), ``energies`` sums to
    ``energy``, ``stress`` is ``-virial / volume`` for a cell with a volume, where the model has a virial.

    Attributes
    ----------
    cutoff : float
        Radius (Å) beyond which a site energy no longer (for a quantum model: negligibly) depends on an
        atom. It sizes buffers.
    """

    implemented_properties = ["energy", "free_energy", "energies", "forces", "stress"]
    # ASE's own parameter dictionary is not used: arguments are those of each constructor.
    default_parameters: dict[str, Any] = {}
    cutoff: float

    def evaluate(self, atoms: Atoms, weights: np.ndarray | None = None) -> SiteResult:
        """Weighted energy ``sum_l w_l E_l`` of `atoms` and its exact gradient.

        Parameters
        ----------
        atoms : ase.Atoms
        weights : array_like, shape (n,), optional
            Weight of each site energy; all one if not given.

        Returns
        -------
        SiteResult
        """
        raise NotImplementedError(f"{type(self).__name__} must implement evaluate(atoms, weights)")

    def evaluate_sites(self, atoms: Atoms, sites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Site energies (n,) eV and forces (n, 3) eV/Å of the unweighted model, right on `sites` only.

        Parameters
        ----------
        atoms : ase.Atoms
        sites : ndarray of bool, shape (n,)
            Atoms whose values are used. A model that evaluates atoms one by one overrides this, and then
            never looks at the surroundings of the others.
        """
        result = self.evaluate(atoms)
        energies = result.energies if result.energies_zero_kT is None else result.energies_zero_kT
        return energies, result.forces

    def for_cluster(self, cluster: Atoms, system: Atoms, crystal: Any = None) -> Calculator:
        """Return the calculator to use for `cluster`, carved out of `system` (default: this one)."""
        return self

    def for_crystal(self, unit_cell: Atoms) -> SiteCalculator:
        """Return the calculator to use for a cell of a perfect crystal (default: this one)."""
        return self

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill ``results`` from :meth:`evaluate` (called by ASE)."""
        self.results = {}
        if atoms is not None:
            check_structure(atoms)
        Calculator.calculate(self, atoms, properties or ["energy"], system_changes)
        copy: Atoms = self.atoms  # type: ignore[assignment]  # set by the line above
        result = self.evaluate(copy)
        energies = result.energies if result.energies_zero_kT is None else result.energies_zero_kT
        results = {
            "energy": float(energies.sum()),
            "free_energy": result.energy,
            "energies": energies,
            "forces": result.forces,
        }
        if result.virial is not None and copy.cell.rank == 3:
            results["stress"] = full_3x3_to_voigt_6_stress(-result.virial / copy.get_volume())
        self.results = results
