"""How fast do mixtures converge in silicon? Tight binding as quantum model, in two dimensions.

The setting of the papers' second example (QM/MM for crystalline defects, part 3, section 4.2, figure 4.5):
NRL tight binding of silicon and force mixing, in structures that are one lattice constant thick and periodic
along z = [001].

- ``vacancy``: a column of vacancies in a periodic cell. Quantum calls see the whole cell.
- ``edge``: the edge dislocation on {110} with its line along <100> and b = 1/2 <110>, in a frozen far field.
  Every quantum call sees the same cylinder, which is wider than the free atoms. What its surface does to
  them is measured once, at the predictor, against a wider cylinder, and taken away.

So the quantum forces are the same function of the positions on both sides, and the radius of the quantum
region is all that differs. Theory (part 3, table 1) for Taylor forces of order 1 and 2: -3 and -5 for the
vacancy, -1 and -2 for the dislocation.

Run ``python examples/convergence_silicon.py vacancy`` or ``edge`` (some minutes each on one core). ``--size``
makes the structure larger, at a cost that grows as the cube of the number of atoms; ``--folder`` keeps models
and relaxed structures and resumes.
"""

import argparse
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.geometry import find_mic
from scipy.optimize import curve_fit

from ase_qmmm import Crystal, TaylorForces, TightBinding, fermi_level
from ase_qmmm.defects import InternalDisplacements, edge_dislocation, elastic_constants, vacancy
from ase_qmmm.preconditioning import ForceConstantPrecon, PreconditionedLBFGS
from ase_qmmm.studies import Scheme, convergence_study

KT = 0.3  # eV
# Both real. Against twelve points the largest error of the forces of random displacements is 0.3 % of the
# largest force. Along <110>, where force constants reach furthest, five points (cells of 3.84 Å) leave 0.4 %.
KPTS = [[0, 0, 0], [0, 0, 0.5]]
CUTOFFS = (16.0, 5.0)  # Å, of first and second order
RIM = 5.0  # Å, by which the quantum cylinder is wider than the free atoms
PROBE = 7.0  # Å, by which the cylinder is wider still that tells what the surface does


@dataclass
class Case:
    """Settings of one defect: cells per side or radius of the free atoms (Å), and radii (Å)."""

    size: float
    radii: list[float]
    fit_from: float
    fmax: float  # eV/Å
    theory: dict[str, float]


SCHEMES = ("order 1", "order 2", "order 1, 8 Å, exact elasticity")
CASES = {
    "vacancy": Case(
        7, [6.0, 7.5, 9.0, 11.0, 13.0, 15.0], 7.5, 2e-5, dict(zip(SCHEMES, (-3, -5, -3), strict=True))
    ),
    "edge": Case(16, [7.0, 8.5, 10.5, 13.0], 8.5, 1e-4, dict(zip(SCHEMES, (-1, -2, -1), strict=True))),
}


