"""Values that resist pickling or unpickling; apart from the tests: workers import nothing but these."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any


class Handler:
    """Something of a user's with a part that cannot travel."""

    def __init__(self) -> None:
        self.name = "file"
        self._lock = threading.Lock()


class RaisesInReduce:
    def __reduce__(self) -> Any:
        raise RuntimeError("reduce says no 17")


class RaisesInGetstate:
    def __getstate__(self) -> Any:
        raise OSError("getstate says no 17")


class Explodes:
    """Pickles well and raises when it is unpickled: what to raise is given as source."""

    def __init__(self, error: str) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        # Nothing but builtins, so that it explodes and not the import of this module.
        return eval, (f"(_ for _ in ()).throw({self.error})", {})


BAD_PARTS: dict[str, Callable[[], Any]] = {
    "lock": threading.Lock,
    "generator": lambda: (i for i in range(3)),
    "frame": lambda: sys._getframe(),
    "thread-local": threading.local,
    "raises in reduce": RaisesInReduce,
    "raises in getstate": RaisesInGetstate,
}
