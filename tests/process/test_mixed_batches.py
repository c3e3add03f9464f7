"""Tiny tasks of several functions travel in one batch: each one's troubles stay its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import SerializationError, WorkerCrashedError

from .full_pool import LIMIT_S, RunLog, assert_pool_is_full
from .hostile_values import Explodes
from .sent_together import SentBatches, make_known, sent_together
from .shared_memory import shared_bytes, wait_until
from .signposts import Sign

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's exit statuses")

MB = 1 << 20


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


@ray.remote
def add(x: int) -> int:
    return x + 1


@ray.remote
def double(x: int) -> int:
    return 2 * x


@ray.remote
def name(x: int) -> str:
    return f"number {x}"


def submit_in_turn(count: int) -> tuple[list[ray.ObjectRef[Any]], list[Any]]:
    """Return refs of three functions' tasks in turn, and their values."""
    refs: list[Any] = []
    for i in range(count):
        refs += [add.remote(i), double.remote(i), name.remote(i)]
    return refs, [value for i in range(count) for value in (i + 1, 2 * i, f"number {i}")]


def test_three_functions_in_turn_travel_together() -> None:
    make_known(add.remote, double.remote, name.remote)
    sent = SentBatches()
    with sent_together():
        refs, values = submit_in_turn(30)
    assert ray.get(refs, timeout=LIMIT_S) == values
    assert len(sent.batches) <= 45  # by itself, a function would need more messages


def test_one_function_raises() -> None:
    @ray.remote
    def fail(x: int) -> int:
        if x >= 0:
            raise ValueError(f"no {x}")
        return x

    make_known(add.remote, double.remote, name.remote, lambda _: fail.remote(-1))
    with sent_together():
        refs, values = submit_in_turn(30)
        bad = [fail.remote(i) for i in range(30)]
    for i, ref in enumerate(bad):
        with pytest.raises(ValueError, match=f"no {i}$") as info:
            ray.get(ref, timeout=LIMIT_S)
        assert "fail" in info.value.task_name  # type: ignore[attr-defined]
    assert ray.get(refs, timeout=LIMIT_S) == values


