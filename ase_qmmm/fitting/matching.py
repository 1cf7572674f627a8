"""How well the derivatives of two models agree at the perfect crystal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..crystal import Crystal
from ..errors import check_positive
from ..taylor.cauchy_born import cauchy_born_of_sites
from ..taylor.crystal_derivatives import CrystalDerivatives

__all__ = ["MatchingErrors", "matching_errors", "stencil_weights"]


@dataclass(frozen=True)
class MatchingErrors:
    """Errors of the matching conditions by kind and order, absolute and relative to the first model.

    Attributes
    ----------
    energy, force, virial : dict of int to (float, float)
        ``eps_j^E`` (eV/Å^j), ``eps_j^F`` (eV/Å^(j+1)), ``eps_j^V`` (eV), each with its ratio to the norm of
        the same derivative of the first model (NaN where that is zero).
    gamma : float
        Decay rate of the weights (1/Å).
    cutoff : float
        Radius within which derivatives were compared (Å).
    labels : tuple of str
        The two models.
    """

    energy: dict[int, tuple[float, float]] = field(default_factory=dict)
    force: dict[int, tuple[float, float]] = field(default_factory=dict)
    virial: dict[int, tuple[float, float]] = field(default_factory=dict)
    gamma: float = 0.0
    cutoff: float = 0.0
    labels: tuple[str, str] = ("", "")

    def as_array(self) -> np.ndarray:
        """Rows (kind, order, error, relative) as a structured array, for CSV files."""
        rows = [
            (kind, order, *values)
            for kind, table in (("E", self.energy), ("F", self.force), ("V", self.virial))
            for order, values in table.items()
        ]
        columns = [("kind", "U1"), ("order", int), ("error", float), ("relative", float)]
        return np.array(rows, dtype=columns)

    def __str__(self) -> str:
        lines = [
            f"{self.labels[1]} against {self.labels[0]}, within {self.cutoff:g} Å, gamma {self.gamma:g} 1/Å"
        ]
        for kind, order, error, relative in self.as_array().tolist():
            unit = {"E": f"eV/Å^{order}", "F": f"eV/Å^{order + 1}", "V": "eV"}[kind]
            lines.append(f"eps_{order}^{kind}  {error:10.3e} {unit:8s} relative {relative:9.2e}")
        return "\n".join(lines)


def stencil_weights(rho: np.ndarray, gamma: float, order: int) -> np.ndarray:
    """Square roots of ``w_j^-1 = prod_i exp(2 gamma |rho_i|)`` over stencil vectors, (s,) * order."""
    one = np.exp(gamma * np.linalg.norm(rho, axis=1))
    out = np.ones(())
    for _ in range(order):
        out = np.multiply.outer(out, one)
    return out


def matching_errors(
    qm: Any,
    mm: Any,
    crystal: Crystal,
    orders: int | Sequence[int] = 2,
    gamma: float = 0.0,
    *,
    cutoff: float = 5.0,
    kinds: str = "EFV",
) -> MatchingErrors:
    """Compare the derivatives of two models at the perfect crystal.

        ``eps_j^E = |d^j V_qm - d^j V_mm|_w``, ``eps_j^F = |d^j F_qm - d^j F_mm|_w``,
        ``eps_j^V = |d^(j+1) W_qm - d^(j+1) W_mm|``

    with ``|T|_w^2 = sum |T_(rho_1 .. rho_j)|^2 exp(2 gamma (|rho_1| + .. + |rho_j|))``, summed over the basis
    atoms, and the Cauchy–Born energy W of a cell without relaxation of the basis. First derivatives of
    site energies are compared as they are, although a gauge (a difference that sums to zero) changes them.

    Parameters
    ----------
    qm, mm : object
        Models with ``site_energy_derivatives(crystal, order, cutoff)`` for "E",
        ``force_derivatives(crystal, order, cutoff)`` for "F" and ``cauchy_born_derivatives(crystal, order)``
        (else the site energies within `cutoff`) for "V"; or :class:`~ase_qmmm.taylor.CrystalDerivatives`
        made before, for its own kind.
    crystal : Crystal
    orders : int or sequence of int
        j: 1 up to the number, or those listed.
    gamma : float
        1/Å, not negative; the decay of the derivatives of `qm`, about (:doc:`/derivatives`), or zero.
    cutoff : float
        Å. What a model has beyond it is not compared.
    kinds : str
        Which of "E", "F", "V".

    Returns
    -------
    MatchingErrors

    Raises
    ------
    TypeError
        A model without the derivatives asked for.
    ValueError
        Orders, gamma or kinds out of range.

    References
    ----------
    H. Chen, C. Ortner, Y. Wang, QM/MM methods for crystalline defects, part 3, eqs. (3.1)–(3.3), (3.6).
    """
    listed = list(range(1, orders + 1)) if isinstance(orders, int) else sorted(set(orders))
    if not listed or min(listed) < 1:
        raise ValueError(f"orders: got {orders!r}, expected positive integers")
    if not kinds or set(kinds) - set("EFV"):
        raise ValueError(f"kinds: got {kinds!r}, expected letters of 'EFV'")
    check_positive("cutoff", cutoff, "Å")
    check_positive("gamma", gamma, "1/Å", zero=True)
    needed = {"E": "site_energy_derivatives", "F": "force_derivatives"}
    for name, model in (("qm", qm), ("mm", mm)):
        for kind in kinds:
            if isinstance(model, CrystalDerivatives):
                if kind != {"energy": "E", "force": "F"}[model.kind]:
                    raise TypeError(f"{name}: got derivatives of kind {model.kind!r}, not {kind!r}")
            elif kind == "V":
                if not (hasattr(model, "cauchy_born_derivatives") or hasattr(model, needed["E"])):
                    raise TypeError(f"{name}: {type(model).__name__} has no cauchy_born_derivatives")
            elif not hasattr(model, needed[kind]):
                raise TypeError(f"{name}: {type(model).__name__} has no {needed[kind]}")
    tables: dict[str, dict[int, tuple[float, float]]] = {}
    for kind, method in needed.items():
        if kind in kinds:
            pair = [_derivatives(model, method, crystal, max(listed), cutoff) for model in (qm, mm)]
            tables[kind] = {j: _compare(pair[0], pair[1], j, gamma) for j in listed}
    if "V" in kinds:
        first, second = (_cauchy_born(model, crystal, max(listed) + 1, cutoff) for model in (qm, mm))
        tables["V"] = {j: _norms([first[j + 1]], [second[j + 1]]) for j in listed}
    return MatchingErrors(
        tables.get("E", {}), tables.get("F", {}), tables.get("V", {}), gamma, cutoff, (_label(qm), _label(mm))
    )


def _label(model: Any) -> str:
    return model.label if isinstance(model, CrystalDerivatives) else repr(model)


def _derivatives(model: Any, method: str, crystal: Crystal, order: int, cutoff: float) -> CrystalDerivatives:
    if isinstance(model, CrystalDerivatives):
        missing = [j for j in range(1, order + 1) if j not in model.tensors]
        short = [j for j, radius in model.cutoffs.items() if j <= order and abs(radius - cutoff) > 1e-9]
        if missing or short:
            raise ValueError(
                f"derivatives given: order {(missing + short)[0]} is not there within {cutoff:g} Å"
            )
        return model
    found: CrystalDerivatives = getattr(model, method)(crystal, order, cutoff)
    return found


def _cauchy_born(model: Any, crystal: Crystal, order: int, cutoff: float) -> dict[int, np.ndarray]:
    if hasattr(model, "cauchy_born_derivatives"):
        tensors: dict[int, np.ndarray] = model.cauchy_born_derivatives(crystal, order).tensors
        return tensors
    return cauchy_born_of_sites(model.site_energy_derivatives(crystal, order, cutoff)).tensors


def _compare(
    first: CrystalDerivatives, second: CrystalDerivatives, order: int, gamma: float
) -> tuple[float, float]:
    one, other = [], []
    lead = 1 if first.kind == "force" else 0
    for basis, (a, b) in enumerate(zip(first.tensors[order], second.tensors[order], strict=True)):
        weights = stencil_weights(first.stencil(order, basis), gamma, order)
        # Axes are (3,) s 3 s 3 ..: a weight for each s.
        shape = (1,) * lead + tuple(n for s in weights.shape for n in (s, 1))
        one.append(a * weights.reshape(shape))
        other.append(b * weights.reshape(shape))
    return _norms(one, other)


def _norms(one: list[np.ndarray], other: list[np.ndarray]) -> tuple[float, float]:
    error = float(np.sqrt(sum(np.sum((a - b) ** 2) for a, b in zip(one, other, strict=True))))
    scale = float(np.sqrt(sum(np.sum(a**2) for a in one)))
    return error, error / scale if scale > 0.0 else float("nan")
