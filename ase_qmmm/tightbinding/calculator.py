"""TightBinding: the quantum model as an ASE calculator with exact weighted site energies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from ..crystal import Crystal
from ..errors import NumericsError, check_positive, check_structure, checked_keywords
from ..sites import SiteCalculator, SiteResult, check_weights
from ..taylor.force_constants import ForceConstants, stencil_hessian
from .functionals import LevelFunctional, divided_differences, spectral_product
from .matrices import Matrices, PatternDensity, build_matrices
from .nrl import NRLModel
from .response import force_response, plain_gradient
from .spectrum import States, eigenstates, entropy, fermi, fermi_slopes, find_mu, reduced_kpoints

if TYPE_CHECKING:
    from .divide_and_conquer import DivideAndConquer

__all__ = ["TightBinding", "fermi_level"]

# Sampled length (Å) per direction, cell height times number of k-points: at 50 Å the lattice constant of
# NRL silicon is converged to 3e-7 Å; a carved box of 20 Å or more needs Gamma only (docs/accuracy.md).
CRYSTAL_LENGTH = 50.0
CLUSTER_LENGTH = 20.0
RESPONSE_LENGTH = 30.0


class TightBinding(SiteCalculator):
    """Total-energy tight binding with site energies that feed QM/MM mixing.

    Levels solve ``H C = M C eps`` at each k-point; each holds two electrons with a Fermi–Dirac occupation f.
    The energy is ``sum_s g(eps_s)``, its Mulliken partition the site energy
    ``E_l = sum_s g(eps_s) sum_{a in l} Re[conj(C_as) (M C)_as]`` [1]_. Weighted sums of site energies come
    with their exact gradient, in every ensemble and at every k-point.

    Parameters
    ----------
    model : str
        Parameter set, e.g. ``"nrl-Si-sp"``; see :func:`ase_qmmm.tightbinding.model_names`.
    kT : float
        Electronic temperature (eV).
    mu : float, optional
        Chemical potential (eV). Without it the system is neutral (fixed number of electrons).
    kpts : sequence or dict
        Whatever ``ase.calculators.calculator.kpts2ndarray`` takes: a Monkhorst–Pack grid, a density, or
        scaled k-points. Only one of k and -k is solved, in real arithmetic where they are equivalent.
    energy : {"free", "grand", "band"}, optional
        Level functional; default ``"free"`` at fixed number and ``"grand"`` at fixed mu. ``"free"`` reports
        the Helmholtz free energy as ``free_energy`` and its extrapolation to kT = 0 as ``energy``.
    cutoff_form : {"smooth", "original"}
        How the Hamiltonian ends at its range; see :class:`~ase_qmmm.tightbinding.NRLModel`.
    solver : {"dense"} or DivideAndConquer
        LAPACK on dense matrices, or block by block at a cost linear in the number of atoms (energies, forces
        and stress at fixed `mu`; levels, charges and the response of forces are dense with any solver).

    Raises
    ------
    ValueError, TypeError
        Unknown model, keyword or option; kT not positive.
    StructureError, NumericsError
        On evaluation: elements without parameters, atoms too close, an overlap matrix that is not positive.

    References
    ----------
    .. [1] H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), QM/MM methods for crystalline
       defects, part 2, eqs. (9), (12); for the non-orthogonal case part 3, appendix D.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase_qmmm import TightBinding
    >>> atoms = bulk("Si", a=5.4264)
    >>> atoms.calc = TightBinding("nrl-Si-sp", kT=0.1, kpts=(8, 8, 8))
    >>> round(atoms.get_potential_energy() / 2, 3)
    1.048
    """

    @checked_keywords
    def __init__(
        self,
        model: str = "nrl-Si-sp",
        *,
        kT: float = 0.1,
        mu: float | None = None,
        kpts: Any = (1, 1, 1),
        energy: str | None = None,
        cutoff_form: str = "smooth",
        solver: str | DivideAndConquer = "dense",
    ) -> None:
        super().__init__()
        self.model = NRLModel(model, cutoff_form)
        self.kT = check_positive("kT", kT, "eV")
        if mu is not None and not np.isfinite(mu):
            raise ValueError(f"mu: got {mu!r}, expected a finite number (eV) or None")
        self.mu = None if mu is None else float(mu)
        if energy not in (None, "free", "grand", "band"):
            raise ValueError(f"energy: got {energy!r}, expected 'free', 'grand' or 'band'")
        if solver != "dense" and (isinstance(solver, str) or not callable(getattr(solver, "evaluate", None))):
            raise ValueError(f"solver: got {solver!r}, expected 'dense' or a DivideAndConquer")
        self.kind = energy or ("free" if mu is None else "grand")
        if self.kind == "grand" and mu is None:
            raise ValueError("energy: 'grand' needs a chemical potential, give mu (eV)")
        self.kpts = kpts
        self.solver = solver
        #: What the solver keeps from one evaluation to the next.
        self.solver_state: Any = None
        #: Chemical potential (eV) of the last evaluation.
        self.last_mu: float | None = self.mu

    def __repr__(self) -> str:
        ensemble = "neutral" if self.mu is None else f"mu={self.mu:.6f} eV"
        return (
            f"TightBinding({self.model.name!r}, kT={self.kT:g} eV, {ensemble}, kpts={self.kpts}, "
            f"energy={self.kind!r}" + ("" if self.solver == "dense" else f", solver={self.solver!r}") + ")"
        )

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Range of the Hamiltonian (Å); site energies depend on more distant atoms exponentially little."""
        return self.model.cutoff

    def with_options(self, **changes: Any) -> TightBinding:
        """Return a new calculator with some arguments changed, e.g. ``with_options(mu=5.8)``."""
        options: dict[str, Any] = {
            "kT": self.kT,
            "mu": self.mu,
            "kpts": self.kpts,
            "energy": self.kind,
            "cutoff_form": self.model.cutoff_form,
            "solver": self.solver,
        }
        if "mu" in changes and "energy" not in changes and (changes["mu"] is None) != (self.mu is None):
            options["energy"] = None if self.kind != "band" else "band"
        options.update(changes)
        return TightBinding(self.model.name, **options)

    def for_crystal(self, unit_cell: Atoms) -> TightBinding:
        """Same model with k-points that converge the bulk crystal (a sampled length of 50 Å or `kpts`)."""
        grid = np.maximum(k_grid(unit_cell, CRYSTAL_LENGTH), self._own_grid(unit_cell))
        return self.with_options(kpts={"size": tuple(int(n) for n in grid), "gamma": True})

    def _own_grid(self, atoms: Atoms) -> np.ndarray:
        """Grid implied by a k-point density given as a dict (a plain grid belongs to the user's own cell)."""
        if isinstance(self.kpts, dict) and "density" in self.kpts:
            return k_grid(atoms, 2 * np.pi * float(self.kpts["density"]))
        return np.ones(3, int)

    def for_cluster(self, cluster: Atoms, system: Atoms, crystal: Crystal | None = None) -> TightBinding:
        """Calculator for a cluster carved from `system`: sampled as densely, at the crystal's Fermi level.

        A carved cluster exchanges electrons with the crystal around it, so that a calculator without `mu`
        gets that of `crystal`, where one is known.
        """
        length = CLUSTER_LENGTH
        if not isinstance(self.kpts, dict) and np.shape(self.kpts) == (3,):
            grid = np.asarray(self.kpts, dtype=float)
            sampled = (grid * cell_heights(system))[(grid > 1) & system.pbc]
            length = max(length, sampled.max(initial=0.0))
        grid = np.maximum(k_grid(cluster, length), self._own_grid(cluster))
        options: dict[str, Any] = {"kpts": {"size": tuple(int(n) for n in grid), "gamma": True}}
        if self.mu is None and crystal is not None:
            options |= {"mu": fermi_level(self, crystal), "energy": "grand"}
        return self.with_options(**options)

    # -- evaluation ------------------------------------------------------------------------------------

    def _solve(self, matrices: Matrices, atoms: Atoms) -> tuple[list[States], LevelFunctional]:
        states = eigenstates(matrices, *reduced_kpoints(self.kpts, atoms))
        mu = self.mu if self.mu is not None else find_mu(states, matrices.n_electrons, self.kT)
        self.last_mu = mu
        theta = 0.0
        if self.kind == "band" and self.mu is None:
            slopes = [s.weights[:, None] * fermi_slopes(s.levels, mu, self.kT)[0] for s in states]
            total = sum(slope.sum() for slope in slopes)
            moment = sum((slope * s.levels).sum() for slope, s in zip(slopes, states, strict=True))
            theta = float(moment / total) if abs(total) > 1e-200 else mu
        return states, LevelFunctional(self.kind, mu, self.kT, self.mu is None, theta)

    def evaluate(self, atoms: Atoms, weights: np.ndarray | None = None) -> SiteResult:
        """Weighted site energies and their exact gradient; see :class:`SiteCalculator`."""
        if not isinstance(self.solver, str):
            return self.solver.evaluate(self, atoms, weights)
        check_structure(atoms)
        site_weights = check_weights(weights, len(atoms))
        if len(atoms) == 0:
            return SiteResult(0.0, np.zeros(0), np.zeros((0, 3)), np.zeros((3, 3)))
        matrices = build_matrices(self.model, atoms, order=1)
        states, functional = self._solve(matrices, atoms)
        if site_weights is None:
            d_h, d_m = plain_gradient(matrices, states, functional)
            energies, entropic = self._site_energies(matrices, states, functional, d_h, d_m)
            energy = float(energies.sum())
        else:
            d_h, d_m, values = self._weighted_gradient(matrices, states, functional, site_weights)
            energies, entropic = matrices.site_traces(values), self._site_heat(matrices, states, functional)
            energy = float(site_weights @ energies)
        forces, virial = matrices.forces_and_virial(matrices.pair_gradients(d_h, d_m))
        if not np.isfinite(energy) or not np.isfinite(forces).all():
            raise NumericsError(f"{self!r}: energy or forces are not finite")
        cold = energies + entropic / 2 if self.kind == "free" and self.mu is None else None
        return SiteResult(energy, energies, forces, virial, cold)

    def _site_energies(
        self,
        matrices: Matrices,
        states: list[States],
        functional: LevelFunctional,
        d_h: PatternDensity,
        d_m: PatternDensity,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Site energies (n,) of the functional and kT times site entropies (n,), eV."""
        heat = self._site_heat(matrices, states, functional)
        if functional.variational:
            # D_H and -D_M are the density matrix and its energy-weighted version: no further product needed.
            energies = -matrices.site_traces(d_m) - heat
            if functional.kind == "grand":
                energies -= functional.mu * matrices.site_traces(d_h)
            return energies, heat
        values = matrices.pattern()
        for s in states:
            matrices.gather(values, spectral_product(s, functional.values(s.levels)), s.kpoints, s.weights)
        return matrices.site_traces(values), heat

    @staticmethod
    def _site_heat(matrices: Matrices, states: list[States], functional: LevelFunctional) -> np.ndarray:
        """Product of kT and the site entropies (n,), eV; zero for the band energy, which has none."""
        heat = matrices.pattern()
        if functional.kind != "band":
            for s in states:
                # Only levels near mu carry entropy, so that this product is small.
                factors = 2 * functional.kT * entropy(s.levels, functional.mu, functional.kT)
                matrices.gather(heat, spectral_product(s, factors), s.kpoints, s.weights)
        return matrices.site_traces(heat)

    @staticmethod
    def _weighted_gradient(
        matrices: Matrices, states: list[States], functional: LevelFunctional, site_weights: np.ndarray
    ) -> tuple[PatternDensity, PatternDensity, PatternDensity]:
        """``D_H``, ``D_M`` and ``P = C g C^H`` for given site weights."""
        d_h, d_m, p = matrices.pattern(), matrices.pattern(), matrices.pattern()
        orbital_weights = site_weights[matrices.atom_of_orbital]
        rows = np.flatnonzero(orbital_weights)
        mu_slope, number_slope = 0.0, 0.0
        for s in states:
            c, adjoint = s.vectors, s.vectors.conj().swapaxes(1, 2)
            g = functional.values(s.levels)
            g_eps, g_mu = functional.slopes(s.levels)
            mc = matrices.overlap(s.kpoints)[:, rows] @ c
            half = adjoint[:, :, rows] @ (orbital_weights[rows, None] * mc)
            q = (half + half.conj().swapaxes(1, 2)) / 2
            mu_slope += float(s.weights @ (np.diagonal(q, axis1=1, axis2=2).real * g_mu).sum(axis=1))
            f1 = fermi_slopes(s.levels, functional.mu, functional.kT)[0]
            number_slope += float(s.weights @ f1.sum(axis=1))
            difference = divided_differences(s.levels, g, g_eps, functional.kT)
            matrices.gather(d_h, c @ (q * difference) @ adjoint, s.kpoints, s.weights)
            difference = divided_differences(s.levels, s.levels * g, g + s.levels * g_eps, functional.kT)
            matrices.gather(d_m, -c @ (q * difference) @ adjoint, s.kpoints, s.weights)
            matrices.gather(p, spectral_product(s, g), s.kpoints, s.weights)
        d_m.diagonal += orbital_weights * p.diagonal
        for k, (pairs, block) in enumerate(zip(matrices.groups, p.blocks, strict=True)):
            mean = (site_weights[pairs.i] + site_weights[pairs.j]) / 2
            d_m.blocks[k] += block * mean[:, None, None]
        if functional.fixed_number and abs(number_slope) > 1e-200:
            # The number of electrons is fixed: d mu = sum f' d eps / sum f'.
            for s in states:
                factors = mu_slope / number_slope * fermi_slopes(s.levels, functional.mu, functional.kT)[0]
                matrices.gather(d_h, spectral_product(s, factors), s.kpoints, s.weights)
                matrices.gather(d_m, spectral_product(s, -factors * s.levels), s.kpoints, s.weights)
        return d_h, d_m, p

    # -- derivatives at the crystal ------------------------------------------------------------------------

    def force_response(
        self, atoms: Atoms, displacements: np.ndarray, *, progress: bool = False
    ) -> np.ndarray:
        """Exact first-order change of the forces under displacements, at fixed chemical potential.

        Parameters
        ----------
        atoms : ase.Atoms
        displacements : ndarray, shape (m, n, 3)
            Directions (Å).
        progress : bool
            Show a progress bar.

        Returns
        -------
        ndarray, shape (m, n, 3)
            eV/Å: the negative Hessian times each direction.

        Raises
        ------
        ValueError
            Without `mu`: a local displacement in an infinite crystal leaves mu alone, a small cell does not.
        """
        directions = np.asarray(displacements, dtype=float)
        if directions.ndim != 3 or directions.shape[1:] != (len(atoms), 3):
            raise ValueError(f"displacements: got shape {directions.shape}, expected (m, {len(atoms)}, 3)")
        if self.mu is None:
            raise ValueError(
                "mu: the force response is at fixed chemical potential; use with_options(mu=...)"
            )
        check_structure(atoms)
        matrices = build_matrices(self.model, atoms, order=2)
        states, functional = self._solve(matrices, atoms)
        return force_response(matrices, states, functional, directions, progress=progress)

    def force_constants(self, crystal: Crystal, cutoff: float, *, progress: bool = False) -> ForceConstants:
        """Exact second derivatives of the energy at the infinite crystal within `cutoff` (Å).

        From first-order perturbation theory in a supercell that holds the stencils, with k-points that sample
        30 Å along each direction, at the crystal's Fermi level unless `mu` was given. Energies of the
        sites are grand potentials then.
        """
        bulk = self.for_crystal(crystal.unit_cell)
        if bulk.mu is None:
            bulk = bulk.with_options(mu=fermi_level(self, crystal), energy="grand")

        def force_changes(supercell: Atoms, displaced: list[int]) -> np.ndarray:
            grid = np.maximum(k_grid(supercell, RESPONSE_LENGTH), self._own_grid(supercell))
            calc = bulk.with_options(kpts={"size": tuple(int(n) for n in grid), "gamma": True})
            directions = np.zeros((len(displaced), 3, len(supercell), 3))
            for a, atom in enumerate(displaced):
                directions[a, :, atom] = np.eye(3)
            change = calc.force_response(
                supercell, directions.reshape(-1, len(supercell), 3), progress=progress
            )
            return change.reshape(directions.shape)

        matrices = stencil_hessian(crystal, cutoff, force_changes)
        energies = bulk.evaluate(crystal.unit_cell).energies
        return ForceConstants(crystal, cutoff, matrices, energies, repr(bulk))

    # -- spectra -----------------------------------------------------------------------------------------

    def eigenvalues(self, atoms: Atoms, kpts: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Levels (n_k, N) in eV, ascending, and the weights (n_k,) of the k-points.

        Parameters
        ----------
        atoms : ase.Atoms
        kpts : optional
            Default: those of the calculator. k and -k are reduced to one.
        """
        states = self._states(atoms, kpts)
        return np.concatenate([s.levels for s in states]), np.concatenate([s.weights for s in states])

    def _states(self, atoms: Atoms, kpts: Any = None) -> list[States]:
        check_structure(atoms)
        matrices = build_matrices(self.model, atoms, order=0)
        return eigenstates(matrices, *reduced_kpoints(self.kpts if kpts is None else kpts, atoms))

    def charges(self, atoms: Atoms) -> np.ndarray:
        """Mulliken electron number of each atom (n,)."""
        matrices = build_matrices(self.model, atoms, order=0)
        states, functional = self._solve(matrices, atoms)
        density = matrices.pattern()
        for s in states:
            factors = 2 * fermi(s.levels, functional.mu, functional.kT)
            matrices.gather(density, spectral_product(s, factors), s.kpoints, s.weights)
        return matrices.site_traces(density)


def cell_heights(atoms: Atoms) -> np.ndarray:
    """Distances (Å) between opposite faces of the periodic cell; infinite along open directions."""
    heights = np.full(3, np.inf)
    periodic = atoms.cell.array[atoms.pbc]
    if len(periodic):
        heights[atoms.pbc] = 1 / np.linalg.norm(np.linalg.pinv(periodic), axis=0)
    return heights


def k_grid(atoms: Atoms, length: float) -> np.ndarray:
    """Smallest grid (3,) that samples `length` Å along each periodic direction."""
    # 1 % short of the length is close enough, so that equal directions do not differ by rounding.
    return np.maximum(1, np.ceil(length / cell_heights(atoms) - 0.01)).astype(int)


def fermi_level(
    model: TightBinding | str, crystal: Crystal | Atoms, kpts: Any = None, kT: float | None = None
) -> float:
    """Chemical potential (eV) at which the perfect crystal is neutral.

    Parameters
    ----------
    model : TightBinding or str
        Calculator, or the name of a model.
    crystal : Crystal or ase.Atoms
        The reference crystal, or its unit cell.
    kpts : optional
        Default: converged for the bulk crystal.
    kT : float, optional
        eV; default that of the calculator (0.1 for a name).
    """
    calc = TightBinding(model) if isinstance(model, str) else model
    cell = crystal.unit_cell if isinstance(crystal, Crystal) else crystal
    if kT is not None:
        calc = calc.with_options(kT=kT)
    calc = calc.with_options(mu=None).for_crystal(cell)
    if kpts is not None:
        calc = calc.with_options(kpts=kpts)
    n_electrons = build_matrices(calc.model, cell, order=0).n_electrons
    return find_mu(calc._states(cell), n_electrons, calc.kT)
