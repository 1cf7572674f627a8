"""Directions, planes and the sites of a cylinder along a lattice direction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms

from ..crystal import Crystal
from ..errors import check_positive

__all__ = ["LineFrame", "direction", "lattice_period", "line_frame", "plane_normal", "widest_plane"]


def _indices(name: str, indices: Any) -> np.ndarray:
    vector = np.asarray(indices, dtype=float)
    if vector.shape != (3,) or not np.isfinite(vector).all() or not vector.any():
        raise ValueError(f"{name}: got {indices!r}, expected three numbers, not all zero")
    return vector


def conventional_axes(crystal: Crystal) -> np.ndarray:
    """Vectors (3, 3) in Å that indices refer to: the cubic cell of a cubic lattice, else the unit cell."""
    if len(crystal.lattice) != 3:
        raise ValueError(f"crystal: got {crystal!r}, expected a lattice with three periodic directions")
    cubic = crystal.cubic_vectors()
    return crystal.lattice if cubic is None else cubic


def direction(crystal: Crystal, name: str, indices: Any) -> np.ndarray:
    """Vector (3,) in Å of the indices [uvw]."""
    vector: np.ndarray = _indices(name, indices) @ conventional_axes(crystal)
    return vector


def plane_normal(crystal: Crystal, name: str, indices: Any) -> np.ndarray:
    """Unit normal (3,) of the lattice plane (hkl)."""
    normal: np.ndarray = np.linalg.solve(conventional_axes(crystal), _indices(name, indices))
    normal /= np.linalg.norm(normal)
    return normal


def lattice_period(crystal: Crystal, name: str, vector: np.ndarray) -> np.ndarray:
    """Shortest lattice vector along `vector`, in integer lattice coordinates (3,).

    Raises
    ------
    ValueError
        No lattice vector of moderate length lies along it.
    """
    coefficients = vector @ np.linalg.inv(crystal.lattice)
    coefficients = coefficients / np.abs(coefficients).max()
    for k in range(1, 49):
        integers = np.rint(k * coefficients)
        if np.abs(integers - k * coefficients).max() < 1e-4:
            return np.asarray(integers, dtype=int)
    raise ValueError(
        f"{name}: no lattice vector of {crystal!r} lies along {vector}; give low integer indices"
    )


def widest_plane(crystal: Crystal, vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Unit normal of the most widely spaced lattice planes that contain `vectors`."""
    reciprocal = np.linalg.inv(crystal.lattice).T
    integers = np.array([c for c in product(range(-3, 4), repeat=3) if any(c)])
    normals = integers @ reciprocal
    lengths = np.linalg.norm(normals, axis=1)
    inside = np.ones(len(normals), dtype=bool)
    for vector in vectors:
        inside &= np.abs(normals @ vector) < 1e-6 * lengths * np.linalg.norm(vector)
    if not inside.any():
        raise ValueError(f"plane: found no low-index plane that contains {vectors}; give one")
    # Of equals the one whose components come first, so that the choice is the same everywhere.
    keys = np.column_stack([-np.round(normals[inside], 6)[:, ::-1], np.round(lengths[inside], 6)])
    best = normals[inside][np.lexsort(keys.T)[0]]
    return np.asarray(best / np.linalg.norm(best))


