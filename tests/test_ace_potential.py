"""ACEPotential: energies, forces, virial, short distances, cutoff, neighbour lists, files."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from helpers import assert_derivative, moved, random_strain, strained

from ase_qmmm import ACEBasis, ACEPotential, StructureError, check_calculator
from ase_qmmm.ace.verlet import VerletList


def falling(basis, size=0.1, seed=3):
    """Random coefficients (eV) that fall with the degree."""
    decay = np.exp(-0.5 * np.array([f.degree for f in basis.functions]))
    return size * decay * np.random.default_rng(seed).normal(size=len(basis))


@pytest.fixture(scope="module")
def tungsten():
    basis = ACEBasis("W", 4, 9, 5.5)
    return ACEPotential(basis, falling(basis), reference_energies={"W": -4.0})


@pytest.fixture(scope="module")
def alloy():
    basis = ACEBasis(("Ni", "Al"), 3, 7, 5.0, core=None, inner_cutoff=0.0)
    return ACEPotential(basis, falling(basis), reference_energies={"Al": -3.5, "Ni": 0.25})


@pytest.fixture(params=["tungsten", "alloy"])
def case(request, tungsten, alloy):
    if request.param == "tungsten":
        return tungsten, bulk("W", cubic=True) * (2, 1, 1)
    return alloy, bulk("NiAl", "cesiumchloride", a=2.9) * (2, 2, 1)


def test_contract(case):
    calc, atoms = case
    atoms.rattle(0.1, seed=1)
    check_calculator(calc, atoms)


def test_potential_is_the_sum_of_rows(case, rng):
    """The two evaluations share no formula beyond the projections."""
    calc, atoms = case
    atoms.rattle(0.15, seed=2)
    rows = calc.basis.rows(atoms)
    result = calc.evaluate(atoms)
    c = calc.coefficients
    references = np.array([calc.reference_energies[s] for s in atoms.symbols])
    assert np.abs(rows.site_energies @ c + rows.core.energies + references - result.energies).max() < 1e-11
    forces = (rows.forces @ c).reshape(-1, 3) + rows.core.forces
    assert np.abs(forces - result.forces).max() < 1e-11
    v = rows.virial @ c
    full = np.array([[v[0], v[5], v[4]], [v[5], v[1], v[3]], [v[4], v[3], v[2]]]) + rows.core.virial
    assert np.abs(full - result.virial).max() < 1e-10


def test_weighted_gradients(case, rng):
    calc, atoms = case
    atoms.rattle(0.1, seed=3)
    w = rng.uniform(0, 1, len(atoms))
    w[0] = 0.0
    here = calc.evaluate(atoms, w)
    u, e = rng.normal(size=(len(atoms), 3)), random_strain(rng)
    noise = 1e-13 * (np.abs(here.energies).sum() + 1)
    assert_derivative(lambda h: calc.evaluate(moved(atoms, u, h), w).energy, -(here.forces * u).sum(), noise)
    slope = -(here.virial * e).sum()
    assert_derivative(lambda h: calc.evaluate(strained(atoms, e, h), w).energy, slope, noise)
    assert here.energies[0] == 0.0


def test_sites(tungsten):
    """Right on the sites asked for; what they do not see is never looked at."""
    atoms = bulk("W", cubic=True).repeat((8, 2, 2))
    atoms.rattle(0.1, seed=4)
    full = tungsten.evaluate(atoms)
    far = np.abs(atoms.positions[:, 0] - 4.0) < 3.0
    for sites in (far, np.flatnonzero(far)):
        energies, forces = tungsten.evaluate_sites(atoms, sites)
        assert np.abs(energies[far] - full.energies[far]).max() < 1e-12
        assert np.abs(forces[far] - full.forces[far]).max() < 1e-12
    broken = atoms.copy()
    broken.positions[-1] = broken.positions[-2] + 1e-3
    assert abs(broken.positions[-1, 0] - 4.0) > 2 * tungsten.cutoff - 3.0
    energies, forces = tungsten.evaluate_sites(broken, np.arange(len(atoms)) == 8)
    assert np.abs(energies[8] - full.energies[8]) < 1e-12
    assert not tungsten.evaluate_sites(atoms, np.zeros(len(atoms), bool))[1].any()


def test_dimer(tungsten):
    """Down to 0.5 Å the nuclear repulsion takes over: LAMMPS 22 Jul 2025, pair_style zbl."""

    def energy(r):
        return tungsten.evaluate(Atoms("W2", [[0, 0, 0], [0, 0, r]])).energy + 8.0

    assert energy(0.5) == pytest.approx(6121.915833007115, rel=1e-9)
    assert energy(1.0) == pytest.approx(435.7854947959934, rel=1e-9)
    r = np.arange(0.3, 2.0, 0.01)
    values = np.array([energy(x) for x in r])
    assert (np.diff(values) < 0).all()
    forces = tungsten.evaluate(Atoms("W2", [[0, 0, 0], [0, 0, 0.5]])).forces
    slope = (energy(0.5005) - energy(0.4995)) / 0.001
    assert forces[1, 2] == pytest.approx(-slope, rel=1e-4)
    assert forces[0, 2] == -forces[1, 2]


@pytest.mark.parametrize("distance", [0.099, 1e-6, 0.0])
def test_overlap(tungsten, distance):
    with pytest.raises(
        StructureError, match=r"atoms 0 and 1 are .* Å apart, ACEPotential needs at least 0\.1"
    ):
        tungsten.evaluate(Atoms("W3", [[0, 0, 0], [0, 0, distance], [3, 0, 0]]))


def test_smooth_at_the_cutoff(case):
    """Energy and force have no step, and the force no kink, where an atom leaves the surroundings."""
    calc, atoms = case
    rc, symbol = calc.cutoff, atoms.symbols[0]

    def evaluate(r):
        return calc.evaluate(Atoms([symbol] * 4, [[0, 0, 0], [2.5, 0, 0], [0, 2.6, 0], [0, 0, r]]))

    near, edge, far = (evaluate(rc + d) for d in (-1e-5, 0.0, 1e-5))
    assert abs(near.energy - far.energy) < 1e-13
    assert np.abs(near.forces - far.forces).max() < 1e-8
    assert not edge.forces[3].any()
    # The force goes to zero faster than the distance from the cutoff.
    one, two = (np.abs(evaluate(rc - d).forces[3]).max() for d in (0.02, 0.01))
    assert two < 0.3 * one


def test_no_kink_between_nodes_of_the_tables(tungsten):
    """Second derivatives agree on both sides of every node near the minimum."""
    nodes, _, spacing = tungsten._arrays[:3]
    assert nodes.shape[2] == 3
    r = spacing * np.arange(250, 300)

    def force(x):
        return tungsten.evaluate(Atoms("W2", [[0, 0, 0], [0, 0, x]])).forces[1, 2]

    h = 1e-5
    left = np.array([(force(x) - force(x - h)) / h for x in r])
    right = np.array([(force(x + h) - force(x)) / h for x in r])
    # Apart from third derivatives times h, and rounding over h.
    curvature = np.abs(np.gradient(right, spacing)).max()
    assert np.abs(left - right).max() < 2 * curvature * h + 1e-8


def test_tables_are_accurate(tungsten):
    radial = tungsten.basis.radials[0]
    r = np.linspace(radial.inner + 0.05, 5.49, 7)
    exact = radial.cluster(r, 0)[0]
    for k, x in enumerate(r):
        row = tungsten.basis.rows(Atoms("W2", [[0, 0, 0], [0, 0, x]]), forces=False).site_energies[0]
        assert row[:9] == pytest.approx(exact[:9, k], rel=1e-7, abs=1e-9)


def test_energy_conservation(silicon_ace):
    """Half the time step, a quarter of the fluctuation: forces are those of a smooth energy."""
    spread = {}
    for dt in (2.0, 1.0):
        atoms = bulk("Si", cubic=True)
        atoms.calc = ACEPotential(silicon_ace.basis, silicon_ace.coefficients)
        atoms.set_velocities(np.random.default_rng(2).normal(size=(8, 3)) * 0.03)
        total = []
        dynamics = VelocityVerlet(atoms, timestep=dt * units.fs)
        dynamics.attach(lambda a=atoms, t=total: t.append(a.get_total_energy()))
        dynamics.run(round(100 / dt))
        spread[dt] = np.ptp(total[:: round(2 / dt)])
    assert spread[2.0] < 0.01
    assert spread[1.0] == pytest.approx(spread[2.0] / 4, rel=0.2)


def test_neighbour_list_is_kept_and_made_again(tungsten, rng):
    atoms = bulk("W", cubic=True).repeat(2)
    pairs = VerletList(5.5, 0.5)
    first = pairs.update(atoms)[1]
    small, shifted, stretched = atoms.copy(), atoms.copy(), atoms.copy()
    small.positions += rng.uniform(-0.1, 0.1, (16, 3))
    shifted.positions += [7.0, 0.1, 0.3]
    stretched.set_cell(atoms.cell.array * 1.005, scale_atoms=True)
    for same in (small, shifted, stretched):
        assert pairs.update(same)[1] is first
    one, larger = atoms.copy(), atoms.copy()
    one.positions[3, 0] += 0.5
    larger.set_cell(atoms.cell.array * 1.1, scale_atoms=True)
    open_cell = atoms.copy()
    open_cell.pbc = False
    for other in (one, larger, open_cell, atoms[:5]):
        assert pairs.update(other)[1] is not pairs.update(atoms)[1]
    calc = ACEPotential(tungsten.basis, tungsten.coefficients, skin=0.8)
    for step in range(12):
        atoms.positions += rng.uniform(-0.15, 0.15, (16, 3))
        atoms.set_cell(atoms.cell.array * (1 + rng.uniform(-0.01, 0.01)), scale_atoms=True)
        if step == 6:
            atoms.pbc = (True, False, True)
        fresh = ACEPotential(tungsten.basis, tungsten.coefficients, skin=0.0).evaluate(atoms)
        kept = calc.evaluate(atoms)
        assert np.abs(kept.forces - fresh.forces).max() < 1e-9
        assert np.abs(kept.virial - fresh.virial).max() < 1e-8


def test_atoms_without_neighbours(alloy):
    with np.errstate(all="raise"):
        for atoms in (
            Atoms("Al"),
            Atoms("AlNi", [[0, 0, 0], [9, 0, 0]]),
            Atoms("Al", cell=[20] * 3, pbc=True),
        ):
            result = alloy.evaluate(atoms)
            assert result.energies[0] == -3.5
            assert not result.forces.any()


def test_file(case, tmp_path):
    calc, atoms = case
    path = tmp_path / "model.json"
    calc.save(path)
    again = ACEPotential.load(path)
    assert again.basis == calc.basis
    assert np.array_equal(again.coefficients, calc.coefficients)
    assert again.evaluate(atoms).energy == calc.evaluate(atoms).energy
    assert pickle.loads(pickle.dumps(again)).evaluate(atoms).energy == calc.evaluate(atoms).energy
    assert "ACEPotential(ACEBasis(" in repr(again)
    assert [p.name for p in tmp_path.iterdir()] == ["model.json"]


def spoil(key, value):
    def change(text):
        content = json.loads(text)
        content[key] = value
        return json.dumps(content)

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda text: text[: len(text) // 2], "not a whole JSON file"),
        (lambda text: "", "not a whole JSON file"),
        (lambda text: "[1, 2]", "not a file of ACEPotential.save"),
        (spoil("format", "something else"), "not a file of ACEPotential.save"),
        (spoil("version", 99), "version 99, this package reads version 1"),
        (spoil("coefficients", [0.0]), "checksum does not fit"),
        (spoil("units", {"energy": "Ry"}), "checksum does not fit"),
    ],
)
def test_damaged_file(tungsten, tmp_path, change, text):
    path = tmp_path / "model.json"
    tungsten.save(path)
    path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ValueError, match=text):
        ACEPotential.load(path)


def test_failed_write_keeps_the_old_file(tungsten, tmp_path, monkeypatch):
    path = tmp_path / "model.json"
    tungsten.save(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("ase_qmmm.files.os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        tungsten.save(path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    with pytest.raises(FileNotFoundError, match="there is no file"):
        ACEPotential.load(tmp_path / "other.json")


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"coefficients": [1.0]}, ValueError, r"coefficients: got shape \(1,\), expected \(12,\)"),
        ({"coefficients": np.full(12, np.nan)}, ValueError, "coefficients: number 0 is nan"),
        ({"basis": "W"}, TypeError, "basis: got str, expected ACEBasis"),
        ({"reference_energies": {"Ta": 1.0}}, ValueError, "reference_energies: got Ta, expected elements"),
        ({"reference_energies": {"W": np.inf}}, ValueError, "expected finite numbers"),
        ({"skin": -0.1}, ValueError, "skin: got -0.1"),
        ({"skins": 0.1}, TypeError, "unknown keyword 'skins'; did you mean 'skin'"),
    ],
)
def test_bad_parameters(arguments, error, text):
    basis = ACEBasis("W", 2, 4, 5.0)
    assert len(basis) == 12
    with pytest.raises(error, match=text):
        ACEPotential(**({"basis": basis, "coefficients": np.zeros(12)} | arguments))


def test_coefficients_are_kept(tungsten):
    """They were copied, and cannot be changed behind the tables."""
    with pytest.raises(ValueError, match="read-only"):
        tungsten.coefficients[0] = 1.0
