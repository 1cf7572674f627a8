"""Crystal defects: builders of their atoms, and predictors of their elastic far field."""

from .core_plots import plot_differential_displacement
from .cracks import CrackPredictor, crack, griffith_stress_intensity
from .dislocation_analysis import burgers_circuit, nye_tensor
from .dislocation_fields import DislocationPredictor, SlipCompatiblePredictor
from .dislocation_lines import DislocationLine, dislocation_lines
from .dislocations import edge_dislocation, mixed_dislocation, screw_dislocation
from .elasticity import InternalDisplacements, elastic_constants
from .energies import formation_energy, surface_energy
from .loops import LoopPredictor, dislocation_loop
from .periodic import PeriodicDislocationPredictor, dislocation_dipole, dislocation_quadrupole
from .point import divacancy, interstitial, silicon_diinterstitial, vacancy, vacancy_cluster

__all__ = [
    "CrackPredictor",
    "DislocationLine",
    "DislocationPredictor",
    "InternalDisplacements",
    "LoopPredictor",
    "PeriodicDislocationPredictor",
    "SlipCompatiblePredictor",
    "burgers_circuit",
    "crack",
    "dislocation_dipole",
    "dislocation_lines",
    "dislocation_loop",
    "dislocation_quadrupole",
    "divacancy",
    "edge_dislocation",
    "elastic_constants",
    "formation_energy",
    "griffith_stress_intensity",
    "interstitial",
    "mixed_dislocation",
    "nye_tensor",
    "plot_differential_displacement",
    "screw_dislocation",
    "silicon_diinterstitial",
    "surface_energy",
    "vacancy",
    "vacancy_cluster",
]
