"""Derivatives of ACE models at perfect crystals: against differences of their own energies and forces."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from helpers import assert_derivative, random_strain

from ase_qmmm import ACEBasis, ACEPotential, Crystal, TaylorForces
from ase_qmmm.ace.jets import solid_harmonics


def made(elements, order, degree, cutoff, **options):
    basis = ACEBasis(elements, order, degree, cutoff, **options)
    decay = np.exp(-0.5 * np.array([f.degree for f in basis.functions]))
    return ACEPotential(basis, 0.1 * decay * np.random.default_rng(4).normal(size=len(basis)))


CASES = {
    "W": (lambda: made("W", 4, 7, 4.6), lambda: bulk("W", a=3.16)),
    "Si": (lambda: made("Si", 3, 7, 4.2, inner_cutoff=0.5), lambda: bulk("Si", a=5.43)),
    "NiAl": (lambda: made(("Ni", "Al"), 3, 6, 3.8), lambda: bulk("NiAl", "cesiumchloride", a=2.9)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    potential, cell = CASES[request.param]
    return potential(), Crystal(cell())


def large_cell(crystal, calc, site):
    """A large cell, and the atom on `site` near its middle."""
    n = int(np.ceil(3 * calc.cutoff / np.linalg.norm(crystal.lattice, axis=1).min()))
    atoms = crystal.unit_cell.repeat(n)
    cell_index = n // 2 * (n * n + n + 1)
    return atoms, cell_index * crystal.n_basis + site


def stencil_atoms(crystal, atoms, centre, stencil):
    """Atom at each stencil vector, by brute force over the cell."""
    inverse = np.linalg.inv(atoms.cell.array)
    out = []
    for rho in stencil:
        s = (atoms.positions - atoms.positions[centre] - rho) @ inverse
        out.append(int(np.argmin(np.linalg.norm((s - np.rint(s)) @ atoms.cell.array, axis=1))))
    assert len(set(out)) == len(out)
    return np.array(out)


def contracted(tensor, g, skip=0):
    """A tensor with all its pairs of indices filled by the same displacements."""
    while tensor.ndim > skip:
        tensor = np.tensordot(tensor, g, axes=([tensor.ndim - 2, tensor.ndim - 1], [0, 1]))
    return tensor


@pytest.mark.parametrize("kind", ["energy", "force"])
def test_derivatives_are_those_of_the_model(case, kind, rng):
    """Along a random displacement, each order is the derivative of the one below at a displaced lattice."""
    calc, crystal = case
    cutoff = calc.cutoff + 0.5 if kind == "energy" else 1.1 * crystal.nearest_neighbour_distance
    orders = (1, 2, 3) if kind == "energy" else (1, 2)
    method = calc.site_energy_derivatives if kind == "energy" else calc.force_derivatives
    found = method(crystal, max(orders), cutoff)
    for site in range(crystal.n_basis):
        atoms, centre = large_cell(crystal, calc, site)
        stencil = crystal.stencil(site, cutoff)
        members = stencil_atoms(crystal, atoms, centre, stencil)
        g = rng.normal(size=(len(stencil), 3))
        only = np.zeros(len(atoms))
        only[centre] = 1.0

        def value(h, atoms=atoms, members=members, g=g, only=only, centre=centre):
            copy = atoms.copy()
            copy.positions[members] += h * g
            if kind == "energy":
                return calc.evaluate(copy, only).energy
            return calc.evaluate_sites(copy, only > 0)[1][centre]

        for order in orders:
            tensor = found.tensors[order][site]
            assert tensor.shape == ((3,) if kind == "force" else ()) + (len(stencil), 3) * order
            expected = contracted(tensor, g, 0 if kind == "energy" else 1)
            if order == 1:
                assert_derivative(value, expected, 1e-12)
                continue
            # Central differences of higher order: the tables are smooth to second order only.
            errors = []
            for h in (0.04, 0.02, 0.01):
                if order == 2:
                    quotient = (value(h) - 2 * value(0.0) + value(-h)) / h**2
                else:
                    quotient = (value(2 * h) - 2 * value(h) + 2 * value(-h) - value(-2 * h)) / (2 * h**3)
                errors.append(np.abs(quotient - expected).max())
            ratios = np.array(errors[1:]) / errors[:-1]
            assert (ratios < 0.4).all() or errors[-1] < 1e-3 * np.abs(expected).max(), (
                order,
                errors,
                expected,
            )
        assert found.energies[site] == pytest.approx(calc.evaluate(atoms).energies[centre], abs=1e-7)


def test_tensors_are_symmetric(case):
    calc, crystal = case
    tensor = calc.site_energy_derivatives(crystal, 3, 3.0).tensors
    for site in range(crystal.n_basis):
        two, three = tensor[2][site], tensor[3][site]
        assert np.abs(two - two.transpose(2, 3, 0, 1)).max() < 1e-12
        for axes in ((2, 3, 0, 1, 4, 5), (0, 1, 4, 5, 2, 3), (4, 5, 2, 3, 0, 1)):
            assert np.abs(three - three.transpose(axes)).max() < 1e-11


def test_rows_sum_to_the_potential(case):
    calc, crystal = case
    c = calc.coefficients
    rows = calc.basis.site_energy_derivative_rows(crystal, 3, (4.0, 4.0, 3.0))
    whole = calc.site_energy_derivatives(crystal, 3, (4.0, 4.0, 3.0))
    assert np.abs(rows.energies @ c + rows.core.energies - whole.energies).max() < 1e-11
    for order in (1, 2, 3):
        for a, b, k in zip(rows.tensors[order], whole.tensors[order], rows.core.tensors[order], strict=True):
            assert np.abs(a @ c + k - b).max() < 1e-11 * (1 + np.abs(b).max())
    rows = calc.basis.force_derivative_rows(crystal, 1, 4.0)
    whole = calc.force_derivatives(crystal, 1, 4.0)
    for a, b, k in zip(rows.tensors[1], whole.tensors[1], rows.core.tensors[1], strict=True):
        assert np.abs(a @ c + k - b).max() < 1e-11 * (1 + np.abs(b).max())


def test_cauchy_born(case, rng):
    calc, crystal = case
    found = calc.cauchy_born_derivatives(crystal, 3)
    e = random_strain(rng, 1.0)

    def energy(h):
        cell = crystal.unit_cell
        deformation = np.eye(3) + h * e
        cell.set_cell(cell.cell.array @ deformation.T)
        cell.positions = cell.positions @ deformation.T
        return calc.evaluate(cell).energy

    assert found.energy == pytest.approx(energy(0.0), abs=1e-7)
    assert_derivative(energy, (found.tensors[1] * e).sum(), 1e-11)
    second = np.einsum("ijkl,ij,kl", found.tensors[2], e, e)
    third = np.einsum("ijklmn,ij,kl,mn", found.tensors[3], e, e, e)
    errors = [abs((energy(h) - 2 * energy(0) + energy(-h)) / h**2 - second) for h in (0.02, 0.01)]
    assert errors[1] < 0.3 * errors[0]
    errors = [
        abs((energy(2 * h) - 2 * energy(h) + 2 * energy(-h) - energy(-2 * h)) / (2 * h**3) - third)
        for h in (0.02, 0.01)
    ]
    assert errors[1] < 0.3 * errors[0]
    rows = calc.basis.cauchy_born_rows(crystal, 3)
    for order, tensor in found.tensors.items():
        summed = rows.tensors[order] @ calc.coefficients + rows.core.tensors[order]
        assert np.abs(summed - tensor).max() < 1e-10 * (1 + np.abs(tensor).max())
    assert rows.energy @ calc.coefficients + rows.core.energy == pytest.approx(found.energy, abs=1e-10)


def test_relaxed_cauchy_born_of_silicon(rng):
    """Inner displacements follow the strain: second derivatives of the energy relaxed by Newton's method."""
    calc = made("Si", 2, 6, 4.2, core=None)
    crystal = Crystal(bulk("Si", a=5.43))
    free = calc.cauchy_born_derivatives(crystal, 2, relaxed=True)
    held = calc.cauchy_born_derivatives(crystal, 2)
    e = random_strain(rng, 1.0)

    def energy(h):
        cell = crystal.unit_cell
        cell.set_cell(cell.cell.array @ (np.eye(3) + h * e), scale_atoms=True)
        d = 1e-4
        for _ in range(6):
            force = calc.evaluate(cell).forces[1]
            jacobian = np.zeros((3, 3))
            for k in range(3):
                trial = cell.copy()
                trial.positions[1, k] += d
                plus = calc.evaluate(trial).forces[1]
                trial.positions[1, k] -= 2 * d
                jacobian[:, k] = (plus - calc.evaluate(trial).forces[1]) / (2 * d)
            cell.positions[1] -= np.linalg.solve(jacobian, force)
        return calc.evaluate(cell).energy

    for tensors, exact in ((free.tensors[2], True), (held.tensors[2], False)):
        second = np.einsum("ijkl,ij,kl", tensors, e, e)
        errors = [abs((energy(h) - 2 * energy(0) + energy(-h)) / h**2 - second) for h in (0.008, 0.004)]
        assert bool(errors[1] < 0.3 * errors[0]) is exact


