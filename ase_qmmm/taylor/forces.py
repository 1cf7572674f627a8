"""TaylorForces: the matched far-field model that expands forces."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from ..crystal import Crystal
from ..errors import check_positive, check_structure, checked_keywords
from ..sites import SiteResult, check_weights
from ..stencils import StencilMatch
from ..symmetry import count_force_constants
from .cauchy_born import CauchyBornDerivatives, spanned
from .crystal_derivatives import CrystalDerivatives
from .elasticity import LongWaves, matched_force_constants, null_lagrangian
from .evaluation import PolynomialTables
from .files import read_model, terms_from_arrays, terms_to_arrays, write_model
from .force_constants import ForceConstants
from .kernels import site_forces, weighted_gradient
from .lattice_potential import lattice_potential
from .model import Computed, TaylorModel, checked_cutoffs
from .polynomials import Terms, flatten
from .restoration import rotational_violation
from .source import cell_expansion, checked_elasticity, force_expansion
from .triangles import Triangles, first_order_terms, triangle_decomposition

__all__ = ["TaylorForces"]

# Types of compiled functions are numba's affair.
_kernel_forces: Any = site_forces
_kernel_gradient: Any = weighted_gradient


class TaylorForces(TaylorModel):
    """Taylor expansion of a model's forces about its perfect crystal, of order 1, 2 or 3.

    With ``g_rho = y(m(rho)) - y(l) - rho`` over the stencil of atom l [1]_,

        F_l = sum_(j <= k) 1/j! d^j F(0)[g, .., g],

    the first term of which is ``-sum_rho Phi(rho) g_rho`` with the force constants
    ``Phi(rho) = d2E / dy_l dy_(l + rho)``. It is conservative: the forces are the gradient of a sum of site
    energies, polynomials of degree k + 1 in the same g. In first order

        E_l = E_0 - 1/4 sum_rho g_rho . Phi(rho) g_rho + sum_t b_t . (g_rho(t) x g_sigma(t)),

    where the last term carries the antisymmetric part of Phi (see :mod:`ase_qmmm.taylor.triangles`); higher
    orders are found by :mod:`ase_qmmm.taylor.lattice_potential`. All depend on displacement differences only,
    so that translation invariance (the acoustic sum rules), Newton's third law and zero force on the perfect
    crystal survive the cutoff.

    Parameters
    ----------
    derivatives : CrystalDerivatives or ForceConstants
        Of kind "force", or of first order. Usually made by :meth:`from_calculator`.
    threshold : float
        Coefficients of higher orders below this part of the largest are left out.
    elasticity : {"invariant", "truncated"} or CauchyBornDerivatives
        What long waves are to be: made to obey the sum rules of rotation (Born and Huang), left as the cutoff
        leaves them, or those of given derivatives by deformation (with ``relaxed=True``), in the smallest
        change of the coefficients of first
        order, and a part of the energy that makes no forces.
    missing_tolerance : float
        An atom may lack the neighbour at rho (a vacancy in its stencil) if
        ``|Phi(rho)| <= missing_tolerance |Phi(0)|``, and in higher orders if the norm of the coefficients
        with an index there is at most this part of the norm of all; the terms are left out then. Otherwise
        it is an error.
    trust : float, optional
        Largest ``|g_rho|`` of a nearest neighbour (Å); 0.45 nearest-neighbour distances.
    on_distrust : {"raise", "warn"}
        What to do beyond.

    Attributes
    ----------
    cutoffs : dict of int to float
        Radius of the stencils by order (Å). In higher orders each atom is within it of each other.
    force_constants : ForceConstants
        The first order.
    restored : dict of int to float
        By order j > 1, the largest change of a component of d^j F (eV/Å^(j + 1)) by the sum rules that
        truncation had broken.

    Raises
    ------
    MatchError
        On evaluation: an atom that is asked for sits on no site, lacks a neighbour that matters, or has moved
        by more than `trust` relative to a neighbour.

    References
    ----------
    .. [1] H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), QM/MM methods for crystalline
       defects, part 2, eq. (71).

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> from ase_qmmm import Crystal, TaylorForces
    >>> crystal = Crystal.relaxed(bulk("Cu"), EMT())
    >>> mm = TaylorForces.from_calculator(EMT(), crystal, order=1, cutoff=6.0)
    >>> atoms = crystal.supercell(3)
    >>> atoms.calc = mm
    >>> bool(abs(atoms.get_forces()).max() < 1e-10)
    True
    """

    @checked_keywords
    def __init__(
        self,
        derivatives: CrystalDerivatives | ForceConstants,
        *,
        elasticity: str | CauchyBornDerivatives = "invariant",
        threshold: float = 1e-6,
        missing_tolerance: float = 0.01,
        trust: float | None = None,
        on_distrust: str = "raise",
    ) -> None:
        super().__init__(derivatives.crystal, missing_tolerance, trust, on_distrust)
        threshold = check_positive("threshold", threshold, zero=True)
        crystal = self.crystal
        checked_elasticity(elasticity, crystal)
        higher: dict[int, tuple[list[Terms], list[Terms]]] = {}
        restored: dict[int, float] = {}
        if isinstance(derivatives, CrystalDerivatives):
            if derivatives.kind != "force":
                raise ValueError(f"derivatives: got kind {derivatives.kind!r}, expected 'force'")
            for j, radius in derivatives.cutoffs.items():
                if j > 1:
                    found = lattice_potential(crystal, radius, derivatives.tensors[j], threshold)
                    higher[j], restored[j] = (found.energies, found.forces), found.change
            cutoffs = dict(derivatives.cutoffs)
            first = ForceConstants(
                crystal,
                cutoffs[1],
                [-tensor.swapaxes(0, 1) for tensor in derivatives.tensors[1]],
                derivatives.energies,
                derivatives.label,
            )
        else:
            first, cutoffs = derivatives, {1: derivatives.cutoff}
        matrices = first.matrices
        if elasticity != "truncated":
            waves = _long_waves(elasticity, first)
            matrices = matched_force_constants(crystal, first.cutoff, matrices, waves)
        triangles, matrices = triangle_decomposition(crystal, first.cutoff, matrices)
        if elasticity != "truncated":
            triangles = null_lagrangian(crystal, first.cutoff, matrices, triangles, waves.stiffness)
        constants = ForceConstants(crystal, first.cutoff, matrices, first.energies, first.label)
        self._assemble(cutoffs, constants, triangles, higher, restored)

    def _assemble(
        self,
        cutoffs: dict[int, float],
        constants: ForceConstants,
        triangles: list[Triangles],
        higher: dict[int, tuple[list[Terms], list[Terms]]],
        restored: dict[int, float],
    ) -> None:
        self.cutoffs = {int(j): float(r) for j, r in cutoffs.items()}
        self.force_constants = constants
        self.restored = restored
        self._triangles = triangles
        self._higher = higher
        self._tables: dict[str, np.ndarray] = {}
        self._polynomials: PolynomialTables | None = None
        pairs, linear = first_order_terms(constants.matrices, triangles)
        each = range(self.crystal.n_basis)
        self._energy_terms = [[pairs[a], *(energies[a] for energies, _ in higher.values())] for a in each]
        self._force_terms = [[linear[a], *(forces[a] for _, forces in higher.values())] for a in each]
        size = self._width()
        self._energies, self._forces = (
            flatten(terms, size, width) for terms, width in ((self._energy_terms, 1), (self._force_terms, 3))
        )

    @classmethod
    @checked_keywords
    def from_calculator(
        cls,
        qm: Calculator,
        crystal: Crystal,
        order: int = 1,
        cutoff: float | Sequence[float] = 8.0,
        *,
        elasticity: str = "invariant",
        threshold: float = 1e-6,
        missing_tolerance: float = 0.01,
        trust: float | None = None,
        on_distrust: str = "raise",
        progress: bool = False,
    ) -> TaylorForces:
        """Expand the forces of `qm` about `crystal`.

        Parameters
        ----------
        qm : ase.calculators.calculator.Calculator
            A model with a method ``force_derivatives(crystal, order, cutoff)``, as ``TightBinding``; for
            orders 1 and 2 any ASE calculator, whose forces are differenced then
            (:func:`~ase_qmmm.taylor.displacement_derivatives`).
        crystal : Crystal
            At the lattice constant of `qm` (``Crystal.relaxed``).
        order : {1, 2, 3}
            Order of the expansion of the forces.
        cutoff : float or sequence of float
            Radius of the stencils (Å); one for all orders, or one per order, the first order first.
        elasticity : {"invariant", "exact", "truncated"}
            As for the class. "exact": as `qm` has them, by its method ``cauchy_born_derivatives``. Elastic
            constants are then those of `qm` at any cutoff, at some cost in the phonons of short waves.
        threshold, missing_tolerance, trust, on_distrust
            See the class.
        progress : bool
            Show a progress bar.

        Raises
        ------
        TypeError
            ``elasticity="exact"`` of a model without derivatives by deformation.
        ValueError
            Order out of range, or higher than 2 for a calculator without derivatives; cutoff not positive or
            below the nearest-neighbour distance; tensors that would not fit into memory.
        """
        cutoffs = checked_cutoffs(crystal, order, (1, 2, 3), cutoff)
        waves = cell_expansion(qm, crystal, 2, elasticity)
        derivatives = force_expansion(qm, crystal, cutoffs, progress)
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

    @cached_property
    def coefficient_counts(self) -> dict[int, int]:
        """Independent coefficients by order, under the symmetry of the crystal and the sum rules."""
        return {j: count_force_constants(self.crystal, r, j + 1) for j, r in self.cutoffs.items()}

    def rotational_violation(self) -> dict[int, float]:
        """How far each order is from the sum rules of rotation (Born and Huang's for the first two).

        Returns
        -------
        dict of int to float
            By order j, the largest coefficient of g^(j - 1) in the change of a force, seen from the turned
            crystal, under a rotation: eV/Å^j per radian.
        """
        return rotational_violation(self.crystal, self.cutoff, self._force_terms)

    @property
    def _site_energies(self) -> tuple[list[list[Terms]], np.ndarray, str]:
        return self._energy_terms, self.force_constants.energies, self.force_constants.label

    def __repr__(self) -> str:
        many = self.order > 1
        cutoffs = ", ".join(f"{r:g}" for r in self.cutoffs.values())
        # Counting clusters of high order over wide stencils takes seconds.
        work = max(len(self.crystal.stencil(0, r)) ** j for j, r in self.cutoffs.items())
        counts = ""
        if work <= 2500:
            counts = " + ".join(map(str, self.coefficient_counts.values())) + " independent coefficients, "
        return (
            f"TaylorForces(order {self.order}, cutoff{'s' * many} {cutoffs} Å, {self._width()} neighbours, "
            f"{counts}trust {self.trust:.2f} Å, "
            f"{self.crystal._unit_cell.get_chemical_formula()}, from {self.force_constants.label})"
        )

    # -- files -----------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the model to a file (.npz), which :meth:`load` reads back to the same bits."""
        constants = self.force_constants
        header = {
            "label": constants.label,
            "cutoffs": list(self.cutoffs.values()),
            "restored": list(self.restored.values()),
            "parameters": self._parameters(),
        }
        arrays = {"energies": np.asarray(constants.energies, dtype=float)}
        for a, (phi, t) in enumerate(zip(constants.matrices, self._triangles, strict=True)):
            arrays[f"constants/{a}"] = phi
            arrays[f"triangles/{a}/first"] = t.first
            arrays[f"triangles/{a}/second"] = t.second
            arrays[f"triangles/{a}/vectors"] = t.vectors
        for name, number in (("energy", 0), ("force", 1)):
            terms = [
                [parts[number][a] for parts in self._higher.values()] for a in range(self.crystal.n_basis)
            ]
            arrays.update(terms_to_arrays(name, terms))
        write_model(path, type(self).__name__, self.crystal, header, arrays)

    @classmethod
    def load(cls, path: str | Path) -> TaylorForces:
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
        each = range(crystal.n_basis)
        cutoffs = dict(enumerate(header["cutoffs"], start=1))
        orders = [j for j in cutoffs if j > 1]
        energies = terms_from_arrays("energy", arrays, crystal.n_basis, [j + 1 for j in orders])
        forces = terms_from_arrays("force", arrays, crystal.n_basis, orders)
        higher = {
            j: ([energies[a][k] for a in each], [forces[a][k] for a in each]) for k, j in enumerate(orders)
        }
        matrices = [arrays[f"constants/{a}"] for a in each]
        triangles = [
            Triangles(*(arrays[f"triangles/{a}/{name}"] for name in ("first", "second", "vectors")))
            for a in each
        ]
        constants = ForceConstants(crystal, cutoffs[1], matrices, arrays["energies"], header["label"])
        restored = dict(zip(orders, header["restored"], strict=True))
        model._assemble(cutoffs, constants, triangles, higher, restored)
        return model

    # -- evaluation ------------------------------------------------------------------------------------------

    def evaluate(self, atoms: Atoms, weights: np.ndarray | None = None) -> SiteResult:
        """Weighted site energies and their exact gradient; see :class:`SiteCalculator`."""
        check_structure(atoms)
        site_weights = check_weights(weights, len(atoms))
        if len(atoms) == 0:
            return SiteResult(0.0, np.zeros(0), np.zeros((0, 3)), np.zeros((3, 3)))
        sites = np.arange(len(atoms)) if site_weights is None else np.flatnonzero(site_weights)

        def compute(y: np.ndarray, match: StencilMatch) -> Computed:
            if self.order == 1:
                return self._first_order(y, match, sites, site_weights)
            assert self._polynomials is not None
            w = np.ones(len(y)) if site_weights is None else site_weights
            energies, forces, virial, largest, worst = self._polynomials.gradients(
                y, sites, self._energies, w
            )
            energies[sites] += self.force_constants.energies[match.basis[sites]]
            return (energies, forces, virial), largest, worst

        energies, forces, virial = self._computed(atoms, sites, compute)
        energy = float(energies.sum() if site_weights is None else site_weights @ energies)
        return SiteResult(energy, energies, forces, self._turned_virial(virial))

    def evaluate_sites(self, atoms: Atoms, sites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Energies (n,) and forces (n, 3) of the atoms in `sites`; the others are never looked at."""
        check_structure(atoms)
        listed = np.flatnonzero(sites)
        if len(listed) == 0:
            return np.zeros(len(atoms)), np.zeros((len(atoms), 3))

        def compute(y: np.ndarray, match: StencilMatch) -> Computed:
            if self.order == 1:
                found = _kernel_forces(y, *self._tables.values(), listed, self._shell, False)
                energies, forces, _, largest, worst = found
            else:
                assert self._polynomials is not None
                energies, forces, largest, worst = self._polynomials.values(
                    y, listed, self._energies, self._forces
                )
            energies[listed] += self.force_constants.energies[match.basis[listed]]
            return (energies, forces), largest, worst

        result: tuple[np.ndarray, np.ndarray] = self._computed(atoms, listed, compute)
        return result

    def _first_order(
        self, y: np.ndarray, match: StencilMatch, sites: np.ndarray, weights: np.ndarray | None
    ) -> Computed:
        """Energies, forces and virial by the kernels of the first order."""
        energies, forces, virial, largest, worst = _kernel_forces(
            y, *self._tables.values(), sites, self._shell, weights is None
        )
        if weights is not None:
            forces, virial = _kernel_gradient(y, *self._tables.values(), sites, weights)
        energies[sites] += self.force_constants.energies[match.basis[sites]]
        return (energies, forces, virial), largest, worst

    def _influences(self) -> list[np.ndarray]:
        each = range(self.crystal.n_basis)
        scale = max(float(np.linalg.norm(self.force_constants.onsite(a))) for a in each)
        out = []
        for a in each:
            size = len(self.crystal.stencil(a, self.cutoff))
            part = np.zeros(size)
            first = np.linalg.norm(self.force_constants.matrices[a], axis=(1, 2)) / max(scale, 1e-300)
            part[: len(first)] = first
            for terms in (self._energy_terms[a][1:], self._force_terms[a][1:]):
                for t in terms:
                    whole = np.sqrt((t.coefficients**2).sum())
                    part = np.maximum(part, t.influence(size) / max(whole, 1e-300))
            out.append(part)
        return out

    def _set_tables(self, match: StencilMatch) -> None:
        if self.order > 1:
            self._polynomials = PolynomialTables(match, self._rho, self._shell)
            return
        rotation, crystal = match.rotation, self.crystal
        phi = np.zeros((crystal.n_basis, match.neighbours.shape[1], 3, 3))
        for a, matrices in enumerate(self.force_constants.matrices):
            phi[a, : len(matrices)] = rotation @ matrices @ rotation.T
        counts = [len(t.first) for t in self._triangles]
        self._tables = {
            "translations": match.shifts @ match.cell,
            "neighbours": match.neighbours,
            "basis": match.basis,
            "rho": self._rho @ rotation.T,
            "phi": phi,
            "starts": np.concatenate([[0], np.cumsum(counts)]).astype(int),
            "first": np.concatenate([t.first for t in self._triangles]),
            "second": np.concatenate([t.second for t in self._triangles]),
            "axial": np.concatenate([t.vectors for t in self._triangles]) @ rotation.T,
        }


def _long_waves(elasticity: str | CauchyBornDerivatives, constants: ForceConstants) -> LongWaves:
    """What the force constants are to give."""
    if isinstance(elasticity, CauchyBornDerivatives):
        return LongWaves.exact(elasticity)
    crystal = constants.crystal
    own = LongWaves.from_force_constants(crystal, constants.cutoff, constants.matrices)
    return own.rotation_invariant(crystal.lattice, spanned(crystal, constants.cutoff))
