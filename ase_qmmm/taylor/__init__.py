"""Far-field models by Taylor expansion about the crystal, from any quantum model."""

from .crystal_derivatives import CrystalDerivatives
from .force_constants import ForceConstants
from .forces import TaylorForces
from .potential import TaylorPotential

__all__ = ["CrystalDerivatives", "ForceConstants", "TaylorForces", "TaylorPotential"]
