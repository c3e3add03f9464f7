"""Workers that fail before they can take a task: after a few attempts, an error with their own words."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import grainwise as ray
from grainwise.engine.processes import pool
from grainwise.errors import WorkerStartError
from tests.leaks import run_script

from .full_pool import LIMIT_S, assert_pool_is_full

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's exit statuses")

ATTEMPTS = 5


@pytest.fixture(autouse=True)
def _no_session_stays() -> Iterator[None]:
    yield
    ray.shutdown()


@pytest.fixture
def broken_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that notes each start in the returned file, says why it ends, and ends."""
    starts = tmp_path / "starts"
    starts.touch()
    program = tmp_path / "python-broken"
    program.write_text(
        f'#!/bin/sh\necho start >> "{starts}"\necho "no licence for this interpreter" >&2\nexit 42\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    return starts


def num_starts(starts: Path) -> int:
    return len(starts.read_text().splitlines())


def ask_for_one_result() -> object:
    ray.init(num_cpus=2)
    return ray.get(ray.remote(lambda: 1).remote(), timeout=LIMIT_S)


def test_an_interpreter_that_always_fails_is_told_with_its_error_output(broken_interpreter: Path) -> None:
    with pytest.raises(WorkerStartError, match="no licence for this interpreter"):
        ask_for_one_result()
    assert 1 <= num_starts(broken_interpreter) <= ATTEMPTS + 1, "no loop of starts"


def test_everybody_who_waits_is_told(broken_interpreter: Path) -> None:
    ray.init(num_cpus=2)
    task = ray.remote(lambda x: x)
    first = [task.remote(i) for i in range(50)]
    dependant = task.remote(first[-1])
    future = first[0].future()
    ready, _ = ray.wait([*first, dependant], num_returns=51, timeout=LIMIT_S)
    assert len(ready) == 51
    for ref in (first[0], first[-1], dependant):
        with pytest.raises(WorkerStartError, match="no licence"):
            ray.get(ref, timeout=LIMIT_S)
    with pytest.raises(WorkerStartError, match="no licence"):
        future.result(timeout=LIMIT_S)


def test_it_works_again_when_the_cause_is_gone(
    broken_interpreter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(WorkerStartError):
        ask_for_one_result()
    monkeypatch.undo()
    assert_pool_is_full(tmp_path)


def test_failures_far_apart_count_as_well(broken_interpreter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that takes long before it fails must not be tried for ever."""
    from grainwise.engine.processes import pool

    monkeypatch.setattr(pool, "START_WINDOW_S", 0.0, raising=False)
    with pytest.raises(WorkerStartError, match="no licence"):
        ask_for_one_result()
    assert num_starts(broken_interpreter) <= ATTEMPTS + 1


@pytest.mark.parametrize("program", ["/does/not/exist", "/bin/false", "/bin/true"])
def test_an_interpreter_that_is_none(program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether `init` or the first `get` finds out: it is the same error, and nothing stays behind."""
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(WorkerStartError):
        ask_for_one_result()
    monkeypatch.undo()
    ray.shutdown()
    ray.init(num_cpus=2)
    assert_pool_is_full(tmp_path)


def test_a_bad_environment_is_told_in_the_interpreters_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/does/not/exist")
    with pytest.raises(WorkerStartError, match="encodings"):
        ask_for_one_result()


def test_workers_that_die_while_they_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The interpreter is fine, each worker forked from it is not."""
    starts = tmp_path / "starts"
    starts.touch()
    from grainwise.engine.processes import template

    bootstrap = f"""
import sys
sys.path.insert(0, {{path!r}})
from grainwise.engine.processes import template
from grainwise.engine.worker import loop as worker

def fail(*args):
    with open({str(starts)!r}, "a") as file:
        file.write("start\\n")
    raise ImportError("no such accelerator")

worker.run_worker = fail
template.main()
"""
    monkeypatch.setattr(template, "BOOTSTRAP", bootstrap)
    with pytest.raises(WorkerStartError, match="no such accelerator"):
        ask_for_one_result()
    assert ATTEMPTS <= num_starts(starts) <= 2 * ATTEMPTS
    ray.shutdown()
    monkeypatch.undo()
    ray.init(num_cpus=2)
    assert_pool_is_full(tmp_path)


def test_a_system_that_allows_no_more_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from grainwise.engine.processes import template

    bootstrap = """
import errno, os, sys
sys.path.insert(0, {path!r})
from grainwise.engine.processes import template

def fail():
    raise OSError(errno.EAGAIN, "no more")

os.fork = fail
template.main()
"""
    monkeypatch.setattr(template, "BOOTSTRAP", bootstrap)
    with pytest.raises(WorkerStartError, match=os.strerror(errno.EAGAIN)):
        ask_for_one_result()


def test_a_worker_that_dies_now_and_then_at_its_start_does_not_matter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Three starts fail; the task never notices, and is not charged for it."""
    starts = tmp_path / "starts"
    starts.touch()
    from grainwise.engine.processes import template

    bootstrap = f"""
import os, sys
sys.path.insert(0, {{path!r}})
from grainwise.engine.processes import template
from grainwise.engine.worker import loop as worker

run_worker = worker.run_worker

def fail_three_times(*args):
    with open({str(starts)!r}, "a+") as file:
        file.write("start\\n")
        file.flush()
        file.seek(0)
        if len(file.readlines()) <= 3:
            os._exit(1)
    run_worker(*args)

worker.run_worker = fail_three_times
template.main()
"""
    monkeypatch.setattr(template, "BOOTSTRAP", bootstrap)
    ray.init(num_cpus=1)
    task = ray.remote(max_retries=0)(lambda x: x)
    assert ray.get([task.remote(i) for i in range(20)], timeout=LIMIT_S) == list(range(20))


SHADOWED = """
import os
import sys

for name in ("socket", "select", "struct", "threading", "pickle", "ctypes", "traceback", "grainwise"):
    with open(name + ".py", "w") as file:
        file.write("raise ImportError('the wrong module: ' + __name__)")

import grainwise as ray

ray.init(num_cpus=2)
print(ray.get(ray.remote(lambda: 6 * 7).remote(), timeout=30))
"""


def test_modules_in_the_working_folder_do_not_matter_to_a_program_elsewhere() -> None:
    """`python /path/program.py` does not look for modules in the working folder, nor do its workers."""
    result = run_script(
        SHADOWED, timeout=LIMIT_S, env={"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    )
    assert result.stdout == "42\n", result.stderr
    assert result.returncode == 0


def test_workers_do_not_read_our_files_again(tmp_path: Path) -> None:
    """A worker that starts after our own files have changed on the disk runs what the session began with."""
    import shutil

    import grainwise

    copied = tmp_path / "site"
    shutil.copytree(Path(grainwise.__file__).parent, copied / "grainwise")
    program = """
import os, pathlib, signal, sys
import grainwise as ray

ray.init(num_cpus=1)
pid_of = ray.remote(lambda: os.getpid())
first = ray.get(pid_of.remote(), timeout=30)
for path in pathlib.Path(ray.__file__).parent.rglob("*.py"):
    path.write_text("raise ImportError('half an upgrade')")
os.kill(first, signal.SIGKILL)
print(ray.get(pid_of.remote(), timeout=30) != first)
"""
    path = os.pathsep.join([str(copied), *(p for p in sys.path if p)])
    result = run_script(program, timeout=LIMIT_S, env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"})
    assert result.stdout == "True\n", result.stderr


def test_the_programs_signal_settings_do_not_matter(tmp_path: Path) -> None:
    """A program started with nohup and the like, or that lets the kernel reap its children."""
    numbers = (signal.SIGCHLD, signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        ray.init(num_cpus=2)
        dying = ray.remote(max_retries=1)(lambda: os._exit(1))
        with pytest.raises(ray.errors.WorkerCrashedError):
            ray.get(dying.remote(), timeout=LIMIT_S)
        assert_pool_is_full(tmp_path)
        ray.shutdown()
    finally:
        for number, handler in zip(numbers, previous):
            signal.signal(number, handler)


def test_what_the_program_imports_later_new_workers_find_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Witness:
        def knows(self, module: str) -> bool:
            return module in sys.modules

    monkeypatch.setattr(pool, "WARM_MODULES", ("this_is_no_module", "quopri"))
    monkeypatch.delitem(sys.modules, "quopri", raising=False)
    ray.init(num_cpus=1)
    before = ray.remote(Witness).remote()
    assert not ray.get(before.knows.remote("quopri"))
    import quopri

    monkeypatch.setitem(sys.modules, "this_is_no_module", quopri)
    after = ray.remote(Witness).remote()
    assert ray.get(after.knows.remote("quopri"))
    assert not ray.get(before.knows.remote("quopri"))
