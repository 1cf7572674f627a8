"""Periodic arrays of straight dislocations: dipoles and quadrupoles without net Burgers vector."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms

from ..crystal import Crystal
from ..errors import StructureError, check_positive, checked_keywords
from ..neighbours import neighbour_pairs
from .dislocation_fields import DislocationPredictor, stiffness_tensor
from .dislocations import (
    burgers_vector,
    check_core,
    default_core,
    dislocation_frame,
    internal_shift,
)
from .elasticity import InternalDisplacements
from .frame import LineFrame, direction, plane_normal, widest_plane
from .marks import mark_defect

__all__ = ["PeriodicDislocationPredictor", "dislocation_dipole", "dislocation_quadrupole"]


class PeriodicDislocationPredictor:
    """Elastic displacement of a doubly periodic array of dislocation pairs.

    Each pair is a dislocation b at ``(x_1, y_1)`` and one of -b at ``(x_2, y_2)``; the cuts lie between them.
    Along x the images are summed in closed form, ``log(x + p y)`` becoming ``log sin(pi (x + p y) / L)``,
    after which rows of pairs decay exponentially with their distance. What such a sum leaves open, a
    homogeneous strain, is fixed by zero mean elastic distortion [1]_: the mean gradient of the
    displacement is that of the slip alone, ``H = -sum_pairs b (x) n d / area`` with the normal n and the
    length d of the cut. By H the cell tilts. Edge parts are taken slip-compatible, ``u(xi^-1(x))``, as in
    :class:`SlipCompatiblePredictor`.

    Parameters
    ----------
    elastic_constants : array_like, shape (6, 6) or (3, 3, 3, 3)
        In the axes of the dislocations (x glide, y normal, z line).
    burgers : array_like, shape (3,)
        Of the first dislocation of each pair (Å); its y is 0.
    pairs : array_like, shape (m, 4)
        ``x_1, y_1, x_2, y_2`` of each pair (Å); the heights are equal unless the dislocations are screws.
    cell : array_like, shape (2, 2)
        Periods in the plane (Å); the first is along x.

    Attributes
    ----------
    mean_gradient : ndarray, shape (3, 3)
        H.

    References
    ----------
    .. [1] W. Cai, V. V. Bulatov, J. Chang, J. Li, S. Yip, Philos. Mag. 83, 539 (2003).
    """

    def __init__(self, elastic_constants: Any, burgers: Any, pairs: Any, cell: Any) -> None:
        single = DislocationPredictor(elastic_constants, burgers)
        self.burgers = single.burgers
        self.pairs = np.atleast_2d(np.asarray(pairs, dtype=float))
        self.cell = np.asarray(cell, dtype=float)
        if self.cell.shape != (2, 2) or abs(self.cell[0, 1]) > 1e-9 or not (np.diag(self.cell) > 0).all():
            raise ValueError(
                f"cell: got {cell!r}, expected two vectors in the plane, the first along +x, the "
                f"second with y > 0"
            )
        if self.pairs.ndim != 2 or self.pairs.shape[1] != 4:
            raise ValueError(f"pairs: got shape {self.pairs.shape}, expected (m, 4): x_1, y_1, x_2, y_2")
        size = float(np.linalg.norm(self.burgers))
        self._edge = float(self.burgers[0]) if abs(self.burgers[0]) > 1e-9 * size else 0.0
        if abs(self.burgers[1]) > 1e-6 * size:
            raise ValueError(f"burgers: got {burgers!r}, expected y = 0: it lies in the glide plane")
        if self._edge and np.abs(self.pairs[:, 1] - self.pairs[:, 3]).max() > 1e-6:
            raise ValueError(
                "pairs: expected y_1 = y_2, as between edge dislocations in different planes atoms lack"
            )
        area = self.cell[0, 0] * self.cell[1, 1]
        across = (self.pairs[:, 2:] - self.pairs[:, :2]).sum(axis=0)
        slip = np.array([across[1], -across[0]]) / area
        self.mean_gradient = np.zeros((3, 3))
        self.mean_gradient[:, :2] = np.outer(self.burgers, slip)
        self._field = _RowSum(
            self.pairs, self.cell, single.roots, single.amplitudes, self.mean_gradient[:, :2]
        )
        # The slip function, the angle over 2 pi with the same cuts: periodic, so that xi is.
        self._slip = _RowSum(
            self.pairs, self.cell, np.array([1j]), np.array([[1 / (2j * np.pi)]]), np.zeros((1, 2))
        )

    def unslipped(self, positions: Any) -> np.ndarray:
        """``xi^-1`` (n, 2) of the sites (Å)."""
        x = np.asarray(positions, dtype=float)[:, :2]
        z = x.copy()
        if self._edge:
            for _ in range(60):
                moved = x[:, 0] + self._edge * self._slip.value(z)[:, 0]
                change = float(np.abs(moved - z[:, 0]).max(initial=0.0))
                z[:, 0] = moved
                if change < 1e-11:
                    break
        return z

    def displacement(self, positions: Any) -> np.ndarray:
        """Displacement (n, 3) in Å of the sites at `positions` (n, 3) of the perfect crystal.

        ``u(x + c) = u(x) + mean_gradient c`` for a period c, but for the slip of cuts passed.
        """
        return self._field.value(self.unslipped(positions))

    def gradient(self, positions: Any) -> np.ndarray:
        """``du_i / dx_j`` (n, 3, 3), periodic."""
        z = self.unslipped(positions)
        gradient = np.zeros((len(z), 3, 3))
        gradient[:, :, :2] = self._field.gradient(z)
        if self._edge:
            slip = self._edge * self._slip.gradient(z)[:, 0]
            gradient[:, :, :2] += gradient[:, :, :1] * (slip / (1 - slip[:, :1]))[:, None, :]
        return gradient


class _RowSum:
    """``Re sum_a c_a sum [log(x + p_a y) of the first - of the second]`` over pairs and their images."""

    def __init__(
        self, pairs: np.ndarray, cell: np.ndarray, roots: np.ndarray, amplitudes: np.ndarray, mean: np.ndarray
    ) -> None:
        self.pairs, self.cell, self.roots, self.amplitudes = pairs, cell, roots, amplitudes
        # Rows whose exp(-2 pi Im(p) y / L) is above rounding.
        decay = 2 * np.pi * roots.imag.min() * cell[1, 1] / cell[0, 0]
        self.n_rows = int(np.ceil(40 / decay)) + 2
        # Rows alone repeat along x, and change by a constant from one cell to the next above.
        self.linear = np.zeros((len(amplitudes), 2))
        probe = np.array([[0.1234, pairs[:, 1::2].min() - 1e-3]])
        step = cell[1]
        self.linear[:, 0] = mean[:, 0]
        excess = mean @ step - (self.value(probe + step) - self.value(probe))[0]
        self.linear[:, 1] = excess / step[1] + self.linear[:, 1]

    def _lines(self, points: np.ndarray) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
        """Sign, side (n, 1) and ``2 i pi side eta / L`` (n, roots) of every row of like dislocations."""
        length = self.cell[0, 0]
        for row in range(-self.n_rows, self.n_rows + 1):
            for x1, y1, x2, y2 in self.pairs:
                for sign, x, y in ((1.0, x1, y1), (-1.0, x2, y2)):
                    r = points - row * self.cell[1] - [x, y]
                    side = np.where(r[:, 1:] > 0, 1.0, -1.0)
                    yield sign, side, 2j * np.pi / length * side * (r[:, :1] + r[:, 1:] * self.roots)

    def value(self, points: np.ndarray) -> np.ndarray:
        """(n, components)."""
        logs = np.zeros((len(points), len(self.roots)), dtype=complex)
        for sign, side, wave in self._lines(points):
            # log sin(pi eta / L) up to a constant, analytic above and below the row; the two meet at
            # 0 < x < L, and differ by 2 pi i in the next period.
            logs += sign * (np.log1p(-np.exp(wave)) - wave / 2 + 0.5j * np.pi * side)
        value: np.ndarray = np.real(logs @ self.amplitudes.T) + points @ self.linear.T
        return value

    def gradient(self, points: np.ndarray) -> np.ndarray:
        """(n, components, 2)."""
        slopes = np.zeros((len(points), len(self.roots)), dtype=complex)
        for sign, side, wave in self._lines(points):
            decaying = np.exp(wave)
            slopes += sign * 2j * np.pi / self.cell[0, 0] * side * (-decaying / (1 - decaying) - 0.5)
        along = np.real(slopes @ self.amplitudes.T)
        across = np.real(slopes @ (self.amplitudes * self.roots).T)
        return np.stack([along, across], axis=2) + self.linear


@checked_keywords
def dislocation_dipole(
    crystal: Crystal,
    burgers: Any,
    *,
    elastic_constants: Any,
    size: Any = (60.0, 40.0),
    line: Any = None,
    plane: Any = None,
    n_periods: int = 1,
    internal: InternalDisplacements | None = None,
    tilt: bool = True,
) -> Atoms:
    """A periodic cell with a dislocation and its opposite, half a cell apart in one glide plane.

    Parameters
    ----------
    crystal : Crystal
    burgers : array_like, shape (3,)
        Burgers vector in units of the conventional cell; see :func:`edge_dislocation`.
    elastic_constants : array_like, shape (6, 6) or (3, 3, 3, 3)
        Of the model, in the axes of the crystal.
    size : sequence of two float
        Least lengths of the cell along glide and normal to the glide plane (Å).
    line : array_like, shape (3,), optional
        Line direction [uvw]; default a screw.
    plane : array_like, shape (3,), optional
        Glide plane; default the widest spaced one that contains line and Burgers vector.
    n_periods : int
        Length of the cell along the line in periods.
    internal : InternalDisplacements, optional
        Shifts the basis atoms of a multi-lattice with the local strain.
    tilt : bool
        Tilt the cell by the mean slip, which takes the mean stress away. Without it the cell keeps the stress
        of the strain that is missing, 3 to 5 GPa for tungsten in a cell of 60 Å, which drives the pair
        together.

    Returns
    -------
    ase.Atoms
        As from :func:`edge_dislocation`, ``info["core"]`` the first core and ``info["cores"]`` (m, 3) all.

    Raises
    ------
    ValueError, StructureError
        As for :func:`edge_dislocation`; cores closer than three nearest-neighbour distances.
    """
    return _array(
        "dislocation dipole",
        crystal,
        burgers,
        elastic_constants,
        size,
        line,
        plane,
        n_periods,
        internal,
        tilt,
    )


@checked_keywords
def dislocation_quadrupole(
    crystal: Crystal,
    burgers: Any,
    *,
    elastic_constants: Any,
    size: Any = (60.0, 60.0),
    line: Any = None,
    plane: Any = None,
    n_periods: int = 1,
    internal: InternalDisplacements | None = None,
) -> Atoms:
    """A periodic cell with two pairs of opposite dislocations in alternating order.

    The two glide planes are half a cell apart, and the second pair has its signs exchanged: the slip adds
    up to none, so that the cell needs no tilt. Parameters and returns as for :func:`dislocation_dipole`.
    """
    return _array(
        "dislocation quadrupole",
        crystal,
        burgers,
        elastic_constants,
        size,
        line,
        plane,
        n_periods,
        internal,
        True,
    )


def _array(
    name: str,
    crystal: Crystal,
    burgers: Any,
    constants: Any,
    size: Any,
    line: Any,
    plane: Any,
    n_periods: int,
    internal: InternalDisplacements | None,
    tilt: bool,
) -> Atoms:
    b = burgers_vector(crystal, burgers)
    along = b if line is None else direction(crystal, "line", line)
    if plane is not None:
        normal = plane_normal(crystal, "plane", plane)
    else:
        normal = widest_plane(crystal, [b, along])
    frame, turned = dislocation_frame(crystal, b, along, normal)
    lengths = np.asarray(size, dtype=float)
    if lengths.shape != (2,):
        raise ValueError(f"size: got {size!r}, expected two lengths in Å: along glide, normal to the plane")
    for length in lengths:
        check_positive("size", length, "Å")
    tensor = frame.rotate_tensor(stiffness_tensor(constants))
    quadrupole = name.endswith("quadrupole")
    cell = _plane_cell(frame, lengths, quadrupole)
    pairs, offset = _cores(frame, turned, tensor, cell, quadrupole)
    predictor = PeriodicDislocationPredictor(tensor, turned, pairs, cell[:, :2])
    full = np.vstack([cell, [0, 0, frame.period * int(n_periods)]])
    reference, basis = _sites_in_cell(frame, cell, offset, n_periods)
    cores = np.column_stack([pairs.reshape(-1, 2), np.zeros(2 * len(pairs))])
    _check_separation(cores, full, crystal, size)
    displacement = predictor.displacement(reference)
    if internal is not None:
        displacement += internal_shift(frame, internal, predictor.gradient(reference), basis)
    mean = predictor.mean_gradient
    if not tilt:
        displacement -= reference @ mean.T
        mean = np.zeros((3, 3))
    deformation = np.eye(3) + mean
    atoms = Atoms(crystal.numbers[basis], reference + displacement, cell=full @ deformation.T, pbc=True)
    cores = cores @ deformation.T
    mark_defect(atoms, name, cores[0], reference_positions=reference, basis=basis)
    atoms.info["cores"] = cores
    atoms.info["burgers"] = turned.copy()
    atoms.info["line"] = np.array([0.0, 0.0, 1.0])
    atoms.info["orientation"] = frame.rotation.copy()
    return atoms


def _plane_cell(frame: LineFrame, lengths: np.ndarray, even: bool) -> np.ndarray:
    """Periods (2, 3) of the lattice: the first along x, the second nearest to y, at least of these `lengths`.

    With `even` the second is twice a lattice vector, so that two glide planes half of it apart are alike.
    """
    glide = glide_period(frame)
    plane = frame.lattice[:2, :2]
    spacing = abs(float(np.linalg.det(plane))) / glide[0]
    n_along = int(np.ceil(lengths[0] / glide[0] - 1e-9))
    factor = 2 if even else 1
    n_rows = int(np.ceil(lengths[1] / factor / spacing - 1e-9))
    # A lattice vector one row of sites up.
    integers = np.array(list(product(range(-12, 13), repeat=2)))
    up = integers[np.argmin(np.abs((integers @ plane)[:, 1] - spacing))] @ frame.lattice[:2]
    upper = n_rows * up
    upper = upper - np.rint(upper[0] / glide[0]) * glide
    cell = np.array([n_along * glide, factor * upper])
    cell[0, 1] = 0.0
    # Heights along the line are free by multiples of the period.
    cell[:, 2] -= frame.period * np.rint(cell[:, 2] / frame.period)
    return cell


def glide_period(frame: LineFrame) -> np.ndarray:
    """The lattice vector (3,) with the shortest projection along +x, of no height y."""
    integers = np.array(list(product(range(-24, 25), repeat=2)))
    vectors = integers @ frame.lattice[:2]
    along = vectors[(np.abs(vectors[:, 1]) < 1e-6) & (vectors[:, 0] > 1e-6)]
    if not len(along):
        raise ValueError("plane: no lattice vector lies along glide; give low integer indices")
    shortest: np.ndarray = along[np.argmin(along[:, 0])]
    return shortest


def _cores(
    frame: LineFrame, burgers: np.ndarray, tensor: np.ndarray, cell: np.ndarray, quadrupole: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of cores (m, 4), and the offset (3,) of the lattice that centres them in the cell."""
    first = default_core(frame, burgers, tensor)
    edge = abs(burgers[0]) > 1e-9 * np.linalg.norm(burgers)
    second = default_core(frame, -burgers, tensor, height=float(first[1]) if edge else None)
    period = glide_period(frame)[0]
    half = np.rint(cell[0, 0] / 2 / period) * period
    second = second + [np.rint((first[0] + half - second[0]) / period) * period, 0.0]
    pairs = np.array([[*first, *second]])
    if quadrupole:
        up = cell[1, :2] / 2
        pairs = np.vstack([pairs, [*(first + up + [half, 0]), *(second + up - [half, 0])]])
    check_core(frame, first)
    check_core(frame, second)
    target = cell[0, :2] / 4 + cell[1, :2] / (4 if quadrupole else 2)
    offset = np.append(target - first, 0.0)
    return pairs + np.tile(offset[:2], 2), offset


