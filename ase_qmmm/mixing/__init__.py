"""Mixtures of a quantum and a matched model over regions of atoms."""

from .buffers import BufferError
from .carving import Cluster
from .energy_mixing import EnergyMixingCalculator
from .force_mixing import ForceMixingCalculator
from .regions import Regions
from .subtractive import SubtractiveMixingCalculator

__all__ = [
    "BufferError",
    "Cluster",
    "EnergyMixingCalculator",
    "ForceMixingCalculator",
    "Regions",
    "SubtractiveMixingCalculator",
]
