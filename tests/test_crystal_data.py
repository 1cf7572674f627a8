"""Fits to derivatives at crystals: reduction by symmetry, exact data, EAM tungsten, tight-binding silicon."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from ase_qmmm import EAM, ACEBasis, ACEPotential, Crystal
from ase_qmmm.fitting import Observations, fit_ace, matching_errors
from ase_qmmm.fitting.matching import stencil_weights
from ase_qmmm.symmetry import count_site_coefficients
from ase_qmmm.taylor.orbits import tuple_orbits


@pytest.fixture(scope="module")
def tungsten():
    return Crystal(bulk("W", a=3.165))


@pytest.fixture(scope="module")
def alloy():
    """Two basis atoms that no operation maps onto each other."""
    return Crystal(bulk("CuPd", "cesiumchloride", a=2.96))


def random_model(elements, degree, cutoff, order=2):
    basis = ACEBasis(elements, order=order, degree=degree, cutoff=cutoff)
    falling = np.exp(-0.5 * np.array([f.degree for f in basis.functions]))
    return ACEPotential(basis, 0.05 * falling * np.random.default_rng(3).normal(size=len(basis)))


def crystals():
    return {
        "bcc": bulk("W", a=3.165),
        "diamond": bulk("Si", a=5.43),
        "hcp": bulk("Ti", a=2.95, c=4.68),
        "B2": bulk("CuPd", "cesiumchloride", a=2.96),
    }


@pytest.mark.parametrize("name", ["bcc", "diamond", "hcp", "B2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_orbits_cover_all_tuples(name, order):
    crystal = Crystal(crystals()[name])
    cutoff = 1.25 * crystal.nearest_neighbour_distance
    orbits = tuple_orbits(crystal, order, cutoff)
    sizes = [len(crystal.stencil(b, cutoff)) for b in range(crystal.n_basis)]
    assert sum(o.sizes.sum() for o in orbits) == sum(s**order for s in sizes)
    # Every class has at least one independent coefficient less than its components.
    assert count_site_coefficients(crystal, cutoff, order) <= 3**order * sum(len(o.sizes) for o in orbits)
    assert len(orbits) == (2 if name == "B2" else 1)


@pytest.mark.parametrize("kind", ["energy", "force"])
def test_reduced_loss_is_the_whole_one(alloy, kind):
    """``sum_rows factor (A c - t)^2`` is eps^2 of matching_errors, for data with the crystal's symmetry."""
    data, other = random_model(("Cu", "Pd"), 5, 4.2), random_model(("Cu", "Pd"), 4, 4.0)
    add = "add_site_derivatives" if kind == "energy" else "add_force_constants"
    gamma, cutoff = 0.3, 3.2
    observations = getattr(Observations(), add)(data, alloy, 2, cutoff, gamma=gamma)
    errors = matching_errors(
        data, other, alloy, 2, gamma, cutoff=cutoff, kinds="E" if kind == "energy" else "F"
    )
    weights = {"crystal": dict.fromkeys(("dV1", "dV2", "dF1", "dF2"), 1.0)}
    found = {}
    for block in observations.blocks(other.basis, weights, {}):
        residual = block.design @ other.coefficients - block.targets
        found[block.kind[-1]] = found.get(block.kind[-1], 0.0) + block.factors @ residual**2
    for j, (error, _) in (errors.energy or errors.force).items():
        assert np.isclose(found[str(j)], error**2, rtol=1e-10)


def test_means_of_data_without_the_symmetry(tungsten, rng):
    """Random tensors: the reduced problem has the minimum of the whole one, over full rows."""
    model = random_model("W", 5, 3.6)
    derivatives = model.site_energy_derivatives(tungsten, 2, 3.4)
    for j in (1, 2):
        derivatives.tensors[j][0] += rng.normal(size=derivatives.tensors[j][0].shape)
    observations = Observations().add_site_derivatives(derivatives, gamma=0.2)
    found = fit_ace(model.basis, observations, "ridge", alpha=1e-12, streamed=True)
    rows = model.basis.site_energy_derivative_rows(tungsten, 2, 3.4)
    design, targets = [], []
    for j in (1, 2):
        root = stencil_weights(tungsten.stencil(0, 3.4), 0.2, j)
        root = np.broadcast_to(root.reshape([n for s in root.shape for n in (s, 1)]), (14, 3) * j).ravel()
        core = rows.core.tensors[j][0]
        design.append(rows.tensors[j][0].reshape(len(root), -1) * root[:, None])
        targets.append((derivatives.tensors[j][0] - core).ravel() * root)
    a, t = np.vstack(design), np.concatenate(targets)

    def loss(c):
        return np.sum((a @ c - t) ** 2)

    best = np.linalg.lstsq(a, t)[0]
    assert np.isclose(loss(found.potential.coefficients), loss(best), rtol=1e-9)


@pytest.mark.parametrize("streamed", [False, True])
def test_own_derivatives_are_matched(alloy, streamed):
    model = random_model(("Cu", "Pd"), 4, 4.0)
    observations = (
        Observations()
        .add_site_derivatives(model, alloy, 3, [4.0, 4.0, 3.1])
        .add_force_constants(model, alloy, 2, [6.0, 3.2])
        .add_virial_derivatives(model, alloy, 3)
    )
    found = fit_ace(model.basis, observations, "rrqr", tolerance=1e-12, streamed=streamed)
    errors = matching_errors(model, found.potential, alloy, 2, cutoff=4.0)
    for table in (errors.energy, errors.force, errors.virial):
        assert all(relative < 1e-6 for _, relative in table.values())
    kinds = found.errors["kind"][found.errors["group"] == "all"].tolist()
    assert kinds == ["W1", "W2", "W3", "dF1", "dF2", "dV1", "dV2", "dV3"]
    assert found.rmse("dV2") < 1e-7 and "meV/Å^2" in str(found)
    assert found.errors["n"][kinds.index("W3")] == 729
    # No energies were given: the crystal has its own.
    cell = alloy.unit_cell
    assert np.isclose(
        found.potential.get_property("free_energy", cell), model.get_property("free_energy", cell)
    )


