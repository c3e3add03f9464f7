"""Each rule of the policy by itself, and what its estimates learn."""

from __future__ import annotations

import pytest

from grainwise.grain.costs import Costs, Estimate
from grainwise.grain.keys import FIRST_PROBES
from grainwise.grain.policy import Policy, Progress
from grainwise.grain.roster import MAX_EXTRA_WORKERS
from grainwise.grain.sizes import MAX_BATCH
from tests.policy.steps import MS, US, finish, finish_all, sends_of, start, takes_of, teach

# -- rule 1: when to send ------------------------------------------------------------------------------------


def test_a_lonely_task_is_sent_at_once() -> None:
    policy = Policy(2)
    policy.ready("f", 1)
    assert sends_of(policy.dispatch(waiting=False)) == [(0, "f", 1)]
    assert policy.dispatch(waiting=True) == []


def test_a_lone_task_finds_an_idle_worker_by_the_short_way() -> None:
    policy = Policy(2)
    assert policy.lone("f", 1.0) is None  # nothing is known of it
    teach(policy, "f", 1 * MS)
    worker = policy.lone("f", 1.0)
    assert worker == 0
    assert policy.lone("f", 1.0) is None  # no other worker exists yet
    assert policy.lone("f", 3.0) is None
    assert start(policy, "f", 1) == [(1, "f", 1)]
    finish(policy, 0, "f", 1, 1 * MS)
    assert policy.lone("f", 2.0) is None  # one CPU is free
    policy.ready("wide", 1, 2.0)
    assert policy.lone("f", 1.0) is None  # others wait, too
    policy.ready("wide", 0)
    assert policy.lone("f", 1.0) == 0
    finish(policy, 0, "f", 1, 1 * MS)
    policy.sent(0, "f", 1)
    policy.blocked(0)
    assert policy.lone("f", 1.0) is None


def test_nothing_ready_sends_nothing() -> None:
    policy = Policy(2)
    policy.ready("f", 0)
    assert policy.dispatch(waiting=True) == []
    assert policy.rebalance({}) == []
    assert policy.surplus() == []


def test_while_submitting_crumbs_wait_and_go_out_when_the_driver_waits() -> None:
    policy = Policy(2)
    teach(policy, "f", 10 * US)
    policy.ready("f", 5)
    assert policy.dispatch(waiting=False) == []
    assert sum(count for _, _, count in sends_of(policy.dispatch(waiting=True))) == 5


def test_while_submitting_full_batches_go_out() -> None:
    policy = Policy(1)
    teach(policy, "f", 1 * US)
    policy.ready("f", policy.full_batch - 1)
    assert policy.dispatch(waiting=False) == []
    policy.ready("f", policy.full_batch)
    assert sends_of(policy.dispatch(waiting=False)) == [(0, "f", policy.full_batch)]


def test_tasks_that_cost_the_driver_nothing_fill_batches_to_their_bound() -> None:
    policy = Policy(1, Costs(submit_s=0.0, finish_s=0.0), max_batch=100)
    assert policy.full_batch == 100
    teach(policy, "f", 1 * US)
    policy.ready("f", 99)
    assert policy.dispatch(waiting=False) == []
    policy.ready("f", 1000)
    assert sends_of(policy.dispatch(waiting=False)) == [(0, "f", 100)]


def test_a_world_without_costs_is_a_world_with_batches() -> None:
    policy = Policy(2, Costs(0.0, 0.0, 0.0, 0.0, 0.0, 0.0))
    teach(policy, "f", 10 * US)
    assert sum(count for _, _, count in start(policy, "f", 1000)) > 100


def test_the_right_to_talk_early_is_spent_and_earned() -> None:
    policy = Policy(1, Costs(submit_s=10 * US))
    teach(policy, "f", policy.floor_s)
    num_early = 0
    while True:
        policy.ready("f", 1)
        sends = policy.dispatch(waiting=False)
        if not sends:
            break
        num_early += 1
        finish(policy, 0, "f", 1, policy.floor_s)
        assert num_early < 100, "credit has no end"
    policy.ready("f", 7)  # submitting these took long enough to earn another message
    assert len(policy.dispatch(waiting=False)) == 1


