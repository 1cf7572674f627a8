"""ACE matched to a quantum model at the crystal: what far-field models of QM/MM need to get right.

Tungsten takes an EAM as its reference, as example 1 of part 3 of the papers does: once with the site
energies up to second order (K_E = 2, for energy mixing), once with the force constants (K_F = 1, for force
mixing), each without and with the derivatives of the Cauchy-Born energy up to the third ("virials"). Silicon
takes the force constants and virials of tight binding (example 2), without and with the forces in some cells
whose atoms are displaced at random ("R"), of a small weight. Printed are the matching errors, fitted or not,
relative to the reference, elastic constants, and for silicon the relative errors of forces in cells that were
not fitted, displacements 0.01 and 0.1 Å; drawn are force constants and phonons.

Force constants do not see the pressure, so that a fit to them alone leaves the stress and with it the elastic
constants open. Derivatives at the crystal do not see what is of higher order, and a rank-revealing QR leaves
that as it comes: without cells that hold atoms elsewhere the forces are wrong from 0.01 Å on.

Run ``python examples/match_ace.py`` (three minutes of processor time). A trial run:
``--order 2 --degree 8 --w-range 6 --si-cutoff 4 --si-degree 12 12 8``.
"""

import argparse

import numpy as np
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.units import GPa
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ase_qmmm import EAM, ACEBasis, Crystal, TightBinding
from ase_qmmm.fitting import Observations, fit_ace, matching_errors
from ase_qmmm.fitting.plots import draw_parity
from ase_qmmm.taylor import phonon_band_structure
from ase_qmmm.taylor.phonons import THZ

DISPLACEMENTS = (0.05, 0.1)  # Å, standard deviations in the cells that are fitted
HELD_OUT = (0.01, 0.1)
# Weight of a squared force in them, against one of a squared force constant.
W_RATTLED = 1e-3


def rattled(qm, crystal, displacement, number, rng):
    """Cells of 64 atoms, each displaced at random, with their forces."""
    images = []
    for _ in range(number):
        image = crystal.supercell(2, cubic=True)
        image.positions += rng.normal(scale=displacement, size=(len(image), 3))
        image.calc = SinglePointCalculator(image, forces=qm.evaluate(image).forces)
        images.append(image)
    return images


def force_errors(potential, groups):
    """Errors of the forces relative to the forces, by group of images."""
    out = []
    for images in groups:
        exact = np.array([image.get_forces() for image in images])
        error = np.array([potential.evaluate(image).forces for image in images]) - exact
        out.append(np.linalg.norm(error) / np.linalg.norm(exact))
    return out


def relative_errors(qm, fit, crystal, cutoffs, forces):
    """Matching errors relative to the reference: eps_1^E, eps_2^E, eps_1^F, eps_1^V, eps_2^V."""
    mm = fit.potential
    sites = (
        matching_errors(qm, mm, crystal, 2, cutoff=cutoffs["E"], kinds="E").energy
        if "E" in cutoffs
        else {1: (np.nan, np.nan), 2: (np.nan, np.nan)}
    )
    own = mm.force_derivatives(crystal, 1, cutoffs["F"])
    force = matching_errors(forces, own, crystal, 1, cutoff=cutoffs["F"], kinds="F").force
    virial = matching_errors(qm, mm, crystal, 2, kinds="V").virial
    return [sites[1][1], sites[2][1], force[1][1], virial[1][1], virial[2][1]]


def elastic(model, crystal):
    """C11, C12, C44 (GPa), the basis atoms relaxed."""
    c = model.cauchy_born_derivatives(crystal, 2, relaxed=True).elastic_constants() / GPa
    return c[0, 0, 0, 0], c[0, 0, 1, 1], c[0, 1, 0, 1]


def match(qm, crystal, basis, data, forces, images, tolerance):
    """Fit to the kinds in `data`, of "E", "F", "V", "R"."""
    observations = Observations()
    if "E" in data:
        observations.add_site_derivatives(qm, crystal, 2, qm.cutoff)
    if "F" in data:
        observations.add_force_constants(forces)
    if "V" in data:
        observations.add_virial_derivatives(qm, crystal, 3)
    weights = {}
    if "R" in data:
        observations.add_configurations(images, group="rattled")
        weights = {"rattled": {"forces": W_RATTLED}}
    return fit_ace(basis, observations, "rrqr", weights, tolerance=tolerance), observations


