"""Bad structures and faults over every model: named errors or the right answer, no plausible wrong number."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.calculators.calculator import InputError

from ase_qmmm import Crystal, TightBinding
from ase_qmmm.errors import NumericsError, QMMMError, StructureError
from ase_qmmm.tightbinding import model_names


def with_nan(atoms):
    atoms.positions[1, 2] = np.nan
    return atoms


def with_inf(atoms):
    atoms.positions[0, 0] = np.inf
    return atoms


def nan_cell(atoms):
    atoms.cell[1, 1] = np.nan
    return atoms


def zero_vector(atoms):
    atoms.cell[2] = 0
    return atoms


def dependent(atoms):
    atoms.cell[2] = atoms.cell[0] + atoms.cell[1]
    return atoms


def on_one_site(atoms):
    atoms.positions[1] = atoms.positions[0]
    return atoms


def nearly_on_one_site(atoms):
    atoms.positions[1] = atoms.positions[0] + [1e-6, 0, 0]
    return atoms


def on_an_image(atoms):
    atoms.positions[1] = atoms.positions[0] + atoms.cell[0] + [0, 1e-3, 0]
    return atoms


def uranium(atoms):
    atoms.symbols[1] = "U"
    return atoms


def ghost(atoms):
    atoms.numbers[0] = 0
    return atoms


STRUCTURES = [
    (with_nan, "atom 1 has z = nan"),
    (with_inf, "atom 0 has x = inf"),
    (nan_cell, "atoms.cell: vector 1"),
    (zero_vector, r"vector 2 is zero but pbc\[2\] is True"),
    (dependent, "linearly dependent"),
    (on_one_site, "atoms 0 and 1 are|sit on no site|moved|lack|no neighbours"),
    (nearly_on_one_site, "atoms 0 and 1 are|sit on no site|moved|lack|no neighbours"),
    (on_an_image, "atoms 0 and 1 are|sit on no site|moved|lack|no neighbours"),
    (uranium, "no parameters for U .*it knows (Si|Ni|W)|sit on no site|lack"),
    (ghost, "no parameters for X .*it knows (Si|Ni|W)|sit on no site|lack"),
]


@pytest.mark.parametrize(("spoil", "text"), STRUCTURES, ids=lambda v: getattr(v, "__name__", None))
def test_bad_structures(model, spoil, text):
    calc, atoms = model
    good = atoms.copy()
    before = calc.get_property("energy", good)
    with np.errstate(all="raise"), pytest.raises(StructureError, match=text) as info:
        calc.get_property("forces", spoil(atoms))
    assert isinstance(info.value, InputError)
    assert isinstance(info.value, QMMMError)
    assert calc.results == {}
    assert calc.get_property("energy", good) == pytest.approx(before, abs=1e-10)
    with pytest.raises(StructureError, match=text):
        calc.evaluate(atoms)


@pytest.mark.parametrize("atoms", [None, "Si", np.zeros((2, 3))])
def test_no_atoms_object(model, atoms):
    with pytest.raises((TypeError, AttributeError)):
        model[0].evaluate(atoms)


def test_empty(model):
    calc, _ = model
    with np.errstate(all="raise"):
        result = calc.evaluate(Atoms())
    assert (result.energy, result.energies.shape, result.forces.shape) == (0.0, (0,), (0, 3))
    assert calc.get_property("energy", Atoms()) == 0.0
    assert calc.get_property("forces", Atoms()).shape == (0, 3)


@pytest.mark.parametrize("ensemble", [{}, {"mu": 5.8}])
@pytest.mark.parametrize("name", model_names())
def test_free_atom(name, ensemble):
    """No neighbour: on-site levels, no force, and no division by zero."""
    calc = TightBinding(name, **ensemble)
    one = calc.model.symbols[-1]
    pair = Atoms([one] * 2, [[0, 0, 0], [0, 0, 25.0]])
    for atoms in (Atoms(one), Atoms(one, cell=[30] * 3, pbc=True), pair):
        with np.errstate(divide="raise", invalid="raise", over="raise"):
            result = calc.evaluate(atoms)
            calc.with_options(mu=5.8, energy=None).force_response(atoms, np.ones((1, len(atoms), 3)))
        assert not result.forces.any()
        assert result.energies == pytest.approx(
            calc.evaluate(Atoms(one)).energies[[0] * len(atoms)], abs=1e-9
        )


# Lattices below the distances at which the overlap matrix stops being positive.
COLLAPSED = {
    "nrl-Si-sp": bulk("Si", a=4.2),
    "nrl-W-spd": bulk("W", a=2.55),
    "nrl-Al-spd": bulk("Al", a=3.2),
    "nrl-Ti-spd": bulk("Ti", "hcp", a=2.5, covera=1.588),
}


@pytest.mark.parametrize("name", COLLAPSED)
def test_compressed_until_the_overlap_is_not_positive(name):
    calc = TightBinding(name, kpts={"size": (4, 4, 4), "gamma": True})
    with pytest.raises(
        NumericsError, match=rf"{name}: the overlap matrix is not .*eigenvalue -.*closest pair"
    ):
        calc.evaluate(COLLAPSED[name])


def test_free_cluster_is_a_padded_one():
    cluster = Atoms("Si5", bulk("Si", cubic=True).positions[:5])
    cluster.rattle(0.1, seed=1)
    padded = cluster.copy()
    padded.center(vacuum=10.0)
    padded.pbc = True
    for calc in (TightBinding(), TightBinding(mu=5.8)):
        a, b = calc.evaluate(cluster), calc.evaluate(padded)
        assert np.abs(a.forces - b.forces).max() < 1e-10
        assert a.energies == pytest.approx(b.energies, abs=1e-10)
        assert np.abs(a.virial - b.virial).max() < 1e-9


def test_slab_with_a_zero_vector_is_a_padded_one():
    flat = fcc111("Si", (1, 1, 3), a=4.0, vacuum=8.0)
    flat.pbc = (True, True, False)
    padded = flat.copy()
    padded.pbc = True
    flat.cell[2] = 0
    flat.rattle(0.1, seed=1)
    padded.positions = flat.positions
    calc = TightBinding(kpts=(3, 3, 1))
    a, b = calc.evaluate(flat), calc.evaluate(padded)
    assert np.abs(a.forces - b.forces).max() < 1e-10
    assert np.abs(a.virial - b.virial).max() < 1e-9
    with pytest.raises(NotImplementedError):
        calc.get_property("stress", flat)  # without a third vector there is no volume


@pytest.mark.parametrize("name", ["nrl-Si-sp", "nrl-W-spd", "nrl-Fe-spd-spin", "kwon-Si", "toy"])
def test_cell_smaller_than_the_range(name):
    """One and the same crystal as a primitive cell with k-points, and as a supercell."""
    unit = bulk("Ni", a=3.54) if name == "toy" else bulk(name.split("-")[1])
    small = TightBinding(name, mu=6.0, kpts={"size": (4, 4, 4), "gamma": True}).evaluate(unit)
    large = TightBinding(name, mu=6.0, kpts={"size": (2, 2, 2), "gamma": True}).evaluate(unit.repeat(2))
    assert large.energies == pytest.approx(np.tile(small.energies, 8), abs=1e-10)
    assert np.abs(large.virial - 8 * small.virial).max() < 1e-9


def test_taylor_in_a_cell_smaller_than_its_stencil(silicon_mm):
    small = silicon_mm.crystal.unit_cell
    small.positions[0] += [0.05, 0.02, 0.0]
    large = small.repeat(3)
    a, b = silicon_mm.evaluate(small), silicon_mm.evaluate(large)
    assert np.abs(b.forces - np.tile(a.forces, (27, 1))).max() < 1e-11
    assert b.energy == pytest.approx(27 * a.energy, abs=1e-9)


def test_atoms_far_outside_the_cell(model, rng):
    calc, atoms = model
    atoms.rattle(0.03, seed=1)
    expected = calc.evaluate(atoms)
    far = atoms.copy()
    far.positions += 1000 * rng.integers(-1, 2, (len(atoms), 3)) @ atoms.cell.array
    skewed = atoms.copy()
    skewed.set_cell(np.array([[1, 3, 0], [0, -1, 4], [0, 0, 1]]) @ atoms.cell.array)
    for other in (far, skewed):
        got = calc.evaluate(other)
        # 1e4 Å outside, positions themselves are rounded to 1e-12 Å.
        assert np.abs(got.forces - expected.forces).max() < 1e-9
        assert got.energies == pytest.approx(expected.energies, abs=1e-9)
        assert np.abs(got.virial - expected.virial).max() < 1e-8


def integer_positions(symbol):
    return Atoms([symbol] * 4, [[0, 0, 0], [0, 2, 2], [2, 0, 2], [2, 2, 0]], cell=[5, 5, 5], pbc=True)


@pytest.mark.parametrize("change", ["read-only", "fortran", "integer", "float32"])
def test_layout_of_the_input(model, change):
    calc, atoms = model
    if change == "integer" and isinstance(calc, TightBinding):
        atoms = integer_positions(calc.model.symbols[0])
    other = atoms.copy()
    positions = other.positions.copy()
    if change == "read-only":
        positions.flags.writeable = False
    elif change == "fortran":
        positions = np.asfortranarray(positions)
    elif change == "integer" and isinstance(calc, TightBinding):
        positions = np.rint(positions).astype(int)
    elif change == "float32":
        positions = positions.astype(np.float32)
        atoms.positions = positions.astype(float)
    other.arrays["positions"] = positions
    expected = calc.evaluate(atoms)
    got = calc.evaluate(other)
    assert got.energy == expected.energy
    assert np.array_equal(got.forces, expected.forces)
    assert np.array_equal(got.virial, expected.virial)
    assert other.arrays["positions"] is positions


def test_used_again_for_another_system(model):
    """Another order, other species and another cell are seen."""
    calc, atoms = model
    atoms.rattle(0.03, seed=1)
    fresh = calc.evaluate(atoms).forces
    order = np.arange(len(atoms))[::-1]
    assert np.abs(calc.get_property("forces", atoms[order]) - fresh[order]).max() < 1e-10
    assert np.abs(calc.get_property("forces", atoms) - fresh).max() < 1e-10
    larger = atoms.copy()
    larger.set_cell(atoms.cell.array * 1.01, scale_atoms=True)
    assert np.abs(calc.get_property("forces", larger) - fresh).max() > 1e-3
    carbon = atoms.copy()
    carbon.symbols[:] = "C"
    with pytest.raises(StructureError):
        calc.get_property("forces", carbon)
    assert np.abs(calc.get_property("forces", atoms) - fresh).max() < 1e-10


def test_exception_in_the_middle(model, monkeypatch):
    """Fails once, then succeeds: nothing stale in between."""
    calc, atoms = model
    atoms.calc = calc
    expected = atoms.get_forces()
    right = type(calc).evaluate

    def wrong(self, atoms, weights=None):
        right(self, atoms, weights)
        raise RuntimeError("stop")

    monkeypatch.setattr(type(calc), "evaluate", wrong)
    atoms.positions += 0.1
    with pytest.raises(RuntimeError, match="stop"):
        atoms.get_forces()
    assert calc.results == {}
    monkeypatch.undo()
    assert np.abs(atoms.get_forces() - expected).max() < 1e-9


def test_properties_that_do_not_exist(model):
    calc, atoms = model
    with pytest.raises(NotImplementedError):
        calc.get_property("dipole", atoms)


def test_crystal_of_a_calculator_that_fails():
    with pytest.raises(StructureError, match="no parameters for Cu"):
        Crystal.relaxed(bulk("Cu"), TightBinding("nrl-Si-sp"))
