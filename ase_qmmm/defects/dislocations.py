"""Straight dislocations in cylinders that are periodic along the line and frozen far away."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from scipy.spatial import QhullError, Voronoi

from ..crystal import Crystal
from ..errors import StructureError, check_positive, checked_keywords
from ..neighbours import neighbour_pairs
from .dislocation_fields import SlipCompatiblePredictor, stiffness_tensor
from .elasticity import InternalDisplacements
from .frame import LineFrame, direction, line_frame, plane_normal, widest_plane
from .marks import mark_defect

__all__ = ["edge_dislocation", "mixed_dislocation", "screw_dislocation"]


def burgers_vector(crystal: Crystal, burgers: Any) -> np.ndarray:
    """Burgers vector (3,) in Å, in the axes of the crystal.

    Raises
    ------
    ValueError
        Not a vector of the lattice: a partial dislocation, which bounds a stacking fault.
    """
    vector = direction(crystal, "burgers", burgers)
    coefficients = vector @ np.linalg.inv(crystal.lattice)
    if np.abs(coefficients - np.rint(coefficients)).max() > 1e-4:
        shortest = crystal.lattice[np.argmin(np.linalg.norm(crystal.lattice, axis=1))]
        raise ValueError(
            f"burgers: got {burgers!r}, which is no vector of the lattice of {crystal!r}; a perfect "
            f"dislocation has one, such as {np.round(shortest, 4)} Å (in indices of the conventional cell)"
        )
    return vector


def dislocation_frame(
    crystal: Crystal, burgers: np.ndarray, line: np.ndarray, normal: np.ndarray
) -> tuple[LineFrame, np.ndarray]:
    """Frame with the Burgers vector's edge part along +x, and the Burgers vector (3,) in it."""
    frame = line_frame(crystal, line, normal)
    turned = frame.rotation @ burgers
    if abs(turned[1]) > 1e-4 * np.linalg.norm(turned):
        raise ValueError(
            "plane: the Burgers vector does not lie in it; the dislocation could not glide there"
        )
    if turned[0] < -1e-9:
        frame = line_frame(crystal, line, -normal)
        turned = frame.rotation @ burgers
    turned[np.abs(turned) < 1e-9 * np.linalg.norm(turned)] = 0.0
    return frame, turned


@checked_keywords
def edge_dislocation(
    crystal: Crystal,
    burgers: Any,
    *,
    elastic_constants: Any,
    plane: Any = None,
    radius: float = 50.0,
    frozen_width: float = 15.0,
    core: Any = None,
    n_periods: int = 1,
    internal: InternalDisplacements | None = None,
) -> Atoms:
    """An edge dislocation: its line is normal to the Burgers vector, in the glide plane.

    The atoms stand at the slip-compatible predictor (:class:`SlipCompatiblePredictor`). Axes: x along the
    Burgers vector, y normal to the glide plane (the side with the extra half plane), z along the line.

    Parameters
    ----------
    crystal : Crystal
    burgers : array_like, shape (3,)
        Burgers vector in units of the conventional cell: (1, 0, 0), (0.5, 0.5, 0.5) ... (cubic vectors of a
        cubic lattice, else the vectors of the unit cell). A vector of the lattice.
    elastic_constants : array_like, shape (6, 6) or (3, 3, 3, 3)
        Of the model, in the axes of the crystal; see :func:`elastic_constants`.
    plane : array_like, shape (3,), optional
        Miller indices of the glide plane; default the most widely spaced one that contains the Burgers
        vector.
    radius : float
        Of the free atoms around the line (Å).
    frozen_width : float
        Width of the frozen shell beyond (Å): more than the range of the model.
    core : array_like, shape (2,), optional
        Position of the line relative to the first basis atom of the lattice (Å); see Notes.
    n_periods : int
        Length of the cell along the line in periods.
    internal : InternalDisplacements, optional
        Shifts the basis atoms of a multi-lattice with the local strain.

    Returns
    -------
    ase.Atoms
        Arrays ``reference_positions`` (Å), ``basis``, ``frozen`` (bool) and ``region``; ``info`` holds
        ``defect``, ``core`` (3,), ``burgers`` (3,) and ``line`` (3,) in these axes, ``orientation`` (3,
        3), rows the axes in those of the crystal.

    Raises
    ------
    ValueError
        A Burgers vector that is none of the lattice, or that does not lie in the plane.

    Notes
    -----
    Without `core` the line stands where, of the holes between columns of atoms, the predictor keeps the atoms
    furthest apart. For the 1/2<111> screw in bcc that is the easy core.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from matscipy.elasticity import cubic_to_Voigt_6x6
    >>> from ase_qmmm import Crystal
    >>> from ase_qmmm.defects import edge_dislocation
    >>> tungsten = Crystal(bulk("W", a=3.165))
    >>> C = cubic_to_Voigt_6x6(3.26, 1.27, 1.00)  # eV/Å^3
    >>> atoms = edge_dislocation(tungsten, (1, 0, 0), plane=(0, 0, 1), elastic_constants=C, radius=20.0)
    >>> atoms.info["burgers"].round(3).tolist()
    [3.165, 0.0, 0.0]
    """
    b = burgers_vector(crystal, burgers)
    normal = widest_plane(crystal, [b]) if plane is None else plane_normal(crystal, "plane", plane)
    frame, turned = dislocation_frame(crystal, b, np.cross(normal, b), normal)
    return _cylinder(
        "edge dislocation",
        frame,
        turned,
        elastic_constants,
        radius,
        frozen_width,
        core,
        n_periods,
        internal,
    )


