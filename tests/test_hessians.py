"""Force constant errors: Hessians of springs, the norm, two models, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from mixing_fixtures import kumagai, stillinger_weber, vacancy

from ase_qmmm import EAM, Crystal, TaylorForces, energy_norm
from ase_qmmm.fitting import force_constant_error, hessian
from ase_qmmm.fitting.hessians import _inverse_root


def test_hessian_of_tungsten_is_that_of_its_force_constants():
    """EAM and its own first-order expansion, in a cell that holds the stencils once."""
    calc = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W", a=3.165), calc)
    taylor = TaylorForces.from_calculator(calc, crystal, cutoff=2 * calc.cutoff, elasticity="truncated")
    atoms = crystal.supercell(2, cubic=True)
    assert np.allclose(hessian(calc, atoms), hessian(taylor, atoms), atol=1e-5)
    error, relative = force_constant_error(calc, taylor, atoms)
    assert error < 1e-5 and relative < 1e-5


def test_basis_has_unit_energy_norm(rng):
    atoms, _ = vacancy(1)
    root = _inverse_root(atoms)
    assert root.shape == (21, 18)  # all but translations
    c = rng.normal(size=18)
    assert np.isclose(energy_norm((root @ c).reshape(-1, 3), atoms), np.linalg.norm(c))


def test_error_bounds_every_displacement(rng):
    """Two potentials of silicon at a vacancy: no displacement exceeds the maximum, and one comes close."""
    atoms, _ = vacancy(1)
    first, second = kumagai(), stillinger_weber()
    error, relative = force_constant_error(first, second, atoms)
    difference = hessian(first, atoms) - hessian(second, atoms)
    ratios = []
    for _ in range(200):
        u = rng.normal(size=(len(atoms), 3))
        ratios.append(abs(u.ravel() @ difference @ u.ravel()) / energy_norm(u, atoms) ** 2)
    assert max(ratios) <= error * (1 + 1e-9) and max(ratios) > error / 5
    assert 0.0 < relative < 2.0
    assert np.isclose(force_constant_error(second, first, atoms)[0], error)


def test_refused():
    calc = EAM("W-zhou04")
    with pytest.raises(ValueError, match="two or more"):
        force_constant_error(calc, calc, Atoms("W"))
    with pytest.raises(ValueError, match="within 8 Å"):
        force_constant_error(calc, calc, Atoms("W2", [(0, 0, 0), (0, 0, 20)]))
    with pytest.raises(ValueError, match="step"):
        hessian(calc, bulk("W", cubic=True), step=0.0)
