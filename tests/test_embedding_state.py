"""What an embedding keeps between calls, what it does not offer, and sites without an atom."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import PropertyNotImplementedError
from test_crystal_derivatives import Salt

from ase_qmmm import Crystal, DivideAndConquer, Embedded, TightBinding
from ase_qmmm.tightbinding import ToyModel
from ase_qmmm.tightbinding.boundaries import EmbeddedBoundary
from ase_qmmm.tightbinding.fingerprint import model_fingerprint
from ase_qmmm.tightbinding.models import load_model, model_names

A = 3.54  # Å, fcc with 2.5 Å between neighbours
MU = -0.1


@pytest.fixture(scope="module")
def crystal():
    return Crystal(bulk("Ni", a=A))


def toy(solver="dense", model="toy", kT=0.2, **changes):
    return TightBinding(model, kT=kT, mu=MU, solver=solver, **changes)


def mask(atoms, *numbers):
    out = np.zeros(len(atoms), dtype=bool)
    out[list(numbers)] = True
    return out


def nearest(atoms, point):
    return int(np.argmin(np.linalg.norm(atoms.positions - point, axis=1)))


# -- no stress -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["embedded", "divide and conquer"])
def test_no_stress_where_the_surroundings_are_frozen(crystal, kind):
    atoms = crystal.supercell(5, cubic=True)
    solver = Embedded(crystal, region=[0, 1])
    if kind == "divide and conquer":
        solver = DivideAndConquer(block=9.0, buffer=4.3, boundary="embedded", crystal=crystal)
    calc = atoms.calc = toy(solver)
    assert "stress" not in calc.implemented_properties
    assert "stress" in toy().implemented_properties
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    weights = mask(atoms, 0, 1).astype(float)
    assert calc.evaluate(atoms, weights).virial is None
    if kind == "embedded":
        assert set(calc.implemented_properties) == {"energy", "free_energy", "energies", "forces", "charges"}
        assert np.isfinite(atoms.get_potential_energy())
        assert atoms.get_forces().shape == (len(atoms), 3)
        assert "stress" not in calc.results


def test_stress_of_other_blocks():
    for boundary, offered in (("open", True), (EmbeddedBoundary(Crystal(bulk("Ni", a=A))), False)):
        solver = DivideAndConquer(boundary=boundary)
        assert solver.has_virial is offered
        assert ("stress" in toy(solver).implemented_properties) is offered


# -- what is kept ----------------------------------------------------------------------------------------


def test_an_edited_model_of_the_same_name_has_its_own_self_energy(crystal, tmp_path):
    atoms = crystal.supercell(5, cubic=True)
    sites = mask(atoms, 0)
    solver = Embedded(crystal, cache=tmp_path)
    models = [ToyModel(hopping=lambda r, h=h: h * np.exp(-(r - 2.5))) for h in (-0.2, -0.21)]
    assert repr(models[0]) == repr(models[1])
    energies = [toy(solver, model).evaluate_sites(atoms, sites)[0][0] for model in models]
    assert len(list(tmp_path.iterdir())) == 2
    for model, energy in zip(models, energies, strict=True):
        bulk_energy = toy(model=model, kpts=(16, 16, 16)).evaluate(crystal.unit_cell).energies[0]
        assert energy == pytest.approx(bulk_energy, abs=2e-5)
        # In memory and from the folder.
        assert toy(solver, model).evaluate_sites(atoms, sites)[0][0] == energy
        again = toy(Embedded(crystal, cache=tmp_path), model).evaluate_sites(atoms, sites)[0][0]
        assert again == pytest.approx(energy, abs=1e-12)
    assert len(list(tmp_path.iterdir())) == 2


def test_fingerprints():
    prints = [model_fingerprint(load_model(name)) for name in model_names()]
    assert len(set(prints)) == len(prints)
    assert model_fingerprint(load_model("nrl-Si-sp")) == model_fingerprint(load_model("nrl-Si-sp"))
    assert model_fingerprint(load_model("nrl-Si-sp", "original")) != model_fingerprint(
        load_model("nrl-Si-sp")
    )
    # Each function alone.
    toys = [
        ToyModel(),
        ToyModel(hopping=lambda r: -0.1 / r),
        ToyModel(density=lambda r: 0.1 / r),
        ToyModel(onsite=lambda x: 0.1 * x),
        ToyModel(cutoff=4.3),
    ]
    assert len({model_fingerprint(model) for model in toys}) == len(toys)


def test_other_k_points_and_settings_are_not_served_from_memory(crystal):
    atoms = crystal.supercell(5, cubic=True)
    sites = mask(atoms, 0)
    solver = Embedded(crystal)
    points = np.zeros((2000, 3))
    points[1000] = 0.1  # in the middle, which NumPy does not print
    seen = [
        toy(solver, kpts=k).solver.clusters(toy(solver, kpts=k), atoms, sites) for k in (points, points / 2)
    ]
    assert seen[0] is not seen[1]
    calc = toy(solver)
    (before,) = solver.clusters(calc, atoms, sites)
    solver.buffer = 5.5
    (after,) = solver.clusters(calc, atoms, sites)
    assert len(after.index) > len(before.index)


def test_an_atom_that_drifts_into_range_is_noticed(crystal, rng):
    """One that was no neighbour of the cluster at first, in steps of less than the skin."""
    atoms = crystal.supercell(6, cubic=True)
    middle = nearest(atoms, atoms.cell.sum(axis=0) / 2)
    sites = mask(atoms, middle)
    calc = toy(Embedded(crystal))
    (first,) = calc.solver.clusters(calc, atoms, sites)
    watched = np.concatenate([first.index, first.passive])
    vectors = atoms.get_distances(middle, np.arange(len(atoms)), mic=True, vector=True)
    outside = np.setdiff1d(np.arange(len(atoms)), watched)
    near, far = outside[np.argsort(np.linalg.norm(vectors[outside], axis=1))[[0, -1]]]
    # Far away nothing happens.
    moved = atoms.copy()
    moved.positions[far] += 1.2
    assert calc.solver.clusters(calc, moved, sites)[0] is first
    # An atom that comes closer is taken up before it is felt.
    moved = atoms.copy()
    inwards = -vectors[near] / np.linalg.norm(vectors[near])
    seen = []
    for _ in range(8):
        moved.positions[near] += 0.3 * inwards
        (cluster,) = calc.solver.clusters(calc, moved, sites)
        seen.append(near in cluster.passive)
        gap = np.linalg.norm(moved.positions[near] - moved.positions[cluster.index], axis=1).min()
        assert seen[-1] or gap > calc.model.cutoff
    assert seen[-1] and not seen[0]
    kept = calc.evaluate_sites(moved, sites)
    fresh = toy(Embedded(crystal)).evaluate_sites(moved, sites)
    assert np.abs(kept[1] - fresh[1]).max() < 1e-12


def test_another_boundary_of_the_same_name_makes_new_blocks():
    """A boundary of the same name but another crystal does not meet the blocks of the first."""
    atoms = Crystal(bulk("Ni", a=A)).supercell((2, 2, 8), cubic=True)
    solver = DivideAndConquer(block=7.0, buffer=4.3, boundary="periodic", crystal=Crystal(bulk("Ni", a=A)))
    calc = toy(solver, kT=0.5)
    calc.evaluate(atoms)
    plan = calc.solver_state
    calc.evaluate(atoms)
    assert calc.solver_state is plan
    solver.boundary = type(solver.boundary)(Crystal(bulk("Ni", a=A + 0.01)))
    calc.evaluate(atoms)
    assert calc.solver_state is not plan


# -- sites without an atom -------------------------------------------------------------------------------


@pytest.mark.parametrize("element", ["Na", "Cl"])
def test_vacancy_at_the_boundary_of_two_species(element, rng):
    """Vacant sites have the orbitals of what belongs there: one of sodium, four of chlorine."""
    crystal = Crystal(bulk("NaCl", "rocksalt", a=5.0))
    atoms = crystal.supercell(4, cubic=True)
    middle = nearest(atoms, atoms.cell.sum(axis=0) / 2)
    distance = np.linalg.norm(atoms.positions - atoms.positions[middle], axis=1)
    distance[np.array(atoms.get_chemical_symbols()) != element] = np.inf
    hole = int(np.argmin(np.abs(distance - 5.0)))
    del atoms[hole]
    middle -= hole < middle
    sites = mask(atoms, middle)
    calc = TightBinding(Salt(), kT=0.3, mu=-1.0, solver=Embedded(crystal, buffer=6.2, error=1e-8))
    (cluster,) = calc.solver.clusters(calc, atoms, sites)
    assert cluster.sigma[0].shape[-1] == cluster.boundary_block[0].size
    energies, forces = calc.evaluate_sites(atoms, sites)
    dense = calc.with_options(solver="dense").evaluate(atoms)
    assert np.abs(forces[sites] - dense.forces[sites]).max() < 1e-3
    assert energies[middle] == pytest.approx(dense.energies[middle], abs=1e-3)


def test_vacancy_in_another_image(crystal, rng):
    """Atoms that have left the cell together keep their vacancy."""
    atoms = crystal.supercell(5, cubic=True)
    middle = nearest(atoms, atoms.cell.sum(axis=0) / 2)
    hole = nearest(atoms, atoms.positions[middle] + (A / 2, A / 2, 0))
    del atoms[hole]
    middle -= hole < middle
    atoms.positions += 0.03 * rng.standard_normal(atoms.positions.shape)
    sites = mask(atoms, middle)
    results = []
    for turns in ((0, 0, 0), (3, 0, 0), (-2, 4, 1)):
        moved = atoms.copy()
        moved.positions += turns @ atoms.cell.array
        calc = toy(Embedded(crystal))
        results.append(calc.evaluate_sites(moved, sites))
    for energies, forces in results[1:]:
        assert np.abs(energies - results[0][0]).max() < 1e-9
        assert np.abs(forces - results[0][1]).max() < 1e-9
    dense = toy(kpts=(2, 2, 2)).evaluate(atoms)
    assert np.abs(results[0][1][sites] - dense.forces[sites]).max() < 5e-3


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_vacancy_in_a_column(crystal, shift):
    """A cluster periodic along one axis has each vacancy once, wherever the cell is cut."""
    atoms = crystal.supercell((2, 6, 6), cubic=True)
    atoms.positions += shift * A * np.array([1, 0, 0]) + 1e-3
    atoms.wrap()
    hole = nearest(atoms, atoms.cell.array.sum(axis=0) / 2 * (0, 1, 1))
    del atoms[hole]
    middle = nearest(atoms, atoms.cell.array.sum(axis=0) / 2 * (0, 1, 1) + (A / 2, A / 2, 0))
    sites = mask(atoms, middle)
    kpts = {"size": (4, 1, 1), "gamma": True}
    calc = toy(Embedded(crystal), kpts=kpts)
    (cluster,) = calc.solver.clusters(calc, atoms, sites)
    assert cluster.pbc.tolist() == [True, False, False]
    energies, forces = calc.evaluate_sites(atoms, sites)
    dense = toy(kpts={"size": (4, 2, 2), "gamma": True}).evaluate(atoms)
    perfect = toy().for_crystal(crystal.unit_cell).evaluate(crystal.unit_cell).energies[0]
    assert abs(dense.energies[middle] - perfect) > 0.01
    assert np.abs(forces[sites] - dense.forces[sites]).max() < 5e-4
    assert energies[middle] == pytest.approx(dense.energies[middle], abs=1e-4)


def test_other_elements_in_a_reference_geometry(rng):
    """The reference gives the places; elements are those of the structure, outside the cluster too."""
    reference = Crystal(bulk("NaCl", "rocksalt", a=5.0)).supercell(4, cubic=True)
    reference.pbc, reference.cell = False, None
    middle = nearest(reference, reference.positions.mean(axis=0))
    distance = np.linalg.norm(reference.positions - reference.positions[middle], axis=1)
    reference = reference[np.argsort(distance)[:93]]
    atoms = reference.copy()
    # Antisites at the boundary of the cluster and outside it.
    atoms.numbers[[40, 80]] = 28 - atoms.numbers[[40, 80]]
    # Nobody outside the cluster feels this one.
    atoms.positions[0] += 0.02 * rng.standard_normal(3)
    sites = mask(atoms, 0)
    solver = Embedded(reference, depth=30.0)
    calc = TightBinding(Salt(), kT=0.3, mu=-1.0, solver=solver)
    energies, forces = calc.evaluate_sites(atoms, sites)
    dense = calc.with_options(solver="dense").evaluate(atoms)
    assert np.abs(forces[0] - dense.forces[0]).max() < 1e-5
    assert energies[0] == pytest.approx(dense.energies[0], abs=1e-5)
