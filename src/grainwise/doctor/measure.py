"""Measure on this machine what the policy assumes of it: `grain.costs.Costs`.

A session with one worker runs tasks that do next to nothing, or that tell when they ran; a meter around the
driver's poll tells its waiting from its work.

| figure | how |
|---|---|
| `submit_s` | a loop over `.remote(i)` that sends nothing, divided by its length |
| `finish_s` | `get` of one batch of `MANY` less `get` of a lone task, waiting aside, per task: its share of sending, receiving and looking for it included |
| `message_s` | half of what `get` of a lone task takes, waiting aside: one message there, one back |
| `batch_s` | from the last task of a batch to the first of the next, which waits at the worker already, less the same within a batch: for batches of `FEW` |
| `item_s` | how much longer that is for batches of `MORE`, per task |
| `round_trip_s` | how long `get` of a lone task waits after a pause, when the worker must be woken, less `batch_s` |
| `awake_s` | the same back to back, when both look again and again before they sleep |

Every figure is taken `rounds` times, each the lower quartile of many, because other programs can only lengthen
it; the median of the rounds is quoted, and the least.
"""  # noqa: E501 - a table

from __future__ import annotations

import statistics
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter, sleep
from typing import TYPE_CHECKING, Any

from ..api.session import engine, init, shutdown
from ..api.tasks import remote
from ..api.values import get
from ..grain.costs import Costs

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..objects.ref import ObjectRef

COSTS = ("submit_s", "finish_s", "message_s", "round_trip_s", "batch_s", "item_s")
"""The figures that the policy assumes."""
OTHERS = ("awake_s",)
"""What it does not need, and what helps to understand it."""
MANY = 4000
N_LONE = 200
N_PAUSED = 40
PAUSE_S = 2e-3
FEW, MORE = 20, 200
N_BATCHES = 24
TICK_S = 20e-6
"""Length of the tasks that tell when they ran: a batch of them gives the driver time to send the next."""


@dataclass(frozen=True)
class Measured:
    """What was measured, in seconds: the median over the rounds, and the least, by figure."""

    median: dict[str, float]
    least: dict[str, float]

    def costs(self, of: str = "median") -> Costs:
        """Return the figures for the policy or a simulator: "median" or "least"."""
        figures = self.least if of == "least" else self.median
        return Costs(**{name: figures[name] for name in COSTS})


def measure(rounds: int = 5, on_round: Callable[[int], None] = lambda number: None) -> Measured:
    """Measure everything, in a session of its own; about half a second a round.

    Args:
        rounds: how often.
        on_round: called before each round with its number, from 0.

    Raises:
        RuntimeError: the engine is running already.
    """
    found: dict[str, list[float]] = {name: [] for name in COSTS + OTHERS}
    init(num_cpus=1, batching="auto")
    try:
        _measure_round()  # starts the worker, which learns the functions
        for number in range(rounds):
            on_round(number)
            for name, seconds in _measure_round().items():
                found[name].append(seconds)
    finally:
        shutdown()
    return Measured(
        {name: statistics.median(values) for name, values in found.items()},
        {name: min(values) for name, values in found.items()},
    )


class _PollMeter:
    """Stands before the engine's poll and sums up how long it waits."""

    def __init__(self) -> None:
        self.waited_s = 0.0
        self._engine: Any = engine()
        self._poll = self._engine._poll

    def __enter__(self) -> _PollMeter:
        self._engine._poll = self._wait
        return self

    def __exit__(self, *_: object) -> None:
        del self._engine._poll  # the method is there again

    def _wait(self, timeout_s: float) -> Any:
        begin = perf_counter()
        events = self._poll(timeout_s)
        self.waited_s += perf_counter() - begin
        return events


def _measure_round() -> dict[str, float]:
    few_s, more_s = _between_batches(FEW), _between_batches(MORE)
    item_s = max(0.0, (more_s - few_s) / (MORE - FEW))
    batch_s = max(0.0, few_s - FEW * item_s)
    lone_s, awake_s = _lone(N_LONE, 0.0)
    _, asleep_s = _lone(N_PAUSED, PAUSE_S)
    submit_s, many_s = _many()
    finish_s = max(0.0, (many_s - lone_s) / (MANY - 1))
    return {
        "submit_s": submit_s,
        "finish_s": finish_s,
        "message_s": max(0.0, (lone_s - finish_s) / 2),
        "round_trip_s": max(0.0, asleep_s - batch_s),
        "batch_s": batch_s,
        "item_s": item_s,
        "awake_s": max(0.0, awake_s - batch_s),
    }


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
    with _PollMeter() as meter:
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
    with _PollMeter() as meter:
        begin = perf_counter()
        refs = [task.remote(i) for i in range(MANY)]
        submitted = perf_counter()
        get(refs)
        done = perf_counter()
    return (submitted - begin) / MANY, done - submitted - meter.waited_s


def _between_batches(size: int) -> float:
    """Return how much longer it takes from one task to the next when a batch ends between them."""
    task = remote(batching=size)(_tick)
    refs: list[ObjectRef[float]] = [task.remote(i) for i in range(N_BATCHES * size)]
    gaps = [later - earlier for earlier, later in pairwise(get(refs))]  # one worker runs them in order
    between = [gap for i, gap in enumerate(gaps, 1) if i % size == 0]
    within = [gap for i, gap in enumerate(gaps, 1) if i % size]
    return max(0.0, _quartile(between) - _quartile(within))
