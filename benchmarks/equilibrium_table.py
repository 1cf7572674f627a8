"""Lattice constants, energies and bulk moduli of the packaged NRL sets against their reference values.

    python benchmarks/equilibrium_table.py              # all sets: a few minutes
    python benchmarks/equilibrium_table.py nrl-Si-sp    # some of them

Band energy at kT = 0.1 eV on a shifted Monkhorst–Pack grid of the primitive cell, at nine lattice constants
within 3 %, fitted by a cubic polynomial in V^(-2/3). Reference values: the packaged parameter file, with the
same structure, grid and fit from an independent implementation. Prints the table of docs/models.md.
"""

import argparse
import json
from importlib import resources

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.units import GPa

from ase_qmmm import TightBinding
from ase_qmmm.tightbinding import load_model, model_names


def primitive_cell(model, structure, a):
    """Primitive cell of a structure as the reference names it, e.g. ``hcp c/a 1.588 fixed``."""
    words = structure.split()
    symbols = load_model(model).symbols
    if words[0] == "L1_0":
        side, c = a / np.sqrt(2), a * float(words[2])
        return Atoms(symbols, [[0, 0, 0], [side / 2, side / 2, c / 2]], cell=[side, side, c], pbc=True)
    options = {"c": a * float(words[2])} if "c/a" in words else {}
    return bulk(symbols[0], words[0], a=a, **options)


def equilibrium(model, structure, a0, size, kT=0.1, energy="band", cutoff_form="smooth"):
    """Lattice constant (Å), energy per atom (eV) and bulk modulus (GPa) at the minimum of E(V)."""
    calc = TightBinding(model, kT=kT, kpts={"size": tuple(size)}, energy=energy, cutoff_form=cutoff_form)
    lengths = a0 * np.linspace(0.97, 1.03, 9)
    cells = [primitive_cell(model, structure, a) for a in lengths]
    volumes = np.array([atoms.get_volume() / len(atoms) for atoms in cells])
    energies = np.array([calc.evaluate(atoms).energy / len(atoms) for atoms in cells])
    x = volumes ** (-2 / 3)
    fit = np.polynomial.Polynomial.fit(x, energies, 3)
    roots = fit.deriv().roots()
    roots = roots[np.isreal(roots)].real
    best = roots[fit.deriv(2)(roots) > 0][0]
    volume = best**-1.5
    # At the minimum V d2E/dV2 = V (dx/dV)^2 d2E/dx2.
    modulus = volume * (2 / 3 * volume ** (-5 / 3)) ** 2 * fit.deriv(2)(best)
    a = a0 * (volume / volumes[len(volumes) // 2]) ** (1 / 3)
    return a, float(fit(best)), modulus / GPa


# Lattice constants (Å) about which the nine of the reference lie, found from its digits. On these grids the
# band energy of a metal is not smooth, so that another centre changes a by up to 5e-4 Å.
CENTRES = {
    "nrl-Al-spd": 4.00,
    "nrl-C-sp": 3.523,
    "nrl-Cu-spd": 3.52,
    "nrl-Cu-spd-unpub99": 3.52,
    "nrl-CuAu-spd": 3.912,
    "nrl-Fe-spd-para": 2.792,
    "nrl-Fe-spd-spin": 2.83,
    "nrl-Mo-spd": 3.12,
    "nrl-Pb-sp": 5.096,
    "nrl-Si-sp": 5.43,
    "nrl-Si-spd": 5.43,
    "nrl-Ti-spd": 2.93,
    "nrl-Ti-spd-NRL": 2.8725,
    "nrl-W-spd": 3.16,
    "nrl-W-spd-new": 3.16,
}


def references():
    """Of each set: name, parameters and reference, from the packaged file."""
    text = resources.files("ase_qmmm.tightbinding").joinpath("data/nrl_tb_params.json").read_text("utf-8")
    return {"nrl-" + key.replace("_", "-"): s for key, s in json.loads(text)["sets"].items()}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="default: all NRL sets")
    chosen = parser.parse_args(arguments).models
    sets = references()
    print(
        "| model | orbitals | electrons | cutoff (Å) | structure | a (Å) | reference | B (GPa) | reference |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in chosen or [n for n in model_names() if n in sets]:
        model, entry = load_model(name), sets[name]["equilibrium_kT0.1"]
        a, energy, modulus = equilibrium(name, entry["structure"], CENTRES[name], entry["kmesh"])
        orbitals = ", ".join(str(sum(2 * l + 1 for l in shells)) for shells in model.shells)
        electrons = ", ".join(f"{n:g}" for n in model.n_electrons)
        print(
            f"| `{name}` | {orbitals} | {electrons} | {model.cutoff:.2f} | {entry['structure']} | {a:.5f} | "
            f"{entry['a']:.5f} | {modulus:.2f} | {entry['B_GPa']:.2f} |",
            flush=True,
        )
        shift = energy - entry["E_band_per_atom"]
        assert abs(shift) < 1e-6, f"{name}: energy per atom is {shift} eV off the reference"


if __name__ == "__main__":
    main()
