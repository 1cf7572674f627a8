"""Fermi functions as sums of a few simple poles, so that functions of H and M become sums of resolvents.

With ``G(z) = (z M - H)^-1`` and poles z_q in the upper half-plane,

    C phi(eps) C^H = sum_q [rho_q G(z_q) + (rho_q G(z_q))^H]  if  phi(e) = sum_q 2 Re[rho_q / (z_q - e)]

on the spectrum. The error of the matrix function is that of the scalar identity, wherever the resolvents come
from: a dense matrix, a perfect crystal, or a cluster with a self-energy.

Poles come from the adaptive rational approximation of Nakatsukasa, Sète and Trefethen (SIAM J. Sci. Comput.
40, A1494 (2018)) of the occupation, of the occupation times energy and of the grand potential together, and
are then polished by variable projection (Golub and Pereyra, SIAM J. Numer. Anal. 10, 413 (1973)). Half as
many poles reach a given error as with contour quadrature (docs/embedding.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.linalg import eigvals
from scipy.optimize import least_squares
from scipy.special import expit

from ..errors import NumericsError, check_positive

__all__ = ["FermiPoles", "fermi_poles"]


@dataclass(frozen=True)
class FermiPoles:
    """Poles and residues of the occupation and of the grand potential of one spin.

    Attributes
    ----------
    mu, kT : float
        eV.
    poles : ndarray of complex, shape (q,)
        z_q (eV), imaginary part positive.
    occupation : ndarray of complex, shape (q,)
        rho_q (eV) of ``f = 1 / (1 + exp((e - mu) / kT))``; ``z_q rho_q`` are those of ``e f``.
    grand : ndarray of complex, shape (q,)
        rho_q (eV^2) of ``-kT log(1 + exp((mu - e) / kT))``.
    bounds : tuple of float
        Interval (eV) for which the error holds.
    error : float
        Largest error of f on it, and of the two others relative to the larger of the distances from mu to
        the lower bound and 20 kT.
    """

    mu: float
    kT: float
    poles: np.ndarray
    occupation: np.ndarray
    grand: np.ndarray
    bounds: tuple[float, float]
    error: float

    def sum(self, residues: np.ndarray, energies: np.ndarray) -> np.ndarray:
        """``sum_q 2 Re[residues_q / (z_q - e)]`` at each energy (eV)."""
        e = np.asarray(energies, dtype=float)
        values: np.ndarray = 2 * (residues / (self.poles - e[..., None])).real.sum(axis=-1)
        return values


def fermi_poles(lowest: float, highest: float, mu: float, kT: float, error: float = 1e-6) -> FermiPoles:
    """Fewest poles found for a spectrum within given bounds.

    Parameters
    ----------
    lowest, highest : float
        Bounds of the spectrum (eV).
    mu, kT : float
        eV.
    error : float
        Largest error allowed, see :class:`FermiPoles`; 1e-10 is about the least that double precision allows.

    Raises
    ------
    ValueError
        An argument out of range, or an error below 1e-11.
    NumericsError
        No set of poles reached the error.
    """
    check_positive("kT", kT, "eV")
    if not 1e-11 <= check_positive("error", error) < 0.1:
        raise ValueError(f"error: got {error!r}, expected 1e-11 to 0.1")
    if not (np.isfinite([lowest, highest, mu]).all() and lowest < highest):
        raise ValueError(
            f"lowest, highest, mu: got {lowest!r}, {highest!r} and {mu!r}, expected finite numbers (eV), "
            "lowest < highest"
        )
    # Bounds in units of kT from a coarse ladder: nearly equal spectra share one set of poles.
    low = _rung(max((mu - lowest) / kT, 20.0))
    high = _rung(max((highest - mu) / kT, 20.0))
    poles, occupation, grand, found = _reduced(low, high, float(error))
    return FermiPoles(
        mu, kT, mu + kT * poles, kT * occupation, kT**2 * grand, (mu - kT * low, mu + kT * high), found
    )


def _rung(x: float) -> float:
    return float(20 * 1.25 ** np.ceil(np.log(x / 20) / np.log(1.25) - 1e-9))


@lru_cache(maxsize=64)
def _reduced(low: float, high: float, error: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Poles, residues of f and of the grand potential, and the error, for (e - mu) / kT in [-low, high]."""
    x = _grid(low, high, 900)
    functions, check_x = _functions(x, low), _grid(low, high, 7001)
    check = _functions(check_x, low)
    best = np.inf
    tried: set[int] = set()
    # Polishing gains one to two digits on the approximation that it starts from.
    for tolerance in error * np.geomspace(300.0, 1e-3, 15):
        start = _aaa_poles(x, functions, tolerance)
        if not len(start) or len(start) in tried:
            continue
        tried.add(len(start))
        poles = _polished(x, functions, start)
        if np.any(poles.imag < 0.5):  # Matsubara poles lie at pi and above
            continue
        occupation, grand = _residues(x, functions, poles, low)
        found = float(np.abs(_errors(check_x, check, poles, occupation, grand, low)).max())
        best = min(best, found)
        if found <= error:
            order = np.argsort(poles.imag)
            return poles[order], occupation[order], grand[order], found
    raise NumericsError(
        f"error: poles reach {best:.1e}, not {error:g}, for -{low:.0f} to {high:.0f} kT; allow more"
    )


