"""The promises of docs/internals/granularity.md, each as a property of simulated programs.

`pytest --hypothesis-profile=search tests/policy` looks for new counterexamples.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grainwise.grain.policy import Policy
from tests.policy.bounds import bound_of, handover_s, ideal_s, longest_s, message_bound, settling_s
from tests.policy.peers import FixedSize, Joblib, sizes
from tests.policy.simulator import Simulation
from tests.policy.virtual_worker import STARTUP_S, Burst, Child, Task
from tests.policy.workloads import (
    GRAPHS,
    SHAPES,
    draw_chain,
    draw_costs,
    draw_graph,
    draw_tasks,
    draw_tree,
    submit,
)

MS = 1e-3
US = 1e-6
STATIONARY = ("uniform", "exponential", "pareto", "bimodal", "adversarial")
"""What comes next is drawn as what came before: there is a best size in hindsight to compare with."""

shapes = st.sampled_from(SHAPES)
counts = st.sampled_from((1, 5, 50, 500, 2000))
exponents = st.lists(st.floats(-6.0, -1.5), min_size=1, max_size=5)
manners = st.sampled_from(("at once", "at once", "bursts", "trickle"))
all_cpus = st.sampled_from((1, 2, 3, 4, 8, 16, 64, 256, 1024, 4096))
seeds = st.integers(0, 1 << 32)


def examples(count: int) -> settings:
    """Take so many examples, and as many as the profile says when it searches."""
    of_profile = settings().max_examples
    return settings(max_examples=count if of_profile <= 100 else of_profile)


def assert_in_bounds(simulation: Simulation, submission_s: float = 0.0) -> None:
    took_s = simulation.run()
    policy = simulation.policy
    assert took_s <= bound_of(simulation, submission_s).total_s
    assert {(task.num_results, task.num_runs) for task in simulation.tasks} == {(1, 1)}
    assert simulation.coexisted_s <= handover_s(policy)
    # 1.5 quanta are left when a worker gets another; the last task of a batch may be a long one
    assert simulation.most_held_s <= 2.5 * policy.quantum_s
    assert max((count for _, what, *_, count in simulation.trace if what == "send"), default=0) <= (
        policy.max_batch
    )


# -- the bound -----------------------------------------------------------------------------------------------


@given(shapes, counts, exponents, manners, all_cpus, seeds)
@examples(80)
def test_independent_tasks(
    shape: str, count: int, exponents: list[float], manner: str, num_cpus: int, seed: int
) -> None:
    rng = random.Random(seed)
    bursts = submit(draw_tasks(shape, count, exponents, rng), manner, rng)
    simulation = Simulation(bursts, num_cpus)
    assert_in_bounds(simulation, bursts[-1].time_s)
    if manner == "at once":
        assert sum(what == "send" for _, what, *_ in simulation.trace) <= message_bound(simulation)


@given(st.sampled_from(GRAPHS), shapes, counts, st.floats(-6.0, -2.0), st.integers(1, 40), all_cpus, seeds)
@examples(80)
def test_graphs(
    kind: str, shape: str, count: int, exponent: float, num_keys: int, num_cpus: int, seed: int
) -> None:
    rng = random.Random(seed)
    costs_s = draw_costs(shape, count, 10.0**exponent, rng)
    assert_in_bounds(Simulation([Burst(0.0, draw_graph(kind, costs_s, rng, num_keys))], num_cpus))


@given(st.sampled_from(GRAPHS), counts, st.floats(-6.0, -2.0), manners, all_cpus, seeds)
@examples(30)
def test_graphs_that_are_submitted_little_by_little(
    kind: str, count: int, exponent: float, manner: str, num_cpus: int, seed: int
) -> None:
    rng = random.Random(seed)
    costs_s = draw_costs("exponential", count, 10.0**exponent, rng)
    bursts = submit(draw_graph(kind, costs_s, rng), manner, rng)
    assert_in_bounds(Simulation(bursts, num_cpus), bursts[-1].time_s)


@given(shapes, st.sampled_from((1, 5, 50, 500)), exponents, st.integers(1, 10), all_cpus, seeds)
@examples(40)
def test_tasks_that_wait_for_tasks(
    shape: str, count: int, exponents: list[float], num_parents: int, num_cpus: int, seed: int
) -> None:
    tasks = draw_tasks(shape, count, exponents, random.Random(seed), num_parents=num_parents)
    simulation = Simulation([Burst(0.0, tasks)], num_cpus)
    assert simulation.run() <= bound_of(simulation).total_s


@given(st.sampled_from(GRAPHS), counts, st.floats(-5.0, -2.0), st.integers(1, 10), all_cpus, seeds)
@examples(40)
def test_graphs_on_workers_that_die(
    kind: str, count: int, exponent: float, num_deaths: int, num_cpus: int, seed: int
) -> None:
    rng = random.Random(seed)
    tasks = draw_graph(kind, draw_costs("exponential", count, 10.0**exponent, rng), rng, 2)
    for task in rng.sample(tasks, min(3, count)):
        task.kills = 1
    deaths = [rng.uniform(0.0, 0.1) for _ in range(num_deaths)]
    simulation = Simulation([Burst(0.0, tasks)], num_cpus, deaths=deaths, seed=seed)
    simulation.run()
    assert {task.num_results for task in simulation.tasks} == {1}
    assert max(task.num_runs for task in simulation.tasks) <= 1 + simulation.num_deaths


# -- more workers, other rules -------------------------------------------------------------------------------


def run(costs_s: list[float], num_cpus: int, policy: Policy | None = None) -> Simulation:
    simulation = Simulation([Burst(0.0, [Task(0, cost_s) for cost_s in costs_s])], num_cpus, policy=policy)
    if isinstance(policy, Joblib):
        policy.clock = lambda: simulation.now
    simulation.run()
    return simulation


@given(shapes, st.sampled_from((50, 500, 2000)), st.floats(-6.0, -2.0), st.integers(0, 11), seeds)
@examples(30)
def test_more_workers_take_no_longer(
    shape: str, count: int, exponent: float, log_cpus: int, seed: int
) -> None:
    """Twice the workers: at most a tenth more, and what it takes to start and probe them."""
    costs_s = draw_costs(shape, count, 10.0**exponent, random.Random(seed))
    few, many = run(costs_s, 1 << log_cpus), run(costs_s, 2 << log_cpus)
    assert many.now <= 1.1 * few.now + settling_s(many.policy, 1)


@given(
    st.sampled_from(STATIONARY),
    st.sampled_from((100, 1000)),
    st.floats(-6.0, -2.0),
    st.sampled_from((1, 2, 4, 16, 64)),
    seeds,
)
@examples(20)
def test_no_fixed_size_is_much_better_in_hindsight(
    shape: str, count: int, exponent: float, num_cpus: int, seed: int
) -> None:
    costs_s = draw_costs(shape, count, 10.0**exponent, random.Random(seed))
    ours = run(costs_s, num_cpus)
    best_s = min(run(costs_s, num_cpus, FixedSize(num_cpus, size)).now for size in sizes(count))
    # The order of a few long tasks is luck: nobody knows them before they run.
    assert ours.now <= 1.1 * best_s + settling_s(ours.policy, 1) + max(costs_s) * (num_cpus > 1)


@given(
    st.sampled_from(SHAPES),
    st.sampled_from((100, 1000, 3000)),
    st.floats(-6.0, -2.0),
    st.sampled_from((1, 2, 4, 16, 64)),
    seeds,
)
@examples(60)
def test_never_much_worse_than_the_rule_of_joblib(
    shape: str, count: int, exponent: float, num_cpus: int, seed: int
) -> None:
    costs_s = draw_costs(shape, count, 10.0**exponent, random.Random(seed))
    ours, theirs = run(costs_s, num_cpus), run(costs_s, num_cpus, Joblib(num_cpus))
    assert ours.now <= 1.05 * theirs.now + settling_s(ours.policy, 1)


# -- figures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_cpus", [1, 2, 16, 256])
@pytest.mark.parametrize("cost_s", [1 * US, 10 * US, 100 * US])
def test_a_chain_of_tiny_tasks_pays_no_round_trip_for_each_edge(cost_s: float, num_cpus: int) -> None:
    simulation = Simulation([Burst(0.0, draw_chain(cost_s, 10_000))], num_cpus)
    assert simulation.run() <= 1.1 * ideal_s(simulation) + settling_s(simulation.policy, 1)
    assert len(simulation.trace) <= 300


@pytest.mark.parametrize("num_cpus", [1, 2, 4, 16])
@pytest.mark.parametrize("cost_s", [1 * US, 10 * US, 100 * US])
def test_a_tree_sum_is_as_quick_as_its_work(cost_s: float, num_cpus: int) -> None:
    simulation = Simulation([Burst(0.0, draw_tree(cost_s, cost_s, 5000))], num_cpus)
    assert simulation.run() <= 1.1 * ideal_s(simulation) + settling_s(simulation.policy, 2)


@pytest.mark.parametrize("num_cpus", [1, 2, 4, 16, 64])
def test_a_small_diamond_pays_one_round_trip(num_cpus: int) -> None:
    """One task, ten of 50 us, one that needs the ten, once in a while."""

    def diamond() -> list[Task]:
        first = Task(0, 50 * US)
        sides = [Task(0, 50 * US, inputs=[first]) for _ in range(10)]
        return [first, *sides, Task(0, 50 * US, inputs=sides)]

    simulation = Simulation([Burst(0.02 * i, diamond()) for i in range(20)], num_cpus)
    took_s = simulation.run() - 0.02 * 19
    costs = simulation.policy.costs
    assert [count for time_s, _, _, _, count in simulation.trace if time_s >= 0.1] == [12] * 15
    assert took_s <= 12 * 50 * US + costs.round_trip_s + costs.batch_s + 50 * US


@pytest.mark.parametrize("num_cpus", [2, 64, 1024])
def test_the_latency_of_a_lonely_task(num_cpus: int) -> None:
    """A round trip and what the driver does for two messages, whatever the number of workers."""
    tasks = [Task(0, 10 * US) for _ in range(200)]
    lonely = Task(0, 10 * US)
    simulation = Simulation([Burst(0.0, tasks), Burst(0.5, [lonely])], num_cpus)
    took_s = simulation.run() - 0.5
    costs = simulation.policy.costs
    assert took_s <= costs.round_trip_s + costs.batch_s + 30 * US + lonely.cost_s


@pytest.mark.parametrize("num_cpus", [2, 8])
def test_two_tasks_that_wait_for_each_other_never_share_a_batch(num_cpus: int) -> None:
    """A task that blocks gives up what stands behind it: children of 100 parents, three levels deep."""
    child = Child(1, 50 * US, (Child(2, 50 * US),))
    parents = [Task(0, 20 * US, (child,) * 3) for _ in range(100)]
    simulation = Simulation([Burst(0.0, parents)], num_cpus)
    assert simulation.run() <= bound_of(simulation).total_s


@pytest.mark.parametrize(("num_cpus", "count"), [(1024, 4096), (4096, 4096)])
def test_thousands_of_workers(num_cpus: int, count: int) -> None:
    for cost_s in (1 * MS, 100 * MS):
        simulation = Simulation([Burst(0.0, [Task(0, cost_s) for _ in range(count)])], num_cpus)
        assert_in_bounds(simulation)
        # The driver needs 30 us for each batch: 61 ms for 4,096 of them, if one task is worth one.
        talk_s = min(num_cpus, count) * 2 * simulation.policy.costs.message_s
        assert simulation.now <= 1.1 * max(ideal_s(simulation), longest_s(simulation)) + (
            2 * talk_s + STARTUP_S + 5 * settling_s(Policy(2), 1)
        )
