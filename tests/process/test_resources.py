"""GPUs, custom resources and memory are reserved: nobody has what others have, nobody waits without need."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import grainwise as ray
from grainwise.engine import current
from grainwise.errors import InfeasibleTaskError, WorkerCrashedError
from grainwise.util.scheduling_strategies import NodeAffinitySchedulingStrategy, NodeLabelSchedulingStrategy

from .full_pool import LIMIT_S
from .signposts import Sign, wait_until_gone

remote: Any = ray.remote


def get(refs: Any) -> Any:
    return ray.get(refs, timeout=LIMIT_S)


@pytest.fixture(autouse=True)
def _session(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ray.init(num_cpus=2, num_gpus=2, resources={"disk": 1, "slots": 3})
    yield
    assert_all_is_free()
    ray.shutdown()


def assert_all_is_free() -> None:
    """Fail if anything is still reserved; processes that are being ended may need a moment."""
    gc.collect()  # an exception may hold a handle
    deadline = monotonic() + LIMIT_S
    while ray.available_resources() != ray.cluster_resources():
        assert monotonic() < deadline, (ray.available_resources(), ray.cluster_resources())


@remote
def hold(begun: Sign, gate: Sign) -> int:
    begun.put_up()
    gate.wait()
    return os.getpid()


def assigned() -> dict[str, float]:
    return ray.get_runtime_context().get_assigned_resources()


def gpus() -> tuple[Any, ...]:
    context = ray.get_runtime_context()
    return ray.get_gpu_ids(), os.environ.get("CUDA_VISIBLE_DEVICES"), context.get_accelerator_ids()


def signs(folder: Path, name: str) -> tuple[Sign, Sign]:
    return Sign(folder / f"{name}-begun"), Sign(folder / f"{name}-gate")


# --- what there is ------------------------------------------------------------------------------------------


def test_what_the_session_has() -> None:
    found = ray.cluster_resources()
    assert found["GPU"] == 2.0
    assert found["disk"] == 1.0
    assert found["slots"] == 3.0
    assert found["memory"] > 0
    assert ray.nodes()[0]["Resources"] == found
    assert get(remote(ray.cluster_resources).remote()) == found
    assert ray.get_gpu_ids() == []


def test_memory_to_reserve() -> None:
    ray.shutdown()
    ray.init(num_cpus=2, _memory=1000)
    assert ray.cluster_resources()["memory"] == 1000.0
    with pytest.raises(InfeasibleTaskError, match="asks for memory=1001 - expected at most 1000"):
        remote(abs).options(memory=1001).remote(-1)


def test_a_task_knows_what_it_has() -> None:
    task = remote(assigned)
    assert get(task.remote()) == {"CPU": 1.0}
    assert get(task.options(num_cpus=0.5).remote()) == {"CPU": 0.5}
    assert get(task.options(num_cpus=0).remote()) == {}
    assert get(task.options(num_cpus=2, num_gpus=1, resources={"disk": 0.25}, memory=1 << 30).remote()) == {
        "CPU": 2.0,
        "GPU": 1.0,
        "disk": 0.25,
        "memory": float(1 << 30),
    }
    assert get([task.options(num_cpus=n).remote() for n in (1, 2, 0.5) * 10]) == [
        {"CPU": float(n)} for n in (1, 2, 0.5) * 10
    ]


def test_options_are_changed_one_by_one() -> None:
    task = remote(num_gpus=1, resources={"disk": 1})(assigned)
    assert get(task.options(num_gpus=0.5).remote()) == {"CPU": 1.0, "GPU": 0.5, "disk": 1.0}
    assert get(task.options(resources={"slots": 2}).remote()) == {"CPU": 1.0, "GPU": 1.0, "slots": 2.0}
    assert get(task.options(num_gpus=0, resources={}).remote()) == {"CPU": 1.0}
    assert get(task.options(num_cpus=0, accelerator_type="A100").remote()) == {"GPU": 1.0, "disk": 1.0}


def test_what_is_taken_is_not_available(tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "one")
    ref = hold.options(num_gpus=0.5, resources={"slots": 1}, memory=1 << 30).remote(begun, gate)
    begun.wait()
    free, all_there_is = ray.available_resources(), ray.cluster_resources()
    assert (free["CPU"], free["GPU"], free["slots"], free["disk"]) == (1.0, 1.5, 2.0, 1.0)
    assert free["memory"] == all_there_is["memory"] - (1 << 30)
    assert get(remote(ray.available_resources).remote())["slots"] == 2.0
    gate.put_up()
    get(ref)
    assert ray.available_resources() == all_there_is


# --- who waits ----------------------------------------------------------------------------------------------


def test_no_two_tasks_have_what_there_is_one_of(tmp_path: Path) -> None:
    path = tmp_path / "alone"

    @remote(resources={"disk": 1}, num_cpus=0)
    def alone(number: int) -> int:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        os.unlink(path)
        return number

    assert get([alone.remote(i) for i in range(200)]) == list(range(200))


def test_parts_of_a_resource_run_at_the_same_time(tmp_path: Path) -> None:
    all_begun = [signs(tmp_path, str(number)) for number in range(3)]
    task = hold.options(resources={"disk": 1 / 3}, num_cpus=0)
    refs = [task.remote(begun, gate) for begun, gate in all_begun]
    for begun, _ in all_begun:
        begun.wait()
    late_begun, late_gate = signs(tmp_path, "late")
    late_gate.put_up()
    late = task.remote(late_begun, late_gate)
    assert ray.wait([late], timeout=0.05)[0] == []
    for _, gate in all_begun:
        gate.put_up()
    assert len(set(get(refs))) == 3
    get(late)


def test_who_waits_for_a_resource_blocks_nobody_else(tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "holder")
    holder = hold.options(resources={"disk": 1}).remote(begun, gate)
    begun.wait()
    waiting = [remote(abs).options(resources={"disk": 1}).remote(-i) for i in range(20)]
    assert get([remote(abs).remote(-i) for i in range(1000)]) == list(range(1000))
    assert get(remote(abs).options(resources={"slots": 3}).remote(-1)) == 1
    assert get(remote(abs).options(num_gpus=2).remote(-2)) == 2
    assert ray.wait(waiting, timeout=0)[0] == []
    gate.put_up()
    assert get(waiting) == list(range(20))
    get(holder)


def test_ordinary_tasks_make_room_for_one_that_needs_a_cpu_and_more(tmp_path: Path) -> None:
    """It gets a CPU although there is always one more ordinary task that could have it."""
    begun, gate = signs(tmp_path, "special")
    ordinary = [remote(abs).remote(-i) for i in range(20_000)]
    special = hold.options(num_cpus=2, num_gpus=1).remote(begun, gate)
    more = [remote(abs).remote(-i) for i in range(20_000)]
    begun.wait()
    gate.put_up()
    get(special)
    assert get(ordinary) == get(more) == list(range(20_000))


def test_it_need_not_wait_for_what_is_behind_a_running_task(tmp_path: Path) -> None:
    """Tasks that were taken for tiny lie in batches; when one ends, its CPU goes to who waits for it."""
    folder = str(tmp_path)

    @remote
    def wait_for(name: str) -> str:
        if name:
            Sign(f"{folder}/{name}-begun").put_up()
            Sign(f"{folder}/{name}-gate").wait()
        return name

    get([wait_for.remote("") for _ in range(2000)])
    names = [f"late-{number}" for number in range(12)]
    refs = [wait_for.remote(name) for name in names]
    ray.wait(refs, timeout=0)
    deadline = monotonic() + LIMIT_S
    while len(running := [name for name in names if signs(tmp_path, name)[0].is_up()]) < 2:
        assert monotonic() < deadline
        ray.wait(refs, timeout=0.01)
    begun, gate = signs(tmp_path, "special")
    special = hold.options(num_cpus=1, num_gpus=1).remote(begun, gate)
    assert ray.wait([special], timeout=0.05)[0] == []
    signs(tmp_path, running[0])[1].put_up()
    begun.wait()
    gate.put_up()
    for name in names:
        signs(tmp_path, name)[1].put_up()
    get(special)
    assert get(refs) == names


def test_cpus_are_not_taken_twice(tmp_path: Path) -> None:
    first_begun, first_gate = signs(tmp_path, "first")
    first = hold.options(num_cpus=2).remote(first_begun, first_gate)
    first_begun.wait()
    second_begun, second_gate = signs(tmp_path, "second")
    second = hold.options(num_cpus=1, num_gpus=1).remote(second_begun, second_gate)
    assert ray.wait([second], timeout=0.05)[0] == []
    assert not second_begun.is_up()
    assert "CPU" not in ray.available_resources()
    first_gate.put_up()
    second_begun.wait()
    assert ray.available_resources()["CPU"] == 1.0
    second_gate.put_up()
    get([first, second])


def test_a_cancelled_waiter_lets_the_cpus_go(tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "holder")
    holder = hold.remote(begun, gate)
    begun.wait()
    wide = remote(abs).options(num_cpus=2, num_gpus=1).remote(-1)
    assert ray.wait([wide], timeout=0.05)[0] == []
    ray.cancel(wide)
    assert get(remote(abs).remote(-2)) == 2  # on the CPU that was kept for it
    gate.put_up()
    get(holder)


def test_a_call_that_comes_as_the_last_one_leaves_has_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = remote(ray.get_gpu_ids).options(num_gpus=1)
    reserved: Any = current.current().reserved  # type: ignore[union-attr]
    withdraw, late = reserved.withdraw, []

    def call_meanwhile(waiter: Any) -> None:
        withdraw(waiter)
        if not late:
            late.append(ask.remote())  # as another thread might at this very moment

    monkeypatch.setattr(reserved, "withdraw", call_meanwhile)
    first = get(ask.remote())
    assert len(first) == len(get(late[0])) == 1


def test_who_waits_for_others_lends_cpus_and_keeps_the_rest() -> None:
    @remote(num_cpus=2, num_gpus=1, resources={"slots": 2})
    def waits() -> dict[str, float]:
        return ray.get(remote(ray.available_resources).options(num_cpus=1).remote())

    seen = get(waits.remote())
    assert seen["CPU"] == 1.0
    assert seen["GPU"] == 1.0
    assert seen["slots"] == 1.0


def test_a_dead_worker_gives_back_what_it_had() -> None:
    @remote(num_gpus=2, resources={"disk": 1}, max_retries=1)
    def die() -> None:
        os._exit(3)

    with pytest.raises(WorkerCrashedError):
        get(die.remote())
    assert ray.available_resources() == ray.cluster_resources()


def test_tasks_with_retries_and_errors_keep_the_books() -> None:
    @remote(resources={"disk": 1}, max_retries=2, retry_exceptions=True)
    def fail(path: str) -> str:
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) < 3:
            raise ValueError
        return "done"

    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        assert get(fail.remote(f"{folder}/runs")) == "done"


def test_arguments_results_and_children_as_for_other_tasks() -> None:
    @remote(resources={"slots": 1}, num_returns=2)
    def pair(values: list[int], extra: int = 0) -> tuple[list[int], int]:
        return [value + extra for value in values], len(values)

    first, second = pair.remote([1, 2], extra=remote(abs).remote(-3))
    assert get([first, second]) == [[4, 5], 2]
    assert get(pair.remote(first)[1]) == 2

    @remote(num_gpus=0.5)
    def tree(depth: int) -> int:
        return 1 if not depth else sum(ray.get([leaf.remote(depth) for _ in range(3)]))

    @remote(resources={"slots": 1}, num_cpus=0)
    def leaf(depth: int) -> int:
        return depth

    assert get(tree.remote(2)) == 6


def test_generators_and_environments_as_for_other_tasks() -> None:
    @remote(num_gpus=1, num_returns="streaming")
    def count() -> Iterator[tuple[int, Any]]:
        for number in range(3):
            yield number, os.environ["CUDA_VISIBLE_DEVICES"]

    assert [get(ref) for ref in count.remote()] == [(number, "0") for number in range(3)]

    def mine() -> tuple[Any, Any]:
        return os.environ.get("MINE"), os.environ.get("CUDA_VISIBLE_DEVICES")

    task = remote(mine).options(resources={"disk": 1})
    there = {"env_vars": {"MINE": "yes"}}
    assert get(task.options(runtime_env=there).remote()) == ("yes", None)
    assert get(task.remote()) == (None, None)
    assert get(task.options(runtime_env=there, num_gpus=1).remote()) == ("yes", "0")


# --- what can never be had ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"num_gpus": 3}, "asks for num_gpus=3 - expected at most 2"),
        ({"resources": {"disk": 2}}, "asks for resources={'disk': 2} - expected at most 1"),
        ({"resources": {"tape": 1}}, "asks for resources={'tape': 1} - expected at most nothing of the kind"),
        ({"memory": 1 << 50}, "asks for memory=1125899906842624"),
        ({"num_cpus": 3, "num_gpus": 1}, "asks for num_cpus=3 - expected at most 2"),
    ],
)
def test_what_can_never_be_had_is_refused_at_once(options: dict[str, Any], text: str) -> None:
    class Thing:
        pass

    def ask() -> tuple[str, str]:
        found = []
        for make in (remote(abs).options(**options), remote(Thing).options(**options)):
            args = (1,) if make is not None and type(make).__name__ == "RemoteFunction" else ()
            try:
                make.remote(*args)
            except InfeasibleTaskError as error:
                found.append(str(error))
        task, actor = found
        return task, actor

    for task, actor in (ask(), get(remote(ask).remote())):
        assert text in task
        assert text in actor
        assert task.startswith("task 'abs' asks for")
        assert actor.startswith("actor 'Thing' asks for")


def test_strategies_of_other_machines_are_taken() -> None:
    here = ray.get_runtime_context().get_node_id()
    for strategy in (
        "DEFAULT",
        "SPREAD",
        NodeAffinitySchedulingStrategy(here, soft=False),
        NodeAffinitySchedulingStrategy("elsewhere", soft=True),
        NodeLabelSchedulingStrategy(hard={}),
    ):
        assert get(remote(abs).options(scheduling_strategy=strategy).remote(-1)) == 1
    with pytest.raises(ValueError, match="elsewhere"):
        NodeAffinitySchedulingStrategy("elsewhere", soft=False)


# --- GPUs ---------------------------------------------------------------------------------------------------


def test_a_task_sees_its_gpus_and_no_others(tmp_path: Path) -> None:
    begun, gate = signs(tmp_path, "first")
    first = hold.options(num_gpus=1).remote(begun, gate)
    begun.wait()
    assert get(remote(gpus).options(num_gpus=1).remote()) == ([1], "1", {"GPU": ["1"]})
    gate.put_up()
    get(first)
    assert get(remote(gpus).options(num_gpus=2).remote()) == ([0, 1], "0,1", {"GPU": ["0", "1"]})
    assert get(remote(gpus).remote()) == ([], None, {"GPU": []})
    assert get(remote(gpus).options(resources={"disk": 1}).remote()) == ([], None, {"GPU": []})


def test_each_run_with_a_gpu_has_a_process_of_its_own() -> None:
    pid = remote(os.getpid).options(num_gpus=1)
    pids = get([pid.remote() for _ in range(3)])
    assert len(set(pids)) == 3
    for each in pids:
        wait_until_gone(each)


def test_processes_without_gpus_are_used_again() -> None:
    pid = remote(os.getpid).options(resources={"disk": 1})
    assert len(set(get([pid.remote() for _ in range(5)]))) == 1


def test_gpus_as_the_program_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ray.shutdown()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-7f,3")
    with pytest.raises(ValueError, match="num_gpus=4 is more than the program may see"):
        ray.init(num_cpus=2, num_gpus=4)
    ray.init(num_cpus=2, num_gpus=2)
    assert get(remote(gpus).options(num_gpus=2).remote()) == (
        ["5", "GPU-7f"], "5,GPU-7f", {"GPU": ["5", "GPU-7f"]}
    )  # fmt: skip
    assert get(remote(gpus).remote()) == ([], "5,GPU-7f,3", {"GPU": []})


def test_a_map_with_gpus_keeps_its_processes() -> None:
    @remote(num_gpus=1)
    def where(number: int) -> tuple[int, int, str]:
        return number, os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]

    found = list(ray.map(where, range(50)))
    assert [number for number, _, _ in found] == list(range(50))
    assert len({pid for _, pid, _ in found}) <= 2
    assert {gpu for _, _, gpu in found} <= {"0", "1"}
    assert list(ray.map(remote(abs).options(resources={"disk": 1}), range(-1000, 0))) == list(
        range(1000, 0, -1)
    )


# --- actors -------------------------------------------------------------------------------------------------


class Owner:
    """Knows what it has."""

    def assigned(self) -> dict[str, float]:
        return assigned()

    def gpus(self) -> tuple[Any, ...]:
        return gpus()

    def pid(self) -> int:
        return os.getpid()

    def end(self) -> None:
        os._exit(1)

    def borrow(self) -> dict[str, float]:
        return ray.get(remote(ray.available_resources).options(num_cpus=0).remote())


def test_an_actor_has_it_as_long_as_it_lives() -> None:
    actor = remote(Owner).options(num_gpus=0.5, resources={"disk": 1}).remote()
    assert get(actor.assigned.remote()) == {"CPU": 1.0, "GPU": 0.5, "disk": 1.0}
    assert get(actor.gpus.remote()) == ([0], "0", {"GPU": ["0"]})
    free = ray.available_resources()
    assert (free["CPU"], free["GPU"]) == (1.0, 1.5)
    assert "disk" not in free
    waiting = remote(abs).options(resources={"disk": 1}).remote(-4)
    assert ray.wait([waiting], timeout=0.05)[0] == []
    assert get(actor.borrow.remote())["CPU"] == 2.0  # it waits and lends its CPU, and nothing else
    ray.kill(actor)
    assert get(waiting) == 4


@pytest.mark.parametrize(
    ("options", "has"),
    [
        ({}, {}),
        ({"num_cpus": 1}, {"CPU": 1.0}),
        ({"num_cpus": 0, "num_gpus": 1}, {"GPU": 1.0}),
        ({"resources": {"disk": 1}}, {"CPU": 1.0, "disk": 1.0}),
        ({"memory": 1 << 28}, {"memory": float(1 << 28)}),
    ],
)
def test_what_an_actor_has_by_default(options: dict[str, Any], has: dict[str, float]) -> None:
    actor = remote(Owner).options(**options).remote() if options else remote(Owner).remote()
    assert get(actor.assigned.remote()) == has


def test_an_actor_waits_for_what_others_have() -> None:
    first = remote(Owner).options(num_gpus=2).remote()
    second = remote(Owner).options(num_gpus=1).remote()
    assert get(first.gpus.remote())[0] == [0, 1]
    ref = second.gpus.remote()
    assert ray.wait([ref], timeout=0.05)[0] == []
    del first  # its last handle
    assert get(ref) == ([0], "0", {"GPU": ["0"]})


def test_an_actor_that_restarts_has_what_it_had() -> None:
    actor = remote(Owner).options(num_gpus=1, max_restarts=1, max_task_retries=-1).remote()
    before = get(actor.pid.remote())
    with pytest.raises(ray.exceptions.RayActorError):
        get(actor.end.options(max_task_retries=0).remote())
    assert get(actor.pid.remote()) != before
    assert get(actor.gpus.remote()) == ([0], "0", {"GPU": ["0"]})
    assert ray.available_resources()["GPU"] == 1.0


def test_options_that_only_actors_have_beside_resources() -> None:
    actor = ray.remote(num_gpus=1, max_restarts=1)(Owner).remote()
    assert get(actor.assigned.remote()) == {"CPU": 1.0, "GPU": 1.0}
