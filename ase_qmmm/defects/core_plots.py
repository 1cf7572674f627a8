"""Pictures of dislocation cores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from ..errors import StructureError, check_positive, checked_keywords
from ..neighbours import neighbour_pairs

__all__ = ["differential_displacements", "plot_differential_displacement"]


def differential_displacements(
    atoms: Atoms, component: str = "auto", cutoff: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Differences of displacement between neighbouring columns of atoms, modulo the Burgers vector.

    Parameters
    ----------
    atoms : ase.Atoms
        From a builder of straight dislocations, then relaxed at will.
    component : str
        ``"screw"``, ``"edge"``, or the larger part of the Burgers vector (``"auto"``).
    cutoff : float, optional
        Distance (Å) in the plane up to which columns are neighbours; 1.1 of the shortest.

    Returns
    -------
    i, j : ndarray of int, shape (m,)
        Pairs of atoms, each once.
    difference : ndarray, shape (m,)
        ``u_j - u_i`` along the component (Å), between -b/2 and b/2 of its b.

    Raises
    ------
    StructureError
        Atoms without what the builders write.
    """
    missing = [name for name in ("burgers", "core") if name not in atoms.info]
    if missing or "reference_positions" not in atoms.arrays:
        raise StructureError(
            "atoms: expected arrays['reference_positions'], info['burgers'] and info['core'], as the "
            "builders of dislocations write them"
        )
    if component not in ("auto", "screw", "edge"):
        raise ValueError(f"component: got {component!r}, expected 'screw', 'edge' or 'auto'")
    burgers = np.asarray(atoms.info["burgers"])
    if component == "auto":
        component = "screw" if abs(burgers[2]) >= abs(burgers[0]) else "edge"
    axis = 2 if component == "screw" else 0
    b = float(abs(burgers[axis]))
    if b < 1e-6:
        raise ValueError(f"component: the Burgers vector {burgers} has no {component} part")
    perfect = atoms.copy()
    perfect.positions = atoms.arrays["reference_positions"]
    # Neighbouring columns lie closer in the plane than bonds are long.
    i, j, D = neighbour_pairs(perfect, _reach(perfect, cutoff), "ijD")
    planar = np.linalg.norm(D[:, :2], axis=1)
    columns = planar > 0.1
    shortest = planar[columns].min()
    keep = columns & (planar < (1.1 * shortest if cutoff is None else cutoff)) & (i < j)
    i, j, D = i[keep], j[keep], D[keep]
    # One bond for each pair of columns: the shortest.
    order = np.lexsort((np.linalg.norm(D, axis=1), j, i))
    i, j, D = i[order], j[order], D[order]
    first = np.ones(len(i), dtype=bool)
    first[1:] = (i[1:] != i[:-1]) | (j[1:] != j[:-1])
    i, j, D = i[first], j[first], D[first]
    vectors = find_mic(atoms.positions[j] - atoms.positions[i], atoms.cell, atoms.pbc)[0]
    difference = (vectors - D)[:, axis]
    # In the middle of the interval rounding decides; the hair makes it the same for all bonds.
    return i, j, difference - b * np.rint(difference / b - 1e-6)


def _reach(perfect: Atoms, cutoff: float | None) -> float:
    radius = 3.0
    while True:
        distances = neighbour_pairs(perfect, radius, "d")[0]
        if len(distances):
            break
        radius *= 2
    reach = 1.7 * float(distances.min())
    return reach if cutoff is None else max(reach, check_positive("cutoff", cutoff, "Å"))


@checked_keywords
def plot_differential_displacement(
    atoms: Atoms,
    component: str = "auto",
    *,
    radius: float = 12.0,
    cutoff: float | None = None,
    path: str | Path | None = None,
    title: str = "",
) -> Any:
    """Differential displacement map (Vitek): arrows between neighbouring columns of atoms around the core.

    An arrow that spans two columns is half a Burgers vector long. Circles are columns, shaded by their
    height along the line in the perfect crystal; a cross marks the core of the predictor.

    Parameters
    ----------
    atoms : ase.Atoms
        From a builder of straight dislocations, then relaxed at will.
    component, cutoff
        See :func:`differential_displacements`.
    radius : float
        Half width of the picture (Å).
    path : str or Path, optional
        Save there (PNG and whatever else matplotlib writes).
    title : str

    Returns
    -------
    matplotlib.figure.Figure

    References
    ----------
    V. Vitek, R. C. Perrin, D. K. Bowen, Philos. Mag. 21, 1049 (1970).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_positive("radius", radius, "Å")
    i, j, difference = differential_displacements(atoms, component, cutoff)
    reference = np.asarray(atoms.arrays["reference_positions"])
    burgers, core = np.asarray(atoms.info["burgers"]), np.asarray(atoms.info["core"])
    if component == "auto":
        component = "screw" if abs(burgers[2]) >= abs(burgers[0]) else "edge"
    b = abs(burgers[2 if component == "screw" else 0])
    # At the places where the columns stand: in the reference the halves of an edge are not yet aligned.
    planar = atoms.positions[:, :2] - core[:2]
    across = find_mic(atoms.positions[j] - atoms.positions[i], atoms.cell, atoms.pbc)[0][:, :2]
    middle = planar[i] + across / 2
    shown = (np.abs(middle) < radius).all(axis=1) & (np.abs(difference) > 0.02 * b)
    arrows = across[shown] * (2 * difference[shown] / b)[:, None]
    start = middle[shown] - arrows / 2

    figure = Figure(figsize=(6.2, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    columns, height = _columns(planar, reference[:, 2], float(np.linalg.norm(atoms.cell[2])), radius)
    axes.scatter(
        columns[:, 0],
        columns[:, 1],
        c=height,
        cmap="Greys",
        vmin=-0.5,
        vmax=1.3,
        s=90,
        edgecolors="#5a5a5a",
        linewidths=0.6,
        zorder=2,
    )
    axes.quiver(
        *start.T, *arrows.T, angles="xy", scale_units="xy", scale=1, width=0.006, color="#d55e00", zorder=3
    )
    axes.plot(0, 0, "x", color="#0072b2", ms=9, mew=2, zorder=4)
    axes.set_aspect("equal")
    axes.set_xlim(-radius, radius)
    axes.set_ylim(-radius, radius)
    axes.set_xlabel("x, glide (Å)")
    axes.set_ylabel("y, normal to the glide plane (Å)")
    name = atoms.info.get("defect", "dislocation")
    axes.set_title(
        title or f"{name} in {atoms.get_chemical_formula(empirical=True)}: {component} part, b = {b:.3f} Å"
    )
    if path is not None:
        figure.savefig(path, dpi=130)
    return figure


def _columns(
    planar: np.ndarray, height: np.ndarray, period: float, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """Places (m, 2) of the columns in view, and the phase (m,) of their lowest atom along the line."""
    inside = (np.abs(planar) < radius + 1).all(axis=1)
    planar, phase = planar[inside], (height[inside] + 1e-6) % period / period
    order = np.argsort(phase, kind="stable")
    keys, first = np.unique(np.round(planar[order], 2), axis=0, return_index=True)
    return keys, phase[order][first]
