"""Solver for a cluster inside a larger system that acts on it through a frozen self-energy.

The Green's function of the cluster ``G(z) = (z M - H - Sigma(z))^-1`` is that of the whole system in which
atoms of the cluster have moved and those outside stand where the reference has them. With the poles of
:mod:`ase_qmmm.tightbinding.poles`

    P = sum_q [rho_q G(z_q) + h.c.],    W = sum_q [z_q rho_q G(z_q) + h.c.],    F = -Tr(2 P dH - 2 W dM),

and for site energies with weights w and ``Q = (w M + M w) / 2``, gamma_q the residues of the grand potential,

    E_w = 2 Tr(Q P_g),    dE_w = 2 Tr(D_H dH) + 2 Tr(D_M dM),
    D_H = sum_q [gamma_q G Q G + h.c.],    D_M = -sum_q [z_q gamma_q G Q G + h.c.] + (w P_g + P_g w) / 2.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import compare_atoms, kpts2ndarray
from scipy.linalg import inv

from ..crystal import Crystal
from ..errors import NumericsError, check_positive, checked_keywords
from ..sites import SiteResult
from .embedded_cluster import EmbeddedCluster, embed, site_labels
from .hamiltonian import Hamiltonian
from .matrices import PatternDensity
from .poles import FermiPoles
from .self_energy import SelfEnergy
from .surroundings import ClusterMatrices

if TYPE_CHECKING:
    from .calculator import TightBinding

__all__ = ["Embedded"]

log = logging.getLogger(__name__)


class Embedded:
    """Frozen self-energy embedding, a solver for :class:`~ase_qmmm.TightBinding`.

    The atoms asked for and those within `buffer` of them are a cluster, treated exactly; the electrons of
    all others act through a self-energy computed once, with those atoms at the places that `reference`
    gives them. On-site terms feel the actual positions of all atoms. In the perfect crystal the result is
    that of the infinite crystal (up to `error`); elsewhere the error comes from displacements outside the
    cluster.

    Parameters
    ----------
    reference : Crystal or ase.Atoms
        A crystal: its Green's function is that of the infinite lattice, in the orientation and at the strain
        of the structure, which must be one lattice with point defects. Atoms, e.g. from a dislocation
        predictor: the surroundings are theirs, up to `depth`; the cell must be that of the structure.
    region : array_like of bool or int, optional
        Atoms whose site energies make up the energy where no weights are given.
    buffer : float, optional
        Width (Å) of the layer of exactly treated atoms around those asked for. At least the range of the
        Hamiltonian, which is the default; more makes the error smaller (docs/embedding.md).
    depth : float
        Width (Å) of the layer of atoms outside that makes the self-energy of a reference geometry.
    error : float
        Largest error of the occupations from the pole expansion, see :class:`FermiPoles`.
    cache : path, optional
        Folder in which self-energies are kept between runs.

    Notes
    -----
    Fixed chemical potential and ``energy="grand"`` only; no stress, as a strained cell has another
    self-energy. ``evaluate`` returns sums of site energies and their exact gradient, ``evaluate_sites`` (what
    force mixing uses) the Hellmann–Feynman forces of the whole system. The self-energy is kept while the same
    atoms are asked for; calls after the first cost a few inversions of complex matrices of the size of the
    cluster.

    References
    ----------
    Inglesfield, J. Phys. C 14, 3795 (1981), for embedding by a self-energy.
    """

    #: Results have no virial, and a calculator with this solver no stress.
    has_virial = False

    @checked_keywords
    def __init__(
        self,
        reference: Crystal | Atoms,
        *,
        region: Any = None,
        buffer: float | None = None,
        depth: float = 12.0,
        error: float = 1e-6,
        cache: str | Path | None = None,
    ) -> None:
        if not isinstance(reference, Crystal | Atoms):
            raise TypeError(f"reference: got {type(reference).__name__}, expected a Crystal or ase.Atoms")
        self.reference = reference if isinstance(reference, Crystal) else reference.copy()
        self.region = None if region is None else np.asarray(region)
        self.buffer = None if buffer is None else check_positive("buffer", buffer, "Å")
        self.depth = check_positive("depth", depth, "Å")
        self.error = check_positive("error", error)
        self.cache = None if cache is None else Path(cache)
        #: Self-energies in memory, by the hash of what they depend on.
        self.self_energies: dict[str, SelfEnergy] = {}
        #: Number of structures and sets of atoms of which the clusters are kept.
        self.keep = 8
        # With the model of each entry, so that its number in the key is not that of a later model.
        self._kept: dict[tuple[Any, ...], tuple[Hamiltonian, list[EmbeddedCluster]]] = {}
        self._labels: tuple[Atoms, Any] | None = None

    def __repr__(self) -> str:
        kind = repr(self.reference) if isinstance(self.reference, Crystal) else f"{len(self.reference)} atoms"
        buffer = "range of the model" if self.buffer is None else f"{self.buffer:g} Å"
        return f"Embedded({kind}, buffer={buffer}, error={self.error:g})"

    # -- clusters -------------------------------------------------------------------------------------------

    def clusters(self, calc: TightBinding, atoms: Atoms, sites: np.ndarray) -> list[EmbeddedCluster]:
        """Clusters around the atoms in the mask `sites`, made on the first call for them.

        Raises
        ------
        ValueError
            No chemical potential, another energy than "grand", a buffer below the range of the model.
        StructureError
            An atom of the cluster has no site in the reference, or the cluster meets its own image.
        """
        if sites.shape != (len(atoms),):
            raise ValueError(f"sites: got shape {sites.shape}, expected ({len(atoms)},): one flag per atom")
        if calc.mu is None:
            raise ValueError("mu: Embedded works at fixed chemical potential; give mu, e.g. from fermi_level")
        if calc.kind != "grand":
            raise ValueError(f"energy: Embedded needs 'grand', got {calc.kind!r}")
        buffer = calc.model.cutoff if self.buffer is None else self.buffer
        if buffer < calc.model.cutoff - 1e-9:
            raise ValueError(
                f"buffer: got {buffer:g} Å, expected at least the range of {calc.model.name}, "
                f"{calc.model.cutoff:.3f} Å: every coupling of the atoms asked for must lie in the cluster"
            )
        key = (
            id(calc.model),
            (calc.kT, calc.mu, buffer, self.depth, self.error),
            kpts2ndarray(calc.kpts, atoms).tobytes(),
            sites.tobytes(),
            atoms.numbers.tobytes(),
            atoms.cell.array.tobytes(),
            atoms.pbc.tobytes(),
        )
        _, clusters = self._kept.pop(key, (None, []))
        if not clusters or not all(c.holds(atoms) for c in clusters):
            clusters = embed(self, calc, atoms, sites, buffer)
            for c in clusters:
                log.info("%r", c)
        self._kept[key] = calc.model, clusters
        while len(self._kept) > self.keep:
            del self._kept[next(iter(self._kept))]
        return clusters

    def labels(self, atoms: Atoms) -> tuple[Atoms, Any]:
        """A copy of `atoms`, one for all clusters, and their lattice sites in the reference crystal.

        These are None where the reference is a geometry.
        """
        if self._labels is None or compare_atoms(self._labels[0], atoms):
            self._labels = (atoms.copy(), site_labels(self.reference, atoms))
        return self._labels

    # -- evaluation -----------------------------------------------------------------------------------------

    def evaluate(self, calc: TightBinding, atoms: Atoms, weights: np.ndarray | None) -> SiteResult:
        """Sum of weighted site energies (default: one each in `region`) and its exact gradient.

        The self-energy is constant: the gradient is that at frozen surroundings. There is no virial, as a
        strain would change the surroundings. Site energies of zero weight are left out.
        """
        if weights is None:
            if self.region is None:
                raise ValueError(
                    "region: Embedded was given none, so that there is no energy of the whole; give "
                    "region=, or weights, or use evaluate_sites"
                )
            weights = np.zeros(len(atoms))
            try:
                weights[self.region] = 1.0
            except IndexError as error:
                raise ValueError(
                    f"region: got {self.region.shape} entries that do not fit {len(atoms)} atoms: {error}"
                ) from None
        energies, forces = np.zeros(len(atoms)), np.zeros((len(atoms), 3))
        sites = weights != 0
        if sites.any():
            for cluster in self.clusters(calc, atoms, sites):
                mine = np.where(sites[cluster.index] & cluster.asked, weights[cluster.index], 0.0)
                for matrices, spin in cluster.matrices(calc, atoms, order=1):
                    d_h, d_m, p_g = _weighted(cluster, matrices, spin, mine)
                    cluster.scatter(matrices.all_forces(d_h, d_m), forces)
                    traces = matrices.site_traces(p_g)
                    energies[cluster.index[cluster.asked]] += traces[cluster.asked]
                if calc.model.repulsive:
                    e, f = cluster.repulsion(calc, atoms, mine)
                    cluster.scatter(f, forces)
                    energies[cluster.index[cluster.asked]] += e[: len(mine)][cluster.asked]
        return SiteResult(float(weights @ energies), energies, forces, None)

    def evaluate_sites(
        self, calc: TightBinding, atoms: Atoms, sites: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Site energies (n,) and Hellmann–Feynman forces (n, 3) of the whole system, on `sites` only."""
        energies, forces = np.zeros(len(atoms)), np.zeros((len(atoms), 3))
        if sites.any():
            for cluster in self.clusters(calc, atoms, sites):
                own = cluster.index[cluster.asked]
                for matrices, spin in cluster.matrices(calc, atoms, order=1):
                    d_h, d_m, p_g = _plain(cluster, matrices, spin)
                    f = matrices.all_forces(d_h, d_m)
                    forces[own] += f[: len(cluster.index)][cluster.asked]
                    energies[own] += matrices.site_traces(p_g)[cluster.asked]
                if calc.model.repulsive:
                    e, f = cluster.repulsion(calc, atoms)
                    energies[own] += e[: len(cluster.index)][cluster.asked]
                    forces[own] += f[: len(cluster.index)][cluster.asked]
        if not np.isfinite(forces).all():
            raise NumericsError(f"{self!r}: forces are not finite")
        return energies, forces


