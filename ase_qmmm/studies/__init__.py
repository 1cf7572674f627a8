"""Studies: how errors fall with the size of the quantum region, as functions."""

from .convergence import ConvergenceStudy, Scheme, convergence_study

__all__ = ["ConvergenceStudy", "Scheme", "convergence_study"]
