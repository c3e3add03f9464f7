"""Standard output and error of workers: written to files without a name, tailed by the driver.

A file never blocks its writer, keeps the last line before a crash, and goes with its last descriptor. The
driver hands whole lines to a thread of its own, because the program's own standard output may be a pipe that
nobody reads; what has been handed on is cut out of the file.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque

from .process import read_tail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .pool import Pool, WorkerHandle

MAX_BACKLOG_BYTES = 16 << 20
"""Output that waits for a reader; beyond it the oldest is dropped, and the place says so."""
CHUNK_BYTES = 1 << 20
CLOSE_TIMEOUT_S = 1.0


class Tail:
    """One file that a worker appends to."""

    __slots__ = ("fd", "is_error", "offset", "partial", "punched")

    def __init__(self, fd: int, *, is_error: bool) -> None:
        self.fd = fd
        self.is_error = is_error
        self.offset = 0
        self.punched = 0
        self.partial = b""

    def read(self, *, is_last: bool) -> bytes:
        """Return the whole lines that have come since the last look; at the end also what is no line."""
        size = os.fstat(self.fd).st_size
        if size == self.offset and not (is_last and self.partial):
            return b""
        if size - self.offset > MAX_BACKLOG_BYTES:
            dropped = size - self.offset - MAX_BACKLOG_BYTES
            self.offset += dropped
            self.partial = b"[... %d bytes of output dropped: nobody read them ...]\n" % dropped
        pieces = [self.partial]
        while self.offset < size and (is_last or len(pieces) == 1):
            piece = os.pread(self.fd, min(CHUNK_BYTES, size - self.offset), self.offset)
            if not piece:
                break
            self.offset += len(piece)
            pieces.append(piece)
        data = b"".join(pieces)
        if self.offset - self.punched > CHUNK_BYTES:
            self._punch()
        if is_last:
            self.partial = b""
            return data if data.endswith(b"\n") or not data else data + b"\n"
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > CHUNK_BYTES:
            cut = len(data)  # a line without an end, such as a progress bar's
        self.partial = data[cut:]
        return data[:cut]

    def _punch(self) -> None:
        from ...objects.lease import punch_hole

        start = self.punched // 4096 * 4096
        end = self.offset // 4096 * 4096
        try:
            punch_hole(self.fd, start, end - start)
        except OSError:
            pass
        self.punched = end


class Output:
    """Forwards what all workers print. `collect` is called by one thread at a time or under the turn."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._tails: dict[int, tuple[Tail, Tail]] = {}
        self._lock = threading.Lock()
        self._queue: deque[tuple[bool, int, str]] = deque()
        self._put_bytes = 0  # ever; written by who collects
        self._taken_bytes = 0  # ever; written by who prints
        self._ready = threading.Semaphore(0)
        self._printer: threading.Thread | None = None
        self._is_closed = False

    def collect(self) -> None:
        """Hand on what workers have written."""
        with self._lock:
            for handle in list(self._pool.workers.values()):
                if handle.output_fd >= 0:
                    self._collect(handle, is_last=False)

    def forget(self, handle: WorkerHandle) -> None:
        """Hand on the rest of a worker that has ended, and close its files."""
        with self._lock:
            handle.last_words = read_tail(handle.error_fd)
            self._collect(handle, is_last=True)
            self._tails.pop(handle.uid, None)
            for fd in (handle.output_fd, handle.error_fd):
                os.close(fd)
            handle.output_fd = handle.error_fd = -1

    def _collect(self, handle: WorkerHandle, *, is_last: bool) -> None:
        tails = self._tails.get(handle.uid)
        if tails is None:
            tails = (Tail(handle.output_fd, is_error=False), Tail(handle.error_fd, is_error=True))
            self._tails[handle.uid] = tails
        for tail in tails:
            while self._put_bytes - self._taken_bytes < MAX_BACKLOG_BYTES or is_last:
                data = tail.read(is_last=is_last)
                if not data:
                    break
                self._put_bytes += len(data)
                self._queue.append((tail.is_error, len(data), data.decode("utf-8", "backslashreplace")))
                self._wake_printer()

    def _wake_printer(self) -> None:
        if self._printer is None:
            self._printer = threading.Thread(target=self._print, name="grainwise-output", daemon=True)
            try:
                self._printer.start()
            except RuntimeError:  # the interpreter is ending: write it ourselves
                self._printer = None
                self._drain()
                return
        self._ready.release()

    def _print(self) -> None:
        while True:
            self._ready.acquire()
            if not self._drain() and self._is_closed:
                return

    def _drain(self) -> bool:
        has_printed = False
        while self._queue:
            is_error, nbytes, text = self._queue.popleft()
            stream = sys.stderr if is_error else sys.stdout
            try:
                stream.write(text)
                stream.flush()
            except Exception:
                pass
            self._taken_bytes += nbytes
            has_printed = True
        return has_printed

    def close(self) -> None:
        """Print the rest, unless the program's output takes none."""
        self._is_closed = True
        if self._printer is not None and self._printer is not threading.current_thread():
            self._ready.release()
            self._printer.join(CLOSE_TIMEOUT_S)
