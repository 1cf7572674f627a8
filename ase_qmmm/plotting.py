"""Pictures of regions, displacements and bands (matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.spectrum.band_structure import BandStructure
from ase.spectrum.doscollection import DOSCollection

from .errors import StructureError
from .mixing.regions import BUFFER, FROZEN, MM, QM, Regions

__all__ = ["plot_bands", "plot_regions", "REGION_COLOURS", "REGION_NAMES"]

REGION_NAMES = {MM: "mm", BUFFER: "buffer", QM: "qm", FROZEN: "frozen"}
# Colours that stay apart for readers with colour-vision deficiency (Okabe and Ito).
REGION_COLOURS = {MM: "#b8bec6", BUFFER: "#56b4e9", QM: "#d55e00", FROZEN: "#5a5a5a"}

LINE_COLOURS = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


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

    Raises
    ------
    StructureError
        No atoms.
    ValueError
        Atoms without regions.
    """
    if len(atoms) == 0:
        raise StructureError("atoms: got a structure without atoms, expected at least one to draw")
    regions = Regions.from_atoms(atoms)
    numbers = regions.numbers
    if displacement is None and "displacement" in atoms.arrays:
        displacement = atoms.arrays["displacement"]
    if centre is None:
        centre = _middle(atoms, regions.qm)
    relative = _nearest_image(atoms, centre)
    distance = np.linalg.norm(relative, axis=1)

    figure = _figure(11.0, 5.2)
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


def _figure(width: float, height: float) -> Any:
    """An empty figure (inches) that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
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


def plot_bands(
    bands: BandStructure,
    dos: DOSCollection | None = None,
    *,
    emin: float | None = None,
    emax: float | None = None,
    width: float = 0.1,
    path: str | Path | None = None,
    title: str = "",
) -> Any:
    """Draw a band structure, and beside it densities of states on the same axis of energy.

    Parameters
    ----------
    bands : ase.spectrum.band_structure.BandStructure
        Its reference is the zero of energy.
    dos : ase.spectrum.doscollection.DOSCollection, optional
        One line for each entry, named by what is in its ``info``; for lines by shell give
        ``density_of_states(...).sum_by("l")``. Their sum is drawn as a filled curve.
    emin, emax : float, optional
        Range (eV) above the reference; default the whole spectrum.
    width : float
        Standard deviation (eV) of the Gaussians over raw levels; what is on a grid already stays as it is.
    path : str or Path, optional
        Save there (PNG and whatever else matplotlib writes).
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    shifted = bands.subtract_reference()
    low = float(shifted.energies.min()) - 0.5 if emin is None else emin
    high = float(shifted.energies.max()) + 0.5 if emax is None else emax
    figure = _figure(8.2 if dos is not None else 6.0, 4.8)
    ratios = [2.2, 1.0] if dos is not None else [1.0]
    axes = figure.subplots(1, len(ratios), sharey=True, width_ratios=ratios, squeeze=False)[0]
    colours = ["#333333"] if len(shifted.energies) == 1 else [LINE_COLOURS[0], LINE_COLOURS[1]]
    shifted.plot(ax=axes[0], emin=low, emax=high, colors=colours, ylabel="energy − Fermi level (eV)", lw=1.2)
    if dos is not None:
        _draw_dos(axes[1], dos, bands.reference, width, (low, high))
    if title:
        figure.suptitle(title)
    if path is not None:
        figure.savefig(path, dpi=130)
    return figure


def _draw_dos(
    axes: Any, dos: DOSCollection, reference: float, width: float, window: tuple[float, float]
) -> None:
    """Curves of a density of states against energy, which runs upwards."""
    from ase.spectrum.doscollection import GridDOSCollection

    if not isinstance(dos, GridDOSCollection):
        points = int((window[1] - window[0]) / width * 8) + 2
        dos = dos.sample_grid(points, reference + window[0], reference + window[1], width=width)
    energies = np.asarray(dos.get_energies()) - reference
    weights = np.asarray(dos.get_all_weights())
    axes.fill_betweenx(energies, weights.sum(axis=0), color="#e3e6ea", lw=0, label="total")
    for k, (label, row) in enumerate(zip(_labels([entry.info for entry in dos]), weights, strict=True)):
        axes.plot(row, energies, color=LINE_COLOURS[k % len(LINE_COLOURS)], lw=1.2, label=label)
    axes.axhline(0.0, color="k", ls=":")
    inside = (energies > window[0]) & (energies < window[1])
    axes.set_xlim(0, 1.08 * weights.sum(axis=0)[inside].max(initial=1e-12))
    axes.set_xlabel("density of states (electrons/eV)")
    axes.legend(loc="best", frameon=False, fontsize="small")


def _labels(infos: list[dict[str, str]]) -> list[str]:
    """What tells the entries apart, by the keys that all of them have."""
    shared = [key for key in ("site", "species", "l", "orbital", "spin") if all(key in i for i in infos)]
    # ASE's sums keep what their members share: the sum over an s shell still names its one orbital.
    telling = [key for key in shared if len({info[key] for info in infos}) > 1] or shared
    if "orbital" in telling and "l" in telling:
        telling.remove("l")
    return [
        " ".join(f"{key} {info[key]}" if key in ("site", "spin") else info[key] for key in telling)
        or info.get("label", "sum")
        for info in infos
    ]
