"""Batches of several keys, and keys that share a batch with nobody: limits, suspects, homes."""

from __future__ import annotations

import pytest

from grainwise.grain.costs import Costs
from grainwise.grain.packing import MAX_MISFITS
from grainwise.grain.policy import Policy, Progress
from tests.policy.steps import MS, US, finish, finish_all, sends_of, start, takes_of, teach

# -- several keys in one batch -------------------------------------------------------------------------------


def test_small_keys_share_a_batch() -> None:
    policy = Policy(1)
    for key in "abc":
        teach(policy, key, 10 * US)
    for key in "abc":
        policy.ready(key, 10)
    (send,) = policy.dispatch(waiting=True)
    assert send.parts == [("a", 10), ("b", 10), ("c", 10)]
    assert send.count == 30
    assert send.worth_s == pytest.approx(300 * US)
    assert policy.dispatch(waiting=True) == []


def test_a_mixed_batch_is_no_longer_than_one_of_one_key() -> None:
    policy = Policy(1)
    for key in "abc":
        teach(policy, key, 100 * US)
    for key in "abc":
        policy.ready(key, 30)
    sends = policy.dispatch(waiting=True)
    assert len(sends) == 2  # two deep
    assert all(send.worth_s <= send.budget_s + 100 * US for send in sends)
    assert sum(send.count for send in sends) * 100 * US <= policy.quantum_s * 1.5


def test_keys_that_need_several_batches_take_turns_with_the_small_ones() -> None:
    """A key of a million tasks leaves room for one of ten: it is served within two batches."""
    policy = Policy(1)
    teach(policy, "many", 100 * US)
    teach(policy, "few", 100 * US)
    policy.ready("many", 10**6)
    policy.ready("few", 10)
    sends = policy.dispatch(waiting=True)
    assert "few" in [key for send in sends for key, _ in send.parts]


def test_in_the_long_run_equal_keys_get_equal_parts() -> None:
    policy = Policy(2)
    served = dict.fromkeys("abc", 0)
    for key in "abc":
        teach(policy, key, 100 * US)
    for key in "abc":
        policy.ready(key, 10**6)
    sends = policy.dispatch(waiting=True)
    for _ in range(60):
        send = sends.pop(0)
        for key, count in send.parts:
            served[str(key)] += count
        finish_all(policy, send, 100 * US)
        sends += policy.dispatch(waiting=True)
    assert max(served.values()) <= 1.1 * min(served.values())


def test_a_long_task_does_not_fit_behind_short_ones() -> None:
    policy = Policy(2)
    teach(policy, "short", 10 * US)
    teach(policy, "long", 1.0)
    policy.ready("short", 5)
    policy.ready("long", 1)
    assert sends_of(policy.dispatch(waiting=True)) == [(0, "short", 5), (1, "long", 1)]


def test_misfits_end_the_search_for_more() -> None:
    """Hundreds of keys that don't fit must not be looked through for each batch."""
    policy = Policy(2)
    teach(policy, "a", 10 * US)
    teach(policy, "z", 10 * US)
    long = [f"long{i}" for i in range(MAX_MISFITS)]
    for key in long:
        teach(policy, key, 1.0)
    for key in ["a", *long, "z"]:
        policy.ready(key, 1)
    first = policy.dispatch(waiting=True)[0]
    assert first.parts == [("a", 1)]
    policy = Policy(2)
    for key in "az":
        teach(policy, key, 10 * US)
    teach(policy, "long", 1.0)
    for key in ("a", "long", "z"):
        policy.ready(key, 1)
    assert policy.dispatch(waiting=True)[0].parts == [("a", 1), ("z", 1)]


def test_a_wider_key_does_not_run_in_the_place_of_a_narrow_one() -> None:
    policy = Policy(4)
    needs = {"half": 0.5, "one": 1.0, "two": 2.0, "none": 0.0}
    for key, cpus in needs.items():
        teach(policy, key, 10 * US, cpus)
    for key in ("one", "half", "two", "none"):
        policy.ready(key, 3, needs[key])
    parts = [[key for key, _ in send.parts] for send in policy.dispatch(waiting=True)]
    assert parts == [["one", "half"], ["two"], ["none"]]


