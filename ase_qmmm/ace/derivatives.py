"""Exact derivatives of ACE models at a perfect crystal, and those of every basis function.

Site energies are polynomials in density projections, whose derivatives are known in closed form; no
difference quotient is taken. Arrays follow :class:`ase_qmmm.taylor.CrystalDerivatives`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from ..crystal import Crystal
from ..errors import check_positive
from ..taylor.cauchy_born import CauchyBornDerivatives, cell_derivatives
from ..taylor.crystal_derivatives import CrystalDerivatives
from ..taylor.orbits import picked
from .expansion import Function, SiteJets, basis_functions, combined, site_jets

if TYPE_CHECKING:
    from .basis import ACEBasis
    from .potential import ACEPotential

__all__ = ["CauchyBornRows", "CrystalRows", "cauchy_born", "cauchy_born_rows", "crystal_rows", "derivatives"]

# GB of the tensors.
MAX_MEMORY = 4.0


@dataclass(frozen=True)
class CrystalRows:
    """Derivatives at a perfect crystal for each of K basis functions, for a coefficient of 1 eV.

    Attributes
    ----------
    tensors : dict of int to list of ndarray
        By order, one per basis atom: shapes of :class:`ase_qmmm.taylor.CrystalDerivatives`, and K last.
    energies : ndarray, shape (n_basis, K)
        Site energies.
    core : CrystalDerivatives
        What the core repulsion adds whatever the coefficients are; a fit subtracts it from its data.
    """

    tensors: dict[int, list[np.ndarray]]
    energies: np.ndarray
    core: CrystalDerivatives


@dataclass(frozen=True)
class CauchyBornRows:
    """Energy of a cell and its derivatives by the deformation F, for each of K basis functions.

    Attributes
    ----------
    energy : ndarray, shape (K,)
    tensors : dict of int to ndarray
        By order: (3, 3, K), (3, 3, 3, 3, K) .., the basis atoms held at their places in the cell.
    core : CauchyBornDerivatives
        What the core repulsion adds.
    """

    energy: np.ndarray
    tensors: dict[int, np.ndarray]
    core: CauchyBornDerivatives


def derivatives(
    calc: ACEPotential,
    kind: str,
    crystal: Crystal,
    order: int,
    cutoff: float | Sequence[float],
    max_memory: float = MAX_MEMORY,
) -> CrystalDerivatives:
    """See :meth:`ACEPotential.site_energy_derivatives` and :meth:`ACEPotential.force_derivatives`."""
    cutoffs = _checked(calc.basis, kind, crystal, order, cutoff, 1, max_memory)
    species = calc.basis.species(crystal.unit_cell)
    whole = [combined(basis_functions(calc.basis, int(z)), calc.coefficients) for z in species]
    reach = max(cutoffs) + (kind == "force")
    jets = [site_jets(calc.basis, crystal, b, reach) for b in range(crystal.n_basis)]
    tensors = {j: _tensors(kind, crystal, jets, whole, j, r) for j, r in cutoffs.items()}
    references = np.array([calc.reference_energies[e] for e in crystal.unit_cell.get_chemical_symbols()])
    energies = [float(f.derivatives(j.projections, 0)[1][0]) for f, j in zip(whole, jets, strict=True)]
    return CrystalDerivatives(crystal, kind, cutoffs, tensors, np.array(energies) + references, repr(calc))


def crystal_rows(
    basis: ACEBasis,
    kind: str,
    crystal: Crystal,
    order: int,
    cutoff: float | Sequence[float],
    max_memory: float = MAX_MEMORY,
    tuples: Mapping[int, Sequence[np.ndarray]] | None = None,
) -> CrystalRows:
    """See :meth:`ACEBasis.site_energy_derivative_rows` and :meth:`ACEBasis.force_derivative_rows`.

    With `tuples`, arrays of stencil numbers (m, j) by order and basis atom, only these entries are kept, as
    (m, 3, 3, .., K), so that never more than one function's tensor is held whole.
    """
    columns = len(basis) if tuples is None else 1
    cutoffs = _checked(basis, kind, crystal, order, cutoff, columns, max_memory)
    jets = [site_jets(basis, crystal, b, max(cutoffs) + (kind == "force")) for b in range(crystal.n_basis)]
    energies = np.zeros((crystal.n_basis, len(basis)))
    tensors: dict[int, list[np.ndarray]] = {}
    core: dict[int, list[np.ndarray]] = {}
    core_energies = np.zeros(crystal.n_basis)
    for column, functions in _by_column(basis, crystal):
        for b, (f, site) in enumerate(zip(functions, jets, strict=True)):
            value = float(f.derivatives(site.projections, 0)[1][0])
            if column >= 0:
                energies[b, column] = value
            else:
                core_energies[b] = value
        for j, radius in cutoffs.items():
            if tuples is None:
                parts = _tensors(kind, crystal, jets, functions, j, radius)
            else:
                wanted = [b for b, t in enumerate(tuples[j]) if len(t)]
                parts = _tensors(kind, crystal, jets, functions, j, radius, wanted)
                parts = [picked(p, t, kind) for p, t in zip(parts, tuples[j], strict=True)]
            if column < 0:
                core[j] = parts
                continue
            if j not in tensors:
                tensors[j] = [np.zeros((*p.shape, len(basis))) for p in parts]
            for row, part in zip(tensors[j], parts, strict=True):
                row[..., column] = part
    label = f"core of {basis!r}"
    return CrystalRows(
        tensors, energies, CrystalDerivatives(crystal, kind, cutoffs, core, core_energies, label)
    )


def cauchy_born(calc: ACEPotential, crystal: Crystal, order: int, relaxed: bool) -> CauchyBornDerivatives:
    """See :meth:`ACEPotential.cauchy_born_derivatives`."""
    _check_order(order, 3)
    species = calc.basis.species(crystal.unit_cell)
    total: list[np.ndarray] = []
    for b, z in enumerate(species):
        whole = combined(basis_functions(calc.basis, int(z)), calc.coefficients)
        site = site_jets(calc.basis, crystal, b, order)
        jets = site.parameter_jets(order, _jacobian(crystal, site, b, relaxed))
        parts = site.by_parameters(whole, order, jets)
        total = [x + y for x, y in zip(total, parts, strict=True)] if total else parts
    symbols = crystal.unit_cell.get_chemical_symbols()
    energy = float(total[0]) + sum(calc.reference_energies[e] for e in symbols)
    return cell_derivatives(crystal, energy, total[1:], relaxed, False, repr(calc))


def cauchy_born_rows(basis: ACEBasis, crystal: Crystal, order: int) -> CauchyBornRows:
    """See :meth:`ACEBasis.cauchy_born_rows`."""
    _check_order(order, 3)
    sites = [site_jets(basis, crystal, b, order) for b in range(crystal.n_basis)]
    jets = [s.parameter_jets(order, _jacobian(crystal, s, b, False)) for b, s in enumerate(sites)]
    energy = np.zeros(len(basis))
    tensors = {j: np.zeros((3,) * (2 * j) + (len(basis),)) for j in range(1, order + 1)}
    for column, functions in _by_column(basis, crystal):
        parts = [
            site.by_parameters(f, order, own) for f, site, own in zip(functions, sites, jets, strict=True)
        ]
        summed = [np.sum([p[k] for p in parts], axis=0) for k in range(order + 1)]
        shaped = _shaped(summed[1:])
        if column < 0:
            label = f"core of {basis!r}"
            core = CauchyBornDerivatives(crystal, float(summed[0]), shaped, False, False, label)
            continue
        energy[column] = float(summed[0])
        for j, tensor in shaped.items():
            tensors[j][..., column] = tensor
    return CauchyBornRows(energy, tensors, core)


# -- parts ---------------------------------------------------------------------------------------------------

_NOTHING = Function(np.full((1, 1), -1), np.zeros(1))


def _by_column(basis: ACEBasis, crystal: Crystal) -> Iterator[tuple[int, list[Function]]]:
    """Each column (-1: the core) with its polynomial at every basis atom."""
    species = basis.species(crystal.unit_cell)
    own = {int(z): dict(basis_functions(basis, int(z))) for z in set(species.tolist())}
    for column in range(-1, len(basis)):
        yield column, [own[int(z)].get(column, _NOTHING) for z in species]


def _tensors(
    kind: str,
    crystal: Crystal,
    jets: list[SiteJets],
    functions: list[Function],
    order: int,
    cutoff: float,
    wanted: Sequence[int] | None = None,
) -> list[np.ndarray]:
    """One tensor per basis atom, empty for those that are not wanted."""
    every = range(crystal.n_basis)
    chosen = set(every if wanted is None else wanted)
    empty = np.zeros((3,) * (kind == "force") + (0, 3) * order)
    if kind == "energy":
        return [
            _site_tensor(jets[b], functions[b], order, crystal.stencil(b, cutoff)) if b in chosen else empty
            for b in every
        ]
    with_centre = [
        _with_centre(site.by_neighbours(function, order + 1, np.arange(len(site.vectors))), order + 1)
        for site, function in zip(jets, functions, strict=True)
    ]
    return [
        _force_tensor(crystal, b, jets, with_centre, order, cutoff) if b in chosen else empty for b in every
    ]


def _places(vectors: np.ndarray, stencil: np.ndarray) -> np.ndarray:
    """Place of each vector in a stencil, -1 where it is none of it."""
    if not len(stencil):
        return np.full(len(vectors), -1)
    gap, place = cKDTree(stencil).query(vectors, distance_upper_bound=1e-4)
    return np.where(np.isfinite(gap), place, -1)


def _site_tensor(site: SiteJets, function: Function, order: int, stencil: np.ndarray) -> np.ndarray:
    place = _places(site.vectors, stencil)
    keep = np.flatnonzero(place >= 0)
    out = np.zeros((len(stencil), 3) * order)
    if len(keep):
        index = np.ix_(*(i for _ in range(order) for i in (place[keep], np.arange(3))))
        out[index] = site.by_neighbours(function, order, keep)
    return out


def _with_centre(tensor: np.ndarray, order: int) -> np.ndarray:
    """Derivatives by absolute positions, the centre first: minus the sum over the neighbours."""
    for axis in range(0, 2 * order, 2):
        tensor = np.concatenate([-tensor.sum(axis=axis, keepdims=True), tensor], axis=axis)
    return tensor


def _force_tensor(
    crystal: Crystal,
    basis: int,
    jets: list[SiteJets],
    with_centre: list[np.ndarray],
    order: int,
    cutoff: float,
) -> np.ndarray:
    """``d^j F_l``: minus the derivatives by y_l of the energies of all sites that see l, its own included."""
    stencil = crystal.stencil(basis, cutoff)
    out = np.zeros((3,) + (len(stencil), 3) * order)
    here = jets[basis]
    centres = np.vstack([np.zeros((1, 3)), here.vectors])
    for centre, site in zip(centres, [basis, *here.sites.tolist()], strict=True):
        around = np.vstack([np.zeros((1, 3)), jets[site].vectors])
        me = int(np.flatnonzero(np.linalg.norm(around + centre, axis=1) < 1e-4)[0])
        place = _places(around + centre, stencil)
        keep = np.flatnonzero(place >= 0)
        if not len(keep):
            continue
        part = with_centre[site][me]
        into, of = [np.arange(3)], [np.arange(3)]
        for _ in range(order):
            into += [place[keep], np.arange(3)]
            of += [keep, np.arange(3)]
        out[np.ix_(*into)] -= part[np.ix_(*of)]
    return out


def _jacobian(crystal: Crystal, site: SiteJets, basis: int, inner: bool) -> np.ndarray:
    """``dr / dp`` (s, 3, p): p the nine numbers of F, then displacements of all basis atoms but the first."""
    n_inner = 3 * (crystal.n_basis - 1) if inner else 0
    out = np.zeros((len(site.vectors), 3, 9 + n_inner))
    for i, k in product(range(3), range(3)):
        out[:, i, 3 * i + k] = site.vectors[:, k]
    if inner:
        for s, other in enumerate(site.sites):
            for which, sign in ((int(other), 1.0), (basis, -1.0)):
                if which > 0:
                    start = 9 + 3 * (which - 1)
                    out[s, :, start : start + 3] += sign * np.eye(3)
    return out


def _shaped(tensors: list[np.ndarray]) -> dict[int, np.ndarray]:
    return {j: t.reshape((3,) * (2 * j)) for j, t in enumerate(tensors, start=1)}


def _check_order(order: int, most: int) -> None:
    if isinstance(order, bool) or order not in range(1, most + 1):
        raise ValueError(f"order: got {order!r}, expected a whole number from 1 to {most}")


def _checked(
    basis: ACEBasis,
    kind: str,
    crystal: Crystal,
    order: int,
    cutoff: float | Sequence[float],
    columns: int,
    max_memory: float,
) -> dict[int, float]:
    """Radius by order; tensors that do not fit are refused before anything is computed."""
    _check_order(order, 3 if kind == "energy" else 2)
    if not isinstance(crystal, Crystal):
        raise TypeError(f"crystal: got {type(crystal).__name__}, expected Crystal (make one of a unit cell)")
    radii = [float(x) for x in np.atleast_1d(np.asarray(cutoff, dtype=float))]
    radii = radii * order if len(radii) == 1 else radii
    if len(radii) != order:
        raise ValueError(f"cutoff: got {len(radii)} radii for {order} orders; give one, or one per order")
    cutoffs = {j: check_positive("cutoff", r, "Å") for j, r in enumerate(radii, start=1)}
    limit = check_positive("max_memory", max_memory, "GB")
    needed = 0.0
    for b in range(crystal.n_basis):
        for j, radius in cutoffs.items():
            size = (3.0 * len(crystal.stencil(b, radius))) ** j
            needed += 8e-9 * size * (columns + 3) * (3 if kind == "force" else 1)
        if kind == "force":
            needed += 2 * 8e-9 * (3.0 * len(crystal.stencil(b, basis.cutoff)) + 3) ** (order + 1)
    if needed > limit:
        raise ValueError(
            f"cutoff: the tensors for {radii[-1]:g} Å at order {order} and {columns} functions need "
            f"{needed:.3g} GB, more than max_memory = {limit:g} GB"
        )
    return cutoffs
