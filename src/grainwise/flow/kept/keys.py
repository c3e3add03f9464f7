"""What results of tasks are found by: the content of inputs, the code of the function, the options."""

from __future__ import annotations

import datetime
import enum
import hashlib
import os
import struct
import sys
import types
from typing import Any

from ..declared.options import VersionParameters

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..declared.options import TaskOptions
    from ..tasks.task import Task

MAX_DEPTH = 8
"""How far the functions that a function calls are followed."""


def result_key(
    task: Task[..., Any], options: TaskOptions, values: dict[str, Any], hashes: dict[str, str] | None = None
) -> bytes:
    """Return the key of a call's result.

    Args:
        task: the task.
        options: with a cache.
        values: the checked arguments.
        hashes: of arguments that bring a hash of their own.
    """
    cache = options.cache
    assert cache is not None
    params = VersionParameters(task.task_function, options.container_image)
    code = getattr(task, "_code_digest", None)
    if code is None:
        code = task.__dict__["_code_digest"] = code_digest(task.task_function)
    digest = Digest()
    digest.feed((task.name, cache.get_version(params), cache.salt, repr(task.interface)))
    digest.raw(code)
    ignored = set(cache.get_ignored_inputs())
    for name in sorted(values):
        if name in ignored:
            continue
        digest.feed(name)
        own = (hashes or {}).get(name) or own_hash(task.interface.inputs[name].annotation, values[name])
        if own is not None:
            digest.feed(("hash", own))
        else:
            digest.feed(values[name])
    return digest.finish()


def own_hash(annotation: Any, value: Any) -> str | None:
    """Return the hash that a `HashMethod` in an annotation gives to a value, None if there is none."""
    for each in getattr(annotation, "__metadata__", ()):
        calculate = getattr(each, "calculate", None)
        if calculate is not None:
            return str(calculate(value))
    return None


