"""YACEPotential: agreement with a slow evaluator, forces, the contract; files that are refused."""

from __future__ import annotations

import pickle
import sys
from itertools import product

import numpy as np
import pytest
import yace_reference
from ase import Atoms
from ase.build import bulk
from helpers import assert_derivative, moved, random_strain, strained

from ase_qmmm import StructureError, YACEPotential, check_calculator
from ase_qmmm.ace import yace_file
from ase_qmmm.ace.yace_file import Bond
from ase_qmmm.ace.yace_radial import bond_functions

NAMES = ("Ni", "Al")


def bond(rng, basis, inner, l_max=2):
    """A line of `bonds`: other numbers of functions, and other radial functions for each l."""
    n_max, size = 3, 5
    c = rng.normal(size=(n_max, l_max + 1, size)).tolist()
    lam = {"ChebPow": 2.5, "ChebExpCos": 3.2}.get(basis, 1.0)
    switches = {
        "distance": "rcut_in: 1.9, dcut_in: 0.8, inner_cutoff_type: distance",
        "density": "rcut_in: 0, dcut_in: 1e-5",
    }
    return (
        f"{{nradmax: {n_max}, lmax: {l_max}, nradbasemax: {size}, radbasename: {basis}, "
        f"radparameters: [{lam}], radcoefficients: {c}, prehc: 20, lambdahc: 0.5, "
        f"rcut: {rng.uniform(4.2, 4.6)}, dcut: 0.3, "
        f"{switches[inner]}}}"
    )


