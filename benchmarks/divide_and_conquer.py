"""Errors, block sizes and times of divide and conquer: python benchmarks/divide_and_conquer.py [PART ...].

Parts: small, medium, bar, plate, wide, decay, blocks, times, large. Silicon (nrl-Si-sp, kT = 0.1 eV), mu of
the crystal, atoms rattled by 0.03 Å in each direction. Set OPENBLAS_NUM_THREADS=1 for the times of the
documentation.
"""

import sys
import time

import numpy as np
from ase.build import bulk

from ase_qmmm import Crystal, DivideAndConquer, TightBinding
from ase_qmmm.tightbinding.boundaries import OpenBoundary, PeriodicBoundary

MU = 5.8222  # eV: fermi_level(TightBinding("nrl-Si-sp"), CRYSTAL)
CRYSTAL = Crystal(bulk("Si", a=5.42641))
CONVERGED = {"size": (2, 2, 2), "gamma": True}  # for 216 atoms and more
GAMMA = (1, 1, 1)
# Real points by the directions that are split: two leave images across the edges of a box, at 1.4 times its
# length, the four of "wide" those across its corners, at 1.7 times.
POINTS = {
    "bar": ((0, 0, 0), (0, 0, 0.5)),
    "plate": ((0, 0, 0), (0, 0.5, 0.5)),
    "two": ((0, 0, 0), (0.5, 0.5, 0.5)),
    "four": ((0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)),
}


def model(**options):
    return TightBinding("nrl-Si-sp", kT=0.1, mu=MU, **options)


