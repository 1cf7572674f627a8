"""ACEBasis: how many functions there are, what they are, their symmetry, rows of fits."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from helpers import assert_derivative, moved, random_rotation, random_strain, rotated, strained
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import eval_legendre

from ase_qmmm import ACEBasis, StructureError
from ase_qmmm.ace.coupling import clebsch_gordan, invariant_tensors
from ase_qmmm.ace.functions import list_functions
from ase_qmmm.ace.harmonics import harmonics_tables, make_tangential, real_harmonics
from ase_qmmm.ace.radial import Radial, agnesi_slope, nearest_distance, zbl

COUNTS = {
    (1, 8): 8,
    **dict(zip([(3, d) for d in (8, 10, 12, 14, 16)], (54, 110, 211, 383, 668), strict=True)),
    **dict(zip([(4, d) for d in (8, 10, 12, 14, 16)], (69, 156, 338, 710, 1445), strict=True)),
}
ALONE = {
    **dict(zip([(2, d) for d in (8, 10, 12, 14, 16)], (23, 41, 67, 102, 147), strict=True)),
    **dict(zip([(3, d) for d in (8, 10, 12, 14, 16)], (23, 59, 132, 267, 505), strict=True)),
}


@pytest.mark.parametrize(("order", "degree"), COUNTS)
def test_counts(order, degree):
    basis = ACEBasis("W", order, degree, 5.5, pair_basis=False)
    assert len(basis) == COUNTS[order, degree]
    orders = [f.order for f in basis.functions]
    for (n, d), count in ALONE.items():
        if d == degree and n <= order:
            assert orders.count(n) == count
    assert max(f.degree for f in basis.functions) <= degree
    assert all(sum(f.l) % 2 == 0 for f in basis.functions)


def molien(n_elements, order, degree):
    """Number of invariants of O(3) and of exchange, by degree, from characters: no coupling is formed.

    The character of the symmetric power of the one-particle space is its cycle index; its mean over the group
    counts invariants. Polynomials in t, whose power is twice the degree.
    """
    limit = int(2 * degree)
    angles = 2 * np.pi * np.arange(256) / 256
    measure = (1 - np.cos(angles)) / 256
    total = np.zeros(limit + 1)
    for parity in (1, -1):
        power_sums = {}
        for k in range(1, order + 1):
            p = np.zeros((limit + 1, len(angles)))
            for l in range(limit // 3 + 1):
                character = sum(np.cos(m * k * angles) for m in range(-l, l + 1)) * (parity**l) ** k
                for n in range(1, limit // 2 + 1):
                    if k * (2 * n + 3 * l) <= limit:
                        p[k * (2 * n + 3 * l)] += n_elements * character
            power_sums[k] = p
        # Newton: N h_N = sum_k p_k h_(N-k).
        h = [np.zeros((limit + 1, len(angles)))]
        h[0][0] = 1.0
        for size in range(1, order + 1):
            new = np.zeros_like(h[0])
            for k in range(1, size + 1):
                for a in range(limit + 1):
                    new[a:] += power_sums[k][a] * h[size - k][: limit + 1 - a]
            h.append(new / size)
        total += sum(h[1:]) @ measure / 2
    counts = np.rint(total).astype(int)
    assert np.abs(counts - total).max() < 1e-8
    return counts


@pytest.mark.parametrize(
    ("n_elements", "order", "degree"), [(1, 4, 12), (1, 3, 14), (2, 3, 9), (2, 4, 8), (3, 2, 8), (1, 4, 9.5)]
)
def test_counts_from_characters(n_elements, order, degree):
    expected = molien(n_elements, order, degree)
    functions = [f for f, _ in list_functions(n_elements, order, degree)]
    got = np.bincount([round(2 * f.degree) for f in functions], minlength=len(expected))
    assert got.tolist() == expected.tolist()


def test_clebsch_gordan():
    """Values of the tables of the Particle Data Group, and orthogonality."""
    assert clebsch_gordan(1, 1, 1, -1, 0, 0) == pytest.approx(math.sqrt(1 / 3), abs=1e-15)
    assert clebsch_gordan(1, 0, 1, 0, 2, 0) == pytest.approx(math.sqrt(2 / 3), abs=1e-15)
    assert clebsch_gordan(2, 1, 1, 0, 3, 1) == pytest.approx(math.sqrt(8 / 15), abs=1e-15)
    assert clebsch_gordan(2, -1, 1, 1, 1, 0) == pytest.approx(math.sqrt(3 / 10), abs=1e-15)
    matrix = [
        [clebsch_gordan(3, m, 2, 1 - m, L, 1) for m in range(-3, 4) if abs(1 - m) <= 2] for L in range(1, 6)
    ]
    assert np.abs(np.array(matrix) @ np.array(matrix).T - np.eye(5)).max() < 1e-14


def test_couplings_are_orthonormal():
    for ls in [(2, 2, 2), (1, 2, 3), (2, 2, 2, 2), (1, 1, 2, 2), (1, 2, 3, 2)]:
        tensors = np.array([t.ravel() for t in invariant_tensors(ls)])
        assert np.abs(tensors @ tensors.T - np.eye(len(tensors))).max() < 1e-13
    assert len(invariant_tensors((2, 2, 2, 2))) == 5
    assert invariant_tensors((1, 1, 1)) == ()


def harmonics(u, l_max):
    n, size = u.shape[1], (l_max + 1) ** 2
    y, grad, work = np.zeros((size, n)), np.zeros((size, 3, n)), np.zeros((4, n))
    real_harmonics(u, n, l_max, *harmonics_tables(l_max), y, grad, work)
    make_tangential(u, n, grad)
    return y, grad


def test_harmonics_obey_the_addition_theorem(rng):
    u = rng.normal(size=(3, 12))
    u[:, 0], u[:, 1] = [0, 0, 1], [0, 0, -1]  # poles are no special points
    u /= np.linalg.norm(u, axis=0)
    y, grad = harmonics(u, 8)
    for l in range(9):
        block = y[l * l : (l + 1) ** 2]
        expected = (2 * l + 1) * eval_legendre(l, np.clip(u.T @ u, -1, 1))
        assert np.abs(block.T @ block - expected).max() < 1e-11
    v = rng.normal(size=(3, 12))

    def turned(h):
        w = u + h * v
        return harmonics(w / np.linalg.norm(w, axis=0), 8)[0]

    assert_derivative(turned, np.einsum("ick,ck->ik", grad, v), 1e-13)


def test_radial_functions_are_orthonormal():
    """In x, with their envelopes; and they vanish with two derivatives at both ends."""
    radial = Radial(("W", "W"), 10, 5.5)
    t = radial._transform
    points, weights = np.polynomial.legendre.leggauss(60)
    low, high = t(radial.inner), t(5.5)
    lower, upper = np.full(60, radial.inner), np.full(60, 5.5)
    for _ in range(60):
        middle = (lower + upper) / 2
        below = radial._coordinate(middle, radial.inner) < points
        lower, upper = np.where(below, middle, lower), np.where(below, upper, middle)
    values = radial.cluster(middle, 0)[0]
    assert np.abs(values @ (weights[:, None] * values.T) - np.eye(10)).max() < 1e-12
    assert low > high
    for edge in (radial.inner + 1e-4, 5.5 - 1e-4):
        assert np.abs(radial.cluster(np.array([edge]), 1)).max() < 1e-3
    assert np.abs(radial.pair(np.array([5.5 - 1e-4]), 2)[1]).max() < 1e-6


@pytest.mark.parametrize(("p", "q"), [(2, 4), (1, 3), (2, 2)])
def test_transform_is_steepest_at_the_reference_distance(p, q):
    a = agnesi_slope(p, q)
    s = np.linspace(0.3, 3, 2701)
    slope = np.gradient(1 / (1 + a * s**q / (1 + s ** (q - p))), s)
    assert abs(s[np.argmin(slope)] - 1) < 2e-3


def test_core_is_that_of_lammps():
    """LAMMPS 22 Jul 2025, pair_style zbl 30 31, two W atoms, ``pe``."""
    assert zbl(0.5, 74, 74) == pytest.approx(6121.915833007115, rel=1e-12)
    assert zbl(1.0, 74, 74) == pytest.approx(435.7854947959934, rel=1e-12)


def test_reference_distances():
    assert nearest_distance("Si") == pytest.approx(5.43 * math.sqrt(3) / 4, rel=1e-12)
    assert nearest_distance("W") == pytest.approx(3.16 * math.sqrt(3) / 2, abs=0.01)
    assert nearest_distance("H") == pytest.approx(0.62)  # no crystal: two covalent radii of 0.31 Å


def cluster_of(symbols, rng, size=2.2):
    """A free cluster without pairs closer than 1.5 Å."""
    positions = np.zeros((0, 3))
    while len(positions) < len(symbols):
        trial = rng.uniform(-size, size, 3)
        if not len(positions) or np.linalg.norm(positions - trial, axis=1).min() > 1.5:
            positions = np.vstack([positions, trial])
    return Atoms(symbols, positions)


def test_pair_correlations_are_legendre_polynomials(rng):
    """``B_(n n' l) = sqrt(2 l + 1) sum_jk R_n(r_j) R_n'(r_k) P_l(cos theta_jk)``, normalised by exchange."""
    basis = ACEBasis("W", 2, 10, 5.0, pair_basis=False)
    atoms = cluster_of(["W"] * 6, rng)
    row = basis.rows(atoms, forces=False, virial=False).site_energies[0]
    D = atoms.positions[1:] - atoms.positions[0]
    r = np.linalg.norm(D, axis=1)
    cosine = np.clip((D / r[:, None]) @ (D / r[:, None]).T, -1, 1)
    radial = basis.radials[0].cluster(r, 0)[0]
    for f, value in zip(basis.functions, row, strict=True):
        if f.order == 1:
            expected = radial[f.n[0] - 1].sum()
        else:
            a, b = radial[f.n[0] - 1], radial[f.n[1] - 1]
            l = f.l[0]
            expected = math.sqrt(2 * l + 1) * (a @ eval_legendre(l, cosine) @ b)
        assert value == pytest.approx(expected, rel=1e-7, abs=1e-9)


BASES = {
    "W4": (("W",), 4, 9),
    "NiAl3": (("Ni", "Al"), 3, 8),
    "W 5/9/6": (("W",), 3, (5, 9, 6)),
}


@pytest.fixture(scope="module", params=BASES)
def case(request):
    elements, order, degree = BASES[request.param]
    rng = np.random.default_rng(5)
    return ACEBasis(elements, order, degree, 5.0), cluster_of(rng.choice(elements, 9).tolist(), rng)


def test_invariance(case, rng):
    """Rotation, reflection, exchange and translation; forces turn with the atoms."""
    basis, atoms = case
    here = basis.rows(atoms)
    for sign in (1, -1):
        turn = sign * random_rotation(rng)
        order = rng.permutation(len(atoms))
        other = rotated(atoms, turn)[order]
        other.positions += [10.0, -20.0, 3.0]
        there = basis.rows(other)
        scale = np.abs(here.site_energies).max(axis=0) + 1
        assert np.abs((there.site_energies - here.site_energies[order]) / scale).max() < 1e-11
        forces = here.forces.reshape(len(atoms), 3, -1)[order]
        turned = np.einsum("ab,nbk->nak", turn, forces).reshape(here.forces.shape)
        scale = np.abs(here.forces).max(axis=0) + 1
        assert np.abs((there.forces - turned) / scale).max() < 1e-10


def test_rows_are_gradients(case, rng):
    basis, atoms = case
    here = basis.rows(atoms)
    u, e = rng.normal(size=(len(atoms), 3)), random_strain(rng)
    scale = np.abs(here.energy) + np.abs(here.forces).max(axis=0) + 1
    slope = -np.einsum("nc,nck->k", u, here.forces.reshape(len(atoms), 3, -1))

    def energy(structure):
        return basis.rows(structure, forces=False, virial=False).energy / scale

    assert_derivative(lambda h: energy(moved(atoms, u, h)), slope / scale, 1e-13)
    v = here.virial
    full = np.array([[v[0], v[5], v[4]], [v[5], v[1], v[3]], [v[4], v[3], v[2]]])
    slope = -np.einsum("cdk,cd->k", full, e)
    assert_derivative(lambda h: energy(strained(atoms, e, h)), slope / scale, 1e-13)
    assert np.abs(here.forces.reshape(len(atoms), 3, -1).sum(axis=0) / scale).max() < 1e-12


def test_functions_are_linearly_independent():
    """Over many surroundings the rows have full rank: nothing is there twice."""
    rng = np.random.default_rng(11)
    basis = ACEBasis("W", 4, 8, 5.0, pair_basis=False)
    atoms = [cluster_of(["W"] * 14, rng, 2.8) for _ in range(24)]
    rows = np.vstack([basis.rows(a, forces=False, virial=False).site_energies for a in atoms])
    rows /= np.linalg.norm(rows, axis=0)
    s = np.linalg.svd(rows, compute_uv=False)
    assert len(s) == 69
    assert s[-1] > 1e-9 * s[0]


def test_rows_of_a_cell_and_its_supercell():
    basis = ACEBasis(("Ni", "Al"), 3, 7, 5.0)
    cell = bulk("NiAl", "cesiumchloride", a=2.9)
    cell.positions[1] += [0.1, -0.05, 0.02]
    small, large = basis.rows(cell), basis.rows(cell.repeat((1, 2, 2)))
    assert np.abs(np.tile(small.site_energies, (4, 1)) - large.site_energies).max() < 1e-9
    assert np.abs(np.tile(small.forces, (4, 1)) - large.forces).max() < 1e-9
    assert np.abs(4 * small.virial - large.virial).max() < 1e-8


def test_rows_of_nothing_and_of_one():
    basis = ACEBasis("Si", 2, 6, 5.0)
    for atoms in (Atoms(), Atoms("Si"), Atoms("Si2", [[0, 0, 0], [0, 0, 9.0]])):
        rows = basis.rows(atoms)
        assert rows.site_energies.shape == (len(atoms), len(basis))
        assert rows.forces.shape == (3 * len(atoms), len(basis))
        assert not rows.energy.any()
        assert not rows.forces.any()
        assert not rows.virial.any()
    assert basis.rows(bulk("Si"), forces=False).forces.shape == (0, len(basis))
    assert basis.rows(bulk("Si"), virial=False).virial.shape == (0, len(basis))


def test_degree_by_order():
    """Functions and their rows are those of the basis of the largest degree, each order up to its own."""
    degrees = (6, 9.5, 7)
    basis, large = ACEBasis("Si", 3, degrees, 5.0), ACEBasis("Si", 3, 9.5, 5.0)
    kept = [
        k
        for k, f in enumerate(large.functions)
        if f.degree <= (6 if f.kind == "pair" else degrees[f.order - 1])
    ]
    assert basis.functions == tuple(large.functions[k] for k in kept)
    assert max(f.degree for f in basis.functions if f.order == 2) == 9
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    expected = large.rows(atoms).forces[:, kept]
    assert np.abs(basis.rows(atoms).forces - expected).max() < 1e-12 * np.abs(expected).max()
    assert ACEBasis(**json.loads(json.dumps(basis.parameters))) == basis
    assert ACEBasis("Si", 3, (7, 7, 7), 5.0).functions == ACEBasis("Si", 3, 7, 5.0).functions
    assert "degree 6/9.5/7" in repr(basis)


@given(st.integers(1, 4), st.integers(4, 7), st.booleans())
def test_parameters_make_the_same_basis(order, degree, pair):
    basis = ACEBasis("Si", order, degree, 5.0, pair)
    again = ACEBasis(**basis.parameters)
    assert again == basis
    assert again.fingerprint == basis.fingerprint
    assert again.functions == basis.functions
    assert len(basis) == len(basis.functions)
    assert basis != ACEBasis("Si", order, degree, 5.1, pair)
    assert "order" in repr(basis)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"elements": "Xx"}, ValueError, "elements: got 'Xx'"),
        ({"elements": ()}, ValueError, "elements: got none"),
        ({"elements": ("W", "W")}, ValueError, "each element once"),
        ({"elements": (74,)}, ValueError, "elements: got 74"),
        ({"order": 5}, ValueError, "order: got 5, expected 1, 2, 3 or 4"),
        ({"order": 0}, ValueError, "order"),
        ({"degree": 2}, ValueError, "degree: got 2, expected at least the order"),
        ({"degree": np.nan}, ValueError, "degree: got nan"),
        ({"degree": "high"}, TypeError, "degree: got 'high'"),
        ({"degree": (6, 6)}, ValueError, "degree: got 2 numbers for order 3; give one, or one per order"),
        ({"degree": (6, 6, 2)}, ValueError, "degree: got 2 for order 3, expected at least the order"),
        ({"degree": (6, -6, 6)}, ValueError, r"degree\[1\]: got -6"),
        ({"cutoff": -5.0}, ValueError, "cutoff: got -5.0"),
        ({"cutoff": np.nan}, ValueError, "cutoff"),
        ({"cutoff": 2.0}, ValueError, "inner_cutoff < r0 < cutoff"),
        ({"inner_cutoff": 3.0}, ValueError, "inner_cutoff < r0 < cutoff"),
        ({"inner_cutoff": -1.0}, ValueError, "inner_cutoff: got -1.0"),
        ({"r0": 0.0}, ValueError, "r0: got 0.0"),
        ({"r0": {"Ta": 2.8}}, ValueError, "r0: no distance for W"),
        ({"envelope": 1}, ValueError, "envelope: got 1, expected a whole number from 2 to 8"),
        ({"p": 4.0, "q": 2.0}, ValueError, "q: got 2, expected at least p"),
        ({"core": "born"}, ValueError, "core: got 'born', expected 'zbl' or None"),
        ({"pair_exponent": -2}, ValueError, "pair_exponent"),
        ({"cutof": 5.0}, TypeError, "unknown keyword 'cutof'; did you mean 'cutoff'"),
        ({"rin": 5.0}, TypeError, "unknown keyword 'rin'"),
    ],
)
def test_bad_parameters(arguments, error, text):
    with pytest.raises(error, match=text):
        ACEBasis(**({"elements": "W", "order": 3, "degree": 6, "cutoff": 5.5} | arguments))


def test_bad_structures():
    basis = ACEBasis("Si", 2, 6, 5.0)
    close = Atoms("Si2", [[0, 0, 0], [0, 0, 0.05]])
    with pytest.raises(StructureError, match="atoms 0 and 1 are 0.05 Å apart"):
        basis.rows(close)
    with pytest.raises(StructureError, match=r"no parameters for Cu .*it knows Si"):
        basis.rows(bulk("Cu"))
    spoiled = bulk("Si")
    spoiled.positions[1, 0] = np.nan
    with pytest.raises(StructureError, match="atom 1 has x = nan"):
        basis.rows(spoiled)
