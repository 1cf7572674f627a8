"""Mixtures of a quantum and a matched model over regions of atoms."""

from .buffers import BufferEstimate
from .carving import Cluster
from .energy_mixing import EnergyMixingCalculator
from .force_mixing import ForceMixingCalculator
from .moving import MovingRegions, RegionChange
from .paths import PathEnergies, path_energies
from .regions import Regions
from .subtractive import SubtractiveMixingCalculator

__all__ = [
    "BufferEstimate",
    "Cluster",
    "EnergyMixingCalculator",
    "ForceMixingCalculator",
    "MovingRegions",
    "PathEnergies",
    "RegionChange",
    "Regions",
    "SubtractiveMixingCalculator",
    "path_energies",
]
