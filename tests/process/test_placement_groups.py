"""Placement groups: bundles are set aside all at once, used by those who name the group, and gone with it."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import grainwise as ray
from grainwise import exceptions, util
from grainwise.errors import EngineClosedError, InfeasibleTaskError
from grainwise.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from grainwise.util.scheduling_strategies import PlacementGroupSchedulingStrategy as Within

from .full_pool import LIMIT_S
from .signposts import Sign, wait_until_gone

remote: Any = ray.remote


def get(refs: Any) -> Any:
    return ray.get(refs, timeout=LIMIT_S)


@pytest.fixture(autouse=True)
def _session(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    ray.init(num_cpus=2, num_gpus=2, resources={"disk": 1})
    yield
    for identity in placement_group_table():
        remove_placement_group(PlacementGroup(util.placement_group.PlacementGroupID.from_hex(identity)))
    assert_all_is_free()
    ray.shutdown()


def assert_all_is_free() -> None:
    """Fail if anything is still reserved; processes that are being ended may need a moment."""
    gc.collect()  # an exception may hold a handle
    deadline = monotonic() + LIMIT_S
    while ray.available_resources() != ray.cluster_resources():
        assert monotonic() < deadline, (ray.available_resources(), ray.cluster_resources())


def make(bundles: list[dict[str, float]], **options: Any) -> PlacementGroup:
    group = placement_group(bundles, **options)
    assert get(group.ready()) == group
    return group


def within(group: PlacementGroup | None, bundle: int = -1, *, captures: bool | None = None) -> dict[str, Any]:
    return {"scheduling_strategy": Within(group, bundle, captures)}


@remote
def hold(begun: Sign, gate: Sign) -> int:
    begun.put_up()
    gate.wait()
    return os.getpid()


def where() -> tuple[Any, ...]:
    context = ray.get_runtime_context()
    return get_current_placement_group(), context.get_placement_group_id(), context.get_assigned_resources()


class Plain:
    def where(self) -> tuple[Any, ...]:
        return where()

    def gpus(self) -> list[Any]:
        return ray.get_gpu_ids()

    def pid(self) -> int:
        return os.getpid()


Actor: Any = ray.remote(Plain)


# --- making -------------------------------------------------------------------------------------------------


def test_a_group_sets_its_bundles_aside() -> None:
    group = make([{"CPU": 1, "GPU": 0.5}, {"GPU": 1, "disk": 0.5}])
    assert group.bundle_specs == [{"CPU": 1.0, "GPU": 0.5}, {"GPU": 1.0, "disk": 0.5}]
    assert group.bundle_count == 2
    assert group.wait(0)
    free = ray.available_resources()
    assert (free["CPU"], free["GPU"], free["disk"]) == (1.0, 0.5, 0.5)
    remove_placement_group(group)
    remove_placement_group(group)
    assert ray.available_resources() == ray.cluster_resources()


def test_handles_travel_and_compare() -> None:
    group = make([{"CPU": 1}], name="mine")
    for other in (
        pickle.loads(pickle.dumps(group)),
        get_placement_group("mine"),
        get(remote(abs_of).remote(group)),
    ):
        assert other == group
        assert hash(other) == hash(group)
        assert other.bundle_specs == [{"CPU": 1.0}]
    assert len(group.id.binary()) == 18
    assert group.id.hex() == group.id.binary().hex()
    assert PlacementGroup.empty().is_empty
    assert get(PlacementGroup.empty().ready()).is_empty
    assert group != PlacementGroup.empty()


def abs_of(group: PlacementGroup) -> PlacementGroup:
    return PlacementGroup(group.id)


def test_names() -> None:
    group = make([{"CPU": 1}], name="mine", lifetime="detached")
    with pytest.raises(ValueError, match="'mine' exists already"):
        placement_group([{"CPU": 1}], name="mine")
    assert get(remote(get_placement_group).remote("mine")) == group
    remove_placement_group(group)
    with pytest.raises(ValueError, match="Failed to look up placement group with name: mine"):
        get_placement_group("mine")
    with pytest.raises(ValueError, match="non-empty"):
        get_placement_group("")
    assert make([{"CPU": 1}], name="mine") != group


@pytest.mark.parametrize(
    ("bundles", "options", "text"),
    [
        ({"CPU": 1}, {}, "must be a list"),
        ([], {}, "non-empty list"),
        ([{}], {}, "cannot be an empty dictionary"),
        ([{"CPU": 0}], {}, "only 0 values"),
        ([{"CPU": -1}], {}, "less than 0"),
        ([{1: 1}], {}, "list of resource dictionaries"),
        ([{"CPU": "1"}], {}, "list of resource dictionaries"),
        ([{"CPU": 1}], {"strategy": "NEAR"}, "Invalid placement group strategy 'NEAR'"),
        ([{"CPU": 1}], {"lifetime": "long"}, "must be either `None` or 'detached'"),
    ],
)
def test_wrong_arguments_are_named(bundles: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        placement_group(bundles, **options)


@pytest.mark.parametrize("strategy", ["PACK", "SPREAD", "STRICT_PACK"])
def test_on_one_machine_these_strategies_are_one(strategy: str) -> None:
    assert make([{"CPU": 1}, {"CPU": 1}], strategy=strategy).wait(0)


@pytest.mark.parametrize(
    ("bundles", "strategy", "text"),
    [
        ([{"CPU": 1}, {"CPU": 1}], "STRICT_SPREAD", "asks for 2 machines, and there is one"),
        ([{"CPU": 2}, {"CPU": 1}], "PACK", "asks for CPU=3 in all, and there is CPU=2"),
        ([{"tape": 1}], "PACK", "asks for tape=1 in all, and there is tape=0"),
    ],
)
def test_what_can_never_be_created_stays_pending_and_says_so(bundles: Any, strategy: str, text: str) -> None:
    with pytest.warns(RuntimeWarning, match=text):
        group = placement_group(bundles, strategy)
    assert not group.wait(0.02)
    table = placement_group_table(group)
    assert (table["state"], table["strategy"]) == ("PENDING", strategy)
    assert table["placement_group_id"] == group.id.hex()
    later = make([{"CPU": 2}])  # it stands in nobody's way
    ready = group.ready()
    remove_placement_group(group)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        get(ready)
    assert not group.wait(0)
    assert placement_group_table()[later.id.hex()]["bundles"] == {0: {"CPU": 2.0}}
    assert placement_group_table(group)["state"] == "REMOVED"
    remove_placement_group(later)


def test_strict_spread_of_one_bundle_is_possible() -> None:
    make([{"CPU": 1}], strategy="STRICT_SPREAD")


def test_a_pending_group_is_created_when_there_is_room(tmp_path: Path) -> None:
    first = make([{"CPU": 1, "disk": 1}])
    second = placement_group([{"disk": 1}])
    ref = second.ready()
    assert ray.wait([ref], timeout=0.02)[0] == []
    assert placement_group_table(second)["state"] == "PENDING"
    remove_placement_group(first)
    assert get(ref) == second
    begun, gate = Sign(tmp_path / "begun"), Sign(tmp_path / "gate")
    holder = hold.options(num_cpus=2).remote(begun, gate)
    begun.wait()
    third = placement_group([{"CPU": 1}, {"CPU": 1}])
    assert not third.wait(0.02)
    gate.put_up()
    assert third.wait(LIMIT_S)
    assert "CPU" not in ray.available_resources()
    get(holder)


def test_others_do_not_get_what_is_set_aside() -> None:
    make([{"disk": 1, "GPU": 2}])
    waiting = [
        remote(abs).options(**options).remote(-1)
        for options in ({"num_gpus": 0.5}, {"resources": {"disk": 0.1}})
    ]
    assert ray.wait(waiting, timeout=0.05)[0] == []
    assert get(remote(abs).remote(-1)) == 1
    for ref in waiting:
        ray.cancel(ref)


# --- using --------------------------------------------------------------------------------------------------


def test_tasks_and_actors_use_the_bundles() -> None:
    group = make([{"CPU": 1, "GPU": 1}, {"CPU": 1, "disk": 1}])
    task = remote(where)
    assert (
        get(task.remote()) == (None, None, {"CPU": 1.0}) if False else get_current_placement_group() is None
    )
    found, identity, has = get(task.options(num_gpus=1, **within(group)).remote())
    assert found == group
    assert identity == group.id.hex()
    assert has == {"CPU": 1.0, "GPU": 1.0}
    actor = Actor.options(resources={"disk": 1}, **within(group, 1)).remote()
    assert get(actor.where.remote()) == (group, group.id.hex(), {"CPU": 1.0, "disk": 1.0})
    other = Actor.options(num_cpus=0, num_gpus=0.5, **within(group, 0)).remote()
    assert get(other.gpus.remote()) == [0]
    free = ray.available_resources()
    assert free["GPU"] == 1.0
    assert "CPU" not in free


def test_bundles_are_limits_of_their_own(tmp_path: Path) -> None:
    group = make([{"CPU": 1}, {"CPU": 1}])
    begun, gate = Sign(tmp_path / "begun"), Sign(tmp_path / "gate")
    first = hold.options(**within(group, 0)).remote(begun, gate)
    begun.wait()
    same = remote(abs).options(**within(group, 0)).remote(-1)
    assert get(remote(abs).options(**within(group, 1)).remote(-2)) == 2
    assert get(remote(abs).options(**within(group)).remote(-3)) == 3
    assert ray.wait([same], timeout=0)[0] == []
    gate.put_up()
    assert get(same) == 1
    get(first)


def test_calls_wait_until_their_group_is_there() -> None:
    first = make([{"CPU": 2}])
    second = placement_group([{"CPU": 1}])
    ref = remote(where).options(**within(second)).remote()
    actor = Actor.options(num_cpus=1, **within(second)).remote()
    answer = actor.where.remote()
    assert ray.wait([ref, answer], timeout=0.05)[0] == []
    remove_placement_group(first)
    assert get(ref)[0] == second
    assert get(answer)[0] == second


def test_who_waits_in_a_bundle_lends_its_cpu_to_the_bundle() -> None:
    group = make([{"CPU": 2}])

    @remote(num_cpus=2)
    def parent() -> int:
        return int(ray.get(remote(abs).options(**within(group)).remote(-5)))

    assert get(parent.options(**within(group)).remote()) == 5


def test_children_go_to_the_group_of_their_parent_if_that_is_asked_for() -> None:
    group = make([{"CPU": 2}])

    @remote
    def parent() -> list[Any]:
        child = remote(where)
        actor = Actor.remote()
        refs = [
            child.remote(),
            child.options(scheduling_strategy="DEFAULT", num_cpus=0).remote(),
            child.options(num_cpus=0, **within(None)).remote(),
            actor.where.remote(),
        ]
        captures = ray.get_runtime_context().should_capture_child_tasks_in_placement_group
        return [captures, *(found[0] for found in ray.get(refs))]

    assert get(parent.options(**within(group, captures=True)).remote()) == [True, group, None, None, group]

    @remote
    def other() -> Any:
        return ray.get(remote(get_current_placement_group).options(num_cpus=0).remote())

    assert get(other.options(**within(group)).remote()) is None


@pytest.mark.parametrize(
    ("options", "bundle", "text"),
    [
        ({"num_cpus": 2}, -1, "cannot fit into any bundles for the placement group"),
        ({"num_gpus": 1}, 1, "cannot fit into bundle 1 for the placement group"),
        ({"resources": {"tape": 1}}, -1, "the bundles are: CPU=1, GPU=1; CPU=1"),
    ],
)
def test_what_no_bundle_holds_is_refused(options: dict[str, Any], bundle: int, text: str) -> None:
    group = make([{"CPU": 1, "GPU": 1}, {"CPU": 1}])
    for thing in (remote(abs), Actor):
        args = (1,) if thing is not Actor else ()
        with pytest.raises(InfeasibleTaskError, match=text):
            thing.options(**options, **within(group, bundle)).remote(*args)

    @remote(num_cpus=0)
    def inside() -> int:
        return int(ray.get(remote(abs).options(**options, **within(group, bundle)).remote(-1)))

    with pytest.raises(InfeasibleTaskError, match=text):
        get(inside.remote())


@pytest.mark.parametrize(("bundle", "group"), [(2, True), (-2, True), ("0", True), (0, False)])
def test_a_wrong_bundle_is_refused(bundle: Any, group: bool) -> None:
    made = make([{"CPU": 1}]) if group else None
    with pytest.raises(ValueError, match="bundle index"):
        remote(abs).options(**within(made, bundle))


def test_the_options_that_came_before_strategies() -> None:
    group = make([{"CPU": 1}, {"CPU": 1}])
    task = remote(where)
    found = get(task.options(placement_group=group, placement_group_bundle_index=1).remote())
    assert found[0] == group
    assert get(task.options(placement_group="default", num_cpus=0).remote())[0] is None
    assert get(task.options(placement_group=None, num_cpus=0).remote())[0] is None


# --- removing -----------------------------------------------------------------------------------------------


def test_what_is_in_a_removed_group_ends(tmp_path: Path) -> None:
    group = make([{"CPU": 1}, {"CPU": 1}])
    begun, gate = Sign(tmp_path / "begun"), Sign(tmp_path / "gate")
    running = hold.options(**within(group, 0)).remote(begun, gate)
    begun.wait()
    waiting = hold.options(**within(group, 0)).remote(begun, gate)
    actor = Actor.options(num_cpus=1, max_restarts=3, **within(group, 1)).remote()
    pid = get(actor.pid.remote())
    unborn = Actor.options(num_cpus=1, **within(group, 1)).remote()
    last = unborn.pid.remote()
    remove_placement_group(group)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved) as killed:
        get(running)
    assert isinstance(killed.value, exceptions.WorkerCrashedError)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        get(waiting)
    with pytest.raises(exceptions.RayActorError, match="actor died"):
        get(actor.pid.remote())
    with pytest.raises(exceptions.ActorPlacementGroupRemoved):
        get(last)
    wait_until_gone(pid)
    assert_all_is_free()


def test_nobody_enters_a_removed_group() -> None:
    group = make([{"CPU": 1}])
    remove_placement_group(group)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        get(remote(abs).options(**within(group)).remote(-1))
    with pytest.raises(exceptions.ActorPlacementGroupRemoved):
        get(Actor.options(num_cpus=1, **within(group)).remote().pid.remote())
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        get(group.ready())


def test_a_group_of_an_ended_session_is_removed() -> None:
    group = make([{"CPU": 1}])
    ray.shutdown()
    ray.init(num_cpus=2)
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        get(remote(abs).options(**within(group)).remote(-1))


def test_who_waits_for_a_group_hears_of_the_end_of_the_session() -> None:
    placement_group([{"CPU": 2}])
    ready = placement_group([{"CPU": 2}]).ready()
    ray.shutdown()
    ray.init(num_cpus=1)
    with pytest.raises(EngineClosedError):
        get(ready)


def test_what_a_removed_group_had_goes_to_those_who_wait(tmp_path: Path) -> None:
    group = make([{"GPU": 2}])
    begun, gate = Sign(tmp_path / "begun"), Sign(tmp_path / "gate")
    running = hold.options(num_cpus=0, num_gpus=2, **within(group)).remote(begun, gate)
    begun.wait()
    next_one = remote(ray.get_gpu_ids).options(num_gpus=2).remote()
    remove_placement_group(group)
    assert get(next_one) == [0, 1]
    with pytest.raises(exceptions.TaskPlacementGroupRemoved):
        get(running)


# --- inside tasks -------------------------------------------------------------------------------------------


def test_tasks_make_use_and_remove_groups() -> None:
    @remote(num_cpus=0)
    def all_of_it() -> tuple[Any, ...]:
        group = placement_group([{"CPU": 1, "disk": 1}], name="inner")
        is_ready = group.wait(LIMIT_S)
        found = ray.get(remote(where).options(**within(group)).remote())[0]
        same = get_placement_group("inner")
        remove_placement_group(group)
        return (
            is_ready,
            found == group == same,
            placement_group_table(group)["state"],
            ray.get(late.remote(group)),
        )

    @remote(num_cpus=0)
    def late(group: PlacementGroup) -> bool:
        return group.wait(0)

    assert get(all_of_it.remote()) == (True, True, "REMOVED", False)


def test_the_names_of_util() -> None:
    group = util.placement_group([{"CPU": 1}])
    assert util.get_current_placement_group() is None
    assert util.placement_group_table(group)["name"] == ""
    util.remove_placement_group(group)
    assert util.placement_group.placement_group is placement_group


def test_groups_are_listed() -> None:
    from grainwise.util import state

    group = placement_group([{"CPU": 1}, {"disk": 1}], name="listed")
    assert group.wait(LIMIT_S)
    (row,) = state.list_placement_groups(filters=[("name", "=", "listed")])
    assert (row.placement_group_id, row.state) == (group.id.hex(), "CREATED")
    assert [bundle["unit_resources"] for bundle in row.bundles] == [{"CPU": 1}, {"disk": 1}]
    assert state.get_placement_group(group.id) == row
    assert state.get_placement_group("00" * 18) is None
    assert isinstance(group.id, ray.PlacementGroupID)


def test_labels_that_this_machine_does_not_have_are_refused() -> None:
    from grainwise.util.scheduling_strategies import In, NodeLabelSchedulingStrategy

    with pytest.raises(ValueError, match="label 'gpu' of this machine is None, which the strategy excludes"):
        NodeLabelSchedulingStrategy({"gpu": In("new")})
