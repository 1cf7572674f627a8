"""What one level contributes to the energy, and the matrices that carry its gradient.

For a functional ``E = sum_s g(eps_s)`` of the levels of ``H C = M C eps`` and site weights w,
``E_w = sum_s g(eps_s) [C^H Q C]_ss`` with ``Q = (W M + M W) / 2``, and

    D_H =  C (Q~ o g[s,t]) C^H
    D_M = -C (Q~ o (eps g)[s,t]) C^H + (W P + P W) / 2,      dE_w = Tr(D_H dH) + Tr(D_M dM)

with ``Q~ = C^H Q C``, ``P = C g C^H`` and divided differences ``g[s,t]``. For w = 1 this is the
Hellmann–Feynman gradient. At a fixed number of electrons the response of mu adds a diagonal term.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .kernels import divided_rows
from .matrices import Matrices, PatternDensity
from .spectrum import States, entropy, fermi, fermi_slopes

__all__ = ["NEAR", "OCCUPIED", "LevelFunctional", "add_spectral", "divided_differences"]

# Below this distance in kT the difference of two values loses digits to cancellation, and the mean of the
# two slopes is right to about distance^2 = 4e-10 of its scale.
NEAR = 2e-5
# Levels this many kT above mu hold exp(-37) = 9e-17 electrons, which rounding loses beside one.
OCCUPIED = 37.0


@dataclass(frozen=True)
class LevelFunctional:
    """Energy of one doubly occupied level: ``band``, ``grand`` or ``free``.

    ``band``: g = 2 f eps; ``grand``: g = 2 f (eps - mu) - 2 kT s(f); ``free``: g = 2 f eps - 2 kT s(f), with
    the occupation f at (mu, kT) and s the entropy of a level.

    Attributes
    ----------
    kind : str
    mu, kT : float
        eV.
    fixed_number : bool
        Whether mu follows the number of electrons.
    theta : float
        For ``band`` at fixed number: ``sum f' eps / sum f'`` (eV), the response of mu.
    """

    kind: str
    mu: float
    kT: float
    fixed_number: bool
    theta: float = 0.0

    @property
    def variational(self) -> bool:
        """Whether the occupations make the energy stationary, so that :meth:`weights` are 2 f."""
        return self.kind == "grand" or (self.kind == "free" and self.fixed_number)

    def values(self, levels: np.ndarray) -> np.ndarray:
        """``g(eps)``."""
        f = fermi(levels, self.mu, self.kT)
        g: np.ndarray = 2 * f * levels
        if self.kind != "band":
            g = g - 2 * self.kT * entropy(levels, self.mu, self.kT)
        if self.kind == "grand":
            g = g - 2 * self.mu * f
        return g

    def slopes(self, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Derivatives of g with respect to eps (at fixed mu) and to mu."""
        f = fermi(levels, self.mu, self.kT)
        f1, _ = fermi_slopes(levels, self.mu, self.kT)
        if self.kind == "grand":
            return 2 * f, -2 * f
        lead = levels if self.kind == "band" else self.mu
        return 2 * f + 2 * f1 * lead, -2 * f1 * lead

    def weights(self, levels: np.ndarray) -> np.ndarray:
        """Occupation-like factors of the gradient for w = 1: ``dE = sum_s weights_s d eps_s``."""
        f = 2 * fermi(levels, self.mu, self.kT)
        if self.kind == "band":
            return f + 2 * fermi_slopes(levels, self.mu, self.kT)[0] * (levels - self.theta)
        return f if self.variational else self.slopes(levels)[0]

    def weight_slopes(self, levels: np.ndarray) -> np.ndarray:
        """Derivative of :meth:`weights` with respect to the level, at constant mu and theta."""
        f1, f2 = fermi_slopes(levels, self.mu, self.kT)
        if self.kind == "band":
            return 4 * f1 + 2 * f2 * (levels - self.theta)
        return 2 * f1 if self.variational else 2 * f1 + 2 * f2 * self.mu


def divided_differences(levels: np.ndarray, values: np.ndarray, slopes: np.ndarray, kT: float) -> np.ndarray:
    """``(v_s - v_t) / (eps_s - eps_t)``, the mean slope where levels nearly agree.

    Inputs (k, N), result (k, N, N).
    """
    out = np.empty((*levels.shape, levels.shape[1]))
    for k in range(len(levels)):
        divided_rows(levels[k], values[k], slopes[k], NEAR * kT, out[k])
    return out


def add_spectral(matrices: Matrices, target: PatternDensity, states: States, factors: np.ndarray) -> None:
    """Add ``C diag(factors) C^H``, factors (k, N), averaged over k-points, on the pattern to `target`."""
    c, factors = states.vectors, factors[:, : states.n_vectors]
    if len(c) == 1 and matrices.sparse:
        matrices.add_product(target, c[0], c[0], factors[0], states.kpoints[0], float(states.weights[0]))
    else:
        product = (c * factors[:, None, :]) @ c.conj().swapaxes(1, 2)
        matrices.gather(target, product, states.kpoints, states.weights)
