"""Refs: as arguments, inside containers, several of one call, in `wait`, in closures, after their session."""

from __future__ import annotations

import copy
import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.errors import EngineClosedError, GetTimeoutError, ObjectLostError, TaskError

from .full_pool import LIMIT_S, RunLog

BLOB = bytes(range(256)) * 1024
"""A value that goes into shared memory."""


@pytest.fixture(autouse=True)
def _two_workers() -> Iterator[None]:
    ray.init(num_cpus=2)
    yield
    ray.shutdown()


class Gate:
    """A task that returns what it was given once the test opens the gate."""

    def __init__(self, folder: Path, name: str = "gate") -> None:
        self.path = path = str(folder / name)
        os.mkfifo(path)

        def hold(value: Any) -> Any:
            with open(path, "rb") as gate:  # waits for the test to open the other end
                gate.read()
            return value

        self.remote = ray.remote(hold).remote

    def open(self) -> None:
        with open(self.path, "wb"):
            pass


# Lambdas travel by value: workers need not import this module, and pytest with it.
_double = ray.remote(lambda x: x * 2)
_add_one = ray.remote(lambda x: x + 1)


# --- as arguments -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [7, None, "text", [1, {"a": 2}], BLOB, {"blob": BLOB}], ids=type)
def test_a_ref_at_top_level_arrives_as_its_value(value: object) -> None:
    @ray.remote
    def echo(first: object = None, second: object = None, *, third: object = None) -> tuple[object, ...]:
        return first, second, third

    ref = ray.put(value)
    assert ray.get(echo.remote(ref, 1, third=ref), timeout=LIMIT_S) == (value, 1, value)
    of_a_task = echo.remote(ref, ref)
    assert ray.get(echo.remote(third=of_a_task), timeout=LIMIT_S) == (None, None, (value, value, None))


def test_a_ref_in_a_container_stays_a_ref() -> None:
    @ray.remote
    def look(inside: dict[str, list[Any]]) -> tuple[list[bool], list[Any]]:
        refs = inside["refs"]
        return [isinstance(ref, ray.ObjectRef) for ref in refs], ray.get(refs)

    refs = [ray.put(1), ray.put(BLOB), _double.remote(4)]
    assert ray.get(look.remote({"refs": refs}), timeout=LIMIT_S) == ([True] * 3, [1, BLOB, 8])


def test_a_task_begins_only_when_the_refs_among_its_arguments_are_there(tmp_path: Path) -> None:
    gate, log = Gate(tmp_path), RunLog(tmp_path)

    @ray.remote
    def second(x: int) -> int:
        log.note()
        return x + 1

    ref = second.remote(gate.remote(1))
    assert ray.wait([ref], timeout=0) == ([], [ref])
    assert ray.get(_double.remote(1), timeout=LIMIT_S) == 2  # others run meanwhile
    assert log.runs() == []
    gate.open()
    assert ray.get(ref, timeout=LIMIT_S) == 2
    assert len(log.runs()) == 1


def test_a_long_chain_of_dependent_tasks() -> None:
    ref = _double.remote(1)
    for _ in range(3000):
        ref = _add_one.remote(ref)
    assert ray.get(ref, timeout=LIMIT_S) == 3002


def test_a_failure_reaches_the_end_of_a_long_chain_without_running_it(tmp_path: Path) -> None:
    log = RunLog(tmp_path)

    @ray.remote
    def fail() -> int:
        raise ValueError("the origin")

    @ray.remote
    def never(x: int) -> int:
        log.note()
        return x

    refs = [fail.remote()]
    for _ in range(3000):
        refs.append(never.remote(refs[-1]))
    with pytest.raises(ValueError, match="the origin"):
        ray.get(refs[-1], timeout=LIMIT_S)
    ready, rest = ray.wait(refs, num_returns=len(refs), timeout=LIMIT_S)
    assert (len(ready), rest) == (3001, [])
    assert log.runs() == []


def test_one_ref_given_to_many_tasks_and_many_refs_to_one() -> None:
    @ray.remote
    def total(*parts: int, **named: int) -> int:
        return sum(parts) + sum(named.values())

    ref = _double.remote(3)
    assert ray.get([_double.remote(ref) for _ in range(200)], timeout=LIMIT_S) == [12] * 200
    refs = [_double.remote(i) for i in range(300)]
    assert ray.get(total.remote(*refs, last=ref), timeout=LIMIT_S) == 300 * 299 + 6


