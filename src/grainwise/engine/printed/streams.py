"""A worker's standard output and error: text streams that say in the file which task prints.

A tag is written when the name changes, never per line and never per task:

* where a batch of one function begins and the one before was of another, into both files: then it is right
  for C code and subprocesses, too, which write to the descriptors directly;
* where tasks are tiny, only before what one of them prints through Python, because the two writes (some 7 us)
  would cost as much as the tasks do. What else is printed there carries the worker's tag, without a name.
"""

from __future__ import annotations

import io
import os

from .frames import tag_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .levels import LevelsReader

_write = io.TextIOWrapper.write


class TaggedStream(io.TextIOWrapper):
    """A line-buffered stream into an output file.

    Attributes:
        tags: tells the running task's name; None until the worker is set up.
        marked: the name that the file was told last.
    """

    def __init__(self, fd: int, file_fd: int) -> None:
        raw = open(fd, "wb", closefd=False)  # noqa: SIM115 # open as long as the process lives
        super().__init__(raw, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self.mode = "w"  # type: ignore[misc]
        self.tags: Tags | None = None
        self.marked: str | None = None
        self._file_fd = file_fd  # the descriptor may be pointed elsewhere by a task that captures output

    def write(self, text: str, /) -> int:
        """Write text, with the task's name before it if another was the last."""
        tags = self.tags
        if tags is not None:
            name = tags.worker.task_name
            if name != self.marked:
                self.mark(name)
                tags.marked = None
            tags.has_printed = True
        return _write(self, text)

    def mark(self, name: str) -> None:
        """Say in the file that what follows is printed by this task; an empty name: by the worker."""
        try:
            self.flush()  # what waits was printed by another
            os.write(self._file_fd, tag_frame(os.getpid() if self.tags is None else self.tags.pid, name))
        except (OSError, ValueError):
            pass  # a task has closed it
        self.marked = name


class Tags:
    """What a worker does around its batches for what they print. Main thread, unless stated otherwise.

    Attributes:
        worker: has the running task's name.
        pid: the worker's, also in a process that a task has forked.
        marked: the name that both files were told last; None if they differ.
        has_printed: something was printed since the driver was told to look; any thread sets it.
        levels: the program's logging levels; None where records are not forwarded.
    """

    def __init__(
        self, worker: Any, tell: Callable[[], None], streams: tuple[TaggedStream, TaggedStream]
    ) -> None:
        self.worker = worker
        self.pid = os.getpid()
        self.marked: str | None = ""
        self.has_printed = False
        self.levels: LevelsReader | None = None
        self._tell = tell
        self._streams = streams
        for stream in streams:
            stream.tags = self
            stream.mark("")

    def begin(self, name: str, *, is_exact: bool) -> None:
        """A batch begins or goes on.

        Args:
            name: its tasks' name; empty for several.
            is_exact: say so in the files; else only take another name back that stands there.
        """
        if name != self.marked:
            self._switch(name, is_exact)
        levels = self.levels
        if levels is not None and levels.has_changed():
            levels.apply()

    def _switch(self, name: str, is_exact: bool) -> None:
        for stream in self._streams:
            marked = stream.marked
            if marked != name and (is_exact or marked):
                stream.mark(name if is_exact else "")
        first, second = self._streams
        self.marked = first.marked if first.marked == second.marked else None

    def end(self) -> None:
        """A batch has ended and its results are about to be sent: have the driver look at what it printed."""
        if self.has_printed:
            self.has_printed = False
            self._tell()
