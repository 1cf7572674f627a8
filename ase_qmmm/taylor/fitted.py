"""Derivatives of the forces at a perfect crystal fitted to few randomly displaced supercells (symfc)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..crystal import Crystal
from ..errors import check_positive, checked_keywords
from ..symmetry import space_group
from .crystal_derivatives import CrystalDerivatives
from .displacements import Supercell, symmetry_operations
from .finite_differences import check_orders, check_residual
from .force_jobs import CalculatorSource, ForceJobs

__all__ = ["fitted_derivatives"]

log = logging.getLogger(__name__)

# Equations per parameter, and least number of random displacements, when none is given.
_OVERDETERMINED = 20
_AT_LEAST = 4


@checked_keywords
def fitted_derivatives(
    calc: CalculatorSource,
    crystal: Crystal,
    order: int = 2,
    cutoff: float | Sequence[float] = 5.0,
    *,
    n_displacements: int | None = None,
    amplitude: float = 0.02,
    seed: int = 0,
    supercell: Any = None,
    executor: Any = None,
    cache: str | Path | None = None,
    identity: str | None = None,
    progress: bool = False,
) -> CrystalDerivatives:
    """Derivatives ``d^j F``, j = 1 .. `order` (at most 2), by least squares from random displacements.

    All atoms of a supercell are displaced at once, and symfc [1]_ fits the force constants that the space
    group, exchange of indices and translation allow. Each set of displacements u is used with -u too, which
    keeps even and odd orders apart. Few structures suffice: more parameters than difference quotients reach
    cost no more calculations. What lies beyond the cutoff is noise to such a fit, which falls with the square
    root of the number of structures; :func:`displacement_derivatives` has no such error.

    Needs the extra ``phonons`` (``pip install ase_qmmm[phonons]``).

    Parameters
    ----------
    calc : ase.calculators.calculator.Calculator or callable
        See :class:`~ase_qmmm.taylor.ForceJobs`. Its k-points are those of the supercell.
    crystal : Crystal
        At the lattice constant of `calc`.
    order : int
        1 or 2.
    cutoff : float or sequence of float
        Å; one for all orders, or one per order. Of second order all three atoms are within it of each other.
    n_displacements : int, optional
        Sets of displacements; twice as many force calculations. Default: 20 equations per parameter, at least
        4 sets.
    amplitude : float
        Standard deviation (Å) of each coordinate.
    seed : int
        Of the random numbers.
    supercell : int, sequence of int, or (3, 3) integer matrix, optional
        Repetitions of the unit cell; its images must be more than twice the first and three times the second
        cutoff apart. Default: the smallest such.
    executor, cache, identity, progress
        See :class:`~ase_qmmm.taylor.ForceJobs`.

    Returns
    -------
    CrystalDerivatives
        Of kind "force".

    Raises
    ------
    ImportError
        symfc is not installed.
    ValueError
        An argument out of range, a crystal with magnetic moments that break its symmetry, too few
        displacements for the number of parameters.
    NumericsError
        A force calculation failed.

    References
    ----------
    .. [1] A. Seko and A. Togo, Phys. Rev. B 110, 214302 (2024), projector-based efficient estimation of force
       constants.
    """
    try:
        from symfc import Symfc
        from symfc.utils.utils import SymfcAtoms
    except ImportError as error:
        raise ImportError(
            "fitted_derivatives needs symfc: pip install ase_qmmm[phonons], or use displacement_derivatives"
        ) from error
    cutoffs = check_orders(crystal, order, cutoff)
    check_positive("amplitude", amplitude, "Å")
    if len(symmetry_operations(crystal)) < len(space_group(crystal)):
        raise ValueError(
            "crystal: its initial magnetic moments or charges break the symmetry of its sites, which this "
            "fit assumes; use displacement_derivatives"
        )
    # Three atoms must not be within the cutoff of each other around the supercell.
    reach = max(cutoffs[1], 1.5 * cutoffs.get(2, 0.0))
    box = Supercell(crystal, supercell, reach)
    atoms = box.atoms
    whole = atoms.copy()
    if not whole.pbc.all():
        # An empty layer beyond the cutoff: symfc takes cells that are periodic in all directions.
        whole.center(vacuum=2 * reach, axis=[k for k in range(3) if not whole.pbc[k]])
    solver = Symfc(
        SymfcAtoms(
            numbers=whole.numbers, scaled_positions=whole.get_scaled_positions(), cell=whole.cell.array
        ),
        cutoff={j + 1: radius + 1e-5 for j, radius in cutoffs.items()},
    )
    orders = [j + 1 for j in cutoffs]
    solver.compute_basis_set(orders=orders)
    sizes = {n: int(solver.basis_set[n].basis_set.shape[1]) for n in orders}
    parameters = sum(sizes.values())
    equations = 3 * len(atoms)
    sets = max(_AT_LEAST, -(-_OVERDETERMINED * parameters // equations))
    if n_displacements is not None:
        sets = int(n_displacements)
        if sets != n_displacements or sets * equations < max(sizes.values()):
            raise ValueError(
                f"n_displacements: got {n_displacements!r}, expected an integer of at least "
                f"{-(-max(sizes.values()) // equations)} for {parameters} parameters in {len(atoms)} atoms"
            )
    log.info("%d parameters (%s), %d supercells of %d atoms", parameters, sizes, 2 * sets, len(atoms))
    half = np.random.default_rng(seed).normal(scale=amplitude, size=(sets, len(atoms), 3))
    displacements = np.concatenate([half, -half])
    structures = [atoms.copy()]
    for u in displacements:
        displaced = atoms.copy()
        displaced.positions += u
        structures.append(displaced)
    names = ["not displaced"] + [
        f"random displacements {k}, seed {seed}, {amplitude:g} Å" for k in range(2 * sets)
    ]
    jobs = ForceJobs(calc, executor=executor, cache=cache, identity=identity, progress=progress)
    with jobs:
        energies, forces = jobs.run(structures, names)
    check_residual(forces[0], jobs.label)
    solver.displacements = displacements
    solver.forces = np.array(forces[1:]) - forces[0]
    solver.solve(orders=orders, is_compact_fc=True)
    tensors = _on_stencils(solver, box, cutoffs)
    return CrystalDerivatives(
        crystal,
        "force",
        cutoffs,
        tensors,
        np.full(crystal.n_basis, energies[0] / len(atoms)),
        f"{jobs.label}, fitted by symfc to {2 * sets} structures",
    )


def _on_stencils(solver: Any, box: Supercell, cutoffs: dict[int, float]) -> dict[int, list[np.ndarray]]:
    """Derivatives of forces on the stencils, from force constants between atoms of the supercell."""
    crystal = box.crystal
    first = {box.sites[atom][0]: k for k, atom in reversed(list(enumerate(solver.p2s_map)))}
    tensors: dict[int, list[np.ndarray]] = {j: [] for j in cutoffs}
    for j, radius in cutoffs.items():
        constants = solver.force_constants[j + 1]
        for basis in range(crystal.n_basis):
            k = first[basis]
            cell = np.array(box.sites[int(solver.p2s_map[k])][1])
            _, others, cells = crystal.stencil_sites(basis, radius)
            where = box.indices(
                [(int(b), tuple(int(x) for x in cell + c)) for b, c in zip(others, cells, strict=True)]
            )
            if j == 1:
                tensors[j].append(-constants[k][where].transpose(1, 0, 2))
            else:
                picked = constants[k][np.ix_(where, where)]
                tensors[j].append(-picked.transpose(2, 0, 3, 1, 4))
    return tensors
