"""The command line: one run of the main job, help, and one line for everything that is wrong."""

from __future__ import annotations

import inspect
import json
import re

import ase.io
import numpy as np
import pytest
from ase.gui.view import View
from mixing_fixtures import silicon_cell, vacancy

from ase_qmmm import Regions
from ase_qmmm.cli import ClusterKind, OptimizerName, main, relax
from ase_qmmm.mixing.carving import CLUSTER_KINDS
from ase_qmmm.plotting import REGION_COLOURS
from ase_qmmm.relaxation import OPTIMIZERS, RelaxationSettings

SMALL = ["--r-qm", "4", "--mm-cutoff", "3.9"]
CONVERGES, DOES_NOT = ["--fmax", "0.3", "--steps", "20"], ["--fmax", "1e-6", "--steps", "1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """63 and 215 silicon atoms around a vacancy, and files that are none."""
    path = tmp_path_factory.mktemp("structures")
    for n in (2, 3):
        atoms, _ = vacancy(n)
        ase.io.write(path / f"vacancy{len(atoms)}.extxyz", atoms)
    ase.io.write(path / "perfect.extxyz", silicon_cell(2))
    (path / "broken.extxyz").write_text("7\nnot a structure\nSi 0 0\n", encoding="utf-8")
    (path / "prose.txt").write_text("Once upon a time\n", encoding="utf-8")
    return path


def run(capsys, *arguments):
    """Exit status, standard output, standard error."""
    status = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# -- what works ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["relax", "info", "view"]),
        (["--help"], ["relax", "info", "view"]),
        (["-h"], ["relax", "info", "view"]),
        (["relax", "--help"], ["--r-qm", "Å", "PREFIX.extxyz", "[default: 6.0]", "Example:", "--optimizer"]),
        (["info", "--help"], ["regions", "defects"]),
        (["view", "--help"], ["--png", "ase gui"]),
    ],
)
def test_help(arguments, words, capsys):
    status, out, err = run(capsys, *arguments)
    assert status == 0
    assert err == ""
    for word in words:
        assert word in out


def test_options_are_those_of_the_driver():
    """Names, choices and defaults, which the command line repeats so that ``--help`` loads no model."""
    assert [kind.value for kind in ClusterKind] == list(CLUSTER_KINDS)
    assert [name.value for name in OptimizerName] == list(OPTIMIZERS)
    options = {name: p.default for name, p in inspect.signature(relax).parameters.items()}
    for name, default in vars(RelaxationSettings()).items():
        assert options.pop(name) == default
    assert set(options) == {"structure", "crystal", "output"}


def test_relax(folder, tmp_path, capsys):
    """215 atoms, periodic box of 63: files, what they hold, and what is said on the way."""
    structure, prefix = folder / "vacancy215.extxyz", tmp_path / "out"
    status, out, err = run(capsys, "relax", structure, *SMALL, *CONVERGES, "--r-buffer", "0.2", "-o", prefix)
    assert status == 0, err
    assert "error" not in err
    for word in ("crystal", "matching", "defect at (6.79, 6.79, 6.79)", "quantum call: Cluster(periodic, 63"):
        assert word in out
    assert "converged after" in out
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.extxyz", "out.json", "out.png", "out.traj"]

    summary = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert summary["format"] == "ase-qmmm-relaxation"
    assert summary["finished"]
    assert summary["converged"]
    assert summary["fmax"] <= 0.3
    assert summary["regions"] == {"qm": 16, "buffer": 0, "mm": 199, "frozen": 0}
    assert summary["parameters"]["r_qm"] == 4.0
    assert len(summary["history"]) == summary["steps"] + 1
    assert {"versions", "timings", "energy", "energy_initial", "n_atoms", "clusters"} <= summary.keys()
    assert out.count("  step ") == len(summary["history"])

    relaxed, start = ase.io.read(tmp_path / "out.extxyz"), ase.io.read(structure)
    assert relaxed.arrays["region"].dtype.kind == "i"
    assert np.array_equal(relaxed.get_tags(), relaxed.arrays["region"])
    assert Regions.from_atoms(relaxed).qm.sum() == 16
    assert np.allclose(relaxed.arrays["displacement"], relaxed.positions - start.positions, atol=1e-7)
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() <= 0.3
    assert relaxed.get_potential_energy() == pytest.approx(summary["energy"])
    assert len(ase.io.read(tmp_path / "out.traj", index=":")) == len(summary["history"])
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")

    status, out, err = run(capsys, "info", tmp_path / "out.extxyz")
    assert status == 0
    assert "Regions(16 qm, 0 buffer, 199 mm, 0 frozen)" in out


def test_relax_that_does_not_converge(folder, tmp_path, capsys, monkeypatch):
    """Exit status 1, files written all the same, next to where one is by default."""
    monkeypatch.chdir(tmp_path)
    options = [*SMALL, *DOES_NOT, "--optimizer", "precon-lbfgs", "--rescale"]
    status, out, err = run(capsys, "relax", folder / "vacancy63.extxyz", *options)
    assert status == 1
    assert "error" not in err
    assert "NOT CONVERGED" in out
    assert "rescaled" in out
    summary = json.loads((tmp_path / "vacancy63_relaxed.json").read_text(encoding="utf-8"))
    assert summary["finished"]
    assert not summary["converged"]


def test_info(folder, capsys):
    status, out, _ = run(capsys, "info")
    assert status == 0
    assert "nrl-Si-sp" in out
    assert "numpy" in out
    status, out, _ = run(capsys, "info", folder / "vacancy63.extxyz")
    assert status == 0
    assert "63 atoms" in out
    assert "defects: 1 " in out
    status, out, _ = run(capsys, "info", folder / "perfect.extxyz")
    assert status == 0
    assert "no defect found" in out


def test_view(folder, tmp_path, capsys):
    atoms = ase.io.read(folder / "vacancy63.extxyz")
    Regions.from_distance(atoms, [5.4, 5.4, 5.4], 3.0, 2.0).write(atoms)
    ase.io.write(tmp_path / "regions.extxyz", atoms)
    status, out, _ = run(capsys, "view", tmp_path / "regions.extxyz", "--png", tmp_path / "regions.png")
    assert status == 0
    assert "regions.png" in out
    assert (tmp_path / "regions.png").stat().st_size > 5000


def test_view_without_a_display(folder, capsys, monkeypatch):
    """One line, also where neither a display nor tkinter is there."""
    monkeypatch.delenv("DISPLAY", raising=False)
    status, _, err = run(capsys, "view", folder / "vacancy63.extxyz")
    assert status == 2
    assert "--png FILE" in err
    assert err.count("\n") == 1


def test_gui_colours(tmp_path, capsys, monkeypatch):
    """The colours that ase gui itself would draw with the settings made."""
    pytest.importorskip("tkinter")
    shown = []

    class Window:
        get_colors, get_color_scalars = View.get_colors, View.get_color_scalars

        def __init__(self, images):
            self.atoms, self.colormode = images[0], "jmol"

        def draw(self):
            pass

        def run(self):
            shown.extend(self.get_colors())

    monkeypatch.setattr("ase.gui.gui.GUI", Window)
    atoms = silicon_cell(1)
    regions = Regions([0, 1], [2, 3], [4, 5], n_atoms=8)
    # Files that keep the regions but no tags are coloured as well.
    atoms.set_array("region", regions.numbers)
    ase.io.write(tmp_path / "regions.extxyz", atoms)
    status, _, err = run(capsys, "view", tmp_path / "regions.extxyz")
    assert status == 0, err
    assert shown == [REGION_COLOURS[number] for number in regions.numbers]


# -- what does not -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["relaxx"], "relaxx"),
        (["relax"], "structure"),
        (["relax", "{63}", "--r-qn", "3"], "--r-qn.*--r-qm"),
        (["relax", "{63}", "--r-qm", "wide"], "--r-qm.*number"),
        (["relax", "{63}", "--r-qm", "-1"], "r_qm: got -1.0, expected a finite number > 0"),
        (["relax", "{63}", "--r-qm", "nan"], "r_qm: got nan"),
        (["relax", "{63}", "--fmax", "0"], "fmax: got 0.0"),
        (["relax", "{63}", "--kT", "-0.1"], "kT: got -0.1"),
        (["relax", "{63}", "--steps", "-3"], "steps: got -3"),
        (["relax", "{63}", "--r-buffer", "-2"], "r_buffer: got -2.0"),
        (["relax", "{63}", "--cluster", "ball"], "--cluster.*ball.*auto.*periodic.*open"),
        (["relax", "{63}", "--optimizer", "newton"], "--optimizer.*newton.*lbfgs"),
        (["relax", "{63}", "--qm", "nrl-Sj-sp"], "model: got 'nrl-Sj-sp'.*nrl-Si-sp"),
        (["relax", "{63}", "-o", "{nowhere}/out"], "output: folder .*nowhere"),
        (["relax", "{missing}"], "no such file: .*missing"),
        (["relax", "{broken}"], "cannot read a structure from .*broken"),
        (["relax", "{prose}"], "cannot read a structure from .*prose"),
        (["relax", "{63}", "--crystal", "{missing}"], "no such file"),
        (["relax", "{perfect}", *SMALL, "-o", "{tmp}/out"], "no defect found"),
        (["info", "{missing}"], "no such file"),
        (["view", "{63}", "--png", "{tmp}/a.png"], "no array 'region'"),
        (["view", "{missing}", "--png", "{tmp}/a.png"], "no such file"),
    ],
)
def test_errors_are_one_line(arguments, text, folder, tmp_path, capsys):
    places = {
        "{63}": folder / "vacancy63.extxyz",
        "{perfect}": folder / "perfect.extxyz",
        "{missing}": folder / "missing.extxyz",
        "{broken}": folder / "broken.extxyz",
        "{prose}": folder / "prose.txt",
    }
    filled = [
        str(places.get(a, a)).replace("{nowhere}", "/nowhere").replace("{tmp}", str(tmp_path))
        for a in arguments
    ]
    status, _, err = run(capsys, *filled)
    assert status == 2
    assert err.startswith("ase-qmmm: error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert re.search(text, err), err
    assert not list(tmp_path.iterdir())
