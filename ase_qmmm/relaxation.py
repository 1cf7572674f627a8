"""The main job: relax a defect with a quantum model inside and a matched model outside, and keep a record.

This is the driver behind ``ase-qmmm relax``. It reports through a callable, writes its trajectory as it goes,
and whatever ends the run, the last structure and the summary are on disk.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.trajectory import Trajectory
from ase.optimize import BFGS, FIRE, LBFGS
from ase.optimize.precon import PreconLBFGS
from threadpoolctl import threadpool_limits

from .crystal import Crystal
from .errors import StructureError, check_integer, check_positive, check_structure
from .files import write_atomically
from .lattice_sites import lattice_sites
from .mixing import ForceMixingCalculator, Regions
from .mixing.carving import CLUSTER_KINDS
from .mixing.regions import defect_centres
from .neighbours import unwrap
from .plotting import plot_regions
from .preconditioning import FactorisedExp, PreconditionedLBFGS
from .taylor import TaylorForces
from .tightbinding import TightBinding, load_model, model_names

__all__ = [
    "OPTIMIZERS",
    "RelaxationSettings",
    "RelaxationFiles",
    "relax_defect",
    "guess_unit_cell",
    "versions",
]

SUMMARY_FORMAT = "ase-qmmm-relaxation"
SUMMARY_VERSION = 1


def _precon_lbfgs(atoms: Atoms, **options: Any) -> Any:
    """PreconLBFGS without Armijo's line search, which needs an energy that belongs to the forces."""
    # As by default, where fewer than 100 atoms go without a preconditioner, but with a warning.
    return PreconLBFGS(
        atoms, use_armijo=False, precon=FactorisedExp() if len(atoms) >= 100 else None, **options
    )


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "lbfgs": LBFGS,
    "bfgs": BFGS,
    "fire": FIRE,
    "precon-lbfgs": _precon_lbfgs,
    "force-lbfgs": PreconditionedLBFGS,
}


@dataclass
class RelaxationSettings:
    """Parameters of :func:`relax_defect`; lengths in Å, energies in eV."""

    qm: str = "nrl-Si-sp"
    kT: float = 0.1
    mu: float | None = None
    r_qm: float = 6.0
    r_buffer: float | None = None
    mm_cutoff: float = 8.0
    cluster: str = "auto"
    optimizer: str = "precon-lbfgs"
    fmax: float = 1e-3
    steps: int = 200
    rescale: bool = False
    # Of the linear algebra. BLAS threads that share cores with other processes wait for each other: on a busy
    # machine two took ten times as long as one, on an idle one they save a third.
    threads: int = 1

    def validate(self) -> None:
        """Raise ``ValueError`` naming the first argument that cannot be used."""
        for name in ("kT", "r_qm", "mm_cutoff", "fmax"):
            check_positive(name, getattr(self, name))
        if self.r_buffer is not None:
            check_positive("r_buffer", self.r_buffer, "Å", zero=True)
        if self.cluster not in CLUSTER_KINDS:
            raise ValueError(f"cluster: got {self.cluster!r}, expected one of {', '.join(CLUSTER_KINDS)}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer: got {self.optimizer!r}, expected one of {', '.join(OPTIMIZERS)}")
        check_integer("threads", self.threads, 1)
        check_integer("steps", self.steps, 0)


