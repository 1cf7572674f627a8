"""Derivatives of the energy of a crystal by homogeneous deformation, of any model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..crystal import Crystal
from ..errors import NumericsError

__all__ = ["CauchyBornDerivatives", "eliminated"]


@dataclass(frozen=True)
class CauchyBornDerivatives:
    """Energy W of one cell of a crystal and its derivatives ``d^j W / dF^j`` at F = 1.

    Attributes
    ----------
    crystal : Crystal
    energy : float
        eV per cell: the grand potential, or the free energy at a fixed number of electrons.
    tensors : dict of int to ndarray
        By order: (3, 3), (3, 3, 3, 3) and so on, eV; ``x -> F x`` and F_ij = dx_i / dX_j.
    relaxed : bool
        Whether the basis atoms follow the deformation to stay in equilibrium.
    fixed_number : bool
        Whether the chemical potential follows to keep the cell neutral.
    label : str
        The model they come from.
    """

    crystal: Crystal
    energy: float
    tensors: dict[int, np.ndarray]
    relaxed: bool
    fixed_number: bool
    label: str

    @property
    def volume(self) -> float:
        """Volume of the cell (Å^3), or area or length of a crystal of lower dimension."""
        lattice = self.crystal.lattice
        return float(np.sqrt(np.linalg.det(lattice @ lattice.T)))

    @property
    def stress(self) -> np.ndarray:
        """``(dW/dF) / volume``, (3, 3), eV/Å^3."""
        return self.tensors[1] / self.volume

    def elastic_constants(self) -> np.ndarray:
        """Second derivatives by the strain ``E = (F^T F - 1) / 2`` per volume, (3, 3, 3, 3), eV/Å^3.

        ``C_ijkl = W_ij,kl / V - delta_ik sigma_jl``: those of the stress-strain curve at zero stress.
        """
        stressed: np.ndarray = np.einsum("ik,jl->ijkl", np.eye(3), self.stress)
        constants: np.ndarray = self.tensors[2] / self.volume - stressed
        return constants

    def third_order_elastic_constants(self) -> np.ndarray:
        """Third derivatives by the Lagrangian strain per volume (Brugger), (3, 3, 3, 3, 3, 3), eV/Å^3.

        From ``W_FFF[A, B, C] = C3[A, B, C] + C2[A^T B, C] + C2[A^T C, B] + C2[B^T C, A]``, as E is of
        second order in F.
        """
        c2 = self.elastic_constants()
        out: np.ndarray = self.tensors[3] / self.volume
        # (A^T B)_jl = A_ij B_il, and c2 is symmetric in each pair of indices.
        delta = np.eye(3)
        out = out - np.einsum("ik,jlmn->ijklmn", delta, c2)
        out = out - np.einsum("im,jnkl->ijklmn", delta, c2)
        out = out - np.einsum("km,lnij->ijklmn", delta, c2)
        return out


def eliminated(tensors: list[np.ndarray], keep: int) -> list[np.ndarray]:
    """Derivatives of ``min_s W(F, s)`` (or its stationary value) by the first `keep` parameters.

    With ``s' = -W_ss^-1 W_sF`` the first two orders are those of W along (F, s' F); so is the third, as W is
    stationary in s (the 2n + 1 theorem).
    """
    n = len(tensors[0])
    if n == keep:
        return tensors
    scale = np.abs(tensors[0][:keep]).max() + 1.0
    if np.abs(tensors[0][keep:]).max() > 1e-3 * scale:
        raise NumericsError(
            f"relaxed: the basis is not in equilibrium (inner forces up to "
            f"{np.abs(tensors[0][keep:]).max():.2g} eV/Å); use Crystal.relaxed first"
        )
    if len(tensors) == 1:
        return [tensors[0][:keep]]
    inner = tensors[1][keep:, keep:]
    if np.linalg.cond(inner) > 1e12:
        raise NumericsError("relaxed: the inner displacements have no stable equilibrium (singular Hessian)")
    response = np.vstack([np.eye(keep), -np.linalg.solve(inner, tensors[1][keep:, :keep])])
    out = [tensors[0][:keep]]
    for tensor in tensors[1:]:
        reduced = tensor
        for axis in range(tensor.ndim):
            reduced = np.moveaxis(np.tensordot(reduced, response, axes=(axis, 0)), -1, axis)
        out.append(reduced)
    return out
