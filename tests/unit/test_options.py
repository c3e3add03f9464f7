"""`remote`, `.options`, `get`, `wait` and `put` refuse what makes no sense before anything starts."""

from __future__ import annotations

import functools
import inspect
import math
import pickle
from collections.abc import Iterator
from typing import Any

import cloudpickle
import pytest

import grainwise
from grainwise import cancel, get, is_initialized, put, remote, shutdown, wait
from grainwise.engine import current
from grainwise.engine.needs import NOTHING
from grainwise.objects.ref import READY


def double(value: int, offset: int = 0) -> int:
    """Double it."""
    return 2 * value + offset


remote_any: Any = remote
get_any: Any = get
wait_any: Any = wait


@pytest.fixture(autouse=True)
def starts_nothing() -> Iterator[None]:
    assert not is_initialized()
    yield
    was_started = is_initialized()
    shutdown()
    assert not was_started


class FakeEngine:
    """Takes what the words hand over and does nothing."""

    is_closed = False

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def bind(self, function: Any, options: Any, *_: Any) -> Any:
        self.calls.append(("bind", options.astuple()))
        return lambda *args, **kwargs: ("bound", args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name not in ("get", "wait", "put", "cancel"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs)) or [None]


@pytest.fixture
def engine(starts_nothing: None) -> Iterator[FakeEngine]:
    fake = FakeEngine()
    current.install(fake)  # type: ignore[arg-type]
    yield fake
    current.install(None)


def new_ref() -> Any:
    ref: Any = grainwise.ObjectRef.__new__(grainwise.ObjectRef)
    ref._state, ref._value = READY, None
    return ref


# -- options -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value", "kind", "text"),
    [
        (
            "num_cpus",
            -1,
            ValueError,
            "The quantity of resource num_cpus cannot be negative or endless, got -1",
        ),
        ("num_cpus", math.inf, ValueError, "got inf"),
        ("num_cpus", math.nan, ValueError, "got nan"),
        (
            "num_cpus",
            "2",
            TypeError,
            "keyword 'num_cpus' must be (<class 'float'>, <class 'int'>, <class 'NoneType'>), but received",
        ),
        ("num_cpus", True, TypeError, "<class 'bool'>"),
        ("num_cpus", 0.00001, ValueError, "option num_cpus expected parts of 0.0001 at least, got 1e-05"),
        (
            "num_returns",
            -1,
            ValueError,
            "The keyword 'num_returns' only accepts None, a non-negative integer",
        ),
        (
            "num_returns",
            1.0,
            TypeError,
            "keyword 'num_returns' must be (<class 'int'>, <class 'str'>, <class 'NoneType'>), but received",
        ),
        ("num_returns", False, TypeError, "<class 'bool'>"),
        ("num_returns", "dyn", ValueError, "got 'dyn'"),
        (
            "max_retries",
            -2,
            ValueError,
            "The keyword 'max_retries' only accepts None, 0, -1 or a positive integer",
        ),
        (
            "max_retries",
            2.5,
            TypeError,
            "keyword 'max_retries' must be (<class 'int'>, <class 'NoneType'>), but received",
        ),
        (
            "retry_exceptions",
            1,
            TypeError,
            "keyword 'retry_exceptions' must be a bool or a list of exception",
        ),
        ("retry_exceptions", [int], TypeError, "<class 'int'>"),
        ("retry_exceptions", ValueError, TypeError, "a list of exception classes"),
        (
            "name",
            b"f",
            TypeError,
            "keyword 'name' must be (<class 'str'>, <class 'NoneType'>), but received",
        ),
        ("batching", 0, ValueError, "option batching expected at least 1 task per batch, got 0"),
        ("batching", "on", ValueError, 'option batching expected "auto", "off" or a number, got \'on\''),
        ("batching", 1.5, TypeError, 'option batching expected "auto", "off" or an int, got float'),
        ("batching", True, TypeError, 'option batching expected "auto", "off" or an int, got bool'),
        (
            "num_gpu",
            1,
            TypeError,
            "Invalid option keyword num_gpu for remote functions - expected one of batching",
        ),
        ("num_gpus", 1.5, ValueError, "option num_gpus expected a whole number above 1, got 1.5"),
        ("num_gpus", -1, ValueError, "option num_gpus expected at least 0, got -1"),
        ("num_gpus", 0.00001, ValueError, "option num_gpus expected parts of 0.0001 at least"),
        ("memory", "1G", TypeError, "option memory expected a number, got str"),
        ("resources", ["a"], TypeError, "option resources expected a dict of names and amounts, got list"),
        ("resources", {"a": -1}, ValueError, "option resources['a'] expected at least 0, got -1"),
        ("resources", {1: 1}, TypeError, "option resources expected names as keys, got int"),
        ("resources", {"GPU": 1}, ValueError, "Use the 'num_cpus' and 'num_gpus' keyword"),
        ("resources", {"memory": 1}, ValueError, "expected the argument of that name"),
        ("scheduling_strategy", "NEAR", ValueError, "Invalid scheduling_strategy value 'NEAR'"),
        ("scheduling_strategy", 3, TypeError, "option scheduling_strategy expected a str or one of"),
        ("accelerator_type", 3, TypeError, "option accelerator_type expected a str, got int"),
        ("runtime_env", {"conda": "x"}, NotImplementedError, "is not offered"),
        ("max_calls", "1", TypeError, "keyword 'max_calls' must be (<class 'int'>"),
    ],
)
def test_a_wrong_option_is_named(option: str, value: object, kind: type[Exception], text: str) -> None:
    for make in (
        lambda: remote_any(**{option: value}),
        lambda: remote_any(**{option: value})(double),
        lambda: remote_any(double).options(**{option: value}),
    ):
        with pytest.raises(kind) as caught:
            make()
        assert text in str(caught.value)


