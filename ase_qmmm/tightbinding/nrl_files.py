"""NRL parameter sets: the packaged ones, and a user's own in JSON or in the NRL ``.par`` text format.

Everything is validated before a model is made of it. JSON files have the layout of the packaged
``data/nrl_tb_params.json``: Rydberg and Bohr, ``g``, ``s`` and ``lambda`` squared, one row per spin. ``.par``
files hold these unsquared, at times negative.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_masses, chemical_symbols

from ..files import parse_json
from .nrl_validation import validate_set
from .slater_koster import CHANNELS

__all__ = ["packaged_sets", "packaged_set", "is_parameter_file", "read_parameters", "read_par"]

# A path, and the set after the "#" that follows its suffix.
_PATH = re.compile(r"(.*\.(?:json|par))(?:#(.*))?", re.IGNORECASE | re.DOTALL)
# Far above any parameter file (the packaged one has 75 kB): what is larger is something else.
_MAX_BYTES = 20_000_000
_PAR_NUMBERS = 97


@lru_cache(maxsize=1)
def packaged_sets() -> dict[str, Any]:
    """Packaged parameter sets by their name, e.g. ``Si_sp``."""
    text = resources.files(__package__).joinpath("data/nrl_tb_params.json").read_text(encoding="utf-8")
    sets: dict[str, Any] = json.loads(text)["sets"]
    return sets


def packaged_set(name: str, known: Iterable[str]) -> dict[str, Any]:
    """Parameters of ``"nrl-<set>"``; a misspelt name raises ``ValueError`` with the nearest of `known`."""
    sets = packaged_sets()
    key = name.removeprefix("nrl-").replace("-", "_")
    if not name.startswith("nrl-") or key not in sets:
        raise unknown_name(name, known)
    parameters: dict[str, Any] = sets[key]
    return parameters


def unknown_name(name: str, known: Iterable[str]) -> ValueError:
    """The error for a model that has no such name."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return ValueError(
        f"model: got {name!r}{hint} (known: {', '.join(names)}; or a path ending in .json, .json#set, .par)"
    )


def is_parameter_file(model: str | os.PathLike[str]) -> bool:
    """Whether `model` means a file: a path object, or a string with a suffix of parameter files."""
    return not isinstance(model, str) or _PATH.fullmatch(model) is not None


