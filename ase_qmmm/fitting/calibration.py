"""Predicted standard deviations of forces against actual errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import erf

from .observations import Observations
from .plots import plot_calibration

__all__ = ["Calibration", "calibration"]


@dataclass(frozen=True)
class Calibration:
    """What a fit predicts of its force errors, and what they are, on data that it has not seen.

    Attributes
    ----------
    factor : float
        ``sqrt(mean (error / std)^2)``: what standard deviations are to be multiplied by. It is the most
        likely one for errors that are normally distributed with variances in proportion to those predicted.
    std : ndarray, shape (m,)
        Predicted standard deviation of each force component, before the factor (eV/Å).
    error : ndarray, shape (m,)
        Fit less reference (eV/Å).
    """

    factor: float
    std: np.ndarray
    error: np.ndarray

    def coverage(self, width: float = 1.0) -> float:
        """Fraction of components whose error is within `width` calibrated standard deviations.

        ``erf(width / sqrt 2)`` (0.683, 0.954 at 1, 2) if errors are normal with the variances predicted.
        """
        return float(np.mean(np.abs(self.error) <= width * self.factor * self.std))

    def __str__(self) -> str:
        parts = [
            f"within {w:g} sigma {100 * self.coverage(w):.1f} % (normal: {100 * erf(w / np.sqrt(2)):.1f} %)"
            for w in (1.0, 2.0)
        ]
        return (
            f"calibration factor {self.factor:.3g} from {len(self.std)} force components; {', '.join(parts)}"
        )

    def plot(self, path: str | Path | None = None, bins: int = 10) -> Any:
        """Actual against predicted errors in bins, see :func:`plot_calibration`."""
        return plot_calibration(self.std, self.error, self.factor, path, bins)


def calibration(result: Any, observations: Observations, root: np.ndarray, noise: bool) -> Calibration:
    """See :meth:`FitResult.calibrate`; `root` is a square root of the covariance."""
    basis, coefficients = result.potential.basis, result.solution.coefficients
    std, error = [np.zeros(0)], [np.zeros(0)]
    for c in observations.configurations:
        if c.forces is None:
            continue
        rows = basis.rows(c.atoms, virial=False)
        own = np.linalg.norm(rows.forces @ root, axis=1)
        std.append(np.hypot(own, result.force_noise(c.group)) if noise else own)
        error.append(rows.forces @ coefficients + (rows.core.forces - c.forces).ravel())
    predicted, actual = np.concatenate(std), np.concatenate(error)
    # Components that symmetry makes zero whatever the coefficients are say nothing.
    open_to_data = predicted > 1e-6 * predicted.max(initial=0.0)
    if not open_to_data.any():
        raise ValueError("images: no forces that depend on the coefficients; give structures with forces")
    predicted, actual = predicted[open_to_data], actual[open_to_data]
    factor = float(np.sqrt(np.mean((actual / predicted) ** 2)))
    return Calibration(factor, predicted, actual)