def test_crumbs_in_front_do_not_hold_up_what_is_worth_a_message() -> None:
    """While the driver submits, one key's crumbs wait; a long task and a probe behind them do not."""
    policy = Policy(2)
    teach(policy, "crumbs", 10 * US)
    teach(policy, "long", 1.0)
    policy.ready("crumbs", 3)
    policy.ready("long", 1)
    assert sends_of(policy.dispatch(waiting=False)) == [(0, "long", 1)]
    policy = Policy(2)
    teach(policy, "crumbs", 10 * US)
    policy.ready("crumbs", 3)
    policy.ready("unknown", 1)
    assert sends_of(policy.dispatch(waiting=False)) == [(0, "unknown", 1)]


def test_each_key_of_a_batch_is_reported_by_itself() -> None:
    policy = Policy(1)
    for key in "ab":
        teach(policy, key, 100 * US)
    policy.ready("a", 2)
    policy.ready("b", 2)
    (send,) = policy.dispatch(waiting=True)
    finish(policy, 0, "a", 2, 100 * US, is_end=False)
    finish(policy, 0, "b", 1, 100 * US, is_end=False)
    policy.returned(0, "b", 1)
    assert start(policy, "a", 1) == []  # a crumb behind a batch that has not ended
    policy.ended(send.worker)
    assert sends_of(policy.dispatch(waiting=True)) == [(0, "a", 1)]


# -- limits --------------------------------------------------------------------------------------------------


def test_a_limit_is_the_size_of_all_batches() -> None:
    policy = Policy(1)
    for num_deep in (1, 2, 2):  # nothing is put behind what may be long
        policy.ready("f", 100, limit=7)
        sends = policy.dispatch(waiting=True)
        assert [send.parts for send in sends] == [[("f", 7)]] * num_deep
        for send in sends:
            finish_all(policy, send, 10 * US)


def test_a_limited_batch_waits_until_it_is_full_or_the_driver_waits() -> None:
    policy = Policy(1)
    policy.ready("f", 6, limit=7)
    assert policy.dispatch(waiting=False) == []
    assert sends_of(policy.dispatch(waiting=True)) == [(0, "f", 6)]


def test_batching_off_sends_each_task_by_itself() -> None:
    policy = Policy(2)
    policy.ready("f", 10, limit=1)
    assert [count for _, _, count in sends_of(policy.dispatch(waiting=False))] == [1] * 4  # two deep


def test_a_limited_key_shares_no_batch() -> None:
    policy = Policy(2)
    teach(policy, "f", 10 * US)
    policy.ready("limited", 3, limit=3)
    policy.dispatch(waiting=True)
    finish(policy, 0, "limited", 3, 10 * US)
    policy.ready("f", 3)
    policy.ready("limited", 3, limit=3)
    assert sorted(send.parts for send in policy.dispatch(waiting=True)) == [[("f", 3)], [("limited", 3)]]


def test_a_limit_holds_for_a_key_that_was_first_seen_in_other_ways() -> None:
    """As a follower, or a child run in place: what `ready` says later counts."""
    policy = Policy(1)
    policy.sent(0, "f", 1)
    finish(policy, 0, "f", 1, 10 * US)
    policy.ready("f", 10, limit=2)
    assert sends_of(policy.dispatch(waiting=True))[0] == (0, "f", 2)
    policy = Policy(2)
    policy.sent(0, "wide", 1)
    finish(policy, 0, "wide", 1, 10 * MS)
    assert [worker for worker, _, _ in start(policy, "wide", 9, cpus=2.0)] == [0]


# -- suspects ------------------------------------------------------------------------------------------------


def test_a_suspect_key_goes_out_alone_until_one_succeeds() -> None:
    policy = Policy(2)
    teach(policy, "f", 10 * US)
    teach(policy, "g", 10 * US)
    policy.suspect("f", True)
    policy.ready("f", 30)
    policy.ready("g", 30)
    sends = policy.dispatch(waiting=True)
    assert sorted(send.parts for send in sends) == [[("f", 1)], [("g", 30)]]
    suspect = next(send for send in sends if send.parts[0][0] == "f")
    finish(policy, suspect.worker, "f", 1, 10 * US)
    policy.suspect("f", False)
    policy.ready("f", 29)
    assert sends_of(policy.dispatch(waiting=True)) == [(suspect.worker, "f", 29)]


