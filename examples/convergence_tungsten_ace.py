"""How fast do mixtures with a matched ACE potential converge? Vacancy and edge dislocation in tungsten.

Figures 4.3 and 4.4 of QM/MM for crystalline defects, part 3: an embedded-atom potential stands for the
quantum model, and linear ACE potentials, fitted to its derivatives at the crystal, for the MM model.

=================  ======================================================  ============  ==========
scheme             fitted to the derivatives of                            vacancy-2d    edge
=================  ======================================================  ============  ==========
energy, ACE 2, 3   site energies, orders 1 .. K_E                          -3, -5        -1, -2
energy, ACE 2, 3V  these, and the Cauchy-Born energy W, orders .. K_E + 1  -4, -6        -2, -3
force, ACE 1, 2    forces, orders 1 .. K_F, and the pressure               -3, -5        -1, -2
force, ACE 1, 2V   forces, and W, orders .. K_F + 2                        -4, -6        -2, -3
=================  ======================================================  ============  ==========

with the exponents of ``||Du - Du_H||`` that theory gives to the radius of the quantum region (table 1).
``--taylor`` puts Taylor models of the same orders beside them. Fourth derivatives of W are matched as
differences of the third ones between crystals strained by +-1e-3.

Run ``python examples/convergence_tungsten_ace.py vacancy-2d --folder relaxed`` (or ``edge``; times are in
docs/convergence.md). The folder keeps potentials and relaxed structures; a second call resumes from there.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase.build import bulk
from convergence_tungsten import schemes as taylor_schemes
from convergence_tungsten import structure
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, ScalarFormatter

from ase_qmmm import EAM, ACEBasis, ACEPotential, Crystal, EnergyMixingCalculator, ForceMixingCalculator
from ase_qmmm.fitting import Observations, fit_ace, matching_errors
from ase_qmmm.plotting import LINE_COLOURS
from ase_qmmm.studies import Scheme, convergence_study

STRAIN = 1e-3
# Of squared errors. Lower orders count more, as they do in the error of a mixture: a fourth derivative of W
# that is right to some per cent is enough, but not at the cost of force constants.
WEIGHTS = {"crystal": {"W3": 1.0}, "strained": {"W1": 0.0, "W2": 0.0, "W3": 1e-10}}
TOLERANCE = 1e-12  # of the rank-revealing QR


@dataclass(frozen=True)
class Match:
    """What an ACE potential is matched to: site energies or forces, how many orders, virials or not."""

    mixing: str
    order: int
    virials: bool

    @property
    def name(self):
        return f"{self.mixing}, ACE {self.order}{'V' if self.virials else ''}"

    @property
    def force_order(self):
        return self.order - (self.mixing == "energy")


MATCHES = [
    Match(mixing, k + (mixing == "energy"), virials)
    for mixing in ("energy", "force")
    for k in (1, 2)
    for virials in (False, True)
]


@dataclass
class Case:
    """Settings of one defect: half width of the cell or radius of the cylinder, and radii (Å)."""

    size: float
    radii: list[float]
    fit: tuple[float, float]  # smallest and largest radius of the slopes
    theory: dict[int, float]  # exponent by order of the forces; virials take one more from it
    fmax: float


CASES = {
    "vacancy-2d": Case(128.0, [14.0, 18.0, 23.0, 29.0, 37.0], (17.0, 40.0), {1: -3, 2: -5}, 1e-10),
    "edge": Case(120.0, [14.0, 20.0, 28.0, 40.0, 56.0], (19.0, 60.0), {1: -1, 2: -2}, 1e-7),
}


def strained_crystals(crystal):
    """The crystal stretched and sheared by +- STRAIN, and how; symmetry makes other strains equivalent."""
    for i, j in ((0, 0), (1, 2)):
        for sign in (1.0, -1.0):
            gradient = np.eye(3)
            gradient[i, j] += sign * STRAIN
            gradient[j, i] = gradient[i, j]
            cell = crystal.unit_cell
            cell.set_cell(cell.cell.array @ gradient.T, scale_atoms=True)
            yield Crystal(cell), gradient


def observations(match, qm, crystal):
    """Data that an ACE potential is fitted to."""
    data = Observations()
    if match.mixing == "energy":
        data.add_site_derivatives(qm, crystal, match.order, qm.cutoff)
    else:
        # Second derivatives of forces beyond r_c come from the densities alone, which the first ones fix.
        data.add_force_constants(qm, crystal, match.order, [2 * qm.cutoff, qm.cutoff][: match.order])
    highest = match.force_order + 2
    if match.virials:
        data.add_virial_derivatives(qm, crystal, min(highest, 3))
    elif match.mixing == "force":
        # Forces in a crystal do not see the pressure.
        data.add_virial_derivatives(qm, crystal, 1)
    if match.virials and highest == 4:
        for cell, _ in strained_crystals(crystal):
            data.add_virial_derivatives(qm, cell, 3, group="strained")
    return data


def fitted(match, qm, crystal, degree, folder):
    """The matched potential, from the folder if it is there."""
    basis = ACEBasis("W", 3, degree, qm.cutoff)
    path = None if folder is None else folder / f"{match.name.replace(', ', '-').replace(' ', '-')}.json"
    if path is not None and path.exists():
        found = ACEPotential.load(path)
        if found.basis == basis:
            return found
    data = observations(match, qm, crystal)
    weights = {group: WEIGHTS[group] for group in {source.group for source in data.sources}}
    potential = fit_ace(basis, data, "rrqr", weights, tolerance=TOLERANCE).potential
    if path is not None:
        folder.mkdir(parents=True, exist_ok=True)
        potential.save(path)
    return potential


def fourth_derivatives(model, crystal):
    """``d^4 W / dF^4`` along the two strains, as differences of the third derivatives."""
    third = []
    for cell, gradient in strained_crystals(crystal):
        # Those by a deformation that follows the strain: back to derivatives by the whole one.
        back = np.linalg.inv(gradient)
        tensor = model.cauchy_born_derivatives(cell, 3).tensors[3]
        third.append(np.einsum("ajbkcl,jx,ky,lz->axbycz", tensor, back, back, back))
    return np.array([third[0] - third[1], third[2] - third[3]]) / (2 * STRAIN)


def report(match, qm, mm, crystal):
    """Print errors relative to the reference: of the derivatives fitted, then of W."""
    kind = match.mixing[0].upper()
    found = matching_errors(qm, mm, crystal, match.order, cutoff=qm.cutoff, kinds=kind)
    errors = found.energy if kind == "E" else found.force
    text = "  ".join(f"eps_{j}^{kind} {relative:.0e}" for j, (_, relative) in errors.items())
    virial = matching_errors(qm, mm, crystal, 2, kinds="V").virial
    text += "".join(f"  eps_{j}^V {relative:.0e}" for j, (_, relative) in virial.items())
    exact, own = (fourth_derivatives(model, crystal) for model in (qm, mm))
    print(f"{match.name:16s} {text}  eps_3^V {np.linalg.norm(own - exact) / np.linalg.norm(exact):.0e}")


def schemes(qm, crystal, options):
    """Schemes, and the order of the forces and whether virials are matched, by name."""
    out, labels = {}, {}
    for match in MATCHES:
        if match.mixing not in options.mixing or match.force_order not in options.orders:
            continue
        mm = fitted(match, qm, crystal, options.degree, options.folder)
        report(match, qm, mm, crystal)
        if match.mixing == "energy":
            # Around a dislocation the reference of the correction would not be the crystal.
            ghosts = {"ghost_force_correction": options.case != "edge", "crystal": crystal}
            out[match.name] = Scheme(mm, EnergyMixingCalculator, {"cluster": "open", **ghosts})
        else:
            out[match.name] = Scheme(mm, ForceMixingCalculator, {"cluster": "open"})
        labels[match.name] = match.force_order, match.virials
    if options.taylor:
        taylor, order_of = taylor_schemes(qm, crystal, options.orders)
        for old, scheme in taylor.items():
            mixing = old.split()[0]
            if mixing in options.mixing:
                name = f"{mixing}, Taylor {order_of[old] + (mixing == 'energy')}"
                out[name], labels[name] = scheme, (order_of[old], False)
    return out, labels


def draw(study, exponents, path):
    """One panel for each way to mix; dashed: the exponents of theory, through the last point."""
    names = list(exponents)
    panels = [m for m in ("energy", "force") if any(n.startswith(m) for n in names)]
    figure = Figure(figsize=(5.2 * len(panels), 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, mixing in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        shown = [n for n in names if n.startswith(mixing)]
        for name, colour in zip(shown, LINE_COLOURS, strict=False):
            rows = study.table[study.table["scheme"] == name]
            r, error = rows["r_qm"], rows["error"]
            taylor = "Taylor" in name
            axes.loglog(r, error, "s:" if taylor else "o-", color=colour, ms=4, lw=1.1, label=name)
            if not taylor:
                axes.loglog(r, error[-1] * (r / r[-1]) ** exponents[name], "--", color=colour, lw=0.7)
        axes.xaxis.set_major_formatter(ScalarFormatter())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xticks(np.unique(study.table["r_qm"]))
        axes.tick_params(axis="x", which="minor", length=0)
        axes.set(xlabel="radius of the QM region (Å)", ylabel="‖Du − Du$_H$‖ (Å)", title=f"{mixing} mixing")
        axes.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=3)
    figure.savefig(path, dpi=130)


def main(arguments=None):
    """Fit, relax, print table and slopes, draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--size", type=float, help="half width of the cell, or radius of the cylinder (Å)")
    parser.add_argument("--radii", type=float, nargs="+", help="of the quantum regions (Å)")
    parser.add_argument("--fit", type=float, nargs=2, help="smallest and largest radius of the slopes (Å)")
    parser.add_argument("--mixing", nargs="+", default=["energy", "force"], choices=("energy", "force"))
    parser.add_argument("--orders", type=int, nargs="+", default=[1, 2], choices=(1, 2), help="of the forces")
    parser.add_argument("--degree", type=float, default=14, help="of the ACE basis")
    parser.add_argument("--taylor", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--fmax", type=float, help="eV/Å")
    parser.add_argument("--folder", type=Path, help="for potentials and relaxed structures; resumes there")
    parser.add_argument("--output", type=Path, help="prefix of the table and the picture")
    options = parser.parse_args(arguments)
    case = CASES[options.case]
    prefix = options.output or Path(f"convergence_tungsten_ace_{options.case}")
    radii = options.radii or case.radii
    low, high = options.fit or case.fit
    if sum(low <= r <= high for r in radii) < 3:
        parser.error(f"--fit: a slope needs three radii from {low:g} to {high:g} Å, got {radii}")

    qm = EAM("W-zhou04")
    crystal = Crystal.relaxed(bulk("W", a=3.165), qm)
    atoms, centre = structure(options.case, crystal, qm, options.size or case.size)
    print(f"{options.case}: {len(atoms)} atoms, cell {atoms.cell.lengths().round(2)} Å", flush=True)
    found, labels = schemes(qm, crystal, options)
    study = convergence_study(
        atoms,
        qm,
        found,
        radii,
        centre=centre,
        r_buffer=2 * qm.cutoff,
        fmax=options.fmax or case.fmax,
        folder=options.folder,
    )
    print(study)
    exponents = {name: case.theory[k] - virials for name, (k, virials) in labels.items()}
    for name, theory in exponents.items():
        slope, error = study.slope(name, r_min=low, r_max=high)
        print(f"{name}: ||Du - Du_H|| ~ R^{slope:.2f} +- {error:.2f} (theory {theory:g})")
    study.write_csv(f"{prefix}.csv")
    draw(study, exponents, f"{prefix}.png")
    return study


if __name__ == "__main__":
    main()
