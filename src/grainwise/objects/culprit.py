"""Find out what exactly in a value cannot be pickled, and say so in one line.

Pickle says "cannot pickle '_thread.lock' object" about an argument of a million parts. `find_culprit` walks
the value the way pickle does and returns the way to the smallest part that fails by itself:

    config['handlers'][2]._lock is a _thread.lock: cannot pickle '_thread.lock' object

Method: a part is *bad* if pickling it alone fails. The culprit is a bad part whose own parts are all good.
From the value down, the bad parts among the children are found by bisection (a list of the children is
pickled, then its failing half), so that one bad item among a million costs about two picklings of the list
and not a million. The search is depth first and goes back where a part is bad only because it refers to one
above it in a cycle.

Limits: it runs in the error path only, for at most two seconds (a single step that hangs cannot be cut
short), a hundred levels deep; then the innermost bad part seen so far is named. The user's `__getstate__`
and `__reduce__` run several times.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import CodeType
    from typing import Any

# Types whose values always can be pickled; looking at the type is a hundred times cheaper than trying.
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})

_MAX_DEPTH = 100
_MAX_CHILDREN = 10_000_000
_REPR_LIMIT = 200
_PATH_LIMIT = 300


class Culprit:
    """The smallest part of a value that cannot be pickled.

    Attributes:
        path: The way to it, as an expression where it is one: `config['handlers'][2]._lock`.
        type_name: Its type, with the module unless that is builtins.
        repr: Its `repr`, cut at 200 characters.
        reason: The text of the exception, and the method that raised it if that is the user's code.
    """

    __slots__ = ("path", "reason", "repr", "type_name")

    def __init__(self, path: str, type_name: str, repr: str, reason: str) -> None:
        self.path = path
        self.type_name = type_name
        self.repr = repr
        self.reason = reason

    def __repr__(self) -> str:
        return f"Culprit({describe(self)!r})"


def find_culprit(
    value: object,
    *,
    name: str,
    dumps: Callable[[object], object] | None = None,
    time_limit_s: float = 2.0,
) -> Culprit | None:
    """Return the smallest part of `value` that cannot be pickled, or None if all of it can.

    Never raises, whatever the value does when it is pickled, except for `KeyboardInterrupt`.

    Args:
        value: What failed to pickle.
        name: What the path begins with, for example the name of the argument.
        dumps: How values are pickled; by default cloudpickle with protocol 5 and buffers out of band.
        time_limit_s: After so many seconds the innermost bad part found so far is returned.
    """
    try:
        search = _Search(dumps or _make_dumps(), time_limit_s)
        error = search.error_of(value)
        if error is None:
            return None
    except Exception:  # cloudpickle cannot be imported, or not even the stack for one call is left
        return None
    try:
        found = search.descend(value, name, error, 0)
    except Exception:  # most likely too deep in the caller's own recursion
        found = None
    return found or search.innermost or _culprit(value, name, error)


def trace_culprit(value: object, *, name: str) -> list[tuple[str, object, str]]:
    """Return the way from `value` to its smallest part that can't be pickled: (step, part, reason) each.

    An empty list if all of it can be pickled. The parts themselves are handed out: for tools, not for
    messages that outlive them.
    """
    search = _Search(_make_dumps(), 2.0)
    error = search.error_of(value)
    if error is None:
        return []
    search.way = [(name, value, _text(error))]
    try:
        found = search.descend(value, name, error, 0)
    except Exception:
        found = None
    return search.way if found is not None else search.way[:1]


def describe(culprit: Culprit) -> str:
    """Return one line that names the culprit, its type and the reason."""
    line = f"{culprit.path} is {_article(culprit.type_name)} {culprit.type_name}: {culprit.reason}"
    bare = culprit.type_name.rpartition(".")[2]
    is_telling = not culprit.repr.startswith((f"<{culprit.type_name} ", f"<{bare} ", "<unlocked", "<locked"))
    return f"{line} (its value: {culprit.repr})" if is_telling else line


def safe_repr(value: object, limit: int = _REPR_LIMIT) -> str:
    """Return `repr(value)` in at most `limit` characters; never raises, whatever `__repr__` does.

    Built-in containers are cut before they are formatted, so a list of a billion items costs nothing.
    """
    try:
        text = _short_repr(value, limit)
        text = str.encode(text, "utf-8", "backslashreplace").decode("utf-8")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        text = f"<{_type_name(type(value))} object whose __repr__ raised {type(error).__name__}>"
    return text if len(text) <= limit else text[: max(0, limit - 1)] + "…"


class _Search:
    """One walk over one value."""

    def __init__(self, dumps: Callable[[object], object], time_limit_s: float) -> None:
        import time

        self._clock = time.monotonic
        self._dumps = dumps
        self._deadline_s = self._clock() + time_limit_s
        # id -> the bad parts that were visited; they are kept alive, or an id could come twice.
        self._seen: dict[int, object] = {}
        self._innermost_depth = -1
        self.way: list[tuple[str, object, str]] | None = None  # kept for `trace_culprit` only
        self.innermost: Culprit | None = None

    def error_of(self, value: object) -> BaseException | None:
        """Return what pickling `value` raises, or None."""
        if type(value) in _ATOMS:
            return None
        try:
            self._dumps(value)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit and the like from the value's own code
            return error
        return None

    def descend(self, value: object, path: str, error: BaseException, depth: int) -> Culprit | None:
        """Return the culprit at or below a bad part, None if it is bad only through a part above it."""
        self._seen[id(value)] = value
        if depth > self._innermost_depth:
            self._innermost_depth = depth
            self.innermost = _culprit(value, path, error)
        if depth >= _MAX_DEPTH:
            return self.innermost
        try:
            children = list(_limited(_children(value)))
        except KeyboardInterrupt:
            raise
        except BaseException as own_error:  # __reduce_ex__, __getstate__ or an iterator of theirs
            return _culprit(value, path, own_error)
        is_leaf = True
        for kind, key, child in self._bad_ones(children):
            is_leaf = False
            if self._clock() > self._deadline_s:
                return self.innermost
            if id(child) in self._seen:
                continue
            child_error = self.error_of(child)
            if child_error is None:  # fails only now and then
                continue
            step = _step(kind, key)
            if self.way is not None:
                self.way.append((step.lstrip("."), child, _text(child_error)))
            found = self.descend(child, path + step, child_error, depth + 1)
            if found is not None:
                return found
            if self.way is not None:
                self.way.pop()
        return _culprit(value, path, error) if is_leaf else None

    def _bad_ones(self, children: list[_Child]) -> Iterator[_Child]:
        """Yield the children that fail by themselves, in order, found by bisection."""
        waiting = [[child for child in children if type(child[2]) not in _ATOMS]]
        while waiting and self._clock() <= self._deadline_s:
            some = waiting.pop()
            if not some or self.error_of([child for _, _, child in some]) is None:
                continue
            if len(some) == 1:
                yield some[0]
            else:
                middle = len(some) // 2
                waiting += [some[middle:], some[:middle]]


if TYPE_CHECKING:
    # (kind of step, key, the part): the text of the step is made only for the few that are on the path.
    _Child = tuple[str, Any, object]


def _children(value: object) -> Iterator[_Child]:
    """Yield the parts that pickle would go into."""
    import functools
    import types

    kind: Any = type(value)
    whole: Any = value
    if kind is dict:
        for key, item in whole.items():
            yield "item", key, item
            yield "key", key, key
    elif kind in (list, tuple):
        yield from (("item", index, item) for index, item in enumerate(whole))
    elif kind in (set, frozenset):
        yield from (("element", item, item) for item in whole)
    elif kind is types.FunctionType:
        yield from _function_parts(whole)
    elif kind is types.MethodType:
        yield "attribute", "__self__", whole.__self__
        yield "attribute", "__func__", whole.__func__
    elif kind is functools.partial:
        yield "attribute", "func", whole.func
        yield from (("text", f".args[{i}]", item) for i, item in enumerate(whole.args))
        yield from (("text", f".keywords[{key!r}]", item) for key, item in whole.keywords.items())
    elif kind in (staticmethod, classmethod):
        yield "attribute", "__func__", whole.__func__
    elif kind is property:
        yield from (("attribute", part, getattr(whole, part)) for part in ("fget", "fset", "fdel"))
    elif kind is types.CellType:
        yield "attribute", "cell_contents", whole.cell_contents
    elif isinstance(value, type):
        yield from _class_parts(value)
    else:
        yield from _reduced_parts(value)


def _function_parts(function: Any) -> Iterator[_Child]:
    """Yield what a function takes along when it travels by value."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield "text", f" → captured variable {name!r}", cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    names = function.__code__.co_varnames[: function.__code__.co_argcount]
    defaults = function.__defaults__ or ()
    for name, default in zip(names[len(names) - len(defaults) :], defaults, strict=False):
        yield "text", f" → default of parameter {name!r}", default
    for name, default in (function.__kwdefaults__ or {}).items():
        yield "text", f" → default of parameter {name!r}", default
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield "text", f" → global {name!r}", function.__globals__[name]
    for name, item in vars(function).items():
        yield "attribute", name, item
    try:
        annotations = function.__annotations__
    except Exception:  # computed on demand from 3.14 on, by code that may refer to what is not there
        return
    for name, item in annotations.items():
        yield "text", f" → annotation of {name!r}", item


