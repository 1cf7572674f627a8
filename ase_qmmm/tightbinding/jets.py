"""Derivatives of plain functions of one variable, exact to rounding, by truncated Taylor series.

A function written with NumPy, such as ``lambda r: -1.2 * np.exp(-3 * (r - 1))``, is called with a
:class:`TaylorSeries` in place of an array. Each operation maps the coefficients of its arguments to those of
its result (A. Griewank and A. Walther, Evaluating Derivatives, SIAM (2008), chapter 13), so that neither
formulas nor step sizes are needed. Interpolation would lose four digits per derivative, differences more.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

__all__ = ["TaylorSeries", "derivatives"]


def derivatives(
    function: Callable[[Any], Any], x: np.ndarray, order: int, name: str = "function"
) -> np.ndarray:
    """Stack of derivatives of a function of one variable.

    Parameters
    ----------
    function : callable
        Maps an array to an array of the same shape, by arithmetic, powers, ``np.exp``, ``log``, ``sqrt``,
        ``sin``, ``cos``, ``sinh``, ``cosh``, ``tanh``, ``abs``, comparisons and ``np.where``. Instead it may
        have a method ``derivative(k)`` that returns its k-th derivative, as the splines of SciPy do.
    x : ndarray, shape (...)
    order : int
        Highest derivative.
    name : str
        What error messages call the function.

    Returns
    -------
    ndarray, shape (order + 1, ...)

    Raises
    ------
    TypeError
        The function uses an operation that has no rule here, or returns nothing.
    ValueError
        It returns something of another shape.

    Examples
    --------
    >>> import numpy as np
    >>> derivatives(lambda r: r**3, np.array([2.0]), 3).ravel().tolist()
    [8.0, 12.0, 12.0, 6.0]
    """
    points = np.asarray(x, dtype=float)
    if hasattr(function, "derivative"):
        stack = [function if k == 0 else function.derivative(k) for k in range(order + 1)]
        return np.array([_shaped(f(points), points, name) for f in stack])
    coefficients = np.zeros((order + 1, *points.shape))
    coefficients[0] = points
    if order >= 1:
        coefficients[1] = 1.0
    try:
        value = function(TaylorSeries(coefficients))
    except (AttributeError, TypeError, ValueError) as error:
        raise TypeError(
            f"{name}: cannot be differentiated ({error}); write it with arithmetic and np.exp, log, sqrt, "
            f"sin, cos, sinh, cosh, tanh, abs or np.where, or give it a method derivative(k)"
        ) from error
    if isinstance(value, TaylorSeries):
        return np.array([factorial(k) * c for k, c in enumerate(value.coefficients)])
    if value is None:
        raise TypeError(f"{name}: returns nothing, expected an array of the shape of its argument")
    out = np.zeros_like(coefficients)
    out[0] = _shaped(value, points, name)
    return out


def _shaped(value: Any, points: np.ndarray, name: str) -> np.ndarray:
    array = np.asarray(value, dtype=float)
    if array.shape not in ((), points.shape):
        raise ValueError(
            f"{name}: got shape {array.shape} for arguments of shape {points.shape}, expected the same shape"
        )
    return np.broadcast_to(array, points.shape)


class TaylorSeries(NDArrayOperatorsMixin):
    """Truncated Taylor series at many points.

    Parameters
    ----------
    coefficients : ndarray, shape (order + 1, ...)
        Derivatives over factorials.
    """

    def __init__(self, coefficients: np.ndarray) -> None:
        self.coefficients = coefficients

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array of points."""
        return self.coefficients.shape[1:]

    def __len__(self) -> int:
        return len(self.coefficients[0])

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method == "__call__" and not options:
            if ufunc in _COMPARISONS:
                return ufunc(*(a.coefficients[0] if isinstance(a, TaylorSeries) else a for a in inputs))
            if ufunc in (np.power, np.float_power):
                return _power(*inputs)
            rule = _RULES.get(ufunc)
            if rule is not None:
                series = [a if isinstance(a, TaylorSeries) else self._constant(a) for a in inputs]
                return TaylorSeries(rule(*(s.coefficients for s in series)))
        what = "" if method == "__call__" else f".{method}"
        raise TypeError(f"no rule for np.{ufunc.__name__}{what}{' in place' * ('out' in options)}")

    def __array_function__(self, function: Any, types: Any, inputs: Any, options: Any) -> Any:
        if function is not np.where or len(inputs) != 3 or options:
            raise TypeError(f"no rule for np.{function.__name__}")
        condition, a, b = inputs
        a, b = (s if isinstance(s, TaylorSeries) else self._constant(s) for s in (a, b))
        return TaylorSeries(np.where(condition, a.coefficients, b.coefficients))

    def _constant(self, value: Any) -> TaylorSeries:
        coefficients = np.zeros_like(self.coefficients)
        coefficients[0] = value
        return TaylorSeries(coefficients)


