"""Keys of a `map`: batches of their own, larger ones, and a limit to the workers that may have some."""

from __future__ import annotations

from grainwise.grain.packing import ITEM_FACTOR
from grainwise.grain.policy import Policy, Progress
from grainwise.grain.sizes import MAX_BATCH

from .steps import MS, US, finish_all, sends_of, takes_of


def settle(policy: Policy, key: str, mean_s: float, **options: object) -> None:
    """Let a key run until its batches are as large as they may be."""
    for _ in range(24):
        policy.ready(key, 10 * MAX_BATCH, is_alone=True, **options)  # type: ignore[arg-type]
        for send in policy.dispatch(waiting=True):
            finish_all(policy, send, mean_s)


def test_items_share_a_batch_with_nothing_else() -> None:
    policy = Policy(2)
    settle(policy, "items", 100 * US)
    settle(policy, "others", 100 * US)
    policy.ready("items", 3, is_alone=True)
    policy.ready("calls", 3)
    policy.estimates.learn("calls", 100, 100 * 100 * US, 100 * US)
    for send in policy.dispatch(waiting=True):
        assert len(send.parts) == 1 or "items" not in dict(send.parts)


def test_batches_of_tiny_items_are_larger_than_those_of_tiny_tasks() -> None:
    policy = Policy(1)
    settle(policy, "items", 0.05 * US)
    policy.ready("items", 100 * MAX_BATCH, is_alone=True)
    assert max(send.count for send in policy.dispatch(waiting=True)) == ITEM_FACTOR * MAX_BATCH


def test_so_many_workers_hold_items_and_no_more() -> None:
    policy = Policy(8)
    policy.ready("items", 100, is_alone=True, max_workers=3)
    sends = policy.dispatch(waiting=True)
    assert {send.worker for send in sends} == {0, 1, 2}
    assert policy.dispatch(waiting=True) == []
    finish_all(policy, sends[0], 10 * MS)
    assert {send.worker for send in policy.dispatch(waiting=True)} <= {0, 1, 2}


def test_a_lone_item_keeps_to_the_limit() -> None:
    policy = Policy(2)
    policy.ready("items", 1, is_alone=True, max_workers=1)
    policy.dispatch(waiting=True)
    policy.ready("items", 1, is_alone=True, max_workers=1)
    assert policy.dispatch(waiting=True) == []
    policy.ready("items", 0)
    assert policy.lone("items", 1.0) is None


def test_other_tasks_take_the_workers_beyond_the_limit() -> None:
    policy = Policy(4)
    policy.ready("items", 100, is_alone=True, max_workers=1)
    policy.ready("calls", 3)
    assert sorted(key for _, key, _ in sends_of(policy.dispatch(waiting=True))) == ["calls"] * 3 + ["items"]


def test_nothing_is_taken_back_for_workers_that_may_not_have_it() -> None:
    policy = Policy(2)
    settle(policy, "items", 5 * MS, max_workers=1)
    policy.ready("items", 50, is_alone=True, max_workers=1)
    sends = policy.dispatch(waiting=True)
    (worker,) = {send.worker for send in sends}
    held = sum(send.count for send in sends)
    assert policy.may_take_back()
    assert policy.rebalance({worker: Progress(held - 1, 1.0)}) == []


def test_what_is_late_is_taken_back_for_a_worker_that_may_have_it() -> None:
    policy = Policy(2)
    settle(policy, "items", 1 * MS)
    policy.ready("items", 8, is_alone=True)
    sends = policy.dispatch(waiting=True)
    first = sends[0]
    for send in sends[1:]:
        if send.worker != first.worker:
            finish_all(policy, send, 1 * MS)
    assert takes_of(policy.rebalance({first.worker: Progress(first.count - 1, 1.0)})) == [
        (first.worker, first.count - 1)
    ]