@dataclass
class RelaxationFiles:
    """Where the results go: ``prefix`` plus .extxyz, .traj, .json and .png."""

    prefix: Path
    structure: Path = field(init=False)
    trajectory: Path = field(init=False)
    summary: Path = field(init=False)
    picture: Path = field(init=False)

    def __post_init__(self) -> None:
        self.prefix = Path(self.prefix)
        folder = self.prefix.parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ValueError(f"output: folder {folder} does not exist or cannot be written")
        for name, suffix in (
            ("structure", "extxyz"),
            ("trajectory", "traj"),
            ("summary", "json"),
            ("picture", "png"),
        ):
            setattr(self, name, folder / f"{self.prefix.name}.{suffix}")


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    names = ("ase-qmmm", "ase", "numpy", "scipy", "matscipy", "numba")
    found = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def guess_unit_cell(atoms: Atoms) -> Atoms:
    """Unit cell of the element that `atoms` consist of, as ASE knows it.

    Raises
    ------
    StructureError
        More than one element, or one without a reference state in ASE.
    """
    symbols = sorted(set(atoms.get_chemical_symbols()))
    if len(symbols) != 1:
        raise StructureError(
            f"crystal: {len(symbols)} elements ({', '.join(symbols)}); give the unit cell in a file"
        )
    try:
        return bulk(symbols[0])
    except (ValueError, RuntimeError, KeyError) as error:
        raise StructureError(
            f"crystal: ASE knows no crystal of {symbols[0]} ({error}); give the unit cell"
        ) from error


@contextlib.contextmanager
def _timed(report: Callable[[str], None], timings: dict[str, float], name: str, text: str) -> Iterator[None]:
    report(f"{text} ...")
    begin = time.perf_counter()
    yield
    timings[name] = time.perf_counter() - begin
    report(f"  done in {timings[name]:.1f} s")


def relax_defect(
    atoms: Atoms,
    files: RelaxationFiles,
    settings: RelaxationSettings | None = None,
    *,
    unit_cell: Atoms | None = None,
    report: Callable[[str], None] = print,
    progress: bool = False,
) -> dict[str, Any]:
    """Relax a point defect with force mixing and write structure, trajectory, summary and picture.

    Parameters
    ----------
    atoms : ase.Atoms
        The crystal with its defect; not changed.
    files : RelaxationFiles
    settings : RelaxationSettings, optional
    unit_cell : ase.Atoms, optional
        Starting guess for the crystal; default by element.
    report : callable
        Receives one line of text at a time.
    progress : bool
        Show progress bars.

    Returns
    -------
    dict
        The summary, as written to ``files.summary``.

    Raises
    ------
    ValueError, StructureError
        Settings or structure that cannot be used, before any heavy work.
    """
    settings = settings or RelaxationSettings()
    settings.validate()
    with threadpool_limits(limits=settings.threads):
        return _relax(atoms, files, settings, unit_cell, report, progress)


