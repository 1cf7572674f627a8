"""The README's Python and the example scripts, run in small settings."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from helpers import assert_derivative, moved

from ase_qmmm import TightBinding

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def readme_python():
    return re.findall(
        r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL
    )[0]


@pytest.mark.parametrize("optimizer", ["FIRE", "BFGS", "LBFGS", "PreconLBFGS"])
def test_readme_python(optimizer, monkeypatch, capsys):
    text = readme_python()
    assert "FIRE(atoms).run(fmax=1e-3)" in text
    # A smaller cell and a looser end; every line is otherwise as printed.
    for old, new in (
        ("supercell(5", "supercell(2"),
        ("centre_atom = 500", "centre_atom = 30"),
        ("cutoff=8.0", "cutoff=5.0"),
        ("r_qm=6.0, r_buffer=8.0", "r_qm=4.5, r_buffer=2.0"),
        ("fmax=1e-3", "fmax=0.05"),
    ):
        assert old in text
        text = text.replace(old, new)
    if optimizer == "PreconLBFGS":
        text = text.replace("import FIRE", "import FIRE\nfrom ase.optimize.precon import PreconLBFGS")
        text = text.replace("FIRE(atoms)", "PreconLBFGS(atoms, precon='Exp', use_armijo=False)")
    else:
        text = text.replace("FIRE", optimizer)
    names: dict = {}
    exec(compile(text, "README.md", "exec"), names)  # the documented text itself is what is tested
    forces = names["atoms"].get_forces()
    assert np.linalg.norm(forces, axis=1).max() < 0.05
    assert names["regions"].qm.sum() > 4


def test_si_vacancy_script(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--cells", "2", "--r-qm", "4.5", "--mm-cutoff", "5", "--fmax", "0.05"]
    monkeypatch.setattr(sys, "argv", ["si_vacancy.py", *small])
    runpy.run_path(str(EXAMPLES / "si_vacancy.py"), run_name="__main__")
    assert "converged: True" in capsys.readouterr().out
    atoms = ase.io.read(tmp_path / "si_vacancy_python.extxyz")
    assert set(atoms.arrays["region"]) <= {0, 1, 2, 3}
    assert np.array_equal(atoms.arrays["region"], atoms.get_tags())


def test_si_bands_script(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["si_bands.py", "--kpts", "8", "--npoints", "30"])
    runpy.run_path(str(EXAMPLES / "si_bands.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "gap 1.0200 eV: VBM 5.2876 eV" in printed
    assert "CBM 6.3076 eV" in printed
    assert "s 4.00" in printed
    assert (tmp_path / "si_bands.png").stat().st_size > 20_000


def test_example_structure_is_what_its_script_writes(monkeypatch, tmp_path):
    atoms = ase.io.read(EXAMPLES / "si_vacancy.extxyz")
    assert len(atoms) == 999
    assert atoms.cell.lengths() == pytest.approx([5 * 5.431] * 3)


def test_own_hamiltonian_script(monkeypatch, capsys):
    """Every promise of the contract, gradients included, for a Hamiltonian of about 40 lines."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    importlib.import_module("own_hamiltonian").main()
    printed = capsys.readouterr().out
    assert "gradients, invariances and weights hold" in printed
    assert "lattice constant: 5.4310 Å" in printed  # what its repulsion is fitted to


def test_own_hamiltonian_responds_to_displacements(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    model = importlib.import_module("own_hamiltonian").HarrisonSilicon()
    atoms = bulk("Si", a=5.431)
    atoms.rattle(0.1, seed=2)
    calc = TightBinding(model, mu=-9.0, kpts=(2, 2, 2))
    u = np.array([[[0.3, -1.0, 0.2], [0.8, 0.1, -0.5]]])
    change = calc.force_response(atoms, u)[0]
    assert_derivative(lambda h: calc.evaluate(moved(atoms, u[0], h)).forces, change)


def test_emt_copper_script(tmp_path, capsys):
    script = runpy.run_path(str(EXAMPLES / "emt_copper.py"))
    cache = tmp_path / "forces"
    script["main"](
        ["--cells", "3", "--r-qm", "4.0", "--cutoff", "5", "--fmax", "0.01", "--cache", str(cache)]
    )
    printed = capsys.readouterr().out
    assert "phonons up to 8." in printed
    assert float(printed.split("position: ")[1].split()[0]) < 3e-3
    assert len(list(cache.glob("*.npz"))) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
def test_phonons_script(tmp_path, capsys):
    pytest.importorskip("phonopy")
    script = runpy.run_path(str(EXAMPLES / "phonons.py"))
    picture = tmp_path / "phonons.png"
    script["main"](["--trial", "--npoints", "40", "--output", str(picture)])
    printed = capsys.readouterr().out
    assert "phonopy: 2 supercells of 64 atoms" in printed
    errors = [float(part.split()[0]) for part in printed.split("square error ")[1:]]
    assert len(errors) == 4
    # In THz: silicon at 5 Å; tungsten, whose force constants are small beyond.
    assert errors[1] < 0.5
    assert errors[3] < 0.1
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
def test_locality_script(tmp_path, capsys):
    script = runpy.run_path(str(EXAMPLES / "locality.py"))
    picture = tmp_path / "locality.png"
    script["main"](["--first", "8", "--second", "6", "--kT", "0.1", "--output", str(picture)])
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines() if line.startswith(("energy", "force "))]
    assert len(rows) == 4
    assert all(float(row[3]) > 0 for row in rows)
    assert picture.stat().st_size > 1000


