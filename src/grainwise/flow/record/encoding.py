"""How values are kept: small plain ones as JSON, others pickled; large ones in files named by their content.

A value is pickled by the thread that has it, so that what is changed later is kept as it was. The bytes of
large arrays stand beside the pickle: those that nobody can write to (as results of workers are) are not
copied.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import pickle
import struct
from typing import Any

MAX_JSON_BYTES = 2048
MAX_INLINE_BYTES = 1 << 16
"""Larger ones are files."""
MAX_BYTES = 1 << 30
"""Larger ones are not kept: what gave them runs again after a resume."""
MIN_BUFFER_BYTES = 1 << 16
MAX_PREVIEW = 200


class UnkeepableError(Exception):
    """A value can't be pickled or is too large."""


class Kept:
    """A value as it is kept.

    Attributes:
        format: json or pickle; none if it is not kept.
        parts: its bytes.
        preview: for people.
    """

    __slots__ = ("format", "parts", "preview")

    def __init__(self, format_: str, parts: list[Any], preview: str) -> None:
        self.format = format_
        self.parts = parts
        self.preview = preview

    @property
    def n_bytes(self) -> int:
        """How many bytes it takes."""
        return sum(len(part) for part in self.parts)


def keep(value: Any, *, is_shown: bool = True) -> Kept:
    """Return a value as it is kept.

    Raises:
        UnkeepableError: it can't be pickled, or is too large.
    """
    preview = show(value) if is_shown else ""
    parts = _pickled(value)
    if is_shown and len(parts) == 1 and len(parts[0]) <= MAX_JSON_BYTES and _is_plain(value):
        try:
            return Kept("json", [json.dumps(value).encode()], preview)
        except (ValueError, RecursionError):
            pass
    kept = Kept("pickle", parts, preview)
    if kept.n_bytes > MAX_BYTES:
        raise UnkeepableError(f"it has {kept.n_bytes:,} bytes - at most {MAX_BYTES:,} are kept")
    return kept


def _pickled(value: Any) -> list[Any]:
    buffers: list[memoryview] = []

    def aside(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if len(view) < MIN_BUFFER_BYTES:
            return True
        buffers.append(view if view.readonly else memoryview(bytes(view)))
        return False

    try:
        stream = pickle.dumps(value, protocol=5, buffer_callback=aside)
    except Exception:
        import cloudpickle

        buffers.clear()
        try:
            stream = cloudpickle.dumps(value, protocol=5, buffer_callback=aside)
        except Exception as error:
            raise UnkeepableError(f"{type(error).__name__}: {error}") from error
    if not buffers:
        return [stream]
    parts = [memoryview(stream), *buffers]
    lengths = [len(part) for part in parts]
    return [b"\0" + struct.pack(f"<{1 + len(parts)}Q", len(parts), *lengths), *parts]


def value_of(format_: str, data: Any) -> Any:
    """Return the value of what was kept; `data` are its bytes.

    Raises:
        Exception: it is of a class that is no more, or the like.
    """
    if format_ == "json":
        return json.loads(data)
    if data[:1] != b"\0":
        return pickle.loads(data)
    whole = memoryview(bytearray(data))  # arrays are writable, as those that are loaded from a pickle
    [n_parts] = struct.unpack_from("<Q", whole, 1)
    lengths = struct.unpack_from(f"<{n_parts}Q", whole, 9)
    at = 9 + 8 * n_parts
    parts = []
    for length in lengths:
        parts.append(whole[at : at + length])
        at += length
    return pickle.load(io.BytesIO(parts[0]), buffers=parts[1:])


def digest_of(parts: list[Any], *place: object) -> bytes:
    """Return the hash of a value and of where it belongs: a row that went astray is not believed."""
    digest = hashlib.blake2b("\0".join(map(str, place)).encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(b"\0\0")
    for part in parts:
        digest.update(part)
    return digest.digest()


def write_object(folder: str, parts: list[Any]) -> str:
    """Write a large value into a folder; return the name of its file.

    Raises:
        OSError: it can't be written; nothing is left of it.
    """
    name = digest_of(parts).hex()
    path = os.path.join(folder, name)
    if os.path.exists(path):
        return name
    os.makedirs(folder, mode=0o700, exist_ok=True)
    part_path = f"{path}.{os.getpid()}.part"
    try:
        with open(part_path, "wb") as file:
            for part in parts:
                file.write(part)
        os.replace(part_path, path)
    except BaseException:
        try:
            os.unlink(part_path)
        except OSError:
            pass
        raise
    return name


def _is_plain(value: Any) -> bool:
    """Say whether JSON gives back the very same value."""
    kind = type(value)
    if kind in (int, str, bool) or value is None:
        return True
    if kind is float:
        return math.isfinite(value)
    if kind is list:
        return all(map(_is_plain, value))
    if kind is dict:
        return all(type(key) is str for key in value) and all(map(_is_plain, value.values()))
    return False


def show(value: Any) -> str:
    """Return a value for people, cut; at a cost that does not depend on its size."""
    import reprlib

    shown = reprlib.Repr()
    shown.maxlist = shown.maxtuple = shown.maxdict = shown.maxset = 6
    shown.maxstring = shown.maxother = MAX_PREVIEW // 2
    try:
        shape = getattr(value, "shape", None)
        if isinstance(shape, tuple):
            return f"{type(value).__name__} of shape {shape}"[:MAX_PREVIEW]
        return shown.repr(value)[:MAX_PREVIEW]
    except Exception as error:  # a repr of the user's
        return f"<{type(value).__name__}, whose repr raised {type(error).__name__}>"
