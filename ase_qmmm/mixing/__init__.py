"""Mixtures of a quantum and a matched model over regions of atoms."""

from .buffers import BufferError
from .carving import Cluster
from .force_mixing import ForceMixingCalculator
from .regions import Regions

__all__ = ["BufferError", "Cluster", "ForceMixingCalculator", "Regions"]
