"""`num_cpus` limits what runs at once: whole, fractional, zero, and more than there is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import grainwise as ray
from grainwise.errors import InfeasibleTaskError, TaskError

from .full_pool import LIMIT_S, RunLog, assert_pool_is_full
from .signposts import Sign


class Room:
    """Counts who is inside: each guest makes a file on entering and removes it on leaving."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder / "room")
        os.mkdir(self.folder)

    @contextlib.contextmanager
    def visit(self, name: str) -> Iterator[set[str]]:
        """Enter, and yield who is inside, oneself included."""
        path = os.path.join(self.folder, name)
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        try:
            yield set(os.listdir(self.folder))
        finally:
            os.unlink(path)

    def wait_for_others(self, name: str, num_guests: int) -> int:
        """Stay until so many guests have come (nobody leaves before); return how many were seen."""
        Sign(os.path.join(self.folder, name)).put_up()
        for i in range(num_guests):
            Sign(os.path.join(self.folder, str(i))).wait(LIMIT_S / 2)
        return len([entry for entry in os.listdir(self.folder) if entry.isdigit()])


def spin(n: int = 2_000) -> int:
    return sum(i * i for i in range(n))


def test_tasks_that_need_both_cpus_never_overlap(tmp_path: Path) -> None:
    ray.init(num_cpus=2)
    room = Room(tmp_path)

    @ray.remote(num_cpus=2)
    def alone(name: str) -> set[str]:
        with room.visit(name) as guests:
            spin()
            return guests | set(os.listdir(room.folder))

    seen = ray.get([alone.remote(f"task-{i}") for i in range(200)], timeout=LIMIT_S)
    assert seen == [{f"task-{i}"} for i in range(200)]


def test_nor_do_they_overlap_with_others(tmp_path: Path) -> None:
    """Tasks of one CPU run beside each other, but not beside one that needs both."""
    ray.init(num_cpus=2)
    room = Room(tmp_path)

    @ray.remote
    def visit(name: str) -> set[str]:
        with room.visit(name) as guests:
            spin()
            return guests | set(os.listdir(room.folder))

    both = visit.options(num_cpus=2)
    names = [f"{'both' if i % 3 == 0 else 'one'}-{i}" for i in range(150)]
    refs = [(both if name.startswith("both") else visit).remote(name) for name in names]
    for name, guests in zip(names, ray.get(refs, timeout=LIMIT_S)):
        assert name in guests
        if name.startswith("both"):
            assert guests == {name}
        else:
            assert not any(guest.startswith("both") for guest in guests)


def test_a_big_child_does_not_run_beside_another_task(tmp_path: Path) -> None:
    """A parent lends the CPU that it has, not the one that a neighbour has."""
    ray.init(num_cpus=2)
    begun, gate, asked = (Sign(tmp_path / name) for name in ("begun", "gate", "asked"))
    log = RunLog(tmp_path)

    @ray.remote
    def neighbour() -> None:
        begun.put_up()
        gate.wait()
        log.note("neighbour left")

    @ray.remote(num_cpus=2)
    def big() -> None:
        log.note("big child")

    @ray.remote
    def parent() -> None:
        child = big.remote()
        asked.put_up()
        ray.get(child)

    refs = [neighbour.remote(), parent.remote()]
    begun.wait()
    asked.wait()
    ready, _ = ray.wait(refs, timeout=0.2)
    assert ready == []
    gate.put_up()
    ray.get(refs, timeout=LIMIT_S)
    assert log.runs() == ["neighbour left", "big child"]


def test_one_cpu_is_one_task_at_a_time(tmp_path: Path) -> None:
    ray.init(num_cpus=1)
    room = Room(tmp_path)

    @ray.remote
    def visit(name: str) -> set[str]:
        with room.visit(name) as guests:
            spin()
            return guests | set(os.listdir(room.folder))

    @ray.remote
    def visit_too(name: str) -> set[str]:
        with room.visit(name) as guests:
            spin()
            return guests | set(os.listdir(room.folder))

    refs = [(visit if i % 2 else visit_too).remote(f"task-{i}") for i in range(200)]
    assert ray.get(refs, timeout=LIMIT_S) == [{f"task-{i}"} for i in range(200)]