def test_the_next_look_is_worth_its_call() -> None:
    policy = Policy(2)
    assert policy.next_look("unknown") == 64
    assert policy.is_long("unknown")
    teach(policy, "tiny", 0.01 * US)
    teach(policy, "small", policy.floor_s / 8)
    teach(policy, "long", 1.0)
    assert policy.next_look("tiny") == policy.full_batch
    assert 7 <= policy.next_look("small") <= 8
    assert policy.next_look("long") == 1
    assert [policy.is_long(key) for key in ("tiny", "small", "long")] == [False, False, True]


# -- rules 2 and 3: how many ---------------------------------------------------------------------------------


def test_unknown_functions_are_probed_one_task_per_worker() -> None:
    policy = Policy(3)
    assert start(policy, "f", 100) == [(0, "f", 1), (1, "f", 1), (2, "f", 1)]
    policy.ready("f", 97)
    assert policy.dispatch(waiting=True) == []


def test_probes_double_at_each_look_that_finds_them_running() -> None:
    policy = Policy(1000)
    numbers = [len(start(policy, "f", 1000)) for _ in range(4)]
    assert numbers == [FIRST_PROBES, FIRST_PROBES, 2 * FIRST_PROBES, 4 * FIRST_PROBES]


def test_probes_beyond_the_first_cost_credit_while_the_driver_submits() -> None:
    policy = Policy(100, Costs(submit_s=0.0))
    policy.ready("f", 100)
    num_probes = len(policy.dispatch(waiting=False))
    assert 1 < num_probes < FIRST_PROBES
    assert len(policy.dispatch(waiting=False)) == 0
    assert len(policy.dispatch(waiting=True)) == FIRST_PROBES - num_probes


def test_a_known_cost_ends_the_probes() -> None:
    policy = Policy(2)
    start(policy, "f", 1000)
    finish(policy, 0, "f", 1, 10 * US)
    assert all(count > 1 for _, _, count in start(policy, "f", 998))


def test_a_batch_fills_the_quantum_and_no_more() -> None:
    policy = Policy(2)
    teach(policy, "f", 100 * US)
    counts = [count for _, _, count in start(policy, "f", 100_000)]
    assert len(counts) == 4  # two workers, two deep
    assert all(0.9 * policy.quantum_s <= count * 100 * US <= 1.1 * policy.quantum_s for count in counts)


def test_a_batch_is_at_most_a_fair_share() -> None:
    policy = Policy(4)
    teach(policy, "f", 1 * MS)
    first = start(policy, "f", 20)[0]
    assert first[2] == 2  # half of a fourth of 20


def test_a_batch_at_most_doubles_what_has_come_back() -> None:
    policy = Policy(1, Costs(batch_s=0.1 * US, message_s=0.1 * US, round_trip_s=1 * US))
    policy.ready("f", 1)
    policy.dispatch(waiting=True)
    finish(policy, 0, "f", 1, 10 * US)
    sizes = []
    for _ in range(6):
        ((_, _, count), *others) = start(policy, "f", 100_000)
        for worker, key, more in others:
            policy.returned(worker, key, more)
            policy.ended(worker)
        finish(policy, 0, "f", count, 10 * US)
        sizes.append(count)
    assert sizes == [2, 4, 8, 16, 32, 64]


def test_no_batch_is_longer_than_its_bound() -> None:
    policy = Policy(1)
    teach(policy, "f", 1e-9, largest_batch=10**6)
    assert start(policy, "f", 10**9)[0][2] == MAX_BATCH


def test_keys_take_turns() -> None:
    policy = Policy(1)
    for key in "abc":
        teach(policy, key, 10 * MS)
    for key in "abc":
        policy.ready(key, 5)
    served = []
    for _ in range(6):
        (send, *_) = policy.dispatch(waiting=True)
        served += [key for key, _ in send.parts]
        finish_all(policy, send, 10 * MS)
    assert sorted(served[:3]) == sorted(served[3:]) == ["a", "b", "c"]


# -- rule 4: two deep ----------------------------------------------------------------------------------------


def test_a_worker_gets_its_next_batch_ahead_and_no_third() -> None:
    policy = Policy(1)
    teach(policy, "f", 100 * US)
    assert [worker for worker, _, _ in start(policy, "f", 10_000)] == [0, 0]
    policy.ready("f", 10_000)
    assert policy.dispatch(waiting=True) == []


