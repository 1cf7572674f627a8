"""Long waves of truncated Taylor models: elastic constants of the model they come from, and sum rules."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.optimize import BFGS
from ase.units import GPa
from helpers import assert_derivative, moved, random_strain, strained
from matscipy.elasticity import fit_elastic_constants
from taylor_fixtures import density_model

from ase_qmmm import EAM, Crystal, TaylorForces, TaylorPotential, TightBinding
from ase_qmmm.symmetry import space_group, stencil_permutation
from ase_qmmm.taylor import CauchyBornDerivatives, ForceConstants
from ase_qmmm.taylor.elasticity import LongWaves, matched_force_constants


@pytest.fixture(scope="module")
def tungsten():
    qm = EAM("W-zhou04")
    return qm, Crystal.relaxed(bulk("W"), qm)


def voigt(derivatives):
    """C11, C12, C44 of a cubic crystal (GPa)."""
    c = derivatives.elastic_constants() / GPa
    return [c[0, 0, 0, 0], c[0, 0, 1, 1], c[1, 2, 1, 2]]


def fitted(calc, atoms):
    """The same from stresses of strained cells with relaxed atoms, by matscipy."""
    atoms = atoms.copy()
    atoms.calc = calc
    options = {"symmetry": "cubic", "N_steps": 5, "delta": 1e-3, "verbose": False, "graphics": False}
    c = fit_elastic_constants(atoms, optimizer=BFGS, fmax=1e-4, logfile=None, **options)[0] / GPa
    return [c[0, 0], c[0, 1], c[3, 3]]


@pytest.fixture(scope="module")
def silicon_waves(silicon_qm, silicon_crystal):
    return silicon_qm.cauchy_born_derivatives(silicon_crystal, relaxed=True)


@pytest.mark.parametrize("kind", ["force", "energy"])
def test_silicon(kind, silicon_qm, silicon_crystal, silicon_mm, silicon_waves):
    """Relaxed elastic constants of tight binding at 5 Å, where truncation alone is wrong by half of C44."""
    if kind == "force":
        mm = TaylorForces(silicon_mm.force_constants, elasticity=silicon_waves)
    else:
        derivatives = silicon_qm.site_energy_derivatives(silicon_crystal, 2, 4.0)
        mm = TaylorPotential(derivatives, elasticity=silicon_waves)
    found = mm.cauchy_born_derivatives(relaxed=True)
    assert voigt(found) == pytest.approx(voigt(silicon_waves), rel=1e-7)
    assert np.abs(found.with_basis[2] - silicon_waves.with_basis[2]).max() < 1e-6
    assert np.abs(found.stress).max() < 1e-6 * GPa
    perfect = mm.evaluate(silicon_crystal.supercell(2))
    assert np.abs(perfect.forces).max() < 1e-11


@pytest.mark.slow
def test_silicon_by_strained_cells(silicon_qm, silicon_crystal, silicon_mm, silicon_waves):
    """Stresses of strained cells with relaxed atoms; strains of up to 0.2 % leave higher orders."""
    mm = TaylorForces(silicon_mm.force_constants, elasticity=silicon_waves)
    cell = silicon_crystal.supercell(1, cubic=True)
    assert fitted(mm, cell) == pytest.approx(voigt(silicon_waves), rel=1e-3)


@pytest.mark.parametrize(
    ("cls", "cutoff"), [(TaylorForces, 5.0), (TaylorForces, 12.3), (TaylorPotential, 3.2)]
)
def test_tungsten(cls, cutoff, tungsten):
    qm, crystal = tungsten
    order = 2 if cls is TaylorPotential else 1
    expected = voigt(qm.cauchy_born_derivatives(crystal))
    mm = cls.from_calculator(qm, crystal, order=order, cutoff=cutoff, elasticity="exact")
    assert voigt(mm.cauchy_born_derivatives(relaxed=True)) == pytest.approx(expected, rel=1e-7)
    assert fitted(mm, crystal.supercell(1, cubic=True)) == pytest.approx(expected, rel=1e-3)


def test_null_lagrangian(tungsten):
    """Forces of tungsten know C12 + C44 in shear; the rest follows from the invariance under rotation."""
    qm, crystal = tungsten
    whole, left = (
        TaylorForces.from_calculator(qm, crystal, cutoff=2 * qm.cutoff, elasticity=e)
        for e in ("invariant", "truncated")
    )
    expected = voigt(qm.cauchy_born_derivatives(crystal))
    assert voigt(whole.cauchy_born_derivatives()) == pytest.approx(expected, rel=1e-6)
    expected[1] = (expected[1] + expected[2]) / 2
    assert voigt(left.cauchy_born_derivatives()) == pytest.approx(expected, rel=1e-6)
    atoms = crystal.supercell(8)
    atoms.rattle(0.05, seed=1)
    # What it adds makes no forces: those of the energy are those of the force constants.
    assert np.abs(whole.evaluate(atoms).forces - left.evaluate(atoms).forces).max() < 1e-11


def test_third_order_elastic_constants(tungsten):
    """Site energies of third order within 3.2 Å, two shells: Brugger's constants of the potential."""
    qm, crystal = tungsten
    exact = qm.cauchy_born_derivatives(crystal, 3, relaxed=True)
    mm = TaylorPotential.from_calculator(qm, crystal, order=3, cutoff=3.2, elasticity="exact")
    found = mm.cauchy_born_derivatives(order=3, relaxed=True).third_order_elastic_constants()
    expected = exact.third_order_elastic_constants()
    assert np.abs(found - expected).max() < 1e-7 * np.abs(expected).max()


