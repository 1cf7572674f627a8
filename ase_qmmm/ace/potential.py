"""ACEPotential: a linear atomic cluster expansion as a calculator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ..crystal import Crystal
from ..errors import check_positive, checked_keywords
from ..taylor.cauchy_born import CauchyBornDerivatives
from ..taylor.crystal_derivatives import CrystalDerivatives
from .basis import ACEBasis
from .derivatives import MAX_MEMORY, cauchy_born, derivatives
from .evaluation import ProjectionCalculator
from .files import read_potential, write_potential
from .lammps import LAMMPSExport, export_potential
from .verlet import VerletList

__all__ = ["ACEPotential"]


class ACEPotential(ProjectionCalculator):
    """Site energies ``E_i = E0(z_i) + sum_k c_k B_k(surroundings of i) + core`` of a linear ACE model.

    The coefficients are contracted into products of density projections once; radial functions are tabulated
    with continuous second derivatives, those of an energy that vanishes smoothly at the cutoff.

    Parameters
    ----------
    basis : ACEBasis
    coefficients : array_like, shape (len(basis),)
        eV.
    reference_energies : dict of str to float, optional
        Energies E0 of free atoms (eV); zero if not given.
    skin : float
        Å. Neighbour lists reach further by this, and are kept while no atom has moved by half of it.

    Raises
    ------
    ValueError, TypeError
        Coefficients of another number than the functions or not finite; an unknown element; a skin below 0.
    StructureError
        On evaluation: two atoms closer than 0.1 Å, or an element that the basis lacks.

    References
    ----------
    R. Drautz, Phys. Rev. B 99, 014104 (2019); Y. Lysogorskiy et al., npj Comput. Mater. 7, 97 (2021).

    Examples
    --------
    >>> import numpy as np
    >>> from ase.build import bulk
    >>> from ase_qmmm import ACEBasis, ACEPotential
    >>> basis = ACEBasis("W", order=2, degree=6, cutoff=5.0)
    >>> atoms = bulk("W", cubic=True)
    >>> atoms.calc = ACEPotential(basis, np.ones(len(basis)))
    >>> bool(abs(atoms.get_forces()).max() < 1e-10)
    True
    """

    @checked_keywords
    def __init__(
        self,
        basis: ACEBasis,
        coefficients: Any,
        *,
        reference_energies: Mapping[str, float] | None = None,
        skin: float = 0.5,
    ) -> None:
        super().__init__()
        if not isinstance(basis, ACEBasis):
            raise TypeError(f"basis: got {type(basis).__name__}, expected ACEBasis")
        values = np.array(coefficients, dtype=float)
        if values.shape != (len(basis),):
            raise ValueError(
                f"coefficients: got shape {values.shape}, expected ({len(basis)},): one per function of "
                f"{basis!r}"
            )
        if not np.isfinite(values).all():
            worst = int(np.argmin(np.isfinite(values)))
            raise ValueError(f"coefficients: number {worst} is {values[worst]}, expected finite numbers")
        values.flags.writeable = False
        self.basis, self.coefficients = basis, values
        given = dict(reference_energies or {})
        unknown = sorted(set(given) - set(basis.elements))
        if unknown:
            raise ValueError(
                f"reference_energies: got {', '.join(unknown)}, expected elements of the basis: "
                f"{', '.join(basis.elements)}"
            )
        self.reference_energies = {e: float(given.get(e, 0.0)) for e in basis.elements}
        self._references = np.array([self.reference_energies[e] for e in basis.elements])
        if not np.isfinite(self._references).all():
            raise ValueError(f"reference_energies: got {given}, expected finite numbers (eV)")
        self.skin = check_positive("skin", skin, "Å", zero=True)
        self._neighbours = VerletList(basis.cutoff, self.skin)
        table, channels = basis._potential_table(values), basis._channels
        # The radial functions are the same for every l.
        first = np.zeros(len(channels.n_max), dtype=np.int64)
        self._arrays = (
            *table,
            channels.starts,
            first,
            channels.n_max,
            basis._harmonics,
            *basis._plan(values),
        )

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Radius of the basis (Å)."""
        return self.basis.cutoff

    def __repr__(self) -> str:
        largest = float(np.abs(self.coefficients).max())
        return f"ACEPotential({self.basis!r}, largest coefficient {largest:.3g} eV)"

    def _species(self, atoms: Atoms) -> np.ndarray:
        return self.basis.species(atoms)

    # -- derivatives at the crystal -------------------------------------------------------------------------

    @checked_keywords
    def site_energy_derivatives(
        self,
        crystal: Crystal,
        order: int = 2,
        cutoff: float | Sequence[float] = 5.0,
        *,
        max_memory: float = MAX_MEMORY,
    ) -> CrystalDerivatives:
        """Exact derivatives ``d^j V``, j = 1 .. `order` (at most 3), of the site energies at the crystal.

        Of the radial functions themselves, not of their tables.

        Parameters
        ----------
        crystal : Crystal
        order : int
        cutoff : float or sequence of float
            Å; one for all orders, or one per order. Beyond the cutoff of the basis they are zero.
        max_memory : float
            GB (1e9 bytes) that the tensors may take.

        Raises
        ------
        ValueError
            `order` or `cutoff` out of range; tensors of more than `max_memory`.
        """
        return derivatives(self, "energy", crystal, order, cutoff, max_memory)

    @checked_keywords
    def force_derivatives(
        self,
        crystal: Crystal,
        order: int = 1,
        cutoff: float | Sequence[float] = 5.0,
        *,
        max_memory: float = MAX_MEMORY,
    ) -> CrystalDerivatives:
        """Exact derivatives ``d^j F``, j = 1 .. `order` (at most 2), of the forces at the crystal.

        They reach to twice the cutoff of the basis. Parameters are those of :meth:`site_energy_derivatives`.
        """
        return derivatives(self, "force", crystal, order, cutoff, max_memory)

    @checked_keywords
    def cauchy_born_derivatives(
        self, crystal: Crystal, order: int = 2, *, relaxed: bool = False
    ) -> CauchyBornDerivatives:
        """Exact derivatives of the energy per cell by the deformation gradient, up to `order` (at most 3).

        Parameters
        ----------
        crystal : Crystal
        order : int
        relaxed : bool
            Eliminate the inner displacements of the basis atoms; they must be in equilibrium.
        """
        return cauchy_born(self, crystal, order, relaxed)

    # -- files -----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the model to a JSON file, whole or not at all."""
        write_potential(path, self.basis, self.coefficients, self.reference_energies)

    @checked_keywords
    def export_lammps(self, path: str | Path, *, tolerance: float = 1e-10) -> LAMMPSExport:
        """Write the model for LAMMPS: ``pair_style pace``, overlaid by ``pair_style table``.

        The cluster functions go to the ``.yace`` file: each R_n is expanded in the file's Chebyshev basis,
        the couplings are turned to complex harmonics. That format has no pair functions and no core of this
        kind: both go, exact at 1000 points per Å, to a ``.table`` file beside it. In LAMMPS the errors of its
        own tables come on top.

        Parameters
        ----------
        path : str or Path
            Must end in ``.yace``.
        tolerance : float
            Largest error of any radial function, which are of order one.

        Returns
        -------
        LAMMPSExport
            The files, the errors reached, and the lines of input that use them.

        Raises
        ------
        ValueError
            Another ending; radial functions that the Chebyshev basis does not give to the tolerance.
        """
        return export_potential(path, self.basis, self.coefficients, self._references, tolerance)

    @classmethod
    @checked_keywords
    def load(cls, path: str | Path, *, skin: float = 0.5) -> ACEPotential:
        """Read a model that :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            Not a file of this kind, of another version, or damaged; the message says which.
        """
        basis, coefficients, reference_energies = read_potential(path)
        return cls(basis, coefficients, reference_energies=reference_energies, skin=skin)
