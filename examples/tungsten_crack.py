"""Relax a crack in tungsten with force mixing, and compare with the potential alone.

A (010)[001] crack in a cylinder whose frozen rim holds the near-tip elastic field of a stress intensity
factor K. The embedded-atom potential of Zhou et al. (2004) treats the tip and the flanks, which are surfaces
that an expansion about the crystal does not know; Taylor forces matched to it treat the rest. Griffith's
K_G comes from the surface energy and the elastic constants.

``--balance`` measures K_G without either: two cracks share the rim and differ in the place of the tip by one
lattice constant a. Their energies differ by ``a c (2 gamma - G)``, c the thickness, which is zero at K_G.

Run ``python examples/tungsten_crack.py`` (half a minute on one core).
"""

import argparse
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.constraints import FixAtoms

from ase_qmmm import EAM, Crystal, ForceMixingCalculator, Regions, TaylorForces
from ase_qmmm.defects import (
    CrackPredictor,
    crack,
    elastic_constants,
    griffith_stress_intensity,
    surface_energy,
)
from ase_qmmm.neighbours import neighbour_pairs
from ase_qmmm.preconditioning import PreconditionedLBFGS

PLANE, FRONT = (0, 1, 0), (0, 0, 1)  # in the axes of the crystal, which are those of the crack
FLANK = 6.0  # Å: the QM region goes on this deep below the flanks


class Study:
    """Model, crystal and load in one place."""

    def __init__(self, radius):
        self.qm = EAM("W-zhou04")
        self.crystal = Crystal.relaxed(bulk("W", a=3.165), self.qm)
        self.constants = elastic_constants(self.qm, self.crystal)
        self.radius = radius
        self.k_g = griffith_stress_intensity(
            self.crystal,
            PLANE,
            FRONT,
            elastic_constants=self.constants,
            surface_energy=surface_energy(self.qm, self.crystal, PLANE),
        )

    def crack(self, load):
        """The crack at ``load K_G``, its rim held, at the predictor."""
        atoms = crack(
            self.crystal,
            PLANE,
            FRONT,
            load * self.k_g,
            elastic_constants=self.constants,
            radius=self.radius,
            frozen_width=2 * self.qm.cutoff,
        )
        atoms.set_constraint(FixAtoms(mask=atoms.arrays["frozen"]))
        return atoms

    def regions(self, atoms, r_tip):
        """QM atoms around the tip and along the flanks; those at the flanks of the rim are held."""
        buffer = 2 * self.qm.cutoff
        tip = Regions.from_distance(atoms, atoms.info["core"], r_tip, buffer)
        flanks = Regions.detect(atoms, self.crystal, FLANK, buffer)
        frozen = atoms.arrays["frozen"]
        return Regions((tip.qm & ~frozen) | flanks.qm, tip.buffer | flanks.buffer, frozen)

    def relaxed(self, atoms, calc, fmax):
        """A relaxed copy."""
        copy = atoms.copy()
        copy.calc = calc
        if not PreconditionedLBFGS(copy, logfile=None).run(fmax=fmax, steps=300):
            raise RuntimeError(f"not relaxed to {fmax} eV/Å in 300 steps")
        return copy

    def balance(self, load, fmax):
        """Energy (J/m^2) of advance by a lattice constant, ``2 gamma - G`` of the cracks themselves."""
        period = float(self.crystal.cubic_vectors()[0, 0])
        atoms = self.crack(load)
        frozen, reference, core = (
            atoms.arrays["frozen"],
            atoms.arrays["reference_positions"],
            atoms.info["core"],
        )
        energies = []
        for place in (0.0, -period):
            y = {}
            # The rim belongs to a tip in the middle of the two.
            for part, x in (("free", place), ("rim", -period / 2)):
                field = CrackPredictor(self.constants, load * self.k_g, tip=core + [x, 0, 0])
                y[part] = reference + field.displacement(reference)
            copy = atoms.copy()
            copy.set_constraint()
            copy.positions = np.where(frozen[:, None], y["rim"], y["free"])
            copy.set_constraint(FixAtoms(mask=frozen))
            energies.append(self.relaxed(copy, self.qm, fmax).get_potential_energy())
        return (energies[0] - energies[1]) / (period * atoms.cell[2, 2]) * 16.0218


