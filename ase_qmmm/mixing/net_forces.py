"""Net force and torque that mixed forces leave over, and how to take them away.

    F_l -> F_l - g_l (a + alpha x (y_l - c)),    c = sum_l g_l y_l / sum_l g_l,

with a and alpha such that the net force, and the net torque about free axes, vanish. g is one on all free
atoms, or lives on the atoms at the interface, where the surplus comes from. As g is constant while the
regions are, the forces stay continuous: dynamics keeps its momentum.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms

from ..errors import StructureError
from ..neighbours import neighbour_pairs

__all__ = ["balanced", "interface_shares", "rotation_axes"]


def interface_shares(atoms: Atoms, weights: np.ndarray, frozen: np.ndarray, reach: float) -> np.ndarray:
    """Share (n,) of each atom in the correction: at the interface of the two models, none on frozen atoms.

    ``4 w (1 - w)`` in a blended layer; one on either side of a sharp interface, for atoms with a neighbour
    within `reach` (Å) on the other side.
    """
    shares: np.ndarray = 4 * weights * (1 - weights)
    if not shares.any():
        i, j = neighbour_pairs(atoms, reach, "ij")
        shares[i[weights[i] != weights[j]]] = 1.0
    shares[frozen] = 0.0
    return shares


def rotation_axes(atoms: Atoms) -> np.ndarray:
    """Axes (m, 3) about which `atoms` may turn: all of a free cluster, the periodic one of a wire.

    Raises
    ------
    StructureError
        Two or three periodic directions: no torque is defined.
    """
    periodic = atoms.cell.array[atoms.pbc]
    if len(periodic) > 1:
        raise StructureError(
            f"remove_net_torque: no torque is defined with {len(periodic)} periodic directions; it is "
            f"about a free cluster, or about the axis of a wire"
        )
    return np.eye(3) if not len(periodic) else periodic / np.linalg.norm(periodic)


def balanced(
    forces: np.ndarray,
    positions: np.ndarray,
    shares: np.ndarray,
    free: np.ndarray,
    axes: np.ndarray | None,
    *,
    net_force: bool,
) -> np.ndarray:
    """Forces (n, 3) without net force and, given `axes` (m, 3), without net torque about them.

    Parameters
    ----------
    forces, positions : ndarray, shape (n, 3)
        Positions of one connected image.
    shares : ndarray, shape (n,)
        g.
    free : ndarray of bool, shape (n,)
        Atoms whose forces count.
    axes : ndarray, shape (m, 3), optional
    net_force : bool
        Remove the net force.
    """
    total = float(shares.sum())
    if total == 0:
        return forces
    out = forces.copy()
    if net_force:
        out -= np.outer(shares, forces[free].sum(axis=0) / total)
    if axes is None or not len(axes):
        return out
    r = positions - shares @ positions / total
    # Rotations alpha = axes^T q; their field leaves the net force as it is.
    fields = np.cross(axes[:, None], r[None])
    torque = np.einsum("mnc,nc->m", fields[:, free], out[free])
    inertia = np.einsum("mnc,n,knc->mk", fields, shares, fields)
    q = np.linalg.lstsq(inertia, torque, rcond=1e-12)[0]
    balance: np.ndarray = out - shares[:, None] * np.einsum("m,mnc->nc", q, fields)
    return balance
