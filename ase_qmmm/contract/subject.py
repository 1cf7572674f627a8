"""The calculator on trial, and the comparisons that say by how much a promise was broken."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError

__all__ = ["Results", "Subject"]

# What rounding may do to a sum over levels, bonds or lattice images: far below any number that is used.
ROUNDING = 1e-9
# Rounding of an energy, relative to 10 eV per atom: about a thousand times the machine precision.
_ENERGY_NOISE = 1e-13
# Å, or a tenth of it as strain.
_STEPS = np.array([0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0003, 0.0001])
_PROPERTIES = ("energy", "free_energy", "energies", "forces", "stress")

Results = dict[str, np.ndarray]


class Subject:
    """A calculator, what it offers for `atoms`, and its results there.

    Attributes
    ----------
    offered : list of str
        Properties that the calculator gives for these atoms.
    results : dict
        Their values.
    conservative : bool
        Whether the forces are a gradient (the calculator's attribute of that name, default True).
    potential : str or None
        The energy whose gradient the forces are.
    """

    def __init__(self, calc: Any, atoms: Atoms, rng: np.random.Generator) -> None:
        self.calc = calc
        self.atoms: Atoms = atoms.copy()
        self.rng = rng
        self.conservative = bool(getattr(calc, "conservative", True))
        self.offered: list[str] = []
        for name in _PROPERTIES:
            if name in calc.implemented_properties:
                try:
                    if calc.get_property(name, atoms.copy()) is not None:
                        self.offered.append(name)
                except PropertyNotImplementedError:
                    continue  # offered for other structures: a stress needs a cell with a volume
        self.results = self.evaluate(self.atoms)
        self.potential = next((n for n in ("free_energy", "energy") if n in self.offered), None)

    def copy(self) -> Atoms:
        """A copy of the atoms, to be changed."""
        atoms: Atoms = self.atoms.copy()
        return atoms

    def evaluate(self, atoms: Atoms, names: Iterable[str] | None = None, calc: Any = None) -> Results:
        """Copies of the results for `atoms`; default: all that are offered."""
        calc = self.calc if calc is None else calc
        own = atoms.copy()  # what the calculator may do to it is for `not_mutated` to find
        return {n: np.array(calc.get_property(n, own)) for n in (self.offered if names is None else names)}

    def fresh(self, atoms: Atoms, names: Iterable[str] | None = None) -> Results:
        """:meth:`evaluate` anew, past the cache of the calculator."""
        if hasattr(self.calc, "reset"):
            self.calc.reset()
        return self.evaluate(atoms, names)

    def energy(self, atoms: Atoms) -> float:
        """The energy whose gradient the forces are (eV)."""
        return float(self.calc.get_property(self.potential, atoms.copy()))

    def expect(
        self, what: str, got: Any, expected: Any, *, scale: float = 0.0, allowed: float | None = None
    ) -> None:
        """Raise ``AssertionError`` with both numbers unless they agree.

        The difference allowed is `allowed`, or else rounding relative to the largest number expected and to
        `scale`, the size of the terms that were summed.
        """
        got, expected = np.asarray(got), np.asarray(expected)
        assert got.shape == expected.shape, f"{what}: got shape {got.shape}, expected {expected.shape}"
        if got.size == 0:
            return
        if allowed is None:
            allowed = ROUNDING * (1.0 + max(scale, float(np.abs(expected).max())))
        difference = np.abs(got - expected)
        difference = np.where(np.isnan(difference), np.inf, difference)
        worst = np.unravel_index(int(np.argmax(difference)), got.shape)
        where = f" at {tuple(int(k) for k in worst)}" if worst else ""
        assert difference[worst] <= allowed, (
            f"{what}{where}: got {got[worst]}, expected {expected[worst]} (difference "
            f"{difference[worst]:.3g}, allowed {allowed:.3g})"
        )

    def expect_all(self, got: Results, expected: Results, *, allowed: float | None = None) -> None:
        """:meth:`expect` for each of the results."""
        for name, value in expected.items():
            self.expect(name, got[name], value, allowed=allowed)

    def sweep(self, what: str, energy: Callable[[float], float], derivative: float) -> None:
        """Raise unless central differences of ``energy(step)`` (eV) tend to `derivative`.

        Over the sweep their error has to fall a thousandfold, or to reach rounding: no tolerance depends on
        the stiffness of the system.
        """
        quotients = np.array([(energy(h) - energy(-h)) / (2 * h) for h in _STEPS])
        errors = np.abs(quotients - derivative)
        noise = _ENERGY_NOISE * (abs(energy(0.0)) + 10.0 * len(self.atoms)) / _STEPS
        best = int(np.argmin(errors))
        assert (errors <= noise).any() or errors[best] <= 1e-3 * errors.max(), (
            f"{what}: got {derivative}, expected {quotients[best]} (central differences, whose error only "
            f"falls from {errors.max():.3g} to {errors[best]:.3g} over steps of {_STEPS[0]:g} to "
            f"{_STEPS[-1]:g})"
        )

    def direction(self) -> np.ndarray:
        """Random displacements (n, 3), the largest component one."""
        u = self.rng.normal(size=(len(self.atoms), 3))
        direction: np.ndarray = u / np.abs(u).max()
        return direction

    def strain(self) -> np.ndarray:
        """A random strain (3, 3), the largest component a tenth."""
        e = self.rng.normal(size=(3, 3))
        e = e + e.T
        strain: np.ndarray = 0.1 * e / np.abs(e).max()
        return strain

    def moved(self, direction: np.ndarray, step: float) -> Atoms:
        """The atoms displaced by ``step * direction``."""
        atoms = self.copy()
        atoms.positions += step * direction
        return atoms

    def strained(self, strain: np.ndarray, step: float) -> Atoms:
        """The atoms and their cell under ``step * strain``."""
        atoms = self.copy()
        deformation = np.eye(3) + step * strain
        atoms.set_cell(atoms.cell.array @ deformation)
        atoms.positions = atoms.positions @ deformation
        return atoms
