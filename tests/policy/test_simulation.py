"""Whole programs in virtual time: what the policy promises holds whatever the tasks cost.

`pytest --hypothesis-profile=search tests/policy` looks for new counterexamples.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainwise.grain.roster import MAX_EXTRA_WORKERS
from tests.policy.bounds import longest_s, message_bound, work_s
from tests.policy.simulator import TICK_S, Simulation
from tests.policy.virtual_worker import STARTUP_S, Burst, Child, Task
from tests.policy.workloads import SHAPES, draw_tasks, submit

COEXIST_S = 2 * TICK_S + 5e-3
"""A free CPU beside a task that nobody claimed: two looks (one starts the clock), and being late."""
SETTLING_S = STARTUP_S + 3 * TICK_S
"""What no estimate can spare: workers start, a first report comes after a tick, a look after another."""

shapes = st.sampled_from(SHAPES)
counts = st.sampled_from((1, 2, 7, 50, 400, 1500))
exponents = st.lists(st.floats(-6.3, -1.5), min_size=1, max_size=5)
manners = st.sampled_from(("at once", "at once", "bursts", "trickle"))
seeds = st.integers(0, 1 << 32)
some_cpus = st.sampled_from((1, 2, 4, 16))


def examples(count: int) -> settings:
    """Take so many examples, and as many as the profile says when it searches."""
    of_profile = settings().max_examples
    return settings(max_examples=count if of_profile <= 100 else of_profile)


def assert_done_once(simulation: Simulation) -> None:
    assert {task.num_results for task in simulation.tasks} == {1}
    assert {task.num_runs for task in simulation.tasks} == {1}


def assert_in_order(simulation: Simulation) -> None:
    """Hold what every program may rely on."""
    assert simulation.coexisted_s <= COEXIST_S
    assert not simulation.crumbs


# -- liveness, exactly once, no crumbs ---------------------------------------------------------------------


@given(shapes, counts, exponents, manners, some_cpus, seeds)
@examples(80)
def test_independent_tasks(
    shape: str, count: int, exponents: list[float], manner: str, num_cpus: int, seed: int
) -> None:
    rng = random.Random(seed)
    simulation = Simulation(submit(draw_tasks(shape, count, exponents, rng), manner, rng), num_cpus)
    simulation.run()
    assert_done_once(simulation)
    assert_in_order(simulation)
    if manner == "at once":
        assert sum(what == "send" for _, what, *_ in simulation.trace) <= message_bound(simulation)


@given(shapes, counts, exponents, manners, some_cpus, st.integers(1, 20), seeds)
@examples(60)
def test_tasks_that_wait_for_tasks(
    shape: str, count: int, exponents: list[float], manner: str, num_cpus: int, num_parents: int, seed: int
) -> None:
    rng = random.Random(seed)
    tasks = draw_tasks(shape, count, exponents, rng, num_parents=num_parents)
    simulation = Simulation(submit(tasks, manner, rng), num_cpus)
    simulation.run()
    assert_done_once(simulation)
    assert_in_order(simulation)


@given(shapes, counts, exponents, manners, some_cpus, st.integers(1, 20), seeds)
@examples(50)
def test_workers_that_die(
    shape: str, count: int, exponents: list[float], manner: str, num_cpus: int, num_deaths: int, seed: int
) -> None:
    rng = random.Random(seed)
    deaths = [rng.uniform(0.0, 0.1) for _ in range(num_deaths)]
    tasks = draw_tasks(shape, count, exponents, rng)
    simulation = Simulation(submit(tasks, manner, rng), num_cpus, deaths=deaths, seed=seed)
    simulation.run()
    assert {task.num_results for task in simulation.tasks} == {1}
    assert max(task.num_runs for task in simulation.tasks) <= 1 + simulation.num_deaths
    assert_in_order(simulation)


@given(shapes, counts, exponents, manners, some_cpus, st.integers(1, 5), seeds)
@examples(40)
def test_tasks_that_end_their_workers(
    shape: str, count: int, exponents: list[float], manner: str, num_cpus: int, num_killers: int, seed: int
) -> None:
    rng = random.Random(seed)
    tasks = draw_tasks(shape, count, exponents, rng, num_killers=num_killers, num_parents=2)
    simulation = Simulation(submit(tasks, manner, rng), num_cpus)
    simulation.run()
    assert {task.num_results for task in simulation.tasks} == {1}
    killers = [task for task in simulation.tasks if task.kills]
    assert simulation.num_deaths == sum(task.kills for task in killers)
    assert_in_order(simulation)


@given(shapes, counts, exponents, manners, st.sampled_from((0.5, 1.0, 1.5, 2.0, 2.5, 4.0)), st.data(), seeds)
@examples(50)
def test_tasks_of_other_than_one_cpu(
    shape: str, count: int, exponents: list[float], manner: str, num_cpus: float, data: Any, seed: int
) -> None:
    rng = random.Random(seed)
    needs = [need for need in (0.0, 0.5, 1.0, 2.0) if need <= num_cpus]
    cpus = {key: data.draw(st.sampled_from(needs)) for key in range(len(exponents))}
    simulation = Simulation(submit(draw_tasks(shape, count, exponents, rng), manner, rng), num_cpus, cpus)
    simulation.run()
    assert_done_once(simulation)
    assert_in_order(simulation)


def test_the_same_seed_gives_the_same_trace() -> None:
    def run(seed: int) -> list[Any]:
        rng = random.Random(seed)
        tasks = draw_tasks("pareto", 800, (-5, -4, -3), rng, num_parents=5, num_killers=3)
        simulation = Simulation(submit(tasks, "bursts", rng), 4, deaths=(0.01, 0.05), seed=seed)
        simulation.run()
        return simulation.trace

    assert run(1) == run(1) != run(2)


# -- speed ---------------------------------------------------------------------------------------------------


@given(
    st.sampled_from(("uniform", "exponential", "pareto", "slow ones last")),
    counts,
    exponents,
    some_cpus,
    seeds,
)
@examples(80)
def test_makespan_is_near_the_bound_of_any_scheduler(
    shape: str, count: int, exponents: list[float], num_cpus: int, seed: int
) -> None:
    simulation = Simulation([Burst(0.0, draw_tasks(shape, count, exponents, random.Random(seed)))], num_cpus)
    took_s = simulation.run()
    costs = simulation.policy.costs
    driver_s = len(simulation.tasks) * (costs.submit_s + costs.finish_s)
    assert took_s <= 1.3 * (work_s(simulation) / num_cpus + longest_s(simulation)) + driver_s + SETTLING_S


@pytest.mark.parametrize("num_cpus", [1, 2, 4, 16])
@pytest.mark.parametrize(("cost_s", "count"), [(1e-5, 20_000), (1e-4, 5_000), (1e-3, 1_000), (2e-2, 160)])
def test_uniform_tasks_keep_all_workers_busy(cost_s: float, count: int, num_cpus: int) -> None:
    simulation = Simulation([Burst(0.0, [Task(0, cost_s) for _ in range(count)])], num_cpus)
    took_s = simulation.run()
    costs = simulation.policy.costs
    ideal_s = max(work_s(simulation) / num_cpus, count * (costs.submit_s + costs.finish_s))
    assert took_s <= 1.08 * ideal_s + SETTLING_S


@pytest.mark.parametrize("num_cpus", [2, 4, 16])
def test_stragglers_do_not_keep_their_batch_mates(num_cpus: int) -> None:
    """2,000 x 1 ms with four of 500 ms among them: none begins later than if taken one by one."""
    for places in ((0, 1, 2, 3), (1996, 1997, 1998, 1999), (100, 700, 1100, 1900)):
        costs_s = [0.5 if i in places else 1e-3 for i in range(2000)]
        simulation = Simulation([Burst(0.0, [Task(0, cost_s) for cost_s in costs_s])], num_cpus)
        one_by_one_s = max(sum(costs_s[:place]) / num_cpus + 0.5 for place in places)
        assert simulation.run() <= 1.05 * max(sum(costs_s) / num_cpus, one_by_one_s) + SETTLING_S


def test_one_quick_sample_does_not_bind_the_rest() -> None:
    """The first call is a cache hit of 20 ns, all others take 100 us: they must not all be one worker's."""
    tasks = [Task(0, 2e-8 if i < 16 else 1e-4) for i in range(500)]
    simulation = Simulation([Burst(0.0, tasks)], 16)
    assert simulation.run() <= work_s(simulation) / 16 + SETTLING_S


