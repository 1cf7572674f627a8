"""What the Taylor models share: the match with the crystal, where they refuse, the trust radius."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ase import Atoms

from ..crystal import Crystal
from ..errors import MatchError, check_positive
from ..neighbours import unwrap
from ..sites import SiteCalculator
from ..stencils import StencilMatch, cell_deformation
from .cauchy_born import CauchyBornDerivatives, cauchy_born_of_terms
from .polynomials import Terms

__all__ = ["TaylorModel", "checked_cutoffs"]

log = logging.getLogger(__name__)

# Result of a kernel: what it computed, the largest first-shell |g|^2 and the atom where it was found.
Computed = tuple[Any, float, int]


def checked_cutoffs(
    crystal: Crystal, order: Any, allowed: Sequence[int], cutoff: float | Sequence[float]
) -> dict[int, float]:
    """Cutoffs (Å) by order from one number or one per order, after all checks of the arguments."""
    if not isinstance(crystal, Crystal):
        raise TypeError(f"crystal: got {type(crystal).__name__}, expected Crystal (make one of a unit cell)")
    if order not in allowed:
        expected = ", ".join(map(str, allowed[:-1])) + f" or {allowed[-1]}"
        raise ValueError(f"order: got {order!r}, expected {expected}")
    radii = [cutoff] * order if np.ndim(cutoff) == 0 else list(np.asarray(cutoff).ravel())
    if len(radii) != order:
        raise ValueError(f"cutoff: got {len(radii)} radii for {order} orders; give one, or one per order")
    near = crystal.nearest_neighbour_distance
    out = {}
    for j, radius in enumerate(radii, start=1):
        out[j] = check_positive("cutoff", radius, "Å")
        if out[j] < near:
            raise ValueError(
                f"cutoff: got {radius:g} Å, expected more than the nearest-neighbour distance, {near:.4f} Å"
            )
    return out


class TaylorModel(SiteCalculator):
    """Base class of expansions about a crystal; see :class:`TaylorPotential` and :class:`TaylorForces`."""

    crystal: Crystal

    def __init__(
        self, crystal: Crystal, missing_tolerance: float, trust: float | None, on_distrust: str
    ) -> None:
        super().__init__()
        self.crystal = crystal
        self.missing_tolerance = check_positive("missing_tolerance", missing_tolerance, zero=True)
        near = crystal.nearest_neighbour_distance
        self.trust = 0.45 * near if trust is None else check_positive("trust", trust, "Å")
        if on_distrust not in ("raise", "warn"):
            raise ValueError(f"on_distrust: got {on_distrust!r}, expected 'raise' or 'warn'")
        self.on_distrust = on_distrust
        self._match: StencilMatch | None = None
        self._warned = False

    def _width(self) -> int:
        """Number of vectors of the largest stencil."""
        return max(len(self.crystal.stencil(a, self.cutoff)) for a in range(self.crystal.n_basis))

    def _parameters(self) -> dict[str, Any]:
        """Arguments of the base class, for files."""
        return {
            "missing_tolerance": self.missing_tolerance,
            "trust": self.trust,
            "on_distrust": self.on_distrust,
        }

    def _influences(self) -> list[np.ndarray]:
        """Per basis atom, the part (s,) of the coefficients that each stencil vector has."""
        raise NotImplementedError

    def _set_tables(self, match: StencilMatch) -> None:
        """Make what the kernels need for a match."""
        raise NotImplementedError

    @property
    def _site_energies(self) -> tuple[list[list[Terms]], np.ndarray, str]:
        """Polynomials of the site energies per basis atom, their constants (eV), the source."""
        raise NotImplementedError

    def cauchy_born_derivatives(
        self, crystal: Crystal | None = None, order: int = 2, *, relaxed: bool = False
    ) -> CauchyBornDerivatives:
        """Derivatives of the model's own energy per cell by the deformation gradient: its elastic constants.

        Parameters
        ----------
        crystal : Crystal, optional
            As of other models; only that of the expansion.
        order : int
            At most 3.
        relaxed : bool
            Eliminate the displacements of the basis atoms.

        Raises
        ------
        ValueError
            `order` out of range, or another crystal.
        """
        if crystal is not None and crystal is not self.crystal:
            raise ValueError("crystal: an expansion holds about its own crystal only; leave this out")
        if order not in (1, 2, 3):
            raise ValueError(f"order: got {order!r}, expected 1, 2 or 3")
        terms, energies, label = self._site_energies
        return cauchy_born_of_terms(
            self.crystal, self.cutoff, terms, float(energies.sum()), order, relaxed=relaxed, label=label
        )

    def match(self, atoms: Atoms) -> StencilMatch:
        """The stencil match in use for `atoms`, made at the first call for a structure."""
        if self._match is None or not self._match.fits(atoms):
            self._set_match(self.crystal.match(atoms, self.cutoff))
        return self._current

    @property
    def _current(self) -> StencilMatch:
        assert self._match is not None
        return self._match

    def _set_match(self, match: StencilMatch) -> None:
        self._match = match
        self._warned = False
        crystal = self.crystal
        width = match.neighbours.shape[1]
        rho = np.zeros((crystal.n_basis, width, 3))
        influence = np.zeros((crystal.n_basis, width))
        shell = np.zeros(crystal.n_basis, dtype=int)
        missing = match.missing
        parts = self._influences() if missing.any() else [np.zeros(0)] * crystal.n_basis
        for a, part in enumerate(parts):
            vectors = crystal.stencil(a, self.cutoff)
            rho[a, : len(vectors)] = vectors
            influence[a, : len(part)] = part
            shell[a] = np.sum(np.linalg.norm(vectors, axis=1) < 1.2 * crystal.nearest_neighbour_distance)
        self._rho, self._shell, self._stretch = rho, shell, _cell_stretch(match)
        # Sites that may not be evaluated, with the share of the coefficients that they lack.
        lost = np.where(missing, influence[match.basis], 0.0).max(axis=1, initial=0.0)
        self._lost = np.where(match.basis < 0, np.inf, lost)
        self._bad = self._lost > self.missing_tolerance
        self._set_tables(match)

    def _computed(
        self,
        atoms: Atoms,
        sites: np.ndarray,
        compute: Callable[[np.ndarray, StencilMatch], Computed],
        reach: float = 0.0,
    ) -> Any:
        """What ``compute(y, match)`` gives for `sites` at unwrapped positions y, where the match holds.

        Atoms that moved far since the match was made are matched anew: in the glide of a dislocation they
        have other neighbours then. `reach` (Å): how far from an atom that is asked for its `sites` lie.
        """
        name, limit = type(self).__name__, self.trust
        for attempt in range(2):
            match = self.match(atoms)
            y = np.ascontiguousarray(
                unwrap(atoms.positions, match.positions, match.cell, match.pbc), dtype=float
            )
            moved = y - match.positions
            farthest = np.einsum("nc,nc->n", moved, moved)
            if attempt == 0 and farthest.max(initial=0.0) > limit**2:
                # An atom may have left its site for another one, out of sight of the sites evaluated.
                far = int(np.argmax(farthest))
                log.info("%s: atom %d has moved %.2f Å: matched anew", name, far, np.sqrt(farthest[far]))
                self._match = None
                continue
            bad = sites[self._bad[sites]]
            if not len(bad):
                result, largest, worst = compute(y, match)
                if largest <= limit**2:
                    return result
            if attempt == 0 and not np.array_equal(match.positions, atoms.positions):
                # The atoms may have been replaced by others of the same kind: look again, once.
                log.info("%s: neighbours have changed: matched anew", name)
                self._match = None
                continue
            break
        if len(bad):
            self._raise_bad(atoms, bad, reach)
        text = (
            f"{name}: atom {worst} has moved {np.sqrt(largest):.2f} Å relative to a neighbour, more than the "
            f"trust radius, {limit:.2f} Å; the expansion about the crystal does not hold there"
        )
        if self.on_distrust == "raise":
            raise MatchError(f"{text}, make it a QM atom (or pass a larger trust, or on_distrust='warn')")
        if not self._warned:
            self._warned = True
            warnings.warn(text, stacklevel=2)
        return result

    def _turned_virial(self, virial: np.ndarray) -> np.ndarray:
        """Virial -dE/dstrain (3, 3), with the turn of the orientation R under the strain.

        `virial` W is at fixed R. In a periodic cell F = V R follows the cell: a strain e of a stretched cell
        turns R by an angle ``e_ij (v_j - v_i) / (v_i + v_j)`` in the axes of V, which does work on the
        antisymmetric part of W. As E does not change when atoms and R turn together, the sum is
        ``W_ij 2 v_i / (v_i + v_j)``, symmetrised.
        """
        if self._stretch is not None:
            v, axes = self._stretch
            virial = axes @ (axes.T @ virial @ axes * (2 * v[:, None] / (v[:, None] + v))) @ axes.T
        symmetric: np.ndarray = (virial + virial.T) / 2
        return symmetric

    def _raise_bad(self, atoms: Atoms, bad: np.ndarray, reach: float) -> None:
        match, name = self._current, type(self).__name__
        no_site = bad[match.basis[bad] < 0]
        if len(no_site):
            raise MatchError(
                f"{name}: {len(no_site)} atoms sit on no site of the crystal (first: atom {no_site[0]} "
                f"at {np.round(atoms.positions[no_site[0]], 3).tolist()}); they belong into the QM region"
            )
        worst = int(bad[np.argmax(self._lost[bad])])
        lacking = match.missing[worst]
        distance = float(np.linalg.norm(match.vectors[worst][lacking], axis=1).min())
        lengths = [
            np.linalg.norm(self.crystal.stencil(a, self.cutoff), axis=1) for a in range(len(self._rho))
        ]
        needed = max(
            float(r[: len(part)][part > self.missing_tolerance].max(initial=0.0))
            for r, part in zip(lengths, self._influences(), strict=True)
        )
        needed += reach
        raise MatchError(
            f"{name}: {len(bad)} atoms lack neighbours that matter (worst: atom {worst} at "
            f"{np.round(atoms.positions[worst], 3).tolist()}, nothing at {distance:.2f} Å where the crystal "
            f"has an atom): a defect or a surface lies in their stencil. Make every atom within "
            f"{needed:.2f} Å of it a QM atom (r_qm > {needed:.2f} Å), freeze it, or lower the cutoff"
            f"{self._distance_to_defect(atoms, bad, reach)}"
        )

    def _distance_to_defect(self, atoms: Atoms, bad: np.ndarray, reach: float) -> str:
        """How far the atoms that lack neighbours reach from the defective atoms, as text."""
        defective = np.flatnonzero(self._current.defect())
        if not len(defective):
            return ""
        nearest = [
            atoms.get_distances(int(l), defective, mic=bool(atoms.pbc.any())).min() for l in bad[:1000]
        ]
        far = int(np.argmax(nearest))
        if nearest[far] == 0:
            return (
                f"; all of them are among the {len(defective)} atoms at the defect, which may be larger than "
                f"it seems: Regions.detect finds it whole, and counts r_qm from there"
            )
        place = f"{reach:.2f} Å beyond" if reach else "the distance of"
        return (
            f"; counted from the {len(defective)} atoms at the defect, use "
            f"r_qm >= {nearest[far] + reach:.2f} Å, {place} atom {bad[far]}"
        )


def _cell_stretch(match: StencilMatch) -> tuple[np.ndarray, np.ndarray] | None:
    """Principal stretches (3,) and axes (3, 3) of the left stretch V of a cell whose F = V R fixes R."""
    cell = Atoms(cell=match.cell, pbc=match.pbc)
    gradient = cell_deformation(match.crystal, cell, match.rotation)
    if gradient is None or len(match.crystal.lattice) < 3:
        return None
    stretch = gradient @ match.rotation.T
    v, axes = np.linalg.eigh((stretch + stretch.T) / 2)
    return v, axes
