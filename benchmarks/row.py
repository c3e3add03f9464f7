"""The words of a benchmark: a row (one workload) has forms (one way of one system to do it) and goals.

A row module builds one `Row` called `ROW` and registers its forms with `@ROW.form(...)`. A form's function
is the set-up: it runs once, outside the timed part, and returns the callable that is timed.

    @ROW.form("ray", "naive loop", kind="naive", rounds=3)
    def _(bench: Bench) -> Run:
        task = bench.system.remote(double)
        return lambda: bench.system.get([task.remote(x) for x in NUMBERS])
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.figures import Figures, Goal

Run = Callable[[], Any]
Samples = dict[str, list[float]]

KINDS = {
    "ours": "grainwise, the code that a row is about",
    "ours, tuned": "grainwise, with what an expert would do by hand",
    "serial": "one process, no library",
    "limit": "what the machine or a bare prototype gives",
    "naive": "a peer, as most people write it",
    "tuned": "a peer, tuned by hand",
}


@dataclass
class Bench:
    """What a form's set-up is given: the started system and where to leave what must be closed."""

    system: Any
    n_workers: int
    is_quick: bool
    scratch: Path
    closing: ExitStack


@dataclass(frozen=True)
class Form:
    """One way of one system to do a row's work.

    `rounds` caps the number of rounds (None: as many as the row has); `quick_rounds` does so under
    `--quick`, where 0 leaves the form out. `host` is the system whose child process runs it.
    """

    system: str
    label: str
    kind: str
    set_up: Callable[[Bench], Run]
    rounds: int | None
    quick_rounds: int | None
    timeout_s: float
    host: str

    @property
    def key(self) -> str:
        return f"{self.system}: {self.label}"


def time_once(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """Time one run; the result is checked, and freed, outside the timed part."""
    gc.collect()
    start = time.perf_counter()
    result = run()
    elapsed_s = time.perf_counter() - start
    check(result)
    return {"time": [elapsed_s]}


def time_first_and_again(run: Run, check: Callable[[Any], None], n_again: int) -> Samples:
    """Time the first run in a fresh child, then `n_again` more of the same."""
    times = []
    for _ in range(1 + n_again):
        gc.collect()
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
        check(result)
        del result
    return {"first": times[:1], "again": times[1:]}


@dataclass
class Row:
    """One workload with its forms, and how it is run and judged.

    Attributes:
        units: Metric name to the unit it is shown in: `s`, `ms`, `us`, `MB`, or `GB/s of <bytes>`
            (samples are always seconds or bytes).
        reference: Key of the form that ratios are taken against.
        requires: Packages without which the whole row is skipped.
        has_own_children: One child process per form instead of one per system: for rows in which one
            form would warm the store for another.
        is_fresh_each_round: Children are started anew for each round: for rows about a first time.
        warm_ups: Runs of each form that are thrown away (none under `--quick`).
        measures_memory: One more fresh child per form, in which memory is sampled and no time is taken
            (under `--quick` for our own forms only).
        prepare: Makes the row's input files in the scratch folder, once, in a process of its own.
    """

    id: str
    title: str
    reference: str
    rounds: int
    quick_rounds: int
    units: dict[str, str] = field(default_factory=lambda: {"time": "s"})
    requires: tuple[str, ...] = ()
    has_own_children: bool = False
    is_fresh_each_round: bool = False
    warm_ups: int = 0
    measures_memory: bool = False
    check: Callable[[Any], None] = lambda result: None
    measure: Callable[[Form, Run, Callable[[Any], None], Bench], Samples] = time_once
    judge: Callable[[Figures], list[Goal]] = lambda figures: []
    prepare: Callable[[Path], None] | None = None
    forms: list[Form] = field(default_factory=list)

    def form(
        self,
        system: str,
        label: str,
        *,
        kind: str,
        rounds: int | None = None,
        quick_rounds: int | None = None,
        timeout_s: float = 120.0,
        host: str | None = None,
    ) -> Callable[[Callable[[Bench], Run]], Callable[[Bench], Run]]:
        """Register the decorated set-up function as a form of this row."""
        if kind not in KINDS:
            raise ValueError(f"kind of a form: expected one of {sorted(KINDS)}, got {kind!r}")

        def register(set_up: Callable[[Bench], Run]) -> Callable[[Bench], Run]:
            self.forms.append(
                Form(system, label, kind, set_up, rounds, quick_rounds, timeout_s, host or system)
            )
            return set_up

        return register

    def find(self, key: str) -> Form:
        return next(form for form in self.forms if form.key == key)

    def n_rounds(self, form: Form, is_quick: bool) -> int:
        """How many rounds `form` takes part in; the first ones, so that each has a partner to pair with."""
        row_rounds = self.quick_rounds if is_quick else self.rounds
        cap = form.rounds
        if is_quick and form.quick_rounds is not None:
            cap = form.quick_rounds
        return row_rounds if cap is None else min(cap, row_rounds)
