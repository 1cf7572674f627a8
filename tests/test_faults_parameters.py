"""Bad parameters, and electrons at the limits of what a spectrum allows."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import CalculationFailed

from ase_qmmm import TaylorForces, TightBinding
from ase_qmmm.errors import NumericsError


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"kt": 0.1}, TypeError, "unknown keyword 'kt'; did you mean 'kT'"),
        ({"kpoints": 1}, TypeError, "did you mean 'kpts'"),
        ({"kT": 0.0}, ValueError, "kT: got 0.0, expected a finite number > 0 eV"),
        ({"kT": -0.1}, ValueError, "kT"),
        ({"kT": np.nan}, ValueError, "kT"),
        ({"kT": "warm"}, TypeError, "kT: got 'warm'"),
        ({"mu": np.inf}, ValueError, "mu: got inf"),
        ({"energy": "total"}, ValueError, "energy: got 'total'"),
        ({"energy": "grand"}, ValueError, "needs a chemical potential"),
        ({"solver": "magic"}, ValueError, "solver: got 'magic'"),
        ({"cutoff_form": "sharp"}, ValueError, "cutoff_form: got 'sharp'"),
        ({"model": "nrl-Si-spp"}, ValueError, "did you mean 'nrl-Si-sp'"),
        ({"model": "kwon-si"}, ValueError, "did you mean 'kwon-Si'"),
        ({"model": "toys"}, ValueError, "did you mean 'toy'"),
        ({"model": "nothing"}, ValueError, "known: nrl-.* or a path ending in .json"),
        ({"model": "nothing.json"}, FileNotFoundError, "there is no parameter file 'nothing.json'"),
        ({"model": 14}, TypeError, "model: got int, expected a name, a path or a Hamiltonian"),
    ],
)
def test_bad_parameters_of_tight_binding(arguments, error, text):
    with pytest.raises(error, match=text):
        TightBinding(**arguments)


@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf])
def test_bad_parameters_of_taylor_forces(silicon_mm, value):
    with pytest.raises(ValueError, match="missing_tolerance"):
        TaylorForces(silicon_mm.force_constants, missing_tolerance=value)


@pytest.mark.parametrize("kpts", [(0, 1, 1), "many", (1, 2), [[0, 0, np.nan]], (1, 1, 4)])
def test_bad_kpoints(kpts):
    atoms = bulk("Si")
    atoms.pbc = (True, True, False)
    with pytest.raises(ValueError, match="kpts: "):
        TightBinding(kpts=kpts).evaluate(atoms)


@pytest.mark.parametrize("weights", [np.ones(3), np.ones((8, 1)), np.full(8, np.nan), 1.0])
def test_bad_weights(weights):
    atoms = bulk("Si", cubic=True)
    with pytest.raises(ValueError, match="weights: "):
        TightBinding().evaluate(atoms, weights)


def test_bad_displacements():
    calc, atoms = TightBinding(mu=5.8), bulk("Si")
    with pytest.raises(ValueError, match=r"displacements: got shape \(2, 3\), expected \(m, 2, 3\)"):
        calc.force_response(atoms, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="fixed chemical potential"):
        TightBinding().force_response(atoms, np.zeros((1, 2, 3)))


def test_odd_electrons_and_degenerate_levels():
    """Occupations count to N, degenerate levels share theirs: the forces keep the symmetry."""
    for atoms in (
        Atoms("Al", cell=[15] * 3, pbc=True),
        Atoms("Al3", [[0, 0, 0], [2.6, 0, 0], [1.3, 2.6 * 3**0.5 / 2, 0]]),
    ):
        for kT in (0.1, 1e-3):
            calc = TightBinding("nrl-Al-spd", kT=kT)
            result = calc.evaluate(atoms)
            assert calc.charges(atoms).sum() == pytest.approx(3 * len(atoms), abs=1e-11)
            assert np.ptp(result.energies) < 1e-9
            assert np.ptp(np.linalg.norm(result.forces, axis=1)) < 1e-9


@pytest.mark.parametrize("options", [{}, {"energy": "band"}, {"mu": 5.8}, {"mu": 5.8, "energy": "band"}])
@pytest.mark.parametrize("kT", [1e-4, 5.0])
def test_extreme_temperatures(options, kT):
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    with np.errstate(divide="raise", invalid="raise", over="raise"):
        result = TightBinding(kT=kT, **options).evaluate(atoms, np.linspace(0, 1, 8))
    assert np.isfinite(result.forces).all()
    assert np.isfinite(result.energies).all()


@pytest.mark.parametrize("kpts", [(1, 1, 1), (2, 2, 2)])
def test_overlap_that_is_not_positive(kpts):
    atoms = bulk("Si", a=2.6)
    with pytest.raises(NumericsError, match=r"smallest eigenvalue -.*closest pair: atoms \d and \d") as info:
        TightBinding(kpts=kpts).get_property("energy", atoms)
    assert isinstance(info.value, CalculationFailed)
