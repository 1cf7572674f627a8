"""Divide and conquer against the dense solver, by gradients, invariances, weights and faults."""

from __future__ import annotations

import os
import pickle
import signal
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from helpers import assert_derivative, moved, random_rotation, random_strain, rotated, strained
from mixing_fixtures import stillinger_weber

from ase_qmmm import (
    Crystal,
    DivideAndConquer,
    ForceMixingCalculator,
    StructureError,
    TightBinding,
    fermi_level,
)
from ase_qmmm.contract import check_calculator
from ase_qmmm.tightbinding import blocks, divide_and_conquer
from ase_qmmm.tightbinding.boundaries import OpenBoundary, PeriodicBoundary

MU = 5.8
A_SI = 5.43
SILICON = Crystal(bulk("Si", a=A_SI))


def silicon(*repeats, rattle=0.05, seed=1):
    atoms = bulk("Si", a=A_SI, cubic=True) * repeats
    atoms.rattle(rattle, seed=seed)
    return atoms


def free_cluster(n=16):
    atoms = silicon(1, 1, 2)[:n]
    atoms.set_cell(np.zeros((3, 3)))
    atoms.pbc = False
    return atoms


def solved(solver, **options):
    return TightBinding(mu=MU, solver=solver, **options)


def assert_same(got, expected, allowed=1e-10):
    assert got.energy == pytest.approx(expected.energy, abs=allowed * len(got.energies))
    assert np.abs(got.energies - expected.energies).max() < allowed
    assert np.abs(got.forces - expected.forces).max() < allowed
    assert np.abs(got.virial - expected.virial).max() < 10 * allowed * len(got.energies)


# Long boxes, of which no cluster holds the whole; the second in periodic boxes of 24 atoms.
def long_open():
    return silicon(1, 1, 4), solved(DivideAndConquer(block=5.43, buffer=3.0), kpts=(2, 1, 1))


def long_periodic():
    solver = DivideAndConquer(block=5.43, buffer=3.0, boundary="periodic", crystal=SILICON)
    return silicon(1, 1, 4), solved(solver, kpts=(2, 1, 1))


LONG = {"open": long_open, "periodic": long_periodic}
# At 1 eV site energies are local within reach of small clusters.
WARM = {"mu": MU, "kT": 1.0}
# 20 Å along the short sides, as the clusters have it.
SAMPLED = {"size": (4, 4, 1), "gamma": True}


@pytest.fixture(params=LONG)
def long(request):
    return LONG[request.param]()


# -- against the dense solver ----------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_a_buffer_that_holds_everything_is_exact(weighted, rng):
    atoms = free_cluster()
    weights = rng.uniform(-1, 1, len(atoms)) if weighted else None
    # Blocks of a few atoms, each of them with all the others as buffer.
    calc = solved(DivideAndConquer(block=3.0, buffer=30.0, boundary=OpenBoundary(keep_periodic=False)))
    assert_same(calc.evaluate(atoms, weights), TightBinding(mu=MU).evaluate(atoms, weights))
    assert len(calc.solver_state.carver.blocks) > 3


@pytest.mark.parametrize("boundary", ["open", "periodic"])
def test_a_small_cell_is_the_dense_one(boundary, rng):
    atoms, kpts = silicon(1, 1, 1), {"size": (2, 3, 1), "gamma": True}
    solver = DivideAndConquer(block=2.7, buffer=4.0, boundary=boundary, crystal=SILICON)
    weights = rng.uniform(0, 1, len(atoms))
    expected = TightBinding(mu=MU, kpts=kpts).evaluate(atoms, weights)
    assert_same(solved(solver, kpts=kpts).evaluate(atoms, weights), expected)


