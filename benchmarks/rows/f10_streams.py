"""F10: `map` over a generator of 1 and 10 million numbers, and what is kept meanwhile.

The generator must not be drained: the driver's memory may not grow with it, and the first result must not
wait for the last item. "Growth" is that of the driver's resident memory while the loop runs, looked at every
65,536 results; "read ahead" is how far the generator had been read when the 1,000th result was taken.

A ref that is outstanding costs memory as well: "ref" is what one of a million calls with one number holds in
the driver before anything comes back (for grainwise only).

Goal: at least 3 million items a second with nothing chosen, the first result within 5 ms, the driver grows by
10 MB at most; at most 200 bytes per outstanding call.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples

SIZES = {"1 million": 1_000_000, "10 million": 10_000_000}
LOOK_EVERY = 0xFFFF
PAGE_BYTES = 4096
N_REFS = 1_000_000
OURS, POOL = "grainwise: map", "pool: imap, chunks of 1,000"

Calls = Callable[[Iterable[int]], Iterable[int]]


def double(x: int) -> int:
    return 2 * x


def resident_bytes() -> int:
    """Resident memory of this process, shared pages included; 0 where /proc does not tell."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * PAGE_BYTES
    except OSError:
        return 0


class Source:
    """A generator of numbers that knows how far it was read."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.num_read = 0

    def numbers(self) -> Iterator[int]:
        for number in range(self.count):
            self.num_read = number
            yield number


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """Time the loop over each generator, the first result, and look at the driver's memory."""
    calls, refs = run()
    samples: Samples = {}
    for name, count in SIZES.items():
        gc.collect()
        before = peak = resident_bytes()
        total, taken, first_s = 0, 0, 0.0
        start = time.perf_counter()
        for result in calls(iter(range(count))):
            if not taken:
                first_s = time.perf_counter() - start
            total += result
            taken += 1
            if not taken & LOOK_EVERY:
                peak = max(peak, resident_bytes())
        samples[name] = [time.perf_counter() - start]
        assert (taken, total) == (count, count * (count - 1)), "wrong result"
        samples["first"] = [first_s]
        samples["growth"] = [float(max(peak - before, PAGE_BYTES))]  # ratios are taken of it
    source = Source(SIZES["1 million"])
    for taken, _ in enumerate(calls(source.numbers())):
        if taken == 1_000:
            samples["read ahead"] = [float(source.num_read)]
    if refs is not None:
        samples["ref"] = [refs()]
    return samples


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.at_most("1 million: ≥ 3,000,000 items/s (≤ 0.333 s)", OURS, 1 / 3, "1 million"),
        figures.at_most("10 million: ≥ 3,000,000 items/s (≤ 3.33 s)", OURS, 10 / 3, "10 million"),
        figures.at_most("first result within 5 ms", OURS, 0.005, "first"),
        figures.at_most("the driver grows by 10 MB at most", OURS, 10e6, "growth"),
        figures.at_most("≤ 200 bytes per outstanding call", OURS, 200.0, "ref"),
    ]


ROW = Row(
    id="F10",
    title="`2 * x` over generators of 1 and 10 million numbers",
    reference=OURS,
    rounds=5,
    quick_rounds=1,
    units={
        **dict.fromkeys(SIZES, "s"),
        "first": "ms",
        "growth": "MB",
        "read ahead": "items",
        "ref": "bytes",
    },
    measure=measure,
    judge=judge,
)


def streams(calls: Calls) -> Run:
    return lambda: (calls, None)


@ROW.form("serial", "for loop", kind="serial")
def _(bench: Bench) -> Run:
    return streams(lambda numbers: (double(x) for x in numbers))


@ROW.form("grainwise", "map", kind="ours")
def _(bench: Bench) -> Run:
    task = bench.system.remote(double)

    def bytes_per_ref() -> float:
        bench.system.get(task.remote(1))
        gc.collect()
        before = resident_bytes()
        refs = [task.remote(x) for x in range(N_REFS)]
        grown = resident_bytes() - before
        bench.system.get(refs)
        return grown / N_REFS

    return lambda: (lambda numbers: bench.system.map(double, numbers), bytes_per_ref)


@ROW.form("pool", "imap, chunks of 1,000", kind="tuned", rounds=3)
def _(bench: Bench) -> Run:
    return streams(lambda numbers: bench.system.imap(double, numbers, chunksize=1_000))


@ROW.form("mpire", "imap, chunks of 1,000", kind="tuned", rounds=1, quick_rounds=0)
def _(bench: Bench) -> Run:
    return streams(lambda numbers: bench.system.imap(double, numbers, iterable_len=None, chunk_size=1_000))
