"""The cluster of an embedding: which atoms it holds, how they sit in the reference, its self-energy."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from ase import Atoms
from ase.calculators.calculator import kpts2ndarray

from ..components import connected_sets
from ..crystal import Crystal
from ..errors import StructureError
from ..files import write_atomically
from ..lattice_sites import lattice_sites
from ..neighbours import neighbour_pairs, unwrap
from .cluster_sites import crystal_sites, geometry_sites, near
from .fingerprint import model_fingerprint
from .hamiltonian import Hamiltonian
from .matrices import build_matrices
from .poles import FermiPoles, fermi_poles
from .repulsion import Repulsion
from .self_energy import Reference, SelfEnergy
from .spectrum import reduced_kpoints
from .surroundings import ClusterMatrices

if TYPE_CHECKING:
    from .calculator import TightBinding
    from .embedding import Embedded

__all__ = ["EmbeddedCluster", "embed", "site_labels"]

log = logging.getLogger(__name__)

FORMAT = "ase_qmmm-self-energy-1"


@dataclass
class EmbeddedCluster:
    """Atoms of one embedded cluster and what acts on them.

    Attributes
    ----------
    index : ndarray of int, shape (m,)
        Atoms of the system that make up the cluster.
    asked : ndarray of bool, shape (m,)
        Those asked for; the others are buffer.
    passive : ndarray of int, shape (p,)
        Atoms outside that the on-site terms of the cluster feel.
    anchors : ndarray, shape (n, 3)
        Positions (Å) of all atoms of the system when the cluster was made.
    limits : ndarray, shape (n,)
        How far (Å) each of them may be from there before others might come into range.
    kpoints, kweights : ndarray, shapes (k, 3), (k,)
        Scaled k-points along axes along which the cluster is periodic; the weights sum to one over all
        spins.
    poles : FermiPoles
    sigma : list of ndarray, shape (k, q, b, b)
        Self-energy (eV) of each spin on the orbitals of the boundary.
    change : float
        Change (eV) of the self-energy with the last refinement of its k-grid.
    """

    index: np.ndarray
    asked: np.ndarray
    passive: np.ndarray
    anchors: np.ndarray
    limits: np.ndarray
    offsets: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    kpoints: np.ndarray
    kweights: np.ndarray
    poles: FermiPoles
    sigma: list[np.ndarray]
    change: float
    boundary_block: tuple[np.ndarray, ...]

    def __repr__(self) -> str:
        return (
            f"EmbeddedCluster({len(self.index)} atoms, {int(self.asked.sum())} asked for, "
            f"{len(self.kpoints)} k-points, {len(self.poles.poles)} poles with error {self.poles.error:.1e}, "
            f"self-energy to {self.change:.1e} eV)"
        )

    def holds(self, atoms: Atoms) -> bool:
        """Whether no atom has moved so far that others might have come into range."""
        moved = unwrap(atoms.positions, self.anchors, atoms.cell.array, atoms.pbc) - self.anchors
        return bool((np.einsum("nc,nc->n", moved, moved) < self.limits**2).all())

    def _structure(self, atoms: Atoms) -> Atoms:
        """Cluster and passive atoms at the positions of `atoms`."""
        everyone = np.concatenate([self.index, self.passive])
        positions = unwrap(atoms.positions[everyone], self.anchors[everyone], atoms.cell.array, atoms.pbc)
        return Atoms(
            numbers=atoms.numbers[everyone],
            positions=positions + self.offsets,
            cell=self.cell,
            pbc=self.pbc,
        )

    def repulsion(
        self, calc: TightBinding, atoms: Atoms, weights: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Repulsive site energies (m + p,) and forces (m + p, 3), right on the atoms asked for.

        `weights` (m,) of the sites of the cluster; default one for each of them and the passive ones.
        """
        repulsion = Repulsion(build_matrices(calc.model, self._structure(atoms), order=1))
        everywhere = None if weights is None else np.concatenate([weights, np.zeros(len(self.passive))])
        return repulsion.energies, repulsion.forces_and_virial(everywhere)[0]

    def matrices(self, calc: TightBinding, atoms: Atoms, order: int) -> Iterator[tuple[ClusterMatrices, int]]:
        """Matrices of the cluster at the positions of `atoms`, for each spin."""
        sub = self._structure(atoms)
        for spin in range(calc.model.n_spin):
            yield ClusterMatrices(calc.model, sub, len(self.index), order, spin), spin

    def scatter(self, values: np.ndarray, target: np.ndarray) -> None:
        """Add the values (m + p, 3) of cluster and passive atoms to those of the system (n, 3)."""
        np.add.at(target, np.concatenate([self.index, self.passive]), values)


