"""joblib on the session's workers: the same results as without, its ways of returning, nesting, aborting."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from joblib import Parallel, delayed

import grainwise
from grainwise.adapters.joblib_backend import GrainwiseBackend
from grainwise.engine.processes import pool
from grainwise.errors import TaskError, WorkerCrashedError

from ..leaks import assert_nothing_left, run_script
from .full_pool import LIMIT_S, RunLog
from .light_functions import fail, square
from .shared_memory import shared_bytes
from .signposts import Sign


@pytest.fixture(autouse=True)
def _two_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pool, "WARM_MODULES", ("numpy", "joblib"))  # once, not in each worker
    grainwise.init(num_cpus=2)
    with joblib.parallel_config("grainwise", n_jobs=-1):
        yield
    grainwise.shutdown()


def total(array: Any) -> float:
    return float(array.sum())


# --- the name -----------------------------------------------------------------------------------------------

CALLS = "(delayed(pid)() for _ in range(4))"
USES = {
    "config": f'with joblib.parallel_config("grainwise", n_jobs=2):\n    results = Parallel(){CALLS}',
    "backend": f'with joblib.parallel_backend("grainwise", n_jobs=2):\n    results = Parallel(){CALLS}',
    "Parallel": f'results = Parallel(backend="grainwise", n_jobs=2){CALLS}',
    "default": f"grainwise.register_joblib(make_default=True)\nresults = Parallel(n_jobs=2){CALLS}",
}


@pytest.mark.parametrize(
    ("imports", "use"),
    [
        ("import grainwise\nimport joblib", "config"),
        ("import joblib\nimport grainwise", "backend"),
        ("import grainwise\nfrom joblib import parallel_config", "Parallel"),
        ("import grainwise\nimport joblib", "default"),
    ],
)
def test_the_name_is_known_whichever_is_imported_first(imports: str, use: str) -> None:
    program = f"""
{imports}
import os, sys
from joblib import Parallel, delayed
assert not any(type(finder).__name__ == "JoblibFinder" for finder in sys.meta_path)

def pid():
    return os.getpid()

