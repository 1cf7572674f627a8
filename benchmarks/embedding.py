"""Force errors of embedded, open and periodic clusters against their size: docs/embedding.md.

    python benchmarks/embedding.py [crystal] [vacancy] [dislocation] [--plot docs/embedding.png]

Silicon, nrl-Si-sp, kT 0.1 eV, mu in the gap; displacements of 0.05 Å within 5 Å of the centre, falling off as
r^-3 (crystal, vacancy) or 1/r (dislocation) outside. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from ase.build import bulk
from ase.geometry import find_mic
from matscipy.dislocation import DiamondGlideScrew

from ase_qmmm import Crystal, Embedded, TightBinding
from ase_qmmm.lattice_sites import lattice_sites
from ase_qmmm.mixing.carving import carve

A0, MU = 5.42641, 5.8222  # Å, eV: lattice constant and Fermi level of the model
RADII = (6.7, 7.0, 8.0, 9.0, 10.0)  # Å


def quantum(**options):
    return TightBinding("nrl-Si-sp", kT=0.1, **{"mu": MU, **options})


def displaced(atoms, centre, power, axes=(0, 1, 2), seed=3):
    """Random displacements that fall off with the distance from `centre` along `axes`."""
    moved = atoms.copy()
    vectors = find_mic(atoms.positions - centre, atoms.cell, atoms.pbc)[0]
    r = np.linalg.norm(vectors[:, axes], axis=1)
    scale = np.minimum(1.0, (5.0 / np.maximum(r, 1e-9)) ** power)
    moved.positions += 0.05 * np.random.default_rng(seed).standard_normal((len(atoms), 3)) * scale[:, None]
    return moved


def timed(function, *args):
    start = time.perf_counter()
    out = function(*args)
    return out, time.perf_counter() - start


def embedded(reference, atoms, sites, radius, exact, options):
    """Error (eV/Å), atoms, seconds of the first call beyond a step, seconds of a step."""
    calc = quantum(solver=Embedded(reference, buffer=radius), **options)
    first = timed(calc.evaluate_sites, atoms, sites)[1]
    (_, forces), step = timed(calc.evaluate_sites, atoms, sites)
    size = sum(len(c.index) for c in calc.solver.clusters(calc, atoms, sites))
    return float(np.linalg.norm(forces[sites] - exact, axis=1).max()), size, first - step, step


def cut(crystal, atoms, sites, radius, kind, exact, options):
    """The same for a cluster cut out of the system, open or as a periodic box."""
    distance = atoms.get_all_distances(mic=True)[sites].min(axis=0)
    buffer = (distance < radius) & ~sites
    match = crystal.match(atoms, 2.8) if crystal else None
    labels = lattice_sites(match, atoms) if crystal else None
    cluster = carve(atoms, sites, buffer, kind, labels, match.defect() if crystal else None)[0]
    if kind == "periodic":
        options = {**options, "kpts": (2, 2, 2)}
    result, step = timed(quantum(**options).evaluate, cluster.atoms)
    found = result.forces[cluster.qm][np.argsort(cluster.index[cluster.qm])]
    return float(np.linalg.norm(found - exact, axis=1).max()), len(cluster.index), 0.0, step


def study(name, reference, atoms, sites, exact, crystal=None, options=None):
    options = options or {}
    print(f"{name}: largest force {np.linalg.norm(exact, axis=1).max():.3f} eV/Å on {sites.sum()} atoms")
    rows = []
    for radius in RADII:
        for kind in ("embedded", "open", "periodic"):
            if kind == "periodic" and (crystal is None or radius > 8.0):
                continue  # larger boxes are as large as the system
            try:
                if kind == "embedded":
                    row = embedded(reference, atoms, sites, radius, exact, options)
                else:
                    row = cut(crystal, atoms, sites, radius, kind, exact, options)
            except Exception as error:
                print(f"  {radius:5.1f} Å {kind:9s} {type(error).__name__}: {str(error)[:80]}")
                continue
            rows.append((radius, kind, *row))
            print(
                f"  {radius:5.1f} Å {kind:9s} {row[1]:4d} atoms  error {row[0]:.5f} eV/Å  "
                f"set-up {row[2]:5.2f} s  step {row[3]:5.2f} s"
            )
    return rows


def crystal_case():
    crystal = Crystal(bulk("Si", a=A0))
    perfect = crystal.supercell(4, cubic=True)
    centre = int(np.argmin(np.linalg.norm(perfect.positions - perfect.cell.sum(axis=0) / 2, axis=1)))
    atoms = displaced(perfect, perfect.positions[centre], 3)
    sites = np.arange(len(atoms)) == centre
    patch = quantum(solver=Embedded(crystal)).evaluate_sites(perfect, sites)[1]
    print(f"patch test: {np.abs(patch).max():.1e} eV/Å")
    exact = quantum(kpts=(2, 2, 2)).evaluate(atoms).forces[sites]
    return study("crystal", crystal, atoms, sites, exact, crystal)


def vacancy_case():
    crystal = Crystal(bulk("Si", a=A0))
    atoms = crystal.supercell(4, cubic=True)
    vacant = int(np.argmin(np.linalg.norm(atoms.positions - atoms.cell.sum(axis=0) / 2, axis=1)))
    hole = atoms.positions[vacant].copy()
    del atoms[vacant]
    atoms = displaced(atoms, hole, 3)
    sites = np.linalg.norm(atoms.positions - hole, axis=1) < 2.6
    # The chemical potential of the neutral vacancy, below its empty gap levels.
    options = {"mu": 5.403}
    exact = quantum(kpts=(2, 2, 2), **options).evaluate(atoms).forces[sites]
    return study("vacancy", crystal, atoms, sites, exact, crystal, options)


def dislocation_case():
    # Round elastic constants (GPa): any plausible core will do as reference, and no force is relaxed here.
    dislocation = DiamondGlideScrew(A0, C11=149.0, C12=70.0, C44=76.0, symbol="Si")
    perfect, predictor = dislocation.build_cylinder(22.0)[:2]
    predictor.pbc = (False, False, True)
    middle = predictor.positions[:, :2].mean(axis=0)
    centre = np.array([*middle, 0.0])
    atoms = displaced(predictor, centre, 1, axes=(0, 1))
    distance = np.linalg.norm(atoms.positions[:, :2] - middle, axis=1)
    sites = distance < 3.0
    options = {"kpts": {"size": (1, 1, 6), "gamma": True}}
    exact = quantum(**options).evaluate(atoms).forces[sites]
    return study("dislocation", predictor, atoms, sites, exact, None, options)


def plot(results, path):
    figure, axes = plt.subplots(1, len(results), figsize=(4 * len(results), 3.6), sharey=True, squeeze=False)
    styles = {"embedded": ("C0", "o"), "open": ("C1", "s"), "periodic": ("C2", "^")}
    for ax, (name, rows) in zip(axes[0], results.items(), strict=True):
        for kind, (colour, marker) in styles.items():
            mine = [row for row in rows if row[1] == kind]
            if mine:
                sizes, errors = [row[3] for row in mine], [row[2] for row in mine]
                ax.loglog(sizes, errors, marker=marker, color=colour, label=kind)
        ax.set(title=name, xlabel="atoms in the cluster")
        ax.grid(alpha=0.3, which="both")
    axes[0][0].set_ylabel("largest force error (eV/Å)")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("cases", nargs="*", default=["crystal", "vacancy", "dislocation"])
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--save", type=Path, help="JSON file of the rows; existing cases are kept")
    arguments = parser.parse_args()
    cases = {"crystal": crystal_case, "vacancy": vacancy_case, "dislocation": dislocation_case}
    results = {}
    if arguments.save and arguments.save.exists():
        results = json.loads(arguments.save.read_text())
    for name in arguments.cases:
        results[name] = cases[name]()
        if arguments.save:
            arguments.save.write_text(json.dumps(results))
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
