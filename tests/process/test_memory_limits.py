"""Memory runs short, of a task or of the machine: the right worker is killed, and never the program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest

import grainwise as ray
from grainwise import exceptions
from grainwise.engine import current
from grainwise.engine.driver import memory_monitor
from grainwise.engine.wire import control
from grainwise.errors import ActorDiedError, OutOfMemoryError, TaskCancelledError

from .full_pool import LIMIT_S, RunLog
from .signposts import Sign, wait_until_gone

MB = 1 << 20
GB = 1 << 30
remote: Any = ray.remote


def get(refs: Any) -> Any:
    return ray.get(refs, timeout=LIMIT_S)


def grow(num_mb: int) -> bytearray:
    """Take so much memory, pages and all."""
    return bytearray(b"x" * (num_mb * MB))


class Meter:
    """Says what the machine has in use, of 100 GB."""

    def __init__(self) -> None:
        self.used_gb = 50.0
        self.num_high = 0
        """So many readings say 99."""

    def read(self) -> tuple[int, int]:
        used_gb = self.used_gb
        if self.num_high:
            self.num_high -= 1
            used_gb = 99.0
        return int(used_gb * GB), 100 * GB


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meter]:
    made = Meter()
    monkeypatch.setattr(memory_monitor, "read_memory", lambda: made.read())
    monkeypatch.setattr(memory_monitor, "FIRST_DELAY_S", 0.01)
    monkeypatch.setenv("GRAINWISE_MEMORY_MONITOR_REFRESH_S", "0.005")
    ray.init(num_cpus=3)
    yield made
    ray.shutdown()


def make_hold(folder: Path) -> tuple[RunLog, Callable[[str], str]]:
    """Return a task that waits until it may go on, and notes its runs."""
    log = RunLog(folder)

    def hold(name: str) -> str:
        log.note(name)
        Sign(folder / f"{name}-begun").put_up()
        Sign(folder / f"{name}-gate").wait()
        return name

    return log, hold


def start(folder: Path, task: Any, *names: str) -> list[Any]:
    """Start tasks one after the other; return their refs when all of them run."""
    refs = []
    for name in names:
        refs.append(task.remote(name))
        Sign(folder / f"{name}-begun").wait()
    return refs


def let_go(folder: Path, *names: str) -> None:
    for name in names:
        Sign(folder / f"{name}-gate").put_up()


# --- limits of a task or an actor ---------------------------------------------------------------------------


def test_a_task_that_takes_more_than_it_may_is_killed(tmp_path: Path) -> None:
    ray.init(num_cpus=2)
    log, hold = make_hold(tmp_path)

    @remote(memory=60 * MB)
    def big(num_mb: int, name: str) -> int:
        data = grow(num_mb)
        if num_mb > 60:
            hold(name)
        return len(data)

    assert get(big.remote(10, "")) == 10 * MB
    with pytest.raises(OutOfMemoryError) as caught:
        get(big.remote(150, "big"))
    error = caught.value
    assert error is not None
    assert isinstance(error, exceptions.OutOfMemoryError)
    assert error.limit_bytes == 60 * MB
    assert error.used_bytes > 60 * MB
    text = str(error)
    assert "big' was killed because it took more memory than it may — expected at most 60.0 MiB, got" in text
    assert f"in worker {error.pid}" in text
    assert "memory of the machine in use:" in text
    assert f"pid {os.getpid()}  the program itself" in text
    assert len(log.runs()) <= 1  # it would come to the same end again
    wait_until_gone(error.pid or 0)
    assert get(big.remote(1, "")) == MB
    assert ray.available_resources() == ray.cluster_resources()


def test_shared_objects_do_not_count() -> None:
    ray.init(num_cpus=2)
    array = numpy.ones(120 * MB, dtype="u1")

    @remote(memory=60 * MB)
    def add(values: Any) -> int:
        for _ in range(3):
            total = int(values.sum(dtype="i8"))
        return total

    assert get(add.remote(array)) == 120 * MB


def test_an_actor_that_takes_more_than_it_may_is_killed(tmp_path: Path) -> None:
    ray.init(num_cpus=2)
    log, hold = make_hold(tmp_path)

    @remote(memory=60 * MB, max_restarts=1)
    class Store:
        def __init__(self) -> None:
            self.data: Any = b""

        def grow(self, num_mb: int) -> int:
            self.data = grow(num_mb)
            if num_mb > 60:
                hold("grow")
            return len(self.data)

    store = Store.remote()
    assert get(store.grow.remote(10)) == 10 * MB
    with pytest.raises(OutOfMemoryError, match="took more memory than it may"):
        get(store.grow.remote(150))
    assert get(store.grow.remote(5)) == 5 * MB  # it was restarted, with the same limit
    refs = [store.grow.remote(150), store.grow.remote(1)]
    with pytest.raises(OutOfMemoryError):
        get(refs[0])
    with pytest.raises(ActorDiedError, match="took more memory than it may") as caught:
        get(refs[1])
    assert isinstance(caught.value.__cause__, OutOfMemoryError)
    assert len(log.runs()) <= 2


# --- the machine --------------------------------------------------------------------------------------------


def test_the_newest_task_goes_and_runs_again_later(tmp_path: Path, meter: Meter) -> None:
    log, hold = make_hold(tmp_path)
    refs = start(tmp_path, remote(hold), "old", "new")
    meter.num_high = 1
    while log.runs().count("new") < 2:
        assert ray.wait(refs, num_returns=1, timeout=0.01)[0] == []
    let_go(tmp_path, "old", "new")
    assert get(refs) == ["old", "new"]
    assert log.runs() == ["old", "new", "new"]
    assert meter.num_high == 0


def test_what_may_not_run_again_is_spared_first(tmp_path: Path, meter: Meter) -> None:
    log, hold = make_hold(tmp_path)
    refs = start(tmp_path, remote(hold), "again")
    refs += start(tmp_path, remote(max_retries=0)(hold), "once")
    meter.num_high = 1
    while log.runs().count("again") < 2:
        assert ray.wait(refs, num_returns=1, timeout=0.01)[0] == []
    let_go(tmp_path, "again", "once")
    assert get(refs) == ["again", "once"]
    assert sorted(log.runs()) == ["again", "again", "once"]


def test_then_it_goes_too_and_fails(tmp_path: Path, meter: Meter) -> None:
    _, hold = make_hold(tmp_path)
    refs = start(tmp_path, remote(max_retries=0)(hold), "old", "new")
    meter.num_high = 1
    with pytest.raises(OutOfMemoryError) as caught:
        get(refs[1])
    text = str(caught.value)
    assert "was killed because the machine ran short of memory" in text
    assert "expected at most 95% of 100.0 GiB in use, got 99.0 GiB" in text
    assert "largest processes of this session:" in text
    let_go(tmp_path, "old")
    assert get(refs[0]) == "old"


def test_a_task_alone_fails_because_nobody_is_left_to_make_room(tmp_path: Path, meter: Meter) -> None:
    log, hold = make_hold(tmp_path)
    (ref,) = start(tmp_path, remote(hold), "alone")
    meter.used_gb = 99.0
    with pytest.raises(OutOfMemoryError):
        get(ref)
    assert log.runs() == ["alone"]
    meter.used_gb = 50.0
    let_go(tmp_path, "alone")
    assert get(remote(hold).remote("alone")) == "alone"


def test_it_is_not_charged_to_max_retries(tmp_path: Path, meter: Meter) -> None:
    log, hold = make_hold(tmp_path)
    refs = start(tmp_path, remote(max_retries=1)(hold), "old", "new")
    for number in range(2, 5):
        meter.num_high = 1
        while log.runs().count("new") < number:
            assert ray.wait(refs, num_returns=1, timeout=0.01)[0] == []
    let_go(tmp_path, "old", "new")
    assert get(refs) == ["old", "new"]


def test_so_many_runs_and_no_more(tmp_path: Path, meter: Meter, monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    monkeypatch.setenv("GRAINWISE_TASK_OOM_RETRIES", "1")
    ray.init(num_cpus=3)
    log, hold = make_hold(tmp_path)
    refs = start(tmp_path, remote(hold), "old", "new")
    meter.num_high = 1
    while log.runs().count("new") < 2:
        assert ray.wait(refs, num_returns=1, timeout=0.01)[0] == []
    meter.num_high = 1
    with pytest.raises(OutOfMemoryError):
        get(refs[1])
    let_go(tmp_path, "old")
    assert get(refs[0]) == "old"


def test_more_than_fits_ends_well_after_all(meter: Meter) -> None:
    """Ten tasks of 30 GB on a machine of 80: some are killed and wait, all of them end."""

    def used_gb() -> float:
        begun = [each for each in engine.pool.workers.values() if each.words[control.SEQ] in each.batches]
        return 5.0 + 30.0 * len(begun)

    engine: Any = current.current()
    meter.read = lambda: (int(used_gb() * GB), 80 * GB)  # type: ignore[method-assign]
    refs = [remote(spin).options(batching="off").remote(i) for i in range(10)]
    assert get(refs) == list(range(10))
    assert not engine.memory.has_work()


def spin(number: int) -> int:
    for _ in range(300_000):
        pass
    return number


def test_a_killed_task_that_waits_can_be_cancelled(
    tmp_path: Path, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_monitor, "FIRST_DELAY_S", 1000.0)
    engine: Any = current.current()
    _, hold = make_hold(tmp_path)
    refs = start(tmp_path, remote(hold), "old", "new", "newer")
    for number in (1, 2):
        meter.num_high = 1
        while len(engine.memory._later) < number:
            assert ray.wait(refs, num_returns=1, timeout=0.01)[0] == []
    ray.cancel(refs[2])
    with pytest.raises(TaskCancelledError):
        get(refs[2])
    let_go(tmp_path, "old")
    assert get(refs[0]) == "old"
    assert ray.wait([refs[1]], timeout=0.01)[0] == []  # and the session ends although it waits


def test_actors_go_before_nobody_but_what_may_not_run_again(tmp_path: Path, meter: Meter) -> None:
    _, hold = make_hold(tmp_path)

    @remote
    class Holder:
        def hold(self, name: str) -> str:
            return hold(name)

        def pid(self) -> int:
            return os.getpid()

    holder = Holder.remote()
    refs = start(tmp_path, holder.hold, "actor")
    meter.num_high = 1
    with pytest.raises(OutOfMemoryError):
        get(refs[0])
    with pytest.raises(ActorDiedError, match="ran short of memory"):
        get(holder.pid.remote())


def test_items_of_a_map_are_tried_again(tmp_path: Path, meter: Meter) -> None:
    log, _ = make_hold(tmp_path)
    let_go(tmp_path, "0", "1", "2", "3")

    def item(number: int) -> str:
        if number == 2 and len(log.runs()) == 0:
            log.note("2")
            meter_sign.put_up()
            Sign(tmp_path / "never").wait()
        return str(number)

    meter_sign = Sign(tmp_path / "high")
    engine: Any = current.current()
    meter.read = lambda: ((99 if meter_sign.is_up() and not engine.counters.crashes else 50) * GB, 100 * GB)  # type: ignore[method-assign]
    assert list(ray.map(item, range(4), retries=1)) == ["0", "1", "2", "3"]


# --- readings -----------------------------------------------------------------------------------------------


def test_readings_of_this_machine() -> None:
    used, total = memory_monitor.read_memory()
    assert 0 < used < total
    before = memory_monitor.private_bytes(os.getpid())
    data = grow(40)
    assert memory_monitor.private_bytes(os.getpid()) - before > 20 * MB
    del data
    assert memory_monitor.private_bytes(2**22 + 1) == 0


def test_a_control_group_has_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_monitor, "CGROUP", str(tmp_path))
    machine = memory_monitor.read_memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_monitor.read_memory()[1] == machine[1]
    (tmp_path / "memory.max").write_text(f"{100 * MB}\n")
    (tmp_path / "memory.current").write_text(f"{90 * MB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {20 * MB}\nactive_file {10 * MB}\n")
    assert memory_monitor.read_memory() == (60 * MB, 100 * MB)


def test_the_kernel_takes_workers_first() -> None:
    ray.init(num_cpus=1)

    def score() -> int:
        return int(Path("/proc/self/oom_score_adj").read_text())

    assert get(remote(score).remote()) == 500
    assert score() < 500


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("GRAINWISE_MEMORY_USAGE_THRESHOLD", "1.5", "expected a share above 0 and up to 1, got 1.5"),
        ("GRAINWISE_MEMORY_MONITOR_REFRESH_S", "often", "expected a number, got 'often'"),
        ("GRAINWISE_TASK_OOM_RETRIES", "x", "expected a number, got 'x'"),
        ("GRAINWISE_RESOURCES", "disk", "expected JSON"),
        ("GRAINWISE_NUM_GPUS", "1.5", "expected a whole number"),
    ],
)
def test_wrong_settings_are_named(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, text: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable) as caught:
        ray.init()
    assert text in str(caught.value)


def test_settings_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("GRAINWISE_RESOURCES", '{"disk": 2}')
    monkeypatch.setenv("GRAINWISE_NUM_GPUS", "3")
    monkeypatch.setenv("GRAINWISE_MEMORY", str(5 * GB))
    ray.init(num_cpus=1)
    found = ray.cluster_resources()
    assert (found["disk"], found["GPU"], found["memory"]) == (2.0, 3.0, 5.0 * GB)
