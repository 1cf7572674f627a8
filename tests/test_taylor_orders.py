"""Taylor models of any order: errors fall with the right power, and every promise of a calculator is kept."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase.build import bulk
from ase.optimize import BFGS
from ase.units import GPa
from helpers import assert_derivative, moved, random_rotation, random_strain, rotated, strained
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import Kumagai
from matscipy.calculators.manybody.explicit_forms.kumagai import Kumagai_Comp_Mat_Sci_39_Si
from matscipy.elasticity import fit_elastic_constants
from taylor_fixtures import CRYSTALS, density_model

from ase_qmmm import (
    EAM,
    Crystal,
    ForceMixingCalculator,
    Regions,
    TaylorForces,
    TaylorPotential,
    check_calculator,
)
from ase_qmmm.defects import vacancy
from ase_qmmm.errors import MatchError
from ase_qmmm.symmetry import count_force_constants, count_site_coefficients

MODELS = {}


def made(name, kind, order):
    """Quantum stand-in, and the model of it, each made once."""
    key = name, kind, order
    if key not in MODELS:
        qm, crystal = density_model(name)
        cls, reach = (TaylorPotential, 1) if kind == "energy" else (TaylorForces, 2)
        MODELS[key] = qm, cls.from_calculator(qm, crystal, order=order, cutoff=reach * qm.cutoff)
    return MODELS[key]


CASES = [
    *((name, "energy", 2) for name in CRYSTALS),
    *((name, "energy", 3) for name in ("triangular", "diamond")),
    ("triangular", "energy", 4),
    ("diamond", "energy", 4),
    *((name, "force", 1) for name in CRYSTALS),
    *((name, "force", 2) for name in ("triangular", "diamond")),
    *(pytest.param(name, "energy", 3, marks=pytest.mark.slow) for name in ("B2", "hcp")),
    pytest.param("hcp", "force", 2, marks=pytest.mark.slow),
    pytest.param("B2", "force", 2, marks=pytest.mark.slow),
    pytest.param("triangular", "force", 3, marks=pytest.mark.slow),
    pytest.param("diamond", "force", 3, marks=pytest.mark.slow),
]
FAST = [case for case in CASES if type(case) is tuple]


def in_plane(atoms, array):
    """Strains of a two-dimensional crystal leave the third direction alone."""
    return array * np.outer(atoms.pbc, atoms.pbc)


@pytest.mark.parametrize(("name", "kind", "order"), CASES)
def test_error_falls_with_the_power_of_the_order(name, kind, order, rng):
    """Random displacements and strain: powers k + 1 of energies, k of their forces, k + 1 of force models."""
    qm, mm = made(name, kind, order)
    atoms = mm.crystal.supercell(3)
    u, e = rng.uniform(-1, 1, (len(atoms), 3)), in_plane(atoms, random_strain(rng, 0.2))
    errors = []
    for h in (0.08, 0.04):
        image = strained(moved(atoms, u, h), e, h)
        got, expected = mm.evaluate(image), qm.evaluate(image)
        errors.append(
            [np.abs(got.energies - expected.energies).max(), np.abs(got.forces - expected.forces).max()]
        )
    powers = np.log2(np.array(errors[0]) / errors[1])
    if kind == "energy":
        assert powers == pytest.approx([order + 1, order], abs=0.2)
    else:
        # The site energies are others than those of the quantum model: only their sum has a meaning.
        assert powers[1] == pytest.approx(order + 1, abs=0.2)


@pytest.mark.parametrize(("name", "kind", "order"), FAST)
def test_promises_of_calculators(name, kind, order):
    mm = made(name, kind, order)[1]
    atoms = mm.crystal.supercell((2, 2, 1)) if name == "triangular" else mm.crystal.supercell((2, 1, 1))
    atoms.rattle(0.05, seed=1)
    check_calculator(mm, atoms)


@pytest.mark.parametrize(("name", "kind", "order"), FAST)
def test_forces_of_single_sites(name, kind, order):
    """Asked for some atoms only, from their own stencils: what the gradient of the energy gives."""
    mm = made(name, kind, order)[1]
    atoms = mm.crystal.supercell(4)
    atoms.rattle(0.05, seed=1)
    whole = mm.evaluate(atoms)
    some = np.arange(len(atoms)) % 3 == 0
    energies, forces = mm.evaluate_sites(atoms, some)
    assert energies[some] == pytest.approx(whole.energies[some], abs=1e-11)
    assert np.abs(forces - whole.forces)[some].max() < 1e-11
    assert np.abs(whole.forces).max() > 0.1


@pytest.mark.parametrize(("name", "kind", "order"), FAST)
def test_perfect_crystal(name, kind, order):
    qm, mm = made(name, kind, order)
    atoms = mm.crystal.supercell(2)
    result = mm.evaluate(atoms)
    assert np.abs(result.forces).max() < 1e-11
    assert result.energies == pytest.approx(np.tile(qm.energies0(), len(atoms) // mm.crystal.n_basis))


@pytest.mark.parametrize(("name", "kind", "order"), [("diamond", "energy", 4), ("diamond", "force", 2)])
def test_rotated_and_permuted(name, kind, order, rng):
    mm = made(name, kind, order)[1]
    atoms = mm.crystal.supercell(3)
    atoms.rattle(0.05, seed=2)
    here, turn, p = mm.evaluate(atoms), random_rotation(rng), rng.permutation(len(atoms))
    there = mm.evaluate(rotated(atoms, turn)[p])
    assert there.energies == pytest.approx(here.energies[p], abs=1e-10)
    assert np.abs(there.forces - (here.forces @ turn.T)[p]).max() < 1e-10
    assert np.abs(there.virial - turn @ here.virial @ turn.T).max() < 1e-9


@pytest.mark.parametrize(("name", "order"), [("diamond", 2), ("triangular", 2)])
def test_nothing_is_lost_in_the_potential_of_the_forces(name, order):
    """Force constants that have all symmetries come through unchanged, to rounding of a sparse solver."""
    mm = made(name, "force", order)[1]
    assert mm.restored[order] < 1e-9


@pytest.mark.slow
def test_tight_binding_forces(silicon_qm, silicon_crystal, silicon_mm):
    """Second order of silicon: less than half the error of the first; sum rules restored."""
    mm = TaylorForces.from_calculator(silicon_qm, silicon_crystal, order=2, cutoff=(5.0, 4.0))
    assert repr(mm).startswith("TaylorForces(order 2, cutoffs 5, 4 Å, 28 neighbours, 10 + 27 independent")
    assert 1e-3 < mm.restored[2] < 0.05
    # Truncated third-order constants do not turn with the crystal exactly; those of second order do, here.
    violation = mm.rotational_violation()
    assert violation[1] < 1e-10
    assert 0.1 < violation[2] < 2.0
    atoms = silicon_crystal.supercell(2, cubic=True)
    atoms.rattle(0.08, seed=4)
    qm = silicon_qm.with_options(kpts={"size": (2, 2, 2), "gamma": True})
    expected = qm.evaluate(atoms).forces
    errors = [np.linalg.norm(m.evaluate(atoms).forces - expected) for m in (silicon_mm, mm)]
    assert errors[1] < 0.5 * errors[0]
    small = silicon_crystal.supercell((2, 1, 1))
    small.rattle(0.05, seed=1)
    check_calculator(mm, small)


@pytest.mark.parametrize("name", ["diamond", "B2", "hcp"])
def test_force_constants_of_site_energies(name, rng):
    """Differences of forces in a supercell; the same matrices from the force expansion."""
    qm, mm = made(name, "energy", 2)
    atoms = mm.crystal.supercell(5 if name != "diamond" else 6)
    constants = mm.force_constants
    match = mm.crystal.match(atoms, constants.cutoff)
    for basis in range(mm.crystal.n_basis):
        atom = int(np.flatnonzero(match.basis == basis)[0])
        direction = np.zeros((len(atoms), 3))
        direction[atom] = rng.uniform(-1, 1, 3)
        near = match.neighbours[atom, : len(constants.matrices[basis])]
        # Phi(rho) is d2E / dy_l dy_m: the force on m as l moves.
        expected = -np.einsum("scd,c->sd", constants.matrices[basis], direction[atom])
        assert_derivative(lambda h, d=direction, n=near: qm.evaluate(moved(atoms, d, h)).forces[n], expected)
    others = made(name, "force", 1)[1].force_constants
    for a, b in zip(constants.matrices, others.matrices, strict=True):
        assert np.abs(a - b).max() < 1e-10


def elastic_constants(calc, atoms, **options):
    """C11, C12, C44 of a cubic crystal (GPa)."""
    atoms = atoms.copy()
    atoms.calc = calc
    options = {
        "symmetry": "cubic",
        "N_steps": 5,
        "delta": 1e-3,
        "verbose": False,
        "graphics": False,
        **options,
    }
    c = fit_elastic_constants(atoms, **options)[0] / GPa
    return [c[0, 0], c[0, 1], c[3, 3]]


def test_elastic_constants_of_the_potential():
    qm, mm = made("diamond", "energy", 2)
    cell = mm.crystal.supercell(1, cubic=True)
    found, expected = (elastic_constants(calc, cell, optimizer=None) for calc in (mm, qm))
    assert np.allclose(found, expected, rtol=2e-3)


def test_elastic_constants_with_relaxed_atoms():
    """Kumagai silicon, by matscipy's calculator and strains; its force constants are those of differences."""
    qm = Manybody(**Kumagai(Kumagai_Comp_Mat_Sci_39_Si))
    crystal = Crystal.relaxed(bulk("Si"), qm)
    mm = TaylorForces.from_calculator(qm, crystal, cutoff=7.0)
    cell = crystal.supercell(1, cubic=True)
    relaxing = {"optimizer": BFGS, "fmax": 1e-4, "logfile": None}
    found, expected = (elastic_constants(calc, cell, **relaxing) for calc in (mm, qm))
    assert np.allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("name", list(CRYSTALS))
