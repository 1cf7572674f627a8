"""An own tight-binding Hamiltonian in 40 lines: silicon with the universal parameters of Harrison.

W. A. Harrison, Electronic Structure and the Properties of Solids (Freeman, 1980): hoppings
``eta hbar^2 / (m r^2)`` between nearest neighbours and term values of the free atom. The repulsion falls as
r^-4; its strength is fitted here to the lattice constant 5.431 Å. Hoppings and repulsion are switched off
between 2.8 and 3.7 Å.
"""

import numpy as np
from ase.build import bulk

from ase_qmmm import Crystal, TightBinding
from ase_qmmm.contract import check_calculator
from ase_qmmm.tightbinding import Hamiltonian
from ase_qmmm.tightbinding.jets import derivatives
from ase_qmmm.tightbinding.radial import leibniz, smooth_step
from ase_qmmm.tightbinding.slater_koster import shell_channels

UNIT = 7.62  # hbar^2 / m in eV Å^2
ETA = {"sss": -1.40, "sps": 1.84, "pps": 3.24, "ppp": -0.81}
TERMS = {"s": -13.55, "p": -6.52}  # eV
REPULSION = 176.68  # eV Å^4


class HarrisonSilicon(Hamiltonian):
    """Orthogonal s and p orbitals, hoppings to nearest neighbours, a pair repulsion."""

    name = "Harrison Si"
    symbols = ("Si",)
    shells = ((0, 1),)
    n_electrons = np.array([4.0])
    cutoff = 3.7  # Å
    minimum_distance = 1.0  # Å
    orthogonal = True
    repulsive = True
    citation = "W. A. Harrison, Electronic Structure and the Properties of Solids (1980)"

    def faded(self, function, r, order):
        """A function of distance times a smooth switch, with its derivatives (order + 1, p)."""
        return leibniz(derivatives(function, r, order), smooth_step(r, 2.8, self.cutoff, order))

    def two_centre(self, a, b, distances, order, spin=0):
        law = self.faded(lambda r: UNIT / r**2, distances, order)
        return {
            shells: (np.array([ETA[c] * law for c in shell_channels(*shells)]), overlap)
            for shells, overlap in self._no_overlap(a, b, distances, order).items()
        }

    def onsite(self, centre, neighbour, rho, order, spin=0):
        out = np.zeros((order + 1, len(rho), 4))
        out[0] = [TERMS["s"], TERMS["p"], TERMS["p"], TERMS["p"]]
        return out

    def repulsive_density(self, centre, neighbour, distances, order):
        return self.faded(lambda r: REPULSION / r**4, distances, order)

    def repulsive_energy(self, centre, neighbour, x, order):
        return derivatives(lambda x: x / 2, x, order)  # half of each pair belongs to each atom


def main():
    calc = TightBinding(HarrisonSilicon(), kT=0.1)

    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    check_calculator(calc, atoms, skip={"supercell"})
    print("gradients, invariances and weights hold")

    crystal = Crystal.relaxed(bulk("Si"), calc)
    print(f"lattice constant: {2 * crystal.lattice[0].max():.4f} Å")
    cell = crystal.unit_cell
    print(f"energy: {calc.for_crystal(cell).evaluate(cell).energy / 2:.3f} eV per atom")


if __name__ == "__main__":
    main()
