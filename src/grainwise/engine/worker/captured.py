"""Whether a function carries data that may have changed since it was sent.

A function that travels by value takes along what it has captured, as it was when it was pickled. The copy
that lies in another function's closure or globals shares these objects with whatever else runs there, so it
may have changed since.
"""

from __future__ import annotations

import sys

from ...objects.codec import is_atom

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType
    from typing import Any

_FUNCTION = type(lambda: None)
_BUILTIN = type(len)
_MODULE = type(sys)


def carries_data(function: object) -> bool:
    """Say whether a function, or one that it calls, captures anything but constants, code and modules."""
    waiting: list[object] = [function]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen or is_atom(value) or isinstance(value, (_MODULE, _BUILTIN, type)):
            continue
        seen.add(id(value))
        if hasattr(value, "_exportable"):
            continue  # a remote function travels by itself
        if isinstance(value, tuple):
            waiting += value
        elif type(value) is not _FUNCTION:
            return True
        elif not _is_importable(value):
            waiting += _captured(value)
    return False


def _is_importable(function: Any) -> bool:
    """Say whether a function travels by name: then it is the same everywhere."""
    name = function.__module__
    module = sys.modules.get(name) if name != "__main__" else None
    return module is not None and getattr(module, function.__qualname__, None) is function


def _captured(function: Any) -> Iterator[object]:
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            pass  # empty
    known = function.__globals__
    yield from (known[name] for name in set(_names(function.__code__)) if name in known)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _names(constant)