def test_a_ref_that_only_the_task_holds_keeps_its_value() -> None:
    @ray.remote
    def read(inside: list[Any]) -> int:
        return len(ray.get(inside[0]))

    assert ray.get(read.remote([ray.put(BLOB)]), timeout=LIMIT_S) == len(BLOB)
    assert ray.get(_double.remote(ray.put([1])), timeout=LIMIT_S) == [1, 1]
    assert ray.get(read.remote([_double.remote(BLOB)]), timeout=LIMIT_S) == 2 * len(BLOB)


def test_a_ref_in_a_closure_can_be_read_in_the_task() -> None:
    ref = ray.put(BLOB)
    pending = _double.remote(21)

    @ray.remote
    def read() -> tuple[int, int]:
        return len(ray.get(ref)), ray.get(pending)

    assert ray.get(read.remote(), timeout=LIMIT_S) == (len(BLOB), 42)


def test_a_ref_inside_the_value_of_a_ref() -> None:
    inner = ray.put(BLOB)
    outer = ray.put({"inner": inner})
    del inner
    assert ray.get(ray.get(outer)["inner"]) == BLOB

    @ray.remote
    def read(value: dict[str, Any]) -> bytes:
        return ray.get(value["inner"])

    assert ray.get(read.remote(outer), timeout=LIMIT_S) == BLOB


def test_put_refuses_a_ref() -> None:
    with pytest.raises(TypeError, match="ObjectRef"):
        ray.put(ray.put(1))


# --- several results ----------------------------------------------------------------------------------------


def test_a_call_with_n_results_gives_n_refs() -> None:
    @ray.remote(num_returns=3)
    def split(x: int) -> tuple[int, bytes, list[int]]:
        return x, BLOB, [x]

    number, blob, items = split.remote(5)
    assert ray.get(items, timeout=LIMIT_S) == [5]
    assert ray.get([number, blob]) == [5, BLOB]
    assert ray.get(_double.remote(number), timeout=LIMIT_S) == 10


def test_a_call_with_no_result_gives_nothing_and_runs(tmp_path: Path) -> None:
    fifo = str(tmp_path / "ran")
    os.mkfifo(fifo)

    @ray.remote(num_returns=0)
    def note(text: str) -> str:
        Path(fifo).write_text(text)
        return "dropped"

    assert note.remote("it ran") is None
    assert Path(fifo).read_text() == "it ran"


def test_a_call_with_one_result_may_return_any_container() -> None:
    @ray.remote(num_returns=1)
    def pair() -> tuple[int, int]:
        return 1, 2

    assert ray.get(pair.remote(), timeout=LIMIT_S) == (1, 2)


def test_options_change_the_number_of_results_of_one_call() -> None:
    @ray.remote
    def pair() -> tuple[int, int]:
        return 1, 2

    first, second = pair.options(num_returns=2).remote()
    assert ray.get([second, first], timeout=LIMIT_S) == [2, 1]
    assert ray.get(pair.remote(), timeout=LIMIT_S) == (1, 2)


@pytest.mark.parametrize("value", [5, None, [1], [1, 2, 3], (), {"a": 1}], ids=repr)
def test_the_wrong_number_of_results_fails_every_ref_and_tells_both_numbers(value: object) -> None:
    @ray.remote(num_returns=2)
    def wrong() -> object:
        return value

    refs = wrong.remote()
    for ref in refs:
        with pytest.raises(ValueError, match=r"expected 2|2 \(its num_returns\)") as info:
            ray.get(ref, timeout=LIMIT_S)
        assert "wrong" in str(info.value)
        assert isinstance(info.value, TaskError)


def test_an_error_is_the_value_of_each_of_several_results() -> None:
    @ray.remote(num_returns=2)
    def fail() -> None:
        raise KeyError("gone")

    for ref in fail.remote():
        with pytest.raises(KeyError, match="gone"):
            ray.get(ref, timeout=LIMIT_S)


def test_an_error_of_a_generator_with_several_results_is_its_own() -> None:
    @ray.remote(num_returns=2)
    def fail() -> Iterator[int]:
        yield from [1 + None, 2]  # type: ignore[operator]

    for ref in fail.remote():
        with pytest.raises(TypeError, match="unsupported operand"):
            ray.get(ref, timeout=LIMIT_S)


def test_a_ref_inside_bytes_is_found_by_tasks_for_as_long_as_the_session() -> None:
    @ray.remote
    def write(number: int) -> bytes:
        return BLOB + bytes([number])

    @ray.remote
    def open_bytes(letter: bytes) -> int:
        return int(ray.get(pickle.loads(letter))[-1])

    @ray.remote
    def read(value: bytes) -> int:
        return value[-1]

    @ray.remote
    def pass_on(letter: bytes) -> tuple[int, list[Any]]:
        ref = pickle.loads(letter)
        return ray.get(read.remote(ref)), [ref]

    letters = [pickle.dumps(write.remote(number)) for number in range(20)]
    for _ in range(2):  # what a task drops after its use is not gone
        assert ray.get([open_bytes.remote(letter) for letter in letters], timeout=LIMIT_S) == [*range(20)]
    number, [ref] = ray.get(pass_on.remote(letters[3]), timeout=LIMIT_S)
    assert number == 3
    assert ray.get([ref, pickle.loads(letters[4])], timeout=LIMIT_S) == [BLOB + b"\3", BLOB + b"\4"]


