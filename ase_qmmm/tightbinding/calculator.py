"""TightBinding: the quantum model as an ASE calculator with exact weighted site energies."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from ..crystal import Crystal
from ..errors import NumericsError, StructureError, check_positive, check_structure, checked_keywords
from ..sites import SiteCalculator, SiteResult, check_weights
from ..taylor.cauchy_born import CauchyBornDerivatives
from ..taylor.crystal_derivatives import CrystalDerivatives
from ..taylor.force_constants import ForceConstants, stencil_hessian
from ..taylor.site_series import SiteSeries
from . import dense
from .hamiltonian import Hamiltonian
from .matrices import build_matrices, spin_channels
from .models import load_model
from .repulsion import Repulsion
from .response import force_response
from .spectrum import States, eigenstates, find_mu, reduced_kpoints

__all__ = ["TightBinding", "checked_inputs", "fermi_level"]

# Sampled length (Å) per direction, cell height times number of k-points: at 50 Å the lattice constant of
# NRL silicon is converged to 3e-7 Å; a carved box of 20 Å or more needs Gamma only (docs/accuracy.md).
CRYSTAL_LENGTH = 50.0
CLUSTER_LENGTH = 20.0
RESPONSE_LENGTH = 30.0


class Solver(Protocol):
    """How site energies are computed, where not from the whole spectrum.

    One with an attribute ``has_virial = False`` gives no virial, and the calculator no stress.
    """

    def evaluate(self, calc: TightBinding, atoms: Atoms, weights: np.ndarray | None) -> SiteResult:
        """See :meth:`TightBinding.evaluate`."""


class TightBinding(SiteCalculator):
    """Total-energy tight binding with site energies that feed QM/MM mixing.

    Levels solve ``H C = M C eps`` at each k-point; each holds two electrons with a Fermi–Dirac occupation f.
    The energy is ``sum_s g(eps_s)``, its Mulliken partition the site energy
    ``E_l = sum_s g(eps_s) sum_{a in l} Re[conj(C_as) (M C)_as]`` [1]_. Weighted sums of site energies come
    with their exact gradient, in every ensemble and at every k-point.

    Parameters
    ----------
    model : str, os.PathLike or Hamiltonian
        A name, e.g. ``"nrl-Si-sp"``, see :func:`ase_qmmm.tightbinding.model_names`; a file of NRL parameters
        (``.json``, ``.json#set`` or ``.par``); or an own :class:`~ase_qmmm.tightbinding.Hamiltonian`.
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
        How the Hamiltonian ends at its range; see :class:`~ase_qmmm.tightbinding.NRLModel` and
        :class:`~ase_qmmm.tightbinding.KwonModel`. Other models have one form only.
    solver : "dense" or an object
        ``"dense"``: LAPACK on dense matrices. :class:`Embedded`: a cluster in frozen surroundings.
        :class:`DivideAndConquer`: block by block, at a cost linear in the number of atoms. The latter two
        give energies and forces at fixed `mu`, and no stress where clusters are embedded; levels, charges and
        the response of forces are dense with any solver.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        Unknown model, file, keyword or option; kT not positive.
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

    implemented_properties = [*SiteCalculator.implemented_properties, "charges"]

    @checked_keywords
    def __init__(
        self,
        model: str | os.PathLike[str] | Hamiltonian = "nrl-Si-sp",
        *,
        kT: float = 0.1,
        mu: float | None = None,
        kpts: Any = (1, 1, 1),
        energy: str | None = None,
        cutoff_form: str = "smooth",
        solver: str | Solver = "dense",
    ) -> None:
        super().__init__()
        self.model = load_model(model, cutoff_form)
        self.cutoff_form: str = getattr(self.model, "cutoff_form", "smooth")
        self.kT = check_positive("kT", kT, "eV")
        if mu is not None and not np.isfinite(mu):
            raise ValueError(f"mu: got {mu!r}, expected a finite number (eV) or None")
        self.mu = None if mu is None else float(mu)
        if energy not in (None, "free", "grand", "band"):
            raise ValueError(f"energy: got {energy!r}, expected 'free', 'grand' or 'band'")
        if solver != "dense" and (isinstance(solver, str) or not callable(getattr(solver, "evaluate", None))):
            raise ValueError(
                f"solver: got {solver!r}, expected 'dense' or an object such as Embedded(...) or "
                "DivideAndConquer(...)"
            )
        self.kind = energy or ("free" if mu is None else "grand")
        if self.kind == "grand" and mu is None:
            raise ValueError("energy: 'grand' needs a chemical potential, give mu (eV)")
        self.kpts = kpts
        self.solver = solver
        if not getattr(solver, "has_virial", True):
            self.implemented_properties = [p for p in self.implemented_properties if p != "stress"]
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
            "cutoff_form": self.cutoff_form,
            "solver": self.solver,
        }
        if "mu" in changes and "energy" not in changes and (changes["mu"] is None) != (self.mu is None):
            options["energy"] = None if self.kind != "band" else "band"
        options.update(changes)
        model = self.model.with_cutoff_form(options.pop("cutoff_form"))
        return TightBinding(model, **options)

    def for_crystal(self, unit_cell: Atoms) -> TightBinding:
        """Same model, dense, with k-points that converge the bulk crystal (50 Å sampled, or `kpts`)."""
        grid = np.maximum(k_grid(unit_cell, CRYSTAL_LENGTH), self._own_grid(unit_cell))
        return self.with_options(kpts={"size": tuple(int(n) for n in grid), "gamma": True}, solver="dense")

    def _own_grid(self, atoms: Atoms) -> np.ndarray:
        """Grid implied by a k-point density given as a dict (a plain grid belongs to the user's own cell)."""
        if isinstance(self.kpts, dict) and "density" in self.kpts:
            return k_grid(atoms, 2 * np.pi * float(self.kpts["density"]))
        return np.ones(3, int)

    def _samples(self, atoms: Atoms) -> bool:
        """Whether a grid or a list of k-points was given that suits the periodic directions of `atoms`."""
        explicit = not isinstance(self.kpts, dict) and np.shape(self.kpts)[-1:] == (3,)
        if not explicit or np.array_equal(self.kpts, (1, 1, 1)):
            return False
        points = np.asarray(self.kpts, dtype=float)
        return bool((points[..., ~atoms.pbc] == (1.0 if points.ndim == 1 else 0.0)).all())

    def for_cluster(self, cluster: Atoms, system: Atoms, crystal: Crystal | None = None) -> TightBinding:
        """Calculator for a cluster carved from `system`: sampled as densely, at the crystal's Fermi level.

        A carved cluster exchanges electrons with the crystal around it, so that a calculator without `mu`
        gets that of `crystal`, where one is known. In the cell of `system` itself k-points are those given.
        """
        options: dict[str, Any] = {}
        if self.mu is None and crystal is not None:
            options = {"mu": fermi_level(self, crystal), "energy": "grand"}
        if self._samples(cluster) and _same_cell(cluster, system):
            return self.with_options(**options)
        length = CLUSTER_LENGTH
        if not isinstance(self.kpts, dict) and np.shape(self.kpts) == (3,):
            grid = np.asarray(self.kpts, dtype=float)
            sampled = (grid * cell_heights(system))[(grid > 1) & system.pbc]
            length = max(length, sampled.max(initial=0.0))
        grid = np.maximum(k_grid(cluster, length), self._own_grid(cluster))
        options["kpts"] = {"size": tuple(int(n) for n in grid), "gamma": True}
        return self.with_options(**options)

    # -- evaluation ------------------------------------------------------------------------------------

    def evaluate(self, atoms: Atoms, weights: np.ndarray | None = None) -> SiteResult:
        """Weighted site energies and their exact gradient; see :class:`SiteCalculator`."""
        check_structure(atoms)
        site_weights = check_weights(weights, len(atoms))
        if len(atoms) == 0:
            return SiteResult(0.0, np.zeros(0), np.zeros((0, 3)), np.zeros((3, 3)))
        if isinstance(self.solver, str):
            result = dense.evaluate(self, atoms, site_weights)
        else:
            result = self.solver.evaluate(self, atoms, site_weights)
        if not np.isfinite(result.energy) or not np.isfinite(result.forces).all():
            raise NumericsError(f"{self!r}: energy or forces are not finite")
        return result

    def evaluate_sites(self, atoms: Atoms, sites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Site energies and forces, right on `sites` only; see :class:`SiteCalculator`."""
        own = getattr(self.solver, "evaluate_sites", None)
        if own is None:
            return super().evaluate_sites(atoms, sites)
        check_structure(atoms)
        energies, forces = own(self, atoms, sites)
        return energies, forces

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
        solution = dense.solve(self, atoms, order=2)
        changes = np.zeros_like(directions)
        for matrices, states in solution:
            changes += force_response(matrices, states, solution.functional, directions, progress=progress)
        if self.model.repulsive:
            changes += Repulsion(solution.channels[0]).force_response(directions)
        return changes

    def force_constants(self, crystal: Crystal, cutoff: float, *, progress: bool = False) -> ForceConstants:
        """Second derivatives of the energy at the perfect crystal within `cutoff` (Å).

        Those of the grand potential at the crystal's Fermi level, unless `mu` was given, are exact and belong
        to the infinite crystal (:func:`~ase_qmmm.tightbinding.force_derivatives`). Those of other energies
        come from first-order perturbation theory in a supercell that holds the stencils, with k-points that
        sample 30 Å, in which images of the displaced atom move along. Energies of the sites are grand
        potentials in the first case.
        """
        bulk = self.for_crystal(crystal.unit_cell)
        if bulk.mu is None:
            bulk = bulk.with_options(mu=fermi_level(self, crystal), energy="grand")
        energies = bulk.evaluate(crystal.unit_cell).energies
        if bulk.kind == "grand":
            from .derivatives import force_derivatives

            found = force_derivatives(bulk, crystal, 1, cutoff, error=1e-8, progress=progress)
            exact = [-np.moveaxis(tensor, 0, 1) for tensor in found.tensors[1]]
            return ForceConstants(crystal, cutoff, exact, energies, repr(bulk))

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
        return ForceConstants(crystal, cutoff, matrices, energies, repr(bulk))

    def site_energy_derivatives(
        self, crystal: Crystal, order: int = 2, cutoff: float | Sequence[float] = 5.0, **options: Any
    ) -> CrystalDerivatives:
        """Exact ``d^j V`` at the crystal, see :func:`~ase_qmmm.tightbinding.site_energy_derivatives`."""
        from .derivatives import site_energy_derivatives

        return site_energy_derivatives(self, crystal, order, cutoff, **options)

    def site_energy_series(
        self, crystal: Crystal, order: int = 4, cutoff: float = 5.0, **options: Any
    ) -> SiteSeries:
        """Taylor series of site energies without tensors, see :class:`~.series.TightBindingSeries`."""
        from .series import TightBindingSeries

        return TightBindingSeries(self, crystal, order, cutoff, **options)

    def site_energy_derivatives_time(
        self, crystal: Crystal, order: int = 4, cutoff: float | Sequence[float] = 5.0
    ) -> float:
        """Processor time (s) that :meth:`site_energy_derivatives` would take, from a small part of it."""
        from .derivatives import site_energy_derivatives_time

        return site_energy_derivatives_time(self, crystal, order, cutoff)

    def force_derivatives(
        self, crystal: Crystal, order: int = 2, cutoff: float | Sequence[float] = 5.0, **options: Any
    ) -> CrystalDerivatives:
        """Exact ``d^j F`` at the crystal, see :func:`~ase_qmmm.tightbinding.force_derivatives`."""
        from .derivatives import force_derivatives

        return force_derivatives(self, crystal, order, cutoff, **options)

    def cauchy_born_derivatives(
        self, crystal: Crystal, order: int = 2, **options: Any
    ) -> CauchyBornDerivatives:
        """Exact ``d^j W / dF^j``, see :func:`~ase_qmmm.tightbinding.cauchy_born_derivatives`."""
        from .cauchy_born import cauchy_born_derivatives

        return cauchy_born_derivatives(self, crystal, order, **options)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill ``results``; net Mulliken charges (units of e) only if asked for."""
        asked = properties or ["energy"]
        if set(asked) != {"charges"}:
            super().calculate(atoms, properties, system_changes)
        elif system_changes:
            self.results = {}
            Calculator.calculate(self, atoms, asked, system_changes)
        if "charges" in asked:
            copy: Atoms = self.atoms  # type: ignore[assignment]  # set by the lines above
            valence = dict(zip(self.model.symbols, self.model.n_electrons, strict=True))
            electrons = self.charges(copy)
            self.results["charges"] = np.array([valence[s] for s in copy.symbols]) - electrons

    # -- spectra -----------------------------------------------------------------------------------------

    def eigenvalues(self, atoms: Atoms, kpts: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Levels (n_k, N) in eV, ascending, and the weights (n_k,) of the k-points (of each spin in turn).

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
        points = reduced_kpoints(self.kpts if kpts is None else kpts, atoms)
        return [s for m in spin_channels(self.model, atoms, order=0) for s in eigenstates(m, *points)]

    def charges(self, atoms: Atoms) -> np.ndarray:
        """Mulliken electron number of each atom (n,); ``atoms.get_charges()`` gives the net charges."""
        check_structure(atoms)
        if len(atoms) == 0:
            return np.zeros(0)
        return dense.populations(dense.solve(self, atoms, order=0))


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


def checked_inputs(calc: Any, atoms: Any, name: str = "calc") -> tuple[TightBinding, Atoms]:
    """The calculator (argument `name`) and the unit cell, checked."""
    if isinstance(calc, str):
        calc = TightBinding(calc)
    if not isinstance(calc, TightBinding):
        raise TypeError(f"{name}: got {type(calc).__name__}, expected TightBinding or the name of a model")
    cell = atoms.unit_cell if isinstance(atoms, Crystal) else atoms
    check_structure(cell)
    if len(cell) == 0:
        raise StructureError("atoms: got no atoms, expected at least one")
    return calc, cell


def _same_cell(first: Atoms, second: Atoms) -> bool:
    """Whether k-points mean the same in both."""
    periodic = first.pbc
    return np.array_equal(periodic, second.pbc) and np.array_equal(
        first.cell.array[periodic], second.cell.array[periodic]
    )


@checked_keywords
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

    Raises
    ------
    TypeError, ValueError
        Neither a calculator nor the name of a model; kT not positive; k-points of the wrong kind.
    StructureError
        No atoms, or atoms that the model cannot treat.
    """
    calc, cell = checked_inputs(model, crystal, "model")
    if kT is not None:
        calc = calc.with_options(kT=kT)
    calc = calc.with_options(mu=None).for_crystal(cell)
    if kpts is not None:
        calc = calc.with_options(kpts=kpts)
    n_electrons = build_matrices(calc.model, cell, order=0).n_electrons
    return find_mu(calc._states(cell), n_electrons, calc.kT)
