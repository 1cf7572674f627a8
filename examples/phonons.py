"""Phonons of silicon and tungsten: Taylor models beside the models that they are derived from.

The phonons of the model itself come from phonopy's own displacements of a supercell; those of the Taylor
model from its force constants, cut off at two radii. What differs is what the cutoff leaves out, which a
far-field model of dislocations and cracks should know about: the slopes at Gamma are the speeds of sound.
Embedded-atom tungsten has forces that end at 12.3 Å, and nearly so at 7 Å.

Run ``python examples/phonons.py`` (needs phonopy; some minutes). A trial run: ``--trial``.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from ase.build import bulk

from ase_qmmm import EAM, Crystal, TaylorForces, TightBinding
from ase_qmmm.taylor import phonon_band_structure
from ase_qmmm.taylor.phonons import THZ

COLOURS = ("#56b4e9", "#d55e00", "#009e73")  # apart for readers with colour-vision deficiency


def silicon(trial):
    """Name, model, crystal, path, cutoffs (Å), repeats of the cubic cell for phonopy."""
    qm = TightBinding("nrl-Si-sp", kT=0.1)
    crystal = Crystal.relaxed(bulk("Si"), qm)
    return (
        "silicon, tight binding",
        qm,
        crystal,
        "GXU,KGL",
        (4.0, 5.0) if trial else (5.0, 8.0),
        2 if trial else 3,
    )


def tungsten(trial):
    """As :func:`silicon`."""
    qm = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W"), qm)
    return (
        "tungsten, embedded atoms",
        qm,
        crystal,
        "GHPGN",
        (4.0, 5.0) if trial else (5.0, 12.3),
        3 if trial else 6,
    )


def exact_frequencies(calc, crystal, repeats, points):
    """Frequencies (THz) by phonopy, from `repeats`^3 cubic cells."""
    from phonopy import Phonopy
    from phonopy.structure.atoms import PhonopyAtoms

    cell = crystal.unit_cell
    unit = PhonopyAtoms(
        symbols=cell.get_chemical_symbols(),
        cell=cell.cell.array,
        scaled_positions=cell.get_scaled_positions(),
    )
    matrix = repeats * np.rint(crystal.cubic_vectors() @ np.linalg.inv(crystal.lattice))
    phonopy = Phonopy(unit, matrix.astype(int).T, primitive_matrix=np.eye(3))
    phonopy.generate_displacements(distance=0.01, is_plusminus=True)
    if isinstance(calc, TightBinding):
        # The k-points of a supercell must have its symmetry: centred at Gamma.
        calc = calc.with_options(kpts={"size": (2, 2, 2), "gamma": True})
    forces = []
    for s in phonopy.supercells_with_displacements:
        atoms = Atoms(s.symbols, cell=s.cell, scaled_positions=s.scaled_positions, pbc=True)
        forces.append(calc.get_property("forces", atoms))
    print(f"phonopy: {len(forces)} supercells of {len(atoms)} atoms")
    phonopy.forces = forces
    phonopy.produce_force_constants()
    phonopy.symmetrize_force_constants()
    phonopy.run_qpoints(points)
    return phonopy.qpoints.frequencies


def draw(axis, material, npoints):
    """One panel: thick grey lines the model, thin ones the Taylor models."""
    title, qm, crystal, path, cutoffs, repeats = material
    path = crystal.unit_cell.cell.bandpath(path, npoints=npoints)
    exact = exact_frequencies(qm, crystal, repeats, path.kpts)
    print(f"{title}: {exact[0, -1]:.2f} THz at Gamma, highest {exact.max():.2f} THz")
    x, ticks, labels = path.get_linear_kpoint_axis()
    axis.plot(x, exact, color="k", lw=3.0, alpha=0.35)
    axis.plot([], [], color="k", lw=3.0, alpha=0.35, label="phonopy")
    for cutoff, colour in zip(cutoffs, COLOURS, strict=False):
        mm = TaylorForces.from_calculator(qm, crystal, order=1, cutoff=cutoff)
        found = phonon_band_structure(mm, path).energies[0] / THZ
        error = np.sqrt(np.mean((found - exact) ** 2))
        print(
            f"Taylor model, {cutoff:g} Å: root mean square error {error:.2g} THz, largest "
            f"{np.abs(found - exact).max():.2g} THz"
        )
        axis.plot(x, found, color=colour, lw=1.2)
        axis.plot([], [], color=colour, lw=1.2, label=f"Taylor, {cutoff:g} Å")
    # U and K, where the path jumps by a reciprocal lattice vector, share a tick.
    names = {}
    for tick, label in zip(ticks, labels, strict=True):
        names.setdefault(round(float(tick), 9), []).append(label.replace("G", r"$\Gamma$"))
    for tick in names:
        axis.axvline(tick, color="k", lw=0.6)
    axis.set_xticks(list(names), ["|".join(label) for label in names.values()])
    axis.set_xlim(x[0], x[-1])
    axis.set_ylim(0, None)
    axis.set_title(title)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False, fontsize=8)


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trial", action="store_true", help="small stencils and supercells")
    parser.add_argument("--npoints", type=int, default=121)
    parser.add_argument("--output", default="docs/phonons.png")
    options = parser.parse_args(args)

    figure, axes = plt.subplots(1, 2, figsize=(9.2, 4.4), layout="constrained")
    for axis, material in zip(axes, (silicon, tungsten), strict=True):
        draw(axis, material(options.trial), options.npoints)
    axes[0].set_ylabel("frequency (THz)")
    figure.savefig(options.output, dpi=150)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
