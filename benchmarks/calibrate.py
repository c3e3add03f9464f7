"""`python -m benchmarks.calibrate`: does the simulator predict what the engine really takes?

Without this the simulator proves nothing about the engine. For tasks of 1, 10, 100 and 1,000 µs on 1, 2 and
(where there are so many CPUs) 4 workers:

    the machine's costs (`grainwise doctor`) ─────────────────────────┐
    a real run ─► its trace: what each task cost in its worker ───────┴─► simulator ─► predicted makespan
             └──► its makespan ◄──────────────────── compared with ──────────────────────────┘

The trace is that of the worker's own reports to the policy, (tasks, their time), so recording costs nothing;
it holds whatever disturbed the tasks themselves. The policy in the simulator assumes what it assumes in the
engine, and the world around it costs what was measured. Where the driver has no CPU of its own, because there
are as many workers as CPUs or other programs run, what it does for a batch is added to its worker's time.
Real and simulated workers have run another function before, and know nothing of this one.

Goal: within 10 % in every case, the median of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grainwise
from benchmarks import burning, machine
from benchmarks.figures import format_value
from grainwise.doctor.measure import measure
from grainwise.engine import current
from grainwise.grain.costs import Costs
from grainwise.grain.policy import Policy
from tests.policy.simulator import Simulation
from tests.policy.virtual_worker import Burst, Task

COUNTS = {1e-6: 100_000, 1e-5: 40_000, 1e-4: 6_000, 1e-3: 800}
"""How many tasks of which length."""
CLOSE = 0.10
WARM_UP_S = 5e-3
AFTER_WARM_UP_S = 0.5
RESULTS = Path(__file__).resolve().parent / "results"


class Recorder:
    """Stands before the policy's `finished` and notes what tasks of a run cost in their workers."""

    def __init__(self) -> None:
        self.costs_s: list[float] = []
        engine: Any = current.current()
        self._policy = engine.dispatcher.policy

    def __enter__(self) -> Recorder:
        vars(self._policy)["finished"] = self._finished
        return self

    def __exit__(self, *_: object) -> None:
        del vars(self._policy)["finished"]

    def _finished(
        self, worker: int, key: Any, count: int, num_timed: int, total_s: float, worst_s: float
    ) -> None:
        if num_timed:
            self.costs_s.extend([total_s / num_timed] * num_timed)
        type(self._policy).finished(self._policy, worker, key, count, num_timed, total_s, worst_s)


def run_really(n_workers: int, n_loops: int, n_tasks: int) -> tuple[float, list[float]]:
    """Run tasks on warm workers of a fresh session; return the makespan and each task's cost."""
    grainwise.init(num_cpus=n_workers)
    try:
        warm_up = grainwise.remote(burning.sleep)  # as the tasks: what pickles functions is loaded then
        grainwise.get([warm_up.remote(WARM_UP_S) for _ in range(4 * n_workers)])
        task = grainwise.remote(burning.burn)
        with Recorder() as recorder:
            begin = time.perf_counter()
            refs = [task.remote(n_loops) for _ in range(n_tasks)]
            grainwise.get(refs)
            took_s = time.perf_counter() - begin
    finally:
        grainwise.shutdown()
    return took_s, recorder.costs_s


def simulate(n_workers: int, costs_s: list[float], world: Costs, warm_message_s: float) -> float:
    """Replay a trace; return the makespan in virtual time."""
    warm_up = [Task(1, WARM_UP_S) for _ in range(4 * n_workers)]
    bursts = [Burst(0.0, warm_up), Burst(AFTER_WARM_UP_S, [Task(0, cost_s) for cost_s in costs_s])]
    has_driver_cpu = n_workers < machine.n_cpus() and not machine.is_busy()
    policy = Policy(n_workers)
    simulation = Simulation(
        bursts, n_workers, policy=policy, costs=world, has_driver_cpu=has_driver_cpu,
        warm_message_s=warm_message_s,
    )  # fmt: skip
    return simulation.run() - AFTER_WARM_UP_S


def calibrate_case(
    n_workers: int,
    grain_s: float,
    n_loops: int,
    rounds: int,
    world: Costs,
    warm_message_s: float,
    scale: float,
) -> dict[str, Any]:
    """Compare real with predicted makespans."""
    runs = []
    for _ in range(rounds):
        took_s, costs_s = run_really(n_workers, n_loops, max(1, int(COUNTS[grain_s] * scale)))
        runs.append(
            {
                "real_s": took_s,
                "predicted_s": simulate(n_workers, costs_s, world, warm_message_s),
                "task_s": statistics.fmean(costs_s),
                "n_tasks": len(costs_s),
            }
        )
    errors = [run["predicted_s"] / run["real_s"] - 1 for run in runs]
    fastest = min(runs, key=lambda run: run["real_s"])
    return {
        "workers": n_workers,
        "grain_s": grain_s,
        "error": statistics.median(errors),
        "error_of_fastest": fastest["predicted_s"] / fastest["real_s"] - 1,
        "runs": runs,
    }


def show(cases: list[dict[str, Any]]) -> str:
    lines = [
        "| task | workers | tasks | task as measured | real | predicted | off by | fastest run off by |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        runs = case["runs"]
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        cells = [
            format_value(case["grain_s"], "us"),
            str(case["workers"]),
            f"{medians['n_tasks']:,.0f}",
            format_value(medians["task_s"], "us"),
            format_value(medians["real_s"], "ms"),
            format_value(medians["predicted_s"], "ms"),
            f"{100 * case['error']:+.1f} %",
            f"{100 * case['error_of_fastest']:+.1f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.calibrate", description=__doc__.split("\n")[0]
    )
    fitting = [n for n in (1, 2, 4) if n <= max(1, machine.n_cpus())]
    parser.add_argument(
        "--workers", default=",".join(map(str, fitting)), help="default: 1,2,4, as CPUs allow"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a fifth of the tasks, 3 rounds")
    parser.add_argument("--output", type=Path, default=RESULTS / "calibration.json")
    options = parser.parse_args()
    options.workers = [int(word) for word in options.workers.split(",")]
    if options.quick:
        options.rounds = min(3, options.rounds)
    return options


def main() -> None:
    options = parse()
    header = machine.describe("benchmarks.calibrate")
    if machine.is_busy():
        header["warning"] = "other programs were running at the start: run it again on a quiet machine"
        print(header["warning"], file=sys.stderr)
    measured = measure()
    world, warm_message_s = measured.world(), measured.warm_message_s()
    costs = {name: getattr(world, name) for name in Costs.__slots__}
    print("costs:", ", ".join(f"{name} {format_value(cost, 'us')}" for name, cost in costs.items()))
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        burning.calibrate(Path(folder))
        for n_workers in options.workers:
            for grain_s in COUNTS:
                n_loops = burning.loops_of(Path(folder), grain_s)
                scale = 0.2 if options.quick else 1.0
                cases.append(
                    calibrate_case(n_workers, grain_s, n_loops, options.rounds, world, warm_message_s, scale)
                )
                print(show(cases[-1:]).splitlines()[-1], file=sys.stderr, flush=True)
    text = show(cases)
    print(text)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"header": header, "costs": costs, "cases": cases}, indent=1) + "\n")
    far = [case for case in cases if abs(case["error"]) > CLOSE]
    print(f"within {CLOSE:.0%}: {len(cases) - len(far)} of {len(cases)} cases; written to {options.output}")
    sys.exit(1 if far else 0)


if __name__ == "__main__":
    main()
