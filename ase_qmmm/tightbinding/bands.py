"""Band structure and band gap of a perfect crystal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.dft.kpoints import BandPath
from ase.spectrum.band_structure import BandStructure

from ..bandpaths import checked_bandpath
from ..crystal import Crystal
from ..errors import NumericsError, StructureError, check_structure, checked_keywords
from .calculator import TightBinding, fermi_level
from .matrices import build_matrices
from .spectrum import States

__all__ = [
    "BandGap",
    "band_gap",
    "band_structure",
    "bulk_kpoints",
    "checked_inputs",
    "spins_of",
]

# Levels (eV) that agree this well are the same one.
_SAME = 1e-9


@checked_keywords
def band_structure(
    calc: TightBinding | str, atoms: Atoms | Crystal, path: BandPath | str | None = None, npoints: int = 200
) -> BandStructure:
    """Levels along a path through the Brillouin zone, as ASE's band structure.

    Parameters
    ----------
    calc : TightBinding or str
        Calculator, or the name of a model. Its k-points are not used.
    atoms : ase.Atoms or Crystal
        One unit cell, periodic in one, two or three directions.
    path : ase.dft.kpoints.BandPath or str, optional
        Special points such as ``"LGXUG"`` (a comma starts a new piece), or a path made with
        ``atoms.cell.bandpath``. Default: the lattice's own path in ASE.
    npoints : int
        Number of k-points on a path given by name or by default.

    Returns
    -------
    ase.spectrum.band_structure.BandStructure
        ``energies`` (n_spin, n_k, N) in eV, ascending; ``reference``: the chemical potential (eV) of the
        calculator if it has one, else the :func:`fermi_level` with k-points that converge the bulk.
        ``.plot()`` draws it.

    Raises
    ------
    ValueError, TypeError
        A special point that the lattice does not have, a path of another cell, fewer than two points.
    StructureError
        No atoms, or no periodic direction.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_qmmm import band_structure
    >>> bands = band_structure("nrl-Si-sp", bulk("Si", a=5.42635), "LGX", npoints=3)
    >>> bands.energies.shape
    (1, 3, 8)
    >>> bands.energies[0, 1, :4].round(3).tolist()
    [-6.508, 5.288, 5.288, 5.288]
    """
    calc, cell = checked_inputs(calc, atoms)
    if not cell.pbc.any():
        raise StructureError(
            "atoms: no direction is periodic, so that there is no Brillouin zone; set pbc and cell, or use "
            "calc.eigenvalues for the levels of a molecule"
        )
    bandpath = checked_bandpath(cell, path, npoints)
    kpoints, levels = _levels(calc._states(cell, bandpath.kpts))
    # Only one of each set of equivalent k, -k was solved: look each point of the path up.
    place = [int(np.argmin(np.minimum(_apart(k, kpoints), _apart(-k, kpoints)))) for k in bandpath.kpts]
    reference = calc.mu if calc.mu is not None else fermi_level(calc, cell)
    return BandStructure(bandpath, levels[:, place], float(reference))


@dataclass(frozen=True)
class BandGap:
    """Edges of the bands that the electrons fill and leave empty.

    In a metal the two overlap, and both gaps are zero; `vbm` is then the top of the highest band with
    electrons and `cbm` the bottom of the lowest band that is not full.

    Attributes
    ----------
    gap : float
        ``cbm - vbm`` (eV), zero for a metal.
    direct_gap : float
        Smallest distance (eV) of the two bands at one k-point, zero for a metal.
    vbm, cbm : float
        Valence band maximum and conduction band minimum (eV).
    k_vbm, k_cbm, k_direct : tuple of float
        k-points (scaled) of the two and of the direct gap, the first of equivalent ones.
    """

    gap: float
    direct_gap: float
    vbm: float
    cbm: float
    k_vbm: tuple[float, float, float]
    k_cbm: tuple[float, float, float]
    k_direct: tuple[float, float, float]

    @property
    def metallic(self) -> bool:
        """Whether the bands touch or overlap."""
        return self.gap == 0.0

    def __str__(self) -> str:
        if self.metallic:
            overlap = self.vbm - self.cbm
            how = f"overlap by {overlap:.4f} eV" if overlap > _SAME else f"touch at {self.vbm:.4f} eV"
            return f"no gap (bands {how})"

        def place(k: tuple[float, float, float]) -> str:
            return "(" + ", ".join(f"{x:.4g}" for x in k) + ")"

        return (
            f"gap {self.gap:.4f} eV: VBM {self.vbm:.4f} eV at k = {place(self.k_vbm)}, CBM {self.cbm:.4f} eV "
            f"at k = {place(self.k_cbm)}; direct gap {self.direct_gap:.4f} eV at k = {place(self.k_direct)}"
        )


@checked_keywords
def band_gap(calc: TightBinding | str, atoms: Atoms | Crystal, kpts: Any = None) -> BandGap:
    """Band gap of the neutral crystal (or of a molecule), by counting electrons into bands.

    Parameters
    ----------
    calc : TightBinding or str
        Calculator, or the name of a model. Its kT and mu do not matter.
    atoms : ase.Atoms or Crystal
    kpts : optional
        Whatever ``kpts2ndarray`` takes. Default: k-points that converge the bulk, with Gamma. Edges are
        those on these k-points; where they lie between points, give more, or those of a path.

    Returns
    -------
    BandGap

    Raises
    ------
    StructureError
        No atoms.
    NumericsError
        The electrons fill all bands of the model.
    ValueError
        k-points of the wrong kind.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_qmmm import band_gap
    >>> gap = band_gap("nrl-Si-sp", bulk("Si", a=5.42635))
    >>> round(gap.gap, 3), gap.metallic
    (1.02, False)
    """
    calc, cell = checked_inputs(calc, atoms)
    n_electrons = build_matrices(calc.model, cell, order=0).n_electrons
    kpoints, levels = _levels(calc._states(cell, bulk_kpoints(calc, cell) if kpts is None else kpts))
    n_spin = len(levels)
    # Both channels together: their lowest bands fill first.
    bands = np.sort(np.concatenate(list(levels), axis=1), axis=1)
    full = n_electrons * n_spin / 2
    highest, lowest = int(np.ceil(full - 1e-9)) - 1, int(np.floor(full + 1e-9))
    if not 0 <= highest <= lowest < bands.shape[1]:
        which = "all bands" if full > 0 else "no band"
        raise NumericsError(f"{calc.model.name}: {n_electrons:g} electrons fill {which}, there is no gap")
    valence, conduction = bands[:, highest], bands[:, lowest]
    difference = conduction - valence
    top = int(np.flatnonzero(valence > valence.max() - _SAME)[0])
    bottom = int(np.flatnonzero(conduction < conduction.min() + _SAME)[0])
    direct = int(np.flatnonzero(difference < difference.min() + _SAME)[0])
    gap = float(conduction[bottom] - valence[top])
    open_gap = gap > _SAME

    def place(index: int) -> tuple[float, float, float]:
        x, y, z = kpoints[index].tolist()
        return x, y, z

    return BandGap(
        gap=gap if open_gap else 0.0,
        direct_gap=float(difference[direct]) if open_gap else 0.0,
        vbm=float(valence[top]),
        cbm=float(conduction[bottom]),
        k_vbm=place(top),
        k_cbm=place(bottom),
        k_direct=place(direct),
    )


def checked_inputs(calc: Any, atoms: Any) -> tuple[TightBinding, Atoms]:
    """The calculator and the unit cell, checked."""
    if isinstance(calc, str):
        calc = TightBinding(calc)
    if not isinstance(calc, TightBinding):
        raise TypeError(f"calc: got {type(calc).__name__}, expected TightBinding or the name of a model")
    cell = atoms.unit_cell if isinstance(atoms, Crystal) else atoms
    check_structure(cell)
    if len(cell) == 0:
        raise StructureError("atoms: got no atoms, expected at least one")
    return calc, cell


def bulk_kpoints(calc: TightBinding, cell: Atoms) -> Any:
    """k-points that converge the total energy of the bulk."""
    return calc.for_crystal(cell).kpts


def _apart(k: np.ndarray, kpoints: np.ndarray) -> np.ndarray:
    """Largest component of the difference of `k` and each k-point, modulo reciprocal lattice vectors."""
    difference = kpoints - k
    largest: np.ndarray = np.abs(difference - np.rint(difference)).max(axis=1)
    return largest


def spins_of(states: list[States]) -> list[int]:
    """The spin channels that occur."""
    return sorted({s.spin for s in states})


def _levels(states: list[States]) -> tuple[np.ndarray, np.ndarray]:
    """k-points (k, 3) and levels (n_spin, k, N)."""
    channels = [[s for s in states if s.spin == spin] for spin in spins_of(states)]
    kpoints = np.concatenate([s.kpoints for s in channels[0]])
    return kpoints, np.array([np.concatenate([s.levels for s in mine]) for mine in channels])
