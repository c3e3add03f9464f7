"""Own ways of pickling a class, for classes that can't be changed."""

from __future__ import annotations

import copyreg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    T = TypeVar("T")

_ours: dict[type, Any] = {}


def register_serializer(
    cls: type[T], *, serializer: Callable[[T], Any], deserializer: Callable[[Any], T]
) -> None:
    """Have instances of a class pickled as `serializer(instance)`, and made again by `deserializer`.

    Holds in this process, for everything that is pickled here; a task that returns such instances registers
    the serializer itself. Instances of subclasses are not meant.

    Args:
        cls: the class itself.
        serializer: returns something that can be pickled.
        deserializer: travels along with each value.

    Raises:
        TypeError: what is given is no class, or can't be called.
    """
    given: Any = cls
    if not isinstance(given, type):
        raise TypeError(f"register_serializer() expected a class, got {type(given).__name__}")
    if not all(map(callable, (serializer, deserializer))):
        raise TypeError("register_serializer() expected functions as serializer and deserializer")

    def reduce(value: T) -> tuple[Any, ...]:
        return deserializer, (serializer(value),)

    _ours[cls] = reduce
    copyreg.pickle(cls, reduce)


def deregister_serializer(cls: type) -> None:
    """Pickle instances of a class in the ordinary way again; does nothing if they are already."""
    reduce = _ours.pop(cls, None)
    if reduce is not None and copyreg.dispatch_table.get(cls) is reduce:
        del copyreg.dispatch_table[cls]
