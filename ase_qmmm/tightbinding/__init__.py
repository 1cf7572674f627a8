"""Quantum model: tight-binding Hamiltonians, their spectra, and energies as sums over sites."""

from .calculator import TightBinding, fermi_level
from .divide_and_conquer import DivideAndConquer
from .nrl import NRLModel, model_names

__all__ = ["DivideAndConquer", "NRLModel", "TightBinding", "fermi_level", "model_names"]
