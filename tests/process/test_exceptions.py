"""Exceptions of tasks: they arrive as what they were, with their text, and can be told apart and retried."""

from __future__ import annotations

import asyncio
import builtins
import json
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import GrainwiseError, SerializationError, TaskError

from .exception_classes import (
    Base,
    Derived,
    HoldsALock,
    KeywordOnly,
    NoSuper,
    OwnReduce,
    RaisesInReduce,
    RaisesInStr,
    RaisesOnArrival,
    TwoArguments,
    WithSlots,
)
from .full_pool import LIMIT_S, RunLog, assert_pool_is_full


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


def _raised_by(make: Callable[[], BaseException]) -> Any:
    """Return what `get` raises for a task that raises what `make` makes there."""

    @ray.remote
    def fail() -> None:
        raise make()

    with pytest.raises(GrainwiseError) as info:
        ray.get(fail.remote(), timeout=LIMIT_S)
    return info.value


# --- classes of the user's ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "attributes"),
    [
        (lambda: TwoArguments(404, "not found"), {"code": 404, "text": "not found"}),
        (lambda: KeywordOnly(limit=3), {"limit": 3}),
        (lambda: NoSuper(5), {"code": 5}),
        (lambda: WithSlots(6), {"code": 6}),
        (lambda: OwnReduce(1, 2), {"a": 1, "b": 2}),
        (lambda: HoldsALock("locked"), {"code": 17}),
        (lambda: RaisesInReduce("hard to pickle"), {}),
        (lambda: RaisesOnArrival("hard to unpickle"), {}),
        (lambda: Derived("both"), {}),
    ],
    ids=lambda value: type(value()).__name__ if callable(value) else "",
)
def test_a_users_own_exception_keeps_class_text_and_attributes(
    make: Callable[[], Exception], attributes: dict[str, object], tmp_path: Path
) -> None:
    original, arrived = make(), _raised_by(make)
    assert isinstance(arrived, type(original))
    assert isinstance(arrived, TaskError)
    assert str(arrived) == str(original)
    assert {name: getattr(arrived, name) for name in attributes} == attributes
    assert type(original).__name__ in arrived.traceback_text
    assert "raise make()" in arrived.traceback_text
    assert_pool_is_full(tmp_path)


def test_every_base_class_catches_it() -> None:
    @ray.remote
    def fail() -> None:
        raise Derived("both")

    for kind in (Derived, Base, LookupError, Exception, TaskError):
        with pytest.raises(kind, match="both"):
            ray.get(fail.remote(), timeout=LIMIT_S)


def test_an_exception_that_cannot_show_itself_arrives_all_the_same() -> None:
    arrived = _raised_by(lambda: RaisesInStr("x"))
    assert isinstance(arrived, RaisesInStr)
    assert "RaisesInStr" in str(arrived)


def test_an_exception_class_made_in_the_task_arrives_as_a_relative() -> None:
    @ray.remote
    def fail() -> None:
        class LocalError(KeyError):
            def __init__(self, *, a: int) -> None:
                super().__init__(f"local {a}")

        raise LocalError(a=3)

    with pytest.raises(KeyError, match="local 3") as info:
        ray.get(fail.remote(), timeout=LIMIT_S)
    assert "LocalError" in type(info.value).__name__


# --- classes with fields of C -------------------------------------------------------------------------------


