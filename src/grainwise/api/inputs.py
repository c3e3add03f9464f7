"""What `map` reads its items from: cut into pieces, by value as of when they are read.

range                     pieces are ranges
list, tuple               slices; of immutable items as they are, of others pickled a piece at a time
NumPy array               rows of the first axis; a large one lies in shared memory once
Arrow table, data frames  rows as dictionaries, made by the worker
everything else           its iterator, each mutable item pickled as soon as it is read; async iterators, too
"""

from __future__ import annotations

import sys
from itertools import islice

from ..engine.wire.failures import pack_or_name
from ..engine.wire.slices import ARROW, ITEMS, PANDAS, POLARS, Slice
from ..engine.wire.tasks import RAW, STARRED, Call
from ..errors import SerializationError
from ..objects.codec import ATOM_LIMIT, ATOMS, INLINE_LIMIT_BYTES, TEXTS, is_atom
from ..objects.ref import FAILED, ObjectRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from typing import Any, Protocol

    from ..objects.codec import Packed

    class Input(Protocol):
        """Items, read once, in order."""

        total: int | None
        """How many there are, if that is known."""
        is_lazy: bool
        """Reading runs the user's code: not a step further than needed."""
        inline_bytes: int
        """What the items read so far hold in this process, as far as that is known; atoms count nothing."""
        stored_bytes: int
        """The same in the object store."""
        batch_items: int
        """So many go to a worker in a batch, which unpickles all that was pickled with them."""

        def read(self, count: int) -> tuple[Any, int, int]:
            """Return up to `count` items, how many that is, and their flags; none only at the end.

            Raises:
                Exception: whatever the user's iterator raises; what was read before it is not lost.
                UnsendableError: the next item can't be sent; the one after it comes next.
            """
            ...


class UnsendableError(Exception):
    """An item that no worker can be given, and why: it can't be pickled, or the task behind it failed."""

    def __init__(self, error: Exception, item: Any) -> None:
        self.error = error
        self.item = item


CALL_BYTES = 400
"""What an item that is no atom holds in this process beside its pickle."""
PIECE_BYTES = 256 << 10
"""A pickled piece of a list is about so large at most."""


def open_input(
    iterables: Sequence[Any], sink: Any, name: str, *, word: str = "map", is_starred: bool = False
) -> Input:
    """Return what reads the items of `map` or `starmap`.

    Args:
        iterables: what to map over, in parallel.
        sink: where large parts of items are stored.
        name: the mapped function, for messages.
        word: what the user called, for messages.
        is_starred: items are tuples of arguments.

    Raises:
        TypeError: one of them can't be iterated over.
    """
    check_iterables(iterables, word)
    if len(iterables) > 1:
        totals = [total for total in map(_count, iterables) if total is not None]
        total = min(totals) if len(totals) == len(iterables) else None
        return _Iterated(zip(*iterables), total, sink, name, is_starred=True)
    (source,) = iterables
    if not is_starred:
        sliced = _open_sliced(source, sink, name)
        if sliced is not None:
            return sliced
    if type(source) in (list, tuple):
        return _Listed(source, sink, name, is_starred=is_starred)
    if is_asynchronous(source):
        return AsyncInput(source, sink, name, is_starred=is_starred)
    return _Iterated(iter(source), _count(source), sink, name, is_starred=is_starred)


def check_iterables(iterables: Sequence[Any], word: str) -> None:
    """Refuse what can't be mapped over.

    Raises:
        TypeError: one of them can't be iterated over, or an asynchronous one is not the only one.
    """
    for position, iterable in enumerate(iterables):
        if is_asynchronous(iterable):
            if len(iterables) > 1:
                raise TypeError(
                    f"{word}() got an asynchronous iterable as input {position} - expected it alone, so "
                    "zip them before"
                )
            continue
        try:  # like an array without an axis
            is_iterable = hasattr(iterable, "__iter__") or hasattr(iterable, "__getitem__")
            is_iterable = is_iterable and getattr(iterable, "ndim", 1) != 0
        except Exception:
            is_iterable = True
        if not is_iterable:
            which = "its input" if len(iterables) == 1 else f"input {position}"
            raise TypeError(f"{word}() expected an iterable as {which}, got {type(iterable).__name__}")