def test_a_ref_that_a_task_pickles_for_itself_is_found_while_its_worker_lives() -> None:
    @ray.remote
    class Writer:
        def write(self) -> list[bytes]:
            return [pickle.dumps(ray.put(BLOB)), pickle.dumps(answer.remote())]

    @ray.remote
    def answer() -> int:
        return 42

    @ray.remote
    def open_bytes(letter: bytes) -> Any:
        return ray.get(pickle.loads(letter))

    writer = Writer.remote()
    letters = ray.get(writer.write.remote(), timeout=LIMIT_S)
    assert ray.get([open_bytes.remote(letter) for letter in letters], timeout=LIMIT_S) == [BLOB, 42]


def test_a_ref_inside_bytes_whose_value_is_gone_says_so() -> None:
    @ray.remote
    def open_bytes(letter: bytes) -> Any:
        return ray.get(pickle.loads(letter))

    letter = pickle.dumps(ray.put(BLOB))
    ray.shutdown()
    ray.init(num_cpus=2)
    with pytest.raises(ObjectLostError, match="is gone"):
        ray.get(open_bytes.remote(letter), timeout=LIMIT_S)
    with pytest.raises(ObjectLostError, match="is gone"):
        pickle.loads(letter)


def test_one_of_several_results_outlives_the_others() -> None:
    @ray.remote(num_returns=2)
    def split() -> tuple[bytes, bytes]:
        return BLOB, BLOB[::-1]

    first, second = split.remote()
    del first
    assert ray.get(second, timeout=LIMIT_S) == BLOB[::-1]


# --- get and wait -------------------------------------------------------------------------------------------


def test_get_keeps_the_order_of_its_list_and_takes_duplicates() -> None:
    refs = [_double.remote(i) for i in range(50)]
    mixed = [refs[7], ray.put("x"), refs[7], refs[0]]
    assert ray.get(mixed, timeout=LIMIT_S) == [14, "x", 14, 0]
    assert ray.get([]) == []
    assert ray.get(tuple(refs[:2])) == [0, 2]


def test_get_raises_the_first_error_in_the_order_of_its_list() -> None:
    @ray.remote
    def fail(text: str) -> None:
        raise RuntimeError(text)

    refs = [_double.remote(1), fail.remote("one"), fail.remote("two")]
    ray.wait(refs, num_returns=3, timeout=LIMIT_S)
    with pytest.raises(RuntimeError, match="one"):
        ray.get(refs)
    with pytest.raises(RuntimeError, match="two"):
        ray.get(refs[::-1])
    assert ray.get(refs[0]) == 2


def test_get_gives_up_after_its_timeout_and_the_task_goes_on(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    ref = gate.remote("late")
    with pytest.raises(GetTimeoutError):
        ray.get(ref, timeout=0.05)
    with pytest.raises(TimeoutError):
        ray.get([ref], timeout=0)
    gate.open()
    assert ray.get(ref, timeout=LIMIT_S) == "late"


def test_get_of_a_resolved_ref_needs_no_time() -> None:
    assert ray.get(ray.put([1]), timeout=0) == [1]


def test_wait_returns_what_is_ready_first_and_never_more_than_asked_for(tmp_path: Path) -> None:
    slow, fast = Gate(tmp_path, "slow"), [_double.remote(i) for i in range(5)]
    held = slow.remote("slow")
    ray.get(fast, timeout=LIMIT_S)
    refs = [held, *fast]
    assert ray.wait(refs, timeout=LIMIT_S) == ([fast[0]], [held, *fast[1:]])
    assert ray.wait(refs, num_returns=3, timeout=LIMIT_S) == (fast[:3], [held, *fast[3:]])
    assert ray.wait(refs, num_returns=6, timeout=0.05) == (fast, [held])
    slow.open()
    assert ray.wait(refs, num_returns=6, timeout=LIMIT_S) == (refs, [])


def test_wait_wakes_at_the_first_of_many(tmp_path: Path) -> None:
    first, second = Gate(tmp_path, "first"), Gate(tmp_path, "second")
    a, b = first.remote("a"), second.remote("b")
    second.open()
    assert ray.wait([a, b], timeout=LIMIT_S) == ([b], [a])
    first.open()
    assert ray.get([a, b], timeout=LIMIT_S) == ["a", "b"]


def test_an_error_counts_as_ready_in_wait() -> None:
    @ray.remote
    def fail() -> None:
        raise ValueError("no")

    ref = fail.remote()
    assert ray.wait([ref], timeout=LIMIT_S) == ([ref], [])


def test_the_classic_loop_of_wait_takes_each_result_once() -> None:
    pending = [_double.remote(i) for i in range(300)]
    seen = []
    while pending:
        done, pending = ray.wait(pending, timeout=LIMIT_S)
        assert len(done) == 1
        seen.append(ray.get(done[0]))
    assert sorted(seen) == [2 * i for i in range(300)]


def test_wait_refuses_what_makes_no_sense() -> None:
    ref = ray.put(1)
    with pytest.raises(ValueError, match="twice"):
        ray.wait([ref, ref])
    with pytest.raises(ValueError, match="num_returns"):
        ray.wait([ref], num_returns=2)
    with pytest.raises(ValueError, match="num_returns"):
        ray.wait([ref], num_returns=0)
    assert ray.wait([]) == ([], [])
    with pytest.raises(TypeError, match="list"):
        ray.wait(ref)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="position 1"):
        ray.wait([ref, 5])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="int"):
        ray.get(5)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="timeout"):
        ray.wait([ref], timeout=-1)


