"""Linear atomic cluster expansion: invariant basis functions, the potential made of them, rows for fits."""

from .basis import ACEBasis
from .derivatives import CauchyBornRows, CrystalRows
from .functions import BasisFunction
from .lammps import LAMMPSExport
from .potential import ACEPotential
from .rows import ACERows
from .yace import YACEPotential

__all__ = [
    "ACEBasis",
    "ACEPotential",
    "ACERows",
    "BasisFunction",
    "CauchyBornRows",
    "CrystalRows",
    "LAMMPSExport",
    "YACEPotential",
]
