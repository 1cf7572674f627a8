"""What truncation may break in site energies, put right; and how far rotations are broken."""

from __future__ import annotations

import numpy as np

from ..crystal import Crystal
from ..symmetry import space_group, stencil_permutation
from .polynomials import Terms
from .site_symmetry import symmetrised, taken, turned

__all__ = ["rotational_violation", "symmetric_tensors", "without_forces"]


def symmetric_tensors(crystal: Crystal, cutoff: float, tensors: list[np.ndarray]) -> list[np.ndarray]:
    """Mean of energy tensors (s, 3, s, 3, ..) over permutations of indices and the space group."""
    group = space_group(crystal)
    order = tensors[0].ndim // 2
    tensors = [symmetrised(t) for t in tensors]
    out = [np.zeros_like(t) for t in tensors]
    for op in group:
        for a, tensor in enumerate(tensors):
            back = np.argsort(stencil_permutation(crystal, op, a, cutoff))
            image = turned(taken(tensor, back, "energy", order), op.rotation, "energy", order)
            out[int(op.sites[a])] += image
    images = len(group) * np.bincount([int(s) for op in group for s in op.sites]) / len(group)
    return [t / n for t, n in zip(out, images, strict=True)]


def without_forces(
    crystal: Crystal, cutoff: float, tensors: list[np.ndarray]
) -> tuple[list[np.ndarray], float]:
    """First derivatives (s, 3) of site energies with no force on the atoms of the perfect crystal.

    The force on an atom is what its own site and those around it exert. The change is the smallest that
    removes it, over the components that are not zero.

    Returns
    -------
    list of ndarray
    float
        Largest force removed (eV/Å).
    """
    n = crystal.n_basis
    starts = np.concatenate([[0], np.cumsum([len(t) for t in tensors])])
    system = np.zeros((n, starts[-1]))
    for a, tensor in enumerate(tensors):
        sites = crystal.stencil_sites(a, cutoff)[1]
        kept = np.abs(tensor).max(axis=1, initial=0.0) > 0
        columns = np.arange(starts[a], starts[a + 1])[kept]
        system[sites[kept], columns] -= 1
        system[a, columns] += 1
    flat = np.concatenate(tensors) if tensors else np.zeros((0, 3))
    forces = system @ flat
    # In the norm of components; equal for equivalent atoms, so that the symmetry stays.
    flat = flat - np.linalg.lstsq(system, forces, rcond=1e-12)[0]
    return [flat[starts[a] : starts[a + 1]] for a in range(n)], float(np.abs(forces).max(initial=0.0))


def rotational_violation(crystal: Crystal, cutoff: float, terms: list[list[Terms]]) -> dict[int, float]:
    """How far polynomials of a site are from invariance (forces: from turning along) under rotations.

    A small rotation w of the whole crystal changes g_rho by ``w x (rho + g_rho)``. Degree by degree this ties
    each order to the one before. The first order of forces and the second of energies are the sum rules of
    Born and Huang.

    Returns
    -------
    dict
        By order j, the largest coefficient of g^(j - 1) that does not vanish, per radian: eV/Å^(j - 1) for
        energies, eV/Å^j for forces.
    """
    generators = -np.array([[[0, 0, 0], [0, 0, 1], [0, -1, 0]], [[0, 0, -1], [0, 0, 0], [1, 0, 0]],
                            [[0, 1, 0], [-1, 0, 0], [0, 0, 0]]], dtype=float)  # fmt: skip
    worst: dict[int, float] = {}
    for a, site in enumerate(terms):
        rho = crystal.stencil(a, cutoff)
        by_degree = {t.degree: t for t in site if len(t.tuples)}
        for generator in generators:
            for j, t in by_degree.items():
                parts = [_shifted(t, rho @ generator.T)]
                lower = by_degree.get(j - 1)
                if lower is not None:
                    parts += _rotated(lower, generator)
                tuples = np.concatenate([p[0] for p in parts])
                values = np.concatenate([p[1] for p in parts])
                _, number = np.unique(tuples, axis=0, return_inverse=True)
                total = np.zeros((number.max(initial=-1) + 1, values.shape[1]))
                np.add.at(total, number.ravel(), values)
                worst[j] = max(worst.get(j, 0.0), float(np.abs(total).max(initial=0.0)))
    return worst


def _shifted(t: Terms, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Derivative of a polynomial along displacement differences `shift` (s, 3) that do not depend on g."""
    tuples, values = [], []
    flat, coefficients = shift.ravel(), t.coefficients.reshape(len(t.tuples), -1)
    for q in range(t.degree):
        tuples.append(np.delete(t.tuples, q, axis=1))
        values.append(coefficients * flat[t.tuples[:, q]][:, None])
    return np.concatenate(tuples), np.concatenate(values)


def _rotated(t: Terms, generator: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Derivative of a polynomial along ``generator g``; of a vector less its own turn."""
    out = []
    coefficients = t.coefficients.reshape(len(t.tuples), -1)
    for q in range(t.degree):
        site, c = t.tuples[:, q] // 3, t.tuples[:, q] % 3
        for d in range(3):
            tuples = t.tuples.copy()
            tuples[:, q] = 3 * site + d
            out.append((np.sort(tuples, axis=1), coefficients * generator[c, d][:, None]))
    if coefficients.shape[1] == 3:
        out.append((t.tuples, -coefficients @ generator.T))
    return out
