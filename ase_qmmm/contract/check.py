"""check_calculator: all promises for one calculator and one structure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from ase import Atoms

from ..errors import checked_keywords
from . import derivatives, invariances
from .subject import Subject

__all__ = ["PROMISES", "check_calculator"]

#: Every promise by name; a promise raises ``AssertionError`` with both numbers.
PROMISES: dict[str, Callable[[Subject], None]] = {
    promise.__name__: promise
    for promise in (
        invariances.shapes,
        invariances.not_mutated,
        invariances.repeat,
        invariances.property_order,
        invariances.translation,
        invariances.rotation,
        invariances.permutation,
        invariances.lattice_shift,
        invariances.left_handed_cell,
        invariances.skewed_cell,
        invariances.supercell,
        derivatives.energies_sum,
        derivatives.forces_gradient,
        derivatives.stress_gradient,
        derivatives.hessian,
        derivatives.weights,
        derivatives.weights_gradient,
        invariances.pickles,
        invariances.failure,
    )
}


@checked_keywords
def check_calculator(
    calc: Any, atoms: Atoms, *, rng: np.random.Generator | None = None, skip: Iterable[str] = ()
) -> None:
    """Check that `calc` keeps the contract of calculators at `atoms`.

    Works for any ASE calculator; only properties that it offers for `atoms` are checked. Take a small
    structure without symmetry, e.g. a rattled cell of a few atoms. In order, the promises are

    ================== =====================================================================================
    shapes             results are finite floats: energies (), forces (n, 3), stress (6,), energies (n,)
    not_mutated        the atoms are unchanged, positions that may not be written are accepted
    repeat             the same call gives the same bits, also after another structure
    property_order     it does not matter which property is asked for first
    translation        energies, forces and stress do not change; forces sum to zero
    rotation           forces and stress turn with atoms and cell
    permutation        results follow the order of the atoms
    lattice_shift      single atoms may be moved by lattice vectors, or wrapped
    left_handed_cell   a cell vector may be turned round
    skewed_cell        cell vectors may be added to one another
    supercell          twice the cell has twice the energy (up to 100 atoms)
    energies_sum       ``energies`` sums to ``energy``
    forces_gradient    forces are minus the gradient of ``free_energy``, else ``energy``
    stress_gradient    stress is its derivative by strain per volume
    hessian            symmetric, rows sum to zero (up to 10 atoms)
    weights            :class:`SiteCalculator`: weights of one, and w plus 1 - w, give the whole
    weights_gradient   :class:`SiteCalculator`: weighted forces and virial are exact gradients
    pickles            a copy by pickle gives the same results
    failure            a NaN position raises, leaves no results, and the next call is right
    ================== =====================================================================================

    Gradients are checked by sweeps of the step, without a tolerance tuned to the system. They are left out
    for a calculator with the class attribute ``conservative = False``.

    Parameters
    ----------
    calc : ase.calculators.calculator.Calculator
    atoms : ase.Atoms
        Not changed; its own calculator and constraints are ignored.
    rng : numpy.random.Generator, optional
        Source of the random displacements, rotations, orders and weights; default seed 0.
    skip : iterable of str
        Promises that the caller knows do not hold. A quantum model with a fixed grid of k-points samples
        a supercell more densely: skip ``supercell``, and ``skewed_cell`` unless the grid is centred at Gamma
        with equal sizes. Regions given by index do not survive ``permutation``.

    Raises
    ------
    AssertionError
        A promise is broken: its name, what was got and what was expected.
    TypeError, ValueError
        `atoms` is no ``ase.Atoms``; `skip` holds an unknown name.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> from ase_qmmm.contract import check_calculator
    >>> atoms = bulk("Cu", cubic=True)
    >>> atoms.rattle(0.1, seed=1)
    >>> check_calculator(EMT(), atoms, skip={"failure", "pickles"})
    """
    if not isinstance(atoms, Atoms):
        raise TypeError(f"atoms: got {type(atoms).__name__}, expected ase.Atoms")
    left_out = {skip} if isinstance(skip, str) else set(skip)
    unknown = sorted(left_out - PROMISES.keys())
    if unknown:
        raise ValueError(f"skip: got {unknown}, expected names among {', '.join(PROMISES)}")
    subject = Subject(calc, atoms, np.random.default_rng(0) if rng is None else rng)
    for name, promise in PROMISES.items():
        if name in left_out:
            continue
        try:
            promise(subject)
        except AssertionError as error:
            raise AssertionError(f"{type(calc).__name__} breaks the promise {name!r}: {error}") from error
        except Exception as error:
            error.add_note(f"raised while checking the promise {name!r} of {type(calc).__name__}")
            raise
