"""Whole files or none, and JSON from anybody."""

from __future__ import annotations

import sys
import threading

import pytest

from ase_qmmm.files import MAX_DEPTH, parse_json, write_atomically


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.txt"
    write_atomically(path, lambda temporary: temporary.write_text("old", encoding="utf-8"))

    def fail(temporary):
        temporary.write_text("ne", encoding="utf-8")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    write_atomically(path, lambda temporary: temporary.write_text("new", encoding="utf-8"))
    assert path.read_text(encoding="utf-8") == "new"


def test_two_writers(tmp_path):
    """Threads that write the same file: one of them wins, whole."""
    path = tmp_path / "x.txt"
    texts = [letter * 100_000 for letter in "ab"]

    def write(text):
        for _ in range(20):
            write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text(encoding="utf-8") in texts and len(list(tmp_path.iterdir())) == 1


def test_deep_json_is_refused_whatever_the_recursion_limit():
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10**6)
    try:
        with pytest.raises(ValueError, match="nested more than"):
            parse_json("[" * 200_000)
    finally:
        sys.setrecursionlimit(limit)
    nested = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(f'{{"a": {nested[1:-1]}, "b": "ä"}}')["b"] == "ä"
    with pytest.raises(ValueError):
        parse_json("{")
