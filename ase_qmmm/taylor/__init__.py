"""Far-field models by Taylor expansion about the crystal, from any quantum model."""

from .cauchy_born import CauchyBornDerivatives, cauchy_born_of_sites
from .crystal_derivatives import CrystalDerivatives
from .force_constants import ForceConstants
from .forces import TaylorForces

__all__ = [
    "CauchyBornDerivatives",
    "CrystalDerivatives",
    "ForceConstants",
    "TaylorForces",
    "cauchy_born_of_sites",
]