def _global_names(code: CodeType) -> Iterator[str]:
    """Yield the globals that a function uses, those of functions nested in it included."""
    import dis

    waiting: list[Any] = [code]
    while waiting:
        part = waiting.pop()
        for instruction in dis.get_instructions(part):
            if instruction.opname.endswith("_GLOBAL"):
                yield instruction.argval
        waiting += [const for const in part.co_consts if isinstance(const, type(code))]


def _class_parts(cls: type) -> Iterator[_Child]:
    import types

    skipped = (types.GetSetDescriptorType, types.MemberDescriptorType)
    for name, item in vars(cls).items():
        if type(item) not in skipped:
            yield "attribute", name, item
    for base in cls.__bases__:
        yield "text", f" → base class {base.__name__!r}", base
    if type(cls) is not type:
        yield "text", " → metaclass", type(cls)


def _reduced_parts(value: object) -> Iterator[_Child]:
    """Yield the parts of what the object hands to pickle; raises what its own methods raise."""
    reduced = _reduce(value)
    if not isinstance(reduced, tuple):
        return  # the name of a global
    padded: list[Any] = [*reduced, None, None, None]
    function, args, state, items, pairs = padded[:5]
    names = _attribute_names(value)
    is_exception = isinstance(value, BaseException)
    for index, item in enumerate(args or ()):
        if item is not type(value):
            other = f".args[{index}]" if is_exception else f".__reduce__()[1][{index}]"
            yield "text", f".{names[id(item)]}" if id(item) in names else other, item
    parts = state if type(state) is tuple and len(state) == 2 else (state,)  # (dict or None, slots)
    for part in parts:
        if type(part) is dict:
            for key, item in part.items():
                is_attribute = isinstance(key, str) and names.get(id(item)) is not None
                yield "attribute" if is_attribute else "state", names.get(id(item), key), item
        elif type(part) in (list, tuple):
            for index, item in enumerate(part):
                known = names.get(id(item))
                yield ("state", index, item) if known is None else ("attribute", known, item)
        elif part is not None:
            yield "text", ".__getstate__()", part
    yield from (("item", index, item) for index, item in enumerate(items or ()))
    for key, item in pairs or ():
        yield "item", key, item
        yield "key", key, key
    if function is not type(value):
        yield "text", ".__reduce__()[0]", function
    yield "attribute", "__class__", type(value)