# Atoms of a cluster and near it may move by this (Å) before its surroundings are looked for again. Those
# farther away may move by as much more as they are farther away, and by no more than this (Å) in all.
SKIN = 0.5
DRIFT = 2.5


def embed(
    solver: Embedded, calc: TightBinding, atoms: Atoms, sites: np.ndarray, buffer: float
) -> list[EmbeddedCluster]:
    """Clusters around the atoms of the mask `sites`, with their self-energies."""
    known, labels = solver.labels(atoms)
    i, j, S = neighbour_pairs(atoms, buffer if labels is None else calc.model.cutoff, "ijS")
    if labels is not None:
        # By the distances of lattice sites, so that translated clusters have the same shape however their
        # atoms are displaced; couplings go by those of the atoms.
        ideal = Atoms(numbers=atoms.numbers, positions=labels.positions, cell=atoms.cell, pbc=atoms.pbc)
        pairs = neighbour_pairs(ideal, buffer + 1e-3, "ijS")
        i, j, S = (np.concatenate(both) for both in zip((i, j, S), pairs, strict=True))
    from_sites = sites[i]
    i, j, S = i[from_sites], j[from_sites], S[from_sites]
    clusters = []
    for own, shifts, wrapped in connected_sets(atoms, np.flatnonzero(sites), buffer):
        piece = _with_buffer(len(atoms), own, shifts, wrapped & atoms.pbc, (i, j, S))
        clusters.append(_embed_one(solver, calc, known, own, piece, labels))
    return clusters


