"""Files that are whole or not there, and JSON from anybody."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["parse_json", "write_atomically"]

# Levels of brackets; files of this package have fewer than ten.
MAX_DEPTH = 100


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write(temporary)`` beside `path`, then rename: a crash leaves the old file or none.

    The temporary file keeps the suffix of `path`, by which writers choose a format.
    """
    unique = f"{os.getpid()}-{threading.get_ident()}"
    temporary = path.with_name(f".{path.stem}.{unique}{path.suffix}")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def parse_json(text: str) -> Any:
    """What `text` holds; ``ValueError`` for what is no JSON, or nested more deeply than `MAX_DEPTH` levels.

    The parser calls itself at each level: a hostile file could exhaust the stack of the process.
    """
    codes = np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8)
    step = np.isin(codes, (ord("["), ord("{"))).astype(np.int32) - np.isin(codes, (ord("]"), ord("}")))
    if np.cumsum(step).max(initial=0) > MAX_DEPTH:
        raise ValueError(f"brackets nested more than {MAX_DEPTH} levels deep")
    return json.loads(text)
