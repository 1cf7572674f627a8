"""Pieces of the convergence example with matched ACE potentials, and a small run of it."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from defect_fixtures import tungsten

from ase_qmmm.fitting import matching_errors

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("convergence_tungsten_ace")


def test_fourth_derivatives_by_differences(example):
    """Against polynomials through energies of strained cells, along the stretch and the shear."""
    calc, crystal, _ = tungsten()
    steps = np.linspace(-0.03, 0.03, 13)
    for own, (i, j) in zip(example.fourth_derivatives(calc, crystal), ((0, 0), (1, 2)), strict=True):
        gradient = np.zeros((3, 3))
        gradient[i, j] = gradient[j, i] = 1.0
        energies = []
        for t in steps:
            cell = crystal.unit_cell
            cell.set_cell(cell.cell.array @ (np.eye(3) + t * gradient), scale_atoms=True)
            energies.append(calc.get_property("free_energy", cell))
        polynomial = np.polynomial.Polynomial.fit(steps, energies, 8).convert()
        along = np.einsum("abcdef,ab,cd,ef->", own, gradient, gradient, gradient)
        # 1.1e-4 of the stretch is the error of the difference, STRAIN^2 / 6 times the sixth derivative.
        assert along == pytest.approx(24 * polynomial.coef[4], rel=2e-4)


def test_potentials_are_matched_and_kept(example, tmp_path):
    """Second derivatives of site energies are exact with and without W; third ones of W only with it."""
    calc, crystal, _ = tungsten()
    errors = {}
    for virials in (False, True):
        match = example.Match("energy", 2, virials)
        potential = example.fitted(match, calc, crystal, 12, tmp_path)
        found = matching_errors(calc, potential, crystal, 2, cutoff=calc.cutoff, kinds="EV")
        assert found.energy[2][1] < 1e-9
        errors[virials] = found.virial[2][1]
        kept = example.fitted(match, calc, crystal, 12, tmp_path)
        assert np.array_equal(kept.coefficients, potential.coefficients)
    assert errors[True] < 1e-9 < 0.1 < errors[False]
    # A potential of another basis is not taken for it.
    other = example.fitted(match, calc, crystal, 6, tmp_path)
    assert len(other.basis) < len(potential.basis)


def test_data_of_each_scheme(example):
    """W is matched one order beyond the site energies, two beyond the forces."""
    calc, crystal, _ = tungsten()
    found = {}
    for mixing, order, virials in (("energy", 2, True), ("force", 1, True), ("force", 1, False)):
        match = example.Match(mixing, order, virials)
        found[match.name] = sorted(
            k for k, n in example.observations(match, calc, crystal).counts().items() if n
        )
    assert found == {
        "energy, ACE 2V": ["W1", "W2", "W3", "dV1", "dV2"],
        "force, ACE 1V": ["W1", "W2", "W3", "dF1"],
        "force, ACE 1": ["W1", "dF1"],
    }


@pytest.mark.slow
def test_small_vacancy(example, tmp_path, capsys):
    """Matched virials make mixtures better, and the rate at least that of theory without them."""
    prefix = tmp_path / "study"
    options = ["vacancy-2d", "--size", "40", "--orders", "1", "--degree", "12"]
    radii = ["14.5", "17.5", "21"]
    with pytest.raises(SystemExit):  # before any work: two radii make no slope
        example.main([*options, "--radii", "14.5", "17.5"])
    assert "three radii" in capsys.readouterr().err
    study = example.main(
        [*options, "--radii", *radii, "--fit", "14", "22", "--folder", str(tmp_path), "--output", str(prefix)]
    )
    for name in ("energy, ACE 2", "force, ACE 1"):
        assert study.slope(name)[0] < -2.5 and study.slope(f"{name}V")[0] < -3.5
        plain, virials = (study.table[study.table["scheme"] == n]["error"] for n in (name, f"{name}V"))
        assert (virials < 0.7 * plain).all()
    text = capsys.readouterr().out
    assert "theory -3" in text and "theory -4" in text and "eps_3^V" in text
    assert prefix.with_suffix(".csv").exists() and prefix.with_suffix(".png").stat().st_size > 20_000
