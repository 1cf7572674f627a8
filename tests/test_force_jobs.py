"""Force calculations on workers, with a cache: nothing computed twice, nothing wrong kept, failures named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
from ase.calculators.emt import EMT

from ase_qmmm import Crystal
from ase_qmmm.errors import NumericsError
from ase_qmmm.parallel import TaskPool
from ase_qmmm.taylor import ForceJobs, displacement_derivatives


class Flaky(EMT):
    """EMT that counts its calculations and spoils one of them."""

    def __init__(self, fail_at=None, how="raise"):
        super().__init__()
        self.calls, self.fail_at, self.how = 0, fail_at, how

    def __repr__(self):
        return "Flaky EMT"

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.calls != self.fail_at:
            return
        if self.how == "raise":
            raise CalculationFailed("SCF not converged in 60 steps")
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        forces = self.results["forces"]
        self.results["forces"] = {
            "nan": forces * np.where(np.arange(len(forces)) == 3, np.nan, 1.0)[:, None],
            "shape": forces[:-1],
            "type": forces.astype(int),
            "energy": forces,
        }[self.how]
        if self.how == "energy":
            self.results["energy"] = np.inf


class Unpicklable(EMT):
    def __reduce__(self):
        raise TypeError("open files do not travel")


def make_emt():
    return EMT()


@pytest.fixture(scope="module")
def crystal():
    return Crystal(bulk("Cu", a=3.6))


def derivatives(crystal, calc, cache=None, **options):
    return displacement_derivatives(calc, crystal, 2, (3.6, 2.6), supercell=3, cache=cache, **options)


@pytest.fixture(scope="module")
def expected(crystal):
    return derivatives(crystal, EMT())


def same(a, b):
    """To rounding: EMT keeps a neighbour list from one structure to the next."""
    return all(
        np.abs(x - y).max() < 1e-9 for j in (1, 2) for x, y in zip(a.tensors[j], b.tensors[j], strict=True)
    )


def test_a_second_run_computes_nothing(crystal, expected, tmp_path):
    first = Flaky()
    assert same(derivatives(crystal, first, tmp_path), expected)
    assert first.calls == len(list(tmp_path.glob("*.npz")))
    second = Flaky()
    assert same(derivatives(crystal, second, tmp_path), expected)
    assert second.calls == 0
    # Another lattice constant, or another calculator, is another calculation.
    derivatives(Crystal(bulk("Cu", a=3.61)), second, tmp_path)
    assert second.calls == first.calls
    derivatives(crystal, second, tmp_path, identity="other settings")
    assert second.calls == 2 * first.calls


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "CalculationFailed: SCF not converged in 60 steps"),
        ("nan", "force nan on atom 3 along x, expected finite"),
        ("shape", r"forces of shape \(26, 3\), expected \(27, 3\)"),
        ("type", "forces of type int64"),
        ("energy", "energy inf"),
    ],
)
def test_a_failed_calculation_is_named_and_the_others_are_kept(crystal, expected, tmp_path, how, message):
    calc = Flaky(fail_at=6, how=how)
    # Two calculations of order one come first.
    with pytest.raises(
        NumericsError, match=rf"displaced structure 3 of 9 \(.*Å\), Flaky EMT: {message}"
    ) as info:
        derivatives(crystal, calc, tmp_path)
    file = Path(str(info.value).split("structure is in ")[1].split(",")[0])
    spoilt = ase.io.read(file)
    assert np.sum(np.linalg.norm(spoilt.positions - crystal.supercell(3).positions, axis=1) > 0.01) == 2
    again = Flaky()
    assert same(derivatives(crystal, again, tmp_path), expected)
    assert again.calls == 11 - 5


def test_without_a_cache_the_message_says_how_to_find_the_structure(crystal):
    with pytest.raises(NumericsError, match="atom 0 by .* give a cache directory"):
        derivatives(crystal, Flaky(fail_at=2))


def test_a_killed_run_resumes(crystal, expected, tmp_path):
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_force_jobs import *\n"
        "derivatives(Crystal(bulk('Cu', a=3.6)), Flaky(fail_at=5, how='kill'), sys.argv[2])\n"
    )
    cache = tmp_path / "cache"
    died = subprocess.run(
        [sys.executable, "-c", script, str(Path(__file__).parent), str(cache)],
        capture_output=True,
        check=False,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr.decode()
    assert len(list(cache.glob("*.npz"))) == 4
    calc = Flaky()
    assert same(derivatives(crystal, calc, cache), expected)
    assert calc.calls == 11 - 4


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "nan", "text", "large"])
def test_damaged_files_are_computed_again(crystal, expected, tmp_path, caplog, damage):
    derivatives(crystal, Flaky(), tmp_path)
    path, other = sorted(tmp_path.glob("*.npz"))[:2]
    with np.load(path, allow_pickle=False) as data:
        content = dict(data)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:700])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        path.write_bytes(other.read_bytes())
    elif damage == "text":
        path.write_text("forces", encoding="utf-8")
    elif damage == "nan":
        np.savez(path, **(content | {"forces": content["forces"] * np.nan}))
    else:
        np.savez_compressed(path, **(content | {"forces": np.zeros((10**6, 3))}))
    calc = Flaky()
    assert same(derivatives(crystal, calc, tmp_path), expected)
    assert calc.calls == 1
    assert f"file of forces {path} cannot be read" in caplog.text
    caplog.clear()
    derivatives(crystal, calc, tmp_path)
    assert calc.calls == 1 and "cannot be read" not in caplog.text


@pytest.mark.parametrize("calc", [EMT(), EMT, make_emt], ids=["object", "class", "function"])
def test_threads_have_calculators_of_their_own(crystal, expected, calc):
    with ThreadPoolExecutor(3) as executor:
        assert same(derivatives(crystal, calc, executor=executor), expected)


def test_processes_make_calculators_that_do_not_pickle(crystal, expected, tmp_path):
    with TaskPool(1) as pool:
        assert same(derivatives(crystal, Unpicklable, tmp_path, executor=pool, identity="EMT"), expected)
    calc = Flaky()
    derivatives(crystal, calc, tmp_path, identity="EMT")
    assert calc.calls == 0


def test_a_cache_needs_an_identity(crystal, tmp_path):
    with pytest.raises(ValueError, match="identity: EMT does not say what its settings are"):
        derivatives(crystal, EMT(), tmp_path)
    with pytest.raises(ValueError, match="identity: make_emt"):
        derivatives(crystal, make_emt, tmp_path)


def test_bad_calculators(crystal):
    with pytest.raises(TypeError, match="calc: got str, expected an ASE calculator"):
        ForceJobs("EMT")

    class ForcesOnly(Calculator):
        implemented_properties = ["forces"]

        def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            self.results["forces"] = np.zeros((len(atoms), 3))

    with pytest.raises(NumericsError, match=r"structure 0 of 2 \(not displaced\).*PropertyNotImplemented"):
        derivatives(crystal, ForcesOnly())
