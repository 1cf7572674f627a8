"""Exceptions, and the argument checks that raise them.

Every message says which argument was wrong, what was given, what was expected and what to do.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import CalculationFailed, InputError

__all__ = [
    "QMMMError",
    "StructureError",
    "NumericsError",
    "MatchError",
    "ChildCalculatorError",
    "check_integer",
    "check_positive",
    "check_structure",
    "checked_keywords",
]


class QMMMError(Exception):
    """Base class of the exceptions that this package defines."""


class StructureError(QMMMError, InputError):
    """A structure that the model cannot treat (NaN, overlapping atoms, unknown element ...)."""


class MatchError(StructureError):
    """Atoms that could not be matched with the reference crystal where the model needs it."""


class NumericsError(QMMMError, CalculationFailed):
    """A numerical step failed (overlap matrix not positive, Fermi level not found ...)."""


class ChildCalculatorError(QMMMError, CalculationFailed):
    """A calculator inside a mixture failed; the message says which of the two, and why."""


def check_positive(name: str, value: Any, unit: str = "", *, zero: bool = False) -> float:
    """Return `value` as a float, or raise ``ValueError`` unless it is finite and > 0 (>= 0 with `zero`)."""
    unit = f" {unit}" if unit else ""
    bound = ">= 0" if zero else "> 0"
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: got {value!r}, expected a number {bound}{unit}") from None
    if not np.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise ValueError(f"{name}: got {value!r}, expected a finite number {bound}{unit}")
    return number


def check_integer(name: str, value: Any, least: int) -> int:
    """Return `value` as an int, or raise ``ValueError`` unless it is a whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"{name}: got {value!r}, expected an integer of {least} or more")
    return int(value)


def all_finite(values: np.ndarray) -> bool:
    """Whether no element is NaN or infinite."""
    # A finite sum proves it; the sum of finite numbers may overflow.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum()) or np.isfinite(values).all())


def check_structure(atoms: Atoms) -> None:
    """Raise if `atoms` holds a position or a cell that is not finite, or a periodic cell that is singular.

    Raises
    ------
    TypeError
        `atoms` is not an ``ase.Atoms``.
    StructureError
        Names the first offending atom and axis, or the offending cell vector.
    """
    if not isinstance(atoms, Atoms):
        raise TypeError(f"atoms: got {type(atoms).__name__}, expected ase.Atoms")
    bad = np.zeros((0, 2)) if all_finite(atoms.positions) else np.argwhere(~np.isfinite(atoms.positions))
    if len(bad):
        i, axis = bad[0]
        raise StructureError(
            f"atoms.positions: atom {i} has {'xyz'[axis]} = {atoms.positions[i, axis]}, expected a finite "
            f"number ({len(bad)} such values in all); mend the structure"
        )
    cell = atoms.cell.array
    bad = np.argwhere(~np.isfinite(cell))
    if len(bad):
        raise StructureError(f"atoms.cell: vector {bad[0][0]} is {cell[bad[0][0]]}, expected finite numbers")
    periodic = cell[atoms.pbc]
    lengths = np.linalg.norm(periodic, axis=1)
    for index, length in zip(np.flatnonzero(atoms.pbc), lengths, strict=True):
        if length == 0:
            raise StructureError(
                f"atoms.cell: vector {index} is zero but pbc[{index}] is True; set the cell or switch pbc off"
            )
    if len(periodic) and np.linalg.matrix_rank(periodic / lengths[:, None], tol=1e-8) < len(periodic):
        raise StructureError(
            f"atoms.cell: the periodic vectors {np.flatnonzero(atoms.pbc).tolist()} are linearly dependent: "
            f"{periodic.tolist()}"
        )


F = TypeVar("F", bound=Callable[..., Any])


def checked_keywords(function: F) -> F:
    """Decorate `function` so that an unknown keyword raises ``TypeError`` naming the nearest known one."""
    parameters = inspect.signature(function).parameters
    known = [n for n, p in parameters.items() if n not in ("self", "cls") and p.kind is not p.VAR_KEYWORD]

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name not in known:
                folded = {n.lower(): n for n in known}
                near = difflib.get_close_matches(name.lower(), folded, n=1)
                hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
                owner = function.__qualname__.removesuffix(".__init__")
                raise TypeError(f"{owner}: unknown keyword {name!r}{hint} (known: {', '.join(known)})")
        return function(*args, **kwargs)

    return wrapper  # type: ignore[return-value]
