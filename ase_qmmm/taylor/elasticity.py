"""Long-wave elasticity of truncated expansions: what truncation breaks, put right within the cutoff.

Elastic constants weigh force constants with the square of the distance and converge late with the cutoff.
Here the smallest weighted change of the coefficients within the cutoff is found that makes the derivatives of
the energy of the crystal by deformation F and displacements s of its basis atoms those of the quantum model.
All of them are linear in the coefficients. For force constants,

    W_s_a,(F, s) = sum_rho Phi_a(rho) P_rho,      -1/2 sum_(a, rho) Phi_a(rho)_ik rho_j rho_l = sym_jl W_FF,

with the parameters ``P_rho = dg_rho / d(F, s)``. As W is invariant under rotations these contain the sum
rules of Born and Huang [1]_ for the first, and Huang's for the second. The rest of W_FF, antisymmetric in
j and l, makes no forces (a null Lagrangian); it is added to the energy by :func:`null_lagrangian`.

References
----------
.. [1] M. Born and K. Huang, Dynamical theory of crystal lattices (1954), sections 23 and 27.
"""

from __future__ import annotations

import itertools
import logging

import numpy as np

from ..crystal import Crystal
from .cauchy_born import CauchyBornDerivatives, deformation_parameters
from .force_constants import reverse_index
from .triangles import Triangles

__all__ = ["LongWaves", "matched_force_constants", "null_lagrangian"]

log = logging.getLogger(__name__)

_EPSILON = np.zeros((3, 3, 3))
_EPSILON[[0, 1, 2], [1, 2, 0], [2, 0, 1]] = 1.0
_EPSILON[[0, 2, 1], [2, 1, 0], [1, 0, 2]] = -1.0


class LongWaves:
    """What force constants must give in the limit of long waves.

    Attributes
    ----------
    inner : ndarray, shape (n_basis, 3, 9 + 3 (n_basis - 1))
        ``W_s_a,(F, s)``: minus the force on each basis atom by the parameters (eV/Å, eV/Å^2).
    moments : ndarray, shape (3, 3, 3, 3)
        ``-1/2 sum Phi_ik rho_j rho_l`` with indices i, k, j, l (eV per cell).
    stiffness : ndarray, shape (3, 3, 3, 3)
        W_FF of the clamped basis, indices i, j, k, l (eV per cell).
    """

    def __init__(self, inner: np.ndarray, moments: np.ndarray, stiffness: np.ndarray) -> None:
        self.inner, self.moments, self.stiffness = inner, moments, stiffness

    @classmethod
    def exact(cls, derivatives: CauchyBornDerivatives) -> LongWaves:
        """From the derivatives of a model, with those by the basis atoms."""
        n = derivatives.crystal.n_basis
        whole = derivatives.with_basis[2]
        stiffness = whole[:9, :9].reshape(3, 3, 3, 3)
        inner = whole[9:].reshape(n - 1, 3, len(whole))
        inner = np.concatenate([-inner.sum(axis=0, keepdims=True), inner])
        moments = (stiffness + stiffness.transpose(0, 3, 2, 1)).transpose(0, 2, 1, 3) / 2
        return cls(inner, moments, stiffness)

    @classmethod
    def from_force_constants(cls, crystal: Crystal, cutoff: float, matrices: list[np.ndarray]) -> LongWaves:
        """As the force constants give it."""
        inner, moments = [], np.zeros((3, 3, 3, 3))
        for a, phi in enumerate(matrices):
            rho, others, _ = crystal.stencil_sites(a, cutoff)
            slope = deformation_parameters(rho, others, a, crystal.n_basis - 1).reshape(len(rho), 3, -1)
            inner.append(np.einsum("rci,rip->cp", phi, slope))
            moments -= 0.5 * np.einsum("rik,rj,rl->ikjl", phi, rho, rho)
        return cls(np.array(inner), moments, _huang(moments))

    def rotation_invariant(self, directions: np.ndarray, span: np.ndarray) -> LongWaves:
        """The nearest that obey the sum rules of translation and rotation.

        Huang's conditions leave room for the stress that a crystal may be under: its deviator follows from
        the moments. Of the pressure of a crystal without open directions nothing is known here; it is taken
        to be zero, which only the null Lagrangian feels.

        Parameters
        ----------
        directions : ndarray, shape (d, 3)
            Lattice vectors; there is no stress across the other directions.
        span : ndarray, shape (3, 3)
            Of :func:`spanned`.
        """
        inner = self.inner - self.inner.mean(axis=0)
        strain = np.einsum("acij,ip,jq->acpq", inner[:, :, :9].reshape(-1, 3, 3, 3), span, span)
        inner[:, :, :9] = ((strain + strain.swapaxes(2, 3)) / 2).reshape(len(inner), 3, 9)
        # M_ikjl - M_jlik = delta_ik sigma_jl - delta_jl sigma_ik.
        odd = self.moments - self.moments.transpose(2, 3, 0, 1)
        stress = np.einsum("iijl->jl", odd) / 3
        normals = np.linalg.qr(directions.T, mode="complete")[0][:, len(directions) :]
        if normals.size:
            stress -= np.eye(3) * np.einsum("jn,jl,ln->n", normals, stress, normals).mean()
        stressed = np.einsum("ik,jl->ikjl", np.eye(3), stress)
        even = self.moments - stressed
        even = (even + even.transpose(2, 3, 0, 1)) / 2
        even = np.einsum("ikjl,im,kn,jp,lq->mnpq", even, span, span, span, span, optimize=True)
        stiffness = _huang(even) + stressed.transpose(0, 2, 1, 3)
        return LongWaves(inner, even + stressed, stiffness)


