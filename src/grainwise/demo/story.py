"""What a story is: one job in three forms, how it is timed, and what may be said of the times.

A story does one job on one real input three times: in plain Python, with `multiprocessing.Pool` as most
people write it, and with grainwise, written naively. The functions that run are the functions that are shown
(`Story.code` reads their source), and who won by how much is computed from the measured times, so that the
demo cannot claim what it did not measure. Only the reasons are written beforehand, one for each outcome.

Nothing here prints; `grainwise.demo.stage` does.
"""

from __future__ import annotations

import gc
import inspect
import operator
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Input = TypeVar("Input")
Result = TypeVar("Result")

# Two times closer than this are called level: one run each on a busy machine tells no more.
LEVEL = 1.07


@dataclass(frozen=True)
class Reasons:
    """Why grainwise comes out ahead of, or behind, each of the other two forms.

    One clause each, without a full stop; it follows "because".
    """

    ahead_of_plain: str
    behind_plain: str
    ahead_of_pool: str
    behind_pool: str


@dataclass(frozen=True)
class Times:
    """Wall-clock seconds of the three forms, each with the start and the end of its processes."""

    plain_s: float
    pool_s: float
    grainwise_s: float


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
        reasons: Why a form wins.
        by_itself: What grainwise did that the code did not ask for, in one line.
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


def timed(
    form: Callable[[Input], Result], given: Input, end: Callable[[], None] | None = None
) -> tuple[Result, float]:
    """Run one form and return its result and its wall-clock seconds.

    Args:
        form: What to run.
        given: Its input.
        end: Ends the processes that the form left running. It counts: `Pool` pays for its own end too.
    """
    gc.collect()  # otherwise a form may pay for the garbage of the one before it
    begin = time.perf_counter()
    try:
        result = form(given)
    finally:
        if end is not None:
            end()
    return result, time.perf_counter() - begin


def verdict(times: Times, reasons: Reasons) -> list[str]:
    """Say how grainwise compares with plain Python and with `Pool`, and why: one sentence for each.

    Two times within 7 % are called level, with no reason, as there is nothing to explain.
    """
    ours_s = times.grainwise_s
    return [
        _compared("plain Python", times.plain_s, ours_s, reasons.ahead_of_plain, reasons.behind_plain),
        _compared("Pool", times.pool_s, ours_s, reasons.ahead_of_pool, reasons.behind_pool),
    ]


def ratio(other_s: float, grainwise_s: float) -> str:
    """Write how many times as fast as another form grainwise is, below 1 where it is slower.

    >>> ratio(1.0, 2.5), ratio(2.0, 1.1), ratio(13.4, 1.0)
    ('0.40 ×', '1.8 ×', '13 ×')
    """
    times_as_fast = other_s / grainwise_s
    digits = 2 if times_as_fast < 0.995 else 1 if times_as_fast < 9.95 else 0
    return f"{times_as_fast:.{digits}f} ×"


def _compared(other: str, other_s: float, grainwise_s: float, ahead: str, behind: str) -> str:
    if max(other_s, grainwise_s) <= LEVEL * min(other_s, grainwise_s):
        return f"grainwise and {other} are level."
    if grainwise_s < other_s:
        return f"grainwise is {ratio(other_s, grainwise_s)} as fast as {other}, because {ahead}."
    winner = other[0].upper() + other[1:]
    return f"{winner} wins: it is {ratio(grainwise_s, other_s)} as fast as grainwise, because {behind}."