def test_taylor_model_of_an_ace_model():
    """Its force constants agree with those that TaylorForces takes from differences of forces."""
    calc = made("W", 3, 6, 4.0)
    crystal = Crystal(bulk("W", a=3.16))
    constants = calc.force_derivatives(crystal, 1, 8.0).tensors[1][0]
    model = TaylorForces.from_calculator(calc, crystal, cutoff=8.0)
    differenced = -np.asarray(model.force_constants.matrices[0])
    assert np.abs(constants.transpose(1, 0, 2) - differenced).max() < 3e-3 * np.abs(constants).max()


def test_solid_harmonics_are_harmonic(rng):
    second = solid_harmonics(rng.normal(size=(5, 3)), 5, 2)[2]
    assert np.abs(np.einsum("isaa->is", second)).max() < 1e-11


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda p, c: p.site_energy_derivatives(c, 4), ValueError, "order: got 4"),
        (lambda p, c: p.force_derivatives(c, 3), ValueError, "order: got 3"),
        (lambda p, c: p.cauchy_born_derivatives(c, 0), ValueError, "order: got 0"),
        (lambda p, c: p.site_energy_derivatives(c, 2, -1.0), ValueError, "cutoff"),
        (lambda p, c: p.site_energy_derivatives(c, 3, (1.0, 2.0)), ValueError, "got 2 radii for 3 orders"),
        (lambda p, c: p.site_energy_derivatives(bulk("W")), TypeError, "crystal: got Atoms"),
        (lambda p, c: p.basis.site_energy_derivative_rows(c, 3, 9.0), ValueError, "more than max_memory"),
        (lambda p, c: p.site_energy_derivatives(c, cutof=3.0), TypeError, "did you mean 'cutoff'"),
    ],
)
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call(made("W", 2, 5, 4.0), Crystal(bulk("W", a=3.16)))