def _with_buffer(
    n: int,
    own: np.ndarray,
    shifts: np.ndarray,
    wrapped: np.ndarray,
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atoms asked for and their neighbours, their images (m, 3), and the axes along which images meet."""
    place = np.full(n, -1)
    place[own] = np.arange(len(own))
    i, j, S = pairs
    mine = place[i] >= 0
    index = np.concatenate([own, j[mine]])
    target = np.concatenate([shifts, shifts[place[i[mine]]] + S[mine]])
    while True:
        keys = np.unique(np.column_stack([index, np.where(wrapped, 0, target)]), axis=0)
        twice = np.flatnonzero(keys[1:, 0] == keys[:-1, 0])
        if not len(twice):
            return keys[:, 0], keys[:, 1:], wrapped
        # Two images of one atom: the cluster is periodic along the axes between them.
        wrapped = wrapped | (keys[twice + 1, 1:] != keys[twice, 1:]).any(axis=0)


def site_labels(reference: Crystal | Atoms, atoms: Atoms) -> Any:
    """Lattice sites of all atoms in a reference crystal; of a reference geometry only the cell is checked."""
    if isinstance(reference, Crystal):
        match = reference.match(atoms, 1.2 * reference.nearest_neighbour_distance)
        found = lattice_sites(match, atoms)
        if found is None:
            raise StructureError(
                f"reference: the atoms are not one lattice of {reference!r} with point defects; for a "
                "dislocation give the atoms of its predictor as reference"
            )
        return found
    if not np.array_equal(reference.pbc, atoms.pbc) or not np.allclose(
        reference.cell.array[reference.pbc], atoms.cell.array[atoms.pbc], atol=1e-6
    ):
        raise StructureError(
            "reference: its periodic cell differs from that of the atoms; give one in the same cell"
        )
    return None


def _embed_one(
    solver: Embedded,
    calc: TightBinding,
    atoms: Atoms,
    own: np.ndarray,
    piece: tuple[np.ndarray, np.ndarray, np.ndarray],
    labels: Any,
) -> EmbeddedCluster:
    index, shifts, wrapped = piece
    placed = atoms.positions[index] + shifts @ atoms.cell.array
    reach = calc.model.cutoff + SKIN
    others, other_offsets, distance = near(atoms, index, shifts, wrapped, reach + DRIFT)
    close = distance < reach + SKIN
    passive, passive_offsets = others[close], other_offsets[close]
    limits = np.full(len(atoms), DRIFT)
    np.minimum.at(limits, others, distance - reach)
    limits[index] = limits[passive] = SKIN
    offsets = np.concatenate([shifts @ atoms.cell.array, passive_offsets])
    sub = Atoms(numbers=atoms.numbers[index], positions=placed, cell=atoms.cell, pbc=wrapped)
    # The points of the calculator, projected on the axes along which the cluster is periodic.
    kpoints, kweights = reduced_kpoints(kpts2ndarray(calc.kpts, atoms) * wrapped, sub)
    if isinstance(solver.reference, Crystal):
        reference, filled = crystal_sites(atoms, index, placed, wrapped, labels, calc.model.cutoff)
    else:
        reference, filled = geometry_sites(solver, atoms, index, placed, wrapped, calc.model.cutoff)
    bounds = [reference.bounds(calc.model, spin) for spin in range(calc.model.n_spin)]
    low, high = min(b[0] for b in bounds), max(b[1] for b in bounds)
    margin = 0.2 * (high - low)
    assert calc.mu is not None
    # Displacements widen the spectrum; unoccupied levels rise steeply where atoms approach each other.
    poles = fermi_poles(low - margin, high + 5 * margin, calc.mu, calc.kT, solver.error)
    found = _self_energies(solver, calc, reference, poles.poles, kpoints)
    kept, rows = _boundary_rows(calc.model, found[0].boundary, reference.numbers, filled, sub.numbers)
    # A copy only where rows are dropped: blocks of a larger system share what they can.
    same = len(kept) == found[0].values.shape[-1]
    sigma = [x.values if same else x.values[:, :, kept[:, None], kept] for x in found]
    return EmbeddedCluster(
        index=index,
        asked=np.isin(index, own),
        passive=passive,
        anchors=atoms.positions,
        limits=limits,
        offsets=offsets,
        cell=atoms.cell.array.copy(),
        pbc=wrapped,
        kpoints=kpoints,
        kweights=kweights / calc.model.n_spin,
        poles=poles,
        sigma=sigma,
        change=max(x.change for x in found),
        boundary_block=np.ix_(rows, rows),
    )


def _boundary_rows(
    model: Hamiltonian, boundary: np.ndarray, sites: np.ndarray, filled: np.ndarray, numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which orbitals of the self-energy belong to atoms, and the orbitals of the cluster that these are.

    Those of vacant sites are dropped: nothing couples through them.

    Parameters
    ----------
    model : Hamiltonian
    boundary : ndarray of bool, shape (s,)
        Sites that have a self-energy.
    sites : ndarray of int, shape (s,)
        Atomic numbers that belong on the sites.
    filled : ndarray of int, shape (s,)
        Atom of the cluster on each site, -1 for none.
    numbers : ndarray of int, shape (m,)
        Atomic numbers of the cluster.
    """
    of_species = np.array([sum(2 * l + 1 for l in shells) for shells in model.shells])

    def sizes(z: np.ndarray) -> np.ndarray:
        out: np.ndarray = of_species[np.argmax(z[:, None] == model.numbers, axis=1)]
        return out

    of_site, of_atom = sizes(sites[boundary]), sizes(numbers)
    start, first = (np.cumsum(x) - x for x in (of_site, of_atom))
    atoms = filled[boundary]
    there = np.flatnonzero(atoms >= 0)
    kept = [start[k] + np.arange(of_site[k]) for k in there]
    rows = [first[a] + np.arange(of_atom[a]) for a in atoms[there]]
    return np.concatenate(kept), np.concatenate(rows)


def _self_energies(
    solver: Embedded, calc: TightBinding, reference: Reference, energies: np.ndarray, kpoints: np.ndarray
) -> list[SelfEnergy]:
    """Self-energy of each spin, from the solver's memory or folder, or computed and kept there."""
    shared = hashlib.sha256(f"{FORMAT} {model_fingerprint(calc.model)} {solver.depth}".encode())
    for array in (*reference.key(), energies, kpoints):
        shared.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    out = []
    for spin in range(calc.model.n_spin):
        digest = shared.copy()
        digest.update(bytes([spin]))
        name = digest.hexdigest()
        found = solver.self_energies.get(name)
        if found is None:
            path = None if solver.cache is None else solver.cache / f"{name}.npz"
            found = _load(path) if path is not None else None
            if found is None:
                found = reference.self_energy(calc.model, spin, energies, kpoints)
                if path is not None:
                    _save(path, found)
            solver.self_energies[name] = found
            while len(solver.self_energies) > solver.keep:
                del solver.self_energies[next(iter(solver.self_energies))]
        out.append(found)
    return out


def _load(path: Path) -> SelfEnergy | None:
    try:
        # Opened here: NumPy leaves the file open where it is cut short.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
            if str(data["format"]) != FORMAT:
                return None
            return SelfEnergy(data["boundary"], data["values"], float(data["change"]))
    except FileNotFoundError:
        return None
    except (BadZipFile, KeyError, ValueError, EOFError, OSError) as error:
        log.warning("self-energy file %s cannot be read (%s): computed again", path, error)
        return None


def _save(path: Path, found: SelfEnergy) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)

    def write(temporary: Path) -> None:
        np.savez(temporary, format=FORMAT, boundary=found.boundary, values=found.values, change=found.change)

    write_atomically(path, write)
