"""Series along the displacement: the same numbers as tensors, and orders that no tensor reaches."""

from __future__ import annotations

import logging
from math import factorial

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from helpers import assert_derivative, moved
from test_crystal_derivatives import Magnet, Repulsive, salt, salt_chain

from ase_qmmm import (
    EAM,
    Crystal,
    EnergyMixingCalculator,
    ForceMixingCalculator,
    Regions,
    TaylorForces,
    TaylorPotential,
    TaylorSeries,
    TightBinding,
    check_calculator,
    fermi_level,
)
from ase_qmmm.errors import MatchError
from ase_qmmm.symmetry import space_group, stencil_permutation

TRIANGULAR = Atoms("Ni", cell=[[2.5, 0, 0], [1.25, 2.5 * np.sqrt(0.75), 0], [0, 0, 0]], pbc=(1, 1, 0))
TUNGSTEN = bulk("W", a=3.1648494)
SILICON = bulk("Si", a=5.43)
# Model, crystal, order, cutoffs.
CASES = {
    "toy": (lambda: TightBinding("toy", kT=0.5), TRIANGULAR, 4, 2.6),
    "silicon": (lambda: TightBinding("nrl-Si-sp", kT=0.5), SILICON, 3, 2.5),
    "repulsion": (lambda: TightBinding("kwon-Si", kT=0.5), SILICON, 3, 2.5),
    "tungsten": (lambda: EAM("W-zhou04"), TUNGSTEN, 3, 4.0),
    "alloy, cutoffs": (
        lambda: EAM("Ni-Al-zhou04"),
        bulk("NiAl", "cesiumchloride", a=2.88),
        4,
        (4.2, 3, 3, 2.6),
    ),
}
MADE = {}


def made(name):
    """The quantum model, the tensors and the series, each made once."""
    if name not in MADE:
        make, cell, order, cutoff = CASES[name]
        qm, crystal = make(), Crystal(cell)
        both = [
            TaylorPotential.from_calculator(
                qm, crystal, order, cutoff, elasticity="truncated", threshold=0.0, method=method
            )
            for method in ("tensors", "series")
        ]
        MADE[name] = qm, *both
    return MADE[name]


def rattled(crystal, repeats, size, seed=1):
    atoms = crystal.supercell(repeats)
    atoms.positions += size * np.random.default_rng(seed).uniform(-1, 1, (len(atoms), 3)) * atoms.pbc
    return atoms


@pytest.fixture(scope="module")
def tungsten():
    return TaylorSeries.from_calculator(EAM("W-zhou04"), Crystal(TUNGSTEN), order=5, cutoff=3.5)


@pytest.mark.parametrize("name", CASES)
def test_same_as_tensors(name, rng):
    _, tensors, series = made(name)
    assert type(tensors) is TaylorPotential and type(series) is TaylorSeries
    assert series.cutoffs == tensors.cutoffs and series.order == tensors.order
    atoms = rattled(series.crystal, 3 if series.crystal.n_basis == 1 else 2, 0.1)
    weights = rng.uniform(-1, 1, len(atoms))
    for w in (None, weights):
        a, b = tensors.evaluate(atoms, w), series.evaluate(atoms, w)
        energies = a.energies - tensors.reference_energies[tensors.match(atoms).basis]
        assert np.abs(a.energies - b.energies).max() < 1e-9 * np.abs(energies).max()
        assert np.abs(a.forces - b.forces).max() < 1e-9 * np.abs(a.forces).max()
        assert np.abs(a.virial - b.virial).max() < 1e-9 * np.abs(a.virial).max()


