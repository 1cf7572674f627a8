"""Bands and density of states of silicon in NRL tight binding: one picture, and the edges of the gap."""

import argparse

from ase.build import bulk

from ase_qmmm import TightBinding, band_gap, band_structure, density_of_states
from ase_qmmm.plotting import plot_bands

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--model", default="nrl-Si-sp", help="parameters of silicon")
parser.add_argument("--a", type=float, default=5.42635, help="lattice constant, Å")
parser.add_argument("--path", default="LGXUG", help="special points")
parser.add_argument("--npoints", type=int, default=200, help="k-points on the path")
parser.add_argument("--kpts", type=int, default=32, help="k-points per direction for the density of states")
parser.add_argument("--width", type=float, default=0.1, help="of the Gaussians, eV")
parser.add_argument("--output", default="si_bands.png")
options = parser.parse_args()

atoms = bulk("Si", a=options.a)
calc = TightBinding(options.model)

bands = band_structure(calc, atoms, options.path, options.npoints)
print(f"Fermi level at kT = {calc.kT} eV: {bands.reference:.3f} eV")
print(band_gap(calc, atoms))

# One entry for each orbital of each site; ASE sums those of a shell.
dos = density_of_states(calc, atoms, (options.kpts,) * 3, width=options.width)
shells = dos.sum_by("species", "l")
electrons = {d.info["l"]: d.get_weights().sum() * (d.get_energies()[1] - d.get_energies()[0]) for d in shells}
print("states in the cell:", ", ".join(f"{l} {n:.2f}" for l, n in electrons.items()))

plot_bands(bands, shells, emax=8.0, path=options.output, title=f"{options.model}, a = {options.a} Å")
print(f"wrote {options.output}")
