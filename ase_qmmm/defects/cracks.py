"""Cracks in a cylinder around the tip, loaded by the near-tip field of anisotropic elasticity."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.units import GPa
from matscipy.elasticity import full_3x3x3x3_to_Voigt_6x6
from matscipy.fracture_mechanics.crack import CubicCrystalCrack

from ..crystal import Crystal
from ..errors import check_positive, checked_keywords
from .dislocation_fields import stiffness_tensor
from .dislocations import check_core, internal_shift
from .elasticity import InternalDisplacements
from .frame import LineFrame, direction, line_frame, plane_normal
from .marks import mark_defect

__all__ = ["MPA_SQRT_M", "CrackPredictor", "crack", "griffith_stress_intensity"]

MPA_SQRT_M = 100.0 * GPa
"""1 MPa sqrt(m) in eV/Å^(5/2)."""


class CrackPredictor:
    """Displacement near the tip of a crack in plane strain, ``u ~ K sqrt(2 r / pi)`` [1]_.

    Axes: x the direction of growth, y normal to the crack, z along its front; the crack is y = 0, x < 0.

    Parameters
    ----------
    elastic_constants : array_like, shape (6, 6) or (3, 3, 3, 3)
        In these axes (eV/Å^3).
    k_i, k_ii : float
        Stress intensity factors of modes I and II (MPa sqrt(m)).
    tip : array_like, shape (2,) or (3,)
        Position of the tip (Å).

    References
    ----------
    .. [1] G. C. Sih, P. C. Paris, G. R. Irwin, Int. J. Fract. Mech. 1, 189 (1965), as in
       ``matscipy.fracture_mechanics.crack.CubicCrystalCrack``.
    """

    def __init__(self, elastic_constants: Any, k_i: float, k_ii: float = 0.0, tip: Any = (0.0, 0.0)) -> None:
        self._solution = _solution(stiffness_tensor(elastic_constants))
        self.k_i, self.k_ii = float(k_i), float(k_ii)
        if not np.isfinite([self.k_i, self.k_ii]).all():
            raise ValueError(f"k_i, k_ii: got {k_i!r}, {k_ii!r}, expected finite numbers")
        self.tip = np.asarray(tip, dtype=float)[:2].copy()

    def displacement(self, positions: Any) -> np.ndarray:
        """Displacement (n, 3) in Å of the sites at `positions` (n, 3) of the perfect crystal."""
        r = np.asarray(positions, dtype=float)[:, :2] - self.tip
        u = np.zeros((len(r), 3))
        u[:, 0], u[:, 1] = self._solution.displacements_from_cartesian_coordinates(
            r[:, 0], r[:, 1], self.k_i * MPA_SQRT_M, self.k_ii * MPA_SQRT_M
        )
        return u

    def gradient(self, positions: Any) -> np.ndarray:
        """``du_i / dx_j`` (n, 3, 3)."""
        r = np.asarray(positions, dtype=float)[:, :2] - self.tip
        gradient = np.zeros((len(r), 3, 3))
        # matscipy's rows are directions of the derivative.
        deformation = self._solution.deformation_gradient_from_cartesian_coordinates(
            r[:, 0], r[:, 1], self.k_i * MPA_SQRT_M, self.k_ii * MPA_SQRT_M
        )
        gradient[:, :2, :2] = np.swapaxes(deformation, 1, 2) - np.eye(2)
        return gradient


def _solution(tensor: np.ndarray) -> CubicCrystalCrack:
    """Sih's solution; isotropic constants, for which its two roots meet, are made anisotropic by 1e-6."""
    voigt = full_3x3x3x3_to_Voigt_6x6(tensor, check_symmetry=False)
    solution = CubicCrystalCrack([0, 1, 0], [0, 0, 1], Crot=voigt)
    if abs(solution.crack.mu1 - solution.crack.mu2) < 1e-4:
        shifted = voigt.copy()
        shifted[0, 0] *= 1 + 1e-6
        solution = CubicCrystalCrack([0, 1, 0], [0, 0, 1], Crot=shifted)
    return solution


def _crack_frame(crystal: Crystal, plane: Any, front: Any) -> LineFrame:
    return line_frame(crystal, direction(crystal, "front", front), plane_normal(crystal, "plane", plane))


