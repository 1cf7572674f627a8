"""Elastic constants and vacancy of silicon in tight binding, beside experiment and density functional theory.

Elastic constants are exact derivatives at the crystal. The vacancy is neutral, in cubic cells of 64 and 216
sites at the lattice constant of the model; its formation energy is E(N - 1) - (N - 1) / N E(N), both energies
on the same k-points.
"""

import argparse
import time

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.optimize.precon import PreconLBFGS
from ase.units import GPa

from ase_qmmm import Crystal, TightBinding
from ase_qmmm.tightbinding import cauchy_born_derivatives

# Experiment at room temperature and density functional theory, as found in SOURCES.
BESIDE = {
    "a (Å)": ("5.431 [1]", ""),
    "B (GPa)": ("98 [1]", "82 [2]"),
    "C11 (GPa)": ("166 [1]", "147 [2]"),
    "C12 (GPa)": ("64 [1]", "50 [2]"),
    "C44 (GPa)": ("79.6 [1]", "73 [2]"),
    "vacancy, relaxed, Td (eV)": ("", "3.86 [3]"),
    "vacancy, relaxed, lowest (eV)": ("4.0 [5]", "3.67 [3], 3.6 [4], 3.46 [6]"),
}
SOURCES = """\
[1] M. Levinshtein, S. Rumyantsev, M. Shur (eds.), Handbook Series on Semiconductor Parameters, as quoted by
    the package solcore5 (material_data/Levinshtein/GroupIV.txt); B = (C11 + 2 C12) / 3
[2] doi:10.1038/s41524-021-00559-9 (npj Comput. Mater. 7, 2021), table 1, column DFT; its vacancy: 3.67 eV
[3] P. Seeberger, J. Vidal, EPJ Photovolt. 8, 85505 (2017), table 1: neutral, cells of 432 sites
[4] J. L. Mercer et al., Modelling Simul. Mater. Sci. Eng. 6, 1 (1998), abstract
[5] doi:10.1016/S0921-4526(01)00908-5 (Physica B 308, 1125, 2001), abstract: about 4.0, by quenching
[6] Sholihun et al., Jpn. J. Appl. Phys. 54, 041301 (2015), abstract: cells of up to 1728 sites
Not compared: the tables of the model's own paper, N. Bernstein et al., Phys. Rev. B 62, 4477 (2000)."""


def elastic_constants(calc: TightBinding, crystal: Crystal, error: float = 1e-9) -> dict[str, float]:
    """Bulk modulus and the three constants of a cubic crystal; C44 also without inner relaxation. In GPa."""
    relaxed, clamped = (
        cauchy_born_derivatives(calc, crystal, 2, relaxed=r, error=error).elastic_constants() / GPa
        for r in (True, False)
    )
    c11, c12 = relaxed[0, 0, 0, 0], relaxed[0, 0, 1, 1]
    return {
        "B (GPa)": (c11 + 2 * c12) / 3,
        "C11 (GPa)": c11,
        "C12 (GPa)": c12,
        "C44 (GPa)": relaxed[1, 2, 1, 2],
        "C44, sublattices not relaxed (GPa)": clamped[1, 2, 1, 2],
    }


def energy(atoms: Atoms) -> float:
    """Extrapolated to zero electronic temperature, as ASE has it: half way from band to free energy."""
    return float(atoms.get_potential_energy())


def vacancy(crystal: Crystal, cells: int) -> tuple[Atoms, Atoms, np.ndarray]:
    """The cubic supercell; the same without its first atom; the indices there of the four neighbours."""
    whole = crystal.supercell(cells, cubic=True)
    atoms = whole.copy()
    del atoms[0]
    distances = np.linalg.norm(whole.get_distances(0, range(1, len(whole)), mic=True, vector=True), axis=1)
    return whole, atoms, np.argsort(distances, kind="stable")[:4]


def formation_energy(whole: Atoms, atoms: Atoms, calc: TightBinding) -> float:
    """Of the vacancy in `atoms`, eV, both cells on the k-points of `calc`."""
    whole.calc = atoms.calc = calc
    return energy(atoms) - len(atoms) / len(whole) * energy(whole)


