"""How fast do mixtures converge in three dimensions? A vacancy in silicon, tight binding (NRL, s and p).

Force mixing with Taylor forces of order K_F = 1 (and 2) against tight binding for all atoms of a periodic
cell, at the chemical potential of the crystal. Theory (QM/MM for crystalline defects, part 3, table 1):
``||Du - Du_H||`` falls as R_QM^-4.5 and R_QM^-7.5 once the strain is that of the elastic far field.

Quantum calls see the whole cell, so that the radius of the quantum region is all that differs. All
relaxations of mixtures begin at the geometry of tight binding, which itself begins with the four neighbours
of the vacancy moved together in pairs: one basin, also where the vacancy distorts (Jahn and Teller).

Beside the errors stand the forces on the unrelaxed vacancy by distance: what the missing atom itself does to
atoms far away. No expansion about the perfect crystal has it. It falls exponentially, and hides the power as
long as it is the larger part.

Run ``python examples/convergence_silicon_3d.py`` (511 atoms, about four minutes on one core; ``--cells 5``,
999 atoms, takes about seven times as long). ``--divide-and-conquer`` relaxes the vacancy with that solver as
well, and compares with the dense solver. ``--folder`` keeps relaxed structures and resumes.
"""

import argparse
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.geometry import find_mic

from ase_qmmm import (
    Crystal,
    DivideAndConquer,
    ForceMixingCalculator,
    TaylorForces,
    TightBinding,
    energy_norm,
    fermi_level,
)
from ase_qmmm.defects import vacancy
from ase_qmmm.preconditioning import PreconditionedLBFGS
from ase_qmmm.studies import Scheme, convergence_study

KT = 0.3  # eV
RADII = [4.2, 5.0, 6.2, 7.3, 8.3, 9.5, 10.3]  # Å, between shells of atoms
CUTOFF = 12.0  # Å, of the first order; beyond it force constants are below 1e-4 of the largest
HIGHER_CUTOFF = 5.0  # Å, of the second order
BLOCKS = {"block": 7.24, "buffer": 4.7}  # Å, of divide and conquer: boxes of 216 atoms, the cheapest that fit
THEORY = {1: -4.5, 2: -7.5}


def paired_vacancy(crystal, cells, shift=0.1):
    """A vacancy whose four neighbours are moved by `shift` (Å) towards each other in two pairs."""
    atoms = vacancy(crystal, cells)
    vectors, distances = find_mic(atoms.positions - atoms.info["core"], atoms.cell)
    near = np.flatnonzero(distances < 1.1 * crystal.nearest_neighbour_distance)
    within = vectors[near] * [1, 1, 0]  # atoms of a pair differ by this
    atoms.positions[near] -= shift * within / np.linalg.norm(within, axis=1)[:, None]
    return atoms


def forces_by_distance(qm, crystal, cells):
    """Distances (Å) of the shells around the unrelaxed vacancy, and the largest force (eV/Å) in each."""
    atoms = vacancy(crystal, cells)
    distances = find_mic(atoms.positions - atoms.info["core"], atoms.cell)[1].round(2)
    forces = np.linalg.norm(qm.evaluate(atoms).forces, axis=1)
    shells = np.unique(distances)
    return shells, np.array([forces[distances == d].max() for d in shells])


def neighbour_distances(atoms):
    """The six distances (Å) between the four neighbours of the vacancy, sorted."""
    near = np.argsort(find_mic(atoms.positions - atoms.info["core"], atoms.cell)[1])[:4]
    table = atoms[near].get_all_distances(mic=True)
    return np.sort(table[np.triu_indices(4, 1)])


def main(arguments=None):
    """Run the study, print its table and slopes, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=4, help="cubic cells per side")
    parser.add_argument("--kT", type=float, default=KT, help="electronic temperature (eV)")
    parser.add_argument("--radii", type=float, nargs="+", default=RADII, help="of the quantum regions (Å)")
    parser.add_argument("--cutoff", type=float, default=CUTOFF, help="of the first order (Å)")
    parser.add_argument("--orders", type=int, nargs="+", default=[1], choices=(1, 2), help="of the forces")
    parser.add_argument("--fit-from", type=float, default=4.0, help="smallest radius of the fits (Å)")
    parser.add_argument("--fmax", type=float, default=1e-5, help="eV/Å")
    parser.add_argument("--divide-and-conquer", action="store_true", help="relax with it as well")
    parser.add_argument("--folder", type=Path, help="for relaxed structures; resumes from there")
    parser.add_argument("--output", default="convergence_silicon_3d", help="prefix of table and picture")
    options = parser.parse_args(arguments)

    plain = TightBinding("nrl-Si-sp", kT=options.kT)
    crystal = Crystal.relaxed(bulk("Si"), plain)
    qm = plain.with_options(mu=fermi_level(plain, crystal))
    atoms = paired_vacancy(crystal, options.cells)
    print(f"{crystal!r}\n{len(atoms)} atoms, kT = {qm.kT} eV, mu = {qm.mu:.4f} eV", flush=True)
    for distance, force in zip(*forces_by_distance(qm, crystal, options.cells), strict=True):
        print(f"unrelaxed vacancy: {force:9.2e} eV/Å at {distance:5.2f} Å", flush=True)

    schemes = {}
    for k in options.orders:
        cutoffs = (options.cutoff, HIGHER_CUTOFF)[:k]
        mm = TaylorForces.from_calculator(qm, crystal, order=k, cutoff=cutoffs)
        schemes[f"force mixing, order {k}"] = Scheme(mm, ForceMixingCalculator)
    study = convergence_study(
        atoms,
        qm,
        schemes,
        options.radii,
        centre=atoms.info["core"],
        r_buffer=float(atoms.cell.lengths().sum()),  # the whole cell
        fmax=options.fmax,
        start="reference",
        folder=options.folder,
    )
    print(study)
    study.reference.info["core"] = atoms.info["core"]
    print("distances between the neighbours of the vacancy:", neighbour_distances(study.reference).round(3))
    for k in options.orders:
        slope, error = study.slope(f"force mixing, order {k}", r_min=options.fit_from)
        print(f"order {k}: ||Du - Du_H|| ~ R^{slope:.2f} +- {error:.2f} (theory {THEORY[k]})")
    study.write_csv(f"{options.output}.csv")
    study.plot(f"{options.output}.png", {f"force mixing, order {k}": THEORY[k] for k in options.orders})
    if options.divide_and_conquer:
        print(divide_and_conquer_error(study.reference, qm, crystal))
    return study


def divide_and_conquer_error(reference, qm, crystal):
    """Relax by divide and conquer from the dense geometry, and compare."""
    atoms = reference.copy()
    atoms.calc = qm.with_options(solver=DivideAndConquer(boundary="periodic", crystal=crystal, **BLOCKS))
    before = np.linalg.norm(atoms.get_forces(), axis=1)
    optimizer = PreconditionedLBFGS(atoms, logfile=None)
    converged = optimizer.run(fmax=2e-3, steps=30)
    difference = find_mic(atoms.positions - reference.positions, atoms.cell)[0]
    difference -= difference.mean(axis=0)
    largest = np.linalg.norm(difference, axis=1).max()
    return (
        f"divide and conquer: at the dense geometry forces up to {before.max():.2e} eV/Å, "
        f"rms {np.sqrt((before**2).mean()):.2e}; after {optimizer.nsteps} steps (converged: {converged}) "
        f"||Du - Du_dense|| = {energy_norm(difference, reference):.2e} Å, largest {largest:.2e} Å"
    )


if __name__ == "__main__":
    main()
