"""Error of Taylor models against the size of the displacements, for three quantum models.

A Taylor model of order k errs with the power k + 1 of the displacement differences g, until what its cutoff
leaves out is all that is left: then the error is that of the truncated lower orders. The script displaces all
atoms of a perfect crystal at random, scales the displacements, and compares site energies and forces with
the model: the papers' toy model on the two-dimensional triangular lattice, tight-binding silicon, and
embedded-atom tungsten, whose range ends, so that nearly nothing is left out.

Run ``python examples/taylor_convergence.py`` (some minutes on one core). ``--trial`` is a trial run.
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
from ase import Atoms
from ase.build import bulk

from ase_qmmm import EAM, Crystal, TaylorForces, TaylorPotential, TightBinding, fermi_level

COLOURS = {1: "#0072b2", 2: "#d55e00", 3: "#009e73", 4: "#cc79a7"}  # by order


def toy(trial):
    """Model, crystal, supercell, and cutoffs (Å) by order of site energies and of forces."""
    qm = TightBinding("toy", kT=0.3)
    lattice = [[2.5, 0, 0], [1.25, 2.5 * np.sqrt(0.75), 0], [0, 0, 0]]
    crystal = Crystal.relaxed(Atoms("Ni", cell=lattice, pbc=(1, 1, 0)), qm)
    if trial:
        return qm, crystal, crystal.supercell(6), (4.8, 4.8, 2.8), (4.8, 4.8)
    return qm, crystal, crystal.supercell(8), (8.2, 8.2, 5.5, 2.8), (8.2, 5.5, 4.8)


def silicon(trial):
    """As :func:`toy`."""
    qm = TightBinding("nrl-Si-sp", kT=0.1)
    crystal = Crystal.relaxed(bulk("Si"), qm)
    if trial:
        return qm, crystal, crystal.supercell(1, cubic=True), (4.0, 2.5), (4.0, 2.5)
    return qm, crystal, crystal.supercell(2, cubic=True), (8.0, 6.0, 4.0), (8.0, 5.0, 4.0)


def tungsten(trial):
    """As :func:`toy`."""
    qm = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W"), qm)
    if trial:
        return qm, crystal, crystal.supercell(3, cubic=True), (4.0, 4.0), (4.0, 4.0)
    return qm, crystal, crystal.supercell(5, cubic=True), (6.13, 6.13, 6.13, 3.2), (12.3, 7.0, 4.6)


def errors(qm, models, atoms, sizes, rng):
    """Largest errors (sizes, models, 2) of site energies (eV) and forces (eV/Å), and the rms of g."""
    u = rng.normal(size=atoms.positions.shape) * atoms.pbc
    crystal = models[0].crystal
    near = len(crystal.stencil(0, 1.2 * crystal.nearest_neighbour_distance))
    # The grid of k-points shifts the energy of the perfect crystal: no matter of the expansion.
    shift = qm.evaluate(atoms).energies - models[0].evaluate(atoms).energies
    out, lengths = np.zeros((len(sizes), len(models), 2)), []
    for row, size in enumerate(sizes):
        image = atoms.copy()
        image.positions += size * u
        expected = qm.evaluate(image)
        g = models[0].match(image).displacements(image.positions)
        lengths.append(np.sqrt((g[:, :near] ** 2).sum(axis=2).mean()))
        for column, model in enumerate(models):
            got = model.evaluate(image)
            out[row, column] = (
                np.abs(got.energies - expected.energies + shift).max(),
                np.abs(got.forces - expected.forces).max(),
            )
    return out, np.array(lengths)


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trial", action="store_true", help="small stencils and cells")
    parser.add_argument("--output", default="docs/taylor_convergence.png")
    options = parser.parse_args(args)

    sizes = np.geomspace(0.002, 0.1, 4 if options.trial else 9)
    figure, axes = plt.subplots(2, 3, figsize=(11.6, 6.8), layout="constrained")
    for column, (title, make) in enumerate(
        (("toy model, 2D", toy), ("silicon, tight binding", silicon), ("tungsten, EAM", tungsten))
    ):
        qm, crystal, atoms, energy_cutoffs, force_cutoffs = make(options.trial)
        reference = qm
        if isinstance(qm, TightBinding):
            qm = qm.with_options(mu=fermi_level(qm, crystal))
            n_k = 2 if options.trial else 3
            kpts = {"size": [n_k if periodic else 1 for periodic in atoms.pbc], "gamma": True}
            reference = qm.with_options(kpts=kpts)
        potentials = [
            TaylorPotential.from_calculator(qm, crystal, order=k, cutoff=energy_cutoffs[:k])
            for k in range(2, len(energy_cutoffs) + 1)
        ]
        forces = [
            TaylorForces.from_calculator(qm, crystal, order=k, cutoff=force_cutoffs[:k])
            for k in range(1, len(force_cutoffs) + 1)
        ]
        rng = np.random.default_rng(1)
        found, lengths = errors(reference, potentials + forces, atoms, sizes, rng)
        print(title)
        for number, model in enumerate(potentials + forces):
            row = 0 if number < len(potentials) else 1
            axis, k = axes[row, column], model.order
            y = found[:, number, row]
            cutoffs = ", ".join(f"{r:g}" for r in model.cutoffs.values())
            axis.loglog(lengths, y, "o-", ms=4, color=COLOURS[k], label=f"order {k}: {cutoffs} Å")
            axis.loglog(lengths, y[-1] * (lengths / lengths[-1]) ** (k + 1), ":", lw=1, color=COLOURS[k])
            print(f"  {model}")
            print("    |g| (Å):", *(f"{x:9.2e}" for x in lengths))
            print("    error:  ", *(f"{x:9.2e}" for x in y))
        for row, what in enumerate(("site energy (eV)", "force (eV/Å)")):
            axis = axes[row, column]
            axis.set_ylabel(f"largest error of a {what}")
            axis.grid(alpha=0.25, lw=0.5)
            axis.legend(fontsize=8, frameon=False)
            low = found[:, :, row].min()
            axis.set_ylim(low / 3, None)
        axes[0, column].set_title(title)
        axes[1, column].set_xlabel("rms of |g|, nearest neighbours (Å)")
    figure.suptitle("Taylor models against the models they come from; dotted: power k + 1", fontsize=12)
    figure.savefig(options.output, dpi=150)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
