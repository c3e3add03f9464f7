"""Values to bytes and back: pickle protocol 5 with the large parts kept out of band.

A value is one of

* an **atom**: immutable and small, so that it may be pickled later, together with its batch;
* **packed**: a pickle stream plus its buffers. Small buffers travel inline; a buffer from
  `INLINE_LIMIT_BYTES` up is a `Blob` in shared memory that readers map. Many small buffers that are large
  together (a forest of a thousand trees) share one blob.

What crosses a process boundary, the *wire* form, is made of tuples, bytes and atoms only: no class of the
user's is touched until the process that wants the value unpacks it.

    atom                      as it is (atoms are never tuples)
    (PACKED, stream, pieces, blobs, refs)
        stream, each piece    bytes, or (index into blobs, offset, nbytes)
        blobs                 descriptors, see `blob.Blob.wire`
        refs                  identities of the refs inside
    (BYTES, piece, blobs)     a large `bytes` object, which pickle would copy in band

Buffers arrive read-only, small or large: whether an array can be written to must not depend on its size.
"""

from __future__ import annotations

import _pickle
import threading

from .ref import ObjectRef, hooks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Protocol

    Piece = bytes | tuple[int, int, int]

    class BlobLike(Protocol):
        """A large immutable run of bytes, held in memory that readers map."""

        nbytes: int

        def view(self, offset: int, nbytes: int) -> memoryview:
            """Return a part of it, read-only."""
            ...

    class BlobSink(Protocol):
        """Where packing puts large parts."""

        def intern(self, parts: Sequence[memoryview], value: object) -> tuple[BlobLike, list[int]]:
            """Store parts of a value as one blob; return it and the offset of each part in it."""
            ...


PACKED_WIRE = 0
ERROR_WIRE = 1
CALL_WIRE = 2

INLINE_LIMIT_BYTES = 64 * 1024
"""Above this a buffer goes to shared memory: below it, wake-ups cost more than copies."""

MAX_ALONE = 16
ALONE_BYTES = 1 << 20
"""With more than MAX_ALONE large buffers, only those from ALONE_BYTES up are stored (and shared) alone."""

NONE_TYPE = type(None)
ATOMS = frozenset((int, float, bool, NONE_TYPE))
"""Types whose every instance may be pickled later."""
TEXTS = frozenset((str, bytes))
"""Types whose short instances may be pickled later."""
ATOM_LIMIT = 4096
"""Longer texts are packed: a batch must stay small, and equal texts are stored once."""

dumps = _pickle.dumps
loads = _pickle.loads


class Packed:
    """A value that has been serialized: what a `put` or a task's argument or result is kept as.

    Attributes:
        stream: the pickle stream, or a piece of a blob that holds it. None for a large `bytes`, which is
            `pieces[0]` itself.
        pieces: the out-of-band buffers, in order: bytes, or `(index into blobs, offset, nbytes)`.
        blobs: the blobs held alive by this value.
        refs: the refs inside the value, held alive by it.
    """

    __slots__ = ("blobs", "pieces", "refs", "stream")

    def __init__(
        self,
        stream: Piece | None,
        pieces: tuple[Piece, ...],
        blobs: tuple[BlobLike, ...],
        refs: tuple[ObjectRef[Any], ...],
    ) -> None:
        self.stream = stream
        self.pieces = pieces
        self.blobs: tuple[Any, ...] = blobs  # `blob.Blob`s in the driver, the outpost's in a worker
        self.refs = refs

    def nbytes(self) -> int:
        """Return the size of the serialized form in bytes."""
        total = 0
        for piece in (*self.pieces, self.stream or b""):
            total += len(piece) if isinstance(piece, bytes) else piece[2]
        return total


class _Context(threading.local):
    """Which refs the pickling or unpickling that runs in this thread has met."""

    met: list[ObjectRef[Any]] | None = None
    known: dict[int, ObjectRef[Any]] | None = None


_context = _Context()


def is_atom(value: Any) -> bool:
    """Say whether a value may be pickled later without breaking by-value semantics."""
    kind = type(value)  # not __class__: a proxy or mock may lie about it
    return kind in ATOMS or (kind in TEXTS and len(value) <= ATOM_LIMIT)


def _on_ref(ref: ObjectRef[Any]) -> None:
    if _context.met is not None:
        _context.met.append(ref)
    else:
        if hooks.escaping is not None:
            hooks.escaping(ref)
        _escaped[ref._id] = ref  # pickled by the user's own means: nobody can count that borrow


_escaped: dict[int, ObjectRef[Any]] = {}
"""Kept until the session ends, as somebody may unpickle them at any time."""
hooks.packing = _on_ref


def escaped_ref(identity: int) -> ObjectRef[Any] | None:
    """Return the ref of this identity if it was pickled by the user's own means in this process."""
    return _escaped.get(identity)