def test_images_converge_to_k_points():
    """Two atoms whose cluster is made of their images, against a converged k-point grid."""
    atoms = bulk("Si", a=A_SI)
    atoms.rattle(0.05, seed=3)
    exact = TightBinding(**WARM, kpts=(6, 6, 6)).evaluate(atoms)
    errors = []
    for buffer in (5.0, 8.0, 11.0):
        solver = DivideAndConquer(block=5.0, buffer=buffer, boundary=OpenBoundary(keep_periodic=False))
        calc = TightBinding(**WARM, solver=solver)
        got = calc.evaluate(atoms)
        errors.append(np.abs(got.forces - exact.forces).max())
        virial_error = np.abs(got.virial - exact.virial).max()
        assert all(not c.pbc.any() for c in calc.solver_state.clusters.values())
    assert errors[2] < errors[1] / 3 < errors[0] / 9
    assert errors[2] < 2e-3  # eV/Å, of forces of 1 eV/Å
    assert virial_error < 0.05  # eV, of 10


@pytest.mark.parametrize("boundary", ["open", "periodic"])
def test_a_wider_buffer_is_better(boundary):
    atoms = silicon(1, 1, 6)
    exact = TightBinding(**WARM, kpts=SAMPLED).evaluate(atoms)
    errors = []
    for buffer in (2.5, 5.5, 8.0):
        solver = DivideAndConquer(block=5.43, buffer=buffer, boundary=boundary, crystal=SILICON)
        got = TightBinding(**WARM, kpts=SAMPLED, solver=solver).evaluate(atoms)
        errors.append(np.abs(got.forces - exact.forces).max())
    assert errors[2] < errors[1] / 3 < errors[0] / 9, errors


def test_a_line_stays_periodic():
    """A wire of one cell: sampled along the line, open across it, exact once the buffer holds it all."""
    atoms = silicon(2, 1, 1)
    atoms.pbc = (False, False, True)
    kpts = (1, 1, 3)
    exact = TightBinding(mu=MU, kpts=kpts).evaluate(atoms)
    assert_same(solved(DivideAndConquer(block=5.0, buffer=20.0), kpts=kpts).evaluate(atoms), exact)
    calc = solved(DivideAndConquer(block=5.0, buffer=4.0), kpts=kpts)
    calc.evaluate(atoms)
    clusters = calc.solver_state.clusters.values()
    assert len(clusters) > 1 and all(c.pbc.tolist() == [False, False, True] for c in clusters)


# -- gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_forces_and_virial_are_gradients(long, weighted, rng):
    atoms, calc = long
    weights = rng.uniform(-0.5, 1.5, len(atoms)) if weighted else None
    here = calc.evaluate(atoms, weights)
    plan = calc.solver_state
    u = rng.uniform(-1, 1, (len(atoms), 3))
    steps = np.array([0.1, 0.01, 1e-3])
    slope = -(here.forces * u).sum()
    assert_derivative(lambda h: calc.evaluate(moved(atoms, u, h), weights).energy, slope, 1e-9, steps)
    strain = random_strain(rng)
    slope = -(here.virial * strain).sum()
    assert_derivative(lambda h: calc.evaluate(strained(atoms, strain, h), weights).energy, slope, 1e-9, steps)
    assert calc.solver_state is plan


def test_free_cluster_gradient(rng):
    atoms = free_cluster()
    calc = solved(DivideAndConquer(block=4.0, buffer=3.0))
    u = rng.uniform(-1, 1, (len(atoms), 3))
    slope = -(calc.evaluate(atoms).forces * u).sum()
    assert_derivative(lambda h: calc.evaluate(moved(atoms, u, h)).energy, slope, 1e-10)
    strain = random_strain(rng)
    slope = -(calc.evaluate(atoms).virial * strain).sum()
    assert_derivative(lambda h: calc.evaluate(strained(atoms, strain, h)).energy, slope, 1e-10)
    assert len(calc.solver_state.carver.blocks) > 1


def test_contract():
    atoms = silicon(1, 1, 3)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]])), True)
    check_calculator(solved(DivideAndConquer(block=5.43, buffer=2.6)), atoms, skip={"supercell"})


def test_contract_of_a_free_cluster():
    check_calculator(solved(DivideAndConquer(block=4.0, buffer=3.0)), free_cluster(10))


# -- invariances and state -------------------------------------------------------------------------------


