"""Exceptions between processes: taken apart, put together without running a line of the user's code.

An exception is its class, the fields that C code keeps, its slots and its `__dict__`; a group has its message
and members too. `pack` gives them as a tuple that pickles, `unpack` puts them together; `cleaned` leaves out
what cannot travel.

Things that don't work, and why:

- Pickling an exception the way it pickles itself. The default calls `cls(*args)`, which fails on load
  for every class whose `__init__` takes other arguments than it hands to `Exception`; a task's error then
  hides behind a `TypeError`. State is therefore taken apart here and put together without `__init__`. A
  class with its own `__reduce__` is trusted with it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

# A class that defines one of these outside of the builtins has its own way of pickling.
_HOOKS = (
    "__reduce_ex__",
    "__reduce__",
    "__getstate__",
    "__setstate__",
    "__getnewargs__",
    "__getnewargs_ex__",
)

# The types of C-level fields and functions, got this way to spare the import of `types`.
_FIELD_TYPES = (type(vars(StopIteration)["value"]), type(vars(BaseException)["args"]))
_BUILTIN_FUNCTION: Any = type(len)


def pack(exc: BaseException | None, is_forced: bool = False) -> Any:
    """Take an exception apart into (class, group parts, C fields, dict), or return it as it is.

    One with its own way of pickling is left to that, unless `is_forced`.
    """
    if exc is None or not (is_forced or _is_pickled_by_default(type(exc))):
        return exc
    fields = c_fields(exc)
    if isinstance(exc, AttributeError):
        fields.pop("obj", None)  # whatever lacked the attribute: often large, seldom picklable
    parts = group_parts(exc)
    if parts:
        fields = {name: value for name, value in fields.items() if name not in ("args", "exceptions")}
        parts = (parts[0], [pack(each, is_forced) for each in parts[1]])
    return type(exc), parts, fields, dict(instance_dict(exc))


def unpack(packed: Any) -> Any:
    """Put together what `pack` took apart."""
    if not isinstance(packed, tuple):
        return packed
    cls, parts, fields, state = packed
    if parts:
        parts = (parts[0], [unpack(each) for each in parts[1]])
    exc = bare(cls, parts)
    apply_state(exc, fields, state)
    return exc


def _is_pickled_by_default(cls: type) -> bool:
    import copyreg

    if cls in copyreg.dispatch_table:
        return False
    return all(base.__module__ == "builtins" for base in cls.__mro__ if any(h in vars(base) for h in _HOOKS))


def cleaned(exc: BaseException | None, can_pickle: Callable[[object], bool]) -> Any:
    """Return a copy of `exc` with the name of its type in place of each part that cannot be pickled.

    Its own way of pickling is not asked. None if there is no such copy: `can_pickle` refuses the class.
    """
    try:
        return unpack(_clean(pack(exc, is_forced=True), can_pickle))
    except Exception:
        return None


def _clean(packed: Any, can_pickle: Callable[[object], bool]) -> Any:
    """Replace what cannot be pickled in the parts that `pack` took an exception into."""

    def clean(value: Any) -> Any:
        return value if can_pickle(value) else f"<{type(value).__name__} that cannot be pickled>"

    if packed is None:
        return None
    cls, parts, fields, state = packed
    if not can_pickle(cls):
        raise TypeError(cls)
    if parts:
        parts = (parts[0], [_clean(each, can_pickle) for each in parts[1]])
    fields = {n: tuple(map(clean, v)) if n == "args" else clean(v) for n, v in fields.items()}
    return cls, parts, fields, {name: clean(value) for name, value in state.items()}


def restore(cls: type[Any], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    """Rebuild one of our own exceptions, which have no C fields but `args`."""
    exc = bare(cls, ())
    apply_state(exc, {"args": args}, state)
    return exc


# --- parts of an exception ------------------------------------------------------------------------------


def bare(cls: type[Any], args: tuple[Any, ...]) -> Any:
    """Return an instance of an exception class without running Python code of it, or None.

    Only the `__new__` of the nearest C base is accepted by the interpreter, so they are tried in order.
    """
    for base in cls.__mro__:
        new: Any = vars(base).get("__new__")
        if isinstance(new, _BUILTIN_FUNCTION):
            try:
                made = new(cls, *args)
            except TypeError:
                continue
            if type(made) is cls:
                return made
    return None


def group_parts(exc: BaseException) -> tuple[Any, ...]:
    """Return what the `__new__` of an exception group needs, () for other exceptions and before 3.11."""
    import builtins

    group: Any = getattr(builtins, "BaseExceptionGroup", None)
    if group is None or not issubclass(type(exc), group):
        return ()
    parts: Any = exc
    return (parts.message, parts.exceptions)


def c_fields(exc: BaseException) -> dict[str, Any]:
    """Return `args`, the fields that C code keeps (`errno`, `object`, `value`), and slots, by name."""
    fields = {}
    for name, field in _field_descriptors(type(exc)):
        try:
            fields[name] = field.__get__(exc)
        except AttributeError:  # a slot that was never set
            continue
    return fields


def _field_descriptors(cls: type) -> Iterator[tuple[str, Any]]:
    for base in reversed(cls.__mro__):
        for name, value in vars(base).items():
            if type(value) in _FIELD_TYPES and not (name.startswith("__") and name.endswith("__")):
                yield name, value


def apply_state(exc: BaseException, fields: dict[str, Any], state: dict[str, Any]) -> None:
    """Enter C fields and slots as far as they can be written, then the `__dict__`."""
    for name, field in _field_descriptors(type(exc)):
        if name in fields:
            try:
                # Unset and None look alike but print differently ("[Errno None] None"): leave unset be.
                if fields[name] is not None or field.__get__(exc) is not None:
                    field.__set__(exc, fields[name])
            except (AttributeError, TypeError):  # read-only, or unset and None
                continue
    own = instance_dict(exc)
    own.update(state)
    if isinstance(own.get("__notes__"), list):
        own["__notes__"] = list(own["__notes__"])


def instance_dict(exc: BaseException) -> dict[str, Any]:
    """Return the `__dict__` of an exception, past a user's `__getattribute__`."""
    state: dict[str, Any] = object.__getattribute__(exc, "__dict__")
    return state
