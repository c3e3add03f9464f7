"""Pickling by value: cloudpickle, and what it leaves out.

A function under `functools.cache` pickles itself by its name, which no worker can look up in the main script;
here it travels like any other function, with an empty cache of its own. It is the natural way to load
something once per worker. So do properties under `functools.cached_property`.
"""

from __future__ import annotations

import functools
import sys

import cloudpickle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_CACHED: Any = type(functools.lru_cache(lambda: None))


class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # it has no types
    """cloudpickle's pickler; takes cached functions of the main script, and cached local ones."""

    def reducer_override(self, obj: Any) -> Any:
        """Return how to pickle an object, NotImplemented for the usual way."""
        if type(obj) is _CACHED and not _can_be_found(obj):
            return _cache_again, (obj.__wrapped__, obj.cache_parameters())
        if type(obj) is functools.cached_property:  # up to Python 3.11 it holds a lock
            return _cached_property_again, (obj.func, obj.attrname)
        return super().reducer_override(obj)


def dumps(value: object, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    """Pickle a value, functions and classes of the main script by value."""
    import io

    file = io.BytesIO()
    Pickler(file, protocol=5, buffer_callback=buffer_callback).dump(value)
    return file.getvalue()


def _can_be_found(function: Any) -> bool:
    """Say whether a worker can import a function by its name."""
    module = getattr(function, "__module__", None)
    if module is None or module == "__main__" or module in cloudpickle.list_registry_pickle_by_value():
        return False
    found: Any = sys.modules.get(module)
    for name in getattr(function, "__qualname__", "").split("."):
        found = getattr(found, name, None)
    return found is function


def _cache_again(function: Callable[..., Any], parameters: dict[str, Any]) -> Any:
    return functools.lru_cache(**parameters)(function)


def _cached_property_again(function: Callable[..., Any], name: str) -> Any:
    made: Any = functools.cached_property(function)
    made.__set_name__(None, name)
    return made
