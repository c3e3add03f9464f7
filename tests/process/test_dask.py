"""Dask's own workloads on the session's workers: equal results, its kinds of graphs, errors, callbacks."""

from __future__ import annotations

import io
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from operator import add, mul
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest

import grainwise
from grainwise.engine.processes import pool
from grainwise.errors import TaskError, WorkerCrashedError

from .full_pool import LIMIT_S, RunLog
from .light_functions import fail, inc
from .signposts import Sign

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what pandas and pyarrow have to say to each other
    import dask.array as da
    import dask.bag as db
    import dask.dataframe as dd
    import pandas as pd
from dask._task_spec import Alias, DataNode, List, Task, TaskRef
from dask.diagnostics import Callback, Profiler, ProgressBar


@pytest.fixture(autouse=True)
def _two_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(pool, "WARM_MODULES", ("numpy", "dask._task_spec"))  # once, not in each worker
    grainwise.init(num_cpus=2)
    with dask.config.set(scheduler=grainwise.dask_get):
        yield
    grainwise.shutdown()


# --- graphs -------------------------------------------------------------------------------------------------


def test_dict_of_tuples() -> None:
    graph = {
        "x": 1,
        "y": (inc, "x"),
        ("z", 0): (add, "y", 10),
        "sum": (sum, ["x", "y", ("z", 0)]),
        "nested": (add, (mul, "y", 2), (inc, (inc, "x"))),
        "list": ["x", ("z", 0), [1, "y"]],
        "alias": "sum",
        "text": "no key",
        "unused": (fail, "x"),
    }
    get = grainwise.dask_get
    assert get(graph, "alias") == 15
    assert get(graph, ["x", ("z", 0)]) == (1, 12)
    assert get(graph, [["sum", "alias"], ["nested"], "text", []]) == ((15, 15), (7,), "no key", ())
    assert get(graph, ["list", "sum", "sum"]) == ([1, 12, [1, 2]], 15, 15)


def test_graph_of_task_objects() -> None:
    graph = {
        "data": DataNode("data", [1, 2]),
        "len": Task("len", len, TaskRef("data")),
        "alias": Alias("alias", "len"),
        "inner": Task("inner", add, Task(None, inc, TaskRef("len")), TaskRef("alias")),
        "many": Task("many", sum, List(TaskRef("len"), TaskRef("inner"), 5)),
        "named": Task("named", dict, a=TaskRef("len"), b=2),
    }
    values = grainwise.dask_get(graph, ["data", "len", "alias", "inner", "many", "named"])
    assert values == ([1, 2], 2, 2, 5, 12, {"a": 2, "b": 2})

    with pytest.raises(KeyError, match="y"):
        grainwise.dask_get({"x": 1}, "y")
    with pytest.raises(ValueError, match=r"task 'x' needs 'y'"):
        grainwise.dask_get({"x": Task("x", inc, TaskRef("y"))}, "x")


def test_intermediate_results_stay_in_the_workers_and_are_let_go() -> None:
    """More passes through than the store holds, one after another."""
    grainwise.shutdown()
    grainwise.init(num_cpus=2, object_store_memory=64 << 20, spill_dir="off")
    graph: dict[Any, Any] = {("a", 0): (np.ones, 1 << 20)}  # 8 MiB
    for i in range(1, 30):
        graph["a", i] = (add, ("a", i - 1), 1)
    graph["sum"] = (np.sum, ("a", 29))
    assert grainwise.dask_get(graph, "sum") == 30 * (1 << 20)


# --- collections --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frame() -> Any:
    random = np.random.default_rng(0)
    values = {
        "key": np.arange(3_000) % 17,
        "name": [f"n{i % 5}" for i in range(3_000)],
        "x": random.random(3_000),
    }
    return dd.from_pandas(pd.DataFrame(values), npartitions=6)


def test_dataframe(frame: Any) -> None:
    means = frame.groupby("key").x.mean().reset_index()
    for lazy in (
        frame.groupby("key").x.agg(["sum", "mean", "count"]),
        frame.groupby("name").x.mean(),
        frame.merge(means, on="key").groupby("key").x_y.max(),
        frame.set_index("x").key.cumsum(),
        frame[frame.x > 0.5].describe(),
    ):
        got, expected = lazy.compute(), lazy.compute(scheduler="sync")
        is_frame = isinstance(got, pd.DataFrame)
        test: Any = pd.testing.assert_frame_equal if is_frame else pd.testing.assert_series_equal
        test(got.sort_index(), expected.sort_index())
    with grainwise.Executor() as executor:
        got, expected = frame.x.sum().compute(scheduler=executor), frame.x.sum().compute(scheduler="sync")
        assert got == pytest.approx(expected)


def test_array() -> None:
    x = da.random.default_rng(1).random((300, 300), chunks=(100, 100))
    for lazy in ((x @ x.T).mean(axis=0), x + x.T, da.linalg.svd(x.rechunk((100, 300)))[1], x[::2].std()):
        np.testing.assert_allclose(lazy.compute(), lazy.compute(scheduler="sync"))


