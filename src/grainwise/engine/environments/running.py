"""Running uv and pip: in limited time, their words shown as they come, nothing of them left behind."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LOOK_S = 0.05
MAX_OUTPUT_BYTES = 8192
"""So much of the end of what a tool says stands in an error."""
NOT_OURS = ("PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV", "UV_PYTHON", "CONDA_PREFIX")
FOR_UV = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}
"""Where pip is told of an index, uv goes there, too, unless it is told otherwise."""
# The tool dies with the thread that waits for it, so also with a program that is killed.
DIE_TOGETHER = """\
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def say(text: str) -> None:
    """Tell the user what is going on, on standard error."""
    from ...watch.progress import write_beside_bars

    try:
        write_beside_bars(sys.stderr, f"grainwise: {text}\n")
    except (AttributeError, OSError, ValueError):
        pass  # there is no such stream, or it is closed


def run_tool(command: list[str], check: Callable[[], None]) -> tuple[int, str]:
    """Run a program; return its exit status and the end of what it said.

    Args:
        command: the program and its arguments.
        check: called twenty times a second; raises to have it killed.
    """
    import select
    import subprocess

    if sys.platform == "linux":
        python = sys.executable or "python3"
        command = [python, "-S", "-I", "-c", DIE_TOGETHER, str(os.getpid()), *command]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0,
        env=_variables(), start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    output, rest = b"", b""
    try:
        while True:
            check()
            readable, _, _ = select.select([process.stdout], [], [], LOOK_S)
            if not readable:
                continue
            data = process.stdout.read(65536)
            if not data:
                break
            output = (output + data)[-MAX_OUTPUT_BYTES:]
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.strip():
                    say("  " + line.decode("utf-8", "replace").rstrip())
        return process.wait(), output.decode("utf-8", "replace").strip()
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)  # what it has started and left behind
        except OSError:
            pass
        process.wait()
        process.stdout.close()


def _variables() -> dict[str, str]:
    found = {name: text for name, text in os.environ.items() if name not in NOT_OURS}
    for theirs, ours in FOR_UV.items():
        if theirs in found:
            found.setdefault(ours, found[theirs])
    found["UV_NO_PROGRESS"] = "1"
    return found
