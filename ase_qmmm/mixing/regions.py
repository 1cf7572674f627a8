"""Regions: which atoms are quantum, buffer, matched model, or frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms

from ..errors import StructureError, check_positive, check_structure, checked_keywords
from ..lattice_sites import lattice_sites
from ..neighbours import distances_to

if TYPE_CHECKING:
    from ..crystal import Crystal

__all__ = ["Regions", "as_mask", "grow_mask"]

MM, BUFFER, QM, FROZEN = 0, 1, 2, 3


def as_mask(name: str, selection: Any, n: int) -> np.ndarray:
    """Boolean mask (n,) from a mask, a list of indices (negative count from the end), or a slice.

    Raises
    ------
    ValueError, IndexError, TypeError
        A mask of another length, an index out of range or given twice, anything else.
    """
    mask = np.zeros(n, dtype=bool)
    if selection is None:
        return mask
    if isinstance(selection, slice):
        mask[selection] = True
        return mask
    array = np.asarray(selection)
    if array.dtype == bool:
        if array.shape != (n,):
            raise ValueError(f"{name}: got a mask of {array.size} entries, expected {n}, one per atom")
        return array.copy()
    if array.size == 0:
        return mask
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise TypeError(
            f"{name}: got {type(selection).__name__} of {array.dtype}, expected a boolean mask, a list of "
            f"indices or a slice"
        )
    outside = (array < -n) | (array >= n)
    if outside.any():
        raise IndexError(f"{name}: index {array[outside][0]} is out of range for {n} atoms")
    wrapped = array % n
    values, counts = np.unique(wrapped, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"{name}: atom {values[counts > 1][0]} is listed twice; list each atom once")
    mask[wrapped] = True
    return mask


class Regions:
    """Four disjoint sets of atoms: qm, buffer, frozen, and mm (the rest).

    Forces on `qm` atoms come from the quantum model in a cluster of qm and buffer atoms, those on `buffer`
    and `mm` atoms from the matched model; `frozen` atoms carry no force.

    Parameters
    ----------
    qm, buffer, frozen : array_like of bool or int, slice, optional
        Boolean masks, lists of atom indices, or slices. `buffer` gives way to `qm`; an atom in `buffer` and
        `frozen` feeds the quantum call and does not move; one in `qm` and `frozen` is an error.
    n_atoms : int, optional
        Number of atoms; needed where no mask tells it and the regions are used before they meet their
        atoms.

    Raises
    ------
    ValueError, IndexError, TypeError
        Masks of different or wrong lengths, indices out of range or given twice, frozen atoms in qm.

    Examples
    --------
    >>> from ase_qmmm import Regions
    >>> regions = Regions([0, 1], buffer=slice(2, 4), n_atoms=6)
    >>> regions.numbers.tolist()
    [2, 2, 1, 1, 0, 0]
    """

    @checked_keywords
    def __init__(
        self, qm: Any, buffer: Any = None, frozen: Any = None, *, n_atoms: int | None = None
    ) -> None:
        self._given = {"qm": qm, "buffer": buffer, "frozen": frozen}
        self._numbers: np.ndarray | None = None
        if n_atoms is None:
            lengths = {
                name: np.size(value)
                for name, value in self._given.items()
                if value is not None and not isinstance(value, slice) and np.asarray(value).dtype == bool
            }
            if len(set(lengths.values())) > 1:
                raise ValueError(f"regions: masks differ in length: {lengths}")
            n_atoms = next(iter(lengths.values()), None)
        if n_atoms is not None:
            self._resolve(n_atoms)

    def _resolve(self, n: int) -> None:
        masks = {name: as_mask(name, value, n) for name, value in self._given.items()}
        both = masks["qm"] & masks["frozen"]
        if both.any():
            raise ValueError(
                f"regions: atom {int(np.argmax(both))} is both qm and frozen; QM atoms must be free"
            )
        numbers = np.full(n, MM)
        numbers[masks["buffer"]] = BUFFER
        numbers[masks["frozen"] & ~masks["buffer"]] = FROZEN
        numbers[masks["qm"]] = QM
        self._numbers = numbers
        self._frozen_buffer = masks["frozen"] & masks["buffer"]

    def for_atoms(self, n: int) -> Regions:
        """These regions for `n` atoms, resolved from index lists if need be.

        Raises
        ------
        ValueError
            They were made for another number of atoms.
        """
        if self._numbers is None:
            return Regions(**self._given, n_atoms=n)
        if len(self._numbers) != n:
            raise ValueError(
                f"regions: made for {len(self._numbers)} atoms, but there are {n}; make new ones for this "
                f"structure"
            )
        return self

    @property
    def numbers(self) -> np.ndarray:
        """Region of each atom (n,): 0 mm, 1 buffer, 2 qm, 3 frozen."""
        if self._numbers is None:
            raise ValueError("regions: given as indices or slices without n_atoms; pass n_atoms=len(atoms)")
        return self._numbers.copy()

    def __len__(self) -> int:
        return len(self.numbers)

    def __repr__(self) -> str:
        if self._numbers is None:
            return f"Regions(from indices: {self._given})"
        counts = np.bincount(self._numbers, minlength=4)
        text = f"{counts[QM]} qm, {counts[BUFFER]} buffer, {counts[MM]} mm, {counts[FROZEN]} frozen"
        if self._frozen_buffer.any():
            text += f" and {int(self._frozen_buffer.sum())} more in the buffer"
        return f"Regions({text})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Regions)
            and np.array_equal(self.numbers, other.numbers)
            and np.array_equal(self.frozen, other.frozen)
        )

    __hash__ = None  # type: ignore[assignment]

    @property
    def qm(self) -> np.ndarray:
        """Mask (n,) of the quantum atoms."""
        return np.asarray(self.numbers == QM)

    @property
    def buffer(self) -> np.ndarray:
        """Mask (n,) of the atoms that surround them in the quantum call."""
        return np.asarray(self.numbers == BUFFER)

    @property
    def mm(self) -> np.ndarray:
        """Mask (n,) of the atoms of the matched model alone."""
        return np.asarray(self.numbers == MM)

    @property
    def frozen(self) -> np.ndarray:
        """Mask (n,) of the atoms that do not move; buffer atoms may be among them."""
        return np.asarray((self.numbers == FROZEN) | self._frozen_buffer)

    # -- construction --------------------------------------------------------------------------------------

    @classmethod
    @checked_keywords
    def from_distance(
        cls, atoms: Atoms, centre: Any, r_qm: float, r_buffer: float = 0.0, r_frozen: float | None = None
    ) -> Regions:
        """Regions by distance from one or more centres, periodic images included.

        Parameters
        ----------
        atoms : ase.Atoms
        centre : int, (3,) or (m, 3) array_like
            Atom, or positions (Å).
        r_qm : float
            Atoms within it are QM (Å).
        r_buffer : float
            Width of the buffer beyond (Å): atoms between `r_qm` and ``r_qm + r_buffer``.
        r_frozen : float, optional
            Atoms at least this far away are frozen (Å).

        Raises
        ------
        ValueError
            Radii not positive or not in rising order, a centre of another shape.
        """
        check_structure(atoms)
        r_qm = check_positive("r_qm", r_qm, "Å")
        r_buffer = check_positive("r_buffer", r_buffer, "Å", zero=True)
        if isinstance(centre, (int, np.integer)):
            if not -len(atoms) <= centre < len(atoms):
                raise IndexError(f"centre: atom {centre} is out of range for {len(atoms)} atoms")
            centre = atoms.positions[centre]
        centres = np.atleast_2d(np.asarray(centre, dtype=float))
        if centres.ndim != 2 or centres.shape[1] != 3 or not np.isfinite(centres).all():
            raise ValueError(
                f"centre: got {centre!r}, expected an atom index, a position (3,) or positions (m, 3)"
            )
        distance = distances_to(atoms, centres)
        frozen = None
        if r_frozen is not None:
            if check_positive("r_frozen", r_frozen, "Å") <= r_qm:
                raise ValueError(f"r_frozen: got {r_frozen:g} Å, expected more than r_qm = {r_qm:g} Å")
            frozen = distance >= r_frozen
        return cls(distance <= r_qm, (distance > r_qm) & (distance <= r_qm + r_buffer), frozen)

    @classmethod
    @checked_keywords
    def detect(
        cls,
        atoms: Atoms,
        crystal: Crystal,
        r_qm: float,
        r_buffer: float = 0.0,
        tolerance: float | None = None,
    ) -> Regions:
        """Regions around what differs from the crystal: vacant sites, atoms on no site, misfitting atoms.

        Distances count from vacant sites and from atoms without a site; where there are none of either (a
        dislocation core), from the atoms whose misfit exceeds `tolerance`. Atoms that are already frozen
        (array ``region`` or ``frozen``, or ``FixAtoms``) are not looked at, so that the surface of a frozen
        shell is no defect, and they stay frozen: those within `r_qm` are buffer atoms.

        Parameters
        ----------
        atoms : ase.Atoms
        crystal : Crystal
        r_qm, r_buffer : float
            As in :meth:`from_distance` (Å).
        tolerance : float, optional
            Misfit (Å) above which an atom belongs to a defect; 0.15 nearest-neighbour distances.

        Raises
        ------
        StructureError
            No defect found.
        """
        centres = defect_centres(atoms, crystal, tolerance)
        regions = cls.from_distance(atoms, centres, r_qm, r_buffer)
        frozen = frozen_atoms(atoms)
        if not frozen.any():
            return regions
        return cls(regions.qm & ~frozen, regions.buffer | (regions.qm & frozen), frozen)

    @classmethod
    def from_atoms(cls, atoms: Atoms) -> Regions:
        """Read the regions that :meth:`write` put into `atoms` (arrays ``region`` and ``region_frozen``).

        Raises
        ------
        ValueError
            No such array, or values other than 0 to 3.
        """
        if "region" not in atoms.arrays:
            raise ValueError("atoms: no array 'region'; write it with Regions.write(atoms)")
        numbers = np.asarray(atoms.arrays["region"])
        if not np.isin(numbers, (MM, BUFFER, QM, FROZEN)).all():
            raise ValueError("atoms.arrays['region']: expected 0 mm, 1 buffer, 2 qm, 3 frozen only")
        held = np.asarray(atoms.arrays.get("region_frozen", np.zeros(len(atoms))), dtype=bool)
        return cls(numbers == QM, numbers == BUFFER, (numbers == FROZEN) | held & (numbers == BUFFER))

    def write(self, atoms: Atoms) -> None:
        """Store the regions in `atoms`: integer array ``region`` and tags (``ase gui`` colours by tag).

        Buffer atoms that are frozen as well are written as buffer. Where there are any, the boolean array
        ``region_frozen`` tells all that are frozen.
        """
        regions = self.for_atoms(len(atoms))
        numbers = regions.numbers
        atoms.set_array("region", numbers, int)
        atoms.set_array("region_frozen", regions.frozen if regions._frozen_buffer.any() else None)
        atoms.set_tags(numbers)

    def constraint(self) -> FixAtoms:
        """An ASE constraint that holds the frozen atoms."""
        return FixAtoms(mask=self.frozen)


def defect_centres(atoms: Atoms, crystal: Crystal, tolerance: float | None = None) -> np.ndarray:
    """Positions (m, 3) in Å of what differs from `crystal`; see :meth:`Regions.detect`."""
    match = crystal.match(atoms, 1.2 * crystal.nearest_neighbour_distance)
    free = ~frozen_atoms(atoms)
    sites = lattice_sites(match, atoms)
    if sites is not None:
        centres = np.concatenate([sites.vacant_positions, atoms.positions[free & (sites.basis < 0)]])
    else:
        centres = atoms.positions[free & (match.basis < 0)]
    if not len(centres):
        centres = atoms.positions[free & match.defect(tolerance)]
    if not len(centres):
        raise StructureError(
            f"atoms: no defect found in {len(atoms)} atoms of {crystal!r}; make Regions by hand"
        )
    return centres


def frozen_atoms(atoms: Atoms) -> np.ndarray:
    """Mask (n,) of atoms that :meth:`Regions.write`, array ``frozen`` or ``FixAtoms`` say do not move."""
    frozen = np.zeros(len(atoms), dtype=bool)
    if "region" in atoms.arrays:
        frozen |= atoms.arrays["region"] == FROZEN
    for name in ("frozen", "region_frozen"):
        if name in atoms.arrays:
            frozen |= atoms.arrays[name].astype(bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            frozen[constraint.index] = True
    return frozen


def grow_mask(atoms: Atoms, mask: np.ndarray, radius: float) -> np.ndarray:
    """Mask of the atoms within `radius` (Å) of those in `mask`, these included, through periodic images."""
    if radius == 0 or not mask.any():
        return mask.copy()
    near: np.ndarray = mask | (distances_to(atoms, atoms.positions[mask], radius) < radius)
    return near
