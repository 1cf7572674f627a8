"""Linear least squares for models that are linear in their coefficients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import linalg
from scipy.sparse.linalg import lsqr

from ..errors import check_positive, checked_keywords

__all__ = ["SOLVERS", "LinearSolution", "QRBlocks", "solve_linear"]

SOLVERS = ("qr", "rrqr", "ridge", "bayesian-ridge", "ard", "lsqr")


@dataclass(frozen=True)
class LinearSolution:
    """Coefficients of a linear least squares problem and how well it determines them.

    Attributes
    ----------
    coefficients : ndarray, shape (b,)
    solver : str
    rank : int
        Numerical rank of the (scaled) design matrix, or number of coefficients kept.
    condition : float
        Ratio of its largest to its smallest singular value, infinite if it is rank-deficient.
    n_rows : int
    covariance : ndarray, shape (b, b), optional
        Posterior covariance of the coefficients, of the Bayesian solvers.
    noise : float, optional
        Standard deviation of the weighted residuals that the Bayesian solvers infer.
    options : dict
        Arguments that the solver was used with.
    """

    coefficients: np.ndarray
    solver: str
    rank: int
    condition: float
    n_rows: int
    covariance: np.ndarray | None = None
    noise: float | None = None
    options: dict[str, Any] = field(default_factory=dict)


class QRBlocks:
    """Triangular factor of a design matrix and its targets that arrive in blocks of rows.

    Least squares needs no more than R and Q^T t of ``[A, t] = Q [R, Q^T t]``, of the size of the
    coefficients whatever the number of rows. Householder steps keep the digits that normal equations lose.

    Parameters
    ----------
    n_columns : int
        Number of coefficients.
    """

    def __init__(self, n_columns: int) -> None:
        self.n_columns = int(n_columns)
        self.n_rows = 0
        self._factor = np.zeros((0, self.n_columns + 1))

    def add(self, design: np.ndarray, targets: np.ndarray) -> None:
        """Add rows (m, b) with their targets (m,), both weighted.

        Raises
        ------
        ValueError
            Wrong shapes; values that are not finite, with the first such row.
        """
        design, targets = _checked(design, targets)
        if design.shape[1] != self.n_columns:
            raise ValueError(f"design: got {design.shape[1]} columns, expected {self.n_columns}")
        stacked = np.vstack([self._factor, np.column_stack([design, targets])])
        self._factor = linalg.qr(stacked, mode="r", check_finite=False)[0][: self.n_columns + 1]
        self.n_rows += len(targets)

    @property
    def design(self) -> np.ndarray:
        """R, with the last row that only the targets have."""
        return self._factor[:, :-1]

    @property
    def targets(self) -> np.ndarray:
        """Q^T t, with the norm of the residual as the last element."""
        return self._factor[:, -1]


@checked_keywords
def solve_linear(
    design: np.ndarray | QRBlocks,
    targets: np.ndarray | None = None,
    solver: str = "qr",
    *,
    prior: np.ndarray | None = None,
    tolerance: float = 1e-6,
    alpha: float = 1e-8,
    max_iter: int = 1000,
    threshold_lambda: float = 1e8,
) -> LinearSolution:
    """Minimise ``|A c - t|^2`` in one of several ways.

    Parameters
    ----------
    design : ndarray, shape (m, b), or QRBlocks
        A, rows multiplied by the square roots of their weights.
    targets : ndarray, shape (m,)
        t, multiplied likewise; not for ``QRBlocks``, which has them.
    solver : {"qr", "rrqr", "ridge", "bayesian-ridge", "ard", "lsqr"}
        ``"qr"``: Householder QR; refused if A has not full rank. ``"rrqr"``: QR with column pivoting [1]_,
        columns beyond ``|R_kk| <= tolerance |R_11|`` get the coefficient zero; deterministic. ``"ridge"``:
        adds ``alpha s^2 |c|^2``, s the largest singular value. ``"bayesian-ridge"``, ``"ard"``:
        ``BayesianRidge`` and ``ARDRegression`` of scikit-learn, which infer the strength of the prior and
        give a covariance. ``"lsqr"``: iterative, damped by `alpha`, for sizes that no factorisation takes.
    prior : ndarray, shape (b,), optional
        Smoothness prior: solvers see the coefficients ``prior * c``, so that those with a large entry are
        held small. It changes nothing for ``"qr"``.
    tolerance, alpha, max_iter, threshold_lambda : float
        See above; the last two go to the iterative solvers of scipy and scikit-learn.

    Returns
    -------
    LinearSolution

    Raises
    ------
    ValueError
        Shapes that do not fit, values that are not finite, an unknown solver, fewer rows than coefficients
        or a rank-deficient A for ``"qr"``; a Bayesian solver for ``QRBlocks``.

    References
    ----------
    .. [1] T. F. Chan, Linear Algebra Appl. 88, 67 (1987). Tolerance 1e-6: generalisation of point defects,
       section 4.1.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver: got {solver!r}, expected one of {', '.join(SOLVERS)}")
    for name, value in (("tolerance", tolerance), ("threshold_lambda", threshold_lambda)):
        check_positive(name, value)
    check_positive("alpha", alpha, zero=True)
    if isinstance(design, QRBlocks):
        if targets is not None:
            raise ValueError("targets: QRBlocks has its own; leave them out")
        if solver in ("bayesian-ridge", "ard"):
            raise ValueError(f"solver: {solver!r} needs all rows at once; use 'rrqr' or 'ridge'")
        a, t, n_rows = design.design, design.targets, design.n_rows
        if n_rows == 0:
            raise ValueError("design: no rows")
    else:
        if targets is None:
            raise ValueError("targets: missing")
        a, t = _checked(design, targets)
        n_rows = len(t)
    n = a.shape[1]
    scale = np.ones(n) if prior is None else np.asarray(prior, dtype=float)
    if scale.shape != (n,) or not (scale > 0).all() or not np.isfinite(scale).all():
        raise ValueError(f"prior: got shape {scale.shape}, expected {n} positive numbers")
    if solver == "qr" and n_rows < n:
        raise ValueError(
            f"design: {n_rows} rows cannot determine {n} coefficients; add data, or use solver='rrqr'"
        )
    a = a / scale
    singular = linalg.svdvals(a, check_finite=False)
    largest = float(singular[0]) if len(singular) else 0.0
    if largest == 0.0:
        raise ValueError("design: all rows are zero")
    rank = int(np.sum(singular > largest * max(a.shape) * np.finfo(float).eps))
    smallest = float(singular[-1]) if len(singular) == n else 0.0
    condition = largest / smallest if smallest > 0.0 else np.inf
    options: dict[str, Any] = {}
    covariance, noise = None, None
    if solver == "qr":
        if rank < n:
            raise ValueError(
                f"design: rank {rank} of {n} coefficients (condition {condition:.1e}); add data, or use "
                "solver='rrqr' or 'ridge'"
            )
        q, r = linalg.qr(a, mode="economic", check_finite=False)
        c = linalg.solve_triangular(r, q.T @ t)
    elif solver == "rrqr":
        options = {"tolerance": tolerance}
        q, r, pivots = linalg.qr(a, mode="economic", pivoting=True, check_finite=False)
        diagonal = np.abs(np.diag(r))
        rank = int(np.sum(diagonal > tolerance * diagonal[0]))
        c = np.zeros(n)
        c[pivots[:rank]] = linalg.solve_triangular(r[:rank, :rank], q[:, :rank].T @ t)
    elif solver == "ridge":
        options = {"alpha": alpha}
        stacked = np.vstack([a, np.sqrt(alpha) * largest * np.eye(n)])
        c = linalg.lstsq(stacked, np.concatenate([t, np.zeros(n)]), check_finite=False)[0]
    elif solver == "lsqr":
        options = {"alpha": alpha, "max_iter": max_iter}
        damp = np.sqrt(alpha) * largest
        c = lsqr(a, t, damp=damp, iter_lim=max_iter, atol=1e-14, btol=1e-14)[0]
    else:
        c, covariance, noise = _bayesian(a, t, solver, max_iter, threshold_lambda)
        options = {"max_iter": max_iter}
        if solver == "ard":
            options["threshold_lambda"] = threshold_lambda
            rank = int(np.count_nonzero(c))
    if covariance is not None:
        covariance = covariance / np.outer(scale, scale)
    return LinearSolution(c / scale, solver, rank, condition, n_rows, covariance, noise, options)


