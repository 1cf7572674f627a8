"""Exact derivatives of site energies and forces at the perfect crystal.

At a fixed chemical potential the grand potential of the infinite crystal is
``-sum_q 2 Re[rho_q log det K(z_q)]`` with ``K = z M - H`` and the poles of the Fermi function. Its
derivatives by displacements are traces of products of the Green's function with derivatives of K
(:mod:`ase_qmmm.tightbinding.traces`); no difference quotient is taken and no supercell built. Site energies
are derivatives of the same by the weight of their site.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..crystal import Crystal
from ..errors import check_positive
from ..symmetry import Operation, space_group, stencil_permutation
from ..taylor.crystal_derivatives import CrystalDerivatives, check_memory
from ..taylor.site_symmetry import inequivalent_pairs, spread, spread_pairs, symmetrised, taken, turned
from .calculator import TightBinding, fermi_level
from .crystal_grid import lattice_grid, repeat_length
from .expansion import Expansion, repulsive_derivatives, repulsive_fourth
from .fourth import fourth_derivatives
from .greens import CrystalMatrices
from .perturbation import Region
from .poles import fermi_poles
from .traces import Source

__all__ = ["force_derivatives", "site_energy_derivatives", "site_energy_derivatives_time"]

log = logging.getLogger(__name__)

# Errors of the pole sums and of the repetition make about the same error of derivatives at this ratio.
REPEAT_ERROR = 100.0
# GB of the tensors: fourth order with the 28 neighbours of silicon within 5 Å, just.
MAX_MEMORY = 4.0


def site_energy_derivatives(
    calc: TightBinding,
    crystal: Crystal,
    order: int = 2,
    cutoff: float | Sequence[float] = 5.0,
    *,
    error: float = 1e-9,
    margin: float | None = None,
    progress: bool = False,
    max_memory: float = MAX_MEMORY,
) -> CrystalDerivatives:
    """Exact derivatives ``d^j V``, j = 1 .. `order` (at most 4), of the site energies at the perfect crystal.

    At a fixed chemical potential, that of `calc` or of the crystal; energies are grand potentials. The fourth
    order is slow and large, with ``(3 s)^4`` numbers for s neighbours: for one or two shells of them.

    Parameters
    ----------
    calc : TightBinding
    crystal : Crystal
    order : int
    cutoff : float or sequence of float
        Å; one for all orders, or one per order.
    error : float
        Of the pole sums, relative, see :func:`~ase_qmmm.tightbinding.poles.fermi_poles`; a hundred times as
        much is allowed for `margin`.
    margin : float, optional
        Å. The crystal repeats after the extent of all sites involved and so much more. By default the crystal
        repeats after the length at which the images of its Green's function have decayed, about 65 Å in
        silicon and several times that in metals, where a warning in the log gives the error that the largest
        grid leaves (:func:`~ase_qmmm.tightbinding.crystal_grid.repeat_length`).
    progress : bool
        Show a progress bar.
    max_memory : float
        GB (1e9 bytes) that the tensors may take, with the copies made of the largest.

    Returns
    -------
    CrystalDerivatives

    Raises
    ------
    ValueError
        `order` or `cutoff` out of range; `calc` with another energy than the grand potential; tensors of more
        than `max_memory`.

    References
    ----------
    H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), eqs. (12), (13), theorem 3.1.
    """
    cutoffs = _cutoffs("energy", crystal, order, cutoff, max_memory)
    return _Derivatives("energy", calc, crystal, cutoffs, error, margin, progress).all_orders()


def site_energy_derivatives_time(
    calc: TightBinding, crystal: Crystal, order: int, cutoff: float | Sequence[float]
) -> float:
    """Estimate of the processor time (s) of :func:`site_energy_derivatives`, measured on a part of it.

    Of each order two poles are computed, and one step of the loops over inequivalent atoms and pairs.
    """
    cutoffs = _cutoffs("energy", crystal, order, cutoff, MAX_MEMORY)
    return _Derivatives("energy", calc, crystal, cutoffs, 1e-9, None, False).time()


def force_derivatives(
    calc: TightBinding,
    crystal: Crystal,
    order: int = 2,
    cutoff: float | Sequence[float] = 5.0,
    *,
    error: float = 1e-9,
    margin: float | None = None,
    progress: bool = False,
    max_memory: float = MAX_MEMORY,
) -> CrystalDerivatives:
    """Exact derivatives ``d^j F``, j = 1 .. `order` (at most 3), of the forces at the perfect crystal.

    These are the force constants of order j + 1 with a minus sign, one index at the middle atom. Parameters
    are those of :func:`site_energy_derivatives`.

    References
    ----------
    H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), eqs. (15), (16), theorem 3.2.
    """
    cutoffs = _cutoffs("force", crystal, order, cutoff, max_memory)
    return _Derivatives("force", calc, crystal, cutoffs, error, margin, progress).all_orders()


def _cutoffs(
    kind: str, crystal: Crystal, order: int, cutoff: float | Sequence[float], max_memory: float
) -> dict[int, float]:
    """Radius (Å) of each order, checked."""
    # Forces of fourth order would need matrix elements differentiated five times.
    if order not in ((1, 2, 3, 4) if kind == "energy" else (1, 2, 3)):
        raise ValueError(f"order: got {order!r}, expected 1, 2{', 3 or 4' if kind == 'energy' else ' or 3'}")
    radii = [float(x) for x in np.atleast_1d(np.asarray(cutoff, dtype=float))]
    radii = radii * order if len(radii) == 1 else radii
    if len(radii) != order:
        raise ValueError(f"cutoff: got {len(radii)} radii for {order} orders; give one, or one per order")
    cutoffs = {j: check_positive("cutoff", r, "Å") for j, r in enumerate(radii, start=1)}
    check_memory(kind, crystal, cutoffs, check_positive("max_memory", max_memory, "GB"))
    return cutoffs


def at_fermi_level(calc: TightBinding, crystal: Crystal) -> TightBinding:
    """`calc` at fixed chemical potential, its own or that of the crystal; refused for other energies."""
    if calc.mu is None:
        calc = calc.with_options(mu=fermi_level(calc, crystal))
    if calc.kind != "grand":
        raise ValueError(
            f"calc: got energy={calc.kind!r}; derivatives are those of the grand potential, 'grand'"
        )
    return calc


class _Derivatives:
    """What the derivatives of all orders and basis atoms share."""

    def __init__(
        self,
        kind: str,
        calc: TightBinding,
        crystal: Crystal,
        cutoffs: dict[int, float],
        error: float,
        margin: float | None,
        progress: bool,
    ) -> None:
        if margin is not None:
            check_positive("margin", margin, "Å", zero=True)
        self.kind, self.crystal, self.cutoffs = kind, crystal, cutoffs
        self.calc = calc = at_fermi_level(calc, crystal)
        assert calc.mu is not None
        self.mu = calc.mu
        self.error, self.progress = error, progress
        self.group = space_group(crystal)
        extents = {j: 2 * (radius + calc.model.cutoff) for j, radius in cutoffs.items()}
        if margin is None:
            wanted = REPEAT_ERROR * check_positive("error", error)
            length, estimate = repeat_length(
                calc.model, crystal, self.mu, calc.kT, max(cutoffs.values()), wanted
            )
            log.info("the crystal repeats after %.0f Å, estimated error %.1e", length, estimate)
            self.grids = {j: lattice_grid(crystal, max(extent, length)) for j, extent in extents.items()}
        else:
            self.grids = {j: lattice_grid(crystal, extent + margin) for j, extent in extents.items()}

    def all_orders(self) -> CrystalDerivatives:
        """The tensors of all orders."""
        tensors = {order: self.all_sites(order) for order in self.cutoffs}
        cell = self.crystal.unit_cell
        energies = self.calc.for_crystal(cell).evaluate(cell).energies
        return CrystalDerivatives(self.crystal, self.kind, self.cutoffs, tensors, energies, repr(self.calc))

    def all_sites(self, order: int) -> list[np.ndarray]:
        """Tensors of one order for all basis atoms, computed for inequivalent ones only."""
        out: dict[int, np.ndarray] = {}
        for basis in range(self.crystal.n_basis):
            source = next((op for op in self.group if op.sites[basis] in out), None)
            if source is None:
                out[basis] = self.one_site(basis, order)
                continue
            # The operation maps this atom onto one done before; the tensor comes back by its inverse.
            there = out[int(source.sites[basis])]
            permutation = stencil_permutation(self.crystal, source, basis, self.cutoffs[order])
            picked = taken(there, permutation, self.kind, order)
            out[basis] = turned(picked, source.rotation.T, self.kind, order)
        return [out[b] for b in range(self.crystal.n_basis)]

    def time(self) -> float:
        """Estimated processor time (s) of the tensors of all orders."""
        inequivalent = {min(int(op.sites[b]) for op in self.group) for b in range(self.crystal.n_basis)}
        return sum(self._time(basis, order) for order in self.cutoffs for basis in inequivalent)

    def _time(self, basis: int, order: int) -> float:
        """That of one tensor: what two poles take more than one, times all poles and steps of the loop."""
        crystal, model, cutoff, grid = self.crystal, self.calc.model, self.cutoffs[order], self.grids[order]
        chosen, pairs = self._loops(basis, order)[2:]
        matrices = CrystalMatrices(model, crystal, grid)
        poles = fermi_poles(*matrices.bounds(), self.mu, self.calc.kT, self.error)
        region = Region(model, crystal, basis, cutoff, grid, order)
        times = []
        for n in (1, 2):
            few = replace(
                poles, poles=poles.poles[:n], occupation=poles.occupation[:n], grand=poles.grand[:n]
            )
            expansion = Expansion(region, matrices, few, [Source(region, weighted=True)], -few.grand)
            begin = time.process_time()
            if order < 3:
                (expansion.first if order == 1 else expansion.second)()
            elif order == 3:
                expansion.third(chosen[:1])
            else:
                # The last pair is one of two different atoms, as most are.
                fourth_derivatives(expansion, pairs[-1:])
            times.append(time.process_time() - begin)
        steps = {3: len(chosen), 4: len(pairs)}.get(order, 1)
        per_pole = max(times[1] - times[0], 0.0)
        return steps * model.n_spin * (max(times[0] - per_pole, 0.0) + len(poles.poles) * per_pole)

    def _loops(
        self, basis: int, order: int
    ) -> tuple[list[Operation], list[np.ndarray], np.ndarray, list[tuple[int, int]]]:
        """Operations of a site and their permutations; atoms and pairs that they do not make equivalent."""
        own = [op for op in self.group if op.sites[basis] == basis]
        permutations = [stencil_permutation(self.crystal, op, basis, self.cutoffs[order]) for op in own]
        chosen = np.unique(np.min(permutations, axis=0))
        return own, permutations, chosen, inequivalent_pairs(permutations) if order == 4 else []

    def one_site(self, basis: int, order: int) -> np.ndarray:
        """Tensor of one order of one basis atom."""
        kind, crystal, model = self.kind, self.crystal, self.calc.model
        cutoff, grid = self.cutoffs[order], self.grids[order]
        own, permutations, chosen, pairs = self._loops(basis, order)
        total = np.zeros(1)
        for spin in range(model.n_spin):
            matrices = CrystalMatrices(model, crystal, grid, spin)
            poles = fermi_poles(*matrices.bounds(), self.mu, self.calc.kT, self.error)
            region = Region(model, crystal, basis, cutoff, grid, order + (kind == "force"), spin)
            log.info("order %d: %d sites, %d poles, grid %s", order, region.n_sites, len(poles.poles), grid)
            if kind == "energy":
                sources, residues = [Source(region, weighted=True)], -poles.grand
            else:
                sources, residues = (
                    [Source(region, displacements=((0, c),)) for c in range(3)],
                    poles.occupation,
                )
            expansion = Expansion(
                region, matrices, poles, sources, 2 / model.n_spin * residues, self.progress
            )
            total = total + (
                expansion.first()
                if order == 1
                else expansion.second()
                if order == 2
                else expansion.third(chosen)
                if order == 3
                else fourth_derivatives(expansion, pairs)
            )
        if model.repulsive and order == 4:
            total = total + repulsive_fourth(region, pairs)
        elif model.repulsive:
            total = total + repulsive_derivatives(region, kind, order, chosen)
        if kind == "energy":
            total = total[0]
        if order == 3:
            total = spread(total, chosen, own, permutations, kind)
            # Exact for each order of the indices; the mean makes them equal to the last digit.
            axes = 1 if kind == "force" else 0
            shift = np.moveaxis(total, (axes, axes + 1), (axes + 2, axes + 3))
            last = np.moveaxis(total, (axes, axes + 1), (axes + 4, axes + 5))
            total = (total + shift + last) / 3
        if order == 4:
            total = symmetrised(spread_pairs(total, pairs, own, permutations))
        return total