def test_the_fields_that_c_code_keeps_arrive() -> None:
    missing = _raised_by(lambda: FileNotFoundError(2, "No such file", "/no/such/file"))
    assert isinstance(missing, FileNotFoundError)
    assert (missing.errno, missing.filename) == (2, "/no/such/file")
    broken = _raised_by(lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad start"))
    assert (broken.object, broken.start, broken.reason) == (b"\xff", 0, "bad start")
    process = _raised_by(lambda: subprocess.CalledProcessError(3, ["cmd"], output=b"out", stderr=b"err"))
    assert (process.returncode, process.cmd, process.stderr) == (3, ["cmd"], b"err")
    decode = _raised_by(lambda: json.JSONDecodeError("bad", "{", 1))
    assert isinstance(decode, json.JSONDecodeError)
    assert (decode.pos, decode.doc) == (1, "{")
    key = _raised_by(lambda: KeyError("k"))
    assert (key.args, str(key)) == (("k",), "'k'")
    unset = _raised_by(lambda: ImportError("x", name="m"))
    assert unset.name == "m"


@pytest.mark.parametrize(
    "kind", [SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, StopIteration]
)
def test_what_would_end_the_caller_comes_as_a_plain_task_error(
    kind: type[BaseException], tmp_path: Path
) -> None:
    arrived = _raised_by(lambda: kind("17"))
    assert not isinstance(arrived, kind)
    assert kind.__name__ in str(arrived)
    assert "17" in str(arrived)
    assert isinstance(arrived.cause, kind)
    assert_pool_is_full(tmp_path)


def test_recursion_without_end_and_memory_errors_are_ordinary_errors(tmp_path: Path) -> None:
    @ray.remote
    def recurse(n: int) -> int:
        return recurse.__wrapped__(n + 1) + 1

    @ray.remote
    def exhaust() -> bytes:
        return bytes(1 << 62)

    refs = [recurse.remote(0) for _ in range(20)] + [exhaust.remote() for _ in range(20)]
    for ref in refs[:20]:
        with pytest.raises(RecursionError):
            ray.get(ref, timeout=LIMIT_S)
    for ref in refs[20:]:
        with pytest.raises((MemoryError, OverflowError)):
            ray.get(ref, timeout=LIMIT_S)
    assert_pool_is_full(tmp_path)


# --- chains, notes, groups ----------------------------------------------------------------------------------


def _print(error: BaseException) -> str:
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def test_the_chain_of_causes_is_in_the_traceback() -> None:
    @ray.remote
    def fail() -> None:
        try:
            try:
                {}["the first"]
            except KeyError as error:
                raise TwoArguments(1, "the second") from error
        except TwoArguments:
            raise ValueError("the third")  # noqa: B904 - the context is what we look for

    with pytest.raises(ValueError, match="the third") as info:
        ray.get(fail.remote(), timeout=LIMIT_S)
    text = _print(info.value)
    assert text.index("the first") < text.index("the second") < text.index("the third")
    assert "direct cause" in text
    assert "During handling" in text


def test_the_remote_traceback_names_the_users_lines_and_none_of_ours() -> None:
    def deep_inside() -> None:
        raise ValueError("deep")

    @ray.remote
    def fail() -> None:
        deep_inside()

    with pytest.raises(ValueError, match="deep") as info:
        ray.get(fail.remote(), timeout=LIMIT_S)
    text = info.value.traceback_text
    assert "deep_inside" in text
    assert "engine" not in text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes and groups came with Python 3.11")
def test_notes_arrive() -> None:
    def make() -> Exception:
        error = ValueError("x")
        error.add_note("while reading row 17")
        return error

    arrived = _raised_by(make)
    assert arrived.__notes__ == ["while reading row 17"]
    assert "while reading row 17" in _print(arrived)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="notes and groups came with Python 3.11")
def test_groups_arrive_with_their_members() -> None:
    group = builtins.ExceptionGroup
    arrived = _raised_by(lambda: group("several", [ValueError("v"), group("in", [KeyError("k")])]))
    assert isinstance(arrived, group)
    assert [type(each).__name__ for each in arrived.exceptions] == ["ValueError", "ExceptionGroup"]
    matching, _ = arrived.split(KeyError)
    assert matching is not None
    assert "several" in str(arrived)


# --- getting it again ---------------------------------------------------------------------------------------


