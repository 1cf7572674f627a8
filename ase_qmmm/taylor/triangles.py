"""The antisymmetric part of force constants as three-body terms of displacement differences.

``u_l . Phi(rho) u_m`` of a bond l -> m splits into a symmetric part, which the acoustic sum rule turns into
``-1/2 g . Phi_s g`` with ``g = u_m - u_l``, and an antisymmetric part ``a . (u_l x u_m)`` with an axial
vector a. In diamond the latter is most of the second-neighbour matrix. It is not a function of g alone; but
the a of all bonds form a circulation (they sum to zero at every site), and a circulation is a sum of
triangles

    b . ((u_l - u_c) x (u_m - u_c)) = b . (u_l x u_m + u_m x u_c + u_c x u_l),

each of which depends on displacement differences to its corner c only. This module finds the b.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np

from ..crystal import Crystal
from .force_constants import reverse_index
from .polynomials import ZERO, Terms

__all__ = ["Triangles", "axial", "first_order_terms", "triangle_decomposition"]

log = logging.getLogger(__name__)


@dataclass
class Triangles:
    """Terms ``b . (g_first x g_second)`` of one basis atom: stencil numbers (t,) and axial vectors (t, 3)."""

    first: np.ndarray
    second: np.ndarray
    vectors: np.ndarray


def axial(matrices: np.ndarray) -> np.ndarray:
    """Vectors a (s, 3) with ``u . A v = a . (u x v)`` for the antisymmetric part A of matrices (s, 3, 3)."""
    anti = (matrices - matrices.swapaxes(1, 2)) / 2
    return np.stack([anti[:, 1, 2], anti[:, 2, 0], anti[:, 0, 1]], axis=1)


def _matrices(vectors: np.ndarray) -> np.ndarray:
    """Inverse of :func:`axial`."""
    out = np.zeros((len(vectors), 3, 3))
    out[:, 1, 2], out[:, 2, 0], out[:, 0, 1] = vectors.T
    return out - out.swapaxes(1, 2)


def triangle_decomposition(
    crystal: Crystal, cutoff: float, matrices: list[np.ndarray]
) -> tuple[list[Triangles], list[np.ndarray]]:
    """Triangles for the antisymmetric parts of force constants.

    Triangles have one leg to a nearest neighbour; the other leg is allowed to grow until they represent the
    circulation. What no set of triangles can represent (truncation may leave such a part in a crystal of low
    symmetry; it would make the model non-conservative) is removed from the force constants.

    Parameters
    ----------
    crystal : Crystal
    cutoff : float
        Radius of the stencils (Å).
    matrices : list of ndarray, shape (s, 3, 3)
        Force constants of each basis atom (eV/Å^2).

    Returns
    -------
    triangles : list of Triangles
    matrices : list of ndarray
        The force constants that go with them.
    """
    stencils = [crystal.stencil_sites(a, cutoff) for a in range(crystal.n_basis)]
    reverse = reverse_index(crystal, cutoff)
    starts = np.concatenate([[0], np.cumsum([len(s[0]) for s in stencils])])
    flow = np.concatenate([axial(phi) for phi in matrices]) if matrices else np.zeros((0, 3))
    scale = max((np.abs(phi).max() for phi in matrices if len(phi)), default=0.0)
    empty = [Triangles(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 3))) for _ in stencils]
    if np.abs(flow).max(initial=0.0) < 1e-12 * max(scale, 1e-300):
        return empty, matrices

    # Each bond once: number and sign of its representative among the directed bonds.
    partner = np.concatenate([starts[sites] + reverse[a] for a, (_, sites, _) in enumerate(stencils)])
    directed = np.arange(starts[-1])
    representative = np.minimum(directed, partner)
    sign = np.where(directed <= partner, 1.0, -1.0)
    bonds, bond_of = np.unique(representative, return_inverse=True)

    lookup = [
        {(int(b), *map(int, cell)): k for k, (b, cell) in enumerate(zip(sites, cells, strict=True))}
        for _, sites, cells in stencils
    ]
    candidates: list[tuple[float, int, int, int, int]] = []  # leg length, centre, first, second, bond l -> m
    for centre, (rho, sites, cells) in enumerate(stencils):
        lengths = np.linalg.norm(rho, axis=1)
        hub = np.flatnonzero(lengths < 1.2 * lengths.min())
        for p in hub.tolist():
            for q in range(len(rho)):
                if q == p or (q in hub and q < p):
                    continue
                key = (int(sites[q]), *map(int, cells[q] - cells[p]))
                k = lookup[sites[p]].get(key)
                if k is not None:
                    candidates.append((round(float(lengths[q]), 6), centre, p, q, int(starts[sites[p]] + k)))
    candidates.sort()
    legs = np.array([c[0] for c in candidates])
    target = flow[bonds]
    solution, chosen, residual = np.zeros((0, 3)), [], target
    for reach in np.unique(legs).tolist():
        chosen = candidates[: int(np.searchsorted(legs, reach, side="right"))]
        system = np.zeros((len(bonds), len(chosen)))
        for t, (_, centre, p, q, closing) in enumerate(chosen):
            for bond, factor in ((closing, 1.0), (starts[centre] + q, -1.0), (starts[centre] + p, 1.0)):
                system[bond_of[bond], t] += factor * sign[bond]
        solution = np.linalg.lstsq(system, target, rcond=1e-10)[0]
        residual = target - system @ solution
        if np.abs(residual).max() < 1e-11 * scale:
            break
    lost = float(np.abs(residual).max(initial=0.0))
    if lost > 1e-9 * scale:
        log.warning(
            "force constants within %g Å: an antisymmetric part of %.2g eV/Å^2 (of %.2g) has no potential "
            "and is removed",
            cutoff,
            lost,
            scale,
        )
    out = []
    fitted = flow - sign[:, None] * residual[bond_of]
    conservative = []
    for a, phi in enumerate(matrices):
        mine = [t for t, c in enumerate(chosen) if c[1] == a and np.abs(solution[t]).max() > 1e-13 * scale]
        out.append(
            Triangles(
                np.array([chosen[t][2] for t in mine], dtype=int),
                np.array([chosen[t][3] for t in mine], dtype=int),
                solution[mine].reshape(-1, 3),
            )
        )
        symmetric = (phi + phi.swapaxes(1, 2)) / 2
        conservative.append(symmetric + _matrices(fitted[starts[a] : starts[a + 1]]))
    return out, conservative


def first_order_terms(
    matrices: list[np.ndarray], triangles: list[Triangles]
) -> tuple[list[Terms], list[Terms]]:
    """Site energies and forces of first order as packed polynomials, per basis atom."""
    energies, forces = [], []
    for phi, corner in zip(matrices, triangles, strict=True):
        size = 3 * len(phi)
        quadratic = np.zeros((size, size))
        for k, matrix in enumerate(phi):
            quadratic[3 * k : 3 * k + 3, 3 * k : 3 * k + 3] = -0.25 * matrix
        crosses = _matrices(corner.vectors)  # b . (g x h) = g . B h
        for p, q, cross in zip(corner.first, corner.second, crosses, strict=True):
            quadratic[3 * p : 3 * p + 3, 3 * q : 3 * q + 3] += cross
        quadratic = quadratic + quadratic.T
        quadratic[np.diag_indices(size)] /= 2
        scale = ZERO * np.abs(quadratic).max(initial=0.0)
        tuples = np.argwhere(np.triu(np.abs(quadratic) > scale))
        energies.append(Terms(tuples, quadratic[tuple(tuples.T)]))
        vectors = -phi.transpose(0, 2, 1).reshape(-1, 3)
        forces.append(Terms(np.arange(size)[:, None], vectors))
    return energies, forces
