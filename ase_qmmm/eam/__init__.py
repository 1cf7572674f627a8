"""The embedded-atom method with site energies: potentials from files or in closed form, kernels, derivatives."""

from .calculator import EAM
from .potential import EAMPotential

__all__ = ["EAM", "EAMPotential"]
