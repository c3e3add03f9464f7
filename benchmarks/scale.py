"""`python -m benchmarks.scale`: how the policy does on 1 to 4,096 workers, in the simulator.

`tests/policy/runs.py` runs the real policy on a virtual machine whose costs are those that it assumes. Each
worker has 2 s of work, in tasks of several mean lengths (exponential), up to 819 million in all. That takes
some minutes.
Written to `results/scale.json`, from which `benchmarks.pictures` draws.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.policy.runs import Run, RunSimulation

WORKERS = (1, 4, 16, 64, 256, 1024, 4096)
GRAINS_S = (1e-5, 1e-4, 1e-3, 1e-2)
WORK_S = 2.0
"""For each worker."""
OUTPUT = Path(__file__).resolve().parent / "results" / "scale.json"


def simulate(grain_s: float, n_workers: int) -> dict[str, Any]:
    n_tasks = round(n_workers * WORK_S / grain_s)
    outcome = RunSimulation([Run(0, n_tasks, grain_s, "exponential")], n_workers).run()
    return {"grain_s": grain_s, "workers": n_workers, "n_tasks": n_tasks, **outcome._asdict()}


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else OUTPUT
    cases = []
    for grain_s in GRAINS_S:
        for n_workers in WORKERS:
            cases.append(simulate(grain_s, n_workers))
            case = cases[-1]
            efficiency = case["ideal_s"] / case["took_s"]
            print(
                f"{grain_s * 1e6:8.0f} us {n_workers:5d}: {efficiency:.3f}  {case['real_s']:.1f} s",
                flush=True,
            )
    output.write_text(json.dumps({"work_s": WORK_S, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