def tip_place(atoms, near):
    """Where the last broken bond (over 1.3 nearest-neighbour distances) of the crack plane was, x in Å."""
    perfect = atoms.copy()
    perfect.positions = reference = atoms.arrays["reference_positions"]
    i, j, bonds = neighbour_pairs(perfect, 1.1 * near, "ijD")
    y = reference[:, 1] - atoms.info["core"][1]
    across = (y[i] < 0) & (y[j] > 0)
    i, j, bonds = i[across], j[across], bonds[across]
    moved = atoms.positions - reference
    broken = np.linalg.norm(bonds + moved[j] - moved[i], axis=1) > 1.3 * near
    return float((reference[i, 0] + bonds[:, 0] / 2)[broken].max() - atoms.info["core"][0])


def draw(path, found, radius):
    """Relaxed mixtures by region, and where they differ from the potential alone."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(found), 8.6), layout="constrained")
    FigureCanvasAgg(figure)
    rows = figure.subplots(2, len(found), squeeze=False)
    colours = np.array(["#d9d9d9", "#9ecae1", "#d55e00", "#6e6e6e"])
    for k, (load, atoms, regions, difference) in enumerate(found):
        place = atoms.positions - atoms.info["core"]
        distance = np.linalg.norm(place[:, :2], axis=1)
        axes = rows[0, k]
        axes.scatter(
            place[:, 0], place[:, 1], c=colours[regions.numbers], s=9, edgecolors="k", linewidths=0.2
        )
        axes.set(
            title=f"K = {load:g} K_G",
            xlabel="x (Å)",
            ylabel="y (Å)",
            xlim=(-45, 35),
            ylim=(-40, 40),
            aspect="equal",
        )
        axes = rows[1, k]
        free = ~regions.frozen
        for number, label in ((2, "QM"), (1, "buffer, MM forces"), (0, "MM")):
            mine = free & (regions.numbers == number)
            axes.semilogy(
                distance[mine], difference[mine] + 1e-9, ".", ms=3, color=colours[number], label=label
            )
        axes.set(
            xlabel="distance from the tip (Å)",
            ylabel="difference to the potential alone (Å)",
            ylim=(1e-5, 1e-1),
        )
        axes.set_xlim(0, radius)
    rows[1, 0].legend(loc="lower left")
    figure.savefig(path, dpi=75)


def main(arguments=None):
    """Relax at each load, print a table and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--radius", type=float, default=60.0, help="of the cylinder (Å)")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.9, 1.0, 1.1], help="in units of K_G")
    parser.add_argument("--r-tip", type=float, default=20.0, help="radius of the QM region at the tip (Å)")
    parser.add_argument("--order", type=int, default=2, choices=(1, 2), help="of the Taylor forces")
    parser.add_argument("--fmax", type=float, default=1e-4, help="eV/Å")
    parser.add_argument("--balance", action="store_true", help="K_G from energies as well")
    parser.add_argument("--output", type=Path, default=Path("tungsten_crack.png"), help="the picture")
    options = parser.parse_args(arguments)

    study = Study(options.radius)
    near = study.crystal.nearest_neighbour_distance
    mm = TaylorForces.from_calculator(
        study.qm, study.crystal, order=options.order, cutoff=(8.0, study.qm.cutoff)[: options.order]
    )
    print(f"K_G = {study.k_g:.4f} MPa sqrt(m)", flush=True)
    found = []
    for load in options.loads:
        start = study.crack(load)
        regions = study.regions(start, options.r_tip)
        alone = study.relaxed(start, study.qm, options.fmax)
        mixture = ForceMixingCalculator(study.qm, mm, regions, cluster="open")
        mixed = study.relaxed(start, mixture, options.fmax)
        difference = np.linalg.norm(mixed.positions - alone.positions, axis=1)
        size = np.linalg.norm(alone.positions - start.positions, axis=1).max()
        close = np.linalg.norm((start.positions - start.info["core"])[:, :2], axis=1) < 8.0
        found.append((load, mixed, regions, difference))
        print(
            f"{load:.2f} K_G: last broken bond at x = {tip_place(alone, near):.2f} Å, in the mixture at "
            f"{tip_place(mixed, near):.2f} Å; relaxed by up to {size:.2f} Å, mixture off by up to "
            f"{difference.max():.1e} Å, {difference[close].max():.1e} Å within 8 Å of the tip; {regions}",
            flush=True,
        )
        if options.balance:
            print(f"    2 gamma - G = {study.balance(load, options.fmax):+.3f} J/m^2", flush=True)
    draw(options.output, found, options.radius)
    return study, found


if __name__ == "__main__":
    main()
