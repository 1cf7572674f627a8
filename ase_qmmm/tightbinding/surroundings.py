"""Matrices of a cluster whose on-site terms feel atoms that carry no orbitals."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from ..neighbours import neighbour_pairs
from .hamiltonian import Hamiltonian
from .matrices import Matrices, PatternDensity, cartesian

__all__ = ["ClusterMatrices"]


class ClusterMatrices(Matrices):
    """Blocks among the first `n_active` atoms of a structure; the others add to on-site densities only.

    Parameters
    ----------
    model : Hamiltonian
    atoms : ase.Atoms
    n_active : int
    order : int
        Highest derivative, 0 or 1.
    spin : int
    """

    def __init__(self, model: Hamiltonian, atoms: Atoms, n_active: int, order: int, spin: int = 0) -> None:
        i, j, D = neighbour_pairs(atoms, model.cutoff, "ijD")
        across = (i < n_active) & (j >= n_active)
        self._across = i[across], j[across], D[across]
        self._numbers = atoms.numbers
        self._n_all = len(atoms)
        super().__init__(model, atoms[:n_active], order, spin)

    def _densities(self) -> np.ndarray:
        rho = super()._densities()
        i, j, D = self._across
        distances = np.linalg.norm(D, axis=1)
        other = np.argmax(self._numbers[j][:, None] == self.model.numbers, axis=1)
        self._pulls = np.zeros((len(i), 3))
        self._pull_species = other
        for a in range(len(self.model.symbols)):
            for b in range(len(self.model.symbols)):
                at = (self.species[i] == a) & (other == b)
                if at.any():
                    density = self.model.density(a, b, distances[at], self.order, self.spin)
                    rho[b] += np.bincount(i[at], density[0], self.n_atoms)
                    if self.order:
                        self._pulls[at] = cartesian(density, D[at], distances[at])[1]
        return rho

    def all_forces(self, d_h: PatternDensity, d_m: PatternDensity) -> np.ndarray:
        """Forces (n, 3) on all atoms, the passive ones included."""
        forces = np.zeros((self._n_all, 3))
        forces[: self.n_atoms] = self.forces_and_virial(self.pair_gradients(d_h, d_m))[0]
        i, j, _ = self._across
        gradient = self.onsite_pull(d_h.diagonal)[self._pull_species, i][:, None] * self._pulls
        for c in range(3):
            forces[:, c] += np.bincount(i, gradient[:, c], self._n_all)
            forces[:, c] -= np.bincount(j, gradient[:, c], self._n_all)
        return forces
