"""Derivatives from displaced supercells against brute force, exact derivatives, symfc and hiPhive."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from helpers import random_rotation, rotated
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import StillingerWeber
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si

from ase_qmmm import Crystal, TaylorForces, fermi_level
from ase_qmmm.symmetry import count_force_constants, space_group
from ase_qmmm.taylor import displacement_derivatives, fitted_derivatives
from ase_qmmm.taylor.displacements import Supercell, symmetry_operations
from ase_qmmm.taylor.sum_rules import exchanged, third_index


def stillinger_weber():
    return Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


@pytest.fixture(scope="module")
def silicon():
    calc = stillinger_weber()
    return Crystal.relaxed(bulk("Si"), calc), calc


def layer():
    """A hexagonal layer without a third cell vector."""
    a = 2.6
    return Atoms("Cu", cell=[[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, 0]], pbc=[True, True, False])


def turned_alloy():
    cell = bulk("NiAl", "cesiumchloride", a=2.9)
    return rotated(cell, random_rotation(np.random.default_rng(5)))


CELLS = {
    "fcc": lambda: bulk("Cu", a=3.6),
    "bcc cubic": lambda: bulk("Al", "bcc", a=3.2, cubic=True),
    "hcp": lambda: bulk("Cu", "hcp", a=2.56, c=4.18),
    "B2 turned": turned_alloy,
    "layer": layer,
    "triclinic": lambda: Atoms(
        "CuNi", [[0, 0, 0], [1.4, 1.5, 1.2]], cell=[[2.7, 0.1, 0], [0, 2.9, 0.2], [0.1, 0, 2.6]], pbc=True
    ),
}


def brute_force(crystal, calc, cutoff, order, step, supercell):
    """Difference quotients of the force on each basis atom by all atoms of its stencil, one by one."""
    box = Supercell(crystal, supercell, cutoff)
    out = []

    def forces(moves):
        atoms = box.atoms.copy()
        for atom, u in moves:
            atoms.positions[atom] += u
        atoms.calc = calc
        return atoms.get_forces()

    axes = step * np.eye(3)
    for basis in range(crystal.n_basis):
        origin = (basis, (0,) * len(crystal.lattice))
        _, others, cells = crystal.stencil_sites(basis, cutoff)
        near = box.indices([(int(b), tuple(map(int, c))) for b, c in zip(others, cells, strict=True)])
        middle = box.indices([origin])[0]
        s = len(near)
        if order == 1:
            t = np.zeros((3, s, 3))
            for k, atom in enumerate(near):
                for c, u in enumerate(axes):
                    t[:, k, c] = (forces([(atom, u)]) - forces([(atom, -u)]))[middle] / (2 * step)
        else:
            t = np.zeros((3, s, 3, s, 3))
            for k, atom in enumerate(near):
                for b, v in enumerate(axes):
                    for c, u in enumerate(axes):
                        change = sum(
                            p * q * forces([(middle, p * v), (atom, q * u)]) for p in (1, -1) for q in (1, -1)
                        )
                        t[b, k, c] = change[near] / (4 * step**2)
        out.append(t)
    return out


@pytest.mark.parametrize("name", CELLS)
def test_first_order_against_brute_force(name):
    crystal = Crystal(CELLS[name]())
    cutoff = 1.2 * crystal.nearest_neighbour_distance
    found = displacement_derivatives(EMT(), crystal, 1, cutoff, supercell=3)
    expected = exchanged(crystal, cutoff, brute_force(crystal, EMT(), cutoff, 1, 0.01, 3))
    scale = max(np.abs(t).max() for t in expected)
    for a, b in zip(found.tensors[1], expected, strict=True):
        # Differences along other directions err otherwise, with the square of the step.
        assert np.abs(a - b).max() < 1e-3 * scale


@pytest.mark.parametrize(
    "name", ["layer", *(pytest.param(n, marks=pytest.mark.slow) for n in ("fcc", "B2 turned", "triclinic"))]
)
def test_second_order_against_brute_force(name):
    crystal = Crystal(CELLS[name]())
    cutoff = 1.05 * crystal.nearest_neighbour_distance
    found = displacement_derivatives(EMT(), crystal, 2, cutoff, step=0.01, supercell=3, sum_rules=False)
    expected = exchanged(crystal, cutoff, brute_force(crystal, EMT(), cutoff, 2, 0.01, 3))
    scale = max(np.abs(t).max() for t in expected)
    for a, b in zip(found.tensors[2], expected, strict=True):
        assert np.abs(a - b).max() < 2e-3 * scale


@pytest.mark.parametrize(
    "name", ["layer", *(pytest.param(n, marks=pytest.mark.slow) for n in ("hcp", "B2 turned"))]
)
def test_without_symmetry_the_same(name):
    crystal = Crystal(CELLS[name]())
    cutoff = 1.05 * crystal.nearest_neighbour_distance
    steps = {"step": (0.005, 0.01), "supercell": 3}
    fast = displacement_derivatives(EMT(), crystal, 2, cutoff, **steps)
    slow = displacement_derivatives(EMT(), crystal, 2, cutoff, symmetry=False, **steps)
    for j in (1, 2):
        scale = max(np.abs(t).max() for t in slow.tensors[j])
        for a, b in zip(fast.tensors[j], slow.tensors[j], strict=True):
            assert np.abs(a - b).max() < 2e-3 * scale


def test_numbers_of_calculations(silicon, caplog):
    """One displaced atom for fcc and diamond, as phonopy has it with images of opposite sign left out."""
    crystal, calc = silicon
    with caplog.at_level("INFO"):
        displacement_derivatives(EMT(), Crystal(bulk("Cu", a=3.6)), 1, 3.0)
        displacement_derivatives(calc, crystal, 2, (2.5, 2.5))
    counts = [r.getMessage() for r in caplog.records if "displaced supercells" in r.getMessage()]
    assert counts == [
        "order 1: 1 displaced supercells of 27 atoms",
        "order 1: 1 displaced supercells of 16 atoms",
        "order 2: 5 displaced supercells of 16 atoms",
    ]


def test_force_of_any_displacement(silicon):
    """Within 4 Å this model is complete: even and odd parts of the force are those of the expansion."""
    crystal, calc = silicon
    d = displacement_derivatives(calc, crystal, 2, 4.0, step=(0.005, 0.01))
    atoms = crystal.supercell(3)
    match = crystal.match(atoms, 4.0)
    u = np.random.default_rng(2).normal(size=(len(atoms), 3))
    g = u[match.neighbours] - u[:, None]
    errors = {"odd": [], "even": []}
    for h in (0.02, 0.01):
        forces = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions += sign * h * u
            forces.append(calc.get_property("forces", moved))
        odd, even = (forces[0] - forces[1]) / 2, (forces[0] + forces[1]) / 2
        for b in range(2):
            at = match.basis == b
            odd[at] -= h * np.einsum("bsc,nsc->nb", d.tensors[1][b], g[at])
            even[at] -= h**2 / 2 * np.einsum("bsctd,nsc,ntd->nb", d.tensors[2][b], g[at], g[at])
        errors["odd"].append(np.abs(odd).max())
        errors["even"].append(np.abs(even).max())
    # Third and fourth powers of the displacement; steps of the differences leave 1e-4 of the lower ones.
    assert errors["odd"][0] / errors["odd"][1] == pytest.approx(8, rel=0.1)
    assert errors["even"][0] / errors["even"][1] == pytest.approx(16, rel=0.35)


@pytest.mark.slow
def test_exact_derivatives_of_tight_binding(silicon_qm, silicon_crystal):
    """In a supercell with k-points, in which images are 30 Å apart, against the infinite crystal."""
    mu = fermi_level(silicon_qm, silicon_crystal)
    calc = silicon_qm.with_options(mu=mu, energy="grand", kpts={"size": (2, 2, 2), "gamma": True})
    found = displacement_derivatives(calc, silicon_crystal, 2, 2.5, supercell=4, sum_rules=False)
    exact = calc.force_derivatives(silicon_crystal, 2, 2.5, error=1e-5, margin=30.0)
    expected = exchanged(silicon_crystal, 2.5, exact.tensors[2])
    for b in range(2):
        first, second = exact.tensors[1][b], expected[b]
        # k-points leave 1.9e-3 of both.
        assert np.abs(found.tensors[1][b] - first).max() < 2.5e-3 * np.abs(first).max()
        assert np.abs(found.tensors[2][b] - second).max() < 2.5e-3 * np.abs(second).max()


@pytest.mark.parametrize("name", ["hcp", "layer", pytest.param("triclinic", marks=pytest.mark.slow)])
def test_sum_rules(name):
    """``sum_k Phi(l, m, k) = 0`` for two different atoms l, m, where both ways to read a pair must agree."""
    crystal = Crystal(CELLS[name]())
    cutoff = 1.2 * crystal.nearest_neighbour_distance
    d = displacement_derivatives(EMT(), crystal, 2, cutoff, supercell=3)
    for a in range(crystal.n_basis):
        _, sites, cells = crystal.stencil_sites(a, cutoff)
        tensor = d.tensors[2][a]
        scale = np.abs(tensor).max()
        assert np.abs(tensor - tensor.transpose(0, 3, 4, 1, 2)).max() < 1e-12 * scale
        far = (third_index(crystal, cutoff, a) < 0) & ~np.eye(len(sites), dtype=bool)
        assert np.abs(tensor.transpose(1, 3, 0, 2, 4)[far]).max(initial=0.0) == 0
        for m, (b, cell) in enumerate(zip(sites, cells, strict=True)):
            _, others, back = crystal.stencil_sites(int(b), cutoff)
            home = next(k for k in range(len(others)) if others[k] == a and not (back[k] + cell).any())
            # Phi(m, l, l) read at m, with the indices in the order l, l, m.
            twice = d.tensors[2][b][:, home, :, home].transpose(1, 2, 0)
            total = tensor[:, :, :, m].sum(axis=1) + twice
            assert np.abs(total).max() < 1e-9 * scale


# Silicon has 10 and 27 parameters within these (Å).
CUTOFFS = (5.0, 4.0)


@pytest.fixture(scope="module")
def own(silicon):
    crystal, calc = silicon
    return displacement_derivatives(calc, crystal, 2, CUTOFFS, step=(0.003, 0.005))


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
def test_against_symfc(silicon, own, caplog):
    pytest.importorskip("symfc")
    crystal, calc = silicon
    with caplog.at_level("INFO"):
        fit = fitted_derivatives(calc, crystal, 2, CUTOFFS, amplitude=0.003)
    assert "37 parameters ({2: 10, 3: 27})" in caplog.text
    assert [count_force_constants(crystal, r, n) for n, r in ((2, 5.0), (3, 4.0))] == [10, 27]
    for j in (1, 2):
        for a, b in zip(own.tensors[j], fit.tensors[j], strict=True):
            # Third and fourth powers of 3e-3 Å, and of the steps.
            assert np.abs(a - b).max() < 1e-4 * np.abs(b).max()
    assert fit.energies == pytest.approx(own.energies, abs=1e-10)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_against_hiphive(silicon, own, capsys):
    """Fitted by hiPhive's own cluster space to forces of the same model."""
    hiphive = pytest.importorskip("hiphive")
    crystal, calc = silicon
    space = hiphive.ClusterSpace(crystal.unit_cell, list(CUTOFFS))
    assert [space.get_n_dofs_by_order(n) for n in (2, 3)] == [10, 27]
    box = Supercell(crystal, 4, 1.5 * CUTOFFS[1])
    container = hiphive.StructureContainer(space)
    rng = np.random.default_rng(1)
    for u in rng.normal(scale=0.003, size=(3, len(box.atoms), 3)):
        for sign in (1, -1):
            moved = box.atoms.copy()
            moved.positions += sign * u
            forces = calc.get_property("forces", moved)
            ideal = box.atoms.copy()
            ideal.new_array("displacements", sign * u)
            ideal.new_array("forces", forces)
            container.add_structure(ideal)
    parameters = np.linalg.lstsq(*container.get_fit_data(), rcond=None)[0]
    potential = hiphive.ForceConstantPotential(space, parameters)
    constants = potential.get_force_constants(box.atoms)
    for j, radius in own.cutoffs.items():
        array = constants.get_fc_array(j + 1)
        for basis in range(2):
            _, others, cells = crystal.stencil_sites(basis, radius)
            near = box.indices([(int(b), tuple(map(int, c))) for b, c in zip(others, cells, strict=True)])
            atom = box.indices([(basis, (0, 0, 0))])[0]
            if j == 1:
                expected = -array[atom][near].transpose(1, 0, 2)
            else:
                expected = -array[atom][np.ix_(near, near)].transpose(2, 0, 3, 1, 4)
            error = np.abs(own.tensors[j][basis] - expected).max()
            assert error < 1e-4 * np.abs(expected).max()


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
def test_fit_of_a_layer():
    """One atom in the cell, and no third cell vector; what lies beyond the cutoff is noise to a fit."""
    pytest.importorskip("symfc")
    crystal = Crystal(CELLS["layer"]())
    fit = fitted_derivatives(EMT(), crystal, 1, 9.0, amplitude=0.002)
    own = displacement_derivatives(EMT(), crystal, 1, 9.0, step=0.002)
    assert np.abs(fit.tensors[1][0] - own.tensors[1][0]).max() < 1e-3 * np.abs(own.tensors[1][0]).max()


