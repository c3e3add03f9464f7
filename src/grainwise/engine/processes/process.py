"""What a worker asks of the operating system when it begins, and how the driver reads what it left behind."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..printed.streams import TaggedStream

_PR_SET_PDEATHSIG = 1
_SIGKILL = 9
CRASH_TAIL_BYTES = 4096
CRASH_FILE_BYTES = 1 << 17

_crash_file: Any = None  # faulthandler writes to it: it must stay open


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the template's thread ends, whatever it is doing then."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(0)  # it ended before we could ask


def die_before_others() -> None:
    """Have the kernel take this process, and not the driver, should memory run out."""
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(b"500")
    except OSError:
        pass  # not Linux, or not allowed


def redirect_output(out_fd: int, err_fd: int, crash_fd: int) -> tuple[TaggedStream, TaggedStream]:
    """Send standard output and error to files that the driver tails; a file never blocks its writer."""
    global _crash_file
    import faulthandler

    from ..printed.streams import TaggedStream

    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (out_fd, 1), (err_fd, 2)):
        os.dup2(source, target)
    os.close(null)
    # Open as long as the process lives (SIM115); typeshed takes sys.__stdin__ and the like for constants.
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    streams = TaggedStream(1, out_fd), TaggedStream(2, err_fd)
    sys.stdout, sys.stderr = streams
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]
    _crash_file = os.fdopen(crash_fd, "wb", buffering=0)
    faulthandler.enable(_crash_file, all_threads=False)
    return streams


def anonymous_file(name: str) -> int:
    """Create a file without a name that appends."""
    import fcntl

    if hasattr(os, "memfd_create"):
        fd = os.memfd_create(f"grainwise-{name}", os.MFD_CLOEXEC)
    else:
        import tempfile

        fd, path = tempfile.mkstemp(prefix="grainwise-")
        os.unlink(path)
    fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_APPEND)
    return fd


def read_tail(fd: int, nbytes: int = CRASH_TAIL_BYTES) -> str:
    """Return the end of a file as text."""
    size = os.fstat(fd).st_size
    return os.pread(fd, nbytes, max(0, size - nbytes)).decode("utf-8", "backslashreplace").strip()


def read_crash(fd: int) -> str:
    """Return what faulthandler wrote at a crash, without its list of loaded modules, which may be longer."""
    text = read_tail(fd, CRASH_FILE_BYTES)
    start = text.rfind("Fatal Python error")
    if start >= 0:
        text = text[start:].partition("\nExtension modules:")[0].rstrip()
    return text[:CRASH_TAIL_BYTES]
