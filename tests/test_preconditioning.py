"""The factorised preconditioner against ASE's, relaxations by forces, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.optimize.precon import Exp, PreconLBFGS
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import StillingerWeber
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si

from ase_qmmm import EAM, Crystal, TaylorForces, preconditioning
from ase_qmmm.defects import vacancy
from ase_qmmm.errors import NumericsError
from ase_qmmm.preconditioning import (
    LARGEST_SEPARATOR,
    RIDGE,
    FactorisedExp,
    ForceConstantPrecon,
    PreconditionedLBFGS,
)


@pytest.fixture
def atoms():
    found = bulk("W", a=3.165, cubic=True) * 4
    found.rattle(0.08, seed=3)
    found.calc = EAM("W-zhou04")
    return found


@pytest.mark.parametrize("fixed", [False, True])
def test_solves_with_the_matrix_of_ase(atoms, rng, fixed):
    if fixed:
        atoms.set_constraint(FixAtoms(np.arange(5)))
    own = FactorisedExp(mu=3.0, r_NN=2.74)
    theirs = Exp(mu=3.0, r_NN=2.74, r_cut=1.5 * 2.74, solver="direct")
    own.make_precon(atoms)
    theirs.make_precon(atoms)
    x = rng.normal(size=3 * len(atoms))
    # Apart from the ridge of 1e-6 mu, which matters where a matrix is nearly singular.
    assert np.allclose(
        own.solve(x), theirs.solve(x), rtol=0, atol=100 * RIDGE * np.abs(theirs.solve(x)).max()
    )
    assert np.allclose(own.Pdot(own.solve(x)), x, atol=1e-4)
    assert np.allclose(own.copy().solve(x), own.solve(x))


def test_large_systems_are_solved_by_conjugate_gradients(atoms, rng, monkeypatch):
    """The same solution, column by column, also of a column that is zero; wide thin plates keep factors."""
    direct, iterative = FactorisedExp(mu=3.0), FactorisedExp(mu=3.0)
    direct.make_precon(atoms)
    with monkeypatch.context() as patch:
        patch.setattr(preconditioning, "LARGEST_SEPARATOR", 20)
        patch.setattr(preconditioning, "TOLERANCE", 1e-10)
        iterative.make_precon(atoms)
        x = rng.normal(size=(len(atoms), 3))
        x[:, 1] = 0.0
        expected, found = direct.solve(x.ravel()), iterative.solve(x.ravel())
    assert np.allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    assert (found.reshape(-1, 3)[:, 1] == 0).all()
    reach = 1.5 * 2.74
    assert preconditioning._separator(bulk("W", a=3.165, cubic=True) * 25, reach) > LARGEST_SEPARATOR
    assert preconditioning._separator(bulk("W", a=3.165, cubic=True) * (60, 60, 1), reach) < LARGEST_SEPARATOR


def test_relaxation_with_conjugate_gradients(atoms, monkeypatch):
    monkeypatch.setattr(preconditioning, "LARGEST_SEPARATOR", 20)
    assert PreconditionedLBFGS(atoms, logfile=None).run(fmax=1e-9, steps=60)


def test_same_minimum_as_ase(atoms):
    other = atoms.copy()
    other.calc = EAM("W-zhou04")
    assert PreconditionedLBFGS(atoms, logfile=None).run(fmax=1e-10, steps=60)
    assert PreconLBFGS(other, precon=FactorisedExp(), use_armijo=False, logfile=None).run(fmax=1e-5, steps=60)
    shift = (atoms.positions - other.positions).mean(axis=0)
    assert np.abs(atoms.positions - other.positions - shift).max() < 1e-5


def test_fixed_atoms_stay(atoms):
    atoms.set_constraint(FixAtoms(np.arange(7)))
    before = atoms.positions.copy()
    assert PreconditionedLBFGS(atoms, logfile=None).run(fmax=1e-8, steps=60)
    assert np.array_equal(atoms.positions[:7], before[:7])


def test_first_step_is_bounded(atoms):
    before = atoms.positions.copy()
    PreconditionedLBFGS(atoms, maxstep=0.01, logfile=None).run(fmax=1e-8, steps=1)
    assert np.linalg.norm(atoms.positions - before, axis=1).max() < 0.01 + 1e-12


@pytest.mark.parametrize("options", [{"maxstep": 0.0}, {"memory": 0}, {"memory": 2.5}])
def test_refused(atoms, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        PreconditionedLBFGS(atoms, **options)


def test_wrong_stiffness_costs_little(atoms):
    """As close atoms make it: a preconditioner a hundred times too stiff, or too soft, is scaled."""
    steps = []
    for factor in (1.0, 100.0, 0.1):
        copy = atoms.copy()
        copy.calc = EAM("W-zhou04")
        optimizer = PreconditionedLBFGS(copy, logfile=None)
        optimizer.precon = FactorisedExp(mu=2.5 * factor)
        assert optimizer.run(fmax=1e-6, steps=100)
        steps.append(optimizer.nsteps)
    assert max(steps) < 1.3 * steps[0] + 4


@pytest.fixture(scope="module")
def silicon():
    """A vacancy in classical silicon, and its crystal's force constants."""
    calc = Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))
    crystal = Crystal.relaxed(bulk("Si"), calc)
    constants = TaylorForces.from_calculator(calc, crystal, cutoff=5.0).force_constants
    atoms = vacancy(crystal, 3)
    atoms.rattle(0.1, seed=1)
    atoms.calc = calc
    return atoms, crystal, constants


