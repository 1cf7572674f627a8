"""Regions: every form in which they can be given, by distance, by detection, and through files."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.neighborlist import neighbor_list
from mixing_fixtures import SILICON, silicon_cell, tetrahedral_interstitial, vacancy

from ase_qmmm import Crystal, Regions, StructureError
from ase_qmmm.mixing.regions import as_mask, frozen_atoms, grow_mask

EXPECTED = [False, True, True, False, False, True]


@pytest.mark.parametrize(
    "selection",
    [
        EXPECTED,
        np.array(EXPECTED),
        [1, 2, 5],
        (5, 1, 2),
        np.array([1, 2, 5], dtype=np.int32),
        np.array([1, 2, 5], dtype=np.uint8),
        [-5, -4, -1],
        [1, -4, 5],
    ],
)
def test_forms(selection):
    assert as_mask("qm", selection, 6).tolist() == EXPECTED
    assert Regions(selection, n_atoms=6).qm.tolist() == EXPECTED
    assert Regions(selection).for_atoms(6).qm.tolist() == EXPECTED


@pytest.mark.parametrize("selection", [slice(2, 4), slice(-4, -2), slice(2, None, 1), range(2, 4)])
def test_slices(selection):
    expected = np.zeros(6, bool)
    expected[selection if isinstance(selection, slice) else list(selection)] = True
    assert np.array_equal(Regions(selection, n_atoms=6).qm, expected)


def test_nothing_selected():
    for selection in (None, [], np.zeros(6, bool), slice(0, 0)):
        assert not Regions(selection, n_atoms=6).qm.any()


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Regions([True] * 5, n_atoms=6), ValueError, r"qm.* 5 .*6"),
        (lambda: Regions([True] * 5).for_atoms(6), ValueError, r"for 5 atoms.* are 6"),
        (lambda: Regions([True] * 5, [False] * 6), ValueError, r"'qm': 5.*'buffer': 6"),
        (lambda: Regions(np.ones((2, 3), bool), n_atoms=6), ValueError, r"qm: .*6"),
        (lambda: Regions([0, 6], n_atoms=6), IndexError, r"qm: index 6 .* 6 atoms"),
        (lambda: Regions([0, -7], n_atoms=6), IndexError, r"qm: index -7"),
        (lambda: Regions([2, 1, 2], n_atoms=6), ValueError, r"qm: atom 2 is listed twice"),
        (lambda: Regions([2, -4], n_atoms=6), ValueError, r"qm: atom 2 is listed twice"),
        (lambda: Regions([0.0, 1.0], n_atoms=6), TypeError, r"qm: .*float64.*mask.*indices.*slice"),
        (lambda: Regions(["Si"], n_atoms=6), TypeError, r"qm: .*expected"),
        (lambda: Regions([[0, 1]], n_atoms=6), TypeError, r"qm: .*expected"),
        (lambda: Regions(3, n_atoms=6), TypeError, r"qm: .*int.*expected"),
        (lambda: Regions([0], [1], [9], n_atoms=6), IndexError, r"frozen: index 9"),
        (lambda: Regions([0, 1], frozen=[1, 2], n_atoms=6), ValueError, r"atom 1 is both qm and frozen"),
        (lambda: Regions([0, 1]).numbers, ValueError, r"n_atoms"),
        (lambda: Regions([0], bufer=[1]), TypeError, r"'bufer'; did you mean 'buffer'"),
    ],
)
def test_errors(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_disjoint_sets():
    regions = Regions([0, 1], buffer=[1, 2, 3], frozen=[3, 4], n_atoms=6)
    assert regions.numbers.tolist() == [2, 2, 1, 1, 3, 0]
    assert regions.buffer.tolist() == [False, False, True, True, False, False]
    assert regions.mm.tolist() == [False] * 5 + [True]
    # An atom may feed the quantum call and be held.
    assert regions.frozen.tolist() == [False, False, False, True, True, False]
    assert regions.constraint().index.tolist() == [3, 4]
    assert len(regions) == 6
    assert repr(regions) == "Regions(2 qm, 2 buffer, 1 mm, 1 frozen and 1 more in the buffer)"
    assert "from indices" in repr(Regions([0, 1]))


def test_equality_and_copies():
    mask = np.array(EXPECTED)
    regions = Regions(mask)
    assert regions == Regions([1, 2, 5], n_atoms=6)
    assert regions != Regions([1, 2], n_atoms=6)
    assert regions != Regions([1, 2, 5], n_atoms=7)
    assert regions != "regions"
    mask[:] = False
    regions.numbers[:] = 0
    regions.qm[:] = False
    assert regions.qm.tolist() == EXPECTED
    assert regions.for_atoms(6) is regions


# -- by distance -------------------------------------------------------------------------------------------


def brute_force_distance(atoms, centre):
    """Smallest distance over 5 x 5 x 5 images."""
    reach = [range(-2, 3) if p else (0,) for p in atoms.pbc]
    steps = np.stack(np.meshgrid(*reach, indexing="ij"), axis=-1).reshape(-1, 3) @ atoms.cell.array
    gaps = atoms.positions[:, None] + steps[None] - centre
    return np.linalg.norm(gaps, axis=2).min(axis=1)


CELLS = {
    "cubic": np.diag([12.0, 12.0, 12.0]),
    "triclinic": np.array([[12.0, 0, 0], [5.0, 11.0, 0], [-4.0, 3.0, 10.0]]),
    "left-handed": np.array([[0, 11.0, 2.0], [12.0, 0, 0], [1.0, 0, 12.0]]),
}


@pytest.mark.parametrize("pbc", [True, (True, False, True), False])
@pytest.mark.parametrize("name", CELLS)
def test_from_distance(name, pbc, rng):
    atoms = Atoms("Si60", rng.uniform(-6, 18, (60, 3)), cell=CELLS[name], pbc=pbc)
    centres = np.array([[0.1, 0.2, 0.3], [11.0, 4.0, 9.0]])
    distances = np.array([brute_force_distance(atoms, c) for c in centres])
    regions = Regions.from_distance(atoms, centres[0], r_qm=4.0, r_buffer=2.0, r_frozen=7.0)
    assert np.array_equal(regions.qm, distances[0] <= 4.0)
    assert np.array_equal(regions.buffer, (distances[0] > 4.0) & (distances[0] <= 6.0))
    assert np.array_equal(regions.frozen, distances[0] >= 7.0)
    both = Regions.from_distance(atoms, centres, 4.0, 2.0)
    assert np.array_equal(both.qm, distances.min(axis=0) <= 4.0)


def test_from_distance_around_an_atom(rng):
    atoms = Atoms("Si20", rng.uniform(0, 12, (20, 3)), cell=CELLS["cubic"], pbc=True)
    for index in (3, np.int64(3), -17):
        regions = Regions.from_distance(atoms, index, 4.0)
        assert regions == Regions.from_distance(atoms, atoms.positions[3], 4.0)
        assert regions.qm[3]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"centre": 20, "r_qm": 3.0}, IndexError, "centre: atom 20 .* 20 atoms"),
        ({"centre": [0, 0], "r_qm": 3.0}, ValueError, r"centre: .*\(3,\)"),
        ({"centre": [0, 0, np.nan], "r_qm": 3.0}, ValueError, "centre"),
        ({"centre": 0, "r_qm": 0.0}, ValueError, "r_qm: got 0.0.* > 0"),
        ({"centre": 0, "r_qm": np.nan}, ValueError, "r_qm: got nan"),
        ({"centre": 0, "r_qm": 3.0, "r_buffer": -1.0}, ValueError, "r_buffer: got -1.0.*>= 0"),
        ({"centre": 0, "r_qm": 3.0, "r_frozen": 2.0}, ValueError, "r_frozen: got 2 .*r_qm = 3"),
        ({"centre": 0, "r_qm": 3.0, "r_bufer": 2.0}, TypeError, "did you mean 'r_buffer'"),
    ],
)
def test_bad_distances(arguments, error, text, rng):
    atoms = Atoms("Si20", rng.uniform(0, 12, (20, 3)), cell=CELLS["cubic"], pbc=True)
    with pytest.raises(error, match=text):
        Regions.from_distance(atoms, **arguments)


@pytest.mark.parametrize("name", CELLS)
def test_grow_mask(name, rng):
    atoms = Atoms("Si40", rng.uniform(-6, 18, (40, 3)), cell=CELLS[name], pbc=True)
    mask = np.zeros(40, bool)
    mask[[4, 30]] = True
    i, j = neighbor_list("ij", atoms, 3.5)
    expected = mask.copy()
    expected[j[mask[i]]] = True
    assert np.array_equal(grow_mask(atoms, mask, 3.5), expected)
    assert np.array_equal(grow_mask(atoms, mask, 0.0), mask)


# -- by detection ------------------------------------------------------------------------------------------


def test_detect_vacancy():
    for rattle in (0.0, 0.03):
        atoms, place = vacancy(3, rattle=rattle)
        regions = Regions.detect(atoms, SILICON, r_qm=4.2, r_buffer=2.0)
        # Radii half-way between shells of the lattice, so that the rattle changes nothing.
        expected = Regions.from_distance(atoms, place, 4.2, 2.0)
        assert regions == expected
        assert regions.qm.sum() == 16


def test_detect_interstitial():
    atoms, _ = tetrahedral_interstitial(3)
    regions = Regions.detect(atoms, SILICON, r_qm=2.6)
    assert regions.qm[-1]
    assert regions == Regions.from_distance(atoms, len(atoms) - 1, 2.6)


def test_detect_two_defects_across_a_boundary():
    atoms = silicon_cell(4)
    corner = np.linalg.norm(atoms.positions, axis=1).argmin()
    far = np.linalg.norm(atoms.positions - atoms.cell.array.sum(axis=0) / 2, axis=1).argmin()
    places = atoms.positions[[corner, far]]
    del atoms[[corner, far]]
    regions = Regions.detect(atoms, SILICON, r_qm=3.0)
    assert regions == Regions.from_distance(atoms, places, 3.0)
    assert regions.qm.sum() == 8


def test_detect_distortion():
    """Without a vacant site or an atom off the lattice the misfitting atoms are the defect."""
    crystal = Crystal(bulk("Cu", a=3.6))
    atoms = crystal.supercell(4, cubic=True)
    atoms.positions[7] += [0.0, 0.3, 0.0]
    with pytest.raises(StructureError, match="no defect"):
        Regions.detect(atoms, crystal, r_qm=3.0)
    regions = Regions.detect(atoms, crystal, r_qm=1.0, tolerance=0.2)
    assert regions.qm[7]
    assert 1 < regions.qm.sum() <= 13


def test_detect_nothing():
    with pytest.raises(StructureError, match="no defect found in 64 atoms.*by hand"):
        Regions.detect(silicon_cell(2), SILICON, r_qm=3.0)


# -- in files ----------------------------------------------------------------------------------------------


def test_file_round_trip(tmp_path):
    atoms, place = vacancy(3)
    regions = Regions.from_distance(atoms, place, 4.0, 3.0, 8.0)
    regions.write(atoms)
    assert np.array_equal(atoms.get_tags(), regions.numbers)
    assert atoms.arrays["region"].dtype.kind == "i"
    path = tmp_path / "vacancy.extxyz"
    ase.io.write(path, atoms)
    read = ase.io.read(path)
    assert Regions.from_atoms(read) == regions
    assert np.array_equal(read.get_tags(), regions.numbers)
    assert len(np.unique(regions.numbers)) == 4


def test_round_trip_of_frozen_buffer_atoms(tmp_path):
    """They stay frozen, and do so no longer once other regions are written."""
    atoms, place = vacancy(3)
    regions = Regions.from_distance(atoms, place, r_qm=4.0, r_buffer=3.0, r_frozen=6.0)
    assert (regions.buffer & regions.frozen).any()
    path = tmp_path / "vacancy.extxyz"
    regions.write(atoms)
    ase.io.write(path, atoms)
    read = ase.io.read(path)
    assert Regions.from_atoms(read) == regions
    assert np.array_equal(frozen_atoms(read), regions.frozen)
    other = Regions.from_distance(atoms, place, r_qm=4.0, r_buffer=3.0)
    other.write(atoms)
    assert Regions.from_atoms(atoms) == other
    assert "region_frozen" not in atoms.arrays


def test_no_regions_in_a_file():
    atoms = silicon_cell(2)
    with pytest.raises(ValueError, match="no array 'region'.*write"):
        Regions.from_atoms(atoms)
    atoms.set_array("region", np.full(64, 7))
    with pytest.raises(ValueError, match="expected 0 mm, 1 buffer, 2 qm, 3 frozen"):
        Regions.from_atoms(atoms)
    with pytest.raises(ValueError, match=r"for 6 atoms.* 64"):
        Regions(EXPECTED).write(atoms)


def test_detection_leaves_frozen_atoms_alone():
    """The surface of a frozen shell is no defect; frozen atoms near a defect are buffer atoms."""
    crystal = Crystal(bulk("Cu", a=3.6))
    atoms = crystal.supercell(6, cubic=True)
    atoms.pbc = False
    middle = atoms.positions.mean(axis=0)
    del atoms[int(np.argmin(np.linalg.norm(atoms.positions - middle, axis=1)))]
    frozen = np.abs(atoms.positions - middle).max(axis=1) > 6.5
    atoms.set_array("frozen", frozen)
    for image in (atoms, atoms.copy()):
        if image is not atoms:
            del image.arrays["frozen"]
            image.set_constraint(FixAtoms(mask=frozen))
        regions = Regions.detect(image, crystal, r_qm=8.0)
        assert np.array_equal(regions.frozen, frozen)
        assert (regions.buffer & frozen).any()
        assert not (regions.qm & frozen).any()
        distance = np.linalg.norm(image.positions - middle, axis=1)
        assert distance[regions.qm | regions.buffer].max() < 8.0 + 3.6
