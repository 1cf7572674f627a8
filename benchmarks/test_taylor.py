"""TaylorForces of order one against a sparse product with the same force constants, and hiPhive."""

import numpy as np
import pytest
from conftest import note
from scipy.sparse import coo_array

SIZES = {512: 4, 17_576: 13}  # atoms: cubic cells per side
ROUNDS = {512: 100, 17_576: 10}
CASES = [(n, cutoff) for n in SIZES for cutoff in (5.0, 8.0)]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]:g}A")
def case(request, benchmark, taylor, silicon):
    """Model, perfect crystal and the same with displacements of 0.03 Å."""
    n, cutoff = request.param
    benchmark.group = f"order 1, {cutoff:g} Å, {n} Si atoms"
    perfect = silicon.supercell(SIZES[n], cubic=True)
    atoms = perfect.copy()
    atoms.rattle(0.03, seed=1)
    return taylor(cutoff), perfect, atoms


def run(benchmark, function, *args):
    n = next(n for n in SIZES if f" {n} " in benchmark.group)
    result = benchmark.pedantic(function, args=args, rounds=ROUNDS[n], warmup_rounds=2)
    note(benchmark, n)
    return result


def blocks(model, atoms):
    """Atoms l, m (p,) and blocks Phi (p, 3, 3) of all pairs and of the atoms themselves."""
    match = model.crystal.match(atoms, model.cutoff)
    constants = model.force_constants
    l, k = np.nonzero(match.neighbours >= 0)
    phi = np.stack(constants.matrices)[match.basis[l], k]
    onsite = np.stack([constants.onsite(a) for a in range(model.crystal.n_basis)])[match.basis]
    each = np.arange(len(atoms))
    rows, columns = np.concatenate([l, each]), np.concatenate([match.neighbours[l, k], each])
    return rows, columns, np.concatenate([phi, onsite])


def test_floor_sparse_product(benchmark, case):
    model, perfect, atoms = case
    rows, columns, phi = blocks(model, perfect)
    c = np.arange(3)
    row = np.broadcast_to(3 * rows[:, None, None] + c[:, None], phi.shape)
    column = np.broadcast_to(3 * columns[:, None, None] + c, phi.shape)
    shape = (3 * len(atoms),) * 2
    matrix = coo_array((phi.ravel(), (row.ravel(), column.ravel())), shape=shape).tocsr()
    matrix = matrix.tobsr(blocksize=(3, 3))
    u = (atoms.positions - perfect.positions).ravel()
    forces = run(benchmark, lambda: matrix @ u)
    assert np.abs(forces.reshape(-1, 3) + model.evaluate(atoms).forces).max() < 1e-10


def test_evaluate(benchmark, case):
    """Energies, forces and virial of all atoms."""
    model, _, atoms = case
    run(benchmark, model.evaluate, atoms)


def test_evaluate_sites(benchmark, case):
    """Energies and forces of all atoms but a ball of 8 Å, as force mixing asks for them."""
    model, _, atoms = case
    sites = np.linalg.norm(atoms.positions - atoms.cell.sum(axis=0) / 2, axis=1) > 8.0
    run(benchmark, model.evaluate_sites, atoms, sites)


@pytest.mark.filterwarnings("ignore")
def test_peer_hiphive(benchmark, case):
    hiphive = pytest.importorskip("hiphive", reason="hiphive is not installed")
    calculators = pytest.importorskip("hiphive.calculators")
    model, perfect, atoms = case
    if len(atoms) > 1000 or model.cutoff > 6.0:
        pytest.skip("hiphive takes minutes to set up at this size")
    total = {}
    for i, j, phi in zip(*blocks(model, perfect), strict=True):
        if i <= j:
            total[int(i), int(j)] = total.get((int(i), int(j)), 0.0) + phi
    constants = hiphive.ForceConstants.from_sparse_dict(total, perfect)
    calc = calculators.ForceConstantCalculator(constants)

    def call():
        calc.reset()
        return calc.get_property("forces", atoms)

    forces = run(benchmark, call)
    assert np.abs(forces - model.evaluate(atoms).forces).max() < 1e-8
