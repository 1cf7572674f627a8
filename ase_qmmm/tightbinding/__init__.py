"""Quantum model: tight-binding Hamiltonians, their spectra, and energies as sums over sites."""

from .calculator import TightBinding, fermi_level
from .embedding import Embedded
from .hamiltonian import Hamiltonian
from .nrl import NRLModel, model_names

__all__ = ["Embedded", "Hamiltonian", "NRLModel", "TightBinding", "fermi_level", "model_names"]
