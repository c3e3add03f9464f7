"""`actor_cache`: what a replica computes once for the same arguments, and keeps."""

from __future__ import annotations

import functools
import hashlib
import sys
import threading

from ...objects.codec import serialize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")

_by_content: dict[bytes, ActorCache] = {}
"""Functions that came by value, by their content: requests that bring the same one share what it has made."""
_by_content_lock = threading.Lock()


def actor_cache(function: Callable[P, R]) -> Callable[P, R]:
    """Keep what a function returns, for each replica and each set of arguments: to load a model once.

        @actor_cache
        def load_model(path: str) -> Model: ...

    Calls at once with the same arguments wait for the first. An error is not kept. Outside of a replica it
    keeps results for the process. Arguments that have no hash are told apart by their pickles.
    """
    return functools.wraps(function)(ActorCache(function))


class ActorCache:
    """What `actor_cache` makes of a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.__wrapped__ = function
        self._kept: dict[Any, Any] = {}
        self._lock = threading.Lock()
        self._under_way: dict[Any, threading.RLock] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the function returned for these arguments, calling it if it was not called yet."""
        key = _key(args, kwargs)
        try:
            return self._kept[key]
        except KeyError:
            pass
        with self._lock:
            lock = self._under_way.setdefault(key, threading.RLock())
        with lock:
            if key not in self._kept:
                self._kept[key] = self.__wrapped__(*args, **kwargs)
                with self._lock:
                    self._under_way.pop(key, None)
            return self._kept[key]

    def cache_clear(self) -> None:
        """Forget what was kept."""
        self._kept.clear()

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def __reduce__(self) -> Any:
        function: Any = self.__wrapped__
        module, name = function.__module__, function.__qualname__
        if module != "__main__":
            found: Any = sys.modules.get(module)
            for part in name.split("."):
                found = getattr(found, part, None)
            if found is self:
                return name  # by its name, as functions are
        stream = serialize(function)
        return _rebuild, (hashlib.blake2b(stream, digest_size=32).digest(), stream)


def _rebuild(digest: bytes, stream: bytes) -> Any:
    from ...objects.codec import loads

    with _by_content_lock:
        found = _by_content.get(digest)
    if found is not None:
        return found
    made = actor_cache(loads(stream))
    with _by_content_lock:
        return _by_content.setdefault(digest, made)  # type: ignore[arg-type]


def _key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    key = (args, tuple(sorted(kwargs.items())), tuple(type(each) for each in args))
    try:
        hash(key)
    except TypeError:
        return hashlib.blake2b(serialize((args, sorted(kwargs.items()))), digest_size=32).digest()
    return key
