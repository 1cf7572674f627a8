"""Linear atomic cluster expansion: invariant basis functions, the potential made of them, rows for fits."""

from .basis import ACEBasis
from .derivatives import CauchyBornRows, CrystalRows
from .functions import BasisFunction
from .potential import ACEPotential
from .rows import ACERows

__all__ = ["ACEBasis", "ACEPotential", "ACERows", "BasisFunction", "CauchyBornRows", "CrystalRows"]