def test_supercells_of_any_shape():
    """A cubic one of a primitive cell, and a skewed one, give what the smallest does."""
    crystal = Crystal(bulk("Cu", a=3.6))
    cubic = 2 * np.array([[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    skewed = np.array([[3, 0, 0], [3, 3, 0], [0, -3, 3]])
    expected = displacement_derivatives(EMT(), crystal, 1, 3.0, supercell=3)
    found = displacement_derivatives(EMT(), crystal, 1, 3.0, supercell=skewed)
    assert np.abs(found.tensors[1][0] - expected.tensors[1][0]).max() < 1e-10
    for matrix in (cubic, skewed):
        box = Supercell(crystal, matrix, 3.0)
        assert np.array_equal(box.indices(box.sites), np.arange(len(box.atoms)))
        # A translation by the supercell leads to the same atoms.
        moved = [(b, tuple(np.array(cell) + matrix[0] - matrix[2])) for b, cell in box.sites]
        assert np.array_equal(box.indices(moved), np.arange(len(box.atoms)))
    with pytest.raises(ValueError, match="images are"):
        Supercell(crystal, np.diag([5, 5, 2]), 3.0)


def test_initial_moments_lower_the_symmetry():
    cell = bulk("Fe", cubic=True)
    assert len(space_group(Crystal(cell))) == len(symmetry_operations(Crystal(cell))) == 96
    cell.set_initial_magnetic_moments([2.0, -2.0])
    assert len(symmetry_operations(Crystal(cell))) == 48
    with pytest.raises(ValueError, match="initial magnetic moments"):
        pytest.importorskip("symfc")
        fitted_derivatives(EMT(), Crystal(cell), 1, 3.0)


class Pulled(Calculator):
    """EMT and springs to the starting positions that are stiffer along x."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, reference, stiffness, force=0.0):
        super().__init__()
        self.reference, self.stiffness, self.force = reference, np.array(stiffness), force

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        u = atoms.positions - self.reference
        forces = EMT().get_property("forces", atoms) - self.stiffness * u
        forces[:, 2] += self.force
        self.results = {"energy": 0.5 * float((self.stiffness * u**2).sum()), "forces": forces}


def test_what_is_wrong_with_forces_is_logged(caplog):
    crystal = Crystal(bulk("Cu", a=3.6))
    reference = crystal.supercell(3).positions
    displacement_derivatives(Pulled(reference, [1, 1, 1]), crystal, 1, 3.0, supercell=3)
    assert not [r for r in caplog.records if r.levelname == "WARNING"]
    displacement_derivatives(Pulled(reference, [0, 0, 0], 0.1), crystal, 1, 3.0, supercell=3)
    assert "forces up to 0.1 eV/Å on the perfect crystal" in caplog.text
    # Displacements along x only feel what an anisotropic perturbation does to other atoms.
    caplog.clear()
    triclinic = Crystal(rotated(bulk("Cu", a=3.6), random_rotation(np.random.default_rng(3))))
    displacement_derivatives(
        Pulled(triclinic.supercell(3).positions, [2, 0, 0]), triclinic, 1, 3.0, supercell=3
    )
    assert "miss the symmetry of the displaced structures" in caplog.text


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"order": 3}, ValueError, "order: got 3, expected 1 or 2"),
        ({"order": True}, ValueError, "order: got True"),
        ({"cutoff": (5.0, 4.0, 3.0)}, ValueError, "cutoff: got 3 values for 2 orders"),
        ({"cutoff": 2.0}, ValueError, "at least the nearest-neighbour distance"),
        ({"cutoff": float("nan")}, ValueError, "cutoff"),
        ({"step": 0.0}, ValueError, "step"),
        ({"step": (0.1, 0.1, 0.1)}, ValueError, "step: got 3 values"),
        ({"cutof": 3.0}, TypeError, "did you mean 'cutoff'"),
        ({"supercell": 2}, ValueError, r"images are 5.09 Å apart, expected more than 6.00 Å.*\(3, 3, 3\)"),
        ({"executor": "many"}, TypeError, "executor"),
    ],
)
def test_bad_arguments(change, error, text):
    class Never(EMT):
        def calculate(self, *args, **options):
            raise AssertionError("computed before the arguments were checked")

    crystal = Crystal(bulk("Cu", a=3.6))
    with pytest.raises(error, match=text):
        displacement_derivatives(Never(), crystal, **{"order": 2, "cutoff": 3.0, **change})


def test_bad_crystal():
    with pytest.raises(TypeError, match="crystal: got Atoms"):
        displacement_derivatives(EMT(), bulk("Cu"), 1, 3.0)


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")
def test_bad_arguments_of_fits():
    pytest.importorskip("symfc")
    crystal = Crystal(bulk("Cu", a=3.6))
    with pytest.raises(ValueError, match=r"supercell: got 3.*7.64 Å apart, expected more than 9.00 Å"):
        fitted_derivatives(EMT(), crystal, 2, 3.0, supercell=3)
    with pytest.raises(ValueError, match="n_displacements: got 0"):
        fitted_derivatives(EMT(), crystal, 1, 3.0, n_displacements=0)
    with pytest.raises(ValueError, match="amplitude"):
        fitted_derivatives(EMT(), crystal, 1, 3.0, amplitude=-1.0)


def test_missing_symfc(monkeypatch):
    monkeypatch.setitem(sys.modules, "symfc", None)
    with pytest.raises(ImportError, match=r"pip install ase_qmmm\[phonons\]"):
        fitted_derivatives(EMT(), Crystal(bulk("Cu", a=3.6)), 1, 3.0)


def test_core_dependencies_suffice(monkeypatch):
    for name in ("symfc", "phonopy", "spglib", "hiphive"):
        monkeypatch.setitem(sys.modules, name, None)
    mm = TaylorForces.from_calculator(EMT(), Crystal.relaxed(bulk("Al"), EMT()), cutoff=4.5)
    assert mm.force_constants.label == "EMT"
