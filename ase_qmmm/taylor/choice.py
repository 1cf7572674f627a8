"""Tensors, or series along the displacement: which is cheaper, by measured cost."""

from __future__ import annotations

import logging
import time
from math import comb
from typing import Any

import numpy as np

from ..crystal import Crystal
from .crystal_derivatives import check_memory
from .site_series import SiteSeries

__all__ = ["MAX_MEMORY", "METHODS", "chosen_method"]

log = logging.getLogger(__name__)

METHODS = ("auto", "tensors", "series")
# GB of tensors, the default limit of the models that have them.
MAX_MEMORY = 4.0
# Tensors with fewer numbers from the third order on are made without any comparison.
FEW = 1_000_000
# Time (s) per coefficient and site of a polynomial, and per number of a tensor to symmetrise and pack it;
# measured, benchmarks/taylor_series.py.
PER_COEFFICIENT = 4e-10
PER_NUMBER = 1.5e-6
# Sites of the trial of a series.
TRIAL = 16


def chosen_method(
    qm: Any, crystal: Crystal, cutoffs: dict[int, float], evaluations: int, prefer_tensors: bool = False
) -> str:
    """``"tensors"`` or ``"series"``.

    Series where tensors end: beyond the fourth order, and where they do not fit into memory. Tensors for the
    second order, and where there are fewer than a million numbers. Otherwise what takes less time: the
    derivatives, estimated from a part of them, and ``evaluations`` evaluations of polynomials, or as many of
    series, of which a few are timed. With `prefer_tensors` these are taken wherever they fit. `qm` has a
    method ``site_energy_series``.
    """
    order = max(cutoffs)
    if order > 4:
        return "series"
    if order < 3:
        return "tensors"
    name = f"order {order}, cutoffs {', '.join(f'{r:g}' for r in cutoffs.values())} Å"
    try:
        check_memory("energy", crystal, cutoffs, MAX_MEMORY)
    except ValueError as error:
        log.info("%s: series, as %s", name, error)
        return "series"
    sizes = {
        j: [3 * len(crystal.stencil(a, r)) for a in range(crystal.n_basis)]
        for j, r in cutoffs.items()
        if j > 2
    }
    numbers = sum(s**j for j, row in sizes.items() for s in row)
    if numbers <= FEW or prefer_tensors:
        return "tensors"
    estimate = getattr(qm, "site_energy_derivatives_time", None)
    set_up = PER_NUMBER * numbers
    if callable(estimate):
        set_up += estimate(crystal, order, list(cutoffs.values()))
    per_site = PER_COEFFICIENT * sum(comb(max(row) + j - 1, j) for j, row in sizes.items())
    series_set_up, series_per_site = _series_time(qm, crystal, cutoffs)
    tensors = set_up + evaluations * per_site
    series = series_set_up + evaluations * series_per_site
    method = "tensors" if tensors <= series else "series"
    log.info(
        "%s: %s; for %d site energies tensors take about %.3g s (set-up %.3g s, %.3g µs per site), "
        "series %.3g s (set-up %.3g s, %.3g µs per site)",
        name,
        method,
        evaluations,
        tensors,
        set_up,
        1e6 * per_site,
        series,
        series_set_up,
        1e6 * series_per_site,
    )
    return method


def _series_time(qm: Any, crystal: Crystal, cutoffs: dict[int, float]) -> tuple[float, float]:
    """Processor time (s) of the set-up of the series and of one site, the compiled loops apart."""
    set_up = per_site = 0.0
    for radius in {r for j, r in cutoffs.items() if j > 2}:
        orders = [j for j, r in cutoffs.items() if j > 2 and r == radius]
        begin = time.process_time()
        series: SiteSeries = qm.site_energy_series(crystal, max(orders), radius)
        set_up += time.process_time() - begin
        g = 0.01 * np.sin(np.arange(TRIAL * 3.0 * len(crystal.stencil(0, radius)))).reshape(TRIAL, -1, 3)
        series.expand(0, g[:1], min(orders), max(orders))  # compiles
        begin = time.process_time()
        series.expand(0, g, min(orders), max(orders))
        per_site += (time.process_time() - begin) / TRIAL
    return set_up, per_site
