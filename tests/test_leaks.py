"""The leak checker itself: it must fail when something is left, and only then."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tests import leaks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

Undo = Callable[[], None]


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait for what is on its way out: here it stays, so each test would wait in full."""
    grace = leaks._wait_until_empty
    monkeypatch.setattr(
        leaks, "_wait_until_empty", lambda look, within_s=0.1: grace(look, min(within_s, 0.1))
    )


def start_child() -> Undo:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    def undo() -> None:
        child.kill()
        child.wait()
        assert child.stdin is not None
        child.stdin.close()

    return undo


def leave_zombie() -> Undo:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # ended, and not reaped

    def undo() -> None:
        os.waitpid(pid, 0)

    return undo


def leave_orphan() -> Undo:
    """Start a process whose parent, and process group, are gone."""
    code = (
        "import subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], "
        "start_new_session=True, stdout=subprocess.DEVNULL); print(child.pid)"
    )
    pid = int(subprocess.check_output([sys.executable, "-c", code]))

    def undo() -> None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # the checker has killed it

    return undo


def open_descriptor() -> Undo:
    pair = os.pipe()

    def undo() -> None:
        for fd in pair:
            os.close(fd)

    return undo


def map_memory() -> Undo:
    fd = os.memfd_create("grainwise-arena")
    os.ftruncate(fd, 4096)
    mapping = mmap.mmap(fd, 4096)
    os.close(fd)
    return mapping.close


def leave_shared_file() -> Undo:
    path = f"/dev/shm/left-by-test-{os.getpid()}"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return lambda: os.unlink(path)


def start_thread() -> Undo:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left-by-test")
    thread.start()

    def undo() -> None:
        stop.set()
        thread.join()

    return undo


@pytest.mark.parametrize(
    ("leave", "words"),
    [
        (start_child, r"process \d+ \(.*python.* -c input"),
        (leave_zombie, r"process \d+ .*state Z"),
        (leave_orphan, r"process \d+ .*time\.sleep"),
        (open_descriptor, r"2 open descriptor\(s\) of pipe:"),
        (map_memory, r"1 mapping\(s\) of /memfd:grainwise-arena"),
        (leave_shared_file, r"shared memory /dev/shm/left-by-test"),
        (start_thread, r"thread 'left-by-test'"),
    ],
)
def test_what_is_left_is_named(leave: Callable[[], Undo], words: str) -> None:
    undo = None
    try:
        with pytest.raises(AssertionError, match=words), leaks.check_leaks():
            undo = leave()
    finally:
        if undo is not None:
            undo()


def test_what_is_put_away_passes() -> None:
    with leaks.check_leaks():
        for leave in (
            start_child,
            leave_zombie,
            open_descriptor,
            map_memory,
            leave_shared_file,
            start_thread,
        ):
            leave()()


def test_what_was_there_before_passes() -> None:
    undo = [leave() for leave in (start_child, open_descriptor, map_memory, leave_shared_file, start_thread)]
    try:
        with leaks.check_leaks():
            pass
    finally:
        for step in undo:
            step()


def test_shared_memory_of_another_program_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(leaks.MARK)  # an orphan without our mark is a stranger
    held = f"/dev/shm/held-by-a-stranger-{os.getpid()}"
    named = "/dev/shm/named-after-a-stranger-"
    hold = (
        f"import os, time; file = open({held!r}, 'x'); os.mkdir({named!r} + str(os.getpid())); "
        "print('open', flush=True); time.sleep(60)"
    )
    start = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {hold!r}], stdout=subprocess.PIPE); "
        "child.stdout.readline(); print(child.pid)"
    )
    pid = 0
    try:
        with leaks.check_leaks():
            pid = int(subprocess.check_output([sys.executable, "-c", start]))
    finally:
        os.unlink(held)
        os.rmdir(f"{named}{pid}")
        os.kill(pid, signal.SIGKILL)  # still alive: it was none of the checker's business


# --- programs ----------------------------------------------------------------------------------------------

SHOW = "import sys; print(sys.argv[1:], sys.stdin.read())"


LEAVE_ORPHAN = """
import subprocess, sys
subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)
"""


@pytest.mark.parametrize("form", ["file", "command"])
def test_script_gets_its_arguments_and_input(form: leaks.Form) -> None:
    result = leaks.run_script(SHOW, timeout=30, args=["a", "b c"], stdin="typed", form=form)
    assert (result.returncode, result.stdout, result.stderr) == (0, "['a', 'b c'] typed\n", "")


def test_script_from_standard_input() -> None:
    result = leaks.run_script("import sys; print(sys.argv)", timeout=30, args=["a"], form="stdin")
    assert result.stdout == "['-', 'a']\n"


def test_script_sees_variables_and_an_empty_folder_and_exits_with_its_own_code() -> None:
    result = leaks.run_script(
        "import os, sys; print(os.environ['WORD'], os.listdir()); sys.exit(3)",
        timeout=30,
        env={"WORD": "grain"},
    )
    assert (result.returncode, result.stdout) == (3, "grain []\n")


def test_hanging_script_fails_with_the_stacks_of_all_its_threads() -> None:
    source = """
import threading, time
def wait_in_thread(): time.sleep(60)
def wait_in_main(): time.sleep(60)
threading.Thread(target=wait_in_thread, daemon=True).start()
print("started", flush=True)
wait_in_main()
"""
    script = leaks.start_script(source)
    while "started" not in script.read_stdout():
        assert script.poll() is None, script.read_stderr()
        time.sleep(0.01)
    with pytest.raises(AssertionError) as caught:
        script.finish(timeout=0.1)
    text = str(caught.value)
    assert "did not end within 0.1 s" in text
    assert "program.py" in text
    assert "in wait_in_thread" in text
    assert "in wait_in_main" in text


def test_orphan_of_a_script_is_found_by_its_mark() -> None:
    result = leaks.run_script(LEAVE_ORPHAN, timeout=30)
    with pytest.raises(AssertionError, match=r"still alive .*\n.*time\.sleep"):
        leaks.assert_nothing_left(result.mark)


def test_orphan_of_a_script_is_a_leak_of_the_test() -> None:
    with pytest.raises(AssertionError, match=r"time\.sleep"), leaks.check_leaks():
        leaks.run_script(LEAVE_ORPHAN, timeout=30)


def test_process_group_is_found_by_its_number() -> None:
    script = leaks.start_script("import time; time.sleep(60)")
    with pytest.raises(AssertionError, match="still alive"):
        leaks.assert_nothing_left(script.pid)
    assert script.wait(30) == -signal.SIGKILL
    leaks.assert_nothing_left(script.pid)
