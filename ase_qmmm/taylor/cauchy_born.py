"""Derivatives of the energy of a crystal by homogeneous deformation (Cauchy–Born energy)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import permutations

import numpy as np

from ..crystal import Crystal
from ..errors import NumericsError
from .crystal_derivatives import CrystalDerivatives
from .polynomials import Terms

__all__ = ["CauchyBornDerivatives", "cauchy_born_of_sites", "cauchy_born_of_terms", "eliminated"]


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
    with_basis : dict of int to ndarray
        With `relaxed`, by order the derivatives before the elimination, (9 + 3 m,) * order: by the nine F_ij,
        then by the displacements (Å) of the m basis atoms but the first. Else empty.
    """

    crystal: Crystal
    energy: float
    tensors: dict[int, np.ndarray]
    relaxed: bool
    fixed_number: bool
    label: str
    with_basis: dict[int, np.ndarray] = field(default_factory=dict)

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


def cauchy_born_of_sites(derivatives: CrystalDerivatives, *, relaxed: bool = False) -> CauchyBornDerivatives:
    """Derivatives ``d^j W / dF^j`` at F = 1 from those of the site energies.

    With the displacements s of the basis atoms, ``g_rho = (F - 1) rho + s_beta - s_alpha``, so that

        d^j W = sum_alpha sum_(rho, sigma, ..) d^j V_alpha / dg_rho dg_sigma .. rho x sigma x .. .

    Exact for site energies that do not reach beyond the stencils of `derivatives`.

    Parameters
    ----------
    derivatives : CrystalDerivatives
        Of kind "energy".
    relaxed : bool
        Eliminate the displacements of the basis atoms, which must be in equilibrium.

    Raises
    ------
    ValueError
        `derivatives` of forces.
    NumericsError
        The displacements of the basis atoms have no stable equilibrium.

    References
    ----------
    H. Chen, C. Ortner, Y. Wang, QM/MM methods for crystalline defects, part 3, eqs. (3.4), (3.5).
    """
    if derivatives.kind != "energy":
        raise ValueError(f"derivatives: got those of kind {derivatives.kind!r}, expected 'energy'")
    crystal = derivatives.crystal
    n_inner = crystal.n_basis - 1 if relaxed else 0
    tensors = []
    for order, sites in sorted(derivatives.tensors.items()):
        total = np.zeros((9 + 3 * n_inner,) * order)
        for basis, tensor in enumerate(sites):
            rho, others, _ = crystal.stencil_sites(basis, derivatives.cutoffs[order])
            parameters = deformation_parameters(rho, others, basis, n_inner)
            flat = tensor.reshape((3 * len(rho),) * order)
            # Each contraction moves the first axis to the end, so that after all the order is as before.
            for _ in range(order):
                flat = np.tensordot(flat, parameters, axes=(0, 0))
            total += flat
        tensors.append(total)
    energy = float(np.sum(derivatives.energies))
    return cell_derivatives(crystal, energy, tensors, relaxed, False, derivatives.label)


def cell_derivatives(
    crystal: Crystal, energy: float, tensors: list[np.ndarray], relaxed: bool, fixed_number: bool, label: str
) -> CauchyBornDerivatives:
    """From the derivatives (n,), (n, n) .. by F and all that follows it, the basis atoms first."""
    known = 9 + 3 * (crystal.n_basis - 1)
    with_basis = {j: t[(slice(known),) * j] for j, t in enumerate(tensors, start=1)} if relaxed else {}
    shaped = {j: t.reshape((3,) * (2 * j)) for j, t in enumerate(eliminated(tensors, 9), start=1)}
    return CauchyBornDerivatives(crystal, energy, shaped, relaxed, fixed_number, label, with_basis)


def cauchy_born_of_terms(
    crystal: Crystal,
    cutoff: float,
    terms: list[list[Terms]],
    energy: float,
    order: int,
    *,
    relaxed: bool,
    label: str,
) -> CauchyBornDerivatives:
    """Derivatives of the energy of a cell whose site energies are polynomials; see the function above."""
    n_inner = crystal.n_basis - 1 if relaxed else 0
    tensors = [np.zeros((9 + 3 * n_inner,) * j) for j in range(1, order + 1)]
    for basis, site in enumerate(terms):
        rho, others, _ = crystal.stencil_sites(basis, cutoff)
        parameters = deformation_parameters(rho, others, basis, n_inner)
        for t in (t for t in site if t.degree <= order):
            product = t.coefficients[:, None]
            for column in t.tuples[:, :-1].T:
                product = (product[:, :, None] * parameters[column][:, None]).reshape(len(product), -1)
            total = (product.T @ parameters[t.tuples[:, -1]]).reshape(parameters.shape[1:] * t.degree)
            for axes in permutations(range(t.degree)):
                tensors[t.degree - 1] += total.transpose(axes)
    return cell_derivatives(crystal, energy, tensors, relaxed, False, label)


def spanned(crystal: Crystal, cutoff: float) -> np.ndarray:
    """Projector (3, 3) on the directions of the stencil vectors: F_ij with another j deforms nothing."""
    rho = np.concatenate([crystal.stencil(a, cutoff) for a in range(crystal.n_basis)])
    _, sizes, axes = np.linalg.svd(rho, full_matrices=False)
    kept = axes[sizes > 1e-8 * sizes.max(initial=0.0)]
    projector: np.ndarray = kept.T @ kept
    return projector


def deformation_parameters(rho: np.ndarray, others: np.ndarray, basis: int, n_inner: int) -> np.ndarray:
    """``dg_rho,c / dF_ij`` and by the displacements of basis atoms but the first, (3 s, 9 + 3 n_inner)."""
    out = np.zeros((len(rho), 3, 9 + 3 * n_inner))
    for c in range(3):
        out[:, c, 3 * c : 3 * c + 3] = rho
        for b in range(1, n_inner + 1):
            out[:, c, 9 + 3 * (b - 1) + c] = (others == b).astype(float) - float(basis == b)
    return out.reshape(3 * len(rho), -1)


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
