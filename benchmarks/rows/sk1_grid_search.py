"""SK1: scikit-learn through joblib: two grid searches and a forest, `n_jobs` as many as workers.

The same three lines of scikit-learn under `joblib.parallel_config("grainwise")` and under joblib's own
backend, loky. The estimators do the work; what differs is how calls, data and results travel.

Goal: ahead of loky in the same run.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples

OURS, LOKY = "grainwise: joblib backend", "joblib: loky"


@cache
def digits() -> Any:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)


def search_svc(n_jobs: int) -> float:
    from sklearn.model_selection import GridSearchCV
    from sklearn.svm import SVC

    grid = {"C": [1, 10, 100], "gamma": [1e-4, 5e-4, 1e-3]}
    return float(GridSearchCV(SVC(), grid, cv=3, n_jobs=n_jobs).fit(*digits()).best_score_)


def search_logistic(n_jobs: int) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200))
    grid = {"logisticregression__C": [0.01, 0.03, 0.1, 0.3, 1, 3]}
    return float(GridSearchCV(model, grid, cv=3, n_jobs=n_jobs).fit(*digits()).best_score_)


def grow_forest(n_jobs: int) -> float:
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(200, random_state=0, n_jobs=n_jobs)
    return float(forest.fit(*digits()).score(*digits()))


WORKLOADS: dict[str, Callable[[int], float]] = {
    "grid search, SVC": search_svc,
    "grid search, logistic": search_logistic,
    "forest": grow_forest,
}
scores: dict[str, float] = {}


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """Time each workload; every run must come to the same score."""
    samples: Samples = {}
    for name, work in run():
        gc.collect()
        start = time.perf_counter()
        score = work()
        samples[name] = [time.perf_counter() - start]
        assert scores.setdefault(name, score) == score, "wrong result"
    return samples


def judge(figures: Figures) -> list[Goal]:
    text = "{}: ahead of loky"
    return [figures.ratio_at_most(text.format(name), OURS, LOKY, 1.0, metric=name) for name in WORKLOADS]


ROW = Row(
    id="SK1",
    title="scikit-learn through joblib",
    reference=OURS,
    rounds=9,
    quick_rounds=3,
    units=dict.fromkeys(WORKLOADS, "s"),
    requires=("sklearn", "joblib"),
    warm_ups=1,
    measure=measure,
    judge=judge,
)


def workloads(n_jobs: int, backend: str | None) -> Run:
    def run() -> Iterator[tuple[str, Callable[[], float]]]:
        import joblib

        for name, work in WORKLOADS.items():

            def timed(work: Callable[[int], float] = work) -> float:
                if backend is None:
                    return work(1)
                with joblib.parallel_config(backend, n_jobs=n_jobs):
                    return work(n_jobs)

            yield name, timed

    return run


@ROW.form("serial", "n_jobs=1", kind="serial", rounds=3, quick_rounds=1)
def _(bench: Bench) -> Run:
    return workloads(1, None)


@ROW.form("grainwise", "joblib backend", kind="ours")
def _(bench: Bench) -> Run:
    return workloads(bench.n_workers, "grainwise")


@ROW.form("joblib", "loky", kind="naive")
def _(bench: Bench) -> Run:
    return workloads(bench.n_workers, "loky")