@pytest.mark.parametrize(
    ("model", "cell", "order", "cutoff"),
    [
        (Repulsive(), salt, 2, 2.6),
        (Magnet(), salt, 2, 2.6),
        (Repulsive(), salt_chain, 3, 2.6),
    ],
)
def test_species_spins_and_shells(model, cell, order, cutoff, rng):
    """Different orbitals side by side, two spins, a chain: tensors on the same grid."""
    qm = TightBinding(model, kT=0.3, mu=-1.0)
    crystal, options = Crystal(cell()), {"error": 1e-6, "margin": 3.0}
    tensors = qm.site_energy_derivatives(crystal, order, cutoff, **options).tensors
    series = qm.site_energy_series(crystal, order, cutoff, **options)
    for a in range(crystal.n_basis):
        g = rng.uniform(-0.1, 0.1, (1, len(crystal.stencil(a, cutoff)), 3))
        for j in range(1, order + 1):
            row = tensors[j][a].reshape((g.size,) * j)
            for _ in range(j - 1):
                row = row @ g.ravel()
            energy, gradient = series.expand(a, g, j, j)
            assert gradient.ravel() == pytest.approx(row / factorial(j - 1), abs=1e-9 * np.abs(row).max())
            assert energy[0] == pytest.approx(row @ g.ravel() / factorial(j), rel=1e-9)


def test_defaults_are_those_of_tensors():
    """Invariance under rotations and exact elastic constants are matters of the first two orders."""
    qm, crystal = EAM("W-zhou04"), Crystal(TUNGSTEN)
    atoms = rattled(crystal, 3, 0.1)
    tensors, series = (
        TaylorPotential.from_calculator(qm, crystal, 3, 3.5, threshold=0.0, method=m)
        for m in ("tensors", "series")
    )
    assert series.evaluate(atoms).forces == pytest.approx(tensors.evaluate(atoms).forces, abs=1e-9)
    matrices = series.force_constants.matrices, tensors.force_constants.matrices
    assert matrices[0][0] == pytest.approx(matrices[1][0], abs=1e-10)
    exact = TaylorSeries.from_calculator(qm, crystal, 3, 3.5, elasticity="exact")
    found, expected = (m.cauchy_born_derivatives(crystal, 2).elastic_constants() for m in (exact, qm))
    assert found == pytest.approx(expected, abs=1e-8 * np.abs(expected).max())


@pytest.mark.parametrize("order", [3, 4, 5, 6])
def test_errors_fall_with_the_order_in_a_metal(order, rng):
    """Range of the potential whole: powers k + 1 of the energies and k of the forces."""
    qm, crystal = EAM("W-zhou04"), Crystal(TUNGSTEN)
    mm = TaylorSeries.from_calculator(qm, crystal, order, 6.5, elasticity="truncated", threshold=0.0)
    atoms = crystal.supercell(3)
    u = rng.uniform(-1, 1, (len(atoms), 3))
    errors = []
    for h in (0.04, 0.02):
        got, expected = mm.evaluate(moved(atoms, u, h)), qm.evaluate(moved(atoms, u, h))
        errors.append(
            [np.abs(got.energies - expected.energies).max(), np.abs(got.forces - expected.forces).max()]
        )
    assert np.log2(np.array(errors[0]) / errors[1]) == pytest.approx([order + 1, order], abs=0.4)


@pytest.mark.parametrize(
    ("name", "cell", "step"),
    [("toy", TRIANGULAR, 0.16), pytest.param("kwon-Si", SILICON, 0.05, marks=pytest.mark.slow)],
)
def test_errors_fall_with_the_order_in_tight_binding(name, cell, step, rng):
    """A stencil displaced in a supercell that repeats as the crystal of the series does."""
    crystal = Crystal(cell)
    free = TightBinding(name, kT=0.5)
    qm = free.with_options(mu=fermi_level(free, crystal), energy="grand")
    series = {k: qm.site_energy_series(crystal, k, 2.6, margin=0.0) for k in (4, 5, 6)}
    atoms = crystal.supercell((*series[4].grid, 1)[:3])
    near = crystal.match(atoms, 2.6).neighbours[0]
    g = rng.uniform(-1, 1, (len(near), 3)) * atoms.pbc
    start = qm.evaluate(atoms).energies[0]
    weights = np.eye(len(atoms))[0]
    errors = {k: [] for k in series}
    for h in (step, step / 2):
        image = atoms.copy()
        image.positions[near] += h * g
        exact = qm.evaluate(image, weights)
        for k, one in series.items():
            energy, gradient = one.expand(0, h * g[None])
            errors[k].append([abs(energy[0] - exact.energies[0] + start)])
            errors[k][-1].append(np.abs(gradient[0] + exact.forces[near]).max())
    for k, (coarse, fine) in errors.items():
        of_energy, of_gradient = np.log2(np.array(coarse) / fine)
        assert of_gradient == pytest.approx(k, abs=0.4)
        # The leading coefficient of a single number may happen to be small.
        assert of_energy > k + 0.6


