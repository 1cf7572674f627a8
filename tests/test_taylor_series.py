"""Series along the displacement: the same numbers as tensors, and orders that no tensor reaches."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from helpers import assert_derivative, moved

from ase_qmmm import (
    EAM,
    Crystal,
    EnergyMixingCalculator,
    ForceMixingCalculator,
    Regions,
    TaylorForces,
    TaylorPotential,
    TaylorSeries,
    TightBinding,
    check_calculator,
)

TRIANGULAR = Atoms("Ni", cell=[[2.5, 0, 0], [1.25, 2.5 * np.sqrt(0.75), 0], [0, 0, 0]], pbc=(1, 1, 0))
# Model, crystal, order, cutoffs.
CASES = {
    "toy": (lambda: TightBinding("toy", kT=0.2), TRIANGULAR, 4, 2.6),
    "toy, cutoffs": (lambda: TightBinding("toy", kT=0.2), TRIANGULAR, 4, (5.1, 4.4, 4.4, 2.6)),
    "silicon": (lambda: TightBinding("nrl-Si-sp", kT=0.5), bulk("Si", a=5.43), 3, 2.5),
    "Kwon": (lambda: TightBinding("kwon-Si", kT=0.5), bulk("Si", a=5.43), 3, 2.5),
    "tungsten": (lambda: EAM("W-zhou04"), bulk("W", a=3.165), 3, 4.0),
    "alloy": (lambda: EAM("Ni-Al-zhou04"), bulk("NiAl", "cesiumchloride", a=2.88), 3, (4.2, 4.2, 3.0)),
}
MADE = {}


def made(name):
    """The quantum model, the tensors and the series, each made once."""
    if name not in MADE:
        make, cell, order, cutoff = CASES[name]
        qm, crystal = make(), Crystal(cell)
        both = [
            TaylorPotential.from_calculator(
                qm, crystal, order, cutoff, elasticity="truncated", threshold=0.0, method=method
            )
            for method in ("tensors", "series")
        ]
        MADE[name] = qm, *both
    return MADE[name]


def rattled(crystal, repeats, size, seed=1):
    atoms = crystal.supercell(repeats)
    atoms.positions += size * np.random.default_rng(seed).uniform(-1, 1, (len(atoms), 3)) * atoms.pbc
    return atoms


@pytest.mark.parametrize("name", CASES)
def test_same_as_tensors(name, rng):
    _, tensors, series = made(name)
    assert type(series) is TaylorSeries and series.cutoffs == tensors.cutoffs
    atoms = rattled(series.crystal, 3 if series.crystal.n_basis == 1 else 2, 0.1)
    weights = rng.uniform(-1, 1, len(atoms))
    for w in (None, weights):
        a, b = tensors.evaluate(atoms, w), series.evaluate(atoms, w)
        for one in ("energies", "forces", "virial"):
            x, y = getattr(a, one), getattr(b, one)
            constant = tensors.reference_energies.mean() if one == "energies" else 0.0
            assert np.abs(x - y).max() < 1e-9 * np.abs(x - constant).max()
