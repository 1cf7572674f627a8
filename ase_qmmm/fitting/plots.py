"""Pictures of fits: parity, calibration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..plotting import LINE_COLOURS

__all__ = ["plot_calibration", "plot_parity"]

UNITS = {"energy": "eV/atom", "forces": "eV/Å", "virial": "eV/atom"}
UNITS |= {"dV1": "eV/Å", "dV2": "eV/Å²", "dV3": "eV/Å³", "dF1": "eV/Å²", "dF2": "eV/Å³"}
UNITS |= {f"W{j}": "eV" for j in (1, 2, 3)}
TITLES = {"energy": "energy less free atoms"}
TITLES |= {f"dV{j}": f"site energy, order {j}" for j in (1, 2, 3)}
TITLES |= {f"dF{j}": f"force, order {j}" for j in (1, 2)}
TITLES |= {f"W{j}": f"Cauchy–Born energy, order {j}" for j in (1, 2, 3)}


def plot_parity(sets: Mapping[str, np.ndarray], path: str | Path | None = None) -> Any:
    """Predicted against reference values, a panel for each kind of data.

    Parameters
    ----------
    sets : mapping of str to structured ndarray
        By name ("training", "test"), from :meth:`FitResult.parity`.
    path : str or Path, optional
        Save there.

    Returns
    -------
    matplotlib.figure.Figure
    """
    kinds = [k for k in UNITS if any((table["kind"] == k).any() for table in sets.values())]
    if not kinds:
        raise ValueError("sets: no data to draw")
    columns = min(len(kinds), 4)
    rows = -(-len(kinds) // columns)
    figure = new_figure(3.6 * columns, 4.1 * rows)
    axes = np.ravel(figure.subplots(rows, columns, squeeze=False))
    for axis in axes[len(kinds) :]:
        axis.set_visible(False)
    for axis, kind in zip(axes, kinds, strict=False):
        draw_parity(axis, kind, sets)
    return saved(figure, path)


def draw_parity(axis: Any, kind: str, sets: Mapping[str, np.ndarray]) -> None:
    """One panel, with the root mean square error of each set in the legend."""
    low, high = np.inf, -np.inf
    for (name, table), colour in zip(sets.items(), LINE_COLOURS, strict=False):
        mine = table[table["kind"] == kind]
        if not len(mine):
            continue
        rms = np.sqrt(np.average((mine["predicted"] - mine["reference"]) ** 2, weights=mine["size"]))
        label = f"{name}, {1e3 * rms:.3g} m{UNITS[kind]}"
        axis.plot(mine["reference"], mine["predicted"], ".", ms=3.5, color=colour, alpha=0.6, label=label)
        low = min(low, mine["reference"].min(), mine["predicted"].min())
        high = max(high, mine["reference"].max(), mine["predicted"].max())
    margin = 0.05 * (high - low) or 1.0
    ends = [low - margin, high + margin]
    axis.plot(ends, ends, color="k", lw=0.6, zorder=0)
    axis.set(xlim=ends, ylim=ends, aspect="equal", xlabel=f"reference ({UNITS[kind]})", ylabel="fit")
    axis.set_title(TITLES.get(kind, kind), fontsize=10)
    axis.legend(
        fontsize=8, frameon=False, loc="upper left", handletextpad=0.1, title="RMSE", title_fontsize=8
    )


def plot_calibration(
    predicted: np.ndarray, error: np.ndarray, factor: float, path: str | Path | None = None, bins: int = 10
) -> Any:
    """Root mean square error against the predicted standard deviation, in bins of equal numbers of forces.

    Parameters
    ----------
    predicted, error : ndarray, shape (m,)
        Standard deviation and actual error of each force component (eV/Å).
    factor : float
        Of :meth:`FitResult.calibrate`.
    path : str or Path, optional
        Save there.
    bins : int

    Returns
    -------
    matplotlib.figure.Figure
    """
    order = np.argsort(predicted, kind="stable")
    parts = [p for p in np.array_split(order, bins) if len(p)]
    x = np.array([np.sqrt(np.mean(predicted[p] ** 2)) for p in parts])
    y = np.array([np.sqrt(np.mean(error[p] ** 2)) for p in parts])
    figure = new_figure(4.4, 4.2)
    axis = figure.subplots()
    axis.plot(x, y, "o", color=LINE_COLOURS[0], ms=4, label="as fitted")
    axis.plot(factor * x, y, "s", color=LINE_COLOURS[1], ms=4, label=f"times {factor:.3g}")
    everything = np.concatenate([x, factor * x, y])
    ends = [0.0, 1.1 * everything.max()]
    if everything.max() > 20 * everything.min() > 0:
        axis.set(xscale="log", yscale="log")
        ends = [0.7 * everything.min(), 1.4 * everything.max()]
    axis.plot(ends, ends, color="k", lw=0.6, zorder=0)
    axis.set(
        xlim=ends, ylim=ends, xlabel="predicted standard deviation (eV/Å)", ylabel="actual RMS error (eV/Å)"
    )
    axis.legend(frameon=False, fontsize=9)
    return saved(figure, path)


def new_figure(width: float, height: float) -> Any:
    """A figure that belongs to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def saved(figure: Any, path: str | Path | None) -> Any:
    """The figure, written if there is a path."""
    if path is not None:
        figure.savefig(path, dpi=150)
    return figure
