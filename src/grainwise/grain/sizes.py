"""How much work is worth a message: times and counts that follow from what messages cost.

The policy depends on measured costs by these thresholds only. Each may be off by a factor of two without much
harm: taking back mends what was packed wrongly.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .costs import Costs

OVERHEAD = 0.05
"""Share of a batch's time that its handling may cost."""
MIN_QUANTUM_S = 5e-3
"""Two batches of this length keep a worker busy over the 5 ms ticks of a driver that does not wait."""
MAX_BATCH = 8192
"""Tasks of a batch at most."""
MIN_MEAN_S = 1e-8
"""No task is taken for shorter: a count is a time divided by a mean."""


class Sizes:
    """What batches are worth on this machine.

    Args:
        num_cpus: how many CPUs' worth of tasks may run at once.
        costs: what messages cost.
        max_batch: tasks of a batch at most.

    Attributes:
        pair_s: the driver's time for a batch: a message there and one back.
        least_s: a shorter batch spends more than `OVERHEAD` of its time on itself.
        floor_s: a shorter batch does so, or all workers together outrun the driver.
        quantum_s: a longer batch gains nothing: the gap to the next one is below `OVERHEAD` already.
        full_batch: so many tasks make a message cheap for the driver, however quick they are.
    """

    __slots__ = ("costs", "floor_s", "full_batch", "least_s", "max_batch", "num_cpus", "pair_s", "quantum_s")

    def __init__(self, num_cpus: float, costs: Costs, max_batch: int) -> None:
        self.num_cpus = num_cpus
        self.costs = costs
        self.max_batch = max_batch
        self.pair_s = pair_s = 2 * costs.message_s
        self.least_s = least_s = costs.batch_s / OVERHEAD
        self.floor_s = floor_s = max(least_s, pair_s * num_cpus)
        self.quantum_s = max(MIN_QUANTUM_S, 2 * floor_s, (costs.round_trip_s + pair_s) / OVERHEAD)
        task_s = costs.submit_s + costs.finish_s
        # Beside tasks that cost the driver nothing no message is cheap; but no batch grows beyond its bound.
        num_cheap = pair_s / (2 * OVERHEAD * task_s) if task_s > 0 else max_batch
        self.full_batch = max(1, int(min(num_cheap, max_batch)))