def _reduce(value: object) -> Any:
    """Return what pickle would be told about `value`, asked in the order of the pickler."""
    import cloudpickle

    own = cloudpickle.Pickler.dispatch_table.get(type(value))
    return value.__reduce_ex__(5) if own is None else own(value)


def _attribute_names(value: object) -> dict[int, str]:
    """Return the attributes by the identity of what they hold, found without running the object's code."""
    names: dict[int, str] = {}
    for cls in type(value).__mro__:
        for name, member in vars(cls).items():
            if type(member).__name__ == "member_descriptor":
                try:
                    names.setdefault(id(member.__get__(value)), name)
                except AttributeError:
                    continue
    if isinstance(value, tuple):  # a named one
        fields = getattr(type(value), "_fields", ())
        names.update((id(item), name) for name, item in zip(fields, value, strict=False))
    try:
        state = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return names
    names.update((id(item), name) for name, item in state.items() if isinstance(name, str))
    return names


def _limited(children: Iterator[_Child]) -> Iterator[_Child]:
    import itertools

    return itertools.islice(children, _MAX_CHILDREN)


def _step(kind: str, key: Any) -> str:
    if kind == "attribute":
        return f".{key}"
    if kind == "text":
        return str(key)
    short = safe_repr(key, 60)
    if kind == "key":
        return f" → key {short}"
    if kind == "element":
        return f" → element {short}"
    return f".__getstate__()[{short}]" if kind == "state" else f"[{short}]"


