"""Where code runs, what the machine has and what runs on it: runtime context, resources, listings."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.util import state

from .full_pool import LIMIT_S
from .signposts import Sign


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


def make_facts() -> Any:
    """Return a local function: it travels by value, so that workers need not import this module."""

    def facts() -> dict[str, Any]:
        context = ray.get_runtime_context()
        return {
            "job": context.get_job_id(),
            "node": context.get_node_id(),
            "worker": context.get_worker_id(),
            "task": context.get_task_id(),
            "name": context.get_task_name(),
            "function": context.get_task_function_name(),
            "session": context.get_session_name(),
            "pid": os.getpid(),
        }

    return facts


facts = make_facts()
ask = ray.remote(lambda: facts())

# --- the runtime context ------------------------------------------------------------------------------------


def test_program_and_tasks_agree_on_job_machine_and_session() -> None:
    here = facts()
    there = ray.get([ask.remote() for _ in range(20)])
    for name in ("job", "node", "session"):
        assert {each[name] for each in there} == {here[name]}
    assert here["worker"] not in {each["worker"] for each in there}
    assert len({(each["worker"], each["pid"]) for each in there}) == len({each["pid"] for each in there})


def test_each_task_has_an_identity_of_its_own() -> None:
    tasks = [each["task"] for each in ray.get([ask.remote() for _ in range(200)])]
    assert len(set(tasks)) == 200
    assert {len(task) for task in tasks} == {48}


def test_names_of_the_task_and_of_its_function() -> None:
    named = ray.get(ask.options(name="renamed", num_cpus=2).remote())
    assert named["name"] == "renamed"
    assert named["function"].endswith(".<lambda>")

    @ray.remote
    def outer() -> list[Any]:
        def inner() -> Any:
            return facts()

        before = facts()
        children = ray.get([ray.remote(inner).remote() for _ in range(3)])
        return [before, *children, facts()]

    first, *children, last = ray.get(outer.remote())
    assert first["name"] == last["name"] == "test_names_of_the_task_and_of_its_function.outer"
    assert first["function"] == last["function"]
    assert first["function"].endswith("test_names_of_the_task_and_of_its_function.outer")
    assert first["task"] == last["task"]
    assert {each["name"].rpartition(".")[2] for each in children} == {"inner"}
    assert {each["function"].rpartition(".")[2] for each in children} == {"inner"}


def test_in_the_program_there_is_no_task_and_no_actor() -> None:
    context = ray.get_runtime_context()
    assert [facts()[name] for name in ("task", "name", "function")] == [None, None, None]
    assert context.get_actor_id() is None
    assert context.get_actor_name() is None
    assert context.get_placement_group_id() is None
    for name in ("was_current_actor_reconstructed", "actor_id", "task_id"):
        with pytest.raises(AssertionError, match="expected a task or an actor"):
            getattr(context, name)
    assert len(context.namespace) == 36
    assert context.get_runtime_env_string() == "{}"
    assert context.runtime_env == {}
    assert context.get() == {
        "job_id": context.job_id,
        "node_id": context.node_id,
        "namespace": context.namespace,
    }
    with pytest.raises(AssertionError):
        context.get_assigned_resources()
    with pytest.raises(RuntimeError, match="outside of an actor"):
        _ = context.current_actor
    with pytest.raises(RuntimeError, match="expected a task"):
        context.is_canceled()


def test_inside_a_task() -> None:
    def look() -> tuple[Any, ...]:
        context = ray.get_runtime_context()
        return (
            context.get_assigned_resources(),
            context.is_canceled(),
            context.get_actor_id(),
            ray.cluster_resources()["CPU"],
            [node["Alive"] for node in ray.nodes()],
            ray.get_gpu_ids(),
        )

    assert ray.get(ray.remote(look).remote()) == ({"CPU": 1.0}, False, None, 2.0, [True], [])
    assert ray.get(ray.remote(lambda: ray.get_runtime_context()).remote()).get_task_id() is None


def test_a_thread_of_a_task_asks_too() -> None:
    def in_thread() -> tuple[Any, Any]:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(facts()))
        thread.start()
        thread.join()
        return found[0]["task"], facts()["task"]

    one, other = ray.get(ray.remote(in_thread).remote())
    assert one == other


def test_without_a_session() -> None:
    context = ray.get_runtime_context()
    ray.shutdown()
    for ask_it in (context.get_job_id, context.get_node_id, context.get_worker_id, context.get_session_name):
        with pytest.raises(RuntimeError, match="without a session"):
            ask_it()
    for word in (ray.nodes, ray.cluster_resources, ray.available_resources, state.list_tasks):
        with pytest.raises(RuntimeError, match="without a session"):
            word()
    assert ray.get_runtime_context().get_job_id() == "01000000"  # which has started one


# --- resources and listings ---------------------------------------------------------------------------------


def make_hold() -> Any:
    def hold(begun: Sign, gate: Sign) -> str:
        begun.put_up()
        gate.wait()
        return str(ray.get_runtime_context().get_task_id())

    return hold


hold = make_hold()


def test_what_a_task_occupies_is_not_available(tmp_path: Path) -> None:
    assert ray.available_resources() == ray.cluster_resources()
    begun, gate = Sign(tmp_path / "begun"), Sign(tmp_path / "gate")
    ref = ray.remote(hold).options(num_cpus=2).remote(begun, gate)
    begun.wait()
    assert "CPU" not in ray.available_resources()
    gate.put_up()
    ray.get(ref, timeout=LIMIT_S)
    assert ray.available_resources()["CPU"] == 2.0
    kept = ray.put(bytes(1 << 20))
    used = ray.cluster_resources()["object_store_memory"] - ray.available_resources()["object_store_memory"]
    assert used >= 1 << 20
    del kept
    free = ray.get(ray.remote(lambda: ray.available_resources()).remote(), timeout=LIMIT_S)
    assert free["CPU"] == 1.0


def test_tasks_are_listed_until_they_end(tmp_path: Path) -> None:
    begun, gate = Sign(tmp_path / "begun"), Sign(tmp_path / "gate")
    running = ray.remote(hold).options(name="running", num_cpus=2).remote(begun, gate)
    begun.wait()
    waiting = [ray.remote(len).options(name="waiting", num_cpus=2, batching="off").remote("ab") for _ in "ab"]
    last = ray.remote(len).options(name="last").remote(running)
    (row,) = state.list_tasks(filters=[("name", "=", "RUNNING")])
    assert row.state == row["state"] == "RUNNING"
    assert row.worker_pid in {worker.pid for worker in state.list_workers()}
    assert state.get_task(row.task_id) == row
    states = [task.state for task in state.list_tasks(filters=[("name", "=", "waiting")])]
    assert len(states) == 2
    assert set(states) <= {"PENDING_NODE_ASSIGNMENT", "SUBMITTED_TO_WORKER"}
    (row_of_last,) = state.list_tasks(filters=[("name", "=", "last")])
    assert row_of_last.state == "PENDING_ARGS_AVAIL"
    assert len(state.list_tasks(limit=1)) == 1
    assert not state.list_tasks(filters=[("type", "!=", "NORMAL_TASK")])
    with pytest.raises(ValueError, match="a filter expected"):
        state.list_tasks(filters=[("name", "<", "x")])
    gate.put_up()
    assert ray.get(running, timeout=LIMIT_S) == row.task_id
    assert ray.get([*waiting, last], timeout=LIMIT_S) == [2, 2, 48]
    assert state.list_tasks() == []
    counts = state.summarize_tasks()["cluster"]
    assert counts["summary"]["waiting"]["state_counts"] == {"FINISHED": 2}
    assert counts["total_tasks"] == 4


def test_other_listings() -> None:
    kept = ray.put(bytes(1 << 20))
    ray.get(ask.remote())
    assert [row.object_size >= 1 << 20 for row in state.list_objects()] == [True]
    assert state.summarize_objects()["cluster"]["total_objects"] == 1
    del kept
    assert state.list_workers()[0].worker_type == "DRIVER"
    (me,) = state.list_workers(filters=[("pid", "=", os.getpid())])
    assert state.get_worker(me.worker_id) == me
    assert me.worker_id == ray.get_runtime_context().get_worker_id()
    (node,) = state.list_nodes()
    assert state.get_node(node.node_id) == node
    assert node.resources_total["CPU"] == 2.0
    assert [job.status for job in state.list_jobs()] == ["RUNNING"]
    assert state.list_actors() == state.list_placement_groups() == state.list_runtime_envs() == []
    with pytest.raises(RuntimeError, match="it alone knows"):
        ray.get(ray.remote(lambda: state.list_tasks()).remote())