def silicon(cells, vacancy=False):
    atoms = CRYSTAL.supercell(cells, cubic=True)
    if vacancy:
        del atoms[len(atoms) // 2]
    atoms.rattle(0.03, seed=1)
    return atoms


def solver(kind, block, buffer):
    """Open clusters of atoms and images only, or periodic boxes at Gamma or with k-points."""
    points = {f"periodic, {name}": PeriodicBoundary(CRYSTAL, kpts=k) for name, k in POINTS.items()}
    boundaries = {
        "open": OpenBoundary(keep_periodic=False),
        "periodic": PeriodicBoundary(CRYSTAL),
        "periodic, Gamma": PeriodicBoundary(CRYSTAL, kpts=GAMMA),
        **points,
    }
    return DivideAndConquer(block=block, buffer=buffer, boundary=boundaries[kind])


def timed(calc, atoms, weights=None):
    """Result and processor time, which other work on the machine changes less than the clock's."""
    begin = time.process_time()
    result = calc.evaluate(atoms, weights)
    return result, time.process_time() - begin


def cluster_size(calc):
    clusters = calc.solver_state.clusters.values()
    return f"{np.mean([len(c.index) for c in clusters]):.0f}"


def row(*cells):
    texts = [f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells]
    print("| " + " | ".join(texts) + " |", flush=True)


def header(title, *columns):
    print(f"\n### {title}\n")
    row(*columns)
    print("|" + "---|" * len(columns))


def compare(atoms, exact, kind, block, buffer, kpts=CONVERGED):
    """Errors of forces (eV/Å, largest and rms) and of the energy (meV/atom), atoms per cluster, seconds."""
    calc = model(kpts=kpts, solver=solver(kind, block, buffer))
    result, seconds = timed(calc, atoms)
    error = np.linalg.norm(result.forces - exact.forces, axis=1)
    shift = 1e3 * (result.energy - exact.energy) / len(atoms)
    rms = float(np.sqrt((error**2).mean()))
    row(kind, block, buffer, cluster_size(calc), float(error.max()), rms, shift, seconds)


COLUMNS = ("boundary", "block", "buffer", "cluster", "largest", "rms", "energy, meV/atom", "s")


def errors(title, atoms, cases, block=5.43, kpts=CONVERGED):
    """Against the dense solver, over the buffer."""
    exact, seconds = timed(model(kpts=kpts), atoms)
    header(f"{title} (dense: {seconds:.1f} s)", *COLUMNS)
    for kind, buffer in cases:
        compare(atoms, exact, kind, block, buffer, kpts)


def small():
    """216 atoms, and without one of them."""
    cases = [("open", 5.0), ("open", 7.0), ("open", 8.0), ("periodic", 3.3)]
    errors("216 atoms", silicon(3), cases)
    errors("215 atoms, vacancy", silicon(3, vacancy=True), cases)


def medium():
    """512 atoms."""
    cases = [("open", 7.0), ("open", 8.0), ("periodic", 3.3), ("periodic, Gamma", 6.0), ("periodic", 6.0)]
    errors("512 atoms", silicon(4), cases)


def bar():
    """A bar of 2 x 2 x 12 cells in slices of one cell, and of other lengths, in boxes of 3 to 6 cells."""
    kinds = ("periodic, Gamma", "periodic, bar")
    atoms = silicon((2, 2, 12))
    cases = [(kind, buffer) for buffer in (6.0, 8.1, 11.3, 14.0) for kind in kinds]
    errors("bar of 384 atoms", atoms, cases, kpts=GAMMA)
    for block, buffer in ((8.14, 7.4), (9.3, 6.6), (10.85, 6.0)):
        errors("the same, other blocks", atoms, [("periodic, bar", buffer)], block, GAMMA)


def plate():
    """A plate of 2 x 6 x 6 cells in columns of one by one: boxes of 3 x 3 and 4 x 4."""
    cases = [("periodic, plate", 6.0), ("periodic, Gamma", 8.1), ("periodic, plate", 8.1)]
    errors("plate of 576 atoms", silicon((2, 6, 6)), cases, kpts=POINTS["plate"])


def decay():
    """The gradient of one block's energy in 1000 atoms, dense and from its cluster."""
    atoms = silicon(5)
    # The blocks do not depend on the buffer: a call without weight makes them.
    calc = model(solver=solver("open", 5.43, 5.0))
    calc.evaluate(atoms, np.zeros(len(atoms)))
    block = calc.solver_state.carver.blocks[0]
    weights = np.zeros(len(atoms))
    weights[block] = 1.0
    exact, seconds = timed(model(), atoms, weights)
    header(f"One block of {len(block)} in 1000 atoms (dense, Gamma: {seconds:.0f} s)", *COLUMNS)
    cases = [("open", b) for b in (5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0)]
    cases += [("periodic", b) for b in (3.3, 6.0, 8.7)] + [("periodic, Gamma", b) for b in (6.0, 8.7)]
    for kind, buffer in cases:
        calc = model(solver=solver(kind, 5.43, buffer))
        result, seconds = timed(calc, atoms, weights)
        error = np.linalg.norm(result.forces - exact.forces, axis=1)
        shift = 1e3 * (result.energy - exact.energy) / len(block)
        total = float(np.sqrt((error**2).sum()))
        row(kind, 5.43, buffer, cluster_size(calc), float(error.max()), total, shift, seconds)


def blocks():
    """Which edge is cheapest for the same buffer."""
    atoms = silicon(6)
    for kind, buffer in (("periodic, Gamma", 3.3), ("periodic, Gamma", 4.7), ("open", 7.0)):
        header(f"{kind}, buffer {buffer} Å: cost by the block, 1728 atoms", "block", "cluster", "ms/atom")
        for edge in (2.72, 4.07, 5.43, 6.52, 8.14, 10.86):
            calc = model(solver=solver(kind, edge, buffer))
            # A few blocks stand for all.
            calc.evaluate(atoms, np.zeros(len(atoms)))
            some = calc.solver_state.carver.blocks[::40][:3]
            weights = np.zeros(len(atoms))
            weights[np.concatenate(some)] = 1.0
            _, seconds = timed(calc, atoms, weights)
            row(edge, cluster_size(calc), 1e3 * seconds / weights.sum())


def wide():
    """1000 atoms in boxes of 512."""
    errors("1000 atoms", silicon(5), [(f"periodic, {points}", 8.1) for points in ("Gamma", "two", "four")])


def times(sizes=(4, 5)):
    """Seconds per call at the same settings; the second call, with blocks known."""
    header(
        "Processor seconds per call",
        "atoms",
        "boundary",
        "block",
        "buffer",
        "first call",
        "second call",
        "dense",
    )
    for cells in sizes:
        atoms = silicon(cells)
        _, dense = timed(model(), atoms) if cells < 6 else (None, float("nan"))
        calc = model(solver=solver("periodic, Gamma", 7.24, 4.7))
        _, first = timed(calc, atoms)
        again = timed(calc, atoms)[1] if cells < 6 else float("nan")
        row(len(atoms), "periodic, Gamma", 7.24, 4.7, first, again, dense)


def large():
    """4096 atoms."""
    times((8,))


PARTS = {part.__name__: part for part in (small, medium, bar, plate, wide, decay, blocks, times, large)}

if __name__ == "__main__":
    for name in sys.argv[1:] or PARTS:
        PARTS[name]()
