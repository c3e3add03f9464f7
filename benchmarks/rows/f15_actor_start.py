"""F15: ten actors, from the first line that makes one to the answer of the last.

`bare` in a program that has imported nothing else; `with numpy` in one that has imported numpy, so that the
actors need it, too. The sessions are warm: a first actor has been made and dropped. The limit forks ten
processes that answer one byte each.

Goal: at most 30 ms bare, at most 50 ms with numpy.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples

N_ACTORS = 10
OURS = "grainwise: ten actors"


def classes() -> tuple[type, type]:
    """Return the actors' classes: by value, as those of a script, so that no actor imports this module."""

    class Greeter:
        def greet(self) -> int:
            return 1

    class NumericGreeter:
        def __init__(self) -> None:
            import numpy

            self._ones = numpy.ones(10)

        def greet(self) -> int:
            return int(self._ones[0])

    return Greeter, NumericGreeter


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """Each run returns the seconds that it took, by class."""
    return {name: [seconds] for name, seconds in run().items()}


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.at_most("≤ 30 ms bare", OURS, 0.030, "bare"),
        figures.at_most("≤ 50 ms with numpy", OURS, 0.050, "with numpy"),
    ]


ROW = Row(
    id="F15",
    title="ten actors up to the first call of each",
    reference=OURS,
    rounds=7,
    quick_rounds=2,
    units={"bare": "ms", "with numpy": "ms"},
    requires=("numpy",),
    has_own_children=True,
    is_fresh_each_round=True,
    measure=measure,
    judge=judge,
)


@ROW.form("limit", "ten forks", kind="limit")
def _(bench: Bench) -> Run:
    def fork_ten() -> None:
        pids, read_ends = [], []
        for _ in range(N_ACTORS):
            read_end, write_end = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.write(write_end, b"1")
                os._exit(0)
            os.close(write_end)
            pids.append(pid)
            read_ends.append(read_end)
        for read_end in read_ends:
            assert os.read(read_end, 1) == b"1"
            os.close(read_end)
        for pid in pids:
            os.waitpid(pid, 0)

    return lambda: {"bare": _timed(fork_ten), "with numpy": _with_numpy(fork_ten)}


@ROW.form("grainwise", "ten actors", kind="ours")
def _(bench: Bench) -> Run:
    return _actors(bench.system)


@ROW.form("ray", "ten actors", kind="naive", rounds=2, quick_rounds=1)
def _(bench: Bench) -> Run:
    return _actors(bench.system)


def _actors(system: Any) -> Run:
    def ten(cls: type) -> None:
        actors = [system.remote(cls).options(num_cpus=0).remote() for _ in range(N_ACTORS)]
        assert system.get([actor.greet.remote() for actor in actors]) == [1] * N_ACTORS

    greeter, numeric_greeter = classes()

    def run() -> dict[str, float]:
        system.get(system.remote(greeter).remote().greet.remote())
        bare_s = _timed(lambda: ten(greeter))
        import numpy

        del numpy
        system.get(system.remote(numeric_greeter).remote().greet.remote())
        return {"bare": bare_s, "with numpy": _timed(lambda: ten(numeric_greeter))}

    return run


def _with_numpy(work: Callable[[], None]) -> float:
    import numpy

    del numpy
    return _timed(work)


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