@pytest.mark.parametrize(
    "name", ["toy", "repulsion", "alloy, cutoffs", pytest.param("silicon", marks=pytest.mark.slow)]
)
def test_forces_and_virial_are_derivatives(name, rng):
    series = made(name)[2]
    atoms = rattled(series.crystal, 2, 0.1)
    weights = rng.uniform(-1, 1, len(atoms))
    u = rng.uniform(-1, 1, (len(atoms), 3)) * atoms.pbc
    result = series.evaluate(atoms, weights)
    assert_derivative(
        lambda h: series.evaluate(moved(atoms, u, h), weights).energy, -(result.forces * u).sum()
    )


def test_promises_of_calculators():
    check_calculator(made("toy")[2], rattled(Crystal(TRIANGULAR), (3, 3, 1), 0.05))


def test_symmetry_of_the_site(rng):
    """Images of a displacement under the operations of the crystal, the two sublattices exchanged too."""
    series = next(iter(made("repulsion")[2].series.values()))
    crystal = series.crystal
    g = rng.uniform(-0.1, 0.1, (1, len(crystal.stencil(0, series.cutoff)), 3))
    energy, gradient = series.expand(0, g)
    for op in space_group(crystal)[::7]:
        permutation = stencil_permutation(crystal, op, 0, series.cutoff)
        image = np.empty_like(g)
        image[:, permutation] = g @ op.rotation.T
        found, turned = series.expand(int(op.sites[0]), image)
        assert found == pytest.approx(energy, rel=1e-10)
        assert turned[:, permutation] == pytest.approx(gradient @ op.rotation.T, abs=1e-10)


def test_orders_add_up(rng):
    series = next(iter(made("toy")[2].series.values()))
    g = rng.uniform(-0.1, 0.1, (11, 6, 3)) * [1, 1, 0]
    whole = series.expand(0, g)
    parts = [series.expand(0, g, j, j) for j in (1, 2, 3, 4)]
    for k in (0, 1):
        assert sum(part[k] for part in parts) == pytest.approx(whole[k], abs=1e-14)
    # Homogeneous of degree j.
    assert series.expand(0, 0.5 * g, 4, 4)[0] == pytest.approx(parts[3][0] / 16, rel=1e-10)


def test_a_vacancy_in_the_stencil(tungsten):
    atoms = tungsten.crystal.supercell(4)
    atoms.rattle(0.02, seed=1)
    del atoms[20]
    near = (tungsten.match(atoms).missing).any(axis=1)
    far = np.where(near, 0.0, 1.0)
    assert np.isfinite(tungsten.evaluate(atoms, far).forces).all()
    with pytest.raises(MatchError, match="lack neighbours"):
        tungsten.evaluate(atoms)


def test_shares_of_the_neighbours_follow_the_tensors():
    _, tensors, series = made("tungsten")
    ours, theirs = series._influences()[0], tensors._influences()[0]
    assert (ours > 0.9 * theirs).all() and (ours < 1.5 * theirs).all()


