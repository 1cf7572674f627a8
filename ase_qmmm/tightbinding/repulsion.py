"""Repulsive energy of a model: functions of sums over neighbours, with gradient and second derivatives.

    E_i = sum_t F_t(x_i(t)),      x_i(t) = sum_(j of species t) phi_t(|r_ij|)

It does not know of electrons, so that it adds to every functional of the levels and to the site energies.
"""

from __future__ import annotations

import numpy as np

from .matrices import Matrices
from .radial import reduced_derivatives

__all__ = ["Repulsion"]


class Repulsion:
    """Repulsive energy of the structure of some matrices, on the same pairs.

    Parameters
    ----------
    matrices : Matrices
        Pairs, species and model; derivatives are available up to its order.

    Attributes
    ----------
    energies : ndarray, shape (n,)
        eV.
    functions : ndarray, shape (n_species, order + 1, n)
        F_t of each atom with its derivatives by x_t, eV.
    """

    def __init__(self, matrices: Matrices) -> None:
        self.matrices = matrices
        model, order = matrices.model, matrices.order
        n, n_species = matrices.n_atoms, len(model.symbols)
        # ((1/r) d/dr)^k of the density of j at i, and of i at j, (order + 1, p) per group of pairs
        self._reduced: list[tuple[np.ndarray, np.ndarray]] = []
        x = np.zeros((n_species, n))
        for g in matrices.groups:
            a, b = g.species
            r = np.linalg.norm(g.vectors, axis=1)
            at_i = reduced_derivatives(model.repulsive_density(a, b, r, order), r)
            at_j = reduced_derivatives(model.repulsive_density(b, a, r, order), r)
            x[b] += np.bincount(g.i, at_i[0], n)
            x[a] += np.bincount(g.j, at_j[0], n)
            self._reduced.append((at_i, at_j))
        self.functions = np.zeros((n_species, order + 1, n))
        for centre in range(n_species):
            mask = matrices.species == centre
            for t in range(n_species):
                self.functions[t][:, mask] = model.repulsive_energy(centre, t, x[t, mask], order)
        self.energies: np.ndarray = self.functions[:, 0].sum(axis=0)

    def forces_and_virial(self, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Forces (n, 3) in eV/Å and virial (3, 3) in eV of ``sum_i w_i E_i``; weights of one by default."""
        pull = self.functions[:, 1] * (1.0 if weights is None else weights)
        gradients = []
        for g, (at_i, at_j) in zip(self.matrices.groups, self._reduced, strict=True):
            a, b = g.species
            gradients.append((pull[b, g.i] * at_i[1] + pull[a, g.j] * at_j[1])[:, None] * g.vectors)
        return self.matrices.forces_and_virial(gradients)

    def force_response(self, displacements: np.ndarray) -> np.ndarray:
        """First-order change of the forces (m, n, 3) under displacements (m, n, 3); needs order 2."""
        return np.array([self._response(u) for u in displacements]).reshape(np.shape(displacements))

    def _response(self, u: np.ndarray) -> np.ndarray:
        pull = self.functions[:, 1]
        groups = self.matrices.groups
        steps = [u[g.j] - u[g.i] for g in groups]
        along = [(g.vectors * du).sum(axis=1) for g, du in zip(groups, steps, strict=True)]
        dx = np.zeros_like(pull)
        for g, s, (at_i, at_j) in zip(groups, along, self._reduced, strict=True):
            a, b = g.species
            dx[b] += np.bincount(g.i, at_i[1] * s, self.matrices.n_atoms)
            dx[a] += np.bincount(g.j, at_j[1] * s, self.matrices.n_atoms)
        bend = self.functions[:, 2] * dx
        changes = []
        for g, du, s, (at_i, at_j) in zip(groups, steps, along, self._reduced, strict=True):
            a, b = g.species
            first = pull[b, g.i] * at_i[1] + pull[a, g.j] * at_j[1]
            second = pull[b, g.i] * at_i[2] + pull[a, g.j] * at_j[2]
            lead = second * s + bend[b, g.i] * at_i[1] + bend[a, g.j] * at_j[1]
            changes.append(first[:, None] * du + lead[:, None] * g.vectors)
        return self.matrices.forces_and_virial(changes)[0]