@pytest.mark.parametrize(
    ("num_cpus", "share", "at_once"), [(2, 0.5, 4), (1, 0.25, 4), (2, 1, 2), (1.5, 0.5, 3)]
)
def test_as_many_run_at_once_as_there_is_room_for(
    tmp_path: Path, num_cpus: float, share: float, at_once: int
) -> None:
    """They wait for each other, so they end only if they all run at the same time."""
    ray.init(num_cpus=num_cpus)
    room = Room(tmp_path)
    meet = ray.remote(num_cpus=share)(room.wait_for_others)
    refs = [meet.remote(str(i), at_once) for i in range(at_once)]
    assert ray.get(refs, timeout=LIMIT_S) == [at_once] * at_once


def test_and_no_more(tmp_path: Path) -> None:
    """Thirds do not add up to exactly one in floating point; the limit holds all the same."""
    ray.init(num_cpus=1)
    room = Room(tmp_path)

    @ray.remote(num_cpus=1 / 3)
    def visit(name: str) -> int:
        with room.visit(name) as guests:
            spin()
            return max(len(guests), len(os.listdir(room.folder)))

    counts = ray.get([visit.remote(str(i)) for i in range(200)], timeout=LIMIT_S)
    assert max(counts) <= 3
    meet = ray.remote(num_cpus=1 / 3)(room.wait_for_others)
    assert ray.get([meet.remote(str(i), 3) for i in range(3)], timeout=LIMIT_S) == [3, 3, 3]


def test_zero_cpus_run_while_all_are_taken(tmp_path: Path) -> None:
    ray.init(num_cpus=1)
    begun, gate = Sign(tmp_path / "begun"), Sign(tmp_path / "gate")

    @ray.remote
    def busy() -> str:
        begun.put_up()
        return gate.wait()

    @ray.remote(num_cpus=0)
    def free(x: int) -> int:
        return x + 1

    ref = busy.remote()
    begun.wait()
    assert ray.get([free.remote(i) for i in range(50)], timeout=LIMIT_S) == list(range(1, 51))
    gate.put_up("done")
    assert ray.get(ref, timeout=LIMIT_S) == "done"


def test_zero_cpus_leave_the_others_theirs(tmp_path: Path) -> None:
    """Long tasks without a CPU do not keep a normal one from starting."""
    ray.init(num_cpus=1)
    gate = Sign(tmp_path / "gate")
    waiters = [ray.remote(num_cpus=0)(gate.wait).remote() for _ in range(4)]
    assert ray.get(ray.remote(spin).remote(), timeout=LIMIT_S) == spin()
    gate.put_up("done")
    assert ray.get(waiters, timeout=LIMIT_S) == ["done"] * 4


def test_more_than_there_is_can_never_run() -> None:
    ray.init(num_cpus=2)
    greedy = ray.remote(num_cpus=3)(spin)
    with pytest.raises(InfeasibleTaskError, match=r"num_cpus=3 .* at most 2") as info:
        greedy.remote()
    assert isinstance(info.value, ValueError)
    assert "spin" in str(info.value)
    assert ray.get(greedy.options(num_cpus=2).remote(), timeout=LIMIT_S) == spin()


def test_nor_can_a_task_ask_for_it() -> None:
    ray.init(num_cpus=1)

    @ray.remote
    def parent() -> object:
        return ray.get(ray.remote(num_cpus=2)(spin).remote())

    with pytest.raises(InfeasibleTaskError, match=r"num_cpus=2 .* at most 1") as info:
        ray.get(parent.remote(), timeout=LIMIT_S)
    assert isinstance(info.value, TaskError)


def test_a_task_that_waits_lends_its_cpus(tmp_path: Path) -> None:
    """Parents that take all the CPUs between them still see their children run."""
    ray.init(num_cpus=2)

    @ray.remote(num_cpus=2)
    def parent(depth: int) -> int:
        return 1 + (ray.get(parent.remote(depth - 1)) if depth else 0)

    assert ray.get([parent.remote(5) for _ in range(4)], timeout=LIMIT_S) == [6] * 4


def test_after_a_crash_the_cpus_are_free_again(tmp_path: Path) -> None:
    ray.init(num_cpus=2)

    @ray.remote(num_cpus=2, max_retries=0)
    def crash() -> None:
        os._exit(1)

    for _ in range(3):
        with pytest.raises(ray.errors.WorkerCrashedError):
            ray.get(crash.remote(), timeout=LIMIT_S)
    assert ray.get(ray.remote(num_cpus=2)(spin).remote(), timeout=LIMIT_S) == spin()
    assert_pool_is_full(tmp_path)
