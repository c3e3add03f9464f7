"""Measure on this machine what the policy assumes of it: `grain.costs.Costs`.

A session with one worker runs tasks that do next to nothing, or that tell when they ran; a meter around the
driver's poll tells its waiting from its work.

| figure | how |
|---|---|
| `submit_s` | a loop over `.remote(i)` that sends nothing, divided by its length |
| `finish_s` | `get` of one batch of `MANY` less `get` of a lone task, waiting aside, per task: its share of sending, receiving and looking for it included |
| `message_s` | half of what `get` of a lone task takes, waiting aside: one message there, one back |
| `batch_s` | from the last task of a batch to the first of the next, which waits at the worker already, less the same within a batch |
| `round_trip_s` | how long `get` of a lone task waits after a pause, when the worker must be woken, less `batch_s` |
| `awake_s` | the same back to back, when both look again and again before they sleep |
| `item_s` | from task to task within a batch, less a plain loop over the same calls |

Every figure is taken `rounds` times, each a median of many; the median of the rounds is quoted, and the
least: other programs can only lengthen them.
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

COSTS = ("submit_s", "finish_s", "message_s", "round_trip_s", "batch_s")
"""The figures that the policy assumes."""
OTHERS = ("awake_s", "item_s")
"""Those that it does not need, and that help to understand it."""
MANY = 4000
N_LONE = 200
N_PAUSED = 40
PAUSE_S = 2e-3
N_BATCHES, PER_BATCH = 40, 50
TICK_S = 40e-6
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
    batch_s = _batch_s()
    lone_s, awake_s = _lone(N_LONE, 0.0)
    _, asleep_s = _lone(N_PAUSED, PAUSE_S)
    submit_s, many_s = _many()
    finish_s = max(1e-9, (many_s - lone_s) / (MANY - 1))
    return {
        "submit_s": submit_s,
        "finish_s": finish_s,
        "message_s": max(1e-9, (lone_s - finish_s) / 2),
        "round_trip_s": max(1e-9, asleep_s - batch_s),
        "batch_s": batch_s,
        "awake_s": max(1e-9, awake_s - batch_s),
        "item_s": _item_s(),
    }


def _same(x: int) -> int:
    return x


def _now(x: int) -> float:
    return perf_counter()


def _tick(x: int) -> float:
    """Return when it began; keep busy for a while."""
    begin = perf_counter()
    while perf_counter() < begin + TICK_S:
        pass
    return begin


def _lone(count: int, pause_s: float) -> tuple[float, float]:
    """Return how long `get` of one task works in the driver, and how long it waits; medians."""
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
    return statistics.median(works), statistics.median(waits)


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


def _batch_s() -> float:
    gaps = _gaps(_tick, N_BATCHES * PER_BATCH, PER_BATCH)
    between = [gap for i, gap in enumerate(gaps, 1) if i % PER_BATCH == 0]
    within = [gap for i, gap in enumerate(gaps, 1) if i % PER_BATCH]
    return max(1e-9, statistics.median(between) - statistics.median(within))


def _item_s() -> float:
    in_batch_s = statistics.median(_gaps(_now, MANY, MANY))
    stamps = [_now(i) for i in range(MANY)]
    in_loop_s = statistics.median(later - earlier for earlier, later in pairwise(stamps))
    return max(0.0, in_batch_s - in_loop_s)


def _gaps(function: Callable[[int], float], count: int, per_batch: int) -> list[float]:
    """Return the times between the starts of tasks, which one worker runs in order."""
    task = remote(batching=per_batch)(function)
    refs: list[ObjectRef[float]] = [task.remote(i) for i in range(count)]
    stamps = get(refs)
    return [later - earlier for earlier, later in pairwise(stamps)]