def test_a_suspect_is_put_behind_nothing() -> None:
    policy = Policy(1)
    teach(policy, "f", 1 * MS)
    teach(policy, "g", 1 * MS)
    start(policy, "g", 1)
    policy.suspect("f", True)
    assert start(policy, "f", 10) == []


def test_a_key_that_nobody_knows_may_be_suspect() -> None:
    Policy(1).suspect("f", True)


# -- homes ---------------------------------------------------------------------------------------------------


def test_a_task_with_a_large_input_goes_where_that_is() -> None:
    policy = Policy(3)
    policy.ready("f", 3)
    for send in policy.dispatch(waiting=True):
        finish_all(policy, send, 1 * MS)
    for home in (1, 2, 0):
        policy.ready(("f", home), 1, cost="f", home=home)
    sends = policy.dispatch(waiting=True)
    assert {send.worker: send.parts for send in sends} == {home: [(("f", home), 1)] for home in range(3)}


def test_a_home_that_is_busy_is_not_waited_for() -> None:
    policy = Policy(2)
    teach(policy, "f", 1 * MS)
    policy.sent(0, "f", 1)
    policy.ready(("f", 0), 1, cost="f", home=0)
    assert [send.worker for send in policy.dispatch(waiting=True)] == [1]


def test_keys_that_share_costs_share_estimates() -> None:
    policy = Policy(2)
    teach(policy, "f", 1 * MS)
    policy.ready(("f", 0), 50, cost="f", home=0)
    assert policy.mean_s(("f", 0)) == policy.mean_s("f")
    (send, *_) = policy.dispatch(waiting=True)
    assert send.count > 1  # no probe


def test_a_homed_task_is_not_dispatched_the_short_way() -> None:
    policy = Policy(1)
    policy.ready("f", 1, home=0)
    finish_all(policy, policy.dispatch(waiting=True)[0], 1 * MS)
    assert policy.lone("f", 1.0) is None


# -- when to look for something to take back -----------------------------------------------------------------


def test_nothing_can_be_taken_back_while_all_cpus_are_in_use() -> None:
    policy = Policy(2)
    assert policy.may_take_back()
    teach(policy, "f", 1 * MS)
    start(policy, "f", 100)
    assert not policy.may_take_back()
    policy.blocked(0)
    assert policy.may_take_back()
    policy.resumed(0)
    assert not policy.may_take_back()
    policy.died(0)
    assert policy.may_take_back()


def test_tasks_without_cpu_can_be_taken_back_at_any_time() -> None:
    policy = Policy(1)
    start(policy, "f", 1)
    assert not policy.may_take_back()
    start(policy, "free", 1, cpus=0.0)
    assert policy.may_take_back()


# -- tied tasks ----------------------------------------------------------------------------------------------


def test_tasks_that_need_others_of_their_batch_are_not_worth_taking() -> None:
    policy = Policy(2)
    teach(policy, "f", 1 * MS)
    policy.sent(0, "f", 100)
    assert policy.rebalance({0: Progress(99, 0.0, tied=99)}) == []
    # half of the 39 free ones, and with them the tied ones, which stand behind
    assert takes_of(policy.rebalance({0: Progress(99, 0.0, tied=60)})) == [(0, 80)]


def test_behind_a_late_task_tied_ones_come_back_too() -> None:
    policy = Policy(2)
    teach(policy, "f", 1 * MS)
    policy.sent(0, "f", 100)
    assert takes_of(policy.rebalance({0: Progress(99, 0.1, tied=99)})) == [(0, 99)]


def test_what_is_late_tells_its_cost() -> None:
    """Only where one key is held: in a mixed batch nobody can tell whose task it is."""
    policy = Policy(2, Costs())
    for key in "fg":
        teach(policy, key, 10 * US)
    policy.sent(0, "f", 10)
    policy.rebalance({0: Progress(9, 0.1)})
    assert policy.mean_s("f") == pytest.approx(0.1)
    policy = Policy(2, Costs())
    for key in "fg":
        teach(policy, key, 10 * US)
    policy.sent(0, "f", 10)
    policy.finished(0, "g", 0, 0, 0.0, 0.0)
    policy.sent(0, "g", 10)
    policy.rebalance({0: Progress(19, 0.1)})
    assert policy.mean_s("f") == policy.mean_s("g") == pytest.approx(10 * US)