def test_nothing_is_put_behind_a_long_task() -> None:
    policy = Policy(1)
    teach(policy, "f", 1.0)
    assert start(policy, "f", 10) == [(0, "f", 1)]


def test_crumbs_are_not_put_behind_anything() -> None:
    policy = Policy(1)
    teach(policy, "f", 1 * US)
    assert start(policy, "f", 10)[0][1:] == ("f", 10)
    assert start(policy, "f", 10) == []


# -- rule 5: take-back ---------------------------------------------------------------------------------------


def one_busy_worker(num_cpus: float, mean_s: float, count: int) -> Policy:
    """Return a policy whose worker 0 holds `count` tasks that its estimate takes for `mean_s` long."""
    policy = Policy(num_cpus)
    teach(policy, "f", mean_s)
    policy.sent(0, "f", count)
    return policy


def test_a_free_worker_gets_half_of_the_fullest() -> None:
    policy = one_busy_worker(3, 1 * MS, 10)
    policy.sent(1, "f", 100)
    takes = policy.rebalance({0: Progress(9, 0.0), 1: Progress(99, 0.0)})
    assert takes_of(takes) == [(1, 50)]


def test_nothing_is_taken_when_nobody_is_free() -> None:
    policy = one_busy_worker(1, 1 * MS, 10)
    assert policy.rebalance({0: Progress(9, 100.0)}) == []


def test_crumbs_are_not_taken_unless_the_running_task_is_late() -> None:
    policy = one_busy_worker(2, 1 * US, 10)
    assert policy.rebalance({0: Progress(9, 0.0)}) == []
    assert takes_of(policy.rebalance({0: Progress(9, 0.1)})) == [(0, 9)]


def test_everything_behind_a_late_task_comes_back() -> None:
    policy = one_busy_worker(2, 1 * MS, 100)
    assert takes_of(policy.rebalance({0: Progress(99, 1.9 * MS)})) == [(0, 50)]
    assert takes_of(policy.rebalance({0: Progress(99, 3 * MS)})) == [(0, 99)]


def test_what_is_on_its_way_to_an_idle_worker_is_left_alone() -> None:
    """It begins as soon as it arrives; to move it would only make another worker begin it later."""
    policy = one_busy_worker(4, 20 * MS, 1)
    assert policy.rebalance({0: Progress(1, 0.0)}) == []
    policy.sent(1, "f", 3)
    assert takes_of(policy.rebalance({1: Progress(3, 0.0)})) == [(1, 1)]


def test_a_single_task_behind_a_running_one_is_taken() -> None:
    policy = one_busy_worker(2, 20 * MS, 2)
    assert takes_of(policy.rebalance({0: Progress(1, 0.0)})) == [(0, 1)]


def test_each_free_cpu_takes_from_another_worker() -> None:
    policy = Policy(4)
    teach(policy, "f", 10 * MS)
    policy.sent(0, "f", 10)
    policy.sent(1, "f", 10)
    both = {0: Progress(9, 0.0), 1: Progress(9, 0.0)}
    assert sorted(takes_of(policy.rebalance(both))) == [(0, 5), (1, 5)]
    policy.sent(2, "f", 1)
    assert len(policy.rebalance(both)) == 1


def test_ready_tasks_that_need_more_cpus_do_not_stop_take_back() -> None:
    policy = one_busy_worker(2, 10 * MS, 10)
    assert start(policy, "wide", 1, cpus=2.0) == []
    assert takes_of(policy.rebalance({0: Progress(9, 0.0)})) == [(0, 5)]


def test_progress_of_a_worker_that_is_gone_is_ignored() -> None:
    policy = one_busy_worker(2, 10 * MS, 10)
    policy.died(0)
    assert policy.rebalance({0: Progress(9, 1.0), 7: Progress(9, 1.0)}) == []


