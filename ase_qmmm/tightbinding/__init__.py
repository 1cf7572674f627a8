"""Quantum model: tight-binding Hamiltonians, their spectra, and energies as sums over sites."""

from .calculator import TightBinding, fermi_level
from .cauchy_born import CauchyBornDerivatives, cauchy_born_derivatives
from .derivatives import CrystalDerivatives, force_derivatives, site_energy_derivatives
from .hamiltonian import Hamiltonian
from .nrl import NRLModel, model_names

__all__ = [
    "CauchyBornDerivatives",
    "CrystalDerivatives",
    "Hamiltonian",
    "NRLModel",
    "TightBinding",
    "cauchy_born_derivatives",
    "fermi_level",
    "force_derivatives",
    "model_names",
    "site_energy_derivatives",
]
