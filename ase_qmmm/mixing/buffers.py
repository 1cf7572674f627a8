"""What a finite buffer does to the forces: a mixture against the same one with a better buffer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from ..errors import StructureError, check_positive
from .embedding import embeds
from .regions import Regions, grow_mask

if TYPE_CHECKING:
    from .base import MixingCalculator

__all__ = ["BufferEstimate", "buffer_error"]

log = logging.getLogger(__name__)

WIDER = 3.0  # Å, without a crystal


@dataclass(frozen=True)
class BufferEstimate:
    """Difference of the forces from those with a better buffer.

    Attributes
    ----------
    largest : float
        Largest difference of the force on an atom (eV/Å).
    rms : float
        Root mean square over the qm atoms (eV/Å).
    atom : int
        Where it is largest.
    against : str
        What the forces were compared with.
    fmax : float
        Force (eV/Å) that the structure is to be relaxed to.
    """

    largest: float
    rms: float
    atom: int
    against: str
    fmax: float

    @property
    def acceptable(self) -> bool:
        """Whether the largest difference is at most a tenth of `fmax`."""
        return self.largest <= self.fmax / 10

    def __str__(self) -> str:
        verdict = (
            "small enough" if self.acceptable else "too large: widen the buffer (r_buffer), or relax to less"
        )
        return (
            f"buffer error: largest {self.largest:.2g} eV/Å (atom {self.atom}), rms {self.rms:.2g} eV/Å on "
            f"qm atoms, against {self.against}; for fmax = {self.fmax:g} eV/Å {verdict}"
        )


def buffer_error(calc: MixingCalculator, atoms: Atoms, fmax: float, wider: float | None) -> BufferEstimate:
    """See :meth:`MixingCalculator.buffer_error`."""
    fmax = check_positive("fmax", fmax, "eV/Å")
    if wider is None:
        crystal = calc.crystal
        wider = WIDER if crystal is None else 1.2 * crystal.nearest_neighbour_distance
    wider = check_positive("wider", wider, "Å")
    forces = np.array(calc.get_property("forces", atoms))
    better, against = _better_forces(calc, atoms, wider)
    difference = np.linalg.norm(better - forces, axis=1)
    used = calc.weights > 0
    found = BufferEstimate(
        largest=float(difference.max(initial=0.0)),
        rms=float(np.sqrt((difference[used] ** 2).mean())) if used.any() else 0.0,
        atom=int(np.argmax(difference)) if len(difference) else -1,
        against=against,
        fmax=fmax,
    )
    log.log(logging.INFO if found.acceptable else logging.WARNING, "%s", found)
    return found


def _better_forces(calc: MixingCalculator, atoms: Atoms, wider: float) -> tuple[np.ndarray, str]:
    regions = calc.regions
    options = calc._options()
    kinds = {cluster.kind for cluster in calc.clusters}
    if kinds == {"open"} and embeds(calc.qm):
        try:
            other = type(calc)(calc.qm, calc.mm, regions, **(options | {"cluster": "embedded"}))
            return np.array(other.get_property("forces", atoms)), "the same cluster embedded"
        except (StructureError, ValueError) as error:
            log.info("no embedded cluster to compare with: %s", error)
    members = grow_mask(atoms, regions.qm | regions.buffer | (calc.weights > 0), wider)
    wide = Regions(regions.qm, members & ~regions.qm, regions.frozen)
    # Of the same kind, but for boxes that would not fit.
    kind = "open" if kinds == {"open"} else "embedded" if kinds == {"embedded"} else "auto"
    other = type(calc)(calc.qm, calc.mm, wide, **(options | {"cluster": kind}))
    return np.array(other.get_property("forces", atoms)), f"a buffer wider by {wider:.2f} Å"
