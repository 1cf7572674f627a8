"""Derivatives of the forces at a perfect crystal from displaced supercells, for any ASE calculator."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from ..crystal import Crystal
from ..errors import check_positive, checked_keywords
from ..symmetry import Operation, Site, stencil_permutation
from .crystal_derivatives import CrystalDerivatives
from .displacements import DisplacedSupercells, Image, Supercell, spanning_directions, symmetry_operations
from .force_jobs import CalculatorSource, ForceJobs
from .site_symmetry import spread, taken, turned
from .sum_rules import exchanged, satisfy_sum_rules

__all__ = ["displacement_derivatives"]

log = logging.getLogger(__name__)

# Displacements (Å) by order: second differences of forces with a noise of 1e-5 eV/Å need larger ones.
STEPS = {1: 0.01, 2: 0.03}
# Forces (eV/Å) on the perfect crystal above which a warning is logged.
RESIDUAL = 0.01
# Violation of symmetry, relative to the largest derivative, above which a warning is logged.
ASYMMETRY = 0.01


@checked_keywords
def displacement_derivatives(
    calc: CalculatorSource,
    crystal: Crystal,
    order: int = 1,
    cutoff: float | Sequence[float] = 5.0,
    *,
    step: float | Sequence[float] | None = None,
    supercell: Any = None,
    symmetry: bool = True,
    sum_rules: bool = True,
    executor: Any = None,
    cache: str | Path | None = None,
    identity: str | None = None,
    progress: bool = False,
) -> CrystalDerivatives:
    """Derivatives ``d^j F``, j = 1 .. `order` (at most 2), of the forces of any ASE calculator.

    These are the force constants of second and third order with a minus sign, one index at the middle atom,
    from central differences in a supercell,

        d F(a) = [F(h a) - F(-h a)] / 2h,
        d2 F(a, b) = [F(h a, h b) - F(h a, -h b) - F(-h a, h b) + F(-h a, -h b)] / 4h^2,

    with one atom of the cell displaced along a, and for the second order one of its neighbours along b. Only
    atoms, neighbours and directions that the space group does not map onto each other are displaced, and none
    of two structures that are images of each other is computed.

    The derivatives have the symmetry of the space group and of exchanged indices, those of second order also
    satisfy the sum rules of translation (`sum_rules`). Those of second order are zero unless all three atoms
    are within the cutoff of each other, as is usual for force constants of third order.

    Parameters
    ----------
    calc : ase.calculators.calculator.Calculator or callable
        See :class:`~ase_qmmm.taylor.ForceJobs`. Its k-points are those of the supercell.
    crystal : Crystal
        At the lattice constant of `calc` (:meth:`ase_qmmm.Crystal.relaxed`).
    order : int
        1 or 2.
    cutoff : float or sequence of float
        Å; one for all orders, or one per order.
    step : float or sequence of float, optional
        Displacement h (Å), one or one per order; 0.01 and 0.03. Errors are of second order in it, while noise
        of the forces is divided by h and h^2.
    supercell : int, sequence of int, or (3, 3) integer matrix, optional
        Repetitions of the unit cell, for all orders. Default: for each order the smallest whose Wigner–Seitz
        cell holds the cutoff (:meth:`ase_qmmm.Crystal.box_for_radius`); images of the displaced atoms are at
        twice the cutoff then.
    symmetry : bool
        False: displace everything, whatever the symmetry. Operations that exchange different initial magnetic
        moments or charges are left out in any case.
    sum_rules : bool
        Replace the second order by the nearest tensors that satisfy all sum rules. What they change is what
        the cutoff left out; it is logged.
    executor, cache, identity, progress
        See :class:`~ase_qmmm.taylor.ForceJobs`.

    Returns
    -------
    CrystalDerivatives
        Of kind "force"; all basis atoms have the same energy, that of the perfect supercell per atom.

    Raises
    ------
    ValueError
        `order`, `cutoff` or `step` out of range; a supercell in which images of an atom are not more than
        twice the cutoff apart.
    NumericsError
        A force calculation failed, or gave something else than finite forces.

    References
    ----------
    H. Chen and C. Ortner, Multiscale Model. Simul. 15, 184 (2017), eqs. (15), (71).

    Examples
    --------
    >>> from ase.build import bulk
    >>> from ase.calculators.emt import EMT
    >>> from ase_qmmm import Crystal
    >>> from ase_qmmm.taylor import displacement_derivatives
    >>> crystal = Crystal.relaxed(bulk("Cu"), EMT())
    >>> d = displacement_derivatives(EMT(), crystal, order=2, cutoff=(6.0, 2.6))
    >>> d.tensors[1][0].shape, d.tensors[2][0].shape
    ((3, 78, 3), (3, 12, 3, 12, 3))
    """
    cutoffs = check_orders(crystal, order, cutoff)
    steps = dict(STEPS) if step is None else _per_order("step", step, order)
    group = symmetry_operations(crystal, symmetry)
    jobs = ForceJobs(calc, executor=executor, cache=cache, identity=identity, progress=progress)
    cells = {j: Supercell(crystal, supercell, radius) for j, radius in cutoffs.items()}
    tensors: dict[int, list[np.ndarray]] = {}
    energies, residual = np.zeros(0), np.zeros((0, 3))
    with jobs:
        for j, radius in cutoffs.items():
            difference = _Differences(crystal, cells[j], group, radius, j, steps[j])
            structures, names = difference.displaced.structures()
            atoms = cells[j].atoms
            log.info("order %d: %d displaced supercells of %d atoms", j, len(structures), len(atoms))
            perfect = [atoms.copy()] if j == 1 else []
            found, forces = jobs.run(perfect + structures, ["not displaced"] * len(perfect) + names)
            if perfect:
                energies = np.full(crystal.n_basis, found[0] / len(atoms))
                check_residual(forces[0], jobs.label)
                origins: list[Site] = [(b, (0,) * len(crystal.lattice)) for b in range(crystal.n_basis)]
                residual = forces[0][cells[j].indices(origins)]
            forces = forces[len(perfect) :]
            tensors[j] = difference.tensors(forces)
            asymmetry = difference.displaced.asymmetry(radius, forces, residual) / steps[j] ** j
            _check_symmetry(asymmetry / max(float(np.abs(t).max()) for t in tensors[j]), j, jobs.label)
    if order == 2 and sum_rules:
        tensors[2] = satisfy_sum_rules(crystal, cutoffs[2], tensors[2])
    return CrystalDerivatives(crystal, "force", cutoffs, tensors, energies, jobs.label)


def check_orders(crystal: Crystal, order: int, cutoff: float | Sequence[float]) -> dict[int, float]:
    """Cutoffs (Å) by order, if these arguments make sense."""
    if not isinstance(crystal, Crystal):
        raise TypeError(f"crystal: got {type(crystal).__name__}, expected Crystal (make one of a unit cell)")
    if isinstance(order, bool) or order not in (1, 2):
        raise ValueError(f"order: got {order!r}, expected 1 or 2")
    cutoffs = _per_order("cutoff", cutoff, order)
    near = crystal.nearest_neighbour_distance
    for radius in cutoffs.values():
        if radius < near - 1e-6:
            raise ValueError(
                f"cutoff: got {radius:g} Å, expected at least the nearest-neighbour distance, {near:.4f} Å"
            )
    return cutoffs


def _per_order(name: str, values: float | Sequence[float], order: int) -> dict[int, float]:
    numbers = list(np.atleast_1d(np.asarray(values, dtype=float)))
    numbers = numbers * order if len(numbers) == 1 else numbers
    if len(numbers) != order:
        raise ValueError(f"{name}: got {len(numbers)} values for {order} orders; give one, or one per order")
    return {j: check_positive(name, float(x), "Å") for j, x in enumerate(numbers, start=1)}


def check_residual(forces: np.ndarray, label: str) -> None:
    """Log a warning if atoms of the perfect crystal are not in equilibrium."""
    largest = float(np.abs(forces).max(initial=0.0))
    if largest > RESIDUAL:
        log.warning(
            "%s: forces up to %.3g eV/Å on the perfect crystal, which a Taylor model leaves out; relax the "
            "crystal with this calculator (Crystal.relaxed)",
            label,
            largest,
        )


def _check_symmetry(asymmetry: float, order: int, label: str) -> None:
    log.info("order %d: symmetry of the forces holds to %.1e of the derivatives", order, asymmetry)
    if asymmetry > ASYMMETRY:
        log.warning(
            "%s: forces miss the symmetry of the displaced structures, by %.1f %% of the largest derivative "
            "of order %d: use k-points with the symmetry of the crystal (centred at Gamma), converge "
            "self-consistency, take a supercell with the lattice's symmetry, or set symmetry=False",
            label,
            100 * asymmetry,
            order,
        )


class _Differences:
    """Difference quotients of one order: which structures they need, and the tensors that follow."""

    def __init__(
        self,
        crystal: Crystal,
        supercell: Supercell,
        group: list[Operation],
        cutoff: float,
        order: int,
        step: float,
    ) -> None:
        self.crystal, self.group, self.cutoff, self.order, self.step = crystal, group, cutoff, order, step
        self.displaced = DisplacedSupercells(supercell, group)
        # Of each inequivalent atom, and each inequivalent neighbour of it: directions, and images of the
        # structures for each combination of signs.
        self.plans: dict[int, dict[int, list[tuple[tuple[np.ndarray, ...], list[Image]]]]] = {}
        for basis in range(crystal.n_basis):
            if any(op.sites[basis] < basis for op in group):
                continue
            permutations = self._permutations(basis)
            chosen = np.unique(np.min(permutations, axis=0)) if order == 2 else [-1]
            self.plans[basis] = {int(k): self._plan(basis, int(k)) for k in chosen}

    def _own(self, basis: int) -> list[Operation]:
        return [op for op in self.group if op.sites[basis] == basis]

    def _permutations(self, basis: int) -> list[np.ndarray]:
        return [stencil_permutation(self.crystal, op, basis, self.cutoff) for op in self._own(basis)]

    def _leaving(self, basis: int, neighbour: int) -> list[tuple[Operation, np.ndarray]]:
        """Operations that leave a basis atom and one of its neighbours (-1: none) where they are."""
        pairs = zip(self._own(basis), self._permutations(basis), strict=True)
        return [(op, p) for op, p in pairs if neighbour < 0 or p[neighbour] == neighbour]

    def _stencil(self, basis: int) -> list[Site]:
        _, others, cells = self.crystal.stencil_sites(basis, self.cutoff)
        return [(int(b), tuple(int(x) for x in c)) for b, c in zip(others, cells, strict=True)]

    def _plan(self, basis: int, neighbour: int) -> list[tuple[tuple[np.ndarray, ...], list[Image]]]:
        origin: Site = (basis, (0,) * len(self.crystal.lattice))
        sites = (origin,) if neighbour < 0 else (origin, self._stencil(basis)[neighbour])
        rotations = [op.rotation for op, _ in self._leaving(basis, neighbour)]

        def signed(directions: tuple[np.ndarray, ...]) -> list[tuple[tuple[Site, ...], np.ndarray]]:
            vectors = self.step * np.array(directions)
            return [(sites, np.array(s)[:, None] * vectors) for s in product((1, -1), repeat=self.order)]

        seeds = spanning_directions(
            self.crystal, rotations, self.order, lambda d: self.displaced.cost(signed(d))
        )
        return [(seed, [self.displaced.add(*c) for c in signed(seed)]) for seed in seeds]

    def tensors(self, forces: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Derivatives of all basis atoms from the forces of the displaced structures."""
        out: dict[int, np.ndarray] = {}
        for basis in range(self.crystal.n_basis):
            source = next((op for op in self.group if int(op.sites[basis]) in out), None)
            if source is not None:
                permutation = stencil_permutation(self.crystal, source, basis, self.cutoff)
                picked = taken(out[int(source.sites[basis])], permutation, "force", self.order)
                out[basis] = turned(picked, source.rotation.T, "force", self.order)
            else:
                out[basis] = self._site_tensor(basis, forces)
        return exchanged(self.crystal, self.cutoff, [out[b] for b in range(self.crystal.n_basis)])

    def _site_tensor(self, basis: int, forces: Sequence[np.ndarray]) -> np.ndarray:
        parts = {k: self._solve(basis, k, plan, forces) for k, plan in self.plans[basis].items()}
        if self.order == 1:
            # The force on the neighbour by the displacement of the middle atom: the same by exchange.
            return parts[-1].reshape(3, -1, 3)
        size = len(self._stencil(basis))
        chosen = np.array(list(parts))
        part = np.stack([p.reshape(3, 3, size, 3) for p in parts.values()], axis=1)
        return spread(part, chosen, self._own(basis), self._permutations(basis), "force")

    def _solve(
        self,
        basis: int,
        neighbour: int,
        plan: list[tuple[tuple[np.ndarray, ...], list[Image]]],
        forces: Sequence[np.ndarray],
    ) -> np.ndarray:
        """Derivatives (3^order, s, 3) by all directions, from those measured and their images."""
        stencil = self._stencil(basis)
        signs = [np.prod(s) for s in product((1, -1), repeat=self.order)]
        left, right = [], []
        for directions, images in plan:
            change: np.ndarray = sum(  # type: ignore[assignment]  # never an empty sum
                sign * self.displaced.forces(image, stencil, forces)
                for sign, image in zip(signs, images, strict=True)
            )
            change = change / (2 * self.step) ** self.order
            for op, permutation in self._leaving(basis, neighbour):
                row = np.ones(1)
                for direction in directions:
                    row = np.kron(row, op.rotation @ direction)
                image = np.empty_like(change)
                image[permutation] = change @ op.rotation.T
                left.append(row)
                right.append(image.ravel())
        solution: np.ndarray = np.linalg.lstsq(np.array(left), np.array(right), rcond=None)[0]
        return solution.reshape(3**self.order, len(stencil), 3)
