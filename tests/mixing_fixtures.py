"""Cheap silicon models, silicon with point defects, and calculators that fail on purpose."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from matscipy.calculators.manybody import Manybody
from matscipy.calculators.manybody.explicit_forms import Kumagai, StillingerWeber
from matscipy.calculators.manybody.explicit_forms.kumagai import Kumagai_Comp_Mat_Sci_39_Si
from matscipy.calculators.manybody.explicit_forms.stillinger_weber import Stillinger_Weber_PRB_31_5262_Si

from ase_qmmm import Crystal, SiteCalculator, SiteResult, TaylorForces
from ase_qmmm.neighbours import neighbour_pairs

# Both models have their minimum close to it; forces of the perfect lattice vanish by symmetry in any case.
A_SI = 5.43
SILICON = Crystal(bulk("Si", a=A_SI))
# Bonds of Kumagai's model end at 3.3 Å; a force is the derivative of the energies of bonds one step away.
KUMAGAI_RANGE = 6.6


def kumagai():
    """T. Kumagai et al., Comput. Mater. Sci. 39, 457 (2007), as matscipy has it."""
    return Manybody(**Kumagai(Kumagai_Comp_Mat_Sci_39_Si))


def stillinger_weber():
    """F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985), as matscipy has it."""
    return Manybody(**StillingerWeber(Stillinger_Weber_PRB_31_5262_Si))


def silicon_cell(n, crystal=SILICON):
    """n x n x n cubic cells of perfect silicon."""
    return crystal.supercell(n, cubic=True)


def vacancy(n, crystal=SILICON, rattle=0.0, seed=1):
    """n x n x n cubic cells without the atom next to the middle, and the place of that atom."""
    atoms = silicon_cell(n, crystal)
    middle = atoms.cell.array.sum(axis=0) / 2
    lost = int(np.argmin(np.linalg.norm(atoms.positions - middle, axis=1)))
    place = atoms.positions[lost].copy()
    del atoms[lost]
    if rattle:
        atoms.rattle(rattle, seed=seed)
    return atoms, place


def tetrahedral_interstitial(n, crystal=SILICON):
    """n x n x n cubic cells with one more atom, the last, in the tetrahedral hole next to the middle."""
    atoms = silicon_cell(n, crystal)
    edge = atoms.cell[0, 0] / n
    middle = (n // 2) * edge
    holes = atoms.positions + edge / 2
    hole = holes[np.argmin(np.linalg.norm(holes - middle, axis=1))]
    atoms += Atoms(atoms.symbols[0], [hole])
    return atoms, hole


class Springs(Calculator):
    """Pulls each atom back to where it was first seen; cheap, local, and without state of its own else."""

    implemented_properties = ["energy", "forces"]

    def __init__(self, stiffness=1.0):
        super().__init__()
        self.stiffness = stiffness

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {
            "energy": 0.5 * self.stiffness * float((self.atoms.positions**2).sum()),
            "forces": -self.stiffness * self.atoms.positions,
        }


class Zero(Calculator):
    """No forces at all: what is left of the time and memory is the mixture's own."""

    implemented_properties = ["energy", "forces"]

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3))}


class Faulty(Calculator):
    """Stillinger–Weber silicon that misbehaves once, at call number `on_call`.

    fault: "raise", "silent" (an exception without text), "nan", "infinite energy", "shape".
    """

    implemented_properties = ["energy", "forces"]

    def __init__(self, fault, on_call=1):
        super().__init__()
        self.model = stillinger_weber()
        self.fault, self.on_call, self.calls = fault, on_call, 0

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        bad = self.calls == self.on_call
        if bad and self.fault == "raise":
            raise RuntimeError("the disk is on fire")
        if bad and self.fault == "silent":
            raise RuntimeError
        forces = self.model.get_property("forces", self.atoms).copy()
        energy = float(self.model.get_property("energy", self.atoms))
        if bad and self.fault == "nan":
            forces[3, 1] = np.nan
        if bad and self.fault == "shape":
            forces = forces[:-1]
        if bad and self.fault == "infinite energy":
            energy = np.inf
        self.results = {"energy": energy, "forces": forces}


