"""A task whose argument failed does not run: it fails with the error of the origin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import grainwise as ray
from grainwise.errors import EngineClosedError, TaskCancelledError, TaskError, WorkerCrashedError

from .full_pool import LIMIT_S, RunLog

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's exit statuses")


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


@ray.remote
def fail(text: str) -> None:
    raise ValueError(text)


@ray.remote(max_retries=0)
def crash() -> None:
    os._exit(3)


def test_dependants_of_a_failed_task_fail_with_its_error_and_do_not_run(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote
    def use(*args: object, **kwargs: object) -> None:
        log.note()

    origin = fail.remote("the origin")
    first = use.remote(origin)
    dependants = [
        first,
        use.remote(1, first),
        use.remote(1, key=first),
        use.remote(origin, origin),
        use.remote(first),
    ]
    for ref in dependants:
        with pytest.raises(ValueError, match="the origin") as info:
            ray.get(ref, timeout=LIMIT_S)
        assert isinstance(info.value, TaskError)
        assert "fail" in info.value.task_name
    assert ray.get(ray.remote(lambda: 1).remote(), timeout=LIMIT_S) == 1
    assert log.runs() == []


def test_an_argument_that_has_failed_already(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    use = ray.remote(lambda _: log.note())
    origin = fail.remote("long ago")
    ray.wait([origin], timeout=LIMIT_S)
    with pytest.raises(ValueError, match="long ago"):
        ray.get(use.remote(origin), timeout=LIMIT_S)
    assert log.runs() == []


def test_one_failed_argument_among_good_ones(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    good = ray.remote(lambda x: x)
    use = ray.remote(lambda *args: log.note())
    refs = [good.remote(i) for i in range(5)]
    with pytest.raises(ValueError, match="one of six"):
        ray.get(use.remote(*refs, fail.remote("one of six")), timeout=LIMIT_S)
    assert log.runs() == []


def test_dependants_of_a_crashed_task() -> None:
    use = ray.remote(lambda x: x)
    ref = use.remote(use.remote(crash.remote()))
    with pytest.raises(WorkerCrashedError, match="exit code 3") as info:
        ray.get(ref, timeout=LIMIT_S)
    assert info.value.task_name == "crash"


def test_dependants_of_a_cancelled_task(tmp_path: Path) -> None:
    fifo = str(tmp_path / "gate")
    os.mkfifo(fifo)
    log = RunLog(tmp_path)
    gate = ray.remote(lambda: Path(fifo).read_text())
    use = ray.remote(lambda x: log.note())
    origin = gate.remote()
    ref = use.remote(use.remote(origin))
    ray.cancel(origin, force=True)
    with pytest.raises(TaskCancelledError):
        ray.get(ref, timeout=LIMIT_S)
    assert log.runs() == []


def test_a_failed_dependency_is_not_worth_a_retry(tmp_path: Path) -> None:
    """`retry_exceptions` is about what the task itself raises."""
    log = RunLog(tmp_path)
    origins = RunLog(tmp_path)

    @ray.remote(max_retries=2, retry_exceptions=True)
    def origin() -> None:
        origins.note()
        raise ValueError("again and again")

    @ray.remote(max_retries=5, retry_exceptions=True)
    def use(_: object) -> None:
        log.note()

    with pytest.raises(ValueError, match="again and again"):
        ray.get(use.remote(origin.remote()), timeout=LIMIT_S)
    assert (len(origins.runs()), log.runs()) == (3, [])


def test_a_dependency_that_succeeds_at_its_second_run(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote(max_retries=1)
    def origin() -> int:
        log.note()
        if len(log.runs()) == 1:
            os._exit(3)
        return 20

    double = ray.remote(lambda x: 2 * x)
    assert ray.get(double.remote(origin.remote()), timeout=LIMIT_S) == 40


def test_a_ref_inside_a_container_is_not_a_dependency() -> None:
    """The task runs, and meets the error where it asks for the value."""

    @ray.remote
    def ask(refs: list[ray.ObjectRef[object]]) -> str:
        try:
            ray.get(refs[0])
        except ValueError as error:
            return str(error)
        return "no error"

    assert ray.get(ask.remote([fail.remote("met inside")]), timeout=LIMIT_S) == "met inside"


@pytest.mark.parametrize("num_links", [10, 5000])
def test_a_failure_runs_down_a_chain_of_any_length(num_links: int, tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    use = ray.remote(lambda _: log.note())
    origin = fail.remote("the head")
    refs = [use.remote(origin)]
    for _ in range(num_links):
        refs.append(use.remote(refs[-1]))
    with pytest.raises(ValueError, match="the head"):
        ray.get(refs[-1], timeout=LIMIT_S)
    ready, rest = ray.wait(refs, num_returns=len(refs), timeout=0)
    assert (len(ready), rest) == (len(refs), [])
    assert log.runs() == []


def test_a_failure_reaches_a_thousand_dependants() -> None:
    use = ray.remote(lambda _: None)
    origin = fail.remote("shared")
    refs = [use.remote(origin) for _ in range(1000)]
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=LIMIT_S)
    assert len(ready) == len(refs)
    for ref in refs[::100]:
        with pytest.raises(ValueError, match="shared"):
            ray.get(ref, timeout=0)


def test_a_failed_task_of_several_results_fails_what_depends_on_any() -> None:
    @ray.remote(num_returns=3)
    def parts() -> tuple[int, int, int]:
        raise ValueError("in parts")

    use = ray.remote(lambda x: x)
    for ref in [use.remote(part) for part in parts.remote()]:
        with pytest.raises(ValueError, match="in parts"):
            ray.get(ref, timeout=LIMIT_S)


def test_dependants_inside_a_task(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote
    def outer() -> str:
        @ray.remote
        def bad() -> None:
            raise ValueError("inner origin")

        @ray.remote
        def use(_: object) -> None:
            log.note()

        try:
            ray.get(use.remote(use.remote(bad.remote())))
        except ValueError as error:
            return str(error)
        return "no error"

    assert ray.get(outer.remote(), timeout=LIMIT_S) == "inner origin"
    assert log.runs() == []


def test_a_long_chain_waits_when_the_session_ends(tmp_path: Path) -> None:
    """None of it is ready: all of it fails at once, and shutdown returns."""
    fifo = str(tmp_path / "never")
    os.mkfifo(fifo)
    head = ray.remote(lambda: Path(fifo).read_text()).remote()
    use = ray.remote(lambda x: x)
    refs = [use.remote(head)]
    for _ in range(5000):
        refs.append(use.remote(refs[-1]))
    ray.shutdown()
    for ref in (head, refs[0], refs[-1]):
        with pytest.raises(EngineClosedError):
            ray.get(ref, timeout=LIMIT_S)
