"""Programs started by the program or by tasks: their exit codes, descriptors and ends are their own."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import grainwise as ray
from grainwise.errors import WorkerCrashedError

from ..leaks import assert_nothing_left, run_script
from .full_pool import LIMIT_S, assert_pool_is_full
from .signposts import Sign, is_alive, wait_until_gone

LIST_DESCRIPTORS = """
import os, stat
for fd in sorted(map(int, os.listdir("/proc/self/fd"))):
    try:
        target = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        continue  # the one that listed them
    if fd > 2:
        print(fd, target)
"""


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


@ray.remote
def square(x: int) -> int:
    return x * x


def exit_codes() -> list[int]:
    """Start programs in every way that Python offers, and return how they ended."""
    shell = os.system("exit 3")
    pipe = os.popen("exit 4")
    piped = pipe.close() or 0
    child = subprocess.Popen(["sh", "-c", "exit 5"])
    killed = subprocess.Popen(["sleep", "1000"])
    killed.kill()
    spawned = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 6"], dict(os.environ))
    return [
        os.waitstatus_to_exitcode(shell),
        os.waitstatus_to_exitcode(piped),
        child.wait(),
        killed.wait(),
        os.waitstatus_to_exitcode(os.waitpid(spawned, 0)[1]),
        subprocess.run(["false"]).returncode,
        subprocess.call(["true"]),
    ]


EXIT_CODES = [3, 4, 5, -signal.SIGKILL, 6, 1, 0]


def test_exit_codes_in_the_program_while_tasks_run_and_workers_die() -> None:
    @ray.remote(max_retries=0)
    def crash() -> None:
        os._exit(9)

    for _ in range(5):
        refs = [square.remote(i) for i in range(100)]
        crashed = crash.remote()
        assert exit_codes() == EXIT_CODES
        assert ray.get(refs, timeout=LIMIT_S) == [i * i for i in range(100)]
        with pytest.raises(WorkerCrashedError):
            ray.get(crashed, timeout=LIMIT_S)


def test_exit_codes_in_tasks() -> None:
    assert ray.get([ray.remote(exit_codes).remote() for _ in range(10)], timeout=LIMIT_S) == [EXIT_CODES] * 10


def test_exit_codes_in_asyncio_beside_the_engine() -> None:
    async def main() -> list[int | None]:
        programs = [await asyncio.create_subprocess_exec("sh", "-c", f"exit {i}") for i in range(5)]
        values = await asyncio.gather(*(square.remote(i) for i in range(50)))
        assert values == [i * i for i in range(50)]
        return [await program.wait() for program in programs]

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


def test_a_program_of_the_user_inherits_no_descriptor_of_ours() -> None:
    """Even when it is started with all descriptors that are not closed on exec."""

    def listing() -> str:
        arguments = [sys.executable, "-c", LIST_DESCRIPTORS]
        return subprocess.run(arguments, close_fds=False, capture_output=True, text=True, check=True).stdout

    ray.get([square.remote(i) for i in range(100)], timeout=LIMIT_S)
    large = ray.put(bytes(1 << 20))

    def listing_with_objects(data: bytes) -> str:
        kept = ray.put(data + b"x")
        text = listing()
        del kept
        return text

    with_engine = listing()
    tasks = ray.get([ray.remote(listing_with_objects).remote(large) for _ in range(4)], timeout=LIMIT_S)
    ray.shutdown()
    assert with_engine == listing()
    assert tasks == [""] * 4


def test_the_template_and_workers_hold_no_descriptor_of_the_program() -> None:
    """A pipe of the program's reaches its end when the program closes it, whatever it inherits to others."""
    ray.shutdown()
    near, far = os.pipe()
    os.set_inheritable(far, True)
    try:
        ray.init(num_cpus=1)
        assert ray.get(square.remote(2), timeout=LIMIT_S) == 4
        os.close(far)
        os.set_blocking(near, False)
        assert os.read(near, 1) == b""  # the end; BlockingIOError if anybody else holds the other side
    finally:
        os.close(near)


def test_output_of_programs_that_tasks_start_is_shown() -> None:
    result = run_script(
        """
import subprocess
import grainwise as ray
ray.init(num_cpus=1)

@ray.remote
def speak():
    subprocess.run(["sh", "-c", "echo to output; echo to errors >&2"], check=True)
    return subprocess.run(["cat"], capture_output=True).stdout  # its input is empty, and not ours

read = ray.get(speak.remote())
ray.shutdown()
print(read)
""",
        timeout=LIMIT_S,
    )
    first, second = sorted(result.stdout.splitlines())
    assert re.fullmatch(r"\(speak pid=\d+\) to output", first)
    assert second == "b''"
    assert re.fullmatch(r"\(speak pid=\d+\) to errors\n", result.stderr)
    assert_nothing_left(result.mark)


