"""Taylor series of EAM site energies along a displacement."""

from __future__ import annotations

import numpy as np

from ..crystal import Crystal
from ..errors import check_positive
from ..taylor.embedded_series import EmbeddedSite
from ..taylor.monomials import Monomials
from ..taylor.site_series import SiteSeries
from .derivatives import Site
from .potential import EAMPotential

__all__ = ["EAMSeries"]


class EAMSeries(SiteSeries):
    """Site energies of the embedded-atom method by truncated Taylor arithmetic.

    Parameters
    ----------
    potential : EAMPotential
    crystal : Crystal
    order : int
        1 to 6. Tables are quintic splines, whose derivatives beyond the fourth mean little.
    cutoff : float
        Å; beyond the range of the potential nothing is added.
    label : str
    """

    def __init__(
        self, potential: EAMPotential, crystal: Crystal, order: int, cutoff: float, label: str
    ) -> None:
        if order not in range(1, 7):
            raise ValueError(f"order: got {order!r}, expected 1 to 6")
        self.crystal, self.order, self.label = crystal, order, label
        self.cutoff = check_positive("cutoff", cutoff, "Å")
        self._set_symmetry()
        monomials = Monomials(order)
        sites = [Site(potential, crystal, basis, order) for basis in range(crystal.n_basis)]
        self.energies = np.array([site.energy for site in sites])
        self._sites: dict[int, EmbeddedSite] = {}
        for basis in self.computed:
            site, vectors = sites[basis], crystal.stencil(basis, self.cutoff)
            # Neighbours come by distance: those of the stencil are the first in the range, or the other way.
            n = min(len(vectors), len(site.vectors))
            density, pair = np.zeros((2, order + 1, len(vectors)))
            density[:, :n], pair[:, :n] = site.density[:, :n], site.pair[:, :n] / 2
            groups = np.zeros(len(vectors), dtype=int)
            functions = site.embedding[None]
            self._sites[basis] = EmbeddedSite(monomials, vectors, groups, density, functions, pair)

    def _series(self, basis: int, g: np.ndarray, lowest: int, highest: int) -> tuple[np.ndarray, np.ndarray]:
        return self._sites[basis].expand(g, lowest, highest)
