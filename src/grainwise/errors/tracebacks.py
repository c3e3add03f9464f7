"""Exceptions as text, however hostile: tracebacks without our own frames, and one-line summaries."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from traceback import TracebackException
    from typing import Any


def trim_traceback(exc: BaseException, skip_files: Collection[str] | None = None) -> str:
    """Format the traceback of `exc` as Python would print it, without the frames of our own machinery.

    The chain of causes, notes and exception groups are kept. Where every frame would go, the innermost
    stays, since it is the only trace of where that happened. Works for exceptions whose `__str__` or
    `__repr__` raises.

    Args:
        exc: The exception; it is not changed.
        skip_files: Files and folders whose frames are left out; by default grainwise, cloudpickle and pickle.
    """
    import os
    import traceback

    skipped = _own_files() if skip_files is None else skip_files
    folders = tuple(name.rstrip(os.sep) + os.sep for name in skipped)
    try:
        whole = traceback.TracebackException(type(exc), exc, exc.__traceback__)
        for part in _linked_tracebacks(whole):
            stack: list[Any] = part.stack
            kept = [f for f in stack if f.filename not in skipped and not f.filename.startswith(folders)]
            stack[:] = kept or stack[-1:]
        return "".join(whole.format())
    except Exception:  # a hostile exception class; its name must get through all the same
        frames = "".join(traceback.format_tb(exc.__traceback__))
        return f"Traceback (most recent call last):\n{frames}{summary(exc)}\n"


def _own_files() -> set[str]:
    import os
    import sys

    files = {os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}
    for name in ("pickle", "cloudpickle"):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            is_package = os.path.basename(file) == "__init__.py"
            files.add(os.path.dirname(file) if is_package else file)
    return files


def _linked_tracebacks(whole: TracebackException) -> Iterator[TracebackException]:
    """Yield a formatted traceback and those of its causes, contexts and group members."""
    waiting: list[Any] = [whole]
    while waiting:
        part = waiting.pop()
        if part is not None:
            yield part
            waiting += [part.__cause__, part.__context__, *(getattr(part, "exceptions", None) or ())]


def with_source(text: str) -> str:
    """Add the source lines that a formatted traceback lacks and this process knows.

    A worker can't read a notebook's cells, nor a program from standard input.
    """
    import linecache
    import re

    lines = text.split("\n")
    whole: list[str] = []
    for line, following in zip(lines, [*lines[1:], ""]):
        whole.append(line)
        frame = re.match(r'( +)File "(.+)", line (\d+), in ', line)
        if frame is not None and not following.startswith(frame[1] + "  "):
            source = linecache.getline(frame[2], int(frame[3])).strip()
            if source:
                whole.append(f"{frame[1]}  {source}")
    return "\n".join(whole)


def summary(exc: BaseException) -> str:
    """Return the last line of a traceback: the class and its text."""
    text = safe_str(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def safe_str(exc: BaseException) -> str:
    """Return `str(exc)`, or its class where that raises."""
    try:
        return str(exc)
    except KeyboardInterrupt:
        raise
    except BaseException:  # SystemExit in a `__str__`, too
        return f"<unprintable {type(exc).__name__}>"
