"""Crystal: relaxation, supercells, stencils."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from helpers import random_rotation, rotated

from ase_qmmm import Crystal
from ase_qmmm.errors import NumericsError, StructureError


def triangular(a=1.12):
    return Atoms("Ar", cell=[[a, 0, 0], [a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 0]], pbc=(True, True, False))


class WithoutStress(EMT):
    """EMT that keeps its stress to itself."""

    implemented_properties = ("energy", "free_energy", "forces")

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results.pop("stress", None)


def test_relaxed_copper():
    given = bulk("Cu", a=3.7)
    before = given.copy()
    crystal = Crystal.relaxed(given, EMT())
    assert given == before
    atoms = crystal.unit_cell
    atoms.calc = EMT()
    assert np.abs(atoms.get_stress()).max() < 1e-6
    # Exactly the shape given.
    scale = crystal.lattice[0, 1] / given.cell.array[0, 1]
    assert np.abs(crystal.lattice - scale * given.cell.array).max() < 1e-14


def test_relaxed_without_stress():
    """Differences of energies find the same lattice constant."""
    expected = Crystal.relaxed(bulk("Cu"), EMT()).lattice
    assert np.abs(Crystal.relaxed(bulk("Cu"), WithoutStress(), fmax=1e-4).lattice - expected).max() < 1e-4


def test_relaxed_of_a_rotated_cell(rng):
    q = random_rotation(rng)
    expected = Crystal.relaxed(bulk("Cu"), EMT()).lattice @ q.T
    assert np.abs(Crystal.relaxed(rotated(bulk("Cu"), q), EMT()).lattice - expected).max() < 1e-7


def test_relaxed_basis():
    """B2 of two species, with a basis atom off its place."""
    cell = bulk("NiAl", "cesiumchloride", a=3.0)
    cell.positions[1] += [0.05, -0.02, 0.03]
    crystal = Crystal.relaxed(cell, EMT())
    atoms = crystal.unit_cell
    atoms.calc = EMT()
    assert np.abs(atoms.get_forces()).max() < 1e-6
    assert np.abs(atoms.get_stress()).max() < 1e-6


def test_relaxed_in_the_plane():
    calc = LennardJones(sigma=1.0, epsilon=1.0, rc=3.0, smooth=True)
    crystal = Crystal.relaxed(triangular(), calc)
    assert crystal.lattice.shape == (2, 3)
    a, b = crystal.lattice
    assert np.linalg.norm(a) == pytest.approx(np.linalg.norm(b), abs=1e-6)
    assert a @ b / (a @ a) == pytest.approx(0.5, abs=1e-6)
    assert not crystal.lattice[:, 2].any()
    assert 1.0 < np.linalg.norm(a) < 1.15


def test_relaxed_gives_up():
    with pytest.raises(NumericsError, match="not converged to fmax = 1e-12 in 1 steps"):
        Crystal.relaxed(bulk("Cu", a=3.8), EMT(), fmax=1e-12, steps=1)


@pytest.mark.parametrize("name", ["Cu", "Si", "W"])
def test_cubic_supercell(name):
    atoms = Crystal(bulk(name)).supercell(2, cubic=True)
    expected = bulk(name, cubic=True).repeat(2)
    assert len(atoms) == len(expected)
    assert np.abs(atoms.cell.array - expected.cell.array).max() < 1e-10
    # The same set of sites, up to a lattice vector.
    scaled = [np.sort(np.round(a.get_scaled_positions() * 8, 6) % 8, axis=0) for a in (atoms, expected)]
    assert np.abs(scaled[0] - scaled[1]).max() < 1e-5


def test_supercells():
    crystal = Crystal(bulk("Cu"))
    assert len(crystal.supercell(3)) == 27
    assert len(crystal.supercell((1, 2, 3))) == 6
    assert len(crystal.supercell(np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]]))) == 4
    assert len(Crystal(triangular()).supercell(4)) == 16
    for n in (0, -1, (1, 2), (1.5, 1, 1)):
        with pytest.raises(ValueError, match="n: got"):
            crystal.supercell(n)
    with pytest.raises(ValueError, match="no cubic supercell"):
        Crystal(bulk("Ti")).supercell(2, cubic=True)


def test_stencils():
    crystal = Crystal(bulk("Si", a=5.43))
    shells = [np.sqrt(3) / 4, np.sqrt(2) / 2, np.sqrt(11) / 4, 1.0]
    rho = crystal.stencil(0, 5.43)
    lengths = np.linalg.norm(rho, axis=1)
    assert np.abs(lengths - 5.43 * np.repeat(shells, [4, 12, 12, 6])).max() < 1e-9
    # The other sublattice is the inverse of the first.
    assert np.abs(np.sort(-rho, axis=0) - np.sort(crystal.stencil(1, 5.43), axis=0)).max() < 1e-9
    vectors, sites, cells = crystal.stencil_sites(0, 5.0)
    assert np.abs(cells @ crystal.lattice + crystal.basis_positions[sites] - vectors).max() < 1e-12
    rho[:] = 0  # a copy
    assert np.linalg.norm(crystal.stencil(0, 5.43)[0]) > 2


def test_box_for_radius():
    crystal = Crystal(bulk("Si", a=5.43))
    repeats = crystal.box_for_radius(5.0)
    assert len(set(repeats.tolist())) == 1
    atoms = crystal.supercell(tuple(repeats.tolist()))
    shortest = min(
        np.linalg.norm(c @ atoms.cell.array) for c in np.argwhere(np.ones((3, 3, 3))) - 1 if c.any()
    )
    assert shortest > 10.0
    assert Crystal(triangular()).box_for_radius(3.0)[2] == 1


def test_properties_are_copies():
    crystal = Crystal(bulk("Cu"))
    crystal.unit_cell.positions[:] = 1
    crystal.basis_positions[:] = 1
    crystal.numbers[:] = 1
    crystal.lattice[:] = 1
    assert crystal.lattice[0, 0] == 0
    assert not crystal.basis_positions.any()
    assert crystal.numbers[0] == 29


@pytest.mark.parametrize("atoms", [Atoms(), Atoms("Cu"), Atoms("Cu", cell=[1, 1, 0], pbc=True)])
def test_no_crystal(atoms):
    with pytest.raises(StructureError):
        Crystal(atoms)


def test_bad_arguments():
    crystal = Crystal(bulk("Cu"))
    for index in (-1, 1):
        with pytest.raises(ValueError, match="basis_index"):
            crystal.stencil(index, 3.0)
    with pytest.raises(ValueError, match="radius"):
        crystal.stencil(0, -3.0)
    assert "nearest neighbours" in repr(crystal)
