"""What a story is: one job in three forms, how it is timed, and what may be said of the times.

A story does one job on one real input three times: in plain Python, with `multiprocessing.Pool` as most
people write it, and with grainwise, written naively. The functions that run are the functions that are shown
(`Story.code` reads their source), and who won by how much is computed from the measured times, so that the
demo cannot claim what it did not measure. Where grainwise is behind, the reason is measured as well: in which
part of its run the time went (`Parts`). A guess written beforehand would be wrong on the next machine.

Nothing here prints; `grainwise.demo.stage` does.
"""

from __future__ import annotations

import gc
import inspect
import operator
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

Input = TypeVar("Input")
Result = TypeVar("Result")

# Two times closer than this are called level: one run each on a busy machine tells no more.
LEVEL = 1.07


@dataclass(frozen=True)
class Reasons:
    """What is known to happen in a story, as clauses without a full stop.

    Attributes:
        ahead_of_plain: Follows "because" where grainwise is ahead of plain Python.
        ahead_of_pool: The same for `Pool`; none where no cause has been shown by an experiment.
        handing_over: What grainwise does at each call.
        waiting: What its workers do while the results are awaited.
    """

    ahead_of_plain: str
    ahead_of_pool: str | None
    handing_over: str
    waiting: str


@dataclass(frozen=True)
class Parts:
    """Where the wall-clock seconds of the grainwise form went."""

    start_s: float
    handing_over_s: float  # until the first `get`: the `.remote()` calls
    waiting_s: float  # in `get`
    rest_s: float  # putting the results together, and the end of the workers

    @property
    def total_s(self) -> float:
        """Add up the parts."""
        return self.start_s + self.handing_over_s + self.waiting_s + self.rest_s


@dataclass(frozen=True)
class Times:
    """Wall-clock seconds of the three forms, each with the start and the end of its processes."""

    plain_s: float
    pool_s: float
    parts: Parts

    @property
    def grainwise_s(self) -> float:
        """The whole of grainwise's time."""
        return self.parts.total_s


@dataclass(frozen=True)
class Story(Generic[Input, Result]):
    """One job, its real input, and the three forms that do it.

    Attributes:
        name: What `grainwise demo --story` calls it.
        title: The whole story in one line.
        prepare: Builds the input; true asks for the small one of `--quick`. Not part of any time.
        describe: Says in one line what the input is, with its real size.
        count_tasks: Counts the tasks that the naive form makes of the input.
        task: The function that one task runs.
        plain: The job in plain Python.
        pool: The job with `multiprocessing.Pool`.
        naive: The job with grainwise.
        finding: Says in one line what the job found out.
        reasons: What the verdict may give as reasons.
        by_itself: What grainwise did that the code did not ask for, in one line; checked, not guessed.
        is_same: Whether two results are equal.
    """

    name: str
    title: str
    prepare: Callable[[bool], Input]
    describe: Callable[[Input], str]
    count_tasks: Callable[[Input], int]
    task: Callable[..., object]
    plain: Callable[[Input], Result]
    pool: Callable[[Input], Result]
    naive: Callable[[Input], Result]
    finding: Callable[[Result], str]
    reasons: Reasons
    by_itself: str
    is_same: Callable[[Result, Result], bool] = operator.eq

    def code(self) -> list[str]:
        """Read the source lines of the very functions that run, with an empty line between functions."""
        sources = [inspect.getsource(form) for form in (self.task, self.plain, self.pool, self.naive)]
        return "\n".join(sources).rstrip().splitlines()


def timed(form: Callable[[Input], Result], given: Input) -> tuple[Result, float]:
    """Run one form and return its result and its wall-clock seconds."""
    gc.collect()  # otherwise a form may pay for the garbage of the one before it
    begin = time.perf_counter()
    result = form(given)
    return result, time.perf_counter() - begin


