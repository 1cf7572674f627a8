"""Stencil matching and the neighbour list under it against the neighbour list of ASE, and vesin."""

import pytest
from ase.neighborlist import neighbor_list
from conftest import note

from ase_qmmm.neighbours import neighbour_pairs

CELLS = 14  # 21 952 atoms
RADII = (5.0, 8.0)  # Å


@pytest.fixture(params=RADII, ids=lambda radius: f"{radius:g}A")
def radius(request, benchmark):
    benchmark.group = f"matching within {request.param:g} Å, 21952 Si atoms"
    return request.param


@pytest.fixture(scope="module")
def atoms(silicon):
    atoms = silicon.supercell(CELLS, cubic=True)
    atoms.rattle(0.03, seed=1)
    return atoms


def run(benchmark, atoms, function, *args, rounds=3):
    result = benchmark.pedantic(function, args=args, rounds=rounds, warmup_rounds=1 if rounds > 1 else 0)
    note(benchmark, len(atoms))
    return result


def test_match(benchmark, atoms, silicon, radius):
    match = run(benchmark, atoms, silicon.match, atoms, radius)
    benchmark.extra_info["neighbours"] = match.neighbours.shape[1]


def test_neighbour_pairs(benchmark, atoms, radius):
    i = run(benchmark, atoms, neighbour_pairs, atoms, radius, "ijDS")[0]
    benchmark.extra_info["neighbours"] = round(len(i) / len(atoms), 1)


def test_peer_ase(benchmark, atoms, radius):
    run(benchmark, atoms, neighbor_list, "ijDS", atoms, radius, rounds=1)


@pytest.mark.filterwarnings("ignore")
def test_peer_vesin(benchmark, atoms, radius):
    vesin = pytest.importorskip("vesin", reason="vesin is not installed")
    run(benchmark, atoms, vesin.ase_neighbor_list, "ijDS", atoms, radius)
