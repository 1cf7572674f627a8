"""Taylor models against a sparse product with the same force constants, and hiPhive."""

import time

import numpy as np
import pytest
from ase.build import bulk
from conftest import memory, note, reset_peak_memory
from scipy.sparse import coo_array

from ase_qmmm import Crystal, TaylorForces, TaylorPotential, TightBinding

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


# -- higher orders -------------------------------------------------------------------------------------------

ORDERS = {"forces-1+2": (5.0, 4.0), "energy-2": (5.0, 5.0), "energy-3": (5.0, 5.0, 4.0)}


@pytest.fixture(scope="session")
def orders():
    """Models of tight-binding silicon by name, each made once."""
    qm = TightBinding("nrl-Si-sp", kT=0.1)
    crystal, made = Crystal.relaxed(bulk("Si"), qm), {}

    def of(name):
        if name not in made:
            cls = TaylorForces if name.startswith("forces") else TaylorPotential
            cutoffs = ORDERS[name]
            made[name] = cls.from_calculator(qm, crystal, order=len(cutoffs), cutoff=cutoffs)
        return made[name]

    return of


@pytest.fixture(params=[(n, name) for name in ORDERS for n in SIZES], ids=lambda c: f"{c[1]}-{c[0]}")
def order_case(request, benchmark, orders):
    n, name = request.param
    benchmark.group = f"{name}, {n} Si atoms"
    model = orders(name)
    atoms = model.crystal.supercell(SIZES[n], cubic=True)
    atoms.rattle(0.03, seed=1)
    return model, atoms


def test_orders_evaluate(benchmark, order_case):
    model, atoms = order_case
    run(benchmark, model.evaluate, atoms)


def test_orders_evaluate_sites(benchmark, order_case):
    model, atoms = order_case
    if isinstance(model, TaylorPotential):
        pytest.skip("the same as evaluate")
    run(benchmark, model.evaluate_sites, atoms, np.ones(len(atoms), dtype=bool))


def third_order(model, perfect):
    """Force constants of hiPhive, orders two and three, of a force expansion of order two."""
    match = model.crystal.match(perfect, model.cutoff)
    total = {}
    for i, j, phi in zip(*blocks(model, perfect), strict=True):
        if i <= j:
            total[int(i), int(j)] = total.get((int(i), int(j)), 0.0) + phi
    for l in range(len(perfect)):
        terms = model._force_terms[match.basis[l]][1]
        near = match.neighbours[l]
        # -d2F_l / du_m du_n, all of whose orders are wanted once: those with l <= m <= n.
        full = {}
        for (p, q), vector in zip(terms.tuples, terms.coefficients, strict=True):
            (j, c), (k, d) = divmod(int(p), 3), divmod(int(q), 3)
            for (j1, c1), (k1, d1) in {((j, c), (k, d)), ((k, d), (j, c))}:
                block = full.setdefault((int(near[j1]), int(near[k1])), np.zeros((3, 3, 3)))
                block[:, c1, d1] -= vector * (1 + (p == q))
        selves = {}
        for (m, n), block in full.items():
            if l <= m <= n:
                total[l, m, n] = total.get((l, m, n), 0.0) + block
            # By translation: minus the sum over one index is the self term.
            selves.setdefault(m, np.zeros((3, 3, 3)))
            selves[m] -= block
        for m, block in selves.items():
            if l <= m:
                total[l, l, m] = block.transpose(0, 2, 1)
        total[l, l, l] = -sum(block for block in selves.values())
    return total


@pytest.mark.filterwarnings("ignore")
def test_orders_peer_hiphive(benchmark, orders):
    hiphive = pytest.importorskip("hiphive", reason="hiphive is not installed")
    calculators = pytest.importorskip("hiphive.calculators")
    benchmark.group = "forces-1+2, 512 Si atoms"
    model = orders("forces-1+2")
    perfect = model.crystal.supercell(SIZES[512], cubic=True)
    atoms = perfect.copy()
    atoms.rattle(0.03, seed=1)
    constants = hiphive.ForceConstants.from_sparse_dict(third_order(model, perfect), perfect)
    calc = calculators.ForceConstantCalculator(constants)

    def call():
        calc.reset()
        return calc.get_property("forces", atoms)

    forces = run(benchmark, call)
    assert np.abs(forces - model.evaluate(atoms).forces).max() < 1e-8


def test_a_million_atoms(benchmark, orders):
    """One call with its match, and one without; memory."""
    benchmark.group = "forces-1+2, 1 000 000 Si atoms"
    model = orders("forces-1+2")
    atoms = model.crystal.supercell(50, cubic=True)
    atoms.rattle(0.03, seed=1)
    sites = np.ones(len(atoms), dtype=bool)
    begin, before = time.perf_counter(), memory("VmRSS")
    reset_peak_memory()
    model.evaluate_sites(atoms, sites)
    first, peak, held = time.perf_counter() - begin, memory("VmHWM"), memory("VmRSS")
    benchmark.pedantic(model.evaluate_sites, args=(atoms, sites), rounds=2)
    note(benchmark, len(atoms), first_call_s=round(first, 1))
    if peak is not None:
        benchmark.extra_info.update(peak_MB=round(peak - before), held_MB=round(held - before))
