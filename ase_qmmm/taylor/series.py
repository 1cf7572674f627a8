"""TaylorSeries: expansions of site energies whose higher orders are never formed as tensors."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ..crystal import Crystal
from ..errors import checked_keywords
from ..stencils import StencilMatch
from ..symmetry import space_group, stencil_permutation
from .cauchy_born import CauchyBornDerivatives
from .crystal_derivatives import CrystalDerivatives
from .files import read_model, terms_from_arrays, terms_to_arrays, write_model
from .model import Computed, TaylorModel, checked_cutoffs
from .polynomials import Terms, flatten
from .potential import TaylorPotential
from .site_series import SiteSeries
from .source import cell_expansion, site_energy_expansion

__all__ = ["TaylorSeries"]

log = logging.getLogger(__name__)

# Sites whose displacement differences are gathered at a time.
_CHUNK = 512
# Relative difference of the series of a file and of the model that is given with it.
_SAME = 1e-8


class TaylorSeries(TaylorPotential):
    """Taylor expansion of site energies, of order 3 to 6, by series along the actual displacement.

    The energy is that of :class:`TaylorPotential`. Orders one and two are tensors, with all that is restored
    there; of the orders from three on only the sums

        1/j! d^j V(0)[g, .., g] = [t^j] V(t g)    and their gradients    [t^(j - 1)] grad V(t g)

    are computed, anew for every displacement [1]_. No tensor with ``(3 s)^j`` numbers is formed, so that wide
    stencils and orders above four become possible; a call costs more.

    Parameters
    ----------
    derivatives : CrystalDerivatives
        Of kind "energy" and order 2; usually made by :meth:`from_calculator`.
    series : dict of int to SiteSeries
        By order from three on. Orders may share one.
    **options
        Those of :class:`TaylorPotential`. Of the tensors of second order, the parts left out below
        `threshold` are those that it says; nothing is left out of the series. ``elasticity="exact"`` holds to
        second order.

    References
    ----------
    .. [1] A. Griewank and A. Walther, Evaluating Derivatives, SIAM (2008), chapter 13; for tight binding see
       :class:`ase_qmmm.tightbinding.series.TightBindingSeries`.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_qmmm import EAM, Crystal
    >>> from ase_qmmm.taylor import TaylorSeries
    >>> mm = TaylorSeries.from_calculator(EAM("W-zhou04"), Crystal(bulk("W", a=3.165)), order=4, cutoff=5.0)
    >>> mm.order
    4
    """

    def __init__(
        self, derivatives: CrystalDerivatives, series: dict[int, SiteSeries], **options: Any
    ) -> None:
        if max(derivatives.cutoffs) != 2:
            raise ValueError(f"derivatives: got order {max(derivatives.cutoffs)}, expected 2")
        if sorted(series) != list(range(3, len(series) + 3)) or not series:
            raise ValueError(f"series: got orders {sorted(series)}, expected 3 and all up to the highest")
        self._set_series(derivatives.crystal, series)
        super().__init__(derivatives, **options)

    def _set_series(self, crystal: Crystal, series: dict[int, SiteSeries]) -> None:
        self.series = dict(series)
        for j, one in series.items():
            if one.crystal is not crystal:
                raise ValueError("series: made for another crystal than the derivatives")
            if one.order < j:
                raise ValueError(f"series: that for order {j} ends at order {one.order}")
        # Orders that share one series are computed together.
        self._runs: list[tuple[SiteSeries, int, int]] = []
        for j in sorted(series):
            if self._runs and self._runs[-1][0] is series[j]:
                self._runs[-1] = (series[j], self._runs[-1][1], j)
            else:
                self._runs.append((series[j], j, j))
        self._parts: list[np.ndarray] | None = None

    def _assemble(
        self,
        cutoffs: dict[int, float],
        terms: list[list[Terms]],
        energies: np.ndarray,
        label: str,
        truncation: dict[int, float],
    ) -> None:
        low = {j: r for j, r in cutoffs.items() if j < 3}
        super()._assemble(low, terms, energies, label, truncation)
        self.cutoffs |= {j: float(one.cutoff) for j, one in self.series.items()}
        # Stencils of the series may be the largest.
        self._flat = flatten(terms, self._width(), 1)

    @classmethod
    @checked_keywords
    def from_calculator(  # type: ignore[override]  # the choice of a method is that of the base class
        cls,
        qm: Any,
        crystal: Crystal,
        order: int = 4,
        cutoff: float | Sequence[float] = 5.0,
        *,
        elasticity: str = "invariant",
        threshold: float = 1e-6,
        missing_tolerance: float = 0.01,
        trust: float | None = None,
        on_distrust: str = "raise",
        progress: bool = False,
    ) -> TaylorSeries:
        """Expand the site energies of `qm` about `crystal`.

        Parameters
        ----------
        qm : SiteCalculator
            With methods ``site_energy_derivatives(crystal, order, cutoff)`` and ``site_energy_series(crystal,
            order, cutoff)``: ``TightBinding``, ``EAM``.
        crystal : Crystal
        order : {3, 4, 5, 6}
        cutoff : float or sequence of float
            Å; one for all orders, or one per order.
        elasticity, threshold, missing_tolerance, trust, on_distrust, progress
            See :meth:`TaylorPotential.from_calculator`.

        Raises
        ------
        ValueError
            Order or cutoff out of range.
        TypeError
            `qm` has no series.
        """
        cutoffs = checked_cutoffs(crystal, order, (3, 4, 5, 6), cutoff)
        waves = cell_expansion(qm, crystal, 2, elasticity)
        series = site_series(qm, crystal, cutoffs)
        low = {j: cutoffs[j] for j in (1, 2)}
        return cls(
            site_energy_expansion(qm, crystal, low, progress),
            series,
            elasticity=waves,
            threshold=threshold,
            missing_tolerance=missing_tolerance,
            trust=trust,
            on_distrust=on_distrust,
        )

    def __repr__(self) -> str:
        cutoffs = ", ".join(f"{r:g}" for r in self.cutoffs.values())
        return (
            f"TaylorSeries(order {self.order}, cutoffs {cutoffs} Å, orders 1 and 2 as tensors, "
            f"from 3 on along the displacement, trust {self.trust:.2f} Å, "
            f"{self.crystal._unit_cell.get_chemical_formula()}, from {self.label})"
        )

    def rotational_violation(self) -> dict[int, float]:
        """See :meth:`TaylorPotential.rotational_violation`; of orders one and two."""
        return {j: v for j, v in super().rotational_violation().items() if j < 3}

    def cauchy_born_derivatives(
        self, crystal: Crystal | None = None, order: int = 2, *, relaxed: bool = False
    ) -> CauchyBornDerivatives:
        """See :meth:`TaylorPotential.cauchy_born_derivatives`; `order` at most 2."""
        if order not in (1, 2):
            raise ValueError(f"order: got {order!r}, expected 1 or 2: those that are tensors")
        return super().cauchy_born_derivatives(crystal, order, relaxed=relaxed)

    # -- files -----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the tensors and values of the series that :meth:`load` checks those of its model against."""
        header = {
            "label": self.label,
            "cutoffs": list(self.cutoffs.values()),
            "truncation": list(self.truncation.values()),
            "parameters": self._parameters(),
        }
        arrays = {"energies": self.reference_energies, **terms_to_arrays("energy", self._terms)}
        for a in range(self.crystal.n_basis):
            arrays[f"probe/{a}"] = self._probe(a)
        write_model(path, type(self).__name__, self.crystal, header, arrays)

    @classmethod
    def load(cls, path: str | Path, qm: Any = None) -> TaylorSeries:
        """Read a model that :meth:`save` wrote.

        Parameters
        ----------
        path : str or Path
        qm : SiteCalculator
            The model that it was made from: the series are made anew from it and compared with the file.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            Not such a file, one of another model or version, cut off, or changed; without `qm`, or with
            another than that of the file.
        """
        crystal, header, arrays = read_model(path, cls.__name__)
        if qm is None:
            raise ValueError(
                f"qm: a TaylorSeries needs the model it was made from, {header['label']}; use "
                f"TaylorSeries.load(path, qm)"
            )
        cutoffs = dict(enumerate(header["cutoffs"], start=1))
        model = cls.__new__(cls)
        TaylorModel.__init__(model, crystal, **header["parameters"])
        model._set_series(crystal, site_series(qm, crystal, cutoffs))
        model._assemble(
            cutoffs,
            terms_from_arrays("energy", arrays, crystal.n_basis, (1, 2)),
            arrays["energies"],
            header["label"],
            dict(zip((1, 2), header["truncation"], strict=True)),
        )
        for a in range(crystal.n_basis):
            expected, found = arrays[f"probe/{a}"], model._probe(a)
            if np.abs(found - expected).max() > _SAME * np.abs(expected).max():
                raise ValueError(
                    f"qm: {path} was made from {header['label']}; the one given has other site energies"
                )
        return model

    def _probe(self, basis: int) -> np.ndarray:
        """Energies of one displacement, run by run."""
        out = []
        for run, low, high in self._runs:
            size = len(self.crystal.stencil(basis, run.cutoff))
            g = 0.05 * np.sin(np.arange(1.0, 3 * size + 1)).reshape(1, size, 3)
            out.append(run.expand(basis, g, low, high)[0][0])
        return np.array(out)

    # -- evaluation ------------------------------------------------------------------------------------------

    def _weighted(
        self, atoms: Atoms, sites: np.ndarray, weights: np.ndarray, reach: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        def compute(y: np.ndarray, match: StencilMatch) -> Computed:
            (energies, forces, virial), largest, worst = self._tensor_sums(y, match, sites, weights)
            # Beyond the trust radius there is an error or a warning, and it need not be waited for.
            if largest <= self.trust**2 or self.on_distrust == "warn":
                for basis in range(self.crystal.n_basis):
                    mine = sites[match.basis[sites] == basis]
                    for start in range(0, len(mine), _CHUNK):
                        some = mine[start : start + _CHUNK]
                        self._add_series(y, match, basis, some, weights, energies, forces, virial)
            return (energies, forces, virial), largest, worst

        result: tuple[np.ndarray, np.ndarray, np.ndarray] = self._computed(atoms, sites, compute, reach)
        return result

    def _add_series(
        self,
        y: np.ndarray,
        match: StencilMatch,
        basis: int,
        sites: np.ndarray,
        weights: np.ndarray,
        energies: np.ndarray,
        forces: np.ndarray,
        virial: np.ndarray,
    ) -> None:
        """Add the orders from three on of `sites`, all on one basis atom."""
        rho = self.crystal.stencil(basis, max(one.cutoff for one in self.series.values()))
        neighbours = match.neighbours[sites, : len(rho)]
        d = (y[neighbours] + match.shifts[sites, : len(rho)] @ match.cell - y[sites, None]) @ match.rotation
        known = neighbours >= 0
        g = np.where(known[..., None], d - rho, 0.0)
        gradient = np.zeros_like(g)
        for run, low, high in self._runs:
            size = len(self.crystal.stencil(basis, run.cutoff))
            energy, part = run.expand(basis, np.ascontiguousarray(g[:, :size]), low, high)
            energies[sites] += energy
            gradient[:, :size] += part
        gradient = np.where(known[..., None], weights[sites, None, None] * gradient, 0.0)
        virial -= match.rotation @ np.einsum("nkc,nkd->cd", gradient, g + rho) @ match.rotation.T
        gradient = gradient @ match.rotation.T
        forces[sites] += gradient.sum(axis=1)
        for c in range(3):
            forces[:, c] -= np.bincount(neighbours[known], gradient[known][:, c], len(forces))

    def _influences(self) -> list[np.ndarray]:
        """Shares of the tensors, and of the orders of the series along displacements of one atom."""
        if self._parts is None:
            self._parts = [
                np.maximum(part, self._series_influence(a, len(part)))
                for a, part in enumerate(super()._influences())
            ]
        return self._parts

    def _series_influence(self, basis: int, size: int) -> np.ndarray:
        """By stencil vector, the norm of ``d^j V[e, .., e, .]`` for unit vectors e there, to that of all."""
        out = np.zeros(size)
        for run, low, high in self._runs:
            own = [op for op in space_group(self.crystal) if op.sites[basis] == basis]
            # The first of all vectors that the symmetry of the site maps onto each other stands for them.
            first = np.min([stencil_permutation(self.crystal, op, basis, run.cutoff) for op in own], axis=0)
            chosen, place = np.unique(first, return_inverse=True)
            n = len(first)
            steps = np.zeros((len(chosen), 3, n, 3))
            steps[np.arange(len(chosen)), :, chosen] = np.eye(3)
            for j in range(low, high + 1):
                rows = run.expand(basis, steps.reshape(-1, n, 3), j, j)[1].reshape(len(chosen), -1)
                norms = np.linalg.norm(rows, axis=1)[place]
                # One of j indices is fixed, any of them may lie there.
                part = np.sqrt(j) * norms / max(float(np.linalg.norm(norms)), 1e-300)
                out[:n] = np.maximum(out[:n], np.minimum(part, 1.0))
        return out


def site_series(qm: Any, crystal: Crystal, cutoffs: dict[int, float]) -> dict[int, SiteSeries]:
    """Series by order from three on, one for all orders of one cutoff."""
    method = getattr(qm, "site_energy_series", None)
    if not callable(method):
        raise TypeError(
            f"qm: got {type(qm).__name__}, which has no method site_energy_series(crystal, order, cutoff); "
            f"take TightBinding or EAM, or tensors (TaylorPotential, method='tensors')"
        )
    made: dict[float, SiteSeries] = {}
    for j in sorted(cutoffs, reverse=True):
        if j > 2 and cutoffs[j] not in made:
            made[cutoffs[j]] = method(crystal, j, cutoffs[j])
    return {j: made[r] for j, r in cutoffs.items() if j > 2}
