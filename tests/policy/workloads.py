"""Seeded programs for the simulator: what is submitted when, by shape."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from tests.policy.simulator import Simulation
from tests.policy.virtual_worker import Burst, Child, Task

SHAPES = ("uniform", "exponential", "pareto", "bimodal", "slow ones last", "slow ones first", "drift")
MAX_TOTAL_S = 5.0


def draw_costs(shape: str, count: int, mean_s: float, rng: random.Random) -> list[float]:
    """Return run times in seconds, in the order of submission."""
    mean_s = min(mean_s, MAX_TOTAL_S / count)
    few = max(1, count // 100)
    if shape == "exponential":
        return [mean_s * rng.expovariate(1.0) for _ in range(count)]
    if shape == "pareto":  # infinite variance, cut at a thousand
        return [mean_s / 6 * min(rng.paretovariate(1.2), 1e3) for _ in range(count)]
    if shape == "bimodal":
        return [mean_s * (100.0 if rng.random() < 0.01 else 0.5) for _ in range(count)]
    if shape == "slow ones last":
        return [mean_s] * (count - few) + [mean_s * 50] * few
    if shape == "slow ones first":
        return [mean_s * 50] * few + [mean_s] * (count - few)
    if shape == "drift":
        return [mean_s * (1 + 20 * i / count) for i in range(count)]
    return [mean_s] * count


def draw_tasks(
    shape: str, count: int, exponents: Sequence[float], rng: random.Random, *, num_parents: int = 0,
    num_killers: int = 0,
) -> list[Task]:  # fmt: skip
    """Return tasks of `len(exponents)` keys, each with a mean of 10**exponent seconds, mixed.

    `num_parents` of them submit children, some of which have children in turn; `num_killers` end their
    worker once or twice.
    """
    columns = [draw_costs(shape, count, 10.0**exponent, rng) for exponent in exponents]
    tasks = []
    for i in range(count):
        key = rng.randrange(len(columns))
        tasks.append(Task(key, columns[key][i]))
    for task in rng.sample(tasks, min(num_parents, count)):
        grandchild = (Child(rng.randrange(len(columns)), task.cost_s / 5),) if rng.random() < 0.3 else ()
        child = Child(rng.randrange(len(columns)), task.cost_s / 3, grandchild)
        task.children = (child,) * rng.choice((1, 3, 20))
    for task in rng.sample(tasks, min(num_killers, count)):
        task.kills, task.children = rng.choice((1, 2)), ()
    return tasks


def submit(tasks: Sequence[Task], manner: str, rng: random.Random) -> list[Burst]:
    """Return the tasks as a program submits them: "at once", in "bursts", or as a "trickle"."""
    if manner == "at once":
        return [Burst(0.0, tasks)]
    size = 1 if manner == "trickle" else max(1, len(tasks) // rng.choice((2, 5, 10)))
    tasks = tasks[:200] if manner == "trickle" else tasks
    gap_s = rng.choice((1e-4, 1e-3, 7e-3))
    return [Burst(i * gap_s, tasks[at : at + size]) for i, at in enumerate(range(0, len(tasks), size))]


def work_s(simulation: Simulation) -> float:
    return sum(task.cost_s for task in simulation.tasks)


def longest_s(simulation: Simulation) -> float:
    return max(task.cost_s for task in simulation.tasks)


def message_bound(simulation: Simulation) -> float:
    """Return how many batches independent tasks, submitted at once, may need."""
    policy = simulation.policy
    num_cpus = policy.num_cpus
    num_floors = work_s(simulation) / policy.floor_s
    num_keys = len({task.key for task in simulation.tasks})
    return (
        4 * num_floors
        + 4 * num_cpus * (1 + math.log2(1 + num_floors / num_cpus))
        + 2 * num_keys * (12 + num_cpus)
    )
