"""Quantum model: tight-binding Hamiltonians, their spectra, and energies as sums over sites."""

from .bands import BandGap, band_gap, band_structure
from .calculator import TightBinding, fermi_level
from .dos import density_of_states
from .embedding import Embedded
from .hamiltonian import Hamiltonian
from .kwon import KwonModel
from .models import load_model, model_names
from .nrl import NRLModel
from .toy import ToyModel

__all__ = [
    "BandGap",
    "Embedded",
    "Hamiltonian",
    "KwonModel",
    "NRLModel",
    "TightBinding",
    "ToyModel",
    "band_gap",
    "band_structure",
    "density_of_states",
    "fermi_level",
    "load_model",
    "model_names",
]
