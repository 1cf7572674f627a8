"""Energies along a path from forces alone, for mixtures whose forces are no gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from scipy.interpolate import Akima1DInterpolator, CubicSpline, PPoly

from ..errors import NumericsError, checked_keywords
from ..neighbours import unwrap

__all__ = ["PathEnergies", "path_energies"]

# Three points of Gauss on [-1, 1]: exact for a force times the tangent, of degrees 3 and 2.
NODES = np.array([-np.sqrt(0.6), 0.0, np.sqrt(0.6)])
SHARES = np.array([5.0, 8.0, 5.0]) / 9


@dataclass(frozen=True)
class PathEnergies:
    """Work along a path through m images.

    Attributes
    ----------
    distances : ndarray, shape (m,)
        Length of the path up to each image, along straight lines in all coordinates (Å).
    energies : ndarray, shape (m,)
        Energy above that of the first image (eV).
    errors : ndarray, shape (m,)
        Estimate of what the finite number of images does to them (eV).
    slopes : ndarray, shape (m,)
        ``dE/ds`` at the images (eV/Å).
    """

    distances: np.ndarray
    energies: np.ndarray
    errors: np.ndarray
    slopes: np.ndarray

    @property
    def curve(self) -> PPoly:
        """The energy (eV) as a function of the distance: a cubic polynomial between any two images."""
        s, e, d = self.distances, self.energies, self.slopes
        h = np.diff(s)
        rise = np.diff(e) / h
        c = np.array(
            [(d[:-1] + d[1:] - 2 * rise) / h**2, (3 * rise - 2 * d[:-1] - d[1:]) / h, d[:-1], e[:-1]]
        )
        return PPoly(c, s)

    @property
    def barrier(self) -> float:
        """Largest energy on the curve above the first image, eV."""
        return float(self._top()[1])

    @property
    def barrier_error(self) -> float:
        """Estimate of the error of :attr:`barrier`, eV."""
        return float(np.interp(self._top()[0], self.distances, self.errors))

    def _top(self) -> tuple[float, float]:
        curve = self.curve
        points = np.concatenate([self.distances, curve.derivative().roots(extrapolate=False)])
        points = points[np.isfinite(points)]
        values = curve(points)
        return float(points[np.argmax(values)]), float(values.max())

    def __str__(self) -> str:
        return (
            f"path of {self.distances[-1]:.3f} Å through {len(self.distances)} images: barrier "
            f"{self.barrier:.4f} +- {self.barrier_error:.1g} eV, end {self.energies[-1]:.4f} +- "
            f"{self.errors[-1]:.1g} eV"
        )


@checked_keywords
def path_energies(images: Sequence[Atoms], *, between: int = 0) -> PathEnergies:
    """Energy along a path, by the work of the forces.

        E(s) = -int_0^s F(t) . y'(t) dt,

    where positions y and forces F between the images are cubic splines of the distance s, as in [1]_ for the
    positions. Forces of force mixing have no other energy along a path; for a conservative model it is
    another way to the differences of its own energies. The error is the difference from the same integral
    with Akima's interpolation, of lower order. That the work depends on the path if the forces are no
    gradient is not in it: where the energies of both ends are known, e.g. equal by symmetry, look at
    ``energies[-1]``.

    Parameters
    ----------
    images : sequence of ase.Atoms
        At least 3, each with a calculator (or one for all), e.g. the ``images`` of a converged
        ``ase.mep.NEB``. Atoms may be wrapped: each is taken nearest to its place in the image before.
    between : int
        Number of structures on the spline between two images whose forces are computed as well. Where the
        force varies faster than the path bends, these are worth more than images.

    Returns
    -------
    PathEnergies

    Raises
    ------
    TypeError, ValueError
        Fewer than three images, other atoms or cells among them, an image without calculator, two images at
        the same place, `between` negative or no integer.
    NumericsError
        Forces that are not finite.

    References
    ----------
    .. [1] S. Makri, C. Ortner and J. R. Kermode, J. Chem. Phys. 150, 094109 (2019).

    Examples
    --------
    >>> from ase.build import add_adsorbate, fcc111
    >>> from ase.calculators.emt import EMT
    >>> from ase_qmmm.mixing import path_energies
    >>> images = [fcc111("Cu", (2, 2, 2), vacuum=5.0) for _ in range(5)]
    >>> for height, image in zip([1.9, 2.0, 2.1, 2.2, 2.3], images):
    ...     add_adsorbate(image, "Cu", height, "ontop")
    ...     image.calc = EMT()
    >>> work = path_energies(images)
    >>> true = images[-1].get_potential_energy() - images[0].get_potential_energy()
    >>> bool(abs(work.energies[-1] - true) < 1e-3)
    True
    """
    images = _checked(images)
    if isinstance(between, bool) or not isinstance(between, (int, np.integer)) or between < 0:
        raise ValueError(f"between: got {between!r}, expected a number of structures, 0 or more")
    m = len(images)
    positions = np.empty((m, len(images[0]), 3))
    positions[0] = images[0].positions
    for k, image in enumerate(images[1:], 1):
        positions[k] = unwrap(image.positions, positions[k - 1], image.cell.array, image.pbc)
    steps = np.linalg.norm(np.diff(positions, axis=0), axis=(1, 2))
    if (steps < 1e-8).any():
        k = int(np.argmin(steps))
        raise ValueError(f"images: numbers {k} and {k + 1} are at the same place; leave one out")
    # Atoms that stay where they are do no work.
    moving = np.ptp(positions, axis=0).max(axis=1) > 0
    s = np.concatenate([[0.0], np.cumsum(steps)])
    y = positions[:, moving].reshape(m, -1)
    path = CubicSpline(s, y)
    points = np.interp(np.arange((m - 1) * (between + 1) + 1) / (between + 1), np.arange(m), s)
    f = np.empty((len(points), y.shape[1]))
    for k, point in enumerate(points):
        image = images[k // (between + 1)]
        if k % (between + 1):
            calc, image = image.calc, image.copy()
            image.positions[moving] = path(point).reshape(-1, 3)
            image.calc = calc
        f[k] = _forces(image, k // (between + 1))[moving].ravel()
    at_image = slice(None, None, between + 1)
    energies = -_work(points, CubicSpline(points, f), path)[at_image]
    # Without forces between the images the path that belongs to those of the spline is a guess as well.
    other = path if between else Akima1DInterpolator(s, y)
    rougher = -_work(points, Akima1DInterpolator(points, f), other)[at_image]
    slopes = -np.einsum("mk,mk->m", f[at_image], path(s, 1))
    return PathEnergies(s, energies, np.abs(energies - rougher), slopes)


def _forces(image: Atoms, k: int) -> np.ndarray:
    values = np.asarray(image.get_forces(apply_constraint=False), dtype=float)
    if not np.isfinite(values).all():
        raise NumericsError(f"images: forces at number {k} are not finite")
    return values


def _work(s: np.ndarray, force: PPoly, path: PPoly) -> np.ndarray:
    """Integrals (m,) of ``force . path'`` from the first to each node."""
    half = np.diff(s) / 2
    points = (s[:-1] + half)[:, None] + half[:, None] * NODES
    power = np.einsum("iqk,iqk->iq", force(points), path(points, 1))
    return np.concatenate([[0.0], np.cumsum(half * (power @ SHARES))])


def _checked(images: Sequence[Atoms]) -> list[Atoms]:
    images = list(images)
    if not all(isinstance(image, Atoms) for image in images):
        raise TypeError("images: expected a sequence of ase.Atoms")
    if len(images) < 3:
        raise ValueError(f"images: got {len(images)}, expected at least 3")
    first = images[0]
    for k, image in enumerate(images):
        if not np.array_equal(image.numbers, first.numbers):
            raise ValueError(f"images: the elements of number {k} are not those of the first")
        if not np.allclose(image.cell.array, first.cell.array) or (image.pbc != first.pbc).any():
            raise ValueError(f"images: the cell of number {k} is not that of the first")
        if image.calc is None:
            raise ValueError(f"images: number {k} has no calculator")
    return images