@pytest.mark.parametrize("kind", ["energy", "force"])
@pytest.mark.parametrize("name", ["hcp", "B2", "diamond"])
def test_matched_models_keep_their_promises(name, kind, rng):
    """Wanted derivatives far from the model's own: conservative, symmetric, and as wanted."""
    qm, crystal = density_model(name)
    if kind == "energy":
        derivatives = qm.site_energy_derivatives(crystal, 2)
        plain = TaylorPotential(derivatives)
    else:
        derivatives = qm.force_derivatives(crystal, 1)
        plain = TaylorForces(derivatives)
    own = plain.cauchy_born_derivatives(relaxed=True)
    group = space_group(crystal)
    wanted = {j: 1.1 * t for j, t in own.with_basis.items()}
    other = CauchyBornDerivatives(crystal, 0.0, {}, True, False, "stiffer", wanted)
    mm = type(plain)(derivatives, elasticity=other)
    found = mm.cauchy_born_derivatives(relaxed=True).with_basis
    for j in (1, 2):
        assert np.abs(found[j] - wanted[j]).max() < 1e-7 * np.abs(wanted[2]).max()

    atoms = crystal.supercell(3)
    atoms.rattle(0.03, seed=1)
    u, e = rng.uniform(-1, 1, (len(atoms), 3)), random_strain(rng)
    here = mm.evaluate(atoms)
    noise = 1e-13 * (np.abs(here.energies).sum() + len(atoms))
    assert_derivative(lambda h: mm.evaluate(moved(atoms, u, h)).energy, -(here.forces * u).sum(), noise)
    assert_derivative(lambda h: mm.evaluate(strained(atoms, e, h)).energy, -(here.virial * e).sum(), noise)
    assert np.abs(here.forces.sum(axis=0)).max() < 1e-11
    constants = mm.force_constants
    scale = max(np.abs(phi).max() for phi in constants.matrices)
    for op in group:
        for a, phi in enumerate(constants.matrices):
            image = stencil_permutation(crystal, op, a, constants.cutoff)
            turned = op.rotation @ phi @ op.rotation.T
            assert np.abs(constants.matrices[op.sites[a]][image] - turned).max() < 1e-10 * scale


