"""The error of QM/MM schemes against the radius of the quantum region, for one defect."""

from __future__ import annotations

import csv
import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.constraints import FixAtoms
from ase.optimize.optimize import Optimizer

from ..errors import NumericsError, check_positive, check_structure, checked_keywords
from ..files import write_atomically
from ..mixing import ForceMixingCalculator, Regions
from ..neighbours import unwrap
from ..norms import energy_norm
from ..parallel import TaskPool
from ..relaxation import OPTIMIZERS

__all__ = ["ConvergenceStudy", "Scheme", "convergence_study"]

log = logging.getLogger(__name__)

# Extended XYZ has eight decimals of a position; errors of mixtures go below. A column holds the rest.
ROUNDING = 1e-8  # Å
REMAINDER = "position_remainder"

COLUMNS = [
    ("scheme", "U64"),
    ("r_qm", float),
    ("n_qm", int),
    ("error", float),
    ("largest", float),
    ("energy_error", float),
    ("steps", int),
    ("seconds", float),
]


@dataclass(frozen=True)
class Scheme:
    """A mixing scheme of a study: the MM model and how it is mixed with the quantum model.

    Attributes
    ----------
    mm : ase.calculators.calculator.Calculator
    mixing : callable
        ``mixing(qm, mm, regions, **options)`` makes the calculator; a class of this package or one's own.
    options : dict
    """

    mm: Calculator
    mixing: Callable[..., Calculator] = ForceMixingCalculator
    options: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        name = getattr(self.mixing, "__name__", repr(self.mixing))
        return f"Scheme({name}, mm={self.mm!r}, {dict(self.options)!r})"


@dataclass(frozen=True)
class ConvergenceStudy:
    """Errors of relaxed geometries, by scheme and radius.

    Attributes
    ----------
    table : structured ndarray
        ``scheme``, ``r_qm`` (Å), ``n_qm`` atoms, ``error`` = ``||Du - Du_H||`` (Å), ``largest`` difference of
        a position (Å), ``energy_error`` of the relaxation energy (eV; NaN for schemes without one), ``steps``
        and ``seconds`` of the relaxation.
    norm : float
        ``||Du||`` of the quantum model's own relaxation (Å).
    reference : ase.Atoms
        Relaxed by the quantum model.
    relaxed : dict of (str, float) to ase.Atoms
        Relaxed by each scheme and radius.
    """

    table: np.ndarray
    norm: float
    reference: Atoms
    relaxed: dict[tuple[str, float], Atoms]

    def slope(
        self, scheme: str, column: str = "error", r_min: float = 0.0, r_max: float = np.inf
    ) -> tuple[float, float]:
        """Exponent of ``column ~ r_qm^slope`` and its standard error, by least squares of the logarithms.

        Raises
        ------
        ValueError
            Fewer than three radii with an error above zero in the range.
        """
        rows = self.table[self.table["scheme"] == scheme]
        rows = rows[(rows["r_qm"] >= r_min) & (rows["r_qm"] <= r_max) & (np.abs(rows[column]) > 0)]
        if len(rows) < 3:
            raise ValueError(f"slope: {len(rows)} radii of scheme {scheme!r} to fit, expected 3 or more")
        x, y = np.log(rows["r_qm"]), np.log(np.abs(rows[column]))
        design = np.column_stack([x - x.mean(), np.ones(len(x))])
        (slope, level), *_ = np.linalg.lstsq(design, y, rcond=None)
        residual = y - design @ (slope, level)
        variance = residual @ residual / (len(x) - 2) / ((x - x.mean()) ** 2).sum()
        return float(slope), float(np.sqrt(variance))

    def write_csv(self, path: str | Path) -> None:
        """Write the table."""

        def write(temporary: Path) -> None:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(self.table.dtype.names or ())
                writer.writerows(self.table.tolist())

        write_atomically(Path(path), write)

    def __str__(self) -> str:
        lines = [
            f"||Du|| = {self.norm:.4f} Å",
            f"{'scheme':24s} r_qm Å  qm atoms  ||Du - Du_H|| Å  largest Å  energy error eV  steps",
        ]
        lines += [
            f"{row['scheme']:24s} {row['r_qm']:6.2f} {row['n_qm']:9d} {row['error']:15.3e} "
            f"{row['largest']:10.2e} {row['energy_error']:16.3e} {row['steps']:6d}"
            for row in self.table
        ]
        return "\n".join(lines)

    def plot(
        self,
        path: str | Path | None = None,
        slopes: Mapping[str, float] | None = None,
        energy_slopes: Mapping[str, float] | None = None,
    ) -> Any:
        """Errors against the radius, logarithmic; returns the figure, and writes it to `path` if given.

        Parameters
        ----------
        path : str or Path, optional
        slopes, energy_slopes : mapping of str to float, optional
            Exponents to draw as dashed lines, by label; the name of a scheme draws through its last point.
            The second are those of the energy error.
        """
        from .plots import plot_convergence

        return plot_convergence(self.table, path, slopes, energy_slopes)


