"""Pictures of regions and displacements (matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from .mixing.regions import BUFFER, FROZEN, MM, QM, Regions

__all__ = ["plot_regions", "REGION_COLOURS", "REGION_NAMES"]

REGION_NAMES = {MM: "mm", BUFFER: "buffer", QM: "qm", FROZEN: "frozen"}
# Colours that stay apart for readers with colour-vision deficiency (Okabe and Ito).
REGION_COLOURS = {MM: "#b8bec6", BUFFER: "#56b4e9", QM: "#d55e00", FROZEN: "#5a5a5a"}


def plot_regions(
    atoms: Atoms,
    displacement: np.ndarray | None = None,
    *,
    centre: np.ndarray | None = None,
    path: str | Path | None = None,
    title: str = "",
) -> Any:
    """Draw a slice of `atoms` coloured by region, and the displacement against distance from the defect.

    Parameters
    ----------
    atoms : ase.Atoms
        With the array ``region`` (``Regions.write``).
    displacement : ndarray, shape (n, 3), optional
        Å; drawn as arrows, and its length against distance. Default: the array ``displacement`` of `atoms`,
        if any.
    centre : ndarray, shape (3,), optional
        Middle of the slice and origin of distances (Å); default the middle of the qm atoms.
    path : str or Path, optional
        Save there (PNG and whatever else matplotlib writes).
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    regions = Regions.from_atoms(atoms)
    numbers = regions.numbers
    if displacement is None and "displacement" in atoms.arrays:
        displacement = atoms.arrays["displacement"]
    if centre is None:
        centre = _middle(atoms, regions.qm)
    relative = _nearest_image(atoms, centre)
    distance = np.linalg.norm(relative, axis=1)

    figure = Figure(figsize=(11.0, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    inside = np.abs(relative[:, 2]) < 4.0
    x, y = relative[inside, 0], relative[inside, 1]
    for number in REGION_NAMES:
        mine = numbers[inside] == number
        if mine.any():
            left.scatter(
                x[mine],
                y[mine],
                s=42,
                c=REGION_COLOURS[number],
                edgecolors="k",
                linewidths=0.4,
                zorder=2,
            )
    if displacement is not None and np.abs(displacement[inside]).max(initial=0.0) > 0:
        u = displacement[inside]
        scale = 2.0 / np.linalg.norm(u, axis=1).max()
        left.quiver(
            x,
            y,
            scale * u[:, 0],
            scale * u[:, 1],
            angles="xy",
            scale_units="xy",
            scale=1,
            width=0.004,
            color="k",
            zorder=3,
        )
        left.set_title(f"slice of 8 Å in z; arrows: displacement x {scale:.3g}")
    else:
        left.set_title("slice of 8 Å in z")
    left.set_aspect("equal")
    left.set_xlabel("x (Å)")
    left.set_ylabel("y (Å)")

    if displacement is not None:
        size = np.linalg.norm(displacement, axis=1)
        for number in REGION_NAMES:
            mine = (numbers == number) & (size > 0)
            if mine.any():
                right.scatter(
                    distance[mine],
                    size[mine],
                    s=14,
                    c=REGION_COLOURS[number],
                    edgecolors="k",
                    linewidths=0.2,
                )
        if (size > 0).any():
            right.set_yscale("log")
            right.set_ylim(max(size.max() * 1e-5, size[size > 0].min() / 2), 2 * size.max())
        right.set_ylabel("|displacement| (Å)")
    else:
        right.hist(
            [distance[numbers == n] for n in REGION_NAMES],
            bins=40,
            stacked=True,
            color=list(REGION_COLOURS.values()),
        )
        right.set_ylabel("atoms")
    right.set_xlabel("distance from the centre (Å)")
    right.grid(alpha=0.3)
    _add_legend(figure, set(numbers.tolist()))
    figure.suptitle(title or f"{atoms.get_chemical_formula()}: {regions!r}")
    if path is not None:
        figure.savefig(path, dpi=130)
    return figure


def _add_legend(figure: Any, present: set[int]) -> None:
    """Names of the regions in a row below the axes, where they cover no atom."""
    from matplotlib.lines import Line2D

    style: dict[str, Any] = {"linestyle": "", "marker": "o", "markeredgecolor": "k", "markeredgewidth": 0.4}
    handles = [
        Line2D([], [], markerfacecolor=REGION_COLOURS[number], label=name, **style)
        for number, name in REGION_NAMES.items()
        if number in present
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False)


def _middle(atoms: Atoms, mask: np.ndarray) -> np.ndarray:
    """Mean position of the masked atoms, taken on images next to the first of them."""
    if not mask.any():
        return np.asarray(atoms.get_positions().mean(axis=0))
    first = atoms.positions[np.argmax(mask)]
    near = _nearest_image(atoms, first)[mask] + first
    # A second pass: images next to the middle itself.
    middle: np.ndarray = near.mean(axis=0)
    return np.asarray((_nearest_image(atoms, middle)[mask] + middle).mean(axis=0))


def _nearest_image(atoms: Atoms, point: np.ndarray) -> np.ndarray:
    """Vectors (n, 3) from `point` to the nearest image of each atom."""
    from ase.geometry import find_mic

    vectors = atoms.positions - point
    return np.asarray(find_mic(vectors, atoms.cell, atoms.pbc)[0] if atoms.pbc.any() else vectors)