def timed_in_parts(form: Callable[[Input], Result], given: Input) -> tuple[Result, Parts]:
    """Run the grainwise form in an engine of its own and return its result and where its seconds went.

    The form is run as it stands; only the moments when its first `get` begins and ends are noted. The engine
    is started and shut down here, and both count, because `Pool` pays for its start and its end as well.
    """
    import grainwise

    gc.collect()
    begin = time.perf_counter()
    try:
        grainwise.init()
        started = time.perf_counter()
        with _noted(sys.modules["grainwise"].__dict__, "get", grainwise.get) as moments:
            result = form(given)
    finally:
        grainwise.shutdown()
    end = time.perf_counter()
    asked, answered = moments[:2]
    return result, Parts(started - begin, asked - started, answered - asked, end - answered)


@contextmanager
def _noted(
    namespace: dict[str, Any], name: str, function: Callable[..., Any]
) -> Generator[list[float], None, None]:
    """Note when a function of a module is called and when it has returned, for as long as the block runs."""
    moments: list[float] = []

    def noting(*args: object, **kwargs: object) -> Any:
        moments.append(time.perf_counter())
        try:
            return function(*args, **kwargs)
        finally:
            moments.append(time.perf_counter())

    namespace[name] = noting
    try:
        yield moments
    finally:
        namespace[name] = function


def verdict(times: Times, reasons: Reasons) -> list[str]:
    """Say how grainwise compares with plain Python and with `Pool`, and why: one sentence for each.

    Two times within 7 % are called level, with no reason, as there is nothing to explain. Where grainwise is
    behind, a last sentence names the largest part of its time.
    """
    ours_s = times.grainwise_s
    sentences = [
        _compared("plain Python", times.plain_s, ours_s, reasons.ahead_of_plain),
        _compared("Pool", times.pool_s, ours_s, reasons.ahead_of_pool),
    ]
    if ours_s > LEVEL * min(times.plain_s, times.pool_s):
        sentences.append(_largest(times.parts, reasons))
    return sentences


def seconds(duration_s: float) -> str:
    """Write a duration with three digits: `84 ms`, `2.21 s`, `12.3 s`.

    >>> seconds(0.0841), seconds(2.2149), seconds(12.34)
    ('84 ms', '2.21 s', '12.3 s')
    """
    if duration_s < 0.9995:
        return f"{duration_s * 1000:.0f} ms"
    return f"{duration_s:.2f} s" if duration_s < 9.995 else f"{duration_s:.1f} s"


def split(parts: Parts) -> str:
    """Write where grainwise's time went."""
    return (
        f"{seconds(parts.start_s)} starting, {seconds(parts.handing_over_s)} handing over the calls, "
        f"{seconds(parts.waiting_s)} waiting for results, {seconds(parts.rest_s)} after that"
    )


def ratio(other_s: float, grainwise_s: float) -> str:
    """Write how many times as fast as another form grainwise is, below 1 where it is slower.

    >>> ratio(1.0, 2.5), ratio(2.0, 1.1), ratio(13.4, 1.0)
    ('0.40 ×', '1.8 ×', '13 ×')
    """
    times_as_fast = other_s / grainwise_s
    digits = 2 if times_as_fast < 0.995 else 1 if times_as_fast < 9.95 else 0
    return f"{times_as_fast:.{digits}f} ×"


def _compared(other: str, other_s: float, grainwise_s: float, ahead: str | None) -> str:
    if max(other_s, grainwise_s) <= LEVEL * min(other_s, grainwise_s):
        return f"grainwise and {other} are level."
    if grainwise_s < other_s:
        because = f", because {ahead}" if ahead else ""
        return f"grainwise is {ratio(other_s, grainwise_s)} as fast as {other}{because}."
    winner = other[0].upper() + other[1:]
    return f"{winner} wins: it is {ratio(grainwise_s, other_s)} as fast as grainwise."


def _largest(parts: Parts, reasons: Reasons) -> str:
    taken_s, what = max(
        (parts.start_s, "starting the workers"),
        (parts.handing_over_s, f"handing over the calls: {reasons.handing_over}"),
        (parts.waiting_s, f"waiting for the results: {reasons.waiting}"),
        (parts.rest_s, "putting the results together and ending the workers"),
    )
    return f"Of grainwise's {seconds(parts.total_s)}, {seconds(taken_s)} went into {what}."
