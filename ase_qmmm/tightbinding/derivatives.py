"""Exact derivatives of site energies and forces at the perfect crystal, up to third order.

At a fixed chemical potential the grand potential of the infinite crystal is
``-sum_q 2 Re[rho_q log det K(z_q)]`` with ``K = z M - H`` and the poles of the Fermi function. Its
derivatives by displacements are traces of products of the Green's function with derivatives of K
(:mod:`ase_qmmm.tightbinding.traces`); no difference quotient is taken and no supercell built. Site energies
are derivatives of the same by the weight of their site.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..crystal import Crystal
from ..errors import check_positive
from ..symmetry import Operation, space_group, stencil_permutation
from .calculator import TightBinding, fermi_level, k_grid
from .expansion import Expansion, repulsive_derivatives
from .greens import CrystalMatrices
from .perturbation import Region
from .poles import fermi_poles
from .traces import Source

__all__ = ["CrystalDerivatives", "force_derivatives", "site_energy_derivatives"]

log = logging.getLogger(__name__)

# The crystal repeats after the extent of a region and so much more (Å): derivatives of silicon are right to
# 1e-7 then (docs/derivatives.md).
MARGIN = 40.0


@dataclass(frozen=True)
class CrystalDerivatives:
    """Derivatives of the site energies, or of the forces, of a perfect crystal over its stencils.

    With respect to the displacements ``g_rho = u(l + rho) - u(l)`` of the stencil vectors rho of basis atom
    alpha (part 2 of the papers, eqs. (36) and (71)),

        energy: d^j V_alpha / dg_rho,c dg_sigma,d ..,  shape (s, 3, s, 3, ..), eV/Å^j
        force:  d^j F_alpha,b / dg_rho,c dg_sigma,d ..,  shape (3, s, 3, s, 3, ..), eV/Å^(j+1)

    in the order of ``crystal.stencil(alpha, cutoffs[j])``. The derivative by u(l) itself follows from
    translation.

    Attributes
    ----------
    crystal : Crystal
    kind : {"energy", "force"}
    cutoffs : dict of int to float
        Radius of the stencils by order (Å).
    tensors : dict of int to list of ndarray
        By order, one per basis atom.
    mu, kT : float
        Chemical potential and electronic temperature (eV).
    label : str
        The model they come from.
    """

    crystal: Crystal
    kind: str
    cutoffs: dict[int, float]
    tensors: dict[int, list[np.ndarray]]
    mu: float
    kT: float
    label: str

    def stencil(self, order: int, basis: int) -> np.ndarray:
        """Stencil vectors (s, 3) in Å of the tensors of one order."""
        return self.crystal.stencil(basis, self.cutoffs[order])


def site_energy_derivatives(
    calc: TightBinding,
    crystal: Crystal,
    order: int = 2,
    cutoff: float | Sequence[float] = 5.0,
    *,
    error: float = 1e-9,
    margin: float = MARGIN,
    progress: bool = False,
) -> CrystalDerivatives:
    """Exact derivatives ``d^j V``, j = 1 .. `order` (at most 3), of the site energies at the perfect crystal.

    At a fixed chemical potential, that of `calc` or of the crystal; energies are grand potentials.

    Parameters
    ----------
    calc : TightBinding
    crystal : Crystal
    order : int
    cutoff : float or sequence of float
        Å; one for all orders, or one per order.
    error : float
        Of the pole sums, relative, see :func:`~ase_qmmm.tightbinding.poles.fermi_poles`.
    margin : float
        Å. The crystal repeats after the extent of all sites involved and so much more; metals need more than
        the default, which is for a gap.
    progress : bool
        Show a progress bar.

    Returns
    -------
    CrystalDerivatives

    Raises
    ------
    ValueError
        `order` or `cutoff` out of range; `calc` with another energy than the grand potential.

    References
    ----------
    H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), eqs. (12), (13), theorem 3.1.
    """
    return _derivatives("energy", calc, crystal, order, cutoff, error, margin, progress)


def force_derivatives(
    calc: TightBinding,
    crystal: Crystal,
    order: int = 2,
    cutoff: float | Sequence[float] = 5.0,
    *,
    error: float = 1e-9,
    margin: float = MARGIN,
    progress: bool = False,
) -> CrystalDerivatives:
    """Exact derivatives ``d^j F``, j = 1 .. `order` (at most 3), of the forces at the perfect crystal.

    These are the force constants of order j + 1 with a minus sign, one index at the middle atom. Parameters
    are those of :func:`site_energy_derivatives`.

    References
    ----------
    H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), eqs. (15), (16), theorem 3.2.
    """
    return _derivatives("force", calc, crystal, order, cutoff, error, margin, progress)


def _derivatives(
    kind: str,
    calc: TightBinding,
    crystal: Crystal,
    order: int,
    cutoff: float | Sequence[float],
    error: float,
    margin: float,
    progress: bool,
) -> CrystalDerivatives:
    if order not in (1, 2, 3):
        raise ValueError(f"order: got {order!r}, expected 1, 2 or 3")
    radii = [float(x) for x in np.atleast_1d(np.asarray(cutoff, dtype=float))]
    radii = radii * order if len(radii) == 1 else radii
    if len(radii) != order:
        raise ValueError(f"cutoff: got {len(radii)} radii for {order} orders; give one, or one per order")
    cutoffs = {j: check_positive("cutoff", r, "Å") for j, r in enumerate(radii, start=1)}
    check_positive("margin", margin, "Å", zero=True)
    calc = at_fermi_level(calc, crystal)
    assert calc.mu is not None
    group = space_group(crystal)
    tensors: dict[int, list[np.ndarray]] = {}
    for j, radius in cutoffs.items():
        tensors[j] = _all_sites(kind, calc, crystal, j, radius, group, error, margin, progress)
    return CrystalDerivatives(crystal, kind, cutoffs, tensors, calc.mu, calc.kT, repr(calc))


def at_fermi_level(calc: TightBinding, crystal: Crystal) -> TightBinding:
    """`calc` at fixed chemical potential, its own or that of the crystal; refused for other energies."""
    if calc.mu is None:
        calc = calc.with_options(mu=fermi_level(calc, crystal))
    if calc.kind != "grand":
        raise ValueError(
            f"calc: got energy={calc.kind!r}; derivatives are those of the grand potential, 'grand'"
        )
    return calc


def _all_sites(
    kind: str,
    calc: TightBinding,
    crystal: Crystal,
    order: int,
    cutoff: float,
    group: list[Operation],
    error: float,
    margin: float,
    progress: bool,
) -> list[np.ndarray]:
    """Tensors of one order for all basis atoms, computed for inequivalent ones only."""
    out: dict[int, np.ndarray] = {}
    for basis in range(crystal.n_basis):
        source = next((op for op in group if op.sites[basis] in out), None)
        if source is not None:
            # The operation maps this atom onto one done before; the tensor comes back by its inverse.
            there = out[int(source.sites[basis])]
            permutation = stencil_permutation(crystal, source, basis, cutoff)
            picked = _take(there, permutation, kind, order)
            out[basis] = _turned(picked, source.rotation.T, kind, order)
            continue
        own = [op for op in group if op.sites[basis] == basis]
        out[basis] = _one_site(kind, calc, crystal, basis, order, cutoff, own, error, margin, progress)
    return [out[b] for b in range(crystal.n_basis)]


def _one_site(
    kind: str,
    calc: TightBinding,
    crystal: Crystal,
    basis: int,
    order: int,
    cutoff: float,
    own: list[Operation],
    error: float,
    margin: float,
    progress: bool,
) -> np.ndarray:
    model = calc.model
    assert calc.mu is not None
    extent = 2 * (cutoff + model.cutoff) + margin
    grid = tuple(int(n) for n in k_grid(crystal.unit_cell, extent)[crystal.unit_cell.pbc])
    permutations = [stencil_permutation(crystal, op, basis, cutoff) for op in own]
    chosen = np.unique(np.min(permutations, axis=0))
    total = np.zeros(1)
    for spin in range(model.n_spin):
        matrices = CrystalMatrices(model, crystal, grid, spin)
        poles = fermi_poles(*matrices.bounds(), calc.mu, calc.kT, error)
        region = Region(model, crystal, basis, cutoff, grid, order + (kind == "force"), spin)
        log.info("order %d: %d sites, %d poles, grid %s", order, region.n_sites, len(poles.poles), grid)
        if kind == "energy":
            sources, residues = [Source(region, weighted=True)], -poles.grand
        else:
            sources, residues = [Source(region, displacements=((0, c),)) for c in range(3)], poles.occupation
        expansion = Expansion(region, matrices, poles, sources, 2 / model.n_spin * residues, progress)
        total = total + (
            expansion.first() if order == 1 else expansion.second() if order == 2 else expansion.third(chosen)
        )
    if model.repulsive:
        total = total + repulsive_derivatives(region, kind, order, chosen)
    if kind == "energy":
        total = total[0]
    if order == 3:
        total = _spread(total, chosen, own, permutations, kind)
        # Exact for each order of the indices; the mean makes them equal to the last digit.
        axes = 1 if kind == "force" else 0
        shift = np.moveaxis(total, (axes, axes + 1), (axes + 2, axes + 3))
        last = np.moveaxis(total, (axes, axes + 1), (axes + 4, axes + 5))
        total = (total + shift + last) / 3
    return total


def _spread(
    part: np.ndarray, chosen: np.ndarray, own: list[Operation], permutations: list[np.ndarray], kind: str
) -> np.ndarray:
    """A tensor known for some atoms as the first index, for all atoms by the operations of the site."""
    axis = 1 if kind == "force" else 0
    size = len(permutations[0])
    shape = list(part.shape)
    shape[axis] = size
    out = np.zeros(shape)
    done = np.zeros(size, dtype=bool)
    for op, permutation in zip(own, permutations, strict=True):
        for k, m in enumerate(chosen):
            image = int(permutation[m])
            if done[image]:
                continue
            done[image] = True
            turned = _turned(np.take(part, [k], axis=axis), op.rotation, kind, 3)
            # Atom n of the tensor here is atom permutation[n] of its image.
            inverse = np.argsort(permutation)
            turned = np.take(np.take(turned, inverse, axis=axis + 2), inverse, axis=axis + 4)
            out[(slice(None),) * axis + (image,)] = turned[(slice(None),) * axis + (0,)]
    return out


def _turned(tensor: np.ndarray, rotation: np.ndarray, kind: str, order: int) -> np.ndarray:
    """All Cartesian indices turned by a rotation."""
    axes = [0] if kind == "force" else []
    axes += [len(axes) + 2 * k + 1 for k in range(order)]
    for axis in axes:
        tensor = np.moveaxis(np.tensordot(rotation, tensor, axes=(1, axis)), 0, axis)
    return tensor


def _take(tensor: np.ndarray, index: np.ndarray, kind: str, order: int) -> np.ndarray:
    """Atoms of all indices picked by `index`."""
    first = 1 if kind == "force" else 0
    for k in range(order):
        tensor = np.take(tensor, index, axis=first + 2 * k)
    return tensor
