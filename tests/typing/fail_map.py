# pyright: strict
"""What a user's type checker must refuse of `map`: every line marked `# refused`. Checked, never run."""

from __future__ import annotations

import grainwise


def length(text: str) -> int:
    return len(text)


grainwise.map(length)  # refused
grainwise.map(3, ["a"])  # refused
grainwise.map(length, 3)  # refused
grainwise.map(length, ["a"], timeout="1 s")  # refused
grainwise.map(length, ["a"], retries=None)  # refused
grainwise.map(length, ["a"], progress="bar")  # refused
grainwise.map(length, ["a"], setup=3)  # refused
grainwise.starmap(length, ["a"], ["b"])  # refused
texts: list[str] = list(grainwise.map(length, ["a"]))  # refused
total: int = sum(grainwise.map(length, ["a"], return_exceptions=True))  # refused
