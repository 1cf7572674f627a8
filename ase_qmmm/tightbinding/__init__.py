"""Quantum model: tight-binding Hamiltonians, their spectra, and energies as sums over sites."""

from ..taylor.cauchy_born import CauchyBornDerivatives
from .bands import BandGap, band_gap, band_structure
from .calculator import TightBinding, fermi_level
from .cauchy_born import cauchy_born_derivatives
from .derivatives import force_derivatives, site_energy_derivatives
from .divide_and_conquer import DivideAndConquer
from .dos import density_of_states
from .embedding import Embedded
from .hamiltonian import Hamiltonian
from .kwon import KwonModel
from .models import load_model, model_names
from .nrl import NRLModel
from .toy import ToyModel

__all__ = [
    "BandGap",
    "CauchyBornDerivatives",
    "DivideAndConquer",
    "Embedded",
    "Hamiltonian",
    "KwonModel",
    "NRLModel",
    "TightBinding",
    "ToyModel",
    "band_gap",
    "band_structure",
    "cauchy_born_derivatives",
    "density_of_states",
    "fermi_level",
    "force_derivatives",
    "load_model",
    "model_names",
    "site_energy_derivatives",
]
