"""An argument that is slow to unpickle is made once per worker, not once per task, and by-value still holds.

A fitted model of a thousand trees takes a tenth of a second to unpickle: far more than a small prediction.
So a worker keeps the object, and before the next task gets it, proves that the last one has not changed it:
it is pickled again, and stream and buffers must equal the stored ones byte for byte. If they differ, or
somebody else holds the object, it is thrown away and unpickled anew.

What can't be seen this way: state that an object leaves out of its own pickle (a cache that `__getstate__`
drops) stays from one task to the next, and a part of the argument that a task has stored elsewhere is shared
with the next one. Arguments that are cheap to unpickle, arrays and frames among them, are never reused.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from time import thread_time

from .codec import Packed, read, serialize, unpack
from .lease import address_of, same_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable
    from typing import Any

SLOW_S = 5e-3
"""Processor time of unpickling below which it is never worth keeping the object."""
MAX_KEPT = 2
OWN_REFERENCES = 3
"""References to an entry's value while `take` looks at it: the entry's, a local's and getrefcount's."""


class _Entry:
    """A kept object.

    Attributes:
        stream: its own pickle stream, taken before any task has seen it. It may differ from the one that it
            came with: pickling writes equal strings once if they are one object, and unpickling interns some.
    """

    __slots__ = ("packed", "stream", "unpack_s", "value")

    def __init__(self, packed: Packed, value: Any, stream: bytes, unpack_s: float) -> None:
        self.packed = packed
        self.value = value
        self.stream = stream
        self.unpack_s = unpack_s


class Reuse:
    """Keeps slowly unpickled arguments of one worker. Used by the thread that runs tasks."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._given_up: set[Hashable] = set()

    def take(self, packed: Packed) -> Any:
        """Return the value of a packed argument, unchanged from how it was packed."""
        key = _key(packed)
        if key is None or key in self._given_up:
            return unpack(packed)
        entry = self._kept.get(key)
        if entry is not None:
            if self._is_unchanged(key, entry):
                if key in self._kept:
                    self._kept.move_to_end(key)
                return entry.value
            self._kept.pop(key, None)
        begin = thread_time()
        value = unpack(packed)
        spent_s = thread_time() - begin
        if spent_s >= SLOW_S and entry is None:
            stream = _pickle_again(value, packed)
            if stream is None:
                self._given_up.add(key)
            else:
                self._kept[key] = _Entry(packed, value, stream, spent_s)
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return value

    def _is_unchanged(self, key: Hashable, entry: _Entry) -> bool:
        """Prove that the kept object is as it was unpickled; give up on keys for which that does not pay."""
        value = entry.value
        if sys.getrefcount(value) > OWN_REFERENCES:
            return False
        begin = thread_time()
        is_same = _pickle_again(value, entry.packed) == entry.stream
        if not is_same or thread_time() - begin > entry.unpack_s:
            self._given_up.add(key)
            self._kept.pop(key, None)
        return is_same

    def clear(self) -> None:
        """Let go of everything."""
        self._kept.clear()
        self._given_up.clear()


def _key(packed: Packed) -> Hashable | None:
    """Return what identifies a stored argument, None when it is small or holds refs."""
    if not packed.blobs or packed.refs or packed.stream is None:
        return None
    return (packed.stream, tuple(blob.id for blob in packed.blobs))


def _pickle_again(value: Any, packed: Packed) -> bytes | None:
    """Return the pickle stream of an object if its buffers equal the stored ones byte for byte, else None."""
    buffers: list[Any] = []
    try:
        stream = serialize(value, buffers.append)
    except Exception:  # a task has put something into it that can't be pickled
        return None
    _, pieces = read(packed)
    raws = [buffer.raw() for buffer in buffers]
    if len(raws) != len(pieces) or any(
        memoryview(p).nbytes != r.nbytes for p, r in zip(pieces, raws, strict=True)
    ):
        return None
    return stream if same_bytes([address_of(piece) for piece in pieces], raws) else None
