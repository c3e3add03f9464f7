"""What the policy promises of a simulated run, in numbers.

    T  <=  submission + (1 + 3 eps) max(W / P, D) + L + d * handover + settling

W is the work, P the workers, D the driver's own time, L the longest path through the graph and d the number
of tasks on the deepest one. The proof sketch stands in docs/internals/granularity.md.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from grainwise.engine.driver.backstop import TICK_S
from grainwise.engine.worker.reporting import REPORT_S
from grainwise.grain.packing import SHARE
from grainwise.grain.policy import Policy
from grainwise.grain.sizes import MAX_BATCH, OVERHEAD
from tests.policy.simulator import Simulation
from tests.policy.virtual_worker import STARTUP_S, Child, Task


class Bound(NamedTuple):
    """The parts of the bound, in seconds.

    Attributes:
        submission_s: when the last task was submitted, if the program took pauses.
        busy_s: the workers' or the driver's time, whichever is longer, with the overhead that batches add.
        path_s: the longest path through the graph: no number of workers makes it shorter.
        handovers_s: from the end of each task of the deepest path to the start of the next.
        settling_s: starting workers, probing each key, and the last batches.
    """

    submission_s: float
    busy_s: float
    path_s: float
    handovers_s: float
    settling_s: float

    @property
    def total_s(self) -> float:
        return sum(self)


def bound_of(simulation: Simulation, submission_s: float = 0.0) -> Bound:
    policy, tasks = simulation.policy, simulation.tasks
    num_keys = len({task.key for task in tasks})
    path_s, depth = longest_path(tasks)
    busy_s = max(work_s(simulation) / policy.num_cpus, driver_s(policy, len(tasks), work_s(simulation)))
    return Bound(
        submission_s,
        (1 + 3 * OVERHEAD) * busy_s,
        path_s,
        depth * handover_s(policy),
        settling_s(policy, num_keys),
    )


def driver_s(policy: Policy, count: int, work_s: float) -> float:
    """Return the driver's time: tasks and results, and the messages that it may spend on them."""
    costs = policy.costs
    tasks_s = count * (costs.submit_s + costs.finish_s)
    return min(tasks_s / (1 - SHARE), tasks_s + 4 * costs.message_s * work_s / policy.floor_s)


def handover_s(policy: Policy) -> float:
    """Return how long a free worker may stand beside a task that could run.

    Its last input is reported at the next tick of a worker that is busy still; what a busy worker has claimed
    is given up at the second tick, and what it has not claimed is taken back at the second look of the driver
    if it is worth a message, and once the running task is late if not.
    """
    costs = policy.costs
    report_s = (1 + 2) * REPORT_S
    look_s = 2 * TICK_S
    crumbs_s = 4 * costs.round_trip_s + 4 * costs.message_s
    late_s = max(policy.floor_s, 2 * crumbs_s + 4 * costs.round_trip_s)
    message_s = 2 * costs.round_trip_s + (4 + policy.num_cpus) * costs.message_s + costs.batch_s
    return report_s + look_s + late_s + message_s


def settling_s(policy: Policy, num_keys: int) -> float:
    costs = policy.costs
    num_growths = 2 + math.log2(MAX_BATCH)
    learning_s = (num_keys / policy.num_cpus + 1) * num_growths * (costs.batch_s + costs.round_trip_s)
    return STARTUP_S + 3 * TICK_S + 2 * policy.quantum_s + learning_s


def longest_path(tasks: list[Task]) -> tuple[float, int]:
    """Return the longest time and the largest number of tasks on a path; a task's children are part of it."""
    length: dict[Task, float] = {}
    depth: dict[Task, int] = {}
    for task in tasks:  # inputs come before those that need them
        own_s, own = _nested_path(Child(task.key, task.cost_s, tuple(task.children)))
        length[task] = own_s + max((length[each] for each in task.inputs), default=0.0)
        depth[task] = own + max((depth[each] for each in task.inputs), default=0)
    return max(length.values()), max(depth.values())


def _nested_path(task: Child) -> tuple[float, int]:
    if not task.children:
        return task.cost_s, 1
    inner = [_nested_path(child) for child in dict.fromkeys(task.children)]
    return task.cost_s + max(path_s for path_s, _ in inner), 2 + max(depth for _, depth in inner)


def work_s(simulation: Simulation) -> float:
    return sum(task.cost_s for task in simulation.tasks)


def longest_s(simulation: Simulation) -> float:
    return max(task.cost_s for task in simulation.tasks)


def ideal_s(simulation: Simulation) -> float:
    """Return what no scheduler can undercut: the work, the driver's time for it, the longest path."""
    costs = simulation.policy.costs
    tasks_s = len(simulation.tasks) * (costs.submit_s + costs.finish_s)
    path_s, _ = longest_path(simulation.tasks)
    return max(work_s(simulation) / simulation.policy.num_cpus, tasks_s, path_s)


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
