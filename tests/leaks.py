"""Find what a test left behind, and run programs as a user would.

`check_leaks` compares this process before and after a test: child processes (with all that descend from them,
zombies and orphans too), files in /dev/shm, open descriptors, mappings of our shared memory, threads.
`run_script` runs a program in a fresh interpreter; `assert_nothing_left` proves that its processes are gone.

Every process is found by a variable, `GRAINWISE_TEST_MARK`, that it inherits: an orphan has lost its parent
and perhaps its process group, but not its environment. Marks nest like paths: a program that `run_script`
starts carries `SESSION/UUID`, so its own mark finds its processes, and the session's finds them all.

Nothing here waits blindly: what is on its way out (a process being reaped, an arena being unmapped) gets up
to `GRACE_S` seconds, looked at every 10 ms.

Linux only: without /proc the checks pass, and the scripts still run.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

MARK = "GRAINWISE_TEST_MARK"
GRACE_S = 5.0
Form = Literal["file", "command", "stdin"]  # how the interpreter gets a program

# Descriptors that Python or a library opens once and keeps: not ours, and not growing.
BENIGN_TARGETS = ("/dev/urandom", "/dev/random")


class Process(NamedTuple):
    """One row of /proc. `started` (clock ticks since boot) tells a reused pid from the old one."""

    pid: int
    started: int
    parent: int
    group: int
    state: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}; state {self.state}, parent {self.parent})"


class Snapshot(NamedTuple):
    """What exists at one moment and must not grow."""

    processes: frozenset[tuple[int, int]]  # (pid, started)
    shm_files: frozenset[str]
    descriptors: Counter[str]  # target -> how many
    mappings: Counter[str]  # name and inode of our memfd -> how many
    threads: frozenset[threading.Thread]


# --- leaks of this process ---------------------------------------------------------------------------------


@contextlib.contextmanager
def check_leaks() -> Iterator[None]:
    """Fail if the body leaves anything behind, after shutting grainwise down if it is still running.

    Arrays that the body keeps alive from outside (a module's variable, a fixture of a wider scope) hold their
    arena mapped: create those before, or drop them.
    """
    before = take_snapshot()
    try:
        yield
        library = sys.modules.get("grainwise")
        if library is not None and library.is_initialized():
            library.shutdown()
        gc.collect()  # a cycle of the test's own, such as an exception and its frames, may hold arrays
        left = _wait_until_empty(lambda: find_leaks(before))
    finally:
        # Also when shutdown hung until the test's timeout: one leak must not reach the tests behind it.
        _signal(_find_new_processes(before), signal.SIGKILL)
    if left:
        raise AssertionError("the test left behind:\n  " + "\n  ".join(left))


def take_snapshot() -> Snapshot:
    """Read what this process and its descendants hold now."""
    return Snapshot(
        processes=frozenset((process.pid, process.started) for process in _ours(_read_processes())),
        shm_files=frozenset(_list("/dev/shm")),
        descriptors=_read_descriptors(),
        mappings=_read_mappings(),
        threads=frozenset(threading.enumerate()),
    )


def find_leaks(before: Snapshot) -> list[str]:
    """Name everything that exists now and did not in `before`, one line each."""
    left = [str(process) for process in _find_new_processes(before)]
    for name in sorted(set(_list("/dev/shm")) - before.shm_files):
        if not _is_of_others(f"/dev/shm/{name}"):
            left.append(f"shared memory /dev/shm/{name}")
    for target, count in (_read_descriptors() - before.descriptors).items():
        left.append(f"{count} open descriptor(s) of {target}")
    for name, count in (_read_mappings() - before.mappings).items():
        left.append(f"{count} mapping(s) of {name}")
    for thread in threading.enumerate():
        if thread not in before.threads:
            left.append(f"thread {thread.name!r}{' (daemon)' if thread.daemon else ''}")
    return left


def _read_descriptors() -> Counter[str]:
    targets: Counter[str] = Counter()
    for fd in _list("/proc/self/fd"):
        # The descriptor that lists the folder is in its own list, and closed by now.
        with contextlib.suppress(OSError):
            targets[os.readlink(f"/proc/self/fd/{fd}")] += 1
    for target in BENIGN_TARGETS:
        targets.pop(target, None)
    return targets


def _read_mappings() -> Counter[str]:
    """Count the mappings of our memfds. A line ends in: inode, path, and " (deleted)" for every memfd."""
    names: Counter[str] = Counter()
    for line in _read("/proc/self/maps").splitlines():
        if "grainwise" in line and "/memfd:" in line:
            fields = line.split(maxsplit=5)
            names[f"{fields[5]}, inode {fields[4]}"] += 1
    return names


def _find_new_processes(before: Snapshot) -> list[Process]:
    return [
        process
        for process in _ours(_read_processes())
        if (process.pid, process.started) not in before.processes
    ]


def _is_of_others(path: str) -> bool:
    """Tell whether the file is of a process outside our tree: a browser, or another suite on this machine.

    Nobody records who made a file. It is another's if another process has it open or mapped, or if its name
    has the number of one, as joblib's folders do (three digits or more: a counter is no process).
    """
    processes = _read_processes()
    numbers = {int(digits) for digits in re.findall(r"\d{3,}", path)}
    our_pids = {os.getpid(), *(process.pid for process in _ours(processes))}
    for process in processes:
        if process.pid in our_pids:
            continue
        if process.pid in numbers or path in _read(f"/proc/{process.pid}/maps"):
            return True
        for fd in _list(f"/proc/{process.pid}/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{process.pid}/fd/{fd}") == path:
                    return True
    return False


# --- processes ---------------------------------------------------------------------------------------------


def _ours(processes: Sequence[Process]) -> list[Process]:
    """Pick our descendants, and the orphans among them, which only the mark still names."""
    ours = {os.getpid()}
    grown = True
    while grown:
        found = {process.pid for process in processes if process.parent in ours} - ours
        ours |= found
        grown = bool(found)
    mark = os.environ.get(MARK)
    ours |= {process.pid for process in processes if mark is not None and _has_mark(process, mark)}
    return [process for process in processes if process.pid in ours and process.pid != os.getpid()]


def _has_mark(process: Process, mark: str) -> bool:
    for variable in _read(f"/proc/{process.pid}/environ").split("\0"):
        name, _, value = variable.partition("=")
        if name == MARK:
            return value == mark or value.startswith(mark + "/")
    return False


def _read_processes() -> list[Process]:
    found = []
    for name in _list("/proc"):
        if not name.isdigit():
            continue
        # The command stands in parentheses and may hold anything, parentheses too: split at the last one.
        head, _, tail = _read(f"/proc/{name}/stat").rpartition(")")
        fields = tail.split()
        if not fields:
            continue  # it ended between the listing and the reading
        command = _read(f"/proc/{name}/cmdline").replace("\0", " ").strip() or head.partition("(")[2]
        state, parent, group, started = fields[0], int(fields[1]), int(fields[2]), int(fields[19])
        found.append(Process(int(name), started, parent, group, state, command[:200]))
    return found


def _read(path: str) -> str:
    """Read a file of /proc; empty if it, or its process, is gone or not ours to read."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def _signal(processes: Iterable[Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, number)


def _wait_until_empty(look: Callable[[], list[str]], within_s: float = GRACE_S) -> list[str]:
    """Call `look` until it finds nothing, and return what it found last."""
    deadline = time.monotonic() + within_s
    while (left := look()) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


# --- programs of a user ------------------------------------------------------------------------------------


class ScriptResult(subprocess.CompletedProcess[str]):
    """A finished program, with the `mark` that all its processes carry, for `assert_nothing_left`."""

    def __init__(self, script: Script) -> None:
        super().__init__(script.args, script.returncode, script.read_stdout(), script.read_stderr())
        self.mark = script.mark
        self.folder = script.folder


class Script(subprocess.Popen[bytes]):
    """A running program: a session and process group of its own, a mark of its own, output into files.

    Files and not pipes: a process left behind would hold the pipe, and keep us reading after the end.
    """

    mark: str
    folder: Path  # the working directory; the program sees nothing else in it

    def read_stdout(self) -> str:
        return (self.folder.parent / "stdout").read_text(errors="replace")

    def read_stderr(self) -> str:
        return (self.folder.parent / "stderr").read_text(errors="replace")

    def finish(self, timeout: float) -> ScriptResult:
        """Wait up to `timeout` seconds; then fail with the stacks of all threads of all processes."""
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(self._abort(timeout)) from None
        return ScriptResult(self)

    def _abort(self, timeout: float) -> str:
        """End the program and all its processes, and tell what they were doing."""
        living = "\n  ".join(str(process) for process in _find_marked(self.mark))
        # To all at once: a worker that first sees its driver gone would show another stack.
        _signal(_find_marked(self.mark), signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(GRACE_S)
        _signal(_find_marked(self.mark), signal.SIGKILL)
        self.kill()
        self.wait()
        return (
            f"the program did not end within {timeout} s; its processes were:\n  {living}\n"
            f"--- stdout\n{self.read_stdout()}\n--- stderr, with the stacks\n{self.read_stderr()}"
        )


_folders: list[Path] = []
_numbers = itertools.count(1)


def _make_folder() -> Path:
    if not _folders:
        _folders.append(Path(tempfile.mkdtemp(prefix="grainwise-tests-")))
        atexit.register(shutil.rmtree, _folders[0], ignore_errors=True)
    folder = _folders[0] / f"script-{next(_numbers)}" / "cwd"
    folder.mkdir(parents=True)
    return folder


def start_script(
    source: str,
    *,
    args: Sequence[str] = (),
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    form: Form = "file",
) -> Script:
    """Start a Python program in a fresh interpreter and return at once, to signal or kill it midway.

    Args:
        source: The program's text.
        args: What it finds in `sys.argv[1:]`.
        stdin: Text for its standard input; None gives it an empty one.
        env: Variables set on top of this process's own.
        form: `python FILE`, `python -c SOURCE`, or `python - < FILE`.
    """
    folder = _make_folder()
    program = folder.parent / "program.py"
    program.write_text(source)
    if form == "stdin":
        if stdin is not None:
            raise ValueError("standard input cannot carry both the program and its input")
        in_path = program
    else:
        in_path = folder.parent / "stdin"
        in_path.write_text(stdin or "")
    what = {"file": [str(program)], "command": ["-c", source], "stdin": ["-"]}[form]
    mark = f"{os.environ.get(MARK, 'no-session')}/{uuid.uuid4()}"
    with (
        in_path.open("rb") as in_file,
        (folder.parent / "stdout").open("wb") as out_file,
        (folder.parent / "stderr").open("wb") as err_file,
    ):
        script = Script(
            # -X faulthandler, not the variable: the workers must find their own way to show stacks.
            [sys.executable, "-X", "faulthandler", *what, *args],
            cwd=folder,
            env={**os.environ, MARK: mark, **(env or {})},
            stdin=in_file,
            stdout=out_file,
            stderr=err_file,
            start_new_session=True,
        )
    script.mark = mark
    script.folder = folder
    return script


def run_script(
    source: str,
    *,
    timeout: float,
    args: Sequence[str] = (),
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    form: Form = "file",
) -> ScriptResult:
    """Run a Python program to its end, as a user would; see `start_script` for the arguments.

    Raises:
        AssertionError: It took longer than `timeout` seconds. The text has its output and all stacks.
    """
    return start_script(source, args=args, stdin=stdin, env=env, form=form).finish(timeout)


def assert_nothing_left(mark: str | int, *, within_s: float = GRACE_S) -> None:
    """Fail if a process of this mark (an int: of this process group) is still alive after `within_s` seconds.

    Zombies do not count: their parent is gone or ours to blame, and `check_leaks` sees them.
    """
    left = _wait_until_empty(lambda: [str(process) for process in _find_marked(mark)], within_s)
    if left:
        _signal(_find_marked(mark), signal.SIGKILL)
        raise AssertionError(f"still alive {within_s} s after the program ended:\n  " + "\n  ".join(left))


def _find_marked(mark: str | int) -> list[Process]:
    def is_marked(process: Process) -> bool:
        return process.group == mark if isinstance(mark, int) else _has_mark(process, mark)

    return [process for process in _read_processes() if process.state not in "ZX" and is_marked(process)]