def test_rotations(name):
    """A model of finite range keeps the sum rules of rotation."""
    qm, mm = made(name, "energy", 2)
    scale = max(np.abs(t.coefficients).max() for t in mm._terms[0])
    assert max(mm.rotational_violation().values()) < 1e-11 * scale
    forces = made(name, "force", 1)[1]
    assert max(forces.rotational_violation().values()) < 1e-11 * scale


def test_truncation_keeps_symmetry_and_says_what_it_left_out(rng):
    qm, whole = made("diamond", "energy", 3)
    mm = TaylorPotential(qm.site_energy_derivatives(whole.crystal, 3), threshold=0.4)
    assert mm.truncation[3] > 0
    assert sum(len(t.tuples) for t in mm._terms[0]) < sum(len(t.tuples) for t in whole._terms[0])
    atoms = mm.crystal.supercell(3)
    assert np.abs(mm.evaluate(atoms).forces).max() < 1e-12
    g = 0.1
    atoms.positions += rng.uniform(-0.5, 0.5, (len(atoms), 3)) * g / np.sqrt(3)
    change = np.abs(mm.evaluate(atoms).energies - whole.evaluate(atoms).energies).max()
    assert 0 < change <= sum(bound * g**j for j, bound in mm.truncation.items())


def test_unsymmetric_derivatives_are_put_right(rng):
    """Noise on the derivatives of a binary crystal: symmetric again, and no force on the perfect crystal."""
    qm, _ = made("hcp", "energy", 2)
    derivatives = qm.site_energy_derivatives(qm.crystal, 2)
    for tensors in derivatives.tensors.values():
        for t in tensors:
            t[...] += 1e-3 * rng.normal(size=t.shape)
    mm = TaylorPotential(derivatives)
    atoms = mm.crystal.supercell(2)
    assert np.abs(mm.evaluate(atoms).forces).max() < 1e-12
    assert mm.coefficient_counts == {j: count_site_coefficients(mm.crystal, qm.cutoff, j) for j in (1, 2)}