def _grid(low: float, high: float, n: int) -> np.ndarray:
    """Points that resolve both the step at zero and the whole interval."""
    fine = np.sinh(np.linspace(np.arcsinh(-low), np.arcsinh(high), n))
    near = np.linspace(max(-low, -40.0), min(high, 40.0), n // 2)
    return np.unique(np.concatenate([fine, near, np.linspace(-low, high, n // 2)]))


def _functions(x: np.ndarray, low: float) -> np.ndarray:
    """f, x f and the grand potential, each of size one: (n, 3)."""
    f = expit(-x)
    return np.stack([f, x * f / low, -np.logaddexp(0.0, -x) / low], axis=1)


def _errors(
    x: np.ndarray,
    functions: np.ndarray,
    poles: np.ndarray,
    occupation: np.ndarray,
    grand: np.ndarray,
    low: float,
) -> np.ndarray:
    kernel = 1 / (poles - x[:, None])
    sums = 2 * (kernel @ np.stack([occupation, poles * occupation / low, grand / low], axis=1)).real
    errors: np.ndarray = sums - functions
    return errors


def _aaa_poles(x: np.ndarray, functions: np.ndarray, tolerance: float) -> np.ndarray:
    """Poles in the upper half-plane of one barycentric approximation of all functions (n, m)."""
    n, m = functions.shape
    free = np.ones(n, dtype=bool)
    support: list[int] = []
    approximation = np.tile(functions.mean(axis=0), (n, 1))
    weights = np.ones(1)
    for _ in range(60):
        errors = np.abs(functions - approximation).max(axis=1)
        errors[~free] = 0
        support.append(int(np.argmax(errors)))
        free[support[-1]] = False
        cauchy = 1 / (x[free, None] - x[support])
        loewner = [cauchy * (functions[free, k, None] - functions[support, k]) for k in range(m)]
        # The triangle has the same singular vectors as the tall matrix, at a fraction of the work.
        triangle = np.linalg.qr(np.vstack(loewner), mode="r")
        weights = np.linalg.svd(triangle)[2][-1]
        approximation = functions.copy()
        approximation[free] = (cauchy @ (weights[:, None] * functions[support])) / (cauchy @ weights)[:, None]
        if np.abs(functions - approximation).max() < tolerance:
            break
    size = len(support)
    left = np.zeros((size + 1, size + 1))
    left[0, 1:], left[1:, 0] = weights, 1.0
    left[1:, 1:] = np.diag(x[support])
    right = np.diag([0.0] + [1.0] * size)
    with np.errstate(all="ignore"):
        poles = eigvals(left, right)
    poles = poles[np.isfinite(poles)]
    upper: np.ndarray = poles[poles.imag > 0.1]
    return upper


def _basis(x: np.ndarray, poles: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cauchy kernel, and its real columns scaled to one with their norms."""
    kernel = 1 / (poles - x[:, None])
    columns = np.hstack([2 * kernel.real, -2 * kernel.imag])
    norms = np.linalg.norm(columns, axis=0)
    return kernel, columns / norms, norms


def _polished(x: np.ndarray, functions: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Poles that minimise the squared error, the residues eliminated (variable projection)."""
    n = len(start)
    scale = np.abs(start)

    def unpack(p: np.ndarray) -> np.ndarray:
        z: np.ndarray = p[:n] * scale + 1j * np.exp(p[n:])
        return z

    def residual(p: np.ndarray) -> np.ndarray:
        q = np.linalg.qr(_basis(x, unpack(p))[1])[0]
        r: np.ndarray = (functions - q @ (q.T @ functions)).T.ravel()
        return r

    def jacobian(p: np.ndarray) -> np.ndarray:
        z = unpack(p)
        kernel, columns, norms = _basis(x, z)
        q = np.linalg.qr(columns)[0]
        solution = np.linalg.lstsq(columns, functions, rcond=1e-14)[0] / norms[:, None]
        rows = []
        for k in range(functions.shape[1]):
            slope = kernel**2 * (solution[:n, k] + 1j * solution[n:, k])
            block = np.hstack([2 * slope.real * scale, -2 * slope.imag * z.imag])
            rows.append(block - q @ (q.T @ block))
        return np.vstack(rows)

    guess = np.concatenate([start.real / scale, np.log(start.imag)])
    return unpack(least_squares(residual, guess, jac=jacobian, method="lm", max_nfev=40, x_scale="jac").x)


def _residues(
    x: np.ndarray, functions: np.ndarray, poles: np.ndarray, low: float
) -> tuple[np.ndarray, np.ndarray]:
    """Residues of f, chosen so that those times z_q give x f as well, and of the grand potential."""
    n = len(poles)
    kernel, columns, norms = _basis(x, poles)
    times = kernel * poles / low
    both = np.vstack([columns, np.hstack([2 * times.real, -2 * times.imag]) / norms])
    target = np.concatenate([functions[:, 0], functions[:, 1]])
    f = np.linalg.lstsq(both, target, rcond=1e-15)[0] / norms
    g = np.linalg.lstsq(columns, functions[:, 2] * low, rcond=1e-15)[0] / norms
    return f[:n] + 1j * f[n:], g[:n] + 1j * g[n:]
