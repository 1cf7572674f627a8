"""Weights of the two models: one on qm atoms, zero elsewhere, or smooth across a layer around them."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from ..neighbours import neighbour_pairs

__all__ = ["blend_weights", "smoothstep"]


def smoothstep(x: np.ndarray) -> np.ndarray:
    """``6 x^5 - 15 x^4 + 10 x^3``: from 0 at x <= 0 to 1 at x >= 1 with two continuous derivatives."""
    x = np.clip(x, 0.0, 1.0)
    step: np.ndarray = x**3 * (10.0 + x * (6.0 * x - 15.0))
    return step


def blend_weights(atoms: Atoms, core: np.ndarray, width: float) -> np.ndarray:
    """Weight (n,) of the quantum model: ``1 - smoothstep(d / width)``, d the distance to the core.

    Parameters
    ----------
    atoms : ase.Atoms
    core : ndarray of bool, shape (n,)
        Atoms of weight one.
    width : float
        Å; 0 for a sharp interface.
    """
    weights = core.astype(float)
    if width == 0 or not core.any():
        return weights
    i, j, d = neighbour_pairs(atoms, width, "ijd")
    from_core = core[i] & ~core[j]
    distance = np.full(len(atoms), np.inf)
    np.minimum.at(distance, j[from_core], d[from_core])
    layer = np.isfinite(distance)
    weights[layer] = 1.0 - smoothstep(distance[layer] / width)
    return weights
