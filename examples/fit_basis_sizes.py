"""How large must the basis of a potential be? Linear ACE fitted to one defect, for growing bases.

The study of table 2 of the generalisation analysis for point defects: a vacancy is relaxed with embedded
atoms (W, Zhou et al. 2004), its atoms are displaced at random, and energies and forces of these cells are
fitted by rank-revealing QR with a tolerance of 1e-6. Printed are the size of the basis, the rank, root mean
square errors on cells that were not fitted, the relative error of the force constants of the crystal (which
are not fitted), and the processor time of the fit; beside them the numbers of the paper.

Cells must be large. What is seen in a periodic cell are sums of force constants over the images of an atom;
those that a fit leaves open cancel in the sum and are errors in the crystal. Half the cell should be beyond
what matters of them: six cubic cells here. With three the errors of force constants do not fall.

The paper takes a triangular lattice with two vacancies; so does ``--plane``, with a monolayer of the same
metal at its equilibrium spacing. Forces out of the plane are zero by symmetry there, so that errors are of
the components in it. The paper's perturbation, 0.01, is taken to be in Å. Its potential is another one, and
it does not say whether its energies are those of cells or of atoms: trends can be compared, numbers cannot.

Run ``python examples/fit_basis_sizes.py`` (half a minute), with ``--plane`` for two dimensions; with
``--degrees 10 12 14 16 18 20`` up to 1809 functions.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import BFGS

from ase_qmmm import EAM, ACEBasis, Crystal
from ase_qmmm.defects import divacancy, vacancy
from ase_qmmm.fitting import Observations, fit_ace, matching_errors

# C. Ortner, Y. Wang, A framework for a generalisation analysis of machine-learned interatomic potentials,
# table 2, L = 5 r0: number of functions, RMSE of the energy (meV) and of the forces (eV/Å), relative error
# of the force constants (%), time of the fit (s).
PAPER = {
    110: (0.364, 0.107, 11.0, 56.6),
    211: (0.261, 0.072, 8.7, 54.5),
    383: (0.208, 0.048, 7.4, 55.8),
    668: (0.183, 0.043, 7.5, 58.4),
    1119: (0.143, 0.038, 5.1, 77.9),
}
W_ENERGY, W_FORCES = 100.0, 1.0  # of the loss, eq. (4.2)
SPACING = 2.55  # Å, where the search for that of the monolayer starts


def defect(qm, plane, size):
    """The crystal, a relaxed cell with the defect, and the number of dimensions."""
    if plane:
        lattice = SPACING * np.array([[1, 0, 0], [0.5, np.sqrt(0.75), 0], [0, 0, 0]])
        crystal = Crystal.relaxed(Atoms("W", cell=lattice, pbc=(1, 1, 0)), qm)
        atoms = divacancy(crystal, size)
    else:
        crystal = Crystal.relaxed(bulk("W", a=3.165), qm)
        atoms = vacancy(crystal, size, cubic=True)
    atoms.calc = qm
    with BFGS(atoms, logfile=None) as relaxation:
        relaxation.run(fmax=1e-3)
    return crystal, atoms, 2 if plane else 3


def samples(atoms, qm, number, rattle, dimensions, rng):
    """Cells with all atoms displaced at random, standard deviation `rattle` (Å), and their data."""
    out = []
    for _ in range(number):
        image = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        image.positions[:, :dimensions] += rng.normal(scale=rattle, size=(len(atoms), dimensions))
        found = qm.evaluate(image)
        image.calc = SinglePointCalculator(image, energy=found.energy, forces=found.forces)
        out.append(image)
    return out


def force_constants(model, crystal, cutoff, dimensions):
    """First derivatives of the forces, components beyond the first `dimensions` set to zero."""
    exact = model.force_derivatives(crystal, 1, cutoff)
    kept = np.arange(3) < dimensions
    tensors = {1: [np.where(kept[:, None, None] & kept, t, 0.0) for t in exact.tensors[1]]}
    return replace(exact, tensors=tensors)


def held_out_errors(potential, images, dimensions):
    """Root mean square errors of the energy (eV per atom) and of the components of forces (eV/Å)."""
    energy, forces = [], []
    for image in images:
        found = potential.evaluate(image)
        energy.append((found.energy - image.get_potential_energy()) / len(image))
        forces.append((found.forces - image.get_forces())[:, :dimensions])
    return float(np.sqrt(np.mean(np.square(energy)))), float(np.sqrt(np.mean(np.square(forces))))


def main(arguments=None):
    """Print the table; return by size of the basis: errors of energy, forces, force constants."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plane", action="store_true", help="the triangular lattice with two vacancies")
    parser.add_argument("--size", type=int, help="cells per side; default 6 (cubic), of the plane 10")
    parser.add_argument("--order", type=int, default=3)
    parser.add_argument("--degrees", type=float, nargs="+", default=[10, 12, 14, 16])
    parser.add_argument("--train", type=int, help="cells that are fitted; default 6, of the plane 30")
    parser.add_argument("--test", type=int, default=10, help="cells that are not (the paper: 50)")
    parser.add_argument("--rattle", type=float, default=0.01, help="standard deviation of displacements (Å)")
    parser.add_argument("--tolerance", type=float, default=1e-6, help="of the rank-revealing QR")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)

    qm = EAM("W-zhou04")
    crystal, atoms, dim = defect(qm, options.plane, options.size or (10 if options.plane else 6))
    n_train = options.train or (30 if options.plane else 6)
    rng = np.random.default_rng(options.seed)
    train, test = (samples(atoms, qm, n, options.rattle, dim, rng) for n in (n_train, options.test))
    data = Observations().add_configurations(train)
    size = np.sqrt(np.mean([image.get_forces()[:, :dim] ** 2 for image in test]))
    # The weights of Observations are those of squared errors over the number of atoms; the paper's are not.
    weights = {"energy": W_ENERGY * len(atoms), "forces": W_FORCES}
    reach = 2 * qm.cutoff
    exact = force_constants(qm, crystal, reach, dim)
    print(f"{crystal!r}\n{len(atoms)} atoms, {n_train * (dim * len(atoms) + 1)} observations")
    print(f"forces of the test set: {size:.3f} eV/Å (root mean square of the components)")
    print(f"{'':44s}time of | paper, L = 5 r0, in the plane")
    print("   #B  rank  meV/atom     eV/Å   eps_FC (%)  fit (s) |   meV   eV/Å  eps_FC (%)  fit (s)")
    found = {}
    for degree in options.degrees:
        basis = ACEBasis("W", options.order, degree, qm.cutoff, pair_basis=False)
        start = time.process_time()
        fit = fit_ace(basis, data, "rrqr", weights, tolerance=options.tolerance)
        seconds = time.process_time() - start
        energy, forces = held_out_errors(fit.potential, test, dim)
        own = force_constants(fit.potential, crystal, reach, dim)
        eps = matching_errors(exact, own, crystal, 1, cutoff=reach, kinds="F").force[1][1]
        found[len(basis)] = energy, forces, eps
        paper = PAPER.get(len(basis))
        cited = "{:5.3f}  {:5.3f}  {:10.1f}  {:7.1f}".format(*paper) if paper else "-"
        print(
            f"{len(basis):5d} {fit.solution.rank:5d}  {1e3 * energy:8.2e} {forces:8.2e}  {100 * eps:11.2e} "
            f"{seconds:8.2f} | {cited}",
            flush=True,
        )
    return found


if __name__ == "__main__":
    main()
