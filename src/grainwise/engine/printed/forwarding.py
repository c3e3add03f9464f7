"""A worker's log records and warnings, sent to the program instead of being shown here.

They are written into the file behind standard error, in the order in which they come, and stay there when
the worker dies. The program handles records with its own loggers (`records`); a worker's loggers have the
program's levels (`levels`).

What a task configures in the worker itself goes first, because it was asked for: a record that a handler of
the worker's own shows on its standard output or error is not forwarded as well. `logging.basicConfig` does
here what it would do in the program: nothing where the program has configured its root logger already.

This imports `logging`; the template does so in any case, by importing cloudpickle.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings

from .frames import LOG, WARNING, record_frame
from .levels import LevelsReader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

    from .streams import Tags

MAX_TEXT = 1 << 20
"""Characters of a message or traceback; what is beyond it is left out."""
MAX_DEPTH = 5
_ATOMS = frozenset((bool, int, float, str, bytes, type(None)))
_formatter = logging.Formatter()


class ForwardingHandler(logging.Handler):
    """Stands on a worker's root logger for all that the program has configured."""

    def __init__(self, tags: Tags, file_fd: int) -> None:
        super().__init__()
        self._tags = tags
        self._fd = file_fd
        self._inode = os.fstat(file_fd).st_ino

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            if not self._is_shown_here(record):
                self.send(LOG, _fields(record, self._tags))
        except Exception:
            self.handleError(record)  # as every handler of the standard library does

    def send(self, kind: bytes, value: Any) -> None:
        """Write a frame."""
        frame = record_frame(kind, value)
        try:
            if os.getpid() != self._tags.pid and os.fstat(self._fd).st_ino != self._inode:
                return  # a daemon that a task has forked, and that has closed what it found
            os.write(self._fd, frame)
        except OSError:
            return
        self._tags.has_printed = True

    def _is_shown_here(self, record: logging.LogRecord) -> bool:
        """Say whether another handler shows it on the worker's standard output or error."""
        logger: logging.Logger | None = logging.getLogger(record.name)
        while logger is not None:
            for handler in logger.handlers:
                if handler is not self and record.levelno >= handler.level:
                    stream = getattr(handler, "stream", None)
                    if stream is not None and (stream is sys.stderr or stream is sys.stdout):
                        return True
            if not logger.propagate:
                return False
            logger = logger.parent
        return False


def _fields(record: logging.LogRecord, tags: Tags) -> dict[str, Any]:
    """Return a record's attributes as plain values: message and traceback as text."""
    fields = dict(vars(record))
    fields["msg"] = _cut(record.getMessage())
    fields["args"] = None
    fields.pop("message", None)
    if record.exc_info and not record.exc_text:
        fields["exc_text"] = _formatter.formatException(record.exc_info)
    fields["exc_text"] = _cut(fields["exc_text"])
    fields["exc_info"] = None
    fields["task_name"] = tags.worker.task_name
    fields["worker_pid"] = tags.pid
    return {name: value if type(value) in _ATOMS else _plain(value) for name, value in fields.items()}


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= MAX_TEXT:
        return text
    return f"{text[:MAX_TEXT]} [... {len(text) - MAX_TEXT:,} characters left out]"


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value of built-in types; any other object as its text."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    for simple in (int, float, str):  # NumPy's numbers, enumerations
        if isinstance(value, simple):
            return simple(value)
    if depth < MAX_DEPTH:
        if kind in (list, tuple, set, frozenset):
            return kind(_plain(each, depth + 1) for each in value)
        if kind is dict:
            return {_plain(key, MAX_DEPTH): _plain(each, depth + 1) for key, each in value.items()}
    return _cut(str(value))


def install(tags: Tags, file_fd: int, words: memoryview, control_fd: int) -> None:
    """Forward this worker's records and warnings.

    Args:
        tags: says which task runs.
        file_fd: the file behind standard error.
        words: the control page.
        control_fd: its file.
    """
    handler = ForwardingHandler(tags, file_fd)
    levels = tags.levels = LevelsReader(words, control_fd)
    levels.apply()
    logging.getLogger().addHandler(handler)
    basic_config = logging.basicConfig

    def configure(**options: Any) -> None:
        root = logging.getLogger()
        if not options.get("force") and root.handlers == [handler]:
            if levels.program_has_handlers:
                return
            root.removeHandler(handler)
            try:
                basic_config(**options)
            finally:
                root.addHandler(handler)
        else:
            basic_config(**options)

    configure.__doc__ = basic_config.__doc__
    logging.basicConfig = configure
    _forward_warnings(handler, tags)


def _forward_warnings(handler: ForwardingHandler, tags: Tags) -> None:
    """Send each warning once per place, and let the program's filters decide.

    Filters that were given on the command line hold here, too, so that `-W error` raises in the task.
    """
    if sys.warnoptions or sys.flags.bytes_warning:
        warnings.simplefilter("default", append=True)
    else:
        warnings.resetwarnings()
        warnings.simplefilter("default")
        for category in (ImportWarning, ResourceWarning):  # many, and hardly ever wanted
            warnings.simplefilter("ignore", category)

    def show(
        message: Warning | str, category: type[Warning], filename: str, lineno: int,
        file: TextIO | None = None, line: str | None = None,
    ) -> None:  # fmt: skip
        if file is not None:
            file.write(warnings.formatwarning(message, category, filename, lineno, line))
            return
        names = [(each.__module__, each.__qualname__) for each in category.__mro__ if each is not object]
        where = str(filename), int(lineno), _module_of(filename, lineno)
        task = tags.worker.task_name, tags.pid
        handler.send(WARNING, (_cut(str(message)), names, *where, *task))

    warnings.showwarning = show


def _module_of(filename: str, lineno: int) -> str | None:
    """Return the name of the module whose line warns, which filters may be about; None if it is not known."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_lineno == lineno and frame.f_code.co_filename == filename:
            name = frame.f_globals.get("__name__")
            return name if isinstance(name, str) else None
        frame = frame.f_back  # type: ignore[assignment]
    return None
