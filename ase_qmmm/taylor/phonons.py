"""Phonons of a crystal from its force constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase import units
from ase.dft.kpoints import BandPath
from ase.spectrum.band_structure import BandStructure

from ..bandpaths import checked_bandpath
from ..errors import checked_keywords
from .crystal_derivatives import CrystalDerivatives
from .force_constants import ForceConstants

if TYPE_CHECKING:
    from .forces import TaylorForces

__all__ = ["THZ", "phonon_band_structure", "phonon_energies"]

# eV of a quantum of frequency 1 THz.
THZ = 1e12 * units._hplanck / units._e
# hbar omega in eV, omega^2 in eV/Å^2 per atomic mass unit.
_QUANTUM = units._hbar * 1e10 / np.sqrt(units._e * units._amu)


def phonon_energies(
    constants: ForceConstants | CrystalDerivatives | TaylorForces,
    kpts: np.ndarray,
    masses: np.ndarray | None = None,
) -> np.ndarray:
    """Energies ``hbar omega`` of the phonons at wave vectors.

    ``omega^2`` are the eigenvalues of the dynamical matrix
    ``D_ab(q) = sum_rho Phi_ab(rho) exp(i q . rho) / sqrt(m_a m_b)``. Modes of imaginary frequency, those of a
    crystal that is not stable, have negative energies.

    Parameters
    ----------
    constants : ForceConstants, CrystalDerivatives of kind "force", or TaylorForces
    kpts : array_like, shape (m, 3)
        In units of the reciprocal lattice vectors, like k-points in ASE.
    masses : ndarray, shape (n_basis,), optional
        Atomic mass units; default those of the unit cell.

    Returns
    -------
    ndarray, shape (m, 3 n_basis)
        eV, ascending; divide by ``THZ`` for frequencies in THz.
    """
    phi = _force_constants(constants)
    cell = phi.crystal.unit_cell
    weights = cell.get_masses() if masses is None else np.asarray(masses, dtype=float)
    if weights.shape != (len(cell),) or not (weights > 0).all():
        raise ValueError(f"masses: got {masses!r}, expected {len(cell)} positive numbers")
    points = np.asarray(kpts, dtype=float)
    if points.ndim != 2 or points.shape[1] != 3 or not np.isfinite(points).all():
        raise ValueError(f"kpts: got an array of shape {points.shape}, expected (m, 3) finite numbers")
    waves = 2 * np.pi * points @ cell.cell.reciprocal()
    squares = np.array([np.linalg.eigvalsh(phi.dynamical_matrix(q, weights)) for q in waves])
    energies: np.ndarray = _QUANTUM * np.sign(squares) * np.sqrt(np.abs(squares))
    return energies.reshape(len(points), 3 * len(cell))


@checked_keywords
def phonon_band_structure(
    constants: ForceConstants | CrystalDerivatives | TaylorForces,
    path: BandPath | str | None = None,
    npoints: int = 100,
    *,
    masses: np.ndarray | None = None,
) -> BandStructure:
    """Phonon energies along a path through the Brillouin zone, as ASE's band structure.

    Parameters
    ----------
    constants : ForceConstants, CrystalDerivatives of kind "force", or TaylorForces
        Of a Taylor model, the phonons of its first order.
    path : ase.dft.kpoints.BandPath or str, optional
        Special points such as ``"GXUGL"``, or a path made with ``atoms.cell.bandpath``. Default: the
        lattice's own path in ASE.
    npoints : int
        Number of points on a path given by name or by default.
    masses : ndarray, shape (n_basis,), optional
        Atomic mass units; default those of the unit cell.

    Returns
    -------
    ase.spectrum.band_structure.BandStructure
        ``energies`` (1, n_k, 3 n_basis) in eV, ascending; see :func:`phonon_energies`.

    Raises
    ------
    ValueError, TypeError
        A path that the lattice does not have, derivatives of energies.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> from ase_qmmm import Crystal, TaylorForces
    >>> from ase_qmmm.taylor import phonon_band_structure
    >>> mm = TaylorForces.from_calculator(EMT(), Crystal.relaxed(bulk("Cu"), EMT()), cutoff=6.0)
    >>> phonon_band_structure(mm, "GX", npoints=2).energies.shape
    (1, 2, 3)
    """
    phi = _force_constants(constants)
    bandpath = checked_bandpath(phi.crystal.unit_cell, path, npoints)
    return BandStructure(bandpath, phonon_energies(phi, bandpath.kpts, masses)[None])


def _force_constants(source: Any) -> ForceConstants:
    if isinstance(source, CrystalDerivatives):
        return ForceConstants.from_derivatives(source)
    found = getattr(source, "force_constants", source)
    if not isinstance(found, ForceConstants):
        raise TypeError(
            f"constants: got {type(source).__name__}, expected ForceConstants, CrystalDerivatives or "
            f"TaylorForces"
        )
    return found
