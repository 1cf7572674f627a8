"""Phonons of silicon: the Taylor model beside the tight binding that it is derived from.

The quantum model's phonons come from phonopy's own displacements of a supercell; those of the Taylor model
from its force constants, cut off at two radii. What differs is what the cutoff leaves out, which a far-field
model of dislocations and cracks should know about: the slopes at Gamma are the speeds of sound.

Run ``python examples/si_phonons.py`` (needs phonopy; about a minute). A trial run:
``--repeats 2 --cutoffs 4 5``.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from ase.build import bulk

from ase_qmmm import Crystal, TaylorForces, TightBinding
from ase_qmmm.taylor import phonon_band_structure
from ase_qmmm.taylor.phonons import THZ

COLOURS = ("#56b4e9", "#d55e00", "#009e73")  # apart for readers with colour-vision deficiency


def quantum_frequencies(calc, crystal, repeats, kpts, points):
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
    # The k-points of a supercell must have its symmetry: centred at Gamma.
    calc = calc.with_options(kpts={"size": (kpts,) * 3, "gamma": True})
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


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nrl-Si-sp")
    parser.add_argument("--cutoffs", type=float, nargs="+", default=[5.0, 8.0], help="Å")
    parser.add_argument("--repeats", type=int, default=3, help="of the cubic cell, for phonopy")
    parser.add_argument("--kpts", type=int, default=2, help="k-points per direction of that supercell")
    parser.add_argument("--npoints", type=int, default=121)
    parser.add_argument("--output", default="docs/si_phonons.png")
    options = parser.parse_args(args)

    qm = TightBinding(options.model, kT=0.1)
    crystal = Crystal.relaxed(bulk("Si"), qm)
    path = crystal.unit_cell.cell.bandpath("GXU,KGL", npoints=options.npoints)
    exact = quantum_frequencies(qm, crystal, options.repeats, options.kpts, path.kpts)
    print(f"quantum model: {exact[0, -1]:.2f} THz at Gamma, highest {exact.max():.2f} THz")

    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    x, ticks, labels = path.get_linear_kpoint_axis()
    axis.plot(x, exact, color="k", lw=3.0, alpha=0.35)
    axis.plot([], [], color="k", lw=3.0, alpha=0.35, label="tight binding (phonopy)")
    for cutoff, colour in zip(options.cutoffs, COLOURS, strict=False):
        mm = TaylorForces.from_calculator(qm, crystal, order=1, cutoff=cutoff)
        bands = phonon_band_structure(mm, path)
        found = bands.energies[0] / THZ
        error = np.sqrt(np.mean((found - exact) ** 2))
        print(
            f"Taylor model, {cutoff:g} Å: {found[0, -1]:.2f} THz at Gamma, root mean square error "
            f"{error:.3f} THz, largest {np.abs(found - exact).max():.3f} THz"
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
    axis.set_ylabel("frequency (THz)")
    figure.legend(loc="outside upper center", ncols=1 + len(options.cutoffs), frameon=False)
    figure.savefig(options.output, dpi=150)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