@dataclass(frozen=True)
class _Task:
    """One relaxation, as it goes to a worker."""

    name: str
    predictor: Atoms  # where the relaxation energy is counted from
    start: Atoms
    calc: Calculator
    fmax: float
    steps: int
    optimizer: str | Callable[..., Optimizer]
    path: Path | None
    digest: str


@checked_keywords
def convergence_study(
    atoms: Atoms,
    qm: Calculator,
    schemes: Mapping[str, Scheme],
    radii: Sequence[float],
    *,
    centre: Any,
    r_buffer: float,
    fmax: float = 1e-4,
    steps: int = 300,
    optimizer: str | Callable[..., Optimizer] = "force-lbfgs",
    reference: Atoms | None = None,
    start: str = "predictor",
    folder: str | Path | None = None,
    pool: TaskPool | None = None,
) -> ConvergenceStudy:
    """Relax a defect by the quantum model and by mixtures with growing quantum regions, and compare.

    Parameters
    ----------
    atoms : ase.Atoms
        The defect before relaxation (the predictor). Atoms held by ``FixAtoms``, or marked in the array
        ``frozen`` as by :mod:`ase_qmmm.defects`, are the far field.
    qm : ase.calculators.calculator.Calculator
    schemes : mapping of str to Scheme
        By the name that the table shows.
    radii : sequence of float
        Radii of the quantum region (Å), from `centre`.
    centre : int, (3,) or (m, 3) array_like
        See :meth:`Regions.from_distance`.
    r_buffer : float
        Width of the buffer (Å).
    fmax : float
        eV/Å. Take it far below the forces that the errors to be seen come from.
    steps : int
        Most steps of one relaxation.
    optimizer : {"force-lbfgs", "precon-lbfgs", "lbfgs", "bfgs", "fire"} or callable
        The first is :class:`~ase_qmmm.preconditioning.PreconditionedLBFGS`; rounding of energies does
        not end it. A callable makes one from ``(atoms, logfile=None)``.
    reference : ase.Atoms, optional
        Geometry relaxed by `qm` before; with its calculator's energy, if any.
    start : {"predictor", "reference"}
        Where the relaxations of the mixtures begin: at `atoms`, or at the geometry of the quantum model,
        which takes fewer calls and stays in the same basin where several minima are near (Jahn-Teller
        distortions).
    folder : str or Path, optional
        Keeps each relaxed structure (extended XYZ) as soon as it is done. A study called again with the same
        arguments takes them from there. Models count as the same where their ``repr`` is; take another folder
        for one that differs in what that does not show, such as the `elasticity` of an expansion.
    pool : TaskPool, optional
        Runs the relaxations at the same time.

    Returns
    -------
    ConvergenceStudy

    Raises
    ------
    ValueError
        Radii, names, optimizer or lengths that cannot be used.
    NumericsError
        A relaxation that did not converge within `steps`.

    References
    ----------
    H. Chen, C. Ortner, Y. Wang, QM/MM methods for crystalline defects, part 3, section 4.2, table 1.
    """
    check_structure(atoms)
    check_positive("fmax", fmax, "eV/Å")
    if not callable(optimizer) and optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer: got {optimizer!r}, expected one of {', '.join(OPTIMIZERS)}")
    if start not in ("predictor", "reference"):
        raise ValueError(f"start: got {start!r}, expected 'predictor' or 'reference'")
    if not schemes or not all(isinstance(s, Scheme) for s in schemes.values()):
        raise ValueError("schemes: expected one or more Scheme by name")
    sizes = sorted({check_positive("radii", r, "Å") for r in radii})
    if not sizes:
        raise ValueError("radii: expected one or more")
    if reference is not None and len(reference) != len(atoms):
        raise ValueError(f"reference: got {len(reference)} atoms, expected {len(atoms)}")
    place = None if folder is None else Path(folder)
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    frozen = _fixed(atoms)
    predictor = atoms.copy()
    predictor.set_constraint(FixAtoms(mask=frozen) if frozen.any() else None)
    workers = pool or TaskPool()

    # How a callable goes to the minimum is its own affair.
    way = "own" if callable(optimizer) else optimizer

    def task(name: str, calc: Calculator, begin: Atoms, options: Mapping[str, Any]) -> _Task:
        label = re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-")
        path = None if place is None else place / f"{label}.extxyz"
        digest = _digest(atoms, begin.positions, frozen, calc, options, fmax, way)
        return _Task(name, predictor, begin, calc, fmax, steps, optimizer, path, digest)

    tasks, keys, counts = [], [], []
    first = predictor
    if reference is None:
        tasks.append(task("reference", qm, predictor, {}))
    if start == "reference":
        if reference is None:
            (reference,) = workers.map(_relaxed, tasks)
            tasks.clear()
        first = predictor.copy()
        first.positions += _difference(reference, predictor, predictor)
        first.positions[frozen] = atoms.positions[frozen]
    for name, scheme in schemes.items():
        for r in sizes:
            inside = Regions.from_distance(atoms, centre, r, r_buffer)
            regions = Regions(inside.qm & ~frozen, inside.buffer, frozen if frozen.any() else None)
            calc = scheme.mixing(qm, scheme.mm, regions, **scheme.options)
            tasks.append(task(f"{name} {r:.4g}", calc, first, scheme.options))
            keys.append((name, r))
            counts.append(int(regions.qm.sum()))
    results = workers.map(_relaxed, tasks)
    if reference is None:
        reference = results.pop(0)
    rows = []
    for (name, r), count, relaxed in zip(keys, counts, results, strict=True):
        difference = _difference(reference, relaxed, atoms)
        rows.append(
            (
                name,
                r,
                count,
                energy_norm(difference, atoms),
                float(np.linalg.norm(difference, axis=1).max(initial=0.0)),
                relaxed.info["relaxation_energy"] - reference.info.get("relaxation_energy", np.nan),
                relaxed.info["relaxation_steps"],
                relaxed.info["relaxation_seconds"],
            )
        )
    norm = energy_norm(_difference(reference, atoms, atoms), atoms)
    relaxed_by = dict(zip(keys, results, strict=True))
    return ConvergenceStudy(np.array(rows, dtype=COLUMNS), norm, reference, relaxed_by)


