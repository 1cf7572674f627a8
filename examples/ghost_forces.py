"""Ghost forces of energy mixing, and what removes them (part 3 of the papers, Fig. 4.2).

Tungsten with embedded atoms (Zhou et al. 2004) as quantum model. The far field is a linear ACE potential,
fitted to the first and second derivatives of its site energies in the crystal. Left: quantum atoms in the
perfect crystal, relaxed with the energy that is not corrected; every displacement is an error. Right: a
vacancy, unrelaxed; error of the forces against the quantum model everywhere, the largest in each shell, for
five ways to mix:

    python examples/ghost_forces.py --output ghost_forces.png
"""

import argparse

import numpy as np
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import LBFGS
from matplotlib.figure import Figure

from ase_qmmm import (
    EAM,
    ACEBasis,
    Crystal,
    EnergyMixingCalculator,
    ForceMixingCalculator,
    Regions,
)
from ase_qmmm.fitting import Observations, fit_ace, matching_errors

# Name, calculator, options, colour and marker.
METHODS = [
    ("energy, not corrected", EnergyMixingCalculator, {"ghost_force_correction": False}, "C3", "o"),
    ("energy, corrected, sharp", EnergyMixingCalculator, {"beta": "sharp"}, "C0", "s"),
    ("energy, corrected, blended", EnergyMixingCalculator, {"blend": 3.0}, "C4", "D"),
    ("energy, corrected, smooth beta", EnergyMixingCalculator, {"beta": "smooth"}, "C2", "^"),
    ("forces", ForceMixingCalculator, {}, "C1", "x"),
]
FLOOR = 1e-16  # eV/Å; smaller errors are drawn here
SHELL = 0.4  # Å


def fitted_ace(qm, crystal, order=3, degree=8, rattle=0.0):
    """ACE potential with the derivatives of the site energies of `qm` at the crystal, orders one and two.

    With `rattle` (Å) also the forces in a cell whose atoms are displaced at random by as much.
    """
    basis = ACEBasis(crystal.unit_cell.symbols[0], order=order, degree=degree, cutoff=qm.cutoff)
    data = Observations().add_site_derivatives(qm, crystal, 2, qm.cutoff)
    weights = {"crystal": {"dV1": 100.0}}  # Å^-2: a displacement by 0.1 Å counts both orders alike
    if rattle:
        atoms = crystal.supercell(4, cubic=True)
        atoms.rattle(rattle, seed=3)
        atoms.calc = SinglePointCalculator(atoms, forces=qm.get_property("forces", atoms))
        data.add_configurations(atoms, group="rattled")
        weights["rattled"] = {"forces": 0.0025}
    return fit_ace(basis, data, "rrqr", weights, tolerance=1e-7).potential


def mixtures(qm, mm, crystal, regions):
    """Name and calculator of each method."""
    return {
        name: make(qm, mm, regions, cluster="open", crystal=crystal, **options)
        for name, make, options, _, _ in METHODS
    }


def patch_test(qm, mm, crystal, cells, r_qm, r_buffer):
    """Largest force and, after relaxation, displacement in the perfect crystal; displacements uncorrected."""
    perfect = crystal.supercell(cells, cubic=True)
    middle = np.linalg.norm(perfect.positions - perfect.cell.sum(axis=0) / 2, axis=1)
    centre = perfect.positions[int(np.argmin(middle))]
    regions = Regions.from_distance(perfect, centre, r_qm, r_buffer)
    moved = {}
    print("patch test: largest force (eV/Å), largest displacement after relaxation (Å)")
    for name, calc in mixtures(qm, mm, crystal, regions).items():
        atoms = perfect.copy()
        atoms.calc = calc
        force = np.linalg.norm(atoms.get_forces(), axis=1).max()
        with LBFGS(atoms, logfile=None) as optimiser:
            optimiser.run(fmax=1e-5, steps=100)
        moved[name] = atoms.positions - perfect.positions
        print(f"  {name:31s} {force:9.2e} {np.linalg.norm(moved[name], axis=1).max():9.2e}")
    return perfect, centre, regions, moved


