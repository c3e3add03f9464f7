"""A function of a pool, with the pool's initializer called before it, once in each worker.

Function and initializer travel in one pickle, so what the initializer of a script sets as a global is there
for the function. Light: workers load nothing but this.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_prepared: set[bytes] = set()
"""In a worker: pools whose initializer has run, for initializers whose globals are those of a module."""


class Initialized:
    """See the module docstring.

    Args:
        function: the pool's user's.
        key: identity of the pool.
        initializer: run before the first call in each worker; if it raises, so does the call, and the next
            one tries again.
        initargs: its arguments.
        is_shared: both can be imported, so that one run serves all functions of the pool.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        key: bytes,
        initializer: Callable[..., object],
        initargs: tuple[Any, ...],
        is_shared: bool,
    ) -> None:
        self._fields = (function, key, initializer, initargs, is_shared)
        self._function = function
        self._is_ready = False
        self.__name__ = getattr(function, "__name__", type(function).__name__)
        self.__qualname__ = getattr(function, "__qualname__", self.__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        return Initialized, self._fields

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        if not self._is_ready:
            _, key, initializer, initargs, is_shared = self._fields
            if not (is_shared and key in _prepared):
                initializer(*initargs)
                if is_shared:
                    _prepared.add(key)
            self._is_ready = True
        return self._function(*args, **kwargs)


def can_be_imported(function: Any) -> bool:
    """Say whether workers get a function by its name, and so one function however often it is sent."""
    import sys

    module = getattr(function, "__module__", None)
    if not module or module == "__main__":
        return False
    found: Any = sys.modules.get(module)
    for name in getattr(function, "__qualname__", "<").split("."):
        found = getattr(found, name, None)
    return found is function
