"""What several test files use: sweeps of the step of a difference quotient, and strained structures."""

from __future__ import annotations

import numpy as np

STEPS = np.array([0.1, 0.02, 5e-3, 1e-3, 2e-4])


def assert_derivative(function, derivative, noise=1e-11, steps=STEPS):
    """Central differences of ``function(step)`` tend to `derivative`.

    Their error falls a thousandfold over the sweep, or to the rounding `noise` of the function over the step.
    Works on numbers and arrays; `noise` in units of the function.
    """
    derivative = np.asarray(derivative)
    errors = np.array([np.abs((function(h) - function(-h)) / (2 * h) - derivative).max() for h in steps])
    reached = (errors <= noise / steps).any() or errors.min() <= 1e-3 * errors.max()
    assert reached, (
        f"errors {errors} over steps {steps} of a derivative of size {np.abs(derivative).max():.3g}"
    )


def moved(atoms, direction, step):
    """`atoms` displaced by ``step * direction``."""
    copy = atoms.copy()
    copy.positions += step * direction
    return copy


def strained(atoms, strain, step=1.0):
    """`atoms` and cell under the deformation gradient ``1 + step * strain``."""
    copy = atoms.copy()
    deformation = np.eye(3) + step * strain
    copy.set_cell(atoms.cell.array @ deformation.T)
    copy.positions = atoms.positions @ deformation.T
    return copy


def random_strain(rng, size=0.1):
    """A symmetric strain (3, 3), the largest component `size`."""
    strain = rng.normal(size=(3, 3))
    strain += strain.T
    return size * strain / np.abs(strain).max()


def random_rotation(rng):
    """A proper rotation (3, 3)."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diagonal(r))
    return q * np.linalg.det(q)


def rotated(atoms, rotation):
    """`atoms` and cell turned by `rotation`."""
    copy = atoms.copy()
    copy.set_cell(atoms.cell.array @ rotation.T)
    copy.positions = atoms.positions @ rotation.T
    return copy
