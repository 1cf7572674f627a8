"""Calls of the calculators inside a mixture: what is asked, checks of the answer, errors that name the child.

A request is plain data and :func:`perform` a plain function, so that a :class:`~ase_qmmm.parallel.TaskPool`
can run the requests for several clusters at once.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError
from ase.io import write

from ..errors import ChildCalculatorError, StructureError, all_finite
from ..files import write_atomically
from ..parallel import TaskError, TaskPool
from ..sites import SiteCalculator, SiteResult

__all__ = ["Children", "Request", "check_child", "has_sites", "own_copy", "perform"]

log = logging.getLogger(__name__)

SLOW_START = 10.0  # s; a first call that takes longer is reported


@dataclass
class Request:
    """One call of a child.

    Attributes
    ----------
    name : {"qm", "mm"}
    calc : ase.calculators.calculator.Calculator
    atoms : ase.Atoms
    properties : tuple of str
        ASE properties to get, unless `weights` or `sites` are given.
    weights : ndarray, shape (n,), optional
        Of the site energies, for ``SiteCalculator.evaluate``.
    weighted : bool
        Call ``evaluate``, with all weights one if `weights` is None.
    sites : ndarray of bool, shape (n,), optional
        For ``SiteCalculator.evaluate_sites``.
    """

    name: str
    calc: Any
    atoms: Atoms
    properties: tuple[str, ...] = ()
    weights: np.ndarray | None = None
    weighted: bool = False
    sites: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"{self.name} calculator on {len(self.atoms)} atoms"


def perform(request: Request) -> tuple[dict[str, Any], float]:
    """The values asked for by name (``"result"`` for a weighted call), and the seconds that they took."""
    begin = time.perf_counter()
    values: dict[str, Any] = {}
    if request.weighted:
        values["result"] = request.calc.evaluate(request.atoms, request.weights)
    elif request.sites is not None:
        values["energies"], values["forces"] = request.calc.evaluate_sites(request.atoms, request.sites)
    else:
        for name in request.properties:
            # What came along with the first one belongs to the same atoms: no second look at them.
            held = getattr(request.calc, "results", {}) if values else {}
            values[name] = held[name] if name in held else request.calc.get_property(name, request.atoms)
    return values, time.perf_counter() - begin


@dataclass
class Children:
    """Runs requests, checks what comes back, and keeps the time.

    Attributes
    ----------
    pool : TaskPool, optional
        For requests that may run side by side.
    folder : Path
        Where the structure of a failed call is written.
    timings : dict
        Seconds in each child.
    """

    pool: TaskPool | None = None
    folder: Path = field(default_factory=Path)
    timings: dict[str, float] = field(default_factory=lambda: {"qm": 0.0, "mm": 0.0, "total": 0.0})
    _started: set[str] = field(default_factory=set)

    def ask(self, request: Request) -> dict[str, Any]:
        """The checked answer to one request, in this process."""
        begin = time.perf_counter()
        try:
            values, _ = perform(request)
        except Exception as error:
            raise self._failure(request, error, time.perf_counter() - begin) from error
        finally:
            self._count(request, time.perf_counter() - begin)
        return self._checked(request, values)

    def ask_all(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        """The checked answers to several requests, side by side where there is a pool."""
        if self.pool is None or self.pool.executor is None or len(requests) < 2:
            return [self.ask(request) for request in requests]
        begin = time.perf_counter()
        try:
            answers = self.pool.map(perform, requests)
        except TaskError as error:
            cause = error.__cause__
            cause = cause if isinstance(cause, Exception) else error
            raise self._failure(requests[error.index], cause, time.perf_counter() - begin) from error
        finally:
            # By the clock of this process: the children ran at the same time.
            self._count(requests[0], time.perf_counter() - begin)
        return [
            self._checked(request, values) for request, (values, _) in zip(requests, answers, strict=True)
        ]

    def property(self, name: str, calc: Calculator, atoms: Atoms, what: str) -> Any:
        """One ASE property of a child."""
        return self.ask(Request(name, calc, atoms, (what,)))[what]

    def _count(self, request: Request, seconds: float) -> None:
        self.timings[request.name] += seconds
        if request.name not in self._started:
            self._started.add(request.name)
            if seconds > SLOW_START:
                log.info("%r: the first call took %.0f s", request, seconds)

    # -- checks and errors -----------------------------------------------------------------------------------

    def _checked(self, request: Request, values: dict[str, Any]) -> dict[str, Any]:
        """`values` as finite arrays of the right shapes; else the child forgets them and this raises."""
        n = len(request.atoms)
        if request.weighted:
            problem = _site_problem(values["result"], n)
        else:
            checked = {}
            problem = ""
            for what, value in values.items():
                problem = problem or _problem(what, value, n)
                if not problem:
                    checked[what] = np.asarray(value, dtype=float)
            values = checked
        if problem:
            request.calc.reset()
            raise ChildCalculatorError(f"{_owner(request, True)}: {problem}{self._written(request)}")
        return values

    def _failure(self, request: Request, error: Exception, seconds: float) -> Exception:
        """The error of a child under the name of the child."""
        text = str(error) or type(error).__name__
        message = f"{_owner(request, request.sites is None and not request.weighted)}: {text}"
        if isinstance(error, PropertyNotImplementedError):
            return PropertyNotImplementedError(message)
        if seconds > SLOW_START:
            message += f" (after {seconds:.0f} s)"
        message += self._written(request)
        if isinstance(error, StructureError):
            return type(error)(message)
        return ChildCalculatorError(message)

    def _written(self, request: Request) -> str:
        """Write the structure of a failed call; where it is, for the message."""
        path = (self.folder / f"failed-{request.name}.extxyz").resolve()
        atoms = request.atoms.copy()
        if request.weights is not None:
            atoms.set_array("weight", request.weights, float)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda temporary: write(temporary, atoms, format="extxyz"))
        except OSError as error:
            return f"; its structure could not be written to {path}: {error}"
        return f"; its structure is in {path}"


def _owner(request: Request, size: bool) -> str:
    where = f", on {len(request.atoms)} atoms" if size else ""
    return f"{request.name} calculator ({type(request.calc).__name__}{where})"


def _problem(what: str, value: Any, n: int) -> str:
    """What is wrong with a property of n atoms, in words; empty if nothing."""
    shape = {"forces": (n, 3), "energies": (n,), "stress": (6,), "virial": (3, 3)}.get(what, ())
    if value is None or np.shape(value) != shape:
        given = "None" if value is None else f"of shape {np.shape(value)}"
        return f"{what} {given}, expected {shape}"
    if not all_finite(np.asarray(value)):
        where = f" on atom {np.argwhere(~np.isfinite(value))[0][0]}" if what in ("forces", "energies") else ""
        return f"{what} not finite{where}"
    return ""


def _site_problem(result: Any, n: int) -> str:
    if not isinstance(result, SiteResult):
        return f"evaluate returned {type(result).__name__}, expected SiteResult (no site energies)"
    parts = ["energies", "forces", "energy"]
    if result.virial is not None:
        parts.append("virial")
    return next(filter(None, (_problem(what, getattr(result, what), n) for what in parts)), "")


def has_sites(calc: Calculator) -> bool:
    """Whether `calc` tells site energies."""
    return "energies" in calc.implemented_properties


def check_child(name: str, child: Any, *, sites: bool = False) -> None:
    """Raise ``TypeError`` unless `child` is an ASE calculator (with `sites`: a ``SiteCalculator``)."""
    if isinstance(child, type) or not hasattr(child, "get_property"):
        given = f"the class {child.__name__}" if isinstance(child, type) else type(child).__name__
        raise TypeError(f"{name}: got {given}, expected an ASE calculator")
    if sites and not isinstance(child, SiteCalculator):
        raise TypeError(
            f"{name}: got {type(child).__name__}, expected a SiteCalculator: mixing energies needs site "
            f"energies with weights and their gradient. For any other ASE calculator use "
            f"SubtractiveMixingCalculator or ForceMixingCalculator"
        )


def own_copy(name: str, calc: Calculator) -> Calculator:
    """A copy of `calc` for a task of its own."""
    try:
        return copy.deepcopy(calc)
    except Exception as error:
        raise TypeError(
            f"{name}: {type(calc).__name__} serves several clusters at once with pool=, but cannot be copied "
            f"({type(error).__name__}: {error}); leave pool out"
        ) from error