def test_invariances_of_fresh_blocks(long, rng):
    atoms, calc = long
    here = calc.evaluate(atoms)

    def fresh(other):
        calc.solver_state = None
        return calc.evaluate(other)

    shifted = atoms.copy()
    shifted.translate(rng.uniform(-5, 5, 3))
    shifted.positions += rng.integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
    assert_same(fresh(shifted), here, 1e-9)
    q = random_rotation(rng)
    turned = fresh(rotated(atoms, q))
    assert np.abs(turned.forces - here.forces @ q.T).max() < 1e-8
    order = rng.permutation(len(atoms))
    mixed = fresh(atoms[order])
    assert np.abs(mixed.forces - here.forces[order]).max() < 1e-9
    assert mixed.energy == pytest.approx(here.energy, abs=1e-8)


def test_blocks_are_kept_until_an_atom_has_moved_by_the_skin():
    atoms = silicon(1, 1, 4)
    calc = solved(DivideAndConquer(block=5.43, buffer=2.0, skin=0.3))
    calc.evaluate(atoms)
    plan = calc.solver_state
    near = moved(atoms, np.eye(1, 96).reshape(32, 3), 0.25)
    near.wrap()
    near.translate([1.0, 0, 0])  # a rigid translation and another image are no motion
    calc.evaluate(near)
    assert calc.solver_state is plan
    calc.evaluate(moved(atoms, np.eye(1, 96).reshape(32, 3), 0.35))
    assert calc.solver_state is not plan
    for other in (strained(atoms, np.eye(3) * 0.05), silicon(1, 1, 5), free_cluster()):
        plan = calc.solver_state
        calc.evaluate(other)
        assert calc.solver_state is not plan


def test_a_solver_serves_several_calculators():
    solver = DivideAndConquer(block=5.43, buffer=2.0)
    first, second = solved(solver), solved(solver)
    first.evaluate(silicon(1, 1, 4))
    plan = first.solver_state
    second.evaluate(silicon(1, 1, 5))
    assert first.solver_state is plan is not second.solver_state


def test_blocks_partition_the_atoms(rng):
    atoms = Atoms("Si300", rng.uniform(0, 1, (300, 3)) @ [[20, 0, 0], [17, 19, 0], [3, -9, 25]])
    atoms.cell = [[20, 0, 0], [17, 19, 0], [3, -9, 25]]
    for pbc in (True, False, (True, False, True), (False, True, False)):
        atoms.pbc = pbc
        parts = blocks.partition(atoms, 5.0, 1.0)
        assert sorted(np.concatenate(parts.blocks)) == list(range(300))
        positions = parts.position(atoms)
        assert max(np.ptp(positions[b], axis=0).max() for b in parts.blocks) < 2.5 * 5.0
        assert abs(np.linalg.det(parts.operation.astype(float))) == pytest.approx(1.0)


# -- weights ---------------------------------------------------------------------------------------------


def test_blocks_without_weight_are_left_out(monkeypatch):
    atoms = silicon(1, 1, 6)
    calc = solved(DivideAndConquer(block=5.43, buffer=3.0), kpts=(2, 2, 1))
    whole = calc.evaluate(atoms)
    some = np.zeros(len(atoms))
    some[calc.solver_state.carver.blocks[2][:3]] = [1.0, 0.0, 2.0]
    calls = []
    original = divide_and_conquer.evaluate_block
    monkeypatch.setattr(divide_and_conquer, "evaluate_block", lambda t: calls.append(t) or original(t))
    got = calc.evaluate(atoms, some)
    assert len(calls) == 1
    block = calc.solver_state.carver.blocks[2]
    assert np.abs(got.energies[block] - whole.energies[block]).max() < 1e-10
    assert got.energy == pytest.approx(float(some @ whole.energies), abs=1e-9)
    assert not np.delete(got.energies, block).any()
    nothing = calc.evaluate(atoms, np.zeros(len(atoms)))
    assert len(calls) == 1 and nothing.energy == 0.0 and not nothing.forces.any()


# -- point defects in periodic boxes ---------------------------------------------------------------------


