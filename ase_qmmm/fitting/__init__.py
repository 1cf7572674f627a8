"""Fitting linear models to a quantum model, and how well two models match."""

from .matching import MatchingErrors, matching_errors
from .solvers import SOLVERS, LinearSolution, QRBlocks, solve_linear

__all__ = ["SOLVERS", "LinearSolution", "MatchingErrors", "QRBlocks", "matching_errors", "solve_linear"]
