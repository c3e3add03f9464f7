"""What cannot be pickled or unpickled: the error names the task, the culprit and the way to it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import SerializationError, TaskError

from .full_pool import LIMIT_S, assert_pool_is_full
from .hostile_values import BAD_PARTS, Explodes, Handler, RaisesInGetstate, RaisesInReduce


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


# A lambda travels by value: workers need not import this module, and pytest with it.
_take = ray.remote(name="take")(lambda first=None, *, config=None: "taken")


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", BAD_PARTS.values(), ids=BAD_PARTS.keys())
def test_an_argument_that_cannot_be_pickled_is_named_at_the_call(
    make: Callable[[], Any], tmp_path: Path
) -> None:
    with pytest.raises(SerializationError, match=r"argument 'first' of task 'take' cannot be pickled"):
        _take.remote(make())
    with pytest.raises(SerializationError, match=r"argument 'config' of task 'take' cannot be pickled"):
        _take.remote(1, config=make())
    assert ray.get(_take.remote(1), timeout=LIMIT_S) == "taken"
    assert_pool_is_full(tmp_path)


def test_the_path_leads_to_the_culprit() -> None:
    config = {"name": "x", "handlers": [Handler(), Handler()]}
    with pytest.raises(SerializationError) as info:
        _take.remote(config=config)
    assert "config['handlers'][0]._lock is a _thread.lock" in str(info.value)
    assert info.value.path == "config['handlers'][0]._lock"
    assert (info.value.task_name, info.value.what) == ("take", "argument 'config'")
    assert isinstance(info.value, TypeError)  # what pickle itself raises


@pytest.mark.parametrize("kind", [RaisesInReduce, RaisesInGetstate])
def test_the_text_of_an_error_in_the_users_own_method_arrives(kind: type) -> None:
    with pytest.raises(SerializationError, match="says no 17") as info:
        _take.remote([1, kind()])
    assert kind.__name__ in str(info.value)
    assert info.value.__cause__ is not None


def test_a_value_that_cannot_be_put_is_named() -> None:
    with pytest.raises(SerializationError, match=r"value.*'b'.*lock"):
        ray.put({"a": 1, "b": threading.Lock()})


def test_an_unpicklable_argument_among_many_good_calls_costs_only_its_own() -> None:
    refs = []
    for i in range(300):
        if i % 30 == 7:
            with pytest.raises(SerializationError):
                _take.remote([i, threading.Lock()])
        else:
            refs.append(_take.remote([i]))
    assert ray.get(refs, timeout=LIMIT_S) == ["taken"] * len(refs)


def test_an_object_that_lies_about_its_class_is_no_number() -> None:
    class Sly:
        """As proxies and mocks do."""

        @property
        def __class__(self) -> Any:
            return int

    @ray.remote
    def kind(value: Any) -> str:
        return type(value).__name__

    @ray.remote
    def back() -> Any:
        return Sly()

    for submit in (lambda: kind.remote(Sly()), back.remote):
        try:  # arriving would be right, too
            ray.get(submit(), timeout=LIMIT_S)
        except SerializationError:
            pass
    assert ray.get([kind.remote(i) for i in range(100)], timeout=LIMIT_S) == ["int"] * 100


# --- functions ----------------------------------------------------------------------------------------------


def test_a_function_that_captures_a_lock_is_named_each_time() -> None:
    lock = threading.Lock()

    @ray.remote
    def guarded(x: int) -> int:
        with lock:
            return x

    for _ in range(2):
        with pytest.raises(SerializationError, match=r"guarded.*lock"):
            guarded.remote(1)


def test_a_function_that_captures_a_lock_is_named_each_time_inside_a_task() -> None:
    @ray.remote
    def parent() -> list[str]:
        lock = threading.Lock()

        @ray.remote
        def guarded(x: int) -> int:
            with lock:
                return x

        texts = []
        for i in range(3):
            try:
                guarded.remote(i)
            except SerializationError as error:
                texts.append(str(error))
        return texts

    texts = ray.get(parent.remote(), timeout=LIMIT_S)
    assert len(texts) == 3
    assert all("guarded" in text and "lock" in text for text in texts)


def test_a_child_whose_first_call_fails_can_be_called_again() -> None:
    @ray.remote
    def parent() -> tuple[str, int]:
        @ray.remote
        def child(x: Any) -> int:
            return len(x)

        try:
            child.remote([threading.Lock()])
        except SerializationError as error:
            return str(error), ray.get(child.remote([1, 2]))
        return "no error", 0

    text, length = ray.get(parent.remote(), timeout=LIMIT_S)
    assert "child" in text
    assert length == 2


def test_a_function_that_explodes_on_arrival_fails_every_call_with_the_text() -> None:
    bomb = Explodes("ImportError('no such thing 17')")

    @ray.remote
    def f(x: int) -> object:
        return bomb

    refs = [f.remote(i) for i in range(20)]
    for ref in refs:
        with pytest.raises(SerializationError, match="no such thing 17"):
            ray.get(ref, timeout=LIMIT_S)
    assert ray.get(_take.remote(), timeout=LIMIT_S) == "taken"


# --- results ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BAD_PARTS)
def test_a_result_that_cannot_be_pickled_is_named(name: str, tmp_path: Path) -> None:
    @ray.remote
    def make_result() -> Any:
        return {"good": 1, "bad": [BAD_PARTS[name]()]}

    with pytest.raises(SerializationError, match=r"result of task '.*make_result' cannot be pickled") as info:
        ray.get(make_result.remote(), timeout=LIMIT_S)
    assert isinstance(info.value, TaskError)
    assert "result['bad'][0]" in str(info.value)
    assert_pool_is_full(tmp_path)


def test_one_of_several_results_is_named() -> None:
    @ray.remote(num_returns=2)
    def make_results() -> Any:
        return 1, [threading.Lock()]

    for ref in make_results.remote():
        with pytest.raises(SerializationError, match=r"result\[1\]\[0\] is a _thread.lock"):
            ray.get(ref, timeout=LIMIT_S)


def test_bad_results_leave_their_neighbours_alone() -> None:
    @ray.remote
    def sometimes(i: int) -> Any:
        return threading.Lock() if i % 10 == 3 else i

    refs = [sometimes.remote(i) for i in range(200)]
    for i, ref in enumerate(refs):
        if i % 10 == 3:
            with pytest.raises(SerializationError):
                ray.get(ref, timeout=LIMIT_S)
        else:
            assert ray.get(ref, timeout=LIMIT_S) == i


# --- on arrival ---------------------------------------------------------------------------------------------


def test_an_argument_that_explodes_on_arrival_is_named() -> None:
    bomb = Explodes("RuntimeError('boom 17')")
    for ref in (_take.remote(bomb), _take.remote(ray.put(bomb))):
        with pytest.raises(
            SerializationError, match=r"argument 'first' of task 'take' cannot be unpickled.*boom 17"
        ):
            ray.get(ref, timeout=LIMIT_S)
    with pytest.raises(SerializationError, match=r"argument 'config'.*boom 17"):
        ray.get(_take.remote(config=[Explodes("RuntimeError('boom 17')")]), timeout=LIMIT_S)
    assert ray.get(_take.remote(), timeout=LIMIT_S) == "taken"


@pytest.mark.parametrize(
    "error", ["RuntimeError('boom 17')", "SystemExit('boom 17')", "GeneratorExit('boom 17')"]
)
def test_a_result_that_explodes_on_arrival_is_an_error_of_get(error: str) -> None:
    @ray.remote
    def give() -> Any:
        return {"bomb": Explodes(error)}

    ref = give.remote()
    for _ in range(2):
        with pytest.raises(SerializationError, match="boom 17"):
            ray.get(ref, timeout=LIMIT_S)
    with pytest.raises(SerializationError, match="boom 17"):
        ray.get(ray.put(Explodes(error)))
    assert ray.get(_take.remote(), timeout=LIMIT_S) == "taken"


def test_a_result_that_explodes_in_the_parent_task_is_an_error_there() -> None:
    @ray.remote
    def give() -> Any:
        return Explodes("SystemExit('boom 17')")

    @ray.remote
    def parent() -> str:
        try:
            ray.get(give.remote())
        except SerializationError as error:
            return str(error)
        return "nothing"

    assert "boom 17" in ray.get(parent.remote(), timeout=LIMIT_S)


def test_a_result_whose_class_only_the_worker_knows_explodes_with_the_reason() -> None:
    """A module that exists in the worker and not in the driver."""

    @ray.remote
    def give() -> Any:
        import types

        module = types.ModuleType("only_in_the_worker_17")
        exec("class Thing: pass", module.__dict__)
        sys.modules[module.__name__] = module
        return module.Thing()

    with pytest.raises(SerializationError, match="only_in_the_worker_17"):
        ray.get(give.remote(), timeout=LIMIT_S)


# --- shutting down ------------------------------------------------------------------------------------------


def test_unpicklable_calls_and_shutdown_at_once_never_hang() -> None:
    for _ in range(5):
        ray.shutdown()
        ray.init(num_cpus=1)
        refs = [_take.remote(i) for i in range(3)]
        with pytest.raises(SerializationError):
            _take.remote(threading.Lock())
    assert ray.get(refs, timeout=LIMIT_S) == ["taken"] * 3