def test_a_long_repr_in_a_message_is_cut() -> None:
    with pytest.raises(TypeError) as caught:
        remote_any(retry_exceptions=["x" * 10_000])
    assert len(str(caught.value)) < 400


def test_options_are_changed_one_by_one(engine: FakeEngine) -> None:
    base = remote(num_cpus=2, max_retries=-1, retry_exceptions=[ValueError, OSError], name="mine")(double)
    base.remote(1)
    base.options(num_cpus=0).remote(1)
    base.options(num_cpus=0).options(name="other", num_returns=3).remote(1)
    base.options(num_cpus=None).remote(1)  # None is "as it was"
    kinds = (ValueError, OSError)
    assert [call[1] for call in engine.calls] == [
        (2.0, 1, -1, kinds, "mine", None, "", NOTHING),
        (0.0, 1, -1, kinds, "mine", None, "", NOTHING),
        (0.0, 3, -1, kinds, "other", None, "", NOTHING),
        (2.0, 1, -1, kinds, "mine", None, "", NOTHING),
    ]


def test_defaults(engine: FakeEngine) -> None:
    remote(double).remote(1)
    assert engine.calls == [("bind", (1.0, 1, 3, False, "double", None, "", NOTHING))]


# -- what can be decorated -----------------------------------------------------------------------------------


class Plain:
    pass


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: remote_any(3), "expected one function or class, or keyword options, got int"),
        (lambda: remote_any(double, double), "got function, function"),
        (lambda: remote_any(double, num_cpus=1), "got function"),
        (lambda: remote_any(num_cpus=1)(3), "must be applied to either a function or a class, got int"),
        (lambda: remote_any(max_retries=1)(Plain), "Invalid option keyword max_retries for actors"),
        (
            lambda: remote_any(max_restarts=1)(double),
            "Invalid option keyword max_restarts for remote functions",
        ),
        (lambda: remote_any(remote(double)), "got what it has made: <RemoteFunction double>"),
    ],
)
def test_what_is_no_plain_function_is_refused(make: Any, text: str) -> None:
    with pytest.raises(TypeError) as caught:
        make()
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (double, "double"),
        (lambda value: value, "<lambda>"),
        (functools.partial(double, offset=1), "partial"),
        (len, "len"),
        (Plain().__eq__, "object.__eq__"),
        (remote_any, "remote"),
    ],
    ids=["function", "lambda", "partial", "builtin", "method", "our own"],
)
def test_any_callable_can_be_remote(engine: FakeEngine, function: Any, name: str) -> None:
    made: Any = remote(function)
    assert made.remote(4) == ("bound", (4,), {})
    assert engine.calls[0][1][4].endswith(name)


