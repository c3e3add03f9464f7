"""What runs do for tasks: parallel branches, retries, limits, the cache, and the seam of the record."""

from __future__ import annotations

import functools
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import pytest

import grainwise
from grainwise import flow
from grainwise.errors import TaskTimeoutError
from grainwise.flow import (
    Cache,
    HashMethod,
    LocalTaskCache,
    NonRecoverableError,
    Options,
    Resources,
    dynamic,
    map_task,
    task,
    workflow,
)
from grainwise.flow.kept.keys import Digest, code_digest
from grainwise.flow.running.start import run_entity


@grainwise.remote
class Meeting:
    """Lets nobody go before all have come."""

    def __init__(self, n: int) -> None:
        import asyncio

        self.n = n
        self.all_here = asyncio.Event()

    async def come(self) -> None:
        self.n -= 1
        if self.n == 0:
            self.all_here.set()
        await self.all_here.wait()


def test_independent_branches_run_at_once() -> None:
    @task
    def meet(meeting: Any) -> int:
        grainwise.get(meeting.come.remote(), timeout=60)
        return os.getpid()

    @workflow
    def both(meeting: Any) -> list[int]:
        return [meet(meeting=meeting), meet(meeting=meeting)]

    assert len(set(both(meeting=Meeting.remote(2)))) == 2


def test_tasks_run_in_workers_and_inline_ones_do_not() -> None:
    @task
    def pid() -> int:
        return os.getpid()

    @workflow
    def wf() -> int:
        return pid()

    assert wf() != os.getpid()
    assert pid() == os.getpid()
    with flow.inline():
        assert wf() == os.getpid()


def test_the_variable_says_inline_too(monkeypatch: pytest.MonkeyPatch) -> None:
    @task
    def pid() -> int:
        return os.getpid()

    monkeypatch.setenv("GRAINWISE_FLOW", "inline")
    assert map_task(pid_of)(x=[1]) == [os.getpid()]
    monkeypatch.setenv("GRAINWISE_FLOW", "elsewhere")
    with pytest.raises(ValueError, match="GRAINWISE_FLOW"):
        map_task(pid_of)(x=[1])


@task
def pid_of(x: int) -> int:
    return os.getpid()


def test_retries(mode: str, tmp_path: Path) -> None:
    def once_more(folder: str, kind: str) -> int:
        path = os.path.join(folder, kind)
        with open(path, "a") as file:
            file.write(".")
        n_runs = os.path.getsize(path)
        if kind == "never":
            raise NonRecoverableError("no use")
        if n_runs < 3:
            raise ConnectionError(f"run {n_runs}")
        return n_runs

    def runs(retries: int, kind: str) -> int:
        made = task(once_more, retries=retries)

        @workflow
        def wf(folder: str, kind: str) -> int:
            return made(folder=folder, kind=kind)

        return wf(folder=str(tmp_path), kind=kind)

    assert runs(2, "enough") == 3
    with pytest.raises(ConnectionError, match="run 2"):
        runs(1, "too few")
    with pytest.raises(NonRecoverableError):
        runs(5, "never")
    assert (tmp_path / "never").read_text() == "."


def test_a_worker_that_dies_costs_one_attempt(tmp_path: Path) -> None:
    @task(retries=1)
    def dies_once(path: str) -> int:
        if not os.path.exists(path):
            open(path, "w").close()
            os._exit(3)
        return 1

    @workflow
    def wf(path: str) -> int:
        return dies_once(path=path)

    assert wf(path=str(tmp_path / "died")) == 1


def test_time_limits_are_enforced() -> None:
    @task(timeout=0.2)  # type: ignore[arg-type]
    def slow(seconds: float) -> int:
        time.sleep(seconds)
        return 1

    @workflow
    def wf(seconds: float) -> int:
        return slow(seconds=seconds)

    assert wf(seconds=0.0) == 1
    with pytest.raises(TaskTimeoutError):
        wf(seconds=60.0)
    results = map_task(slow, min_success_ratio=0.1)(seconds=[0.0, 60.0])
    assert results == [1, None]
    assert isinstance(results.failures[0].error, TimeoutError)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA")
def test_memory_limits_are_enforced() -> None:
    @task(limits=Resources(mem="64Mi"))
    def allocate(n_mib: int) -> int:
        return len(bytearray(n_mib << 20))

    @workflow
    def wf(n_mib: int) -> int:
        return allocate(n_mib=n_mib)

    assert wf(n_mib=16) == 16 << 20
    with pytest.raises(MemoryError, match="67,108,864 bytes"):
        wf(n_mib=256)