def is_asynchronous(source: Any) -> bool:
    """Say whether only `async for` can iterate over something."""
    return hasattr(source, "__aiter__") and not hasattr(source, "__iter__")


def _count(source: Any) -> int | None:
    """Return how many items there are, None if that is not known."""
    if type(source) is range:  # whose length may be more than `len` can say
        step = source.step
        return max(0, (source.stop - source.start + step - (1 if step > 0 else -1)) // step)
    try:
        return len(source)
    except Exception:  # it has none, or a wrapper around something that has none
        return None


def _open_sliced(source: Any, sink: Any, name: str) -> Input | None:
    kind = type(source)
    if kind is range:
        return _Ranged(source)
    module = kind.__module__.partition(".")[0]
    if module == "numpy" and source.__class__ is kind:
        numpy = sys.modules["numpy"]
        if kind is numpy.memmap:  # may be larger than memory
            return _Sliced(source.view(numpy.ndarray), ITEMS, sink, name, is_whole=False)
        if kind is numpy.ndarray and source.dtype.kind == "O" and source.ndim == 1:
            return _Listed(source, sink, name, is_starred=False)
        if kind is numpy.ndarray:
            return _Sliced(source, ITEMS, sink, name, is_whole=_is_flat(source))
    if module == "pyarrow" and kind.__name__ in ("Table", "RecordBatch"):
        return _Sliced(source, ARROW, sink, name, is_whole=source.nbytes >= INLINE_LIMIT_BYTES)
    if module == "pandas" and kind.__name__ == "DataFrame":
        return _Sliced(source, PANDAS, sink, name, is_whole=False)
    if module == "polars" and kind.__name__ == "DataFrame":
        return _Sliced(source, POLARS, sink, name, is_whole=False)
    return None


def _is_flat(array: Any) -> bool:
    """Say whether an array is stored without a copy of each part of it, and worth it."""
    return bool(array.nbytes >= INLINE_LIMIT_BYTES and not array.dtype.hasobject and array.flags.c_contiguous)


class _Counted:
    """Counts what items hold."""

    is_lazy = False
    inline_bytes = 0
    stored_bytes = 0
    batch_items = 1
    total: int | None

    def __init__(self, sink: Any, name: str) -> None:
        self._sink = sink
        self._name = name

    def pack(self, value: Any, what: str, name: str) -> Packed:
        """Serialize one item or several.

        Raises:
            SerializationError: it can't be pickled; names it as `what`, and the culprit.
        """
        packed = pack_or_name(value, self._sink, what=what, name=name, task_name=self._name)
        self.stored_bytes += sum(blob.nbytes for blob in packed.blobs)
        self.inline_bytes += CALL_BYTES + (packed.nbytes() if not packed.blobs else 0)
        return packed


class _Ranged(_Counted):
    def __init__(self, source: range) -> None:
        super().__init__(None, "")
        self.total = _count(source)
        self._rest = source

    def read(self, count: int) -> tuple[Any, int, int]:
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken, len(taken), 0


class _Sliced(_Counted):
    """An array or table: packed as a whole if its slices are free, else slice by slice."""

    def __init__(self, source: Any, form: int, sink: Any, name: str, *, is_whole: bool) -> None:
        super().__init__(sink, name)
        self._num_items = len(source)
        self.total: int | None = self._num_items
        self._source = source
        self._form = form
        self._at = 0
        self._whole = self.pack(source, "its items", "items") if is_whole else None
        self.stored_bytes = 0  # once, and not for each of the items
        self._bytes_per_item = 0.0

    def read(self, count: int) -> tuple[Any, int, int]:
        start = self._at
        stop = min(start + count, self._num_items)
        if stop <= start:
            return (), 0, 0
        if self._whole is not None:
            self._at = stop
            return Slice(self._whole, self._form, start, stop), stop - start, RAW
        if self._form != ITEMS:
            stop = min(stop, start + self.batch_items)
        if self._bytes_per_item:
            stop = min(stop, start + max(1, int(PIECE_BYTES / self._bytes_per_item)))
        while True:
            part = self._part(start, stop)
            what, name = (f"item {start}", "item") if stop - start == 1 else ("its items", "items")
            try:
                packed = self.pack(part, what, name)
                break
            except SerializationError as error:
                if stop - start == 1:
                    self._at = stop
                    raise UnsendableError(error, part) from None
                stop = start + (stop - start) // 2  # what is well goes out first
        self._at = stop
        self._bytes_per_item = max(1.0, packed.nbytes() / (stop - start))
        return Slice(packed, self._form, 0, stop - start), stop - start, RAW

    def _part(self, start: int, stop: int) -> Any:
        source = self._source
        if self._form == ITEMS:
            return source[start:stop]
        return source.iloc[start:stop] if self._form == PANDAS else source.slice(start, stop - start)


class _Listed(_Counted):
    """A list or tuple: nothing of the user's runs while a piece of it is read."""

    def __init__(self, source: Sequence[Any], sink: Any, name: str, *, is_starred: bool) -> None:
        super().__init__(sink, name)
        self._source = source
        self._flags = STARRED if is_starred else RAW
        self._is_starred = is_starred
        self._at = 0
        self._bytes_per_item = 0.0
        self.total: int | None = len(source)

    def read(self, count: int) -> tuple[Any, int, int]:
        start = self._at
        most = 1  # who knows how large they are
        if self._bytes_per_item:
            most = max(1, min(self.batch_items, int(PIECE_BYTES / self._bytes_per_item)))
            count = min(count, most)
        items: Any = self._source[start : start + count]
        if items.__class__ is not list:
            items = list(items)
        if not items:
            return (), 0, 0
        parts = items
        if self._is_starred:
            items = self._until_refused(items, start, _as_row)
            parts = [arg for row in items for arg in row]
            is_immutable = all(map(is_atom, parts))
        else:
            is_immutable = _are_atoms(items)
        if is_immutable:
            self._at = start + len(items)
            return items, len(items), self._flags if self._is_starred else 0
        if len(items) > most:
            del items[most:]
            parts = [arg for row in items for arg in row] if self._is_starred else items
        if ObjectRef in set(map(type, parts)) or _has_twice(parts):
            # A ref stands for its value; and what stands here twice must not arrive as one object.
            return self._read_singly(items, start)
        try:
            packed = self.pack(items, "its items", "items")
        except SerializationError:
            return self._read_singly(items, start)  # says which
        self._at = start + len(items)
        self._bytes_per_item = max(1.0, packed.nbytes() / len(items))
        slice_ = Slice(packed, ITEMS, 0, len(items), lambda at: self._pack_one(items[at], start + at))
        return slice_, len(items), self._flags

    def _read_singly(self, items: list[Any], start: int) -> tuple[Any, int, int]:
        calls = self._until_refused(items, start, self._pack_one)
        self._at = start + len(calls)
        return calls, len(calls), 0

    def _until_refused(self, items: list[Any], start: int, make: Callable[[Any, int], Any]) -> list[Any]:
        """Return what is made of items; what can't be made of one is raised behind those before it."""
        made: list[Any] = []
        try:
            for index, item in enumerate(items, start):
                made.append(make(item, index))
        except UnsendableError:
            if not made:
                self._at = start + 1
                raise
        return made

    def _pack_one(self, item: Any, index: int) -> Any:
        return pack_row(self, item if self._is_starred else (item,), index)


def _are_atoms(items: list[Any]) -> bool:
    kinds = set(map(type, items))
    if kinds <= ATOMS:
        return True
    if not kinds <= ATOMS | TEXTS:
        return False
    return all(len(item) <= ATOM_LIMIT for item in items if type(item) in TEXTS)


def _has_twice(parts: list[Any]) -> bool:
    """Say whether some object that may be mutable stands among others twice."""
    ids = [id(part) for part in parts if part.__class__ not in ATOMS and part.__class__ not in TEXTS]
    return len(set(ids)) < len(ids)


def _as_row(row: Any, index: int) -> tuple[Any, ...]:
    if type(row) is tuple:
        return row
    try:
        return tuple(row)
    except TypeError:
        kind = type(row).__name__
        error = TypeError(f"starmap() expected tuples of arguments, got {kind} at item {index}")
        raise UnsendableError(error, row) from None


class _Iterated(_Counted):
    """An iterator: mutable items are pickled one by one, before the next is asked for."""

    is_lazy = True

    def __init__(
        self, source: Iterator[Any], total: int | None, sink: Any, name: str, *, is_starred: bool
    ) -> None:
        super().__init__(sink, name)
        self.total = total
        self._source = source
        self._is_starred = is_starred
        self._num_read = 0
        self._error: BaseException | None = None

    def read(self, count: int) -> tuple[Any, int, int]:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        items: list[Any] = []
        first = self._num_read
        taken = islice(self._source, count)
        try:
            if self._is_starred:
                items.extend(self._pack_row(row, index) for index, row in enumerate(taken, first))
            else:
                atoms, pack = ATOMS, self._pack_item
                items.extend(item if item.__class__ in atoms else pack(item, items) for item in taken)
        except Exception as error:
            refused = isinstance(error, UnsendableError)
            if not items:
                self._num_read += refused
                raise
            self._num_read += refused
            self._error = error  # what was read before it comes first
        self._num_read += len(items)
        if not self._is_starred:
            return items, len(items), 0
        if Call in set(map(type, items)):  # then all of them must be
            items = [item if item.__class__ is Call else Call(item, (), 0) for item in items]
            return items, len(items), 0
        return items, len(items), STARRED

    def _pack_item(self, item: Any, items: list[Any]) -> Any:
        return item if is_atom(item) else pack_row(self, (item,), self._num_read + len(items))

    def _pack_row(self, row: Any, index: int) -> Any:
        row = _as_row(row, index)
        return row if all(map(is_atom, row)) else pack_row(self, row, index)


class AsyncInput(_Counted):
    """An asynchronous iterable: each item is pickled as soon as it is there, and handed on at once."""

    is_lazy = True
    total: int | None = None

    def __init__(self, source: Any, sink: Any, name: str, *, is_starred: bool) -> None:
        super().__init__(sink, name)
        self._source: AsyncIterator[Any] = source.__aiter__()
        self._is_starred = is_starred
        self._num_read = 0

    def read(self, count: int) -> tuple[Any, int, int]:
        """Refuse: only `read_one` can wait for an item."""
        raise AssertionError("an asynchronous input was read synchronously")

    async def read_one(self) -> tuple[Any, int, int]:
        """Return the next item as `read` would; none at the end."""
        try:
            item = await self._source.__anext__()
        except StopAsyncIteration:
            return (), 0, 0
        index = self._num_read
        self._num_read += 1
        if self._is_starred:
            return [pack_row(self, _as_row(item, index), index)], 1, 0
        return [item if is_atom(item) else pack_row(self, (item,), index)], 1, 0


def pack_row(counted: _Counted, row: tuple[Any, ...], index: int) -> Call:
    """Return the call of one item, by value as of now; refs stand for their values, once they have them.

    Raises:
        UnsendableError: an argument can't be pickled, or the task behind a ref failed.
    """
    args: list[Any] = []
    nbytes = 0
    for position, arg in enumerate(row):
        if isinstance(arg, ObjectRef):
            _await_ref(arg)
        elif not is_atom(arg):
            what = f"item {index}" if len(row) == 1 else f"argument {position} of item {index}"
            try:
                arg = counted.pack(arg, what, "item" if len(row) == 1 else f"item[{position}]")
            except SerializationError as error:
                raise UnsendableError(error, row[0] if len(row) == 1 else row) from None
            nbytes += arg.nbytes() if not arg.blobs else 256
        args.append(arg)
    return Call(tuple(args), (), nbytes)


def _await_ref(ref: ObjectRef[Any]) -> None:
    from .session import engine

    if ref._state.__class__ is not int:
        engine().wait([ref], 1, None)
    if ref._state == FAILED:
        try:
            engine().get([ref], None)
        except Exception as error:
            raise UnsendableError(error, ref) from None
