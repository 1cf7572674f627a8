"""Fits of ACE: data made by an ACE model, data of another model, uncertainty, records, bad input."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from ase_qmmm import ACEBasis, ACEPotential, StructureError
from ase_qmmm.fitting import Observations, fit_ace, smoothness_prior
from ase_qmmm.fitting.errors import PARITY_COLUMNS, error_table


def labelled(atoms, calc, **info):
    """A structure with results frozen in, as files hold it."""
    atoms = atoms.copy()
    atoms.calc = calc
    results = {name: atoms.get_properties([name])[name] for name in ("energy", "forces", "stress")}
    atoms.calc = SinglePointCalculator(atoms, **results)
    atoms.info.update(info)
    return atoms


def copper(rng, count, calc, size=2, rattle=0.1, **info):
    images = []
    for _ in range(count):
        atoms = bulk("Cu", a=3.6 * rng.uniform(0.97, 1.03), cubic=True) * (size, size, 1)
        atoms.positions += rng.normal(size=(len(atoms), 3)) * rattle
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * rng.normal(size=(3, 3))), scale_atoms=True)
        images.append(labelled(atoms, calc, **info))
    return images


@pytest.fixture(scope="module")
def basis():
    return ACEBasis("Cu", order=2, degree=6, cutoff=4.5, pair_basis=False)


@pytest.fixture(scope="module")
def truth(basis):
    rng = np.random.default_rng(5)
    return ACEPotential(basis, 0.1 * rng.normal(size=len(basis)), reference_energies={"Cu": -3.0})


@pytest.fixture(scope="module")
def exact_data(truth):
    return Observations().add_configurations(copper(np.random.default_rng(1), 12, truth))


@pytest.fixture(scope="module")
def emt_data():
    rng = np.random.default_rng(2)
    train = Observations().add_configurations(copper(rng, 14, EMT(), config_type="warm"))
    return train, copper(rng, 6, EMT(), rattle=0.08)


@pytest.mark.parametrize("solver", ["qr", "rrqr", "ridge", "bayesian-ridge", "ard", "lsqr"])
def test_recovers_a_model_of_the_same_basis(basis, truth, exact_data, solver):
    options = {"tolerance": 1e-12} if solver == "rrqr" else {}
    options |= {"alpha": 1e-20, "max_iter": 20000} if solver in ("ridge", "lsqr") else {}
    found = fit_ace(basis, exact_data, solver, reference_energies={"Cu": -3.0}, **options)
    # The Bayesian solvers stop at a noise that is small, not zero.
    limit = 1e-3 if solver in ("ard", "bayesian-ridge") else 1e-7
    assert max(found.rmse(kind) for kind in ("energy", "forces", "virial")) < limit
    if solver == "qr":
        assert np.allclose(found.potential.coefficients, truth.coefficients, atol=1e-7)
    assert (found.errors["r2"] > 0.9999).all()


def test_streamed_is_the_same(basis, emt_data):
    whole = fit_ace(basis, emt_data[0], "qr")
    streamed = fit_ace(basis, emt_data[0], "qr", streamed=True)
    assert np.allclose(whole.potential.coefficients, streamed.potential.coefficients, rtol=1e-6, atol=1e-9)
    for name in ("rmse", "max", "r2"):
        assert np.allclose(whole.errors[name], streamed.errors[name], rtol=1e-6)


def test_stated_errors_are_those_of_the_potential(basis, emt_data):
    train, _ = emt_data
    found = fit_ace(basis, train, "qr")
    energy, forces, virial = [], [], []
    for c in train.configurations:
        result = found.potential.evaluate(c.atoms)
        energy.append((result.energy - c.energy) / len(c.atoms))
        forces.append(result.forces - c.forces)
        virial.append((result.virial[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]] - c.virial) / len(c.atoms))
    # Evaluation interpolates the radial functions, rows do not.
    for kind, values in (("energy", energy), ("forces", forces), ("virial", virial)):
        assert np.isclose(found.rmse(kind, "warm"), np.sqrt(np.mean(np.square(values))), rtol=1e-4)


def test_larger_bases_fit_better(emt_data):
    """Copper of EMT, held-out structures; the errors of EMT itself are of this order between references."""
    train, held_out = emt_data
    errors = []
    for degree in (4, 8):
        basis = ACEBasis("Cu", order=2, degree=degree, cutoff=5.5)
        potential = fit_ace(basis, train, "ard").potential
        errors.append(
            np.sqrt(
                np.mean(
                    [np.mean((potential.get_property("forces", a) - a.get_forces()) ** 2) for a in held_out]
                )
            )
        )
    assert errors[1] < errors[0] / 2 and errors[1] < 0.05


def test_weights_shift_the_errors(basis, emt_data):
    train, _ = emt_data
    even = fit_ace(basis, train, "qr", {"energy": 1.0})
    heavy = fit_ace(basis, train, "qr", {"warm": {"energy": 1e6}})
    assert heavy.rmse("energy") < even.rmse("energy") / 2
    assert heavy.rmse("forces") > even.rmse("forces")
    without = fit_ace(basis, train, "qr", {"virial": 0.0})
    assert set(without.errors["kind"]) == {"energy", "forces"}


@pytest.mark.parametrize("solver", ["ard", "bayesian-ridge"])
def test_uncertainty(basis, emt_data, solver):
    """The committee spreads as the covariance says, and more where the data say less."""
    train, held_out = emt_data
    found = fit_ace(basis, train, solver)
    near = held_out[0]
    far = near.copy()
    far.set_cell(far.cell.array * 1.15, scale_atoms=True)
    assert found.force_std(near).shape == (len(near),)
    committee = found.committee(60, np.random.default_rng(0))
    forces = np.array([p.get_property("forces", near) for p in committee])
    spread = np.sqrt(forces.var(axis=0).sum(axis=1))
    assert np.allclose(spread, found.force_std(near), rtol=0.35)
    energies = [p.get_property("free_energy", near) for p in committee]
    assert np.isclose(np.std(energies), found.energy_std(near), rtol=0.35)
    assert found.energy_std(far) / len(far) > 2 * found.energy_std(near) / len(near)
    found.write_uncertainty(near, 2.0)
    assert np.allclose(near.get_initial_charges(), 2 * found.force_std(near))


def test_record_repeats_the_fit(basis, emt_data, tmp_path):
    found = fit_ace(basis, emt_data[0], "ard", {"energy": 100.0}, smoothness=1.0)
    found.save(tmp_path / "cu.json")
    record = json.loads((tmp_path / "cu.json").read_text(encoding="utf-8"))
    again = fit_ace(
        ACEBasis(**record["basis"]),
        emt_data[0],
        record["solver"],
        record["weights"],
        smoothness=record["smoothness"],
        reference_energies=record["reference_energies"],
        **record["solver_options"],
    )
    assert record["observations_sha256"] == emt_data[0].digest()
    saved = ACEPotential.load(tmp_path / record["potential"])
    assert np.array_equal(saved.coefficients, again.potential.coefficients)


def test_extended_xyz_with_other_names(truth, tmp_path):
    """Energies, forces and virials under the names of common data sets, groups from config_type."""
    images = []
    for atoms in copper(np.random.default_rng(1), 2, truth):
        plain = atoms.copy()
        plain.info["dft_energy"] = atoms.get_potential_energy()
        plain.arrays["dft_forces"] = atoms.get_forces()
        virial = -atoms.get_stress(voigt=False) * atoms.get_volume()
        plain.info["dft_virial"] = virial.ravel().tolist()
        plain.info["config_type"] = "bulk"
        images.append(plain)
    ase.io.write(tmp_path / "data.xyz", images, format="extxyz")
    keys = {"energy_key": "dft_energy", "forces_key": "dft_forces", "virial_key": "dft_virial"}
    read = Observations().add_configurations(ase.io.read(tmp_path / "data.xyz", ":"), **keys)
    direct = Observations().add_configurations(copper(np.random.default_rng(1), 2, truth), group="bulk")
    for a, b in zip(read.configurations, direct.configurations, strict=True):
        assert a.group == b.group == "bulk" and np.isclose(a.energy, b.energy)
        assert np.allclose(a.forces, b.forces, atol=1e-7) and np.allclose(a.virial, b.virial, atol=1e-6)
    assert read.counts() == {"energy": 2, "forces": 96, "virial": 12} and read.elements == ["Cu"]


def test_smoothness_prior(basis):
    prior = smoothness_prior(basis, 2.0)
    assert prior.shape == (len(basis),) and prior.min() >= 4.0
    single = [k for k, f in enumerate(basis.functions) if len(f.n) == 1]
    assert len(single) == 6 and (np.diff(prior[single]) > 0).all()


def with_forces(value):
    atoms = bulk("Cu", cubic=True)
    atoms.arrays["forces"] = value
    return atoms


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Atoms("Cu"), "image 0 has no 'energy'"),
        (with_forces(np.full((4, 3), np.nan)), "'forces' of image 0 is not finite on atom 0"),
        (with_forces(np.zeros((4, 2))), r"shape \(4, 2\), expected \(4, 3\)"),
        (Atoms("Cu", info={"energy": np.inf}), "'energy' of image 0 is not finite"),
        (Atoms("Cu", info={"virial": [1.0, 2.0]}), r"shape \(2,\), expected \(6,\)"),
    ],
)
def test_bad_data(image, message):
    observations = Observations()
    with pytest.raises(ValueError, match=message):
        observations.add_configurations([image])
    assert observations.configurations == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": {"warm": {"forse": 1.0}}}, "no kind 'forse'"),
        ({"weights": {"cold": {"forces": 1.0}}}, "no group 'cold'"),
        ({"weights": {"forces": -1.0}}, "zero or more"),
        ({"solver": "svd"}, "solver"),
        ({"solver": "ard", "streamed": True}, "all rows at once"),
        ({"reference_energies": {}}, "none for Cu"),
        ({"weights": {"energy": 0, "forces": 0, "virial": 0}}, "weight zero"),
    ],
)
def test_refused(basis, emt_data, options, message):
    with pytest.raises(ValueError, match=message):
        fit_ace(basis, emt_data[0], **options)


def test_too_few_data(basis, truth):
    few = Observations().add_configurations(copper(np.random.default_rng(1), 1, truth, size=1)[0])
    with pytest.raises(ValueError, match="7 rows cannot determine"):
        fit_ace(basis, few, "qr", {"forces": 0.0})


def test_element_that_the_basis_lacks(basis):
    data = Observations().add_configurations(Atoms("Au", info={"energy": 1.0}))
    with pytest.raises(StructureError, match="Au"):
        fit_ace(basis, data)
    with pytest.raises(ValueError, match="none"):
        fit_ace(basis, Observations())
    with pytest.raises(TypeError, match="expected ACEBasis"):
        fit_ace("Cu", data)


def test_errors_of_other_data(basis, emt_data):
    train, held_out = emt_data
    found = fit_ace(basis, train, "rrqr")
    again = found.test(train)
    assert again["kind"].tolist() == found.errors["kind"].tolist()
    assert np.allclose(again["rmse"], found.errors["rmse"]) and np.allclose(again["r2"], found.errors["r2"])
    parity = found.parity(Observations().add_configurations(held_out))
    forces = np.concatenate([found.potential.get_property("forces", a.copy()).ravel() for a in held_out])
    assert np.allclose(parity["predicted"][parity["kind"] == "forces"], forces, atol=1e-6)


def test_no_r2_of_data_that_are_equal_but_for_rounding():
    """The stress of crystals in equilibrium: its scatter is rounding, and no measure of a fit."""
    parity = np.zeros(9, dtype=PARITY_COLUMNS)
    parity["group"], parity["kind"], parity["size"] = "g", "virial", 1.0
    parity["reference"] = 1e-13 * np.random.default_rng(0).normal(size=9)
    parity["predicted"] = 0.1
    table = error_table(parity)
    assert np.isnan(table["r2"]).all() and np.allclose(table["rmse"], 0.1)
