"""Carving: from a system and its regions to the clusters that the quantum model sees.

A cluster is never torn: atoms are placed on the periodic images that connect them. ``open`` keeps the qm and
buffer atoms alone, periodic only along directions in which they connect to their own images. ``periodic``
fills a box of lattice vectors around them with the atoms at their actual positions, which has no surface:
for point defects in silicon its error is smaller than that of an open cluster of several times the size.
``embedded`` hands the whole system to a model that picks the atoms it needs and replaces the rest by a
self-energy.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import product

import numpy as np
from ase import Atoms
from ase.geometry import wrap_positions
from scipy.spatial import cKDTree

from ..boxes import BoxFrame, fill_box, images_near
from ..components import connected_sets
from ..errors import StructureError
from ..lattice_sites import LatticeSites
from ..neighbours import neighbour_pairs, unwrap

__all__ = ["CLUSTER_KINDS", "Cluster", "buffer_width", "carve"]
__all__ += ["embedded_cluster", "filled_cluster", "perfect_cluster", "whole_cluster"]

log = logging.getLogger(__name__)

CLUSTER_KINDS = ("auto", "periodic", "open", "embedded")
AS_LARGE = "the box around the qm and buffer atoms is as large as the system"
IMAGE_GAP = 4.0  # Å between the qm atoms of a periodic box and their images, at least
VACUUM = 6.0  # Å around open clusters, for calculators that need a cell


@dataclass
class Cluster:
    """Atoms of one call of the quantum model.

    Attributes
    ----------
    kind : {"open", "periodic", "embedded", "whole"}
    index : ndarray of int, shape (m,)
        Atom of the system behind each atom of the cluster.
    qm : ndarray of bool, shape (m,)
        Atoms whose forces are used.
    atoms : ase.Atoms
        The cluster at the positions of the last :meth:`update`.
    offsets : ndarray, shape (m, 3)
        Cluster position minus unwrapped system position (Å).
    anchors : ndarray, shape (m, 3)
        System positions at which the cluster was carved (Å).
    """

    kind: str
    index: np.ndarray
    qm: np.ndarray
    atoms: Atoms
    offsets: np.ndarray
    anchors: np.ndarray
    _distinct: bool | None = None

    def update(self, system: Atoms) -> Atoms:
        """Bring the cluster to the positions of `system`, which may have been wrapped meanwhile."""
        positions = unwrap(system.positions[self.index], self.anchors, system.cell.array, system.pbc)
        self.atoms.positions[:] = positions + self.offsets
        return self.atoms

    def add_forces(self, forces: np.ndarray, own: np.ndarray) -> None:
        """Add the forces `own` (m, 3) of the cluster to those of the system (n, 3), in place."""
        if self._distinct is None:
            self._distinct = len(np.unique(self.index)) == len(self.index)
        if self._distinct:
            forces[self.index] += own
        else:  # a box may hold images of one atom
            np.add.at(forces, self.index, own)

    def deformed(self, gradient: np.ndarray) -> Cluster:
        """The cluster of the system after the homogeneous deformation `gradient` (3, 3)."""
        atoms = self.atoms.copy()
        atoms.set_cell(atoms.cell.array @ gradient.T, scale_atoms=False)
        offsets, anchors = self.offsets @ gradient.T, self.anchors @ gradient.T
        return Cluster(self.kind, self.index, self.qm, atoms, offsets, anchors, self._distinct)

    def __repr__(self) -> str:
        if self.kind == "embedded":
            return f"Cluster(embedded, {int(self.qm.sum())} qm)"
        axes = "".join("xyz"[k] if p else "-" for k, p in enumerate(self.atoms.pbc))
        return f"Cluster({self.kind}, {len(self.index)} atoms, {int(self.qm.sum())} qm, periodic {axes})"


def carve(
    system: Atoms,
    qm: np.ndarray,
    buffer: np.ndarray,
    kind: str,
    sites: LatticeSites | None,
    faulty: np.ndarray | None,
    whole_size: int = 0,
) -> list[Cluster]:
    """Clusters for the quantum model, one for each connected set of qm and buffer atoms.

    Parameters
    ----------
    system : ase.Atoms
    qm, buffer : ndarray of bool, shape (n,)
    kind : {"auto", "periodic", "open", "embedded"}
    sites : LatticeSites, optional
        Labels of the atoms; needed for ``periodic``.
    faulty : ndarray of bool, shape (n,), optional
        Atoms at defects, which must not lie near the faces of a periodic box.
    whole_size : int
        With ``auto``, number of atoms up to which the whole system is taken rather than an open cluster, if a
        periodic box would be as large.

    Raises
    ------
    StructureError
        ``kind="periodic"`` where no crystal is known or no box with clean faces fits.
    """
    members = qm | buffer
    if members.all():
        return [whole_cluster(system, qm)]
    clusters = []
    # Second neighbours of the crystal belong together, however small its atoms are.
    reach = 0.0 if sites is None else 1.7 * sites.crystal.nearest_neighbour_distance
    for index, shifts, wrapped in connected_sets(system, np.flatnonzero(members), reach):
        mine = qm[index]
        if not mine.any():
            continue
        if kind == "embedded":
            clusters.append(embedded_cluster(system, _open(system, qm, index, shifts, wrapped)))
            continue
        box: Cluster | str = "no crystal is known; pass crystal="
        if kind != "open" and sites is not None and faulty is not None:
            box = _box(system, qm, index, shifts, sites, faulty)
        if isinstance(box, Cluster):
            clusters.append(box)
        elif kind == "periodic" and box == AS_LARGE:
            return [whole_cluster(system, qm)]
        elif kind == "periodic":
            raise StructureError(
                f"cluster: 'periodic' is not possible here: {box}; use cluster='open' or 'auto'"
            )
        elif kind == "auto" and box == AS_LARGE and len(system) <= whole_size:
            return [whole_cluster(system, qm)]
        elif kind == "auto" and len(index) >= 0.75 * len(system):
            # A hole in a cluster this large costs more accuracy than the missing atoms cost time.
            return [whole_cluster(system, qm)]
        else:
            if kind == "auto" and isinstance(box, str):
                log.info("no periodic box: %s", box)
            clusters.append(_open(system, qm, index, shifts, wrapped))
    return clusters


def embedded_cluster(system: Atoms, cluster: Cluster) -> Cluster:
    """The whole system, of which the qm atoms of `cluster` are asked for."""
    qm = np.zeros(len(system), dtype=bool)
    qm[cluster.index[cluster.qm]] = True
    whole = whole_cluster(system, qm)
    whole.kind = "embedded"
    return whole


def whole_cluster(system: Atoms, qm: np.ndarray) -> Cluster:
    """The whole system as one cluster."""
    n = len(system)
    return Cluster("whole", np.arange(n), qm.copy(), _bare(system), np.zeros((n, 3)), system.positions.copy())


def _bare(system: Atoms) -> Atoms:
    """Elements, positions, cell and initial moments and charges, without calculator, constraints or tags."""
    bare = Atoms(numbers=system.numbers, positions=system.positions, cell=system.cell, pbc=system.pbc)
    for name in ("initial_magmoms", "initial_charges", "masses"):
        if name in system.arrays:
            bare.set_array(name, system.arrays[name].copy())
    return bare


def _open(
    system: Atoms, qm: np.ndarray, index: np.ndarray, shifts: np.ndarray, wrapped: np.ndarray
) -> Cluster:
    """The atoms alone, in a padded cell; periodic along the axes that they wrap."""
    cell = system.cell.array
    placed = system.positions[index] + shifts @ cell
    box = np.zeros((3, 3))
    box[wrapped] = cell[wrapped]
    normals = np.linalg.svd(cell[wrapped])[2][int(wrapped.sum()) :] if wrapped.any() else np.eye(3)
    origin = np.zeros(3)
    for axis, normal in zip(np.flatnonzero(~wrapped), normals, strict=True):
        heights = placed @ normal
        box[axis] = normal * (np.ptp(heights) + 2 * VACUUM)
        origin += normal * (heights.min() - VACUUM)
    if np.linalg.det(box) < 0 and not wrapped.all():
        flipped = np.flatnonzero(~wrapped)[0]
        origin += box[flipped]
        box[flipped] *= -1
    # Along wrapped axes the cell repeats, so that the place within it is free.
    atoms = _bare(system)[index]
    atoms.set_cell(box, scale_atoms=False)
    atoms.pbc = wrapped
    offsets = shifts @ cell - origin
    atoms.positions[:] = system.positions[index] + offsets
    return Cluster("open", index, qm[index], atoms, offsets, system.positions[index].copy())


def buffer_width(cluster: Cluster, system: Atoms, radius: float) -> float:
    """Smallest distance (Å) from a qm atom to an atom of `system` that `cluster` lacks, up to `radius`.

    Infinite if there is none within `radius`. An image of an atom of the cluster counts as another atom.
    """
    place = np.full(len(system), -1)
    place[cluster.index] = np.arange(len(cluster.index))
    used = np.zeros(len(system), dtype=bool)
    used[cluster.index[cluster.qm]] = True
    i, j, d, S = neighbour_pairs(system, radius, "ijdS")
    i, j, d, S = i[used[i]], j[used[i]], d[used[i]], S[used[i]]
    # Cells between the images that the cluster holds, and those of the pair.
    cell = system.cell.array
    held = cluster.offsets[place[j]] - cluster.offsets[place[i]]
    astray = np.rint((S @ cell - held) @ np.linalg.pinv(cell)) != 0
    lacking = (place[j] < 0) | astray[:, system.pbc & ~cluster.atoms.pbc].any(axis=1)
    return float(d[lacking].min(initial=np.inf))


def _box(
    system: Atoms,
    qm: np.ndarray,
    index: np.ndarray,
    shifts: np.ndarray,
    sites: LatticeSites,
    faulty: np.ndarray,
) -> Cluster | str:
    """A periodic box of lattice vectors around the component, or the reason why there is none."""
    crystal = sites.crystal
    frame = BoxFrame(sites)
    q = frame.scaled(sites.positions[index] + shifts @ system.cell.array)
    low, high = q.min(axis=0), q.max(axis=0)
    # The smallest number of repetitions that keeps both ends apart; the hair breaks ties at the faces.
    repeats = np.floor(high - low + 1e-6).astype(int) + 1
    # QM atoms that bond to images of each other have nothing to hold them in place: keep them apart.
    extent = np.ptp(q[qm[index]], axis=0)
    repeats = np.maximum(repeats, np.ceil(extent + IMAGE_GAP / frame.heights).astype(int))
    start = (low + high) / 2 - repeats / 2 - 1e-4
    if system.pbc.sum() == len(sites.lattice):
        size = abs(np.linalg.det(repeats[:, None] * frame.integer))
        if round(size) >= 0.9 * abs(np.linalg.det(sites.periods)):
            return AS_LARGE

    content = fill_box(system, frame, repeats, start)
    if isinstance(content, str):
        return content
    if content.folded:
        return (
            f"a box of {repeats.tolist()} cells around the qm and buffer atoms does not fit into the system"
        )

    # Defects near the faces would meet their images.
    depth = (frame.scaled(content.site_positions) - start) / repeats
    to_face = (np.minimum(depth, 1 - depth) * repeats * frame.heights).min(axis=1)
    near_face = to_face < 1.2 * crystal.nearest_neighbour_distance
    atom = content.occupants
    bad = np.where(atom >= 0, faulty[np.maximum(atom, 0)], True)
    if (bad & near_face).any():
        return "a defect lies at a face of the box around the qm and buffer atoms"
    chosen, offsets = content.index, content.offsets
    missing = np.setdiff1d(index, chosen)
    if len(missing):
        return f"atom {missing[0]} of the qm and buffer atoms is not inside the box"
    atoms = _bare(system)[chosen]
    box = content.vectors
    if len(box) == 3:
        atoms.set_cell(box, scale_atoms=False)
        atoms.pbc = True
    else:
        full = system.cell.array.copy()
        full[system.pbc] = box
        atoms.set_cell(full, scale_atoms=False)
        atoms.pbc = system.pbc
    atoms.positions[:] = system.positions[chosen] + offsets
    # The forces of the component alone are used, should the box hold qm atoms of another one.
    used = qm[chosen] & np.isin(chosen, index)
    return Cluster("periodic", chosen, used, atoms, offsets, system.positions[chosen].copy())


def perfect_cluster(cluster: Cluster, sites: LatticeSites, system: Atoms) -> tuple[Atoms, np.ndarray]:
    """The cluster on the perfect crystal: vacant sites filled, extra atoms left out; see `filled_cluster`."""
    atoms, index, _ = filled_cluster(cluster, sites, system)
    return atoms, index


def filled_cluster(
    cluster: Cluster, sites: LatticeSites, system: Atoms
) -> tuple[Atoms, np.ndarray, np.ndarray]:
    """The cluster on the perfect crystal: vacant sites filled, extra atoms left out.

    Parameters
    ----------
    cluster : Cluster
    sites : LatticeSites
    system : ase.Atoms
        The positions at which `cluster` was carved.

    Returns
    -------
    atoms : ase.Atoms
    index : ndarray of int, shape (m,)
        Number of each atom of `cluster` in it, -1 for atoms on no site.
    vacancies : ndarray of int, shape (v,)
        Vacant site of `sites` behind each of the last v atoms.
    """
    filled: list[int] = []
    basis = sites.basis[cluster.index]
    on_site = basis >= 0
    moved = sites.positions[cluster.index] - system.positions[cluster.index]
    anchors = unwrap(system.positions[cluster.index], cluster.anchors, system.cell.array, system.pbc)
    positions = (anchors + moved + cluster.offsets)[on_site]
    atoms = cluster.atoms[on_site]
    atoms.positions[:] = positions
    index = np.full(len(basis), -1)
    index[on_site] = np.arange(int(on_site.sum()))
    if not on_site.any():
        return atoms, index, np.zeros(0, dtype=int)

    # Vacant sites that more than half of their neighbours in the cluster surround. Images along a periodic
    # axis of the cluster are one site, and neighbours there may be images themselves.
    crystal = sites.crystal
    near = 1.2 * crystal.nearest_neighbour_distance
    # Atoms may stand many cells apart along such an axis.
    periodic, cell = cluster.atoms.pbc, cluster.atoms.cell.complete().array
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    reach = np.where(periodic, np.ceil(near / heights), 0).astype(int)
    copies = product(*(range(-n, n + 1) for n in reach))
    inside = wrap_positions(positions, cell, pbc=periodic)
    tree = cKDTree(np.concatenate([inside + np.array(c) @ cell for c in copies]))
    # System coordinates of the cluster's middle, up to the lattice translation in the first offset.
    centre = positions.mean(axis=0) - cluster.offsets[0]
    images, _ = images_near(system, sites.vacant_positions, centre, system.pbc & ~periodic)
    vacant = enumerate(zip(images + cluster.offsets[0], sites.vacant_basis, strict=True))
    for number, (candidates, b) in vacant:
        size = len(crystal.stencil(int(b), near))
        places = wrap_positions(candidates, cell, pbc=periodic)
        counts = np.array([len(found) for found in tree.query_ball_point(places, near)])
        for image in candidates[counts > size / 2]:
            atoms += Atoms(numbers=[crystal.numbers[b]], positions=[image])
            filled.append(number)
    return atoms, index, np.array(filled, dtype=int)
