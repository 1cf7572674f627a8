"""TaylorPotential: the matched far-field model that expands site energies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from math import factorial
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ..crystal import Crystal
from ..errors import check_positive, check_structure, checked_keywords
from ..sites import SiteResult, check_weights
from ..stencils import StencilMatch
from ..symmetry import count_site_coefficients
from .cauchy_born import CauchyBornDerivatives, spanned
from .choice import METHODS, chosen_method
from .crystal_derivatives import CrystalDerivatives
from .evaluation import PolynomialTables
from .files import read_model, terms_from_arrays, terms_to_arrays, write_model
from .force_constants import ForceConstants
from .lattice_potential import lattice_forces
from .model import Computed, TaylorModel, checked_cutoffs
from .polynomials import Terms, flatten, pack
from .restoration import rotational_violation, symmetric_tensors, without_forces
from .site_elasticity import block_norms, cell_sums, matched_site_tensors, rotation_invariant
from .source import cell_expansion, checked_elasticity, site_energy_expansion

__all__ = ["TaylorPotential"]

log = logging.getLogger(__name__)


class TaylorPotential(TaylorModel):
    """Taylor expansion of a model's site energies about its perfect crystal, of order 2, 3 or 4.

    With ``g_rho = y(m(rho)) - y(l) - rho`` over the stencil of atom l [1]_,

        E_l = V(0) + sum_(j <= k) 1/j! d^j V(0)[g, .., g].

    It depends on displacement differences only, so that translation invariance survives the cutoff; so do the
    symmetry of the site and of the indices, and zero force on the perfect crystal, which are restored.
    Rotation invariance holds up to the order and the cutoff, see :meth:`rotational_violation`.

    Parameters
    ----------
    derivatives : CrystalDerivatives
        Of kind "energy"; usually made by :meth:`from_calculator`.
    threshold : float
        Blocks of coefficients (one tuple of neighbours) whose norm is below this part of the largest of their
        order are left out; :attr:`truncation` says what that may change.
    elasticity : {"invariant", "truncated"} or CauchyBornDerivatives
        What long waves are to be: made to obey the sum rules of rotation (Born and Huang), left as the cutoff
        leaves them, or those of given derivatives by deformation (with ``relaxed=True``), in the smallest
        change of the coefficients, up to the third order.
    missing_tolerance : float
        An atom may lack the neighbour at rho (a vacancy in its stencil) if the norm of the coefficients with
        an index there is at most this part of the norm of all, in each order; they are left out then.
    trust : float, optional
        Largest ``|g_rho|`` of a nearest neighbour (Å); 0.45 nearest-neighbour distances.
    on_distrust : {"raise", "warn"}
        What to do beyond.

    Attributes
    ----------
    cutoffs : dict of int to float
        Radius of the stencils by order (Å).
    truncation : dict of int to float
        By order j, a bound (eV/Å^j) on the coefficients left out: times ``|g|^j`` it bounds the error of a
        site energy.
    coefficient_counts : dict of int to int
        Independent coefficients by order, under the symmetry of the crystal.

    Raises
    ------
    MatchError
        On evaluation: an atom that is asked for sits on no site, lacks a neighbour that matters, or has moved
        by more than `trust` relative to a neighbour.

    References
    ----------
    .. [1] H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), QM/MM methods for crystalline
       defects, part 2, eq. (36).

    Examples
    --------
    >>> from ase import Atoms
    >>> from ase_qmmm import Crystal, TaylorPotential, TightBinding
    >>> cell = Atoms("Ni", cell=[[2.5, 0, 0], [1.25, 2.165064, 0], [0, 0, 0]], pbc=[1, 1, 0])
    >>> crystal = Crystal(cell)
    >>> mm = TaylorPotential.from_calculator(TightBinding("toy"), crystal, order=3, cutoff=(5.1, 2.6, 2.6))
    >>> mm.order
    3
    """

    @checked_keywords
    def __init__(
        self,
        derivatives: CrystalDerivatives,
        *,
        elasticity: str | CauchyBornDerivatives = "invariant",
        threshold: float = 1e-6,
        missing_tolerance: float = 0.01,
        trust: float | None = None,
        on_distrust: str = "raise",
    ) -> None:
        if derivatives.kind != "energy":
            raise ValueError(f"derivatives: got kind {derivatives.kind!r}, expected 'energy'")
        super().__init__(derivatives.crystal, missing_tolerance, trust, on_distrust)
        threshold = check_positive("threshold", threshold, zero=True)
        crystal = self.crystal
        checked_elasticity(elasticity, crystal)
        stress = np.zeros((3, 3))
        terms: list[list[Terms]] = [[] for _ in range(crystal.n_basis)]
        truncation: dict[int, float] = {}
        for j, radius in derivatives.cutoffs.items():
            tensors = symmetric_tensors(crystal, radius, derivatives.tensors[j])
            cut = threshold * max((float(block_norms(t).max(initial=0.0)) for t in tensors), default=0.0)
            truncation[j] = 0.0
            if j == 1:
                kept = [np.where(np.linalg.norm(t, axis=1, keepdims=True) < cut, 0.0, t) for t in tensors]
                truncation[1] = max(float(np.abs(t - k).sum()) for t, k in zip(tensors, kept, strict=True))
                tensors, removed = without_forces(crystal, radius, kept)
                log.info("forces on the perfect crystal, due to truncation, removed: %.2g eV/Å", removed)
                cut = 0.0
                stress = cell_sums(crystal, radius, tensors)[:9].reshape(3, 3)
                stress = (stress + stress.T) / 2
            if j < 3 or (isinstance(elasticity, CauchyBornDerivatives) and j in elasticity.with_basis):
                tensors, lost = _without_small(tensors, cut)
                truncation[j] = max(truncation[j], lost)
                tensors, cut = _matched(crystal, radius, tensors, elasticity, stress), 0.0
            for a, tensor in enumerate(tensors):
                packed, bound = pack(tensor, cut)
                terms[a].append(packed)
                truncation[j] = max(truncation[j], bound)
        self._assemble(derivatives.cutoffs, terms, derivatives.energies, derivatives.label, truncation)

    def _assemble(
        self,
        cutoffs: dict[int, float],
        terms: list[list[Terms]],
        energies: np.ndarray,
        label: str,
        truncation: dict[int, float],
    ) -> None:
        self.cutoffs = {int(j): float(r) for j, r in cutoffs.items()}
        self.truncation = truncation
        self.label = label
        self.reference_energies = np.asarray(energies, dtype=float)
        self._terms = terms
        self._flat = flatten(terms, self._width(), 1)
        self._tables: PolynomialTables | None = None
        self.coefficient_counts = {
            j: count_site_coefficients(self.crystal, radius, j) for j, radius in self.cutoffs.items()
        }

    @classmethod
    @checked_keywords
    def from_calculator(
        cls,
        qm: Any,
        crystal: Crystal,
        order: int = 2,
        cutoff: float | Sequence[float] = 8.0,
        *,
        elasticity: str = "invariant",
        threshold: float = 1e-6,
        missing_tolerance: float = 0.01,
        trust: float | None = None,
        on_distrust: str = "raise",
        progress: bool = False,
        method: str = "auto",
        evaluations: int = 100_000,
    ) -> TaylorPotential:
        """Expand the site energies of `qm` about `crystal`.

        Parameters
        ----------
        qm : SiteCalculator
            A model with a method ``site_energy_derivatives(crystal, order, cutoff)``, as ``TightBinding``.
        crystal : Crystal
            At the lattice constant of `qm` (``Crystal.relaxed``).
        order : {2, 3, 4}
            Up to 6 as a series.
        cutoff : float or sequence of float
            Radius of the stencils (Å); one for all orders, or one per order, the first order first.
        elasticity : {"invariant", "exact", "truncated"}
            As for the class. "exact": as `qm` has them, by its method ``cauchy_born_derivatives``. Elastic
            constants are then those of `qm` at any cutoff, at some cost in the phonons of short waves.
        threshold, missing_tolerance, trust, on_distrust
            See the class.
        progress : bool
            Show a progress bar.
        method : {"auto", "tensors", "series"}
            "series": the orders from three on are evaluated along the displacement, without tensors, and the
            model is a :class:`TaylorSeries`. "auto": series where tensors do not fit into memory, tensors of
            fewer than a million numbers, otherwise what is expected to take less time; the log says what was
            compared.
        evaluations : int
            Number of site energies, sites times calls, that "auto" takes for the use of the model.

        Returns
        -------
        TaylorPotential
            Or a :class:`TaylorSeries`, which is one.

        Raises
        ------
        ValueError
            Order or cutoff out of range; tensors that would not fit into memory (the message tells the size).
        TypeError
            `qm` has no derivatives of site energies, or for ``elasticity="exact"`` none by deformation.
        """
        if method not in METHODS:
            raise ValueError(f"method: got {method!r}, expected 'auto', 'tensors' or 'series'")
        check_positive("evaluations", evaluations, zero=True)
        has_series = callable(getattr(qm, "site_energy_series", None))
        allowed: tuple[int, ...] = (3, 4, 5, 6) if method == "series" else (2, 3, 4)
        if method == "auto" and has_series:
            allowed = (2, 3, 4, 5, 6)
        cutoffs = checked_cutoffs(crystal, order, allowed, cutoff)
        if method == "auto":
            # Matched elastic constants of third order are a property of tensors.
            fixed = elasticity == "exact" and order < 5
            method = chosen_method(qm, crystal, cutoffs, evaluations, fixed) if has_series else "tensors"
        if method == "series":
            from .series import TaylorSeries

            return TaylorSeries.from_calculator(
                qm,
                crystal,
                order,
                cutoff,
                elasticity=elasticity,
                threshold=threshold,
                missing_tolerance=missing_tolerance,
                trust=trust,
                on_distrust=on_distrust,
                progress=progress,
            )
        waves = cell_expansion(qm, crystal, min(order, 3), elasticity)
        derivatives = site_energy_expansion(qm, crystal, cutoffs, progress)
        return cls(
            derivatives,
            elasticity=waves,
            threshold=threshold,
            missing_tolerance=missing_tolerance,
            trust=trust,
            on_distrust=on_distrust,
        )

    @property
    def order(self) -> int:
        """Order k of the expansion."""
        return max(self.cutoffs)

    @property
    def cutoff(self) -> float:  # type: ignore[override]
        """Radius of the largest stencils (Å)."""
        return max(self.cutoffs.values())

    @property
    def force_constants(self) -> ForceConstants:
        """Second derivatives of the energy at the crystal, within twice the cutoff of the second order."""
        radius = 2 * self.cutoffs[2]
        vectors = lattice_forces(self.crystal, self.cutoffs[2], [self._degree(t, 2) for t in self._terms])
        matrices = []
        for a, t in enumerate(vectors):
            phi = np.zeros((3 * len(self.crystal.stencil(a, radius)), 3))
            phi[t.tuples[:, 0]] = -t.coefficients
            matrices.append(phi.reshape(-1, 3, 3).swapaxes(1, 2))
        return ForceConstants(self.crystal, radius, matrices, self.reference_energies, self.label)

    @staticmethod
    def _degree(terms: list[Terms], degree: int) -> Terms:
        return next(t for t in terms if t.degree == degree)

    def rotational_violation(self) -> dict[int, float]:
        """How far each order is from the sum rules of rotation; see the docs for what is tested.

        Returns
        -------
        dict of int to float
            By order j, the largest coefficient of g^(j - 1) in the change of a site energy under a rotation,
            eV/Å^(j - 1) per radian.
        """
        return rotational_violation(self.crystal, self.cutoff, self._terms)

    @property
    def _site_energies(self) -> tuple[list[list[Terms]], np.ndarray, str]:
        return self._terms, self.reference_energies, self.label

    def __repr__(self) -> str:
        cutoffs = ", ".join(f"{r:g}" for r in self.cutoffs.values())
        counts = " + ".join(str(n) for n in self.coefficient_counts.values())
        stored = max(sum(len(t.tuples) for t in site) for site in self._terms)
        return (
            f"TaylorPotential(order {self.order}, cutoffs {cutoffs} Å, {counts} independent coefficients, "
            f"{stored} stored per site, trust {self.trust:.2f} Å, "
            f"{self.crystal._unit_cell.get_chemical_formula()}, "
            f"from {self.label})"
        )

    # -- files -----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the model to a file (.npz), which :meth:`load` reads back to the same bits."""
        header = {
            "label": self.label,
            "cutoffs": list(self.cutoffs.values()),
            "truncation": list(self.truncation.values()),
            "parameters": self._parameters(),
        }
        arrays = {"energies": self.reference_energies, **terms_to_arrays("energy", self._terms)}
        write_model(path, type(self).__name__, self.crystal, header, arrays)

    @classmethod
    def load(cls, path: str | Path) -> TaylorPotential:
        """Read a model that :meth:`save` wrote.

        Raises
        ------
        FileNotFoundError
            No such file.
        ValueError
            Not such a file, one of another model or version, cut off, or changed.
        """
        crystal, header, arrays = read_model(path, cls.__name__)
        model = cls.__new__(cls)
        TaylorModel.__init__(model, crystal, **header["parameters"])
        orders = range(1, len(header["cutoffs"]) + 1)
        model._assemble(
            dict(zip(orders, header["cutoffs"], strict=True)),
            terms_from_arrays("energy", arrays, crystal.n_basis, orders),
            arrays["energies"],
            header["label"],
            dict(zip(orders, header["truncation"], strict=True)),
        )
        return model

    # -- evaluation ------------------------------------------------------------------------------------------

    def evaluate(self, atoms: Atoms, weights: np.ndarray | None = None) -> SiteResult:
        """Weighted site energies and their exact gradient; see :class:`SiteCalculator`."""
        check_structure(atoms)
        site_weights = check_weights(weights, len(atoms))
        if len(atoms) == 0:
            return SiteResult(0.0, np.zeros(0), np.zeros((0, 3)), np.zeros((3, 3)))
        w = np.ones(len(atoms)) if site_weights is None else site_weights
        energies, forces, virial = self._weighted(atoms, np.flatnonzero(w), w)
        return SiteResult(float(w @ energies), energies, forces, self._turned_virial(virial))

    def evaluate_sites(self, atoms: Atoms, sites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies (n,) and forces (n, 3) of the atoms in `sites`.

        The force on an atom comes from all site energies around it, so that stencils of its neighbours must
        be whole too; what is farther away is never looked at.
        """
        check_structure(atoms)
        asked = np.zeros(len(atoms), dtype=bool)
        asked[sites] = True
        if not asked.any():
            return np.zeros(len(atoms)), np.zeros((len(atoms), 3))
        neighbours = self.match(atoms).neighbours
        needed = asked | (asked[neighbours] & (neighbours >= 0)).any(axis=1)
        reach = max(np.linalg.norm(self.crystal.stencil(a, self.cutoff)[-1]) for a in range(len(self._terms)))
        energies, forces, _ = self._weighted(atoms, np.flatnonzero(needed), np.ones(len(atoms)), float(reach))
        return energies, forces

    def _weighted(
        self, atoms: Atoms, sites: np.ndarray, weights: np.ndarray, reach: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        def compute(y: np.ndarray, match: StencilMatch) -> Computed:
            return self._tensor_sums(y, match, sites, weights)

        result: tuple[np.ndarray, np.ndarray, np.ndarray] = self._computed(atoms, sites, compute, reach)
        return result

    def _tensor_sums(
        self, y: np.ndarray, match: StencilMatch, sites: np.ndarray, weights: np.ndarray
    ) -> Computed:
        """Energies (n,) of `sites`, forces (n, 3) and virial (3, 3) at unwrapped positions y."""
        assert self._tables is not None
        energies, forces, virial, largest, worst = self._tables.gradients(y, sites, self._flat, weights)
        energies[sites] += self.reference_energies[match.basis[sites]]
        return (energies, forces, virial), largest, worst

    def _influences(self) -> list[np.ndarray]:
        out = []
        for a, site in enumerate(self._terms):
            size = len(self.crystal.stencil(a, self.cutoff))
            part = np.zeros(size)
            for t in site:
                whole = np.sqrt((t.coefficients**2).sum())
                # First derivatives make no force that another site does not balance: they may be missing
                # only where the higher orders may.
                part = np.maximum(part, t.influence(size) / max(whole, 1e-300))
            out.append(part)
        return out

    def _set_tables(self, match: StencilMatch) -> None:
        self._tables = PolynomialTables(match, self._rho, self._shell)


def _matched(
    crystal: Crystal,
    radius: float,
    tensors: list[np.ndarray],
    elasticity: str | CauchyBornDerivatives,
    stress: np.ndarray,
) -> list[np.ndarray]:
    """Tensors of one order whose sums over the crystal are as `elasticity` says."""
    if elasticity == "truncated":
        return tensors
    order = tensors[0].ndim // 2
    if isinstance(elasticity, CauchyBornDerivatives):
        wanted = elasticity.with_basis[order].copy()
        if order == 1:
            wanted[9:] = 0.0
    else:
        wanted = rotation_invariant(
            order, cell_sums(crystal, radius, tensors), stress, spanned(crystal, radius)
        )
    return matched_site_tensors(crystal, radius, tensors, wanted)


def _without_small(tensors: list[np.ndarray], cut: float) -> tuple[list[np.ndarray], float]:
    """Blocks whose norm is below `cut` set to zero, and a bound as of :func:`pack`."""
    out, bound = [], 0.0
    for tensor in tensors:
        order = tensor.ndim // 2
        small = np.expand_dims(block_norms(tensor) < cut * (1 - 1e-6), tuple(range(1, 2 * order, 2)))
        bound = max(bound, float(np.abs(np.where(small, tensor, 0.0)).sum()) / factorial(order))
        out.append(np.where(small, 0.0, tensor))
    return out, bound
