"""Exception classes as users write them; apart from the tests, so that workers import nothing but these."""

# ruff: noqa: N818 - not every user's exception is called an error

from __future__ import annotations

import threading
from typing import Any


class TwoArguments(Exception):
    """Its default pickling fails on load: `cls(*args)` lacks an argument."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class KeywordOnly(ValueError):
    def __init__(self, *, limit: int) -> None:
        super().__init__(f"over the limit of {limit}")
        self.limit = limit


class NoSuper(Exception):
    def __init__(self, code: int) -> None:
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class WithSlots(Exception):
    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        super().__init__("slotted")
        self.code = code


class OwnReduce(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a}/{b}")
        self.a, self.b = a, b

    def __reduce__(self) -> Any:
        return OwnReduce, (self.a, self.b)


class HoldsALock(RuntimeError):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()
        self.code = 17


class RaisesInReduce(RuntimeError):
    def __reduce__(self) -> Any:
        raise OSError("the reduce of an exception")


class RaisesOnArrival(RuntimeError):
    def __reduce__(self) -> Any:
        return eval, ("1 / 0",)


class RaisesInStr(RuntimeError):
    def __str__(self) -> str:
        raise ValueError("the str of an exception")


class Base(Exception):
    """Something to derive from."""


class Derived(Base, LookupError):
    """Of two families."""