def test_more_cpus_than_there_are_is_all_of_them() -> None:
    @task(requests=Resources(cpu="64"))
    def big() -> int:
        return 1

    @workflow
    def wf() -> int:
        return big()

    assert wf() == 1


def test_variables_reach_the_worker_and_leave_it() -> None:
    def read() -> str:
        return os.environ.get("FLOW_X", "none")

    with_it, without = task(read, environment={"FLOW_X": "1"}), task(read)

    @workflow
    def wf() -> list[str]:
        return [with_it(), without(), with_it()]

    assert wf() == ["1", "none", "1"]


def test_a_failure_stops_what_has_not_begun(tmp_path: Path) -> None:
    @task
    def fail() -> int:
        raise ValueError("at once")

    @task
    def leave_trace(after: int, folder: str) -> int:
        open(os.path.join(folder, "trace"), "w").close()
        return 1

    @workflow
    def wf(folder: str) -> int:
        return leave_trace(after=fail(), folder=folder)

    with pytest.raises(ValueError, match="at once"):
        wf(folder=str(tmp_path))
    assert not (tmp_path / "trace").exists()


def test_values_that_cannot_travel_are_named() -> None:
    import threading

    @task
    def take(lock: Any) -> int:
        return 1

    @workflow
    def wf(lock: Any) -> int:
        return take(lock=lock)

    with pytest.raises(TypeError, match="lock"):
        wf(lock=threading.Lock())


# -- cache -----------------------------------------------------------------------------------------------


def count_runs(**options: Any) -> tuple[Any, list[int]]:
    runs: list[int] = []

    @task(**options)
    def add(a: int, b: int) -> int:
        runs.append(a)
        return a + b

    return add, runs


def test_results_are_found_again() -> None:
    add, runs = count_runs(cache=True, cache_version="1")
    assert [add(a=1, b=2), add(a=1, b=2), add(b=2, a=1)] == [3, 3, 3]
    assert add(a=2, b=2) == 4
    assert runs == [1, 2]
    LocalTaskCache.clear()
    assert add(a=1, b=2) == 3
    assert runs == [1, 2, 1]


def test_what_makes_a_result_another() -> None:
    for options in ({"version": "2"}, {"version": "1", "salt": "s"}):
        first, runs = count_runs(cache=Cache(version="1"))
        first(a=1, b=2)
        second, others = count_runs(cache=Cache(**options))  # type: ignore[arg-type]
        second(a=1, b=2)
        assert (len(runs), len(others)) == (1, 1)
        LocalTaskCache.clear()
    ignoring, runs = count_runs(cache=Cache(version="1", ignored_inputs="b"))
    assert [ignoring(a=1, b=2), ignoring(a=1, b=5)] == [3, 3]
    assert runs == [1]


def test_changed_code_is_not_found() -> None:
    def helper_one(x: int) -> int:
        return x + 1

    def make(amount: int, helper: Any) -> Any:
        def f(x: int) -> int:
            return helper(x) * amount  # type: ignore[no-any-return]

        return f

    def helper_two(x: int) -> int:
        return x + 2

    same = code_digest(make(1, helper_one))
    assert code_digest(make(1, helper_one)) == same
    assert code_digest(make(2, helper_one)) != same
    assert code_digest(make(1, helper_two)) != same


def test_content_counts_not_identity(tmp_path: Path) -> None:
    import numpy

    def digest(value: Any) -> bytes:
        made = Digest()
        made.feed(value)
        return made.finish()

    word = str(b"ab", "ascii")
    assert digest([word, word]) == digest(["ab", "ab"])
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest({"x", "y", "z"}) == digest({"z", "y", "x"})
    assert digest(numpy.arange(4).reshape(2, 2)) != digest(numpy.arange(4))
    assert digest(numpy.arange(8)[::2]) == digest(numpy.array([0, 2, 4, 6]))
    assert len({digest(value) for value in (1, 1.0, True, "1", b"1", [1], (1,), {1}, None)}) == 9
    path = tmp_path / "f"
    path.write_text("one")
    before = digest(path)
    path.write_text("two")
    assert digest(path) != before


def test_hash_methods_say_what_counts() -> None:
    runs = []

    @task
    def produce(a: int) -> Annotated[int, HashMethod(lambda value: "always the same")]:
        return a

    @task(cache=True, cache_version="1")
    def consume(a: int) -> int:
        runs.append(a)
        return a

    @workflow
    def wf(a: int) -> int:
        return consume(a=produce(a=a))

    with flow.inline():
        assert [wf(a=3), wf(a=4)] == [3, 3]
    assert runs == [3]