@checked_keywords
def screw_dislocation(
    crystal: Crystal,
    burgers: Any,
    *,
    elastic_constants: Any,
    plane: Any = None,
    radius: float = 50.0,
    frozen_width: float = 15.0,
    core: Any = None,
    n_periods: int = 1,
    internal: InternalDisplacements | None = None,
) -> Atoms:
    """A screw dislocation: its line is along the Burgers vector.

    Parameters and returns as for :func:`edge_dislocation`; `plane` only turns the axes x and y.
    """
    b = burgers_vector(crystal, burgers)
    normal = widest_plane(crystal, [b]) if plane is None else plane_normal(crystal, "plane", plane)
    frame, turned = dislocation_frame(crystal, b, b, normal)
    return _cylinder(
        "screw dislocation",
        frame,
        turned,
        elastic_constants,
        radius,
        frozen_width,
        core,
        n_periods,
        internal,
    )


@checked_keywords
def mixed_dislocation(
    crystal: Crystal,
    burgers: Any,
    line: Any,
    *,
    elastic_constants: Any,
    radius: float = 50.0,
    frozen_width: float = 15.0,
    core: Any = None,
    n_periods: int = 1,
    internal: InternalDisplacements | None = None,
) -> Atoms:
    """A mixed dislocation along the direction `line` [uvw]; the glide plane holds both it and `burgers`.

    Other parameters and returns as for :func:`edge_dislocation`.

    Raises
    ------
    ValueError
        The line is along the Burgers vector (a screw, whose plane is open).
    """
    b, along = burgers_vector(crystal, burgers), direction(crystal, "line", line)
    normal = np.cross(along, b)
    if np.linalg.norm(normal) < 1e-6 * np.linalg.norm(b) * np.linalg.norm(along):
        raise ValueError(f"line: got {line!r}, along the Burgers vector; use screw_dislocation")
    frame, turned = dislocation_frame(crystal, b, along, normal)
    return _cylinder(
        "mixed dislocation",
        frame,
        turned,
        elastic_constants,
        radius,
        frozen_width,
        core,
        n_periods,
        internal,
    )


def _cylinder(
    name: str,
    frame: LineFrame,
    burgers: np.ndarray,
    constants: Any,
    radius: float,
    frozen_width: float,
    core: Any,
    n_periods: int,
    internal: InternalDisplacements | None,
) -> Atoms:
    check_positive("radius", radius, "Å")
    check_positive("frozen_width", frozen_width, "Å")
    tensor = frame.rotate_tensor(stiffness_tensor(constants))
    if core is None:
        centre = default_core(frame, burgers, tensor)
    else:
        centre = np.asarray(core, dtype=float)
        if centre.shape != (2,) or not np.isfinite(centre).all():
            raise ValueError(f"core: got {core!r}, expected x and y in Å")
    check_core(frame, centre)
    atoms, basis = frame.cylinder(radius + frozen_width, centre, n_periods)
    middle = atoms.cell.array.diagonal() / 2
    predictor = SlipCompatiblePredictor(tensor, burgers, middle)
    reference = atoms.positions.copy()
    atoms.positions += predictor.displacement(reference)
    if internal is not None:
        atoms.positions += internal_shift(frame, internal, predictor.gradient(reference), basis)
    distance = np.linalg.norm(reference[:, :2] - middle[:2], axis=1)
    mark_defect(
        atoms,
        name,
        [middle[0], middle[1], 0.0],
        reference_positions=reference,
        frozen=distance > radius,
        basis=basis,
    )
    atoms.info["burgers"] = burgers.copy()
    atoms.info["line"] = np.array([0.0, 0.0, 1.0])
    atoms.info["orientation"] = frame.rotation.copy()
    return atoms


