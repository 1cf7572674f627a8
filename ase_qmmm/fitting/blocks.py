"""Blocks of rows of a linear fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Block"]


@dataclass(frozen=True)
class Block:
    """Rows of one source and kind: design (m, K), targets (m,), factors of the squared errors (m,).

    `unit` divides residuals where errors are stated: the number of atoms for energies and virials. A row
    stands for `sizes` equal ones, of which `factors` know already.
    """

    group: str
    kind: str
    design: np.ndarray
    targets: np.ndarray
    factors: np.ndarray
    unit: float
    sizes: np.ndarray | None = None