def test_a_wrong_estimate_is_found_out_once_and_not_once_per_worker() -> None:
    """A function takes 10 us on small input, then 0.5 s on large: one late check must spread all of it."""
    quick, slow = [Task(0, 1e-5) for _ in range(500)], [Task(0, 0.5) for _ in range(16)]
    simulation = Simulation([Burst(0.0, quick), Burst(0.1, slow)], 16)
    assert simulation.run() <= 0.1 + 0.5 + 6 * TICK_S  # two for the sub-block to be given up, two to be late


def test_a_slow_first_call_is_forgotten() -> None:
    """Imports make the first call slow; the batches that follow are sized by what the others take."""
    tasks = [Task(0, 0.3 if i == 0 else 1e-5) for i in range(20_000)]
    simulation = Simulation([Burst(0.0, tasks)], 2)
    assert simulation.run() <= 0.35
    assert len(simulation.trace) < 300


# -- latency -------------------------------------------------------------------------------------------------


def test_a_lonely_task_starts_at_once() -> None:
    for cost_s in (1e-6, 1e-3):
        simulation = Simulation([Burst(0.0, [Task(0, 1e-5)]), Burst(0.1, [Task(0, cost_s)])], 2)
        simulation.run()
        sends = [time_s for time_s, what, *_ in simulation.trace if what == "send"]
        assert len(sends) == 2
        assert sends[1] - 0.1 < 1e-5


