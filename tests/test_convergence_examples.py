"""The convergence examples in small settings; the core of the tungsten edge against a larger cylinder."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.fd import calculate_numerical_forces
from ase.constraints import FixAtoms
from defect_fixtures import silicon, tungsten

from ase_qmmm.defects import edge_dislocation
from ase_qmmm.preconditioning import PreconditionedLBFGS

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name, *arguments, **constants):
    module = runpy.run_path(str(EXAMPLES / name))
    module["main"].__globals__.update(constants)
    return module["main"]([str(a) for a in arguments])


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


@pytest.mark.slow
def test_silicon_vacancy(tmp_path, capsys):
    """Resumed, the study asks for nothing anew."""
    folder = tmp_path / "kept"
    options = ["--size", "4", "--radii", "7.5", "8.5", "9.5", "--schemes", "order 1", "--fmax", "1e-4"]
    options += ["--folder", folder]
    found = [
        run("convergence_silicon.py", "vacancy", *options, "--output", tmp_path / "study", CUTOFFS=(6.0, 4.0))
        for _ in range(2)
    ]
    assert (np.diff(found[0].table["error"]) < 0).all()
    assert np.array_equal(found[0].table["seconds"], found[1].table["seconds"])
    assert found[0].table["steps"].max() < 15
    assert "theory -3" in capsys.readouterr().out


def test_quantum_part_has_the_energy_of_its_forces(rng):
    """A quantum model of a part, under a load."""
    part = runpy.run_path(str(EXAMPLES / "convergence_silicon.py"))["QuantumPart"]
    atoms = bulk("Cu", cubic=True) * 2
    atoms.pbc = False
    atoms.rattle(0.05, seed=1)
    members = atoms.positions[:, 0] < 4.0
    load = rng.normal(size=(len(atoms), 3)) * members[:, None]
    calc = part(EMT(), members, load)
    forces = calc.get_forces(atoms)
    assert np.array_equal(forces[~members], np.zeros(((~members).sum(), 3)))
    assert np.allclose(forces[members], EMT().get_forces(atoms[members]) + load[members], rtol=0, atol=1e-12)
    atoms.calc = calc
    numeric = calculate_numerical_forces(atoms, 1e-4, np.flatnonzero(members))
    assert np.allclose(forces[members], numeric, rtol=0, atol=1e-6)
    assert repr(calc) != repr(part(EMT(), members, 2 * load))


def test_no_surface_is_felt_by_the_free_atoms_of_the_silicon_edge():
    """At the predictor; a potential whose forces end at 6.6 Å stands for tight binding."""
    module = runpy.run_path(str(EXAMPLES / "convergence_silicon.py"))
    calc, crystal, *_ = silicon()
    atoms, qm, centre = module["edge"](calc, crystal, 8.0)
    free = ~atoms.arrays["frozen"]
    assert np.allclose(qm.get_forces(atoms)[free], calc.get_forces(atoms)[free], rtol=0, atol=1e-8)
    r = np.linalg.norm((atoms.arrays["reference_positions"] - centre)[:, :2], axis=1)
    felt = np.linalg.norm(qm.load, axis=1) > 1e-3
    assert felt.any() and r[felt].min() > 13.0 - 6.6  # Å, from the surface at 8 + 5 Å
    assert np.isclose(
        np.linalg.norm(atoms.info["burgers"]), np.sqrt(8 / 3) * crystal.nearest_neighbour_distance
    )


def test_slope_within_a_rim(rng):
    """Of made-up forces that err as r^-3 between the quantum region and the rim: norms by quadrature."""
    fit = runpy.run_path(str(EXAMPLES / "convergence_silicon.py"))["slope_within_rim"]
    radii = np.array([8.0, 9.5, 11.0, 13.0])
    for exponent in (-1.0, -2.0):
        errors = [
            np.sqrt(np.trapezoid((g := np.linspace(r, 16.0, 20_001)) ** (2 * exponent - 1), g)) for r in radii
        ]
        assert np.allclose(fit(radii, 0.3 * np.array(errors), 16.0)[0], exponent, atol=1e-4)
    noisy = np.array(errors) * np.exp(0.05 * rng.normal(size=4))
    slope, uncertainty = fit(radii, noisy, 16.0)
    assert abs(slope - exponent) < 4 * uncertainty < 2.0


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
