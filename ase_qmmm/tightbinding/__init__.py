"""Quantum model: tight-binding Hamiltonians, their spectra, and energies as sums over sites."""

from .calculator import TightBinding, fermi_level
from .hamiltonian import Hamiltonian
from .kwon import KwonModel
from .models import load_model, model_names
from .nrl import NRLModel
from .toy import ToyModel

__all__ = [
    "Hamiltonian",
    "KwonModel",
    "NRLModel",
    "TightBinding",
    "ToyModel",
    "fermi_level",
    "load_model",
    "model_names",
]