class QuantumPart(Calculator):
    """A quantum model for a part of a structure, under a constant load; no forces elsewhere.

    As it is no ``TightBinding``, mixtures leave its k-points as they are.

    Parameters
    ----------
    qm : ase.calculators.calculator.Calculator
    members : ndarray of bool, shape (n,)
        The part.
    load : ndarray, shape (n, 3)
        eV/Å.
    """

    implemented_properties = ["energy", "forces"]

    def __init__(self, qm, members, load):
        super().__init__()
        self.qm, self.members, self.load = qm, members, load

    def __repr__(self):
        return f"QuantumPart({self.qm!r}, {self.members.sum()} atoms, {np.square(self.load).sum():.12e})"

    def calculate(self, atoms=None, properties=("forces",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        forces = np.zeros((len(self.atoms), 3))
        part = self.atoms[self.members]
        forces[self.members] = self.qm.get_forces(part)
        energy = self.qm.get_potential_energy(part) - np.sum(self.load * self.atoms.positions)
        self.results = {"energy": energy, "forces": forces + self.load}


def vacancy_column(qm, crystal, cells):
    """The structure before relaxation, the model of all its atoms, and its place."""
    atoms = vacancy(crystal, (cells, cells, 1))
    return atoms, QuantumPart(qm, np.ones(len(atoms), dtype=bool), np.zeros((1, 3))), atoms.info["core"]


def edge(qm, crystal, radius):
    """The same for the dislocation. Stencils of the free atoms end within the structure."""
    atoms = edge_dislocation(
        crystal,
        (0.5, 0.5, 0),
        plane=(1, -1, 0),
        elastic_constants=elastic_constants(qm, crystal),
        internal=InternalDisplacements.from_calculator(qm, crystal),
        radius=radius,
        frozen_width=max(CUTOFFS[0], RIM + PROBE) + 1.0,
    )
    distance = np.linalg.norm((atoms.arrays["reference_positions"] - atoms.info["core"])[:, :2], axis=1)
    members = distance < radius + RIM
    wide = QuantumPart(qm, distance < radius + RIM + PROBE, 0.0)
    narrow = QuantumPart(qm, members, 0.0)
    load = wide.get_forces(atoms) - narrow.get_forces(atoms)
    load[~members] = 0.0
    return atoms, QuantumPart(qm, members, load), atoms.info["core"]


def models(qm, crystal, folder, names):
    """Far-field models by name, from `folder` if they were made before."""
    folder.mkdir(parents=True, exist_ok=True)

    def kept(path, **options):
        if not path.exists():
            TaylorForces.from_calculator(qm, crystal, **options).save(path)
        return TaylorForces.load(path)

    found = {}
    for name in names:
        if name == SCHEMES[2]:
            found[name] = kept(folder / "order-1-exact.npz", cutoff=8.0, elasticity="exact")
            continue
        found[name] = kept(folder / "order-2.npz", order=2, cutoff=CUTOFFS)
        if name == "order 1":
            found[name] = TaylorForces(found[name].force_constants)
    return found


def force_errors(study, atoms, qm, mm, centre, inner, width):
    """Where errors come from: rings of free atoms around the defect, from the radius `inner` on (Å).

    Root mean square lengths (eV/Å) of the quantum forces before relaxation and, at the geometry relaxed by
    the quantum model, where these are zero, of the forces of each far-field model, and of what the second
    order adds. First column: radius.
    """
    # Rings are those of the sites; around a dislocation atoms stand some Å from theirs.
    places = atoms.positions, atoms.arrays["reference_positions"]
    apart = (find_mic(x - centre, atoms.cell, atoms.pbc)[0] for x in places)
    now, r = (np.linalg.norm(x[:, :2], axis=1) for x in apart)
    free = ~np.asarray(atoms.arrays.get("frozen", np.zeros(len(atoms), dtype=bool)))
    asked = free & (now >= inner)
    forces = {"unrelaxed": qm.get_forces(atoms)}
    forces |= {name: model.evaluate_sites(study.reference, asked)[1] for name, model in mm.items()}
    if {"order 1", "order 2"} <= forces.keys():
        forces["2nd adds"] = forces["order 2"] - forces["order 1"]
    rows = []
    for low in np.arange(inner, r[asked].max(), width):
        ring = asked & (r >= low) & (r < low + width)
        squares = [np.square(f[ring]).sum(axis=1).mean() if ring.any() else np.nan for f in forces.values()]
        rows.append([low, *np.sqrt(squares)])
    print("r Å    " + "  ".join(f"{name:>9s}" for name in forces) + "  (forces, eV/Å)")
    for low, *values in rows:
        print(f"{low:5.1f}  " + "  ".join(f"{v:9.1e}" for v in values))
    return rows


def slope_within_rim(radii, errors, rim):
    """Exponent s of ``error ~ sqrt(R^2s - rim^2s)``, s < 0, and its standard error.

    The error is made between the quantum region and the frozen atoms at the radius `rim`: by forces that err
    as r^(s - 2) there, the square of the norm is the integral of r^(2s - 1) from R to the rim.
    """

    def logarithm(r, s, level):
        return level + np.log(r ** (2 * s) - rim ** (2 * s)) / 2

    start = (-1.0, np.log(errors[0] * radii[0]))
    bounds = ([-20.0, -np.inf], [-1e-3, np.inf])
    found, covariance = curve_fit(logarithm, radii, np.log(errors), start, bounds=bounds)
    return found[0], np.sqrt(covariance[0, 0])


def main(arguments=None):
    """Run one case, print its table and slopes, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--size", type=float, help="cells per side, or radius of the free atoms (Å)")
    parser.add_argument("--radii", type=float, nargs="+", help="of the quantum regions (Å)")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES[:2], choices=SCHEMES, help="far-field models")
    parser.add_argument("--fmax", type=float, help="eV/Å")
    parser.add_argument("--folder", type=Path, help="for models and relaxed structures; resumes from there")
    parser.add_argument("--output", type=Path, help="prefix of files written")
    options = parser.parse_args(arguments)
    case = CASES[options.case]
    size = options.size or case.size
    prefix = options.output or Path(f"convergence_silicon_{options.case}")
    folder = options.folder or prefix.with_suffix("")

    plain = TightBinding("nrl-Si-sp", kT=KT)
    crystal = Crystal.relaxed(bulk("Si"), plain)
    qm = plain.with_options(mu=fermi_level(plain, crystal), kpts=KPTS)
    mm = models(qm, crystal, folder, options.schemes)
    if options.case == "edge":
        atoms, reference, centre = edge(qm, crystal, size)
    else:
        atoms, reference, centre = vacancy_column(qm, crystal, round(size))
    stiffness = next(iter(mm.values())).force_constants
    print(f"{options.case}: {len(atoms)} atoms, cell {atoms.cell.lengths().round(2)} Å", flush=True)
    study = convergence_study(
        atoms,
        reference,
        {name: Scheme(mm[name]) for name in options.schemes},
        options.radii or case.radii,
        centre=centre,
        r_buffer=float(atoms.cell.lengths().sum()),  # quantum calls are for all atoms
        fmax=options.fmax or case.fmax,
        # Fewer steps than with Exp, and steps are what is dear here.
        optimizer=partial(PreconditionedLBFGS, precon=ForceConstantPrecon(stiffness)),
        start="reference",
        folder=folder / f"{options.case}-{size:g}",
    )
    print(study)
    for name in options.schemes:
        slope, error = study.slope(name, r_min=case.fit_from)
        line = f"{name}: ||Du - Du_H|| ~ R^{slope:.2f} +- {error:.2f} (theory {case.theory[name]})"
        if options.case == "edge":
            rows = study.table[(study.table["scheme"] == name) & (study.table["r_qm"] >= case.fit_from)]
            slope, error = slope_within_rim(rows["r_qm"], rows["error"], size)
            line += f", with the rim at {size:g} Å in mind R^{slope:.2f} +- {error:.2f}"
        print(line)
    width = 1.0 if options.case == "edge" else 2.0  # Å
    force_errors(study, atoms, reference, mm, centre, min(options.radii or case.radii), width)
    study.write_csv(f"{prefix}.csv")
    study.plot(f"{prefix}.png", {name: case.theory[name] for name in options.schemes})
    return study


if __name__ == "__main__":
    main()
