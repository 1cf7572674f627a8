"""YAML as plain lists, maps and words, without what could do harm, and typed access that names its place."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

__all__ = ["Node", "load_yaml"]

# Levels of lists and maps; files of potentials have six.
_MAX_DEPTH = 12

_WHOLE = re.compile(r"[+-]?\d+\Z")


def load_yaml(text: str) -> Any:
    """Lists, maps and strings; lists as keys become tuples. Nothing else of YAML is let through.

    Numbers stay text: YAML takes the element No for false, and 1e-5 for a word.
    """
    try:
        import yaml
    except ImportError:
        raise ImportError(
            "reading .yace files needs PyYAML; install it with: pip install ase-qmmm[lammps]"
        ) from None
    # Parsed event by event, without recursion: deep nesting is refused before it can do harm.
    stack: list[tuple[Any, list[Any]]] = []
    documents: list[Any] = []

    def put(value: Any) -> None:
        if not stack:
            documents.append(value)
            return
        container, pending = stack[-1]
        if isinstance(container, list):
            container.append(value)
        elif not pending:
            pending.append(_key(value))
            if pending[0] in container:
                raise ValueError(f"the key {pending[0]!r} occurs twice")
        else:
            container[pending.pop()] = value

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
                raise ValueError("anchors and aliases of YAML have no place in a potential")
            if getattr(event, "tag", None) is not None:
                raise ValueError(f"the YAML tag {event.tag!r} has no place in a potential")
            if isinstance(event, yaml.ScalarEvent):
                put(event.value)
            elif isinstance(event, yaml.CollectionStartEvent):
                stack.append(({} if isinstance(event, yaml.MappingStartEvent) else [], []))
                if len(stack) > _MAX_DEPTH:
                    raise ValueError(f"nested more than {_MAX_DEPTH} levels deep, which no potential is")
            elif isinstance(event, yaml.CollectionEndEvent):
                put(stack.pop()[0])
    except yaml.YAMLError as error:
        raise ValueError(f"not a whole YAML file ({' '.join(str(error).split())})") from None
    if len(documents) != 1:
        raise ValueError(f"{len(documents)} YAML documents, expected one")
    return documents[0]


def _key(value: Any) -> Any:
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return tuple(value)
    if not isinstance(value, str):
        raise ValueError("a map with a key that is neither a word nor a list of words")
    return value


class Node:
    """A place in the file, which names itself in errors."""

    def __init__(self, value: Any, where: str) -> None:
        self.value, self.where = value, where

    def error(self, expected: str) -> ValueError:
        """An error that says what is here."""
        shown = str(self.value)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        return ValueError(f"{self.where}: got {shown}, expected {expected}")

    def map(self) -> dict[Any, Any]:
        """The map that is here."""
        if not isinstance(self.value, dict):
            raise self.error("a map")
        return self.value

    def __contains__(self, key: str) -> bool:
        return key in self.map()

    def __getitem__(self, key: str) -> Node:
        content = self.map()
        if key not in content:
            raise ValueError(f"{self.where}: lacks {key!r}")
        return Node(content[key], key if self.where == "file" else f"{self.where}.{key}")

    def list(self) -> list[Node]:
        """The list that is here, item by item."""
        if not isinstance(self.value, list):
            raise self.error("a list")
        return [Node(v, f"{self.where}[{i}]") for i, v in enumerate(self.value)]

    def text(self) -> str:
        """The word that is here."""
        if not isinstance(self.value, str):
            raise self.error("a word")
        return self.value

    def whole(self, low: int, high: int = 10**6) -> int:
        """A whole number from `low` to `high`."""
        value = self.value
        if not (isinstance(value, str) and len(value) < 12 and _WHOLE.match(value)):
            raise self.error("a whole number")
        if not low <= int(value) <= high:
            raise self.error(f"a whole number from {low} to {high}")
        return int(value)

    def wholes(self, low: int, high: int, size: int) -> tuple[int, ...]:
        """A list of `size` whole numbers."""
        items = self.list()
        if len(items) != size:
            raise ValueError(f"{self.where}: {len(items)} numbers, expected {size}")
        return tuple(i.whole(low, high) for i in items)

    def number(self, low: float = -np.inf) -> float:
        """A finite number of at least `low`."""
        try:
            value = float(self.value)
        except (TypeError, ValueError):
            raise self.error("a number") from None
        if not np.isfinite(value) or value < low:
            raise self.error("a finite number" + (f" >= {low:g}" if np.isfinite(low) else ""))
        return value

    def numbers(self, size: int | None = None) -> np.ndarray:
        """A list of `size` numbers (any number of them if None)."""
        items = self.list()
        if size is not None and len(items) != size:
            raise ValueError(f"{self.where}: {len(items)} numbers, expected {size}")
        return np.array([i.number() for i in items])