def _fixed(atoms: Atoms) -> np.ndarray:
    mask: np.ndarray = np.array(atoms.arrays.get("frozen", np.zeros(len(atoms))), dtype=bool)
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixAtoms):
            raise ValueError(f"atoms: constraint {type(constraint).__name__}; only FixAtoms is understood")
        mask[constraint.index] = True
    return mask


def _difference(first: Atoms, second: Atoms, cell: Atoms) -> np.ndarray:
    near = unwrap(first.positions, second.positions, cell.cell.array, cell.pbc)
    difference: np.ndarray = near - second.positions
    return difference


def _digest(
    atoms: Atoms,
    begin: np.ndarray,
    frozen: np.ndarray,
    calc: Calculator,
    options: Mapping[str, Any],
    fmax: float,
    way: str,
) -> str:
    """What a relaxed structure depends on."""
    # Options that are at their defaults do not make another study.
    given = "".join(f" {name}={options[name]!r}" for name in sorted(options))
    digest = hashlib.sha256(f"{calc!r}{given} {fmax!r} {way}".encode())
    regions = getattr(calc, "regions", None)
    masks = [regions.numbers] if isinstance(regions, Regions) else []
    # A reference that was read differs from the one that was written in the last bit.
    begin = begin.round(6) + 0.0
    for array in (atoms.numbers, atoms.positions, begin, atoms.cell.array, atoms.pbc, frozen, *masks):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _relaxed(task: _Task) -> Atoms:
    """Relax, or take what was relaxed before."""
    if task.path is not None and task.path.exists():
        try:
            found: Atoms = ase.io.read(task.path, index=0)  # type: ignore[assignment]
        except Exception as error:  # whatever a cut or foreign file makes the reader raise
            log.warning("%s cannot be read and is made anew: %s", task.path, error)
        else:
            if found.info.get("relaxation_digest") == task.digest and REMAINDER in found.arrays:
                found.positions += ROUNDING * found.arrays.pop(REMAINDER)
                return found
            log.warning("%s belongs to another study and is made anew", task.path)
    begin = time.perf_counter()
    has_energy = getattr(task.calc, "conservative", True)
    start_energy = np.nan
    if has_energy:
        predictor = task.predictor.copy()
        predictor.calc = task.calc
        start_energy = predictor.get_potential_energy()
    atoms = task.start.copy()
    atoms.calc = task.calc
    # Mixtures have no energy that a log could show.
    make = task.optimizer if callable(task.optimizer) else OPTIMIZERS[task.optimizer]
    optimizer = make(atoms, logfile=None)
    converged = optimizer.run(fmax=task.fmax, steps=task.steps)
    if not converged:
        force = float(np.linalg.norm(atoms.get_forces(), axis=1).max())
        raise NumericsError(
            f"{task.name}: not converged in {task.steps} steps (largest force {force:.2g} eV/Å, "
            f"fmax {task.fmax:g}); give more steps, or a larger fmax"
        )
    energy = atoms.get_potential_energy() - start_energy if has_energy else np.nan
    out = Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    regions = getattr(task.calc, "regions", None)
    if isinstance(regions, Regions):
        regions.write(out)
    out.info |= {
        "relaxation_energy": float(energy),
        "relaxation_steps": int(optimizer.nsteps),
        "relaxation_seconds": time.perf_counter() - begin,
        "relaxation_digest": task.digest,
    }
    if task.path is not None:
        written = out.copy()
        kept = np.array([float(f"{x:.8f}") for x in out.positions.ravel()]).reshape(-1, 3)
        written.new_array(REMAINDER, (out.positions - kept) / ROUNDING)
        write_atomically(task.path, lambda path: ase.io.write(path, written, format="extxyz"))
    return out
