"""``ase-qmmm fit`` and ``ase-qmmm match``: files, tables, and one line for everything that is wrong."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from ase_qmmm import EAM, ACEPotential
from ase_qmmm.cli import main
from ase_qmmm.fitting.commands import parse_weights

BASIS = ["--order", "2", "--degree", "6", "--cutoff", "4.5"]


def copper(rng, count):
    images = []
    for k in range(count):
        atoms = bulk("Cu", a=3.6 * rng.uniform(0.97, 1.03), cubic=True) * (2, 1, 1)
        atoms.positions += 0.1 * rng.normal(size=(len(atoms), 3))
        plain = atoms.copy()
        plain.calc = EMT()
        results = {name: plain.get_properties([name])[name] for name in ("energy", "forces", "stress")}
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["config_type"] = "warm" if k % 2 else "cold"
        images.append(atoms)
    return images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    ase.io.write(path / "train.extxyz", copper(rng, 8))
    ase.io.write(path / "held.extxyz", copper(rng, 3))
    renamed = []
    for atoms in copper(rng, 3):
        new = atoms.copy()
        new.info["REF_energy"], new.arrays["REF_forces"] = atoms.get_potential_energy(), atoms.get_forces()
        renamed.append(new)
    ase.io.write(path / "renamed.extxyz", renamed)
    bad = copper(rng, 1)[0].copy()
    bad.info["energy"], bad.arrays["forces"] = 1.0, np.full((8, 3), np.nan)
    ase.io.write(path / "nan.extxyz", bad)
    (path / "prose.extxyz").write_text("Once upon a time\n", encoding="utf-8")
    return path


def run(capsys, *arguments):
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_fit(folder, tmp_path, capsys):
    prefix = tmp_path / "cu.v1"
    weights = ["--weights", "energy=400,forces=2", "--weights", "warm:forces=5"]
    arguments = [folder / "train.extxyz", "--elements", "Cu", *BASIS, *weights]
    status, out, err = run(capsys, "fit", *arguments, "--test", folder / "held.extxyz", "-o", prefix)
    assert status == 0, err
    for word in ("ard: ", "condition", "warm", "cold", "test, ", "calibration factor", "meV/Å"):
        assert word in out
    names = ["cu.v1.ace.json", "cu.v1.json", "cu.v1.png", "cu.v1_calibration.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == names
    record = json.loads((tmp_path / "cu.v1.json").read_text(encoding="utf-8"))
    assert record["potential"] == names[0] and record["weights"]["warm"]["forces"] == 5.0
    assert record["weights"]["cold"] | {"forces": 0} == record["weights"]["warm"] | {"forces": 0}
    potential = ACEPotential.load(tmp_path / names[0])
    held = ase.io.read(folder / "held.extxyz", 0)
    assert np.abs(potential.get_property("forces", held.copy()) - held.get_forces()).max() < 0.1


def test_fit_with_other_names(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = ["--energy-key", "REF_energy", "--forces-key", "REF_forces"]
    solver = ["--solver", "rrqr", "--streamed"]
    status, out, err = run(
        capsys, "fit", folder / "renamed.extxyz", "--elements", "Cu", *BASIS, *solver, *keys
    )
    assert status == 0, err
    assert "rrqr" in out and (tmp_path / "renamed.ace.json").is_file()


def test_match(tmp_path, capsys):
    """Tungsten's EAM, whose derivatives up to the second an ACE of order two has."""
    basis = ["--order", "2", "--degree", "10", "--cutoff", "6.128704555450524"]
    orders = ["--energies", "2", "--forces", "0", "--virials", "0", "--tolerance", "1e-10"]
    status, out, err = run(capsys, "match", "--qm", "W-zhou04", *basis, *orders, "-o", tmp_path / "w")
    assert status == 0, err
    relative = [
        float(line.split()[-1]) for line in out.splitlines() if line.startswith("eps_") and "^E" in line
    ]
    assert len(relative) == 2 and max(relative) < 1e-9
    elastic = [line for line in out.splitlines() if line.startswith(("qm: C11", "mm: C11"))]
    assert elastic[0][3:] == elastic[1][3:]
    found, atoms = ACEPotential.load(tmp_path / "w.ace.json"), bulk("W", a=3.165)
    assert np.isclose(
        found.get_property("free_energy", atoms),
        EAM("W-zhou04").get_property("free_energy", atoms),
        atol=1e-3,
    )
    assert (tmp_path / "w.png").stat().st_size > 5000