def test_each_get_raises_a_fresh_copy() -> None:
    @ray.remote
    def fail() -> None:
        raise TwoArguments(1, "again")

    ref = fail.remote()
    caught = []
    for _ in range(3):
        with pytest.raises(TwoArguments) as info:
            ray.get(ref, timeout=LIMIT_S)
        caught.append(info.value)
    assert len({id(error) for error in caught}) == 3
    lengths = [len(list(traceback.walk_tb(error.__traceback__))) for error in caught]
    assert len(set(lengths)) == 1, "the tracebacks of earlier gets piled up"


def test_an_error_can_be_pickled_and_logged_by_the_caller() -> None:
    arrived = _raised_by(lambda: TwoArguments(404, "not found"))
    again = pickle.loads(pickle.dumps(arrived))
    assert isinstance(again, TwoArguments)
    assert (again.code, str(again)) == (404, str(arrived))


def test_an_error_passes_through_nested_tasks_as_itself() -> None:
    @ray.remote
    def inner() -> None:
        raise TwoArguments(1, "innermost")

    @ray.remote
    def middle() -> Any:
        return ray.get(inner.remote())

    @ray.remote
    def catches() -> str:
        texts = []
        ref = inner.remote()
        for _ in range(2):
            try:
                ray.get(ref)
            except TwoArguments as error:
                texts.append(f"{error.code} {error}")
        return str(texts)

    with pytest.raises(TwoArguments, match="1: innermost") as info:
        ray.get(middle.remote(), timeout=LIMIT_S)
    assert info.value.code == 1
    assert not isinstance(info.value.cause, TaskError)
    assert ray.get(catches.remote(), timeout=LIMIT_S) == str(["1 1: innermost"] * 2)


def test_an_exception_as_a_result_is_a_value() -> None:
    @ray.remote
    def give() -> Exception:
        return TwoArguments(1, "a value")

    value = ray.get(ray.remote(lambda: ValueError("a value")).remote(), timeout=LIMIT_S)
    assert (type(value), value.args) == (ValueError, ("a value",))
    # Pickled as the class itself says, which is wrong for this one: an error, and never a hang.
    with pytest.raises(SerializationError, match="TwoArguments"):
        ray.get(give.remote(), timeout=LIMIT_S)


def test_an_exception_may_carry_a_ref() -> None:
    class WithRefError(Exception):
        def __init__(self, ref: object) -> None:
            super().__init__("look inside")
            self.ref = ref

    @ray.remote
    def fail() -> None:
        raise WithRefError(ray.put(bytes(200_000)))

    with pytest.raises(WithRefError) as info:
        ray.get(fail.remote(), timeout=LIMIT_S)
    assert ray.get(info.value.ref, timeout=LIMIT_S) == bytes(200_000)


# --- retries ------------------------------------------------------------------------------------------------


def _flaky(log: RunLog, good_at: int, error: Callable[[], BaseException]) -> Callable[[], int]:
    def flaky() -> int:
        log.note()
        if len(log.runs()) < good_at:
            raise error()
        return len(log.runs())

    return flaky