@dataclass(frozen=True)
class LineFrame:
    """Axes of a straight defect: x along glide (or crack growth), y normal to the plane, z along the line.

    Attributes
    ----------
    crystal : Crystal
    rotation : ndarray, shape (3, 3)
        Rows x, y, z in the axes of the crystal: ``r_frame = rotation @ r_crystal``.
    period : float
        Period along the line (Å).
    lattice : ndarray, shape (3, 3)
        Primitive lattice vectors in the frame (Å); the last is the period.
    basis : ndarray, shape (n_basis, 3)
        Basis positions in the frame (Å).
    """

    crystal: Crystal
    rotation: np.ndarray
    period: float
    lattice: np.ndarray
    basis: np.ndarray

    def rotate_tensor(self, tensor: np.ndarray) -> np.ndarray:
        """A tensor of any rank, from the axes of the crystal to those of the frame."""
        for axis in range(tensor.ndim):
            tensor = np.moveaxis(np.tensordot(tensor, self.rotation, axes=(axis, 1)), -1, axis)
        return tensor

    def sites(self, radius: float, centre: np.ndarray, n_periods: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Sites (n, 3) in Å within `radius` of the line through `centre`, and their basis (n,)."""
        plane = self.lattice[:2, :2]
        reach = radius + np.linalg.norm(self.basis[:, :2], axis=1).max() + np.linalg.norm(centre[:2])
        n = np.ceil(reach * np.linalg.norm(np.linalg.inv(plane), axis=0)).astype(int) + 1
        i, j = np.meshgrid(np.arange(-n[0], n[0] + 1), np.arange(-n[1], n[1] + 1), indexing="ij")
        columns = np.column_stack([i.ravel(), j.ravel()]) @ self.lattice[:2]
        positions, basis = [], []
        for b, offset in enumerate(self.basis):
            r = columns + offset
            r = r[np.linalg.norm(r[:, :2] - centre[:2], axis=1) < radius]
            # The hair keeps heights of rounded zero from being wrapped to the top.
            r[:, 2] = (r[:, 2] + 1e-9) % self.period - 1e-9
            for k in range(n_periods):
                positions.append(r + [0, 0, k * self.period])
                basis.append(np.full(len(r), b))
        return np.concatenate(positions), np.concatenate(basis)

    def cylinder(
        self, radius: float, centre: np.ndarray, n_periods: int, vacuum: float = 10.0
    ) -> tuple[Atoms, np.ndarray]:
        """Perfect cylinder, periodic along z, centred in its box, and the basis sites (n,)."""
        check_positive("radius", radius, "Å")
        if int(n_periods) != n_periods or n_periods < 1:
            raise ValueError(f"n_periods: got {n_periods!r}, expected a positive integer")
        positions, basis = self.sites(radius, centre, int(n_periods))
        width = 2 * (radius + vacuum)
        positions = positions - [centre[0], centre[1], 0] + [width / 2, width / 2, 0]
        atoms = Atoms(
            self.crystal.numbers[basis],
            positions,
            cell=[width, width, self.period * int(n_periods)],
            pbc=(False, False, True),
        )
        return atoms, basis


def line_frame(crystal: Crystal, line: np.ndarray, normal: np.ndarray) -> LineFrame:
    """Frame of a line direction and a plane normal (both (3,), in the axes of the crystal).

    Raises
    ------
    ValueError
        The line does not lie in the plane, or no lattice vector lies along it.
    """
    z = line / np.linalg.norm(line)
    y = normal / np.linalg.norm(normal)
    if abs(y @ z) > 1e-4:
        raise ValueError(f"line: got {line}, which does not lie in the plane with normal {normal}")
    y = y - (y @ z) * z
    y /= np.linalg.norm(y)
    rotation = np.array([np.cross(y, z), y, z])
    along = lattice_period(crystal, "line", z)
    if along @ crystal.lattice @ z < 0:
        along = -along
    # A primitive cell with the period as one vector; the others have the shortest projections.
    integers = np.array([c for c in product(range(-4, 5), repeat=3) if any(c)])
    projected = np.linalg.norm((integers @ crystal.lattice @ rotation.T)[:, :2], axis=1)
    integers = integers[np.argsort(projected, kind="stable")]
    chosen = None
    for n, v in enumerate(integers):
        volumes = integers[: n + 1] @ np.cross(v, along)
        partner = np.flatnonzero(np.abs(volumes) == 1)
        if len(partner):
            chosen = np.array([integers[partner[0]], v, along])
            break
    if chosen is None:
        raise ValueError(f"line: no primitive cell with a period along {line}; give low integer indices")
    lattice = chosen @ crystal.lattice @ rotation.T
    lattice[2, :2] = 0.0
    basis = crystal.basis_positions @ rotation.T
    return LineFrame(crystal, rotation, float(lattice[2, 2]), lattice, basis - basis[0])
