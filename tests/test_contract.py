"""check_calculator: good calculators pass, and each promise has a calculator that breaks it."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import Kumagai
from matscipy.calculators.manybody.explicit_forms.kumagai import Kumagai_Comp_Mat_Sci_39_Si

from ase_qmmm import TightBinding
from ase_qmmm.contract import PROMISES, check_calculator
from ase_qmmm.sites import SiteCalculator, SiteResult

GRID = {"size": (2, 2, 2), "gamma": True}


def silicon():
    atoms = bulk("Si")
    atoms.rattle(0.1, seed=2)
    return atoms


def copper():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mu": 5.8, "kpts": GRID},
        {"mu": 5.8, "kpts": GRID, "energy": "band"},
        {"mu": 5.8, "energy": "free"},
        {"kpts": GRID, "energy": "band"},
        {"kpts": (2, 2, 2)},
    ],
    ids=str,
)
def test_tight_binding(options):
    # A fixed grid samples the supercell more densely; (2, 2, 2) is not centred at Gamma.
    skip = {"supercell"} | ({"skewed_cell"} if options.get("kpts") == (2, 2, 2) else set())
    check_calculator(TightBinding(**options), silicon(), skip=skip)


def test_tight_binding_of_a_supercell():
    """Short enough vectors at Gamma, and two of them in the list of k-points, are the same."""
    atoms = silicon().repeat((1, 1, 2))
    single = TightBinding(kpts={"size": (2, 2, 2), "gamma": True}, mu=5.8).evaluate(silicon())
    double = TightBinding(kpts={"size": (2, 2, 1), "gamma": True}, mu=5.8).evaluate(atoms)
    assert double.energies == pytest.approx(np.tile(single.energies, 2), abs=1e-10)


@pytest.mark.parametrize("options", [{}, {"mu": 5.8}], ids=str)
def test_tight_binding_of_a_molecule(options):
    atoms = Atoms("Si5", bulk("Si", cubic=True).positions[:5])
    atoms.rattle(0.1, seed=1)
    check_calculator(TightBinding(**options), atoms)


def test_tight_binding_of_two_species():
    atoms = Atoms("CuAu", [[0, 0, 0], [2.0, 2.0, 1.8]], cell=[2.8, 2.8, 3.7], pbc=(True, True, False))
    check_calculator(TightBinding("nrl-CuAu-spd"), atoms, skip={"supercell"})


def test_taylor_forces(silicon_mm, copper_mm):
    for mm in (silicon_mm, copper_mm):
        atoms = mm.crystal.supercell(2)
        atoms.rattle(0.03, seed=3)
        check_calculator(mm, atoms)


def test_taylor_forces_in_a_strained_cell(silicon_mm):
    atoms = silicon_mm.crystal.supercell(2)
    atoms.set_cell(
        atoms.cell.array @ np.array([[1.02, 0.01, 0], [0.01, 0.99, 0], [0, 0, 1]]), scale_atoms=True
    )
    atoms.rattle(0.03, seed=3)
    check_calculator(silicon_mm, atoms)


def test_calculators_of_others():
    # Computes on without an atom at NaN; holds a lambda.
    check_calculator(EMT(), copper(), skip={"failure", "pickles"})
    kumagai = Manybody(**Kumagai(Kumagai_Comp_Mat_Sci_39_Si))
    # Its neighbour list drops an atom at NaN in silence; its parameters are closures.
    check_calculator(kumagai, bulk("Si", cubic=True).repeat((1, 1, 1)), skip={"failure", "pickles"})
    check_calculator(LennardJones(sigma=2.3, rc=6.0, smooth=True), copper(), skip={"failure"})


class Springs(SiteCalculator):
    """Atoms tied by springs to their neighbours: a small calculator that can be broken at will."""

    cutoff = 5.0

    def evaluate(self, atoms, weights=None):
        from ase_qmmm.neighbours import neighbour_pairs

        n = len(atoms)
        w = np.ones(n) if weights is None else np.asarray(weights, dtype=float)
        i, j, d, D = neighbour_pairs(atoms, self.cutoff, "ijdD")
        tail = d - self.cutoff
        energies = np.bincount(i, 0.5 * tail**4, minlength=n)
        pull = (w[i] * 2 * tail**3 / d)[:, None] * D
        forces = np.zeros((n, 3))
        np.add.at(forces, i, pull)
        np.add.at(forces, j, -pull)
        return SiteResult(float(w @ energies), energies, forces, -pull.T @ D)


class Broken(Springs):
    """Springs with one fault."""

    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.calls = 0

    def evaluate(self, atoms, weights=None):
        result = super().evaluate(atoms, weights)
        energies, forces, virial = result.energies, result.forces, result.virial
        energy, n = result.energy, np.arange(len(atoms))
        self.calls += 1
        if self.fault == "not finite":
            forces = forces + np.where(n == 0, np.nan, 0.0)[:, None]
        if self.fault == "wrong shape":
            energies = energies[:, None]
            energy = float(energies.sum())
        if self.fault == "random":
            forces = forces * (1 + 1e-12 * self.calls)
        if self.fault == "origin":
            energies = energies + 1e-4 * atoms.positions[:, 0]
        if self.fault == "axis":
            forces = forces * [1, 1, 1 + 1e-5]
        if self.fault == "order":
            energies = energies * (1 + 1e-5 * n)
        if self.fault == "handed":
            virial = virial * np.sign(np.linalg.det(atoms.cell.array))
        if self.fault == "skewed":
            virial = virial * (1 + 1e-5 * atoms.cell.lengths().max())
        if self.fault == "size":
            energies = energies / len(atoms)
        if self.fault == "sign":
            forces = -forces
        if self.fault == "small":
            forces = forces * (1 + 1e-4)
        if self.fault == "virial":
            virial = 2 * virial
        if self.fault == "weighted forces" and weights is not None:
            forces = np.asarray(weights)[:, None] * super().evaluate(atoms).forces
        if self.fault == "asymmetric":
            forces = forces + 1e-3 * np.roll(atoms.positions - atoms.positions[0], 1, axis=0)
        return SiteResult(energy, energies, forces, virial)

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        kept = self.results
        if self.fault == "mutates":
            atoms.positions[:] = atoms.positions - atoms.positions[0]
        if self.fault == "adds arrays":
            atoms.arrays["extra"] = np.zeros(len(atoms))
        if self.fault == "keeps results":
            try:
                super().calculate(atoms, properties, system_changes)
            except Exception:
                self.results = kept or {"energy": 0.0}
                raise
            return
        super().calculate(atoms, properties, system_changes)
        if self.fault == "energies":
            self.results["energies"] = self.results["energies"] + 1.0
        if self.fault == "property order" and properties != ["energy"]:
            self.results["forces"] = self.results["forces"] + 1e-12

    def get_property(self, name, atoms=None, allow_calculation=True):
        if self.fault == "accepts NaN" and not np.isfinite(atoms.positions).all():
            return np.zeros(())
        if self.fault == "outside" and (atoms.get_scaled_positions(wrap=False) > 2).any():
            return super().get_property(name, atoms, allow_calculation) * 2
        return super().get_property(name, atoms, allow_calculation)

    def __reduce__(self):
        return (Broken, ("sign" if self.fault == "pickle" else self.fault,))


def test_springs_pass():
    check_calculator(Springs(), copper())


@pytest.mark.parametrize(
    ("fault", "promise"),
    [
        ("not finite", "shapes"),
        ("wrong shape", "shapes"),
        ("adds arrays", "not_mutated"),
        ("random", "repeat"),
        ("property order", "property_order"),
        ("origin", "translation"),
        ("axis", "rotation"),
        ("order", "permutation"),
        ("outside", "lattice_shift"),
        ("handed", "left_handed_cell"),
        ("skewed", "skewed_cell"),
        ("size", "supercell"),
        ("energies", "energies_sum"),
        ("sign", "forces_gradient"),
        ("small", "forces_gradient"),
        ("virial", "stress_gradient"),
        ("asymmetric", "hessian"),
        ("weighted forces", "weights_gradient"),
        ("pickle", "pickles"),
        ("accepts NaN", "failure"),
        ("keeps results", "failure"),
    ],
)
def test_faults_are_found(fault, promise):
    others = PROMISES.keys() - {promise}
    with pytest.raises(AssertionError, match=f"Broken breaks the promise '{promise}': .*got.*expected"):
        check_calculator(Broken(fault), copper(), skip=others)


def test_mutation_is_found():
    """Positions that may not be written make it plain; a copy of them, the message."""
    with pytest.raises(ValueError, match="read-only") as info:
        check_calculator(Broken("mutates"), copper())
    assert "raised while checking the promise 'not_mutated'" in info.value.__notes__[0]


class NotAGradient(Broken):
    """Says so."""

    conservative = False

    def __init__(self):
        super().__init__("sign")


def test_forces_that_are_no_gradient():
    check_calculator(NotAGradient(), copper(), skip={"pickles", "weights_gradient"})


class EnergyOnly(Calculator):
    """Offers nothing but an energy."""

    implemented_properties = ("energy",)

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": Springs().evaluate(atoms).energy}


def test_only_what_is_offered():
    check_calculator(EnergyOnly(), copper(), skip={"failure"})


def test_input_is_not_changed():
    atoms = copper()
    before = atoms.copy()
    check_calculator(Springs(), atoms)
    assert atoms == before


def test_arguments():
    with pytest.raises(ValueError, match=r"skip: got \['rotations'\], expected names among shapes"):
        check_calculator(EMT(), copper(), skip={"rotations"})
    with pytest.raises(TypeError, match="atoms: got str"):
        check_calculator(EMT(), "Cu")
    with pytest.raises(TypeError, match="did you mean 'skip'"):
        check_calculator(EMT(), copper(), skp=())
    check_calculator(
        Broken("sign"), copper(), skip=PROMISES.keys() - {"shapes"}, rng=np.random.default_rng(5)
    )