def test_a_trickle_of_long_tasks_waits_for_nobody() -> None:
    """Each is worth a message of its own: it leaves as it comes, though the program still submits."""
    simulation = Simulation(
        [Burst(0.0, [Task(0, 0.01)])] + [Burst(0.02 * i, [Task(0, 0.01)]) for i in range(1, 20)], 2
    )
    took_s = simulation.run()
    sends = [time_s for time_s, what, *_ in simulation.trace if what == "send"]
    assert len(sends) == 20
    assert max(abs(time_s - 0.02 * i) for i, time_s in enumerate(sends)) < 1e-4
    assert took_s < 0.4


def test_a_program_that_falls_silent_is_served() -> None:
    """It neither waits nor submits for a while: what is open goes out within two ticks."""
    quick = [Task(0, 1e-5) for _ in range(100)]
    simulation = Simulation(
        [Burst(0.0, quick), Burst(0.05, [Task(0, 1e-5) for _ in range(3)]), Burst(1.0, [Task(0, 1e-5)])], 2
    )
    simulation.run()
    last = max(time_s for time_s, what, *_ in simulation.trace if what == "send" and time_s < 0.9)
    assert 0.05 <= last <= 0.05 + 3 * TICK_S


# -- waiting tasks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_cpus", [1, 2, 4])
def test_deep_nesting_on_few_cpus(num_cpus: int) -> None:
    child = Child(0, 1e-4)
    for _ in range(9):
        child = Child(0, 1e-4, (child, child))
    simulation = Simulation([Burst(0.0, [Task(*child), Task(*child)])], num_cpus)
    simulation.run()
    assert len(simulation.tasks) == 2 * 1023
    assert_done_once(simulation)
    assert_in_order(simulation)


def test_tasks_behind_a_waiting_one_run_elsewhere() -> None:
    """A whole batch of parents on one CPU: nobody's children wait behind another parent."""
    parents = [Task(0, 1e-5, (Child(1, 1e-3),)) for _ in range(100)]
    simulation = Simulation([Burst(0.0, parents)], 1)
    simulation.run()
    assert_done_once(simulation)
    assert_in_order(simulation)


def test_tasks_without_cpu_leave_room_for_the_others() -> None:
    """More long tasks of num_cpus=0 than there may be workers; those with a CPU run beside them."""
    services = [Task(0, 5.0) for _ in range(3 * MAX_EXTRA_WORKERS)]
    simulation = Simulation(
        [Burst(0.0, services), Burst(0.01, [Task(1, 1e-3) for _ in range(20)])], 2, {0: 0.0}
    )
    simulation.run()
    assert max(time_s for time_s, what, _, key, _ in simulation.trace if what == "send" and key == 1) < 0.1


def test_wide_tasks_are_not_shifted_about_for_a_cpu_that_is_too_narrow() -> None:
    simulation = Simulation([Burst(0.0, [Task(0, 1e-3) for _ in range(200)])], 3, {0: 2.0})
    took_s = simulation.run()
    assert simulation.num_taken == 0
    assert took_s <= 1.1 * work_s(simulation) + SETTLING_S
