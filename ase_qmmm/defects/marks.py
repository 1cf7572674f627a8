"""What the builders write into the atoms they return."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from ..mixing.regions import Regions

__all__ = ["mark_defect"]


def mark_defect(
    atoms: Atoms,
    name: str,
    core: Any,
    *,
    reference_positions: np.ndarray,
    basis: np.ndarray,
    frozen: np.ndarray | None = None,
) -> None:
    """Write name and core position into ``info``, reference, basis and frozen atoms into arrays.

    Where atoms are frozen, the array ``region`` and the tags say so too.
    """
    atoms.info["defect"] = name
    atoms.info["core"] = np.asarray(core, dtype=float)
    atoms.set_array("reference_positions", reference_positions, float, (3,))
    atoms.set_array("basis", basis, int)
    if frozen is not None:
        atoms.set_array("frozen", frozen, bool)
        Regions(None, frozen=frozen).write(atoms)