def internal_shift(
    frame: LineFrame, internal: InternalDisplacements, gradient: np.ndarray, basis: np.ndarray
) -> np.ndarray:
    """Shifts (n, 3) of the basis atoms in the frame, for displacement gradients (n, 3, 3) in the frame."""
    if internal.crystal.n_basis != frame.crystal.n_basis:
        raise ValueError(
            f"internal: made for {internal.crystal!r}, but the dislocation is in {frame.crystal!r}"
        )
    turn = frame.rotation
    shift: np.ndarray = internal.shift(turn.T @ (np.eye(3) + gradient) @ turn, basis) @ turn.T
    return shift


def check_core(frame: LineFrame, core: np.ndarray) -> None:
    """Raise unless the branch cut, along x through `core`, passes between the planes of atoms."""
    near = frame.crystal.nearest_neighbour_distance
    gaps = np.abs(plane_heights(frame) - core[1])
    if gaps.min() < 0.01 * near:
        raise ValueError(
            f"core: y = {core[1]:g} Å lies on a plane of atoms; the cut must pass between planes, such as at "
            f"{core[1] + 0.1 * near:.4f} Å"
        )


def plane_heights(frame: LineFrame, reach: float | None = None) -> np.ndarray:
    """Heights (m,) in Å of the planes of atoms normal to y, near the origin."""
    reach = 12 * frame.crystal.nearest_neighbour_distance if reach is None else reach
    heights = frame.sites(reach, np.zeros(2))[0][:, 1]
    return np.unique(np.round(heights, 6))


def default_core(
    frame: LineFrame, burgers: np.ndarray, constants: np.ndarray, height: float | None = None
) -> np.ndarray:
    """Hole between columns (2,) at which the predictor keeps atoms furthest apart; nearest to the origin.

    With `height` only holes at this y are looked at.
    """
    near = frame.crystal.nearest_neighbour_distance
    sites, basis = frame.sites(6 * near, np.zeros(2))
    columns = np.unique(np.round(sites[:, :2], 5), axis=0)
    heights = np.unique(columns[:, 1])
    middles = (heights[1:] + heights[:-1]) / 2
    try:
        holes = Voronoi(columns).vertices
    except QhullError as error:
        raise StructureError(f"crystal: the columns along the line make no plane lattice ({error})") from None
    # Places between neighbouring planes, over the middle between columns.
    for low, high, y in zip(heights[:-1], heights[1:], middles, strict=True):
        x = np.unique(columns[np.isin(columns[:, 1], (low, high)), 0])
        holes = np.vstack([holes, np.column_stack([(x[1:] + x[:-1]) / 2, np.full(len(x) - 1, y)])])
    # One plane lattice cell and a bit holds every kind of hole.
    cell = frame.lattice[:2, :2]
    inside = (np.abs(holes @ np.linalg.inv(cell)) <= 0.75).all(axis=1)
    spacing = np.abs(holes[:, 1][:, None] - heights[None]).min(axis=1)
    holes = holes[inside & (spacing > 0.05 * near)]
    if height is not None:
        holes = holes[np.abs(holes[:, 1] - height) < 1e-4 * near]
    best: tuple[float, float] | None = None
    chosen = None
    patch = Atoms(frame.crystal.numbers[basis], sites, cell=[0, 0, frame.period], pbc=(False, False, True))
    for hole in holes[np.argsort(np.round(np.linalg.norm(holes, axis=1), 4), kind="stable")]:
        moved = patch.copy()
        moved.positions += SlipCompatiblePredictor(constants, burgers, hole).displacement(sites)
        shortest = float(neighbour_pairs(moved, 1.2 * near, "d")[0].min())
        candidate = (round(shortest / near, 2), -round(float(np.linalg.norm(hole)), 2))
        if best is None or candidate > best:
            best, chosen = candidate, hole
    assert chosen is not None
    return np.asarray(chosen)
