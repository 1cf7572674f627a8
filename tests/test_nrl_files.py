"""A user's own NRL parameter files: they give what the packaged set gives, or say what is wrong."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from ase.build import bulk

from ase_qmmm import TightBinding
from ase_qmmm.tightbinding import NRLModel, load_model, model_names
from ase_qmmm.tightbinding.nrl_files import packaged_sets, read_par
from ase_qmmm.tightbinding.slater_koster import CHANNELS

R = np.array([1.8, 2.35, 4.0, 6.5])


def packaged(name="Si_sp"):
    return copy.deepcopy(packaged_sets()[name])


def write(path, data):
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def par_text(name, title=True, number=True):
    """The text format of a packaged set with one element, as the NRL pages have it."""
    data = packaged(name)
    (species,), (onsite,), (pair,) = data["species"], data["onsite"], data["pairs"]
    values = [-np.sqrt(species["lambda_sq"][0])]  # some files have it negative
    for shell in "spdd":
        values += onsite["abcd"].get(shell, [[0.0] * 4])[0]
    for part in ("hopping", "overlap"):
        for channel in CHANNELS:
            e, f, fbar, g = pair[part].get(channel, [[0.0] * 4])[0]
            values += [e, f, fbar, np.sqrt(g)]
    lines = [f"{data['header']}   (Overlap Parameters)"]
    lines += ["Made for a test"] if title else []
    lines += [
        "1        (One atom type in this file)",
        f"{pair['r_cut']} {pair['screen_l']}  (RCUT and SCREENL for 1-1 interactions)",
        f"{species['n_orbitals']}   (Orbitals for atom 1)",
        f"{species['mass']} {species['Z'] if number else ''} (Atomic Weight of Atom 1)",
        f"{species['n_electrons']}.0 0.0 0.0   (formal spd valence occupancy for atom 1)",
    ]
    lines += [
        f"  {v:.15E}   0  {k + 1}  what it is".replace("E", "D" if k == 3 else "E")
        for k, v in enumerate(values)
    ]
    return "\n".join(lines) + "\n\n"


def assert_same(model, name):
    expected = load_model(name)
    assert model.symbols == expected.symbols
    assert model.n_electrons.tolist() == expected.n_electrons.tolist()
    assert model.cutoff == expected.cutoff
    for key, parts in expected.two_centre(0, 0, R, 1).items():
        for got, want in zip(model.two_centre(0, 0, R, 1)[key], parts, strict=True):
            assert np.abs(got - want).max() < 1e-11 * (1 + np.abs(want).max())
    assert model.density(0, 0, R, 0) == pytest.approx(expected.density(0, 0, R, 0))
    rho = np.array([0.01, 0.03])
    assert np.allclose(model.onsite(0, 0, rho, 1), expected.onsite(0, 0, rho, 1), rtol=1e-12)


def test_names():
    names = model_names()
    assert len(names) == 17
    assert {"nrl-Ti-spd", "nrl-Fe-spd-spin", "nrl-CuAu-spd", "kwon-Si", "toy"} <= set(names)
    for name in names:
        assert load_model(name).name == name
        assert load_model(name).citation
    assert load_model("nrl-Fe-spd-spin").n_spin == 2


@pytest.mark.parametrize("name", ["Si_sp", "W_spd", "Si_spd"])
@pytest.mark.parametrize("title", [True, False])
def test_par_file(name, title, tmp_path):
    path = tmp_path / "set.par"
    path.write_text(par_text(name, title, number=title), encoding="utf-8")
    assert_same(NRLModel(path), "nrl-" + name.replace("_", "-"))
    assert NRLModel(str(path)).citation == ("Made for a test" if title else "(Overlap Parameters)")


def test_json_files(tmp_path):
    one = write(tmp_path / "one.json", packaged())
    several = write(tmp_path / "several.json", {"sets": {"mine": packaged(), "other": packaged("W_spd")}})
    single = write(tmp_path / "single.json", {"sets": {"mine": packaged()}})
    for path in (one, str(one), single, f"{several}#mine", f"{single}#mine"):
        assert_same(load_model(path), "nrl-Si-sp")
    folder = tmp_path / "run#3"
    folder.mkdir()
    assert_same(load_model(write(folder / "one.json", packaged())), "nrl-Si-sp")
    atoms = bulk("Si", a=5.3)  # a shell of neighbours lies where the two cutoffs differ
    calc = TightBinding(f"{several}#mine")
    assert calc.evaluate(atoms).energy == TightBinding("nrl-Si-sp").evaluate(atoms).energy
    original = calc.with_options(cutoff_form="original")
    several.unlink()  # a calculator holds its parameters
    for other in (pickle.loads(pickle.dumps(original)), original.with_options(kT=0.2)):
        assert other.model.cutoff_form == "original"
        assert other.evaluate(atoms).energy != calc.evaluate(atoms).energy


def removed(*keys):
    def change(data):
        for key in keys[:-1]:
            data = data[key]
        del data[keys[-1]]

    return change


def put(value, *keys):
    def change(data):
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


NAN = float("nan")
WRONG = [
    (removed("species"), "species: missing"),
    (put([], "species"), "species: got .*at least one"),
    (put("Si", "species"), "species: got 'Si', expected a list"),
    (removed("species", 0, "symbol"), r"species\[0\].symbol: missing"),
    (put("Qq", "species", 0, "symbol"), r"species\[0\].symbol: got 'Qq', expected a chemical symbol"),
    (put("X", "species", 0, "symbol"), "got 'X'"),
    (put([1, 0], "species", 0, "shells"), r"species\[0\].shells: got \[1, 0\], expected rising"),
    (put([0, 3], "species", 0, "shells"), "shells"),
    (put(9, "species", 0, "n_electrons"), r"n_electrons: got 9.0, expected less than 8"),
    (put(-1, "species", 0, "n_electrons"), "n_electrons: got -1, expected one positive"),
    (put([NAN], "species", 0, "lambda_sq"), r"lambda_sq: got \[nan\], expected 1 finite"),
    (put([-1.0], "species", 0, "lambda_sq"), "no negative number"),
    (put([1.0, 2.0], "species", 0, "lambda_sq"), "lambda_sq: got .*expected 1 finite"),
    (put(3, "n_spin"), "n_spin: got 3, expected 1 or 2"),
    (put(2, "n_spin"), "lambda_sq: got .*expected 2 finite"),
    (put("no", "overlap_zero_limit"), "overlap_zero_limit: got 'no', expected true or false"),
    (put(True, "pair_repulsion"), "pair_repulsion: the set needs a pair repulsion"),
    (put(True, "orthogonal"), "orthogonal: the set needs an orthogonal basis"),
    (removed("onsite"), "onsite: missing"),
    (put([], "onsite"), r"onsite: no entry for \(centre, neighbour\) = \('Si', 'Si'\)"),
    (put("C", "onsite", 0, "centre"), r"onsite\[0\]: got 'C', expected an element of 'species' \(Si\)"),
    (removed("onsite", 0, "abcd", "p"), r"onsite\[0\].abcd.p: got None, expected 1 x 4"),
    (put([[1, 2, 3]], "onsite", 0, "abcd", "s"), r"abcd.s: got \[\[1, 2, 3\]\], expected 1 x 4"),
    (removed("pairs"), "pairs: missing"),
    (put([], "pairs"), r"pairs: no entry for \(first, second\)"),
    (removed("pairs", 0, "r_cut"), r"pairs\[0\].r_cut: missing"),
    (put(-12.5, "pairs", 0, "r_cut"), r"pairs\[0\].r_cut: got -12.5, expected one positive"),
    (put(NAN, "pairs", 0, "screen_l"), "screen_l: got nan"),
    (put(20.0, "pairs", 0, "screen_l"), "screen_l: got 20.0, expected less than r_cut"),
    (removed("pairs", 0, "hopping", "ppp"), r"pairs\[0\].hopping.ppp: got None, expected 1 x 4"),
    (put([[1, 2, 3, "a"]], "pairs", 0, "overlap", "sss"), r"pairs\[0\].overlap.sss: got .*1 x 4"),
    (put([[1, 2, 3, NAN]], "pairs", 0, "overlap", "sss"), "overlap.sss"),
    (put(True, "short_range_spline"), r"pairs\[0\].r_min_spline: missing"),
]


@pytest.mark.parametrize(("change", "text"), WRONG, ids=[text for _, text in WRONG])
def test_wrong_entries(change, text, tmp_path):
    data = packaged()
    change(data)
    path = write(tmp_path / "file.json", {"sets": {"mine": data, "good": packaged()}})
    with pytest.raises(ValueError, match=rf"file.json#mine: .*{text}"):
        TightBinding(f"{path}#mine")
    NRLModel(f"{path}#good")


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (removed("pairs", 2), r"pairs: no entry for \(first, second\) = \('Au', 'Cu'\)"),
        (removed("onsite", 1), r"onsite: no entry for \(centre, neighbour\) = \('Au', 'Cu'\)"),
        (put(11.0, "pairs", 1, "r_cut"), "r_cut: got 11.0, expected 12.5 as in the mirror pair"),
        (put([[1.0, 2.0, 3.0, 4.0]], "pairs", 1, "hopping", "dds"), "hopping.dds: got .* mirror pair"),
        (put("Cu", "species", 1, "symbol"), r"species\[1\].symbol: got 'Cu', expected each element once"),
    ],
)
def test_wrong_pairs_of_two_species(change, text, tmp_path):
    data = packaged("CuAu_spd")
    change(data)
    with pytest.raises(ValueError, match=text):
        NRLModel(write(tmp_path / "file.json", data))


@pytest.mark.parametrize(
    ("content", "chosen", "text"),
    [
        ("{", "", "not a JSON file"),
        ("[" * 100_000, "", "not a JSON file"),
        ("[]", "", "got list, expected an object"),
        ('{"sets": {}}', "", "sets: expected an object with at least one"),
        ('{"sets": {"a": {}, "b": {}}}', "", "holds several sets; name one as .*#<set>. .it has a, b"),
        ('{"sets": {"mine": {}, "b": {}}}', "#mein", "got set 'mein'; did you mean 'mine'"),
        ('{"species": []}', "#a", "holds one set without a name"),
        ('{"units": {"energy": "eV", "length": "Angstrom"}, "sets": {}}', "", "units: got .*Rydberg"),
    ],
)
def test_wrong_json(content, chosen, text, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=f"file.json: .*{text}"):
        NRLModel(f"{path}{chosen}")


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("NN00001", "hello", "header: got 'hello', expected one like 'NN00000'"),
        ("NN00001", "NM00001", "header 'NM00001' is magnetic"),
        ("NN00001", "ON00001", "orthogonal: the set needs"),
        ("NN00001", "NN00011", "pair_repulsion: the set needs"),
        ("NN00001", "NN00003", "force_harrison_signs: the set needs"),
        ("1        (One", "2        (One", "number of species: expected 1"),
        ("12.5 0.5", "12.5 (RCUT", "cutoff and width: got .*expected 2 number"),
        ("12.5 0.5", "-12.5 0.5", "r_cut: got -12.5"),
        ("4   (Orbitals", "5   (Orbitals", "number of orbitals: got 5, expected 1, 4 or 9"),
        ("4   (Orbitals", "4.7   (Orbitals", "number of orbitals: got 4.7"),
        ("4   (Orbitals", "nan   (Orbitals", "number of orbitals: got nan"),
        ("4   (Orbitals", "inf   (Orbitals", "number of orbitals: got inf"),
        ("28.086 14", "lead", "mass: got 'lead"),
        ("28.086 14", "28.5", "mass: got 28.5, which is that of no element"),
    ],
)
def test_wrong_par(old, new, text, tmp_path):
    content = par_text("Si_sp")
    assert old in content
    path = tmp_path / "file.par"
    path.write_text(content.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ValueError, match=f"file.par: .*{text}"):
        NRLModel(path)


def test_par_with_wrong_lines():
    lines = par_text("Si_sp").splitlines()
    with pytest.raises(ValueError, match="text: number 94 of 97: got '', expected 1 number"):
        read_par("\n".join(lines[:100]))
    lines[23] = "5.0  0 17"
    with pytest.raises(ValueError, match="a, b, c, d of t2g and eg differ"):
        read_par("\n".join(lines))
    with pytest.raises(ValueError, match="header: got ''"):
        read_par("")


def test_other_files(tmp_path):
    with pytest.raises(ValueError, match="got file .*set.txt', expected a name that ends in .json or .par"):
        NRLModel(tmp_path / "set.txt")
    with pytest.raises(FileNotFoundError, match="there is no parameter file"):
        TightBinding(tmp_path / "set.par")
    path = tmp_path / "set.par"
    path.write_text(par_text("Si_sp"), encoding="utf-8")
    with pytest.raises(ValueError, match="a .par file holds one set, remove '#a'"):
        NRLModel(f"{path}#a")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="set.par: not a text file"):
        NRLModel(path)
