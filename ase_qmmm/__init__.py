"""QM/MM for crystal defects with ASE: quantum accuracy near the defect, a matched model far away."""

from .ace import ACEBasis, ACEPotential, YACEPotential
from .contract import check_calculator
from .crystal import Crystal
from .eam import EAM
from .errors import ChildCalculatorError, MatchError, NumericsError, QMMMError, StructureError
from .fitting import FitResult, Observations, fit_ace, matching_errors
from .mixing import EnergyMixingCalculator, ForceMixingCalculator, Regions, SubtractiveMixingCalculator
from .norms import displacement_gradient, energy_norm
from .sites import SiteCalculator, SiteResult
from .stencils import StencilMatch
from .taylor import TaylorForces, TaylorPotential, TaylorSeries
from .tightbinding import (
    BandGap,
    DivideAndConquer,
    Embedded,
    TightBinding,
    band_gap,
    band_structure,
    density_of_states,
    fermi_level,
)

__version__ = "0.1.0"

__all__ = [
    "EAM",
    "ACEBasis",
    "ACEPotential",
    "BandGap",
    "ChildCalculatorError",
    "Crystal",
    "DivideAndConquer",
    "Embedded",
    "EnergyMixingCalculator",
    "FitResult",
    "ForceMixingCalculator",
    "MatchError",
    "NumericsError",
    "Observations",
    "QMMMError",
    "Regions",
    "SiteCalculator",
    "SiteResult",
    "StencilMatch",
    "StructureError",
    "SubtractiveMixingCalculator",
    "TaylorForces",
    "TaylorPotential",
    "TaylorSeries",
    "TightBinding",
    "YACEPotential",
    "band_gap",
    "band_structure",
    "check_calculator",
    "density_of_states",
    "displacement_gradient",
    "energy_norm",
    "fermi_level",
    "fit_ace",
    "matching_errors",
]