def test_a_remote_function_shows_the_plain_one() -> None:
    made = remote(double)
    assert made.__wrapped__ is double
    assert (made.__name__, made.__doc__) == ("double", "Double it.")
    assert inspect.signature(made.remote) == inspect.signature(double)
    assert repr(made) == "<RemoteFunction double>"


def test_a_direct_call_is_refused() -> None:
    made: Any = remote(double)
    with pytest.raises(TypeError, match=r"use double.remote\(...\) to run it as a task"):
        made(1)


@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_a_remote_function_travels_with_its_options(engine: FakeEngine, dumps: Any) -> None:
    made = remote(num_cpus=2, name="mine")(double)
    again = pickle.loads(dumps(made))
    assert again._exportable.identify() == made._exportable.identify()
    again.remote(3)
    assert engine.calls == [("bind", (2.0, 1, 3, False, "mine", None, "", NOTHING))]


def test_the_bound_call_is_the_engine_s_own(engine: FakeEngine) -> None:
    made: Any = remote(double)
    kept = made.remote
    assert kept(1) == made.remote(1) == kept(1) == ("bound", (1,), {})
    assert len(engine.calls) == 1


# -- get, wait, put, cancel ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refs", "text"),
    [
        (3, "<class 'int'>"),
        ("ref", "<class 'str'>"),
        (b"ref", "<class 'bytes'>"),
        (None, "<class 'NoneType'>"),
        ({new_ref()}, "<class 'set'>"),
        ([new_ref(), 3], "expected ObjectRefs, got int at position 1"),
        ((3,), "expected ObjectRefs, got int at position 0"),
        ({"a": 3}, "<class 'dict'>: "),
    ],
    ids=lambda value: type(value).__name__,
)
def test_get_and_wait_refuse_what_is_no_ref(refs: object, text: str) -> None:
    for word in (get_any, wait_any):
        with pytest.raises(TypeError) as caught:
            word(refs)
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("timeout", "kind"),
    [(-1, ValueError), (math.nan, ValueError), ("1", TypeError), (True, TypeError), ([], TypeError)],
)
def test_a_wrong_timeout_is_named(timeout: object, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=r"get\(timeout="):
        get_any(new_ref(), timeout=timeout)
    with pytest.raises(kind, match=r"wait\(timeout="):
        wait_any([new_ref()], timeout=timeout)


@pytest.mark.parametrize("num_returns", [0, 2, -1])
def test_wait_wants_a_number_that_can_come(num_returns: int) -> None:
    with pytest.raises(ValueError, match=f"num_returns={num_returns}"):
        wait([new_ref()], num_returns=num_returns)


@pytest.mark.parametrize("num_returns", [1.0, True, None, "1"])
def test_wait_wants_an_int(num_returns: object) -> None:
    with pytest.raises(TypeError, match="expected an int"):
        wait_any([new_ref()], num_returns=num_returns)


def test_wait_refuses_one_ref_and_one_ref_twice() -> None:
    ref = new_ref()
    with pytest.raises(
        TypeError, match="expected a list of ObjectRefs or ObjectRefGenerators, got a single ObjectRef"
    ):
        wait_any(ref)
    with pytest.raises(ValueError, match="got one of them twice"):
        wait([ref, ref])


def test_cancel_refuses_what_is_no_ref() -> None:
    cancel_any: Any = cancel
    with pytest.raises(TypeError, match=r"cancel\(\) expected an ObjectRef, got int"):
        cancel_any(3)


def test_the_words_hand_over_what_they_checked(engine: FakeEngine) -> None:
    refs = (new_ref(), new_ref())
    get_any(iter(refs), timeout=0)
    wait(refs, num_returns=2, timeout=1)
    cancel(refs[0], force=True)
    put("x")
    assert engine.calls == [
        ("get", (list(refs), 0.0), {}),
        ("wait", (list(refs), 2, 1.0), {}),
        ("cancel", (refs[0],), {"force": True, "recursive": True}),
        ("put", ("x",), {}),
    ]
