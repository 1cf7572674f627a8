"""Where dislocations are, and with which Burgers vectors: Nye tensor and Burgers circuits."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import find_mic
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from ..crystal import Crystal
from ..errors import StructureError, check_positive, check_structure, checked_keywords
from ..neighbours import neighbour_pairs

__all__ = ["burgers_circuit", "nye_tensor"]

# Bonds further than this from every bond of the crystal belong to none (degrees); Hartley and Mishin.
_LARGEST_ANGLE = 27.0

_LEVI_CIVITA = np.zeros((3, 3, 3))
for _i, _j, _k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
    _LEVI_CIVITA[_i, _j, _k], _LEVI_CIVITA[_i, _k, _j] = 1.0, -1.0


@checked_keywords
def nye_tensor(atoms: Atoms, crystal: Crystal, *, orientation: Any = None) -> np.ndarray:
    """Nye tensor of each atom: the density of dislocations, from the bonds as they stand [1]_.

    Bonds Q of an atom, each with the bond P of the crystal next to it in direction, give the lattice
    correspondence tensor G, ``P = Q G`` by least squares, and its differences between neighbours

        ``alpha_jk = - eps_jim d_i G_mk``.

    No reference positions are used: cuts do not show, and it holds after glide. ``sum_l alpha_zk(l) V / L``
    over the atoms around a line along z, with the volume V of an atom and the length L of the cell along z,
    is its Burgers vector, right-handed about +z, but for the differences in cores of a few atoms;
    :func:`burgers_circuit` gives it exactly.

    Parameters
    ----------
    atoms : ase.Atoms
    crystal : Crystal
        The perfect lattice.
    orientation : array_like, shape (3, 3), optional
        Rotation from the axes of the crystal to those of the atoms; default ``atoms.info["orientation"]``, as
        the builders of dislocations write it, else that of :meth:`Crystal.match`.

    Returns
    -------
    ndarray, shape (n, 3, 3)
        1/Å. Not a number where fewer than three bonds are left, and at their neighbours.

    Raises
    ------
    StructureError
        No atoms, elements that the crystal does not have, positions that are not finite.
    ValueError
        `orientation` is no rotation.

    References
    ----------
    .. [1] C. S. Hartley, Y. Mishin, Acta Mater. 53, 1313 (2005).
    """
    _check(atoms, crystal)
    i, j, q, p = _bonds(atoms, crystal, _rotation(atoms, crystal, orientation))
    n = len(atoms)
    gram = _summed(i, q[:, :, None] * q[:, None, :], n)
    # Open ends, and atoms without surroundings, determine no gradient.
    size = np.trace(gram, axis1=1, axis2=2)
    open_ended = np.linalg.eigvalsh(gram)[:, 0] < 1e-3 * np.maximum(size, 1e-300)
    gram[open_ended] = np.eye(3)
    inverse = np.linalg.inv(gram)
    correspondence = inverse @ _summed(i, q[:, :, None] * p[:, None, :], n)
    correspondence[open_ended] = np.nan
    change = (correspondence[j] - correspondence[i]).reshape(-1, 9)
    gradient = (inverse @ _summed(i, q[:, :, None] * change[:, None, :], n)).reshape(n, 3, 3, 3)
    gradient[open_ended] = np.nan
    alpha: np.ndarray = -np.einsum("jim,limk->ljk", _LEVI_CIVITA, gradient)
    return alpha


@checked_keywords
def burgers_circuit(
    atoms: Atoms,
    crystal: Crystal,
    radius: float,
    *,
    centre: Any = None,
    orientation: Any = None,
) -> np.ndarray:
    """Burgers vector of the lines along z within a circuit: what the bonds around it fail to close.

        ``b = sum_circuit (Q - P)``

    over bonds Q and those of the perfect crystal P, along closed circuits of bonds once around, right-handed
    about +z. Exact, as a circuit in good crystal cannot tell where the core is.

    Parameters
    ----------
    atoms : ase.Atoms
        Periodic along z, its cell there normal to the plane.
    crystal : Crystal
    radius : float
        Of the circuit (Å).
    centre : array_like, shape (2,) or (3,), optional
        Default ``atoms.info["core"]``.
    orientation : array_like, shape (3, 3), optional
        See :func:`nye_tensor`.

    Returns
    -------
    ndarray, shape (3,)
        Å, in the axes of the atoms.

    Raises
    ------
    StructureError
        No closed circuit of bonds at this radius, or one through a core: circuits disagree.
    ValueError
        No `centre`, or a radius that is not positive.
    """
    _check(atoms, crystal)
    check_positive("radius", radius, "Å")
    if centre is None and "core" not in atoms.info:
        raise ValueError("centre: missing; the atoms have no info['core'] either")
    middle = np.asarray(atoms.info["core"] if centre is None else centre, dtype=float)
    if middle.shape not in ((2,), (3,)):
        raise ValueError(f"centre: got shape {middle.shape}, expected x and y in Å")
    i, j, q, p = _bonds(atoms, crystal, _rotation(atoms, crystal, orientation))
    planar = find_mic(atoms.positions - [*middle[:2], 0.0], atoms.cell, [*atoms.pbc[:2], False])[0][:, :2]
    width = 1.6 * crystal.nearest_neighbour_distance
    ring = np.abs(np.linalg.norm(planar, axis=1) - radius) < width
    kept = ring[i] & ring[j]
    i, j, misfit, q = i[kept], j[kept], (q - p)[kept], q[kept]
    ahead = planar[i] + q[:, :2]
    angle = np.arctan2(
        planar[i, 0] * ahead[:, 1] - planar[i, 1] * ahead[:, 0], (planar[i] * ahead).sum(axis=1)
    )
    # What a bond adds to angle and displacement; a tree of bonds gives both to every atom of the ring.
    added = np.column_stack([angle, misfit])
    n = len(atoms)
    pairs, first = np.unique(i.astype(np.int64) * n + j, return_index=True)
    graph = coo_array((np.ones(len(first)), (i[first], j[first])), shape=(n, n)).tocsr()
    label = connected_components(graph, directed=False)[1]
    largest = np.argmax(np.bincount(label[ring], minlength=1)) if ring.any() else 0
    members = np.flatnonzero(ring & (label == largest))
    values = np.zeros((n, 4))
    if len(members):
        order, parents = breadth_first_order(graph, members[0], directed=False)
        for node in order[1:]:
            parent = parents[node]
            forward = np.searchsorted(pairs, parent * n + node)
            if forward < len(pairs) and pairs[forward] == parent * n + node:
                values[node] = values[parent] + added[first[forward]]
            else:
                values[node] = values[parent] - added[first[np.searchsorted(pairs, node * n + parent)]]
    inside = label[i] == largest
    closure = (values[i] + added - values[j])[inside]
    turns = np.rint(closure[:, 0] / (2 * np.pi))
    found = closure[turns == 1, 1:]
    if not len(found):
        raise StructureError(f"radius: no closed circuit of bonds at {radius:g} Å around {middle[:2]}")
    burgers: np.ndarray = np.median(found, axis=0)
    spread = max(np.abs(found - burgers).max(), np.abs(closure[turns == 0, 1:]).max(initial=0.0))
    if spread > 0.05 * crystal.nearest_neighbour_distance:
        raise StructureError(
            f"radius: the circuits at {radius:g} Å disagree by {spread:.2f} Å: one passes through a core "
            f"or a surface; take another radius"
        )
    return burgers


def _check(atoms: Atoms, crystal: Crystal) -> None:
    if not isinstance(crystal, Crystal):
        raise TypeError(f"crystal: got {type(crystal).__name__}, expected Crystal")
    check_structure(atoms)
    if not len(atoms):
        raise StructureError("atoms: empty")
    foreign = sorted(set(atoms.symbols) - set(crystal.unit_cell.symbols))
    if foreign:
        raise StructureError(f"atoms: {', '.join(foreign)} is not in the crystal, {crystal!r}")


def _rotation(atoms: Atoms, crystal: Crystal, orientation: Any) -> np.ndarray:
    if orientation is None:
        orientation = atoms.info.get("orientation")
    if orientation is None:
        return crystal.match(atoms, 1.05 * crystal.nearest_neighbour_distance).rotation
    rotation = np.asarray(orientation, dtype=float)
    if rotation.shape != (3, 3) or np.abs(rotation @ rotation.T - np.eye(3)).max() > 1e-6:
        raise ValueError("orientation: expected a rotation, shape (3, 3)")
    return rotation


def _bonds(
    atoms: Atoms, crystal: Crystal, rotation: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pairs i, j (p,), their bonds q (p, 3), and those of the crystal (p, 3), one to one for each atom."""
    near = crystal.nearest_neighbour_distance
    lengths = np.unique(np.round(np.linalg.norm(crystal.stencil(0, 2.5 * near), axis=1), 4))
    within = 1.2 * near  # both first shells of bcc
    reach = (lengths[lengths < within].max() + lengths[lengths > within].min()) / 2
    i, j, q, length = neighbour_pairs(atoms, float(reach), "ijDd")
    cosines = np.zeros((crystal.n_basis, len(i)))
    which = np.zeros((crystal.n_basis, len(i)), dtype=int)
    tables = [crystal.stencil(basis, within) @ rotation.T for basis in range(crystal.n_basis)]
    padded = np.zeros((crystal.n_basis, max(map(len, tables)), 3))
    for basis, vectors in enumerate(tables):
        padded[basis, : len(vectors)] = vectors
        products = q @ (vectors / np.linalg.norm(vectors, axis=1)[:, None]).T / length[:, None]
        which[basis] = products.argmax(axis=1)
        cosines[basis] = products.max(axis=1, initial=-1.0)
    # The basis site of an atom is the one of its element whose bonds are nearest to its own.
    score = np.array([np.bincount(i, c, len(atoms)) for c in cosines])
    score[crystal.unit_cell.numbers[:, None] != atoms.numbers[None]] = -np.inf
    site = score.argmax(axis=0)[i]
    pair = np.arange(len(i))
    chosen, cosine = which[site, pair], cosines[site, pair]
    p = padded[site, chosen]
    # Of two bonds in the same direction the one of nearer length.
    order = np.lexsort((np.abs(length - np.linalg.norm(p, axis=1)), chosen, i))
    first = np.ones(len(order), dtype=bool)
    first[1:] = (i[order][1:] != i[order][:-1]) | (chosen[order][1:] != chosen[order][:-1])
    kept = order[first]
    kept = kept[cosine[kept] > np.cos(np.radians(_LARGEST_ANGLE))]
    return i[kept], j[kept], q[kept], p[kept]


def _summed(i: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """Sums (n, ...) of values (p, ...) over the pairs of each atom."""
    out = np.zeros((n, *values.shape[1:]))
    np.add.at(out, i, values)
    return out
