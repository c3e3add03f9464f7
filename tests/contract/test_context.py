"""The runtime context, and what a program asks about the session."""

from __future__ import annotations

from typing import Any

import pytest

from .backend import ray

INIT = {"namespace": "of the program"}


def test_the_program() -> None:
    context = ray.get_runtime_context()
    assert len(context.get_job_id()) == 8
    assert len(context.get_node_id()) == 56
    assert len(context.get_worker_id()) == 56
    assert context.namespace == "of the program"
    for name in ("get_task_id", "get_task_name", "get_task_function_name", "get_actor_id", "get_actor_name"):
        assert getattr(context, name)() is None
    with pytest.raises(RuntimeError):
        _ = context.current_actor
    with pytest.raises(AssertionError):
        _ = context.was_current_actor_reconstructed
    with pytest.raises(AssertionError):
        context.get_assigned_resources()
    assert context.job_id.hex() == context.get_job_id()
    assert context.node_id.hex() == context.get_node_id()


def test_a_task() -> None:
    @ray.remote
    def facts() -> Any:
        context = ray.get_runtime_context()
        return {
            "job": context.get_job_id(),
            "node": context.get_node_id(),
            "worker": context.get_worker_id(),
            "task": context.get_task_id(),
            "task_object": context.task_id.hex(),
            "name": context.get_task_name(),
            "function": context.get_task_function_name(),
            "actor": (context.get_actor_id(), context.get_actor_name()),
            "namespace": context.namespace,
            "resources": context.get_assigned_resources(),
            "group": context.get_placement_group_id(),
        }

    own = ray.get_runtime_context()
    found, other = ray.get([facts.remote(), facts.options(name="mine").remote()])
    assert found["job"] == own.get_job_id()
    assert found["node"] == own.get_node_id()
    assert found["worker"] != own.get_worker_id()
    assert len(found["task"]) == 48
    assert found["task"] == found["task_object"]
    assert found["task"] != other["task"]
    assert found["name"].endswith("facts")
    assert other["name"] == "mine"
    assert found["function"].endswith("facts")
    assert found["actor"] == (None, None)
    assert found["namespace"] == "of the program"
    assert found["resources"] == {"CPU": 1.0}
    assert found["group"] is None


def test_an_actor() -> None:
    @ray.remote
    class Teller:
        def __init__(self) -> None:
            self.id_at_first = ray.get_runtime_context().get_actor_id()

        def facts(self) -> Any:
            context = ray.get_runtime_context()
            return {
                "id": context.get_actor_id(),
                "first": self.id_at_first,
                "name": context.get_actor_name(),
                "task_name": context.get_task_name(),
                "function": context.get_task_function_name(),
                "task": context.get_task_id(),
                "namespace": context.namespace,
                "reconstructed": context.was_current_actor_reconstructed,
                "resources": context.get_assigned_resources(),
                "keys": sorted(context.get()),
            }

    teller = Teller.options(name="teller").remote()
    found, again = ray.get([teller.facts.remote(), teller.facts.remote()])
    assert found["id"] == found["first"] == teller._actor_id.hex()
    assert found["name"] == "teller"
    assert found["task_name"].endswith("Teller.facts")
    assert found["function"].endswith("Teller.facts")
    assert found["task"] != again["task"]
    assert found["namespace"] == "of the program"
    assert found["reconstructed"] is False
    assert found["resources"] == {}
    assert found["keys"] == ["actor_id", "job_id", "namespace", "node_id", "task_id"]
    assert ray.get(Teller.remote().facts.remote())["name"] == ""


def test_the_namespace_of_names() -> None:
    @ray.remote
    class Plain:
        def namespace(self) -> Any:
            return ray.get_runtime_context().namespace

    actor = Plain.options(name="here").remote()
    other = Plain.options(name="there", namespace="another").remote()
    assert ray.get_actor("here", namespace="of the program") == actor
    assert ray.get([actor.namespace.remote(), other.namespace.remote()]) == ["of the program"] * 2
    with pytest.raises(ValueError, match="Failed to look up actor with name 'there'"):
        ray.get_actor("there")

    @ray.remote
    def inside() -> Any:
        return ray.util.list_named_actors(), ray.get_actor("here")

    names, found = ray.get(inside.remote())
    assert names == ["here"]
    assert found == actor
    assert sorted(each["name"] for each in ray.util.list_named_actors(all_namespaces=True)) == [
        "here",
        "there",
    ]


def test_the_session() -> None:
    assert ray.is_initialized()
    with pytest.raises(RuntimeError):
        ray.init()
    ray.init(ignore_reinit_error=True)
    assert ray.cluster_resources()["CPU"] == 4
    (node,) = ray.nodes()
    assert node["Alive"]
    assert node["NodeID"] == ray.get_runtime_context().get_node_id()

    @ray.remote
    def inside() -> bool:
        return bool(ray.is_initialized())

    assert ray.get(inside.remote())
