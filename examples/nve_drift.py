"""Does molecular dynamics keep its energy? With energy mixing yes, with force mixing not quite.

A vacancy in tungsten with embedded atoms (Zhou et al. 2004) as quantum model, its Taylor expansions or an ACE
potential as far field, and silicon by tight binding in its own Taylor expansion, both hot. Printed are the
slope of a line through the total energy, the scatter about it, and the momentum that all atoms have gained:

    python examples/nve_drift.py --ps 2
"""

import argparse

import numpy as np
from ase import units
from ase.build import bulk
from ase.md.velocitydistribution import Stationary, thermalize_momenta
from ase.md.verlet import VelocityVerlet
from ghost_forces import fitted_ace

from ase_qmmm import (
    EAM,
    Crystal,
    EnergyMixingCalculator,
    ForceMixingCalculator,
    Regions,
    TaylorForces,
    TaylorPotential,
    TightBinding,
)


def trajectory(atoms, kelvin, timestep, n_steps):
    """Times (ps), total energies (eV), momentum of all atoms (sqrt(u eV)) of a run from a thermal start."""
    thermalize_momenta(atoms, kelvin, rng=np.random.default_rng(1))
    Stationary(atoms)
    # The potential of the forces; force mixing has none, and offers a sum of site energies.
    name = "free_energy" if "free_energy" in atoms.calc.implemented_properties else "energy"
    energies, momenta = [], []

    def look():
        energies.append(atoms.calc.get_property(name, atoms) + atoms.get_kinetic_energy())
        momenta.append(np.linalg.norm(atoms.get_momenta().sum(axis=0)))

    with VelocityVerlet(atoms, timestep * units.fs) as dynamics:
        dynamics.attach(look)
        dynamics.run(n_steps)
    return np.arange(len(energies)) * timestep * 1e-3, np.array(energies), np.array(momenta)


def drift(time, energy):
    """Slope (eV/ps) of the line through the energies, and the scatter (eV) about it."""
    line = np.polyfit(time, energy, 1)
    return float(line[0]), float(np.std(energy - np.polyval(line, time)))


def tungsten_cases(cells):
    """Name, atoms and calculator of mixtures of a vacancy in tungsten."""
    qm = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W"), qm)
    atoms = crystal.supercell(cells, cubic=True)
    lost = int(np.argmin(np.linalg.norm(atoms.positions - atoms.cell.sum(axis=0) / 2, axis=1)))
    place = atoms.positions[lost].copy()
    del atoms[lost]
    qm_atoms = Regions.from_distance(atoms, place, r_qm=6.8).qm
    ace = fitted_ace(qm, crystal, degree=8, rattle=0.2)
    site_2 = TaylorPotential.from_calculator(qm, crystal, order=2, cutoff=6.2)
    site_3 = TaylorPotential.from_calculator(qm, crystal, order=3, cutoff=(6.2, 6.2, 4.6))
    force_1 = TaylorForces.from_calculator(qm, crystal, order=1, cutoff=6.5)
    force_2 = TaylorForces.from_calculator(qm, crystal, order=2, cutoff=(6.5, 4.6))
    for name, make, mm, options in (
        ("energy, TaylorPotential 2", EnergyMixingCalculator, site_2, {}),
        ("energy, TaylorPotential 3", EnergyMixingCalculator, site_3, {}),
        ("energy, ACE", EnergyMixingCalculator, ace, {}),
        ("energy, ACE, blended", EnergyMixingCalculator, ace, {"blend": 3.0}),
        ("forces, TaylorForces 1", ForceMixingCalculator, force_1, {}),
        ("forces, TaylorForces 2", ForceMixingCalculator, force_2, {}),
        ("forces, ACE", ForceMixingCalculator, ace, {}),
        ("forces, ACE, net force removed", ForceMixingCalculator, ace, {"remove_net_force": "interface"}),
    ):
        yield (
            f"W: {name}",
            atoms.copy(),
            make(qm, mm, qm_atoms, r_buffer=6.2, cluster="open", crystal=crystal, **options),
        )


def silicon_cases(cells):
    """The same of a small quantum ball in hot silicon."""
    qm = TightBinding("nrl-Si-sp", kT=0.1)
    crystal = Crystal.relaxed(bulk("Si"), qm)
    atoms = crystal.supercell(cells, cubic=True)
    mm = TaylorForces.from_calculator(qm, crystal, cutoff=5.0)
    regions = Regions.from_distance(atoms, atoms.cell.sum(axis=0) / 2, r_qm=3.0, r_buffer=2.5)
    for name, make in (("energy", EnergyMixingCalculator), ("forces", ForceMixingCalculator)):
        yield f"Si: {name}, TaylorForces 1", atoms.copy(), make(qm, mm, regions, cluster="open")


def main(arguments=None):
    """Print a table; return slope (eV/ps), scatter (eV) and momentum by name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ps", type=float, default=2.0, help="length of each run")
    parser.add_argument("--timestep", type=float, default=2.0, help="fs")
    parser.add_argument(
        "--kelvin", type=float, default=600.0, help="temperature at the start; half of it later"
    )
    parser.add_argument("--cells", type=int, nargs=2, default=(6, 4), help="cubic cells per side of W and Si")
    options = parser.parse_args(arguments)
    n_steps = round(1e3 * options.ps / options.timestep)
    found = {}
    print(f"{'':34s} slope        scatter  momentum")
    print(f"{'':34s} meV/atom/ps  meV/atom sqrt(u eV)")
    cells_w, cells_si = options.cells
    for cases in (tungsten_cases(cells_w), silicon_cases(cells_si)):
        for name, atoms, calc in cases:
            atoms.calc = calc
            time, energy, momentum = trajectory(atoms, options.kelvin, options.timestep, n_steps)
            # The first tenth, in which half of the kinetic energy becomes potential, is not counted.
            late = time >= 0.1 * options.ps
            slope, scatter = drift(time[late], energy[late])
            found[name] = (slope, scatter, momentum.max())
            per_atom = 1e3 / len(atoms)
            print(
                f"{name:34s} {slope * per_atom:11.5f} {scatter * per_atom:9.5f} {momentum.max():9.1e}",
                flush=True,
            )
    return found


if __name__ == "__main__":
    main()
