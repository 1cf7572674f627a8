"""Checks of an NRL parameter set: every entry that a model needs, by name, before any work."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from .slater_koster import shell_channels

__all__ = ["validate_set"]

_FLAGS = ("orthogonal", "overlap_zero_limit", "force_harrison_signs", "short_range_spline", "pair_repulsion")
_REFUSED = {
    "pair_repulsion": "a pair repulsion",
    "force_harrison_signs": "Harrison signs",
    "orthogonal": "an orthogonal basis",
}


def validate_set(data: Any, where: str) -> dict[str, Any]:
    """Return a set that is complete and finite, flags filled in.

    Parameters
    ----------
    data : dict
        As read from a file.
    where : str
        File and set, for messages.

    Raises
    ------
    ValueError
        Names file, set and key, what was got and what was expected.
    """
    parameters: dict[str, Any] = dict(_typed(data, dict, where, "set"))
    for flag in _FLAGS:
        value = parameters.setdefault(flag, False)
        if not isinstance(value, bool):
            raise _error(where, flag, value, "true or false")
        if value and flag in _REFUSED:
            raise ValueError(
                f"{where}: {flag}: the set needs {_REFUSED[flag]}, which NRLModel does not treat"
            )
    parameters.setdefault("citation", "")
    n_spin = parameters.setdefault("n_spin", 1)
    if n_spin not in (1, 2) or isinstance(n_spin, bool):
        raise _error(where, "n_spin", n_spin, "1 or 2")
    species = _get(parameters, "species", list, where)
    if not species:
        raise _error(where, "species", species, "at least one")
    shells: dict[str, list[int]] = {}
    for k, entry in enumerate(species):
        symbol = _symbol(_typed(entry, dict, where, f"species[{k}]"), "symbol", where, f"species[{k}]")
        if symbol in shells:
            raise _error(where, f"species[{k}].symbol", symbol, "each element once")
        shells[symbol] = _species(entry, n_spin, where, f"species[{k}]")
    _onsite(parameters, shells, n_spin, where)
    _pairs(parameters, shells, n_spin, where)
    return parameters


def _error(where: str, key: str, got: Any, expected: str) -> ValueError:
    text = repr(got)
    return ValueError(f"{where}: {key}: got {text[:60]}{'...' * (len(text) > 60)}, expected {expected}")


_KINDS: dict[type, str] = {dict: "an object", list: "a list", str: "text"}


def _typed(value: Any, kind: type, where: str, key: str) -> Any:
    if not isinstance(value, kind):
        raise _error(where, key, value, _KINDS[kind])
    return value


def _get(entry: dict[str, Any], key: str, kind: type, where: str, prefix: str = "") -> Any:
    if key not in entry:
        raise ValueError(f"{where}: {prefix}{key}: missing (there is {', '.join(entry) or 'nothing'})")
    return _typed(entry[key], kind, where, prefix + key)


def _symbol(entry: dict[str, Any], key: str, where: str, prefix: str) -> str:
    symbol: str = _get(entry, key, str, where, f"{prefix}.")
    if atomic_numbers.get(symbol, 0) == 0:
        raise _error(where, f"{prefix}.{key}", symbol, "a chemical symbol")
    return symbol


def _numbers(value: Any, shape: tuple[int, ...], where: str, key: str, positive: bool = False) -> np.ndarray:
    """Array of finite numbers of a shape."""
    size = " x ".join(map(str, shape)) if shape else "one"
    kind = f"{size} {'positive ' * positive}finite number(s)"
    try:
        array = np.array(value, dtype=float)
    except (TypeError, ValueError):
        raise _error(where, key, value, kind) from None
    if array.shape != shape or not np.isfinite(array).all() or (positive and not (array > 0).all()):
        raise _error(where, key, value, kind)
    return array


def _number(entry: dict[str, Any], key: str, where: str, prefix: str) -> float:
    if key not in entry:
        raise ValueError(f"{where}: {prefix}.{key}: missing (there is {', '.join(entry)})")
    return float(_numbers(entry[key], (), where, f"{prefix}.{key}", positive=True))


def _species(entry: dict[str, Any], n_spin: int, where: str, prefix: str) -> list[int]:
    shells: list[int] = _get(entry, "shells", list, where, f"{prefix}.")
    if not shells or shells != sorted(set(shells)) or not set(shells) <= {0, 1, 2}:
        raise _error(where, f"{prefix}.shells", shells, "rising angular momenta among 0, 1, 2")
    n_electrons = _number(entry, "n_electrons", where, prefix)
    capacity = 2 * sum(2 * l + 1 for l in shells)
    if n_electrons >= capacity:
        raise _error(where, f"{prefix}.n_electrons", n_electrons, f"less than {capacity}")
    rates = _numbers(entry.get("lambda_sq"), (n_spin,), where, f"{prefix}.lambda_sq")
    if (rates < 0).any():
        raise _error(where, f"{prefix}.lambda_sq", entry["lambda_sq"], "no negative number")
    return shells


def _onsite(parameters: dict[str, Any], shells: dict[str, list[int]], n_spin: int, where: str) -> None:
    found: set[tuple[str, str]] = set()
    for k, entry in enumerate(_get(parameters, "onsite", list, where)):
        prefix = f"onsite[{k}]"
        _typed(entry, dict, where, prefix)
        key = (_symbol(entry, "centre", where, prefix), _symbol(entry, "neighbour", where, prefix))
        _known(key, shells, found, where, prefix)
        found.add(key)
        table = _get(entry, "abcd", dict, where, f"{prefix}.")
        for l in shells[key[0]]:
            _numbers(table.get("spd"[l]), (n_spin, 4), where, f"{prefix}.abcd.{'spd'[l]}")
    _complete(found, shells, where, "onsite", "centre, neighbour")


def _pairs(parameters: dict[str, Any], shells: dict[str, list[int]], n_spin: int, where: str) -> None:
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for k, entry in enumerate(_get(parameters, "pairs", list, where)):
        prefix = f"pairs[{k}]"
        _typed(entry, dict, where, prefix)
        key = (_symbol(entry, "first", where, prefix), _symbol(entry, "second", where, prefix))
        _known(key, shells, set(found), where, prefix)
        found[key] = entry
        r_cut, width = (_number(entry, name, where, prefix) for name in ("r_cut", "screen_l"))
        if width >= r_cut:
            raise _error(where, f"{prefix}.screen_l", width, f"less than r_cut = {r_cut:g}")
        if parameters["short_range_spline"]:
            r_min, sigma = (_number(entry, name, where, prefix) for name in ("r_min_spline", "sigma_spline"))
            if not sigma < r_min < r_cut:
                raise _error(
                    where, f"{prefix}.r_min_spline", r_min, "more than sigma_spline, less than r_cut"
                )
        for part in ("hopping", "overlap"):
            table = _get(entry, part, dict, where, f"{prefix}.")
            for channel in _channels(shells[key[0]], shells[key[1]]):
                _numbers(table.get(channel), (n_spin, 4), where, f"{prefix}.{part}.{channel}")
    _complete(set(found), shells, where, "pairs", "first, second")
    for (first, second), entry in found.items():
        _symmetric(entry, found[second, first], where, f"pairs {first}, {second}")


def _channels(first: list[int], second: list[int]) -> list[str]:
    """Channels of a table whose lower-l orbital sits on the first species."""
    return [c for l1, l2 in product(first, second) if l1 <= l2 for c in shell_channels(l1, l2)]


def _symmetric(entry: dict[str, Any], mirror: dict[str, Any], where: str, prefix: str) -> None:
    """A pair seen from its other end is the same pair."""
    for key in ("r_cut", "screen_l", "r_min_spline", "sigma_spline"):
        if entry.get(key) != mirror.get(key):
            raise _error(
                where, f"{prefix}: {key}", entry.get(key), f"{mirror.get(key)} as in the mirror pair"
            )
    for part in ("hopping", "overlap"):
        for channel, rows in entry[part].items():
            if channel[0] == channel[1] and channel in mirror[part] and rows != mirror[part][channel]:
                raise _error(where, f"{prefix}: {part}.{channel}", rows, "the rows of the mirror pair")


def _known(
    key: tuple[str, str], shells: dict[str, list[int]], found: set[tuple[str, str]], where: str, prefix: str
) -> None:
    for symbol in key:
        if symbol not in shells:
            raise _error(where, prefix, symbol, f"an element of 'species' ({', '.join(shells)})")
    if key in found:
        raise _error(where, prefix, key, "each pair once")


def _complete(
    found: set[tuple[str, str]], shells: dict[str, list[int]], where: str, key: str, meaning: str
) -> None:
    missing = [pair for pair in product(shells, shells) if pair not in found]
    if missing:
        raise ValueError(
            f"{where}: {key}: no entry for ({meaning}) = {missing[0]}; {len(missing)} missing in all"
        )
