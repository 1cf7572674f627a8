"""What a tight-binding model must say: its orbitals and its functions of distance and of surroundings."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from ase.data import atomic_numbers

from .slater_koster import shell_channels

__all__ = ["Hamiltonian", "checked_cutoff_form"]


class Hamiltonian(ABC):
    """Base class of two-centre tight-binding models of s, p and d orbitals.

    With channels c (sss, sps, pps, ppp ...), on-site densities and an optional repulsion the model is::

        H_ia,jb = sum_c G_abc(r_ij) h_c(|r_ij|),      M_ia,jb = sum_c G_abc(r_ij) m_c(|r_ij|),
        H_ia,ia = sum_t h_t,a(rho_i(t)),              rho_i(t) = sum_(j of species t) rho_t(|r_ij|),
        E_rep,i = sum_t F_t(x_i(t)),                  x_i(t) = sum_(j of species t) phi_t(|r_ij|)

    with the angular factors G of Slater and Koster. A subclass sets the attributes and implements
    :meth:`two_centre` and :meth:`onsite`; :meth:`density` and the repulsion are zero unless overridden.
    Functions return stacks of their derivatives, which :mod:`ase_qmmm.tightbinding.radial` helps to build.

    Attributes
    ----------
    name : str
    symbols : tuple of str
        Chemical symbols of the species; "species" below are positions in this tuple.
    shells : tuple of tuple of int
        Angular momenta of the shells of each species, e.g. ``((0, 1),)``.
    n_electrons : ndarray, shape (n_species,)
        Valence electrons of the neutral atom.
    cutoff : float
        Distance (Å) at and beyond which every function of distance is zero.
    minimum_distance : float
        Separation (Å) below which a pair of atoms is refused as overlapping.
    n_spin : int
        1: each level holds two electrons. 2: one Hamiltonian per spin, each level holds one electron, one
        chemical potential.
    orthogonal : bool
        The overlap matrix is the identity.
    repulsive : bool
        The model has a repulsive energy beside that of its levels.
    citation : str
        Where the parameters come from.
    """

    name: str
    symbols: tuple[str, ...]
    shells: tuple[tuple[int, ...], ...]
    n_electrons: np.ndarray
    cutoff: float
    minimum_distance: float = 0.5
    n_spin: int = 1
    orthogonal: bool = False
    repulsive: bool = False
    citation: str = ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    @property
    def numbers(self) -> np.ndarray:
        """Atomic numbers (n_species,)."""
        return np.array([atomic_numbers[s] for s in self.symbols])

    @abstractmethod
    def two_centre(
        self, a: int, b: int, distances: np.ndarray, order: int, spin: int = 0
    ) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
        """Hopping (eV) and overlap functions between species `a` (first atom) and `b`.

        Parameters
        ----------
        a, b : int
            Species.
        distances : ndarray, shape (p,)
            Å.
        order : int
            Highest derivative asked for.
        spin : int

        Returns
        -------
        dict
            For each pair of shells (l1, l2): arrays (n_channels, order + 1, p) of hopping and overlap
            with derivatives in eV/Å^k and 1/Å^k, channels in the order of
            :func:`~ase_qmmm.tightbinding.slater_koster.shell_channels`.
        """

    @abstractmethod
    def onsite(self, centre: int, neighbour: int, rho: np.ndarray, order: int, spin: int = 0) -> np.ndarray:
        """On-site terms from the density of the neighbours of one species.

        Parameters
        ----------
        centre, neighbour : int
            Species. Constants belong to ``neighbour == centre``.
        rho : ndarray, shape (n,)
            Densities at n atoms of species `centre`.
        order : int
        spin : int

        Returns
        -------
        ndarray, shape (order + 1, n, n_orbitals)
            eV, with derivatives by rho.
        """

    def density(
        self, centre: int, neighbour: int, distances: np.ndarray, order: int, spin: int = 0
    ) -> np.ndarray:
        """Contribution of one neighbour to the on-site density with derivatives, (order + 1, p), 1/Å^k."""
        return np.zeros((order + 1, len(distances)))

    def repulsive_density(self, centre: int, neighbour: int, distances: np.ndarray, order: int) -> np.ndarray:
        """Contribution phi of one neighbour to the argument of the repulsion, (order + 1, p), 1/Å^k."""
        return np.zeros((order + 1, len(distances)))

    def repulsive_energy(self, centre: int, neighbour: int, x: np.ndarray, order: int) -> np.ndarray:
        """Repulsive energy of n atoms of species `centre` as function of x, (order + 1, n), eV."""
        return np.zeros((order + 1, len(x)))

    def with_cutoff_form(self, cutoff_form: str) -> Hamiltonian:
        """Same model with another end of its functions; an error unless the model knows several."""
        if cutoff_form == getattr(self, "cutoff_form", "smooth"):
            return self
        raise ValueError(
            f"cutoff_form: got {cutoff_form!r}, but {self.name} has one form only; leave it at 'smooth'"
        )

    def _no_overlap(
        self, a: int, b: int, distances: np.ndarray, order: int
    ) -> dict[tuple[int, int], np.ndarray]:
        """Overlap functions of an orthogonal model."""
        return {
            (l1, l2): np.zeros((len(shell_channels(l1, l2)), order + 1, len(distances)))
            for l1 in self.shells[a]
            for l2 in self.shells[b]
        }


def checked_cutoff_form(form: str) -> str:
    """`form`, if it is one of the two of the models that know both."""
    if form not in ("smooth", "original"):
        raise ValueError(f"cutoff_form: got {form!r}, expected 'smooth' or 'original'")
    return form
