"""The program's logging levels, where its workers can see them.

    driver: setLevel(), disable() ─► manager's cache is cleared ─► snapshot ─► control file
    worker: before each batch: another version? ─► setLevel() of what has changed

A record that the program's loggers would not take costs a worker what it costs the program: a look into a
cache. A change that was made before a task was submitted holds in that task, because it is written before
`setLevel` returns.

The snapshot lies behind the slots of the control page; its version is a word of slot 0, where the driver,
which runs nothing, needs no claims. It is odd while the driver writes. A worker that has read a snapshot
looks at the version again, and leaves a changed one to its next batch.

`Manager._clear_cache` is private to `logging`, but the only place that hears of every change. Without it
changes are seen within milliseconds, by `look`.
"""

from __future__ import annotations

import marshal
import os
import struct
import threading

from ..wire import control

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = control.claim_word(0)
"""Index of the version's word in the control page."""
AT = control.NBYTES
MAX_BYTES = 1 << 16
_HEAD = struct.Struct("<QQ")  # version, length

Snapshot = tuple[int, int, bool, dict[str, int]]
"""Level of the root logger, `logging.disable`, does the root logger have handlers?, levels by name."""


def snapshot() -> Snapshot:
    """Return the levels that are set in this process."""
    import logging

    root = logging.getLogger()
    found = {
        name: logger.level
        for name, logger in list(root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and logger.level
    }
    return root.level, root.manager.disable, bool(root.handlers), found


class LevelsWriter:
    """The driver's side. Thread-safe.

    Args:
        control_fd: the control page's file.
    """

    def __init__(self, control_fd: int) -> None:
        import logging

        self._fd = os.dup(control_fd)
        self._pid = os.getpid()
        self._version = 0
        self._last: bytes | None = None
        self._lock = threading.RLock()
        self._manager: Any = logging.getLogger().manager
        self._original: Any = getattr(self._manager, "_clear_cache", None)
        self._has_handlers = False
        if self._original is not None:
            vars(self._manager)["_clear_cache"] = self._on_change
        self.publish()

    def _on_change(self) -> None:
        self._original()
        self.publish()

    def look(self) -> None:
        """Publish what nobody has told us of; called every few milliseconds."""
        import logging

        if self._original is None or bool(logging.getLogger().handlers) != self._has_handlers:
            self.publish()

    def publish(self) -> None:
        """Write a snapshot if it differs from the last."""
        if os.getpid() != self._pid:
            return  # forked off the program: the workers are not ours
        with self._lock:
            if self._fd < 0:
                return
            taken = snapshot()
            self._has_handlers = taken[2]
            data = marshal.dumps(taken)
            if len(data) > MAX_BYTES:  # let all pass: the program looks at each again
                data = marshal.dumps((min(taken[0], *taken[3].values()), taken[1], taken[2], {}))
            if data == self._last:
                return
            self._last = data
            self._write_version(self._version + 1)
            os.pwrite(self._fd, _HEAD.pack(self._version, len(data)) + data, AT)
            self._write_version(self._version + 1)

    def _write_version(self, version: int) -> None:
        self._version = version
        os.pwrite(self._fd, version.to_bytes(8, "little"), 8 * VERSION)

    def close(self) -> None:
        """Leave `logging` as it was."""
        with self._lock:
            if self._fd < 0:
                return
            os.close(self._fd)
            self._fd = -1
        if vars(self._manager).get("_clear_cache") == self._on_change:
            del vars(self._manager)["_clear_cache"]


class LevelsReader:
    """A worker's side: main thread only.

    Attributes:
        program_has_handlers: the program has configured its root logger.
    """

    def __init__(self, words: memoryview, control_fd: int) -> None:
        self._words = words
        self._fd = control_fd
        self._seen = 0
        self._last: Snapshot = (30, 0, False, {})  # as logging begins
        self.program_has_handlers = False

    def has_changed(self) -> bool:
        """Say whether there is a snapshot that has not been applied."""
        return bool(self._words[VERSION] != self._seen)

    def apply(self) -> None:
        """Set the levels that differ from the last snapshot; what a task has set itself stays otherwise."""
        import logging

        version = self._words[VERSION]
        if version & 1:
            return
        _, length = _HEAD.unpack(os.pread(self._fd, _HEAD.size, AT))
        data = os.pread(self._fd, length, AT + _HEAD.size)
        if self._words[VERSION] != version:
            return
        self._seen = version
        root_level, disabled, self.program_has_handlers, levels = taken = marshal.loads(data)
        old_level, old_disabled, _, old_levels = self._last
        self._last = taken
        if root_level != old_level:
            logging.getLogger().setLevel(root_level)
        if disabled != old_disabled:
            logging.disable(disabled)
        for name in {*levels, *old_levels}:
            level = levels.get(name, 0)
            if level != old_levels.get(name, 0):
                logging.getLogger(name).setLevel(level)
