"""Far-field models by Taylor expansion about the crystal, from any quantum model."""

from .cauchy_born import CauchyBornDerivatives, cauchy_born_of_sites
from .crystal_derivatives import CrystalDerivatives
from .finite_differences import displacement_derivatives
from .fitted import fitted_derivatives
from .force_constants import ForceConstants
from .force_jobs import ForceJobs
from .forces import TaylorForces
from .phonons import phonon_band_structure, phonon_energies
from .potential import TaylorPotential
from .series import TaylorSeries
from .site_series import SiteSeries

__all__ = [
    "CauchyBornDerivatives",
    "CrystalDerivatives",
    "ForceConstants",
    "ForceJobs",
    "SiteSeries",
    "TaylorForces",
    "TaylorPotential",
    "TaylorSeries",
    "cauchy_born_of_sites",
    "displacement_derivatives",
    "fitted_derivatives",
    "phonon_band_structure",
    "phonon_energies",
]
