"""How far a crystal must repeat for its Green's function to be that of the infinite one.

On a grid of k-points the Green's function holds the images that the grid makes,
``G_L(R) = G(R) + sum_(L' != 0) G(R + L')``. They decay exponentially with its extent L: as the gap says in
insulators, over ``hbar v / (pi kT)`` in metals. Of the Matsubara frequencies the first, ``z = mu + i pi kT``
with residue -kT, decays slowest, and its images stand for the error of all.
"""

from __future__ import annotations

import logging

import numpy as np

from ..crystal import Crystal
from .calculator import cell_heights, k_grid
from .greens import CrystalMatrices
from .hamiltonian import Hamiltonian

__all__ = ["lattice_grid", "repeat_length"]

log = logging.getLogger(__name__)

FIRST_LENGTH = 20.0  # Å
STEP = 2 ** (1 / 3)
# Changes that a fit is made of, and how far it is trusted beyond what was computed.
FIT_POINTS = 4
EXTRAPOLATION = 1.4
# GB (1e9 bytes) of the matrices on the grid.
GRID_MEMORY = 2.0


def lattice_grid(crystal: Crystal, length: float) -> tuple[int, ...]:
    """Lattice vectors (d,) after which a crystal repeats that does so after `length` (Å) at least."""
    cell = crystal.unit_cell
    return tuple(int(n) for n in k_grid(cell, length)[cell.pbc])


def repeat_length(
    model: Hamiltonian, crystal: Crystal, mu: float, kT: float, cutoff: float, error: float
) -> tuple[float, float]:
    """Length after which a crystal may repeat, and an estimate of the error that is left.

    Lengths grow until the fit of an exponential to the changes of ``2 kT G(mu + i pi kT)`` between an atom
    and its neighbours says that the images are below `error`.

    Parameters
    ----------
    model : Hamiltonian
    crystal : Crystal
    mu, kT : float
        eV.
    cutoff : float
        Å, of the neighbours.
    error : float
        Of elements of the density matrix, which are of the order of one.

    Returns
    -------
    length : float
        Å.
    estimate : float
        Of the error at that length; above `error` only where the grid would take more than 2 GB, with a
        warning in the log.
    """
    lengths: list[float] = []
    changes: list[float] = []
    estimate = np.inf
    before, grid = None, lattice_grid(crystal, FIRST_LENGTH)
    heights = cell_heights(crystal.unit_cell)[crystal.unit_cell.pbc]
    while True:
        now, size = _near_blocks(model, crystal, mu, kT, cutoff, grid)
        length = float((grid * heights).min())
        if before is not None:
            # Rounding ends the decay.
            changes.append(max(_largest_change(before, now), 1e-14))
        lengths.append(length)
        if len(changes) > 1:
            decay, height = _envelope(np.array(lengths[:-1]), np.log(changes))
            estimate = float(np.exp(height - decay * length))
            wanted = (height - np.log(error)) / decay if decay > 0 else np.inf
            if len(changes) >= FIT_POINTS and wanted <= EXTRAPOLATION * length:
                return max(wanted, FIRST_LENGTH), error
        before, longer = now, grid
        while longer == grid:
            length *= STEP
            longer = lattice_grid(crystal, length)
        # H, M, G and two copies in between.
        if np.prod(longer) * size**2 * 16 * 5 > GRID_MEMORY * 1e9:
            break
        grid = longer
    log.warning(
        "margin: elements of the density matrix are off by about %.1e, not %.1e, on a grid of %s k-points, "
        "and a larger one takes more than %g GB. In a metal the error falls with kT and the margin: take a "
        "higher kT, or say with a larger error or with a margin what is enough",
        estimate,
        error,
        grid,
        GRID_MEMORY,
    )
    return lengths[-1], estimate


def _near_blocks(
    model: Hamiltonian, crystal: Crystal, mu: float, kT: float, cutoff: float, grid: tuple[int, ...]
) -> tuple[list[np.ndarray], int]:
    """``2 kT G`` at the first Matsubara frequency from basis atoms to neighbours; orbitals of the cell."""
    blocks = []
    for spin in range(model.n_spin):
        matrices = CrystalMatrices(model, crystal, grid, spin)
        first = matrices.first_orbital
        green = 2 * kT * matrices.resolvent(mu + 1j * np.pi * kT)
        for basis in range(crystal.n_basis):
            _, sites, cells = crystal.stencil_sites(basis, cutoff)
            rows = slice(first[basis], first[basis + 1])
            blocks.append(green[(0,) * len(grid)][rows, rows])
            for site, cell in zip(sites, cells % grid, strict=True):
                blocks.append(green[tuple(cell)][rows, first[site] : first[site + 1]])
    return [block.copy() for block in blocks], int(first[-1])


def _largest_change(before: list[np.ndarray], now: list[np.ndarray]) -> float:
    return max(float(np.linalg.norm(a - b)) for a, b in zip(before, now, strict=True))


def _envelope(lengths: np.ndarray, logs: np.ndarray) -> tuple[float, float]:
    """Rate and height of ``height - rate * length``, fitted and then raised above the last points.

    Changes of metals oscillate with the length about their decay.
    """
    rate = -float(np.polyfit(lengths, logs, 1)[0])
    return rate, float((logs + rate * lengths)[-FIT_POINTS:].max())
