"""Exact second derivatives of the tight-binding energy: response of the forces to displacements.

With ``gamma(eps)`` the occupation-like factors of the forces (``D_H = C gamma C^H``,
``D_M = -C eps gamma C^H``) and a displacement that changes H and M by dH and dM, first-order perturbation
theory of the generalised eigenproblem gives

    d(C phi C^H) = C (phi[s,t] o X - (eps phi)[s,t] o Y) C^H,   X = C^H dH C,  Y = C^H dM C,

with divided differences ``phi[s,t]``, for phi = gamma and phi = eps gamma, at a fixed chemical potential. No
difference quotient of the energy is taken.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from tqdm import tqdm

from .functionals import LevelFunctional, add_spectral, divided_differences
from .matrices import Matrices, PatternDensity
from .spectrum import States

__all__ = ["force_response", "plain_gradient"]


def _transformed(perturbation: np.ndarray, states: States) -> np.ndarray:
    """``C^H A C`` (k, N, N) of a perturbation A with few nonzero rows (one displaced atom) or many."""
    c = states.vectors
    out = np.empty_like(c, dtype=np.result_type(c, perturbation))
    for k, matrix in enumerate(perturbation):
        rows = np.flatnonzero(matrix.any(axis=1))
        out[k] = c[k][rows].conj().T @ (csr_array(matrix[rows]) @ c[k])
    return out


def plain_gradient(
    matrices: Matrices, states: list[States], functional: LevelFunctional
) -> tuple[PatternDensity, PatternDensity, None]:
    """``D_H`` and ``D_M`` of the whole energy: ``dE = Tr(D_H dH) + Tr(D_M dM)`` (Hellmann and Feynman)."""
    d_h, d_m = matrices.pattern(), matrices.pattern()
    for s in states:
        factors = functional.weights(s.levels)
        add_spectral(matrices, d_h, s, factors)
        add_spectral(matrices, d_m, s, -factors * s.levels)
    return d_h, d_m, None


def force_response(
    matrices: Matrices,
    states: list[States],
    functional: LevelFunctional,
    displacements: np.ndarray,
    *,
    progress: bool = False,
) -> np.ndarray:
    """Change of all forces to first order in given displacements, at fixed chemical potential.

    Parameters
    ----------
    matrices : Matrices
        Built with ``order=2``.
    states : list of States
    functional : LevelFunctional
    displacements : ndarray, shape (m, n, 3)
        Directions (Å).
    progress : bool
        Show a progress bar.

    Returns
    -------
    ndarray, shape (m, n, 3)
        eV/Å: the negative Hessian times each direction.
    """
    d_h, d_m, _ = plain_gradient(matrices, states, functional)
    changes = [_Change(matrices, u) for u in displacements]
    responses = [(matrices.pattern(), matrices.pattern()) for _ in changes]
    bar = tqdm(
        total=len(states) * len(changes),
        desc="force constants",
        disable=not progress,
        leave=False,
        mininterval=1.0,
    )
    for s in states:
        gamma, slope = functional.weights(s.levels), functional.weight_slopes(s.levels)
        e = s.levels
        d0 = divided_differences(e, gamma, slope, functional.kT)
        d1 = divided_differences(e, e * gamma, gamma + e * slope, functional.kT)
        d2 = divided_differences(e, e**2 * gamma, 2 * e * gamma + e**2 * slope, functional.kT)
        adjoint = s.vectors.conj().swapaxes(1, 2)
        for change, (r_h, r_m) in zip(changes, responses, strict=True):
            x = _transformed(matrices.dense(change.onsite, change.hopping, s.kpoints), s)
            y = _transformed(matrices.dense(np.zeros(matrices.size), change.overlap, s.kpoints), s)
            matrices.gather(r_h, s.vectors @ (d0 * x - d1 * y) @ adjoint, s.kpoints, s.weights)
            matrices.gather(r_m, s.vectors @ (d2 * y - d1 * x) @ adjoint, s.kpoints, s.weights)
            bar.update()
    bar.close()
    return np.array(
        [change.forces(d_h, d_m, r_h, r_m) for change, (r_h, r_m) in zip(changes, responses, strict=True)]
    )


class _Change:
    """First-order change of the matrix elements under one displacement (n, 3)."""

    def __init__(self, matrices: Matrices, displacement: np.ndarray) -> None:
        self.matrices = matrices
        self.vectors = [displacement[g.j] - displacement[g.i] for g in matrices.groups]
        self.hopping = []
        self.overlap = []
        self.density = np.zeros((len(matrices.onsite), matrices.n_atoms))
        for g, dr in zip(matrices.groups, self.vectors, strict=True):
            a, b = g.species
            self.hopping.append(np.einsum("pcab,pc->pab", g.hopping[1], dr))
            self.overlap.append(np.einsum("pcab,pc->pab", g.overlap[1], dr))
            self.density[b] += np.bincount(g.i, (g.density_ij[1] * dr).sum(axis=1), matrices.n_atoms)
            self.density[a] += np.bincount(g.j, (g.density_ji[1] * dr).sum(axis=1), matrices.n_atoms)
        self.onsite = np.zeros(matrices.size)
        for terms, density in zip(matrices.onsite, self.density, strict=True):
            self.onsite += terms[1] * density[matrices.atom_of_orbital]

    def forces(
        self, d_h: PatternDensity, d_m: PatternDensity, r_h: PatternDensity, r_m: PatternDensity
    ) -> np.ndarray:
        """Change of the forces from that of the densities (r) and of the matrix elements at given d."""
        m = self.matrices
        gradients = m.pair_gradients(r_h, r_m)
        pull = m.onsite_pull(d_h.diagonal)
        bend = m.onsite_pull(d_h.diagonal, 2) * self.density
        for k, (g, dr, block_h, block_m) in enumerate(
            zip(m.groups, self.vectors, d_h.blocks, d_m.blocks, strict=True)
        ):
            a, b = g.species
            change = 2 * np.einsum("pab,pcdab,pd->pc", block_h, g.hopping[2], dr, optimize=True)
            change += 2 * np.einsum("pab,pcdab,pd->pc", block_m, g.overlap[2], dr, optimize=True)
            change += bend[b, g.i][:, None] * g.density_ij[1] + bend[a, g.j][:, None] * g.density_ji[1]
            change += pull[b, g.i][:, None] * np.einsum("pcd,pd->pc", g.density_ij[2], dr)
            change += pull[a, g.j][:, None] * np.einsum("pcd,pd->pc", g.density_ji[2], dr)
            gradients[k] += change
        return m.forces_and_virial(gradients)[0]