# -- CPUs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_cpus", "cpus", "num_workers"),
    [(2, 1, 2), (2, 2, 1), (2, 0.5, 4), (3, 2, 1), (0.5, 0.5, 1), (1, 0.1, 10), (2.5, 1, 2), (4, 1.5, 2)],
)
def test_tasks_occupy_their_cpus(num_cpus: float, cpus: float, num_workers: int) -> None:
    policy = Policy(num_cpus)
    assert len(start(policy, "f", 100, cpus)) == num_workers


def test_tasks_without_cpu_run_beside_full_cpus_and_are_bounded() -> None:
    policy = Policy(1)
    assert len(start(policy, "f", 5)) == 1
    assert len(start(policy, "free", 3, cpus=0.0)) == 3
    sends = []
    for _ in range(6):  # twice as many probes at each look
        sends += start(policy, "free", 10_000, cpus=0.0)
    assert len(sends) == MAX_EXTRA_WORKERS - 3


def test_a_tenth_of_a_cpu_ten_times_is_one_cpu() -> None:
    policy = Policy(1)
    sends = start(policy, "f", 100, cpus=0.1)
    for worker, _, _ in sends:
        finish(policy, worker, "f", 1, 1.0)
    assert len(start(policy, "f", 100, cpus=0.1)) == 10
    for worker in range(10):
        finish(policy, worker, "f", 1, 1.0)
    assert start(policy, "whole", 1, cpus=1.0)


def test_a_worker_kept_busy_occupies_what_it_holds_now() -> None:
    """Two deep with half-CPU tasks, it gives back the CPUs of the wide batch before them."""
    policy = Policy(2)
    teach(policy, "half", 1 * MS, cpus=0.5)
    teach(policy, "wide", 1 * MS, cpus=2.0)
    ((worker, _, count), *_) = start(policy, "wide", 1, cpus=2.0)
    start(policy, "half", 1, cpus=0.5)
    policy.sent(worker, "half", 1)
    policy.ready("half", 0)
    finish(policy, worker, "wide", count, 1 * MS)
    assert start(policy, "one", 1) != []


def test_a_waiting_task_lends_its_cpu_and_takes_it_again() -> None:
    policy = Policy(1)
    ((parent, _, _),) = start(policy, "parent", 1)
    assert start(policy, "child", 1) == []
    policy.blocked(parent)
    policy.blocked(parent)  # twice is once
    ((child, _, _),) = sends_of(policy.dispatch(waiting=True))
    assert child != parent
    policy.resumed(parent)
    policy.resumed(parent)
    assert start(policy, "other", 1) == []
    finish(policy, child, "child", 1, 1.0)
    assert start(policy, "other", 1) == []  # the parent runs
    finish(policy, parent, "parent", 1, 1.0)
    assert len(sends_of(policy.dispatch(waiting=True))) == 1


def test_a_blocked_worker_is_sent_nothing() -> None:
    policy = Policy(1)
    teach(policy, "f", 100 * US)
    ((parent, _, _),) = start(policy, "parent", 1)
    policy.blocked(parent)
    assert {worker for worker, _, _ in start(policy, "f", 10_000)} == {parent + 1}


def test_children_in_place_occupy_the_cpu_while_they_run() -> None:
    policy = Policy(1)
    ((worker, _, _),) = start(policy, "parent", 1)
    policy.blocked(worker)
    policy.resumed(worker)
    policy.sent(worker, "child", 2)
    assert start(policy, "other", 1) == []
    finish(policy, worker, "child", 2, 1.0)
    policy.blocked(worker)
    assert len(sends_of(policy.dispatch(waiting=True))) == 1


# -- ends ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_blocked", [False, True])
def test_a_dead_worker_gives_its_cpus_back(is_blocked: bool) -> None:
    policy = Policy(1)
    ((worker, _, _),) = start(policy, "f", 1)
    if is_blocked:
        policy.blocked(worker)
    policy.died(worker)
    ((heir, _, _),) = start(policy, "f", 1)
    assert heir != worker
    assert start(policy, "f", 1) == []


def test_reports_of_a_dead_worker_are_ignored() -> None:
    policy = Policy(1)
    ((worker, _, _),) = start(policy, "f", 2)
    policy.died(worker)
    policy.died(worker)
    policy.returned(worker, "f", 1)
    finish(policy, worker, "f", 1, 1.0)
    assert len(start(policy, "f", 1)) == 1
    assert start(policy, "f", 1) == []