def test_without_retry_exceptions_an_error_is_final(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    flaky = ray.remote(max_retries=5)(_flaky(log, 2, lambda: ValueError("once")))
    with pytest.raises(ValueError, match="once"):
        ray.get(flaky.remote(), timeout=LIMIT_S)
    assert len(log.runs()) == 1


def test_retry_exceptions_runs_again_until_it_works(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    flaky = ray.remote(max_retries=5, retry_exceptions=True)(_flaky(log, 4, lambda: ValueError("thrice")))
    assert ray.get(flaky.remote(), timeout=LIMIT_S) == 4


def test_retries_are_counted(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    flaky = ray.remote(max_retries=2, retry_exceptions=True)(_flaky(log, 99, lambda: ValueError("always")))
    with pytest.raises(ValueError, match="always"):
        ray.get(flaky.remote(), timeout=LIMIT_S)
    assert len(log.runs()) == 3
    never = RunLog(tmp_path)
    flaky = ray.remote(max_retries=0, retry_exceptions=True)(_flaky(never, 99, lambda: ValueError("always")))
    with pytest.raises(ValueError, match="always"):
        ray.get(flaky.remote(), timeout=LIMIT_S)
    assert len(never.runs()) == 1


@pytest.mark.parametrize(("error", "runs"), [(Derived, 3), (KeyError, 1), (TwoArguments, 3)])
def test_only_the_listed_exceptions_and_their_relatives_are_retried(
    error: type[Exception], runs: int, tmp_path: Path
) -> None:
    log = RunLog(tmp_path)

    def make() -> Exception:
        return TwoArguments(1, "x") if error is TwoArguments else error("x")

    function = _flaky(log, 99, make)
    flaky = ray.remote(max_retries=2, retry_exceptions=[Base, TwoArguments])(function)
    with pytest.raises(error):
        ray.get(flaky.remote(), timeout=LIMIT_S)
    assert len(log.runs()) == runs


def test_a_retried_task_gets_its_arguments_again(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote(max_retries=3, retry_exceptions=True)
    def flaky(items: list[int], ref: bytes, *, name: str) -> tuple[int, int, str]:
        items.append(1)  # its own copy: no run sees what an earlier one has done
        log.note()
        if len(log.runs()) < 3:
            raise ValueError("again")
        return len(items), len(ref), name

    assert ray.get(flaky.remote([0], ray.put(bytes(100_000)), name="n"), timeout=LIMIT_S) == (2, 100_000, "n")


def test_several_results_and_dependants_follow_the_last_run(tmp_path: Path) -> None:
    log = RunLog(tmp_path)
    flaky = _flaky(log, 3, lambda: ValueError("again"))
    pair = ray.remote(num_returns=2, retry_exceptions=True)(lambda: (flaky(), "second"))
    first, second = pair.remote()
    double = ray.remote(lambda x: 2 * x)
    assert ray.get([double.remote(first), second], timeout=LIMIT_S) == [6, "second"]


def test_a_nested_task_is_retried_for_an_exception_of_the_users_own(tmp_path: Path) -> None:
    class OwnError(Exception):
        """Known to nobody else."""

    log = RunLog(tmp_path)
    child = ray.remote(max_retries=3, retry_exceptions=[OwnError])(_flaky(log, 3, lambda: OwnError("again")))

    @ray.remote
    def parent() -> int:
        return ray.get(child.remote())

    assert ray.get(parent.remote(), timeout=LIMIT_S) == 3


def test_one_failure_among_many_is_retried_and_nobody_else(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote(retry_exceptions=[ValueError])
    def task(i: int) -> int:
        if i == 150:
            log.note()
            if len(log.runs()) == 1:
                raise ValueError("once")
        return i

    assert ray.get([task.remote(i) for i in range(300)], timeout=LIMIT_S) == list(range(300))
    assert len(log.runs()) == 2


def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(TypeError, match="retry_exceptions"):
        ray.remote(retry_exceptions="yes")(lambda: 1)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="retry_exceptions"):
        ray.remote(retry_exceptions=[int])(lambda: 1)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="max_retries"):
        ray.remote(max_retries=-2)(lambda: 1)
    with pytest.raises(ValueError, match="num_returns"):
        ray.remote(lambda: 1).options(num_returns=-1)


def test_an_error_that_a_task_has_caught_holds_nothing_of_it() -> None:
    @ray.remote
    def fail() -> None:
        raise ValueError("as planned")

    @ray.remote
    def parent() -> bool:
        import gc
        import weakref

        def catch() -> Any:
            large = {"something that takes much memory"}
            ref = fail.options(max_retries=0).remote()
            try:
                ray.get(ref)
            except ValueError:
                return weakref.ref(large)

        gc.disable()
        try:
            return catch()() is None
        finally:
            gc.enable()

    assert ray.get(parent.remote(), timeout=LIMIT_S)
