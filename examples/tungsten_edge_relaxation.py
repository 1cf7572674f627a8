"""Relax a large edge dislocation in tungsten with force mixing, and compare optimisers.

The embedded-atom potential of Zhou et al. (2004) treats the core, Taylor forces matched to it the rest of a
cylinder with a frozen rim. With ``--radius 400`` that are 100 000 atoms:

    python examples/tungsten_edge_relaxation.py --radius 60 --optimizers force-lbfgs precon-lbfgs exp fire
    python examples/tungsten_edge_relaxation.py --radius 400

``force-lbfgs`` is ``ase_qmmm.preconditioning.PreconditionedLBFGS``, ``precon-lbfgs`` the optimiser of
``ase-qmmm relax``: ASE's PreconLBFGS with the Exp preconditioner factorised once; ``exp`` is the same with
ASE's own Exp.
"""

import argparse
import time

import numpy as np
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.optimize.precon import PreconLBFGS

from ase_qmmm import EAM, Crystal, ForceMixingCalculator, Regions, TaylorForces
from ase_qmmm.defects import edge_dislocation, elastic_constants
from ase_qmmm.relaxation import OPTIMIZERS


class CountingMixture(ForceMixingCalculator):
    """Counts its force calls."""

    calls = 0

    def calculate(self, *arguments, **keywords):
        """Count, and go on."""
        self.calls += 1
        super().calculate(*arguments, **keywords)


def exp(atoms, **options):
    """PreconLBFGS with the preconditioner of ASE as it comes."""
    return PreconLBFGS(atoms, use_armijo=False, precon="Exp", **options)


def main(arguments=None):
    """Relax with each optimiser, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--radius", type=float, default=60.0, help="of the cylinder (Å)")
    parser.add_argument("--r-qm", type=float, default=15.0, help="radius of the core region (Å)")
    parser.add_argument("--order", type=int, default=2, choices=(1, 2), help="of the Taylor forces")
    parser.add_argument("--fmax", type=float, default=1e-3, help="eV/Å")
    parser.add_argument("--steps", type=int, default=3000, help="most steps")
    parser.add_argument("--optimizers", nargs="+", default=["force-lbfgs"], choices=[*OPTIMIZERS, "exp"])
    options = parser.parse_args(arguments)

    qm = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W", a=3.165), qm)
    # Beyond 8 Å force constants are below 1e-7 of the largest; third order reaches r_c.
    mm = TaylorForces.from_calculator(
        qm, crystal, order=options.order, cutoff=(8.0, qm.cutoff)[: options.order]
    )
    begin = time.process_time()
    start = edge_dislocation(
        crystal,
        (1, 0, 0),
        plane=(0, 0, 1),
        elastic_constants=elastic_constants(qm, crystal),
        radius=options.radius,
        frozen_width=2 * qm.cutoff,
    )
    frozen = start.arrays["frozen"]
    start.set_constraint(FixAtoms(mask=frozen))
    inside = Regions.from_distance(start, start.info["core"], options.r_qm, 2 * qm.cutoff)
    regions = Regions(inside.qm, inside.buffer, frozen)
    print(f"{len(start)} atoms built in {time.process_time() - begin:.1f} s; {regions}", flush=True)

    rows = []
    for name in options.optimizers:
        atoms = start.copy()
        atoms.calc = calc = CountingMixture(qm, mm, regions, cluster="open")
        begin, cpu = time.perf_counter(), time.process_time()
        atoms.get_forces()
        first = time.process_time() - cpu
        optimizer = (exp if name == "exp" else OPTIMIZERS[name])(atoms, logfile=None)
        converged = bool(optimizer.run(fmax=options.fmax, steps=options.steps))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - begin
        force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        rows.append((name, optimizer.nsteps, calc.calls, cpu, wall, converged))
        state = "converged" if converged else "NOT converged"
        print(
            f"{name:12s} {optimizer.nsteps:5d} steps, {calc.calls:5d} force calls, "
            f"{cpu:.1f} s on the processor "
            f"({first:.1f} s the first call), {wall:.1f} s in all: {state}, fmax {force:.1e} eV/Å",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    main()
