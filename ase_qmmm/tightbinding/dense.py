"""Weighted site energies and their exact gradient from the whole spectrum of dense matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from ..sites import SiteResult
from .functionals import OCCUPIED, LevelFunctional, add_spectral
from .matrices import Matrices, spin_channels
from .repulsion import Repulsion
from .response import plain_gradient
from .spectrum import States, eigenstates, entropy, fermi, fermi_slopes, find_mu, reduced_kpoints
from .weighted import Gradient, weighted_gradients

if TYPE_CHECKING:
    from .calculator import TightBinding

__all__ = ["Solution", "solve", "evaluate", "populations"]


@dataclass
class Solution:
    """Eigenstates of a structure, per spin, and the functional of their levels."""

    channels: list[Matrices]
    states: list[list[States]]
    functional: LevelFunctional

    def __iter__(self) -> Iterator[tuple[Matrices, list[States]]]:
        return iter(zip(self.channels, self.states, strict=True))


def solve(calc: TightBinding, atoms: Atoms, order: int, *, occupied: bool = False) -> Solution:
    """Eigenstates of `atoms` in the ensemble of `calc`; matrices with derivatives up to `order`.

    With `occupied` empty levels need no vectors, and have none where this saves time.
    """
    channels = spin_channels(calc.model, atoms, order)
    kpoints, weights = reduced_kpoints(calc.kpts, atoms)

    mu = calc.mu

    def n_occupied(levels: np.ndarray) -> int:
        nonlocal mu
        if mu is None:
            alone = States(kpoints, weights, levels[None], np.zeros((1, 0, 0)))
            mu = find_mu([alone], channels[0].n_electrons, calc.kT)
        return int(np.searchsorted(levels, mu + OCCUPIED * calc.kT))

    # With several k-points or spins mu is known only after all of them.
    known = calc.mu is not None or len(kpoints) * len(channels) == 1
    count = n_occupied if occupied and known else None
    states = [eigenstates(matrices, kpoints, weights, count) for matrices in channels]
    everything = [s for channel in states for s in channel]
    if mu is None:
        mu = find_mu(everything, channels[0].n_electrons, calc.kT)
    theta = 0.0
    if calc.kind == "band" and calc.mu is None:
        slopes = [s.weights[:, None] * fermi_slopes(s.levels, mu, calc.kT)[0] for s in everything]
        total = sum(slope.sum() for slope in slopes)
        moment = sum((slope * s.levels).sum() for slope, s in zip(slopes, everything, strict=True))
        theta = float(moment / total) if abs(total) > 1e-200 else mu
    return Solution(channels, states, LevelFunctional(calc.kind, mu, calc.kT, calc.mu is None, theta))


def evaluate(calc: TightBinding, atoms: Atoms, site_weights: np.ndarray | None) -> SiteResult:
    """Energy of checked, non-empty `atoms` with checked `site_weights` (n,) or None."""
    solution = solve(calc, atoms, order=1, occupied=site_weights is None)
    functional = solution.functional
    calc.last_mu = functional.mu
    n = len(atoms)
    energies, heat, forces, virial = np.zeros(n), np.zeros(n), np.zeros((n, 3)), np.zeros((3, 3))
    gradients: list[Gradient]
    if site_weights is None:
        gradients = [plain_gradient(matrices, states, functional) for matrices, states in solution]
    else:
        gradients = weighted_gradients(list(solution), functional, site_weights)
    extrapolated = functional.kind == "free" and functional.fixed_number
    for (matrices, states), (d_h, d_m, values) in zip(solution, gradients, strict=True):
        channel_heat = np.zeros(n)
        if extrapolated or (values is None and functional.variational):
            channel_heat = _site_heat(matrices, states, functional)
        heat += channel_heat
        energies += _site_energies(matrices, states, functional, channel_heat, (d_h, d_m, values))
        f, v = matrices.forces_and_virial(matrices.pair_gradients(d_h, d_m))
        forces += f
        virial += v
    if calc.model.repulsive:
        repulsion = Repulsion(solution.channels[0])
        energies += repulsion.energies
        f, v = repulsion.forces_and_virial(site_weights)
        forces += f
        virial += v
    energy = float(energies.sum() if site_weights is None else site_weights @ energies)
    cold = energies + heat / 2 if extrapolated else None
    return SiteResult(energy, energies, forces, virial, cold)


def populations(solution: Solution) -> np.ndarray:
    """Mulliken electron number of each atom (n,)."""
    total = np.zeros(solution.channels[0].n_atoms)
    functional = solution.functional
    for matrices, states in solution:
        density = matrices.pattern()
        for s in states:
            factors = 2 * fermi(s.levels, functional.mu, functional.kT)
            add_spectral(matrices, density, s, factors)
        total += matrices.site_traces(density)
    return total


def _site_energies(
    matrices: Matrices,
    states: list[States],
    functional: LevelFunctional,
    heat: np.ndarray,
    gradient: Gradient,
) -> np.ndarray:
    """Site energies (n,) of the functional, eV, with as few products as the gradient leaves to do."""
    d_h, d_m, values = gradient
    if values is None and functional.variational:
        # D_H and -D_M are the density matrix and its energy-weighted version: no further product needed.
        energies: np.ndarray = -matrices.site_traces(d_m) - heat
        if functional.kind == "grand":
            energies -= functional.mu * matrices.site_traces(d_h)
        return energies
    if values is None:
        values = matrices.pattern()
        for s in states:
            add_spectral(matrices, values, s, functional.values(s.levels))
    return matrices.site_traces(values)


def _site_heat(matrices: Matrices, states: list[States], functional: LevelFunctional) -> np.ndarray:
    """Product of kT and the site entropies (n,), eV."""
    heat = matrices.pattern()
    for s in states:
        # Only levels near mu carry entropy, so that this product is small.
        factors = 2 * functional.kT * entropy(s.levels, functional.mu, functional.kT)
        add_spectral(matrices, heat, s, factors)
    return matrices.site_traces(heat)