def test_workflows_and_elements_are_cached(mode: str, tmp_path: Path) -> None:
    @task(cache=Cache(version="1", ignored_inputs=("folder",)))
    def mark(x: int, folder: str) -> int:
        with open(os.path.join(folder, str(x)), "a") as file:
            file.write(".")
        return x

    @workflow
    def wf(x: int, folder: str) -> int:
        return mark(x=x, folder=folder)

    bound = functools.partial(mark, folder=str(tmp_path))
    assert wf(x=1, folder=str(tmp_path)) == wf(x=1, folder=str(tmp_path)) == 1
    assert map_task(bound)(x=[0, 1, 2]) == [0, 1, 2]
    assert map_task(bound)(x=[2, 3]) == [2, 3]
    assert {path.name: path.read_text() for path in tmp_path.glob("[0-9]")} == dict.fromkeys("0123", ".")
    assert run_entity(wf, {"x": 1, "folder": str(tmp_path)}, Options(overwrite_cache=True)) == 1
    assert (tmp_path / "1").read_text() == ".."


def test_a_broken_cache_is_warned_of_and_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, runs = count_runs(cache=True, cache_version="1")
    add(a=1, b=2)
    store = flow.cache_store()
    store.close()
    path = os.path.join(store.folder, "results.sqlite")
    connection = sqlite3.connect(path)
    connection.execute("UPDATE results SET value = x'00'")
    connection.commit()
    connection.close()
    with pytest.warns(RuntimeWarning, match="corrupt"):
        assert add(a=1, b=2) == 3
    assert runs == [1, 1]
    store.close()
    for name in os.listdir(store.folder):
        os.remove(os.path.join(store.folder, name))
    Path(path).write_text("no database " * 1000)
    with pytest.warns(RuntimeWarning, match="goes on without it"):
        assert add(a=1, b=2) == 3
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRAINWISE_FLOW_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(RuntimeWarning, match="goes on without it"):
        assert add(a=1, b=2) == 3


def test_of_calls_with_the_same_inputs_one_runs(tmp_path: Path) -> None:
    @task(cache=Cache(version="1", serialize=True, ignored_inputs=("folder",)))
    def mark(x: int, folder: str) -> int:
        with open(os.path.join(folder, "runs"), "a") as file:
            file.write(".")
        return x

    @workflow
    def wf(folder: str) -> list[int]:
        return [mark(x=1, folder=folder) for _ in range(4)]

    assert wf(folder=str(tmp_path)) == [1] * 4
    assert (tmp_path / "runs").read_text() == "."


# -- the seam of the record ------------------------------------------------------------------------------


class Notes:
    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *facts: self.seen.append((name, facts))

    def named(self, event: str) -> list[tuple[Any, ...]]:
        return [facts for name, facts in self.seen if name == event]


def test_recorders_are_told(mode: str) -> None:
    @task(retries=1)
    def add(a: int) -> int:
        return a + 1

    @dynamic
    def twice(a: int) -> int:
        return add(a=add(a=a))

    @workflow
    def wf(a: int) -> list[int]:
        return map_task(add)(a=[twice(a=a), a])  # type: ignore[no-any-return]

    notes = Notes()
    flow.add_recorder(notes)
    try:
        assert wf(a=1) == [4, 2]
    finally:
        flow.remove_recorder(notes)
    assert notes.seen[0][0] == "run_started"
    assert notes.seen[-1][0] == "run_ended"
    [(_, outcome, error, _)] = notes.named("run_ended")
    assert (outcome, error) == ([4, 2], None)
    paths = {facts[1]: facts[2] for facts in notes.named("node_ended")}
    assert paths == {"n0": {"o0": 3}, "n0/dn0": {"o0": 2}, "n0/dn1": {"o0": 3}, "n1": {"o0": [4, 2]}}
    assert [facts[1] for facts in notes.named("graph_traced")] == ["", "n0"]
    told = notes.named("elements_ended")
    for _, path, _, _, failures, is_cached, attempt, _ in told:
        assert (path, failures, is_cached, attempt) == ("n1", {}, False, 1)
    assert sorted(pair for facts in told for pair in zip(facts[2], facts[3])) == [(0, 4), (1, 2)]


def test_a_recorder_that_fails_does_not_take_the_run_down() -> None:
    class Broken:
        def run_started(self, *_: Any) -> None:
            raise OSError("disk full")

    broken = Broken()
    flow.add_recorder(broken)
    try:
        with flow.inline(), pytest.warns(RuntimeWarning, match="disk full"):
            assert map_task(pid_of)(x=[1]) == [os.getpid()]
    finally:
        flow.remove_recorder(broken)
