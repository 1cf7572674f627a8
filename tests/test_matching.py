"""Matching errors: of a model with itself, of tensors put together by hand, and Cauchy–Born energies."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk

from ase_qmmm import Crystal, TightBinding
from ase_qmmm.fitting import matching_errors
from ase_qmmm.taylor import CrystalDerivatives
from ase_qmmm.taylor.cauchy_born import cauchy_born_of_sites
from ase_qmmm.tightbinding import cauchy_born_derivatives


class Springs:
    """Site energies ``V = sum_rho k/4 (|r| - |rho|)^2 + c/2 (|r| - |rho|)^3`` of nearest neighbours."""

    def __init__(self, stiffness, cubic=0.0):
        self.stiffness, self.cubic = stiffness, cubic

    def site_energy_derivatives(self, crystal, order, cutoff):
        tensors = {j: [] for j in range(1, order + 1)}
        for basis in range(crystal.n_basis):
            rho = crystal.stencil(basis, cutoff)
            s = len(rho)
            lengths = np.linalg.norm(rho, axis=1)
            n = rho / lengths[:, None]
            near = lengths < 1.2 * lengths.min()
            d2 = np.where(near, self.stiffness / 2, 0.0)
            d3 = np.where(near, 3 * self.cubic, 0.0)
            across = np.eye(3) - n[:, :, None] * n[:, None, :]
            for j, tensor in ((1, np.zeros((s, 3))), (2, np.zeros((s, 3, s, 3))), (3, np.zeros((s, 3) * 3))):
                if j > order:
                    continue
                for k in range(s):
                    if j == 2:
                        tensor[k, :, k] = d2[k] * np.outer(n[k], n[k])
                    if j == 3:
                        mixed = np.einsum("a,bc->abc", n[k], across[k])
                        mixed = mixed + np.einsum("abc->bac", mixed) + np.einsum("abc->bca", mixed)
                        along = np.einsum("a,b,c->abc", n[k], n[k], n[k])
                        tensor[k, :, k, :, k] = d3[k] * along + d2[k] / lengths[k] * mixed
                tensors[j].append(tensor)
        cutoffs = dict.fromkeys(tensors, cutoff)
        return CrystalDerivatives(crystal, "energy", cutoffs, tensors, np.zeros(crystal.n_basis), "springs")

    def energy(self, crystal, deformation):
        total = 0.0
        for basis in range(crystal.n_basis):
            rho = crystal.stencil(basis, 1.2 * crystal.nearest_neighbour_distance)
            change = np.linalg.norm(rho @ deformation.T, axis=1) - np.linalg.norm(rho, axis=1)
            total += (self.stiffness / 4 * change**2 + self.cubic / 2 * change**3).sum()
        return total


@pytest.fixture
def crystal():
    return Crystal(bulk("Cu", a=3.6))


def test_a_model_matches_itself(crystal):
    found = matching_errors(Springs(2.0), Springs(2.0), crystal, 2, 0.3, kinds="EV", cutoff=4.0)
    assert all(error == 0.0 for table in (found.energy, found.virial) for error, _ in table.values())
    assert "eps_2^E" in str(found)
    assert found.as_array()["kind"].tolist() == ["E", "E", "V", "V"]


def test_values_by_hand(crystal):
    """Twelve equal bonds: |n n| = 1, weights exp(2 gamma r) for each of two indices."""
    gamma, r = 0.4, 3.6 / np.sqrt(2)
    found = matching_errors(Springs(2.0), Springs(1.5), crystal, [2], gamma, kinds="E", cutoff=3.0)
    error, relative = found.energy[2]
    assert np.isclose(error, np.sqrt(12) * (1.0 - 0.75) * np.exp(2 * gamma * r))
    assert np.isclose(relative, 0.25)


def test_cauchy_born_of_sites(crystal, rng):
    """Third-order expansion of the energy of a deformed crystal, exact at small deformation."""
    model = Springs(2.0, 0.7)
    found = cauchy_born_of_sites(model.site_energy_derivatives(crystal, 3, 3.0))
    direction = rng.normal(size=(3, 3))
    h = 1e-2

    def along(x):
        return model.energy(crystal, np.eye(3) + x * direction)

    second = np.einsum("ijkl,ij,kl", found.tensors[2], direction, direction)
    third = np.einsum("ijklmn,ij,kl,mn", found.tensors[3], *[direction] * 3)
    # Central differences of fourth order (coefficients of Fornberg, 1988).
    assert np.isclose(
        (-along(2 * h) + 16 * along(h) + 16 * along(-h) - along(-2 * h)) / (12 * h**2), second, rtol=1e-4
    )
    steps = (
        along(-3 * h) - 8 * along(-2 * h) + 13 * along(-h) - 13 * along(h) + 8 * along(2 * h) - along(3 * h)
    ) / 8
    assert np.isclose(steps / h**3, third, rtol=1e-3)


def test_cauchy_born_of_sites_converges_to_the_model():
    """A metal of toy tight binding: what is missing decays with the radius of the stencils."""
    calc = TightBinding("toy", kT=0.3, mu=0.0)
    crystal = Crystal(bulk("Ni", "sc", a=2.5))
    exact = cauchy_born_derivatives(calc, crystal, 2).tensors
    near, far = (
        cauchy_born_of_sites(calc.site_energy_derivatives(crystal, 2, r)).tensors for r in (3.6, 6.0)
    )
    for j in (1, 2):
        assert np.abs(far[j] - exact[j]).max() < np.abs(near[j] - exact[j]).max() / 4


@pytest.mark.parametrize("relaxed", [False, True])
def test_elastic_constants_of_silicon(silicon_qm, silicon_crystal, relaxed):
    """C44 of the sites approaches that of the cell: 19 and 3 % off, relaxed 38 and 8 % at 4 and 6.5 Å."""
    exact = cauchy_born_derivatives(silicon_qm, silicon_crystal, 2, relaxed=relaxed).elastic_constants()
    errors = []
    for cutoff in (4.0, 6.5):
        sites = silicon_qm.site_energy_derivatives(silicon_crystal, 2, cutoff)
        found = cauchy_born_of_sites(sites, relaxed=relaxed).elastic_constants()
        errors.append(abs(found[0, 1, 0, 1] / exact[0, 1, 0, 1] - 1))
    assert errors[1] < 0.1 and errors[1] < errors[0] / 3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"orders": 0}, ValueError, "positive integers"),
        ({"kinds": "X"}, ValueError, "letters of 'EFV'"),
        ({"kinds": "F"}, TypeError, "Springs has no force_derivatives"),
        ({"mm": object()}, TypeError, "mm: object has no site_energy_derivatives"),
        ({"gamma": -1.0}, ValueError, "gamma"),
        ({"cutoff": np.nan}, ValueError, "cutoff"),
    ],
)
def test_refused(crystal, change, error, message):
    arguments = {"qm": Springs(1.0), "mm": Springs(1.0), "crystal": crystal, "kinds": "E"} | change
    with pytest.raises(error, match=message):
        matching_errors(**arguments)
