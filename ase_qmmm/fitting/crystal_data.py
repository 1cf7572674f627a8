"""Derivatives at a perfect crystal as data of a fit: the matching conditions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np

from ..crystal import Crystal
from ..errors import check_positive
from ..taylor.cauchy_born import CauchyBornDerivatives
from ..taylor.crystal_derivatives import CrystalDerivatives
from ..taylor.orbits import TupleOrbits, orbit_means, tuple_orbits
from .blocks import Block

__all__ = ["CauchyBornData", "StencilData", "cauchy_born_data", "stencil_data"]

METHODS = {"energy": "site_energy_derivatives", "force": "force_derivatives"}
ROWS = {"energy": "site_energy_derivative_rows", "force": "force_derivative_rows"}
NAMES = {"energy": "dV", "force": "dF"}


@dataclass(frozen=True)
class StencilData:
    """Derivatives of site energies or forces, one tuple of stencil vectors of each symmetry class.

    Attributes
    ----------
    crystal : Crystal
    kind : {"energy", "force"}
    cutoffs : dict of int to float
        By order (Å).
    orbits : dict of int to list of TupleOrbits
        By order, for each inequivalent basis atom.
    targets : dict of int to list of ndarray
        Likewise, shape (m, 3, 3, ..): eV/Å^j, or eV/Å^(j+1) for forces.
    gamma : float
        1/Å, of the weights ``exp(2 gamma (|rho_1| + .. + |rho_j|))`` of squared errors.
    energy : float
        Of a cell of the crystal (eV).
    group : str
    label : str
        The model that the data come from.
    """

    crystal: Crystal
    kind: str
    cutoffs: dict[int, float]
    orbits: dict[int, list[TupleOrbits]]
    targets: dict[int, list[np.ndarray]]
    gamma: float
    energy: float
    group: str
    label: str

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of data by kind, after the reduction by symmetry."""
        return {f"{NAMES[self.kind]}{j}": sum(t.size for t in parts) for j, parts in self.targets.items()}

    @property
    def arrays(self) -> list[np.ndarray]:
        """What is fitted, for checksums."""
        parts = [
            a
            for j in self.targets
            for o, t in zip(self.orbits[j], self.targets[j], strict=True)
            for a in (o.tuples, t)
        ]
        return [np.array([self.gamma, *self.cutoffs.values()]), *parts]

    def blocks(self, basis: Any, weights: Mapping[str, float], _: Mapping[str, float]) -> Iterator[Block]:
        """Rows of a linear model by order."""
        name = NAMES[self.kind]
        used = [j for j in self.targets if weights[f"{name}{j}"] > 0]
        if not used:
            return
        none = np.zeros((0, 1), dtype=int)
        tuples = {}
        for j in range(1, max(used) + 1):
            own = {o.basis: o.tuples for o in self.orbits[j]} if j in used else {}
            tuples[j] = [own.get(b, none.repeat(j, axis=1)) for b in range(self.crystal.n_basis)]
        rows = getattr(basis, ROWS[self.kind])(
            self.crystal, max(used), [self.cutoffs[j] for j in tuples], tuples=tuples
        )
        for j in used:
            for o, target in zip(self.orbits[j], self.targets[j], strict=True):
                if not len(o.tuples):
                    continue
                design = rows.tensors[j][o.basis].reshape(target.size, -1)
                lengths = np.linalg.norm(self.crystal.stencil(o.basis, self.cutoffs[j]), axis=1)
                decay = np.exp(2 * self.gamma * lengths[o.tuples].sum(axis=1))
                each = target[0].size
                sizes = np.repeat(o.sizes, each).astype(float)
                factors = weights[f"{name}{j}"] * np.repeat(decay, each) * sizes
                remaining = (target - rows.core.tensors[j][o.basis]).ravel()
                yield Block(self.group, f"{name}{j}", design, remaining, factors, 1.0, sizes)


