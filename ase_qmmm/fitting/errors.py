"""Errors of a fit by group and kind of data."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .blocks import Block

__all__ = ["error_table", "format_errors", "parity_table"]

PARITY_COLUMNS = [
    ("group", "U32"),
    ("kind", "U16"),
    ("reference", float),
    ("predicted", float),
    ("size", float),
]
ERROR_COLUMNS = [
    ("group", "U32"),
    ("kind", "U16"),
    ("n", int),
    ("rmse", float),
    ("max", float),
    ("r2", float),
]
UNITS = {"energy": "meV/atom", "forces": "meV/Å", "virial": "meV/atom"}
UNITS |= {f"dV{j}": f"meV/Å^{j}" for j in (1, 2, 3)} | {f"dF{j}": f"meV/Å^{j + 1}" for j in (1, 2)}
UNITS |= {f"W{j}": "meV" for j in (1, 2, 3)}


def parity_table(blocks: Iterable[Block], coefficients: np.ndarray) -> np.ndarray:
    """Targets beside their prediction, in the units that errors are stated in."""
    parts = [np.zeros(0, dtype=PARITY_COLUMNS)]
    for block in blocks:
        part = np.zeros(len(block.targets), dtype=PARITY_COLUMNS)
        part["group"], part["kind"] = block.group, block.kind
        part["reference"] = block.targets / block.unit
        part["predicted"] = block.design @ coefficients / block.unit
        part["size"] = 1.0 if block.sizes is None else block.sizes
        parts.append(part)
    return np.concatenate(parts)


def error_table(parity: np.ndarray) -> np.ndarray:
    """Errors by group and kind, then of all groups together."""
    pairs = sorted({(str(g), str(k)) for g, k in zip(parity["group"], parity["kind"], strict=True)})
    pairs += [("all", kind) for kind in sorted({kind for _, kind in pairs})]
    rows = []
    for group, kind in pairs:
        mine = parity[(parity["kind"] == kind) & ((parity["group"] == group) | (group == "all"))]
        sizes, targets = mine["size"], mine["reference"]
        residual = mine["predicted"] - targets
        n = sizes.sum()
        spread = float(sizes @ (targets - sizes @ targets / n) ** 2)
        square = float(sizes @ residual**2)
        # Data that are equal but for rounding (the stress of a crystal in equilibrium) have none.
        r2 = 1.0 - square / spread if spread > 1e-9 * square else np.nan
        rows.append((group, kind, int(n), np.sqrt(square / n), np.abs(residual).max(), r2))
    return np.array(rows, dtype=ERROR_COLUMNS)


def format_errors(errors: np.ndarray) -> str:
    """The table in columns, in meV."""
    lines = [f"{'group':16s} {'kind':8s} {'data':>8s} {'RMSE':>10s} {'largest':>10s} {'R²':>9s}"]
    for row in errors:
        lines.append(
            f"{row['group']:16s} {row['kind']:8s} {row['n']:8d} {1e3 * row['rmse']:10.4g} "
            f"{1e3 * row['max']:10.4g} {row['r2']:9.6f}  {UNITS[str(row['kind'])]}"
        )
    return "\n".join(lines)
