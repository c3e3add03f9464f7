"""`ray._private`: Ray's own inside, of which programs and their tests use a few modules."""

from __future__ import annotations

from .finder import submodule

__name__ = "ray._private"  # `from ray._private import …` asks the finder


def __getattr__(name: str) -> object:
    return submodule(__name__, name)
