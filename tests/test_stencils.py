"""Stencil matching in deformed, turned and defective crystals."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from helpers import random_rotation, random_strain, rotated, strained

from ase_qmmm import Crystal
from ase_qmmm.errors import MatchError

TRIANGULAR = Atoms("Ar", cell=[[3, 0, 0], [1.5, 1.5 * np.sqrt(3), 0], [0, 0, 0]], pbc=(True, True, False))
CRYSTALS = {
    "diamond": bulk("Si", a=5.43),
    "fcc": bulk("Cu", a=3.6),
    "bcc": bulk("W", a=3.16),
    "hcp": bulk("Ti", a=2.95, c=4.68),
    "B2": bulk("NiAl", "cesiumchloride", a=2.9),
    "zincblende": bulk("GaAs", "zincblende", a=5.65),
    "triangular": TRIANGULAR,
}


def setup(name):
    crystal = Crystal(CRYSTALS[name])
    return (
        crystal,
        crystal.supercell(6 if name == "triangular" else 4),
        1.5 * crystal.nearest_neighbour_distance,
    )


def check(match, atoms, size):
    """Every stencil is full, with displacement differences below `size`, by other atoms each."""
    assert (match.basis >= 0).all()
    assert not match.missing.any()
    g = np.linalg.norm(match.displacements(atoms.positions), axis=2)
    assert g.max() <= size
    assert (match.misfit <= size).all()
    assert not match.defect().any()
    for a in range(match.crystal.n_basis):
        assert (match.basis == a).sum() == len(atoms) / match.crystal.n_basis


@pytest.mark.parametrize("name", CRYSTALS)
def test_perfect_and_rattled(name):
    crystal, atoms, radius = setup(name)
    check(crystal.match(atoms, radius), atoms, 1e-9)
    atoms.rattle(0.05, seed=1)
    match = crystal.match(atoms, radius)
    assert np.array_equal(match.rotation, np.eye(3))
    check(match, atoms, 0.5)


@pytest.mark.parametrize("name", CRYSTALS)
def test_wrapped(name, rng):
    crystal, atoms, radius = setup(name)
    atoms.rattle(0.05, seed=1)
    match = crystal.match(atoms, radius)
    shifted = atoms.copy()
    shifted.positions += (rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc) @ atoms.cell.array
    assert np.abs(match.displacements(shifted.positions) - match.displacements(atoms.positions)).max() < 1e-10
    other = crystal.match(shifted, radius)
    assert np.abs(other.displacements(shifted.positions) - match.displacements(atoms.positions)).max() < 1e-10


@pytest.mark.parametrize("name", [n for n in CRYSTALS if n != "triangular"])
@pytest.mark.parametrize("strain", [0.0, 0.01])
@pytest.mark.parametrize("seed", range(5))
def test_rotated_and_strained(name, strain, seed):
    rng = np.random.default_rng(seed)
    crystal, atoms, radius = setup(name)
    q = random_rotation(rng)
    atoms = rotated(strained(atoms, random_strain(rng, strain)) if strain else atoms, q)
    match = crystal.match(atoms, radius)
    check(match, atoms, 1e-6 + 3 * strain * radius)
    # A rotation that leaves the crystal as it is may come on top.
    rho = crystal.stencil(0, radius) @ match.rotation.T
    images = crystal.stencil(0, radius) @ q.T
    if crystal.n_basis == 1:
        gap = np.linalg.norm(rho[:, None] - images[None], axis=2).min(axis=1)
        assert gap.max() < 1e-6


def test_strained_only(rng):
    crystal, atoms, radius = setup("diamond")
    strain = random_strain(rng, 0.01)
    deformed = strained(atoms, strain)
    match = crystal.match(deformed, radius)
    g = match.displacements(deformed.positions)
    assert np.abs(match.rotation - np.eye(3)).max() < 1e-12
    assert np.abs(g - match.vectors @ strain).max() < 1e-10


def test_turned_triangular_lattice():
    crystal, atoms, radius = setup("triangular")
    c, s = np.cos(0.3), np.sin(0.3)
    atoms = rotated(atoms, np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]))
    check(crystal.match(atoms, radius), atoms, 1e-6)


@pytest.mark.parametrize("name", CRYSTALS)
def test_vacancy(name):
    crystal, atoms, radius = setup(name)
    perfect = crystal.match(atoms, radius)
    around = np.unique(perfect.neighbours[0][perfect.neighbours[0] >= 0]) - 1
    del atoms[0]
    match = crystal.match(atoms, radius)
    assert (match.basis >= 0).all()
    assert np.array_equal(np.flatnonzero(match.missing.any(axis=1)), around)
    assert match.missing.sum() == len(around)
    first = np.isinf(match.misfit)
    assert 0 < first.sum() <= len(around)


@pytest.mark.parametrize(
    ("name", "place"),
    [("diamond", [0.5, 0.5, 0.5]), ("fcc", [0.5, 0.5, 0.5]), ("bcc", [0.5, 0.25, 0.0])],
)
def test_interstitial(name, place):
    """The extra atom sits on no site; the others keep theirs."""
    crystal = Crystal(CRYSTALS[name])
    atoms = crystal.supercell(3, cubic=True)
    n = len(atoms)
    cubic = crystal.cubic_vectors()
    position = atoms.positions[0] + np.array(place) @ cubic
    atoms += Atoms(atoms.symbols[0], [position])
    match = crystal.match(atoms, 1.1 * crystal.nearest_neighbour_distance)
    assert match.basis[n] == -1
    assert (match.basis[:n] >= 0).all()
    assert np.isinf(match.misfit[n])
    assert 2 <= match.defect()[:n].sum() <= 12


def test_two_species_are_told_apart():
    crystal, atoms, radius = setup("B2")
    match = crystal.match(atoms, radius)
    assert np.array_equal(crystal.numbers[match.basis], atoms.numbers)
    swapped = atoms.copy()
    swapped.numbers[0] = atoms.numbers[1]
    match = crystal.match(swapped, radius)
    assert np.isinf(match.misfit[0])
    assert match.defect().sum() > 8


def test_free_cluster():
    crystal = Crystal(CRYSTALS["diamond"])
    atoms = crystal.supercell(4, cubic=True)
    centre = atoms.positions[
        np.argmin(np.linalg.norm(atoms.positions - atoms.cell.array.sum(axis=0) / 2, axis=1))
    ]
    cluster = atoms[np.linalg.norm(atoms.positions - centre, axis=1) < 9.0]
    cluster.pbc, cluster.cell = False, None
    match = crystal.match(cluster, 4.0)
    inner = np.linalg.norm(cluster.positions - centre, axis=1) < 4.9
    assert not match.missing[inner].any()
    assert np.array_equal(match.rotation, np.eye(3))
    assert match.missing.any()


def test_wrong_crystal():
    _, atoms, radius = setup("diamond")
    with pytest.raises(MatchError, match="lattice constant, elements"):
        Crystal(bulk("Si", "fcc", a=3.9)).match(atoms, radius)
    with pytest.raises(MatchError, match="lattice constant, elements"):
        Crystal(bulk("C", "diamond", a=5.43)).match(atoms, radius)


def test_structures_that_fit_no_longer():
    crystal, atoms, radius = setup("fcc")
    match = crystal.match(atoms, radius)
    assert match.fits(atoms)
    for change in ("numbers", "cell", "pbc"):
        other = atoms.copy()
        if change == "numbers":
            other.numbers[3] = 28
        elif change == "cell":
            other.cell[0] *= 1.001
        else:
            other.pbc[0] = False
        assert not match.fits(other)
    assert not match.fits(atoms[1:])
    assert "64 atoms" in repr(match)


def test_bad_arguments():
    crystal, atoms, _ = setup("fcc")
    for radius in (0.0, -1.0, np.nan, 1.0):
        with pytest.raises(ValueError, match="radius"):
            crystal.match(atoms, radius)
    with pytest.raises(ValueError, match="tolerance"):
        crystal.match(atoms, 3.0, tolerance=0.0)


def test_no_atoms():
    match = Crystal(CRYSTALS["fcc"]).match(Atoms(), 3.0)
    assert len(match.basis) == 0
    assert not match.defect().any()
