"""Taylor series of site energies along a displacement, by a recursion of resolvents.

With ``K(t) = z M(t) - H(t)`` for the stencil of atom l displaced by ``t g``, all others on their sites, and
the residues of the grand potential, the site energy and its gradient are

    V_l = sum_q 2 Re[rho_q sum_a m_a . x_a],    dV_l = sum_q 2 Re[rho_q sum_a (dm_a . x_a - y_a . dK x_a)],
    K x_a = e_a,    K y_a = m_a = M e_a,    a over the orbitals of l.

Their coefficients of t^j come from those of lower orders, with the Green's function G of the crystal:

    x_j = -G sum_(i = 1 .. j) K_i x_(j - i),    y_j = G (m_j - sum_(i = 1 .. j) K_i y_(j - i)).

No derivative tensor is formed. The resolvent recursion is that of the density matrix perturbation theory of
A. M. N. Niklasson and M. Challacombe, Phys. Rev. Lett. 92, 193001 (2004), here pole by pole.
"""

from __future__ import annotations

import logging
from math import factorial
from typing import Any

import numpy as np

from ..crystal import Crystal
from ..errors import check_positive
from ..taylor.embedded_series import EmbeddedSite
from ..taylor.monomials import Monomials
from ..taylor.site_series import SiteSeries
from . import series_kernels as kernels
from .calculator import TightBinding
from .crystal_grid import lattice_grid, repeat_length
from .derivatives import MAX_MEMORY, REPEAT_ERROR, at_fermi_level
from .greens import CrystalMatrices
from .matrices import build_matrices
from .perturbation import Region, directed_pairs
from .poles import FermiPoles, fermi_poles
from .repulsion import Repulsion

__all__ = ["TightBindingSeries"]

log = logging.getLogger(__name__)

# Types of compiled functions are numba's affair.
_matrix_series: Any = kernels.matrix_series
_gradients: Any = kernels.gradients


class TightBindingSeries(SiteSeries):
    """Site energies of a tight-binding crystal at its chemical potential, or at that of `calc`.

    Parameters
    ----------
    calc : TightBinding
    crystal : Crystal
    order : int
        1 to 6.
    cutoff : float
        Å.
    error : float
        Of the pole sums, relative; a hundred times as much is allowed for the repetition of the crystal, see
        :func:`~ase_qmmm.tightbinding.site_energy_derivatives`.
    margin : float, optional
        Å. The crystal repeats after the extent of all sites involved and so much more; by default after as
        much as `error` asks for.
    max_memory : float
        GB (1e9 bytes) that the Green's functions may take.

    Raises
    ------
    ValueError
        `calc` with another energy than the grand potential; Green's functions of more than `max_memory`.
    """

    def __init__(
        self,
        calc: TightBinding,
        crystal: Crystal,
        order: int,
        cutoff: float,
        *,
        error: float = 1e-9,
        margin: float | None = None,
        max_memory: float = MAX_MEMORY,
    ) -> None:
        if order not in range(1, 7):
            raise ValueError(f"order: got {order!r}, expected 1 to 6")
        calc = at_fermi_level(calc, crystal)
        assert calc.mu is not None
        model = calc.model
        self.crystal, self.order = crystal, order
        self.cutoff = cutoff = check_positive("cutoff", cutoff, "Å")
        self.label = repr(calc)
        self._set_symmetry()
        self._monomials = Monomials(order)
        wanted = REPEAT_ERROR * check_positive("error", error)
        extent = 2 * (cutoff + model.cutoff)
        if margin is None:
            length = repeat_length(model, crystal, calc.mu, calc.kT, cutoff, wanted)[0]
            grid = lattice_grid(crystal, max(extent, length))
        else:
            grid = lattice_grid(crystal, extent + check_positive("margin", margin, "Å", zero=True))
        regions = {b: Region(model, crystal, b, cutoff, grid, 0) for b in self.computed}
        lattices = [CrystalMatrices(model, crystal, grid, spin) for spin in range(model.n_spin)]
        poles = [fermi_poles(*m.bounds(), calc.mu, calc.kT, error) for m in lattices]
        _check_memory(regions, poles, cutoff, check_positive("max_memory", max_memory, "GB"))
        #: Lattice vectors after which the crystal repeats.
        self.grid = grid
        self._sites: dict[int, list[_SpinSite]] = {b: [] for b in self.computed}
        self._repulsion: dict[int, EmbeddedSite] = {}
        for b, region in regions.items():
            if model.repulsive:
                self._repulsion[b] = self._repulsive_site(calc, b)
            for matrices, terms in zip(lattices, poles, strict=True):
                self._sites[b].append(_SpinSite(region, matrices, terms, self._monomials))
            log.info("basis atom %d: %d sites, grid %s", b, region.n_sites, grid)
        cell = crystal.unit_cell
        self.energies = calc.for_crystal(cell).evaluate(cell).energies

    def _repulsive_site(self, calc: TightBinding, basis: int) -> EmbeddedSite:
        """Repulsive energy of the middle atom as a function of its neighbours."""
        cell, order = self.crystal.unit_cell, self.order
        matrices = build_matrices(calc.model, cell, order)
        rho, sites, _ = self.crystal.stencil_sites(basis, self.cutoff)
        centre, groups = int(matrices.species[basis]), matrices.species[sites]
        r = np.linalg.norm(rho, axis=1)
        density = np.zeros((order + 1, len(r)))
        for b in np.unique(groups):
            mine = (groups == b) & (r < calc.model.cutoff)
            density[:, mine] = calc.model.repulsive_density(centre, int(b), r[mine], order)
        functions = Repulsion(matrices).functions[:, :, basis]
        return EmbeddedSite(self._monomials, rho, groups, density, functions)

    def _series(self, basis: int, g: np.ndarray, lowest: int, highest: int) -> tuple[np.ndarray, np.ndarray]:
        energies, gradients = np.zeros(len(g)), np.zeros(g.shape)
        if basis in self._repulsion:
            energies, gradients = self._repulsion[basis].expand(g, lowest, highest)
        for site in self._sites[basis]:
            site.add(g, lowest, highest, energies, gradients)
        return energies, gradients