def test_round_trip_needs_the_model(tungsten, tmp_path):
    path = tmp_path / "series.npz"
    tungsten.save(path)
    copy = TaylorSeries.load(path, EAM("W-zhou04"))
    atoms = rattled(tungsten.crystal, 3, 0.05)
    assert repr(copy) == repr(tungsten)
    a, b = tungsten.evaluate(atoms), copy.evaluate(atoms)
    assert np.array_equal(a.forces, b.forces) and np.array_equal(a.energies, b.energies)
    with pytest.raises(ValueError, match=r"use TaylorSeries.load\(path, qm\)"):
        TaylorSeries.load(path)
    with pytest.raises(ValueError, match="expected a TaylorPotential; load it with TaylorSeries"):
        TaylorPotential.load(path)
    with pytest.raises(ValueError, match="other site energies"):
        TaylorSeries.load(path, _Scaled("W-zhou04"))


class _Scaled(EAM):
    """The same with another lattice behind the series."""

    def site_energy_series(self, crystal, order=4, cutoff=None):
        series = super().site_energy_series(crystal, order, cutoff)
        series._sites[0]._density *= 1.001
        return series


def test_mixing(tungsten):
    """As the far-field model of both kinds of mixtures."""
    qm, crystal = EAM("W-zhou04"), tungsten.crystal
    atoms = crystal.supercell(6)
    atoms.rattle(0.02, seed=1)
    regions = Regions.from_distance(atoms, atoms.positions[0], r_qm=3.5, r_buffer=6.5)
    exact = qm.evaluate(atoms).forces
    for cls in (ForceMixingCalculator, EnergyMixingCalculator):
        atoms.calc = cls(qm, tungsten, regions, crystal=crystal)
        assert np.abs(atoms.get_forces() - exact)[regions.mm].max() < 0.2 * np.abs(exact).max()


def test_choice(caplog):
    qm, crystal = EAM("W-zhou04"), Crystal(TUNGSTEN)
    make = TaylorPotential.from_calculator
    assert type(make(qm, crystal, 2, 5.0)) is TaylorPotential
    assert type(make(qm, crystal, 3, 3.5)) is TaylorPotential
    assert type(make(qm, crystal, 5, 3.5)) is TaylorSeries
    with caplog.at_level(logging.INFO, logger="ase_qmmm"):
        # 58 neighbours: 9e8 numbers.
        assert type(make(qm, crystal, 4, 5.7)) is TaylorSeries
        assert "more than max_memory" in caplog.text
        caplog.clear()
        assert type(make(qm, crystal, 3, 5.7, evaluations=10_000_000)) is TaylorSeries
        assert "set-up" in caplog.text


def test_expected_time_of_tensors():
    qm = made("toy")[0]
    crystal = Crystal(TRIANGULAR)
    times = [qm.site_energy_derivatives_time(crystal, order, 2.6) for order in (2, 4)]
    assert 0 < times[0] < times[1] < 1e4


def test_refusals(silicon_crystal):
    qm, crystal = EAM("W-zhou04"), Crystal(TUNGSTEN)
    make = TaylorPotential.from_calculator
    with pytest.raises(ValueError, match="method: got 'tensor', expected"):
        make(qm, crystal, 3, 3.5, method="tensor")
    with pytest.raises(ValueError, match="order: got 5, expected 2, 3 or 4"):
        make(qm, crystal, 5, 3.5, method="tensors")
    with pytest.raises(ValueError, match="order: got 2, expected 3, 4, 5 or 6"):
        make(qm, crystal, 2, 3.5, method="series")
    with pytest.raises(TypeError, match="has no method site_energy_series"):
        make(TaylorForces.from_calculator(qm, crystal, 1, 5.0), crystal, 3, 3.5, method="series")
    with pytest.raises(ValueError, match="evaluations"):
        make(qm, crystal, 3, 3.5, evaluations=-1)
    with pytest.raises(ValueError, match="order: got 7, expected 1 to 6"):
        qm.site_energy_series(crystal, 7, 3.5)
    silicon = TightBinding("nrl-Si-sp")
    with pytest.raises(ValueError, match="order: got 7, expected 1 to 6"):
        silicon.site_energy_series(silicon_crystal, 7, 3.5)
    with pytest.raises(ValueError, match="more than max_memory"):
        silicon.site_energy_series(silicon_crystal, 4, 5.0, max_memory=0.01, error=1e-6)
