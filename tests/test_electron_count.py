"""Occupations sum to the number of electrons at any electronic temperature, and what follows for kT -> 0."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene

from ase_qmmm import NumericsError, TightBinding, fermi_level
from ase_qmmm.tightbinding.spectrum import States, fermi, find_mu


def ring(symbol, n, radius=2.0):
    angles = 2 * np.pi * np.arange(n) / n
    return Atoms(f"{symbol}{n}", np.column_stack([np.cos(angles), np.sin(angles), 0 * angles]) * radius)


def levels_of(*levels):
    """A spectrum of given levels at one k-point."""
    return [States(np.zeros((1, 3)), np.ones(1), np.array([levels], dtype=float), np.eye(len(levels))[None])]


def occupations(calc, atoms):
    """Levels (k, N), electrons in them (k, N) and their sum over k with weights, at the mu of `calc`."""
    levels, weights = calc.eigenvalues(atoms)
    electrons = 2 * fermi(levels, calc.last_mu, calc.kT)
    return levels, electrons, float((weights[:, None] * electrons).sum())


CASES = [
    pytest.param("nrl-Si-sp", Atoms("Si"), (1, 1, 1), 4, id="atom: two electrons in three levels"),
    pytest.param("nrl-Al-spd", Atoms("Al"), (1, 1, 1), 3, id="atom: one electron in three levels"),
    pytest.param("nrl-Al-spd", ring("Al", 4), (1, 1, 1), 12, id="square ring"),
    pytest.param("nrl-Si-sp", ring("Si", 5), (1, 1, 1), 20, id="pentagon"),
    pytest.param("nrl-Al-spd", bulk("Al", a=4.05), (4, 4, 4), 3, id="metal"),
    pytest.param("nrl-Si-sp", bulk("Si", a=5.43), (4, 4, 4), 8, id="semiconductor"),
    pytest.param("nrl-C-sp", bulk("C", a=3.57), (4, 4, 4), 8, id="insulator"),
    pytest.param("nrl-C-sp", graphene(vacuum=None), (6, 6, 1), 8, id="zero gap"),
]


@pytest.mark.parametrize("kT", [0.1, 1e-3, 1e-6, 1e-8])
@pytest.mark.parametrize(("model", "atoms", "kpts", "n_electrons"), CASES)
def test_count_is_exact(model, atoms, kpts, n_electrons, kT):
    calc = TightBinding(model, kT=kT, kpts=kpts)
    result = calc.evaluate(atoms)
    assert np.isfinite(result.energy)
    levels, electrons, count = occupations(calc, atoms)
    assert count == pytest.approx(n_electrons, rel=1e-12)
    assert calc.charges(atoms).sum() == pytest.approx(n_electrons, rel=1e-12)
    # Levels that LAPACK gives as equal to 1e-13 eV share electrons: a difference d gives 2 d / (4 kT).
    for k in range(len(levels)):
        equal = np.diff(levels[k]) < 1e-13
        assert np.abs(np.diff(electrons[k]))[equal].max(initial=0.0) <= 1e-13 / kT


@pytest.mark.parametrize("kT", [1e-6, 1e-8, 1e-12])
@pytest.mark.parametrize("n_electrons", [1, 2, 2.5, 5, 7.999])
def test_degenerate_level_is_shared(n_electrons, kT):
    """Four degenerate levels at any place on the scale of energy hold a quarter of the electrons each."""
    for level in (-7.123456789, 0.0, 1e-7, 123.456):
        states = levels_of(*[level] * 4)
        mu = find_mu(states, n_electrons, kT)
        assert 2 * fermi(states[0].levels[0], mu, kT) == pytest.approx([n_electrons / 4] * 4, rel=1e-12)
        assert mu == pytest.approx(level, abs=20 * kT + 1e-14)


def test_no_place_for_electrons():
    for n in (0, 8, 9):
        with pytest.raises(NumericsError, match="do not fit 8 places"):
            find_mu(levels_of(0, 1, 2, 3), n, 0.1)


@pytest.mark.parametrize("kT", [0.3, 0.05, 0.02, 1e-3, 1e-6])
def test_mu_in_a_gap_balances_electrons_and_holes(kT):
    """mu = middle + kT / 2 log(places below / places above) for levels at the two edges; no jump with kT."""
    states = levels_of(1.0, 1.0, 1.0, 4.0)
    expected = 2.5 + kT / 2 * np.log(3)
    # Corrections are of the order of the number of carriers, exp(-gap / 2 kT) with gap = 3 eV.
    tolerance = kT * 3 * np.exp(-3 / (2 * kT)) + 1e-7 * kT
    assert find_mu(states, 6, kT) == pytest.approx(expected, abs=tolerance)


def test_fermi_level_of_a_cold_semiconductor():
    """It tends to the middle of the gap, wherever a search by count alone would stop."""
    atoms = bulk("Si", a=5.42635)
    middle = 5.7975946  # of the band edges of the reference data
    for kT, tolerance in ((1e-2, 0.05), (1e-4, 5e-4), (1e-6, 1e-5)):
        assert fermi_level("nrl-Si-sp", atoms, kT=kT) == pytest.approx(middle, abs=tolerance)


def test_mu_survives_copies():
    """The digits beyond a float travel with copies; files get the float."""
    states = levels_of(*[5.0] * 3)
    mu = find_mu(states, 1.7, 1e-7)
    for again in (pickle.loads(pickle.dumps(mu)), copy.deepcopy(mu)):
        assert 2 * fermi(states[0].levels, again, 1e-7).sum() == pytest.approx(1.7, rel=1e-12)
    assert json.loads(json.dumps({"mu": mu})) == {"mu": float(mu)}


def test_energies_converge_to_zero_temperature():
    """In a metal E = E0 +- a kT^2; their mean, ``energy``, is right to kT^4."""
    chain = Atoms("Al", cell=[2.4, 0, 0], pbc=[True, False, False])  # no band edge near mu

    def energies(kT):
        # Many k-points of one atom: far more levels within kT than kT resolves.
        calc = TightBinding("nrl-Al-spd", kT=kT, kpts=(4000, 1, 1))
        cold, free = (calc.get_property(name, chain) for name in ("energy", "free_energy"))
        return np.array([2 * cold - free, free, cold])  # band energy, free energy, extrapolated

    kTs = np.array([0.032, 0.016, 0.008])
    band, free, cold = np.array([energies(kT) for kT in kTs]).T
    # Each halving of kT divides the change by 4 and 16.
    orders = [np.log2((e[0] - e[1]) / (e[1] - e[2])) for e in (band, free, cold)]
    assert orders[:2] == pytest.approx([2, 2], abs=0.1)
    assert orders[2] > 3.5
    limit = (4 * free[2] - free[1]) / 3
    assert (band[0] - limit) == pytest.approx(limit - free[0], rel=0.05)
    assert abs(cold[2] - limit) < 0.01 * abs(free[2] - limit)