def pair(atoms: Atoms, neighbours: np.ndarray, amount: float) -> None:
    """Move two of the neighbours together and the other two, a tetragonal distortion (D2d).

    Relaxing from the symmetric vacancy keeps its symmetry for ever: the forces have it too.
    """
    for i, j in (neighbours[:2], neighbours[2:]):
        along = atoms.get_distance(i, j, mic=True, vector=True)
        along *= amount / np.linalg.norm(along)
        atoms.positions[i] += along
        atoms.positions[j] -= along


def relax(atoms: Atoms, calc: TightBinding, fmax: float) -> None:
    """Atoms alone; the cell stays that of the crystal."""
    atoms.calc = calc
    if not PreconLBFGS(atoms, precon="Exp", use_armijo=False, logfile=None).run(fmax=fmax, steps=200):
        raise RuntimeError(f"no convergence to {fmax} eV/Å in 200 steps")


def neighbour_distances(atoms: Atoms, neighbours: np.ndarray) -> np.ndarray:
    """The six distances between the neighbours of the vacancy, sorted, Å."""
    return np.sort(
        [atoms.get_distance(i, j, mic=True) for n, i in enumerate(neighbours) for j in neighbours[:n]]
    )


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Print the tables; the numbers by name."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nrl-Si-sp", help="parameters of silicon")
    parser.add_argument("--kT", type=float, default=0.1, help="electronic temperature, eV")
    parser.add_argument("--kpts", type=int, default=2, help="k-points per direction of the vacancy's cells")
    parser.add_argument("--sites", type=int, nargs="+", default=[2, 3], help="cubic cells per side")
    parser.add_argument("--fmax", type=float, default=5e-3, help="eV/Å")
    parser.add_argument("--quick", action="store_true", help="64 sites, loosely relaxed")
    options = parser.parse_args(arguments)
    sites, fmax = ([2], 0.05) if options.quick else (options.sites, options.fmax)

    bulk_calc = TightBinding(options.model, kT=options.kT)
    crystal = Crystal.relaxed(bulk("Si"), bulk_calc)
    rows = {"a (Å)": 2 * float(np.abs(crystal.lattice).max())}
    rows |= elastic_constants(bulk_calc, crystal, 1e-8 if options.quick else 1e-9)
    print(f"{options.model}, kT = {options.kT} eV\n")
    print(f"{'':36} {'here':>9}   {'experiment':12} DFT")
    for name, value in rows.items():
        experiment, dft = BESIDE.get(name, ("", ""))
        print(f"{name:36} {value:9.4f}   {experiment:12} {dft}".rstrip())

    grid = (options.kpts,) * 3
    calc = TightBinding(options.model, kT=options.kT, kpts={"size": grid})
    print(f"\nvacancy, {grid} Monkhorst-Pack points, relaxed to {fmax} eV/Å")
    print(f"{'':22} {'eV':>8}  distances of the four neighbours (Å)")
    for n in sites:
        whole, atoms, neighbours = vacancy(crystal, n)
        for name, amount in (("unrelaxed", 0.0), ("Td", 0.0), ("paired", 0.3)):
            start, trial = time.perf_counter(), atoms.copy()
            if name != "unrelaxed":
                pair(trial, neighbours, amount)
                relax(trial, calc, fmax)
            value = rows[f"{len(whole)} {name}"] = formation_energy(whole, trial, calc)
            distances = " ".join(f"{d:.3f}" for d in neighbour_distances(trial, neighbours))
            seconds = time.perf_counter() - start
            print(f"{len(whole):4} sites, {name:10} {value:8.4f}  {distances}  ({seconds:.0f} s)", flush=True)
    for name in ("vacancy, relaxed, Td (eV)", "vacancy, relaxed, lowest (eV)"):
        experiment, dft = BESIDE[name]
        print(f"{name}: {'experiment ' + experiment + ', ' if experiment else ''}DFT {dft}")
    print(f"\n{SOURCES}")
    return rows


if __name__ == "__main__":
    main()