@pytest.mark.parametrize("defect", ["vacancy", "interstitial"])
def test_boxes_around_point_defects(defect):
    atoms = silicon(1, 1, 6, rattle=0.0)
    if defect == "vacancy":
        del atoms[20]
    else:
        atoms += Atoms("Si", [atoms.positions[24] + A_SI / 2])
    atoms.rattle(0.05, seed=5)
    exact = TightBinding(**WARM, kpts=SAMPLED).evaluate(atoms)
    errors = []
    for buffer in (2.5, 6.0):
        solver = DivideAndConquer(block=5.43, buffer=buffer, boundary="periodic", crystal=SILICON)
        calc = TightBinding(**WARM, kpts=SAMPLED, solver=solver)
        got = calc.evaluate(atoms)
        assert not any(c.whole for c in calc.solver_state.clusters.values())
        errors.append(np.abs(got.forces - exact.forces).max())
    assert errors[1] < errors[0] / 5, errors
    assert errors[1] < 5e-3  # eV/Å, of forces of several


def test_k_points_of_boxes():
    """Four points where they are enough, unless the user samples more, or names the points."""
    atoms = silicon(4, 4, 4)
    box = silicon(3, 3, 3)
    grid = {"size": (2, 2, 2), "gamma": True}

    def points(cluster, kpts=(1, 1, 1), own=None):
        carver = PeriodicBoundary(SILICON, kpts=own).carver(atoms, 5.43, 5.0)
        child = carver.calculator(solved(DivideAndConquer(), kpts=kpts), cluster, atoms)
        assert child.solver == "dense"
        return child.kpts

    assert len(points(box)) == 4
    assert points(silicon(2, 2, 2)) == grid
    assert points(box, kpts=(1, 1, 2)) != points(box)
    assert points(box, own=(1, 1, 1)) == (1, 1, 1)
    perfect = silicon(2, 2, 2, rattle=0.0)
    energies = [solved("dense", kpts=k).evaluate(perfect).energy for k in ((1, 1, 1), points(box), grid)]
    assert abs(energies[1] - energies[2]) < abs(energies[0] - energies[2]) / 50


def test_periodic_needs_a_lattice():
    solver = DivideAndConquer(block=3.0, buffer=2.0, boundary="periodic", crystal=SILICON)
    with pytest.raises(StructureError, match="'periodic' is not possible here: .*use boundary='open'"):
        solved(solver).evaluate(free_cluster())
    slab = silicon(1, 1, 4)
    slab.pbc = (True, True, False)
    with pytest.raises(StructureError, match="not periodic in all 3 directions"):
        solved(solver).evaluate(slab)


# -- workers ---------------------------------------------------------------------------------------------


class MarkedKill:
    """Evaluates blocks, but kills the first worker."""

    def __init__(self, mark):
        self.mark = mark

    def __call__(self, task):
        if not Path(self.mark).exists():
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return divide_and_conquer.evaluate_block(task)


def test_a_worker_killed_during_evaluate(tmp_path, monkeypatch):
    atoms = silicon(1, 1, 4)
    expected = solved(DivideAndConquer(block=5.43, buffer=2.0)).evaluate(atoms)
    mark = tmp_path / "mark"
    monkeypatch.setattr(divide_and_conquer, "evaluate_block", MarkedKill(str(mark)))
    with DivideAndConquer(block=5.43, buffer=2.0, executor=1) as solver:
        got = solved(solver).evaluate(atoms)
    assert mark.exists()
    assert got.energy == expected.energy
    assert np.array_equal(got.forces, expected.forces)


# -- as part of the rest ---------------------------------------------------------------------------------


def test_repr_options_and_pickle():
    solver = DivideAndConquer(block=5.0, buffer=4.0)
    calc = solved(solver)
    assert "DivideAndConquer(block=5, buffer=4, boundary='open')" in repr(calc)
    assert calc.with_options(kT=0.2).solver is solver
    atoms = silicon(1, 1, 4)
    copy = pickle.loads(pickle.dumps(calc))
    assert np.array_equal(copy.evaluate(atoms).forces, calc.evaluate(atoms).forces)
    assert "solver" not in repr(TightBinding(mu=MU))


