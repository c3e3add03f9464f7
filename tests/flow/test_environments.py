"""Tasks of reusable environments: what runs in replicas, what a map promises there, what is kept between."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grainwise import flow
from grainwise.errors import TaskTimeoutError
from grainwise.flow import ActorEnvironment, Concurrency, Options, TypeMismatchError, map_task, workflow
from grainwise.flow.hosts import list_hosts
from grainwise.flow.replicas.places import close_hosts
from tests.flow import hosted_tasks as tasks
from tests.flow.hosted_functions import OwnError
from tests.flow.hosting import own_runtime_folder


@pytest.fixture(scope="module", autouse=True)
def runtime_folder() -> Iterator[str]:
    with own_runtime_folder() as folder:
        yield folder
        close_hosts()


# --- where tasks run -------------------------------------------------------------------------------------


@workflow
def two_steps(x: int) -> int:
    return tasks.plus_one(x=tasks.double(x=tasks.plus_one(x=x)))


@workflow
def mapped(xs: list[int]) -> list[int]:
    return map_task(tasks.where)(x=xs)


@workflow
def where_it_runs(x: int) -> tuple[int, int]:
    return tasks.where(x=x), tasks.where(x=x)


def replicas_of(name: str) -> set[int]:
    return {pid for status in list_hosts() if status.name == name for pid in status.replicas}


def test_nodes_and_maps_run_in_replicas_and_direct_calls_here() -> None:
    assert two_steps(x=3) == 9
    pids = {*where_it_runs(x=1), *mapped(xs=list(range(50))), *map_task(tasks.where)(x=[1, 2])}
    assert pids <= replicas_of("shared")
    assert os.getpid() not in pids
    assert tasks.where(x=1) == os.getpid()
    with flow.inline():
        assert set(mapped(xs=[1, 2])) == {os.getpid()}


def test_a_program_without_ordinary_tasks_starts_no_engine() -> None:
    import grainwise

    grainwise.shutdown()
    assert map_task(tasks.double)(x=[1, 2]) == [2, 4]
    assert not grainwise.is_initialized()


def test_both_replicas_work_at_once(tmp_path: Path) -> None:
    assert map_task(tasks.meet_two)(folder=[str(tmp_path)] * 2, x=[1, 2]) == [2, 2]


@workflow
def two_meet(folder: str) -> list[int]:
    return [tasks.meet_two(folder=folder, x=1), tasks.meet_two(folder=folder, x=2)]


def test_nodes_share_the_replicas(tmp_path: Path) -> None:
    assert two_meet(folder=str(tmp_path)) == [2, 2]


def test_a_parent_in_its_own_pool_of_one_does_not_starve() -> None:
    assert map_task(tasks.parent)(n=[3, 4]) == [(1 + 2 + 3) + 4, (1 + 2 + 3 + 4) + 5]


def test_a_mock_stays_here() -> None:
    with flow.task_mock(tasks.double) as mock:
        mock.return_value = 7
        assert two_steps(x=3) == 8
        assert map_task(tasks.double)(x=[1, 2]) == [7, 7]


# --- state -----------------------------------------------------------------------------------------------


def test_replicas_enter_once_and_keep_what_they_have_loaded() -> None:
    first = set(map_task(tasks.loaded)(name=["m"] * 40))
    again = set(map_task(tasks.loaded)(name=["m"] * 40))
    assert len({pid for pid, _ in map(str.split, first | again)}) == len(first | again)
    assert set(map_task(tasks.entered)(x=list(range(20)))) <= {f"hello{pid}" for pid in replicas_of("shared")}


def test_actor_cache_is_one_function() -> None:
    assert flow.actor_cache is flow.hosts.actor_cache


# --- what a map promises ---------------------------------------------------------------------------------


def test_order_several_inputs_defaults_and_partials() -> None:
    xs = list(range(5000))
    assert map_task(tasks.double)(x=xs) == [2 * x for x in xs]
    assert map_task(tasks.add)(x=[1, 2], y=[10, 20]) == [11.0, 22.0]
    assert map_task(functools.partial(tasks.add, y=1, scale=2.0))(x=[1, 2]) == [4.0, 6.0]
    assert map_task(tasks.double)(x=[]) == []
    outputs = map_task(tasks.both)(x=[1, 2])
    assert (outputs.n, outputs.text) == ([1, 2], ["1", "2"])
    assert map_task(tasks.shift)(point=[tasks.Point(1, 2.0)]) == [tasks.Point(2, 2.0)]


def test_functions_of_the_program_itself() -> None:
    offset = 5

    @tasks.env.task
    def shifted(x: int) -> int:
        return x + offset

    assert map_task(shifted)(x=[1, 2]) == [6, 7]


def test_results_are_checked_there() -> None:
    with pytest.raises(TypeMismatchError, match=r"wrong.*expected `int`, got `str`"):
        map_task(tasks.wrong)(x=[1])


def test_the_first_error_is_raised_as_the_task_raised_it() -> None:
    with pytest.raises(OwnError, match="1 is odd") as caught:
        map_task(tasks.refuse_odd)(x=[0, 1, 2, 3])
    assert caught.value.code == 1


def test_failures_are_kept_with_all_that_is_known() -> None:
    results: Any = map_task(tasks.refuse_odd, min_success_ratio=0.5)(x=[0, 1, 2, 3])
    assert results == [0, None, 2, None]
    assert [failure.index for failure in results.failures] == [1, 3]
    failure = results.failures[1]
    assert isinstance(failure.error, OwnError)
    assert (failure.error.code, failure.attempts) == (3, 1)
    assert "in refuse_odd" in failure.traceback
    with pytest.raises(OwnError):
        map_task(tasks.refuse_odd, min_success_ratio=0.6)(x=[0, 1, 2, 3])


def test_elements_are_tried_again_each_for_itself(tmp_path: Path) -> None:
    assert map_task(tasks.third_time)(folder=[str(tmp_path)] * 3, x=[1, 2, 3]) == [3, 3, 3]


@workflow
def third(folder: str) -> int:
    return tasks.third_time(folder=folder, x=9)


def test_nodes_are_tried_again(tmp_path: Path) -> None:
    assert third(folder=str(tmp_path)) == 3


def test_an_element_whose_replica_died_runs_again(tmp_path: Path) -> None:
    pids = map_task(tasks.die_once)(path=[str(tmp_path / "a"), str(tmp_path / "b")])
    assert set(pids) <= replicas_of("shared")


def test_elements_are_cached_one_by_one(tmp_path: Path) -> None:
    folder = str(tmp_path)
    assert map_task(tasks.counted)(folder=[folder] * 2, x=[1, 2]) == [2, 4]
    assert map_task(tasks.counted)(folder=[folder] * 3, x=[1, 2, 3]) == [2, 4, 6]
    assert (tmp_path / "runs").read_text() == "xxx"


def test_variables_and_limits_of_a_task_beside_those_of_its_environment() -> None:
    assert map_task(tasks.limited)(nbytes=[1000]) == ["minehello1000"]
    with pytest.raises(MemoryError):
        map_task(tasks.limited)(nbytes=[512 << 20])


def test_budgets_bound_what_runs_at_once(tmp_path: Path) -> None:
    xs = list(range(12))
    folders = [str(tmp_path)] * len(xs)
    assert set(map_task(tasks.meet_in, concurrency=1)(folder=folders, x=xs)) == {1}
    assert set(map_task(tasks.meet_in, concurrency=Concurrency(1))(folder=folders, x=xs)) == {1}

    @workflow(default_options=Options(max_parallelism=1))
    def both(folders: list[str], xs: list[int]) -> tuple[list[int], list[int]]:
        return map_task(tasks.meet_in)(folder=folders, x=xs), map_task(tasks.meet_in)(folder=folders, x=xs)

    assert {*both(folders=folders[:4], xs=[1, 2, 3, 4])[0]} == {1}


def test_failures_under_a_budget() -> None:
    partial: Any = map_task(tasks.refuse_odd, concurrency=Concurrency(2), min_successes=1)(x=[0, 1, 2])
    assert partial == [0, None, 2]
    assert isinstance(partial.failures[0].error, OwnError)


class Notes:
    """A recorder that notes elements and attempts."""

    def __init__(self) -> None:
        self.elements: list[Any] = []
        self.attempts: list[Any] = []

    def elements_ended(self, run_id: str, path: str, *facts: Any) -> None:
        self.elements.append(facts[1])

    def attempt_ended(
        self, run_id: str, path: str, attempt: int, error: Any, facts: Any, time_s: Any
    ) -> None:
        self.attempts.append((attempt, type(error), facts.get("pid")))


def test_recorders_are_told(tmp_path: Path) -> None:
    notes = Notes()
    flow.add_recorder(notes)
    try:
        map_task(tasks.double)(x=list(range(100)))
        third(folder=str(tmp_path))
    finally:
        flow.remove_recorder(notes)
    assert sum(map(len, notes.elements)) == 100
    assert [attempt for attempt, _, _ in notes.attempts][-3:] == [1, 2, 3]
    assert notes.attempts[-1][2] in replicas_of("shared")


# --- ends ------------------------------------------------------------------------------------------------


def test_a_task_that_takes_too_long_is_stopped(tmp_path: Path) -> None:
    path = tmp_path / "begun"
    with pytest.raises(TaskTimeoutError):
        map_task(tasks.too_slow)(path=[str(path)])
    assert path.exists()

    @workflow
    def slow(path: str) -> int:
        return tasks.too_slow(path=path)

    with pytest.raises(TaskTimeoutError):
        slow(path=str(path))


@workflow
def for_ever_beside_a_failure(path: str) -> tuple[int, int]:
    return tasks.run_for_ever(path=path), fail_when_there(path=path)


@flow.task
def fail_when_there(path: str) -> int:
    import time

    while not os.path.exists(path):
        time.sleep(0.002)
    raise ValueError("enough")


def test_a_failure_stops_what_runs_in_replicas(tmp_path: Path) -> None:
    path = tmp_path / "begun"
    with pytest.raises(ValueError, match="enough"):
        for_ever_beside_a_failure(path=str(path))
    assert map_task(tasks.alone)(x=[1]) == [2]  # the only replica is free again
    assert Path(f"{path}.interrupted").exists()


def test_an_interrupt_stops_a_map(tmp_path: Path) -> None:
    path = tmp_path / "begun"

    def interrupt() -> None:
        while not path.exists():
            threading.Event().wait(0.002)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        map_task(tasks.run_for_ever)(path=[str(path)])
    thread.join()
    assert map_task(tasks.alone)(x=[1]) == [2]
    assert Path(f"{path}.interrupted").exists()


# --- definitions -----------------------------------------------------------------------------------------


def test_another_definition_has_replicas_of_its_own() -> None:
    def pid_in(**options: Any) -> int:
        env = ActorEnvironment(name="defined", ttl_seconds=20, **options)

        @env.task
        def where(x: int) -> int:
            return os.getpid()

        [pid] = map_task(where)(x=[1])
        return pid

    first = pid_in(environment={"A": "1"})
    assert pid_in(environment={"A": "1"}) == first
    assert pid_in(environment={"A": "2"}) != first
    assert pid_in(environment={"A": "1"}, requests=flow.Resources(cpu="2")) != first


def test_hooks_must_be_functions() -> None:
    with pytest.raises(TypeError, match="on_enter"):
        ActorEnvironment(name="a").on_enter(3)  # type: ignore[arg-type]


# --- from one program to the next ------------------------------------------------------------------------

PIPELINE = """
import os
from grainwise.flow import ActorEnvironment, actor_cache, map_task, workflow