def _relax(
    atoms: Atoms,
    files: RelaxationFiles,
    settings: RelaxationSettings,
    unit_cell: Atoms | None,
    report: Callable[[str], None],
    progress: bool,
) -> dict[str, Any]:
    """:func:`relax_defect` with checked settings."""
    check_structure(atoms)
    if not atoms.pbc.any():
        raise StructureError(
            "structure: no periodic direction; a crystal needs cell and pbc, which plain xyz files lack"
        )
    qm = TightBinding(settings.qm, kT=settings.kT, mu=settings.mu)
    unknown = sorted(set(atoms.get_chemical_symbols()) - set(qm.model.symbols))
    if unknown:
        # The symbol of the toy model stands for no element.
        names = [name for name in model_names() if name != "toy"]
        fitting = [name for name in names if unknown[0] in load_model(name).symbols]
        hint = f"; try --qm {' or '.join(fitting)}" if fitting else ""
        raise StructureError(f"structure: {settings.qm} has no parameters for {', '.join(unknown)}{hint}")
    unit_cell = guess_unit_cell(atoms) if unit_cell is None else unit_cell
    begin = time.perf_counter()
    timings: dict[str, float] = {}
    report(f"structure: {len(atoms)} atoms, {atoms.get_chemical_formula()}")

    with _timed(report, timings, "crystal", f"crystal: relaxing the unit cell with {settings.qm}"):
        crystal = Crystal.relaxed(unit_cell, qm)
    report(f"  {crystal!r}")
    work = _bare_copy(atoms)
    stretch = _stretch(work, crystal)
    if stretch is None:
        if settings.rescale:
            raise StructureError(
                "rescale: needs a cell that is periodic in every direction of the crystal, around one "
                "lattice; scale the structure by hand"
            )
        report("  the cell of the structure does not tell how far it is off the model's lattice constant")
    else:
        percent = 100 * (stretch - 1)
        report(f"  the cell of the structure is {percent:+.3f} % off the model's lattice constant")
        if settings.rescale:
            work.set_cell(work.cell.array / stretch, scale_atoms=True)
            report("  rescaled to it")
        elif abs(percent) > 0.5:
            report(
                "  WARNING: more than 0.5 %; the far field expands about the unstrained lattice; --rescale?"
            )
    start = work.positions.copy()

    with _timed(report, timings, "regions", "regions: looking for what differs from the crystal"):
        centres = defect_centres(work, crystal)
    for centre in centres[:5]:
        report("  defect at ({:.2f}, {:.2f}, {:.2f}) Å".format(*(centre.round(2) + 0.0)))
    with _timed(
        report,
        timings,
        "matching",
        f"matching: force constants of {settings.qm} within {settings.mm_cutoff:g} Å",
    ):
        far = ~Regions.from_distance(work, centres, settings.r_qm).qm
        _check_near_field(work, far, qm, crystal, settings.mm_cutoff)
        mm = TaylorForces.from_calculator(qm, crystal, order=1, cutoff=settings.mm_cutoff, progress=progress)
    report(f"  {mm!r}")

    calc, regions, r_buffer = _mixture(work, centres, qm, mm, settings)
    regions.write(work)
    counts = {name: int(getattr(regions, name).sum()) for name in ("qm", "buffer", "mm", "frozen")}
    report("regions: " + ", ".join(f"{n} {name}" for name, n in counts.items()))
    for cluster in calc.clusters:
        report(f"  quantum call: {cluster!r}")
    work.calc = calc
    if regions.frozen.any():
        work.set_constraint(regions.constraint())

    summary: dict[str, Any] = {
        "format": SUMMARY_FORMAT,
        "version": SUMMARY_VERSION,
        "finished": False,
        "converged": False,
        "parameters": dict(vars(settings)),
        "n_atoms": len(work),
        "regions": counts,
        "clusters": [{"kind": c.kind, "atoms": len(c.index), "qm": int(c.qm.sum())} for c in calc.clusters],
        "crystal": {
            "formula": crystal.unit_cell.get_chemical_formula(),
            "cell": crystal.unit_cell.cell.array.tolist(),
            "cell_stretch": stretch,
        },
        "r_buffer": r_buffer,
        "chemical_potential": _chemical_potential(calc),
        "energy_functional": "Helmholtz free energy"
        if _chemical_potential(calc) is None
        else "grand potential",
        "qm": repr(qm),
        "mm": repr(mm),
        "versions": versions(),
    }
    optimizer_class = OPTIMIZERS[settings.optimizer]
    history: list[dict[str, float]] = []
    clock = time.perf_counter()

    def log_step() -> None:
        nonlocal clock
        now = time.perf_counter()
        forces = work.get_forces()
        size = np.linalg.norm(forces, axis=1)
        moved = np.linalg.norm(work.positions - start, axis=1).max()
        row = {
            "energy": float(work.get_potential_energy()),
            "fmax": float(size.max()),
            "max_displacement": float(moved),
        }
        history.append(row)
        report(
            f"  step {len(history) - 1:3d}   energy {row['energy']:16.6f} eV   fmax {row['fmax']:9.5f} eV/Å"
            f"   largest displacement {moved:7.4f} Å   {now - clock:5.1f} s"
        )
        clock = now

    report(
        f"relaxing: {settings.optimizer}, to fmax = {settings.fmax:g} eV/Å, at most {settings.steps} steps"
    )
    trajectory = Trajectory(str(files.trajectory), "w", work)
    # Whatever the optimiser or its user does, the last structure is kept.
    try:
        with optimizer_class(work, logfile=None) as optimizer:
            optimizer.attach(trajectory)
            optimizer.attach(log_step)
            summary["converged"] = bool(optimizer.run(fmax=settings.fmax, steps=settings.steps))
        summary["finished"] = True
    finally:
        timings["relaxation"] = time.perf_counter() - begin - sum(timings.values())
        timings |= {
            f"relaxation_{name}": seconds for name, seconds in calc.timings.items() if name != "total"
        }
        timings["total"] = time.perf_counter() - begin
        summary |= {"steps": max(len(history) - 1, 0), "history": history, "timings": timings}
        if history:
            summary |= {
                "energy_initial": history[0]["energy"],
                "energy": history[-1]["energy"],
                "fmax": history[-1]["fmax"],
                "max_displacement": history[-1]["max_displacement"],
            }
        trajectory.close()
        write_atomically(
            files.summary,
            lambda path: path.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8"),
        )
        result = _result(work, start)
        write_atomically(files.structure, lambda path: ase.io.write(path, result, format="extxyz"))
    state = "converged" if summary["converged"] else "NOT CONVERGED"
    report(
        f"{state} after {summary['steps']} steps; energy {summary['energy']:.6f} eV, "
        f"fmax {summary['fmax']:.5f} eV/Å"
    )
    middle = centres[0]
    write_atomically(files.picture, lambda path: plot_regions(result, centre=middle, path=path))
    report(
        f"total {timings['total']:.1f} s, of which quantum model {calc.timings['qm']:.1f} s in the relaxation"
    )
    for path in (files.structure, files.trajectory, files.summary, files.picture):
        report(f"  wrote {path}")
    return summary