def _resolvents(cluster: EmbeddedCluster, matrices: ClusterMatrices, spin: int, n: int) -> Any:
    """``G(z_q)`` at the n-th k-point for each q, one after the other."""
    k = cluster.kpoints[n : n + 1]
    h, m = matrices.hamiltonian(k)[0], matrices.overlap(k)[0]
    for q, z in enumerate(cluster.poles.poles):
        a = z * m - h
        a[cluster.boundary_block] -= cluster.sigma[spin][n, q]
        # Through getri, which is a quarter faster than solving for the identity.
        yield q, inv(a, overwrite_a=True, check_finite=False), m


def _hermitian(x: np.ndarray) -> np.ndarray:
    out: np.ndarray = (x + x.conj().T)[None]
    return out


def _plain(
    cluster: EmbeddedCluster, matrices: ClusterMatrices, spin: int
) -> tuple[PatternDensity, PatternDensity, PatternDensity]:
    """``2 P``, ``-2 W`` and ``2 P_g`` on the pattern of the pairs."""
    poles: FermiPoles = cluster.poles
    d_h, d_m, p_g = matrices.pattern(), matrices.pattern(), matrices.pattern()
    for n, weight in enumerate(cluster.kweights):
        sums = np.zeros((3, matrices.size, matrices.size), dtype=complex)
        for q, green, _ in _resolvents(cluster, matrices, spin, n):
            z, rho = poles.poles[q], poles.occupation[q]
            for part, factor in enumerate((rho, -z * rho, poles.grand[q])):
                sums[part] += (2 * factor) * green
        k, w = cluster.kpoints[n : n + 1], np.array([weight])
        for target, total in zip((d_h, d_m, p_g), sums, strict=True):
            matrices.gather(target, _hermitian(total), k, w)
    return d_h, d_m, p_g