{USES[use]}
assert os.getpid() not in results
assert grainwise.is_initialized()
"""
    result = run_script(program, timeout=60)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert_nothing_left(result.mark)


def test_importing_us_does_not_import_joblib() -> None:
    result = run_script("import grainwise, sys\nassert 'joblib' not in sys.modules", timeout=60)
    assert result.returncode == 0, result.stderr


def test_n_jobs() -> None:
    assert [joblib.effective_n_jobs(n) for n in (-1, -2, -5, 1, 2, 7)] == [2, 1, 1, 1, 2, 7]
    assert joblib.effective_n_jobs(None) == 2  # what parallel_config says
    with pytest.raises(ValueError, match="no meaning"):
        Parallel(n_jobs=0)(delayed(square)(i) for i in range(2))
    assert Parallel(n_jobs=1)(delayed(os.getpid)() for _ in range(2)) == [os.getpid()] * 2
    assert os.getpid() not in Parallel(n_jobs=2)(delayed(os.getpid)() for _ in range(2))


# --- results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"pre_dispatch": "all"}, {"batch_size": 7}, {"n_jobs": 3}])
def test_results_in_order(options: dict[str, Any]) -> None:
    assert Parallel(**options)(delayed(square)(i) for i in range(500)) == [i * i for i in range(500)]


def test_generators() -> None:
    parallel = Parallel(return_as="generator")
    assert list(parallel(delayed(square)(i) for i in range(50))) == [i * i for i in range(50)]
    unordered = Parallel(return_as="generator_unordered")(delayed(square)(i) for i in range(50))
    assert sorted(unordered) == [i * i for i in range(50)]


def test_unordered_gives_what_is_there_first(tmp_path: Path) -> None:
    gate = Sign(tmp_path / "gate")
    results = Parallel(return_as="generator_unordered", batch_size=1)(
        delayed(call)() for call in (gate.wait, lambda: "quick")
    )
    assert next(results) == "quick"
    gate.put_up("slow")
    assert next(results) == "slow"


def test_one_parallel_used_again() -> None:
    with Parallel() as parallel:
        for _ in range(3):
            assert parallel(delayed(square)(i) for i in range(20)) == [i * i for i in range(20)]


def test_a_large_array_is_stored_once() -> None:
    array = np.arange(4_000_000, dtype=np.float64)
    Parallel()(delayed(square)(i) for i in range(4))
    before = shared_bytes()
    results = Parallel(batch_size=1)(delayed(total)(array) for _ in range(12))
    assert results == [array.sum()] * 12
    assert shared_bytes() - before < 1.5 * array.nbytes


@pytest.mark.parametrize("num_threads", [1, 2])
def test_inner_max_num_threads(num_threads: int) -> None:
    def threads() -> set[int]:
        import threadpoolctl

        np.ones((2, 2)) @ np.ones((2, 2))
        return {pool["num_threads"] for pool in threadpoolctl.threadpool_info()}

    with joblib.parallel_config("grainwise", n_jobs=2, inner_max_num_threads=num_threads):
        found = Parallel(batch_size=1)(delayed(threads)() for _ in range(2))
    assert found == [{num_threads}] * 2


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_error_is_of_its_own_type() -> None:
    for return_as in ("list", "generator", "generator_unordered"):
        with pytest.raises(KeyError, match="number 3") as caught:
            list(Parallel(return_as=return_as)(delayed(fail if i == 3 else square)(i) for i in range(6)))
        assert isinstance(caught.value, TaskError)
    assert Parallel()(delayed(square)(i) for i in range(5)) == [0, 1, 4, 9, 16]


def test_error_aborts_what_runs_and_what_waits(tmp_path: Path) -> None:
    log, gate = RunLog(tmp_path), Sign(tmp_path / "gate")

    def task(number: int) -> None:
        log.note(number)
        if number == 0:
            gate.wait()
            raise ValueError("the first")
        gate.put_up()
        while True:
            time.sleep(0.001)

    with pytest.raises(ValueError, match="the first"):
        Parallel(batch_size=1, pre_dispatch="all")(delayed(task)(i) for i in range(20))
    assert len(log.runs()) <= 3  # the worker of the first may have begun another
    assert Parallel()(delayed(square)(i) for i in range(3)) == [0, 1, 4]  # both workers are free again


def test_timeout(tmp_path: Path) -> None:
    gate = Sign(tmp_path / "gate")
    with pytest.raises(joblib.parallel.TimeoutError):
        Parallel(timeout=0.05)(delayed(gate.wait)() for _ in range(4))
    assert Parallel(timeout=LIMIT_S)(delayed(square)(i) for i in range(3)) == [0, 1, 4]


def test_a_generator_that_is_dropped_aborts(tmp_path: Path) -> None:
    gate = Sign(tmp_path / "gate")
    results = Parallel(return_as="generator", batch_size=1)(delayed(gate.wait)() for _ in range(4))
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()
    assert Parallel()(delayed(square)(i) for i in range(3)) == [0, 1, 4]


def test_death_of_a_worker() -> None:
    with pytest.raises(WorkerCrashedError, match="exit code 3"):
        Parallel(batch_size=1)(delayed(os._exit)(3) for _ in range(2))
    assert Parallel()(delayed(square)(i) for i in range(3)) == [0, 1, 4]


def test_what_cannot_be_pickled() -> None:
    with pytest.raises(TypeError, match="cannot be pickled"):
        Parallel()(delayed(square)(threading.Lock()) for _ in range(2))


# --- nesting ------------------------------------------------------------------------------------------------


def nested(count: int, n_jobs: int | None) -> tuple[int, int, list[int]]:
    results = Parallel(n_jobs=n_jobs, batch_size=1)(delayed(pid_and_square)(i) for i in range(count))
    return os.getpid(), len({pid for pid, _ in results} - {os.getpid()}), [value for _, value in results]


def pid_and_square(x: int) -> tuple[int, int]:
    return os.getpid(), x * x


@pytest.mark.parametrize("num_cpus", [1, 2])
def test_nested_calls_finish(num_cpus: int) -> None:
    """With all CPUs taken by tasks that poll for their own: those lend them."""
    grainwise.shutdown()
    grainwise.init(num_cpus=num_cpus)
    results = Parallel(n_jobs=2)(delayed(nested)(6, 2) for _ in range(4))
    assert [values for _, _, values in results] == [[i * i for i in range(6)]] * 4


def test_a_nested_call_that_asks_for_nothing_runs_in_place() -> None:
    assert all(others == 0 for _, others, _ in Parallel()(delayed(nested)(6, None) for _ in range(4)))


def test_nested_backend_is_ours() -> None:
    def inner() -> tuple[str, int]:
        backend, _ = joblib.parallel.get_active_backend()
        return type(backend).__name__, backend.nesting_level

    assert Parallel()(delayed(inner)() for _ in range(2)) == [(GrainwiseBackend.__name__, 1)] * 2


# --- scikit-learn's own workloads ---------------------------------------------------------------------------


def test_scikit_learn_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.datasets import make_classification
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.tree import DecisionTreeClassifier

    grainwise.shutdown()
    monkeypatch.setattr(pool, "WARM_MODULES", ("sklearn.ensemble",))
    grainwise.init(num_cpus=2)
    x, y = make_classification(200, 8, random_state=0)

    def run(n_jobs: int) -> list[Any]:
        forest = RandomForestClassifier(12, random_state=0, n_jobs=n_jobs).fit(x, y)
        grid = {"max_depth": [1, 2, 3], "min_samples_leaf": [1, 5]}
        search = GridSearchCV(DecisionTreeClassifier(random_state=0), grid, cv=3, n_jobs=n_jobs).fit(x, y)
        inner = RandomForestClassifier(4, random_state=0, n_jobs=n_jobs)
        both = GridSearchCV(inner, {"max_depth": [2, 4]}, cv=2, n_jobs=n_jobs).fit(x, y)
        scores = cross_val_score(DecisionTreeClassifier(random_state=0), x, y, cv=3, n_jobs=n_jobs)
        return [
            forest.predict_proba(x).tolist(),
            search.best_params_,
            search.cv_results_["mean_test_score"].tolist(),
            both.cv_results_["mean_test_score"].tolist(),
            scores.tolist(),
        ]

    assert run(2) == run(1)


def test_a_task_that_uses_the_name(tmp_path: Path) -> None:
    """In a worker, too, the name is known without further ado."""

    def task() -> list[int]:
        with joblib.parallel_config("grainwise", n_jobs=2):
            results: list[int] = Parallel()(delayed(square)(i) for i in range(3))
            return results

    assert grainwise.get(grainwise.remote(task).remote(), timeout=LIMIT_S) == [0, 1, 4]