@pytest.mark.parametrize("max_retries", [0, 2])
def test_one_function_kills_its_worker(max_retries: int, tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote(max_retries=max_retries)
    def poison(x: int) -> int:
        if x >= 0:
            log.note(x)
            os._exit(3)
        return x

    make_known(add.remote, double.remote, name.remote, lambda _: poison.remote(-1))
    with sent_together():
        refs, values = submit_in_turn(30)
        bad = [poison.remote(-1), poison.remote(0), poison.remote(-1), poison.remote(1)]
    assert ray.get(refs, timeout=LIMIT_S) == values
    for ref in bad[1::2]:
        with pytest.raises(WorkerCrashedError, match="exit code 3") as info:
            ray.get(ref, timeout=LIMIT_S)
        assert "poison" in info.value.task_name
    assert ray.get(bad[::2], timeout=LIMIT_S) == [-1, -1]
    assert sorted(log.runs()) == ["0"] * (1 + max_retries) + ["1"] * (1 + max_retries)
    assert_pool_is_full(tmp_path)


def test_one_function_can_not_be_unpickled() -> None:
    bomb = Explodes("ValueError('bang')")
    broken = ray.remote(lambda x: (x, bomb))
    make_known(add.remote, double.remote, name.remote)
    with sent_together():
        refs, values = submit_in_turn(30)
        bad = [broken.remote(i) for i in range(5)]
    for ref in bad:
        with pytest.raises(SerializationError, match="function"):
            ray.get(ref, timeout=LIMIT_S)
    assert ray.get(refs, timeout=LIMIT_S) == values


def test_one_function_kills_whoever_unpickles_it(tmp_path: Path) -> None:
    bomb = Explodes("__import__('os')._exit(3)")
    deadly = ray.remote(max_retries=1)(lambda x: (x, bomb))
    make_known(add.remote, double.remote, name.remote)
    with sent_together():
        refs, values = submit_in_turn(30)
        bad = [deadly.remote(i) for i in range(2)]
    for ref in bad:
        with pytest.raises(WorkerCrashedError, match="exit code"):
            ray.get(ref, timeout=LIMIT_S)
    assert ray.get(refs, timeout=LIMIT_S) == values
    assert_pool_is_full(tmp_path)


def test_tasks_that_must_not_run_twice_among_others(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote(max_retries=0)
    def once(x: int) -> int:
        if x >= 0:
            log.note(x)
        return x

    @ray.remote(max_retries=1)
    def poison(x: int) -> int:
        if x >= 0:
            os._exit(3)
        return x

    make_known(add.remote, lambda _: once.remote(-1), lambda _: poison.remote(-1))
    with sent_together():
        refs = [each for i in range(30) for each in (once.remote(i), add.remote(i))]
        bad = poison.remote(1)
        refs += [each for i in range(30, 60) for each in (once.remote(i), add.remote(i))]
    values = ray.get(refs, timeout=LIMIT_S)
    assert (values[::2], values[1::2]) == ([*range(60)], [*range(1, 61)])
    with pytest.raises(WorkerCrashedError):
        ray.get(bad, timeout=LIMIT_S)
    assert sorted(map(int, log.runs())) == list(range(60))


def test_one_result_of_a_running_batch_is_there_before_the_batch_ends(tmp_path: Path) -> None:
    """All tasks of one batch, and the last one holds until the first one's result has been read."""
    gate = Sign(tmp_path / "gate")

    @ray.remote
    def hold(x: int, holds: bool = False) -> int:
        if holds:
            gate.wait()
        return x

    ray.shutdown()
    ray.init(num_cpus=1)
    make_known(hold.remote, add.remote)
    sent = SentBatches()
    with sent_together():
        refs = [add.remote(0)] + [hold.remote(i) for i in range(1, 50)] + [hold.remote(1, True)]
    assert ray.get(refs[0], timeout=LIMIT_S) == 1
    assert ray.get(refs[49], timeout=LIMIT_S) == 49
    assert ray.wait([refs[-1]], timeout=0)[0] == []
    assert sent.batches[0][0] > 1
    gate.put_up()
    assert ray.get(refs[-1], timeout=LIMIT_S) == 1


def test_small_and_large_arguments_of_one_function_in_turn() -> None:
    @ray.remote
    def length(data: bytes) -> int:
        return len(data)

    large = [bytes([i]) * (50 * MB) for i in range(2)]
    for _ in range(3):
        refs = []
        for i in range(20):
            refs += [length.remote(b"x" * i) for _ in range(20)]
            if i % 5 == 0:
                refs.append(length.remote(large[i // 5 % 2]))
        values = ray.get(refs, timeout=LIMIT_S)
        assert sorted(values) == sorted([i for i in range(20) for _ in range(20)] + [50 * MB] * 4)
    del large, refs
    assert ray.get(length.remote(b""), timeout=LIMIT_S) == 0
    assert wait_until(lambda: shared_bytes() < 64 * MB, LIMIT_S)


def test_large_results_are_used_where_they_were_made_and_elsewhere(tmp_path: Path) -> None:
    @ray.remote
    def make(i: int) -> bytes:
        return bytes([i]) * (10 * MB)

    @ray.remote
    def use(data: bytes, *_: Any) -> tuple[int, int]:
        return data[0], os.getpid()

    @ray.remote
    def kill() -> None:
        os._exit(3)

    made = [make.remote(i) for i in range(4)]
    used = ray.get([use.remote(ref) for ref in made for _ in range(10)], timeout=LIMIT_S)
    assert [value for value, _ in used] == [i for i in range(4) for _ in range(10)]
    for _ in range(2):  # nobody's home is left
        with pytest.raises(WorkerCrashedError):
            ray.get(kill.options(max_retries=0).remote(), timeout=LIMIT_S)
    again = ray.get([use.remote(ref, other) for ref in made for other in made], timeout=LIMIT_S)
    assert [value for value, _ in again] == [i for i in range(4) for _ in range(4)]


@pytest.mark.parametrize(
    ("how", "size"), [("option", "off"), ("option", 7), ("init", 1), ("init", 7), ("variable", "off")]
)
def test_batches_as_large_as_the_program_wants(how: str, size: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    task: Any = ray.remote(lambda x: 2 * x)
    if how == "option":
        ray.init(num_cpus=2)
        task = task.options(batching=size)
    elif how == "init":
        ray.init(num_cpus=2, batching=size)
    else:
        monkeypatch.setenv("GRAINWISE_BATCHING", str(size))
        ray.init(num_cpus=2)
    most = 1 if size == "off" else size
    sent = SentBatches()
    for _ in range(2):
        with sent_together():
            refs = [task.remote(i) for i in range(200)]
        assert ray.get(refs, timeout=LIMIT_S) == [2 * i for i in range(200)]
    assert max(count for count, _ in sent.batches) == most
    with sent_together():
        head = task.remote(1)
        chain = [head]
        for _ in range(10):
            chain.append(task.remote(chain[-1]))
        mixed = [each for i in range(20) for each in (task.remote(i), add.options(batching="auto").remote(i))]
    assert ray.get(chain[-1], timeout=LIMIT_S) == 2**11
    assert ray.get(mixed, timeout=LIMIT_S) == [v for i in range(20) for v in (2 * i, i + 1)]
