"""Weighted site energies and their exact gradient from the whole spectrum of dense matrices."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from ..sites import SiteResult
from .functionals import LevelFunctional, divided_differences, spectral_product
from .matrices import Matrices, PatternDensity, spin_channels
from .repulsion import Repulsion
from .response import plain_gradient
from .spectrum import States, eigenstates, entropy, fermi, fermi_slopes, find_mu, reduced_kpoints

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


def solve(calc: TightBinding, atoms: Atoms, order: int) -> Solution:
    """Eigenstates of `atoms` in the ensemble of `calc`; matrices with derivatives up to `order`."""
    channels = spin_channels(calc.model, atoms, order)
    kpoints, weights = reduced_kpoints(calc.kpts, atoms)
    states = [eigenstates(matrices, kpoints, weights) for matrices in channels]
    everything = [s for channel in states for s in channel]
    mu = calc.mu
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
    solution = solve(calc, atoms, order=1)
    functional = solution.functional
    calc.last_mu = functional.mu
    n = len(atoms)
    energies, heat, forces, virial = np.zeros(n), np.zeros(n), np.zeros((n, 3)), np.zeros((3, 3))
    gradients: list[Gradient]
    if site_weights is None:
        gradients = [plain_gradient(matrices, states, functional) for matrices, states in solution]
    else:
        gradients = _weighted_gradients(solution, site_weights)
    for (matrices, states), (d_h, d_m, values) in zip(solution, gradients, strict=True):
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
    cold = energies + heat / 2 if functional.kind == "free" and functional.fixed_number else None
    return SiteResult(energy, energies, forces, virial, cold)


def populations(solution: Solution) -> np.ndarray:
    """Mulliken electron number of each atom (n,)."""
    total = np.zeros(solution.channels[0].n_atoms)
    functional = solution.functional
    for matrices, states in solution:
        density = matrices.pattern()
        for s in states:
            factors = 2 * fermi(s.levels, functional.mu, functional.kT)
            matrices.gather(density, spectral_product(s, factors), s.kpoints, s.weights)
        total += matrices.site_traces(density)
    return total


Gradient = tuple[PatternDensity, PatternDensity, PatternDensity | None]


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
            matrices.gather(values, spectral_product(s, functional.values(s.levels)), s.kpoints, s.weights)
    return matrices.site_traces(values)


def _site_heat(matrices: Matrices, states: list[States], functional: LevelFunctional) -> np.ndarray:
    """Product of kT and the site entropies (n,), eV; zero for the band energy, which has none."""
    heat = matrices.pattern()
    if functional.kind != "band":
        for s in states:
            # Only levels near mu carry entropy, so that this product is small.
            factors = 2 * functional.kT * entropy(s.levels, functional.mu, functional.kT)
            matrices.gather(heat, spectral_product(s, factors), s.kpoints, s.weights)
    return matrices.site_traces(heat)


def _weighted_gradients(solution: Solution, site_weights: np.ndarray) -> list[Gradient]:
    """``D_H``, ``D_M`` and ``P = C g C^H`` of each spin for given site weights."""
    functional = solution.functional
    gradients: list[Gradient] = []
    mu_slope, number_slope = 0.0, 0.0
    for matrices, states in solution:
        d_h, d_m, p = matrices.pattern(), matrices.pattern(), matrices.pattern()
        orbital_weights = site_weights[matrices.atom_of_orbital]
        rows = np.flatnonzero(orbital_weights)
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
        gradients.append((d_h, d_m, p))
    if functional.fixed_number and abs(number_slope) > 1e-200:
        # The number of electrons is fixed: d mu = sum f' d eps / sum f'.
        shift = mu_slope / number_slope
        for (matrices, states), (d_h, d_m, _) in zip(solution, gradients, strict=True):
            for s in states:
                factors = shift * fermi_slopes(s.levels, functional.mu, functional.kT)[0]
                matrices.gather(d_h, spectral_product(s, factors), s.kpoints, s.weights)
                matrices.gather(d_m, spectral_product(s, -factors * s.levels), s.kpoints, s.weights)
    return gradients
