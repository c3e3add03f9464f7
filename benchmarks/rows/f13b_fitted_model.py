"""F13b: 64 batches of predictions by a random forest of 131 MB.

The forest is really fitted, on scikit-learn's bundled digits, each also shifted by one pixel in eight
directions. Warm form: every worker has loaded the model from a file once, before the timed part (a cached
function, or an initializer). Naive form: the model is an argument of each of the 64 tasks, by value; each
pickling of a forest makes fresh arrays, so the identity of arrays does not help to recognise it.

`first` is the first run in a fresh process, `again` the run after it.

Goal: warm, level with (within 5 %) or ahead of the best peer; by value at most 3 × our warm form.
"""

from __future__ import annotations

import multiprocessing
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples, time_first_and_again
from benchmarks.systems import PlainProcesses

N_BATCHES, BATCH_ROWS, N_TREES = 64, 252, 200
LEVEL = 1.05
OURS, OURS_WARM = "grainwise: by value, naive loop", "grainwise: loaded once per worker"


def prepare(folder: Path) -> None:
    """Fit the forest, choose the batches, and predict them one after another."""
    import numpy
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier

    digits = load_digits()
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    images = numpy.concatenate([numpy.roll(digits.images, shift, axis=(1, 2)) for shift in shifts])
    pixels, labels = images.reshape(len(images), -1), numpy.tile(digits.target, len(shifts))
    forest = RandomForestClassifier(N_TREES, random_state=0, n_jobs=-1).fit(pixels, labels)
    forest.n_jobs = None  # from here on the workers are the parallelism
    (folder / "forest.pickle").write_bytes(pickle.dumps(forest, protocol=5))
    order = numpy.random.default_rng(0).permutation(len(pixels))[: N_BATCHES * BATCH_ROWS]
    batches = pixels[order].reshape(N_BATCHES, BATCH_ROWS, -1)
    numpy.save(folder / "batches.npy", batches)
    numpy.save(folder / "predictions.npy", numpy.stack([forest.predict(batch) for batch in batches]))


@cache
def load_forest(path: str) -> Any:
    return pickle.loads(Path(path).read_bytes())


def predict(forest: Any, batch: Any) -> Any:
    return forest.predict(batch)


def predict_loaded(path: str, batch: Any) -> Any:
    """Predict with the model that this worker loads once."""
    return load_forest(path).predict(batch)


_expected: list[Any] = []


def input_of(bench: Bench) -> tuple[str, list[Any]]:
    """Path of the model and the list of batches."""
    import numpy

    _expected[:] = [numpy.load(bench.scratch / "predictions.npy")]
    return str(bench.scratch / "forest.pickle"), list(numpy.load(bench.scratch / "batches.npy"))


def check(result: Any) -> None:
    import numpy

    assert numpy.array_equal(numpy.stack(list(result)), _expected[0]), "wrong result"


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    # Peers by value take up to a minute: once is enough.
    n_again = 0 if form.kind == "naive" else 1 if bench.is_quick else 2
    return time_first_and_again(run, check, n_again)


def judge(figures: Figures) -> list[Goal]:
    best = figures.best(["tuned"], "again")
    return [
        figures.ratio_at_most(
            "warm: level with the best peer (≤ 1.05 ×) or ahead", OURS_WARM, best, LEVEL, metric="again"
        ),
        figures.ratio_at_most(
            "by value, first: ≤ 3 × our warm form", OURS, OURS_WARM, 3.0, metric="first", other_metric="again"
        ),
        figures.ratio_at_most("by value, again: ≤ 3 × our warm form", OURS, OURS_WARM, 3.0, metric="again"),
    ]


ROW = Row(
    id="F13b",
    title="64 batches of predictions by a fitted model of 131 MB",
    reference=OURS_WARM,
    rounds=3,
    quick_rounds=1,
    units={"first": "s", "again": "s"},
    requires=("numpy", "sklearn"),
    has_own_children=True,
    is_fresh_each_round=True,
    check=check,
    measure=measure,
    judge=judge,
    prepare=prepare,
)


def warmed(run: Run) -> Run:
    """Let every worker load the model before anything is timed."""
    run()
    return run


@ROW.form("serial", "for loop", kind="serial", rounds=1, quick_rounds=0)
def _(bench: Bench) -> Run:
    path, batches = input_of(bench)
    return warmed(lambda: [predict_loaded(path, batch) for batch in batches])


def predict_inherited(first: int, step: int) -> list[Any]:
    """Worker of the limit: model and batches were there before the fork."""
    forest, batches = _inherited
    return [forest.predict(batch) for batch in batches[first::step]]


_inherited: list[Any] = []


