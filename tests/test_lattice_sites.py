"""Global lattice labels: which site every atom sits on, and which sites are vacant."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from helpers import random_rotation, random_strain, rotated, strained
from mixing_fixtures import A_SI, SILICON, silicon_cell, tetrahedral_interstitial, vacancy

from ase_qmmm import Crystal, MatchError
from ase_qmmm.lattice_sites import lattice_sites, reduce_cells

BOND = A_SI * np.sqrt(3) / 4
TRIANGULAR = Crystal(
    Atoms("Ar", cell=[[3, 0, 0], [1.5, 1.5 * np.sqrt(3), 0], [0, 0, 0]], pbc=(True, True, False))
)


def label(atoms, crystal=SILICON):
    return lattice_sites(crystal.match(atoms, 1.2 * crystal.nearest_neighbour_distance), atoms)


def check_labels(sites, atoms, extra=(), tolerance=0.2):
    """Every atom but `extra` has a site next to it, and no two have the same."""
    on_site = np.setdiff1d(np.arange(len(atoms)), extra)
    assert (sites.basis[on_site] >= 0).all()
    assert (sites.basis[list(extra)] == -1).all()
    calculated = sites.site_positions(sites.cells[on_site], sites.basis[on_site])
    assert np.allclose(calculated, sites.positions[on_site])
    assert np.linalg.norm(atoms.positions[on_site] - calculated, axis=1).max() < tolerance
    keys = np.column_stack([sites.canonical(sites.cells[on_site]), sites.basis[on_site]])
    assert len(np.unique(keys, axis=0)) == len(on_site)
    # The atom without a site stands for itself.
    assert np.array_equal(sites.positions[list(extra)], atoms.positions[list(extra)])


def assert_vacant_at(sites, atoms, place, tolerance=1e-6):
    """Exactly one site is vacant: that at `place`, or a periodic image of it."""
    assert len(sites.vacant_positions) == 1
    gap = Atoms("HH", [sites.vacant_positions[0], place], cell=atoms.cell, pbc=atoms.pbc)
    assert gap.get_distance(0, 1, mic=bool(atoms.pbc.any())) < tolerance


@pytest.mark.parametrize("rattle", [0.0, 0.05])
def test_perfect(rattle):
    atoms = silicon_cell(3)
    atoms.rattle(rattle, seed=2)
    sites = label(atoms)
    # Six standard deviations of a rattle hold all 216 atoms.
    check_labels(sites, atoms, tolerance=6 * rattle + 1e-9)
    assert len(sites.vacant_positions) == 0
    # Cubic cells in units of the vectors of the primitive one.
    assert round(abs(np.linalg.det(sites.periods))) * 2 == len(atoms)
    # The lattice is that of the mean position, which moves by the rattle over sqrt(216); six times that.
    assert np.allclose(sites.positions, silicon_cell(3).positions, rtol=0, atol=0.4 * rattle + 1e-9)


def test_vacancy_in_the_middle_and_at_the_corner():
    atoms, place = vacancy(3)
    sites = label(atoms)
    check_labels(sites, atoms)
    assert_vacant_at(sites, atoms, place)
    corner = silicon_cell(3)
    del corner[np.linalg.norm(corner.positions, axis=1) < 0.1]
    assert_vacant_at(label(corner), corner, np.zeros(3))


def test_two_vacancies_next_to_each_other():
    atoms = silicon_cell(3)
    partner = np.flatnonzero(atoms.get_distances(0, range(len(atoms)), mic=True) < 1.1 * BOND)[1]
    places = atoms.positions[[0, partner]]
    del atoms[[0, partner]]
    found = label(atoms).vacant_positions
    gaps = [np.linalg.norm(atoms.cell.scaled_positions(found - p) % 1.0 % 1.0, axis=1).min() for p in places]
    assert len(found) == 2
    assert max(gaps) < 1e-6


def test_interstitial():
    atoms, _ = tetrahedral_interstitial(3)
    sites = label(atoms)
    check_labels(sites, atoms, extra=[len(atoms) - 1])
    assert len(sites.vacant_positions) == 0


def test_dumbbell():
    """Two atoms share one site: at most one of them gets it, the lattice stays whole."""
    crystal = Crystal(bulk("Cu", a=3.6))
    atoms = crystal.supercell(4, cubic=True)
    atoms.positions[0, 0] += 1.0
    atoms += Atoms("Cu", [[-1.0, 0.0, 0.0]])
    sites = label(atoms, crystal)
    pair = [0, len(atoms) - 1]
    assert (sites.basis[pair] == -1).any()
    centres = np.concatenate([sites.vacant_positions, atoms.positions[sites.basis < 0]])
    assert 1 <= len(centres) <= 3
    gaps = atoms.cell.scaled_positions(centres)
    assert np.linalg.norm((gaps - np.rint(gaps)) @ atoms.cell.array, axis=1).max() < 1.01
    others = np.setdiff1d(np.arange(len(atoms)), pair)
    assert (sites.basis[others] == 0).all()


@pytest.mark.parametrize("seed", [1, 2])
def test_strained_rotated_and_wrapped(seed):
    rng = np.random.default_rng(seed)
    atoms, place = vacancy(3)
    rotation = random_rotation(rng)
    deformed = rotated(strained(atoms, random_strain(rng, 0.01)), rotation)
    mark = Atoms("H", [place], cell=atoms.cell)
    mark.set_cell(deformed.cell, scale_atoms=True)
    deformed.positions += rng.integers(-2, 3, (len(atoms), 3)) @ deformed.cell.array
    sites = label(deformed)
    check_labels(sites, deformed, tolerance=1e-6)
    assert_vacant_at(sites, deformed, mark.positions[0])


def test_left_handed_and_skewed_cells():
    atoms, place = vacancy(3)
    for matrix in ([[-1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 1, 0], [0, 1, 0], [2, 0, 1]]):
        skewed = atoms.copy()
        skewed.set_cell(np.array(matrix) @ atoms.cell.array)
        sites = label(skewed)
        check_labels(sites, skewed)
        assert_vacant_at(sites, skewed, place)


def test_free_cluster():
    """No cell at all: the lattice comes from the bonds; sites beyond the surface are not vacancies."""
    atoms, place = vacancy(4)
    near = np.linalg.norm(atoms.positions - place, axis=1) < 8.0
    cluster = Atoms(numbers=atoms.numbers[near], positions=atoms.positions[near])
    sites = label(cluster)
    assert sites.periods.shape == (0, 3)
    check_labels(sites, cluster)
    assert_vacant_at(sites, cluster, place, tolerance=1e-3)


def test_wire():
    """Periodic along one direction only."""
    atoms, place = vacancy(4)
    across = np.linalg.norm((atoms.positions - place)[:, :2], axis=1)
    wire = atoms[across < 8.0]
    wire.pbc = (False, False, True)
    sites = label(wire)
    assert sites.periods.shape == (1, 3)
    assert_vacant_at(sites, wire, place, tolerance=1e-3)


def test_plane():
    atoms = TRIANGULAR.supercell(6)
    place = atoms.positions[8].copy()
    del atoms[8]
    atoms.rattle(0.02, seed=3)
    sites = label(atoms, TRIANGULAR)
    check_labels(sites, atoms)
    assert sites.cells.shape == (35, 2)
    # The mean of 35 atoms, each displaced by 0.02 Å.
    assert_vacant_at(sites, atoms, place, tolerance=0.02)


def test_two_species():
    crystal = Crystal(bulk("NiAl", "cesiumchloride", a=2.9))
    atoms = crystal.supercell(4)
    lost = int(np.flatnonzero(atoms.numbers == 13)[5])
    place = atoms.positions[lost].copy()
    del atoms[lost]
    sites = label(atoms, crystal)
    assert np.array_equal(crystal.numbers[sites.basis], atoms.numbers)
    assert crystal.numbers[sites.vacant_basis[0]] == 13
    assert_vacant_at(sites, atoms, place)


def test_no_single_lattice():
    """A screw-like slip: each atom has its stencil, but no lattice runs through all of them."""
    atoms = silicon_cell(5)
    atoms.pbc = (False, False, True)
    x, y = (atoms.positions[:, :2] - atoms.positions[:, :2].mean(axis=0)).T
    atoms.positions[:, 2] += A_SI * np.arctan2(y + 0.7, x + 0.7) / (2 * np.pi)
    try:
        sites = label(atoms)
    except MatchError:
        return
    assert sites is None or (sites.basis < 0).any()


def test_cell_that_is_no_lattice_vector():
    """The periodic cell is off by half a bond: no lattice continues across it."""
    atoms = silicon_cell(3)
    cell = atoms.cell.array.copy()
    cell[2, 2] += BOND
    atoms.set_cell(cell)
    assert label(atoms) is None


def test_atoms_without_a_crystal():
    atoms = Atoms("Si8", np.random.default_rng(1).uniform(0, 9, (8, 3)), cell=[9, 9, 9], pbc=True)
    with pytest.raises(MatchError):
        label(atoms)


def test_reduce_cells(rng):
    periods = np.array([[2, 1, 0], [0, 3, 0], [0, 0, 2]])
    cells = rng.integers(-9, 10, (200, 3))
    moved = cells + rng.integers(-5, 6, (200, 3)) @ periods
    assert np.array_equal(reduce_cells(cells, periods), reduce_cells(moved, periods))
    assert len(np.unique(reduce_cells(cells, periods), axis=0)) == 12
    assert np.array_equal(reduce_cells(cells, np.zeros((0, 3), int)), cells)


@pytest.mark.parametrize("turns", [1, -1, 2])
def test_a_screw_dislocation_is_no_lattice(turns):
    """Each atom is within half a Burgers vector of a site, but the sites slip on the way around the line."""
    crystal = Crystal(bulk("W", a=3.1652))
    atoms = crystal.supercell(12, cubic=True)
    atoms.positions -= atoms.cell.sum(axis=0) / 2 - [0.4, 0.5, 0.0]
    x, y, _ = atoms.positions.T
    angle, r = np.arctan2(y, x), np.hypot(x, y)
    atoms = atoms[r < 17.0]
    assert label(atoms, crystal) is not None or not len(atoms)
    atoms.positions[:, 2] += turns * 3.1652 * angle[r < 17.0] / (2 * np.pi)
    atoms.pbc = (False, False, True)
    assert label(atoms, crystal) is None
