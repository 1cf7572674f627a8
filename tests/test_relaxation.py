"""The relaxation driver: what is on disk whatever happens, and settings that cannot be used."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from mixing_fixtures import vacancy

from ase_qmmm import Crystal, MatchError, Regions, StructureError, TightBinding
from ase_qmmm.relaxation import (
    OPTIMIZERS,
    RelaxationFiles,
    RelaxationSettings,
    guess_unit_cell,
    relax_defect,
    versions,
)

SETTINGS = {"r_qm": 4.0, "mm_cutoff": 3.9, "fmax": 1e-4, "steps": 20}


def read_summary(files):
    return json.loads(files.summary.read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_interrupted(kind, tmp_path):
    """Ctrl-C at step 2: structure, trajectory and summary can be read, and say that they are not the end."""
    atoms, _ = vacancy(2)
    files = RelaxationFiles(tmp_path / "out")
    lines = []

    def report(line):
        lines.append(line)
        if line.lstrip().startswith("step   2"):
            raise kind("enough")

    with pytest.raises(kind, match="enough"):
        relax_defect(atoms, files, RelaxationSettings(**SETTINGS), report=report)
    summary = read_summary(files)
    assert not summary["finished"]
    assert not summary["converged"]
    assert summary["steps"] == 2
    assert len(summary["history"]) == 3
    relaxed = ase.io.read(files.structure)
    images = ase.io.read(files.trajectory, index=":")
    assert len(images) == 3
    assert np.allclose(relaxed.positions, images[-1].positions, atol=1e-7)
    assert not np.allclose(relaxed.positions, atoms.positions, atol=1e-3)
    assert Regions.from_atoms(relaxed).qm.sum() == 16
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".extxyz", ".json", ".traj"]
    assert any("quantum call" in line for line in lines)


def test_input_is_not_changed_and_result_is_restartable(tmp_path):
    atoms, _ = vacancy(2)
    before = atoms.copy()
    files = RelaxationFiles(tmp_path / "out")
    settings = RelaxationSettings(**(SETTINGS | {"fmax": 0.3, "optimizer": "bfgs"}))
    summary = relax_defect(atoms, files, settings, report=lambda line: None)
    assert summary["converged"]
    assert summary == read_summary(files)
    assert np.array_equal(atoms.positions, before.positions)
    assert atoms.calc is None
    assert "region" not in atoms.arrays
    again = RelaxationFiles(tmp_path / "again")
    second = relax_defect(ase.io.read(files.structure), again, settings, report=lambda line: None)
    assert second["steps"] == 0
    # Positions went through a file with eight digits.
    assert second["fmax"] == pytest.approx(summary["fmax"], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kT": 0.0}, "kT: got 0.0"),
        ({"r_qm": np.inf}, "r_qm: got inf"),
        ({"mm_cutoff": -1.0}, "mm_cutoff: got -1.0"),
        ({"r_buffer": -1.0}, "r_buffer: got -1.0"),
        ({"optimizer": "newton"}, "optimizer: got 'newton'.*lbfgs, bfgs, fire, precon-lbfgs"),
        ({"steps": -1}, "steps: got -1"),
        ({"steps": np.nan}, "steps: got nan"),
        ({"threads": 1.5}, "threads: got 1.5"),
        ({"cluster": "ball"}, "cluster: got 'ball'"),
        ({"qm": "nrl-Xy"}, "model: got 'nrl-Xy'"),
    ],
)
def test_bad_settings(settings, text, tmp_path):
    """Before any heavy work, and before a file is touched."""
    atoms, _ = vacancy(2)
    lines = []
    with pytest.raises(ValueError, match=text):
        relax_defect(
            atoms, RelaxationFiles(tmp_path / "out"), RelaxationSettings(**settings), report=lines.append
        )
    assert not lines
    assert not list(tmp_path.iterdir())


def test_defect_within_reach_of_the_far_field(tmp_path, monkeypatch):
    """Refused on a part of the force constants, before those of the whole range."""
    ranges = []
    whole = TightBinding.force_constants

    def force_constants(calc, crystal, cutoff, **options):
        ranges.append(cutoff)
        return whole(calc, crystal, cutoff, **options)

    monkeypatch.setattr(TightBinding, "force_constants", force_constants)
    settings = RelaxationSettings(r_qm=3.0, mm_cutoff=8.0)
    with pytest.raises(MatchError, match=r"12 atoms lack neighbours .* QM atom \(r_qm > 3.84 Å\)"):
        relax_defect(vacancy(2)[0], RelaxationFiles(tmp_path / "out"), settings, report=lambda line: None)
    assert ranges == [pytest.approx(3.85, abs=0.01)]


def test_rescaling_a_sheet(tmp_path):
    """Two periodic directions fix the lattice constant of a crystal that has two."""
    cell = Atoms("Ni", cell=[[2.5, 0, 0], [1.25, 2.5 * 3**0.5 / 2, 0], [0, 0, 0]], pbc=(True, True, False))
    atoms = Crystal(cell).supercell(10)
    atoms.set_cell(1.02 * atoms.cell.array, scale_atoms=True)
    del atoms[44]
    settings = RelaxationSettings(qm="toy", r_qm=7.0, mm_cutoff=6.0, rescale=True, fmax=0.01)
    files, lines = RelaxationFiles(tmp_path / "out"), []
    summary = relax_defect(atoms, files, settings, unit_cell=cell, report=lines.append)
    assert summary["crystal"]["cell_stretch"] == pytest.approx(1.02, abs=1e-4)
    assert any("+2.000 %" in line for line in lines)
    assert ase.io.read(files.structure).cell[0, 0] == pytest.approx(25.0, abs=1e-3)


def test_rescaling_without_a_cell_to_scale(tmp_path):
    atoms, _ = vacancy(2)
    atoms.pbc = (True, True, False)
    with pytest.raises(StructureError, match="rescale: needs a cell that is periodic in every direction"):
        relax_defect(atoms, RelaxationFiles(tmp_path / "out"), RelaxationSettings(rescale=True))


def test_folder_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="output: folder .*missing"):
        RelaxationFiles(tmp_path / "missing" / "out")
    files = RelaxationFiles(tmp_path / "v1.2")
    assert files.structure.name == "v1.2.extxyz"
    assert files.picture.name == "v1.2.png"


def test_unit_cells():
    assert guess_unit_cell(Atoms("Si3")) == bulk("Si")
    with pytest.raises(StructureError, match=r"2 elements \(Al, Ni\)"):
        guess_unit_cell(Atoms("NiAl"))
    with pytest.raises(StructureError, match="ASE knows no crystal of"):
        guess_unit_cell(Atoms("N"))
    with pytest.raises(StructureError, match="0 elements"):
        guess_unit_cell(Atoms())


def test_versions():
    assert {"python", "ase", "numpy", "scipy"} <= versions().keys()
    assert set(OPTIMIZERS) == {"lbfgs", "bfgs", "fire", "precon-lbfgs", "force-lbfgs"}
