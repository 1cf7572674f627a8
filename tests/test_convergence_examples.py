"""The convergence examples in small settings; the core of the tungsten edge against a larger cylinder."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from ase.constraints import FixAtoms
from defect_fixtures import tungsten

from ase_qmmm.defects import edge_dislocation
from ase_qmmm.preconditioning import PreconditionedLBFGS

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments):
    return runpy.run_path(str(EXAMPLES / name))["main"]([str(a) for a in arguments])


@pytest.mark.slow
def test_tungsten_vacancy(tmp_path, capsys):
    """Theory says -3 for the first order in two dimensions, and the far field begins at about 12 Å."""
    prefix = tmp_path / "study"
    options = ["--size", "40", "--orders", "1", "--radii", "12", "14.5", "17.5", "--output", prefix]
    study = run("convergence_tungsten.py", "vacancy-2d", *options)
    for name in ("force mixing, order 1", "energy mixing, order 2"):
        assert study.slope(name)[0] < -2.5
    assert study.slope("energy mixing, order 2", "energy_error")[0] < -3.5
    assert "theory -3" in capsys.readouterr().out
    assert prefix.with_suffix(".csv").exists() and prefix.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.parametrize("case", ["vacancy-3d", "interstitial-3d"])
def test_tungsten_in_three_dimensions(case, tmp_path, capsys):
    """A trial size, far from the power: errors fall, and the strain of the interstitial is much larger."""
    options = ["--size", "14", "--orders", "1", "--radii", "6.5", "8.5", "10", "--fmax", "1e-6", "--decay"]
    study = run("convergence_tungsten.py", case, *options, "--fit-from", 6, "--output", tmp_path / "study")
    for name in ("force mixing, order 1", "energy mixing, order 2"):
        errors = study.table["error"][study.table["scheme"] == name]
        assert errors[2] < 0.3 * errors[0] < 0.03 * study.norm
    printed = capsys.readouterr().out
    assert "theory -4.5" in printed
    strains = [float(line.split()[-2]) for line in printed.splitlines() if line.startswith("|Du|")]
    assert strains[-1] > 2e-3 if case == "interstitial-3d" else strains[-1] < 2e-3


def test_silicon_vacancy_in_three_dimensions(tmp_path, capsys):
    """63 atoms: the distortion of the neighbours stays, and the mixtures approach tight binding."""
    options = [
        "--cells",
        "2",
        "--kT",
        "0.1",
        "--radii",
        "4.2",
        "5",
        "6.5",
        "--cutoff",
        "5.5",
        "--fmax",
        "1e-4",
    ]
    study = run("convergence_silicon_3d.py", *options, "--output", tmp_path / "study")
    errors = study.table["error"]
    assert (np.diff(errors) < 0).all() and errors[0] < 0.5 * study.norm
    printed = capsys.readouterr().out
    assert "unrelaxed vacancy" in printed and "theory -4.5" in printed


@pytest.mark.slow
def test_toy_divacancy(tmp_path, capsys):
    options = ["--cells", "14", "--radii", "8.5", "10", "12", "--cutoff", "12", "--fmax", "1e-6"]
    study = run("convergence_toy_2d.py", *options, "--output", tmp_path / "study")
    assert study.table["error"].max() < 0.1 * study.norm
    for name in ("force mixing, order 1", "energy mixing, order 2"):
        assert study.slope(name)[0] < -2.5
    assert "theory -3" in capsys.readouterr().out


def test_large_edge(capsys):
    rows = run(
        "tungsten_edge_relaxation.py", "--radius", "30", "--order", "1", "--optimizers", "force-lbfgs", "fire"
    )
    assert all(row[-1] for row in rows)
    assert rows[0][2] < rows[1][2] / 2  # force calls
    assert "force calls" in capsys.readouterr().out


def test_core_of_the_edge_does_not_feel_the_rim():
    """Relaxed by the potential alone: cylinders of 60 and 100 Å agree within 0.01 Å near the core."""
    calc, crystal, constants = tungsten()
    places = []
    for radius in (60.0, 100.0):
        atoms = edge_dislocation(
            crystal, (1, 0, 0), plane=(0, 0, 1), elastic_constants=constants, radius=radius, frozen_width=12.3
        )
        atoms.set_constraint(FixAtoms(mask=atoms.arrays["frozen"]))
        atoms.calc = calc
        assert PreconditionedLBFGS(atoms, logfile=None).run(fmax=1e-4, steps=100)
        reference = atoms.arrays["reference_positions"] - atoms.info["core"]
        near = np.linalg.norm(reference[:, :2], axis=1) < 15.0
        order = np.lexsort(reference[near].round(3).T)
        places.append((atoms.positions[near] - atoms.info["core"])[order])
    assert len(places[0]) == len(places[1]) > 100
    assert np.abs(places[0] - places[1]).max() < 0.01  # Å