@ROW.form("limit", "forked, nothing is sent", kind="limit")
def _(bench: Bench) -> Run:
    path, batches = input_of(bench)
    _inherited[:] = [load_forest(path), batches]
    processes = PlainProcesses(bench.n_workers)
    bench.closing.callback(processes.close)
    n = bench.n_workers

    def run() -> list[Any]:
        parts = processes.run(predict_inherited, [(i, n) for i in range(n)])
        return [parts[i % n][i // n] for i in range(N_BATCHES)]

    return warmed(run)


@ROW.form("grainwise", "by value, naive loop", kind="ours")
def _(bench: Bench) -> Run:
    grainwise, (path, batches) = bench.system, input_of(bench)
    forest, task = load_forest(path), grainwise.remote(predict)
    return lambda: grainwise.get([task.remote(forest, batch) for batch in batches])


def _warm_form(bench: Bench) -> Run:
    """The same code for grainwise and Ray."""
    system, (path, batches) = bench.system, input_of(bench)
    task = system.remote(predict_loaded)
    return warmed(lambda: system.get([task.remote(path, batch) for batch in batches]))


def _put_form(bench: Bench) -> Run:
    """The same code for grainwise and Ray."""
    system, (path, batches) = bench.system, input_of(bench)
    forest, task = load_forest(path), system.remote(predict)

    def run() -> Any:
        ref = system.put(forest)
        return system.get([task.remote(ref, batch) for batch in batches])

    return run


ROW.form("grainwise", "loaded once per worker", kind="ours, tuned")(_warm_form)
ROW.form("grainwise", "put once, pass the ref", kind="ours, tuned")(_put_form)
ROW.form("ray", "loaded once per worker", kind="tuned", quick_rounds=0)(_warm_form)
ROW.form("ray", "put once, pass the ref", kind="tuned", rounds=1, quick_rounds=0)(_put_form)


@ROW.form("ray", "by value, naive loop", kind="naive", rounds=1, quick_rounds=0, timeout_s=300)
def _(bench: Bench) -> Run:
    ray, (path, batches) = bench.system, input_of(bench)
    forest, task = load_forest(path), ray.remote(predict)
    return lambda: ray.get([task.remote(forest, batch) for batch in batches])


_loaded: list[Any] = []


def _load_at_start(path: str) -> None:
    _loaded.append(load_forest(path))


def predict_global(batch: Any) -> Any:
    return _loaded[0].predict(batch)


@ROW.form("pool", "initializer and a global", kind="tuned")
def _(bench: Bench) -> Run:
    path, batches = input_of(bench)
    pool = bench.closing.enter_context(multiprocessing.Pool(bench.n_workers, _load_at_start, (path,)))
    return warmed(lambda: pool.map(predict_global, batches, chunksize=1))


@ROW.form("pool", "by value, apply_async loop", kind="naive", rounds=1, quick_rounds=0, timeout_s=300)
def _(bench: Bench) -> Run:
    path, batches = input_of(bench)
    forest = load_forest(path)
    return lambda: [
        r.get() for r in [bench.system.apply_async(predict, (forest, batch)) for batch in batches]
    ]


@ROW.form("executor", "loaded once per worker", kind="tuned", quick_rounds=0)
def _(bench: Bench) -> Run:
    path, batches = input_of(bench)
    return warmed(lambda: list(bench.system.map(predict_loaded, [path] * N_BATCHES, batches)))


@ROW.form("joblib", "loaded once per worker", kind="tuned")
def _(bench: Bench) -> Run:
    from joblib import delayed

    path, batches = input_of(bench)
    return warmed(lambda: bench.system()(delayed(predict_loaded)(path, batch) for batch in batches))


@ROW.form("joblib", "by value, delayed", kind="naive", rounds=1, quick_rounds=0, timeout_s=300)
def _(bench: Bench) -> Run:
    from joblib import delayed

    path, batches = input_of(bench)
    forest = load_forest(path)
    return lambda: bench.system()(delayed(predict)(forest, batch) for batch in batches)


@ROW.form("dask", "loaded once per worker", kind="tuned", quick_rounds=0)
def _(bench: Bench) -> Run:
    from dask import delayed

    (path, batches), task = input_of(bench), delayed(predict_loaded)
    return warmed(lambda: list(bench.system(*[task(path, batch) for batch in batches])))


@ROW.form("distributed", "loaded once per worker", kind="tuned", quick_rounds=0)
def _(bench: Bench) -> Run:
    client, (path, batches) = bench.system, input_of(bench)
    return warmed(
        lambda: client.gather([client.submit(predict_loaded, path, batch, pure=False) for batch in batches])
    )


def predict_with_state(state: dict[str, Any], batch: Any) -> Any:
    return state["forest"].predict(batch)


@ROW.form("mpire", "worker_init and worker_state", kind="tuned", quick_rounds=0)
def _(bench: Bench) -> Run:
    from mpire import WorkerPool

    path, batches = input_of(bench)
    pool = bench.closing.enter_context(
        WorkerPool(n_jobs=bench.n_workers, use_worker_state=True, keep_alive=True)
    )

    def load(state: dict[str, Any]) -> None:
        state["forest"] = load_forest(path)

    # A tuple each: mpire would spread a bare array over the arguments.
    arguments = [(batch,) for batch in batches]
    options = {"worker_init": load, "chunk_size": 1, "concatenate_numpy_output": False}
    return warmed(lambda: pool.map(predict_with_state, arguments, **options))
