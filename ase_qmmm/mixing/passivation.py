"""Hydrogen on the cut bonds of an open cluster.

A bond from atom i of the cluster to atom j outside gets a link atom at ``y_i + c (y_j - y_i)``, with c the
ratio of the lengths of bonds to hydrogen and to j (sums of covalent radii). It is no degree of freedom: its
force f goes to the two atoms by the chain rule, ``(1 - c) f`` to i and ``c f`` to j.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from ..neighbours import neighbour_pairs, unwrap
from .carving import Cluster

__all__ = ["LinkAtoms", "link_atoms"]

BOND = 1.25  # times the sum of covalent radii: a bond
HYDROGEN = 1


@dataclass(frozen=True)
class LinkAtoms:
    """Link atoms of one cluster, l of them.

    Attributes
    ----------
    owner : ndarray of int, shape (l,)
        Atom of the cluster that each is bonded to.
    partner : ndarray of int, shape (l,)
        Atom of the system that it replaces.
    ratio : ndarray, shape (l,)
        c.
    offsets, anchors : ndarray, shape (l, 3)
        As of :class:`Cluster`, for the partners (Å).
    """

    owner: np.ndarray
    partner: np.ndarray
    ratio: np.ndarray
    offsets: np.ndarray
    anchors: np.ndarray

    def __len__(self) -> int:
        return len(self.owner)

    def deformed(self, gradient: np.ndarray) -> LinkAtoms:
        """After the homogeneous deformation `gradient` (3, 3)."""
        offsets, anchors = self.offsets @ gradient.T, self.anchors @ gradient.T
        return LinkAtoms(self.owner, self.partner, self.ratio, offsets, anchors)

    def added(self, cluster: Atoms, system: Atoms) -> Atoms:
        """The atoms of the cluster, then the link atoms."""
        anchored = unwrap(system.positions[self.partner], self.anchors, system.cell.array, system.pbc)
        start = cluster.positions[self.owner]
        places = start + self.ratio[:, None] * (anchored + self.offsets - start)
        capped: Atoms = cluster.copy()
        capped.extend(Atoms(numbers=np.full(len(self), HYDROGEN), positions=places))
        return capped

    def project(self, forces: np.ndarray, index: np.ndarray, total: np.ndarray) -> None:
        """Add the forces (m + l, 3) on cluster and link atoms to those of the system (n, 3)."""
        m = len(index)
        np.add.at(total, index, forces[:m])
        link = forces[m:]
        np.add.at(total, index[self.owner], (1 - self.ratio[:, None]) * link)
        np.add.at(total, self.partner, self.ratio[:, None] * link)


def link_atoms(cluster: Cluster, system: Atoms) -> LinkAtoms:
    """Link atoms on the bonds that the surface of `cluster` cuts, at the positions of `system`."""
    reach = BOND * 2 * float(covalent_radii[system.numbers].max(initial=0.0))
    i, j, d, S = neighbour_pairs(system, reach, "ijdS")
    place = np.full(len(system), -1)
    place[cluster.index] = np.arange(len(cluster.index))
    radii = covalent_radii[system.numbers]
    bonded = (d < BOND * (radii[i] + radii[j])) & (place[i] >= 0)
    i, j, S = i[bonded], j[bonded], S[bonded]
    cell = system.cell.array
    # Cells between the images that the cluster holds, and those of the bond.
    held = cluster.offsets[place[j]] - cluster.offsets[place[i]]
    astray = np.rint((S @ cell - held) @ np.linalg.pinv(cell)) != 0
    cut = (place[j] < 0) | astray[:, system.pbc & ~cluster.atoms.pbc].any(axis=1)
    i, j, S = i[cut], j[cut], S[cut]
    owner = place[i]
    hydrogen = covalent_radii[HYDROGEN]
    return LinkAtoms(
        owner=owner,
        partner=j,
        ratio=(radii[i] + hydrogen) / (radii[i] + radii[j]),
        offsets=cluster.offsets[owner] + S @ cell,
        anchors=system.positions[j].copy(),
    )