def _sites_in_cell(
    frame: LineFrame, cell: np.ndarray, offset: np.ndarray, n_periods: int
) -> tuple[np.ndarray, np.ndarray]:
    if int(n_periods) != n_periods or n_periods < 1:
        raise ValueError(f"n_periods: got {n_periods!r}, expected a positive integer")
    plane = cell[:, :2]
    centre = plane.sum(axis=0) / 2
    radius = max(np.linalg.norm(plane[0] + plane[1]), np.linalg.norm(plane[0] - plane[1])) / 2 + 1.0
    sites, basis = frame.sites(float(radius), centre - offset[:2], int(n_periods))
    sites = sites + offset
    # The hair keeps columns on a face from being counted on both.
    fractions = sites[:, :2] @ np.linalg.inv(plane) + 1e-7
    inside = ((fractions >= 0) & (fractions < 1)).all(axis=1)
    return sites[inside], basis[inside]


def _check_separation(cores: np.ndarray, cell: np.ndarray, crystal: Crystal, size: Any) -> None:
    near = crystal.nearest_neighbour_distance
    centres = Atoms(f"X{len(cores)}", cores, cell=cell, pbc=(True, True, False))
    if len(neighbour_pairs(centres, 3 * near, "i")[0]):
        raise StructureError(
            f"size: got {size!r} Å, in which cores are closer than {3 * near:.1f} Å; take a larger cell"
        )