@pytest.mark.slow
def test_match_tight_binding(tmp_path, capsys):
    small = ["--order", "2", "--degree", "5,6", "--cutoff", "4", "--reach", "4", "--virials", "1"]
    status, out, err = run(capsys, "match", "--qm", "nrl-Si-sp", *small, "-o", tmp_path / "si")
    assert status == 0, err
    assert "forces up to order 1 within 4 Å" in out and "eps_1^F" in out and "degree 5/6" in out


def test_parse_weights():
    assert parse_weights(["energy=9, forces=1", "a:b:W2=3"]) == {
        "default": {"energy": 9.0, "forces": 1.0},
        "a:b": {"W2": 3.0},
    }
    assert parse_weights(None) == {}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["fit", "{}/missing.extxyz", "--elements", "Cu"], "no such file"),
        (["fit", "{}/prose.extxyz", "--elements", "Cu"], "cannot read structures"),
        (["fit", "{}/nan.extxyz", "--elements", "Cu", *BASIS], "not finite on atom 0"),
        (["fit", "{}/renamed.extxyz", "--elements", "Cu", *BASIS], "it has REF_energy, REF_forces"),
        (["fit", "{}/train.extxyz", "--elements", "Au", *BASIS], "no parameters for Cu"),
        (["fit", "{}/train.extxyz", "--elements", "Xy", *BASIS], "elements: got 'Xy'"),
        (["fit", "{}/train.extxyz", "--elements", "Cu", "--weights", "forces"], "got 'forces'"),
        (["fit", "{}/train.extxyz", "--elements", "Cu", *BASIS, "--weights", "x:forces=1"], "no group 'x'"),
        (["fit", "{}/train.extxyz", "--elements", "Cu", *BASIS, "--weights", "force=1"], "no kind 'force'"),
        (["fit", "{}/train.extxyz", "--elements", "Cu", *BASIS, "--streamed"], "all rows at once"),
        (["fit", "{}/train.extxyz", "--elements", "Cu", "--solver", "svd"], "'svd'"),
        (
            [
                "fit",
                "{}/renamed.extxyz",
                "--elements",
                "Cu",
                "--energy-key",
                "REF_energy",
                "--degree",
                "9",
                "--solver",
                "qr",
            ],
            "cannot determine",
        ),
        (["fit", "{}/train.extxyz"], "--elements"),
        (["match", "--qm", "nrl-Xy-sp"], "nrl-Xy-sp"),
        (["match", "--qm", "toy"], "ASE knows none for 'toy'; give the unit cell in a file"),
        (["match", "--qm", "W-zhou04", "--threads", "0"], "threads: got 0"),
        (["match", "--qm", "W-zhou04", "--forces", "0", "--virials", "0"], "not all 0"),
        (["match", "--qm", "W-zhou04", "--mm", "spline"], "'spline'"),
        (["match", "--qm", "W-zhou04", "--crystal", "{}/missing.xyz"], "no such file"),
        (["match", "--qm", "W-zhou04", "--gamma", "-1", "--degree", "4"], "gamma"),
        (["match", "--qm", "W-zhou04", "--degree", "4,x"], "degree: got '4,x'"),
        (["match", "--qm", "W-zhou04", "--degree", "8,8"], "degree: got 2 numbers for order 3"),
    ],
)
def test_errors_are_one_line(arguments, text, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, *(a.format(folder) for a in arguments))
    # A progress bar may have come before it.
    last = err.strip().splitlines()[-1]
    assert status == 2
    assert last.startswith("ase-qmmm: error: ") and text in last, err
    assert "Traceback" not in err and not list(tmp_path.iterdir())