@dataclass(frozen=True)
class CauchyBornData:
    """Derivatives of the energy of a cell by the deformation, the basis atoms held at their places in it.

    Attributes
    ----------
    crystal : Crystal
    targets : dict of int to ndarray
        By order, distinct entries (m,) in eV.
    energy : float
        eV per cell.
    group : str
    label : str
        The model that the data come from.
    """

    crystal: Crystal
    targets: dict[int, np.ndarray]
    energy: float
    group: str
    label: str

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of data by kind, after the reduction by exchange of indices."""
        return {f"W{j}": len(t) for j, t in self.targets.items()}

    @property
    def arrays(self) -> list[np.ndarray]:
        """What is fitted, for checksums."""
        return list(self.targets.values())

    def blocks(self, basis: Any, weights: Mapping[str, float], _: Mapping[str, float]) -> Iterator[Block]:
        """Rows of a linear model by order."""
        used = [j for j in self.targets if weights[f"W{j}"] > 0]
        if not used:
            return
        rows = basis.cauchy_born_rows(self.crystal, max(used))
        for j in used:
            places, sizes = _distinct(j)
            design = rows.tensors[j].reshape(9**j, -1)[places]
            target = self.targets[j] - rows.core.tensors[j].ravel()[places]
            yield Block(self.group, f"W{j}", design, target, weights[f"W{j}"] * sizes, 1.0, sizes)


def stencil_data(
    kind: str,
    source: Any,
    crystal: Crystal | None,
    order: int | None,
    cutoff: float | Sequence[float],
    gamma: float,
    group: str,
) -> StencilData:
    """See :meth:`Observations.add_site_derivatives` and :meth:`Observations.add_force_constants`."""
    gamma = check_positive("gamma", gamma, "1/Å", zero=True)
    most = 3 if kind == "energy" else 2
    if isinstance(source, CrystalDerivatives):
        if source.kind != kind:
            raise ValueError(f"model: got derivatives of kind {source.kind!r}, expected {kind!r}")
        order = max(source.tensors) if order is None else _checked_order(order, most)
        missing = sorted(set(range(1, order + 1)) - set(source.tensors))
        if missing:
            raise ValueError(f"order: the derivatives given have none of order {missing[0]}")
        found = source
    else:
        order = _checked_order({"energy": 2, "force": 1}[kind] if order is None else order, most)
        found = getattr(source, _method(source, METHODS[kind]))(_checked_crystal(crystal), order, cutoff)
    for j in range(1, order + 1):
        for b, tensor in enumerate(found.tensors[j]):
            if not np.isfinite(tensor).all():
                raise ValueError(f"model: the derivatives of order {j} of basis atom {b} are not finite")
    orbits = {j: tuple_orbits(found.crystal, j, found.cutoffs[j]) for j in range(1, order + 1)}
    targets = {j: [orbit_means(found, j, o) for o in parts] for j, parts in orbits.items()}
    cutoffs = {j: found.cutoffs[j] for j in orbits}
    energy = float(np.sum(found.energies))
    return StencilData(found.crystal, kind, cutoffs, orbits, targets, gamma, energy, group, found.label)


def cauchy_born_data(source: Any, crystal: Crystal | None, order: int | None, group: str) -> CauchyBornData:
    """See :meth:`Observations.add_virial_derivatives`."""
    if isinstance(source, CauchyBornDerivatives):
        order = max(source.tensors) if order is None else _checked_order(order, 3)
        missing = sorted(set(range(1, order + 1)) - set(source.tensors))
        if missing:
            raise ValueError(f"order: the derivatives given have none of order {missing[0]}")
        found = source
    else:
        order = _checked_order(2 if order is None else order, 3)
        method = _method(source, "cauchy_born_derivatives")
        found = getattr(source, method)(_checked_crystal(crystal), order)
    if found.relaxed:
        raise ValueError("model: the basis atoms follow the deformation; use derivatives with relaxed=False")
    targets = {}
    for j in range(1, order + 1):
        if not np.isfinite(found.tensors[j]).all():
            raise ValueError(f"model: the derivatives of order {j} by the deformation are not finite")
        targets[j] = found.tensors[j].ravel()[_distinct(j)[0]]
    return CauchyBornData(found.crystal, targets, float(found.energy), group, found.label)


def _distinct(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat places of the entries that exchange of index pairs leaves, and how often each occurs."""
    tuples = np.array(list(combinations_with_replacement(range(9), order)))
    powers = 9 ** np.arange(order - 1, -1, -1)
    every = np.stack(np.unravel_index(np.arange(9**order), (9,) * order), axis=1)
    codes = np.sort(every, axis=1) @ powers
    places = tuples @ powers
    return places, np.bincount(codes, minlength=9**order)[places].astype(float)


def _method(source: Any, name: str) -> str:
    if not hasattr(source, name):
        raise TypeError(f"model: {type(source).__name__} has no {name}")
    return name


def _checked_crystal(crystal: Any) -> Crystal:
    if not isinstance(crystal, Crystal):
        raise TypeError(f"crystal: got {type(crystal).__name__}, expected Crystal (make one of a unit cell)")
    return crystal


def _checked_order(order: Any, most: int) -> int:
    if isinstance(order, bool) or order not in range(1, most + 1):
        raise ValueError(f"order: got {order!r}, expected a whole number from 1 to {most}")
    return int(order)