def test_tungsten(tungsten):
    """The derivatives of an EAM up to order two are those of an ACE of order two: the fit finds them.

    Site energies, pair terms and a function of the density, differ from a polynomial of order two in
    densities by the third derivative of that function only.
    """
    eam = EAM("W-zhou04")
    crystal = Crystal.relaxed(tungsten.unit_cell, eam)
    basis = ACEBasis("W", order=2, degree=10, cutoff=eam.cutoff)
    observations = Observations().add_site_derivatives(eam, crystal, 2, eam.cutoff)
    found = fit_ace(basis, observations, "rrqr", tolerance=1e-10).potential
    errors = matching_errors(eam, found, crystal, 2, cutoff=eam.cutoff)
    assert all(relative < 1e-9 for _, relative in errors.energy.values())
    # Forces and the Cauchy–Born energy follow where they are sums over these.
    assert errors.force[1][1] < 1e-9 and errors.virial[1][1] < 1e-9 < 0.01 < errors.virial[2][1]
    exact = eam.cauchy_born_derivatives(crystal, 2).elastic_constants()
    assert np.allclose(found.cauchy_born_derivatives(crystal, 2).elastic_constants(), exact, atol=1e-8)


def test_silicon(silicon_qm, silicon_crystal):
    """Force constants over the whole range of the basis, and virials, which they do not determine."""
    basis = ACEBasis("Si", order=3, degree=8, cutoff=4.0)
    forces = silicon_qm.force_derivatives(silicon_crystal, 1, 8.0)
    virials = silicon_qm.cauchy_born_derivatives(silicon_crystal, 3)
    observations = Observations().add_force_constants(forces)
    without = fit_ace(basis, observations, "rrqr", tolerance=1e-9)
    observations.add_virial_derivatives(virials)
    found = fit_ace(basis, observations, "rrqr", tolerance=1e-9)
    assert observations.elements == ["Si"] and observations.counts()["W2"] == 45
    close = found.potential.force_derivatives(silicon_crystal, 1, 8.0)
    errors = matching_errors(forces, close, silicon_crystal, 1, cutoff=8.0, kinds="F")
    third = [
        np.linalg.norm(
            f.potential.cauchy_born_derivatives(silicon_crystal, 3).tensors[3] - virials.tensors[3]
        )
        for f in (without, found)
    ]
    # The tight binding reaches further than the 4 Å at which the basis smoothly ends.
    assert errors.force[1][1] < 0.03
    assert third[1] < 1e-3 * np.linalg.norm(virials.tensors[3]) < third[0]


def test_weights_and_digest(tungsten):
    model = random_model("W", 4, 3.6)
    observations = Observations().add_site_derivatives(model, tungsten, 2, 3.4, group="a")
    observations.add_virial_derivatives(model, tungsten, 1, group="b")
    found = fit_ace(model.basis, observations, "ridge", {"a": {"dV1": 0.0}, "b": {"W1": 5.0}})
    assert set(found.errors["kind"]) == {"dV2", "W1"}
    again = Observations().add_site_derivatives(model, tungsten, 2, 3.4, group="a")
    before = again.digest()
    assert before != observations.digest()
    assert again.add_virial_derivatives(model, tungsten, 1, group="b").digest() == observations.digest()


@pytest.mark.parametrize(
    ("method", "arguments", "error", "message"),
    [
        (
            "add_site_derivatives",
            {"order": 4},
            ValueError,
            "order: got 4, expected a whole number from 1 to 3",
        ),
        ("add_force_constants", {"order": 3}, ValueError, "from 1 to 2"),
        ("add_virial_derivatives", {"order": True}, ValueError, "got True"),
        ("add_site_derivatives", {"crystal": None}, TypeError, "expected Crystal"),
        ("add_site_derivatives", {"gamma": -1.0}, ValueError, "gamma"),
        ("add_site_derivatives", {"model": object()}, TypeError, "object has no site_energy_derivatives"),
        ("add_force_constants", {"gama": 1.0}, TypeError, "did you mean 'gamma'"),
        ("add_force_constants", {"model": "site"}, ValueError, "kind 'energy', expected 'force'"),
        ("add_site_derivatives", {"model": "site"}, ValueError, "none of order 2"),
        ("add_site_derivatives", {"model": "nan", "order": 1}, ValueError, "not finite"),
        ("add_virial_derivatives", {"model": "relaxed", "order": 1}, ValueError, "relaxed=False"),
    ],
)
def test_refused(tungsten, method, arguments, error, message):
    model = random_model("W", 4, 3.6)
    if method != "add_virial_derivatives":
        arguments = {"order": 2, "cutoff": 3.0} | arguments
    arguments = {"model": model, "crystal": tungsten} | arguments
    if arguments["model"] in ("site", "nan"):
        given = model.site_energy_derivatives(tungsten, 1, 3.0)
        given.tensors[1][0][0] = np.nan if arguments["model"] == "nan" else 0.0
        arguments["model"] = given
    elif arguments["model"] == "relaxed":
        arguments["model"] = model.cauchy_born_derivatives(tungsten, 1, relaxed=True)
    observations = Observations()
    with pytest.raises(error, match=message):
        getattr(observations, method)(**arguments)
    assert observations.derivatives == []