def _culprit(value: object, path: str, error: BaseException) -> Culprit:
    if len(path) > _PATH_LIMIT:
        half = _PATH_LIMIT // 2
        path = f"{path[:half]} … {path[-half:]}"
    method = _own_method(error)
    reason = _text(error)
    if method is not None:
        reason = f"its {method} raised {reason}"
    return Culprit(path, _type_name(type(value)), safe_repr(value), reason)


def _own_method(error: BaseException) -> str | None:
    """Return the name of the outermost method for pickling among the frames of `error`."""
    trace = error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_name
        if name in _METHODS and trace.tb_frame.f_code.co_filename not in _pickling_files():
            return name
        trace = trace.tb_next
    return None


_METHODS = frozenset(
    {"__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs__", "__getnewargs_ex__", "__getattr__"}
)


def _pickling_files() -> Sequence[str]:
    import sys

    found = (sys.modules.get(name) for name in ("copyreg", "pickle", "cloudpickle.cloudpickle"))
    return [str(module.__file__) for module in found if module is not None]


def _make_dumps() -> Callable[[object], object]:
    from .by_value import Pickler

    class Nowhere:
        """A file that keeps nothing: the bytes are not wanted, and there may be gigabytes of them."""

        def write(self, data: Any) -> int:
            return len(data)

    def dumps(value: object) -> None:
        # A callback that returns None has the buffers left out of the stream.
        Pickler(Nowhere(), protocol=5, buffer_callback=lambda buffer: None).dump(value)

    return dumps


def _text(error: BaseException) -> str:
    try:
        text = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException:
        text = "<unprintable>"
    text = safe_repr(_Plain(text), 500)
    if type(error) in (TypeError, AttributeError) or type(error).__name__ == "PicklingError":
        return text or type(error).__name__
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Plain:
    """A text that is its own `repr`, to be cut and cleaned like one."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _short_repr(value: object, limit: int) -> str:
    import reprlib

    whole: Any = value
    kind: Any = type(value)
    if kind in (str, bytes, bytearray):
        return repr(whole[:limit])
    if kind in (list, tuple, dict, set, frozenset):
        short = reprlib.Repr()
        short.maxlevel = 4
        short.maxlist = short.maxtuple = short.maxdict = short.maxset = short.maxfrozenset = 20
        short.maxstring = short.maxlong = short.maxother = limit
        return short.repr(value)
    return repr(value)


def _type_name(cls: type) -> str:
    try:
        module = cls.__module__
        return cls.__qualname__ if module == "builtins" else f"{module}.{cls.__qualname__}"
    except Exception:  # a metaclass that hides them
        return "object of unknown type"


def _article(noun: str) -> str:
    return "an" if noun[:1].lower() in "aeiou" else "a"
