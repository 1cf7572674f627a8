"""EnergyMixingCalculator: its definition, its gradient, and no ghost forces on the perfect crystal."""

from __future__ import annotations

import numpy as np
import pytest
from ase.calculators.calculator import PropertyNotImplementedError
from ase.optimize import BFGSLineSearch
from helpers import assert_derivative, moved
from mixing_fixtures import (
    A_W,
    TUNGSTEN,
    FinnisSinclair,
    MatchedTaylor,
    silicon_cell,
    stillinger_weber,
    tungsten_vacancy,
    vacancy,
)

from ase_qmmm import EnergyMixingCalculator, ForceMixingCalculator, Regions, TaylorForces, check_calculator
from ase_qmmm.mixing.blending import blend_weights, smoothstep
from ase_qmmm.mixing.ghost_forces import core_distance, core_profile

RANGE = FinnisSinclair.cutoff + 0.1
WEAKER = 1.8  # binding of the MM model, 5 % less than that of the quantum one
NO_ORDER = ("permutation", "supercell")  # regions by index follow neither


def mixture(regions, mm=None, **options):
    options = {"cluster": "open", "crystal": TUNGSTEN} | options
    return EnergyMixingCalculator(FinnisSinclair(), mm or FinnisSinclair(WEAKER), regions, **options)


def forces(calc, atoms):
    return calc.get_property("forces", atoms)


def random_mask(n, size, seed):
    mask = np.zeros(n, bool)
    mask[np.random.default_rng(seed).choice(n, size, replace=False)] = True
    return mask


def near_vacancy(rattle=0.05, r_qm=4.5):
    atoms, place = tungsten_vacancy(5, rattle=rattle)
    return atoms, place, Regions.from_distance(atoms, place, r_qm, RANGE)


@pytest.fixture(scope="module")
def matched():
    return MatchedTaylor(FinnisSinclair(), TUNGSTEN)


