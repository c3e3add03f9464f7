"""The bar of a map in a terminal, and what else is written there meanwhile."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

from tests.leaks import run_script

from .full_pool import LIMIT_S


def run_in_terminal(source: str) -> str:
    """Run a program whose output and error are one terminal; return what it has written there."""
    near, far = pty.openpty()
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))  # tqdm draws nothing in 0 columns
    try:
        program = subprocess.Popen([sys.executable, "-c", source], stdin=far, stdout=far, stderr=far)
    finally:
        os.close(far)
    written = b""
    try:
        while True:
            try:
                chunk = os.read(near, 65536)
            except OSError:  # so Linux says that the other end is closed
                break
            if not chunk:
                break
            written += chunk
    finally:
        os.close(near)
        program.wait(LIMIT_S)
    assert program.returncode == 0, written.decode()
    return written.decode()


NOISY = """
import sys, time
import grainwise

def show(x):
    print("item", x)
    return x

grainwise.init(num_cpus=2)
for x in grainwise.map(show, range(40), {options}):
    pass
grainwise.shutdown()
"""


def test_a_terminal_shows_a_bar_and_whole_lines_above_it() -> None:
    written = run_in_terminal(NOISY.format(options="progress=True"))
    assert "40/40" in written
    lines = re.split(r"[\r\n]+", written)
    shown = [line for line in lines if "item" in line and "pid=" in line]
    whole = [re.fullmatch(r"\(show pid=\d+\) item (\d+)", line) for line in shown]
    assert None not in whole, shown
    assert sorted(int(match[1]) for match in whole if match) == list(range(40))


def test_a_short_map_shows_none() -> None:
    written = run_in_terminal(NOISY.format(options="progress=None"))
    assert "item 39" in written
    assert "%|" not in written


def test_a_pipe_or_file_never_sees_a_bar() -> None:
    result = run_script(NOISY.format(options="progress=True"), timeout=LIMIT_S)
    assert (result.returncode, result.stderr) == (0, "")
    assert "40/40" not in result.stdout


def test_a_function_is_called_with_what_is_done() -> None:
    result = run_script(
        """
import grainwise
calls = []
list(grainwise.map(abs, range(1000), progress=lambda *call: calls.append(call)))
assert calls[-1] == (1000, 1000), calls
assert [done for done, _ in calls] == sorted(done for done, _ in calls)
calls.clear()
list(grainwise.map(abs, iter(range(1000)), progress=lambda *call: calls.append(call)))
assert calls[-1] == (1000, None), calls
""",
        timeout=LIMIT_S,
    )
    assert (result.returncode, result.stderr) == (0, "")
