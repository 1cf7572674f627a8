"""k-points, generalised eigenstates and the occupation of levels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import kpts2ndarray
from scipy.linalg import LinAlgError, get_blas_funcs, get_lapack_funcs
from scipy.optimize import brentq
from scipy.special import expit, xlogy

from ..errors import NumericsError
from .matrices import Matrices

__all__ = [
    "ChemicalPotential",
    "States",
    "eigenstates",
    "entropy",
    "fermi",
    "fermi_slopes",
    "find_mu",
    "overlap_error",
    "reduced_kpoints",
]


@dataclass
class States:
    """Eigenstates at a batch of k-points: ``H C = M C diag(levels)``, ``C^H M C = 1``.

    All levels are there; vectors may be those of the lowest m levels only.

    Weights sum to one over all k-points and spins, so that two electrons per level times weight is right for
    models with and without spin.
    """

    kpoints: np.ndarray  # (k, 3) scaled
    weights: np.ndarray  # (k,)
    levels: np.ndarray  # (k, N) eV
    vectors: np.ndarray  # (k, N, m)
    spin: int = 0

    @property
    def n_vectors(self) -> int:
        """Number m of levels that have a vector."""
        return int(self.vectors.shape[2])


# Up to this size all k-points are solved in one batched call, which saves the overhead of each.
_BATCH_SIZE = 64
_BATCH_ELEMENTS = 2_000_000
# Reflectors that are applied at once.
_REFLECTORS = 64
# Rows a multiple of this many bytes apart compete for the same places of the caches.
_ALIASED = 4096


def reduced_kpoints(kpts: Any, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
    """k-points (k, 3), scaled, and weights (k,); one of each pair k, -k (time reversal).

    Raises
    ------
    ValueError
        `kpts` is not what ``ase.calculators.calculator.kpts2ndarray`` takes, or samples a direction
        without periodicity at other than Gamma.
    """
    if isinstance(kpts, tuple) and not any(map(np.ndim, kpts)) and kpts == (1, 1, 1):
        return np.zeros((1, 3)), np.ones(1)
    try:
        points = np.asarray(kpts2ndarray(kpts, atoms), dtype=float)
    except Exception as error:
        raise ValueError(
            f"kpts: got {kpts!r}, expected what ase.calculators.calculator.kpts2ndarray takes: {error}"
        ) from error
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all() or not len(points):
        raise ValueError(f"kpts: got {kpts!r}, expected a grid of three positive integers or an (n, 3) array")
    off = np.argwhere(np.abs(points[:, ~atoms.pbc]) > 1e-12)
    if len(off):
        axis = int(np.flatnonzero(~atoms.pbc)[off[0][1]])
        raise ValueError(f"kpts: {kpts!r} samples direction {axis}, which is not periodic; use 1 there")
    # Fractions on a fine integer grid, so that k and -k + G compare exactly.
    grid = 10_000_000
    codes = np.rint((points % 1.0) * grid).astype(np.int64) % grid
    negative = (grid - codes) % grid
    different = codes != negative
    first_axis = np.argmax(different, axis=1)
    index = np.arange(len(codes))
    flip = negative[index, first_axis] < codes[index, first_axis]
    canonical = np.where(flip[:, None], negative, codes)
    _, first, counts = np.unique(canonical, axis=0, return_index=True, return_counts=True)
    order = np.argsort(first)
    return points[first[order]], counts[order] / len(points)


def eigenstates(
    matrices: Matrices,
    kpoints: np.ndarray,
    weights: np.ndarray,
    n_vectors: Callable[[np.ndarray], int] | None = None,
) -> list[States]:
    """Solve the generalised eigenproblem at each k-point.

    Small matrices go through batched LAPACK calls, large ones one by one through the steps of its
    divide-and-conquer driver, in real arithmetic where k and -k are equivalent.

    Parameters
    ----------
    matrices : Matrices
    kpoints : ndarray, shape (k, 3)
    weights : ndarray, shape (k,)
    n_vectors : callable, optional
        From the levels (N,) of a k-point how many of the lowest need vectors; a large matrix then makes
        only these. Default all.

    Raises
    ------
    NumericsError
        An overlap matrix is not positive definite (atoms too close for the model), with its smallest
        eigenvalue and the closest pair.
    """
    n = matrices.size
    weights = weights / matrices.model.n_spin
    if n == 0:
        return []
    states = []
    step = max(1, _BATCH_ELEMENTS // n**2) if n <= _BATCH_SIZE else 1
    for start in range(0, len(kpoints), step):
        batch = slice(start, start + step)
        k = kpoints[batch]
        try:
            if n <= _BATCH_SIZE:
                levels, vectors = _solve_batch(matrices, k)
            else:
                levels, vectors = _solve_one(matrices, k, n_vectors)
        except (LinAlgError, np.linalg.LinAlgError) as error:
            raise overlap_error(matrices, k) from error
        states.append(States(k, weights[batch], levels, vectors, matrices.spin))
    return states


def _solve_one(
    matrices: Matrices, k: np.ndarray, n_vectors: Callable[[np.ndarray], int] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The steps of LAPACK's divide-and-conquer driver ``sygvd``, with vectors of the lowest levels only.

    The levels are known before the vectors of the tridiagonal matrix are turned back into those of the
    problem, which is a third of the work and goes vector by vector. Computing half of the vectors of the
    tridiagonal matrix (``stemr``, or ``sygvx`` with a subset) takes longer than all by divide and conquer.
    """
    h = matrices.hamiltonian_triangle(k)[0].T
    m = matrices.overlap_triangle(k)[0].T
    n = len(h)
    standard, tridiagonal = ("hegst", "hetrd") if np.iscomplexobj(h) else ("sygst", "sytrd")
    names = ("potrf", standard, tridiagonal, f"{tridiagonal}_lwork")
    potrf, gst, trd, trd_lwork = get_lapack_funcs(names, (h,))
    (stevd,) = get_lapack_funcs(("stevd",), (h.real,))
    (trsm,) = get_blas_funcs(("trsm",), (h,))

    factor, info = potrf(m, lower=1, clean=0, overwrite_a=1)
    _check(info, "potrf")
    h, info = gst(h, factor, lower=1, overwrite_a=1)
    _check(info, "sygst")
    h, diagonal, off, tau, info = trd(h, lower=1, lwork=int(trd_lwork(n, lower=1)[0].real), overwrite_a=1)
    _check(info, "sytrd")
    levels, rotation, info = stevd(diagonal, off, compute_v=1)
    _check(info, "stevd")
    count = n if n_vectors is None else min(max(1, n_vectors(levels)), n)
    # States of an orbital lie in a row, so that LAPACK sees the transpose: C^H = (Q Z)^H L^-1.
    padded = count + 8 if count * h.itemsize % _ALIASED == 0 else count
    vectors = np.zeros((n, padded), dtype=h.dtype)
    vectors[:, :count] = rotation[:, :count]
    del rotation
    _reflect(h, tau, vectors)
    del h
    is_complex = np.iscomplexobj(vectors)
    if is_complex:
        np.conjugate(vectors, out=vectors)
    vectors = trsm(1.0, factor, vectors.T, side=1, lower=1, overwrite_b=1).T
    vectors = np.ascontiguousarray(vectors[:, :count])
    return levels[None], np.conjugate(vectors, out=vectors)[None] if is_complex else vectors[None]


