"""Tasks sent behind what they depend on, in the same batch, when something goes wrong in the middle."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.engine.current import current
from grainwise.errors import SerializationError, TaskCancelledError, TaskError, WorkerCrashedError

from .full_pool import LIMIT_S, RunLog, assert_pool_is_full
from .hostile_values import Explodes
from .sent_together import SentBatches, make_known, sent_together
from .signposts import Sign

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's exit statuses")


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


@ray.remote
def add(*values: int) -> int:
    return sum(values) + 1


@ray.remote
def fail(x: int) -> int:
    raise ValueError(f"no {x}")


def chain_through(middle: Any, length: int = 5) -> list[ray.ObjectRef[Any]]:
    """Return a chain that is sent as one: some links, the middle, some links."""
    with sent_together():
        refs = [add.remote(0)]
        for _ in range(length):
            refs.append(add.remote(refs[-1]))
        refs.append(middle.remote(refs[-1]))
        for _ in range(length):
            refs.append(add.remote(refs[-1]))
    return refs


def test_a_middle_that_raises() -> None:
    make_known(add.remote)
    sent = SentBatches()
    refs = chain_through(fail)
    for ref in refs[6:]:
        with pytest.raises(ValueError, match="no 6") as info:
            ray.get(ref, timeout=LIMIT_S)
        assert isinstance(info.value, TaskError)
        assert "fail" in info.value.task_name
    assert ray.get(refs[:6], timeout=LIMIT_S) == list(range(1, 7))
    assert sent.num_followers >= 6


def test_what_follows_a_failure_does_not_run(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    use = ray.remote(lambda *_: log.note())
    make_known(lambda i: add.remote(i))
    with sent_together():
        good, bad = add.remote(0), fail.remote(1)
        refs = [use.remote(bad), use.remote(good, bad), use.remote(bad, good), use.remote([1], bad, bad)]
        refs.append(use.remote(refs[1], good))
    for ref in refs:
        with pytest.raises(ValueError, match="no 1"):
            ray.get(ref, timeout=LIMIT_S)
    assert (log.runs(), ray.get(good)) == ([], 1)


def test_an_input_that_has_failed_beside_one_under_way() -> None:
    """It waits for the other, and then there is nothing to run."""
    make_known(add.remote)
    bad = fail.remote(1)
    ray.wait([bad], timeout=LIMIT_S)
    sent = SentBatches()
    with sent_together():
        heads = [add.remote(i) for i in range(10)]
        refs = [add.remote(bad, head) for head in heads] + [add.remote(head, bad) for head in heads]
        fine = [add.remote(head) for head in heads]
    assert ray.get(fine, timeout=LIMIT_S) == [i + 2 for i in range(10)]
    for ref in refs:
        with pytest.raises(ValueError, match="no 1"):
            ray.get(ref, timeout=LIMIT_S)
    assert sent.num_followers


def test_a_middle_that_is_worth_a_retry(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote(max_retries=2, retry_exceptions=[ValueError])
    def flaky(x: int) -> int:
        log.note()
        if len(log.runs()) < 3:
            raise ValueError("not yet")
        return x + 1

    make_known(add.remote)
    assert ray.get(chain_through(flaky)[-1], timeout=LIMIT_S) == 12
    assert len(log.runs()) == 3


def test_a_failed_input_does_not_count_as_an_own_exception(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote(max_retries=5, retry_exceptions=True)
    def use(x: int) -> None:
        log.note()

    make_known(add.remote)
    engine: Any = current()
    before = engine.counters.retries
    with sent_together():
        refs = [use.remote(fail.remote(add.remote(i))) for i in range(3)]
    for i, ref in enumerate(refs):
        with pytest.raises(ValueError, match=f"no {i + 1}"):
            ray.get(ref, timeout=LIMIT_S)
    assert (log.runs(), engine.counters.retries) == ([], before)


@pytest.mark.parametrize("max_retries", [0, 1])
def test_a_middle_that_kills_its_worker(max_retries: int, tmp_path: Path) -> None:
    log, poisoned = RunLog(tmp_path), RunLog(tmp_path)

    @ray.remote
    def note(x: int) -> int:
        log.note(x)
        return x + 1

    @ray.remote(max_retries=max_retries)
    def poison(x: int) -> int:
        poisoned.note()
        os.kill(os.getpid(), signal.SIGKILL)
        return x

    make_known(add.remote)
    with sent_together():
        head = note.remote(0)
        middle = poison.remote(note.remote(head))
        behind = note.remote(note.remote(middle))
        beside = add.remote(head)
    for ref in (middle, behind):
        with pytest.raises(WorkerCrashedError, match="SIGKILL") as info:
            ray.get(ref, timeout=LIMIT_S)
        assert "poison" in info.value.task_name
    assert ray.get([head, beside], timeout=LIMIT_S) == [1, 2]
    assert len(poisoned.runs()) == 1 + max_retries
    assert set(log.runs()) == {"0", "1"}
    assert_pool_is_full(tmp_path)


def test_tasks_that_must_not_run_twice_do_not_when_a_neighbour_dies(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote(max_retries=0)
    def once(x: int, dies: bool = False) -> int:
        log.note(x)
        if dies:
            os._exit(3)
        return x + 1

    for _ in range(2):
        ray.get([once.remote(-1) for _ in range(1000)], timeout=LIMIT_S)
    sent = SentBatches()
    with sent_together():
        refs = [once.remote(0)]
        for i in range(20):
            refs.append(once.remote(refs[-1], i == 10))
    with pytest.raises(WorkerCrashedError, match="exit code 3"):
        ray.get(refs[-1], timeout=LIMIT_S)
    assert ray.get(refs[:11], timeout=LIMIT_S) == list(range(1, 12))
    assert [run for run in log.runs() if run != "-1"] == [str(i) for i in range(12)]
    assert sent.num_followers >= 10


def test_a_worker_killed_from_outside_while_a_follower_runs(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    begun = Sign(tmp_path / "begun")

    @ray.remote
    def hold(x: int) -> int:
        log.note()
        if len(log.runs()) == 1:
            begun.put_up(str(os.getpid()))
            threading.Event().wait()
        return x

    make_known(add.remote)
    refs = chain_through(hold)
    ray.wait(refs[:1], timeout=LIMIT_S)
    os.kill(int(begun.wait()), signal.SIGKILL)
    assert ray.get(refs[-1], timeout=LIMIT_S) == 11
    assert len(log.runs()) == 2


@pytest.mark.parametrize("when", ["queued", "running", "force"])
def test_a_middle_that_is_cancelled(when: str, tmp_path: Path) -> None:
    begun = Sign(tmp_path / "begun")
    log = RunLog(tmp_path)

    @ray.remote
    def hold(x: int) -> int:
        begun.put_up()
        threading.Event().wait()
        return x

    note = ray.remote(lambda x: log.note())
    make_known(add.remote)
    with sent_together():
        head = add.remote(0)
        middle = hold.remote(head)
        refs = [add.remote(middle), note.remote(middle)]
        refs += [add.remote(ref) for ref in refs]
        beside = add.remote(head)
        if when == "queued":
            ray.cancel(middle)
    if when != "queued":
        ray.wait([head], timeout=LIMIT_S)
        begun.wait()
        ray.cancel(middle, force=when == "force")
    for ref in [middle, *refs]:
        with pytest.raises(TaskCancelledError) as info:
            ray.get(ref, timeout=LIMIT_S)
        assert "hold" in info.value.task_name
    assert ray.get(beside, timeout=LIMIT_S) == 2
    assert log.runs() == []


def test_a_head_cancelled_after_it_was_sent_and_before_it_runs(tmp_path: Path) -> None:
    """Its followers lie in the same batch and have not run either."""
    begun, gate = Sign(tmp_path / "begun"), Sign(tmp_path / "gate")
    log = RunLog(tmp_path)

    @ray.remote
    def hold(x: int, holds: bool = False) -> int:
        if holds:
            begun.put_up()
            gate.wait()
        return x

    note = ray.remote(lambda x: log.note())
    ray.shutdown()
    ray.init(num_cpus=1)
    make_known(hold.remote)
    with sent_together():
        first = hold.remote(1, True)
        head = hold.remote(2)
        refs = [note.remote(head), hold.remote(head)]
        refs.append(hold.remote(refs[1]))
    assert ray.wait([head], timeout=0)[0] == []
    begun.wait()
    ray.cancel(head)
    for ref in refs:
        with pytest.raises(TaskCancelledError):
            ray.get(ref, timeout=LIMIT_S)
    gate.put_up()
    assert ray.get(first, timeout=LIMIT_S) == 1
    assert log.runs() == []


def test_a_follower_cancelled_while_its_head_runs(tmp_path: Path) -> None:
    begun, gate = Sign(tmp_path / "begun"), Sign(tmp_path / "gate")
    log = RunLog(tmp_path)

    @ray.remote
    def hold(x: int) -> int:
        begun.put_up()
        gate.wait()
        return x

    note = ray.remote(lambda x: log.note())
    make_known(add.remote)
    with sent_together():
        head = hold.remote(1)
        behind = [note.remote(head), add.remote(head)]
        last = [add.remote(behind[0]), add.remote(behind[1])]
    assert ray.wait([head], timeout=0)[0] == []
    begun.wait()
    ray.cancel(behind[0])
    with pytest.raises(TaskCancelledError):
        ray.get(last[0], timeout=LIMIT_S)
    gate.put_up()
    assert ray.get([head, behind[1], last[1]], timeout=LIMIT_S) == [1, 2, 3]
    assert log.runs() == []


def test_results_that_resist() -> None:
    @ray.remote
    def make(kind: str, _: int) -> Any:
        return threading.Lock() if kind == "can't be pickled" else Explodes("ValueError('bang')")

    @ray.remote
    def use(value: Any) -> int:
        return 1

    make_known(add.remote)
    with sent_together():
        head = add.remote(0)
        lock, bomb = make.remote("can't be pickled", head), make.remote("can't be unpickled", head)
        refs = [use.remote(lock), use.remote(bomb)]
        refs += [add.remote(ref) for ref in refs]
        beside = [add.remote(head) for _ in range(5)]
    for ref in (lock, refs[0], refs[2]):
        with pytest.raises(SerializationError, match=r"result.*make.*pickled"):
            ray.get(ref, timeout=LIMIT_S)
    for ref in (refs[1], refs[3]):
        with pytest.raises(SerializationError, match=r"argument 'value'.*use.*unpickled"):
            ray.get(ref, timeout=LIMIT_S)
    assert ray.get(beside, timeout=LIMIT_S) == [2] * 5


def test_a_follower_function_that_can_not_be_unpickled() -> None:
    bomb = Explodes("ValueError('bang')")
    broken = ray.remote(lambda x: (x, bomb))
    make_known(add.remote)
    with sent_together():
        head = add.remote(0)
        refs = [add.remote(head), broken.remote(head)]
        refs += [add.remote(refs[0]), add.remote(refs[1])]
    assert ray.get([head, refs[0], refs[2]], timeout=LIMIT_S) == [1, 2, 3]
    for ref in (refs[1], refs[3]):
        with pytest.raises(SerializationError, match="function"):
            ray.get(ref, timeout=LIMIT_S)


@pytest.mark.parametrize("mode", ["barriers", "locks"])
def test_followers_of_a_slow_head_are_taken_over(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quick ones behind quick heads, in one batch with a head that holds: they run elsewhere."""
    ray.shutdown()
    monkeypatch.setenv("GRAINWISE_TAKE_BACK", mode)
    ray.init(num_cpus=4)
    gate, begun = Sign(tmp_path / "gate"), Sign(tmp_path / "begun")

    @ray.remote
    def hold(x: int, holds: bool = False) -> int:
        if holds:
            begun.put_up()
            gate.wait()
        return x + 1

    make_known(hold.remote)
    for _ in range(5):
        with sent_together():
            held = hold.remote(0, True)
            heads = [hold.remote(i) for i in range(40)]
            behind = [hold.remote(head) for head in heads]
            last = [hold.remote(each) for each in behind]
            of_held = [hold.remote(held) for _ in range(20)]
        assert ray.get(last, timeout=LIMIT_S) == [i + 3 for i in range(40)]
        begun.wait()
        assert ray.wait([held, *of_held], timeout=0)[0] == []
        gate.put_up()
        assert ray.get(of_held, timeout=LIMIT_S) == [2] * 20
        for sign in (gate, begun):
            os.unlink(sign.path)
