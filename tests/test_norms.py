"""The energy norm of displacements."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from ase_qmmm.norms import displacement_gradient, energy_norm


def test_one_atom_moved():
    """Its 12 bonds, and one bond of each of its 12 neighbours."""
    atoms = bulk("Cu", cubic=True).repeat(3)
    u = np.zeros((len(atoms), 3))
    u[0] = [0.03, 0.0, 0.04]
    gradient = displacement_gradient(u, atoms)
    assert gradient[0] == pytest.approx(np.sqrt(12) * 0.05)
    assert np.sort(gradient)[-13:-1] == pytest.approx([0.05] * 12)
    assert np.count_nonzero(gradient) == 13
    assert energy_norm(u, atoms) == pytest.approx(np.sqrt(24) * 0.05)


def test_norm_does_not_see_translations(rng):
    atoms = bulk("Si", cubic=True)
    u = rng.normal(size=(8, 3))
    assert energy_norm(np.ones((8, 3)), atoms) == 0
    assert energy_norm(u + 3.0, atoms) == pytest.approx(energy_norm(u, atoms))
    assert energy_norm(-2 * u, atoms) == pytest.approx(2 * energy_norm(u, atoms))


def test_homogeneous_strain():
    """Each of the four bonds of diamond changes by the strain times its vector."""
    atoms = bulk("Si", a=5.43, cubic=True).repeat(2)
    atoms.pbc = False
    centre = int(np.argmin(np.linalg.norm(atoms.positions - atoms.positions.mean(axis=0), axis=1)))
    gradient = displacement_gradient(0.01 * atoms.positions, atoms)
    assert gradient[centre] == pytest.approx(2 * 0.01 * 5.43 * np.sqrt(3) / 4)


def test_cutoff_chooses_the_bonds():
    atoms = bulk("Cu", a=3.6, cubic=True).repeat(3)
    u = np.zeros((len(atoms), 3))
    u[0, 0] = 1.0
    assert displacement_gradient(u, atoms, cutoff=3.7)[0] == pytest.approx(np.sqrt(18))


def test_an_interstitial_does_not_hide_the_bonds_of_the_crystal():
    atoms = bulk("W", a=3.165, cubic=True).repeat(4)
    atoms += Atoms("W", [atoms.positions[20] + [0.9, 0.9, 0.0]])
    u = np.zeros((len(atoms), 3))
    far = int(np.argmax(atoms.get_distances(20, np.arange(len(atoms)), mic=True)))
    u[far, 0] = 1.0
    assert displacement_gradient(u, atoms)[far] == pytest.approx(np.sqrt(14))  # first and second neighbours


def test_atoms_without_bonds():
    assert energy_norm(np.zeros((0, 3)), Atoms()) == 0
    assert energy_norm(np.ones((1, 3)), Atoms("Cu")) == 0
    assert energy_norm(np.array([[0, 0, 0], [1, 0, 0]]), Atoms("Cu2", [[0, 0, 0], [0, 0, 500.0]])) == 0


@pytest.mark.parametrize("u", [np.zeros((3, 3)), np.zeros(4), np.full((4, 3), np.nan)])
def test_bad_displacements(u):
    with pytest.raises(ValueError, match="u: "):
        energy_norm(u, bulk("Cu", cubic=True))