def test_a_key_can_be_forgotten() -> None:
    policy = Policy(1)
    teach(policy, "f", 1 * MS)
    policy.forget("f")
    policy.forget("f")
    assert policy.mean_s("f") is None
    assert start(policy, "f", 5) == [(0, "f", 1)]


def test_surplus_workers_are_the_latest_idle_ones() -> None:
    policy = Policy(2)
    workers = []
    for _ in range(3):
        ((worker, _, _),) = start(policy, "parent", 1)
        policy.blocked(worker)
        workers.append(worker)
    assert policy.surplus() == []
    for worker in workers:
        policy.resumed(worker)
        finish(policy, worker, "parent", 1, 1.0)
    assert policy.surplus() == workers[:1:-1]
    policy.died(workers[2])
    assert policy.surplus() == []


def test_a_batch_that_shrinks_or_vanishes_on_its_way_leaves_no_trace() -> None:
    """What was cancelled in the queue, as the engine tells it: returned, then ended when nothing is left."""
    policy = Policy(1)
    teach(policy, "f", 1 * MS)
    ((worker, _, count),) = start(policy, "f", 1)
    policy.returned(worker, "f", count)
    policy.ended(worker)
    policy.ended(99)
    assert start(policy, "whole", 1)


# -- estimates -----------------------------------------------------------------------------------------------


def learn(estimate: Estimate, mean_s: float, count: int = 1, times: int = 1) -> float:
    for _ in range(times):
        estimate.learn(count, count * mean_s, mean_s, quantum_s=5 * MS)
    assert estimate.mean_s is not None
    return estimate.mean_s


def test_the_first_calls_believe_the_faster_one() -> None:
    estimate = Estimate()
    assert learn(estimate, 0.3) == 0.3
    assert learn(estimate, 10 * US) == 10 * US


def test_later_a_fast_surprise_counts_by_the_time_that_it_took() -> None:
    estimate = Estimate()
    learn(estimate, 1 * MS, 10, times=10)
    assert learn(estimate, 1 * US) >= 0.8 * MS
    assert learn(estimate, 1 * US, 10**6) <= 2 * US


def test_a_slow_surprise_that_cost_time_counts_at_once() -> None:
    estimate = Estimate()
    learn(estimate, 1 * MS, 10, times=10)
    assert learn(estimate, 100 * MS) >= 50 * MS
    assert learn(estimate, 100 * MS) >= 90 * MS


def test_a_slow_surprise_of_no_cost_hardly_counts() -> None:
    estimate = Estimate()
    learn(estimate, 1 * US, 1000, times=10)
    assert learn(estimate, 20 * US) < 3 * US


def test_one_slow_item_among_many_counts_as_one() -> None:
    """Each 20th item takes a thousand times longer: the mean is theirs, not that of the latest report."""
    estimate = Estimate()
    means = []
    for _ in range(50):
        learn(estimate, 10 * US, 19)
        means.append(learn(estimate, 10 * MS))
    assert 10 * MS / 20 <= min(means) <= max(means[10:]) <= 3 * 10 * MS / 20


def test_a_report_weighs_the_time_that_it_stands_for() -> None:
    little, much = Estimate(), Estimate()
    for estimate in (little, much):
        learn(estimate, 10 * US, 500, times=5)
    assert learn(little, 15 * US, 1) < learn(much, 15 * US, 300)


def test_estimates_keep_the_largest_batch_per_key() -> None:
    policy = Policy(1)
    assert (policy.mean_s("f"), policy.largest_batch("f")) == (None, 0)
    policy.ready("f", 8)
    policy.dispatch(waiting=True)
    policy.finished(0, "f", 4, 4, 4 * MS, 1 * MS)
    policy.finished(0, "f", 3, 3, 3 * MS, 1 * MS)  # of the same batch
    policy.ended(0)
    finish(policy, 0, "f", 5, 1 * MS)
    assert (policy.mean_s("f"), policy.largest_batch("f")) == (pytest.approx(1 * MS), 7)
    assert policy.mean_s("g") is None


