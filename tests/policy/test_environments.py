"""Environments in the policy: a worker serves one, all share the CPUs, and none waits for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grainwise.grain.policy import Policy, Send

TASK_S = 0.02


def end(policy: Policy, send: Send) -> None:
    """A worker has run a whole batch."""
    for key, count in send.parts:
        policy.finished(send.worker, key, count, count, count * TASK_S, TASK_S)
    policy.ended(send.worker)


def environment_of(key: object) -> str:
    return str(key).partition("/")[0]


def test_a_worker_is_sent_nothing_of_another_environment() -> None:
    policy = Policy(2)
    policy.ready("x/f", 1, environment="x")
    (first,) = policy.dispatch(waiting=True)
    end(policy, first)
    policy.ready("x/f", 0)
    policy.ready("y/f", 1, environment="y")
    (second,) = policy.dispatch(waiting=True)
    assert second.worker != first.worker
    end(policy, second)
    policy.ready("y/f", 0)
    policy.ready("x/f", 1, environment="x")
    (third,) = policy.dispatch(waiting=True)
    assert third.worker == first.worker, "it was kept warm"


def test_a_lone_task_goes_to_its_own_environment() -> None:
    policy = Policy(2)
    for environment in ("x", "y"):
        policy.ready(f"{environment}/f", 1, environment=environment)
        (send,) = policy.dispatch(waiting=True)
        end(policy, send)
        policy.ready(f"{environment}/f", 0)
    assert policy.lone("x/f", 1.0) == 0
    assert policy.lone("y/f", 1.0) == 1
    assert policy.lone("x/f", 1.0) is None


def test_environments_take_turns_at_one_cpu() -> None:
    policy = Policy(1)
    turns = []
    for _ in range(20):
        for environment in ("x", "y"):
            policy.ready(f"{environment}/f", 1000, environment=environment)
        (send,) = policy.dispatch(waiting=True)
        assert policy.dispatch(waiting=True) == [], "nobody is two deep while another waits"
        turns.append(environment_of(send.parts[0][0]))
        end(policy, send)
    assert turns == ["x", "y"] * 10 or turns == ["y", "x"] * 10


@pytest.mark.parametrize(("num_cpus", "most"), [(1, 5), (2, 6), (8, 16)])
def test_workers_of_many_environments_are_not_kept_without_limit(num_cpus: int, most: int) -> None:
    policy = Policy(num_cpus)
    workers: set[int] = set()
    for number in range(20):
        policy.ready(number, 1, environment=number)
        (send,) = policy.dispatch(waiting=True)
        workers.add(send.worker)
        assert not workers & set(range(min(workers))), "the oldest go first"
        for idle in policy.crowd():
            policy.died(idle)
            workers.discard(idle)
        assert len(workers) == min(number + 1, most)
        end(policy, send)
        policy.ready(number, 0)
    assert len(policy.surplus()) == most - num_cpus


def test_an_environment_without_keys_and_workers_is_forgotten() -> None:
    policy = Policy(2)
    policy.ready("x/f", 1, environment="x")
    (send,) = policy.dispatch(waiting=True)
    end(policy, send)
    policy.ready("x/f", 0)
    lines = policy._keys.lines
    policy.forget("x/f")
    assert "x" in lines, "its worker is idle"
    policy.died(send.worker)
    assert list(lines) == [None]


@given(
    num_cpus=st.integers(1, 4),
    tasks=st.lists(st.tuples(st.sampled_from("xyz"), st.integers(0, 2), st.integers(1, 50)), min_size=1),
    order=st.randoms(use_true_random=False),
)
def test_all_tasks_run_where_they_belong(
    num_cpus: int, tasks: list[tuple[str, int, int]], order: object
) -> None:
    policy = Policy(num_cpus)
    left: dict[str, int] = {}
    for environment, function, count in tasks:
        left[f"{environment}/{function}"] = left.get(f"{environment}/{function}", 0) + count
    serves: dict[int, str] = {}
    under_way: dict[int, list[Send]] = {}
    while left or under_way:
        for key, count in left.items():
            policy.ready(key, count, environment=environment_of(key))
        for send in policy.dispatch(waiting=True):
            for key, count in send.parts:
                name = str(key)
                assert serves.setdefault(send.worker, environment_of(name)) == environment_of(name)
                left[name] -= count
            under_way.setdefault(send.worker, []).append(send)
        for key in [key for key, count in left.items() if not count]:
            policy.ready(key, 0)
            del left[key]
        assert 1 <= len(under_way) <= num_cpus, "CPUs are neither idle nor taken twice"
        worker = order.choice(sorted(under_way))  # type: ignore[attr-defined]
        end(policy, under_way[worker].pop(0))
        if not under_way[worker]:
            del under_way[worker]
