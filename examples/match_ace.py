"""ACE matched to a quantum model at the crystal: what far-field models of QM/MM need to get right.

Tungsten takes an EAM as its reference, as example 1 of part 3 of the papers does: once with the site
energies up to second order (K_E = 2, for energy mixing), once with the force constants (K_F = 1, for force
mixing), each without and with the derivatives of the Cauchy-Born energy up to the third ("virials"). Silicon
takes the force constants and virials of tight binding (example 2). Printed are the matching errors, fitted or
not, relative to the reference, and elastic constants; drawn are force constants and phonons.

Force constants do not see the pressure, so that a fit to them alone leaves the stress and with it the elastic
constants open.

Run ``python examples/match_ace.py`` (about two minutes). A trial run:
``--order 2 --degree 8 --w-range 6 --si-cutoff 3.5``.
"""

import argparse

import numpy as np
from ase.build import bulk
from ase.units import GPa
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ase_qmmm import EAM, ACEBasis, Crystal, TightBinding
from ase_qmmm.fitting import Observations, fit_ace, matching_errors
from ase_qmmm.fitting.plots import draw_parity
from ase_qmmm.taylor import phonon_band_structure
from ase_qmmm.taylor.phonons import THZ


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


def match(qm, crystal, basis, data, forces, tolerance):
    """Fit to the kinds in `data`, of "E", "F", "V"."""
    observations = Observations()
    if "E" in data:
        observations.add_site_derivatives(qm, crystal, 2, qm.cutoff)
    if "F" in data:
        observations.add_force_constants(forces)
    if "V" in data:
        observations.add_virial_derivatives(qm, crystal, 3)
    return fit_ace(basis, observations, "rrqr", tolerance=tolerance), observations


def report(name, qm, crystal, bases, cases, cutoffs, tolerance):
    """Fit all cases; print the table. Returns reference force derivatives, fits and their data."""
    forces = qm.force_derivatives(crystal, 1, cutoffs["F"])
    print(f"\n{name}: {qm!r}\n  force constants within {cutoffs['F']:.2f} Å")
    errors = "  ".join(["eps_1^E", "eps_2^E", "eps_1^F", "eps_1^V", "eps_2^V"])
    print(f"  {'fitted':10s} {'K':>4s} {'rank':>5s}   {errors}   C11  C12  C44 (GPa)")
    constants = "  ".join(f"{x:6.2f}" for x in elastic(qm, crystal))
    print(f"  {'reference':76s}{constants}")
    fits = {}
    for data in cases:
        for basis in bases:
            fit, observations = match(qm, crystal, basis, data, forces, tolerance)
            errors = relative_errors(qm, fit, crystal, cutoffs, forces)
            numbers = "  ".join("   -   " if np.isnan(e) else f"{e:7.1e}" for e in errors)
            constants = "  ".join(f"{x:6.2f}" for x in elastic(fit.potential, crystal))
            label = f"{data} order {basis.order}"
            print(f"  {label:10s} {len(basis):4d} {fit.solution.rank:5d}   {numbers}   {constants}")
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
    parser.add_argument("--si-cutoff", type=float, default=5.0, help="of silicon's basis (Å)")
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
    cases = ("E", "EV", "F", "FV")
    forces, fits = report("tungsten", eam, tungsten, bases, cases, cutoffs, options.tolerance)
    draw(axes[0], "W, EAM", tungsten, forces, *fits["FV"])

    qm = TightBinding("nrl-Si-sp", kT=0.1)
    silicon = Crystal.relaxed(bulk("Si"), qm)
    bases = [ACEBasis("Si", k, options.degree, options.si_cutoff) for k in orders]
    cutoffs = {"F": 2 * options.si_cutoff}
    forces, fits = report("silicon", qm, silicon, bases, ("F", "FV"), cutoffs, options.tolerance)
    draw(axes[1], "Si, tight binding", silicon, forces, *fits["FV"])
    figure.savefig(options.output, dpi=150)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