def _weighted(
    cluster: EmbeddedCluster, matrices: ClusterMatrices, spin: int, site_weights: np.ndarray
) -> tuple[PatternDensity, PatternDensity, PatternDensity]:
    """Twice D_H, D_M and P_g for the weights (m,) of the sites of the cluster."""
    poles: FermiPoles = cluster.poles
    d_h, d_m, p_g = matrices.pattern(), matrices.pattern(), matrices.pattern()
    weights = site_weights[matrices.atom_of_orbital]
    rows = np.flatnonzero(weights)
    for n, weight in enumerate(cluster.kweights):
        sums = np.zeros((3, matrices.size, matrices.size), dtype=complex)
        gamma = np.array_equal(cluster.kpoints[n], np.zeros(3))
        for q, green, m in _resolvents(cluster, matrices, spin, n):
            left = green[:, rows] * weights[rows]
            product = left @ (m[rows] @ green)
            if gamma:
                # H, M and Sigma are symmetric here, and so is G.
                product = (product + product.T) / 2
            else:
                product = (product + (green @ m[:, rows]) @ (weights[rows, None] * green[rows])) / 2
            factor = 2 * poles.grand[q]
            sums[0] += factor * product
            sums[1] -= (poles.poles[q] * factor) * product
            sums[2] += factor * green
        k, w = cluster.kpoints[n : n + 1], np.array([weight])
        for target, total in zip((d_h, d_m, p_g), sums, strict=True):
            matrices.gather(target, _hermitian(total), k, w)
    d_m.diagonal += weights * p_g.diagonal
    for b, (pairs, block) in enumerate(zip(matrices.groups, p_g.blocks, strict=True)):
        d_m.blocks[b] += block * ((site_weights[pairs.i] + site_weights[pairs.j]) / 2)[:, None, None]
    return d_h, d_m, p_g
