"""QM/MM with any ASE calculator: a vacancy in copper, with EMT in the part of the quantum model.

Put your own calculator in place of EMT: nothing else changes. The Taylor model is made from its forces on
displaced supercells, here one for the first order; results are kept in a cache, so that a run that was cut
short goes on where it was.
"""

import argparse

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.optimize import FIRE

from ase_qmmm import Crystal, ForceMixingCalculator, Regions, TaylorForces
from ase_qmmm.taylor import ForceConstants, displacement_derivatives, phonon_band_structure
from ase_qmmm.taylor.phonons import THZ


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=5, help="cubic cells per direction")
    parser.add_argument("--cutoff", type=float, default=6.0, help="of the Taylor model, Å")
    parser.add_argument("--r-qm", type=float, default=6.0, help="Å")
    parser.add_argument("--fmax", type=float, default=1e-3, help="eV/Å")
    parser.add_argument("--cache", default="emt_copper_forces")
    options = parser.parse_args(args)

    qm = EMT()
    crystal = Crystal.relaxed(bulk("Cu"), qm)
    derivatives = displacement_derivatives(
        qm, crystal, order=1, cutoff=options.cutoff, cache=options.cache, identity="EMT of ASE"
    )
    mm = TaylorForces(ForceConstants.from_derivatives(derivatives))
    bands = phonon_band_structure(mm)
    print(f"{mm}: phonons up to {bands.energies.max() / THZ:.2f} THz")

    atoms = crystal.supercell(options.cells, cubic=True)
    middle = int(np.argmin(np.linalg.norm(atoms.positions - atoms.cell.sum(axis=0) / 2, axis=1)))
    centre = atoms.positions[middle].copy()
    del atoms[middle]
    full = atoms.copy()
    regions = Regions.from_distance(atoms, centre, r_qm=options.r_qm, r_buffer=6.0)
    print(f"{regions.qm.sum()} of {len(atoms)} atoms are QM")
    atoms.calc = ForceMixingCalculator(qm, mm, regions)
    FIRE(atoms, logfile=None).run(fmax=options.fmax)
    full.calc = EMT()
    FIRE(full, logfile=None).run(fmax=options.fmax)
    near = np.argsort(np.linalg.norm(full.positions - centre, axis=1))[:12]
    distances = [np.linalg.norm(a.positions[near] - centre, axis=1).mean() for a in (atoms, full)]
    error = np.linalg.norm(atoms.positions - full.positions, axis=1).max()
    print(f"nearest atoms of the vacancy at {distances[0]:.4f} Å (EMT everywhere: {distances[1]:.4f} Å)")
    print(f"largest difference of a position: {error:.1e} Å")


if __name__ == "__main__":
    main()
