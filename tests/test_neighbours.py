"""Neighbour lists against ASE's, for every kind of cell."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.neighborlist import neighbor_list

from ase_qmmm.errors import StructureError
from ase_qmmm.neighbours import check_separations, half_pairs, neighbour_pairs, unwrap


def skewed():
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(np.array([[1, 2, -1], [0, 1, 3], [0, 0, 1]]) @ atoms.cell.array)
    return atoms


def left_handed():
    atoms = bulk("Si")
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    return atoms


def slab(vacuum):
    atoms = fcc111("Cu", (2, 2, 3), vacuum=vacuum)
    atoms.pbc = (True, True, False)
    return atoms


def flat_slab():
    atoms = slab(10.0)
    atoms.cell[2] = 0
    return atoms


def wire():
    return Atoms("Cu2", [[0, 0, 0], [0.2, 1.0, 9.0]], cell=[[0, 0, 0], [1, 2, 0], [0, 0, 0]], pbc=(0, 1, 0))


def cluster():
    return Atoms("Cu4", [[0, 0, 0], [2, 0, 0], [0, 2.5, 0], [1, 1, 40]])


def far_outside():
    atoms = bulk("Cu", cubic=True)
    atoms.positions += np.array([[3, -5, 2], [0, 0, 7], [-9, 0, 0], [1, 1, 1]]) @ atoms.cell.array
    return atoms


BUILDERS = [skewed, left_handed, flat_slab, lambda: slab(4.0), wire, cluster, far_outside, lambda: bulk("Cu")]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("cutoff", [2.8, 6.0])
def test_same_pairs_as_ase(build, cutoff):
    atoms = build()
    full = atoms.copy()
    full.cell = full.cell.complete()  # ASE's list wants a cell; vectors without periodicity do no harm
    expected = neighbor_list("ijDS", full, cutoff)
    got = neighbour_pairs(atoms, cutoff)

    def table(i, j, D, S):
        rows = np.column_stack([i, j, S * atoms.pbc, np.round(D, 9) + 0.0])
        return rows[np.lexsort(rows.T)]

    assert len(got[0]) == len(expected[0])
    i, j, D, S = got
    assert np.abs(table(i, j, D, S) - table(*expected)).max(initial=0.0) < 1e-8
    assert (
        np.abs(atoms.positions[j] + (S * atoms.pbc) @ atoms.cell.array - atoms.positions[i] - D).max() < 1e-10
    )
    assert not S[:, ~atoms.pbc].any()


def test_half_pairs_hold_each_pair_once():
    atoms = bulk("Cu")
    i, _, D, _ = half_pairs(atoms, 6.0)
    full = neighbour_pairs(atoms, 6.0, "D")[0]
    assert 2 * len(i) == len(full)
    both = np.round(np.concatenate([D, -D]), 6) + 0.0
    assert len(np.unique(both, axis=0)) == len(full)


def test_slab_is_a_padded_cell():
    flat, padded = flat_slab(), slab(10.0)
    for a, b in zip(half_pairs(flat, 5.0), half_pairs(padded, 5.0), strict=True):
        assert np.abs(np.sort(a, axis=0) - np.sort(b, axis=0)).max() < 1e-12


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite(value):
    atoms = bulk("Cu", cubic=True)
    atoms.positions[2, 1] = value
    with pytest.raises(StructureError, match="atom 2 has y"):
        neighbour_pairs(atoms, 3.0)


@pytest.mark.parametrize(
    ("cell", "pbc", "text"),
    [
        ([[np.nan, 0, 0], [0, 3, 0], [0, 0, 3]], True, "vector 0"),
        ([[3, 0, 0], [0, np.inf, 0], [0, 0, 3]], False, "vector 1"),
        ([[3, 0, 0], [0, 3, 0], [0, 0, 0]], True, r"vector 2 is zero but pbc\[2\]"),
        ([[3, 0, 0], [6, 0, 0], [0, 0, 3]], True, "linearly dependent"),
    ],
)
def test_bad_cells(cell, pbc, text):
    with pytest.raises(StructureError, match=text):
        neighbour_pairs(Atoms("Cu", cell=cell, pbc=pbc), 3.0)


def test_no_atoms_and_one_atom():
    assert [len(a) for a in neighbour_pairs(Atoms(), 3.0)] == [0] * 4
    assert [len(a) for a in half_pairs(Atoms("Cu"), 3.0)] == [0] * 4
    assert neighbour_pairs(Atoms("Cu", positions=[[1e3, 0, 0]]), 3.0, "d")[0].shape == (0,)


def test_check_separations_names_the_pair():
    i, j, d = np.array([0, 4]), np.array([2, 7]), np.array([1.0, 0.1])
    check_separations(i, j, d, 0.05, "model")
    with pytest.raises(StructureError, match="atoms 4 and 7 are 0.1 Å apart, model needs at least 0.5 Å"):
        check_separations(i, j, d, 0.5, "model")


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_unwrap(pbc, rng):
    cell = np.array([[4.0, 0.3, 0], [0.5, 5.0, 0], [-0.7, 1.0, 6.0]])
    reference = rng.uniform(0, 5, (6, 3))
    near = reference + rng.uniform(-0.5, 0.5, (6, 3))
    far = near + (rng.integers(-3, 4, (6, 3)) * np.array(pbc)) @ cell
    assert np.abs(unwrap(far, reference, cell, np.array(pbc)) - near).max() < 1e-12