# -- patch test ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("correction", [True, "auto"])
@pytest.mark.parametrize("blend", [0.0, 3.0])
@pytest.mark.parametrize("seed", range(3))
def test_patch_with_correction(seed, blend, correction):
    atoms = TUNGSTEN.supercell(6, cubic=True)
    mask = random_mask(len(atoms), 1 + 3 * seed, seed)
    options = {"r_buffer": RANGE, "blend": blend}
    calc = mixture(mask, ghost_force_correction=correction, **options)
    assert np.abs(forces(calc, atoms)).max() < 1e-8
    # It is the correction that does it.
    raw = forces(mixture(mask, ghost_force_correction=False, **options), atoms)
    assert np.abs(raw).max() > 1e-3
    assert np.allclose(calc.ghost_forces, raw, rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_patch_of_a_matched_model(seed, matched):
    """Equal first derivatives of the site energies: nothing to correct."""
    atoms = TUNGSTEN.supercell(6, cubic=True)
    mask = random_mask(len(atoms), 1 + 3 * seed, seed)
    calc = mixture(mask, matched, r_buffer=RANGE, ghost_force_correction=False)
    assert np.abs(forces(calc, atoms)).max() < 1e-8
    calc = mixture(mask, matched, r_buffer=RANGE)
    forces(calc, atoms)
    assert not calc.ghost_forces.any()


@pytest.mark.parametrize("kind", ["open", "periodic"])
def test_patch_tight_binding(kind, silicon_qm, silicon_mm, silicon_crystal):
    atoms = silicon_cell(4, silicon_crystal)
    regions = Regions.from_distance(atoms, atoms.positions[100] + 0.1, 3.0, 2.0)
    calc = EnergyMixingCalculator(silicon_qm, silicon_mm, regions, cluster=kind)
    assert np.abs(forces(calc, atoms)).max() < 1e-8
    assert [c.kind for c in calc.clusters] == [kind]
    assert np.abs(calc.ghost_forces).max() > 1e-3


# -- definition ----------------------------------------------------------------------------------------------


def test_energy_is_the_weighted_sum():
    atoms, place, regions = near_vacancy()
    calc = mixture(regions, ghost_force_correction=False, blend=2.8)
    energies = calc.get_property("energies", atoms)
    w = calc.weights
    assert ((w > 0) & (w < 1)).any()
    (cluster,) = calc.clusters
    expected = (1 - w) * FinnisSinclair(WEAKER).evaluate(atoms).energies
    inside = np.zeros(len(atoms))
    inside[cluster.index] = FinnisSinclair().evaluate(cluster.atoms).energies
    assert np.allclose(energies, expected + w * inside, rtol=0, atol=1e-12)
    assert calc.get_property("energy", atoms) == pytest.approx(energies.sum(), abs=1e-9)
    assert calc.get_property("free_energy", atoms) == pytest.approx(energies.sum(), abs=1e-9)


def test_equal_models_are_the_plain_model():
    atoms, _, regions = near_vacancy()
    calc = mixture(regions, FinnisSinclair())
    atoms.calc = calc
    plain = FinnisSinclair()
    assert np.abs(forces(calc, atoms) - forces(plain, atoms)).max() < 1e-10
    assert atoms.get_potential_energy() == pytest.approx(plain.get_property("energy", atoms), abs=1e-9)
    assert np.allclose(atoms.get_stress(), plain.get_property("stress", atoms), rtol=0, atol=1e-12)


def test_all_qm_is_pure_qm(silicon_qm, silicon_mm, silicon_crystal):
    atoms, _ = vacancy(2, silicon_crystal, rattle=0.05)
    calc = EnergyMixingCalculator(silicon_qm, silicon_mm, slice(None))
    for name in ("energy", "free_energy", "energies", "forces", "stress"):
        # To the last bit.
        assert np.array_equal(calc.get_property(name, atoms), silicon_qm.get_property(name, atoms))


def test_no_qm_is_pure_mm():
    atoms = TUNGSTEN.supercell(2, cubic=True)
    atoms.rattle(0.05, seed=3)
    none = np.zeros(len(atoms), bool)
    with pytest.raises(ValueError, match="no qm atom.*allow_empty_qm=True"):
        forces(mixture(none, r_buffer=3.0), atoms)
    calc = mixture(none, r_buffer=3.0, allow_empty_qm=True)
    for name in ("energy", "forces", "stress"):
        assert np.array_equal(
            calc.get_property(name, atoms), FinnisSinclair(WEAKER).get_property(name, atoms)
        )


def test_sites_of_zero_weight_are_not_evaluated():
    atoms, _, regions = near_vacancy()
    calc = mixture(regions)
    forces(calc, atoms)
    assert calc.mm.evaluated == len(atoms) - regions.qm.sum()
    assert calc.cluster_calculators[0].evaluated == regions.qm.sum()


# -- gradients -----------------------------------------------------------------------------------------------

GRADIENTS = {
    "sharp": {},
    "blended": {"blend": 3.0},
    "smooth beta": {"beta": "smooth"},
    "no correction": {"ghost_force_correction": False},
    "first geometry": {"crystal": None},
    "auto": {"cluster": "auto"},
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_forces_are_the_gradient(name, rng):
    atoms, _, regions = near_vacancy()
    calc = mixture(regions, **GRADIENTS[name])
    gradient = -forces(calc, atoms)
    for mask in (regions.qm, regions.buffer, regions.mm):
        direction = rng.uniform(-1, 1, (len(atoms), 3)) * mask[:, None]
        assert_derivative(
            lambda h, u=direction: calc.get_property("free_energy", moved(atoms, u, h)),
            (gradient * direction).sum(),
            noise=1e-9,
        )


@pytest.mark.parametrize("kind", ["open", pytest.param("periodic", marks=pytest.mark.slow)])
def test_forces_are_the_gradient_tight_binding(kind, rng, silicon_qm, silicon_mm, silicon_crystal):
    atoms = silicon_cell(4, silicon_crystal)
    atoms.rattle(0.03, seed=5)
    regions = Regions.from_distance(atoms, atoms.positions[100] + 0.1, 3.0, 1.5)
    calc = EnergyMixingCalculator(silicon_qm, silicon_mm, regions, cluster=kind)
    direction = rng.uniform(-1, 1, (len(atoms), 3))
    slope = -(forces(calc, atoms) * direction).sum()
    assert [c.kind for c in calc.clusters] == [kind]
    steps = np.array([0.04, 0.01, 2e-3, 5e-4])
    assert_derivative(
        lambda h: calc.get_property("free_energy", moved(atoms, direction, h)), slope, noise=1e-9, steps=steps
    )


@pytest.mark.parametrize("options", [{}, {"blend": 3.0}, {"ghost_force_correction": False}])
def test_contract(options):
    """Forces, stress, invariances, pickles, failures."""
    atoms = TUNGSTEN.supercell(3, cubic=True)
    atoms.rattle(0.05, seed=2)
    regions = Regions.from_distance(atoms, 7, 2.9, 1.0)
    calc = mixture(regions, **options)
    check_calculator(calc, atoms, skip=NO_ORDER)
    assert [c.kind for c in calc.clusters] == ["open"]


def test_the_load_follows_a_strained_cell():
    """One energy function of the cell: the load is that of the first one, and comes back with it."""
    atoms, _, regions = near_vacancy()
    calc = mixture(regions)
    first = calc.get_property("energy", atoms)
    load = calc.ghost_forces
    strained = atoms.copy()
    strained.set_cell(1.01 * atoms.cell.array, scale_atoms=True)
    calc.get_property("energy", strained)
    assert np.array_equal(calc.ghost_forces, load)
    assert calc.get_property("energy", atoms) == first
    # Another cell altogether is another system.
    strained.set_cell(1.08 * atoms.cell.array, scale_atoms=True)
    fresh = mixture(regions).get_property("energy", strained)
    assert calc.get_property("energy", strained) == pytest.approx(fresh, abs=1e-9)


def test_a_line_search_converges():
    """Which needs an energy that belongs to the forces."""
    atoms, _, regions = near_vacancy(rattle=0.0)
    atoms.calc = mixture(regions)
    with BFGSLineSearch(atoms, logfile=None) as optimiser:
        assert optimiser.run(fmax=1e-3, steps=60)


# -- the ghost-force correction ------------------------------------------------------------------------------


def test_defect_sites_are_filled():
    """The load around a vacancy is that of the perfect crystal with the same masks."""
    atoms, place, regions = near_vacancy(rattle=0.0)
    calc = mixture(regions)
    forces(calc, atoms)
    perfect = TUNGSTEN.supercell(5, cubic=True)
    reference = mixture(Regions.from_distance(perfect, place, 4.5, RANGE))
    forces(reference, perfect)
    same = perfect.get_distances(
        int(np.argmin(np.linalg.norm(perfect.positions - place, axis=1))), range(250), mic=True
    )
    expected = reference.ghost_forces[same > 0.1]
    distance = np.linalg.norm(atoms.positions - place, axis=1)
    inner = distance < 2.74 / 2
    difference = (calc.ghost_forces - expected)[~inner]
    # The atom missing took its part of a sum that is zero, which is spread over all others.
    assert np.ptp(difference, axis=0).max() < 1e-10
    assert np.abs(difference).max() < 1e-3
    assert np.abs(calc.ghost_forces.sum(axis=0)).max() < 1e-10


@pytest.mark.parametrize("smooth", [False, True])
def test_beta(smooth):
    atoms, place = tungsten_vacancy(7)
    distance = atoms.get_distances(0, range(len(atoms)), mic=True)
    distance = np.linalg.norm(
        np.remainder(atoms.positions - place + 0.5 * 7 * A_W, 7 * A_W) - 0.5 * 7 * A_W, axis=1
    )
    weights = (distance < 8.0).astype(float)
    radius = distance[distance >= 8.0].min()
    beta = core_profile(atoms, weights, place[None], smooth)
    assert (beta[distance < radius / 2 - 1e-9] == 0).all()
    assert (beta[distance >= (radius if smooth else radius / 2 + 1e-9)] == 1).all()
    assert (((beta > 0) & (beta < 1)).any()) == smooth
    assert (core_profile(atoms, weights, np.zeros((0, 3)), smooth) == 1).all()
    assert (core_profile(atoms, np.ones(len(atoms)), place[None], smooth) == 1).all()


def test_core_distance_in_a_skewed_cell(rng):
    atoms = TUNGSTEN.supercell(4)
    atoms.set_cell(np.array([[1, 2, -1], [0, 1, 2], [0, 0, 1]]) @ atoms.cell.array)
    centres = rng.uniform(-20, 20, (3, 3))
    both = atoms.copy()
    both.extend(type(atoms)("W3", positions=centres))
    n = len(atoms)
    expected = np.array([both.get_distances(n + k, range(n), mic=True) for k in range(3)]).min(axis=0)
    assert np.allclose(core_distance(atoms, centres), expected, rtol=0, atol=1e-9)


def test_first_geometry_has_the_forces_of_force_mixing():
    """Without a lattice its genuine forces stay, those of the interface go."""
    atoms, _, regions = near_vacancy()
    got = forces(mixture(regions, crystal=None), atoms)
    mixed = ForceMixingCalculator(FinnisSinclair(), FinnisSinclair(WEAKER), regions, cluster="open")
    # Which have a net force, unlike those of an energy.
    expected = forces(mixed, atoms)
    assert np.abs(got - expected + expected.mean(axis=0)).max() < 1e-10
    raw = mixture(regions, crystal=None, ghost_force_correction=False)
    assert np.abs(forces(raw, atoms) - got).max() > 1e-3


def test_correction_makes_forces_better():
    """Against the quantum model alone, around a slightly rattled vacancy."""
    atoms, place, regions = near_vacancy(rattle=0.02)
    exact = forces(FinnisSinclair(), atoms)
    errors = []
    for correction in (True, False):
        got = forces(mixture(regions, ghost_force_correction=correction), atoms)
        errors.append(np.abs(got - exact)[regions.qm].max())
    assert errors[0] < 0.3 * errors[1]


# -- frozen atoms --------------------------------------------------------------------------------------------


def test_frozen_rim_of_a_free_cluster(rng):
    """A Taylor model is not asked for the surface, and free atoms feel the frozen ones."""
    mm = TaylorForces.from_calculator(FinnisSinclair(), TUNGSTEN, cutoff=4.6)
    atoms, place = tungsten_vacancy(14)
    distance = np.linalg.norm(atoms.positions - place, axis=1)
    ball = atoms[distance < 21.0]
    ball.pbc = False
    distance = distance[distance < 21.0]
    regions = Regions(distance < 5.5, (distance >= 5.5) & (distance < 10.0), distance > 10.5)
    calc = EnergyMixingCalculator(FinnisSinclair(), mm, regions, cluster="open")
    ball.positions += 0.03 * rng.uniform(-1, 1, (len(ball), 3)) * (distance < 10.5)[:, None]
    f = forces(calc, ball)
    assert not f[regions.frozen].any()
    direction = rng.uniform(-1, 1, f.shape) * ~regions.frozen[:, None]
    assert_derivative(
        lambda h: calc.get_property("energy", moved(ball, direction, h)),
        -(f * direction).sum(),
        noise=1e-8,
        steps=np.array([0.05, 0.01, 2e-3, 5e-4]),
    )
    with pytest.raises(PropertyNotImplementedError, match="open directions"):
        calc.get_property("stress", ball)


# -- weights and arguments -----------------------------------------------------------------------------------


def test_smoothstep():
    x = np.linspace(-0.5, 1.5, 9)
    assert np.allclose(smoothstep(x), [0, 0, 0, 53 / 512, 0.5, 459 / 512, 1, 1, 1])
    # Two continuous derivatives.
    h = 1e-4
    for edge in (0.0, 1.0):
        s = smoothstep(edge + h * np.arange(-2, 3))
        assert np.abs(np.diff(s, 2)).max() / h**2 < 0.02


def test_blend_weights():
    atoms = TUNGSTEN.supercell(6, cubic=True)
    core = random_mask(len(atoms), 3, 1)
    w = blend_weights(atoms, core, 5.0)
    d = np.array([atoms.get_distances(k, range(len(atoms)), mic=True) for k in np.flatnonzero(core)])
    assert np.allclose(w, 1 - smoothstep(d.min(axis=0) / 5.0), rtol=0, atol=1e-12)
    assert np.array_equal(blend_weights(atoms, core, 0.0), core.astype(float))


BAD_ARGUMENTS = {
    "no site energies": ({"mm": stillinger_weber()}, TypeError, "mm: got .*SubtractiveMixingCalculator"),
    "correction": ({"ghost_force_correction": "yes"}, ValueError, "ghost_force_correction: got 'yes'"),
    "beta": ({"beta": "round"}, ValueError, "beta: got 'round'"),
    "blend": ({"blend": -1.0}, ValueError, "blend: got -1.0"),
    "keyword": ({"ghostforce_correction": True}, TypeError, "did you mean 'ghost_force_correction'"),
    "pool": ({"pool": 3}, TypeError, "pool: got int"),
    "embedded": ({"cluster": "embedded"}, ValueError, "'embedded' needs a TightBinding"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments(name):
    options, error, text = BAD_ARGUMENTS[name]
    with pytest.raises(error, match=text):
        mixture([0], **({"r_buffer": 3.0} | options))
