"""Prismatic dislocation loops with their elastic far field."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from matscipy.elasticity import full_3x3x3x3_to_Voigt_6x6

from ..crystal import Crystal
from ..errors import StructureError, check_positive, checked_keywords
from .dislocation_fields import stiffness_tensor
from .dislocations import burgers_vector
from .marks import mark_defect

__all__ = ["LoopPredictor", "dislocation_loop", "hill_poisson_ratio"]


def hill_poisson_ratio(elastic_constants: Any) -> float:
    """Poisson's ratio of the isotropic average (Hill's mean of Voigt and Reuss) of elastic constants."""
    stiffness = full_3x3x3x3_to_Voigt_6x6(stiffness_tensor(elastic_constants), check_symmetry=False)
    compliance = np.linalg.inv(stiffness)
    bulk, shear = 0.0, 0.0
    for matrix, engineering, invert in ((stiffness, 1.0, False), (compliance, 0.25, True)):
        normal, mixed = np.trace(matrix[:3, :3]), matrix[0, 1] + matrix[0, 2] + matrix[1, 2]
        k = (normal + 2 * mixed) / 9
        g = (normal - mixed + 3 * engineering * np.trace(matrix[3:, 3:])) / 15
        # Reuss's averages of compliances: 1/(9 K) and 1/(4 G).
        bulk += 1 / (9 * k) if invert else k
        shear += 1 / (4 * g) if invert else g
    return float((3 * bulk - 2 * shear) / (2 * (3 * bulk + shear)))


class LoopPredictor:
    """Displacement of a plane convex polygonal dislocation loop in an isotropic medium.

    ``u = b Omega / (4 pi) + (1 - 2 nu) / (8 pi (1 - nu)) sum f - 1 / (8 pi (1 - nu)) sum g`` over the
    sides [1]_, with the solid angle Omega of the loop, positive above it. Above the loop u is larger by b
    than below.

    Parameters
    ----------
    poisson_ratio : float
    burgers : array_like, shape (3,)
        Å.
    vertices : array_like, shape (m, 3)
        Å; anticlockwise seen from above.

    References
    ----------
    .. [1] D. M. Barnett, Philos. Mag. A 51, 383 (1985), for triangles, of which the polygon is made.
    """

    def __init__(self, poisson_ratio: float, burgers: Any, vertices: Any) -> None:
        self.poisson_ratio = float(poisson_ratio)
        if not -1 < self.poisson_ratio < 0.5:
            raise ValueError(f"poisson_ratio: got {poisson_ratio!r}, expected between -1 and 0.5")
        self.burgers = np.asarray(burgers, dtype=float)
        self.vertices = np.asarray(vertices, dtype=float)
        if self.burgers.shape != (3,) or self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise ValueError("burgers, vertices: expected shapes (3,) and (m, 3)")
        if len(self.vertices) < 3:
            raise ValueError(f"vertices: got {len(self.vertices)}, expected at least 3")

    def displacement(self, positions: Any) -> np.ndarray:
        """Displacement (n, 3) in Å of the sites at `positions` (n, 3) of the perfect crystal."""
        points = np.asarray(positions, dtype=float)
        r = self.vertices[None] - points[:, None]
        distance = np.linalg.norm(r, axis=2)
        unit = r / distance[:, :, None]
        m = len(self.vertices)
        omega = np.zeros(len(points))
        for k in range(1, m - 1):
            a, b, c = unit[:, 0], unit[:, k], unit[:, k + 1]
            triple = np.einsum("ni,ni->n", a, np.cross(b, c))
            denominator = 1 + (a * b).sum(axis=1) + (b * c).sum(axis=1) + (c * a).sum(axis=1)
            # A point above sees the vertices clockwise.
            omega -= 2 * np.arctan2(triple, denominator)
        lines, planes = np.zeros((len(points), 3)), np.zeros((len(points), 3))
        for k in range(m):
            n = (k + 1) % m
            side = self.vertices[n] - self.vertices[k]
            side = side / np.linalg.norm(side)
            a, b = unit[:, k], unit[:, n]
            ratio = distance[:, n] * (1 + b @ side) / (distance[:, k] * (1 + a @ side))
            lines += np.log(ratio)[:, None] * np.cross(self.burgers, side)
            planes += (np.cross(a, b) @ self.burgers / (1 + (a * b).sum(axis=1)))[:, None] * (a + b)
        nu = self.poisson_ratio
        u: np.ndarray = omega[:, None] * self.burgers / (4 * np.pi)
        u += (1 - 2 * nu) / (8 * np.pi * (1 - nu)) * lines
        u -= planes / (8 * np.pi * (1 - nu))
        return u


@checked_keywords
def dislocation_loop(
    crystal: Crystal,
    burgers: Any,
    *,
    elastic_constants: Any,
    loop_radius: float,
    radius: float,
    frozen_width: float = 10.0,
    kind: str = "interstitial",
    n_sides: int = 6,
) -> Atoms:
    """A prismatic loop, normal to its Burgers vector, in the middle of a ball with a frozen shell.

    The atoms, in the axes of the crystal, stand at the displacement of a loop in an isotropic medium with the
    Poisson ratio of the model's mean elastic constants; atoms fill the gap of an interstitial loop, or are
    taken out for a vacancy loop.

    Parameters
    ----------
    crystal : Crystal
    burgers : array_like, shape (3,)
        In units of the conventional cell, such as (0.5, 0.5, 0.5).
    elastic_constants : array_like, shape (6, 6) or (3, 3, 3, 3)
        Of the model, in the axes of the crystal.
    loop_radius : float
        From the middle of the loop to its corners (Å).
    radius : float
        Of the free atoms (Å).
    frozen_width : float
        Width of the frozen shell (Å).
    kind : str
        ``"interstitial"`` or ``"vacancy"``.
    n_sides : int
        Of the regular polygon, the first corner along the shortest lattice vector in the plane of the loop.

    Returns
    -------
    ase.Atoms
        As from :func:`edge_dislocation`, without periodicity; ``info["line"]`` is the normal of the loop,
        ``info["vertices"]`` its corners.

    Raises
    ------
    ValueError
        A Burgers vector that is none of the lattice, a loop that does not fit into the ball.
    """
    if kind not in ("interstitial", "vacancy"):
        raise ValueError(f"kind: got {kind!r}, expected 'interstitial' or 'vacancy'")
    b = burgers_vector(crystal, burgers)
    near = crystal.nearest_neighbour_distance
    check_positive("loop_radius", loop_radius, "Å")
    check_positive("frozen_width", frozen_width, "Å")
    if check_positive("radius", radius, "Å") < loop_radius + near:
        raise ValueError(
            f"radius: got {radius:g} Å, expected more than the loop's {loop_radius:g} Å and a bond"
        )
    if int(n_sides) != n_sides or n_sides < 3:
        raise ValueError(f"n_sides: got {n_sides!r}, expected an integer of at least 3")
    size = float(np.linalg.norm(b))
    normal = b / size
    sites, basis = _ball(crystal, radius + frozen_width)
    height = sites @ normal
    levels = np.unique(np.round(height[np.abs(height) < size + near], 6))
    middle = (levels[1:] + levels[:-1]) / 2
    gaps = np.diff(levels)
    # Of the widest gaps between planes the one nearest to the middle.
    level = middle[np.lexsort((np.abs(middle), -np.round(gaps, 4)))[0]]
    x = _in_plane(crystal, normal)
    y = np.cross(normal, x)
    angles = 2 * np.pi * np.arange(n_sides) / n_sides
    vertices = loop_radius * (np.cos(angles)[:, None] * x + np.sin(angles)[:, None] * y) + level * normal
    sign = 1.0 if kind == "interstitial" else -1.0
    predictor = LoopPredictor(hill_poisson_ratio(elastic_constants), sign * b, vertices)
    inside = np.ones(len(sites), dtype=bool)
    for start, end in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        inside &= (sites - start) @ np.cross(normal, end - start) > 0
    if kind == "interstitial":
        slab = inside & (height > level) & (height <= level + size * (1 - 1e-6))
        u = predictor.displacement(sites)
        # The lattice below goes on through the gap: where the one above stands, less b.
        positions = np.vstack([sites + u, sites[slab] + u[slab] - b])
        reference = np.vstack([sites, sites[slab] - b / 2])
        basis = np.append(basis, basis[slab])
    else:
        # Half open, so that planes at both ends count once.
        over = height - level
        keep = ~(inside & (over > -size / 2 * (1 - 1e-6)) & (over < size / 2 * (1 + 1e-6)))
        slab = ~keep
        reference, basis = sites[keep], basis[keep]
        positions = reference + predictor.displacement(reference)
    if not slab.any():
        raise StructureError(f"loop_radius: no atom inside {loop_radius:g} Å; take a larger loop")
    distance = np.linalg.norm(reference, axis=1)
    width = 2 * (radius + frozen_width) + 20.0
    box = np.full(3, width / 2)
    atoms = Atoms(crystal.numbers[basis], positions + box, cell=np.eye(3) * width, pbc=False)
    mark_defect(
        atoms,
        f"{kind} loop",
        level * normal + box,
        reference_positions=reference + box,
        basis=basis,
        frozen=distance > radius,
    )
    atoms.info["burgers"] = sign * b
    atoms.info["line"] = normal
    atoms.info["orientation"] = np.eye(3)
    atoms.info["vertices"] = vertices + box
    return atoms


def _ball(crystal: Crystal, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Sites (n, 3) within `radius` of the first basis atom, and their basis (n,)."""
    offsets = crystal.basis_positions - crystal.basis_positions[0]
    reach = radius + np.linalg.norm(offsets, axis=1).max()
    n = np.ceil(reach * np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)).astype(int)
    axes = [np.arange(-k, k + 1) for k in n]
    cells = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) @ crystal.lattice
    positions, basis = [], []
    for k, offset in enumerate(offsets):
        r = cells + offset
        r = r[np.linalg.norm(r, axis=1) < radius]
        positions.append(r)
        basis.append(np.full(len(r), k))
    return np.concatenate(positions), np.concatenate(basis)


def _in_plane(crystal: Crystal, normal: np.ndarray) -> np.ndarray:
    """Direction of the shortest lattice vector normal to `normal`, or any in that plane."""
    axes = [np.arange(-3, 4)] * 3
    vectors = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) @ crystal.lattice
    lengths = np.linalg.norm(vectors, axis=1)
    flat = (lengths > 1e-6) & (np.abs(vectors @ normal) < 1e-6 * np.maximum(lengths, 1))
    if flat.any():
        vector = vectors[flat][np.argmin(lengths[flat])]
    else:
        vector = np.cross(normal, np.eye(3)[np.argmin(np.abs(normal))])
    return np.asarray(vector / np.linalg.norm(vector))
