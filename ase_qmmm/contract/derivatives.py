"""Promises about derivatives and about sums over sites."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from ..sites import SiteCalculator, SiteResult
from .subject import ROUNDING, Subject

__all__ = ["energies_sum", "forces_gradient", "hessian", "stress_gradient", "weights", "weights_gradient"]

# 12 n force calls.
_HESSIAN_ATOMS = 10


def forces_gradient(s: Subject) -> None:
    """Forces are minus the gradient of the energy."""
    if not s.conservative or s.potential is None or "forces" not in s.offered or not len(s.atoms):
        return
    u = s.direction()
    slope = -float((s.results["forces"] * u).sum())
    s.sweep(f"-forces.u (u: random; gradient of {s.potential})", lambda h: s.energy(s.moved(u, h)), slope)


def stress_gradient(s: Subject) -> None:
    """Stress is the derivative of the energy by strain, per volume."""
    if not s.conservative or s.potential is None or "stress" not in s.offered or s.atoms.cell.rank < 3:
        return
    strain = s.strain()
    tensor = voigt_6_to_full_3x3_stress(s.results["stress"])
    slope = s.atoms.get_volume() * float((tensor * strain).sum())
    what = f"volume stress:e (e: random; gradient of {s.potential})"
    s.sweep(what, lambda h: s.energy(s.strained(strain, h)), slope)


def energies_sum(s: Subject) -> None:
    """Site energies sum to the energy."""
    if "energies" in s.offered and "energy" in s.offered:
        energies = s.results["energies"]
        s.expect("sum of energies", energies.sum(), s.results["energy"], scale=float(np.abs(energies).sum()))


def weights(s: Subject) -> None:
    """Weighted site energies: weights of one change nothing, weights w and 1 - w sum to the whole."""
    if not isinstance(s.calc, SiteCalculator):
        return
    n = len(s.atoms)
    w = s.rng.uniform(0.1, 0.9, n)
    plain, ones = s.calc.evaluate(s.atoms), s.calc.evaluate(s.atoms, np.ones(n))
    some, rest = s.calc.evaluate(s.atoms, w), s.calc.evaluate(s.atoms, 1 - w)
    scale = float(np.abs(plain.energies).sum())
    s.expect("energy of weights w, and w.energies", some.energy, w @ some.energies, scale=scale)
    s.expect("energies of weights w", some.energies, plain.energies)
    for name in ("energy", "forces", "virial"):
        whole = getattr(plain, name)
        if whole is None:
            continue
        s.expect(f"{name} of weights one", getattr(ones, name), whole, scale=scale)
        parts = getattr(some, name) + getattr(rest, name)
        s.expect(f"{name} of weights w plus that of 1 - w", parts, whole, scale=scale)


def weights_gradient(s: Subject) -> None:
    """Forces and virial of weighted site energies are their exact gradient."""
    if not isinstance(s.calc, SiteCalculator) or not len(s.atoms):
        return
    calc = s.calc
    w = s.rng.uniform(0, 1, len(s.atoms))
    w[s.rng.integers(len(w))] = 0.0

    def result(atoms: Atoms) -> SiteResult:
        return calc.evaluate(atoms, w)

    u, strain, here = s.direction(), s.strain(), result(s.atoms)
    slope = -float((here.forces * u).sum())
    s.sweep("-forces.u of random weights", lambda h: result(s.moved(u, h)).energy, slope)
    if here.virial is not None:
        slope = -float((here.virial * strain).sum())
        s.sweep("-virial:e of random weights", lambda h: result(s.strained(strain, h)).energy, slope)


def hessian(s: Subject) -> None:
    """Differences of forces make a symmetric matrix whose rows sum to zero."""
    n = len(s.atoms)
    if not s.conservative or "forces" not in s.offered or not 0 < n <= _HESSIAN_ATOMS:
        return

    def differences(step: float) -> np.ndarray:
        rows = []
        for u in np.eye(3 * n).reshape(-1, n, 3):
            ahead, behind = (s.evaluate(s.moved(u, d), ["forces"])["forces"] for d in (step, -step))
            rows.append((behind - ahead).ravel() / (2 * step))
        return np.array(rows)

    coarse, fine = differences(0.002), differences(0.001)
    matrix = (4 * fine - coarse) / 3
    # Richardson's value is nearer to the limit than the two that it was made of are to each other.
    rounding = ROUNDING * (1 + float(np.abs(matrix).max())) / 0.01
    allowed = float(np.abs(coarse - fine).max()) + rounding
    s.expect("Hessian, and its transpose", matrix, matrix.T, allowed=allowed)
    rows = matrix.reshape(n, 3, n, 3).sum(axis=2)
    s.expect("sum over a row of the Hessian", rows, np.zeros_like(rows), allowed=n * allowed)
