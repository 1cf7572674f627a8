"""Point defects in periodic supercells: vacancies and interstitials."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import find_mic

from ..crystal import Crystal
from ..errors import check_positive, checked_keywords
from .frame import conventional_axes, direction
from .marks import mark_defect

__all__ = ["divacancy", "interstitial", "silicon_diinterstitial", "vacancy", "vacancy_cluster"]

# Places relative to an atom in units of the cubic cell, by the number of nearest neighbours. Those of diamond
# are relative to the atom whose bonds point along [111], [1-1-1] ...
_HOLES: dict[tuple[str, int], tuple[float, float, float]] = {
    ("tetrahedral", 4): (0.5, 0.5, 0.5),
    ("hexagonal", 4): (0.625, 0.625, 0.625),
    ("tetrahedral", 8): (0.5, 0.25, 0.0),
    ("octahedral", 8): (0.5, 0.5, 0.0),
    ("tetrahedral", 12): (0.25, 0.25, 0.25),
    ("octahedral", 12): (0.5, 0.5, 0.5),
}
# Directions of dumbbells and crowdions, by the number of nearest neighbours.
_DUMBBELLS = {4: (1, 1, 0), 8: (1, 1, 0), 12: (1, 0, 0)}
_CROWDIONS = {8: (1, 1, 1), 12: (1, 1, 0)}
_KINDS = ("tetrahedral", "hexagonal", "octahedral", "split", "dumbbell", "crowdion")


def _supercell(crystal: Crystal, size: Any, cubic: bool | None) -> tuple[Atoms, np.ndarray]:
    """A supercell, and the basis site of each atom."""
    cubic = (len(crystal.lattice) == 3 and crystal.cubic_vectors() is not None) if cubic is None else cubic
    atoms = crystal.supercell(size, cubic=cubic)
    inverse = np.linalg.pinv(crystal.lattice)
    offsets = (atoms.positions[:, None] - crystal.basis_positions[None]) @ inverse
    gaps = np.abs(offsets - np.rint(offsets)).max(axis=2)
    gaps[atoms.numbers[:, None] != crystal.numbers[None]] = np.inf
    return atoms, np.argmin(gaps, axis=1)


def _central_atom(atoms: Atoms, basis: np.ndarray, site: int, crystal: Crystal) -> int:
    if not 0 <= site < crystal.n_basis:
        raise ValueError(f"site: got {site!r}, expected a basis site from 0 to {crystal.n_basis - 1}")
    middle = atoms.cell.array.sum(axis=0) / 2
    distance = np.linalg.norm(atoms.positions - middle, axis=1)
    distance[basis != site] = np.inf
    return int(np.argmin(np.round(distance, 6)))


def _without(atoms: Atoms, basis: np.ndarray, removed: list[int], name: str) -> Atoms:
    """`atoms` without some, with what the builders write."""
    first = atoms.positions[removed[0]]
    vectors = find_mic(atoms.positions[removed] - first, atoms.cell, atoms.pbc)[0]
    sites = first + vectors
    keep = np.ones(len(atoms), dtype=bool)
    keep[removed] = False
    result: Atoms = atoms[keep]
    mark_defect(result, name, sites.mean(axis=0), reference_positions=result.positions, basis=basis[keep])
    result.info["vacant_sites"] = sites
    return result


@checked_keywords
def vacancy(crystal: Crystal, size: Any, *, site: int = 0, cubic: bool | None = None) -> Atoms:
    """A vacancy near the middle of a supercell.

    Parameters
    ----------
    crystal : Crystal
    size : int, sequence of int, or (3, 3) integer matrix
        Repetitions; see :meth:`Crystal.supercell`.
    site : int
        Basis site that is vacant.
    cubic : bool, optional
        Repeat the smallest cubic cell; default where there is one.

    Returns
    -------
    ase.Atoms
        Arrays ``reference_positions`` (Å) and ``basis``; ``info`` holds ``defect``, ``core`` (3,) and
        ``vacant_sites`` (m, 3), Å.

    Raises
    ------
    ValueError
        No such site, or a size that is not positive.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_qmmm import Crystal
    >>> from ase_qmmm.defects import vacancy
    >>> len(vacancy(Crystal(bulk("W", a=3.165)), 3))
    53
    """
    return vacancy_cluster(crystal, size, 1, site=site, cubic=cubic)


@checked_keywords
def divacancy(
    crystal: Crystal, size: Any, *, site: int = 0, shell: int = 1, cubic: bool | None = None
) -> Atoms:
    """Two vacancies that are neighbours of the given `shell` (1: nearest); else as :func:`vacancy`."""
    if int(shell) != shell or shell < 1:
        raise ValueError(f"shell: got {shell!r}, expected 1 (nearest neighbours), 2 ...")
    atoms, basis = _supercell(crystal, size, cubic)
    centre = _central_atom(atoms, basis, site, crystal)
    distances = np.round(atoms.get_distances(centre, np.arange(len(atoms)), mic=True), 4)
    shells = np.unique(distances[np.arange(len(atoms)) != centre])
    if shell > len(shells):
        raise ValueError(f"shell: got {shell}, but the supercell has {len(shells)} shells; take a larger one")
    partner = int(np.flatnonzero(distances == shells[int(shell) - 1])[0])
    return _without(atoms, basis, [centre, partner], "divacancy")


@checked_keywords
def vacancy_cluster(
    crystal: Crystal, size: Any, n: int, *, site: int = 0, cubic: bool | None = None
) -> Atoms:
    """A compact cluster of `n` vacancies: each next one nearest to the middle of those before.

    Other parameters and returns as for :func:`vacancy`.
    """
    atoms, basis = _supercell(crystal, size, cubic)
    if int(n) != n or not 1 <= n < len(atoms):
        raise ValueError(f"n: got {n!r}, expected 1 to {len(atoms) - 1}, the atoms of the supercell less one")
    removed = [_central_atom(atoms, basis, site, crystal)]
    first = atoms.positions[removed[0]]
    vectors = find_mic(atoms.positions - first, atoms.cell, atoms.pbc)[0]
    while len(removed) < n:
        distance = np.round(np.linalg.norm(vectors - vectors[removed].mean(axis=0), axis=1), 6)
        # Neighbours of the cluster only, so that it stays in one piece.
        bonded = np.linalg.norm(vectors[:, None] - vectors[removed][None], axis=2).min(axis=1)
        distance[bonded > 1.01 * crystal.nearest_neighbour_distance] = np.inf
        distance[removed] = np.inf
        removed.append(int(np.argmin(distance)))
    return _without(atoms, basis, removed, "vacancy" if n == 1 else f"{int(n)} vacancies")


@checked_keywords
def interstitial(
    crystal: Crystal,
    size: Any,
    kind: str,
    *,
    site: int = 0,
    direction: Any = None,
    separation: float | None = None,
    position: Any = None,
    symbol: str | None = None,
    cubic: bool | None = None,
) -> Atoms:
    """A self-interstitial (or, with `symbol`, one of another element) near the middle of a supercell.

    Parameters
    ----------
    crystal : Crystal
    size, cubic
        As for :func:`vacancy`.
    kind : str
        ``"tetrahedral"``, ``"octahedral"``, ``"hexagonal"``: a hole of bcc, fcc or diamond (and of B2 and
        zincblende, seen from `site`). ``"split"`` or ``"dumbbell"``: two atoms share a site, in any crystal.
        ``"crowdion"``: an extra atom in a close-packed row, half way between two neighbours.
        ``"position"``: at `position`.
    site : int
        Basis site that the hole lies next to, or that is shared.
    direction : array_like, shape (3,), optional
        Of a dumbbell or crowdion [uvw]; default [110] for dumbbells in diamond and bcc, [100] in fcc, the
        close-packed row for crowdions.
    separation : float, optional
        Of the two atoms of a dumbbell (Å); default 0.9 nearest-neighbour distances.
    position : array_like, shape (3,), optional
        Relative to the atom on `site` (Å), for kind ``"position"``.
    symbol : str, optional
        Element of the extra atom; default that of `site`.

    Returns
    -------
    ase.Atoms
        As from :func:`vacancy`; the extra atom is the last, and ``info["core"]`` is the middle of the defect.

    Raises
    ------
    ValueError
        A hole that the structure does not have, a direction that is no row of neighbours, an unknown kind.
    """
    if kind not in (*_KINDS, "position"):
        raise ValueError(f"kind: got {kind!r}, expected one of {', '.join((*_KINDS, 'position'))}")
    for name, value, kinds in (
        ("direction", direction, ("split", "dumbbell", "crowdion")),
        ("separation", separation, ("split", "dumbbell")),
        ("position", position, ("position",)),
    ):
        if value is not None and kind not in kinds:
            raise ValueError(f"{name}: has no meaning for kind {kind!r}, only for {' and '.join(kinds)}")
    atoms, basis = _supercell(crystal, size, cubic)
    host = _central_atom(atoms, basis, site, crystal)
    near = crystal.nearest_neighbour_distance
    place = atoms.positions[host].copy()
    core = place.copy()
    if kind in ("split", "dumbbell"):
        axis = _axis(crystal, site, direction, _DUMBBELLS)
        gap = 0.9 * near if separation is None else check_positive("separation", separation, "Å")
        extra = place + gap / 2 * axis
        moved, shift = host, -gap / 2 * axis
    elif kind == "crowdion":
        axis = _axis(crystal, site, direction, _CROWDIONS)
        stencil = crystal.stencil(site, 1.001 * near)
        along = stencil @ axis > 0.999 * np.linalg.norm(stencil, axis=1)
        if not along.any():
            raise ValueError(f"direction: got {direction!r}, expected a close-packed row of {crystal!r}")
        extra = place + stencil[along][0] / 2
        moved, shift, core = host, np.zeros(3), extra
    elif kind == "position":
        offset = np.asarray(position, dtype=float)
        if offset.shape != (3,) or not np.isfinite(offset).all():
            raise ValueError(f"position: got {position!r}, expected three numbers in Å")
        extra = place + offset
        moved, shift, core = host, np.zeros(3), extra
    else:
        extra = place + _hole(crystal, site, kind)
        moved, shift, core = host, np.zeros(3), extra
    reference = np.vstack([atoms.positions, extra])
    number = Atoms(symbol).numbers[0] if symbol else crystal.numbers[site]
    atoms += Atoms([number], [extra])
    atoms.positions[moved] += shift
    basis = np.append(basis, -1)
    name = "split" if kind == "dumbbell" else kind
    mark_defect(atoms, f"{name} interstitial", core, reference_positions=reference, basis=basis)
    return atoms


def _coordination(crystal: Crystal, site: int) -> int:
    return len(crystal.stencil(site, 1.001 * crystal.nearest_neighbour_distance))


def _axis(crystal: Crystal, site: int, indices: Any, defaults: dict[int, tuple[int, int, int]]) -> np.ndarray:
    if indices is None:
        indices = defaults.get(_coordination(crystal, site))
        if indices is None or crystal.cubic_vectors() is None:
            raise ValueError(f"direction: no default for {crystal!r}; give one")
    axis = direction(crystal, "direction", indices)
    return np.asarray(axis / np.linalg.norm(axis))


def _hole(crystal: Crystal, site: int, kind: str) -> np.ndarray:
    """Vector (3,) in Å from an atom to a hole next to it."""
    cubic = crystal.cubic_vectors()
    coordination = _coordination(crystal, site)
    fractions = _HOLES.get((kind, coordination))
    if cubic is None or fractions is None:
        known = sorted({k for k, n in _HOLES if n == coordination}) if cubic is not None else []
        raise ValueError(
            f"kind: {crystal!r} has no {kind} hole known by name (known: {', '.join(known) or 'none'}); "
            f"use kind='position'"
        )
    hole: np.ndarray = np.asarray(fractions) @ conventional_axes(crystal)
    if coordination == 4:
        # The other basis atom has its bonds along the opposite directions.
        bonds = crystal.stencil(site, 1.001 * crystal.nearest_neighbour_distance)
        body = conventional_axes(crystal).sum(axis=0)
        if (bonds @ body).max() < 0.99 * np.linalg.norm(body) * np.linalg.norm(bonds[0]):
            hole = -hole
    return hole


@checked_keywords
def silicon_diinterstitial(crystal: Crystal, size: Any, *, cubic: bool | None = None) -> Atoms:
    """A di-interstitial of diamond: two parallel <110> split interstitials on neighbouring sites.

    Adaptive QM/MM (section 4.5) relaxes a di-interstitial in 8002 atoms of silicon and prints no
    coordinates; in the compact form built here each of two bonded sites is shared by two atoms. It is a
    starting geometry.

    Parameters
    ----------
    crystal : Crystal
        Diamond: four nearest neighbours, one element.
    size, cubic
        As for :func:`vacancy`.

    Raises
    ------
    ValueError
        Another structure.
    """
    if _coordination(crystal, 0) != 4 or crystal.n_basis < 2 or len(set(crystal.numbers)) > 1:
        raise ValueError(f"crystal: got {crystal!r}, expected a diamond structure")
    atoms, basis = _supercell(crystal, size, cubic)
    near = crystal.nearest_neighbour_distance
    first = _central_atom(atoms, basis, 0, crystal)
    axis = _axis(crystal, 0, None, _DUMBBELLS)
    bonds = crystal.stencil_sites(0, 1.001 * near)[0]
    # A bond normal to the axis keeps all four new atoms apart.
    bond = bonds[np.argmin(np.abs(bonds @ axis))]
    gaps = find_mic(atoms.positions - atoms.positions[first] - bond, atoms.cell, atoms.pbc)[0]
    second = int(np.argmin(np.linalg.norm(gaps, axis=1)))
    step = 0.45 * near * axis
    place = atoms.positions[first].copy()
    extra = np.array([place + step, place + bond + step])
    reference = np.vstack([atoms.positions, extra])
    atoms += Atoms(crystal.numbers[[0, 0]], extra)
    atoms.positions[[first, second]] -= step
    mark_defect(
        atoms,
        "di-interstitial",
        place + bond / 2,
        reference_positions=reference,
        basis=np.append(basis, [-1, -1]),
    )
    return atoms