def _reflect(h: np.ndarray, tau: np.ndarray, vectors: np.ndarray) -> None:
    """Multiply `vectors` (N, s), C order, by the unitary matrix of ``sytrd`` (lower) from the left, in place.

    As ``ormqr``, with larger blocks: the product of some reflectors is ``1 - V T V^H``, V unit lower
    trapezoidal, ``T^-1`` the upper triangle of ``V^H V`` with 1 / tau on its diagonal (Puglisi, SIAM J. Sci.
    Stat. Comput. 13, 723 (1992)).
    """
    names = ("gemm", "trsm", "herk" if np.iscomplexobj(h) else "syrk")
    gemm, trsm, rank_k = get_blas_funcs(names, (h,))
    below = np.tri(_REFLECTORS, k=-1)
    for low in reversed(range(0, len(tau), _REFLECTORS)):
        high = min(low + _REFLECTORS, len(tau))
        # The reflectors start one below the diagonal.
        v = h[low + 1 :, low:high].copy(order="F")
        v[: high - low] *= below[: high - low, : high - low]
        np.fill_diagonal(v, 1.0)
        scale = tau[low:high].copy()
        if not scale.all():
            v[:, scale == 0] = 0.0  # nothing to reflect
            scale[scale == 0] = 1.0
        inverse = rank_k(1.0, v, trans=2 if np.iscomplexobj(v) else 1)
        np.fill_diagonal(inverse, 1 / scale)
        # BLAS takes the transpose of arrays in C order, and adds in place: rows^T -= (V^H rows)^T T^T V^T.
        rows = vectors[low + 1 :].T
        product = trsm(1.0, inverse, gemm(1.0, rows, v.conj()), side=1, trans_a=1, overwrite_b=1)
        gemm(-1.0, product, v, beta=1.0, c=rows, trans_b=1, overwrite_c=1)


def _check(info: int, routine: str) -> None:
    if info != 0:
        raise LinAlgError(f"LAPACK {routine}: info = {info}")


