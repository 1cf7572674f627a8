"""Pictures of studies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..plotting import LINE_COLOURS

__all__ = ["plot_convergence"]


def plot_convergence(
    table: np.ndarray,
    path: str | Path | None = None,
    slopes: Mapping[str, float] | None = None,
    energy_slopes: Mapping[str, float] | None = None,
) -> Any:
    """Errors of :class:`ConvergenceStudy` against the radius of the quantum region; returns the figure.

    Parameters
    ----------
    table : structured ndarray
        Of the study.
    path : str or Path, optional
        Save there.
    slopes, energy_slopes : mapping of str to float, optional
        Exponents to draw as dashed lines, by label; the name of a scheme draws through its last point. The
        second are those of the energy error.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    columns = [("error", "‖Du − Du$_H$‖ (Å)")]
    if np.isfinite(table["energy_error"]).any():
        columns.append(("energy_error", "error of the relaxation energy (eV)"))
    figure = Figure(figsize=(5.4 * len(columns), 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (column, label) in zip(
        figure.subplots(1, len(columns), squeeze=False)[0], columns, strict=True
    ):
        for k, name in enumerate(dict.fromkeys(table["scheme"].tolist())):
            rows = table[table["scheme"] == name]
            values = np.abs(rows[column])
            shown = np.isfinite(values) & (values > 0)
            if shown.any():
                colour = LINE_COLOURS[k % len(LINE_COLOURS)]
                axes.plot(rows["r_qm"][shown], values[shown], "o-", color=colour, label=name, ms=4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        _draw_slopes(axes, (slopes if column == "error" else energy_slopes) or {})
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(np.unique(table["r_qm"]))
        axes.tick_params(axis="x", which="minor", length=0)
        axes.set_xlabel("radius of the QM region (Å)")
        axes.set_ylabel(label)
        axes.legend(frameon=False, fontsize="small")
    if path is not None:
        figure.savefig(path, dpi=130)
    return figure


def _draw_slopes(axes: Any, slopes: Mapping[str, float]) -> None:
    """Dashed lines of given exponents.

    Through the last point of the scheme that a label names, else through the first point of all.
    """
    curves = {line.get_label(): line for line in axes.lines}
    first = next(iter(curves.values()), None)
    if first is None:
        return
    for label, slope in slopes.items():
        own = curves.get(label)
        x, y = (own or first).get_data()
        at = -1 if own else 0
        ends = np.array([x[0], x[-1]])
        values = y[at] * (ends / x[at]) ** slope
        colour = own.get_color() if own else "#777777"
        axes.plot(ends, values, "--", color=colour, lw=0.9)
        text, place = (f"{slope:g}", 0) if own else (label, 1)
        axes.annotate(text, (ends[place], values[place]), fontsize="small", color=colour)
