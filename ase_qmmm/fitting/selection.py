"""Which structures to compute next: those that tell a fit most."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from ase import Atoms
from scipy import linalg
from tqdm import tqdm

from ..ace import ACEBasis
from ..errors import check_positive, checked_keywords
from .fit import FitResult
from .observations import DEFAULT_WEIGHTS

__all__ = ["SELECTION_METHODS", "select"]

SELECTION_METHODS = ("d-optimal", "qr", "uncertainty")


@checked_keywords
def select(
    basis: ACEBasis,
    images: Sequence[Atoms],
    n: int,
    method: str = "d-optimal",
    *,
    result: FitResult | None = None,
    known: Iterable[Atoms] = (),
    regularisation: float = 1e-8,
    progress: bool = False,
) -> list[int]:
    """Choose structures for reference calculations; no data are needed, and the choice is deterministic.

    Parameters
    ----------
    basis : ACEBasis
    images : sequence of ase.Atoms
    n : int
        How many.
    method : {"d-optimal", "qr", "uncertainty"}
        ``"d-optimal"``: one after the other the structure that increases ``log det(sum_i A_i^T A_i)`` most, A
        its rows of energy (times 30 per square root of atoms) and forces [1]_. ``"qr"``: pivots of QR [2]_ of
        the energies per atom of all functions, one row per structure: spread of structures, quickest.
        ``"uncertainty"``: one after the other the structure with the largest standard deviation of a force,
        after the posterior of `result` was updated with those chosen, so that none is chosen for what
        another has told.
    result : FitResult, optional
        Of a Bayesian solver, with the same basis; for "uncertainty".
    known : iterable of ase.Atoms
        Structures that are in the data already.
    regularisation : float
        For "d-optimal": what is known of each coefficient beforehand, as a fraction of the mean square of its
        column.
    progress : bool

    Returns
    -------
    list of int
        Numbers of the images, the most useful first.

    Raises
    ------
    ValueError
        `n` larger than the number of images, an unknown method, "uncertainty" without a Bayesian fit of
        this basis.
    StructureError
        A structure that the basis cannot treat.

    References
    ----------
    .. [1] E. V. Podryabinkin, A. V. Shapeev, Comput. Mater. Sci. 140, 171 (2017), D-optimality.
    .. [2] P. A. Businger, G. H. Golub, Numer. Math. 7, 269 (1965).
    """
    images = list(images)
    if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= len(images):
        raise ValueError(f"n: got {n!r}, expected 1 to {len(images)}, the number of images")
    if method not in SELECTION_METHODS:
        raise ValueError(f"method: got {method!r}, expected one of {', '.join(SELECTION_METHODS)}")
    check_positive("regularisation", regularisation)
    if method == "qr":
        return _by_pivots(basis, images, n, list(known), progress)
    root = None
    if method == "uncertainty":
        if result is None or result.potential.basis != basis:
            raise ValueError("result: 'uncertainty' needs a fit with this basis")
        root = result.covariance_root
    blocks = [_rows(basis, a) for a in tqdm(images, desc="rows", disable=not progress)]
    before = [_rows(basis, a) for a in known]
    if root is None:
        return _d_optimal(blocks, before, n, regularisation)
    assert result is not None
    noise = result.solution.noise or 0.0
    return _by_uncertainty(blocks, before, n, root, noise)


def _rows(basis: ACEBasis, atoms: Atoms) -> np.ndarray:
    """Rows of forces and, last, of the energy, weighted as fits do by default."""
    rows = basis.rows(atoms, virial=False)
    weight = np.sqrt(DEFAULT_WEIGHTS["energy"] / max(len(atoms), 1))
    return np.vstack([rows.forces, weight * rows.energy])


def _by_pivots(basis: ACEBasis, images: list[Atoms], n: int, known: list[Atoms], progress: bool) -> list[int]:
    features = np.array(
        [
            basis.rows(a, forces=False, virial=False).energy / max(len(a), 1)
            for a in tqdm([*images, *known], desc="rows", disable=not progress)
        ]
    )
    scale = np.sqrt(np.mean(features**2, axis=0))
    scale[scale == 0.0] = 1.0
    features /= scale
    pool, there = features[: len(images)], features[len(images) :]
    if len(there):
        # What lies in the span of the known structures is not new.
        u, values, v = linalg.svd(there, full_matrices=False)
        span = v[values > 1e-10 * values[0]]
        pool = pool - (pool @ span.T) @ span
    pivots = linalg.qr(pool.T, mode="r", pivoting=True, check_finite=False)[1]
    return [int(k) for k in pivots[:n]]


def _d_optimal(
    blocks: list[np.ndarray], before: list[np.ndarray], n: int, regularisation: float
) -> list[int]:
    """Greedy: gains ``log det(1 + A_i M^-1 A_i^T)`` only fall, so that old ones are bounds of the new."""
    everything = [*blocks, *before]
    count = sum(len(b) for b in everything)
    scale = np.sqrt(sum((b**2).sum(axis=0) for b in everything) / count)
    scale[scale == 0.0] = 1.0
    # No more rows than coefficients: A^T A is what matters.
    reduced = [linalg.qr(b / scale, mode="r")[0][: b.shape[1]] for b in blocks]
    m = regularisation * np.eye(len(scale))
    for b in before:
        m += (b / scale).T @ (b / scale)

    def gain(k: int, factor: np.ndarray) -> float:
        half = linalg.solve_triangular(factor, reduced[k].T, lower=True, check_finite=False)
        gram = np.eye(half.shape[1]) + half.T @ half
        return float(2 * np.log(np.diag(linalg.cholesky(gram, lower=True))).sum())

    bounds = np.full(len(blocks), np.inf)
    chosen: list[int] = []
    while len(chosen) < n:
        factor = linalg.cholesky(m, lower=True)
        fresh = np.zeros(len(blocks), dtype=bool)
        while True:
            best = int(np.argmax(bounds))
            if fresh[best]:
                break
            bounds[best] = gain(best, factor)
            fresh[best] = True
        chosen.append(best)
        bounds[best] = -np.inf
        m = m + reduced[best].T @ reduced[best]
    return chosen


def _by_uncertainty(
    blocks: list[np.ndarray], before: list[np.ndarray], n: int, root: np.ndarray, noise: float
) -> list[int]:
    for b in before:
        root = _updated(root, b, noise)
    left = list(range(len(blocks)))
    chosen: list[int] = []
    for _ in range(n):
        largest = [_largest_force_variance(blocks[k], root) for k in left]
        best = left.pop(int(np.argmax(largest)))
        chosen.append(best)
        root = _updated(root, blocks[best], noise)
    return chosen


def _largest_force_variance(block: np.ndarray, root: np.ndarray) -> float:
    variances = ((block[:-1] @ root) ** 2).sum(axis=1)
    return float(variances.reshape(-1, 3).sum(axis=1).max(initial=0.0))


def _updated(root: np.ndarray, block: np.ndarray, noise: float) -> np.ndarray:
    """Square root of the covariance once these rows were observed with this noise."""
    spread = block @ root
    gram = spread.T @ spread
    # L (1 + L^T A^T A L / noise^2)^-1 L^T, by eigenvectors of the symmetric matrix.
    values, vectors = linalg.eigh(gram)
    floor = max(noise**2, 1e-12 * float(values.max(initial=0.0)), np.finfo(float).tiny)
    updated: np.ndarray = (root @ vectors) / np.sqrt(1.0 + values.clip(min=0.0) / floor)
    return updated
