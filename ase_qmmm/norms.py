"""The energy norm of displacements, and with it the distance of two relaxed geometries.

``|Du(l)|_N^2 = sum over nearest neighbours |u(m) - u(l)|^2`` and ``||Du||^2 = sum_l |Du(l)|_N^2``
(QM/MM for crystalline defects, part 3, eq. (2.2)). Neighbours are those of the Voronoi tessellation of the
lattice (eq. (2.3)), found here as the atoms within 1.2 nearest-neighbour distances.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms

from .neighbours import neighbour_pairs

__all__ = ["displacement_gradient", "energy_norm"]


def displacement_gradient(u: np.ndarray, atoms: Atoms, cutoff: float | None = None) -> np.ndarray:
    """``|Du(l)|_N`` of each atom.

    Parameters
    ----------
    u : ndarray, shape (n, 3)
        Displacements (Å), or the difference of two sets of positions.
    atoms : ase.Atoms
        Geometry that says who neighbours whom; take the reference, so that both sides count the same bonds.
    cutoff : float, optional
        Bond length (Å) up to which atoms are neighbours; default 1.2 times the nearest-neighbour distance of
        most atoms (the median: the atoms of an interstitial are closer to each other).

    Returns
    -------
    ndarray, shape (n,)
        Å.

    Raises
    ------
    ValueError
        `u` has not one row of three per atom, or is not finite.
    """
    u = np.asarray(u, dtype=float)
    if u.shape != (len(atoms), 3):
        raise ValueError(f"u: got shape {u.shape}, expected ({len(atoms)}, 3)")
    if not np.isfinite(u).all():
        raise ValueError("u: expected finite displacements")
    if len(atoms) == 0:
        return np.zeros(0)
    if cutoff is None:
        cutoff = 1.2 * _nearest_neighbour_distance(atoms)
    i, j = neighbour_pairs(atoms, cutoff, "ij")
    squares = ((u[j] - u[i]) ** 2).sum(axis=1)
    norm: np.ndarray = np.sqrt(np.bincount(i, squares, minlength=len(atoms)))
    return norm


def energy_norm(u: np.ndarray, atoms: Atoms, cutoff: float | None = None) -> float:
    """``||Du||`` (Å), the l2 norm of :func:`displacement_gradient`; same parameters."""
    return float(np.linalg.norm(displacement_gradient(u, atoms, cutoff)))


def _nearest_neighbour_distance(atoms: Atoms) -> float:
    radius = 3.0
    while True:
        i, d = neighbour_pairs(atoms, radius, "id")
        nearest = np.full(len(atoms), np.inf)
        np.minimum.at(nearest, i, d)
        if np.isfinite(nearest).sum() > len(atoms) / 2:
            # The lower median: a length that occurs.
            return float(np.sort(nearest)[(len(atoms) - 1) // 2])
        if radius > 100.0:
            return 1.0  # isolated atoms have no bonds at any cutoff
        radius *= 2
