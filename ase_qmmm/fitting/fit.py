"""Fits of linear ACE potentials, and all that is needed to judge and to repeat them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from tqdm import tqdm

from ..ace import ACEBasis, ACEPotential
from ..files import write_atomically
from .blocks import Block
from .calibration import Calibration, calibration
from .errors import error_table, format_errors, parity_table
from .observations import DEFAULT_WEIGHTS, KINDS, Observations, resolve_weights
from .solvers import LinearSolution, QRBlocks, solve_linear

__all__ = ["FitResult", "fit_ace", "smoothness_prior"]

log = logging.getLogger(__name__)

FORMAT, VERSION = "ase_qmmm fit", 1


@dataclass(frozen=True)
class FitResult:
    """A fitted potential, its errors, and what it was fitted with.

    Attributes
    ----------
    potential : ACEPotential
    errors : structured ndarray
        By group and kind (and "all"): number of data, root mean square and largest error, coefficient of
        determination. Energies and virials per atom (eV), forces by component (eV/Å), derivatives by
        component over all tuples of stencil vectors, unweighted (eV/Å^j; of the Cauchy–Born energy eV per
        cell).
    solution : LinearSolution
        Coefficients with rank, condition number and, of Bayesian solvers, their covariance.
    settings : dict
        Solver and its options, weights, digest of the data: enough to repeat the fit.
    """

    potential: ACEPotential
    errors: np.ndarray
    solution: LinearSolution
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        s = self.solution
        return (
            f"{s.solver}: {s.n_rows} rows, {len(s.coefficients)} coefficients, rank {s.rank}, condition "
            f"{s.condition:.2e}\n{format_errors(self.errors)}"
        )

    def rmse(self, kind: str, group: str = "all") -> float:
        """Root mean square error of one kind of data; eV per atom, eV/Å."""
        found = self.errors[(self.errors["group"] == group) & (self.errors["kind"] == kind)]
        if not len(found):
            raise ValueError(f"rmse: no {kind!r} in group {group!r}")
        return float(found["rmse"][0])

    def parity(self, observations: Observations) -> np.ndarray:
        """Data beside their prediction: columns group, kind, reference, predicted, size.

        Energies (less those of free atoms) and virials per atom, without the core repulsion; `size` is the
        number of equal data that a row stands for. For :func:`~ase_qmmm.fitting.plot_parity`.

        Raises
        ------
        StructureError
            A configuration with an element that the basis lacks.
        """
        free = self.potential.reference_energies
        weights = {s.group: dict.fromkeys(KINDS, 1.0) for s in observations.sources}
        blocks = observations.blocks(self.potential.basis, weights, free)
        return parity_table(blocks, self.solution.coefficients)

    def test(self, observations: Observations) -> np.ndarray:
        """Table of errors like :attr:`errors` for data that were not fitted."""
        return error_table(self.parity(observations))

    def save(self, path: str | Path) -> None:
        """Write the record of the fit as JSON, and beside it the potential as ``<stem>.ace.json``."""
        target = Path(path)
        self.potential.save(target.with_name(f"{target.stem}.ace.json"))
        s = self.solution
        record = {
            "format": FORMAT,
            "version": VERSION,
            "potential": f"{target.stem}.ace.json",
            "basis": self.potential.basis.parameters,
            "solver": s.solver,
            "solver_options": s.options,
            "rank": s.rank,
            "condition": None if np.isinf(s.condition) else s.condition,
            "n_rows": s.n_rows,
            "noise": s.noise,
            "covariance": None if s.covariance is None else s.covariance.tolist(),
            "errors": [
                dict(zip(self.errors.dtype.names or (), row, strict=True)) for row in self.errors.tolist()
            ],
            **self.settings,
        }
        write_atomically(target, lambda temporary: temporary.write_text(json.dumps(record), encoding="utf-8"))

    @property
    def covariance_root(self) -> np.ndarray:
        """A square root L (K, K) of the posterior covariance of the coefficients, ``L L^T = Sigma``.

        Raises
        ------
        ValueError
            The solver gave no covariance.
        """
        if self.solution.covariance is None:
            raise ValueError(
                f"covariance: solver {self.solution.solver!r} gives none; fit with 'ard' or 'bayesian-ridge'"
            )
        values, vectors = np.linalg.eigh(self.solution.covariance)
        root: np.ndarray = vectors * np.sqrt(values.clip(min=0.0))
        return root

    def committee(self, size: int, rng: np.random.Generator) -> list[ACEPotential]:
        """Potentials drawn from the posterior of the coefficients.

        Raises
        ------
        ValueError
            The solver gave no covariance.
        """
        mean = self.solution.coefficients
        factor = self.covariance_root
        draws = mean + rng.normal(size=(size, factor.shape[1])) @ factor.T
        p = self.potential
        return [ACEPotential(p.basis, c, reference_energies=p.reference_energies, skin=p.skin) for c in draws]

    def force_std(self, atoms: Atoms, noise: bool = False) -> np.ndarray:
        """Standard deviation (n,) of the force on each atom, eV/Å, from the posterior of the coefficients.

        ``sqrt(sum_c J_c Sigma J_c^T)`` over the components c, with rows J of the forces and covariance Sigma.
        It says what the data leave open, not what the basis cannot express; with `noise`, the standard
        deviation of the residuals that the solver inferred is added to each component, which does.
        """
        spread = self.potential.basis.rows(atoms, virial=False).forces @ self.covariance_root
        variances = (spread**2).sum(axis=1).reshape(len(atoms), 3)
        if noise:
            variances = variances + self.force_noise() ** 2
        std: np.ndarray = np.sqrt(variances.sum(axis=1))
        return std

    def force_noise(self, group: str = "default") -> float:
        """Standard deviation of the residual of a force component that the solver inferred (eV/Å).

        Depends on the weight of forces in the group, the default weight for groups that were not fitted.
        """
        if self.solution.noise is None:
            raise ValueError(f"noise: solver {self.solution.solver!r} infers none; fit with 'ard'")
        weights = self.settings.get("weights", {})
        weight = weights.get(group, DEFAULT_WEIGHTS)["forces"]
        return self.solution.noise / float(np.sqrt(weight)) if weight > 0 else 0.0

    def energy_std(self, atoms: Atoms) -> float:
        """Standard deviation of the total energy (eV)."""
        row = self.potential.basis.rows(atoms, forces=False, virial=False).energy
        return float(np.linalg.norm(row @ self.covariance_root))

    def calibrate(self, images: Observations | Atoms | Iterable[Atoms], noise: bool = True) -> Calibration:
        """Compare predicted standard deviations of forces with the actual errors on held-out data.

        Parameters
        ----------
        images : Observations, ase.Atoms or iterable of ase.Atoms
            With forces, not those that were fitted.
        noise : bool
            Whether the predicted variances contain that of the residuals, as in :meth:`force_std`.

        Returns
        -------
        Calibration
            Its ``factor`` is for :meth:`write_uncertainty`.

        Raises
        ------
        ValueError
            The solver gave no covariance; no forces.
        """
        root = self.covariance_root
        held_out = images if isinstance(images, Observations) else Observations().add_configurations(images)
        return calibration(self, held_out, root, noise)

    def write_uncertainty(self, atoms: Atoms, factor: float = 1.0, noise: bool = False) -> None:
        """Store :meth:`force_std`, times a calibration `factor`, as array ``force_std`` and initial charges.

        ``ase gui`` colours atoms by initial charge (View, Colors).
        """
        std = factor * self.force_std(atoms, noise)
        atoms.set_array("force_std", std, float)
        atoms.set_initial_charges(std)


def fit_ace(
    basis: ACEBasis,
    observations: Observations,
    solver: str = "ard",
    weights: Mapping[str, Any] | None = None,
    *,
    reference_energies: Mapping[str, float] | None = None,
    smoothness: float = 0.0,
    streamed: bool = False,
    progress: bool = False,
    **options: Any,
) -> FitResult:
    """Fit the coefficients of a linear ACE potential by weighted least squares.

        ``L(c) = sum_R ( W_E |E_R - E(c)|^2 / n_R + W_F |F_R - F(c)|^2 + W_V |V_R - V(c)|^2 / n_R )``

    over configurations R of n_R atoms, with weights by group, and ``sum_j W_j (eps_j)^2`` for derivatives at
    crystals, with the errors of :func:`matching_errors`.

    Parameters
    ----------
    basis : ACEBasis
    observations : Observations
    solver : str
        See :func:`solve_linear`.
    weights : mapping, optional
        ``{kind: number}`` or ``{group: {kind: number}}``, see :func:`resolve_weights`.
    reference_energies : mapping of str to float, optional
        Energies of free atoms (eV) by element, taken as they are. Default: those that fit the energies best
        without interaction, by least squares; without energies, those that give crystals their energy.
    smoothness : float
        Exponent of the smoothness prior, see :func:`smoothness_prior`; zero: none.
    streamed : bool
        Never hold more than one configuration's rows; twice the time, and not for Bayesian solvers.
    progress : bool
        Show progress bars.
    **options
        Of :func:`solve_linear`.

    Returns
    -------
    FitResult

    Raises
    ------
    ValueError
        No data; weights, solver or options that do not exist; too few data or a rank-deficient design for the
        solver "qr".
    StructureError
        A configuration with an element that the basis lacks.

    References
    ----------
    Generalisation of point defects, eq. (4.2); of dislocations, eq. (4.16); part 3, eqs. (4.1), (4.2);
    adaptive QM/MM coupling, eq. (4.5).
    """
    if not isinstance(basis, ACEBasis):
        raise TypeError(f"basis: got {type(basis).__name__}, expected ACEBasis")
    if not isinstance(observations, Observations):
        raise TypeError(f"observations: got {type(observations).__name__}, expected Observations")
    if not observations.sources:
        raise ValueError("observations: none; add some with add_configurations")
    for c in observations.configurations:
        basis.species(c.atoms)
    for d in observations.derivatives:
        basis.species(d.crystal.unit_cell)
    by_group = resolve_weights(observations, weights)
    free = _reference_energies(basis, observations, reference_energies)
    prior = smoothness_prior(basis, smoothness) if smoothness else None

    def blocks(text: str) -> Any:
        for source in tqdm(observations.sources, desc=text, disable=not progress):
            yield from source.blocks(basis, by_group[source.group], free)

    kept: list[Block] | None = None
    if streamed:
        factor = QRBlocks(len(basis))
        for block in blocks("rows"):
            root = np.sqrt(block.factors)
            factor.add(block.design * root[:, None], block.targets * root)
        solution = solve_linear(factor, solver=solver, prior=prior, **options)
    else:
        kept = list(blocks("rows"))
        if not kept:
            raise ValueError("weights: all data have weight zero")
        root = np.sqrt(np.concatenate([b.factors for b in kept]))
        design = np.concatenate([b.design for b in kept]) * root[:, None]
        targets = np.concatenate([b.targets for b in kept]) * root
        solution = solve_linear(design, targets, solver, prior=prior, **options)
    errors = error_table(parity_table(blocks("errors") if kept is None else kept, solution.coefficients))
    potential = ACEPotential(basis, solution.coefficients, reference_energies=free)
    if reference_energies is None and all(c.energy is None for c in observations.configurations):
        free = _crystal_references(potential, observations)
        potential = ACEPotential(basis, solution.coefficients, reference_energies=free)
    settings = {
        "weights": by_group,
        "smoothness": smoothness,
        "reference_energies": dict(free),
        "observations": repr(observations),
        "observations_sha256": observations.digest(),
    }
    result = FitResult(potential, errors, solution, settings)
    log.info("%s", result)
    return result


def smoothness_prior(basis: ACEBasis, exponent: float = 2.0) -> np.ndarray:
    """``prod_t (1 + n_t + 1.5 l_t)^exponent`` of each basis function (K,): rough functions are held small."""
    return np.array(
        [
            np.prod([(1.0 + n + 1.5 * l) ** exponent for n, l in zip(f.n, f.l, strict=True)])
            for f in basis.functions
        ]
    )


def _reference_energies(
    basis: ACEBasis, observations: Observations, given: Mapping[str, float] | None
) -> dict[str, float]:
    if given is not None:
        missing = sorted(set(observations.elements) - set(given))
        if missing:
            raise ValueError(f"reference_energies: none for {', '.join(missing)}")
        return {e: float(given.get(e, 0.0)) for e in basis.elements}
    known = [c for c in observations.configurations if c.energy is not None]
    counts = np.array([[np.sum(c.atoms.symbols == e) for e in basis.elements] for c in known], dtype=float)
    energies = np.array([c.energy for c in known], dtype=float)
    if not len(known):
        return dict.fromkeys(basis.elements, 0.0)
    sizes = counts.sum(axis=1).clip(min=1)
    fitted = np.linalg.lstsq(counts / sizes[:, None], energies / sizes, rcond=None)[0]
    return dict(zip(basis.elements, map(float, fitted), strict=True))


def _crystal_references(potential: ACEPotential, observations: Observations) -> dict[str, float]:
    """Reference energies that give crystals their energies, the smallest ones if there is a choice."""
    elements = potential.basis.elements
    cells = [d.crystal.unit_cell for d in observations.derivatives]
    if not cells:
        return potential.reference_energies
    counts = np.array([[np.sum(a.symbols == e) for e in elements] for a in cells], dtype=float)
    missing = [
        d.energy - potential.get_property("free_energy", a)
        for d, a in zip(observations.derivatives, cells, strict=True)
    ]
    found = np.linalg.lstsq(counts, np.array(missing), rcond=None)[0]
    return dict(zip(elements, map(float, found), strict=True))
