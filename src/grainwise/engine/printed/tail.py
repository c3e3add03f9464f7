"""Reading a worker's output file: whole lines with their task, and the records between them.

What has been read is cut out of the file. What nobody fetches is dropped beyond `max_bytes`, the oldest
first, and the place says so: files must not fill the memory.
"""

from __future__ import annotations

import os
from time import monotonic

from . import frames

MAX_FILE_BYTES = 64 << 20
"""Output that waits in one file; beyond it the oldest is dropped."""
MAX_LINE_BYTES = 8 << 20
"""A longer line is cut."""
STALE_S = 1.0
"""A line without an end that has not grown for so long is shown as it is."""
KEPT_BYTES = 1 << 16
"""The end of what has been read stays in the file, for the message of a crash."""
LAST_LINES_BYTES = 4096
TEXT = b""
_CHUNK_BYTES = 1 << 20
_PAGE_BYTES = 4096


class Piece:
    """Whole lines of one task (kind TEXT), or a record (`frames.LOG`, `frames.WARNING`)."""

    __slots__ = ("data", "kind", "tag")

    def __init__(self, kind: bytes, tag: str, data: bytes) -> None:
        self.kind = kind
        self.tag = tag
        self.data = data


class Tail:
    """One file that a worker and its children append to. Used by one thread at a time.

    Attributes:
        max_bytes: how much may wait in the file.
        offset: how much has been read or passed over.
        tag: who prints what comes next; empty until the worker has said so.
    """

    __slots__ = ("_fd", "_grown_at", "_line", "_punched", "_rest", "is_error", "max_bytes", "offset", "tag")

    def __init__(self, fd: int, *, is_error: bool) -> None:
        self.is_error = is_error
        self.max_bytes = MAX_FILE_BYTES
        self.tag = ""
        self._fd = fd
        self.offset = 0
        self._punched = 0
        self._rest = b""  # what was read behind the last end of line: text, or half a frame
        self._line = b""  # text of the open line before it
        self._grown_at = 0.0

    def size(self) -> int:
        """Return how much has been written, ever."""
        return os.fstat(self._fd).st_size

    def read(self, *, is_last: bool = False) -> list[Piece]:
        """Return what has come since the last look, about 1 MiB at most; at the end, all of it."""
        size = self.size()
        pieces: list[Piece] = []
        if size - self.offset > self.max_bytes:
            self._drop(size - self.offset - self.max_bytes, pieces)
        while self.offset < size:
            data = os.pread(self._fd, min(_CHUNK_BYTES, size - self.offset), self.offset)
            if not data:
                break
            self.offset += len(data)
            self._grown_at = monotonic()
            data = self._rest + data
            cut = data.rfind(b"\n") + 1
            if not cut and len(data) > MAX_LINE_BYTES:
                cut = len(data)
            self._rest = data[cut:]
            self._parse(data[:cut], pieces)
            if cut and not is_last:
                break
        self._punch()
        if (self._rest or self._line) and (is_last or self._is_stale()):
            self._end_line(pieces)
        return pieces

    def skip(self) -> None:
        """Pass over all that has come: nobody wants it."""
        self.offset = self.size()
        self._punch()

    def bound(self) -> list[Piece]:
        """Drop what is too much, while nobody can take any."""
        pieces: list[Piece] = []
        excess = self.size() - self.offset - self.max_bytes
        if excess > _CHUNK_BYTES:
            self._drop(excess, pieces)
            self._punch()
        return pieces

    def _drop(self, nbytes: int, pieces: list[Piece]) -> None:
        """Go on so much later, at the beginning of a line; the tag is the worker's until the next one."""
        self._end_line(pieces)
        before = self.offset
        self.offset += nbytes
        while True:
            data = os.pread(self._fd, _CHUNK_BYTES, self.offset)
            end = data.find(b"\n") + 1
            self.offset += end or len(data)
            if end or not data:
                break
        count = self.offset - before
        pid = self.tag.rstrip(") ").rpartition("pid=")[2]
        self.tag = f"(pid={pid}) " if pid else ""
        note = b"[... %d bytes of output dropped: nobody read them ...]\n" % count
        pieces.append(Piece(TEXT, self.tag, note))

    def _parse(self, data: bytes, pieces: list[Piece]) -> None:
        """Take whole lines apart into text and frames."""
        position = 0
        while True:
            at = data.find(frames.BEGIN, position)
            if at < 0:
                self._add_text(data[position:] if position else data, pieces)
                return
            self._add_text(data[position:at], pieces)
            start = at + len(frames.BEGIN)
            end = data.find(b"\n", start)
            if end < 0:
                end = len(data)
            kind, payload = data[start : start + 1], data[start + 1 : end]
            if kind == frames.TAG:
                tag = frames.read_tag(payload)
                if tag != self.tag:
                    self._finish(pieces)
                    self.tag = tag
            else:
                pieces.append(Piece(kind, self.tag, payload))
            position = end + 1

    def _add_text(self, text: bytes, pieces: list[Piece]) -> None:
        if not text:
            return
        text = self._line + text
        cut = text.rfind(b"\n") + 1
        if cut:
            pieces.append(Piece(TEXT, self.tag, text[:cut]))
        self._line = text[cut:]
        if len(self._line) > MAX_LINE_BYTES:
            self._finish(pieces)

    def _finish(self, pieces: list[Piece]) -> None:
        """End the open line: another task prints, or nobody does any more."""
        if self._line:
            pieces.append(Piece(TEXT, self.tag, self._line + b"\n"))
            self._line = b""

    def _end_line(self, pieces: list[Piece]) -> None:
        text = self._rest.partition(frames.BEGIN)[0]  # a frame here was cut short by the worker's end
        self._rest = b""
        self._add_text(text, pieces)
        self._finish(pieces)

    def _is_stale(self) -> bool:
        return monotonic() - self._grown_at > STALE_S and frames.BEGIN not in self._rest

    def _punch(self) -> None:
        """Give back the memory of what has been read."""
        end = (self.offset - KEPT_BYTES) // _PAGE_BYTES * _PAGE_BYTES
        if end - self._punched < _CHUNK_BYTES:
            return
        from ...objects.lease import punch_hole

        try:
            punch_hole(self._fd, self._punched, end - self._punched)
        except OSError:
            pass
        self._punched = end


def last_lines(fd: int) -> str:
    """Return the end of a worker's error output as text, log records and warnings among it."""
    size = os.fstat(fd).st_size
    start = max(0, size - KEPT_BYTES)
    data = os.pread(fd, KEPT_BYTES, start)
    if start:
        data = data[data.find(b"\n") + 1 :] or data
    lines: list[str] = []
    tail = Tail(fd, is_error=True)
    pieces: list[Piece] = []
    tail._parse(data, pieces)
    tail._end_line(pieces)
    for piece in pieces:
        text = piece.data.decode("utf-8", "backslashreplace")
        lines.append(text if piece.kind == TEXT else _record_text(piece.kind, piece.data))
    return "".join(lines).strip()[-LAST_LINES_BYTES:]


def _record_text(kind: bytes, payload: bytes) -> str:
    """Return a record as the standard library shows it when nobody has configured anything."""
    try:
        value = frames.read_record(payload)
        if kind == frames.LOG:
            text = f"{value['levelname']}:{value['name']}:{value['msg']}\n"
            return text + f"{value['exc_text']}\n" if value["exc_text"] else text
        message, names, filename, lineno = value[:4]
        return f"{filename}:{lineno}: {names[0][1]}: {message}\n"
    except (ValueError, LookupError, TypeError):
        return ""