env = ActorEnvironment(name="kept", ttl_seconds=30, environment={"SIZE": os.environ["WANTED"]})

@env.on_enter
def enter() -> None:
    os.environ["ENTERED"] = "WORD"

@actor_cache
def load(name: str) -> str:
    return f"{name} of {os.getpid()}"

@env.task
def use(x: int) -> str:
    return f"{x} {load('model')} {os.environ['SIZE']} {os.environ['ENTERED']}"

@workflow
def run(x: int) -> str:
    return use(x=x)

if __name__ == "__main__":
    print(run(x=1), *map_task(use)(x=[2]), sep="; ")
"""


IMPORTED = "import pipeline as p; print(p.run(x=1), *p.map_task(p.use)(x=[2]), sep='; ')"


def run_program(folder: Path, size: str, form: str) -> str:
    """Run the pipeline in an interpreter of its own, or import it there; return what it says."""
    arguments = ["pipeline.py"] if form == "file" else ["-c", IMPORTED]
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env={**os.environ, "WANTED": size}, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("form", ["file", "module"])
def test_a_second_program_finds_it_warm(tmp_path: Path, form: str) -> None:
    (tmp_path / "pipeline.py").write_text(PIPELINE)
    first = run_program(tmp_path, "big", form)
    assert first.endswith("big WORD")
    assert run_program(tmp_path, "big", form) == first  # the pid of the replica that loaded included


@pytest.mark.parametrize("form", ["file", "module"])
def test_a_changed_definition_or_module_never_meets_a_stale_replica(tmp_path: Path, form: str) -> None:
    path = tmp_path / "pipeline.py"
    path.write_text(PIPELINE)
    first = run_program(tmp_path, "big", form)
    other = run_program(tmp_path, "small", form)
    assert "small" in other
    assert pid_in(other) != pid_in(first)
    path.write_text(PIPELINE.replace("WORD", "another").replace("model", "newer"))
    edited = run_program(tmp_path, "big", form)
    assert edited.count("another") == edited.count("newer") == 2
    assert pid_in(edited) != pid_in(first)
    path.write_text(PIPELINE.replace("{x} {load", "<{x}> {load"))  # only the task
    assert run_program(tmp_path, "big", form).startswith("<1> model")


def pid_in(answer: str) -> str:
    return answer.partition(" of ")[2].partition(" ")[0]
