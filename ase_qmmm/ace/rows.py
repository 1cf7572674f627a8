"""Rows of linear fits: energy, forces and virial of a configuration for each basis function alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from ase import Atoms

from ..errors import StructureError
from ..neighbours import neighbour_pairs
from ..sites import SiteResult
from .functions import Monomials
from .row_kernels import all_rows
from .tables import MINIMUM_DISTANCE

if TYPE_CHECKING:
    from .basis import ACEBasis

__all__ = ["ACERows", "RowLayout", "configuration_rows"]

# Types of compiled functions are numba's affair.
_kernel: Any = all_rows


@dataclass(frozen=True)
class ACERows:
    """What each of K basis functions gives for a configuration of n atoms, for a coefficient of 1 eV.

    Attributes
    ----------
    site_energies : ndarray, shape (n, K)
    forces : ndarray, shape (3 n, K)
        1/Å, minus the gradient, three rows per atom; (0, K) if not asked for.
    virial : ndarray, shape (6, K)
        ``-d/dstrain`` in the order xx, yy, zz, yz, xz, xy; (0, K) if not asked for.
    core : SiteResult
        What the core repulsion adds whatever the coefficients are (eV): a fit subtracts it from its data.
    """

    site_energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray
    core: SiteResult

    @property
    def energy(self) -> np.ndarray:
        """Row of the total energy (K,)."""
        total: np.ndarray = self.site_energies.sum(axis=0)
        return total


class RowLayout(NamedTuple):
    """Monomials of all functions with their factors counted within each function.

    Attributes
    ----------
    terms : ndarray of int, shape (K + 1,)
        Where the monomials of each function begin.
    orders : ndarray of int, shape (K,)
    factors, slots : ndarray of int, shape (t, order)
        Density projections of each monomial, and the places of their derivatives.
    value : ndarray, shape (t,)
    starts : ndarray of int, shape (K + 1,)
        Where the derivatives of each function begin.
    channels : ndarray of int
        Density projection of each derivative, ascending within a function.
    """

    terms: np.ndarray
    orders: np.ndarray
    factors: np.ndarray
    slots: np.ndarray
    value: np.ndarray
    starts: np.ndarray
    channels: np.ndarray

    @classmethod
    def of(cls, monomials: Monomials, n_functions: int, size: int) -> RowLayout:
        """Layout of the functions of one centre element with `size` density projections."""
        used = monomials.factors >= 0
        keys = monomials.function[:, None] * size + monomials.factors
        distinct, where = np.unique(keys[used], return_inverse=True)
        slots = np.full(keys.shape, -1, dtype=np.int64)
        slots[used] = where.ravel()
        edges = np.arange(n_functions + 1)
        terms = np.searchsorted(monomials.function, edges)
        return cls(
            terms,
            used.sum(axis=1)[terms[:-1]],
            monomials.factors,
            slots,
            monomials.value,
            np.searchsorted(distinct // size, edges),
            distinct % size,
        )


def configuration_rows(
    basis: ACEBasis, atoms: Atoms, species: np.ndarray, forces: bool, virial: bool
) -> ACERows:
    """See :meth:`.basis.ACEBasis.rows`."""
    n = len(atoms)
    i, neighbours, distances, shifts = neighbour_pairs(atoms, basis.cutoff, "ijdS")
    if len(distances) and distances.min() < MINIMUM_DISTANCE:
        k = int(np.argmin(distances))
        raise StructureError(
            f"atoms: atoms {i[k]} and {neighbours[k]} are {distances[k]:.3g} Å apart, ACEBasis needs at "
            f"least {MINIMUM_DISTANCE:g} Å; remove one of them or separate them"
        )
    starts = np.concatenate([[0], np.cumsum(np.bincount(i, minlength=n))])
    channels = basis._channels
    energies, gradient, virials, core = _kernel(
        np.ascontiguousarray(atoms.positions, dtype=float),
        species,
        starts,
        neighbours.astype(np.int64),
        np.ascontiguousarray(shifts @ atoms.cell.array),
        basis.cutoff,
        forces,
        virial,
        len(basis),
        basis._n_pair,
        *basis._row_table(),
        channels.starts,
        channels.n_max,
        basis._harmonics,
        channels.size,
        *basis._row_layout(),
    )
    core_energies, core_forces, core_virial = core
    result = SiteResult(float(core_energies.sum()), core_energies, core_forces, core_virial)
    return ACERows(energies, gradient, virials, result)
