"""Resources: what tasks and actors take, what there is, and placement groups."""

from __future__ import annotations

from typing import Any

import pytest

from .backend import make_gate, module, ray, until

INIT = {"num_cpus": 3, "num_gpus": 2, "resources": {"disk": 2}}

groups = module("util.placement_group")
strategies = module("util.scheduling_strategies")


def test_what_there_is() -> None:
    assert {name: ray.cluster_resources()[name] for name in ("CPU", "GPU", "disk")} == {
        "CPU": 3,
        "GPU": 2,
        "disk": 2,
    }
    (node,) = ray.nodes()
    assert node["Alive"]
    assert node["Resources"]["CPU"] == 3
    assert node["NodeID"] == ray.get_runtime_context().get_node_id()


def test_what_is_free() -> None:
    gate = make_gate()

    @ray.remote(num_cpus=0.5, resources={"disk": 1})
    def holds() -> Any:
        return ray.get(gate.wait.remote())

    held = holds.remote()
    ray.get(gate.waiting.remote(1))
    until(lambda: ray.available_resources().get("disk") == 1)
    ray.get(gate.open.remote())
    ray.get(held)
    until(lambda: ray.available_resources().get("disk") == 2)


def test_what_is_assigned() -> None:
    @ray.remote(num_cpus=0.5, num_gpus=1, resources={"disk": 0.25})
    def assigned() -> Any:
        return ray.get_runtime_context().get_assigned_resources()

    assert ray.get(assigned.remote()) == {"CPU": 0.5, "GPU": 1, "disk": 0.25}


def test_each_has_gpus_of_its_own() -> None:
    gate = make_gate()

    @ray.remote(num_cpus=0, num_gpus=1)
    def visible() -> Any:
        import os

        ray.get(gate.wait.remote())
        ids = ray.get_gpu_ids()
        return [str(each) for each in ids], os.environ["CUDA_VISIBLE_DEVICES"].split(",")

    both = [visible.remote(), visible.remote()]
    ray.get(gate.waiting.remote(2))
    ray.get(gate.open.remote())
    found = ray.get(both)
    assert sorted(ids for ids, _ in found) == [["0"], ["1"]]
    assert all(ids == named for ids, named in found)


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("num_gpus", -1, ValueError),
        ("memory", -1, ValueError),
        ("resources", {"CPU": 1}, ValueError),
        ("resources", {"GPU": 1}, ValueError),
        ("resources", {"disk": -1}, ValueError),
        ("resources", [1], TypeError),
        ("scheduling_strategy", "ELSEWHERE", ValueError),
    ],
)
def test_wrong_amounts(option: str, value: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        ray.remote(**{option: value})(abs_of).remote(1)


def abs_of(value: int) -> int:
    return abs(value)


# --- strategies ---------------------------------------------------------------------------------------------


def test_strategies() -> None:
    node = ray.get_runtime_context().get_node_id()
    here = ray.remote(lambda: 1)
    for strategy in (
        "DEFAULT",
        "SPREAD",
        strategies.NodeAffinitySchedulingStrategy(node, soft=False),
        strategies.NodeLabelSchedulingStrategy({"ray.io/node-id": strategies.In(node)}),
        strategies.NodeLabelSchedulingStrategy({"gpu": strategies.DoesNotExist()}),
        strategies.NodeLabelSchedulingStrategy(
            {"ray.io/node-id": strategies.Exists()}, soft={"gpu": strategies.NotIn("old")}
        ),
    ):
        assert ray.get(here.options(scheduling_strategy=strategy).remote()) == 1
    with pytest.raises(ValueError, match="hard"):
        strategies.NodeLabelSchedulingStrategy(3)
    with pytest.raises(ValueError, match="In"):
        strategies.In()


# --- placement groups ---------------------------------------------------------------------------------------


def test_a_group_is_made_used_and_removed() -> None:
    group = groups.placement_group([{"CPU": 1}, {"CPU": 1, "disk": 1}], strategy="PACK", name="pair")
    assert group.wait(60)
    assert ray.get(group.ready()) is not None
    assert group.bundle_count == 2
    assert group.bundle_specs == [{"CPU": 1}, {"CPU": 1, "disk": 1}]
    assert isinstance(group.id, ray.PlacementGroupID)
    assert groups.get_placement_group("pair").id == group.id

    @ray.remote(num_cpus=1)
    def whose() -> Any:
        context = ray.get_runtime_context()
        return context.get_placement_group_id(), context.current_placement_group_id.hex()

    inside = strategies.PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=1)
    assert ray.get(whose.options(scheduling_strategy=inside).remote()) == (group.id.hex(), group.id.hex())
    assert ray.get(whose.options(placement_group=group).remote())[0] == group.id.hex()
    assert ray.get(whose.remote())[0] is None
    table = groups.placement_group_table(group)
    assert (table["state"], table["strategy"], table["name"]) == ("CREATED", "PACK", "pair")
    groups.remove_placement_group(group)
    until(lambda: groups.placement_group_table(group)["state"] == "REMOVED")
    groups.remove_placement_group(group)


def test_there_is_no_group_in_the_program() -> None:
    assert groups.get_current_placement_group() is None
    assert ray.get_runtime_context().current_placement_group_id.is_nil()


def test_a_group_of_an_actor() -> None:
    class Member:
        def group(self) -> Any:
            return ray.get_runtime_context().get_placement_group_id()

    group = groups.placement_group([{"CPU": 1}])
    strategy = strategies.PlacementGroupSchedulingStrategy(group)
    member = ray.remote(num_cpus=1)(Member).options(scheduling_strategy=strategy).remote()
    assert ray.get(member.group.remote()) == group.id.hex()
    ray.kill(member)
    groups.remove_placement_group(group)


@pytest.mark.parametrize("bundles", [[], [{}], [{"CPU": 0}], {"CPU": 1}, [{"CPU": "1"}]])
def test_wrong_bundles(bundles: Any) -> None:
    with pytest.raises(ValueError, match="undle"):
        groups.placement_group(bundles)


def test_wrong_strategies_of_groups() -> None:
    with pytest.raises(ValueError, match="trategy"):
        groups.placement_group([{"CPU": 1}], strategy="ELSEWHERE")
    with pytest.raises(ValueError, match="lifetime"):
        groups.placement_group([{"CPU": 1}], lifetime="long")


def test_wrong_bundles_of_options() -> None:
    group = groups.placement_group([{"CPU": 1}])
    for index in (1, -2):
        strategy = strategies.PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        with pytest.raises(ValueError, match="bundle index"):
            ray.remote(abs_of).options(scheduling_strategy=strategy).remote(1)
    groups.remove_placement_group(group)
