"""Ghost forces of energy mixing, and the dead load that takes them away.

A sum of site energies of two models has forces at the interface even in the perfect crystal, where each model
alone has none. The corrected energy is

    E(y) + sum_l beta_l f_l . u_l,    f = -dE_H/dy at the reference,  u = y - reference,

QM/MM for crystalline defects, part 3, eqs (3.9), (3.10), with forces ``F_l - beta_l f_l``: none are left in
the reference, and the energy remains their potential. The reference is the perfect crystal (defect sites
filled) with the same clusters and weights. Where no one lattice runs through the structure it is the first
geometry, e.g. a predictor, whose forces are genuine: there f is the hybrid force less that of force mixing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce, wrap_positions
from scipy.spatial import cKDTree

from ..lattice_sites import LatticeSites
from ..neighbours import neighbour_pairs, unwrap
from .blending import smoothstep
from .carving import Cluster, filled_cluster, whole_cluster
from .children import Children, Request

__all__ = ["GhostLoad", "core_distance", "core_profile", "ghost_load"]

NOISE = 1e-9  # eV/Å; ghost forces below it are rounding


@dataclass(frozen=True)
class GhostLoad:
    """A dead load on n atoms.

    Attributes
    ----------
    forces : ndarray, shape (n, 3)
        ``beta f`` (eV/Å).
    reference : ndarray, shape (n, 3)
        Positions (Å) that displacements count from.
    on_crystal : bool
        Whether the reference is the perfect crystal.
    centred : ndarray of bool, shape (n,), optional
        Atoms whose mean displacement does not count, where the forces add to zero.
    """

    forces: np.ndarray
    reference: np.ndarray
    on_crystal: bool
    centred: np.ndarray | None = None

    @property
    def largest(self) -> float:
        """Largest ghost force on an atom, eV/Å."""
        return float(np.linalg.norm(self.forces, axis=1).max(initial=0.0))

    def deformed(self, gradient: np.ndarray) -> GhostLoad:
        """The same load about the reference after the homogeneous deformation `gradient` (3, 3)."""
        return replace(self, reference=self.reference @ gradient.T)

    def apply(self, atoms: Atoms) -> tuple[np.ndarray, np.ndarray]:
        """Energies (n,) of the load and its virial (3, 3) = -dE/dstrain, eV."""
        u = unwrap(atoms.positions, self.reference, atoms.cell.array, atoms.pbc) - self.reference
        if self.centred is not None:
            u -= u[self.centred].mean(axis=0)
        outer = self.forces.T @ u
        return np.einsum("nc,nc->n", self.forces, u), -(outer + outer.T) / 2


@dataclass(frozen=True)
class Hybrid:
    """What a ghost force is made of: clusters, their models and the weights (n,) of both models."""

    children: Children
    clusters: list[Cluster]
    qm_calcs: list[Any]
    mm: Any
    weights: np.ndarray
    mm_weights: np.ndarray
    sharp: bool


def ghost_load(
    hybrid: Hybrid,
    atoms: Atoms,
    sites: LatticeSites | None,
    centres: np.ndarray,
    smooth: bool,
    frozen: np.ndarray,
) -> GhostLoad:
    """Dead load of a hybrid energy.

    Parameters
    ----------
    hybrid : Hybrid
    atoms : ase.Atoms
        The structure that was carved; without `sites` the reference itself.
    sites : LatticeSites, optional
        Its place in the perfect crystal.
    centres : ndarray, shape (m, 3)
        Where the defects are (Å); beta vanishes around them.
    smooth : bool
        Kind of beta.
    frozen : ndarray of bool, shape (n,)
        Atoms without a load. Where there are none the forces of the load add to zero: a shift of all atoms
        does no work.
    """
    if sites is None:
        forces = _hybrid_forces(hybrid, atoms) - _mixed_forces(hybrid, atoms, frozen)
        reference = atoms.positions.copy()
    else:
        forces = _crystal_forces(hybrid, atoms, sites)
        reference = sites.positions
    beta = core_profile(atoms, hybrid.weights, centres, smooth)
    carries = np.ones(len(atoms), dtype=bool) if sites is None else sites.basis >= 0
    load = np.where(carries[:, None], beta[:, None] * forces, 0.0)
    if frozen.any():
        load[frozen] = 0.0
        return GhostLoad(load, reference.copy(), sites is not None)
    load[carries] -= load[carries].mean(axis=0)
    return GhostLoad(load, reference.copy(), sites is not None, carries)


def _crystal_forces(hybrid: Hybrid, atoms: Atoms, sites: LatticeSites) -> np.ndarray:
    """Hybrid forces (n, 3) on the perfect crystal, zero for atoms on no site."""
    forces = np.zeros((len(atoms), 3))
    requests, places = [], []
    for cluster, calc in zip(hybrid.clusters, hybrid.qm_calcs, strict=True):
        perfect, index, filled = filled_cluster(cluster, sites, atoms)
        if not len(perfect):
            continue
        on_site = index >= 0
        own = np.zeros(len(perfect))
        own[index[on_site]] = np.where(cluster.qm, hybrid.weights[cluster.index], 0.0)[on_site]
        own = _fill(perfect, own, len(filled), sites, 0.5 + 1e-9 if hybrid.sharp else None)
        requests.append(Request("qm", calc, perfect, weights=own, weighted=True))
        places.append((cluster.index[on_site], index[on_site]))
    for (target, source), answer in zip(places, hybrid.children.ask_all(requests), strict=True):
        np.add.at(forces, target, answer["result"].forces[source])

    whole = whole_cluster(atoms, np.ones(len(atoms), dtype=bool))
    perfect, index, filled = filled_cluster(whole, sites, atoms)
    on_site = index >= 0
    own = np.zeros(len(perfect))
    own[index[on_site]] = hybrid.mm_weights[on_site]
    own = _fill(perfect, own, len(filled), sites, 0.5 - 1e-9 if hybrid.sharp else None)
    if own.any():
        request = Request("mm", hybrid.mm, perfect, weights=own, weighted=True)
        forces[on_site] += hybrid.children.ask(request)["result"].forces[index[on_site]]
        if atoms.pbc.sum() < len(sites.lattice):
            # The crystal ends: forces of its surface are genuine.
            request = Request("mm", hybrid.mm, perfect, sites=own == 1)
            genuine = hybrid.children.ask(request)["forces"] * (own == 1)[:, None]
            forces[on_site] -= genuine[index[on_site]]
    return forces


def _fill(
    perfect: Atoms, weights: np.ndarray, n_filled: int, sites: LatticeSites, rounding: float | None
) -> np.ndarray:
    """`weights` with those of the last `n_filled` atoms, on vacant sites: the mean over their neighbours.

    With `rounding` the floor of mean plus `rounding`, a hair apart for the two models: ties add to one.
    """
    if not n_filled:
        return weights
    i, j = neighbour_pairs(perfect, 1.2 * sites.crystal.nearest_neighbour_distance, "ij")
    first = len(perfect) - n_filled
    pair = (i >= first) & (j < first)
    total = np.bincount(i[pair], weights[j[pair]], len(perfect))[first:]
    count = np.bincount(i[pair], minlength=len(perfect))[first:]
    mean = total / np.maximum(count, 1)
    out = weights.copy()
    out[first:] = mean if rounding is None else np.floor(mean + rounding)
    return out


def _hybrid_forces(hybrid: Hybrid, atoms: Atoms) -> np.ndarray:
    """Minus the gradient (n, 3) of the hybrid energy at `atoms`."""
    forces = np.zeros((len(atoms), 3))
    requests = [
        Request(
            "qm",
            calc,
            cluster.update(atoms).copy(),
            weights=np.where(cluster.qm, hybrid.weights[cluster.index], 0.0),
            weighted=True,
        )
        for cluster, calc in zip(hybrid.clusters, hybrid.qm_calcs, strict=True)
    ]
    for cluster, answer in zip(hybrid.clusters, hybrid.children.ask_all(requests), strict=True):
        np.add.at(forces, cluster.index, answer["result"].forces)
    if hybrid.mm_weights.any():
        request = Request("mm", hybrid.mm, atoms, weights=hybrid.mm_weights, weighted=True)
        forces += hybrid.children.ask(request)["result"].forces
    return forces


def _mixed_forces(hybrid: Hybrid, atoms: Atoms, frozen: np.ndarray) -> np.ndarray:
    """Forces (n, 3) of force mixing at `atoms`; those of each model on its own atoms are genuine.

    Frozen atoms, whose stencils may reach beyond the rim, have none.
    """
    forces = np.zeros((len(atoms), 3))
    requests = [
        Request("qm", calc, cluster.update(atoms).copy(), sites=cluster.qm)
        for cluster, calc in zip(hybrid.clusters, hybrid.qm_calcs, strict=True)
    ]
    w = hybrid.weights
    for cluster, answer in zip(hybrid.clusters, hybrid.children.ask_all(requests), strict=True):
        rows = cluster.index[cluster.qm]
        forces[rows] += w[rows, None] * answer["forces"][cluster.qm]
    asked = (hybrid.mm_weights > 0) & ~frozen
    if asked.any():
        answer = hybrid.children.ask(Request("mm", hybrid.mm, atoms, sites=asked))
        forces[asked] += (1 - w[asked])[:, None] * answer["forces"][asked]
    return forces


# -- beta ----------------------------------------------------------------------------------------------------


def core_distance(atoms: Atoms, centres: np.ndarray) -> np.ndarray:
    """Distance (n,) in Å of each atom from the nearest of `centres` (m, 3) or of their periodic images."""
    if not len(centres):
        return np.full(len(atoms), np.inf)
    if not atoms.pbc.any():
        distance: np.ndarray = cKDTree(centres).query(atoms.positions)[0]
        return distance
    cell = np.asarray(minkowski_reduce(atoms.cell.complete(), pbc=atoms.pbc)[0])
    steps = np.array(list(product(*[(-1, 0, 1) if p else (0,) for p in atoms.pbc]))) @ cell
    points = wrap_positions(centres, cell, pbc=atoms.pbc)
    tree = cKDTree((points[:, None] + steps[None]).reshape(-1, 3))
    wrapped: np.ndarray = tree.query(wrap_positions(atoms.positions, cell, pbc=atoms.pbc))[0]
    return wrapped


def core_profile(atoms: Atoms, weights: np.ndarray, centres: np.ndarray, smooth: bool) -> np.ndarray:
    """Values (n,) of beta: 0 within R/2 of a defect, 1 beyond; smooth: a quintic step from R/2 to R.

    R is the distance from the defects to the nearest atom that is not wholly quantum. Without a defect beta
    is one.
    """
    distance = core_distance(atoms, centres)
    radius = float(distance[weights < 1].min(initial=np.inf))
    if not np.isfinite(radius) or radius == 0:
        return np.ones(len(atoms))
    if smooth:
        return smoothstep(2 * distance / radius - 1)
    return (distance >= radius / 2).astype(float)
