"""The user's program dies, whatever the way: no process, socket, shared memory or file of ours is left."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.leaks import Script, assert_nothing_left, start_script

from .full_pool import LIMIT_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

PATH = {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}

# Two tasks are running, a few thousand wait, objects are in memory and on disk; then the program says so.
BUSY = """
import os, signal, subprocess, sys, threading, time
import grainwise as ray

kind, fifo = sys.argv[1:]
os.mkfifo(fifo)
ray.init(num_cpus=2, object_store_memory=64 << 20)
stored = [ray.put(bytes([i]) * (8 << 20)) for i in range(12)]

@ray.remote
def stubborn(i):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    child = subprocess.Popen(["sleep", "1000"])
    if i == 0:
        threading.Thread(target=threading.Event().wait).start()  # would keep the process from ending
    with open(fifo, "w") as file:
        file.write("x")
    while True:
        time.sleep(1000) if i else sum(range(1000))

refs = [stubborn.remote(i) for i in range(2)]
num_up = 0
while num_up < 2:
    with open(fifo) as file:
        num_up += len(file.read())
queued = [stubborn.remote(i) for i in range(5000)]
if kind == "forked":
    if os.fork() == 0:  # holds copies of all descriptors
        while True:
            time.sleep(1000)
print("ready", flush=True)
if kind == "in get":
    ray.get(refs)
elif kind == "thread in get":
    threading.Thread(target=ray.get, args=(refs,)).start()
elif kind == "exits itself":
    os._exit(7)
elif kind == "crashes":
    import ctypes
    ctypes.string_at(0)
while True:
    time.sleep(1000)
"""


def start_busy(kind: str, folder: Path) -> Script:
    """Start the program above and wait until it is ready."""
    spill = folder / "tmp"
    spill.mkdir()
    script = start_script(BUSY, args=[kind, str(folder / "fifo")], env={**PATH, "TMPDIR": str(spill)})
    deadline = time.monotonic() + LIMIT_S
    while "ready" not in script.read_stdout():
        if script.poll() is not None or time.monotonic() > deadline:
            script.kill()
            script.wait()
            raise AssertionError(f"the program did not get ready: {script.read_stderr()}")
        time.sleep(0.01)
    return script


def assert_gone(script: Script, folder: Path, names: set[str]) -> None:
    """Fail unless the processes and every name that they had in a file system are gone."""
    script.wait(LIMIT_S)
    assert_nothing_left(script.mark)
    assert {name for name in names if os.path.exists(name)} == set()
    assert list((folder / "tmp").iterdir()) == [], "spilled objects"
    assert list(script.folder.iterdir()) == []


def find_names(script: Script) -> set[str]:
    """Return the files in shared memory that a process of the program has open or mapped.

    Comparing /dev/shm before and after would see other programs' files as well.
    """
    names = set()
    for pid in processes_of(script):
        with contextlib.suppress(OSError):  # it has just ended
            maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
            targets = [line.split(maxsplit=5)[-1] for line in maps]
            targets += [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
            names.update(target for target in targets if target.startswith("/dev/shm/"))
    return names


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (signal.SIGKILL, "idle"),
        (signal.SIGKILL, "in get"),
        (signal.SIGKILL, "thread in get"),
        (signal.SIGTERM, "in get"),
        (signal.SIGTERM, "idle"),
        (signal.SIGHUP, "in get"),
        (signal.SIGQUIT, "in get"),
    ],
)
def test_a_signal_ends_the_program(number: signal.Signals, kind: str, tmp_path: Path) -> None:
    """The out-of-memory killer sends the first, service managers the second, a closed terminal the third."""
    script = start_busy(kind, tmp_path)
    names = find_names(script)
    script.send_signal(number)
    assert_gone(script, tmp_path, names)
    assert script.returncode == -number


@pytest.mark.parametrize(("kind", "status"), [("exits itself", 7), ("crashes", -signal.SIGSEGV)])
def test_the_program_ends_without_its_exit_handlers(kind: str, status: int, tmp_path: Path) -> None:
    script = start_busy(kind, tmp_path)
    names = find_names(script)
    assert_gone(script, tmp_path, names)
    assert script.returncode == status


def test_a_child_that_the_program_forked_survives_it(tmp_path: Path) -> None:
    """It holds copies of our descriptors, so no end of file tells of the death."""
    script = start_busy("forked", tmp_path)
    script.kill()
    script.wait(LIMIT_S)
    deadline = time.monotonic() + LIMIT_S
    while len(left := processes_of(script)) > 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(left) == 1, left
    os.kill(left[0], signal.SIGKILL)
    assert_nothing_left(script.mark)


def processes_of(script: Script) -> list[int]:
    from tests.leaks import _find_marked

    return [process.pid for process in _find_marked(script.mark)]


def test_the_workers_parent_and_the_program_die_together(tmp_path: Path) -> None:
    """What the tasks themselves have started has no parent of ours any more; the workers have none either."""
    script = start_busy("idle", tmp_path)
    from tests.leaks import _find_marked

    processes = _find_marked(script.mark)
    template = next(process for process in processes if process.parent == script.pid)
    workers = {process.pid for process in processes if process.parent == template.pid}
    assert len(workers) == 2
    os.kill(template.pid, signal.SIGSTOP)  # it can't do anything any more
    script.kill()
    os.kill(template.pid, signal.SIGKILL)
    script.wait(LIMIT_S)
    deadline = time.monotonic() + LIMIT_S
    while (left := workers & set(processes_of(script))) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left
    for pid in processes_of(script):  # the stubborn tasks' own children: hardening
        os.kill(pid, signal.SIGKILL)
    assert_nothing_left(script.mark)


def test_a_program_killed_while_it_starts(tmp_path: Path) -> None:
    """At each of many moments of the start, which the loop runs through: nothing is left."""
    source = """
import os, sys, threading
import grainwise as ray

def die():
    os.kill(os.getpid(), 9)

at = int(sys.argv[1])
calls = 0

def trace(frame, event, arg):
    global calls
    if "grainwise" in frame.f_code.co_filename:
        calls += 1
        if calls == at:
            die()

sys.setprofile(trace)
ray.init(num_cpus=2)
print(ray.get(ray.remote(lambda: 1).remote()))
sys.setprofile(None)
print(calls, flush=True)
die()
"""
    whole = start_script(source, args=["-1"], env=PATH)
    whole.wait(LIMIT_S)
    assert_nothing_left(whole.mark)
    num_calls = int(whole.read_stdout().split()[1])
    scripts = [start_script(source, args=[str(num_calls * i // 12)], env=PATH) for i in range(1, 12)]
    for script in scripts:
        script.wait(LIMIT_S)
        assert_nothing_left(script.mark)