def _huang(moments: np.ndarray) -> np.ndarray:
    """Stiffness ``C_ijkl = M_ikjl + M_jkil - M_ijkl`` from moments M that obey Huang's conditions."""
    out: np.ndarray = moments.transpose(0, 2, 1, 3) + np.einsum("jkil->ijkl", moments) - moments
    return out


def matched_force_constants(
    crystal: Crystal, cutoff: float, matrices: list[np.ndarray], wanted: LongWaves
) -> list[np.ndarray]:
    """The nearest force constants with given long waves.

    Changes of far neighbours count less, with the fourth power of the distance: where truncation left
    something out, little is missed, and phonons of short waves hardly change.

    Parameters
    ----------
    crystal : Crystal
    cutoff : float
        Å.
    matrices : list of ndarray, shape (s, 3, 3)
        Force constants of each basis atom (eV/Å^2), which agree with those of the other end of each bond.
    wanted : LongWaves
    """
    now = LongWaves.from_force_constants(crystal, cutoff, matrices)
    missing = np.concatenate([(wanted.inner - now.inner).ravel(), (wanted.moments - now.moments).ravel()])
    scale = max((float(np.abs(phi).max()) for phi in matrices if len(phi)), default=0.0)
    if np.abs(missing).max() < 1e-9 * scale:
        return matrices
    stencils = [crystal.stencil_sites(a, cutoff) for a in range(crystal.n_basis)]
    reverse = reverse_index(crystal, cutoff)
    starts = np.concatenate([[0], np.cumsum([len(s[0]) for s in stencils])])
    partner = np.concatenate([starts[s[1]] + reverse[a] for a, s in enumerate(stencils)])
    # Each bond once; seen from its other end its matrix is transposed.
    directed = np.arange(starts[-1])
    forward = directed <= partner
    bonds, bond = np.unique(np.minimum(directed, partner), return_inverse=True)
    inner = np.zeros((len(bonds), 3, 3, *now.inner.shape))
    moments = np.zeros((len(bonds), 3, 3, 3, 3, 3, 3))
    for a, (rho, others, _) in enumerate(stencils):
        slope = deformation_parameters(rho, others, a, crystal.n_basis - 1).reshape(len(rho), 3, -1)
        for k in range(len(rho)):
            d = starts[a] + k
            of_inner = np.einsum("cx,yp->xycp", np.eye(3), slope[k])
            of_moments = -0.5 * np.einsum("ix,ky,j,l->xyikjl", np.eye(3), np.eye(3), rho[k], rho[k])
            inner[bond[d], :, :, a] += of_inner if forward[d] else of_inner.swapaxes(0, 1)
            moments[bond[d]] += of_moments if forward[d] else of_moments.swapaxes(0, 1)
    matrix = np.column_stack([inner.reshape(9 * len(bonds), -1), moments.reshape(9 * len(bonds), -1)]).T
    lengths = np.linalg.norm(np.concatenate([s[0] for s in stencils]), axis=1)[bonds]
    weights = np.repeat((lengths / lengths.max(initial=1.0)) ** 2, 9)
    found = np.linalg.lstsq(matrix * weights, missing, rcond=1e-10)[0] * weights
    left = np.abs(missing - matrix @ found).max()
    change = found.reshape(-1, 3, 3)[bond]
    change[~forward] = change[~forward].swapaxes(1, 2)
    log.info(
        "long waves within %g Å: force constants change by up to %.2g eV/Å^2", cutoff, np.abs(change).max()
    )
    if left > 1e-7 * np.abs(now.moments).max():
        log.warning(
            "long waves: the force constants within %g Å are too few to match them; left are %.2g eV",
            cutoff,
            left,
        )
    out = np.concatenate(matrices) + change
    return [out[starts[a] : starts[a + 1]] for a in range(crystal.n_basis)]


