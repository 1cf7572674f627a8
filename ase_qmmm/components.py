"""Connected sets of atoms across periodic boundaries."""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from .neighbours import neighbour_pairs

__all__ = ["connected_sets"]

# Atoms closer than this times the sum of their covalent radii belong together: second neighbours, so that the
# atoms around a vacancy are one set.
LINK = 1.9


def connected_sets(
    system: Atoms, members: np.ndarray, reach: float = 0.0
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Connected sets of atoms: their numbers, the cells (m, 3) that connect them, the axes they wrap.

    Parameters
    ----------
    system : ase.Atoms
    members : ndarray of int, shape (m,)
        Atoms to be divided into sets.
    reach : float
        Distance (Å) within which any two atoms are connected, beside those whose covalent radii say so.
    """
    cutoffs = LINK * covalent_radii[system.numbers[members]]
    sub = Atoms(
        numbers=system.numbers[members], positions=system.positions[members], cell=system.cell, pbc=system.pbc
    )
    i, j, d, S = neighbour_pairs(sub, max(2 * float(cutoffs.max()), reach), "ijdS")
    linked = d < np.maximum(cutoffs[i] + cutoffs[j], reach)
    # 64 bits: a pair is numbered i * m + j below.
    i, j, S = i[linked].astype(np.int64), j[linked], S[linked]
    m = len(members)
    graph = coo_array((np.ones(len(i)), (i, j)), shape=(m, m)).tocsr()
    count, label = connected_components(graph, directed=False)
    # One connecting cell for each pair of atoms; others show up as wraps below.
    keys, first = np.unique(i * m + j, return_index=True)
    shifts = np.zeros((m, 3), dtype=int)
    for component in range(count):
        root = int(np.argmax(label == component))
        order, parents = breadth_first_order(graph, root, directed=False)
        edges = first[np.searchsorted(keys, parents[order[1:]].astype(np.int64) * m + order[1:])]
        for node, edge in zip(order[1:], edges, strict=True):
            shifts[node] = shifts[i[edge]] + S[edge]
    turns = shifts[i] + S - shifts[j]
    out = []
    for component in range(count):
        mine = np.flatnonzero(label == component)
        wrapped = (turns[label[i] == component] != 0).any(axis=0)
        out.append((members[mine], shifts[mine], wrapped))
    return out
