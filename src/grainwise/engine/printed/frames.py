"""Frames between the lines of a worker's output files: whose text follows, log records, warnings.

A frame is one line, written by one `write` to a file that appends, so it is never torn and never tears the
line of another process; text of its own line before and after it belongs together. It begins with bytes that
no text has.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BEGIN = b"\x1egrainwise\x1f"
TAG = b"T"
"""What follows is printed by: the worker's pid, and the task's name or nothing."""
LOG = b"L"
WARNING = b"W"


def tag_frame(pid: int, task_name: str) -> bytes:
    """Return the frame that says who prints what follows."""
    name = task_name.replace("\n", " ").encode("utf-8", "backslashreplace")
    return b"%b%b%d %b\n" % (BEGIN, TAG, pid, name)


def read_tag(payload: bytes) -> str:
    """Return what stands before each line: `(double pid=123) `."""
    pid, _, name = payload.partition(b" ")
    label = b"%b pid=%b" % (name, pid) if name else b"pid=" + pid
    return f"({label.decode('utf-8', 'backslashreplace')}) "


def record_frame(kind: bytes, value: Any) -> bytes:
    """Return the frame of a log record or a warning: plain values of built-in types only.

    Raises:
        ValueError: it holds something else.
    """
    import binascii
    import marshal

    return BEGIN + kind + binascii.b2a_base64(marshal.dumps(value))


def read_record(payload: bytes) -> Any:
    """Return what a record frame holds.

    Raises:
        ValueError: it has been damaged.
    """
    import binascii
    import marshal

    try:
        return marshal.loads(binascii.a2b_base64(payload))
    except (EOFError, TypeError) as error:
        raise ValueError(f"a damaged record of {len(payload)} bytes") from error
