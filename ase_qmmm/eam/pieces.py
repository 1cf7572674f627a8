"""Functions of one variable as quintic polynomials on equal intervals, which the kernels evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from math import comb

import numpy as np
from scipy.interpolate import make_interp_spline

__all__ = ["Pieces", "hermite", "lammps_cubic", "spline", "tail"]


@dataclass(frozen=True)
class Pieces:
    """``f(x) = sum_k c_mk p^k`` with ``x = (m + p) step`` on intervals m = 0, 1 ..

    Attributes
    ----------
    coefficients : ndarray, shape (n, 6)
    step : float
    linear : bool
        Whether f goes on as a straight line beyond the last interval; otherwise it is zero there.
    """

    coefficients: np.ndarray
    step: float
    linear: bool = False

    @property
    def end(self) -> float:
        """Where the last interval ends."""
        return len(self.coefficients) * self.step

    def derivatives(self, x: np.ndarray, order: int) -> np.ndarray:
        """Stack of derivatives (order + 1, ...)."""
        x = np.asarray(x, dtype=float)
        m = np.clip((x / self.step).astype(int), 0, len(self.coefficients) - 1)
        beyond = x > self.end
        p = np.where(beyond, 1.0, x / self.step - m)
        c = np.moveaxis(self.coefficients[m], -1, 0)
        out = np.zeros((order + 1, *x.shape))
        for k in range(min(order, 5) + 1):
            value = np.zeros(x.shape)
            for n in range(5, k - 1, -1):
                value = value * p + c[n] * np.prod(np.arange(n - k + 1, n + 1))
            out[k] = value / self.step**k
        if self.linear:
            if order > 0:
                out[0] += np.where(beyond, out[1] * (x - self.end), 0.0)
            out[2:, beyond] = 0.0
        else:
            out[:, beyond] = 0.0
        return out


def hermite(left: np.ndarray, right: np.ndarray, step: float) -> np.ndarray:
    """Coefficients (n, 6) of the quintics with the values, slopes and curvatures (3, n) at both ends."""
    a = left * np.array([1.0, step, step**2 / 2])[:, None]
    value = right[0] - a.sum(axis=0)
    slope = right[1] * step - a[1] - 2 * a[2]
    curvature = right[2] * step**2 - 2 * a[2]
    return np.stack(
        [
            *a,
            10 * value - 4 * slope + curvature / 2,
            -15 * value + 7 * slope - curvature,
            6 * value - 3 * slope + curvature / 2,
        ],
        axis=1,
    )


def lammps_cubic(values: np.ndarray, step: float) -> np.ndarray:
    """Coefficients (n - 1, 6) of the interpolation that LAMMPS uses, degrees four and five zero.

    Cubics with given slopes at the nodes: five-point differences, three-point ones at the second node from
    each end, one-sided at the ends. Once continuously differentiable.

    References
    ----------
    S. M. Foiles, M. I. Baskes, M. S. Daw, the program DYNAMO; LAMMPS, ``PairEAM::interpolate``.
    """
    f = np.asarray(values, dtype=float)
    slope = np.empty_like(f)
    slope[0], slope[-1] = f[1] - f[0], f[-1] - f[-2]
    slope[1], slope[-2] = (f[2] - f[0]) / 2, (f[-1] - f[-3]) / 2
    slope[2:-2] = ((f[:-4] - f[4:]) + 8 * (f[3:-1] - f[1:-3])) / 12
    rise = f[1:] - f[:-1]
    square = 3 * rise - 2 * slope[:-1] - slope[1:]
    cube = slope[:-1] + slope[1:] - 2 * rise
    zero = np.zeros_like(rise)
    return np.stack([f[:-1], slope[:-1], square, cube, zero, zero], axis=1)


def tail(mismatch: np.ndarray, end: float, width: float, x: np.ndarray, order: int) -> np.ndarray:
    """Derivatives (order + 1, ...) of the polynomial that grows from zero to given derivatives at `end`.

    Of degree 2 K - 1; its first K derivatives are `mismatch` at `end` and zero at ``end - width``; zero
    outside. A negative width is a window beyond `end`.
    """
    n = len(mismatch)
    # With s = (end - x) / width: (1 - s)^n times a polynomial that is fixed by the Taylor series at s = 0.
    series = [m * (-width) ** k / np.prod(np.arange(1.0, k + 1)) for k, m in enumerate(mismatch)]
    inverse = [comb(n - 1 + k, k) for k in range(n)]
    factor = np.polynomial.Polynomial(np.convolve(series, inverse)[:n])
    poly = factor * np.polynomial.Polynomial([1.0, -1.0]) ** n
    s = (end - np.asarray(x, dtype=float)) / width
    inside = (s >= 0) & (s < 1)
    out = np.zeros((order + 1, *s.shape))
    for k in range(order + 1):
        out[k, inside] = (poly if k == 0 else poly.deriv(k))(s[inside]) / (-width) ** k
    return out


def spline(values: np.ndarray, step: float, cutoff: float | None = None, width: float = 0.0) -> Pieces:
    """Four times differentiable quintic spline through values at 0, step, 2 step ..

    Parameters
    ----------
    values : ndarray, shape (n,)
    step : float
    cutoff : float, optional
        End the function there with value, slope and curvature zero: a polynomial (:func:`tail`) over the last
        `width` takes off what value and slope the table has left, the last interval bends the curvature. A
        table that stops more than a step short of the cutoff ends at its last node. Without a cutoff the
        function goes on linearly.
    width : float
    """
    through = make_interp_spline(np.arange(len(values)) * step, values, k=5)
    if cutoff is None:
        nodes = np.arange(len(values)) * step
        stack = np.array([through(nodes, nu=k) for k in range(3)])
        return Pieces(hermite(stack[:, :-1], stack[:, 1:], step), step, linear=True)
    # Equal intervals that end on the cutoff; those of the table where it does.
    n = int(np.ceil(cutoff / step - 1e-6))
    if n > len(values):
        n, cutoff = len(values) - 1, (len(values) - 1) * step
    finer = cutoff / n
    nodes = np.arange(n + 1) * finer
    stack = np.array([through(nodes, nu=k) for k in range(3)])
    stack -= tail(_left_over(values, step, cutoff), cutoff, width, nodes, 2)
    stack[:, -1] = 0.0
    return Pieces(hermite(stack[:, :-1], stack[:, 1:], finer), finer)


def _left_over(values: np.ndarray, step: float, end: float) -> np.ndarray:
    """Value and slope at `end` from a cubic through eight nodes: the noise of the last digits stays out."""
    last = min(len(values), int(end / step + 1e-6) + 1)
    x = (np.arange(last - 8, last) - end / step) / 8
    cubic = np.polynomial.Polynomial.fit(x, values[last - 8 : last], 3)
    return np.array([cubic(0.0), cubic.deriv()(0.0) / (8 * step)])
