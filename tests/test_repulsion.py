"""Repulsion on its own, with several species, and as a part of the calculator."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from helpers import assert_derivative, moved, random_strain, strained

from ase_qmmm import TightBinding
from ase_qmmm.tightbinding import Hamiltonian
from ase_qmmm.tightbinding.jets import derivatives
from ase_qmmm.tightbinding.matrices import build_matrices
from ase_qmmm.tightbinding.radial import leibniz, smooth_step
from ase_qmmm.tightbinding.repulsion import Repulsion


class TwoSpecies(Hamiltonian):
    """Different functions for each centre and neighbour, none of them symmetric."""

    name = "two species"
    symbols = ("Cu", "Au")
    shells = ((0,), (0,))
    n_electrons = np.array([1.0, 1.0])
    cutoff = 4.5
    orthogonal = True
    repulsive = True

    def _faded(self, function, r, order):
        return leibniz(derivatives(function, r, order), smooth_step(r, 2.5, self.cutoff, order))

    def two_centre(self, a, b, distances, order, spin=0):
        hopping = self._faded(lambda r: -np.exp(-r / 2), distances, order)[None]
        return {(0, 0): (hopping, np.zeros_like(hopping))}

    def onsite(self, centre, neighbour, rho, order, spin=0):
        return np.zeros((order + 1, len(rho), 1))

    def repulsive_density(self, centre, neighbour, distances, order):
        return self._faded(lambda r: np.exp((1 + centre + 0.5 * neighbour) * (1 - r / 2.5)), distances, order)

    def repulsive_energy(self, centre, neighbour, x, order):
        return derivatives(lambda x: (1 + centre) * x**2 + 0.3 * neighbour * x + 0.1 * x**3, x, order)


def alloy():
    return Atoms("CuAu2", [[0, 0, 0], [2.0, 2.1, 1.8], [0.3, 2.2, -0.4]], cell=[3.8, 4.2, 3.7], pbc=True)


def weighted(atoms, weights):
    energies = Repulsion(build_matrices(TwoSpecies(), atoms)).energies
    return energies.sum() if weights is None else weights @ energies


def test_energies_are_those_of_the_definition():
    atoms = Atoms("CuAu", [[0, 0, 0], [0, 0, 2.2]])
    x_cu, x_au = np.exp(1.5 * (1 - 2.2 / 2.5)), np.exp(2.0 * (1 - 2.2 / 2.5))
    expected = [x_cu**2 + 0.3 * x_cu + 0.1 * x_cu**3, 2 * x_au**2 + 0.1 * x_au**3]
    # The functions of the species that is no neighbour are zero at x = 0.
    assert Repulsion(build_matrices(TwoSpecies(), atoms)).energies == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("weights", [None, np.array([0.3, -1.2, 0.7])])
def test_gradient(weights, rng):
    atoms = alloy()
    forces, virial = Repulsion(build_matrices(TwoSpecies(), atoms)).forces_and_virial(weights)
    u, strain = rng.uniform(-1, 1, (3, 3)), random_strain(rng)
    assert_derivative(lambda h: weighted(moved(atoms, u, h), weights), -(forces * u).sum())
    assert_derivative(lambda h: weighted(strained(atoms, strain, h), weights), -(virial * strain).sum())


def test_force_response(rng):
    atoms = alloy()
    u = rng.uniform(-1, 1, (2, 3, 3))
    response = Repulsion(build_matrices(TwoSpecies(), atoms, order=2)).force_response(u)

    def forces(h, direction):
        return Repulsion(build_matrices(TwoSpecies(), moved(atoms, direction, h))).forces_and_virial()[0]

    for direction, change in zip(u, response, strict=True):
        assert_derivative(lambda h, d=direction: forces(h, d), change)


@pytest.mark.parametrize("options", [{}, {"energy": "band"}, {"mu": -1.0}, {"mu": -1.0, "energy": "band"}])
def test_it_adds_to_every_functional(options):
    atoms = bulk("Si", a=5.4)
    atoms.rattle(0.1, seed=1)
    calc = TightBinding("kwon-Si", kpts=(2, 2, 2), **options)
    with_it = calc.evaluate(atoms)
    repulsion = Repulsion(build_matrices(calc.model, atoms))
    calc.model.repulsive = False
    without = calc.evaluate(atoms)
    assert with_it.energies - without.energies == pytest.approx(repulsion.energies, abs=1e-12)
    forces, virial = repulsion.forces_and_virial()
    assert np.abs(with_it.forces - without.forces - forces).max() < 1e-12
    assert np.abs(with_it.virial - without.virial - virial).max() < 1e-11
