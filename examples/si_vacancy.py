"""Relax a silicon vacancy with force mixing, in a dozen lines of ASE; compare optimisers with --optimizer.

Quantum: NRL tight binding within 6 Å of the vacancy. Elsewhere: the first-order expansion of its forces.
"""

import argparse

from ase.build import bulk
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.precon import PreconLBFGS

from ase_qmmm import Crystal, ForceMixingCalculator, Regions, TaylorForces, TightBinding

OPTIMIZERS = {
    "FIRE": FIRE,
    "BFGS": BFGS,
    "LBFGS": LBFGS,
    "PreconLBFGS": lambda atoms: PreconLBFGS(atoms, precon="Exp", use_armijo=False),
}

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--optimizer", choices=OPTIMIZERS, default="PreconLBFGS")
parser.add_argument("--cells", type=int, default=5, help="cubic cells per side")
parser.add_argument("--r-qm", type=float, default=6.0, help="Å")
parser.add_argument("--r-buffer", type=float, default=2.0, help="Å")
parser.add_argument("--mm-cutoff", type=float, default=8.0, help="Å")
parser.add_argument("--fmax", type=float, default=1e-3, help="eV/Å")
options = parser.parse_args()

qm = TightBinding("nrl-Si-sp", kT=0.1)  # eV
crystal = Crystal.relaxed(bulk("Si"), qm)
mm = TaylorForces.from_calculator(qm, crystal, order=1, cutoff=options.mm_cutoff)

atoms = crystal.supercell(options.cells, cubic=True)
centre = atoms.positions[0].copy()
del atoms[0]
regions = Regions.from_distance(atoms, centre, r_qm=options.r_qm, r_buffer=options.r_buffer)
atoms.calc = ForceMixingCalculator(qm, mm, regions)
print(regions, atoms.calc.prepare(atoms))
optimizer = OPTIMIZERS[options.optimizer](atoms)
converged = optimizer.run(fmax=options.fmax, steps=300)
print(f"converged: {bool(converged)} after {optimizer.nsteps} steps")

regions.write(atoms)  # tags, so that ase gui colours the regions
atoms.write("si_vacancy_python.extxyz")