def read_parameters(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and validate one parameter set.

    Parameters
    ----------
    path : str or os.PathLike
        A ``.par`` file, a ``.json`` file, or ``file.json#set`` where a file holds several sets.

    Raises
    ------
    FileNotFoundError
    ValueError
        Not the format; missing or wrong entries. The message names file, set and key.
    """
    parts = _PATH.fullmatch(os.fspath(path))
    if parts is None:
        raise ValueError(f"model: got file {os.fspath(path)!r}, expected a name that ends in .json or .par")
    name, chosen = parts[1], parts[2] or ""
    file = Path(name)
    if not file.is_file():
        raise FileNotFoundError(f"model: there is no parameter file {name!r}")
    if file.stat().st_size > _MAX_BYTES:
        raise ValueError(f"{name}: {file.stat().st_size} bytes, expected a parameter file below {_MAX_BYTES}")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not a text file ({error})") from error
    if file.suffix.lower() == ".par":
        if chosen:
            raise ValueError(f"{name}: a .par file holds one set, remove '#{chosen}'")
        return validate_set(read_par(text, name), name)
    try:
        data = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{name}: not a JSON file ({error})") from error
    return validate_set(_one_set(data, chosen, name), f"{name}#{chosen}" if chosen else name)


def _one_set(data: Any, chosen: str, where: str) -> Any:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: got {type(data).__name__}, expected an object with 'sets' or one set")
    units = data.get("units")
    if units is not None and units != {"energy": "Rydberg", "length": "Bohr"}:
        raise ValueError(f"{where}: units: got {units}, expected energy Rydberg and length Bohr")
    if "sets" not in data:
        if chosen:
            raise ValueError(f"{where}: holds one set without a name, remove '#{chosen}'")
        return data
    sets = data["sets"]
    if not isinstance(sets, dict) or not sets:
        raise ValueError(f"{where}: sets: expected an object with at least one set")
    if not chosen and len(sets) == 1:
        return next(iter(sets.values()))
    if chosen not in sets:
        near = difflib.get_close_matches(chosen, sets, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        got = f"got set {chosen!r}{hint}" if chosen else "the file holds several sets"
        raise ValueError(f"{where}: {got}; name one as '{where}#<set>' (it has {', '.join(sets)})")
    return sets[chosen]


def read_par(text: str, where: str = "text") -> dict[str, Any]:
    """Parameters of an NRL ``.par`` text, in the layout of the JSON files (not yet validated).

    The first line starts with the header (characters 1: N or O, non-orthogonal or orthogonal; 2: N or M,
    magnetic; 6: pair repulsion; 7: one for overlaps that tend to those of one atom at r = 0, plus two for
    Harrison signs). Lines follow with a title (may be missing), number of species, cutoff and its width,
    orbitals, mass and perhaps atomic number, valence occupation of s, p and d, and 97 numbers: lambda; a, b,
    c, d of s, p, t2g and eg; e, f, fbar, g of ten hoppings and of ten overlaps. The first number of each line
    counts.

    Raises
    ------
    ValueError
        Another format, or a feature that is not treated.
    """
    lines = [line for line in text.splitlines() if line.strip()]
    header = lines[0].split()[0] if lines else ""
    if len(header) < 7 or header[0] not in "NO" or header[1] not in "NM" or not header[2:].isdigit():
        raise ValueError(f"{where}: header: got {header!r}, expected one like 'NN00000'")
    if header[1] == "M":
        raise ValueError(f"{where}: header {header!r} is magnetic, give such a set as JSON")
    has_title = len(lines) > 1 and not lines[1].split()[0].isdigit()
    title = lines[1].strip() if has_title else " ".join(lines[0].split()[1:])
    rows = iter(lines[2:] if has_title else lines[1:])

    def numbers(key: str, count: int = 1) -> list[float]:
        words = next(rows, "").replace("D", "E").replace(",", " ").split()
        try:
            values = [float(word) for word in words[:count]]
        except ValueError:
            values = []
        if len(values) < count:
            raise ValueError(
                f"{where}: {key}: got {' '.join(words[:4])!r}, expected {count} number(s) first on the line"
            )
        return values

    if numbers("number of species") != [1.0]:
        raise ValueError(f"{where}: number of species: expected 1, give several species as JSON")
    r_cut, width = numbers("cutoff and width", 2)
    (n_orbitals,) = numbers("number of orbitals")
    shells = {1.0: [0], 4.0: [0, 1], 9.0: [0, 1, 2]}.get(n_orbitals)
    if shells is None:
        raise ValueError(f"{where}: number of orbitals: got {n_orbitals:g}, expected 1, 4 or 9")
    symbol, mass = _element(next(rows, ""), where)
    n_electrons = sum(numbers("valence occupation", 3))
    values = np.array([numbers(f"number {k + 1} of {_PAR_NUMBERS}")[0] for k in range(_PAR_NUMBERS)])
    onsite = values[1:17].reshape(4, 4).tolist()
    if onsite[2] != onsite[3]:
        raise ValueError(f"{where}: a, b, c, d of t2g and eg differ, expected equal ones")
    bonds = values[17:].reshape(2, len(CHANNELS), 4)
    bonds[:, :, 3] **= 2
    needed = [c for c in CHANNELS if all("spd".index(letter) in shells for letter in c[:2])]
    zero_limit = int(header[6])
    return {
        "species": [
            {
                "symbol": symbol,
                "mass": mass,
                "shells": shells,
                "n_electrons": n_electrons,
                "lambda_sq": [float(values[0] ** 2)],
            }
        ],
        "n_spin": 1,
        "orthogonal": header[0] == "O",
        "overlap_zero_limit": bool(zero_limit & 1),
        "force_harrison_signs": bool(zero_limit & 2),
        "short_range_spline": False,
        "pair_repulsion": header[5] != "0",
        "onsite": [
            {"centre": symbol, "neighbour": symbol, "abcd": {"spd"[l]: [onsite[l]] for l in shells}},
        ],
        "pairs": [
            {
                "first": symbol,
                "second": symbol,
                "r_cut": r_cut,
                "screen_l": width,
                "hopping": {c: [bonds[0, CHANNELS.index(c)].tolist()] for c in needed},
                "overlap": {c: [bonds[1, CHANNELS.index(c)].tolist()] for c in needed},
            }
        ],
        "header": header,
        "citation": title,
    }


def _element(line: str, where: str) -> tuple[str, float]:
    """Symbol and mass from a line with the mass and perhaps the atomic number."""
    words = line.split()
    try:
        mass = float(words[0])
    except (IndexError, ValueError):
        raise ValueError(f"{where}: mass: got {line.strip()!r}, expected a number") from None
    if len(words) > 1 and words[1].isdigit() and 0 < int(words[1]) < len(chemical_symbols):
        return chemical_symbols[int(words[1])], mass
    number = int(np.nanargmin(np.abs(atomic_masses[1:] - mass))) + 1
    if not abs(atomic_masses[number] - mass) < 0.2:
        raise ValueError(f"{where}: mass: got {mass:g}, which is that of no element; add the atomic number")
    return chemical_symbols[number], mass