@pytest.mark.parametrize("how", ["crash", "kill", "shutdown"])
def test_what_a_task_has_started_ends_with_its_worker(tmp_path: Path, how: str) -> None:
    begun = Sign(tmp_path / "begun")

    @ray.remote(max_retries=0)
    def start() -> None:
        program = subprocess.Popen(
            ["sh", "-c", "sleep 1000 & echo $!; wait"], stdout=subprocess.PIPE, text=True
        )
        assert program.stdout is not None
        begun.put_up(f"{os.getpid()} {program.pid} {program.stdout.readline()}")
        if how == "crash":
            os._exit(1)
        program.wait()

    ref = start.remote()
    worker, shell, sleep = map(int, begun.wait().split())
    if how == "kill":
        os.kill(worker, signal.SIGKILL)
    elif how == "shutdown":
        ray.shutdown()
    with pytest.raises((WorkerCrashedError, ray.errors.EngineClosedError)):
        ray.get(ref, timeout=LIMIT_S)
    for pid in (worker, shell, sleep):
        wait_until_gone(pid)


def test_a_service_that_left_its_group_lives_on(tmp_path: Path) -> None:
    """A task may start a program on purpose that outlives it: with a session of its own."""
    begun = Sign(tmp_path / "begun")

    @ray.remote
    def start() -> int:
        return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid

    pid = ray.get(start.remote(), timeout=LIMIT_S)
    ray.shutdown()
    try:
        assert is_alive(pid)
        begun.put_up()
    finally:
        os.kill(pid, signal.SIGKILL)


def test_only_processes_of_ours_are_signalled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Numbers of processes are used again: the program itself never signals one, but asks its parent to."""
    signalled: list[int] = []
    for name in ("kill", "killpg"):
        monkeypatch.setattr(os, name, lambda pid, number: signalled.append(pid))
    begun, gate = Sign(tmp_path / "begun"), Sign(tmp_path / "gate")

    @ray.remote
    def hold() -> None:
        begun.put_up()
        gate.wait()

    @ray.remote(max_retries=0)
    def crash() -> None:
        os._exit(1)

    for force in (False, True):
        ref = hold.remote()
        begun.wait()
        ray.cancel(ref, force=force)
        with pytest.raises(ray.errors.TaskCancelledError):
            ray.get(ref, timeout=LIMIT_S)
        os.unlink(begun.path)
    with pytest.raises(WorkerCrashedError):
        ray.get(crash.remote(), timeout=LIMIT_S)
    assert_pool_is_full(tmp_path)
    ray.shutdown()
    assert signalled == []


@pytest.mark.parametrize("how", ["reaps all", "ignores SIGCHLD"])
def test_a_program_that_takes_the_ends_of_all_children(how: str) -> None:
    """It waits for any child, or has the system do it: the engine works and ends all the same."""
    setting = {
        "reaps all": """
def reap(*_):
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return
        except ChildProcessError:
            return
signal.signal(signal.SIGCHLD, reap)
""",
        "ignores SIGCHLD": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    }[how]
    result = run_script(
        f"""
import os, signal, subprocess, time
import grainwise as ray
{setting}

@ray.remote(max_retries=0)
def crash():
    os._exit(1)

@ray.remote
def child():
    return subprocess.run(["sh", "-c", "exit 3"]).returncode

begin = time.monotonic()
for _ in range(3):
    ray.init(num_cpus=2)
    try:
        ray.get(crash.remote())
    except ray.errors.WorkerCrashedError:
        pass
    assert ray.get(child.remote()) == 3
    ray.shutdown()
print("fine" if time.monotonic() - begin < 12 else "slow")
""",
        timeout=LIMIT_S,
    )
    assert (result.stdout, result.stderr, result.returncode) == ("fine\n", "", 0)
    assert_nothing_left(result.mark)


def test_many_programs_at_once_from_threads_and_tasks() -> None:
    @ray.remote
    def from_task(code: int) -> int:
        return subprocess.run(["sh", "-c", f"exit {code}"]).returncode

    found: dict[int, int] = {}

    def from_thread(code: int) -> None:
        found[code] = subprocess.run(["sh", "-c", f"exit {code}"]).returncode

    refs = [from_task.remote(code) for code in range(30)]
    threads = [threading.Thread(target=from_thread, args=(code,)) for code in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {code: code for code in range(30)}
    assert ray.get(refs, timeout=LIMIT_S) == list(range(30))