def test_the_crystal_is_dense():
    calc = TightBinding(solver=DivideAndConquer(block=5.0, buffer=6.0))
    dense = TightBinding()
    mu = fermi_level(calc, SILICON)
    assert mu == fermi_level(dense, SILICON)
    unit = SILICON.unit_cell
    assert_same(
        calc.with_options(mu=mu).for_crystal(unit).evaluate(unit),
        dense.with_options(mu=mu).for_crystal(unit).evaluate(unit),
    )
    assert np.array_equal(calc.charges(unit), dense.charges(unit))


def test_force_mixing():
    atoms = silicon(3, 3, 3, rattle=0.03)
    # The cluster's blocks, each with all the others as buffer.
    boundary = OpenBoundary(keep_periodic=False)
    forces = []
    for solver in ("dense", DivideAndConquer(block=6.0, buffer=20.0, boundary=boundary)):
        mixed = ForceMixingCalculator(solved(solver), stillinger_weber(), [100], r_buffer=4.5, cluster="open")
        forces.append(mixed.get_property("forces", atoms))
    assert np.abs(forces[0] - forces[1]).max() < 1e-9


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"block": -1.0}, ValueError, "block: got -1.0"),
        ({"buffer": float("nan")}, ValueError, "buffer: got nan"),
        ({"skin": -0.1}, ValueError, "skin: got -0.1"),
        ({"boundary": "closed"}, ValueError, "boundary: got 'closed'"),
        ({"boundary": 3}, TypeError, "boundary: got 3"),
        ({"boundary": "periodic"}, ValueError, "crystal: boundary='periodic' needs the reference lattice"),
        ({"executor": 0}, ValueError, "executor: got 0"),
        ({"bufer": 3.0}, TypeError, "did you mean 'buffer'"),
    ],
)
def test_errors(arguments, error, text):
    with pytest.raises(error, match=text):
        DivideAndConquer(**arguments)


def test_errors_of_use():
    with pytest.raises(ValueError, match="mu: got None.*fermi_level"):
        TightBinding(solver=DivideAndConquer()).evaluate(silicon(1, 1, 1))
    with pytest.raises(ValueError, match="solver: got 'sparse'"):
        TightBinding(solver="sparse")
    with pytest.raises(TypeError, match="crystal: got 3"):
        PeriodicBoundary(3)
    with pytest.raises(ValueError, match="weights: got shape"):
        solved(DivideAndConquer()).evaluate(silicon(1, 1, 1), [1.0])
    assert solved(DivideAndConquer()).evaluate(Atoms()).energy == 0.0


def test_embedded_blocks_are_exact_in_the_crystal_and_share_their_self_energy(monkeypatch):
    """One block of eight atoms at a time in a perfect crystal; displaced atoms leave the shape alone."""
    from ase_qmmm.tightbinding.self_energy import CrystalSites

    crystal = Crystal(bulk("Si", a=5.4264))
    atoms = crystal.supercell(4, cubic=True)
    solver = DivideAndConquer(block=5.43, buffer=6.7, boundary="embedded", crystal=crystal)
    calc = TightBinding("nrl-Si-sp", kT=0.1, mu=5.82, solver=solver)
    calls = []
    original = CrystalSites.self_energy
    monkeypatch.setattr(CrystalSites, "self_energy", lambda *a: calls.append(1) or original(*a))
    carver = solver.boundary.carver(atoms, 5.43, 6.7)
    assert len(carver.blocks) == 64
    weights = np.zeros(len(atoms))
    weights[carver.blocks[0]] = 1.0
    weights[carver.blocks[5]] = 1.0
    result = calc.evaluate(atoms, weights)
    cell = crystal.unit_cell
    expected = TightBinding("nrl-Si-sp", kT=0.1, mu=5.82).for_crystal(cell).evaluate(cell).energies[0]
    assert result.energies[carver.blocks[5]] == pytest.approx(expected, abs=2e-4)
    assert len(calls) == 1
    with pytest.raises(ValueError, match="needs the reference lattice"):
        DivideAndConquer(boundary="embedded")