def function(rng, centre, ls, size=0.02):
    """Each l is coupled with an equal one to a scalar, those left over are scalars."""
    rank = len(ls)
    pairs = [[((m, -m), (-1) ** m) for m in range(-l, l + 1)] for l in ls[0 : 2 * (rank // 2) : 2]]
    combinations = [(sum((p[0] for p in c), ()), np.prod([p[1] for p in c])) for c in product(*pairs)]
    c = size * 3.0**-rank * rng.normal()
    ms = [[*m, *[0] * (rank % 2)] for m, _ in combinations]
    values = [float(c * sign) for _, sign in combinations]
    mus, ns = rng.integers(0, 2, rank).tolist(), rng.integers(1, 4, rank).tolist()
    return (
        f"    - {{mu0: {centre}, rank: {rank}, ndensity: 1, num_ms_combs: {len(ms)}, mus: {mus}, ns: {ns}, "
        f"ls: {list(ls)}, ms_combs: {np.ravel(ms).tolist()}, ctildes: {values}}}"
    )


def potential(bases=("ChebExpCos",), inner="density", seed=2):
    """An alloy with functions of rank 1 to 7; each pair of elements has the next of the radial bases."""
    rng = np.random.default_rng(seed)
    lines = [
        "# an alloy",
        "elements: [Ni, Al]",
        "E0: [-1.5, 2.5e-1]",
        "deltaSplineBins: 0.001",
        "embeddings:",
        "  0: {ndensity: 1, FS_parameters: [0.7, 1], npoti: FinnisSinclair, "
        "rho_core_cutoff: 100000, drho_core_cutoff: 250}",
        "  1: {ndensity: 1, FS_parameters: [1, 1.0], npoti: FinnisSinclairShiftedScaled, "
        "rho_core_cutoff: 1e5, drho_core_cutoff: 250}",
        "bonds:",
    ]
    for k, (a, b) in enumerate(product(range(2), repeat=2)):
        lines.append(f"  [{a}, {b}]: {bond(rng, bases[k % len(bases)], inner)}")
    lines.append("functions:")
    kinds = [(0,), (0,), (0,), (0, 0), (1, 1), (2, 2), (1, 1, 0), (2, 2, 0), (1, 1, 1, 1), (1, 1, 2, 2)]
    kinds += [(1, 1, 1, 1, 0), (1, 1, 2, 2, 0), (1, 1, 1, 1, 1, 1), (1, 1, 1, 1, 1, 1, 0)]
    for centre in range(2):
        lines.append(f"  {centre}:")
        lines += [function(rng, centre, ls) for ls in kinds]
    return "\n".join(lines) + "\n"


@pytest.fixture
def alloy(tmp_path):
    path = tmp_path / "alloy.yace"
    path.write_text(potential(("ChebExpCos", "SBessel")), encoding="utf-8")
    return YACEPotential(path)


def structure(seed=4):
    atoms = bulk("NiAl", "cesiumchloride", a=2.9) * (2, 1, 1)
    atoms.rattle(0.15, seed=seed)
    return atoms


@pytest.mark.parametrize("inner", ["density", "distance"])
@pytest.mark.parametrize(
    "bases", [("ChebExpCos",), ("ChebPow",), ("SBessel",), ("ChebExpCos", "ChebPow", "SBessel")]
)
def test_reference(bases, inner, tmp_path):
    """Products of complex harmonics, one by one, without tables."""
    text = potential(bases, inner)
    path = tmp_path / "x.yace"
    path.write_text(text, encoding="utf-8")
    calc, file, atoms = YACEPotential(path), yace_reference.load(text), structure()
    exact = yace_reference.site_energies(file, atoms)
    assert np.ptp(exact) > 0.5
    assert np.abs(calc.evaluate(atoms).energies - exact).max() < 1e-8
    u = np.random.default_rng(1).normal(size=(4, 3))
    slope = -(calc.evaluate(atoms).forces * u).sum()
    h = 1e-4
    difference = [yace_reference.energy(file, moved(atoms, u, s * h)) for s in (1, -1)]
    assert slope == pytest.approx((difference[0] - difference[1]) / (2 * h), rel=1e-6, abs=1e-6)


def test_published_radial_function():
    """Numbers in the tests of python-ace (test_ACERadialFunctions.py, ICAMS, Ruhr-Universitaet Bochum)."""
    al = Bond("ChebExpCos", 5.25, np.zeros((1, 1, 3)), 8.7, 0.01, 0.0, 0.0, 0.0, 1.0, False)
    g = bond_functions(al, np.array([3.0]), 1)[0]
    assert g[0, 0, 0] == pytest.approx(0.7342042203498951, rel=1e-12)
    assert g[1, 0, 0] == pytest.approx(-0.1595192498959612, rel=1e-12)


def test_contract(alloy):
    check_calculator(alloy, structure())


def test_gradients(alloy, rng):
    atoms = structure()
    w = rng.uniform(0, 1, len(atoms))
    w[0] = 0.0
    here = alloy.evaluate(atoms, w)
    u, e = rng.normal(size=(len(atoms), 3)), random_strain(rng)
    noise = 1e-13 * (np.abs(here.energies).sum() + 1)
    assert_derivative(lambda h: alloy.evaluate(moved(atoms, u, h), w).energy, -(here.forces * u).sum(), noise)
    slope = -(here.virial * e).sum()
    assert_derivative(lambda h: alloy.evaluate(strained(atoms, e, h), w).energy, slope, noise)


def test_free_atoms_and_pickle(alloy):
    assert alloy.evaluate(Atoms("AlNi", [[0, 0, 0], [20, 0, 0]])).energies.tolist() == [0.25, -1.5]
    assert alloy.reference_energies == {"Ni": -1.5, "Al": 0.25}
    assert repr(alloy) == f"YACEPotential(Ni, Al: 28 functions, cutoff {alloy.cutoff:g} Å)"
    again = pickle.loads(pickle.dumps(alloy))
    assert again.evaluate(structure()).energy == alloy.evaluate(structure()).energy
    with pytest.raises(StructureError, match="no parameters for Cu .*it knows Ni, Al"):
        alloy.evaluate(Atoms("NiCu", [[0, 0, 0], [2, 0, 0]]))


def test_density_cutoff(tmp_path):
    """Cores never reach it where pairs are allowed; the energy would not be linear there."""
    path = tmp_path / "x.yace"
    text = potential().replace(
        "rho_core_cutoff: 100000, drho_core_cutoff: 250", "rho_core_cutoff: 600, drho_core_cutoff: 100"
    )
    path.write_text(text, encoding="utf-8")
    calc = YACEPotential(path)
    assert 0.5 < calc.minimum_distance < 2.0
    file = yace_reference.load(text)
    dense = bulk("NiAl", "cesiumchloride", a=1.01 * calc.minimum_distance * 2 / np.sqrt(3))
    exact = yace_reference.site_energies(file, dense)
    assert calc.evaluate(dense).energies == pytest.approx(exact, rel=1e-8)
    with pytest.raises(StructureError, match="YACEPotential needs at least"):
        calc.evaluate(Atoms("Ni2", [[0, 0, 0], [0, 0, 0.98 * calc.minimum_distance]]))


REFUSED = [
    (("FS_parameters: [0.7, 1]", "FS_parameters: [0.7, 0.5]"), "got the exponent 0.5; only linear"),
    (
        ("ndensity: 1, FS_parameters: [0.7, 1]", "ndensity: 2, FS_parameters: [0.7, 1, 1, 0.5]"),
        r"embeddings.0.ndensity: got 2; only linear potentials",
    ),
    (("FS_parameters: [0.7, 1]", "FS_parameters: [0.7]"), "FS_parameters: 1 numbers, expected 2"),
    (("npoti: FinnisSinclair,", "npoti: Tersoff,"), "npoti: got Tersoff, expected FinnisSinclair"),
    (("rho_core_cutoff: 100000", "rho_core_cutoff: 100"), "rho_core_cutoff: got 100, expected more than"),
    (("ChebExpCos", "ACE.jl.base"), r"bonds\[0, 0\].radbasename: got ACE.jl.base, expected one of"),
    (("ChebExpCos", "ChebLinear"), "got ChebLinear, expected functions that vanish at the cutoff"),
    (("dcut_in: 1e-5", "dcut_in: 1e-5, inner_cutoff_type: zbl"), "inner_cutoff_type: got zbl"),
    (("dcut_in: 1e-5", "dcut_in: 1e-5, inner_cutoff_type: distance"), "expected one for all"),
    (("rcut_in: 0", "rcut_in: 1"), "would jump to zero at"),
    (("rcut: 4.", "rcut: -4."), r"rcut: got -4.*, expected a finite number >= 0"),
    (("prehc: 20", "prehc: .nan"), "prehc: got .nan, expected a number"),
    (("prehc: 20", "prehc: inf"), "prehc: got inf, expected a finite number"),
    (("prehc: 20, ", ""), r"bonds\[0, 0\]: lacks 'prehc'"),
    (("radparameters: [3.2]", "radparameters: []"), "expected at least one number"),
    (("nradmax: 3", "nradmax: 4"), "3 entries, expected nradmax = 4"),
    (("lmax: 2", "lmax: 1"), r"3 entries, expected lmax \+ 1 = 2"),
    (("nradbasemax: 5", "nradbasemax: 6"), "5 numbers, expected 6"),
    (("[1, 0]:", "[2, 0]:"), r"bonds: lacks \[1, 0\]; every ordered pair"),
    (("elements: [Ni, Al]", "elements: [Ni, Xx]"), "expected chemical symbols"),
    (("elements: [Ni, Al]", "elements: [Ni, Ni]"), "expected chemical symbols, each once"),
    (("elements: [Ni, Al]", "elements: Ni"), "elements: got Ni, expected a list"),
    (("E0: [-1.5, 2.5e-1]", "E0: [-1.5]"), "E0: 1 numbers, expected 2"),
    (("E0: [-1.5, 2.5e-1]\n", ""), "lacks 'E0'"),
    (("mu0: 0", "mu0: 1"), r"functions.0\[0\].mu0: got 1, expected 0"),
    (("rank: 1,", "rank: 9,"), "rank: got 9, expected a whole number from 1 to 8"),
    (("rank: 1,", "rank: one,"), "rank: got one, expected a whole number"),
    (("rank: 2, ndensity: 1", "rank: 2, ndensity: 2"), "only linear potentials are supported"),
    (("ms_combs: [-1, 1,", "ms_combs: [-1, 0,"), "m do not sum to zero"),
    (("ms_combs: [-1, 1,", "ms_combs: [-2, 2,"), r"\|m\| exceeds l"),
    (("ls: [1, 1]", "ls: [3, 3]"), r"l = 3 are beyond those of bonds\[0"),
    (("functions:\n  0:", "functions:\n  7:"), "functions: lacks '0'"),
    (("E0: [", "E0: !!python/object/apply:os.system ["), "YAML tag"),
    (("E0: [-1.5, 2.5e-1]", "E0: &a [-1.5, *a]"), "anchors and aliases"),
    (("E0: [-1.5, 2.5e-1]", "E0: " + 20 * "[" + 20 * "]"), "nested more than 12 levels deep"),
    (("deltaSplineBins: 0.001", "E0: [0, 0]"), "the key 'E0' occurs twice"),
    (("deltaSplineBins: 0.001", "? {a: b}\n: c"), "a key that is neither a word nor a list"),
    (("# an alloy", "--- []\n---"), "2 YAML documents, expected one"),
    (("functions:", "functions: ["), "not a whole YAML file"),
    (("# an alloy", "species: []"), "a pacemaker file of B-functions"),
    (("# an alloy", "nelements=1"), r"the old text format of ML-PACE \(.ace\)"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "text"), REFUSED, ids=[t for _, t in REFUSED])
def test_refused(change, text, tmp_path):
    path = tmp_path / "x.yace"
    original = potential()
    assert change[0] in original
    path.write_text(original.replace(*change, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"x\.yace: .*{text}"):
        YACEPotential(path)


def test_files_of_other_kinds(tmp_path, monkeypatch):
    path = tmp_path / "x.yace"
    with pytest.raises(FileNotFoundError, match="there is no file"):
        YACEPotential(path)
    path.write_bytes(b"\x80\x04\x95")
    with pytest.raises(ValueError, match="not a text file"):
        YACEPotential(path)
    path.write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="0 YAML documents"):
        YACEPotential(path)
    path.write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(ValueError, match="expected a map"):
        YACEPotential(path)
    monkeypatch.setattr(yace_file, "MAX_SIZE", 3)
    with pytest.raises(ValueError, match="6 bytes, more than the 3 read here"):
        YACEPotential(path)


def test_deep_nesting_does_no_harm(tmp_path):
    path = tmp_path / "x.yace"
    path.write_text("[" * 500_000, encoding="utf-8")
    with pytest.raises(ValueError, match="nested more than"):
        YACEPotential(path)


def test_words_of_yaml_are_elements(tmp_path):
    """YAML takes No for false and 1e-1 for a word; both are meant as they stand."""
    path = tmp_path / "x.yace"
    text = potential().replace("[Ni, Al]", "[No, Y]").replace("2.5e-1", "25e-2")
    path.write_text(text, encoding="utf-8")
    assert YACEPotential(path).reference_energies == {"No": -1.5, "Y": 0.25}


def test_without_yaml(tmp_path, monkeypatch):
    path = tmp_path / "x.yace"
    path.write_text(potential(), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"pip install ase-qmmm\[lammps\]"):
        YACEPotential(path)


def test_arguments(alloy, tmp_path):
    with pytest.raises(ValueError, match="skin: got -1"):
        YACEPotential(tmp_path / "alloy.yace", skin=-1)
    with pytest.raises(TypeError, match="unknown keyword 'skins'"):
        YACEPotential(tmp_path / "alloy.yace", skins=1)
