"""Files of ACE models: JSON with a format, a version and a checksum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ..files import parse_json, write_atomically
from .basis import ACEBasis

__all__ = ["read_potential", "write_potential"]

FORMAT, VERSION = "ase_qmmm ACE potential", 1
# Bytes; the largest bases that can be evaluated at all take a few MB.
MAX_SIZE = 200_000_000


def _checksum(content: dict[str, Any]) -> str:
    text = json.dumps({k: v for k, v in content.items() if k != "checksum"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_potential(
    path: str | Path, basis: ACEBasis, coefficients: np.ndarray, reference_energies: dict[str, float]
) -> None:
    """Write to a temporary file beside `path`, then rename: a reader sees the old file or the new one."""
    content: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "units": {"length": "Angstrom", "energy": "eV"},
        "basis": basis.parameters,
        "n_functions": len(basis),
        "reference_energies": reference_energies,
        "coefficients": coefficients.tolist(),
    }
    content["checksum"] = _checksum(content)
    text = json.dumps(content, indent=1)
    write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


def read_potential(path: str | Path) -> tuple[ACEBasis, np.ndarray, dict[str, float]]:
    """Basis, coefficients (eV) and reference energies (eV) of a file; ``ValueError`` if it is not whole."""
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"path: there is no file {str(source)!r}")
    size = source.stat().st_size
    if size > MAX_SIZE:
        raise ValueError(f"{source}: {size} bytes, more than any ACE model; is it the right file?")
    try:
        content = parse_json(source.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{source}: not a whole JSON file ({error}); write it again with .save") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{source}: not a file of ACEPotential.save (no format {FORMAT!r})")
    if content.get("version") != VERSION:
        raise ValueError(
            f"{source}: version {content.get('version')!r}, this package reads version {VERSION}; update it"
        )
    if content.get("checksum") != _checksum(content):
        raise ValueError(f"{source}: the checksum does not fit, the file was changed or damaged")
    missing = sorted({"basis", "coefficients", "reference_energies", "n_functions"} - content.keys())
    if missing:
        raise ValueError(f"{source}: lacks {', '.join(missing)}; write it again with .save")
    basis = ACEBasis(**content["basis"])
    if len(basis) != content["n_functions"]:
        raise ValueError(
            f"{source}: its basis had {content['n_functions']}, its parameters now give {len(basis)}"
        )
    return basis, np.array(content["coefficients"], dtype=float), content["reference_energies"]