@pytest.mark.slow
def test_convergence_script(monkeypatch, tmp_path, capsys):
    script = runpy.run_path(str(EXAMPLES / "si_vacancy_convergence.py"))
    script["main"](
        ["--cells", "3", "--relax-cells", "2", "--fmax", "0.02", "--output", str(tmp_path / "study")]
    )
    printed = capsys.readouterr().out
    assert "||Du - Du_H||" in printed
    for suffix in ("_forces.csv", "_balls.csv", "_relaxed.csv", ".png"):
        assert (tmp_path / f"study{suffix}").stat().st_size > 100


def test_tungsten_edge(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("tungsten_edge")
    slopes = example.main(tmp_path / "edge.png", size=40.0)
    assert slopes["slip-compatible"] < -2.5 < -1.5 < slopes["elastic field"]
    assert (tmp_path / "edge.png").exists()
    assert "edge dislocation" in capsys.readouterr().out


@pytest.mark.slow
def test_taylor_convergence_script(tmp_path, capsys):
    script = runpy.run_path(str(EXAMPLES / "taylor_convergence.py"))
    script["main"](["--trial", "--output", str(tmp_path / "taylor.png")])
    rows = [line.split(":")[1].split() for line in capsys.readouterr().out.splitlines() if "error:" in line]
    assert len(rows) == 10
    # Displacements differ by a factor of 50, what an expansion leaves out by its square or more. The trial
    # cuts silicon off at 4 Å: most of what is missing there is linear.
    ratios = np.array([float(row[-1]) / float(row[0]) for row in rows])
    assert (ratios[:4] > 500).all() and (ratios[7:] > 300).all() and (ratios[4:7] > 30).all()
    assert (tmp_path / "taylor.png").stat().st_size > 20_000


@pytest.mark.slow
def test_match_ace(monkeypatch, tmp_path, capsys):
    """Site energies of EAM matched exactly, in the columns of the table."""
    monkeypatch.syspath_prepend(EXAMPLES)
    small = "--order 2 --degree 8 --w-range 6 --si-cutoff 4 --si-degree 12 12 8".split()
    importlib.import_module("match_ace").main([*small, "--output", str(tmp_path / "match.png")])
    text = capsys.readouterr().out
    energies = next(line for line in text.splitlines() if line.startswith("  E order 2")).split()
    assert float(energies[6]) < 1e-3 and float(energies[7]) < 1e-3
    lines = [line.split() for line in text.splitlines() if line.startswith("  FV")]
    forces = {line[0]: float(line[8]) for line in lines if line[3] == "12/12/8"}
    assert forces["FV"] < forces["FVR"] < 0.02
    off = {line[0]: float(line[-2]) for line in lines if line[3] == "12/12/8"}
    assert off["FVR"] < 0.1 < 1 < off["FV"]  # forces at 0.01 Å: what cells with displaced atoms are for
    assert (tmp_path / "match.png").stat().st_size > 10_000


def test_ghost_forces_script(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("ghost_forces")
    picture = tmp_path / "ghost.png"
    example.main(["--cells", "10", "--r-qm", "6.3", "--r-buffer", "9.2", "--output", str(picture)])
    rows = capsys.readouterr().out.split("patch test")[1].splitlines()[1:6]
    forces = {row[:32].strip(): float(row.split()[-2]) for row in rows}
    assert forces.pop("energy, not corrected") > 1e-3
    assert len(forces) == 4 and max(forces.values()) < 1e-10
    assert picture.stat().st_size > 20_000


@pytest.mark.slow
def test_nve_drift_script(monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    found = importlib.import_module("nve_drift").main(["--ps", "0.3", "--cells", "5", "3"])
    assert len(found) == 10
    kept = [values[1] for name, values in found.items() if "W: energy" in name]
    lost = [values[1] for name, values in found.items() if "W: forces" in name]
    assert max(kept) < min(lost)


@pytest.mark.slow
def test_w_vacancy_migration_script(monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    found = importlib.import_module("w_vacancy_migration").main(
        ["--cells", "5", "--images", "7", "--fmax", "0.03"]
    )
    barriers = [work for work, _ in found.values()]
    assert np.ptp(barriers) < 2e-3
    assert 1.7 < barriers[0] < 2.1


@pytest.mark.parametrize("arguments", [["--size", "2"], ["--plane", "--size", "5"]], ids=["bcc", "plane"])
def test_fit_basis_sizes(arguments, monkeypatch, capsys):
    """Errors fall with the basis: those of cells, and of force constants, which are not fitted."""
    monkeypatch.syspath_prepend(EXAMPLES)
    small = ["--degrees", "6", "8", "10", "--train", "8", "--test", "4"]
    found = importlib.import_module("fit_basis_sizes").main([*arguments, *small])
    assert list(found) == [25, 54, 110]  # the last is the smallest basis of the paper's table at L = 5
    energy, forces, eps = np.array(list(found.values())).T
    assert energy[0] > 2 * energy[1] > 2 * energy[2]
    assert forces[0] > 3 * forces[1] > 3 * forces[2]
    assert eps[0] > 2 * eps[1] and eps[0] > 2 * eps[2]
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("  110"))
    assert row.split("|")[1].split() == ["0.364", "0.107", "11.0", "56.6"]