def test_noisy_forces_keep_newtons_third_law(rng):
    qm, whole = made("triangular", "force", 2)
    derivatives = qm.force_derivatives(qm.crystal, 2)
    for tensors in derivatives.tensors.values():
        for t in tensors:
            t[...] += 1e-3 * rng.normal(size=t.shape)
    mm = TaylorForces(derivatives)
    assert 1e-4 < mm.restored[2] < 1e-1
    assert mm.coefficient_counts[2] == count_force_constants(mm.crystal, 2 * qm.cutoff, 3)
    atoms = mm.crystal.supercell(4)
    atoms.rattle(0.1, seed=3)
    energies, forces = mm.evaluate_sites(atoms, np.ones(len(atoms), dtype=bool))
    assert np.abs(forces.sum(axis=0)).max() < 1e-12
    u = rng.uniform(-1, 1, forces.shape)
    assert_derivative(lambda h: mm.evaluate(moved(atoms, u, h)).energy, -(forces * u).sum(), noise=1e-10)


# -- where they refuse ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["energy", "force"])
def test_vacancy(kind):
    mm = made("diamond", kind, 2)[1]
    atoms = mm.crystal.supercell(4)
    distance = atoms.get_distances(0, range(len(atoms)), mic=True)[1:]
    del atoms[0]
    atoms.rattle(0.02, seed=1)
    # Of the first shell alone, no atom lies farther out than those at the defect.
    remedy = "all of them are among the 4 atoms at the defect" if kind == "energy" else r"use r_qm >= [1-9]"
    with pytest.raises(MatchError, match=rf"lack neighbours that matter.*r_qm > .*{remedy}"):
        mm.evaluate(atoms)
    far = distance > (2 if kind == "energy" else 1) * mm.cutoff + 0.1
    energies, forces = mm.evaluate_sites(atoms, far)
    assert np.abs(forces[far]).max() > 0
    result = mm.evaluate(atoms, far.astype(float))
    assert result.energy == pytest.approx(energies[far].sum())


