"""Barrier of a vacancy that migrates in tungsten, by mixtures and by the quantum model alone.

Embedded atoms (Zhou et al. 2004) stand for the quantum model, which is cheap enough to be used everywhere for
comparison. Force mixing has forces only: the energy along the path is their work. The path comes from ASE's
NEB with method="aseneb", which needs energies for one thing, to see which image is the highest:

    python examples/w_vacancy_migration.py --cells 6
"""

import argparse

import numpy as np
from ase.build import bulk
from ase.mep import NEB
from ase.optimize import FIRE

from ase_qmmm import (
    EAM,
    Crystal,
    EnergyMixingCalculator,
    ForceMixingCalculator,
    Regions,
    TaylorForces,
    TaylorPotential,
)
from ase_qmmm.mixing import path_energies


def ends(crystal, cells):
    """Structures before and after a jump to the nearest vacant site, unrelaxed, and the two sites."""
    atoms = crystal.supercell(cells, cubic=True)
    order = np.argsort(np.linalg.norm(atoms.positions - atoms.cell.sum(axis=0) / 2, axis=1))
    lost = int(order[0])
    place = atoms.positions[lost].copy()
    del atoms[lost]
    jumper = int(np.argmin(np.linalg.norm(atoms.positions - place, axis=1)))
    after = atoms.copy()
    after.positions[jumper] = place
    return atoms, after, np.array([place, atoms.positions[jumper]])


def minimum_energy_path(before, after, calculator, n_images, fmax):
    """Converged images between two structures, each with a calculator of its own."""
    images = [before.copy(), *(before.copy() for _ in range(n_images - 2)), after.copy()]
    for image in images:
        image.calc = calculator()
    for image in (images[0], images[-1]):
        with FIRE(image, logfile=None) as optimiser:
            assert optimiser.run(fmax=fmax / 5, steps=300)
    neb = NEB(images, k=0.5, method="aseneb", climb=True)
    neb.interpolate()
    with FIRE(neb, logfile=None) as optimiser:
        assert optimiser.run(fmax=fmax, steps=500)
    return images


def main(arguments=None):
    """Print the barriers; return them (eV) by name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=6, help="cubic cells per side")
    parser.add_argument("--images", type=int, default=9)
    parser.add_argument("--between", type=int, default=3, help="structures between images, for the work")
    parser.add_argument("--r-qm", type=float, default=6.8, help="about both sites, Å")
    parser.add_argument("--fmax", type=float, default=0.01, help="eV/Å")
    options = parser.parse_args(arguments)
    qm = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W"), qm)
    before, after, sites = ends(crystal, options.cells)
    regions = Regions.from_distance(before, sites, options.r_qm, r_buffer=6.2)
    print(regions)
    force_1 = TaylorForces.from_calculator(qm, crystal, order=1, cutoff=6.5)
    force_2 = TaylorForces.from_calculator(qm, crystal, order=2, cutoff=(6.5, 4.6))
    site_2 = TaylorPotential.from_calculator(qm, crystal, order=2, cutoff=6.2)
    site_3 = TaylorPotential.from_calculator(qm, crystal, order=3, cutoff=(6.2, 6.2, 4.6))

    def force_mixing(mm):
        # One function of the positions: the images are not steps of one path through time.
        return lambda: ForceMixingCalculator(qm, mm, regions, cluster="open", energy="sites")

    def energy_mixing(mm):
        return lambda: EnergyMixingCalculator(qm, mm, regions, cluster="open")

    found = {}
    for name, calculator in {
        "quantum model alone": lambda: EAM("W-zhou04"),
        "forces, TaylorForces 1": force_mixing(force_1),
        "forces, TaylorForces 2": force_mixing(force_2),
        "energy, TaylorPotential 2": energy_mixing(site_2),
        "energy, TaylorPotential 3": energy_mixing(site_3),
    }.items():
        images = minimum_energy_path(before, after, calculator, options.images, options.fmax)
        work = path_energies(images, between=options.between)
        energies = np.array([image.get_potential_energy() for image in images])
        found[name] = (work.barrier, float(energies.max() - energies[0]))
        print(f"{name:28s} {work}")
        print(f"{'':28s} by its own energies {found[name][1]:.4f} eV")
    return found


if __name__ == "__main__":
    main()
