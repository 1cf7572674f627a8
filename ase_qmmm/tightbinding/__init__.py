"""Quantum model: tight-binding Hamiltonians, their spectra, and energies as sums over sites."""

from .bands import BandGap, band_gap, band_structure
from .calculator import TightBinding, fermi_level
from .dos import density_of_states
from .embedding import Embedded
from .hamiltonian import Hamiltonian
from .nrl import NRLModel, model_names

__all__ = [
    "BandGap",
    "Embedded",
    "Hamiltonian",
    "NRLModel",
    "TightBinding",
    "band_gap",
    "band_structure",
    "density_of_states",
    "fermi_level",
    "model_names",
]