def null_lagrangian(
    crystal: Crystal,
    cutoff: float,
    matrices: list[np.ndarray],
    triangles: list[Triangles],
    stiffness: np.ndarray,
) -> list[Triangles]:
    """Triangles that make W_FF what it should be, and no forces.

    ``b . (g_rho x g_sigma)`` with two lattice vectors and the same with -rho and -sigma sum to no force over
    the crystal. With ``b = nu (rho x sigma)`` they add ``eps_mik eps_njl nu_mn`` to W_FF.

    Parameters
    ----------
    crystal : Crystal
    cutoff : float
        Å.
    matrices : list of ndarray, shape (s, 3, 3)
        Force constants of each basis atom (eV/Å^2).
    triangles : list of Triangles
        What goes with their antisymmetric parts.
    stiffness : ndarray, shape (3, 3, 3, 3)
        W_FF wanted, indices i, j, k, l (eV per cell).

    Returns
    -------
    list of Triangles
        These, and those added.
    """
    stencils = [crystal.stencil_sites(a, cutoff) for a in range(crystal.n_basis)]
    now = LongWaves.from_force_constants(crystal, cutoff, matrices).moments.transpose(0, 2, 1, 3)
    left = (stiffness - now) / 4
    axial = np.einsum("mik,njl,ijkl->mn", _EPSILON, _EPSILON, left)
    for (rho, _, _), t in zip(stencils, triangles, strict=True):
        axial -= t.vectors.T @ np.cross(rho[t.first], rho[t.second])
    if np.abs(axial).max() < 1e-9 * np.abs(stiffness).max():
        return triangles
    out = []
    for a, t in enumerate(triangles):
        first, second = _lattice_pairs(crystal, cutoff, a)
        normals = np.cross(stencils[a][0][first], stencils[a][0][second])
        vectors = normals @ np.linalg.pinv(normals.T @ normals, rcond=1e-9) @ axial.T / crystal.n_basis
        out.append(
            Triangles(
                np.concatenate([t.first, first]),
                np.concatenate([t.second, second]),
                np.vstack([t.vectors, vectors]),
            )
        )
    return out


def _lattice_pairs(crystal: Crystal, cutoff: float, basis: int) -> tuple[np.ndarray, np.ndarray]:
    """Stencil numbers of the shortest pairs of lattice vectors that span all planes of the crystal."""
    rho, sites, _ = crystal.stencil_sites(basis, cutoff)
    same = np.flatnonzero(sites == basis)
    lengths = np.linalg.norm(rho[same], axis=1).round(6)
    for length in np.unique(lengths):
        shells = same[lengths <= length]
        if np.linalg.matrix_rank(rho[shells], tol=1e-6) == len(crystal.lattice):
            break
    else:
        log.info(
            "no lattice vectors within %g Å that span the crystal: stress under strain may be wrong", cutoff
        )
        shells = same[:0]
    first, second = np.array(list(itertools.combinations(shells, 2)), dtype=int).reshape(-1, 2).T
    normals = np.cross(rho[first], rho[second])
    planes = np.linalg.norm(normals, axis=1) > 1e-6
    first, second, normals = first[planes], second[planes], normals[planes]
    sizes = np.linalg.norm([rho[first], rho[second], rho[first] - rho[second]], axis=2).sum(axis=0).round(6)
    rank = {1: 0, 2: 1, 3: 3}[len(crystal.lattice)]
    for size in np.unique(sizes):
        chosen = sizes <= size
        if np.linalg.matrix_rank(normals[chosen], tol=1e-6) >= rank:
            return first[chosen], second[chosen]
    return first[:0], second[:0]