def test_wait_inside_a_task_means_the_same() -> None:
    @ray.remote
    def parent(refs: list[Any]) -> tuple[int, int, int, list[int]]:
        own = [_double.remote(i) for i in range(4)]
        both = own + refs
        first, rest = ray.wait(both, num_returns=2)
        ready, none = ray.wait(both, num_returns=len(both))
        return len(first), len(rest), len(none), sorted(ray.get(ready))

    given = [ray.put(100), _double.remote(100)]
    assert ray.get(parent.remote(given), timeout=LIMIT_S) == (2, 4, 0, [0, 2, 4, 6, 100, 200])


# --- threads and copies -------------------------------------------------------------------------------------


def test_sixteen_threads_submit_two_hundred_tasks_each() -> None:
    answers: dict[int, list[int]] = {}
    start = threading.Barrier(16)

    def run(number: int) -> None:
        start.wait()
        refs = [_add_one.remote(1000 * number + i) for i in range(200)]
        answers[number] = ray.get(refs, timeout=LIMIT_S)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: [1000 * n + i + 1 for i in range(200)] for n in range(16)}


def test_sixteen_threads_with_packed_arguments_refs_and_options() -> None:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            for i in range(20):
                first = _double.options(num_returns=2).remote([number + i])
                ref = ray.put((number, i))
                ready, _ = ray.wait([_double.remote(ref), *first], num_returns=3, timeout=LIMIT_S)
                assert ray.get(ready) == [(number, i) * 2, number + i, number + i]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_copy_of_a_ref_is_the_ref() -> None:
    ref = ray.put(BLOB)
    assert copy.copy(ref) is ref
    assert copy.deepcopy([ref])[0] is ref


def test_an_identity_belongs_to_one_value() -> None:
    refs = [ray.put(i) for i in range(100)]
    assert len({ref.hex() for ref in refs}) == 100
    assert refs[3].hex() == refs[3].hex()
    assert bytes.fromhex(refs[3].hex()) == refs[3].binary()


# --- after the session --------------------------------------------------------------------------------------


def test_a_stored_value_of_an_ended_session_is_gone_with_a_clear_error() -> None:
    stored, result = ray.put(BLOB), _double.remote(BLOB)
    ray.wait([result], timeout=LIMIT_S)
    ray.shutdown()
    ray.init(num_cpus=2)
    for ref in (stored, result):
        with pytest.raises(EngineClosedError):
            ray.get(ref)


@pytest.mark.parametrize("form", ["top level", "nested"])
def test_a_ref_of_an_ended_session_as_argument_harms_nobody(form: str) -> None:
    @ray.remote
    def read(arg: Any) -> int:
        return len(ray.get(arg[0]) if form == "nested" else arg)

    stored, pending = ray.put(BLOB), _double.remote(BLOB)
    stored.hex(), pending.hex()  # they have identities, which the next session must not give again
    ray.shutdown()
    ray.init(num_cpus=2)
    for ref in (stored, pending):
        with pytest.raises(EngineClosedError):
            ray.get(read.remote([ref] if form == "nested" else ref), timeout=LIMIT_S)
    news = [ray.put([i]) for i in range(50)]
    refs = [read.remote([ref] if form == "nested" else ref) for ref in news]
    assert ray.get(refs, timeout=LIMIT_S) == [1] * 50
