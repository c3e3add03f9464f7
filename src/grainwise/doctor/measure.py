"""Measure on this machine what the policy assumes of it: `grain.costs.Costs`.

A session with one worker runs tasks that do next to nothing, or that tell when they ran; a meter around the
driver's poll tells its waiting from its work.

| figure | how |
|---|---|
| `submit_s` | a loop over `.remote(i)` that sends nothing, divided by its length |
| `finish_s` | `get` of one batch of `MANY` less `get` of a lone task, waiting aside, per task: its share of sending, receiving and looking for it included |
| `message_s` | half of what `get` of a lone task takes, waiting aside: one message there, one back |
| `batch_s` | from the last task of a batch to the first of the next, which waits at the worker already, less the same within a batch: for batches of `FEW`, while the driver sleeps |
| `item_s` | how much longer that is for batches of `MORE`, per task |
| `round_trip_s` | how long `get` of a lone task waits after a pause, when the worker must be woken, less `batch_s` |
| `cold_s` | `message_s` after a pause: caches are cold then, as between batches of 5 ms |
| `awake_s` | the same back to back, when both look again and again before they sleep |

Every time is taken `rounds` times, each the lower quartile of many, because other programs can only lengthen
it. The figures follow from the medians of the rounds; and, where a machine is never quiet, from the least.
"""  # noqa: E501 - a table

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any, NamedTuple

from ..api.session import engine, init, shutdown
from ..api.tasks import remote
from ..api.values import get
from ..grain.costs import Costs

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..objects.ref import ObjectRef

COSTS = ("submit_s", "finish_s", "message_s", "round_trip_s", "batch_s", "item_s")
"""The figures that the policy assumes."""
OTHERS = ("cold_s", "awake_s")
"""What it does not need, and what helps to understand it."""
MANY = 4000
N_LONE = 200
N_PAUSED = 40
PAUSE_S = 2e-3
FEW, MORE = 20, 200
N_PAIRS = 12
TICK_S = 20e-6
"""Length of the tasks that tell when they ran."""


@dataclass(frozen=True)
class Measured:
    """What was measured, in seconds by figure: from the median times of the rounds, and from the least."""

    median: dict[str, float]
    least: dict[str, float]

    def costs(self) -> Costs:
        """Return what the policy wants to know."""
        return Costs(**{name: self.median[name] for name in COSTS})

    def world(self) -> Costs:
        """Return the costs for a simulator: batches are milliseconds apart, so messages find caches cold."""
        return Costs(**{**{name: self.least[name] for name in COSTS}, "message_s": self.least["cold_s"]})

    def warm_message_s(self) -> float:
        """Return what a message costs that soon follows another."""
        return self.least["message_s"]


def measure(rounds: int = 5, on_round: Callable[[int], None] = lambda number: None) -> Measured:
    """Measure everything, in a session of its own; about half a second a round.

    Args:
        rounds: how often.
        on_round: called before each round with its number, from 0.

    Raises:
        RuntimeError: the engine is running already.
    """
    times: list[Times] = []
    init(num_cpus=1, batching="auto")
    try:
        _take_times()  # starts the worker, which learns the functions
        for number in range(rounds):
            on_round(number)
            times.append(_take_times())
    finally:
        shutdown()
    return Measured(
        derive(Times(*map(statistics.median, zip(*times)))), derive(Times(*map(min, zip(*times))))
    )


class Times(NamedTuple):
    """What is timed in one round: the figures are differences of these."""

    few_s: float
    more_s: float
    lone_s: float
    cold_s: float
    awake_s: float
    asleep_s: float
    submit_s: float
    many_s: float


def derive(times: Times) -> dict[str, float]:
    """Return the figures that follow from what was timed."""
    item_s = max(0.0, (times.more_s - times.few_s) / (MORE - FEW))
    batch_s = max(0.0, times.few_s - FEW * item_s)
    finish_s = max(0.0, (times.many_s - times.lone_s) / (MANY - 1))
    return {
        "submit_s": times.submit_s,
        "finish_s": finish_s,
        "message_s": max(0.0, (times.lone_s - finish_s) / 2),
        "round_trip_s": max(0.0, times.asleep_s - batch_s),
        "batch_s": batch_s,
        "item_s": item_s,
        "cold_s": max(0.0, (times.cold_s - finish_s) / 2),
        "awake_s": max(0.0, times.awake_s - batch_s),
    }


class _PollMeter:
    """Stands before the engine's poll and sums up how long it waits."""

    def __init__(self, engine: Any) -> None:
        self.waited_s = 0.0
        self._engine = engine
        self._poll = engine._poll

    def __enter__(self) -> _PollMeter:
        vars(self._engine)["_poll"] = self._wait
        return self

    def __exit__(self, *_: object) -> None:
        del vars(self._engine)["_poll"]  # the method is there again

    def _wait(self, timeout_s: float) -> Any:
        begin = perf_counter()
        events = self._poll(timeout_s)
        self.waited_s += perf_counter() - begin
        return events


def _take_times() -> Times:
    lone_s, awake_s = _lone(N_LONE, 0.0)
    cold_s, asleep_s = _lone(N_PAUSED, PAUSE_S)
    submit_s, many_s = _many()
    few_s, more_s = _between_batches(FEW), _between_batches(MORE)
    return Times(few_s, more_s, lone_s, cold_s, awake_s, asleep_s, submit_s, many_s)


def _quartile(values: list[float]) -> float:
    return statistics.quantiles(values, n=4)[0]


def _same(x: int) -> int:
    return x


def _tick(x: int) -> float:
    """Return when it began; keep busy for a while."""
    begin = perf_counter()
    while perf_counter() < begin + TICK_S:
        pass
    return begin


def _lone(count: int, pause_s: float) -> tuple[float, float]:
    """Return how long `get` of one task works in the driver, and how long it waits."""
    task = remote(_same)
    works: list[float] = []
    waits: list[float] = []
    with _PollMeter(engine()) as meter:
        for i in range(count):
            if pause_s:
                sleep(pause_s)
            ref = task.remote(i)
            before_s, begin = meter.waited_s, perf_counter()
            get(ref)
            took_s, waited_s = perf_counter() - begin, meter.waited_s - before_s
            works.append(took_s - waited_s)
            waits.append(waited_s)
    return _quartile(works), _quartile(waits)


def _many() -> tuple[float, float]:
    """Return what submitting one of many takes, and how long `get` works for all of them as one batch."""
    task = remote(batching=MANY + 1)(_same)  # so that nothing goes out before `get`
    with _PollMeter(engine()) as meter:
        begin = perf_counter()
        refs = [task.remote(i) for i in range(MANY)]
        submitted = perf_counter()
        get(refs)
        done = perf_counter()
    return (submitted - begin) / MANY, done - submitted - meter.waited_s


def _between_batches(size: int) -> float:
    """Return how much longer it takes from one task to the next when a batch ends between them.

    Two batches are sent, and the driver sleeps until they are done: awake, it might take the worker's CPU.
    (Of a third, because the driver does not look for a full batch after each task.)
    """
    task = remote(batching=size)(_tick)
    between: list[float] = []
    within: list[float] = []
    for _ in range(N_PAIRS):
        refs: list[ObjectRef[float]] = [task.remote(i) for i in range(3 * size)]
        sleep(2 * size * TICK_S + PAUSE_S)
        stamps = get(refs)
        gaps = [later - earlier for earlier, later in pairwise(stamps)]  # one worker runs them in order
        between.append(gaps.pop(size - 1))
        within.append(statistics.median(gaps))
    return max(0.0, _quartile(between) - _quartile(within))
