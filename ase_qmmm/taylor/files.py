"""Files of Taylor models: arrays in .npz, a JSON header, and a checksum over all of it."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from ..crystal import Crystal
from ..files import parse_json, write_atomically
from .polynomials import Terms

__all__ = ["read_model", "terms_from_arrays", "terms_to_arrays", "write_model"]

FORMAT = "ase_qmmm Taylor model"
VERSION = 1
# Bytes; a model is far smaller.
LARGEST = 16 * 2**30


def write_model(
    path: str | Path, kind: str, crystal: Crystal, header: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Write a model; the file of that name is replaced once the new one is complete."""
    path = Path(path)
    cell = crystal.unit_cell
    full = {
        "format": FORMAT,
        "version": VERSION,
        "model": kind,
        "units": "eV, Å",
        **header,
    }
    arrays = {
        **arrays,
        "crystal/numbers": cell.numbers.astype(np.int64),
        "crystal/positions": cell.positions,
        "crystal/cell": cell.cell.array,
        "crystal/pbc": cell.pbc,
        "header": np.array(json.dumps(full)),
    }
    arrays["checksum"] = np.array(_checksum(arrays))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # by its name numpy would add a suffix
            np.savez_compressed(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


def read_model(path: str | Path, kind: str) -> tuple[Crystal, dict[str, Any], dict[str, np.ndarray]]:
    """Crystal, header and arrays of a model.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Not a file of :func:`write_model`, one of another model or version, cut off, or changed.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(item.file_size for item in archive.infolist())
        if size > LARGEST:
            raise ValueError(f"{path}: {size / 1e9:.3g} GB when unpacked, which no Taylor model takes")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise ValueError(f"{path}: not a file of a Taylor model, or cut off or damaged ({error})") from error
    try:
        header = parse_json(str(arrays["header"]))
        checksum = str(arrays.pop("checksum"))
        found = header["format"], header["version"], header["model"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a file of a Taylor model ({FORMAT!r})") from error
    if found[0] != FORMAT:
        raise ValueError(f"{path}: format {found[0]!r}, expected {FORMAT!r}")
    if found[1] != VERSION:
        raise ValueError(f"{path}: version {found[1]!r}, this program reads version {VERSION}; make it again")
    if found[2] != kind:
        raise ValueError(f"{path}: a {found[2]}, expected a {kind}; load it with {found[2]}.load")
    if checksum != _checksum(arrays):
        raise ValueError(f"{path}: the checksum does not fit: the file was changed or is damaged")
    arrays.pop("header")
    cell = Atoms(
        numbers=arrays.pop("crystal/numbers"),
        positions=arrays.pop("crystal/positions"),
        cell=arrays.pop("crystal/cell"),
        pbc=arrays.pop("crystal/pbc"),
    )
    return Crystal(cell), header, arrays


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def terms_to_arrays(name: str, terms: list[list[Terms]]) -> dict[str, np.ndarray]:
    """Arrays by name of the terms of each basis atom."""
    out = {}
    for a, site in enumerate(terms):
        for t in site:
            out[f"{name}/{a}/{t.degree}/tuples"] = t.tuples.astype(np.int32)
            out[f"{name}/{a}/{t.degree}/coefficients"] = t.coefficients
    return out


def terms_from_arrays(
    name: str, arrays: dict[str, np.ndarray], n_basis: int, degrees: Iterable[int]
) -> list[list[Terms]]:
    """Inverse of :func:`terms_to_arrays`."""
    return [
        [
            Terms(
                arrays[f"{name}/{a}/{j}/tuples"].astype(int),
                arrays[f"{name}/{a}/{j}/coefficients"],
            )
            for j in degrees
        ]
        for a in range(n_basis)
    ]
