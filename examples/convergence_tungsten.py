"""How fast do mixtures converge? Point defects and an edge dislocation in tungsten, several orders.

The setting of the papers' first example (QM/MM for crystalline defects, part 3, section 4.2): an
embedded-atom potential stands for the quantum model, so that the exact answer is cheap. Against it stand

- force mixing with Taylor forces of order K_F = 1, 2;
- energy mixing with Taylor site energies of order K_E = 2, 3, which have no ghost forces to correct: their
  first derivatives at the crystal are exact.

Buffers and stencils hold the whole range of the potential, and both sides share the far field (a periodic
cell, or a frozen rim for the dislocation): what is seen is the radius of the quantum region. Theory (part
3, table 1):

=========================  =============  =============
case                       K_F 1, K_E 2   K_F 2, K_E 3
=========================  =============  =============
``vacancy-2d`` (a column)  -3             -5
``vacancy-3d``             -4.5           -7.5
``interstitial-3d``        -4.5           -7.5
``edge``                   -1             -2
=========================  =============  =============

The interstitial is a [110] dumbbell: its elastic far field is some twenty times stronger than that of the
vacancy, whose near field rules up to about 20 Å. ``--decay`` prints the strain ``|Du(l)|`` by distance, and
the part of it from which the errors come.

Run ``python examples/convergence_tungsten.py vacancy-2d`` (or one of the other cases; one to four minutes
each on one core, in three dimensions, 35 000 atoms, with ``--orders 1``). ``--size`` makes the far field
larger, ``--radii`` sets the quantum regions, ``--folder`` keeps relaxed structures and resumes.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.geometry import find_mic

from ase_qmmm import (
    EAM,
    Crystal,
    EnergyMixingCalculator,
    ForceMixingCalculator,
    TaylorForces,
    TaylorPotential,
    displacement_gradient,
)
from ase_qmmm.defects import edge_dislocation, elastic_constants, interstitial, vacancy
from ase_qmmm.studies import Scheme, convergence_study


@dataclass
class Case:
    """Settings of one defect: half width of the cell or radius of the cylinder, and radii (Å)."""

    size: float
    radii: list[float]
    fit_from: float
    theory: dict[int, float]  # exponent by order of the forces
    energy_theory: dict[int, float]
    fmax: float


RADII_3D = [8.0, 10.0, 12.5, 15.5, 19.0, 23.0, 27.0]

CASES = {
    "vacancy-2d": Case(
        64.0, [7.0, 8.5, 10.0, 12.0, 14.5, 17.5, 21.0, 25.0], 12.0, {1: -3, 2: -5}, {1: -4, 2: -6}, 1e-10
    ),
    "vacancy-3d": Case(41.0, RADII_3D, 15.0, {1: -4.5, 2: -7.5}, {1: -6, 2: -9}, 1e-11),
    "interstitial-3d": Case(41.0, RADII_3D, 15.0, {1: -4.5, 2: -7.5}, {1: -6, 2: -9}, 1e-9),
    "edge": Case(120.0, [10.0, 14.0, 20.0, 28.0, 40.0], 14.0, {1: -1, 2: -2}, {1: -2, 2: -3}, 1e-8),
}


def structure(name, crystal, qm, size):
    """The defect before relaxation, and its place."""
    if name == "edge":
        atoms = edge_dislocation(
            crystal,
            (1, 0, 0),
            plane=(0, 0, 1),
            elastic_constants=elastic_constants(qm, crystal),
            radius=size,
            frozen_width=2 * qm.cutoff,
        )
        return atoms, atoms.info["core"]
    n = round(2 * size / np.abs(crystal.unit_cell.cell.array).max() / 2)
    if name == "interstitial-3d":
        atoms = interstitial(crystal, n, "dumbbell", direction=(1, 1, 0))
    else:
        atoms = vacancy(crystal, (n, n, 1 if name == "vacancy-2d" else n))
    return atoms, atoms.info["core"]


def schemes(qm, crystal, orders, mixing=("force", "energy")):
    """By name, and the order of the forces of each."""
    rc = qm.cutoff
    # Beyond 2 r_c forces do not depend on each other; force constants beyond 8 Å are below 1e-7 of the
    # largest.
    forces = {1: (8.0,), 2: (8.0, rc)}
    energies = {1: (rc, rc), 2: (rc, rc, 4.6)}
    out, order_of = {}, {}
    for k in orders if "force" in mixing else ():
        mm = TaylorForces.from_calculator(qm, crystal, order=k, cutoff=forces[k])
        out[f"force mixing, order {k}"] = Scheme(mm, ForceMixingCalculator, {"cluster": "open"})
        order_of[f"force mixing, order {k}"] = k
    for k in orders if "energy" in mixing else ():
        mm = TaylorPotential.from_calculator(qm, crystal, order=k + 1, cutoff=energies[k])
        out[f"energy mixing, order {k + 1}"] = Scheme(
            mm, EnergyMixingCalculator, {"cluster": "open", "ghost_force_correction": False}
        )
        order_of[f"energy mixing, order {k + 1}"] = k
    return out, order_of


def decay(reference, atoms, centre):
    """Distances (Å) from a point defect, and the strain ``|Du(l)|`` (Å) of each atom."""
    distances = find_mic(atoms.positions - centre, atoms.cell)[1]
    u = find_mic(reference.positions - atoms.positions, atoms.cell)[0]
    return distances, displacement_gradient(u, atoms)


def print_decay(study, atoms, centre, radii, order):
    """The strain in shells, and what theory makes of it: an error in proportion to the norm of its powers.

    What the expansion of order K leaves out is ``|Du(l)|^(K+1)`` outside the quantum region.
    """
    distances, strain = decay(study.reference, atoms, centre)
    edges = np.geomspace(6.0, atoms.cell.lengths()[:2].min() / 2, 12)
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        shell = (distances >= low) & (distances < high)
        if shell.any():
            middle = np.exp(np.log(distances[shell]).mean())
            print(f"|Du| at {middle:6.2f} Å: {np.sqrt((strain[shell] ** 2).mean()):.3e} Å")
    for r in radii:
        tail = np.sqrt((strain[distances > r] ** (2 * order + 2)).sum())
        print(f"(sum of |Du|^{2 * order + 2})^1/2 beyond {r:5.1f} Å: {tail:.3e}")


def main(arguments=None):
    """Run one case, print its table and slopes, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--size", type=float, help="half width of the cell, or radius of the cylinder (Å)")
    parser.add_argument("--radii", type=float, nargs="+", help="of the quantum regions (Å)")
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 2], choices=(1, 2), help="of the forces")
    parser.add_argument("--mixing", nargs="+", default=["force", "energy"], choices=("force", "energy"))
    parser.add_argument("--fit-from", type=float, help="smallest radius of the fits (Å)")
    parser.add_argument("--decay", action="store_true", help="print the strain by distance from the centre")
    parser.add_argument("--fmax", type=float, help="eV/Å")
    parser.add_argument("--folder", type=Path, help="for relaxed structures; resumes from there")
    parser.add_argument("--output", type=Path, help="prefix of the table and the picture")
    options = parser.parse_args(arguments)
    if options.decay and options.case == "edge":
        parser.error("--decay: of point defects only; u of the edge begins at its elastic field")
    case = CASES[options.case]
    prefix = options.output or Path(f"convergence_tungsten_{options.case}")

    qm = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W", a=3.165), qm)
    atoms, centre = structure(options.case, crystal, qm, options.size or case.size)
    found, order_of = schemes(qm, crystal, options.orders, options.mixing)
    print(f"{options.case}: {len(atoms)} atoms, cell {atoms.cell.lengths().round(2)} Å", flush=True)
    study = convergence_study(
        atoms,
        qm,
        found,
        options.radii or case.radii,
        centre=centre,
        r_buffer=2 * qm.cutoff,
        fmax=options.fmax or case.fmax,
        start="reference",
        folder=options.folder,
    )
    print(study)
    if options.decay:
        for k in options.orders:
            print_decay(study, atoms, centre, sorted(options.radii or case.radii), k)
    fit_from = options.fit_from or case.fit_from
    for name, k in order_of.items():
        slope, error = study.slope(name, r_min=fit_from)
        line = f"{name}: ||Du - Du_H|| ~ R^{slope:.2f} +- {error:.2f} (theory {case.theory[k]:g})"
        if name.startswith("energy"):
            slope, error = study.slope(name, "energy_error", r_min=fit_from)
            line += f", energy R^{slope:.2f} +- {error:.2f} ({case.energy_theory[k]:g})"
        print(line)
    study.write_csv(f"{prefix}.csv")
    study.plot(
        f"{prefix}.png",
        {name: case.theory[k] for name, k in order_of.items()},
        {name: case.energy_theory[k] for name, k in order_of.items() if name.startswith("energy")},
    )
    return study


if __name__ == "__main__":
    main()