def _multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.array([sum(a[j] * b[k - j] for j in range(k + 1)) for k in range(len(a))])


def _divide(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.empty_like(a)
    for k in range(len(a)):
        out[k] = (a[k] - sum(b[j] * out[k - j] for j in range(1, k + 1))) / b[0]
    return out


def _exp(a: np.ndarray) -> np.ndarray:
    out = np.empty_like(a)
    out[0] = np.exp(a[0])
    for k in range(1, len(a)):
        out[k] = sum(j * a[j] * out[k - j] for j in range(1, k + 1)) / k
    return out


def _log(a: np.ndarray) -> np.ndarray:
    out = np.empty_like(a)
    out[0] = np.log(a[0])
    for k in range(1, len(a)):
        out[k] = (a[k] - sum(j * out[j] * a[k - j] for j in range(1, k)) / k) / a[0]
    return out


def _pair(a: np.ndarray, sine: np.ndarray, cosine: np.ndarray, sign: float) -> tuple[np.ndarray, np.ndarray]:
    """Functions with ``s' = c``, ``c' = sign s`` from their values at a[0]."""
    s, c = np.empty_like(a), np.empty_like(a)
    s[0], c[0] = sine, cosine
    for k in range(1, len(a)):
        s[k] = sum(j * a[j] * c[k - j] for j in range(1, k + 1)) / k
        c[k] = sign * sum(j * a[j] * s[k - j] for j in range(1, k + 1)) / k
    return s, c


def _tanh(a: np.ndarray) -> np.ndarray:
    s, c = _pair(a, np.sinh(a[0]), np.cosh(a[0]), 1.0)
    return _divide(s, c)


def _real_power(a: np.ndarray, exponent: float) -> np.ndarray:
    out = np.empty_like(a)
    out[0] = a[0] ** exponent
    for k in range(1, len(a)):
        out[k] = sum((exponent * j - (k - j)) * a[j] * out[k - j] for j in range(1, k + 1)) / (k * a[0])
    return out


def _power(base: Any, exponent: Any) -> TaylorSeries:
    """``base ** exponent``; whole powers by products, which hold at zero and below."""
    if isinstance(exponent, TaylorSeries):
        result: TaylorSeries = np.exp(exponent * np.log(base))
        return result
    a, power = base.coefficients, float(exponent)
    if power != round(power) or abs(power) > 64:
        return TaylorSeries(_real_power(a, power))
    one = np.zeros_like(a)
    one[0] = 1.0
    product, n = one, abs(round(power))
    while n:
        if n % 2:
            product = _multiply(product, a)
        a, n = _multiply(a, a), n // 2
    return TaylorSeries(product if power >= 0 else _divide(one, product))


_COMPARISONS = {np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal}
_RULES: dict[np.ufunc, Callable[..., np.ndarray]] = {
    np.add: np.add,
    np.subtract: np.subtract,
    np.negative: np.negative,
    np.positive: np.positive,
    np.multiply: _multiply,
    np.divide: _divide,
    np.reciprocal: lambda a: _real_power(a, -1.0),
    np.square: lambda a: _multiply(a, a),
    np.sqrt: lambda a: _real_power(a, 0.5),
    np.exp: _exp,
    np.log: _log,
    np.sin: lambda a: _pair(a, np.sin(a[0]), np.cos(a[0]), -1.0)[0],
    np.cos: lambda a: _pair(a, np.sin(a[0]), np.cos(a[0]), -1.0)[1],
    np.sinh: lambda a: _pair(a, np.sinh(a[0]), np.cosh(a[0]), 1.0)[0],
    np.cosh: lambda a: _pair(a, np.sinh(a[0]), np.cosh(a[0]), 1.0)[1],
    np.tanh: _tanh,
    np.absolute: lambda a: np.sign(a[0]) * a,
}
