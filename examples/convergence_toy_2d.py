"""How fast do mixtures converge? A di-vacancy of the papers' toy tight binding on the triangular lattice.

The setting of figure 3 of QM/MM for crystalline defects, part 2: two dimensions, a di-vacancy, one s
orbital per atom. Force mixing with Taylor forces of order K_F = 1 and energy mixing with Taylor site
energies of order K_E = 2 are compared with tight binding for all atoms, at the chemical potential of the
crystal. Theory (part 2, table 1): ``||Du - Du_H||`` falls as R_QM^-3, the energy as R_QM^-4 or faster; with
one order more as R_QM^-5.

Both sides share a periodic cell, and by default quantum calls see the whole cell, so that the radius of the
quantum region is all that differs. ``--buffer`` (Å) carves clusters instead, as large systems need.

Run ``python examples/convergence_toy_2d.py`` (ten minutes and more on one core). ``--cells`` makes the cell
larger, ``--radii`` sets the quantum regions, ``--order 2`` adds the next order, ``--folder`` keeps relaxed
structures and resumes.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms

from ase_qmmm import (
    Crystal,
    EnergyMixingCalculator,
    ForceMixingCalculator,
    TaylorForces,
    TaylorPotential,
    TightBinding,
    fermi_level,
)
from ase_qmmm.defects import divacancy
from ase_qmmm.studies import Scheme, convergence_study

KT = 0.3  # eV; at lower temperatures force constants reach further, and all lengths must grow with them
RADII = [8.5, 10.0, 12.0, 14.0, 17.0, 20.0, 24.0]  # Å
CUTOFF = 16.0  # Å, where force constants have fallen to 1e-7 of the largest
HIGHER_CUTOFF = {"force": 8.2, "energy": 5.5}  # Å, of the last order


def main(arguments=None):
    """Run the study, print its table and slopes, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=30, help="unit cells per side")
    parser.add_argument("--radii", type=float, nargs="+", default=RADII, help="of the quantum regions (Å)")
    parser.add_argument("--cutoff", type=float, default=CUTOFF, help="of the expansions (Å)")
    parser.add_argument("--order", type=int, default=1, choices=(1, 2), help="highest order of the forces")
    parser.add_argument("--buffer", type=float, help="width (Å); default: quantum calls see the whole cell")
    parser.add_argument("--fit-from", type=float, default=8.0, help="smallest radius of the fits (Å)")
    parser.add_argument("--fmax", type=float, default=1e-8, help="eV/Å")
    parser.add_argument("--folder", type=Path, help="for relaxed structures; resumes from there")
    parser.add_argument("--output", default="convergence_toy_2d", help="prefix of the table and the picture")
    options = parser.parse_args(arguments)

    plain = TightBinding("toy", kT=KT)
    lattice = [[2.5, 0, 0], [1.25, 2.5 * np.sqrt(0.75), 0], [0, 0, 0]]
    crystal = Crystal.relaxed(Atoms("Ni", cell=lattice, pbc=(1, 1, 0)), plain)
    qm = plain.with_options(mu=fermi_level(plain, crystal))
    atoms = divacancy(crystal, options.cells)
    print(f"{crystal!r}\n{len(atoms)} atoms, mu = {qm.mu:.4f} eV", flush=True)

    rc = options.cutoff
    found, theory = {}, {}
    for k in range(1, options.order + 1):
        cutoffs = (rc,) if k == 1 else (rc, HIGHER_CUTOFF["force"])
        name = f"force mixing, order {k}"
        mm = TaylorForces.from_calculator(qm, crystal, order=k, cutoff=cutoffs)
        found[name], theory[name] = Scheme(mm, ForceMixingCalculator), {1: -3, 2: -5}[k]
        cutoffs = (rc, rc) if k == 1 else (rc, rc, HIGHER_CUTOFF["energy"])
        name = f"energy mixing, order {k + 1}"
        # A residual stress of 1e-7 of the moduli, which truncation leaves, strains the far field against the
        # quantum region as much as is to be seen here. Without it there is no ghost force to correct, and a
        # correction, which ends within half of the radius, would err by more.
        mm = TaylorPotential.from_calculator(qm, crystal, order=k + 1, cutoff=cutoffs, elasticity="exact")
        found[name] = Scheme(mm, EnergyMixingCalculator, {"ghost_force_correction": False})
        theory[name] = {1: -3, 2: -5}[k]
    whole = float(atoms.cell.lengths().sum())
    study = convergence_study(
        atoms,
        qm,
        found,
        options.radii,
        centre=atoms.info["vacant_sites"].mean(axis=0),
        r_buffer=options.buffer or whole,
        fmax=options.fmax,
        folder=options.folder,
    )
    print(study)
    for name, expected in theory.items():
        slope, error = study.slope(name, r_min=options.fit_from)
        line = f"{name}: ||Du - Du_H|| ~ R^{slope:.2f} +- {error:.2f} (theory {expected})"
        if name.startswith("energy"):
            slope, error = study.slope(name, "energy_error", r_min=options.fit_from)
            line += f", energy R^{slope:.2f} +- {error:.2f} ({expected - 1})"
        print(line)
    study.write_csv(f"{options.output}.csv")
    study.plot(f"{options.output}.png", theory)
    return study


if __name__ == "__main__":
    main()
