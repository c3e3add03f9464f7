"""F19: the second run of a file whose environment imports pandas and loads a model, within its time to live.

The file is a program of its own: a workflow of one typed task that predicts with a fitted forest, which the
environment's replica has loaded. `first run` is that program where no environment is warm, `second run` the
same once more; `before the task` is the time in that one from starting the interpreter to the first line
of the task. The plain script imports, loads and predicts by itself, as often as it is run.

Goal: the second run at least 5 × faster than the first; at most 0.3 s before the task.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples

N_TREES = 100
OURS = "grainwise: an environment that is warm"
PLAIN = """
import pickle, sys, time
began_s = time.time()
import pandas
with open(sys.argv[1], "rb") as file:
    model = pickle.load(file)
frame = pandas.DataFrame([[0.0] * 64])
print(int(model.predict(frame.to_numpy())[0]), began_s)
"""
FLOW = """
import sys, time
from grainwise.flow import ActorEnvironment, actor_cache, workflow

env = ActorEnvironment(name="predictor", ttl_seconds=600)


@env.on_enter
def import_libraries() -> None:
    import pandas
    import sklearn.ensemble


@actor_cache
def load(path: str) -> object:
    import pickle

    with open(path, "rb") as file:
        return pickle.load(file)


@env.task
def predict(path: str) -> list[float]:
    began_s = time.time()
    import pandas

    frame = pandas.DataFrame([[0.0] * 64])
    return [float(load(path).predict(frame.to_numpy())[0]), began_s]


@workflow
def run(path: str) -> list[float]:
    return predict(path=path)


if __name__ == "__main__":
    label, began_s = run(path=sys.argv[1])
    print(int(label), began_s)
"""


def prepare(folder: Path) -> None:
    """Fit a forest, and note what it says of an empty picture."""
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    digits = load_digits()
    forest = RandomForestClassifier(N_TREES, random_state=0).fit(digits.data, digits.target)
    (folder / "model.pickle").write_bytes(pickle.dumps(forest, protocol=5))
    (folder / "label").write_text(str(int(forest.predict([[0.0] * 64])[0])))


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """Time two runs of the program in a folder of their own."""
    samples: Samples = {}
    for name in ("first run", "second run"):
        began_s, start = time.time(), time.perf_counter()
        label, task_began_s = run()
        samples[name] = [time.perf_counter() - start]
        assert label == (bench.scratch / "label").read_text(), "wrong prediction"
        if form.kind == "ours" and name == "second run":
            samples["before the task"] = [task_began_s - began_s]
    return samples


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.ratio_at_most(
            "second run ≥ 5 × faster (≤ 0.2 ×)", OURS, OURS, 0.2, metric="second run",
            other_metric="first run",
        ),
        figures.at_most("≤ 0.3 s before the task", OURS, 0.3, "before the task"),
    ]  # fmt: skip


ROW = Row(
    id="F19",
    title="second run of a file whose environment imports pandas and loads a model",
    reference=OURS,
    rounds=5,
    quick_rounds=1,
    units={"first run": "s", "second run": "s", "before the task": "s"},
    requires=("pandas", "sklearn"),
    is_fresh_each_round=True,
    measure=measure,
    judge=judge,
    prepare=prepare,
)


@ROW.form("serial", "a script that does it all", kind="serial")
def _(bench: Bench) -> Run:
    return _program(bench, "plain.py", PLAIN)


# The program is started by a bare process, so that nothing of ours is warm but the environment.
@ROW.form("grainwise", "an environment that is warm", kind="ours", host="serial")
def _(bench: Bench) -> Run:
    from benchmarks.rows.f17_warm_environment import use_own_hosts

    use_own_hosts(bench)
    os.environ["GRAINWISE_RUN_DIR"] = str(bench.scratch / "runs")
    return _program(bench, "pipeline.py", FLOW)


def _program(bench: Bench, name: str, source: str) -> Run:
    path = bench.scratch / name
    path.write_text(source)
    command = [sys.executable, str(path), str(bench.scratch / "model.pickle")]

    def run() -> tuple[str, float]:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr else "no message")
        label, began_s = done.stdout.split()
        return label, float(began_s)

    return run
