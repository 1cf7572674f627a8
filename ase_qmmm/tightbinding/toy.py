"""The toy model of the papers: one s orbital per atom, for tests and studies in two dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from ..errors import check_positive, checked_keywords
from .hamiltonian import Hamiltonian
from .jets import derivatives
from .radial import leibniz, smooth_step

__all__ = ["ToyModel"]

Function = Callable[[Any], Any]

# Default set: lengths in Å, energies in eV. Only nearest neighbours (2.5 Å) see each other in the triangular
# lattice, and below the switch, so that zero pressure reads c = a <2 f h> / (6 b) over the half-filled band
# at kT = 0.1 eV; the slope below is that number, converged in k-points to all digits.
SPACING = 2.5
HOPPING = -0.2
HOPPING_DECAY = 2.0
DENSITY_DECAY = 8.0
ONSITE_SLOPE = 0.0154525585806964
CUTOFF = 4.2
SWITCH_PART = 2 / 3


def default_hopping(r: Any) -> Any:
    """``h0 exp(-a (r / r0 - 1))`` (eV)."""
    return HOPPING * np.exp(-HOPPING_DECAY * (r / SPACING - 1))


def default_density(r: Any) -> Any:
    """``exp(-b (r / r0 - 1))``."""
    return np.exp(-DENSITY_DECAY * (r / SPACING - 1))


def default_onsite(x: Any) -> Any:
    """``c x`` (eV)."""
    return ONSITE_SLOPE * x


class ToyModel(Hamiltonian):
    """One s orbital, orthogonal basis, on-site terms that rise with the density of neighbours [1]_.

    The matrix elements are::

        H_ll = h_ons(sum_(j != l) rho(r_lj)),      H_lk = h_hop(r_lk)

    Parameters
    ----------
    onsite, hopping, density : callable, optional
        ``h_ons(x)`` (eV), ``h_hop(r)`` (eV) and ``rho(r)``, written with NumPy, or with a method
        ``derivative(k)``; see :func:`ase_qmmm.tightbinding.jets.derivatives`, which takes the derivatives.
        Functions of a module, unlike lambdas, can be sent to other processes.
        Default: the set below. A lattice has an equilibrium only if ``h_ons`` rises on compression.
    cutoff : float
        Å. ``hopping`` and ``density`` are multiplied by a polynomial switch of degree nine from `switch` to
        here, so that four derivatives are continuous everywhere.
    switch : float, optional
        Where the switch starts (Å); default two thirds of the cutoff.
    n_electrons : float
        Electrons per atom, more than 0 and less than 2.
    symbol : str
        Element that stands for the atoms. ``"Ni"`` has nothing to do with nickel but its size: tools that
        take atoms for bonded by their covalent radii, carving of clusters among them, need one that fits
        the spacing.
    minimum_distance : float
        Å; closer pairs are refused.

    Raises
    ------
    ValueError, TypeError
        Lengths, electrons or symbol out of range; functions that cannot be differentiated or are not finite
        between `minimum_distance` and `cutoff`.

    Notes
    -----
    The papers leave the functions open (they refer to another work for those of their figure). The default
    set, with ``r0 = 2.5`` Å and the switch from 2.8 to 4.2 Å, is::

        h_hop(r) = -0.2 eV exp(-2 (r/r0 - 1)),   rho(r) = exp(-8 (r/r0 - 1)),   h_ons(x) = 0.01545... eV x,

    one electron per atom. At kT = 0.1 eV its triangular lattice (2D, ``pbc = (True, True, False)``) has its
    minimum at a spacing of exactly 2.5 Å and is stable: in-plane phonons are positive in the whole zone, a
    vacancy and a di-vacancy relax by less than 0.1 Å, and force constants fall tenfold in about 3.5 Å. Modes
    out of the plane of a flat sheet have no restoring force and are not meant. At another kT take the spacing
    of ``Crystal.relaxed``.

    References
    ----------
    .. [1] H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), QM/MM methods for crystalline
       defects, part 2, eq. (8).

    Examples
    --------
    >>> import numpy as np
    >>> from ase_qmmm.tightbinding import ToyModel
    >>> model = ToyModel(hopping=lambda r: -1.0 / r**2, cutoff=5.0)
    >>> model.two_centre(0, 0, np.array([2.0]), 1)[0, 0][0].round(3).tolist()
    [[[-0.25], [0.25]]]
    """

    shells = ((0,),)
    orthogonal = True
    citation = "H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), eq. (8)"

    @checked_keywords
    def __init__(
        self,
        *,
        onsite: Function = default_onsite,
        hopping: Function = default_hopping,
        density: Function = default_density,
        cutoff: float = CUTOFF,
        switch: float | None = None,
        n_electrons: float = 1.0,
        symbol: str = "Ni",
        minimum_distance: float = 0.5,
    ) -> None:
        self.cutoff = check_positive("cutoff", cutoff, "Å")
        self.minimum_distance = check_positive("minimum_distance", minimum_distance, "Å")
        self.switch = self.cutoff * SWITCH_PART
        if switch is not None:
            self.switch = check_positive("switch", switch, "Å")
        if not self.minimum_distance < self.cutoff or not self.switch < self.cutoff:
            raise ValueError(
                f"cutoff: got {self.cutoff:g} Å, expected more than switch = {self.switch:g} and "
                f"minimum_distance = {self.minimum_distance:g}"
            )
        self.n_electrons = np.array([check_positive("n_electrons", n_electrons)])
        if not n_electrons < 2:
            raise ValueError(f"n_electrons: got {n_electrons}, expected less than 2 (one s orbital)")
        if not isinstance(symbol, str) or atomic_numbers.get(symbol, 0) == 0:
            raise ValueError(f"symbol: got {symbol!r}, expected a chemical symbol, e.g. 'Ni'")
        self.symbols = (symbol,)
        self._onsite, self._hopping, self._density = onsite, hopping, density
        given = (onsite, hopping, density, self.cutoff, self.switch, float(n_electrons))
        default = (default_onsite, default_hopping, default_density, CUTOFF, CUTOFF * SWITCH_PART, 1.0)
        self.name = "toy" if given == default else "toy with own parameters"
        r = np.linspace(self.minimum_distance, self.cutoff, 50)
        for name, function in (("hopping", hopping), ("density", density)):
            if not callable(function):
                raise TypeError(f"{name}: got {function!r}, expected a function of distances")
            self._check(name, derivatives(function, r, 4, name))
        x = np.append(0.0, derivatives(density, r, 0)[0])
        self._check("onsite", derivatives(onsite, x[x >= 0], 4, "onsite"))

    @staticmethod
    def _check(name: str, values: np.ndarray) -> None:
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise ValueError(f"{name}: derivative {bad[0]} is not finite, expected four finite derivatives")

    def _faded(self, function: Function, r: np.ndarray, order: int) -> np.ndarray:
        values = derivatives(function, np.minimum(r, self.cutoff), order)
        return leibniz(values, smooth_step(r, self.switch, self.cutoff, order))

    def two_centre(
        self, a: int, b: int, distances: np.ndarray, order: int, spin: int = 0
    ) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
        """``h_hop`` (eV) and no overlap; see :meth:`Hamiltonian.two_centre`."""
        hopping = self._faded(self._hopping, distances, order)
        return {(0, 0): (hopping[None], np.zeros((1, order + 1, len(distances))))}

    def density(
        self, centre: int, neighbour: int, distances: np.ndarray, order: int, spin: int = 0
    ) -> np.ndarray:
        """``rho`` of one neighbour; see :meth:`Hamiltonian.density`."""
        return self._faded(self._density, distances, order)

    def onsite(self, centre: int, neighbour: int, rho: np.ndarray, order: int, spin: int = 0) -> np.ndarray:
        """``h_ons`` (eV); see :meth:`Hamiltonian.onsite`."""
        return derivatives(self._onsite, rho, order)[:, :, None]