def test_results_that_were_not_timed_teach_nothing() -> None:
    """What the reporter sends in the middle of a sub-block is timed at its end."""
    policy = Policy(1)
    ((worker, _, _),) = start(policy, "f", 1)
    policy.finished(worker, "f", 1, 0, 0.0, 0.0)
    assert policy.mean_s("f") is None
    policy.finished(worker, "f", 0, 1, 2 * MS, 2 * MS)
    assert policy.mean_s("f") == 2 * MS


def test_a_task_that_few_workers_may_hold_is_never_sent_past_them() -> None:
    policy = Policy(2)
    policy.ready("other", 2)
    first, second = policy.dispatch(waiting=True)
    for send in (first, second):
        policy.finished(send.worker, "other", 1, 1, MS, MS)
        policy.ended(send.worker)
    policy.ready("few", 1, max_workers=1)
    [send] = policy.dispatch(waiting=True)
    policy.blocked(send.worker)
    assert policy.lone("few", 1.0) is None
    policy.ready("few", 1, max_workers=1)
    assert policy.dispatch(waiting=True) == []


def test_what_blocked_tasks_wait_for_goes_ahead_of_tasks_that_may_block_as_well() -> None:
    policy = Policy(1)
    for key in ("makes", "reads"):
        teach(policy, key, 500 * MS)  # a batch for each
    policy.ready("reads", 10)
    policy.ready("makes", 3)
    [(reader, key, _)] = sends_of(policy.dispatch(waiting=True))
    assert key == "reads"
    assert policy.needed("makes", 1)
    policy.blocked(reader)
    for _ in range(3):
        [(maker, key, count)] = sends_of(policy.dispatch(waiting=True))
        assert key == "makes"
        finish(policy, maker, key, count, 500 * MS)
    policy.needed("makes", -1)
    policy.ready("makes", 5)
    assert [key for _, key, _ in sends_of(policy.dispatch(waiting=True))] == ["reads"]
    assert not policy.needed("unheard of", 1)


def test_what_is_awaited_before_any_was_ready_goes_ahead_as_well() -> None:
    policy = Policy(1)
    teach(policy, "reads", 500 * MS)
    policy.ready("reads", 10)
    [(reader, _, _)] = sends_of(policy.dispatch(waiting=True))
    policy.blocked(reader)
    policy.resumed(reader)
    policy.sent(reader, "makes", 1)  # in place, on top of the one that waits
    assert policy.needed("makes", 1)
    finish(policy, reader, "makes", 1, 500 * MS)
    policy.blocked(reader)
    policy.ready("makes", 3)
    assert [key for _, key, _ in sends_of(policy.dispatch(waiting=True))] == ["makes"]


# -- CPUs that something else has ----------------------------------------------------------------------------


def test_what_is_reserved_is_nobody_elses() -> None:
    policy = Policy(2)
    teach(policy, "f", 1 * MS)
    policy.reserve(2)
    assert policy.cpus_in_use() == 2
    assert start(policy, "f", 4) == []
    policy.reserve(-1)
    assert {worker for worker, _, _ in sends_of(policy.dispatch(waiting=True))} == {0}


def test_while_something_waits_for_cpus_nothing_is_sent_behind_what_runs() -> None:
    policy = Policy(1)
    teach(policy, "f", 1 * MS)
    sent = start(policy, "f", 1000)
    policy.reserve(1)
    policy.hold_back(True)
    for worker, key, count in sent:
        assert sends_of(policy.dispatch(waiting=True)) == []
        finish(policy, worker, key, count, 1 * MS)
    assert policy.cpus_in_use() == 1  # what is reserved, and nothing else
    assert sends_of(policy.dispatch(waiting=True)) == []
    policy.hold_back(False)
    policy.reserve(-1)
    assert sends_of(policy.dispatch(waiting=True))


def test_parts_of_cpus_do_not_drift() -> None:
    policy = Policy(1)
    for cpus in (0.1, 0.3, 1 / 3, 0.7):
        for _ in range(1000):
            policy.reserve(cpus)
            policy.reserve(1)
            policy.reserve(-cpus)
            policy.reserve(-1)
    for _ in range(10):
        policy.reserve(0.1)
    assert policy.cpus_in_use() == 1.0
    for _ in range(10):
        policy.reserve(-0.1)
    assert policy.cpus_in_use() == 0.0