def _check_memory(regions: dict[int, Region], poles: list[FermiPoles], cutoff: float, limit: float) -> None:
    """Refuse Green's functions that do not fit before they are computed."""
    needed = 16e-9 * sum(len(p.poles) for p in poles) * sum(r.size**2 for r in regions.values())
    if needed > limit:
        raise ValueError(
            f"cutoff: the Green's functions for {cutoff:g} Å need {needed:.3g} GB, more than max_memory = "
            f"{limit:g} GB; take a smaller cutoff, or a larger error, which needs fewer poles"
        )


class _SpinSite:
    """One basis atom, one spin: Green's functions, first columns and tables of the pairs."""

    def __init__(
        self, region: Region, matrices: CrystalMatrices, poles: FermiPoles, monomials: Monomials
    ) -> None:
        model, crystal, order = region.model, matrices.crystal, monomials.order
        self.region, self.monomials = region, monomials
        o = region.n_orbitals
        self.n_x = int(region.counts[0])
        self.n_y = 0 if model.orthogonal else self.n_x
        cell = build_matrices(model, crystal.unit_cell, order, matrices.spin)
        self._set_tables(directed_pairs(cell, o), model.orthogonal)
        self.functions = np.zeros((region.n_species, order + 1, region.n_sites, o))
        for site, (b, count) in enumerate(zip(region.basis, region.counts, strict=True)):
            mine = slice(cell.first_orbital[b], cell.first_orbital[b] + count)
            for k in range(order + 1):
                self.functions[:, k, site, :count] = cell.onsite[:, k, mine] / factorial(k)
        self.poles = poles.poles
        self.residues = 2 / model.n_spin * poles.grand
        overlap = region.spread(matrices.gather(matrices.matrices()[1], region.basis, region.cells)).real
        self.green, self.first = [], []
        for z in self.poles:
            g = region.spread(matrices.gather(matrices.resolvent(z), region.basis, region.cells))
            self.green.append(np.concatenate([g.real, g.imag]))
            columns = [g[:, : self.n_x], g @ overlap[:, : self.n_y]]
            both = np.concatenate(columns, axis=1)
            self.first.append(np.stack([both.real, both.imag], axis=2))

    def _set_tables(self, pairs: dict[str, Any], orthogonal: bool) -> None:
        region, monomials = self.region, self.monomials
        table, index = region.table, region.displaced_index
        moving = np.flatnonzero((index[table.i] >= 0) | (index[table.j] >= 0))
        i, j = table.i[moving], table.j[moving]
        o2 = region.n_orbitals**2

        def blocks(name: str) -> np.ndarray:
            found = monomials.coefficients(pairs[name])
            return np.ascontiguousarray(found.reshape(*found.shape[:2], o2))

        of_h = blocks("h")
        of_m = np.zeros((*of_h.shape[:2], 0)) if orthogonal else blocks("m")
        densities = (monomials.coefficients(pairs[name]) for name in ("ij", "ji"))
        self.pairs = (i, j, index[i], index[j], region.kinds[moving], region.species)
        self.tables = (of_h, of_m, *densities)

    def add(
        self, g: np.ndarray, lowest: int, order: int, energies: np.ndarray, gradients: np.ndarray
    ) -> None:
        """Add energies (m,) and gradients (m, d, 3) of displacements g (m, d, 3)."""
        n = kernels.LANES
        for start in range(0, len(g), n):
            some = slice(start, start + n)
            count = len(g[some])
            lanes = np.zeros((*g.shape[1:], n))
            lanes[..., :count] = np.moveaxis(g[some], 0, -1)
            energy, gradient = self._lanes(lanes, lowest, order)
            energies[some] += energy[:count]
            gradients[some] += np.moveaxis(gradient[..., :count], -1, 0)

    def _lanes(self, g: np.ndarray, lowest: int, order: int) -> tuple[np.ndarray, np.ndarray]:
        region, mono = self.region, self.monomials
        o, size, lanes = region.n_orbitals, region.size, g.shape[-1]
        i, j = self.pairs[:2]
        of_h, of_m = self.tables[:2]
        n_pairs, n_columns = len(i), self.n_x + self.n_y
        powers = (mono.starts, mono.axis, mono.lower)
        h = np.empty((order, n_pairs, of_h.shape[2], lanes))
        m = np.empty((order, n_pairs, of_m.shape[2], lanes))
        rho = np.empty((region.n_species, order, region.n_sites, lanes))
        _matrix_series(g, *self.pairs, *self.tables, *powers, order, h, m, rho)
        onsite = np.empty((order, size, lanes))
        slopes = np.empty((region.n_species, order, size, lanes))
        kernels.onsite_series(rho, self.functions[:, : order + 1], order, onsite, slopes)
        pull_h, pull_m, diagonal = np.zeros_like(h), np.zeros_like(m), np.zeros_like(onsite)
        x = np.empty((order, size, n_columns, 2, lanes))
        right = np.empty(x.shape[1:])
        product = np.empty((2, *right.shape))
        for z, residue, green, first in zip(self.poles, self.residues, self.green, self.first, strict=True):
            x[0] = first[..., None]
            for k in range(1, order):
                kernels.right_sides(x, h, m, onsite, i, j, o, z.real, z.imag, k, self.n_x, self.n_y, right)
                np.matmul(green, right.reshape(size, -1), out=product.reshape(2 * size, -1))
                np.subtract(product[0, :, :, 0], product[1, :, :, 1], out=x[k, :, :, 0])
                np.add(product[0, :, :, 1], product[1, :, :, 0], out=x[k, :, :, 1])
            kernels.accumulate(
                x, i, j, o, complex(residue), complex(z), order, self.n_x, self.n_y, pull_h, pull_m, diagonal
            )
        pulls = np.empty_like(rho)
        kernels.onsite_pulls(diagonal, slopes, o, order, pulls)
        energy, gradient = np.zeros(lanes), np.zeros(g.shape)
        _gradients(
            g,
            *self.pairs,
            *self.tables,
            *powers,
            mono.exponents,
            lowest,
            order,
            pull_h,
            pull_m,
            pulls,
            energy,
            gradient,
        )
        return energy, gradient
