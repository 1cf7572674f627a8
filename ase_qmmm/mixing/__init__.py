"""Mixtures of a quantum and a matched model over regions of atoms."""

from .carving import Cluster
from .force_mixing import ForceMixingCalculator
from .moving import MovingRegions, RegionChange
from .regions import Regions

__all__ = ["Cluster", "ForceMixingCalculator", "MovingRegions", "RegionChange", "Regions"]
