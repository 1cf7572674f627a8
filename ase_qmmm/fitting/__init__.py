"""Fitting linear models to a quantum model, and how well two models match."""

from .calibration import Calibration
from .fit import FitResult, fit_ace, smoothness_prior
from .hessians import force_constant_error, hessian
from .matching import MatchingErrors, matching_errors
from .observations import Configuration, Observations
from .plots import plot_calibration, plot_parity
from .selection import SELECTION_METHODS, select
from .solvers import SOLVERS, LinearSolution, QRBlocks, solve_linear

__all__ = [
    "SELECTION_METHODS",
    "SOLVERS",
    "Calibration",
    "Configuration",
    "FitResult",
    "LinearSolution",
    "MatchingErrors",
    "Observations",
    "QRBlocks",
    "fit_ace",
    "force_constant_error",
    "hessian",
    "matching_errors",
    "plot_calibration",
    "plot_parity",
    "select",
    "smoothness_prior",
    "solve_linear",
]