def report(name, qm, crystal, cases, cutoffs, tolerance, images=(), held_out=()):
    """Fit all cases (data, basis); print the table. Returns reference force derivatives, fits and data."""
    forces = qm.force_derivatives(crystal, 1, cutoffs["F"])
    print(f"\n{name}: {qm!r}\n  force constants within {cutoffs['F']:.2f} Å")
    errors = "  ".join(["eps_1^E", "eps_2^E", "eps_1^F", "eps_1^V", "eps_2^V"])
    off = "   forces " + " ".join(f"{x:g} Å" for x in HELD_OUT) if held_out else ""
    print(f"  {'fitted':11s} {'degree':>8s} {'K':>4s} {'rank':>5s}   {errors}   C11  C12  C44 (GPa){off}")
    constants = "  ".join(f"{x:6.2f}" for x in elastic(qm, crystal))
    print(f"  {'reference':86s}{constants}")
    fits = {}
    for data, basis in cases:
        fit, observations = match(qm, crystal, basis, data, forces, images, tolerance)
        errors = relative_errors(qm, fit, crystal, cutoffs, forces)
        numbers = "  ".join("   -   " if np.isnan(e) else f"{e:7.1e}" for e in errors)
        constants = "  ".join(f"{x:6.2f}" for x in elastic(fit.potential, crystal))
        degree = "/".join(f"{d:g}" for d in np.atleast_1d(basis.degree))
        sizes = f"{data + f' order {basis.order}':11s} {degree:>8s} {len(basis):4d} {fit.solution.rank:5d}"
        off = "  ".join(f"{e:7.1e}" for e in force_errors(fit.potential, held_out))
        print(f"  {sizes}   {numbers}   {constants}   {off}", flush=True)
        fits[data] = fit, observations
    return forces, fits


def draw(axes, name, crystal, forces, fit, observations):
    """Parity of the force constants, and phonons of fit and reference."""
    parity, phonons = axes
    draw_parity(parity, "dF1", {name: fit.parity(observations)})
    path = crystal.unit_cell.cell.bandpath(npoints=121)
    x, ticks, labels = path.get_linear_kpoint_axis()
    own = fit.potential.force_derivatives(crystal, 1, forces.cutoffs[1])
    bands = [phonon_band_structure(d, path).energies[0] / THZ for d in (forces, own)]
    print(f"  phonons: {np.abs(bands[1] - bands[0]).max():.2g} THz off at most, of {bands[0].max():.2f} THz")
    phonons.plot(x, bands[0], color="k", lw=3.0, alpha=0.35)
    phonons.plot(x, bands[1], color="#d55e00", lw=1.1)
    phonons.plot([], [], color="k", lw=3.0, alpha=0.35, label="reference")
    phonons.plot([], [], color="#d55e00", lw=1.1, label="ACE")
    names = {}
    for tick, label in zip(ticks, labels, strict=True):
        names.setdefault(round(float(tick), 9), []).append(label.replace("G", r"$\Gamma$"))
    for tick in names:
        phonons.axvline(tick, color="k", lw=0.5)
    phonons.set_xticks(list(names), ["|".join(label) for label in names.values()], fontsize=8)
    phonons.set(xlim=(x[0], x[-1]), ylim=(0, None), ylabel="frequency (THz)", title=name)
    phonons.legend(frameon=False, fontsize=8)


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--order", type=int, default=3, help="largest correlation order")
    parser.add_argument("--degree", type=float, default=12)
    parser.add_argument("--tolerance", type=float, default=1e-8, help="of the rank-revealing QR")
    parser.add_argument("--w-range", type=float, default=None, help="of tungsten's force constants (Å)")
    parser.add_argument("--si-cutoff", type=float, default=8.0, help="of silicon's basis (Å)")
    parser.add_argument(
        "--si-degree", type=float, nargs="+", default=[24, 24, 8], help="of silicon's basis, by order"
    )
    parser.add_argument("--si-tolerance", type=float, default=1e-9)
    parser.add_argument("--output", default="docs/match_ace.png")
    options = parser.parse_args(args)
    figure = Figure(figsize=(10.0, 8.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 2, width_ratios=(1, 1.6))
    orders = range(2, options.order + 1)

    eam = EAM("W-zhou04")
    tungsten = Crystal.relaxed(bulk("W", a=3.165), eam)
    bases = [ACEBasis("W", k, options.degree, eam.cutoff) for k in orders]
    # Forces reach twice as far as site energies; what is not fitted there is not small by itself.
    cutoffs = {"E": eam.cutoff, "F": options.w_range or 2 * eam.cutoff}
    cases = [(data, basis) for data in ("E", "EV", "F", "FV") for basis in bases]
    forces, fits = report("tungsten", eam, tungsten, cases, cutoffs, options.tolerance)
    draw(axes[0], "W, EAM", tungsten, forces, *fits["FV"])

    qm = TightBinding("nrl-Si-sp", kT=0.1)
    silicon = Crystal.relaxed(bulk("Si"), qm)
    rng = np.random.default_rng(1)
    # Force constants are those of the infinite crystal; those of 64 atoms need points in the Brillouin zone.
    sampled = TightBinding("nrl-Si-sp", kT=0.1, kpts=(2, 2, 2))
    images = [image for x in DISPLACEMENTS for image in rattled(sampled, silicon, x, 4, rng)]
    held_out = [rattled(sampled, silicon, x, 2, rng) for x in HELD_OUT]
    same = ACEBasis("Si", options.order, options.degree, options.si_cutoff)
    by_order = ACEBasis("Si", len(options.si_degree), options.si_degree, options.si_cutoff)
    cutoffs = {"F": 2 * options.si_cutoff}
    cases = [("F", by_order), ("FV", same), ("FV", by_order), ("FVR", by_order)]
    forces, fits = report("silicon", qm, silicon, cases, cutoffs, options.si_tolerance, images, held_out)
    draw(axes[1], "Si, tight binding", silicon, forces, *fits["FVR"])
    figure.savefig(options.output, dpi=150)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
