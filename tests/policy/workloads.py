"""Seeded programs for the simulator: what is submitted when, by shape."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from tests.policy.virtual_worker import Burst, Child, Task

SHAPES = (
    "uniform", "exponential", "pareto", "bimodal", "slow ones last", "slow ones first", "drift", "sorted",
    "adversarial",
)  # fmt: skip
GRAPHS = ("chains", "tree", "layers", "random", "fan-out", "fan-in", "diamonds")
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
    if shape == "sorted":
        return sorted(mean_s * rng.expovariate(1.0) for _ in range(count))
    if shape == "adversarial":  # as soon as the estimate has settled, the next one is a thousand times slower
        return [mean_s * (20.0 if i % 20 == 19 else 0.02) for i in range(count)]
    return [mean_s] * count


def draw_graph(kind: str, costs_s: Sequence[float], rng: random.Random, num_keys: int = 1) -> list[Task]:
    """Return tasks that depend on each other, inputs first; keys by what they do."""
    count = len(costs_s)
    if kind == "tree":
        return draw_tree(costs_s[0], costs_s[-1], (count + 1) // 2)
    tasks: list[Task] = []
    width = max(1, round(math.sqrt(count)))
    for i, cost_s in enumerate(costs_s):
        inputs: list[Task] = []
        if kind == "chains":
            inputs = tasks[i - width : i - width + 1] if i >= width else []
        elif kind == "layers" and i >= width:
            layer = tasks[(i // width - 1) * width : (i // width) * width]
            inputs = rng.sample(layer, min(len(layer), rng.randrange(1, 4)))
        elif kind == "random" and i:
            inputs = rng.sample(tasks[max(0, i - 3 * width) :], min(i, rng.randrange(4)))
        elif kind == "fan-out":
            inputs = tasks[:1]
        elif kind == "fan-in" and i == count - 1:
            inputs = tasks
        elif kind == "diamonds" and i:  # one task, then ten, then one that needs the ten
            at = i % 11
            inputs = tasks[i - 10 : i] if at == 0 and i >= 11 else tasks[i - at : i - at + 1]
        tasks.append(Task(rng.randrange(num_keys), cost_s, inputs=inputs))
    return tasks


def draw_tree(leaf_s: float, sum_s: float, num_leaves: int) -> list[Task]:
    """Return leaves, and then their sum, two by two, as a program with a list of refs would submit it."""
    level = tasks = [Task(0, leaf_s) for _ in range(num_leaves)]
    while len(level) > 1:
        sums = [Task(1, sum_s, inputs=pair) for pair in zip(level[::2], level[1::2])]
        tasks = tasks + sums
        level = sums + level[len(sums) * 2 :]
    return tasks


def draw_chain(cost_s: float, length: int) -> list[Task]:
    tasks = [Task(0, cost_s)]
    for _ in range(length - 1):
        tasks.append(Task(0, cost_s, inputs=tasks[-1:]))
    return tasks


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
