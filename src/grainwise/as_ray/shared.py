"""`ray._common`: what Ray's own parts share, of which programs' tests use a few modules."""

from __future__ import annotations

from .finder import submodule

__name__ = "ray._common"  # `from ray._common import …` asks the finder


def __getattr__(name: str) -> object:
    return submodule(__name__, name)
