"""Far-field predictors of straight dislocations: anisotropic elasticity, and its slip-compatible form.

Coordinates are those of the dislocation: x along the edge part of the Burgers vector, y normal to the glide
plane, z along the line.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matscipy.dislocation import AnisotropicDislocation
from matscipy.elasticity import Voigt_6x6_to_full_3x3x3x3, full_3x3x3x3_to_Voigt_6x6

from ..errors import NumericsError, check_positive

__all__ = ["DislocationPredictor", "SlipCompatiblePredictor", "stiffness_tensor"]


def stiffness_tensor(constants: Any) -> np.ndarray:
    """Elastic constants as a tensor (3, 3, 3, 3), from that or from Voigt's matrix (6, 6).

    Raises
    ------
    ValueError
        Another shape, or not positive definite.
    """
    given = np.asarray(constants, dtype=float)
    if given.shape == (6, 6):
        given = Voigt_6x6_to_full_3x3x3x3((given + given.T) / 2)
    if given.shape != (3, 3, 3, 3):
        raise ValueError(
            f"elastic_constants: got shape {given.shape}, expected (6, 6) (Voigt) or (3, 3, 3, 3), in eV/Å^3"
        )
    voigt = full_3x3x3x3_to_Voigt_6x6(given, check_symmetry=False)
    if not np.isfinite(voigt).all() or np.linalg.eigvalsh((voigt + voigt.T) / 2).min() <= 0:
        raise ValueError(
            "elastic_constants: expected a positive definite matrix (a stable crystal), in eV/Å^3"
        )
    tensor: np.ndarray = given
    return tensor


def _stroh(constants: np.ndarray, burgers: np.ndarray) -> AnisotropicDislocation:
    """Stroh solution; isotropic constants, for which it degenerates, are made anisotropic by 1e-6."""
    voigt = full_3x3x3x3_to_Voigt_6x6(constants, check_symmetry=False)
    mean = np.trace(voigt) / 6
    rng = np.random.default_rng(0)
    for size in (0.0, 1e-6, 1e-5):
        noise = rng.normal(size=(6, 6))
        with np.errstate(all="ignore"):
            solution = AnisotropicDislocation(
                np.eye(3), [0, 1, 0], [0, 0, 1], burgers, C=voigt + size * mean * (noise + noise.T)
            )
        vectors, forces = solution.Nv[:3], solution.Nv[3:]
        closed = np.abs(vectors @ forces.T - np.eye(3)).max() if np.isfinite(solution.Nv).all() else np.inf
        # 2 A_a . L_a = 1 is how the vectors are scaled; near a degeneracy it blows them up.
        if closed < 1e-6 and np.abs(vectors * np.linalg.norm(forces, axis=0)).max() < 1e4:
            return solution
    raise NumericsError("elastic_constants: the Stroh problem has no complete set of solutions")


class DislocationPredictor:
    """Displacement of a straight dislocation in an infinite anisotropic medium.

    ``u(x) = Re (1 / (pi i)) sum_a A_a (L_a . b) log(x + p_a y)`` over the three Stroh roots with positive
    imaginary part, cut along y = 0, x > 0, where ``u(0+) - u(0-) = -b``: anticlockwise around the line u
    grows by b [1]_ [2]_.

    Parameters
    ----------
    elastic_constants : array_like, shape (6, 6) or (3, 3, 3, 3)
        In the axes of the dislocation (eV/Å^3, or any unit: only ratios matter).
    burgers : array_like, shape (3,)
        Burgers vector in the same axes (Å).
    core : array_like, shape (2,) or (3,)
        Position of the line (Å); z is not used.

    Raises
    ------
    ValueError
        Constants that are not those of a stable solid, a zero Burgers vector.

    References
    ----------
    .. [1] J. P. Hirth and J. Lothe, Theory of Dislocations, 2nd ed., p. 467; roots from
       ``matscipy.dislocation.AnisotropicDislocation``.
    .. [2] QM/MM methods for crystalline defects, part 3, eq. (A.3).
    """

    def __init__(self, elastic_constants: Any, burgers: Any, core: Any = (0.0, 0.0)) -> None:
        self.elastic_constants = stiffness_tensor(elastic_constants)
        self.burgers = np.asarray(burgers, dtype=float)
        if self.burgers.shape != (3,) or not np.isfinite(self.burgers).all() or not self.burgers.any():
            raise ValueError(f"burgers: got {burgers!r}, expected a vector (3,) in Å, not zero")
        self.core = np.asarray(core, dtype=float)[:2].copy()
        if self.core.shape != (2,) or not np.isfinite(self.core).all():
            raise ValueError(f"core: got {core!r}, expected x and y in Å")
        solution = _stroh(self.elastic_constants, self.burgers)
        upper = solution.Np.imag > 0
        self.roots = solution.Np[upper]
        # (3, 3): component of the displacement, root
        self.amplitudes = solution.Nv[:3, upper] * (self.burgers @ solution.Nv[3:, upper]) / (np.pi * 1j)

    def _planar(self, positions: Any) -> np.ndarray:
        points = np.asarray(positions, dtype=float)
        if points.ndim != 2 or points.shape[1] not in (2, 3):
            raise ValueError(f"positions: got shape {points.shape}, expected (n, 3)")
        relative: np.ndarray = points[:, :2] - self.core
        return relative

    def _elastic_displacement(self, r: np.ndarray) -> np.ndarray:
        # Angles between 0 and 2 pi: those of -r lie between -pi and pi, half a turn behind.
        eta = -(r[:, :1] + r[:, 1:] * self.roots)
        u: np.ndarray = np.real((np.log(eta) + 1j * np.pi) @ self.amplitudes.T)
        return u

    def _elastic_gradient(self, r: np.ndarray) -> np.ndarray:
        inverse = 1 / (r[:, :1] + r[:, 1:] * self.roots)
        gradient = np.zeros((len(r), 3, 3))
        gradient[:, :, 0] = np.real(inverse @ self.amplitudes.T)
        gradient[:, :, 1] = np.real(inverse @ (self.amplitudes * self.roots).T)
        return gradient

    def displacement(self, positions: Any) -> np.ndarray:
        """Displacement (n, 3) in Å of the sites at `positions` (n, 3) of the perfect crystal."""
        return self._elastic_displacement(self._planar(positions))

    def gradient(self, positions: Any) -> np.ndarray:
        """``du_i / dx_j`` (n, 3, 3)."""
        return self._elastic_gradient(self._planar(positions))


class SlipCompatiblePredictor(DislocationPredictor):
    """Elastic field of a dislocation that leaves no trace of the branch cut in the lattice.

    ``u_0(x) = u(xi^-1(x))`` with ``xi(x) = x - b_12 / (2 pi) eta(|x| / r_hat) arg(x)`` [1]_: below the cut
    the field is taken at the place in which the lattice stands after the slip, so that the two sides match
    as lattices, not only as media. The force on the unrelaxed crystal then decays as ``r^-3`` all around.

    Parameters
    ----------
    elastic_constants, burgers, core
        See :class:`DislocationPredictor`; the Burgers vector has y = 0.
    r_hat : float
        Radius (Å) from which xi has its full form; at least three times the edge part of the Burgers
        vector, so that xi does not fold over. Default 0: eta = 1 throughout, which is one-to-one on planes
        of atoms further than ``|b_12| / (2 pi)`` from the cut and leaves no trace of it in the core either.

    References
    ----------
    .. [1] QM/MM methods for crystalline defects, part 3, eqs. (A.2) and (A.4).
    """

    def __init__(
        self, elastic_constants: Any, burgers: Any, core: Any = (0.0, 0.0), r_hat: float = 0.0
    ) -> None:
        super().__init__(elastic_constants, burgers, core)
        size = float(np.linalg.norm(self.burgers))
        if abs(self.burgers[1]) > 1e-6 * size:
            raise ValueError(
                f"burgers: got {burgers!r}, expected y = 0; turn the axes so that x is along the edge part"
            )
        edge = float(self.burgers[0])
        self._edge = edge if abs(edge) > 1e-9 * size else 0.0
        self.r_hat = check_positive("r_hat", r_hat, "Å", zero=True)
        if 0 < self.r_hat < 3 * abs(self._edge):
            raise ValueError(
                f"r_hat: got {self.r_hat:g} Å, expected 0 or at least three times the edge part, "
                f"{3 * abs(self._edge):g} Å"
            )

    def _slip(self, r: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """``x - xi(x)`` along x (n,), and its gradient (n, 2)."""
        radius = np.maximum(np.hypot(r[:, 0], r[:, 1]), 1e-12)
        angle = np.arctan2(-r[:, 1], -r[:, 0]) + np.pi
        factor = self._edge / (2 * np.pi)
        turn = np.column_stack([-r[:, 1], r[:, 0]]) / (radius**2)[:, None]
        if self.r_hat == 0:
            return factor * angle, factor * turn
        eta, slope = smooth_step(radius / self.r_hat)
        radial = r / radius[:, None] * (slope * angle / self.r_hat)[:, None]
        return factor * eta * angle, factor * (eta[:, None] * turn + radial)

    def unslipped(self, positions: Any) -> np.ndarray:
        """``xi^-1`` (n, 2) of the sites, relative to the core (Å)."""
        r = self._planar(positions)
        if self._edge == 0:
            return r
        # xi^-1 lies between x and x + b; xi grows with x.
        low, high = r + [min(self._edge, 0.0), 0.0], r + [max(self._edge, 0.0), 0.0]
        z = (low + high) / 2
        for _ in range(60):
            above = z[:, 0] - self._slip(z)[0] > r[:, 0]
            high[above, 0] = z[above, 0]
            low[~above, 0] = z[~above, 0]
            z = (low + high) / 2
        return np.asarray(z)

    def displacement(self, positions: Any) -> np.ndarray:
        """Displacement (n, 3) in Å of the sites at `positions` (n, 3) of the perfect crystal."""
        return self._elastic_displacement(self.unslipped(positions))

    def gradient(self, positions: Any) -> np.ndarray:
        """``du_i / dx_j`` (n, 3, 3)."""
        z = self.unslipped(positions)
        gradient = self._elastic_gradient(z)
        if self._edge == 0:
            return gradient
        slip = self._slip(z)[1]
        # z = x + s(z) along x only, so that dz/dx = 1 + e_x (ds) / (1 - ds_x).
        along = slip / (1 - slip[:, :1])
        gradient[:, :, :2] += gradient[:, :, :1] * along[:, None, :]
        return gradient


def smooth_step(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A smooth step from 0 at t <= 0 to 1 at t >= 1 with all derivatives, and its slope (at most 2)."""
    t = np.asarray(t, dtype=float)
    inside = np.clip(t, 1e-3, 1 - 1e-3)
    rise, fall = np.exp(-1 / inside), np.exp(-1 / (1 - inside))
    value = np.where(t <= 1e-3, 0.0, np.where(t >= 1 - 1e-3, 1.0, rise / (rise + fall)))
    slope = rise * fall * (inside**-2 + (1 - inside) ** -2) / (rise + fall) ** 2
    return value, np.where((t <= 1e-3) | (t >= 1 - 1e-3), 0.0, slope)
