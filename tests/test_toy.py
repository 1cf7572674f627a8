"""The toy model: its crystal, its defects, own functions."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.optimize import BFGS
from helpers import assert_derivative, moved
from scipy.interpolate import make_interp_spline

from ase_qmmm import Crystal, ForceMixingCalculator, Regions, TaylorForces, TightBinding, fermi_level
from ase_qmmm.contract import check_calculator
from ase_qmmm.tightbinding import ToyModel

SPACING = 2.5
GRID = {"size": (48, 48, 1), "gamma": True}


def sheet(n=1, spacing=SPACING, symbol="Ni"):
    cell = [[spacing, 0, 0], [spacing / 2, spacing * 3**0.5 / 2, 0], [0, 0, 0]]
    return Atoms(symbol, cell=cell, pbc=(True, True, False)).repeat((n, n, 1))


@pytest.fixture(scope="module")
def mu():
    return fermi_level("toy", sheet(), kpts=GRID)


def test_spacing_is_exact():
    calc = TightBinding("toy", kT=0.1, kpts=GRID)
    here = calc.evaluate(sheet())
    assert np.abs(here.virial).max() < 1e-11  # eV
    # It is the lowest minimum over all spacings within range, and costs energy to leave.
    others = np.linspace(0.6, 1.65, 22) * SPACING
    assert min(calc.evaluate(sheet(spacing=a)).energy for a in others) > here.energy - 1e-12
    assert TightBinding("toy").evaluate(Atoms("Ni")).energy > here.energy + 0.1


def test_relaxed_crystal():
    crystal = Crystal.relaxed(sheet(spacing=2.4), TightBinding("toy"))
    assert len(crystal.lattice) == 2
    assert np.linalg.norm(crystal.lattice, axis=1) == pytest.approx([SPACING] * 2, abs=1e-5)


def test_elastic_constants():
    """Isotropic in the plane and stable: C11 > C12 > 0, C66 = (C11 - C12) / 2."""
    calc, area, h = TightBinding("toy", kpts=GRID), SPACING**2 * 3**0.5 / 2, 1e-4

    def stress(strain):
        atoms = sheet()
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain))
        return -calc.evaluate(atoms).virial / area

    stretch, shear = np.diag([1.0, 0, 0]), np.zeros((3, 3))
    shear[0, 1] = shear[1, 0] = 0.5
    uniaxial = (stress(h * stretch) - stress(-h * stretch)) / (2 * h)
    c66 = ((stress(h * shear) - stress(-h * shear)) / (2 * h))[0, 1]
    assert uniaxial[0, 0] > uniaxial[1, 1] > 0
    assert c66 == pytest.approx((uniaxial[0, 0] - uniaxial[1, 1]) / 2, rel=1e-6)
    assert (uniaxial[0, 0], uniaxial[1, 1], c66) == pytest.approx(
        (0.2546, 0.1404, 0.0571), abs=2e-4
    )  # eV/Å^2


def test_phonons_are_positive_in_the_whole_zone(mu):
    n = 12
    atoms = sheet(n)
    directions = np.zeros((2, len(atoms), 3))
    directions[0, 0, 0] = directions[1, 0, 1] = 1.0
    hessian = -TightBinding("toy", mu=mu, kpts=(2, 2, 1)).force_response(atoms, directions)[:, :, :2]
    # Every wave vector of the 12 x 12 supercell, M and K of the zone boundary among them.
    fractions = np.stack(np.meshgrid(*[np.arange(n) / n] * 2), axis=-1).reshape(-1, 2)
    waves = 2 * np.pi * fractions @ np.linalg.inv(sheet().cell.array[:2, :2]).T
    dynamical = np.einsum("qn,anb->qab", np.exp(1j * waves @ atoms.positions[:, :2].T), hessian)
    levels = np.linalg.eigvalsh(dynamical)
    assert np.abs(levels[0]).max() < 1e-8
    assert levels[1:].min() > 0.01  # eV/Å^2; the stiffest is 0.98
    assert levels.max() == pytest.approx(0.98, abs=0.02)


@pytest.mark.parametrize("missing", [1, 2])
def test_defects_stay_what_they_are(mu, missing):
    """A vacancy and a di-vacancy relax a little: no atom leaves its site, and removing them costs energy."""
    perfect = sheet(12)
    atoms = perfect[np.setdiff1d(np.arange(144), [78, 79][:missing])]
    start = atoms.positions.copy()
    atoms.rattle(0.02, seed=1)
    atoms.positions[:, 2] = 0
    atoms.calc = TightBinding("toy", mu=mu)
    assert BFGS(atoms, logfile=None).run(fmax=1e-3, steps=200)
    displaced = atoms.positions - start
    displaced -= displaced.mean(axis=0)
    assert np.linalg.norm(displaced, axis=1).max() < 0.1
    per_atom = atoms.calc.evaluate(perfect).energy / len(perfect)
    assert atoms.get_potential_energy() - per_atom * len(atoms) > 0.04 * missing


def test_far_atoms_matter_exponentially_little(mu):
    atoms = sheet(16)
    directions = np.zeros((1, len(atoms), 3))
    directions[0, 136, 0] = 1.0
    change = np.linalg.norm(TightBinding("toy", mu=mu).force_response(atoms, directions)[0], axis=1)
    r = np.linalg.norm(atoms.positions - atoms.positions[136], axis=1)
    for inner, outer in ((2.5, 9.9), (9.9, 17.4)):
        assert change[np.abs(r - outer) < 0.6].max() < 0.1 * change[np.abs(r - inner) < 0.6].max()


def test_force_mixing_around_a_vacancy(mu):
    """The mixture in two dimensions against the quantum model of the whole sheet."""
    qm, crystal = TightBinding("toy"), Crystal(sheet())
    mm = TaylorForces.from_calculator(qm, crystal, cutoff=10.0)
    atoms = crystal.supercell(20)
    centre = atoms.positions[210].copy()
    del atoms[210]
    regions = Regions.from_distance(atoms, centre, r_qm=8.0, r_buffer=5.0)
    mixture = ForceMixingCalculator(qm, mm, regions)
    forces = mixture.get_property("forces", atoms)
    (cluster,) = mixture.clusters
    assert len(cluster.index) >= (regions.qm | regions.buffer).sum()
    error = np.abs(forces - TightBinding("toy", mu=mu).evaluate(atoms).forces)
    assert np.abs(forces).max() > 0.02
    assert error[regions.qm].max() < 1e-4
    assert error[regions.mm].max() < 2e-4


@pytest.mark.parametrize("form", ["functions", "splines"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_own_functions(form, order):
    r = np.linspace(0.4, 5.2, 60)
    hopping, density = (lambda x: -1.5 / x**2), (lambda x: np.exp(-x))
    if form == "splines":
        hopping, density = (make_interp_spline(r, f(r), k=7) for f in (hopping, density))
    model = ToyModel(hopping=hopping, density=density, onsite=lambda x: x + x**2, cutoff=5.0, symbol="Na")
    assert model.symbols == ("Na",)
    x = np.array([1.0, 2.2, 4.1, 4.9])

    def functions(h, k):
        return np.stack(
            [
                model.two_centre(0, 0, x + h, order)[0, 0][0][0, k],
                model.density(0, 0, x + h, order)[k],
                model.onsite(0, 0, x + h, order)[k, :, 0],
            ]
        )

    steps = np.array([0.05, 0.01, 1e-3])
    assert_derivative(lambda h: functions(h, order - 1), functions(0.0, order), noise=1e-10, steps=steps)
    assert not model.two_centre(0, 0, np.array([5.0, 6.0]), 4)[0, 0][0].any()


def test_gradient_with_own_functions(rng):
    model = ToyModel(hopping=lambda r: -2 / r**2, onsite=lambda x: x**2, cutoff=4.0, n_electrons=0.8)
    assert model.name == ToyModel(cutoff=5.0).name == "toy with own parameters"
    assert ToyModel(symbol="Cu").name == "toy"
    atoms = sheet(3)
    atoms.rattle(0.1, seed=1)
    calc = TightBinding(model, mu=-0.5)
    u, w = rng.uniform(-1, 1, (9, 3)), rng.uniform(0, 1, 9)
    slope = -(calc.evaluate(atoms, w).forces * u).sum()
    assert_derivative(lambda h: calc.evaluate(moved(atoms, u, h), w).energy, slope)
    change = calc.force_response(atoms, u[None])[0]
    assert_derivative(lambda h: calc.evaluate(moved(atoms, u, h)).forces, change)


@pytest.mark.parametrize("options", [{}, {"mu": 0.2}], ids=str)
def test_contract(options):
    atoms = sheet(2)
    atoms.rattle(0.1, seed=1)
    check_calculator(TightBinding("toy", **options), atoms, skip={"supercell"})
    crystal = bulk("Ni", a=3.54, cubic=True)
    crystal.rattle(0.1, seed=1)
    check_calculator(TightBinding("toy", **options), crystal, skip={"supercell"})


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"cutof": 3.0}, TypeError, "unknown keyword 'cutof'; did you mean 'cutoff'"),
        ({"cutoff": -1.0}, ValueError, "cutoff: got -1.0"),
        ({"cutoff": np.nan}, ValueError, "cutoff: got nan"),
        ({"cutoff": 3.0, "switch": 3.5}, ValueError, "cutoff: got 3 Å, expected more than switch = 3.5"),
        ({"switch": 0.0}, ValueError, "switch"),
        ({"n_electrons": 2.0}, ValueError, "n_electrons: got 2.0, expected less than 2"),
        ({"n_electrons": 0.0}, ValueError, "n_electrons"),
        ({"symbol": "X"}, ValueError, "symbol: got 'X', expected a chemical symbol"),
        ({"symbol": "Qq"}, ValueError, "symbol"),
        ({"symbol": ["Ni"]}, ValueError, "symbol"),
        ({"hopping": 3.0}, TypeError, "hopping: got 3.0, expected a function"),
        ({"hopping": np.arctan}, TypeError, "hopping: cannot be differentiated"),
        ({"density": lambda r: 1 / (r - r)}, ValueError, "density: derivative 0 is not finite"),
        ({"onsite": np.sqrt}, ValueError, "onsite: derivative 1 is not finite"),
        ({"onsite": lambda x: np.ones(3)}, ValueError, r"onsite: got shape \(3,\)"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_bad_arguments(arguments, error, text):
    with pytest.raises(error, match=text):
        ToyModel(**arguments)


def test_one_form_of_the_cutoff_only():
    with pytest.raises(ValueError, match="cutoff_form: got 'original', but toy has one form only"):
        TightBinding("toy", cutoff_form="original")
    with pytest.raises(ValueError, match="one form only"):
        TightBinding("toy").with_options(cutoff_form="original")
