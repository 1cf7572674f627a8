"""Relaxed cracks: the tip under Griffith's load, mixtures against the potential alone, flanks."""

from __future__ import annotations

import runpy
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from ase_qmmm import ForceMixingCalculator, MatchError, Regions, TaylorForces

EXAMPLE = Path(__file__).parents[1] / "examples" / "tungsten_crack.py"


@cache
def example():
    return runpy.run_path(str(EXAMPLE))


def test_mixture_against_the_potential(tmp_path, capsys):
    """At K_G the tip stays where it is, and the mixture relaxes to the same place."""
    picture = tmp_path / "crack.png"
    options = ["--radius", "40", "--loads", "1.0", "--r-tip", "15", "--order", "1", "--output", str(picture)]
    study, [(_, atoms, regions, difference)] = example()["main"](options)
    near = study.crystal.nearest_neighbour_distance
    # The bond at the tip, which the predictor stretches to 3.07 Å, holds; the next one behind it is broken.
    assert -near < example()["tip_place"](atoms, near) < 0
    assert regions.qm.sum() < 0.4 * len(atoms)
    # Of up to 0.9 Å of relaxation.
    assert 0 < difference.max() < 0.1
    assert np.array_equal(difference[regions.frozen], np.zeros(int(regions.frozen.sum())))
    assert picture.stat().st_size > 20_000
    assert "K_G = 1.628" in capsys.readouterr().out


def test_flanks_outside_the_quantum_region():
    """Surface atoms left to an expansion are named, and the way to find them."""
    study = example()["Study"](25.0)
    atoms = study.crack(1.0)
    inside = Regions.from_distance(atoms, atoms.info["core"], 8.0, 12.3)
    mm = TaylorForces.from_calculator(study.qm, study.crystal, order=1, cutoff=6.0)
    atoms.calc = ForceMixingCalculator(
        study.qm, mm, Regions(inside.qm, inside.buffer, atoms.arrays["frozen"]), cluster="open"
    )
    with pytest.raises(MatchError, match=r"lack neighbours .* among the .* at the defect.*Regions\.detect"):
        atoms.get_forces()


@pytest.mark.slow
def test_griffith_from_energies():
    """Cracks of two lengths have the same energy near the K_G of surface energy and elastic constants.

    The rim holds a field of linear elasticity without surfaces, so that the load of balance is too high by a
    part that falls with the radius.
    """
    balanced = []
    for radius in (40.0, 60.0, 100.0):
        study = example()["Study"](radius)
        squares = np.array([1.0, 1.1]) ** 2
        slope, level = np.polyfit(squares, [study.balance(float(np.sqrt(k)), 1e-4) for k in squares], 1)
        balanced.append(np.sqrt(-level / slope))
    assert 1.0 < balanced[2] < balanced[1] < balanced[0] < 1.15
    # What is left falls as the root of the strain at the rim: at an infinite radius K_G within 3 %.
    assert np.polyfit([40.0**-0.5, 60.0**-0.5, 100.0**-0.5], balanced, 1)[1] == pytest.approx(1.0, abs=0.03)


@pytest.mark.slow
def test_larger_quantum_regions_err_less(tmp_path):
    errors = []
    for r_tip in ("10", "20", "30"):
        options = ["--r-tip", r_tip, "--output", str(tmp_path / "crack.png")]
        _, found = example()["main"](options)
        errors.append([difference.max() for *_, difference in found])
    assert (np.diff(errors, axis=0) < 0).all()
    assert np.max(errors[2]) < 0.015
