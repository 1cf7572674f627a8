"""QM/MM for crystal defects with ASE: quantum accuracy near the defect, a matched model far away."""

from .crystal import Crystal
from .sites import SiteCalculator, SiteResult
from .taylor import TaylorForces
from .tightbinding import TightBinding, fermi_level
