"""Poles of the Fermi function: the functions they stand for, on points that the search has not seen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from ase_qmmm.tightbinding.poles import fermi_poles


@pytest.mark.parametrize(("mu", "kT"), [(5.8, 0.1), (-3.0, 0.025)])
@pytest.mark.parametrize("error", [1e-3, 1e-6])
def test_functions_of_energy(mu, kT, error, rng):
    lowest, highest = mu - 14.0, mu + 40.0
    poles = fermi_poles(lowest, highest, mu, kT, error)
    assert poles.bounds[0] <= lowest and highest <= poles.bounds[1]
    assert poles.error <= error
    assert (poles.poles.imag > 0).all()
    e = np.concatenate([rng.uniform(*poles.bounds, 5000), mu + kT * rng.uniform(-40, 40, 5000)])
    f, scale = expit((mu - e) / kT), mu - poles.bounds[0]
    grand = -kT * np.logaddexp(0.0, (mu - e) / kT)
    assert np.abs(poles.sum(poles.occupation, e) - f).max() <= 1.01 * error
    # Residues times z give e f, measured from mu: (z - mu) those of (e - mu) f.
    moment = poles.sum((poles.poles - mu) * poles.occupation, e)
    assert np.abs(moment - (e - mu) * f).max() <= 1.01 * error * scale
    assert np.abs(poles.sum(poles.grand, e) - grand).max() <= 1.01 * error * scale


def test_nearly_equal_spectra_share_their_poles():
    one, other = (fermi_poles(-10.0 - x, 30.0, 0.0, 0.1, 1e-3) for x in (0.0, 0.01))
    assert np.array_equal(one.poles, other.poles)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((1.0, 1.0, 0.0, 0.1), "expected finite numbers .* lowest < highest"),
        ((-1.0, np.inf, 0.0, 0.1), "got -1.0, inf and 0.0"),
        ((-1.0, 1.0, np.nan, 0.1), "lowest, highest, mu: got"),
        ((-1.0, 1.0, 0.0, 0.0), "kT: got 0.0"),
        ((-1.0, 1.0, 0.0, 0.1, 1e-13), "error: got 1e-13, expected 1e-11 to 0.1"),
    ],
)
def test_arguments(arguments, text):
    with pytest.raises(ValueError, match=text):
        fermi_poles(*arguments)
