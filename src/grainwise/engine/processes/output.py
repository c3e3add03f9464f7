"""What workers print, forwarded to the program: its streams, its `logging`, its `warnings`.

Workers write into files without a name (see `engine.printed`). The driver hands whole lines and records to a
thread of its own, because the program's standard output may be a pipe that nobody reads, and a handler of its
own may be slow; while the thread is behind, files are kept short.

A line that its worker has overwritten with carriage returns, such as a progress bar's, is shown as it was
last.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections import deque
from time import monotonic, sleep

from ...watch.progress import write_beside_bars
from ..printed import records
from ..printed.levels import LevelsWriter
from ..printed.tail import MAX_FILE_BYTES, TEXT, Piece, Tail, last_lines

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .pool import Pool, WorkerHandle

MAX_BACKLOG_BYTES = 16 << 20
"""What waits in the queue of the printing thread; the rest waits in the files."""
ALL_FILES_BYTES = 256 << 20
"""What may wait in all files together, so that many workers don't fill the memory either."""
MIN_FILE_BYTES = 4 << 20
CLOSE_TIMEOUT_S = 1.0
"""At the end: so long without progress, and the program's output is taken for one that nobody reads."""
FLUSH_LOOK_S = 1e-3
PIECE_COST_BYTES = 100
"""What a piece in the queue takes besides its text."""


class Printer(threading.Thread):
    """The printing thread. Overrides `run`: ipykernel ties threads that use the base class's to one cell."""

    def __init__(self, body: Callable[[], None]) -> None:
        super().__init__(name="grainwise-output", daemon=True)
        self._body = body

    def run(self) -> None:
        """Print until the end of the session."""
        self._body()


class Output:
    """Forwards what all workers print. Any thread may collect."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._is_forwarded = bool(pool.settings["log_to_driver"])
        self._is_tagged = bool(pool.settings["tag_output"])
        self._tails: dict[int, tuple[Tail, Tail]] = {}
        self._lock = threading.Lock()
        self._queue: deque[tuple[bool, Piece]] = deque()
        self._put_bytes = 0  # ever; written by who collects
        self._taken_bytes = 0  # ever; written by who prints
        self._ready = threading.Semaphore(0)
        self._printer: Printer | None = None
        self._is_closed = False
        self._levels = LevelsWriter(pool.control_fd) if self._is_forwarded else None

    def collect(self) -> None:
        """Hand on what workers have written."""
        if self._levels is not None:
            self._levels.look()
        with self._lock:
            for handle in list(self._pool.workers.values()):
                if handle.output_fd >= 0:
                    self._collect(handle, is_last=False)

    def collect_from(self, handle: WorkerHandle) -> None:
        """Hand on what a worker has printed before it reported the result that comes next."""
        with self._lock:
            if handle.output_fd >= 0:
                self._collect(handle, is_last=False)

    def forget(self, handle: WorkerHandle) -> None:
        """Hand on the rest of a worker that has ended, and close its files."""
        with self._lock:
            handle.last_words = last_lines(handle.error_fd)
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
            share = max(MIN_FILE_BYTES, min(MAX_FILE_BYTES, ALL_FILES_BYTES // (2 * len(self._tails))))
            for tail in itertools.chain(*self._tails.values()):
                tail.max_bytes = share
        for tail in tails:
            if not self._is_forwarded:
                tail.skip()
                continue
            goal = tail.size()  # not more: the worker may print faster than we read
            while self._put_bytes - self._taken_bytes < MAX_BACKLOG_BYTES or is_last:
                self._put(tail.is_error, tail.read(is_last=is_last))
                if tail.offset >= goal:
                    break
            else:
                self._put(tail.is_error, tail.bound())

    def _put(self, is_error: bool, pieces: list[Piece]) -> None:
        for piece in pieces:
            self._put_bytes += len(piece.data) + PIECE_COST_BYTES
            self._queue.append((is_error, piece))
        if pieces:
            self._wake_printer()

    def _wake_printer(self) -> None:
        if self._printer is None:
            self._printer = Printer(self._print)
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
            is_error, piece = self._queue.popleft()
            try:
                if piece.kind == TEXT:
                    stream = sys.stderr if is_error else sys.stdout
                    write_beside_bars(stream, as_text(piece.data, piece.tag if self._is_tagged else ""))
                    stream.flush()
                else:
                    records.handle(piece.kind, piece.data, is_tagged=self._is_tagged)
            except Exception:
                pass
            self._taken_bytes += len(piece.data) + PIECE_COST_BYTES
            has_printed = True
        return has_printed

    def flush(self) -> None:
        """Wait until all that workers have printed so far is shown, as long as it goes on."""
        self.collect()
        goal = self._put_bytes
        taken, deadline = -1, 0.0
        while self._taken_bytes < goal and self._printer is not threading.current_thread():
            if taken != self._taken_bytes:
                taken, deadline = self._taken_bytes, monotonic() + CLOSE_TIMEOUT_S
            elif monotonic() > deadline:
                break
            sleep(FLUSH_LOOK_S)

    def close(self) -> None:
        """Print the rest, unless the program's output takes none."""
        self._is_closed = True
        if self._levels is not None:
            self._levels.close()
        if self._printer is None or self._printer is threading.current_thread():
            return
        self._ready.release()
        taken = -1
        while self._printer.is_alive() and taken != self._taken_bytes:
            taken = self._taken_bytes
            self._printer.join(CLOSE_TIMEOUT_S)


def as_text(data: bytes, tag: str) -> str:
    """Return whole lines as they are shown: the tag before each."""
    text = data.decode("utf-8", "backslashreplace")
    if "\r" in text:
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    elif tag:
        lines = text.split("\n")
    else:
        return text
    lines.pop()  # behind the last end of line
    return "".join([f"{tag}{line}\n" for line in lines])
