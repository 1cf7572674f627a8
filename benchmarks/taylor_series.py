"""Tensors against series along the displacement: python benchmarks/taylor_series.py [silicon] [tungsten].

Silicon is nrl-Si-sp at kT = 0.1 eV, tungsten EAM W-zhou04. Processor times, the least of three for a site.
Tensors are made where that takes less than a minute; else their set-up is estimated as method="auto" does it,
and their times per site from the number of coefficients. Set OPENBLAS_NUM_THREADS=1 for the times of the
documentation.
"""

import sys
import time
from math import comb

import numpy as np
from ase.build import bulk

from ase_qmmm import EAM, Crystal, TaylorPotential, TightBinding
from ase_qmmm.taylor.choice import PER_COEFFICIENT

CASES = {
    "silicon": [
        (3, 4.0),
        (3, 5.0),
        (3, 6.0),
        (4, 2.5),
        (4, 4.0),
        (4, 5.0),
        (4, 6.0),
        (4, 8.0),
        (5, 5.0),
        (6, 5.0),
    ],
    "tungsten": [(3, 3.5), (3, 4.6), (3, 5.7), (4, 3.5), (4, 4.6), (4, 5.7), (5, 5.7), (6, 5.7)],
}
SITES = 16


def model(name):
    if name == "silicon":
        return TightBinding("nrl-Si-sp", kT=0.1), Crystal(bulk("Si", a=5.42641))
    return EAM("W-zhou04"), Crystal(bulk("W", a=3.1648494))


def timed(function, repeats=1):
    """Result and least processor time (s)."""
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        result = function()
        times.append(time.process_time() - begin)
    return result, min(times)


def size(series):
    """Bytes of the arrays of a series."""
    arrays = [
        x
        for sites in series._sites.values()
        for site in (sites if isinstance(sites, list) else [sites])
        for value in vars(site).values()
        for x in (value if isinstance(value, list | tuple) else [value])
        if isinstance(x, np.ndarray)
    ]
    return sum(x.nbytes for x in arrays)


def series_costs(qm, crystal, order, cutoff, rng):
    series, set_up = timed(lambda: qm.site_energy_series(crystal, order, cutoff))
    g = rng.uniform(-0.05, 0.05, (SITES, len(crystal.stencil(0, cutoff)), 3))
    series.expand(0, g[:1], 3, order)
    _, per_site = timed(lambda: series.expand(0, g, 3, order), 3)
    return set_up, per_site / SITES, size(series)


def tensor_costs(qm, crystal, order, cutoff, coefficients, numbers):
    """Set-up (s), time per site (s), and whether each was measured on the whole."""
    if 40 * numbers > 4e9:
        return np.nan, np.nan, ""
    cutoffs = [min(cutoff, 2.8)] * 2 + [cutoff] * (order - 2)
    estimate = 0.0
    if hasattr(qm, "site_energy_derivatives_time"):
        estimate = qm.site_energy_derivatives_time(crystal, order, cutoffs)
    if estimate > 60 or numbers > 1e7:
        return estimate or np.nan, PER_COEFFICIENT * coefficients, " (estimated)"
    mm, set_up = timed(
        lambda: TaylorPotential.from_calculator(qm, crystal, order, cutoffs, threshold=0.0, method="tensors")
    )
    atoms = crystal.supercell(6)
    atoms.rattle(0.03, seed=1)
    mm.evaluate(atoms)
    _, call = timed(lambda: mm.evaluate(atoms), 3)
    return set_up, call / len(atoms), ""


def main(names):
    rng = np.random.default_rng(1)
    for name in names:
        qm, crystal = model(name)
        for order, cutoff in CASES[name]:
            s = len(crystal.stencil(0, cutoff))
            coefficients = sum(comb(3 * s + j - 1, j) for j in range(3, order + 1))
            numbers = sum((3.0 * s) ** j for j in range(3, order + 1))
            set_up, per_site, memory = series_costs(qm, crystal, order, cutoff, rng)
            text = f"{name}, order {order}, {cutoff:g} Å, {s} neighbours: series {set_up:.2f} s, "
            text += f"{1e6 * per_site:.3g} µs per site, {1e-9 * memory:.3g} GB; tensors "
            if order > 4:
                print(text + "do not exist", flush=True)
                continue
            tensors, each, how = tensor_costs(qm, crystal, order, cutoff, coefficients, numbers)
            text += f"{numbers:.2g} numbers of {8e-9 * numbers:.2g} GB, "
            print(text + f"{tensors:.3g} s, {1e6 * each:.3g} µs per site{how}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or list(CASES))
