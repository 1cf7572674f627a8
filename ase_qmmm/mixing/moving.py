"""Regions that follow the defect during a relaxation or molecular dynamics."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms

from ..crystal import Crystal
from ..errors import StructureError, check_positive, checked_keywords
from ..neighbours import distances_to, unwrap
from .regions import Regions, defect_centres, grow_mask

__all__ = ["MovingRegions", "RegionChange"]

log = logging.getLogger(__name__)

POLICIES = ("fixed", "hysteretic", "detect")


@dataclass(frozen=True)
class RegionChange:
    """One change of the regions: the call it happened at, and the atoms that became QM or ceased to be."""

    call: int
    entered: np.ndarray
    left: np.ndarray

    def __str__(self) -> str:
        return f"call {self.call}: {len(self.entered)} atoms become qm, {len(self.left)} cease to be"


class MovingRegions:
    """Keeps the regions of a mixture where the defect is, between the steps of an ASE optimiser or MD run.

    Attach it: ``dynamics.attach(MovingRegions(atoms, ...), interval=1)``. It looks at the geometry, and sets
    ``atoms.calc.regions`` when the QM atoms change, so that the next step carves anew. The buffer is grown
    from the new QM atoms each time, and also when atoms have drifted: no step sees a stale buffer. A change
    of regions changes the forces, and the energy with them; between changes they are smooth.

    Parameters
    ----------
    atoms : ase.Atoms
        With a ``ForceMixingCalculator`` or ``EnergyMixingCalculator``.
    policy : {"fixed", "hysteretic", "detect"}
        ``"fixed"``: QM atoms stay; the buffer is renewed. ``"hysteretic"``: an atom becomes QM nearer than
        `r_inner` to one of the centres and stays until it is further than `r_outer`. ``"detect"``: the same
        about centres that are found anew from the misfit to `crystal` (:meth:`Regions.detect`).
    centres : array_like, shape (3,) or (m, 3), or list of int, optional
        For ``"hysteretic"``: points (Å), or numbers of atoms, whose present positions count.
    r_inner, r_outer : float, optional
        Å, ``r_inner < r_outer``; their difference should exceed the amplitude of vibrations.
    r_buffer : float
        Width of the buffer (Å).
    crystal : Crystal, optional
        For ``"detect"``; default that of the calculator.
    drift : float
        Å. The buffer is renewed when an atom has moved by more than this relative to the mean.
    tolerance : float, optional
        Of ``"detect"``, see :meth:`Regions.detect`.

    Attributes
    ----------
    history : list of RegionChange

    Raises
    ------
    TypeError, ValueError
        Arguments that do not belong together; a calculator without regions.
    StructureError
        On a call: no defect found, or no QM atom left.

    Examples
    --------
    >>> dynamics = VelocityVerlet(atoms, 1.0 * fs)  # doctest: +SKIP
    >>> regions = MovingRegions(atoms, "detect", r_inner=6.0, r_outer=7.0, r_buffer=8.0)  # doctest: +SKIP
    >>> dynamics.attach(regions, interval=5)  # doctest: +SKIP
    """

    @checked_keywords
    def __init__(
        self,
        atoms: Atoms,
        policy: str = "detect",
        *,
        centres: Any = None,
        r_inner: float | None = None,
        r_outer: float | None = None,
        r_buffer: float,
        crystal: Crystal | None = None,
        drift: float = 0.5,
        tolerance: float | None = None,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy: got {policy!r}, expected one of {', '.join(POLICIES)}")
        if not isinstance(getattr(atoms.calc, "regions", None), Regions):
            raise TypeError(f"atoms: calculator {type(atoms.calc).__name__} has no regions to move")
        self.r_buffer = check_positive("r_buffer", r_buffer, "Å", zero=True)
        self.drift = check_positive("drift", drift, "Å")
        self.policy, self.tolerance = policy, tolerance
        self.crystal = crystal if crystal is not None else getattr(atoms.calc, "crystal", None)
        if policy == "fixed":
            if not (r_inner is None and r_outer is None and centres is None):
                raise ValueError("r_inner, r_outer, centres: policy 'fixed' takes none of them")
        else:
            if r_inner is None or r_outer is None:
                raise ValueError(f"r_inner, r_outer: policy {policy!r} needs both (Å)")
            inner, outer = check_positive("r_inner", r_inner, "Å"), check_positive("r_outer", r_outer, "Å")
            if not inner < outer:
                raise ValueError(f"r_outer: got {outer:g} Å, expected more than r_inner = {inner:g} Å")
            self.r_inner, self.r_outer = inner, outer
        if policy == "hysteretic" and centres is None:
            raise ValueError("centres: policy 'hysteretic' needs points or numbers of atoms")
        if policy == "detect":
            if centres is not None:
                raise ValueError("centres: policy 'detect' finds them; leave them out")
            if self.crystal is None:
                raise ValueError("crystal: policy 'detect' needs the reference lattice")
        self.atoms = atoms
        self.history: list[RegionChange] = []
        self._centres = _checked_centres(centres, len(atoms))
        self._calls = 0
        # So that widths and buffer hold from the first step on.
        self._update(first=True)

    def __call__(self) -> None:
        """Look at the atoms, and move the regions if need be (called by ASE's dynamics)."""
        self._calls += 1
        self._update(first=False)

    def _update(self, *, first: bool) -> None:
        atoms = self.atoms
        old = atoms.calc.regions.for_atoms(len(atoms))
        qm = self._qm(old)
        if not qm.any():
            raise StructureError("regions: no qm atom is left near the centres; check them, or r_inner")
        changed = not np.array_equal(qm, old.qm)
        if changed:
            change = RegionChange(self._calls, np.flatnonzero(qm & ~old.qm), np.flatnonzero(old.qm & ~qm))
            self.history.append(change)
            log.info("regions, %s", change)
        if first or changed or self._drifted():
            buffer = grow_mask(atoms, qm, self.r_buffer) & ~qm
            self._seen = atoms.positions.copy()
            if changed or not np.array_equal(buffer, old.buffer):
                if not changed and not first:
                    log.info("regions, call %d: buffer renewed, %d atoms", self._calls, int(buffer.sum()))
                # Frozen atoms stay frozen, unless the defect has come to them.
                frozen = old.frozen & ~qm
                _set_regions(atoms.calc, Regions(qm, buffer, frozen if frozen.any() else None))

    def _qm(self, old: Regions) -> np.ndarray:
        if self.policy == "fixed":
            return old.qm
        atoms = self.atoms
        if self.policy == "detect":
            assert self.crystal is not None
            points = defect_centres(atoms, self.crystal, self.tolerance)
        elif self._centres.ndim == 1:
            points = atoms.positions[self._centres]
        else:
            points = self._centres
        distance = distances_to(atoms, points, 1.001 * self.r_outer)
        qm: np.ndarray = (distance <= self.r_inner) | (old.qm & (distance <= self.r_outer))
        return qm

    def _drifted(self) -> bool:
        atoms = self.atoms
        moved = unwrap(atoms.positions, self._seen, atoms.cell.array, atoms.pbc) - self._seen
        moved -= moved.mean(axis=0)
        return bool(np.einsum("nc,nc->n", moved, moved).max(initial=0.0) > self.drift**2)


def _checked_centres(centres: Any, n: int) -> np.ndarray:
    """Points (m, 3), or numbers of atoms (m,)."""
    if centres is None:
        return np.zeros((0, 3))
    array = np.asarray(centres)
    if np.issubdtype(array.dtype, np.integer) and array.ndim == 1:
        if ((array < -n) | (array >= n)).any():
            raise ValueError(
                f"centres: atom {array[(array < -n) | (array >= n)][0]} is out of range for {n} atoms"
            )
        return array
    points = np.atleast_2d(np.asarray(centres, dtype=float))
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError("centres: expected points (3,) or (m, 3), or a list of numbers of atoms")
    return points


def _set_regions(calc: Any, regions: Regions) -> None:
    # The buffer is ours: a width that the calculator was given belongs to its first regions.
    if getattr(calc, "r_buffer", None) is not None:
        calc.r_buffer = None
    calc.regions = regions
