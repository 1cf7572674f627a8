"""Files of Taylor models: the same bits back, and named errors for all other files."""

from __future__ import annotations

import json

import numpy as np
import pytest
from taylor_fixtures import density_model

from ase_qmmm import TaylorForces, TaylorPotential
from ase_qmmm.taylor import files


@pytest.fixture(scope="module")
def potential():
    qm, crystal = density_model("diamond")
    return TaylorPotential.from_calculator(qm, crystal, order=3, cutoff=qm.cutoff, trust=0.5)


@pytest.fixture(scope="module")
def forces():
    qm, crystal = density_model("triangular")
    return TaylorForces.from_calculator(qm, crystal, order=2, cutoff=2 * qm.cutoff, on_distrust="warn")


@pytest.fixture(params=["potential", "forces", "first order"])
def model(request, potential, forces, silicon_mm):
    return {"potential": potential, "forces": forces, "first order": silicon_mm}[request.param]


def test_round_trip(model, tmp_path):
    path = tmp_path / "model.npz"
    model.save(path)
    copy = type(model).load(path)
    assert repr(copy) == repr(model)
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]
    atoms = model.crystal.supercell((3, 3, 1))
    atoms.rattle(0.05, seed=1)
    a, b = model.evaluate(atoms), copy.evaluate(atoms)
    for name in ("energies", "forces", "virial"):
        assert np.array_equal(getattr(a, name), getattr(b, name))
    again = tmp_path / "again.npz"
    copy.save(again)
    with np.load(path) as one, np.load(again) as two:
        assert sorted(one.files) == sorted(two.files)
        assert all(np.array_equal(one[name], two[name]) for name in one.files)


def test_cut_changed_and_foreign_files(potential, forces, tmp_path):
    path = tmp_path / "model.npz"
    potential.save(path)
    with pytest.raises(ValueError, match="a TaylorPotential, expected a TaylorForces"):
        TaylorForces.load(path)
    with pytest.raises(FileNotFoundError):
        TaylorPotential.load(tmp_path / "none.npz")
    whole = path.read_bytes()
    cut = tmp_path / "cut.npz"
    for size in (0, 100, len(whole) // 2, len(whole) - 10):
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="not a file of a Taylor model, or cut off"):
            TaylorPotential.load(cut)
    with np.load(path) as file:
        arrays = dict(file)

    def written(**changes):
        np.savez(tmp_path / "other.npz", **{**arrays, **changes})
        return tmp_path / "other.npz"

    with pytest.raises(ValueError, match="checksum"):
        TaylorPotential.load(written(energies=arrays["energies"] + 1e-12))
    header = json.loads(str(arrays["header"]))
    for change, text in (({"version": 99}, "version 99"), ({"format": "other"}, "format 'other'")):
        with pytest.raises(ValueError, match=text):
            TaylorPotential.load(written(header=np.array(json.dumps({**header, **change}))))
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match="not a file of a Taylor model"):
        TaylorPotential.load(tmp_path / "foreign.npz")
    np.savez(tmp_path / "objects.npz", header=np.array([{}], dtype=object))
    with pytest.raises(ValueError):
        TaylorPotential.load(tmp_path / "objects.npz")


def test_too_large_when_unpacked(potential, tmp_path, monkeypatch):
    potential.save(tmp_path / "model.npz")
    monkeypatch.setattr(files, "LARGEST", 1000)
    with pytest.raises(ValueError, match="GB when unpacked"):
        TaylorPotential.load(tmp_path / "model.npz")


def test_failed_write_leaves_the_old_file(potential, tmp_path, monkeypatch):
    path = tmp_path / "model.npz"
    potential.save(path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(files.np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space"):
        potential.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.npz"]