def _bayesian(
    a: np.ndarray, t: np.ndarray, solver: str, max_iter: int, threshold_lambda: float
) -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients, covariance and noise by scikit-learn, whose priors presume numbers of order one."""
    from sklearn.linear_model import ARDRegression, BayesianRidge

    columns = np.sqrt(np.mean(a**2, axis=0))
    columns[columns == 0.0] = 1.0
    level = float(np.sqrt(np.mean(t**2))) or 1.0
    if solver == "ard":
        model = ARDRegression(
            max_iter=max_iter, tol=1e-6, threshold_lambda=threshold_lambda, fit_intercept=False
        )
    else:
        model = BayesianRidge(max_iter=max_iter, tol=1e-6, fit_intercept=False)
    model.fit(a / columns, t / level)
    kept = model.lambda_ < threshold_lambda if solver == "ard" else np.ones(a.shape[1], dtype=bool)
    covariance = np.zeros((a.shape[1],) * 2)
    covariance[np.ix_(kept, kept)] = model.sigma_
    back = level / columns
    return model.coef_ * back, covariance * np.outer(back, back), level / float(np.sqrt(model.alpha_))


def _checked(design: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    design, targets = np.asarray(design, dtype=float), np.asarray(targets, dtype=float)
    if design.ndim != 2 or targets.shape != design.shape[:1]:
        raise ValueError(f"design, targets: shapes {design.shape}, {targets.shape}; expected (m, b), (m,)")
    finite = np.isfinite(design).all(axis=1) & np.isfinite(targets)
    if not finite.all():
        raise ValueError(f"design, targets: row {int(np.argmin(finite))} is not finite")
    return design, targets
