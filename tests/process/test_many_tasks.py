"""Many tasks and many results at once: all correct, in little memory."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import grainwise as ray

from .full_pool import LIMIT_S
from .shared_memory import resident_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory in /proc")


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


class BusyWorkers:
    """Keeps both workers busy for the length of a `with` block: what is submitted in it stays outstanding."""

    def __init__(self, folder: Path) -> None:
        self.fifos = [str(folder / f"gate-{i}") for i in range(2)]
        for fifo in self.fifos:
            os.mkfifo(fifo)

    def __enter__(self) -> None:
        hold = ray.remote(lambda path: Path(path).read_text())
        self.refs = [hold.remote(fifo) for fifo in self.fifos]
        self.files = [open(fifo, "w") for fifo in self.fifos]  # noqa: SIM115 - opens when the task has begun

    def __exit__(self, *_: object) -> None:
        for file in self.files:
            file.close()
        ray.get(self.refs, timeout=LIMIT_S)


def test_a_hundred_thousand_outstanding_tasks_take_less_than_a_kilobyte_each(tmp_path: Path) -> None:
    count = 100_000
    double = ray.remote(lambda x: 2 * x)
    with BusyWorkers(tmp_path):
        gc.collect()
        before = resident_bytes()
        refs = [double.remote(i) for i in range(count)]
        grown = resident_bytes() - before
    assert ray.get(refs, timeout=2 * LIMIT_S) == [2 * i for i in range(count)]
    assert grown < 1024 * count


def test_outstanding_tasks_with_several_arguments(tmp_path: Path) -> None:
    count = 30_000
    add = ray.remote(lambda x, y, *, z: (x + y, z))
    with BusyWorkers(tmp_path):
        gc.collect()
        before = resident_bytes()
        refs = [add.remote(i, i, z=str(i)) for i in range(count)]
        grown = resident_bytes() - before
    assert ray.get(refs, timeout=2 * LIMIT_S) == [(2 * i, str(i)) for i in range(count)]
    assert grown < 1024 * count


def test_a_million_tasks() -> None:
    count = 1_000_000
    double = ray.remote(lambda x: 2 * x)
    gc.collect()
    before = resident_bytes()
    refs = [double.remote(i) for i in range(count)]
    values = ray.get(refs, timeout=4 * LIMIT_S)
    grown = resident_bytes() - before
    assert values == [2 * i for i in range(count)]
    assert grown < 1024 * count


def test_five_thousand_results_of_a_hundred_kilobytes() -> None:
    make = ray.remote(lambda i: i.to_bytes(4, "little") * 25_000)
    refs = [make.remote(i) for i in range(5000)]
    for i, ref in enumerate(refs):
        value = ray.get(ref, timeout=LIMIT_S)
        assert len(value) == 100_000
        assert value[:4] == value[-4:] == i.to_bytes(4, "little")


def test_thousands_of_results_of_every_size_around_the_limits() -> None:
    """Inline or shared, one by one or in batches: the threshold between them must not show."""
    sizes = [0, 1, 4095, 4096, 4097, 65_535, 65_536, 65_537, 262_143, 262_144, 300_000]
    make = ray.remote(lambda n, kind: bytes([n % 251]) * n if kind else [bytes([n % 251]) * n, n])
    refs = [make.remote(n, kind) for _ in range(30) for n in sizes for kind in (0, 1)]
    values = ray.get(refs, timeout=2 * LIMIT_S)
    expected = [bytes([n % 251]) * n if kind else [bytes([n % 251]) * n, n] for n in sizes for kind in (0, 1)]
    assert values == expected * 30


def test_tasks_of_many_functions_at_once() -> None:
    functions = [ray.remote(lambda x, n=n: n * x) for n in range(200)]
    refs = [function.remote(i) for i in range(10) for function in functions]
    assert ray.get(refs, timeout=2 * LIMIT_S) == [n * i for i in range(10) for n in range(200)]


def test_results_that_nobody_keeps_do_no_harm() -> None:
    make = ray.remote(lambda n: bytes(n))
    for _ in range(300):
        make.remote(100_000)
    assert len(ray.get(make.remote(5), timeout=LIMIT_S)) == 5