def _bare_copy(atoms: Atoms) -> Atoms:
    copy: Atoms = atoms.copy()
    copy.calc = None
    return copy


def _stretch(atoms: Atoms, crystal: Crystal) -> float | None:
    """Linear size of the atoms' lattice relative to the crystal's, None where no periodic cell tells it."""
    match = crystal.match(atoms, 1.2 * crystal.nearest_neighbour_distance)
    sites, d = lattice_sites(match, atoms), len(crystal.lattice)
    if sites is None or len(sites.periods) < d:
        return None
    return float(abs(np.linalg.det(sites.gradient)) ** (1 / d))


def _check_near_field(
    atoms: Atoms, far: np.ndarray, qm: TightBinding, crystal: Crystal, cutoff: float
) -> None:
    """Refuse atoms `far` from the defect that lack near neighbours that matter.

    Before the dear force constants of the whole `cutoff` (Å): two thirds of it hold a third of the
    neighbours.
    """
    match = crystal.match(atoms, 2 / 3 * cutoff)
    lacking = match.missing & far[:, None]
    if lacking.any():
        nearest = float(np.linalg.norm(match.vectors[lacking], axis=1).min())
        TaylorForces.from_calculator(qm, crystal, cutoff=nearest + 0.01).evaluate_sites(atoms, far)


def _mixture(
    atoms: Atoms, centres: np.ndarray, qm: TightBinding, mm: TaylorForces, settings: RelaxationSettings
) -> tuple[ForceMixingCalculator, Regions, float]:
    """Calculator, regions, width of the buffer (Å); by default 2 Å where a periodic box fits, 8 Å if open."""
    widths = [2.0, 8.0] if settings.r_buffer is None else [settings.r_buffer]
    for width in widths:
        regions = Regions.from_distance(atoms, centres, r_qm=settings.r_qm, r_buffer=width)
        calc = ForceMixingCalculator(qm, mm, regions, cluster=settings.cluster)
        if all(c.kind != "open" for c in calc.prepare(atoms)):
            break
    return calc, calc.regions, width


def _chemical_potential(calc: ForceMixingCalculator) -> float | None:
    return getattr(next(iter(calc.cluster_calculators), None), "mu", None)


def _result(atoms: Atoms, start: np.ndarray) -> Atoms:
    """A copy with energy, forces and displacements, as it goes to the file."""
    result: Atoms = atoms.copy()
    result.set_constraint()
    displacement = unwrap(atoms.positions, start, atoms.cell.array, atoms.pbc) - start
    result.set_array("displacement", displacement)
    if atoms.calc is not None and atoms.calc.results:
        kept = {k: v for k, v in atoms.calc.results.items() if k in ("energy", "forces")}
        result.calc = SinglePointCalculator(result, **kept)
    return result
