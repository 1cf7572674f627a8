"""Embedded clusters: a tight-binding child in the frozen self-energy of the crystal or of a geometry."""

from __future__ import annotations

from typing import Any

import numpy as np
from ase import Atoms

from ..crystal import Crystal
from ..tightbinding import Embedded, TightBinding

__all__ = ["embedded_calculator", "embeds"]


def embeds(qm: Any) -> bool:
    """Whether `qm` is a model that can be embedded."""
    return isinstance(qm, TightBinding) and (qm.solver == "dense" or isinstance(qm.solver, Embedded))


def embedded_calculator(
    qm: Any,
    atoms: Atoms,
    asked: np.ndarray,
    reference: Crystal | Atoms | None,
    crystal: Crystal | None,
    width: float,
) -> TightBinding:
    """Version of `qm` that treats `asked` (n,) and a buffer exactly and all other atoms by a self-energy.

    Parameters
    ----------
    qm : TightBinding
        With a solver ``Embedded(...)`` of its own, that one's reference and buffer count.
    atoms : ase.Atoms
    asked : ndarray of bool, shape (n,)
    reference : Crystal or ase.Atoms
        What surrounds the cluster.
    crystal : Crystal, optional
        Where the Fermi level comes from, if `qm` has no `mu`.
    width : float
        Buffer, Å.

    Raises
    ------
    ValueError
        A buffer below the range of the Hamiltonian, no chemical potential, an energy other than "grand".
    StructureError
        The cluster does not fit into the reference, or meets its own image.
    """
    given = qm.solver if isinstance(qm.solver, Embedded) else None
    if given is None:
        if width < qm.cutoff - 1e-9:
            raise ValueError(
                f"cluster: 'embedded' needs a buffer of at least the range of the Hamiltonian, "
                f"{qm.cutoff:.2f} Å; got {width:.2f} Å: use r_buffer >= {qm.cutoff:.2f}"
            )
        assert reference is not None
        solver = Embedded(reference, buffer=width)
    else:
        # One for each cluster, which may be evaluated side by side; self-energies are shared.
        solver = Embedded(
            given.reference, buffer=given.buffer, depth=given.depth, error=given.error, cache=given.cache
        )
        solver.self_energies = given.self_energies
    calc: TightBinding = qm.for_cluster(atoms, atoms, crystal).with_options(solver=solver)
    # Now rather than at the first call: what cannot be embedded is known before anything is computed.
    solver.clusters(calc, atoms, asked)
    return calc