def forget_escaped() -> None:
    """Drop those refs: their session is over."""
    _escaped.clear()


def pack(value: Any, sink: BlobSink) -> Packed:
    """Serialize a value.

    Args:
        value: anything that pickle or cloudpickle takes.
        sink: stores the parts of `INLINE_LIMIT_BYTES` and more.

    Raises:
        Exception: whatever pickling raised; callers name the culprit (`culprit.find_culprit`).
    """
    if type(value) is bytes and len(value) >= INLINE_LIMIT_BYTES:
        blob, offsets = sink.intern([memoryview(value)], value)
        return Packed(None, ((0, offsets[0], len(value)),), (blob,), ())
    buffers: list[Any] = []
    outer, _context.met = _context.met, []
    try:
        stream = serialize(value, buffers.append)
        refs = tuple(_context.met)
    finally:
        _context.met = outer
    if not buffers and len(stream) < INLINE_LIMIT_BYTES:
        return Packed(stream, (), (), refs)
    return _place(stream, buffers, refs, sink, value)


def _place(stream: bytes, buffers: list[Any], refs: tuple[Any, ...], sink: BlobSink, value: object) -> Packed:
    """Decide which parts travel inline and which are stored, alone or together."""
    raws = [buffer.raw() for buffer in buffers]
    num_large = sum(1 for raw in raws if raw.nbytes >= INLINE_LIMIT_BYTES)
    alone_bytes = INLINE_LIMIT_BYTES if num_large <= MAX_ALONE else ALONE_BYTES
    blobs: list[BlobLike] = []
    placed: list[Any] = [None] * len(raws)
    small = []
    small_bytes = 0
    for index, raw in enumerate(raws):
        if raw.nbytes >= alone_bytes:
            blob, offsets = sink.intern([raw], value)
            placed[index] = (len(blobs), offsets[0], raw.nbytes)
            blobs.append(blob)
        else:
            small.append(index)
            small_bytes += raw.nbytes
    if small_bytes + len(stream) < INLINE_LIMIT_BYTES:
        for index in small:
            placed[index] = bytes(raws[index])
        return Packed(stream, tuple(placed), tuple(blobs), refs)
    parts = [raws[index] for index in small] + [memoryview(stream)]
    blob, offsets = sink.intern(parts, value)
    for index, offset in zip(small, offsets):
        placed[index] = (len(blobs), offset, raws[index].nbytes)
    whole = (len(blobs), offsets[-1], len(stream))
    blobs.append(blob)
    return Packed(whole, tuple(placed), tuple(blobs), refs)


def serialize(value: object, buffer_callback: Callable[[Any], Any] | None = None) -> bytes:
    """Pickle a value, by plain pickle where that is enough and by cloudpickle where it is not.

    Plain pickle refers to what `__main__` defines by name, which no worker could resolve; such streams are
    made again by cloudpickle, by value.
    """
    try:
        stream: bytes = dumps(value, 5, buffer_callback=buffer_callback)
    except RecursionError:
        raise
    except Exception:
        stream = b""
    if stream and b"__main__" not in stream and not _by_value_modules():
        return stream
    from . import by_value

    if buffer_callback is not None:
        getattr(buffer_callback, "__self__", []).clear()
        if _context.met:
            _context.met.clear()
    return by_value.dumps(value, buffer_callback)


def _by_value_modules() -> bool:
    """Say whether the user has told cloudpickle to send some modules by value."""
    import sys

    module = sys.modules.get("cloudpickle.cloudpickle")
    return bool(module is not None and module._PICKLE_BY_VALUE_MODULES)


def unpack(packed: Packed) -> Any:
    """Unpickle a value; large buffers are read in place and stay alive with what was made from them."""
    stream, pieces = read(packed)
    if stream is None:
        return bytes(pieces[0])
    if not packed.refs:
        return loads(stream, buffers=pieces)
    outer, _context.known = _context.known, {ref._id: ref for ref in packed.refs}
    try:
        return loads(stream, buffers=pieces)
    finally:
        _context.known = outer


def read(packed: Packed) -> tuple[Any, list[Any]]:
    """Return the pickle stream and the out-of-band buffers of a value, as bytes and read-only views."""
    views = [blob.view(0, blob.nbytes) for blob in packed.blobs]

    def place(piece: Any) -> Any:
        return piece if piece.__class__ is bytes else views[piece[0]][piece[1] : piece[1] + piece[2]]

    pieces = [place(piece) for piece in packed.pieces]
    return (None if packed.stream is None else place(packed.stream)), pieces


def known_ref(identity: int) -> ObjectRef[Any] | None:
    """Return the ref of this identity that the value being unpacked in this thread holds, if it does."""
    known = _context.known
    return known.get(identity) if known else None