def _solve_batch(matrices: Matrices, k: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    factor = np.linalg.inv(np.linalg.cholesky(matrices.overlap(k)))
    adjoint = factor.conj().swapaxes(1, 2)
    levels, vectors = np.linalg.eigh(factor @ matrices.hamiltonian(k) @ adjoint)
    return levels, adjoint @ vectors


def overlap_error(matrices: Matrices, k: np.ndarray) -> NumericsError:
    """The error for an overlap matrix that is not positive definite at one of the k-points (k, 3)."""
    lowest = np.linalg.eigvalsh(matrices.overlap(k)).min()
    pair = matrices.closest_pair
    where = f"; closest pair: atoms {pair[0]} and {pair[1]}, {pair[2]:.3f} Å" if pair else ""
    return NumericsError(
        f"{matrices.model.name}: the overlap matrix is not positive definite (smallest eigenvalue "
        f"{lowest:.3g}){where}; the model does not hold at such short distances, move these atoms apart"
    )


class ChemicalPotential(float):
    """A chemical potential (eV) with the digits that a float drops.

    Rounding of mu at 1e-15 eV changes the occupation of a level at mu by 3e-10 for kT = 1e-6 eV. With
    `rest` (eV) added after the level is subtracted, the occupations sum to the number of electrons.
    """

    rest: float = 0.0


def fermi(levels: np.ndarray, mu: float, kT: float) -> np.ndarray:
    """Fermi–Dirac occupation ``1 / (1 + exp((eps - mu) / kT))``."""
    f: np.ndarray = expit(_clipped(levels, mu, kT))
    return f


def _clipped(levels: np.ndarray, mu: float, kT: float) -> np.ndarray:
    # Beyond 500 kT an occupation is 0 or 1 to 1e-217; clipping keeps exp from under- and overflow.
    x: np.ndarray = np.clip((mu - levels + getattr(mu, "rest", 0.0)) / kT, -500.0, 500.0)
    return x


def fermi_slopes(levels: np.ndarray, mu: float, kT: float) -> tuple[np.ndarray, np.ndarray]:
    """First and second derivative of the occupation with respect to the level (1/eV, 1/eV^2)."""
    f = fermi(levels, mu, kT)
    rest = expit(-_clipped(levels, mu, kT))
    first = -f * rest / kT
    return first, first * (f - rest) / kT


def entropy(levels: np.ndarray, mu: float, kT: float) -> np.ndarray:
    """``-(f log f + (1 - f) log(1 - f))`` of each level."""
    x = _clipped(levels, mu, kT)
    f, rest = expit(x), expit(-x)
    s: np.ndarray = -(xlogy(f, f) + xlogy(rest, rest))
    return s


def find_mu(states: list[States], n_electrons: float, kT: float) -> ChemicalPotential:
    """Chemical potential (eV) at which ``sum_k w_k sum_s 2 f(eps_ks)`` equals `n_electrons`.

    The count is exact to rounding for any kT > 0, also where degenerate levels share electrons. Where a gap
    is so wide that the count does not determine mu, electrons above balance holes below it; mu tends to
    the middle of the gap for kT -> 0.

    Raises
    ------
    NumericsError
        The model has too few orbitals for its electrons.
    """
    everything = np.concatenate([s.levels.ravel() for s in states])
    factors = np.concatenate([np.repeat(2.0 * s.weights, s.levels.shape[1]) for s in states])
    capacity = factors.sum()
    if not 0 < n_electrons < capacity * (1 - 1e-10):  # the weights of k-points sum to one within rounding
        raise NumericsError(
            f"{n_electrons:g} electrons do not fit {capacity:g} places: no chemical potential exists"
        )
    middle = _mu_in_gap(everything, factors, n_electrons, kT)
    if middle is not None:
        return ChemicalPotential(middle)

    def excess(mu: float) -> float:
        return float(factors @ fermi(everything, mu, kT)) - n_electrons

    # Far enough below and above all levels for the count to be on either side; the second term is for a kT
    # below the rounding of the levels.
    margin = kT * (np.log(capacity / min(n_electrons, capacity - n_electrons)) + 5.0) + 1e-9
    low, high = everything.min() - margin, everything.max() + margin
    mu = ChemicalPotential(brentq(excess, low, high, xtol=1e-14, rtol=8.9e-16, maxiter=500))

    def excess_of_rest(rest: float) -> float:
        mu.rest = rest
        return excess(mu)

    reach = 1e-13 + 4e-15 * abs(mu)  # more than the tolerance of the first search
    if excess_of_rest(-reach) < 0 < excess_of_rest(reach):
        mu.rest = brentq(excess_of_rest, -reach, reach, xtol=1e-15 * min(kT, 1.0), rtol=8.9e-16, maxiter=500)
    else:
        mu.rest = 0.0
    return mu


def _mu_in_gap(levels: np.ndarray, factors: np.ndarray, n_electrons: float, kT: float) -> float | None:
    """Chemical potential (eV) in the middle of a gap of 40 kT or more, None for a smaller gap or a metal.

    Occupations of e^-20 and less are lost in the count, but known: they are Boltzmann factors.
    """
    order = np.argsort(levels)
    levels, factors = levels[order], factors[order]
    filled = np.cumsum(factors)
    top = int(np.searchsorted(filled, n_electrons * (1 - 1e-10)))
    if abs(filled[top] - n_electrons) > 1e-10 * n_electrons or levels[top + 1] - levels[top] < 40 * kT:
        return None
    holes = np.log(factors[: top + 1] @ np.exp((levels[: top + 1] - levels[top]) / kT))
    electrons = np.log(factors[top + 1 :] @ np.exp((levels[top + 1] - levels[top + 1 :]) / kT))
    return float((levels[top] + levels[top + 1] + kT * (holes - electrons)) / 2)
