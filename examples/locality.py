"""How local is tight binding? Derivatives of site energies and forces against distance.

The theory behind QM/MM with tight binding (part 2 of the papers, theorems 3.1 and 3.2) says that

    |d^j E_l / dy(m_1) .. dy(m_j)|  <=  C_j exp(-eta_j sum_i |y(l) - y(m_i)|),

and the same of forces. This script computes the derivatives exactly at the silicon crystal, prints the decay
lengths of their largest components and draws them. Exponents are fitted to the largest component in each
interval of 1 Å beyond the first 3 Å (6 Å of two atoms together).

Run ``python examples/locality.py`` (a few minutes on one core). ``--first 8 --second 6`` is a trial run.
"""

import argparse
import time

import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk

from ase_qmmm import Crystal, TightBinding, fermi_level
from ase_qmmm.tightbinding import force_derivatives, site_energy_derivatives

COLOURS = {0.1: "#0072b2", 0.5: "#d55e00"}  # by kT (eV), apart for readers with colour-vision deficiency


def largest(derivatives, order):
    """Sum of the distances (Å), largest Cartesian component, and whether the atoms are the same, of each."""
    r = np.linalg.norm(derivatives.stencil(order, 0), axis=1)
    tensor = np.abs(derivatives.tensors[order][0])
    if derivatives.kind == "force":
        tensor = tensor.max(axis=0)
    if order == 1:
        return r, tensor.max(axis=-1), np.zeros(len(r), dtype=bool)
    size = tensor.max(axis=(1, 3))
    first, second = np.triu_indices(len(r))
    return r[first] + r[second], size[first, second], first == second


def envelope(r, size, start):
    """Largest size in each interval of 1 Å from `start`, with its distance."""
    number = np.floor(r).astype(int)
    chosen = []
    for k in range(int(start), number.max() + 1):
        inside = np.flatnonzero(number == k)
        if len(inside):
            chosen.append(inside[np.argmax(size[inside])])
    return r[chosen], size[chosen]


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nrl-Si-sp")
    parser.add_argument("--element", default="Si")
    parser.add_argument("--first", type=float, default=10.0, help="cutoff of first derivatives (Å)")
    parser.add_argument("--second", type=float, default=7.8, help="cutoff of second derivatives (Å)")
    parser.add_argument("--kT", type=float, nargs="+", default=[0.1, 0.5], help="eV")
    parser.add_argument("--output", default="docs/locality.png")
    options = parser.parse_args(args)

    crystal = Crystal.relaxed(bulk(options.element), TightBinding(options.model))
    figure, axes = plt.subplots(2, 2, figsize=(8.2, 6.4), sharex="col", sharey="row", layout="constrained")
    print("kind   order  kT (eV)  exponent (1/Å)  decay length (Å)  time (s)")
    for row, (kind, make) in enumerate((("energy", site_energy_derivatives), ("force", force_derivatives))):
        for kT in options.kT:
            calc = TightBinding(options.model, kT=kT)
            calc = calc.with_options(mu=fermi_level(calc, crystal))
            for column, order in enumerate((1, 2)):
                start = time.perf_counter()
                cutoff = (options.first, options.second)[column]
                # The other orders are not looked at: their stencils may be as small as can be.
                cutoffs = [crystal.nearest_neighbour_distance] * (order - 1) + [cutoff]
                r, size, same = largest(make(calc, crystal, order, cutoffs), order)
                far, top = envelope(r, size, 3.0 * order)
                slope, height = np.polyfit(far, np.log(top), 1)
                seconds = time.perf_counter() - start
                print(f"{kind:6s} {order:5d} {kT:8.2f} {-slope:15.3f} {-1 / slope:17.2f} {seconds:9.1f}")
                axis = axes[row, column]
                colour = COLOURS.get(kT, "k")
                style = {"color": colour, "ls": "", "alpha": 0.6}
                axis.semilogy(r[~same], size[~same], "o", ms=3.5, mew=0, **style)
                axis.semilogy(r[same], size[same], "D", ms=5, mfc="none", mew=1.2, **style)
                line = np.array([far.min() - 1.0, far.max() + 0.3])
                label = rf"kT = {kT:g} eV: $\eta$ = {-slope:.2f} Å$^{{-1}}$"
                axis.semilogy(line, np.exp(height + slope * line), "-", lw=1.4, color=colour, label=label)
    for row, (name, unit) in enumerate((("V_l", "eV/Å"), ("F_l", "eV/Å"))):
        for column in (0, 1):
            order = column + 1
            power = order + row
            axis = axes[row, column]
            symbol = rf"$|d{'' if order == 1 else '^2'} {name}|$"
            axis.set_title(f"{symbol}  ({unit}" + (rf"$^{power}$" if power > 1 else "") + ")", fontsize=11)
            axis.grid(alpha=0.25, lw=0.5)
            axis.legend(fontsize=9, frameon=False, loc="upper right")
    axes[1, 0].set_xlabel("distance of the displaced atom (Å)")
    axes[1, 1].set_xlabel("sum of the distances of two displaced atoms (Å)\n(diamonds: one atom twice)")
    figure.suptitle(f"Largest component of exact derivatives at the {options.element} crystal", fontsize=12)
    figure.savefig(options.output, dpi=150)
    print(f"figure: {options.output}")


if __name__ == "__main__":
    main()
