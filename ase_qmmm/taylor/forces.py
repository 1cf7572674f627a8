"""TaylorForces: the matched far-field model of order one."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from ..crystal import Crystal
from ..errors import MatchError, check_positive, check_structure, checked_keywords
from ..neighbours import unwrap
from ..sites import SiteCalculator, SiteResult, check_weights
from ..stencils import StencilMatch, cell_deformation
from .finite_differences import displacement_derivatives
from .force_constants import ForceConstants
from .kernels import site_forces, weighted_gradient
from .triangles import triangle_decomposition

__all__ = ["TaylorForces"]

# Types of compiled functions are numba's affair.
_kernel_forces: Any = site_forces
_kernel_gradient: Any = weighted_gradient


class TaylorForces(SiteCalculator):
    """First-order Taylor expansion of a model's forces about its perfect crystal.

    With ``g_rho = y(m(rho)) - y(l) - rho`` over the stencil of atom l [1]_,

        F_l = -sum_rho Phi(rho) g_rho,        Phi(rho) = d2E / dy_l dy_(l + rho) at the crystal.

    It is conservative: the forces are the gradient of the sum of the site energies

        E_l = E_0 - 1/4 sum_rho g_rho . Phi(rho) g_rho + sum_t b_t . (g_rho(t) x g_sigma(t)),

    where the last term carries the antisymmetric part of Phi (see :mod:`ase_qmmm.taylor.triangles`). Both
    depend on displacement differences only, so that translation invariance (the acoustic sum rule) and zero
    force on the perfect crystal survive the cutoff.

    Parameters
    ----------
    force_constants : ForceConstants
        Usually made by :meth:`from_calculator`.
    missing_tolerance : float
        An atom may lack the neighbour at rho (a vacancy in its stencil) if
        ``|Phi(rho)| <= missing_tolerance |Phi(0)|``; the term is left out then. Otherwise it is an error.

    Raises
    ------
    MatchError
        On evaluation: an atom that is asked for sits on no site, lacks a neighbour that matters, or has moved
        by more than 0.45 nearest-neighbour distances relative to a neighbour.

    References
    ----------
    .. [1] H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), QM/MM methods for crystalline
       defects, part 2, eq. (71).

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> from ase_qmmm import Crystal, TaylorForces
    >>> crystal = Crystal.relaxed(bulk("Cu"), EMT())
    >>> mm = TaylorForces.from_calculator(EMT(), crystal, order=1, cutoff=6.0)
    >>> atoms = crystal.supercell(3)
    >>> atoms.calc = mm
    >>> bool(abs(atoms.get_forces()).max() < 1e-10)
    True
    """

    @checked_keywords
    def __init__(self, force_constants: ForceConstants, *, missing_tolerance: float = 0.01) -> None:
        super().__init__()
        self.crystal = force_constants.crystal
        self.missing_tolerance = check_positive("missing_tolerance", missing_tolerance, zero=True)
        triangles, matrices = triangle_decomposition(
            self.crystal, force_constants.cutoff, force_constants.matrices
        )
        self.force_constants = ForceConstants(
            self.crystal, force_constants.cutoff, matrices, force_constants.energies, force_constants.label
        )
        self._triangles = triangles
        self._match: StencilMatch | None = None
        self._tables: dict[str, np.ndarray] = {}

    @classmethod
    @checked_keywords
    def from_calculator(
        cls,
        qm: Calculator,
        crystal: Crystal,
        order: int = 1,
        cutoff: float = 8.0,
        *,
        missing_tolerance: float = 0.01,
        progress: bool = False,
    ) -> TaylorForces:
        """Expand the forces of `qm` about `crystal`.

        Parameters
        ----------
        qm : ase.calculators.calculator.Calculator
            A model with exact second derivatives (``TightBinding``), or any ASE calculator, whose forces are
            differenced then (:func:`~ase_qmmm.taylor.displacement_derivatives`).
        crystal : Crystal
            At the lattice constant of `qm` (``Crystal.relaxed``).
        order : int
            Order of the expansion of the forces; 1.
        cutoff : float
            Radius of the stencils (Å).
        missing_tolerance : float
            See the class.
        progress : bool
            Show a progress bar.

        Raises
        ------
        ValueError
            Order other than 1, cutoff not positive or below the nearest-neighbour distance.
        """
        if not isinstance(crystal, Crystal):
            raise TypeError(
                f"crystal: got {type(crystal).__name__}, expected Crystal (make one of a unit cell)"
            )
        if order != 1:
            raise ValueError(f"order: got {order!r}, expected 1")
        check_positive("cutoff", cutoff, "Å")
        if cutoff < crystal.nearest_neighbour_distance:
            raise ValueError(
                f"cutoff: got {cutoff:g} Å, expected more than the nearest-neighbour distance, "
                f"{crystal.nearest_neighbour_distance:.4f} Å"
            )
        exact = getattr(qm, "force_constants", None)
        if callable(exact):
            constants = exact(crystal, cutoff, progress=progress)
        else:
            derivatives = displacement_derivatives(qm, crystal, 1, cutoff, progress=progress)
            constants = ForceConstants.from_derivatives(derivatives)
        return cls(constants, missing_tolerance=missing_tolerance)

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Radius of the stencils (Å)."""
        return self.force_constants.cutoff

    def __repr__(self) -> str:
        sizes = [len(phi) for phi in self.force_constants.matrices]
        return (
            f"TaylorForces(order 1, cutoff {self.cutoff:g} Å, {max(sizes)} neighbours, "
            f"{self.crystal._unit_cell.get_chemical_formula()}, from {self.force_constants.label})"
        )

    # -- evaluation ------------------------------------------------------------------------------------------

    def evaluate(self, atoms: Atoms, weights: np.ndarray | None = None) -> SiteResult:
        """Weighted site energies and their exact gradient; see :class:`SiteCalculator`."""
        check_structure(atoms)
        site_weights = check_weights(weights, len(atoms))
        if len(atoms) == 0:
            return SiteResult(0.0, np.zeros(0), np.zeros((0, 3)), np.zeros((3, 3)))
        sites = np.arange(len(atoms)) if site_weights is None else np.flatnonzero(site_weights)
        positions, energies, forces, virial = self._site_forces(atoms, sites, virial=site_weights is None)
        if site_weights is None:
            energy = float(energies.sum())
        else:
            forces, virial = _kernel_gradient(positions, *self._tables.values(), sites, site_weights)
            energy = float(site_weights @ energies)
        return SiteResult(energy, energies, forces, self._turned_virial(virial))

    def evaluate_sites(self, atoms: Atoms, sites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies (n,) and forces (n, 3) of the atoms in `sites`; the others are never looked at."""
        check_structure(atoms)
        listed = np.flatnonzero(sites)
        if len(listed) == 0:
            return np.zeros(len(atoms)), np.zeros((len(atoms), 3))
        _, energies, forces, _ = self._site_forces(atoms, listed, virial=False)
        return energies, forces

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
        rotation, constants, crystal = match.rotation, self.force_constants, self.crystal
        width = match.neighbours.shape[1]
        phi = np.zeros((crystal.n_basis, width, 3, 3))
        rho = np.zeros((crystal.n_basis, width, 3))
        shell = np.zeros(crystal.n_basis, dtype=int)
        for a, matrices in enumerate(constants.matrices):
            phi[a, : len(matrices)] = rotation @ matrices @ rotation.T
            vectors = crystal.stencil(a, self.cutoff)
            rho[a, : len(matrices)] = vectors @ rotation.T
            shell[a] = np.sum(np.linalg.norm(vectors, axis=1) < 1.2 * crystal.nearest_neighbour_distance)
        counts = [len(t.first) for t in self._triangles]
        self._tables = {
            "translations": match.shifts @ match.cell,
            "neighbours": match.neighbours,
            "basis": match.basis,
            "rho": rho,
            "phi": phi,
            "starts": np.concatenate([[0], np.cumsum(counts)]).astype(int),
            "first": np.concatenate([t.first for t in self._triangles]),
            "second": np.concatenate([t.second for t in self._triangles]),
            "axial": np.concatenate([t.vectors for t in self._triangles]) @ rotation.T,
        }
        self._shell = shell
        self._stretch = _cell_stretch(match)
        # Sites that may not be evaluated, with the norm of what they lack.
        lost = np.where(match.missing, np.linalg.norm(phi, axis=(2, 3))[match.basis], 0.0).max(
            axis=1, initial=0.0
        )
        scale = max(float(np.linalg.norm(constants.onsite(a))) for a in range(crystal.n_basis))
        self._lost = np.where(match.basis < 0, np.inf, lost)
        self._bad = self._lost > self.missing_tolerance * scale

    def _site_forces(
        self, atoms: Atoms, sites: np.ndarray, *, virial: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Unwrapped positions, energies, forces and virial of `sites`, where the match must hold."""
        limit = 0.45 * self.crystal.nearest_neighbour_distance
        for attempt in range(2):
            match = self.match(atoms)
            y = np.ascontiguousarray(
                unwrap(atoms.positions, match.positions, match.cell, match.pbc), dtype=float
            )
            moved = y - match.positions
            if attempt == 0 and np.einsum("nc,nc->n", moved, moved).max(initial=0.0) > limit**2:
                # An atom may have left its site for another one, out of sight of the sites evaluated.
                self._match = None
                continue
            bad = sites[self._bad[sites]]
            if not len(bad):
                energies, forces, total, largest, worst = _kernel_forces(
                    y, *self._tables.values(), sites, self._shell, virial
                )
                if largest <= limit**2:
                    energies[sites] += self.force_constants.energies[match.basis[sites]]
                    return y, energies, forces, total
            if attempt == 0 and not np.array_equal(match.positions, atoms.positions):
                # The atoms may have been replaced by others of the same kind: look again, once.
                self._match = None
                continue
            break
        if len(bad):
            self._raise_bad(atoms, bad)
        raise MatchError(
            f"TaylorForces: atom {worst} has moved {np.sqrt(largest):.2f} Å relative to a neighbour, more "
            f"than {limit:.2f} Å; the expansion about the crystal does not hold there, make it a QM atom"
        )

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

    def _raise_bad(self, atoms: Atoms, bad: np.ndarray) -> None:
        match = self._current
        no_site = bad[match.basis[bad] < 0]
        if len(no_site):
            raise MatchError(
                f"TaylorForces: {len(no_site)} atoms sit on no site of the crystal (first: atom {no_site[0]} "
                f"at {np.round(atoms.positions[no_site[0]], 3).tolist()}); they belong into the QM region"
            )
        worst = int(bad[np.argmax(self._lost[bad])])
        lacking = match.missing[worst]
        distance = float(np.linalg.norm(match.vectors[worst][lacking], axis=1).min())
        norms = [np.linalg.norm(phi, axis=(1, 2)) for phi in self.force_constants.matrices]
        scale = max(
            float(np.linalg.norm(self.force_constants.onsite(a))) for a in range(self.crystal.n_basis)
        )
        lengths = [np.linalg.norm(self.crystal.stencil(a, self.cutoff), axis=1) for a in range(len(norms))]
        needed = max(
            float(r[n > self.missing_tolerance * scale].max(initial=0.0))
            for r, n in zip(lengths, norms, strict=True)
        )
        raise MatchError(
            f"TaylorForces: {len(bad)} atoms lack neighbours that matter (worst: atom {worst} at "
            f"{np.round(atoms.positions[worst], 3).tolist()}, nothing at {distance:.2f} Å where the crystal "
            f"has an atom): a defect or a surface lies in their stencil. Make every atom within "
            f"{needed:.2f} Å of it a QM atom (r_qm > {needed:.2f} Å), freeze it, or lower the cutoff"
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
