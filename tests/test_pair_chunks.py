"""Neighbour pairs slab by slab: those of the whole list."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ase_qmmm import Crystal
from ase_qmmm.neighbours import neighbour_pairs
from ase_qmmm.pair_chunks import Pairs


def sorted_rows(i, j, D, S):
    rows = np.column_stack([i, j, S])
    order = np.lexsort(rows.T)
    return rows[order], D[order]


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, True, False), (False,) * 3])
@pytest.mark.parametrize("shape", ["cubic", "triclinic", "left-handed"])
def test_pairs(pbc, shape, rng):
    """Any cell and periodicity, atoms anywhere: each pair once."""
    cell = np.diag([30.0, 9.0, 7.0])
    if shape == "triclinic":
        cell = np.array([[9.0, 2.0, -1.0], [4.0, 8.0, 1.0], [-6.0, 5.0, 31.0]])
    if shape == "left-handed":
        cell = np.diag([8.0, -28.0, 9.0])
    atoms = Atoms("H400", scaled_positions=rng.uniform(-1.5, 2.5, (400, 3)), cell=cell, pbc=pbc)
    pairs = Pairs(atoms, 2.2, size=60)
    assert len(list(pairs)) >= 3
    found = [np.concatenate(parts) for parts in zip(*pairs, strict=True)]
    rows, vectors = sorted_rows(*found)
    expected, expected_vectors = sorted_rows(*neighbour_pairs(atoms, 2.2, "ijDS"))
    assert np.array_equal(rows, expected)
    assert np.abs(vectors - expected_vectors).max() < 1e-12


def test_match(monkeypatch):
    """The match of a rotated crystal with a vacancy does not depend on the slabs."""
    crystal = Crystal(bulk("Si", a=5.43))
    atoms = crystal.supercell((3, 3, 12))
    del atoms[50]
    atoms.rattle(0.05, seed=1)
    atoms.rotate(20, (1, 2, 3), rotate_cell=True)
    whole = crystal.match(atoms, 5.0)
    monkeypatch.setattr(Pairs.__init__, "__defaults__", (30,))
    parts = crystal.match(atoms, 5.0)
    for name in ("neighbours", "shifts", "basis", "vectors"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))
    assert parts.misfit == pytest.approx(whole.misfit, abs=1e-12)
    assert np.abs(parts.rotation - whole.rotation).max() < 1e-12
