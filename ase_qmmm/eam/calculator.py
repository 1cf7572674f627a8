"""EAM: an embedded-atom potential as a calculator with site energies."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers

from ..crystal import Crystal
from ..errors import StructureError, check_positive, check_structure, checked_keywords
from ..neighbours import SkinList
from ..sites import SiteCalculator, SiteResult, check_weights
from ..taylor.cauchy_born import CauchyBornDerivatives
from ..taylor.crystal_derivatives import CrystalDerivatives
from ..taylor.force_constants import ForceConstants
from . import derivatives, kernels
from .files import INTERPOLATIONS, is_potential_file, read_potential
from .potential import EAMPotential
from .series import EAMSeries
from .smoothing import SmoothedPotential
from .zhou import SUFFIX, ZhouPotential, known_symbols

__all__ = ["EAM", "load_potential"]

# GB of derivative tensors.
MAX_MEMORY = 4.0


def load_potential(
    potential: str | os.PathLike[str] | EAMPotential, interpolation: str = "spline", smoothing: float = 0.0
) -> EAMPotential:
    """Potential of a name or of a file, or the object itself; see :class:`EAM`.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation: got {interpolation!r}, expected 'spline' or 'lammps'")
    if not isinstance(potential, EAMPotential | str | os.PathLike):
        raise TypeError(
            f"potential: got {type(potential).__name__}, expected a name, a path or an EAMPotential"
        )
    if not isinstance(potential, EAMPotential) and is_potential_file(potential):
        table = read_potential(potential, interpolation)
        if smoothing > table.cutoff / 4:
            raise ValueError(
                f"smoothing: got {smoothing:g} Å, expected at most a quarter of the cutoff, "
                f"{table.cutoff / 4:.3g} Å"
            )
        return SmoothedPotential(table, smoothing) if smoothing > 0 else table
    if interpolation != "spline":
        raise ValueError(f"interpolation: got {interpolation!r}, which is for files; {potential!r} is none")
    if smoothing > 0:
        raise ValueError(f"smoothing: got {smoothing:g} Å, which is for files; {potential!r} is none")
    if isinstance(potential, EAMPotential):
        return potential
    name = str(potential)
    if name.endswith(SUFFIX):
        return ZhouPotential(tuple(name.removesuffix(SUFFIX).split("-")))
    known = [symbol + SUFFIX for symbol in known_symbols()]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(
        f"potential: got {name!r}{hint} (known: {', '.join(known)}, alloys as Cu-Ni{SUFFIX}; or a path that "
        "ends in .eam.alloy, .eam.fs, .eam)"
    )


