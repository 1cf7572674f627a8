"""Promises about what must not change the results, and about state."""

from __future__ import annotations

import pickle

import numpy as np
from ase.stress import voigt_6_to_full_3x3_stress

from .subject import Subject

__all__ = [
    "equivalent_results",
    "failure",
    "lattice_shift",
    "left_handed_cell",
    "not_mutated",
    "permutation",
    "pickles",
    "property_order",
    "repeat",
    "rotation",
    "shapes",
    "skewed_cell",
    "supercell",
    "translation",
]

# Larger systems cost too much to be doubled.
_SUPERCELL_ATOMS = 100


def shapes(s: Subject) -> None:
    """Results are finite floats of the documented shapes."""
    n = len(s.atoms)
    expected = {"forces": (n, 3), "stress": (6,), "energies": (n,)}
    for name, value in s.results.items():
        shape = expected.get(name, ())
        assert value.shape == shape, f"{name}: got shape {value.shape}, expected {shape}"
        assert np.issubdtype(value.dtype, np.floating), f"{name}: got dtype {value.dtype}, expected a float"
        bad = value[~np.isfinite(value)]
        assert not bad.size, (
            f"{name}: got {bad[0]} ({bad.size} such of {value.size}), expected finite numbers"
        )


def not_mutated(s: Subject) -> None:
    """The atoms come back as they were; positions that may not be written are accepted."""
    atoms, before = s.copy(), s.copy()
    atoms.positions.flags.writeable = False
    if hasattr(s.calc, "reset"):
        s.calc.reset()
    s.expect_all({name: np.array(s.calc.get_property(name, atoms)) for name in s.offered}, s.results)
    got, expected = sorted(atoms.arrays), sorted(before.arrays)
    assert got == expected, f"arrays after the call: got {got}, expected {expected}"
    s.expect("cell after the call", atoms.cell.array, before.cell.array, allowed=0.0)
    s.expect("pbc after the call", atoms.pbc.astype(int), before.pbc.astype(int), allowed=0.0)
    for name, value in before.arrays.items():
        same = np.array_equal(atoms.arrays[name], value)
        assert same, f"{name} after the call: got {atoms.arrays[name].tolist()}, expected {value.tolist()}"


def repeat(s: Subject) -> None:
    """The same call again gives the same bits, also after another structure was evaluated."""
    first = s.fresh(s.atoms)
    s.expect_all(s.fresh(s.atoms), first, allowed=0.0)
    elsewhere = s.copy()
    elsewhere.positions += 0.01 * s.rng.normal(size=(len(s.atoms), 3))
    s.evaluate(elsewhere)
    s.expect_all(s.evaluate(s.atoms), first, allowed=0.0)


def property_order(s: Subject) -> None:
    """Results do not depend on which property is asked for first."""
    expected = s.fresh(s.atoms)
    s.expect_all(s.fresh(s.atoms, reversed(s.offered)), expected, allowed=0.0)
    for name in s.offered:
        s.expect_all(s.fresh(s.atoms, [name]), {name: expected[name]}, allowed=0.0)


def translation(s: Subject) -> None:
    """A rigid translation changes nothing; forces sum to zero."""
    atoms = s.copy()
    atoms.translate(s.rng.uniform(-2, 2, 3))
    s.expect_all(s.evaluate(atoms), s.results)
    if s.conservative and "forces" in s.results:
        size = float(np.abs(s.results["forces"]).sum())
        s.expect("sum of forces", s.results["forces"].sum(axis=0), np.zeros(3), scale=size)


def rotation(s: Subject) -> None:
    """Forces and stress turn with the atoms and the cell."""
    q, r = np.linalg.qr(s.rng.normal(size=(3, 3)))
    q = q * np.sign(np.diagonal(r))
    q *= np.linalg.det(q)  # a rotation: x -> Q x
    atoms = s.copy()
    atoms.set_cell(atoms.cell.array @ q.T)
    atoms.positions = atoms.positions @ q.T
    expected = dict(s.results)
    got = s.evaluate(atoms, expected)
    if "forces" in expected:
        expected["forces"] = expected["forces"] @ q.T
    if "stress" in expected:
        expected["stress"] = q @ voigt_6_to_full_3x3_stress(expected["stress"]) @ q.T
        got["stress"] = voigt_6_to_full_3x3_stress(got["stress"])
    s.expect_all(got, expected)


def permutation(s: Subject) -> None:
    """Atoms in another order have the same results, in that order."""
    order = s.rng.permutation(len(s.atoms))
    per_atom = ("energies", "forces")
    expected = {n: v[order] if n in per_atom else v for n, v in s.results.items()}
    s.expect_all(s.evaluate(s.copy()[order]), expected)


def lattice_shift(s: Subject) -> None:
    """Single atoms moved by lattice vectors, or wrapped into the cell, change nothing."""
    atoms = s.copy()
    cells = s.rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc
    atoms.positions += cells @ atoms.cell.array
    s.expect_all(s.evaluate(atoms), s.results)
    atoms.wrap()
    s.expect_all(s.evaluate(atoms), s.results)


def left_handed_cell(s: Subject) -> None:
    """A periodic cell vector turned round changes nothing."""
    matrix = np.eye(3)
    for axis in np.flatnonzero(s.atoms.pbc)[:1]:
        matrix[axis] *= -1
    equivalent_results(s, matrix)


def skewed_cell(s: Subject) -> None:
    """Integer multiples of periodic cell vectors added to another change nothing."""
    matrix = np.eye(3)
    first, *others = np.flatnonzero(s.atoms.pbc).tolist() or [0]
    for axis, factor in zip(others, (1, -2), strict=False):
        matrix[first, axis] = factor
    equivalent_results(s, matrix)


def equivalent_results(s: Subject, matrix: np.ndarray) -> None:
    """Raise if the same lattice written with the cell ``matrix @ cell`` gives other results."""
    atoms = s.copy()
    atoms.set_cell(matrix @ atoms.cell.array)
    s.expect_all(s.evaluate(atoms), s.results)


def supercell(s: Subject) -> None:
    """The cell repeated twice along its shortest periodic vector has twice the energy and the same forces."""
    periodic = np.flatnonzero(s.atoms.pbc)
    if not len(periodic) or not 0 < len(s.atoms) <= _SUPERCELL_ATOMS:
        return
    repeats = np.ones(3, dtype=int)
    repeats[periodic[np.argmin(s.atoms.cell.lengths()[periodic])]] = 2
    expected = {}
    for name, value in s.results.items():
        if name in ("energy", "free_energy"):
            expected[name] = 2 * value
        else:
            expected[name] = value if name == "stress" else np.concatenate([value, value])
    s.expect_all(s.evaluate(s.atoms.repeat(repeats)), expected)


def pickles(s: Subject) -> None:
    """A copy by pickle gives the same results."""
    s.expect_all(s.evaluate(s.atoms, calc=pickle.loads(pickle.dumps(s.calc))), s.results)


def failure(s: Subject) -> None:
    """A position that is not a number raises and leaves no results; the next call is right."""
    if not len(s.atoms):
        return
    s.evaluate(s.atoms)
    broken = s.copy()
    broken.positions[s.rng.integers(len(broken)), 1] = np.nan
    try:
        got = s.evaluate(broken)
    except Exception:  # of any kind: only that it fails, and what it leaves, is promised
        got = {}
    assert not got, f"a NaN position: got {got}, expected an exception"
    kept = sorted(getattr(s.calc, "results", {}))
    assert not kept, f"results after a failed call: got {kept}, expected none"
    s.expect_all(s.evaluate(s.atoms), s.results)
