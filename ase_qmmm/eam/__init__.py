"""The embedded-atom method with site energies: potentials, kernels, derivatives at the crystal."""

from .calculator import EAM
from .potential import EAMPotential

__all__ = ["EAM", "EAMPotential"]