class Digest:
    """A hash of values by their content, the same in each process."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=20)
        self.raw = self._hash.update

    def finish(self) -> bytes:
        """Return the hash."""
        return self._hash.digest()

    def feed(self, value: Any) -> None:
        """Add a value. What is not known by its content is added as it is pickled."""
        kind = type(value)
        feed = _FEEDS.get(kind)
        if feed is not None:
            feed(self, value)
        elif isinstance(value, enum.Enum):
            self._tagged(b"e", f"{kind.__module__}.{kind.__qualname__}.{value.name}".encode())
        elif hasattr(kind, "__dataclass_fields__"):
            self._tagged(b"D", f"{kind.__module__}.{kind.__qualname__}".encode())
            self.feed([(name, getattr(value, name)) for name in kind.__dataclass_fields__])
        elif isinstance(value, os.PathLike):
            self._feed_path(os.fspath(value))
        elif kind.__module__ == "numpy" and kind.__name__ == "ndarray" and not value.dtype.hasobject:
            self._tagged(b"a", f"{value.dtype.str} {value.shape} {value.dtype.descr}".encode())
            array = value if value.flags.c_contiguous else value.copy()
            self._hash.update(memoryview(array.reshape(-1)).cast("B") if array.size else b"")
        elif isinstance(value, tuple) and hasattr(kind, "_fields"):
            self._tagged(b"N", f"{kind.__module__}.{kind.__qualname__}".encode())
            self.feed(tuple(value))
        else:
            self._feed_pickled(value)

    def _tagged(self, tag: bytes, data: bytes) -> None:
        self._hash.update(tag + struct.pack("<Q", len(data)) + data)

    def _feed_path(self, path: str) -> None:
        """Add what is in a file, or the names and contents of all files in a directory."""
        self._tagged(b"p", os.path.basename(path).encode())
        if os.path.isdir(path):
            for folder, folders, names in os.walk(path):
                folders.sort()
                for name in sorted(names):
                    self._tagged(b"q", os.path.relpath(os.path.join(folder, name), path).encode())
                    self._feed_file(os.path.join(folder, name))
        elif os.path.isfile(path):
            self._feed_file(path)
        else:
            self._tagged(b"P", path.encode())

    def _feed_file(self, path: str) -> None:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            self._hash.update(struct.pack("<Q", size))
            while chunk := file.read(1 << 20):
                self._hash.update(chunk)

    def _feed_pickled(self, value: Any) -> None:
        import cloudpickle

        buffers: list[Any] = []
        dumps: Any = cloudpickle.dumps
        self._tagged(b"o", dumps(value, protocol=5, buffer_callback=buffers.append))
        for buffer in buffers:
            self._hash.update(buffer.raw())


def _feed_items(digest: Digest, tag: bytes, values: Any) -> None:
    digest._tagged(tag, struct.pack("<Q", len(values)))
    for value in values:
        digest.feed(value)


def _feed_unordered(digest: Digest, tag: bytes, values: Any) -> None:
    """Add values whose order does not count: by their own hashes, sorted."""
    parts = []
    for value in values:
        part = Digest()
        part.feed(value)
        parts.append(part.finish())
    digest._tagged(tag, b"".join(sorted(parts)))


_FEEDS: dict[type, Any] = {
    type(None): lambda digest, value: digest._tagged(b"0", b""),
    bool: lambda digest, value: digest._tagged(b"b", b"1" if value else b"0"),
    int: lambda digest, value: digest._tagged(b"i", str(value).encode()),
    float: lambda digest, value: digest._tagged(b"f", struct.pack("<d", value)),
    complex: lambda digest, value: digest._tagged(b"c", struct.pack("<dd", value.real, value.imag)),
    str: lambda digest, value: digest._tagged(b"s", value.encode("utf-8", "surrogatepass")),
    bytes: lambda digest, value: digest._tagged(b"B", value),
    bytearray: lambda digest, value: digest._tagged(b"Y", bytes(value)),
    list: lambda digest, value: _feed_items(digest, b"l", value),
    tuple: lambda digest, value: _feed_items(digest, b"t", value),
    dict: lambda digest, value: _feed_unordered(digest, b"d", value.items()),
    set: lambda digest, value: _feed_unordered(digest, b"S", value),
    frozenset: lambda digest, value: _feed_unordered(digest, b"F", value),
    datetime.datetime: lambda digest, value: digest._tagged(b"m", repr(value).encode()),
    datetime.date: lambda digest, value: digest._tagged(b"y", repr(value).encode()),
    datetime.timedelta: lambda digest, value: digest._tagged(b"h", repr(value).encode()),
    type: lambda digest, value: digest._tagged(b"T", f"{value.__module__}.{value.__qualname__}".encode()),
}


# -- code ------------------------------------------------------------------------------------------------


def code_digest(function: Any) -> bytes:
    """Return the hash of a function's code.

    That is its instructions, constants and defaults, what it closes over, and the same of the functions of
    the program that it calls by name. Comments and line numbers do not count.
    """
    digest = Digest()
    digest.feed(sys.version_info[:2])
    _feed_function(digest, function, set(), 0)
    return digest.finish()


def _feed_function(digest: Digest, function: Any, seen: set[int], depth: int) -> None:
    code = getattr(function, "__code__", None)
    if not isinstance(code, types.CodeType) or id(code) in seen or depth > MAX_DEPTH:
        digest.feed(getattr(function, "__qualname__", type(function).__qualname__))
        return
    seen.add(id(code))
    names: set[str] = set()
    _feed_code(digest, code, names)
    digest.feed([_constant(value) for value in function.__defaults__ or ()])
    for cell in function.__closure__ or ():
        try:
            _feed_global(digest, cell.cell_contents, function, seen, depth)
        except ValueError:  # not bound yet
            digest.feed("unbound")
    space = function.__globals__
    for name in sorted(names & space.keys()):
        digest.feed(name)
        _feed_global(digest, space[name], function, seen, depth)


def _feed_code(digest: Digest, code: types.CodeType, names: set[str]) -> None:
    digest.feed(code.co_code)
    digest.feed((code.co_names, code.co_varnames, code.co_freevars, code.co_flags))
    names.update(code.co_names)
    for index, constant in enumerate(code.co_consts):
        if isinstance(constant, types.CodeType):
            _feed_code(digest, constant, names)
        elif index > 0 or not isinstance(constant, str):  # the first text may be the docstring
            digest.feed(_constant(constant))


def _feed_global(digest: Digest, value: Any, owner: Any, seen: set[int], depth: int) -> None:
    inner = getattr(value, "task_function", None) or getattr(value, "__wrapped__", None) or value
    if isinstance(inner, types.FunctionType):
        if _is_of_the_program(inner):
            _feed_function(digest, inner, seen, depth + 1)
        else:
            digest.feed(f"{inner.__module__}.{inner.__qualname__}")
    else:
        digest.feed(_constant(value))


def _constant(value: Any) -> Any:
    """Return a plain value as it is, and of others the class: a lock or an open file has no content."""
    if isinstance(value, (int, float, complex, str, bytes, type(None), type(Ellipsis))):
        return value if value is not Ellipsis else "..."
    if isinstance(value, (tuple, list, set, frozenset)):
        kind = type(value).__name__
        parts = [_constant(each) for each in value]
        return (kind, parts if isinstance(value, (tuple, list)) else frozenset(map(repr, parts)))
    if isinstance(value, types.ModuleType):
        return value.__name__
    return type(value).__qualname__


def _is_of_the_program(function: Any) -> bool:
    """Say whether a function is the user's: not of an installed package nor of the standard library."""
    path = function.__code__.co_filename
    return "site-packages" not in path and not path.startswith((sys.base_prefix, "<frozen"))
