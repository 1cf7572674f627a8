"""Taylor models of crystals with a basis, from exact derivatives of embedded-atom potentials."""

from __future__ import annotations

import lzma
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from helpers import assert_derivative, moved

from ase_qmmm import EAM, Crystal, TaylorForces, TaylorPotential

NIAL = Path(__file__).parent / "data" / "Mishin-Ni-Al-2009.eam.alloy.xz"


@cache
def nickel_aluminium(folder):
    path = folder / "NiAl.eam.alloy"
    path.write_bytes(lzma.decompress(NIAL.read_bytes()))
    calc = EAM(path)
    return calc, Crystal.relaxed(bulk("NiAl", "cesiumchloride", a=2.85), calc)


@cache
def smoothed(folder):
    """Order 3 takes fourth derivatives of the energy, which of the bare table are noise."""
    bare, crystal = nickel_aluminium(folder)
    return EAM(folder / "NiAl.eam.alloy", smoothing=0.2), crystal


@cache
def closed_form(_):
    calc = EAM("Al-Ni-zhou04")
    return calc, Crystal.relaxed(bulk("NiAl", "cesiumchloride", a=2.9), calc)


@cache
def magnesium(_):
    calc = EAM("Mg-zhou04")
    return calc, Crystal.relaxed(bulk("Mg"), calc)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("potentials")


CASES = {
    "NiAl": (nickel_aluminium, (8.0, 4.2)),
    "NiAl smoothed": (smoothed, (8.0, 4.2, 3.0)),
    "B2": (closed_form, (8.0, 4.2, 3.0)),
    "hcp": (magnesium, (8.0, 4.8, 3.4)),
}


@pytest.mark.parametrize("name", CASES)
def test_force_expansions(name, folder, rng):
    """Each order errs less than the one before, and is the gradient of its energy."""
    make, cutoffs = CASES[name]
    calc, crystal = make(folder)
    atoms = crystal.supercell(4)
    atoms.rattle(0.06, seed=1)
    expected = calc.evaluate(atoms).forces
    errors = []
    for order in range(1, len(cutoffs) + 1):
        mm = TaylorForces.from_calculator(calc, crystal, order, cutoffs[:order])
        here = mm.evaluate(atoms)
        errors.append(np.linalg.norm(here.forces - expected))
        u = rng.uniform(-1, 1, here.forces.shape)
        noise = 1e-13 * np.abs(here.energies).sum()
        slope = -(here.forces * u).sum()
        assert_derivative(lambda h, mm=mm, u=u: mm.evaluate(moved(atoms, u, h)).energy, slope, noise)
        assert np.abs(here.forces.sum(axis=0)).max() < 1e-11
        perfect = mm.evaluate(crystal.supercell(4))
        assert np.abs(perfect.forces).max() < 1e-11
    # Of cubic splines third derivatives jump, and order 3 gains less than of analytic functions.
    assert all(
        higher < (0.6 if name == "NiAl smoothed" else 0.5) * lower for lower, higher in pairwise(errors)
    )


@pytest.mark.parametrize("name", CASES)
def test_site_energies_of_third_order(name, folder):
    """Long waves exact to third order; the residual error of forces falls."""
    make, cutoffs = CASES[name]
    calc, crystal = make(folder)
    exact = calc.cauchy_born_derivatives(crystal, 3, relaxed=True)
    mm = TaylorPotential.from_calculator(
        calc, crystal, order=3, cutoff=(6.0, 6.0, cutoffs[1]), elasticity="exact"
    )
    found = mm.cauchy_born_derivatives(order=3, relaxed=True)
    for j in (2, 3):
        scale = np.abs(exact.tensors[j]).max()
        assert np.abs(found.tensors[j] - exact.tensors[j]).max() < 1e-7 * scale
    atoms = crystal.supercell(4)
    atoms.rattle(0.03, seed=1)
    expected = calc.evaluate(atoms).forces
    assert np.linalg.norm(mm.evaluate(atoms).forces - expected) < 0.1 * np.linalg.norm(expected)