def vacancy_errors(qm, mm, crystal, cells, r_qm, r_buffer):
    """Distance of each atom from an unrelaxed vacancy, and errors of the forces of each method."""
    atoms = crystal.supercell(cells, cubic=True)
    lost = int(np.argmin(np.linalg.norm(atoms.positions - atoms.cell.sum(axis=0) / 2, axis=1)))
    place = atoms.positions[lost].copy()
    del atoms[lost]
    regions = Regions.from_distance(atoms, place, r_qm, r_buffer)
    exact = qm.get_property("forces", atoms)
    errors = {
        name: np.linalg.norm(calc.get_property("forces", atoms) - exact, axis=1)
        for name, calc in mixtures(qm, mm, crystal, regions).items()
    }
    distance = np.linalg.norm(atoms.positions - place, axis=1)
    print("vacancy: largest error of the force (eV/Å) on atoms nearer than 6.5 Å; on all")
    for name, error in errors.items():
        print(f"  {name:31s} {error[distance < 6.5].max():9.2e} {error.max():9.2e}")
    return distance, errors


def draw_patch(axes, perfect, centre, regions, displacement):
    """One layer of atoms with arrows."""
    layer = np.abs(perfect.positions[:, 2] - centre[2]) < 0.1
    x = perfect.positions[layer]
    u = displacement[layer]
    factor = 2.5 / np.linalg.norm(u, axis=1).max()
    for chosen, colour, label in ((~regions.qm, "C0", "MM"), (regions.qm, "C3", "QM")):
        axes.plot(*perfect.positions[chosen & layer][:, :2].T, "o", color=colour, ms=3, label=label)
    axes.quiver(
        x[:, 0], x[:, 1], *(factor * u[:, :2]).T, angles="xy", scale_units="xy", scale=1, width=4e-3, zorder=3
    )
    axes.set_aspect("equal")
    axes.set_xlabel("x (Å)")
    axes.set_ylabel("y (Å)")
    axes.set_title(f"perfect crystal, energy not corrected\ndisplacements × {factor:.0f}")
    axes.legend(loc="upper right")


def draw_errors(axes, distance, errors, r_qm):
    """Errors against distance."""
    number = np.floor(distance / SHELL).astype(int)
    shells = np.unique(number)
    for name, _, _, colour, marker in METHODS:
        largest = np.array([errors[name][number == k].max() for k in shells])
        radius = (shells + 0.5) * SHELL
        axes.semilogy(radius, np.maximum(largest, FLOOR), marker, color=colour, ms=5, mfc="none", label=name)
    axes.axvline(r_qm, color="0.5", lw=1)
    axes.set_xlabel("distance from the vacancy (Å)")
    axes.set_ylabel("error of the force (eV/Å)")
    axes.set_title("unrelaxed vacancy")
    axes.legend(fontsize=8)


def main(arguments=None):
    """Print the numbers, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=14, help="cubic cells per side")
    parser.add_argument(
        "--r-qm",
        type=float,
        default=12.5,
        help="Å; twice the range of the models, for the correction to reach all ghost forces",
    )
    parser.add_argument("--r-buffer", type=float, default=9.2, help="Å; the range and the blend")
    parser.add_argument("--degree", type=int, default=8, help="of the ACE basis")
    parser.add_argument("--output", help="picture")
    options = parser.parse_args(arguments)
    qm = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W"), qm)
    mm = fitted_ace(qm, crystal, degree=options.degree)
    print(matching_errors(qm, mm, crystal, kinds="E", cutoff=qm.cutoff))
    size = (options.cells, options.r_qm, options.r_buffer)
    perfect, centre, regions, moved = patch_test(qm, mm, crystal, *size)
    distance, errors = vacancy_errors(qm, mm, crystal, *size)
    if options.output:
        figure = Figure(figsize=(10.5, 4.8), layout="constrained")
        left, right = figure.subplots(1, 2)
        draw_patch(left, perfect, centre, regions, moved["energy, not corrected"])
        draw_errors(right, distance, errors, options.r_qm)
        figure.savefig(options.output, dpi=110)


if __name__ == "__main__":
    main()