A_W = 3.1652
TUNGSTEN = Crystal(bulk("W", a=A_W))


class FinnisSinclair(SiteCalculator):
    """Site energies ``1/2 sum phi(r) - A sqrt(rho)`` in the form of Finnis and Sinclair.

    Philos. Mag. A 50, 45 (1984), with their numbers for tungsten. Site energies are not at a minimum with
    respect to single neighbours: ghost forces are seen where they are mixed with others.
    """

    cutoff = 4.400224

    def __init__(self, strength=1.896373):
        super().__init__()
        self.strength = strength
        self.evaluated = 0

    def evaluate(self, atoms, weights=None):
        n = len(atoms)
        w = np.ones(n) if weights is None else np.asarray(weights, dtype=float)
        i, j, d, D = neighbour_pairs(atoms, self.cutoff, "ijdD")
        kept = w[i] != 0
        i, j, d, D = i[kept], j[kept], d[kept], D[kept]
        self.evaluated = int((w != 0).sum())
        x = np.minimum(d - 3.25, 0.0)
        c0, c1, c2 = 47.1346499, -33.7665655, 6.2541999
        polynomial = c0 + c1 * d + c2 * d**2
        phi = x**2 * polynomial
        slope = 2 * x * polynomial + x**2 * (c1 + 2 * c2 * d)
        root = np.sqrt(np.bincount(i, (d - self.cutoff) ** 2, n))
        energies = np.bincount(i, phi, n) / 2 - self.strength * root
        pull = w[i] * (slope / 2 - self.strength * (d - self.cutoff) / np.maximum(root[i], 1e-12))
        gradient = (pull / d)[:, None] * D
        forces = np.zeros((n, 3))
        for c in range(3):
            forces[:, c] = np.bincount(i, gradient[:, c], n) - np.bincount(j, gradient[:, c], n)
        virial = -gradient.T @ D
        return SiteResult(float(w @ energies), energies, forces, (virial + virial.T) / 2)


class MatchedTaylor(SiteCalculator):
    """TaylorForces of `qm` with the first derivatives of the site energies of `qm` added.

    No ghost forces: what a site energy of `qm` does to its neighbours in the crystal, its own does too.
    """

    def __init__(self, qm, crystal):
        super().__init__()
        self.taylor = TaylorForces.from_calculator(qm, crystal, cutoff=5.5)
        self.crystal, self.cutoff = crystal, self.taylor.cutoff
        atoms = crystal.supercell(6)
        one = np.zeros(len(atoms))
        one[0] = 1.0
        forces = qm.evaluate(atoms, one).forces
        match = crystal.match(atoms, self.cutoff)
        self.slopes = -forces[match.neighbours[0]]

    def evaluate(self, atoms, weights=None):
        result = self.taylor.evaluate(atoms, weights)
        w = np.ones(len(atoms)) if weights is None else np.asarray(weights, dtype=float)
        match = self.taylor.match(atoms)
        asked = w != 0
        g = match.displacements(atoms.positions)
        linear = np.einsum("nsc,sc->n", g, self.slopes) * asked
        forces = result.forces.copy()
        pull = w[:, None, None] * self.slopes
        np.add.at(forces, match.neighbours[asked], -pull[asked])
        forces[asked] += pull[asked].sum(axis=1)
        return SiteResult(
            result.energy + float(w @ linear), result.energies + linear, forces, np.full((3, 3), 0.0)
        )


def tungsten_vacancy(n, rattle=0.0, seed=1):
    """n x n x n cubic cells of tungsten without the atom next to the middle, and the place of that atom."""
    return vacancy(n, TUNGSTEN, rattle, seed)