def test_trust_radius(caplog):
    qm, usual = made("diamond", "force", 2)
    atoms = usual.crystal.supercell(3)
    atoms.positions[7] += [0.3, 0.0, 0.0]
    with pytest.raises(MatchError, match=r"moved 0.30 Å .* trust radius, 0.20 Å"):
        TaylorForces(usual.force_constants, trust=0.2).evaluate(atoms)
    careless = TaylorForces(usual.force_constants, trust=0.2, on_distrust="warn")
    with pytest.warns(UserWarning, match="trust radius, 0.20 Å"):
        got = careless.evaluate(atoms)
    careless.evaluate(atoms)  # told once
    expected = TaylorForces(usual.force_constants).evaluate(atoms)
    assert np.array_equal(got.forces, expected.forces)


@pytest.mark.parametrize(("kind", "order"), [("energy", 3), ("force", 1), ("force", 2)])
def test_glide(kind, order, caplog):
    """Half of the crystal slips by a lattice vector, in steps: new neighbours, the same crystal."""
    mm = made("triangular", kind, order)[1]
    atoms = mm.crystal.supercell((8, 8, 1))
    atoms.pbc = (True, False, False)
    height = atoms.positions[:, 1]
    inner = (height > height.min() + 2.5 * mm.cutoff) & (height < height.max() - 2.5 * mm.cutoff)
    upper = height > np.median(height)
    before = mm.evaluate(atoms, inner.astype(float))
    first = mm.match(atoms).neighbours.copy()
    with caplog.at_level("INFO"):
        atoms.positions[upper, 0] += mm.crystal.lattice[0, 0]
        after = mm.evaluate(atoms, inner.astype(float))
    assert "matched anew" in caplog.text
    assert not np.array_equal(mm.match(atoms).neighbours, first)
    assert after.energy == pytest.approx(before.energy, abs=1e-9)


