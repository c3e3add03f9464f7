"""Which variable makes a function large: what it captures, weighed.

A function that travels by value takes along its defaults, what its closure holds, the globals that it reads,
and the same of functions that it calls. Weights are estimates, good enough to say which one it is.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import CodeType
    from typing import Any

SAMPLE = 16
MAX_DEPTH = 4
MAX_FUNCTIONS = 100
_FUNCTION = type(lambda: None)
_MODULE = type(sys)


def largest(function: object) -> tuple[str, str]:
    """Return the name and the type of the heaviest thing that a function captures, ("", "") if none is found.

    The name is a variable's, `self.x` for a method's object, with the function that holds it where that is
    another one: "table (through load)".
    """
    heaviest, name, kind = 0, "", ""
    try:
        for found, value in _captured(function):
            weight = weigh(value)
            if weight > heaviest:
                heaviest, name, kind = weight, found, type(value).__name__
    except Exception:  # objects may do anything when looked at; what was found so far will do
        pass
    return name, kind


def weigh(value: Any, depth: int = 0) -> int:
    """Estimate how many bytes a value would take when pickled."""
    if isinstance(value, (bytes, bytearray, str)):
        return len(value)
    if depth > MAX_DEPTH or isinstance(value, (type, _MODULE, _FUNCTION)):
        return 0
    try:
        nbytes = getattr(value, "nbytes", None)
        if isinstance(nbytes, int):
            return nbytes
        if isinstance(value, dict):
            return _weigh_items(list(value), depth) + _weigh_items(list(value.values()), depth)
        if isinstance(value, (list, tuple, set, frozenset)):
            return _weigh_items(list(value), depth)
        if hasattr(value, "memory_usage") and hasattr(value, "columns"):  # a data frame
            usage = value.memory_usage()
            return int(usage.sum())
        state = getattr(value, "__dict__", None)
        if state:
            return sum(weigh(each, depth + 1) for each in state.values())
        return sys.getsizeof(value)
    except Exception:
        return 0


def _weigh_items(items: list[Any], depth: int) -> int:
    """Estimate a container's weight by a few of its items, spread evenly."""
    if not items:
        return 0
    sample = items[:: max(1, len(items) // SAMPLE)]
    return len(items) * sum(weigh(item, depth + 1) for item in sample) // len(sample)


def _captured(function: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of what a function takes along, functions that it calls included."""
    waiting: list[tuple[Any, str]] = [(function, "")]
    seen: set[int] = set()
    while waiting and len(seen) < MAX_FUNCTIONS:
        value, through = waiting.pop(0)
        if id(value) in seen:
            continue
        seen.add(id(value))
        for name, held in _held(value):
            inner = _function_of(held)
            if inner is not None:
                waiting.append((inner, f" (through {name})"))
            else:
                yield name + through, held


def _function_of(value: Any) -> Any:
    """Return a function that is to be looked into: a plain one, or what a remote one wraps."""
    if isinstance(value, _FUNCTION):
        return value
    try:
        return value.__wrapped__ if hasattr(value, "_exportable") else None
    except Exception:
        return None


def _held(function: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of what a callable holds itself."""
    inner = getattr(function, "func", None)
    if inner is not None and hasattr(function, "keywords"):  # functools.partial
        for position, value in enumerate(function.args):
            yield f"argument {position} of the partial", value
        yield from function.keywords.items()
        yield "partial", inner
        return
    owner = getattr(function, "__self__", None)
    if owner is not None and not isinstance(owner, _MODULE):  # a method
        for name, value in getattr(owner, "__dict__", {}).items():
            yield f"self.{name}", value
        function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        for name, value in getattr(function, "__dict__", {}).items():  # an object with __call__
            yield f"self.{name}", value
        return
    names = code.co_varnames[: code.co_argcount]
    defaults = function.__defaults__ or ()
    yield from zip(names[len(names) - len(defaults) :], defaults)
    yield from (function.__kwdefaults__ or {}).items()
    for name, cell in zip(code.co_freevars, function.__closure__ or ()):
        try:
            yield name, cell.cell_contents
        except ValueError:
            pass  # empty
    if _travels_by_name(function):
        return
    known = function.__globals__
    for name in dict.fromkeys(_global_names(code)):
        if name in known:
            yield name, known[name]


def _travels_by_name(function: Any) -> bool:
    """Say whether workers import a function: then its globals are their own."""
    name = function.__module__
    module = sys.modules.get(name) if name != "__main__" else None
    return module is not None and getattr(module, function.__qualname__, None) is function


def _global_names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _global_names(constant)
