"""Blocks, dense matrices, products on the pattern of pairs, and the eigensolver, each alone."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from helpers import assert_derivative, moved
from scipy.linalg import eigh

from ase_qmmm import TightBinding
from ase_qmmm.tightbinding import NRLModel, spectrum
from ase_qmmm.tightbinding import weighted as gradients
from ase_qmmm.tightbinding.matrices import Matrices, build_matrices
from ase_qmmm.tightbinding.spectrum import eigenstates

KPOINTS = {
    "gamma": [0.0, 0.0, 0.0],
    "boundary": [0.5, 0.0, 0.5],
    "complex": [0.1, 0.2, -0.3],
}


def silicon(repeats):
    atoms = bulk("Si", a=5.43).repeat(repeats)
    atoms.rattle(0.1, seed=2)
    return atoms


def alloy():
    atoms = bulk("Cu", a=3.7, cubic=True).repeat((2, 1, 1))
    atoms.symbols[[0, 3, 5]] = "Au"
    atoms.rattle(0.1, seed=1)
    return atoms


STRUCTURES = {
    "Si18": ("nrl-Si-sp", silicon((3, 3, 1))),
    "Si2": ("nrl-Si-sp", silicon(1)),
    "CuAu": ("nrl-CuAu-spd", alloy()),
}


def by_hand(matrices, diagonal, blocks, kpoint):
    """The sum over pairs, written out."""
    matrix = np.diag(diagonal).astype(complex)
    for g, block in zip(matrices.groups, blocks, strict=True):
        for p, phase in enumerate(np.exp(2j * np.pi * g.shifts @ kpoint)):
            matrix[np.ix_(g.rows[p], g.columns[p])] += block[p] * phase
            matrix[np.ix_(g.columns[p], g.rows[p])] += block[p].T * phase.conj()
    return matrix


@pytest.mark.parametrize("kpoint", KPOINTS)
@pytest.mark.parametrize("structure", STRUCTURES)
class TestAtOneKpoint:
    @pytest.fixture
    def matrices(self, structure):
        model, atoms = STRUCTURES[structure]
        return build_matrices(NRLModel(model), atoms)

    def test_dense(self, matrices, kpoint):
        k = np.array([KPOINTS[kpoint]])
        expected = by_hand(matrices, np.ones(matrices.size), [g.overlap[0] for g in matrices.groups], k[0])
        got = matrices.overlap(k)
        assert got.dtype == (complex if kpoint == "complex" else float)
        assert np.abs(got[0] - expected).max() < 1e-12
        diagonal = matrices.onsite[:, 0].sum(axis=0)
        expected = by_hand(matrices, diagonal, [g.hopping[0] for g in matrices.groups], k[0])
        assert np.abs(matrices.hamiltonian(k)[0] - expected).max() < 1e-11

    def test_products_on_the_pattern(self, matrices, kpoint, rng):
        k = np.array([KPOINTS[kpoint]])
        x, y = rng.normal(size=(2, matrices.size, 7))
        if kpoint == "complex":
            x, y = x + 1j * rng.normal(size=x.shape), y + 1j * rng.normal(size=x.shape)
        factors = np.array([0.0, 0.3, -1.0, 0.0, 2.0, 1e-30, 0.0])
        got, expected = matrices.pattern(), matrices.pattern()
        matrices.add_product(got, x, y, factors, k[0], 0.7)
        matrices.gather(expected, (x * factors @ y.conj().T)[None], k, np.array([0.7]))
        assert np.abs(got.diagonal - expected.diagonal).max() < 1e-12
        for a, b in zip(got.blocks, expected.blocks, strict=True):
            assert np.abs(a - b).max() < 1e-12

    def test_overlap_times(self, matrices, kpoint, rng):
        k = np.array([KPOINTS[kpoint]])
        vectors = rng.normal(size=(matrices.size, 5)).astype(matrices.overlap(k).dtype)
        atoms = np.arange(matrices.n_atoms) % 2 == 0
        expected = (matrices.overlap(k)[0] @ vectors)[atoms[matrices.atom_of_orbital]]
        assert np.abs(matrices.overlap_times(vectors, k[0], atoms) - expected).max() < 1e-12

    def test_weighted_overlap_times(self, matrices, kpoint, rng):
        """Rows of atoms within reach of the weights; the others of the whole product are zero."""
        k = np.array([KPOINTS[kpoint]])
        m = matrices.overlap(k)[0]
        vectors = rng.normal(size=(matrices.size, 5)).astype(m.dtype)
        weights = rng.uniform(-1.0, 1.0, matrices.n_atoms)
        weights[1:] *= rng.integers(2, size=matrices.n_atoms - 1)
        w = np.diag(weights[matrices.atom_of_orbital])
        expected = (w @ m + m @ w) @ vectors[:, :3] / 2
        reached = matrices.weight_reach(weights)[matrices.atom_of_orbital]
        got = matrices.weighted_overlap_times(vectors, k[0], weights, 3)
        assert np.abs(got - expected[reached]).max() < 1e-12
        assert np.abs(expected[~reached]).max(initial=0.0) == 0.0


@pytest.mark.parametrize("kpoint", KPOINTS)
@pytest.mark.parametrize("needed", [None, 20, 0])
@pytest.mark.parametrize(("block", "aliased"), [(64, 4096), (20, 8)])
def test_eigenstates(kpoint, needed, block, aliased, monkeypatch):
    """With one block of reflectors, and with several and padded rows."""
    monkeypatch.setattr(spectrum, "_REFLECTORS", block)
    monkeypatch.setattr(spectrum, "_ALIASED", aliased)
    matrices = build_matrices(NRLModel("nrl-Si-sp"), silicon((3, 3, 1)))
    k = np.array([KPOINTS[kpoint]])
    count = None if needed is None else lambda levels: needed
    (states,) = eigenstates(matrices, k, np.ones(1), count)
    h, m = matrices.hamiltonian(k)[0], matrices.overlap(k)[0]
    assert np.abs(states.levels[0] - eigh(h, m, eigvals_only=True)).max() < 1e-11
    c = states.vectors[0]
    assert states.n_vectors == (matrices.size if needed is None else max(needed, 1))
    assert c.dtype == h.dtype
    assert np.abs(c.conj().T @ m @ c - np.eye(states.n_vectors)).max() < 1e-11
    assert np.abs(h @ c - m @ c * states.levels[0, : states.n_vectors]).max() < 1e-10


@pytest.mark.parametrize("kpts", [(1, 1, 1), {"size": (1, 1, 3), "gamma": True}])
@pytest.mark.parametrize("energy", ["grand", "free", "band"])
def test_weighted_gradient_of_more_orbitals(energy, kpts, rng):
    """72 orbitals: the path of large matrices, with empty levels of no weight."""
    atoms = silicon((3, 3, 1))
    calc = TightBinding(kT=0.05, mu=None if energy == "free" else 5.8, energy=energy, kpts=kpts)
    weights = rng.uniform(-0.5, 1.5, len(atoms)) * (np.arange(len(atoms)) < 9)
    u = rng.uniform(-1, 1, (len(atoms), 3))
    for w in (weights, None):
        slope = -(calc.evaluate(atoms, w).forces * u).sum()
        assert_derivative(lambda h, w=w: calc.evaluate(moved(atoms, u, h), w).energy, slope)
    ones = calc.evaluate(atoms, np.ones(len(atoms)))
    assert np.abs(ones.forces - calc.evaluate(atoms).forces).max() < 1e-9


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("model", ["nrl-Si-sp", "nrl-W-spd"])
def test_derivatives_of_matrices(model, order):
    """Of a pair on its vector, to each order: blocks and densities."""
    vector, u = np.array([1.1, 1.5, -1.3]), np.array([0.3, -0.5, 0.8])
    symbol = NRLModel(model).symbols[0]

    def functions(h, k):
        atoms = Atoms([symbol] * 2, [[0, 0, 0], vector + h * u])
        (g,) = build_matrices(NRLModel(model), atoms, order=max(k, order - 1)).groups
        return [f[k][0] for f in (g.hopping, g.overlap, g.density_ij, g.density_ji)]

    for n, tensor in enumerate(functions(0.0, order)):
        change = np.tensordot(u, tensor, 1)
        assert_derivative(lambda h, n=n: functions(h, order - 1)[n], change, noise=1e-12)


@pytest.mark.parametrize("kpts", [(1, 1, 1), {"size": (1, 1, 2), "gamma": False}], ids=["real", "complex"])
@pytest.mark.parametrize("ensemble", [{"mu": 5.8}, {}, {"energy": "band"}], ids=["mu", "N-free", "N-band"])
@pytest.mark.parametrize("weighted", [18, 2])
def test_weighted_gradient_by_panels(ensemble, kpts, weighted, rng, monkeypatch):
    """Products on the pattern, by panels of levels, are those of whole matrices."""
    atoms = silicon((3, 3, 1))
    calc = TightBinding(kT=0.05, kpts=kpts, **ensemble)
    weights = rng.uniform(0.5, 1.5, len(atoms)) * (np.arange(len(atoms)) < weighted)
    results = []
    for sparse in (False, True):
        monkeypatch.setattr(Matrices, "sparse", sparse)
        monkeypatch.setattr(gradients, "_PANEL", 17)
        results.append(calc.evaluate(atoms, weights))
    whole, panels = results
    assert np.abs(panels.forces - whole.forces).max() < 1e-11
    assert np.abs(panels.virial - whole.virial).max() < 1e-10
    assert np.abs(panels.energies - whole.energies).max() < 1e-11