def test_force_mixing():
    """An order-2 far field beside the model it came from: small ghost forces, and an energy."""
    qm, mm = made("triangular", "force", 2)
    atoms = mm.crystal.supercell((12, 12, 1))
    atoms.rattle(0.01, seed=1)
    centre = atoms.positions[70]
    regions = Regions.from_distance(atoms, centre, r_qm=5.0, r_buffer=6.0)
    calc = ForceMixingCalculator(qm, mm, regions, cluster="open")
    forces = calc.get_property("forces", atoms)
    assert np.abs(forces - qm.evaluate(atoms).forces).max() < 1e-3
    assert np.isfinite(calc.get_property("energy", atoms))


@pytest.mark.parametrize(
    ("cls", "change", "text"),
    [
        (TaylorPotential, {"order": 1}, "order: got 1, expected 2, 3 or 4"),
        (TaylorPotential, {"order": 3, "cutoff": (3.0, 3.0)}, "2 radii for 3 orders"),
        (TaylorPotential, {"cutoff": 1.0}, "nearest-neighbour"),
        (TaylorPotential, {"threshold": -1.0}, "threshold"),
        (TaylorForces, {"order": 4}, "order: got 4, expected 1, 2 or 3"),
        (TaylorForces, {"trust": 0.0}, "trust"),
        (TaylorForces, {"on_distrust": "ignore"}, "on_distrust: got 'ignore'"),
    ],
)
def test_bad_arguments(cls, change, text):
    qm, crystal = density_model("diamond")
    with pytest.raises(ValueError, match=text):
        cls.from_calculator(qm, crystal, **{"cutoff": 5.0 if cls is TaylorForces else 2.5, **change})


def test_wrong_derivatives():
    qm, crystal = density_model("triangular")
    with pytest.raises(ValueError, match="kind 'force', expected 'energy'"):
        TaylorPotential(qm.force_derivatives(crystal))
    with pytest.raises(ValueError, match="kind 'energy', expected 'force'"):
        TaylorForces(qm.site_energy_derivatives(crystal))
    with pytest.raises(TypeError, match="no method site_energy_derivatives"):
        TaylorPotential.from_calculator(object(), crystal)
    with pytest.raises(TypeError, match="crystal: got Atoms"):
        TaylorForces.from_calculator(qm, crystal.unit_cell)
    assert isinstance(crystal, Crystal)


@pytest.mark.parametrize(("model", "order"), [(TaylorForces, 1), (TaylorPotential, 2)])
def test_radius_that_the_error_names_is_enough(model, order):
    """Forces of a TaylorPotential look at the stencils of neighbours, one cutoff further in."""
    calc = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W", a=3.165), calc)
    mm = model.from_calculator(calc, crystal, order=order, cutoff=5.0)
    atoms = vacancy(crystal, 8)
    with pytest.raises(MatchError, match="lack neighbours that matter") as caught:
        atoms.calc = ForceMixingCalculator(
            calc, mm, Regions.from_distance(atoms, atoms.info["core"], 3.0, 8.0)
        )
        atoms.get_forces()
    needed = float(re.search(r"r_qm > ([0-9.]+) Å", str(caught.value))[1])
    assert needed > (7.0 if model is TaylorPotential else 3.0)
    regions = Regions.from_distance(atoms, atoms.info["core"], needed + 0.01, 8.0)
    atoms.calc = ForceMixingCalculator(calc, mm, regions)
    assert np.isfinite(atoms.get_forces()).all()
