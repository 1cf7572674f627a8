"""Mixtures of a quantum and a matched model over regions of atoms."""

from .buffers import BufferEstimate
from .carving import Cluster
from .energy_mixing import EnergyMixingCalculator
from .force_mixing import ForceMixingCalculator
from .moving import MovingRegions, RegionChange
from .regions import Regions
from .subtractive import SubtractiveMixingCalculator

__all__ = [
    "BufferEstimate",
    "Cluster",
    "EnergyMixingCalculator",
    "ForceMixingCalculator",
    "MovingRegions",
    "RegionChange",
    "Regions",
    "SubtractiveMixingCalculator",
]
