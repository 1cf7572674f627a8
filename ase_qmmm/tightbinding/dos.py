"""Density of states, resolved by site and orbital."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.spectrum.doscollection import GridDOSCollection, RawDOSCollection
from ase.spectrum.dosdata import RawDOSData

from ..crystal import Crystal
from ..errors import check_integer, check_positive, checked_keywords
from .bands import bulk_kpoints, checked_inputs, spins_of
from .calculator import TightBinding
from .matrices import Matrices, build_matrices
from .spectrum import States

__all__ = ["density_of_states"]

# Names of the orbitals of a shell in the order of the matrices.
ORBITALS = (("s",), ("p_y", "p_z", "p_x"), ("d_xy", "d_yz", "d_3z2-r2", "d_xz", "d_x2-y2"))
_CHUNK_ELEMENTS = 2_000_000


@checked_keywords
def density_of_states(
    calc: TightBinding | str,
    atoms: Atoms | Crystal,
    kpts: Any = None,
    *,
    width: float | None = None,
    energies: np.ndarray | None = None,
    npts: int | None = None,
) -> RawDOSCollection | GridDOSCollection:
    """Density of states by site and orbital, in the Mulliken partition, as ASE's collection of spectra.

    A state s counts for orbital a with ``2 w_k Re[conj(C_as) (M C)_as]``, w_k the weight of its k-point. Over
    all orbitals these sum to two electrons per state; a single one may be slightly negative.

    Parameters
    ----------
    calc : TightBinding or str
        Calculator, or the name of a model.
    atoms : ase.Atoms or Crystal
    kpts : optional
        Whatever ``kpts2ndarray`` takes. Default: k-points that converge the total energy of the bulk; a
        smooth density of states needs more.
    width : float, optional
        Standard deviation (eV) of Gaussians. Given this, or either of the next, the result is on a grid.
        Default on a grid: 0.1 eV.
    energies : array_like, shape (n,), optional
        The grid (eV), ascending and evenly spaced.
    npts : int, optional
        Number of points of a grid that holds the whole spectrum (default 1000).

    Returns
    -------
    ase.spectrum.doscollection.RawDOSCollection or GridDOSCollection
        One entry for each orbital: levels (eV) and the electrons that they have room for, or on a grid
        electrons per eV, both for one cell. ``info`` has ``site`` (index of the atom),
        ``species``, ``l`` (``s``, ``p``, ``d``), ``orbital`` (``p_x`` ...), and ``spin`` (0, 1) for models
        with two spin channels, all strings. ASE sums, selects, broadens and plots:
        ``dos.total()``, ``dos.sum_by("l")``, ``dos.select(site="0")``, ``.sample_grid(...)``, ``.plot()``.

    Raises
    ------
    ValueError, TypeError
        k-points or grid of the wrong kind.
    StructureError
        No atoms.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_qmmm import density_of_states
    >>> dos = density_of_states("nrl-Si-sp", bulk("Si", a=5.42635), kpts=(4, 4, 4))
    >>> [data.info["orbital"] for data in dos.select(site="0")]
    ['s', 'p_y', 'p_z', 'p_x']
    >>> round(float(dos.total().get_weights().sum()), 6)  # two electrons in each of eight bands
    16.0
    """
    calc, cell = checked_inputs(calc, atoms)
    on_grid = not (width is None and energies is None and npts is None)
    width = check_positive("width", 0.1 if width is None else width, "eV")
    npts_or_grid = _checked_grid(energies, npts)
    matrices = build_matrices(calc.model, cell, order=0)
    states = calc._states(cell, bulk_kpoints(calc, cell) if kpts is None else kpts)
    labels = _orbital_labels(matrices)
    spins = spins_of(states)
    infos = [label | ({"spin": str(spin)} if len(spins) > 1 else {}) for spin in spins for label in labels]
    if on_grid:
        grid = npts_or_grid
        if isinstance(grid, int):
            low, high = min(s.levels.min() for s in states), max(s.levels.max() for s in states)
            grid = np.linspace(low - 6 * width, high + 6 * width, grid)
        density = np.zeros((len(spins), matrices.size, len(grid)))
        for s in states:
            density[spins.index(s.spin)] += _broadened(grid, s.levels.ravel(), _shares(matrices, s), width)
        return GridDOSCollection.from_data(grid, list(density.reshape(len(infos), -1)), infos)
    entries: list[RawDOSData] = []
    for spin in spins:
        mine = [s for s in states if s.spin == spin]
        levels = np.concatenate([s.levels.ravel() for s in mine])
        shares = np.concatenate([_shares(matrices, s) for s in mine], axis=1)
        entries += [RawDOSData(levels, row) for row in shares]
    for entry, info in zip(entries, infos, strict=True):
        entry.info = info
    return RawDOSCollection(entries)


def _orbital_labels(matrices: Matrices) -> list[dict[str, str]]:
    model = matrices.model
    return [
        {"site": str(atom), "species": model.symbols[species], "l": "spd"[l], "orbital": name}
        for atom, species in enumerate(matrices.species)
        for l in model.shells[species]
        for name in ORBITALS[l]
    ]


def _shares(matrices: Matrices, states: States) -> np.ndarray:
    """Electrons (N, k * N) that each state has room for in each orbital."""
    c = states.vectors
    share = (c.conj() * (matrices.overlap(states.kpoints) @ c)).real * (2 * states.weights[:, None, None])
    flat: np.ndarray = share.swapaxes(0, 1).reshape(matrices.size, -1)
    return flat


def _checked_grid(energies: Any, npts: int | None) -> int | np.ndarray:
    """The grid that was given (eV), or the number of points of one that holds the spectrum."""
    if energies is None:
        return check_integer("npts", 1000 if npts is None else npts, 2)
    if npts is not None:
        raise ValueError("npts: the grid is given by energies already, give one of the two")
    grid = np.asarray(energies, dtype=float)
    steps = np.diff(grid) if grid.ndim == 1 and len(grid) > 1 else np.zeros(1)
    if not (np.isfinite(grid).all() and steps.min() > 0 and np.ptp(steps) < 1e-6 * steps.max()):
        raise ValueError("energies: expected two or more finite energies (eV), ascending and evenly spaced")
    return grid


def _broadened(grid: np.ndarray, levels: np.ndarray, shares: np.ndarray, width: float) -> np.ndarray:
    """Gaussians (N, len(grid)) of `shares` (N, s) at `levels` (s,), in pieces that fit the memory."""
    out = np.zeros((len(shares), len(grid)))
    step = max(1, _CHUNK_ELEMENTS // len(grid))
    for start in range(0, len(levels), step):
        x = (grid - levels[start : start + step, None]) / width
        out += shares[:, start : start + step] @ np.exp(-0.5 * x**2)
    out /= np.sqrt(2 * np.pi) * width
    return out
