"""Which dependents join a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from grainwise.grain.fusion import find_followers
from grainwise.grain.instructions import Send
from grainwise.grain.policy import Policy
from tests.policy.steps import MS, US, start, teach


def follow(
    graph: Mapping[str, Sequence[str]],
    tasks: Sequence[str],
    *,
    cost_s: float | None = 10 * US,
    most: int = 1000,
    chain_s: float = 5 * MS,
    share_s: float = 1 * MS,
    crumbs_s: float = 0.0,
    cpus: float = 1.0,
    key_of: Callable[[str], tuple[str, float]] = lambda task: ("f", 1.0),
) -> list[str]:
    """Return who follows; `graph` has the inputs of each task."""
    dependents: dict[str, list[str]] = {}
    for task, inputs in graph.items():
        for each in inputs:
            dependents.setdefault(each, []).append(task)
    return find_followers(
        tasks, lambda task: dependents.get(task, ()), lambda task: len(graph[task]), key_of,
        lambda key: (cost_s, most), cpus, chain_s, share_s, crumbs_s,
    )  # fmt: skip


def chain(length: int) -> dict[str, list[str]]:
    return {f"t{i}": [f"t{i - 1}"] for i in range(1, length)}


def test_a_chain_stays_together_up_to_a_quantum() -> None:
    assert follow(chain(100), ["t0"]) == [f"t{i}" for i in range(1, 100)]
    assert len(follow(chain(1000), ["t0"])) == pytest.approx(500, abs=1)
    assert len(follow(chain(1000), ["t0"], most=7)) == 7


def test_a_chain_without_room_breaks() -> None:
    assert follow(chain(100), ["t0"], chain_s=0.0) == []
    assert follow(chain(100), ["t0"], cost_s=6 * MS) == []


def test_siblings_stay_together_up_to_a_fair_share() -> None:
    graph = {f"b{i}": ["a"] for i in range(1000)}
    assert len(follow(graph, ["a"])) == pytest.approx(100, abs=1)
    assert follow(graph, ["a"], share_s=0.0) == []


def diamond(num_sides: int, name: str = "", first: str = "first") -> dict[str, list[str]]:
    """Return the inputs of so many tasks that need `first`, and of the task that needs them all."""
    sides = [f"{name}side{i}" for i in range(num_sides)]
    return {**{side: [first] for side in sides}, f"{name}last": sides}


def test_siblings_beyond_the_share_stay_if_they_are_crumbs() -> None:
    graph = diamond(10)
    in_share = [f"side{i}" for i in range(7)]
    assert follow(graph, ["first"], share_s=75 * US) == in_share
    assert follow(graph, ["first"], share_s=75 * US, crumbs_s=25 * US) == in_share
    assert follow(graph, ["first"], share_s=75 * US, crumbs_s=35 * US) == list(graph)
    assert follow(graph, ["first"], share_s=75 * US, crumbs_s=35 * US, chain_s=95 * US) == in_share
    assert follow(graph, ["first"], share_s=75 * US, crumbs_s=35 * US, most=8) == [*in_share, "side7"]


def test_a_batch_keeps_crumbs_once() -> None:
    """Fan-out behind fan-out, each of crumbs only: together they are work for others."""
    graph: dict[str, list[str]] = {}
    for i in range(10):
        graph |= diamond(10, f"{i}.", f"{i - 1}.last" if i else "first")
    followers = follow(graph, ["first"], share_s=75 * US, crumbs_s=135 * US)
    assert followers == [*diamond(10, "0."), *diamond(10, "1.")]


def test_siblings_of_unknown_cost_are_no_crumbs() -> None:
    graph = {"long": ["first"], "probe": ["first"]}
    assert follow(graph, ["first"], cost_s=None, share_s=-1 * US, crumbs_s=1 * MS) == []


def test_a_task_joins_only_behind_all_of_its_inputs() -> None:
    graph = {"sum": ["a", "b"], "end": ["sum"]}
    assert follow(graph, ["a"]) == []
    assert follow(graph, ["a", "b"]) == ["sum", "end"]


def test_followers_stand_behind_what_they_need() -> None:
    graph = {"c": ["a", "d"], "d": ["a"], "e": ["d", "c"]}
    order = ["a", *follow(graph, ["a"])]
    assert sorted(order) == ["a", "c", "d", "e"]
    for task, inputs in graph.items():
        assert all(order.index(each) < order.index(task) for each in inputs)


def test_a_tree_joins_as_far_as_its_leaves_are_there() -> None:
    graph = {
        f"{level}.{i}": [f"{level - 1}.{2 * i}", f"{level - 1}.{2 * i + 1}"]
        for level in (1, 2, 3)
        for i in range(8 >> level)
    }
    leaves = [f"0.{i}" for i in range(8)]
    assert follow(graph, leaves) == ["1.0", "1.1", "1.2", "1.3", "2.0", "2.1", "3.0"]
    assert follow(graph, leaves[:4]) == ["1.0", "1.1", "2.0"]
    assert follow(graph, leaves[1:3]) == []


def test_of_unknown_cost_one_follows() -> None:
    graph = {f"b{i}": ["a"] for i in range(10)}
    assert follow(graph, ["a"], cost_s=None, most=1) == ["b0"]


def test_who_needs_more_cpus_does_not_follow() -> None:
    needs = {"t1": 0.5, "t2": 2.0}
    for cpus, followers in ((1.0, ["t1"]), (2.0, ["t1", "t2"]), (0.0, [])):
        found = follow(chain(3), ["t0"], cpus=cpus, key_of=lambda task: (task, needs[task]))
        assert found == followers


# -- by the policy -------------------------------------------------------------------------------------------


def policy_follow(policy: Policy, send: Send, graph: Mapping[str, str], first: str) -> list[str]:
    """Have followers join, all of key "f" but those whose name says otherwise; `graph` goes forwards."""
    return policy.follow(
        send, [first], lambda task: [graph[task]] if task in graph else [], lambda task: 1,
        lambda task: ("limited" if task.startswith("limited") else "f", 1.0),
    )  # fmt: skip


def sent_one(policy: Policy) -> Send:
    policy.ready("f", 1)
    (send,) = policy.dispatch(waiting=True)
    return send


def test_followers_count_as_sent() -> None:
    policy = Policy(1)
    teach(policy, "f", 1 * MS)
    followers = policy_follow(policy, sent_one(policy), {"a": "b", "b": "c"}, "a")
    assert followers == ["b", "c"]
    policy.finished(0, "f", 3, 3, 3 * MS, 1 * MS)
    policy.ended(0)
    assert start(policy, "f", 1) == [(0, "f", 1)]


def test_followers_that_come_back_are_forgotten() -> None:
    policy = Policy(1)
    teach(policy, "f", 4 * MS)
    send = sent_one(policy)
    graph = {f"t{i}": f"t{i + 1}" for i in range(100)}
    followers = policy_follow(policy, send, graph, "t0")
    assert followers == []  # 8 ms are more than a quantum
    policy = Policy(1)
    teach(policy, "f", 1 * MS)
    followers = policy_follow(policy, sent_one(policy), graph, "t0")
    assert len(followers) == 4
    policy.returned(0, "f", 4)
    policy.finished(0, "f", 1, 1, 1 * MS, 1 * MS)
    policy.ended(0)
    assert start(policy, "f", 1) == [(0, "f", 1)]


def test_behind_a_batch_that_fills_its_quantum_nobody_follows() -> None:
    policy = Policy(1)
    teach(policy, "f", 100 * US)
    policy.ready("f", 1000)
    send = policy.dispatch(waiting=True)[0]
    assert send.worth_s == pytest.approx(policy.quantum_s)
    assert policy_follow(policy, send, {"a": "b"}, "a") == []


def test_a_diamond_worth_little_more_than_a_share_is_one_batch() -> None:
    """One task, ten of 50 us, one that needs the ten: three of the ten elsewhere would cost two messages."""
    policy = Policy(2)
    teach(policy, "f", 50 * US)
    graph = diamond(10)
    forwards: dict[str, list[str]] = {}
    for task, inputs in graph.items():
        for each in inputs:
            forwards.setdefault(each, []).append(task)
    followers = policy.follow(
        sent_one(policy), ["first"], lambda task: forwards.get(task, ()), lambda task: len(graph[task]),
        lambda task: ("f", 1.0),
    )  # fmt: skip
    assert followers == list(graph)


def test_a_limited_or_suspect_key_follows_nobody() -> None:
    policy = Policy(1)
    teach(policy, "f", 10 * US)
    policy.ready("limited", 1, limit=5)
    (send,) = policy.dispatch(waiting=True)
    policy.finished(0, "limited", 1, 1, 10 * US, 10 * US)
    policy.ended(0)
    assert policy_follow(policy, sent_one(policy), {"a": "limited", "limited": "b"}, "a") == []
    policy = Policy(1)
    teach(policy, "f", 10 * US)
    send = sent_one(policy)
    policy.suspect("f", True)
    assert policy_follow(policy, send, {"a": "b"}, "a") == []


def test_a_chain_of_unknown_keys_learns_them() -> None:
    policy = Policy(1)
    followers = policy_follow(policy, sent_one(policy), {"a": "b", "b": "c"}, "a")
    assert followers == ["b"]  # one probe of each key
    policy.finished(0, "f", 2, 2, 2 * MS, 1 * MS)
    policy.ended(0)
    assert policy.mean_s("f") == pytest.approx(1 * MS)