@checked_keywords
def griffith_stress_intensity(
    crystal: Crystal, plane: Any, front: Any, *, elastic_constants: Any, surface_energy: float
) -> float:
    """K_G (MPa sqrt(m)), at which the energy released by a crack pays for its two surfaces.

    Parameters
    ----------
    crystal : Crystal
    plane, front : array_like, shape (3,)
        Miller indices of the crack plane, direction of its front.
    elastic_constants : array_like, shape (6, 6) or (3, 3, 3, 3)
        Of the model, in the axes of the crystal (eV/Å^3).
    surface_energy : float
        Of the plane (eV/Å^2); see :func:`surface_energy`.
    """
    check_positive("surface_energy", surface_energy, "eV/Å^2")
    frame = _crack_frame(crystal, plane, front)
    solution = _solution(frame.rotate_tensor(stiffness_tensor(elastic_constants)))
    return float(solution.k1g(surface_energy)) / MPA_SQRT_M


@checked_keywords
def crack(
    crystal: Crystal,
    plane: Any,
    front: Any,
    k_i: float,
    *,
    elastic_constants: Any,
    k_ii: float = 0.0,
    radius: float = 50.0,
    frozen_width: float = 15.0,
    tip: Any = None,
    n_periods: int = 1,
    internal: InternalDisplacements | None = None,
) -> Atoms:
    """A crack in a cylinder around its tip, periodic along the front, at the near-tip elastic field.

    Axes: x the direction of growth, y normal to the crack, z along the front. The flanks are free surfaces
    that run out through the frozen shell.

    Parameters
    ----------
    crystal : Crystal
    plane, front : array_like, shape (3,)
        Miller indices of the crack plane, direction [uvw] of its front.
    k_i, k_ii : float
        Stress intensity factors (MPa sqrt(m)); see :func:`griffith_stress_intensity`.
    elastic_constants : array_like, shape (6, 6) or (3, 3, 3, 3)
        Of the model, in the axes of the crystal (eV/Å^3).
    radius, frozen_width, n_periods, internal
        As for :func:`edge_dislocation`.
    tip : array_like, shape (2,), optional
        Relative to the first basis atom (Å); default between columns, in the widest gap between planes.

    Returns
    -------
    ase.Atoms
        As from :func:`edge_dislocation`; ``info["core"]`` is the tip, ``info["k_i"]`` and ``info["k_ii"]``
        the load.

    Raises
    ------
    ValueError
        A front that does not lie in the plane, a tip on a plane of atoms, a load that closes the crack.
    """
    check_positive("k_i", k_i, "MPa sqrt(m)")
    check_positive("radius", radius, "Å")
    check_positive("frozen_width", frozen_width, "Å")
    frame = _crack_frame(crystal, plane, front)
    centre = _default_tip(frame) if tip is None else np.asarray(tip, dtype=float)
    if centre.shape != (2,) or not np.isfinite(centre).all():
        raise ValueError(f"tip: got {tip!r}, expected x and y in Å")
    check_core(frame, centre)
    atoms, basis = frame.cylinder(radius + frozen_width, centre, n_periods)
    middle = atoms.cell.array.diagonal() / 2
    predictor = CrackPredictor(frame.rotate_tensor(stiffness_tensor(elastic_constants)), k_i, k_ii, middle)
    reference = atoms.positions.copy()
    atoms.positions += predictor.displacement(reference)
    if internal is not None:
        atoms.positions += internal_shift(frame, internal, predictor.gradient(reference), basis)
    distance = np.linalg.norm(reference[:, :2] - middle[:2], axis=1)
    mark_defect(
        atoms,
        "crack",
        [middle[0], middle[1], 0.0],
        reference_positions=reference,
        frozen=distance > radius,
        basis=basis,
    )
    atoms.info["line"] = np.array([0.0, 0.0, 1.0])
    atoms.info["orientation"] = frame.rotation.copy()
    atoms.info["k_i"], atoms.info["k_ii"] = float(k_i), float(k_ii)
    return atoms


def _default_tip(frame: LineFrame) -> np.ndarray:
    near = frame.crystal.nearest_neighbour_distance
    columns = np.unique(np.round(frame.sites(6 * near, np.zeros(2))[0][:, :2], 5), axis=0)
    heights = np.unique(columns[:, 1])
    gaps, middles = np.diff(heights), (heights[1:] + heights[:-1]) / 2
    k = np.lexsort((np.abs(middles), -np.round(gaps, 4)))[0]
    x = np.unique(columns[np.isin(columns[:, 1], heights[k : k + 2]), 0])
    between = (x[1:] + x[:-1]) / 2
    return np.array([between[np.argmin(np.abs(between))], middles[k]])
