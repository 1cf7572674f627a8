"""Exchange of indices and translation of the crystal: what they demand of derivatives of forces."""

from __future__ import annotations

import logging

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import lsqr

from ..crystal import Crystal
from ..symmetry import Site, canonical_cluster, cluster_order, invariant_tensors, translation_rules
from .force_constants import reverse_index

__all__ = ["exchanged", "satisfy_sum_rules"]

log = logging.getLogger(__name__)


def exchanged(crystal: Crystal, cutoff: float, tensors: list[np.ndarray]) -> list[np.ndarray]:
    """Mean over the exchanges of indices of the derivatives of forces, of first or second order.

    ``Phi(0, rho) = Phi(-rho, 0)^T``, and of second order the six ways to read ``Phi(0, rho, sigma)``, of
    which those with two neighbours farther than the cutoff from each other are set to zero. A neighbour that
    occurs twice keeps its value: the sum rules relate it to other clusters.

    Parameters
    ----------
    crystal : Crystal
    cutoff : float
        Å.
    tensors : list of ndarray
        One per basis atom, (3, s, 3) or (3, s, 3, s, 3).
    """
    if tensors[0].ndim == 3:
        reverse = reverse_index(crystal, cutoff)
        sites = [crystal.stencil_sites(a, cutoff)[1] for a in range(crystal.n_basis)]
        other = [
            np.array([tensors[b][:, k] for b, k in zip(sites[a], reverse[a], strict=True)]).transpose(2, 0, 1)
            for a in range(crystal.n_basis)
        ]
        return [(t + o) / 2 for t, o in zip(tensors, other, strict=True)]
    swapped = [(t + t.transpose(0, 3, 4, 1, 2)) / 2 for t in tensors]
    reverse = reverse_index(crystal, cutoff)
    out = []
    for a, tensor in enumerate(swapped):
        at = crystal.stencil_sites(a, cutoff)[1]
        third = third_index(crystal, cutoff, a)
        first, second = np.nonzero((third >= 0) & (third.T >= 0))
        mean = np.zeros_like(tensor)
        twice = np.arange(len(at))
        mean[:, twice, :, twice] = tensor[:, twice, :, twice]
        for k, m in zip(first, second, strict=True):
            from_k = swapped[at[k]][:, reverse[a][k], :, third[k, m]]  # [c, b, d]
            from_m = swapped[at[m]][:, reverse[a][m], :, third[m, k]]  # [d, b, c]
            here = tensor[:, k, :, m]
            mean[:, k, :, m] = (here + from_k.transpose(1, 0, 2) + from_m.transpose(1, 2, 0)) / 3
        out.append(mean)
    return out


def third_index(crystal: Crystal, cutoff: float, basis: int) -> np.ndarray:
    """Number (s, s) of ``sigma - rho`` in the stencil of the atom at rho; -1 if it is not in there."""
    _, sites, cells = crystal.stencil_sites(basis, cutoff)
    lookups: list[dict[tuple[int, ...], int]] = []
    for b in range(crystal.n_basis):
        _, others, other_cells = crystal.stencil_sites(b, cutoff)
        lookups.append(
            {(int(o), *map(int, c)): k for k, (o, c) in enumerate(zip(others, other_cells, strict=True))}
        )
    return np.array(
        [
            [lookups[b].get((int(o), *map(int, c - cell)), -1) for o, c in zip(sites, cells, strict=True)]
            for b, cell in zip(sites, cells, strict=True)
        ],
        dtype=int,
    )


def satisfy_sum_rules(crystal: Crystal, cutoff: float, tensors: list[np.ndarray]) -> list[np.ndarray]:
    """The nearest derivatives of second order that the crystal, exchange and translation allow.

    The force constants of all clusters within the cutoff are linear functions of few parameters
    (:func:`ase_qmmm.symmetry.invariant_tensors`), which obey ``sum_k Phi(l, m, k) = 0``. Without this a
    truncated expansion is not the derivative of any energy that is the same for a translated crystal.

    Parameters
    ----------
    crystal : Crystal
    cutoff : float
        Å.
    tensors : list of ndarray, shape (3, s, 3, s, 3)
        One per basis atom, zero for neighbours farther than the cutoff from each other.
    """
    functions, size = invariant_tensors(crystal, cutoff, 3)
    rules = translation_rules(crystal, cutoff, 3, functions, size)
    entries = [
        (a, k, m, function, start)
        for a in range(crystal.n_basis)
        for k, m, function, start in _entries(crystal, cutoff, a, functions)
    ]
    # Columns of each function are orthonormal: the nearest parameters without rules are plain means.
    total, weight = np.zeros(size), np.zeros(size)
    for a, k, m, function, start in entries:
        part = slice(start, start + function.shape[1])
        total[part] -= tensors[a][:, k, :, m].reshape(27) @ function
        weight[part] += 1.0
    # The triple of one atom with itself is not among the entries: it follows from rules that nothing else
    # depends on, as exchange and the rules of pairs make the sum it must cancel symmetric.
    known = weight > 0
    rules = rules[~(rules[:, ~known] != 0).any(axis=1)][:, known]
    mean, root = total[known] / weight[known], np.sqrt(weight[known])
    # The smallest change, in the norm of all entries, that satisfies the rules.
    change = lsqr(csr_array(rules / root), rules @ mean, atol=1e-15, btol=1e-15, conlim=0.0)[0]
    parameters = np.zeros(size)
    parameters[known] = mean - change / root
    out = [np.zeros_like(t) for t in tensors]
    for a, k, m, function, start in entries:
        values = function @ parameters[start : start + function.shape[1]]
        out[a][:, k, :, m] = -values.reshape(3, 3, 3)
    log.info(
        "sum rules within %g Å change the second order by up to %.3g of %.3g eV/Å^3",
        cutoff,
        max(float(np.abs(o - t).max()) for o, t in zip(out, tensors, strict=True)),
        max(float(np.abs(t).max()) for t in tensors),
    )
    return out


def _entries(
    crystal: Crystal, cutoff: float, basis: int, functions: dict[tuple[Site, ...], tuple[int, np.ndarray]]
) -> list[tuple[int, int, np.ndarray, int]]:
    """Stencil numbers of each pair of neighbours, its tensor (27, parameters), its first parameter."""
    _, others, cells = crystal.stencil_sites(basis, cutoff)
    stencil = [(int(b), tuple(int(x) for x in c)) for b, c in zip(others, cells, strict=True)]
    origin: Site = (basis, (0,) * len(crystal.lattice))
    third = third_index(crystal, cutoff, basis)
    out = []
    for k, m in zip(*np.nonzero((third >= 0) | np.eye(len(stencil), dtype=bool)), strict=True):
        full = [origin, stencil[k], stencil[m]]
        start, matrix = functions[canonical_cluster(full)]
        back = np.argsort(cluster_order(full))
        shaped = matrix.reshape(3, 3, 3, -1).transpose(*back, 3)
        out.append((int(k), int(m), shaped.reshape(27, -1), start))
    return out
