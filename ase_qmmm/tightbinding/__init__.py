"""Quantum model: tight-binding Hamiltonians, their spectra, and energies as sums over sites."""

from .calculator import TightBinding, fermi_level
from .derivatives import CrystalDerivatives, force_derivatives, site_energy_derivatives
from .hamiltonian import Hamiltonian
from .nrl import NRLModel, model_names

__all__ = [
    "CrystalDerivatives",
    "Hamiltonian",
    "NRLModel",
    "TightBinding",
    "fermi_level",
    "force_derivatives",
    "model_names",
    "site_energy_derivatives",
]
