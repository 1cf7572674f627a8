"""How good is the mixture? The silicon vacancy against full tight binding.

Three tables and a picture, all at the chemical potential of the crystal:

1. forces of the mixture on a 999-atom vacancy cell, against one call of tight binding on the whole cell, over
   the radius of the QM region, the width of the buffer and the way of carving;
2. the force on the middle atom of open balls in a rattled crystal without vacancy, for comparison: the gap
   state of the vacancy feels the surface of an open cluster more than a perfect crystal does;
3. the geometry of the relaxed vacancy in a 511-atom cell: the energy norm ||Du - Du_H|| between full tight
   binding and the mixture, over the radius of the QM region.

Run ``python examples/si_vacancy_convergence.py`` (about 6 minutes on 2 cores). With the options
``--cells 3 --relax-cells 2`` it is a trial run of a minute, with cells too small for the numbers to mean
anything.
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.optimize.precon import PreconLBFGS

from ase_qmmm import (
    Crystal,
    ForceMixingCalculator,
    Regions,
    TaylorForces,
    TightBinding,
    energy_norm,
    fermi_level,
)

KT = 0.1  # eV
FORCE_CASES = [  # way of carving, r_qm, r_buffer (Å)
    ("open", 4.0, 5.0),
    ("open", 4.0, 6.0),
    ("open", 4.0, 8.0),
    ("open", 6.0, 4.0),
    ("open", 6.0, 6.0),
    ("periodic", 4.0, 4.0),
    ("periodic", 5.0, 3.0),
    ("periodic", 6.0, 2.0),
    ("periodic", 6.7, 1.3),
    ("periodic", 7.0, 3.0),
]
RELAXED = [(3.0, 5.0), (4.0, 4.0), (5.0, 3.0), (6.0, 2.0), (6.7, 1.3)]  # r_qm, r_buffer (Å)
BALLS = [7.0, 8.0, 9.0, 10.0, 12.0]  # Å


def vacancy(crystal, n, rng=None):
    """Cubic cell with the atom nearest its middle removed; rattled, less with distance, if rng is given."""
    atoms = crystal.supercell(n, cubic=True)
    distance = np.linalg.norm(atoms.positions - atoms.cell.sum(axis=0) / 2, axis=1)
    middle = int(np.argmin(distance.round(6)))  # the first of several: not up to the last digit
    centre = atoms.positions[middle].copy()
    del atoms[middle]
    if rng is not None:
        distance = np.linalg.norm(atoms.positions - centre, axis=1)
        size = 0.03 * np.minimum(1.0, (4.0 / distance) ** 2)  # Å; about what relaxation does
        atoms.positions += rng.normal(size=atoms.positions.shape) * size[:, None]
    return atoms, centre


def force_table(qm, mm, crystal, cells):
    atoms, centre = vacancy(crystal, cells, np.random.default_rng(2))
    start = time.perf_counter()
    exact = qm.evaluate(atoms).forces
    print(
        f"\nForces on {len(atoms)} atoms; full tight binding: {time.perf_counter() - start:.1f} s", flush=True
    )
    print("carving    r_qm  r_buffer  atoms  qm atoms   time   error on qm atoms (eV/Å)   on mm atoms")
    print(
        "             Å       Å    in call             s        largest    rms           largest", flush=True
    )
    rows = []
    for kind, r_qm, r_buffer in FORCE_CASES:
        regions = Regions.from_distance(atoms, centre, r_qm=r_qm, r_buffer=r_buffer)
        calc = ForceMixingCalculator(qm, mm, regions, cluster=kind)
        calc.prepare(atoms)
        start = time.perf_counter()
        error = np.linalg.norm(calc.get_forces(atoms) - exact, axis=1)
        seconds = time.perf_counter() - start
        mask = calc.regions.qm
        size = sum(len(c.index) for c in calc.clusters)
        row = (kind, r_qm, r_buffer, size, int(mask.sum()), seconds)
        row += (error[mask].max(), float(np.sqrt(np.mean(error[mask] ** 2))), error[~mask].max())
        rows.append(row)
        print("{:9} {:5.1f} {:8.1f} {:7d} {:9d} {:8.2f} {:14.4f} {:9.4f} {:13.4f}".format(*row), flush=True)
    return rows


def ball_table(qm, mm, crystal, cells):
    rng = np.random.default_rng(2)
    atoms = crystal.supercell(cells, cubic=True)
    atoms.positions += rng.normal(size=atoms.positions.shape) * 0.03
    exact = qm.evaluate(atoms).forces
    middles = rng.choice(len(atoms), 8, replace=False)
    print(
        f"\nForce on the middle atom of open balls: {len(middles)} of {len(atoms)} atoms of a rattled crystal"
    )
    print("radius Å  atoms  rms error (eV/Å)  largest  rms without dead load", flush=True)
    rows = []
    for radius in BALLS:
        errors = {True: [], False: []}
        sizes = []
        for middle in middles:
            for dead_load in (True, False):
                regions = Regions.from_distance(atoms, int(middle), r_qm=0.1, r_buffer=radius - 0.1)
                calc = ForceMixingCalculator(qm, mm, regions, cluster="open", dead_load=dead_load)
                errors[dead_load].append(np.linalg.norm(calc.get_forces(atoms)[middle] - exact[middle]))
            sizes.append(len(calc.clusters[0].index))
        corrected, plain = np.array(errors[True]), np.array(errors[False])
        row = (
            radius,
            np.mean(sizes),
            np.sqrt(np.mean(corrected**2)),
            corrected.max(),
            np.sqrt(np.mean(plain**2)),
        )
        rows.append(row)
        print("{:8.1f} {:6.0f} {:17.4f} {:8.4f} {:22.4f}".format(*row), flush=True)
    return rows


def relaxation_table(qm, mm, crystal, cells, fmax):
    start, centre = vacancy(crystal, cells)

    def relaxed(calc):
        atoms = start.copy()
        atoms.calc = calc
        begin = time.perf_counter()
        with PreconLBFGS(atoms, precon="Exp", use_armijo=False, logfile=None) as optimizer:
            if not optimizer.run(fmax=fmax, steps=100):
                raise RuntimeError(f"not converged: {calc!r}")
        return atoms.positions, time.perf_counter() - begin, optimizer.nsteps

    exact, seconds, steps = relaxed(qm)
    size = energy_norm(exact - start.positions, start)
    print(
        f"\nRelaxed vacancy, {len(start)} atoms, fmax {fmax:g} eV/Å; "
        f"full tight binding: {seconds:.0f} s, {steps} steps"
    )
    print(f"||Du|| = {size:.4f} Å")
    print("r_qm Å  qm atoms  atoms in call  ||Du - Du_H|| (Å)  largest (Å)  time s  steps", flush=True)
    rows = []
    for r_qm, r_buffer in RELAXED:
        regions = Regions.from_distance(start, centre, r_qm=r_qm, r_buffer=r_buffer)
        calc = ForceMixingCalculator(qm, mm, regions)
        positions, seconds, steps = relaxed(calc)
        difference = positions - exact
        rows.append((r_qm, int(regions.qm.sum()), sum(len(c.index) for c in calc.clusters)))
        rows[-1] += (energy_norm(difference, start), np.linalg.norm(difference, axis=1).max(), seconds, steps)
        print("{:6.1f} {:9d} {:14d} {:18.5f} {:12.5f} {:7.0f} {:6d}".format(*rows[-1]), flush=True)
    return rows, size


def plot(forces, relaxed, size, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for kind, marker in (("open", "o"), ("periodic", "s")):
        rows = [row for row in forces if row[0] == kind]
        left.semilogy([r[3] for r in rows], [r[7] for r in rows], marker, label=f"{kind}, rms")
        left.semilogy(
            [r[3] for r in rows],
            [r[6] for r in rows],
            marker,
            mfc="none",
            color="0.4",
            label=f"{kind}, largest",
        )
        offset = 6
        for row in rows:
            left.annotate(
                f"{row[1]:g}+{row[2]:g}",
                (row[3], row[7]),
                textcoords="offset points",
                xytext=(6, offset - 8),
                fontsize=7,
            )
    left.set_xlabel("atoms in the quantum call (label: r_qm + r_buffer in Å)")
    left.set_ylabel("force error on qm atoms (eV/Å)")
    left.legend()
    radii, errors = [r[0] for r in relaxed], [r[3] for r in relaxed]
    right.loglog(radii, errors, "s-", label="mixture")
    right.loglog(
        radii,
        errors[0] * (np.array(radii) / radii[0]) ** -4.5,
        "k--",
        lw=1,
        label="r_qm^-4.5 (theory, 3D point defect)",
    )
    right.axhline(size, color="0.6", lw=1, label="||Du|| itself")
    right.set_xticks(radii, [f"{r:g}" for r in radii])
    right.minorticks_off()
    right.set_xlabel("r_qm (Å)")
    right.set_ylabel("||Du - Du_H|| (Å)")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=130)


def write_csv(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=5, help="cubic cells per side for the force tables")
    parser.add_argument("--relax-cells", type=int, default=4, help="cubic cells per side for the relaxations")
    parser.add_argument("--fmax", type=float, default=1e-3, help="eV/Å")
    parser.add_argument(
        "--output", type=Path, default=Path("si_vacancy_convergence"), help="prefix of files written"
    )
    options = parser.parse_args(arguments)

    qm = TightBinding("nrl-Si-sp", kT=KT)
    crystal = Crystal.relaxed(bulk("Si"), qm)
    mu = fermi_level(qm, crystal)
    print(f"{crystal!r}\nFermi level of the crystal: {mu:.4f} eV", flush=True)
    fixed = qm.with_options(mu=mu)
    # The smallest QM region leaves second neighbours of the vacancy to the expansion; allow that here.
    mm = TaylorForces.from_calculator(fixed, crystal, order=1, cutoff=8.0, missing_tolerance=0.02)
    forces = force_table(fixed, mm, crystal, options.cells)
    balls = ball_table(fixed, mm, crystal, options.cells)
    relaxed, size = relaxation_table(fixed, mm, crystal, options.relax_cells, options.fmax)

    prefix = str(options.output)
    header = [
        "carving",
        "r_qm",
        "r_buffer",
        "atoms",
        "qm_atoms",
        "seconds",
        "error_max",
        "error_rms",
        "error_mm_max",
    ]
    write_csv(f"{prefix}_forces.csv", header, forces)
    header = ["radius", "atoms", "error_rms", "error_max", "error_rms_without_dead_load"]
    write_csv(f"{prefix}_balls.csv", header, balls)
    header = ["r_qm", "qm_atoms", "atoms", "norm", "largest", "seconds", "steps"]
    write_csv(f"{prefix}_relaxed.csv", header, relaxed)
    plot(forces, relaxed, size, f"{prefix}.png")
    print(f"\nwrote {prefix}_forces.csv, {prefix}_balls.csv, {prefix}_relaxed.csv, {prefix}.png")


if __name__ == "__main__":
    main()