class EAM(SiteCalculator):
    """Embedded-atom method with weighted site energies.

    ``E_l = F(rho_l) + 1/2 sum_m phi(r_lm)``, ``rho_l = sum_m f(r_lm)`` over the neighbours m within the
    cutoff [1]_; the functions depend on the species. The cheap stand-in for a quantum model in metals.

    Parameters
    ----------
    potential : str, os.PathLike or EAMPotential
        A file ``.eam.alloy`` (setfl), ``.eam.fs`` (Finnis–Sinclair) or ``.eam`` (funcfl); a closed form,
        ``"W-zhou04"``, ``"Cu-Ni-zhou04"`` ..., see :class:`~ase_qmmm.eam.zhou.ZhouPotential`; or an own
        :class:`~ase_qmmm.eam.EAMPotential`.
    interpolation : {"spline", "lammps"}
        Of files. "spline": quintic splines, four times differentiable; what a table has left at the cutoff is
        taken off over the last 0.5 Å, so that energies and forces go to zero smoothly. "lammps": the
        interpolation of LAMMPS, cubics with one continuous derivative, cut at the cutoff; to reproduce its
        numbers to rounding.
    smoothing : float
        Å, of files. Third and higher derivatives at the crystal come from polynomials fitted to the functions
        within this distance of each neighbour, 0.2 Å say: those of a table itself may be noise. Energies,
        forces and force constants do not change. Zero: those of the interpolation.
    skin : float
        Å. The neighbour list is made anew when an atom has moved by half of it.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        Unknown potential, file or keyword.
    StructureError
        On evaluation: elements without parameters, atoms closer than 0.5 Å.

    Notes
    -----
    Beyond the largest density tabulated F is a straight line, as in LAMMPS.

    References
    ----------
    .. [1] M. S. Daw, M. I. Baskes, Phys. Rev. B 29, 6443 (1984).

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_qmmm import EAM
    >>> atoms = bulk("W", a=3.1648494)
    >>> atoms.calc = EAM("W-zhou04")
    >>> round(atoms.get_potential_energy(), 3)
    -8.76
    """

    @checked_keywords
    def __init__(
        self,
        potential: str | os.PathLike[str] | EAMPotential,
        *,
        interpolation: str = "spline",
        smoothing: float = 0.0,
        skin: float = 1.0,
    ) -> None:
        super().__init__()
        self.smoothing = check_positive("smoothing", smoothing, "Å", zero=True)
        self.potential = load_potential(potential, interpolation, self.smoothing)
        self.interpolation = interpolation
        self.skin = check_positive("skin", skin, "Å", zero=True)
        self._tables = self.potential.tables()
        self._species = np.full(max(atomic_numbers.values()) + 1, -1, dtype=np.int32)
        for k, symbol in enumerate(self.potential.symbols):
            self._species[atomic_numbers[symbol]] = k
        self._forget()

    def _forget(self) -> None:
        self._list = SkinList(self.cutoff, self.skin)
        self._rows = np.zeros(0, dtype=np.int64)
        self._inside = np.zeros(0, dtype=np.int32)
        self._slopes = np.zeros((0, 3))

    def __getstate__(self) -> dict[str, Any]:
        """Without the neighbour list and what hangs on it."""
        dropped = ("_list", "_rows", "_inside", "_slopes")
        return {key: value for key, value in self.__dict__.items() if key not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """See :meth:`__getstate__`."""
        self.__dict__.update(state)
        self._forget()

    def __repr__(self) -> str:
        how = "" if self.interpolation == "spline" else f", interpolation={self.interpolation!r}"
        how += f", smoothing={self.smoothing:g}" if self.smoothing else ""
        symbols = "-".join(self.potential.symbols)
        return f"EAM({self.potential.name!r}, {symbols}, cutoff {self.cutoff:.4g} Å{how})"

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Range of the site energies (Å)."""
        return self.potential.cutoff

    # -- evaluation ----------------------------------------------------------------------------------------

    def evaluate(self, atoms: Atoms, weights: np.ndarray | None = None) -> SiteResult:
        """Weighted site energies and their exact gradient; see :class:`SiteCalculator`."""
        check_structure(atoms)
        n = len(atoms)
        site_weights = check_weights(weights, n)
        if n == 0:
            return SiteResult(0.0, np.zeros(0), np.zeros((0, 3)), np.zeros((3, 3)))
        species = self._kinds(atoms)
        pairs = self._list
        if pairs.update(atoms):
            size = len(pairs.neighbours)
            self._rows = np.empty(n + 1, dtype=np.int64)
            self._inside = np.empty(size, dtype=np.int32)
            self._slopes = np.empty((size, 3))
        tables = self._tables
        rho, energies, slopes = np.empty(n), np.empty(n), np.empty(n)
        kept = (self._rows, self._inside, self._slopes)
        square, first, second = kernels.densities(
            pairs.positions,
            pairs.start,
            pairs.neighbours,
            pairs.owners,
            species,
            tables.radial,
            tables.radial_step,
            self.cutoff,
            *kept,
            rho,
            energies,
        )
        self._check_distance(square, first, second)
        kernels.embedding(rho, species, tables.embedding, tables.embedding_steps, energies, slopes)
        w = np.ones(n) if site_weights is None else site_weights
        forces, virial = np.empty((n, 3)), np.empty((3, 3))
        kernels.forces(pairs.positions, pairs.owners, *kept, w * slopes, w, forces, virial)
        energy = float(energies.sum() if site_weights is None else w @ energies)
        return SiteResult(energy, energies, forces, virial)

    def _kinds(self, atoms: Atoms) -> np.ndarray:
        """Number of the species of each atom (n,)."""
        species: np.ndarray = self._species[np.clip(atoms.numbers, 0, len(self._species) - 1)]
        if species.min() < 0:
            unknown = sorted({atoms.symbols[k] for k in np.flatnonzero(species < 0)})
            raise StructureError(
                f"atoms: {self.potential.name} has no parameters for {', '.join(unknown)} (first at atom "
                f"{int(np.argmin(species))}); it knows {', '.join(self.potential.symbols)}"
            )
        return species

    def _check_distance(self, square: float, first: int, second: int) -> None:
        minimum = self.potential.minimum_distance
        if square < minimum**2:
            raise StructureError(
                f"atoms: atoms {first} and {self._list.owners[second]} are {np.sqrt(square):.3g} Å apart, "
                f"{self.potential.name} needs at least {minimum:g} Å; remove one of them or separate them"
            )

    # -- derivatives at the crystal ------------------------------------------------------------------------

    def site_energy_derivatives(
        self,
        crystal: Crystal,
        order: int = 2,
        cutoff: float | Sequence[float] | None = None,
        *,
        max_memory: float = MAX_MEMORY,
    ) -> CrystalDerivatives:
        """Exact derivatives ``d^j V``, j = 1 .. `order` (at most 4), of site energies at the crystal.

        Parameters
        ----------
        crystal : Crystal
        order : int
        cutoff : float or sequence of float, optional
            Å; one for all orders, or one per order. Default, and for ``inf``: the whole range.
        max_memory : float
            GB (1e9 bytes) that the tensors may take, with the copies made of the largest.

        Raises
        ------
        ValueError
            `order` or `cutoff` out of range; tensors of more than `max_memory`.
        """
        self._kinds(crystal.unit_cell)
        return derivatives.site_energy_derivatives(
            self.potential, crystal, order, cutoff, max_memory, repr(self)
        )

    def site_energy_series(self, crystal: Crystal, order: int = 4, cutoff: float | None = None) -> EAMSeries:
        """Taylor series of site energies without tensors; the whole range by default.

        Parameters
        ----------
        crystal : Crystal
        order : int
            1 to 6.
        cutoff : float, optional
            Å.

        Raises
        ------
        ValueError
            `order` or `cutoff` out of range.
        """
        self._kinds(crystal.unit_cell)
        radius = self.cutoff if cutoff is None else cutoff
        return EAMSeries(self.potential, crystal, order, radius, repr(self))

    def force_derivatives(
        self,
        crystal: Crystal,
        order: int = 2,
        cutoff: float | Sequence[float] | None = None,
        *,
        max_memory: float = MAX_MEMORY,
    ) -> CrystalDerivatives:
        """Exact derivatives ``d^j F``, j = 1 .. `order` (at most 3), of the forces at the perfect crystal.

        The whole range is twice :attr:`cutoff`: two atoms act on each other through the density at a third.
        Parameters are those of :meth:`site_energy_derivatives`.
        """
        self._kinds(crystal.unit_cell)
        return derivatives.force_derivatives(self.potential, crystal, order, cutoff, max_memory, repr(self))

    def cauchy_born_derivatives(
        self, crystal: Crystal, order: int = 2, *, relaxed: bool = False
    ) -> CauchyBornDerivatives:
        """Exact derivatives of the energy per cell by the deformation gradient, orders 1 to `order`.

        Parameters
        ----------
        crystal : Crystal
        order : int
            At most 3.
        relaxed : bool
            Eliminate the inner displacements of the basis atoms; they must be in equilibrium.

        Raises
        ------
        ValueError
            `order` out of range.
        NumericsError
            The inner displacements have no stable equilibrium.
        """
        self._kinds(crystal.unit_cell)
        return derivatives.cauchy_born_derivatives(self.potential, crystal, order, relaxed, repr(self))

    def force_constants(self, crystal: Crystal, cutoff: float, *, progress: bool = False) -> ForceConstants:
        """Exact force constants of the infinite crystal within `cutoff` (Å), without a progress bar."""
        first = self.force_derivatives(crystal, 1, cutoff)
        matrices = [-np.moveaxis(tensor, 0, 1) for tensor in first.tensors[1]]
        return ForceConstants(crystal, first.cutoffs[1], matrices, first.energies, repr(self))
