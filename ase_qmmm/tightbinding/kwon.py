"""Orthogonal sp silicon of Kwon et al. with its embedded repulsion."""

from __future__ import annotations

import json
from functools import lru_cache
from importlib import resources
from typing import Any

import numpy as np

from ..errors import StructureError
from .hamiltonian import Hamiltonian
from .jets import derivatives
from .radial import leibniz, smooth_step
from .slater_koster import shell_channels

__all__ = ["KwonModel"]


@lru_cache(maxsize=1)
def _parameters() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("data/kwon_si.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


class KwonModel(Hamiltonian):
    """Transferable orthogonal tight binding of silicon, one s and three p orbitals per atom [1]_.

    Hoppings are ``h(r) = h(r0) (r0/r)^2 exp(-2 (r/rc)^nc + 2 (r0/rc)^nc)`` and the repulsion is::

        E_i = E0 + sum_(k=1)^4 C_k x_i^k,      x_i = sum_j phi(r_ij),
        phi(r) = (r0/r)^m exp(-m (r/dc)^mc + m (r0/dc)^mc).

    Parameters
    ----------
    cutoff_form : {"smooth", "original"}
        How hoppings and phi end at 4.16 Å. "smooth": times a polynomial switch of degree nine between 3.9
        and 4.16 Å, so that four derivatives are continuous everywhere. "original": as published, a cubic from
        4.0 Å on that keeps value and slope there and ends with both zero; the second derivative jumps.

    Raises
    ------
    ValueError
        Another cutoff.

    Notes
    -----
    Both forms agree below 3.9 Å. Second neighbours of the crystal lie at 3.85 Å, so that its properties,
    derivatives of every order included, are the published ones in both.

    References
    ----------
    .. [1] I. Kwon, R. Biswas, C. Z. Wang, K. M. Ho, C. M. Soukoulis, Phys. Rev. B 49, 7242 (1994).
    """

    name = "kwon-Si"
    symbols = ("Si",)
    shells = ((0, 1),)
    orthogonal = True
    repulsive = True
    # Closer, a single pair has passed the maximum of the published repulsion.
    minimum_distance = 1.45

    def __init__(self, cutoff_form: str = "smooth") -> None:
        if cutoff_form not in ("smooth", "original"):
            raise ValueError(f"cutoff_form: got {cutoff_form!r}, expected 'smooth' or 'original'")
        self.cutoff_form = cutoff_form
        self._data = _parameters()
        self.n_electrons = np.array([4.0])
        self.cutoff: float = self._data["r_cut"]
        self.citation: str = self._data["citation"]

    def __repr__(self) -> str:
        return f"KwonModel(cutoff_form={self.cutoff_form!r})"

    def with_cutoff_form(self, cutoff_form: str) -> KwonModel:
        """Same parameters with another end of the functions."""
        return self if cutoff_form == self.cutoff_form else KwonModel(cutoff_form)

    def _decay(
        self, power: float, scale: float, rc: float, nc: float, r: np.ndarray, order: int
    ) -> np.ndarray:
        """``(r0/r)^power exp(-scale (r/rc)^nc + scale (r0/rc)^nc)`` up to the cutoff."""
        data = self._data
        r0, stop = data["r0"], data["r_cut"]

        def function(x: Any) -> Any:
            return (r0 / x) ** power * np.exp(scale * ((r0 / rc) ** nc - (x / rc) ** nc))

        if self.cutoff_form == "smooth":
            switch = smooth_step(r, data["switch_start"], stop, order)
            return leibniz(derivatives(function, np.minimum(r, stop), order), switch)
        start = data["tail_start"]
        out = derivatives(function, np.minimum(r, start), order)
        value, slope = derivatives(function, np.array([start]), 1)[:, 0]
        width = stop - start
        # The cubic with value and slope at the start that ends with both zero.
        tail = np.polynomial.Polynomial(
            [
                value,
                slope,
                -(3 * value + 2 * width * slope) / width**2,
                (2 * value + width * slope) / width**3,
            ]
        )
        beyond = r > start
        x = r[beyond] - start
        for k in range(order + 1):
            out[k, beyond] = np.where(x < width, tail.deriv(k)(x), 0.0)
        return out

    def two_centre(
        self, a: int, b: int, distances: np.ndarray, order: int, spin: int = 0
    ) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
        """Hopping (eV) and no overlap; see :meth:`Hamiltonian.two_centre`."""
        data = self._data
        shapes = {
            (rc, nc): self._decay(data["n"], 2.0, rc, nc, distances, order)
            for rc, nc in {(data["rc"][c], data["nc"][c]) for c in data["rc"]}
        }
        overlap = self._no_overlap(a, b, distances, order)
        out = {}
        for (l1, l2), none in overlap.items():
            hopping = [
                data["hopping_at_r0"][c] * shapes[data["rc"][c], data["nc"][c]]
                for c in shell_channels(l1, l2)
            ]
            out[l1, l2] = (np.array(hopping), none)
        return out

    def onsite(self, centre: int, neighbour: int, rho: np.ndarray, order: int, spin: int = 0) -> np.ndarray:
        """Constant levels of s and p; see :meth:`Hamiltonian.onsite`."""
        out = np.zeros((order + 1, len(rho), 4))
        levels = self._data["onsite"]
        out[0] = [levels["s"], levels["p"], levels["p"], levels["p"]]
        return out

    def repulsive_density(self, centre: int, neighbour: int, distances: np.ndarray, order: int) -> np.ndarray:
        """Density phi of one neighbour; see :meth:`Hamiltonian.repulsive_density`."""
        d = self._data["repulsion"]
        return self._decay(d["m"], d["m"], d["dc"], d["mc"], distances, order)

    def repulsive_energy(self, centre: int, neighbour: int, x: np.ndarray, order: int) -> np.ndarray:
        """``E0 + sum_k C_k x^k`` (eV); see :meth:`Hamiltonian.repulsive_energy`."""
        d = self._data["repulsion"]
        poly = np.polynomial.Polynomial([d["E0"], *d["C"]])
        roots = poly.deriv().roots()
        turning = roots[np.abs(roots.imag) < 1e-9].real.min()
        if len(x) and x.max() > turning:
            raise StructureError(
                f"atoms: the surroundings of an atom are compressed to x = {x.max():.3g}, {self.name} holds "
                f"up to {turning:.3g}, where its repulsion turns attractive; move the closest atoms apart"
            )
        return np.array([poly.deriv(k)(x) for k in range(order + 1)])
