"""Tasks that keep a CPU busy for a given time: loops, counted once per row and the same for every system.

A task that sleeps would leave its CPU to the driver, and flatter systems whose driver works a lot.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.row import Bench, Form, Run, Samples

FILE = "loops.json"
SAMPLE_S = 0.02
N_SAMPLES = 7


def burn(n_loops: int) -> int:
    """Count to `n_loops`; 10 to 20 ns each on CPUs of today."""
    for _ in range(n_loops):
        pass
    return n_loops


def burn_all(counts: list[int]) -> list[int]:
    return [burn(count) for count in counts]


def sleep(duration_s: float) -> None:
    """Keep a worker, not a CPU, for a while."""
    time.sleep(duration_s)


def calibrate(folder: Path) -> None:
    """Write what a call and a loop cost at best to `folder`: what disturbs a sample only makes it longer."""
    call_s = min(_sample(0, int(SAMPLE_S / 50e-9)) for _ in range(N_SAMPLES))
    n_loops = int(SAMPLE_S / 15e-9)
    loop_s = min(_sample(n_loops, 1) for _ in range(N_SAMPLES)) / n_loops
    (folder / FILE).write_text(json.dumps({"call_s": call_s, "loop_s": loop_s}))


def _sample(n_loops: int, n_calls: int) -> float:
    counts = [n_loops] * n_calls
    start = time.perf_counter()
    burn_all(counts)
    return (time.perf_counter() - start) / n_calls


def loops_of(folder: Path, duration_s: float) -> int:
    """How far to count so that one call takes `duration_s` on an undisturbed CPU."""
    costs = json.loads((folder / FILE).read_text())
    return max(1, round((duration_s - costs["call_s"]) / costs["loop_s"]))


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """Time each of the parts that a form's run yields: (name, loops that its tasks count, what to time)."""
    samples: Samples = {}
    for name, total, calls in run():
        gc.collect()
        start = time.perf_counter()
        result = calls()
        samples[name] = [time.perf_counter() - start]
        assert sum(result) == total, "wrong result"
        del result
    return samples
