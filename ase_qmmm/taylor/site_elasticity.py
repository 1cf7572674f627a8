"""Site-energy derivatives whose sums over the crystal are those of the model, in spite of truncation.

The derivatives of the energy W of a cell by deformation F and displacements s of the basis atoms are linear
in those of the site energies. With ``P_rho = dg_rho / d(F, s)``,

    d^j W = sum_alpha sum_(rho, sigma, ..) d^j V_alpha / dg_rho dg_sigma .. P_rho P_sigma .. .

The smallest change with given sums is ``P_rho^T P_sigma^T .. L`` in each block that is not zero, with
multipliers L: one small linear system. It is smallest in the norm of all components, which permutations and
symmetry operations leave alone.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from scipy.sparse.linalg import LinearOperator, minres

from ..crystal import Crystal
from .cauchy_born import deformation_parameters

__all__ = ["block_norms", "cell_sums", "matched_site_tensors", "rotation_invariant"]

log = logging.getLogger(__name__)


def block_norms(tensor: np.ndarray) -> np.ndarray:
    """Norms (s, s, ..) of the blocks of one tuple of atoms each."""
    directions = tuple(range(1, tensor.ndim, 2))
    norms: np.ndarray = np.sqrt((tensor**2).sum(axis=directions))
    return norms


def _slopes(crystal: Crystal, cutoff: float) -> list[np.ndarray]:
    """``dg_rho,c / d(F, s)``, (s, 3, n), of each basis atom."""
    out = []
    for a in range(crystal.n_basis):
        rho, others, _ = crystal.stencil_sites(a, cutoff)
        out.append(deformation_parameters(rho, others, a, crystal.n_basis - 1).reshape(len(rho), 3, -1))
    return out


def _contracted(tensors: list[np.ndarray], slopes: list[np.ndarray]) -> np.ndarray:
    total: Any = 0.0
    for tensor, slope in zip(tensors, slopes, strict=True):
        part = tensor
        for _ in range(tensor.ndim // 2):
            part = np.tensordot(part, slope, axes=((0, 1), (0, 1)))
        total = total + part
    summed: np.ndarray = total
    return summed


def cell_sums(crystal: Crystal, cutoff: float, tensors: list[np.ndarray]) -> np.ndarray:
    """``d^j W`` (n, .., n), n = 9 + 3 (n_basis - 1), from the tensors (s, 3, s, 3, ..) of the basis atoms."""
    return _contracted(tensors, _slopes(crystal, cutoff))


def rotation_invariant(order: int, sums: np.ndarray, stress: np.ndarray, span: np.ndarray) -> np.ndarray:
    """The nearest first or second derivatives of W that turn with the crystal, whose basis is in equilibrium.

    ``W_F`` is symmetric, and ``W_ij,kl = C_ijkl + delta_ik W_jl`` and W_s,ij with C and W_s symmetric in ij.

    Parameters
    ----------
    order : {1, 2}
    sums : ndarray, shape (n,) or (n, n)
    stress : ndarray, shape (3, 3)
        Symmetric W_F.
    span : ndarray, shape (3, 3)
        Of :func:`~ase_qmmm.taylor.cauchy_born.spanned`: a strain of other directions is none.
    """
    out = sums.copy()
    if order == 1:
        out[:9], out[9:] = stress.ravel(), 0.0
        return out
    stressed = np.einsum("ik,jl->ijkl", np.eye(3), stress).reshape(9, 9)
    out[:9, :9] -= stressed
    # Symmetric strains within the span.
    swap = np.eye(9)[np.arange(9).reshape(3, 3).T.ravel()]
    strain = np.eye(len(out))
    strain[:9, :9] = np.kron(span, span) @ (np.eye(9) + swap) / 2
    symmetric: np.ndarray = strain @ out @ strain
    symmetric[:9, :9] += stressed
    return symmetric


def matched_site_tensors(
    crystal: Crystal, cutoff: float, tensors: list[np.ndarray], wanted: np.ndarray
) -> list[np.ndarray]:
    """The nearest derivatives of one order of the site energies with given sums over the crystal.

    Blocks of zeros stay so.

    Parameters
    ----------
    crystal : Crystal
    cutoff : float
        Å.
    tensors : list of ndarray, shape (s, 3, s, 3, ..)
        One per basis atom.
    wanted : ndarray, shape (n, .., n)
        As :func:`cell_sums` returns them.
    """
    slopes = _slopes(crystal, cutoff)
    missing = wanted - _contracted(tensors, slopes)
    scale = float(np.abs(wanted).max(initial=0.0)) + max(float(np.abs(t).max(initial=0.0)) for t in tensors)
    if np.abs(missing).max() < 1e-9 * scale:
        return tensors
    order = missing.ndim
    masks = [block_norms(t) > 0 for t in tensors]
    spread = [np.expand_dims(m, tuple(range(1, 2 * order, 2))) for m in masks]

    def change(multipliers: np.ndarray) -> list[np.ndarray]:
        out = []
        for mask, slope in zip(spread, slopes, strict=True):
            tensor = multipliers
            for _ in range(order):
                tensor = np.tensordot(tensor, slope, axes=(0, 2))
            out.append(tensor * mask)
        return out

    def system(vector: np.ndarray) -> np.ndarray:
        product: np.ndarray = _contracted(change(vector.reshape(missing.shape)), slopes).ravel()
        return product

    operator = LinearOperator((missing.size, missing.size), matvec=system, dtype=float)
    first = missing
    # Repeated for what rounding has left.
    for _ in range(3):
        step = change(minres(operator, missing.ravel(), rtol=1e-12)[0].reshape(missing.shape))
        tensors = [t + c for t, c in zip(tensors, step, strict=True)]
        missing = wanted - _contracted(tensors, slopes)
        if np.abs(missing).max() < 1e-10 * scale:
            break
    left = float(np.abs(missing).max())
    log.info(
        "order %d: sums over the crystal matched, %.2g before, %.2g after", order, np.abs(first).max(), left
    )
    if left > 1e-6 * scale:
        log.warning("order %d: within %g Å the sums cannot be matched; left are %.2g eV", order, cutoff, left)
    return tensors
