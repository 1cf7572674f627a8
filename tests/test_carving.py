"""Carving: whole clusters out of torn ones, boxes of lattice vectors, and why a box is refused."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.neighborlist import neighbor_list
from mixing_fixtures import A_SI, SILICON, silicon_cell, tetrahedral_interstitial, vacancy

from ase_qmmm import Crystal, Regions, StructureError
from ase_qmmm.lattice_sites import lattice_sites
from ase_qmmm.mixing.carving import buffer_width, carve, perfect_cluster

BOND = A_SI * np.sqrt(3) / 4


def carved(atoms, regions, kind="open", crystal=SILICON):
    sites = faulty = None
    if crystal is not None:
        match = crystal.match(atoms, 1.2 * crystal.nearest_neighbour_distance)
        sites, faulty = lattice_sites(match, atoms), match.defect()
    return carve(atoms, regions.qm, regions.buffer, kind, sites, faulty)


def near(atoms, point, r_qm=3.0, r_buffer=2.0):
    return Regions.from_distance(atoms, point, r_qm, r_buffer)


def shape(atoms):
    """All distances, sorted: the same for the same cluster anywhere."""
    return np.sort(atoms.get_all_distances(), axis=None)


def bonds(atoms):
    return len(neighbor_list("i", atoms, 1.1 * BOND))


CENTRES = {
    "middle": (0.5, 0.5, 0.5),
    "face": (0.0, 0.5, 0.5),
    "edge": (0.0, 0.5, 0.0),
    "corner": (0.0, 0.0, 0.0),
    "other corner": (1.0, 1.0, 1.0),
}
MATRICES = {
    "cubic": np.eye(3),
    "left-handed": np.diag([-1, 1, 1]),
    "triclinic": np.array([[1, 1, 0], [0, 1, 0], [0, -1, 1]]),
}


@pytest.mark.parametrize("cell", MATRICES)
@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("wrapping", ["as built", "wrapped", "scattered"])
def test_open_is_connected(cell, centre, wrapping, rng):
    atoms = silicon_cell(4)
    point = np.array(CENTRES[centre]) @ atoms.cell.array
    atoms.set_cell(MATRICES[cell] @ atoms.cell.array)
    if wrapping == "wrapped":
        atoms.wrap()
    elif wrapping == "scattered":
        atoms.positions += rng.integers(-3, 4, (len(atoms), 3)) @ atoms.cell.array
    (cluster,) = carved(atoms, near(atoms, point))
    reference = silicon_cell(4)
    (expected,) = carved(reference, near(reference, reference.cell.array.sum(axis=0) / 2))
    assert cluster.kind == "open"
    assert not cluster.atoms.pbc.any()
    assert len(cluster.atoms) == len(expected.atoms) == 29
    assert int(cluster.qm.sum()) == int(expected.qm.sum()) == 5
    # Never torn: the same distances wherever it lies.
    assert np.allclose(shape(cluster.atoms), shape(expected.atoms), rtol=0, atol=1e-9)
    # A padded right-handed cell with the atoms inside.
    box = cluster.atoms.cell
    assert np.linalg.det(box) > 0
    scaled = cluster.atoms.get_scaled_positions(wrap=False)
    assert (scaled > 0).all()
    assert (scaled < 1).all()


def test_separate_fragments():
    atoms = silicon_cell(4)
    points = np.array([[0.0, 0.0, 0.0], atoms.cell.array.sum(axis=0) / 2])
    regions = near(atoms, points)
    clusters = carved(atoms, regions)
    assert [len(c.atoms) for c in clusters] == [29, 29]
    index = np.concatenate([c.index for c in clusters])
    assert np.array_equal(np.sort(index), np.flatnonzero(regions.qm | regions.buffer))
    # Boxes hold qm atoms of the other fragment as atoms of the crystal, but do not use their forces.
    boxes = carved(atoms, near(atoms, points, 2.0, 0.5), "periodic")
    assert len(boxes) == 2
    used = np.concatenate([c.index[c.qm] for c in boxes])
    assert len(used) == len(np.unique(used)) == 2


def test_a_buffer_without_qm_atoms_is_not_evaluated():
    atoms = silicon_cell(4)
    lone = near(atoms, [0.0, 0.0, 0.0])
    far = near(atoms, atoms.cell.array.sum(axis=0) / 2)
    regions = Regions(lone.qm, lone.buffer | far.qm)
    (cluster,) = carved(atoms, regions)
    assert set(cluster.index) == set(np.flatnonzero(lone.qm | lone.buffer))


def test_wire_and_slab_stay_periodic():
    atoms = silicon_cell(3)
    middle = atoms.cell.array.sum(axis=0) / 2
    across = np.linalg.norm((atoms.positions - middle)[:, :2], axis=1)
    wire = Regions(across < 2.0, across < 5.0)
    (cluster,) = carved(atoms, wire)
    assert cluster.atoms.pbc.tolist() == [False, False, True]
    assert np.allclose(cluster.atoms.cell[2], atoms.cell[2])
    slab = Regions(np.abs(atoms.positions - middle)[:, 2] < 1.5, np.abs(atoms.positions - middle)[:, 2] < 4.0)
    (cluster,) = carved(atoms, slab)
    assert cluster.atoms.pbc.tolist() == [True, True, False]
    assert np.allclose(cluster.atoms.cell[:2], atoms.cell[:2])
    # The open direction is perpendicular to the others, also where the cell is not.
    atoms.set_cell(np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1]]) @ atoms.cell.array)
    (skewed,) = carved(atoms, slab)
    assert np.allclose(skewed.atoms.cell[2, :2], 0)
    assert bonds(skewed.atoms) == bonds(cluster.atoms)


def test_wire_along_a_skewed_axis():
    """Periodic vectors are those of the system, with every bond inside."""
    atoms = silicon_cell(4)
    atoms.set_cell(np.array([[1, 0, 0], [0, 1, 0], [1, 0, 1]]) @ atoms.cell.array)
    axis = atoms.cell[2] / np.linalg.norm(atoms.cell[2])
    images = np.stack(np.meshgrid(*[range(-2, 3)] * 3, indexing="ij"), -1).reshape(-1, 3) @ atoms.cell.array
    gaps = atoms.positions[:, None] + images - atoms.cell.array.sum(axis=0) / 2
    across = np.linalg.norm(gaps - (gaps @ axis)[..., None] * axis, axis=2).min(axis=1)
    regions = Regions(across < 2.0, across < 4.0)
    (cluster,) = carved(atoms, regions)
    assert cluster.atoms.pbc.tolist() == [False, False, True]
    assert np.allclose(cluster.atoms.cell[2], atoms.cell[2])
    members = atoms[regions.qm | regions.buffer]
    assert bonds(cluster.atoms) == bonds(members)


def test_all_atoms_are_the_system_itself():
    atoms, place = vacancy(2, rattle=0.05)
    atoms.positions += [40.0, -30.0, 0.0]
    regions = Regions(np.ones(len(atoms), bool))
    (cluster,) = carved(atoms, regions, crystal=None)
    assert cluster.kind == "whole"
    assert np.array_equal(cluster.atoms.positions, atoms.positions)
    assert np.array_equal(cluster.atoms.cell, atoms.cell)


def test_large_clusters_become_the_whole():
    atoms = silicon_cell(3)
    (cluster,) = carved(atoms, near(atoms, [0.0, 0.0, 0.0], 4.0, 6.5), "auto")
    assert cluster.kind == "whole"
    (cluster,) = carved(atoms, near(atoms, [0.0, 0.0, 0.0], 4.0, 3.0), "periodic")
    assert cluster.kind == "whole"


# -- boxes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize(
    ("r_qm", "r_buffer", "repeats"),
    # Shells around a vacancy end at 0.5, 0.75 and 1.25 cubic cells at 4.0, 4.6 and 7.2 Å. By the gap of 4 Å
    # between images of qm atoms, and by the span of qm and buffer atoms.
    [(4.0, 0.0, 2), (4.6, 0.0, 3), (4.0, 3.2, 3), (7.2, 0.0, 4)],
)
def test_box_sizes(centre, r_qm, r_buffer, repeats):
    """The smallest box of cubic cells that keeps both ends apart."""
    atoms, place = vacancy(5)
    shift = np.array(CENTRES[centre]) @ atoms.cell.array - place
    atoms.positions += shift
    atoms.wrap()
    (cluster,) = carved(atoms, near(atoms, place + shift, r_qm, r_buffer), "periodic")
    assert cluster.atoms.pbc.all()
    assert len(cluster.atoms) == 8 * repeats**3 - 1
    assert np.allclose(cluster.atoms.cell, repeats * A_SI * np.eye(3))
    # Four bonds an atom, counted from both sides; the vacancy lacks four.
    assert bonds(cluster.atoms) == 4 * 8 * repeats**3 - 8
    assert not neighbor_list("S", cluster.atoms[cluster.qm], 4.0 - 1e-6).any()


def test_smallest_box():
    """One atom of a perfect crystal, in a cubic cell."""
    atoms = silicon_cell(3)
    (cluster,) = carved(atoms, near(atoms, 0, 2.0, 0.0), "periodic")
    assert len(cluster.atoms) == 8
    assert cluster.index[cluster.qm].tolist() == [0]


@pytest.mark.parametrize("wrapping", ["wrapped", "scattered"])
def test_box_of_moved_atoms(wrapping, rng):
    """Wrapping the system, or moving its atoms far outside, is the same box."""
    atoms, place = vacancy(4, rattle=0.03)
    (expected,) = carved(atoms, near(atoms, place, 4.0, 0.0), "periodic")
    moved = atoms.copy()
    if wrapping == "wrapped":
        moved.translate([9.0, 5.0, -3.0])
        moved.wrap()
        place = place + [9.0, 5.0, -3.0]
    else:
        moved.positions += rng.integers(-3, 4, (len(atoms), 3)) @ atoms.cell.array
    (cluster,) = carved(moved, near(moved, place, 4.0, 0.0), "periodic")
    assert sorted(cluster.index) == sorted(expected.index)
    both = [c.atoms[np.argsort(c.index)].get_all_distances(mic=True) for c in (cluster, expected)]
    assert np.allclose(both[0], both[1], rtol=0, atol=1e-9)


def test_update_follows_wrapped_positions(rng):
    atoms, place = vacancy(4)
    for kind in ("open", "periodic"):
        (cluster,) = carved(atoms, near(atoms, place, 4.0, 0.0), kind)
        before = cluster.atoms.positions.copy()
        moved = atoms.copy()
        moved.rattle(0.1, seed=5)
        step = (moved.positions - atoms.positions)[cluster.index]
        moved.positions += rng.integers(-2, 3, (len(atoms), 3)) @ atoms.cell.array
        assert np.allclose(cluster.update(moved).positions, before + step, rtol=0, atol=1e-9)


def test_interstitial_in_the_box():
    atoms, hole = tetrahedral_interstitial(4)
    atoms.translate(-hole)
    atoms.wrap()
    (cluster,) = carved(atoms, near(atoms, [0.0, 0.0, 0.0], 4.6, 2.6), "periodic")
    assert len(atoms) - 1 in cluster.index
    assert len(cluster.atoms) == 8 * 27 + 1
    # Four bonds from the hole at a bond length each, counted from both sides.
    assert bonds(cluster.atoms) == 4 * (len(cluster.atoms) - 1) + 8


def test_two_dimensional_box():
    cell = [[3, 0, 0], [1.5, 1.5 * np.sqrt(3), 0], [0, 0, 0]]
    crystal = Crystal(Atoms("Ar", cell=cell, pbc=(True, True, False)))
    atoms = crystal.supercell(9)
    place = atoms.pop(40).position
    regions = near(atoms, place, 3.5, 3.0)
    (cluster,) = carved(atoms, regions, "periodic", crystal)
    assert cluster.atoms.pbc.tolist() == [True, True, False]
    assert len(cluster.atoms) == 24
    assert set(np.flatnonzero(regions.qm)) == set(cluster.index[cluster.qm])


def test_refusals_say_why():
    atoms, place = vacancy(4)
    regions = near(atoms, place, 4.0, 0.0)
    with pytest.raises(StructureError, match="no crystal is known; pass crystal="):
        carved(atoms, regions, "periodic", crystal=None)
    with pytest.raises(StructureError, match="defect lies at a face.*'open'"):
        carved(atoms, near(atoms, place + [4.5, 0, 0], 4.0, 0.0), "periodic")
    cluster = atoms[np.linalg.norm(atoms.positions - place, axis=1) < 8.5]
    cluster.pbc = False
    with pytest.raises(StructureError, match="reaches beyond the crystal"):
        carved(cluster, near(cluster, place + 1.0, 4.5, 2.5), "periodic")
    flat = SILICON.supercell((8, 8, 3))
    with pytest.raises(StructureError, match="does not fit|as large as the system"):
        carved(flat, near(flat, 0, 4.5, 2.0), "periodic")
    (fallback,) = carved(atoms, near(atoms, place + [4.5, 0, 0], 4.0, 0.0), "auto")
    assert fallback.kind == "open"


# -- what an open cluster lacks ----------------------------------------------------------------------------


def test_buffer_width():
    atoms = silicon_cell(4)
    regions = near(atoms, 0, 2.0, 4.0)
    (cluster,) = carved(atoms, regions)
    distance = np.sort(atoms.get_distances(0, range(len(atoms)), mic=True))
    assert buffer_width(cluster, atoms, 9.0) == pytest.approx(distance[distance > 4.0 + 2.0][0])
    assert buffer_width(cluster, atoms, 5.0) == np.inf
    # An image of the cluster's own atom is another atom, unless the cluster is periodic there.
    positions = [[0.0, 0.0, 0.0], [2.35, 0.0, 0.0], [0.0, 9.0, 9.0]]
    for length, pbc, width in ((7.0, False, 7.0 - 2.35), (6.0, True, np.inf)):
        dimer = Atoms("Si3", positions, cell=[length, 18.0, 18.0], pbc=True)
        (cluster,) = carved(dimer, Regions([0], [1], n_atoms=3), crystal=None)
        assert cluster.atoms.pbc.tolist() == [pbc, False, False]
        assert buffer_width(cluster, dimer, 8.0) == pytest.approx(width)


def test_perfect_cluster_fills_vacancies_and_drops_extra_atoms():
    atoms, place = vacancy(4, rattle=0.03)
    match = SILICON.match(atoms, 1.2 * SILICON.nearest_neighbour_distance)
    sites = lattice_sites(match, atoms)
    regions = near(atoms, place, 4.0, 4.0)
    (cluster,) = carve(atoms, regions.qm, regions.buffer, "open", sites, match.defect())
    perfect, index = perfect_cluster(cluster, sites, atoms)
    assert len(perfect) == len(cluster.atoms) + 1
    assert np.array_equal(index, np.arange(len(cluster.atoms)))
    bond_lengths = neighbor_list("d", perfect, 1.1 * BOND)
    assert np.allclose(bond_lengths, BOND, rtol=0, atol=1e-9)
    atoms, hole = tetrahedral_interstitial(4)
    match = SILICON.match(atoms, 1.2 * SILICON.nearest_neighbour_distance)
    sites = lattice_sites(match, atoms)
    regions = near(atoms, hole, 4.0, 2.0)
    (cluster,) = carve(atoms, regions.qm, regions.buffer, "open", sites, match.defect())
    perfect, index = perfect_cluster(cluster, sites, atoms)
    assert len(perfect) == len(cluster.atoms) - 1
    assert index[cluster.index == len(atoms) - 1].tolist() == [-1]
