"""TightBinding at Gamma against the bare eigenproblem of the same matrices, quippy and tblite."""

import time

import numpy as np
import pytest
from ase.build import bulk
from ase.units import kB
from conftest import note
from scipy.linalg import eigh

from ase_qmmm import TightBinding
from ase_qmmm.tightbinding.matrices import build_matrices

SIZES = {64: 2, 216: 3, 512: 4, 1000: 5}  # atoms: cubic cells per side
ROUNDS = {64: 20, 216: 5, 512: 3, 1000: 2}
KT = 0.1  # eV


def structure(n_atoms):
    atoms = bulk("Si", a=5.4264, cubic=True) * ((SIZES[n_atoms],) * 3)
    atoms.rattle(0.05, seed=1)
    return atoms


def gamma_matrices(atoms):
    matrices = build_matrices(TightBinding("nrl-Si-sp").model, atoms)
    gamma = np.zeros((1, 3))
    return [np.asfortranarray(x[0]) for x in (matrices.hamiltonian(gamma), matrices.overlap(gamma))]


@pytest.fixture(params=SIZES)
def n_atoms(request, benchmark):
    benchmark.group = f"tight binding, {request.param} Si atoms"
    return request.param


def run(benchmark, n_atoms, function, *args, **values):
    warmup = 0 if n_atoms > 600 else 1  # smaller sizes, which come first, have compiled everything
    result = benchmark.pedantic(function, args=args, rounds=ROUNDS[n_atoms], warmup_rounds=warmup)
    note(benchmark, n_atoms, **values)
    return result


def half_of_the_atoms(atoms):
    """Weights one in a ball, zero outside."""
    distance = np.linalg.norm(atoms.positions - atoms.cell.sum(axis=0) / 2, axis=1)
    return (distance <= np.median(distance)).astype(float)


def test_ratios(benchmark, n_atoms):
    """Floor, energy and forces, and weighted gradient in turn, so that other work falls on all of them.

    Processor time, the least of each: the clock counts what else the machine does.
    """
    atoms = structure(n_atoms)
    calc, weights = TightBinding("nrl-Si-sp", kT=KT), half_of_the_atoms(atoms)
    h, m = gamma_matrices(atoms)
    calls = (
        lambda: eigh(h, m, driver="gvd", check_finite=False),
        lambda: calc.evaluate(atoms),
        lambda: calc.evaluate(atoms, weights),
    )
    times = np.full(3, np.inf)

    def in_turn():
        for k, call in enumerate(calls):
            start = time.process_time()
            call()
            times[k] = min(times[k], time.process_time() - start)

    run(benchmark, n_atoms, in_turn)
    floor, plain, weighted = times
    note(benchmark, n_atoms, floor_s=floor, plain_to_floor=plain / floor, weighted_to_plain=weighted / plain)


def test_floor_eigh(benchmark, n_atoms):
    h, m = gamma_matrices(structure(n_atoms))
    run(benchmark, n_atoms, lambda: eigh(h, m, driver="gvd", check_finite=False), order=len(h))


def test_energy_and_forces(benchmark, n_atoms):
    atoms = structure(n_atoms)
    run(benchmark, n_atoms, TightBinding("nrl-Si-sp", kT=KT).evaluate, atoms)


def test_weighted(benchmark, n_atoms):
    """Gradient of the summed site energies of half of the atoms, a ball."""
    atoms = structure(n_atoms)
    run(benchmark, n_atoms, TightBinding("nrl-Si-sp", kT=KT).evaluate, atoms, half_of_the_atoms(atoms))


def quip_xml(model):
    """The parameters of a one-element sp model in the format of QUIP."""
    parameters = model._set
    (species,), (pair,), (onsite,) = parameters["species"], parameters["pairs"], parameters["onsite"]

    def rows(table, channels, filler):
        found = [table[c][0] if c in table else filler for c in channels]
        return " ".join(" ".join(f"{x:.16g}" for x in row) for row in found)

    channels = ("sss", "sps", "pps", "ppp", "sds", "pds", "pdp", "dds", "ddp", "ddd")
    zero = (0.0, 0.0, 0.0, 1.0)
    return f"""<NRL_TB_params header_str="{parameters["header"]}" label="{model.name}">
<defaults fermi_T="{KT}"/>
<header is_orthogonal="F" is_magnetic="F" has_pair_repulsion="F" overlap_zero_limit="T"
 force_harrison_signs="F"/>
<n_types v="1"/>
<cutoff v="{pair["r_cut"]}"/>
<per_type_data type="1" atomic_num="{species["Z"]}" atomic_mass="{species["mass"]}" n_orbs="4"
 n_elecs="{species["n_electrons"]}" n_orb_sets="2" lambda_sq="{species["lambda_sq"][0]:.16g}">
<orb_set_type>1 2</orb_set_type>
</per_type_data>
<per_pair_data type1="1" type2="1" r_cut="{pair["r_cut"]}" screen_l="{pair["screen_l"]}">
<abcd>{rows(onsite["abcd"], "spd", (10.0, 0.0, 0.0, 0.0))}</abcd>
<H_coeff>{rows(pair["hopping"], channels, zero)}</H_coeff>
<S_coeff>{rows(pair["overlap"], channels, zero)}</S_coeff>
</per_pair_data>
</NRL_TB_params>"""


@pytest.mark.filterwarnings("ignore")
def test_peer_quippy(benchmark, n_atoms):
    potential = pytest.importorskip("quippy.potential", reason="quippy-ase is not installed")
    own = TightBinding("nrl-Si-sp", kT=KT, energy="band")
    calc = potential.Potential("TB NRL-TB", param_str=quip_xml(own.model))
    atoms = structure(n_atoms)

    def call():
        calc.reset()
        return calc.get_property("forces", atoms)

    once = n_atoms > 500  # it takes a quarter of a minute and more
    forces = benchmark.pedantic(call, rounds=1 if once else 3, warmup_rounds=0 if once else 1)
    note(benchmark, n_atoms)
    difference = float(np.abs(forces - own.get_property("forces", atoms)).max())
    benchmark.extra_info["largest_force_difference"] = difference
    assert difference < 1e-6  # eV/Å: it is the same model


@pytest.mark.filterwarnings("ignore")
def test_peer_tblite(benchmark, n_atoms):
    """GFN1-xTB: self-consistent charges and nine orbitals an atom, the same kind of matrices."""
    tblite = pytest.importorskip("tblite.ase", reason="tblite is not installed")
    if n_atoms > 64:
        pytest.skip("tblite takes minutes beyond 64 atoms")
    calc = tblite.TBLite(method="GFN1-xTB", electronic_temperature=KT / kB, verbosity=0)
    atoms = structure(n_atoms)

    def call():
        calc.reset()
        return calc.get_property("forces", atoms)

    benchmark.pedantic(call, rounds=1)
    note(benchmark, n_atoms)
