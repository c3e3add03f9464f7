"""Rows of chunks: elements of a map that ended at about the same time, and of values."""

from __future__ import annotations

import sys
from array import array
from itertools import islice, pairwise
from typing import Any

from . import encoding, places

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence


class Chunk:
    """Elements of one map that have ended and are not written yet."""

    __slots__ = ("attempt", "ended_s", "failed", "indices", "is_cached", "n_listed", "results")

    def __init__(self, attempt: int, *, is_cached: bool) -> None:
        self.attempt = attempt
        self.is_cached = is_cached
        self.indices: list[Sequence[int]] = []
        self.results: list[Sequence[Any]] = []
        self.failed: dict[int, BaseException] = {}
        self.ended_s = 0.0
        self.n_listed = 0
        """So many of the failures have rows of their own."""


def placed(kept: encoding.Kept, folder: str) -> tuple[Any, str | None]:
    """Return data for the row and the name of the file; one of them is None."""
    if kept.n_bytes > encoding.MAX_INLINE_BYTES:
        return None, encoding.write_object(folder, kept.parts)
    whole = b"".join(kept.parts)
    return (whole.decode() if kept.format == "json" else whole), None


def row_of(session: int, run_id: str, path: str, chunk: Chunk) -> Any:
    """Return the row of a chunk, its value, and the rows of its failures."""
    indices, results = _sorted(chunk)
    first, n_elements = indices[0], len(indices)
    packed = None
    if indices[-1] - first + 1 != n_elements:
        numbers = array("Q", indices)
        if sys.byteorder != "little":
            numbers.byteswap()
        packed = numbers.tobytes()
    failed = chunk.failed
    done = None
    if failed:
        bits = bytearray((n_elements + 7) // 8)
        for at, index in enumerate(indices):
            if index not in failed:
                bits[at >> 3] |= 1 << (at & 7)
        done = bytes(bits)
        results = [value for index, value in zip(indices, results) if index not in failed]
    try:
        kept = encoding.keep(results, is_shown=False)
    except encoding.UnkeepableError:
        kept = encoding.Kept("none", [], "")
    place = (run_id, path, chunk.attempt, first, n_elements, packed, done)
    row = (run_id, path, session, chunk.attempt, first, n_elements, packed, done, len(failed),
           int(chunk.is_cached), chunk.ended_s, kept.format)  # fmt: skip
    failures = [
        (run_id, path, index, session, chunk.attempt, chunk.ended_s, *texts(error))
        for index, error in islice(failed.items(), chunk.n_listed)
    ]
    return row, kept, encoding.digest_of(kept.parts, *place), failures


def _sorted(chunk: Chunk) -> tuple[Sequence[int], list[Any]]:
    """Return the indices in order, and their results; by whole ranges, as most are, where they can be."""
    ranges = sorted(zip(chunk.indices, chunk.results), key=_first_of)
    results = [value for _, values in ranges for value in values]
    if all(isinstance(indices, range) for indices, _ in ranges):
        spans = [indices for indices, _ in ranges]
        if all(one[-1] < other[0] for one, other in pairwise(spans)):
            first, last = spans[0][0], spans[-1][-1]
            if last - first + 1 == len(results):
                return range(first, last + 1), results
            return [index for indices in spans for index in indices], results
    pairs = [(index, value) for indices, values in ranges for index, value in zip(indices, values)]
    pairs.sort(key=_index_of)
    return [index for index, _ in pairs], [value for _, value in pairs]


def _first_of(part: tuple[Sequence[int], Sequence[Any]]) -> int:
    return part[0][0]


def _index_of(pair: tuple[int, Any]) -> int:
    return pair[0]


def insert_chunks(connection: sqlite3.Connection, folder: str, run_id: str, made: list[Any]) -> None:
    """Write chunks, given as `row_of` returns them."""
    objects = places.objects_of(folder, run_id)
    for row, kept, digest, failures in made:
        data, file = placed(kept, objects)
        connection.execute(
            f"INSERT INTO chunks (run_id, path, session, attempt, first, n_elements, indices, done, "
            f"n_failed, is_cached, ended_s, format, data, file, n_bytes, digest) VALUES ({marks(16)})",
            (*row, data, file, kept.n_bytes, digest),
        )
        connection.executemany(f"INSERT OR REPLACE INTO failures VALUES ({marks(8)})", failures)


def marks(count: int) -> str:
    """Return so many question marks for a statement."""
    return ", ".join("?" * count)


def texts(error: BaseException | None) -> tuple[str | None, str | None]:
    """Return an error as one line, and with its traceback."""
    if error is None:
        return None, None
    import traceback

    text = getattr(error, "traceback_text", "") or "".join(
        traceback.format_exception(type(error), error, error.__traceback__)
    )
    cause = getattr(error, "cause", None) or error
    line = f"{type(cause).__name__}: {cause}".partition("\n")[0]
    return line[:1000], str(text)[:100_000]
