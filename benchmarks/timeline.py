"""`python -m benchmarks.timeline`: record which batch ran where and when, towards the end of a real run.

4,000 tasks that sleep 0.1 to 0.5 ms (so that more workers than CPUs can be shown), submitted in a naive loop
on 4 workers. Each task tells when it began and ended; the driver notes what went out in one batch. Of several
runs the one that was disturbed least is kept.
Written to `results/timeline.json`, from which `benchmarks.pictures` draws.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import grainwise
from benchmarks import machine
from grainwise.engine import current

N_TASKS, N_WORKERS, N_RUNS = 4_000, 4, 7
SHORTEST_S, LONGEST_S = 0.1e-3, 0.5e-3
WARM_UP_S = 5e-3
OUTPUT = Path(__file__).resolve().parent / "results" / "timeline.json"

Span = tuple[float, float]


def nap(duration_s: float) -> Span:
    """Sleep; return when it began and ended."""
    begin = time.perf_counter()
    time.sleep(duration_s)
    return begin, time.perf_counter()


class Recorder:
    """Stands before the dispatcher's `send_batch` and notes which refs went out together."""

    def __init__(self) -> None:
        engine: Any = current.current()
        self._dispatcher = engine.dispatcher
        self.batches: list[tuple[int, list[Any]]] = []

    def __enter__(self) -> Recorder:
        vars(self._dispatcher)["send_batch"] = self._send_batch
        return self

    def __exit__(self, *_: object) -> None:
        del vars(self._dispatcher)["send_batch"]

    def _send_batch(self, handle: Any, refs: list[Any], *rest: Any, **options: Any) -> None:
        self.batches.append((handle.number, list(refs)))
        type(self._dispatcher).send_batch(self._dispatcher, handle, refs, *rest, **options)


def record(n_tasks: int = N_TASKS, n_workers: int = N_WORKERS) -> dict[str, Any]:
    """Run, and return the batches in the order in which they went out, times from the start of the run."""
    rng = random.Random(1)
    durations = [rng.uniform(SHORTEST_S, LONGEST_S) for _ in range(n_tasks)]
    grainwise.init(num_cpus=n_workers)
    try:
        task = grainwise.remote(nap)
        grainwise.get([grainwise.remote(time.sleep).remote(WARM_UP_S) for _ in range(4 * n_workers)])
        with Recorder() as recorder:
            begin = time.perf_counter()
            refs = [task.remote(duration_s) for duration_s in durations]
            spans = dict(zip(refs, grainwise.get(refs), strict=True))
            took_s = time.perf_counter() - begin
        engine: Any = current.current()
        n_taken = engine.counters.taken_back
    finally:
        grainwise.shutdown()
    last = {ref: number for number, (_, sent) in enumerate(recorder.batches) for ref in sent}
    batches = []
    for number, (worker, sent) in enumerate(recorder.batches):
        ran = [spans[ref] for ref in sent if last[ref] == number]  # the others were taken back
        if ran:
            batches.append(
                {
                    "worker": worker,
                    "begin_s": min(span[0] for span in ran) - begin,
                    "end_s": max(span[1] for span in ran) - begin,
                    "n_tasks": len(ran),
                    "n_sent": len(sent),
                    "again": any(_was_sent_before(recorder.batches, number, ref) for ref in sent[:1]),
                }
            )
    work_s = sum(end - start for start, end in spans.values())
    return {
        "header": machine.describe("benchmarks.timeline"),
        "n_tasks": n_tasks,
        "n_workers": n_workers,
        "took_s": took_s,
        "work_s": work_s,
        "n_taken": n_taken,
        "batches": batches,
    }


def _was_sent_before(batches: list[tuple[int, list[Any]]], number: int, ref: Any) -> bool:
    return any(ref in sent for _, sent in batches[:number])


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    recorded = min((record() for _ in range(N_RUNS)), key=lambda run: run["took_s"])
    output.write_text(json.dumps(recorded, indent=1) + "\n")
    ideal_s = recorded["work_s"] / recorded["n_workers"]
    print(f"{len(recorded['batches'])} batches, {recorded['took_s'] / ideal_s:.3f} x the ideal; {output}")


if __name__ == "__main__":
    main()
