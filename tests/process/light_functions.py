"""Functions for tasks of tests whose own module is slow to import: a worker imports what it finds by name."""

from __future__ import annotations

from typing import Any


def inc(x: int) -> int:
    return x + 1


def square(x: int) -> int:
    return x * x


def fail(x: Any) -> None:
    raise KeyError(f"number {x}")
