"""Where the derivatives at the crystal come from: a model that has them, or differences."""

from __future__ import annotations

from typing import Any

from ..crystal import Crystal
from .cauchy_born import CauchyBornDerivatives
from .crystal_derivatives import CrystalDerivatives
from .finite_differences import displacement_derivatives
from .force_constants import ForceConstants

__all__ = ["ELASTICITY", "cell_expansion", "checked_elasticity", "force_expansion", "site_energy_expansion"]

ELASTICITY = ("invariant", "exact", "truncated")


def site_energy_expansion(
    qm: Any, crystal: Crystal, cutoffs: dict[int, float], progress: bool
) -> CrystalDerivatives:
    """Derivatives of the site energies; only a model that has site energies has them."""
    exact = getattr(qm, "site_energy_derivatives", None)
    if not callable(exact):
        raise TypeError(
            f"qm: got {type(qm).__name__}, which has no method site_energy_derivatives(crystal, order, "
            f"cutoff); take a model of this package, or TaylorForces, which needs forces only"
        )
    found: CrystalDerivatives = exact(crystal, len(cutoffs), list(cutoffs.values()), **_options(progress))
    return found


def force_expansion(
    qm: Any, crystal: Crystal, cutoffs: dict[int, float], progress: bool
) -> CrystalDerivatives | ForceConstants:
    """Derivatives of the forces: exact ones where the model has them, else differences (orders 1 and 2)."""
    order = len(cutoffs)
    constants = getattr(qm, "force_constants", None)
    if order == 1 and callable(constants):
        first: ForceConstants = constants(crystal, cutoffs[1], **_options(progress))
        return first
    exact = getattr(qm, "force_derivatives", None)
    if callable(exact):
        found: CrystalDerivatives = exact(crystal, order, list(cutoffs.values()), **_options(progress))
        return found
    if order > 2:
        raise ValueError(
            f"order: got {order}, but {type(qm).__name__} has no method force_derivatives(crystal, order, "
            f"cutoff); use order 1 or 2, or a model that has it"
        )
    found = displacement_derivatives(qm, crystal, order, list(cutoffs.values()), progress=progress)
    return ForceConstants.from_derivatives(found) if order == 1 else found


def cell_expansion(qm: Any, crystal: Crystal, order: int, elasticity: str) -> str | CauchyBornDerivatives:
    """What long waves are to be: a rule, or derivatives of `qm` by deformation and inner displacements."""
    if elasticity not in ELASTICITY:
        raise ValueError(f"elasticity: got {elasticity!r}, expected 'invariant', 'exact' or 'truncated'")
    if elasticity != "exact":
        return elasticity
    exact = getattr(qm, "cauchy_born_derivatives", None)
    if not callable(exact):
        raise TypeError(
            f"elasticity: got 'exact', but {type(qm).__name__} has no method "
            f"cauchy_born_derivatives(crystal, order); use 'invariant', or a larger cutoff"
        )
    found: CauchyBornDerivatives = exact(crystal, order, relaxed=True)
    return found


def checked_elasticity(elasticity: str | CauchyBornDerivatives, crystal: Crystal) -> None:
    """Refuse what the constructors of the models do not take."""
    if isinstance(elasticity, CauchyBornDerivatives):
        if 2 not in elasticity.with_basis:
            raise ValueError(
                "elasticity: got derivatives without those by the basis atoms, or of first order only; make "
                "them with relaxed=True and order 2 or 3"
            )
        if elasticity.crystal.n_basis != crystal.n_basis:
            raise ValueError(
                f"elasticity: got derivatives of a crystal of {elasticity.crystal.n_basis} basis atoms, "
                f"expected {crystal.n_basis}"
            )
    elif elasticity not in ("invariant", "truncated"):
        raise ValueError(
            f"elasticity: got {elasticity!r}, expected 'invariant', 'truncated' or CauchyBornDerivatives"
        )


def _options(progress: bool) -> dict[str, bool]:
    return {"progress": True} if progress else {}
