"""Forces of many structures from any ASE calculator: on workers, each kept on disk as soon as it is there."""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from ..errors import NumericsError
from ..files import write_atomically
from ..parallel import TaskError, TaskPool

__all__ = ["ForceJobs"]

log = logging.getLogger(__name__)

FORMAT = "ase_qmmm forces 1"

CalculatorSource = Calculator | Callable[[], Calculator]


class ForceJobs:
    """Energies and forces of structures, computed once.

    Parameters
    ----------
    calc : ase.calculators.calculator.Calculator or callable
        A calculator, or a function without arguments that makes one: for calculators that do not pickle, or
        that write into a directory, which workers must not share. It is called once for each worker process
        or thread; for processes it must be defined at the top level of a module.
    executor : optional
        What :class:`~ase_qmmm.parallel.TaskPool` takes, or a ``TaskPool``. None: one after the other.
    cache : str or Path, optional
        Directory in which each result is kept, as soon as it is there, by the content of the structure and
        the identity of the calculator. A run that was cut short computes only what is not there.
    identity : str, optional
        Says which calculator with which settings this is; to be changed when a setting changes that alters
        forces. Default: ``repr(calc)`` where the class has one of its own.
    progress : bool
        Show a progress bar.

    Raises
    ------
    TypeError, ValueError
        No calculator; a cache without an identity.
    """

    def __init__(
        self,
        calc: CalculatorSource,
        *,
        executor: Any = None,
        cache: str | Path | None = None,
        identity: str | None = None,
        progress: bool = False,
    ) -> None:
        self.made = isinstance(calc, type) or not hasattr(calc, "get_forces")
        if self.made and not callable(calc):
            raise TypeError(
                f"calc: got {type(calc).__name__}, expected an ASE calculator, or a function without "
                f"arguments that makes one"
            )
        self.calc = calc
        own = type(calc).__repr__ is not object.__repr__ and not self.made
        name = getattr(calc, "__qualname__", type(calc).__name__)
        self.label = identity or (repr(calc) if own else name)
        if cache is not None and identity is None and (not own or " at 0x" in self.label):
            raise ValueError(
                f"identity: {name} does not say what its settings are, so that a cache could not tell its "
                f"results from others; give a text that does, e.g. identity='PBE, 400 eV, 4x4x4'"
            )
        self.cache = None if cache is None else Path(cache)
        self.pool = executor if isinstance(executor, TaskPool) else TaskPool(executor, progress=progress)
        self._own_pool = self.pool is not executor
        self._identity = f"{self.label} {_version(calc)}"

    def __enter__(self) -> ForceJobs:
        return self

    def __exit__(self, *exception: object) -> None:
        """End own workers; a ``TaskPool`` that was given keeps them."""
        if self._own_pool:
            self.pool.close()

    def run(self, structures: Sequence[Atoms], names: Sequence[str]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Energies (m,) in eV and forces (n, 3) in eV/Å of structures, with names for messages.

        Raises
        ------
        NumericsError
            A calculation failed, or its forces are not (n, 3) finite numbers: which structure, and the file
            with it if there is a cache. Results of others stay in the cache.
        """
        keys = [self._key(atoms) for atoms in structures]
        found = {k: self._load(keys[k], len(atoms)) for k, atoms in enumerate(structures)}
        results = {k: value for k, value in found.items() if value is not None}
        todo = [k for k in range(len(structures)) if k not in results]
        log.info("%d force calculations, %d in the cache", len(structures), len(results))

        def keep(task: int, result: tuple[float, np.ndarray]) -> None:
            k = todo[task]
            fault = _fault(result, len(structures[k]))
            if fault:
                raise self._failure(k, structures, names, fault)
            results[k] = result
            if self.cache is not None:
                self._save(keys[k], structures[k], *result)

        try:
            call = _Forces(self.calc, self.made, os.getpid() if self.pool.executor is not None else None)
            self.pool.map(call, [structures[k] for k in todo], on_result=keep)
        except TaskError as error:
            if error.index < 0:
                raise
            reason = f"{type(error.__cause__).__name__}: {error.__cause__}" if error.__cause__ else str(error)
            raise self._failure(todo[error.index], structures, names, reason) from error
        order = range(len(structures))
        return np.array([results[k][0] for k in order]), [results[k][1] for k in order]

    def _failure(
        self, k: int, structures: Sequence[Atoms], names: Sequence[str], reason: str
    ) -> NumericsError:
        where = "give a cache directory to find its file there"
        if self.cache is not None:
            path = self.cache / f"failed-{self._key(structures[k])[:16]}.extxyz"
            self.cache.mkdir(parents=True, exist_ok=True)
            ase.io.write(path, structures[k], format="extxyz")
            where = f"its structure is in {path}, finished ones are kept"
        return NumericsError(
            f"displaced structure {k} of {len(structures)} ({names[k]}), {self.label}: {reason}; {where}"
        )

    # -- the cache -----------------------------------------------------------------------------------------

    def _key(self, atoms: Atoms) -> str:
        digest = hashlib.sha256(f"{FORMAT}\n{self._identity}\n".encode())
        for name in ("initial_magmoms", "initial_charges"):
            if name in atoms.arrays:
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(atoms.arrays[name] + 0.0, dtype="<f8").tobytes())
        digest.update(np.ascontiguousarray(atoms.numbers, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(atoms.pbc, dtype="?").tobytes())
        for values in (atoms.cell.array, atoms.positions):
            digest.update(np.ascontiguousarray(values + 0.0, dtype="<f8").tobytes())
        return digest.hexdigest()

    def _load(self, key: str, n_atoms: int) -> tuple[float, np.ndarray] | None:
        if self.cache is None:
            return None
        path = self.cache / f"{key}.npz"
        try:
            # Opened here: NumPy leaves the file open where it is cut short.
            with path.open("rb") as file:
                size = sum(entry.file_size for entry in ZipFile(file).infolist())
                if size > 24 * n_atoms + 10_000:
                    raise ValueError(f"{size} bytes are not those of forces on {n_atoms} atoms")
                file.seek(0)
                with np.load(file, allow_pickle=False) as data:
                    if str(data["format"]) != FORMAT or str(data["key"]) != key:
                        raise ValueError("another format or structure")
                    result = float(data["energy"]), data["forces"]
            fault = _fault(result, n_atoms)
            if fault:
                raise ValueError(fault)
        except FileNotFoundError:
            return None
        except (BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
            log.warning("file of forces %s cannot be read (%s): computed again", path, error)
            return None
        return result

    def _save(self, key: str, atoms: Atoms, energy: float, forces: np.ndarray) -> None:
        assert self.cache is not None
        self.cache.mkdir(parents=True, exist_ok=True)
        write_atomically(
            self.cache / f"{key}.npz",
            lambda temporary: np.savez(temporary, format=FORMAT, key=key, energy=energy, forces=forces),
        )


def _version(calc: CalculatorSource) -> str:
    """Package that defines a calculator, with its version."""
    package = (getattr(calc, "__module__", None) or type(calc).__module__).partition(".")[0]
    try:
        return f"({package} {importlib.metadata.version(package)})"
    except importlib.metadata.PackageNotFoundError:
        return f"({package})"


def _fault(result: tuple[float, np.ndarray], n_atoms: int) -> str:
    """What is wrong with an energy and forces, or nothing."""
    energy, forces = result
    if forces.shape != (n_atoms, 3):
        return f"forces of shape {forces.shape}, expected ({n_atoms}, 3)"
    if not np.issubdtype(forces.dtype, np.floating):
        return f"forces of type {forces.dtype}, expected floating-point numbers"
    bad = np.argwhere(~np.isfinite(forces))
    if len(bad):
        atom, axis = bad[0]
        return f"force {forces[atom, axis]} on atom {atom} along {'xyz'[axis]}, expected finite numbers"
    return "" if np.isfinite(energy) else f"energy {energy}, expected a finite number"


# The calculator that a function made for this worker, and that function.
_own = threading.local()


class _Forces:
    """Energy and forces of one structure, in the worker."""

    def __init__(self, calc: CalculatorSource, made: bool, home: int | None) -> None:
        self.calc = calc
        self.made = made
        self.home = home

    def __call__(self, atoms: Atoms) -> tuple[float, np.ndarray]:
        atoms = atoms.copy()
        atoms.calc = self._calculator()
        forces = np.array(atoms.get_forces(apply_constraint=False))
        return float(atoms.get_potential_energy()), forces

    def _calculator(self) -> Calculator:
        if self.made:
            if getattr(_own, "source", None) is not self.calc:
                made: Any = self.calc
                _own.calc = made()
                _own.source = self.calc
            calc: Calculator = _own.calc
            return calc
        # Threads of this process share the calculator that was given: each task takes a copy.
        return copy.deepcopy(self.calc) if self.home == os.getpid() else self.calc  # type: ignore[return-value]
