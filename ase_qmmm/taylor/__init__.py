"""Far-field models by Taylor expansion about the crystal, from any quantum model."""

from .force_constants import ForceConstants
from .forces import TaylorForces

__all__ = ["ForceConstants", "TaylorForces"]
