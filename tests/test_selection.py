"""Calibrated uncertainty and the choice of structures."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from ase_qmmm import ACEBasis, ACEPotential, StructureError
from ase_qmmm.fitting import Observations, fit_ace, select

NOISE = 0.03


def rattled(rng, count, strain=0.03, rattle=0.12):
    images = []
    for _ in range(count):
        atoms = bulk("Cu", a=3.6, cubic=True) * (2, 1, 1)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.positions += rattle * rng.normal(size=(len(atoms), 3))
        images.append(atoms)
    return images


def labelled(images, calc, rng):
    """With noise of known size on the forces."""
    out = []
    for atoms in images:
        forces = calc.get_property("forces", atoms) + NOISE * rng.normal(size=(len(atoms), 3))
        new = atoms.copy()
        new.calc = SinglePointCalculator(new, forces=forces)
        out.append(new)
    return out


@pytest.fixture(scope="module")
def basis():
    return ACEBasis("Cu", order=2, degree=6, cutoff=4.5, pair_basis=False)


@pytest.fixture(scope="module")
def truth(basis):
    return ACEPotential(basis, 0.1 * np.random.default_rng(5).normal(size=len(basis)))


@pytest.fixture(scope="module")
def fitted(basis, truth):
    rng = np.random.default_rng(1)
    data = Observations().add_configurations(labelled(rattled(rng, 3), truth, rng))
    return fit_ace(basis, data, "bayesian-ridge")


def test_factor_finds_a_wrong_scale(fitted, truth):
    """A covariance four times as large gives half the factor."""
    images = rattled(np.random.default_rng(2), 4)
    for atoms in images:
        atoms.calc = SinglePointCalculator(atoms, forces=truth.get_property("forces", atoms))
    right = fitted.calibrate(images, noise=False)
    wide = replace(fitted, solution=replace(fitted.solution, covariance=4 * fitted.solution.covariance))
    assert np.isclose(wide.calibrate(images, noise=False).factor, right.factor / 2)
    # Standard deviations per atom are those of the components.
    for noise in (False, True):
        std = fitted.calibrate(images, noise).std[:24].reshape(8, 3)
        assert np.allclose(np.sqrt((std**2).sum(axis=1)), fitted.force_std(images[0], noise))


def test_posterior_is_calibrated(truth):
    """Over many fits to noisy data of a model in the basis: factor one, of the truth and of noisy forces."""
    rng = np.random.default_rng(9)
    exact, noisy = [], []
    for _ in range(25):
        data = Observations().add_configurations(labelled(rattled(rng, 3), truth, rng))
        found = fit_ace(truth.basis, data, "bayesian-ridge")
        images = rattled(rng, 2)
        noisy.append(found.calibrate(labelled(images, truth, rng)))
        for atoms in images:
            atoms.calc = SinglePointCalculator(atoms, forces=truth.get_property("forces", atoms))
        exact.append(found.calibrate(images, noise=False))
    for parts, limit in ((exact, 0.25), (noisy, 0.1)):
        together = [np.concatenate([getattr(c, name) for c in parts]) for name in ("std", "error")]
        assert abs(np.sqrt(np.mean((together[1] / together[0]) ** 2)) - 1) < limit


def test_coverage_on_noisy_data(truth):
    """The factor from one half of the data gives the other half the coverage of normal errors.

    Also where the fit predicts them ten times too small; in the mean over fits, as the coefficients of one
    are one draw that all its errors share.
    """
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(12):
        data = Observations().add_configurations(labelled(rattled(rng, 6), truth, rng))
        found = fit_ace(truth.basis, data, "bayesian-ridge")
        s = found.solution
        halves = [labelled(rattled(rng, 8), truth, rng) for _ in range(2)]
        right = found.calibrate(halves[0]).factor
        found = replace(found, solution=replace(s, covariance=0.01 * s.covariance, noise=0.1 * s.noise))
        first, second = (found.calibrate(half) for half in halves)
        assert np.isclose(first.factor, 10 * right)
        applied = replace(second, factor=first.factor)
        covered.append([applied.coverage(1.0), applied.coverage(2.0)])
    assert np.abs(np.mean(covered, axis=0) - [0.683, 0.954]).max() < 0.03
    assert "calibration factor" in str(first)


def test_calibration_plot(fitted, truth, tmp_path):
    rng = np.random.default_rng(3)
    fitted.calibrate(labelled(rattled(rng, 4), truth, rng)).plot(tmp_path / "calibration.png")
    assert (tmp_path / "calibration.png").stat().st_size > 5000


def test_calibration_refused(fitted, basis, truth):
    rng = np.random.default_rng(3)
    images = labelled(rattled(rng, 3), truth, rng)
    no_covariance = fit_ace(basis, Observations().add_configurations(images), "ridge")
    with pytest.raises(ValueError, match="gives none"):
        no_covariance.calibrate(images)
    with pytest.raises(ValueError, match="no forces that depend"):
        fitted.calibrate(Atoms("Cu", info={"energy": 1.0}))


@pytest.mark.parametrize("method", ["d-optimal", "qr", "uncertainty"])
def test_duplicates_come_last(method):
    """Five different structures, each several times, and more functions than five of them determine."""
    rng, fitted = np.random.default_rng(4), None
    basis = ACEBasis("Cu", order=2, degree=14, cutoff=4.5, pair_basis=False)
    if method == "uncertainty":
        data = Observations().add_configurations(labelled(rattled(rng, 1), EMT(), rng))
        fitted = fit_ace(basis, data, "bayesian-ridge")
    different = rattled(rng, 5, strain=0.06)
    images = [different[k % 5].copy() for k in range(15)]
    for atoms in images[5:]:
        # Turned and translated, and thereby the same.
        atoms.rotate(30.0 * rng.normal(), rng.normal(size=3), rotate_cell=True)
        atoms.positions += rng.normal(size=3)
    found = select(basis, images, 5, method, result=fitted)
    assert sorted(k % 5 for k in found) == [0, 1, 2, 3, 4]
    assert found == select(basis, images, 5, method, result=fitted)
    others = select(basis, images, 3, method, result=fitted, known=different[:2])
    assert sorted(k % 5 for k in others) == [2, 3, 4]


def test_d_optimal_is_greedy(basis):
    """Lazy bounds give what recomputing every gain gives."""
    images = rattled(np.random.default_rng(6), 8)
    found = select(basis, images, 4, regularisation=1e-6)
    rows = []
    for atoms in images:
        r = basis.rows(atoms, virial=False)
        rows.append(np.vstack([r.forces, np.sqrt(900 / len(atoms)) * r.energy]))
    scale = np.sqrt(np.mean(np.concatenate(rows) ** 2, axis=0))
    m, chosen = 1e-6 * np.eye(len(basis)), []
    for _ in range(4):
        values = [np.linalg.slogdet(m + (a / scale).T @ (a / scale))[1] for a in rows]
        for k in chosen:
            values[k] = -np.inf
        chosen.append(int(np.argmax(values)))
        m = m + (rows[chosen[-1]] / scale).T @ (rows[chosen[-1]] / scale)
    assert found == chosen


def test_uncertainty_takes_the_unknown(basis, fitted):
    """A strongly compressed structure among those like the data."""
    images = rattled(np.random.default_rng(8), 6)
    images[3].set_cell(images[3].cell.array * 0.85, scale_atoms=True)
    assert select(basis, images, 1, "uncertainty", result=fitted) == [3]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n": 0}, ValueError, "n: got 0, expected 1 to 2"),
        ({"n": 3}, ValueError, "expected 1 to 2"),
        ({"method": "random"}, ValueError, "method"),
        ({"method": "uncertainty"}, ValueError, "needs a fit"),
        ({"regularisation": 0.0}, ValueError, "regularisation"),
        ({"images": [Atoms("Au"), Atoms("Au")]}, StructureError, "Au"),
    ],
)
def test_refused(basis, arguments, error, message):
    images = rattled(np.random.default_rng(6), 2)
    with pytest.raises(error, match=message):
        select(**({"basis": basis, "images": images, "n": 1} | arguments))