def test_bag_whose_groups_are_found_by_hash() -> None:
    """All workers agree on the hash of a text."""
    bag = db.from_sequence([f"name {i % 7}" for i in range(200)], npartitions=8)
    groups = bag.groupby(lambda name: name).map(lambda group: (group[0], len(group[1]))).compute()
    assert sorted(groups) == sorted(bag.frequencies().compute(scheduler="sync"))


def test_delayed() -> None:
    lazy_inc, lazy_sum = dask.delayed(inc), dask.delayed(sum)
    lazy = lazy_sum([lazy_inc(i) for i in range(200)])
    assert dask.compute(lazy, lazy_inc(lazy), {"a": [lazy]}) == (20100, 20101, {"a": [20100]})
    assert dask.compute(*[lazy_inc(i) for i in range(1_000)]) == tuple(range(1, 1_001))


def test_inside_a_task() -> None:
    def task() -> int:
        lazy = dask.delayed(sum)([dask.delayed(inc)(i) for i in range(20)])
        value: int = lazy.compute(scheduler=grainwise.dask_get)
        return value

    refs = [grainwise.remote(task).remote() for _ in range(3)]
    assert grainwise.get(refs, timeout=LIMIT_S) == [210] * 3


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_errors() -> None:
    lazy = dask.delayed(sum)([dask.delayed(inc)(1), dask.delayed(fail)(7)])
    with pytest.raises(KeyError, match="number 7") as caught:
        lazy.compute()
    assert isinstance(caught.value, TaskError)
    assert caught.value.task_name == "fail"
    with pytest.raises(WorkerCrashedError, match="exit code 3"):
        dask.delayed(os._exit)(3).compute()


def test_error_ends_everything(tmp_path: Path) -> None:
    """Though the results that come first in order are far from done."""
    log, gate = RunLog(tmp_path), Sign(tmp_path / "gate")

    def hold() -> None:
        log.note("held")
        gate.put_up()
        threading.Event().wait()

    def fail_then() -> None:
        gate.wait()
        raise ValueError("early")

    graph: dict[Any, Any] = {"a": (hold,), "b": (fail_then,), "both": (add, "a", "b")}
    with pytest.raises(ValueError, match="early"):
        grainwise.dask_get(graph, ["both"])
    assert log.runs() == ["held"]
    assert dask.delayed(inc)(1).compute() == 2


def test_ctrl_c_ends_everything(tmp_path: Path) -> None:
    gate = Sign(tmp_path / "gate")
    driver = os.getpid()

    def hold() -> None:
        gate.put_up()
        os.kill(driver, signal.SIGINT)
        threading.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        grainwise.dask_get({"a": (hold,), "b": (inc, "a")}, ["b"])
    assert dask.compute(*[dask.delayed(inc)(i) for i in range(4)]) == (1, 2, 3, 4)


# --- callbacks ----------------------------------------------------------------------------------------------


class Log(Callback):  # type: ignore[misc]  # Dask has no types
    def __init__(self) -> None:
        super().__init__()
        self.events: list[Any] = []

    def _start(self, dsk: Any) -> None:
        self.events.append("start")

    def _start_state(self, dsk: Any, state: Any) -> None:
        self.events.append("state")

    def _pretask(self, key: Any, dsk: Any, state: Any) -> None:
        self.events.append(("before", key))

    def _posttask(self, key: Any, value: Any, dsk: Any, state: Any, worker: Any) -> None:
        self.events.append(("after", key, value))

    def _finish(self, dsk: Any, state: Any, failed: bool) -> None:
        self.events.append(("finish", failed))


GRAPH = {"x": 1, "y": (inc, "x"), "z": (inc, "y"), "alias": "y", "w": (add, "alias", "z")}


def test_callbacks_hear_of_everything() -> None:
    with Log() as log:
        assert grainwise.dask_get(GRAPH, ["w", "x"]) == (5, 1)
    assert log.events[:2] == ["start", "state"]
    assert log.events[-1] == ("finish", False)
    before = [event[1] for event in log.events if event[0] == "before"]
    after = {event[1]: event[2] for event in log.events if event[0] == "after"}
    assert sorted(before) == ["alias", "w", "y", "z"]
    assert (after["y"], after["z"], after["w"]) == (2, 3, 5)
    for key in before:
        order = [event[0] for event in log.events if event[1] == key]
        assert order == ["before", "after"]


def test_callbacks_hear_of_a_failure() -> None:
    with Log() as log, pytest.raises(KeyError, match="number 2"):
        grainwise.dask_get({**GRAPH, "bad": (fail, "y")}, ["w", "bad"])
    assert log.events[-1] == ("finish", True)


def test_diagnostics() -> None:
    out = io.StringIO()
    lazy = dask.delayed(sum)([dask.delayed(inc)(i) for i in range(50)])
    with ProgressBar(out=out), Profiler() as profiler:
        assert lazy.compute() == 1275
    assert "100% Completed" in out.getvalue()
    assert len(profiler.results) >= 51
