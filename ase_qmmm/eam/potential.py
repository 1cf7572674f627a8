"""The functions of an embedded-atom potential, and their tables for the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..tightbinding.radial import inverse_power, leibniz
from .pieces import Pieces, hermite

__all__ = ["EAMPotential", "Tables"]


@dataclass(frozen=True)
class Tables:
    """Coefficients of quintics on equal intervals, see :class:`~ase_qmmm.eam.pieces.Pieces`.

    Attributes
    ----------
    radial : ndarray, shape (species, species, intervals, 12)
        For the species of centre and neighbour: ``r phi``, and the density of the neighbour at the centre.
    radial_step : float
        Å.
    embedding : ndarray, shape (species, intervals, 6)
    embedding_steps : ndarray, shape (species,)
        In units of the density.
    """

    radial: np.ndarray
    radial_step: float
    embedding: np.ndarray
    embedding_steps: np.ndarray


class EAMPotential:
    """Embedding, density and pair functions with derivatives of any order; the base of own potentials.

    ``E_l = F_a(rho_l) + 1/2 sum_m phi_ab(r_lm)``, ``rho_l = sum_m f_ab(r_lm)`` for an atom l of species a and
    its neighbours m of species b. Functions return stacks ``f[k] = d^k f / dx^k`` of shape (order + 1, p); f
    and phi vanish with slope and curvature at `cutoff`.

    Attributes
    ----------
    name, citation : str
    symbols : tuple of str
        Species, in the order of the arguments a, b.
    cutoff : float
        Å.
    minimum_distance : float
        Å. Closer pairs are refused.
    density_ranges : sequence of float
        By species, the density up to which F is tabulated; it goes on as a straight line.
    radial_step : float
        Largest step (Å) of the tables of the radial functions.
    embedding_intervals : int
        Number of those of F.
    """

    name = "EAM"
    citation = ""
    symbols: tuple[str, ...]
    cutoff: float
    minimum_distance = 0.5
    radial_step = 0.005
    density_ranges: Sequence[float]
    embedding_intervals = 6400

    def embedding(self, a: int, rho: np.ndarray, order: int, where: np.ndarray | None = None) -> np.ndarray:
        """F and its derivatives (order + 1, n), eV.

        `where`: densities that say which piece is meant, where F is put together from pieces.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement embedding(a, rho, order)")

    def density(self, a: int, b: int, r: np.ndarray, order: int) -> np.ndarray:
        """Density at an atom of species a that a neighbour of species b gives (order + 1, n)."""
        raise NotImplementedError(f"{type(self).__name__} must implement density(a, b, r, order)")

    def pair(self, a: int, b: int, r: np.ndarray, order: int) -> np.ndarray:
        """Pair energy phi (order + 1, n), eV."""
        raise NotImplementedError(f"{type(self).__name__} must implement pair(a, b, r, order)")

    def tables(self) -> Tables:
        """Quintics with the exact values, slopes and curvatures at all nodes."""
        n = int(np.ceil(self.cutoff / self.radial_step))
        step = self.cutoff / n
        # Nothing is evaluated below the smallest distance, where a function may diverge.
        r = np.maximum(np.arange(n + 1) * step, 0.8 * self.minimum_distance)
        r[-1] = self.cutoff
        size = len(self.symbols)
        radial = np.empty((size, size, n, 12))
        factor = np.zeros((3, n + 1))
        factor[0], factor[1] = r, 1.0
        for a in range(size):
            for b in range(size):
                z = leibniz(factor, self.pair(a, b, r, 2))
                f = self.density(a, b, r, 2)
                radial[a, b, :, :6] = hermite(z[:, :-1], z[:, 1:], step)
                radial[a, b, :, 6:] = hermite(f[:, :-1], f[:, 1:], step)
        return Tables(radial, step, *self._embedding_tables())

    def _embedding_tables(self) -> tuple[np.ndarray, np.ndarray]:
        n = self.embedding_intervals
        steps = np.array([x / n for x in self.density_ranges])
        out = np.empty((len(self.symbols), n, 6))
        for a, step in enumerate(steps):
            rho = np.arange(n + 1) * step
            middle = rho[:-1] + step / 2
            left = self.embedding(a, rho[:-1], 2, middle)
            out[a] = hermite(left, self.embedding(a, rho[1:], 2, middle), step)
        return out, steps


class TabulatedPotential(EAMPotential):
    """Functions given as pieces: those of a file.

    Parameters
    ----------
    name, citation : str
    symbols : tuple of str
    embeddings : list of Pieces
    densities, pairs : list of list of Pieces
        ``densities[a][b]`` at species a from species b; ``pairs[a][b]`` of ``r phi``.
    """

    def __init__(
        self,
        name: str,
        citation: str,
        symbols: tuple[str, ...],
        cutoff: float,
        embeddings: list[Pieces],
        densities: list[list[Pieces]],
        pairs: list[list[Pieces]],
    ) -> None:
        self.name, self.citation, self.symbols, self.cutoff = name, citation, symbols, cutoff
        self._embeddings, self._densities, self._pairs = embeddings, densities, pairs
        self.density_ranges = [pieces.end for pieces in embeddings]

    def embedding(self, a: int, rho: np.ndarray, order: int, where: np.ndarray | None = None) -> np.ndarray:
        """F from its pieces."""
        return self._embeddings[a].derivatives(rho, order)

    def density(self, a: int, b: int, r: np.ndarray, order: int) -> np.ndarray:
        """The density from its pieces."""
        return self._densities[a][b].derivatives(r, order)

    def pair(self, a: int, b: int, r: np.ndarray, order: int) -> np.ndarray:
        """Phi from the pieces of ``r phi``."""
        return leibniz(self._pairs[a][b].derivatives(r, order), inverse_power(1, r, order))

    def tables(self) -> Tables:
        """The pieces themselves."""
        size = range(len(self.symbols))
        radial = np.array(
            [
                [
                    np.hstack([self._pairs[a][b].coefficients, self._densities[a][b].coefficients])
                    for b in size
                ]
                for a in size
            ]
        )
        embedding = np.array([pieces.coefficients for pieces in self._embeddings])
        steps = np.array([pieces.step for pieces in self._embeddings])
        return Tables(radial, self._pairs[0][0].step, embedding, steps)
