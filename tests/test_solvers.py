"""Linear solvers against scipy, scikit-learn and problems with known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from ase_qmmm.fitting import SOLVERS, QRBlocks, solve_linear


@pytest.fixture
def problem(rng):
    design = rng.normal(size=(300, 12)) * np.logspace(0, -2, 12)
    exact = rng.normal(size=12)
    return design, design @ exact, exact


@pytest.mark.parametrize("solver", SOLVERS)
def test_exact_data(problem, solver):
    design, targets, exact = problem
    found = solve_linear(design, targets, solver, alpha=0.0)
    assert np.abs(found.coefficients - exact).max() < 1e-6
    assert found.rank == 12 and found.n_rows == 300
    assert np.isclose(found.condition, np.linalg.cond(design))


def test_qr_is_least_squares(problem, rng):
    design, targets, _ = problem
    targets = targets + rng.normal(size=300)
    expected = linalg.lstsq(design, targets)[0]
    assert np.allclose(solve_linear(design, targets).coefficients, expected, rtol=1e-10)


def test_ridge_normal_equations(problem, rng):
    design, targets, _ = problem
    targets = targets + rng.normal(size=300)
    strength = 1e-3 * linalg.svdvals(design)[0] ** 2
    expected = np.linalg.solve(design.T @ design + strength * np.eye(12), design.T @ targets)
    for solver in ("ridge", "lsqr"):
        found = solve_linear(design, targets, solver, alpha=1e-3).coefficients
        assert np.allclose(found, expected, rtol=1e-8)


def test_blocks_give_the_same(problem, rng):
    design, targets, _ = problem
    targets = targets + rng.normal(size=300)
    blocks = QRBlocks(12)
    for part in np.array_split(np.arange(300), 7):
        blocks.add(design[part], targets[part])
    assert blocks.n_rows == 300
    for solver in ("qr", "rrqr", "ridge", "lsqr"):
        whole = solve_linear(design, targets, solver).coefficients
        assert np.allclose(solve_linear(blocks, solver=solver).coefficients, whole, rtol=1e-8)
    # The norm of the residual is there too.
    residual = np.linalg.norm(design @ solve_linear(design, targets).coefficients - targets)
    assert np.isclose(abs(blocks.targets[-1]), residual)


def test_rank_revealing(problem, rng):
    design, targets, _ = problem
    twice = np.hstack([design, design[:, :3] + 1e-9 * rng.normal(size=(300, 3))])
    found = solve_linear(twice, targets, "rrqr", tolerance=1e-6)
    assert found.rank == 12 and np.count_nonzero(found.coefficients) == 12
    assert np.abs(twice @ found.coefficients - targets).max() < 1e-7
    again = solve_linear(twice, targets, "rrqr", tolerance=1e-6)
    assert np.array_equal(found.coefficients, again.coefficients)


@pytest.mark.parametrize("solver", ["bayesian-ridge", "ard"])
def test_posterior_covers_the_truth(rng, solver):
    """The standardised errors of the coefficients have variance one."""
    scores = []
    for _ in range(40):
        design = rng.normal(size=(200, 8)) * np.logspace(0, 3, 8)
        exact = rng.normal(size=8) / np.logspace(0, 3, 8)
        found = solve_linear(design, design @ exact + 0.3 * rng.normal(size=200), solver)
        assert 0.25 < found.noise < 0.36
        scores.append((found.coefficients - exact) / np.sqrt(np.diag(found.covariance)))
    assert 0.8 < np.std(scores) < 1.2


def test_ard_drops_what_does_not_matter(rng):
    design = rng.normal(size=(200, 20))
    found = solve_linear(
        design, design[:, 3] * 2.0 + 1e-3 * rng.normal(size=200), "ard", threshold_lambda=1e3
    )
    assert found.rank < 20 and np.isclose(found.coefficients[3], 2.0, atol=1e-3)
    dropped = found.coefficients == 0.0
    assert (found.covariance[dropped] == 0.0).all()


def test_prior_prefers_smooth(rng):
    """Two columns that do the same: the one with the smaller prior carries the answer."""
    column = rng.normal(size=50)
    found = solve_linear(np.column_stack([column, column]), column, "ridge", prior=np.array([1.0, 10.0]))
    assert np.allclose(found.coefficients, [100 / 101, 1 / 101], rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "svd"}, "expected one of"),
        ({"design": np.ones((3, 4)), "targets": np.ones(3)}, "3 rows cannot determine 4"),
        ({"design": np.ones((9, 4)), "targets": np.ones(9)}, "rank 1 of 4"),
        ({"design": np.zeros((9, 4)), "targets": np.ones(9)}, "all rows are zero"),
        ({"targets": np.ones(3)}, r"shapes \(300, 12\), \(3,\)"),
        ({"targets": np.r_[np.ones(5), np.nan, np.ones(294)]}, "row 5 is not finite"),
        ({"prior": np.ones(3)}, "expected 12 positive"),
        ({"alpha": -1.0}, "alpha"),
        ({"tolerance": 0.0}, "tolerance"),
        ({"design": QRBlocks(4), "targets": None}, "no rows"),
        ({"design": QRBlocks(4), "targets": None, "solver": "ard"}, "all rows at once"),
        ({"design": QRBlocks(4)}, "has its own"),
    ],
)
def test_refused(problem, change, message):
    arguments = {"design": problem[0], "targets": problem[1]} | change
    with pytest.raises(ValueError, match=message):
        solve_linear(**arguments)


def test_misspelt_keyword(problem):
    with pytest.raises(TypeError, match="tolerance"):
        solve_linear(problem[0], problem[1], tolerence=1e-3)


def test_blocks_refuse_other_columns():
    with pytest.raises(ValueError, match="got 3 columns, expected 4"):
        QRBlocks(4).add(np.ones((2, 3)), np.ones(2))
