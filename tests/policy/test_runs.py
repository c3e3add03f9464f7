"""Tens of millions of tasks: the bound, the cost of a decision and the size of the books."""

from __future__ import annotations

import pytest

from tests.policy.runs import Outcome, Run, RunSimulation, simulate


@pytest.mark.parametrize("kind", ["equal", "exponential", "mixed"])
@pytest.mark.parametrize(("num_cpus", "num_tasks"), [(1, 10**5), (16, 10**6), (256, 10**7)])
def test_runs_of_tasks_keep_all_workers_busy(num_cpus: int, num_tasks: int, kind: str) -> None:
    outcome = simulate(num_tasks, num_cpus, 100e-6, kind)
    assert outcome.took_s <= outcome.bound_s
    assert outcome.took_s <= 1.05 * outcome.ideal_s + 0.02


def test_thousands_of_workers_are_fed() -> None:
    """40 million tasks of 100 us; by then a batch is worth what 4,096 workers leave the driver time for."""
    outcome = simulate(4 * 10**7, 4096)
    assert outcome.took_s <= outcome.bound_s
    assert outcome.took_s <= 1.5 * outcome.ideal_s


def test_the_books_grow_with_workers_and_not_with_tasks() -> None:
    few, many = simulate(10**5, 64), simulate(10**7, 64)
    assert many.largest_state <= 1.5 * few.largest_state
    assert many.largest_state <= 20 * 64


def test_many_runs_of_other_lengths() -> None:
    runs = [Run(key, 10**6 // (key + 1), 10e-6 * (key + 1), "exponential") for key in range(20)]
    outcome: Outcome = RunSimulation(runs, 64).run()
    assert outcome.took_s <= outcome.bound_s
    assert outcome.took_s <= 1.1 * outcome.ideal_s + 0.02


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> tuple[float, int]:
        outcome = RunSimulation([Run(0, 10**5, 1e-4, "mixed")], 16, seed).run()
        return outcome.took_s, outcome.num_batches

    assert run(1) == run(1) != run(2)
