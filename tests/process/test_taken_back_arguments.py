"""Large arguments of calls that a worker was sent and never began: their memory comes back all the same."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.engine.current import current

from .full_pool import LIMIT_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fills a small store")

MEGABYTE = 1 << 20


@pytest.fixture(autouse=True)
def _small_store() -> Iterator[None]:
    """Thirty arguments of a megabyte fit; what is not given back is soon missed."""
    ray.init(num_cpus=2, object_store_memory=32 * MEGABYTE, spill_dir="off")
    yield
    ray.shutdown()


def test_calls_taken_back_from_a_worker_that_is_busy(tmp_path: Path) -> None:
    """Quick calls were sent with a slow one; the other worker takes them over."""
    fifo = str(tmp_path / "gate")
    os.mkfifo(fifo)

    @ray.remote
    def measure(is_slow: bool, data: bytes, i: int = 0) -> int:
        if is_slow:
            Path(fifo).read_text()
        return len(data)

    engine: Any = current()
    for _ in range(20):
        ray.get([measure.remote(False, b"", i) for i in range(3000)], timeout=LIMIT_S)  # known to be quick
        stored = [ray.put(bytes([k]) * MEGABYTE) for k in range(8)]
        slow = measure.remote(True, b"")
        quick = [measure.remote(False, ref) for ref in stored]
        assert ray.get(quick, timeout=LIMIT_S) == [MEGABYTE] * 8
        Path(fifo).write_text("open")
        assert ray.get(slow, timeout=LIMIT_S) == 0
        del stored, quick
    assert engine.counters.taken_back > 0, "the test must reach what it is about"


def test_calls_that_a_task_gives_back_when_it_waits() -> None:
    """A task that waits for another can't run what was sent with it."""

    @ray.remote
    def one(x: int) -> int:
        return x

    @ray.remote
    def maybe_wait(waits: bool, data: bytes, i: int = 0) -> int:
        return ray.get(one.remote(1)) if waits else len(data)

    for _ in range(20):
        ray.get([maybe_wait.remote(False, b"", i) for i in range(3000)], timeout=LIMIT_S)
        stored = [ray.put(bytes([k]) * MEGABYTE) for k in range(8)]
        refs = [maybe_wait.remote(k % 2 == 0, ref) for k, ref in enumerate(stored)]
        assert ray.get(refs, timeout=LIMIT_S) == [1 if k % 2 == 0 else MEGABYTE for k in range(8)]
        del stored, refs


def test_cancelled_calls(tmp_path: Path) -> None:
    gates = [str(tmp_path / name) for name in "ab"]
    for gate in gates:
        os.mkfifo(gate)

    @ray.remote
    def measure(gate: str, data: bytes, i: int = 0) -> int:
        if gate:
            Path(gate).read_text()
        return len(data)

    for _ in range(20):
        ray.get([measure.remote("", b"", i) for i in range(3000)], timeout=LIMIT_S)
        stored = [ray.put(bytes([k]) * MEGABYTE) for k in range(8)]
        slow = [measure.remote(gate, b"") for gate in gates]
        queued = [measure.remote("", ref) for ref in stored]
        for ref in queued:
            ray.cancel(ref)
        for gate in gates:
            Path(gate).write_text("open")
        ray.wait([*slow, *queued], num_returns=10, timeout=LIMIT_S)
        del stored, queued


def test_an_argument_behind_one_that_can_not_be_unpickled() -> None:
    class Unreadable:
        def __reduce__(self) -> tuple[Any, ...]:
            return int, ("not a number",)

    take = ray.remote(lambda first, second: None)
    for k in range(40):
        stored = ray.put(bytes([k]) * MEGABYTE)
        with pytest.raises(ray.errors.SerializationError):
            ray.get(take.remote(Unreadable(), stored), timeout=LIMIT_S)
        del stored