def test_force_constants_are_the_hessian_of_the_crystal(silicon, rng):
    """In any orientation, and with some atoms held, ``P^-1 F`` is the displacement but for rounding."""
    _, crystal, constants = silicon
    model = TaylorForces(constants)
    atoms = crystal.supercell(3, cubic=True)
    atoms.rotate(33.0, (1, 2, 3), rotate_cell=True)
    atoms.set_constraint(FixAtoms([3, 50]))
    u = rng.normal(size=(len(atoms), 3)) * 1e-3
    u[[3, 50]] = 0.0
    precon = ForceConstantPrecon(constants, floor=1e-9)
    precon.make_precon(atoms)
    moved = atoms.copy()
    moved.set_constraint()
    moved.positions += u
    forces = model.evaluate(moved).forces
    assert np.allclose(precon.solve(-forces.ravel()), u.ravel(), rtol=0, atol=1e-8)
    # Others are free now: made anew.
    atoms.set_constraint()
    precon.make_precon(atoms)
    assert np.abs(precon.solve(np.ones(3 * len(atoms)))[9:12]).min() > 0


def test_force_constants_save_steps_in_silicon(silicon):
    atoms, crystal, constants = silicon
    found = {}
    for name, precon in (("exp", None), ("constants", ForceConstantPrecon(constants))):
        copy = atoms.copy()
        copy.calc = atoms.calc
        optimizer = PreconditionedLBFGS(copy, precon=precon, logfile=None)
        assert optimizer.run(fmax=1e-6, steps=150)
        found[name] = optimizer.nsteps, copy.get_potential_energy()
    assert found["constants"][0] < 0.6 * found["exp"][0]
    assert np.isclose(found["constants"][1], found["exp"][1], atol=1e-8)


def test_force_constants_are_positive_in_a_core(silicon):
    """Also where bonds have other partners than in the crystal."""
    atoms, crystal, constants = silicon
    torn = atoms.copy()
    torn.positions[:4] += 0.8
    precon = ForceConstantPrecon(constants)
    precon.make_precon(torn)
    x = np.random.default_rng(2).normal(size=(3 * len(torn), 5))
    assert (np.sum(x * np.array([precon.solve(c) for c in x.T]).T, axis=0) > 0).all()
    torn.set_constraint(FixAtoms(np.arange(len(torn))))
    with pytest.raises(NumericsError, match="no free atom"):
        precon.make_precon(torn)