def test_sum_rules_of_noisy_force_constants(rng):
    """Without the symmetry of the crystal the rules of Born and Huang do not come by themselves."""
    qm, crystal = density_model("diamond")
    clean = qm.force_derivatives(crystal, 1)
    clean = ForceConstants.from_derivatives(clean)
    noisy = [phi + 0.01 * rng.normal(size=phi.shape) for phi in clean.matrices]
    noisy = ForceConstants(crystal, clean.cutoff, noisy, clean.energies, "noisy").matrices
    waves = LongWaves.from_force_constants(crystal, clean.cutoff, noisy)
    wanted = waves.rotation_invariant(crystal.lattice, np.eye(3))
    strain = wanted.inner[:, :, :9].reshape(2, 3, 3, 3)
    assert np.abs(strain - strain.swapaxes(2, 3)).max() < 1e-12
    assert np.abs(waves.inner - wanted.inner).max() > 1e-2
    # Huang's conditions but for the deviator of a stress, of which the energy of a rotation is free.
    odd = wanted.moments - wanted.moments.transpose(2, 3, 0, 1)
    stressed = np.einsum("ik,jl->ikjl", np.eye(3), np.einsum("iijl->jl", odd) / 3)
    assert np.abs(odd - stressed + stressed.transpose(2, 3, 0, 1)).max() < 1e-12
    assert np.abs(wanted.moments - waves.moments).max() > 1e-2

    matched = matched_force_constants(crystal, clean.cutoff, noisy, wanted)
    found = LongWaves.from_force_constants(crystal, clean.cutoff, matched)
    assert np.abs(found.inner - wanted.inner).max() < 1e-10
    assert np.abs(found.moments - wanted.moments).max() < 1e-10
    assert max(np.abs(a - b).max() for a, b in zip(matched, noisy, strict=True)) < 0.05


def test_flat_crystal(caplog):
    """Truncated derivatives in two dimensions: a bent sheet is not strained, and a turned one either."""
    qm = TightBinding("toy", kT=0.3)
    cell = Atoms("Ni", cell=[[2.5, 0, 0], [1.25, 2.5 * np.sqrt(0.75), 0], [0, 0, 0]], pbc=(1, 1, 0))
    crystal = Crystal(cell)
    for mm in (
        TaylorPotential.from_calculator(qm, crystal, order=2, cutoff=4.5),
        TaylorForces.from_calculator(qm, crystal, order=1, cutoff=4.5),
    ):
        found = mm.cauchy_born_derivatives()
        whole = found.tensors[2] - np.einsum("ik,jl->ijkl", np.eye(3), found.tensors[1])
        if isinstance(mm, TaylorForces):
            # The energy of forces has no stress of its own; their long waves out of the plane have.
            whole = whole[:2, :2, :2, :2] - np.einsum(
                "ik,jl->ijkl", np.eye(2), found.tensors[2][2, :2, 2, :2]
            )
        assert np.abs(whole - whole.swapaxes(0, 1)).max() < 1e-9 * np.abs(whole).max()
    assert "cannot be matched" not in caplog.text


@pytest.mark.parametrize(
    ("qm", "elasticity", "error", "text"),
    [
        (EMT(), "exact", TypeError, "EMT has no method cauchy_born_derivatives"),
        (EMT(), "best", ValueError, "elasticity: got 'best', expected 'invariant', 'exact' or 'truncated'"),
    ],
)
def test_bad_arguments(qm, elasticity, error, text, copper_crystal):
    with pytest.raises(error, match=text):
        TaylorForces.from_calculator(qm, copper_crystal, cutoff=4.0, elasticity=elasticity)


def test_bad_derivatives(tungsten):
    qm, crystal = tungsten
    clamped = qm.cauchy_born_derivatives(crystal)
    derivatives = qm.site_energy_derivatives(crystal, 2, 3.2)
    with pytest.raises(ValueError, match="make them with relaxed=True and order 2 or 3"):
        TaylorPotential(derivatives, elasticity=clamped)
    with pytest.raises(ValueError, match="expected 'invariant', 'truncated' or Cauchy"):
        TaylorPotential(derivatives, elasticity="exact")
    mm = TaylorPotential(derivatives)
    with pytest.raises(ValueError, match="order: got 4, expected 1, 2 or 3"):
        mm.cauchy_born_derivatives(order=4)
    with pytest.raises(ValueError, match="about its own crystal only"):
        mm.cauchy_born_derivatives(Crystal(bulk("W", a=3.2)))
