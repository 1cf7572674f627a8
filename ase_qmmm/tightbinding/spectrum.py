"""k-points, generalised eigenstates and the occupation of levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import kpts2ndarray
from scipy.linalg import LinAlgError, eigh, eigvalsh
from scipy.optimize import brentq
from scipy.special import expit, xlogy

from ..errors import NumericsError
from .matrices import Matrices

__all__ = ["KPoint", "States", "reduced_kpoints", "eigenstates", "fermi", "fermi_slopes", "entropy", "find_mu"]


@dataclass
class States:
    """Eigenstates at one k-point: ``H C = M C diag(levels)``, ``C^H M C = 1``."""

    kpoint: np.ndarray  # (3,) scaled
    weight: float
    levels: np.ndarray  # (N,) eV
    vectors: np.ndarray  # (N, N)


KPoint = tuple[np.ndarray, float]


def reduced_kpoints(kpts: Any, atoms: Atoms) -> list[KPoint]:
    """k-points (scaled) and weights, one of each pair k, -k (time reversal).

    Raises
    ------
    ValueError
        `kpts` is not what ``ase.calculators.calculator.kpts2ndarray`` takes, or samples a direction
        without periodicity at other than Gamma.
    """
    try:
        points = np.asarray(kpts2ndarray(kpts, atoms), dtype=float)
    except Exception as error:
        raise ValueError(f"kpts: got {kpts!r}, expected what ase.calculators.calculator.kpts2ndarray takes: {error}") from error
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all() or not len(points):
        raise ValueError(f"kpts: got {kpts!r}, expected a grid of three positive integers or an (n, 3) array")
    off = np.argwhere(np.abs(points[:, ~atoms.pbc]) > 1e-12)
    if len(off):
        axis = int(np.flatnonzero(~atoms.pbc)[off[0][1]])
        raise ValueError(f"kpts: {kpts!r} samples direction {axis}, which is not periodic; use 1 there")
    total = len(points)
    kept: list[tuple[np.ndarray, float]] = []
    used = np.zeros(total, dtype=bool)
    for index, point in enumerate(points):
        if used[index]:
            continue
        difference = points + point  # k and -k agree up to a reciprocal vector
        partners = np.all(np.abs(difference - np.rint(difference)) < 1e-10, axis=1) & ~used
        partners[index] = True
        used |= partners
        kept.append((point, float(partners.sum()) / total))
    return kept


def eigenstates(matrices: Matrices, kpoint: np.ndarray, weight: float) -> States:
    """Solve the generalised eigenproblem at one k-point with LAPACK's divide-and-conquer driver.

    Raises
    ------
    NumericsError
        The overlap matrix is not positive definite (atoms too close for the model), with its smallest
        eigenvalue and the closest pair.
    """
    if matrices.size == 0:
        return States(kpoint, weight, np.zeros(0), np.zeros((0, 0)))
    # eigh works on Fortran order; a symmetric matrix is its own transpose, a Hermitian one its conjugate.
    h = np.asfortranarray(matrices.hamiltonian(kpoint))
    m = np.asfortranarray(matrices.overlap(kpoint))
    try:
        levels, vectors = eigh(h, m, driver="gvd", overwrite_a=True, overwrite_b=True, check_finite=False)
    except LinAlgError as error:
        lowest = eigvalsh(matrices.overlap(kpoint), subset_by_index=(0, 0))[0]
        pair = matrices.closest_pair
        where = f"; closest pair: atoms {pair[0]} and {pair[1]}, {pair[2]:.3f} Å" if pair else ""
        raise NumericsError(
            f"{matrices.model.name}: the overlap matrix is not positive definite (smallest eigenvalue "
            f"{lowest:.3g}){where}; the model does not hold at such short distances, move these atoms apart"
        ) from error
    return States(kpoint, weight, levels, vectors)


def fermi(levels: np.ndarray, mu: float, kT: float) -> np.ndarray:
    """Fermi–Dirac occupation ``1 / (1 + exp((eps - mu) / kT))``."""
    f: np.ndarray = expit(_clipped(levels, mu, kT))
    return f


def _clipped(levels: np.ndarray, mu: float, kT: float) -> np.ndarray:
    # Beyond 500 kT an occupation is 0 or 1 to 1e-217; clipping keeps exp from under- and overflow.
    x: np.ndarray = np.clip((mu - levels) / kT, -500.0, 500.0)
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


def find_mu(levels: list[np.ndarray], weights: list[float], n_electrons: float, kT: float) -> float:
    """Chemical potential (eV) at which ``sum_k w_k sum_s 2 f(eps_ks)`` equals `n_electrons`.

    Raises
    ------
    NumericsError
        The model has too few orbitals for its electrons.
    """
    everything = np.concatenate(levels)
    factors = np.concatenate([np.full(len(e), 2.0 * w) for e, w in zip(levels, weights, strict=True)])
    capacity = factors.sum()
    if not 0 < n_electrons < capacity:
        raise NumericsError(f"{n_electrons:g} electrons do not fit {capacity:g} places: no chemical potential exists")

    def excess(mu: float) -> float:
        return float(factors @ fermi(everything, mu, kT)) - n_electrons

    # Far enough below and above all levels for the count to be on either side.
    margin = kT * (np.log(capacity / min(n_electrons, capacity - n_electrons)) + 5.0)
    low, high = everything.min() - margin, everything.max() + margin
    mu: float = brentq(excess, low, high, xtol=1e-14, rtol=8.9e-16, maxiter=500)
    for _ in range(3):  # Newton steps polish the count to rounding
        slope = -float(factors @ fermi_slopes(everything, mu, kT)[0])
        if slope < 1e-10:
            break
        mu -= excess(mu) / slope
    return mu
