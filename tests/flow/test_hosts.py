"""What a host does for one program: maps, calls, errors, state."""

from __future__ import annotations

import functools
import itertools
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grainwise.errors import SerializationError, TaskError, TaskTimeoutError, WorkerCrashedError
from grainwise.flow.hosts import Definition, Host, HostError, find_or_start, list_hosts, stop
from grainwise.flow.hosts.inside import process
from grainwise.flow.hosts.places import Place
from tests.flow import hosted_functions as functions
from tests.flow.hosting import own_runtime_folder

numpy = pytest.importorskip("numpy")


@pytest.fixture(scope="module", autouse=True)
def runtime_folder() -> Iterator[str]:
    with own_runtime_folder() as folder:
        yield folder


@pytest.fixture(scope="module")
def host(runtime_folder: str) -> Iterator[Host]:
    found = find_or_start(Definition("shared", replicas=(2, 2), ttl_s=60))
    yield found
    found.close()


def values(outcomes: Any) -> list[Any]:
    return [outcome.result() for outcome in outcomes]


# --- values ----------------------------------------------------------------------------------------------


def test_results_come_in_order(host: Host) -> None:
    outcomes = list(host.map(functions.double, range(1000)))
    assert [outcome.value for outcome in outcomes] == [2 * x for x in range(1000)]
    assert [outcome.index for outcome in outcomes] == list(range(1000))
    assert {outcome.attempts for outcome in outcomes} == {1}


@pytest.mark.parametrize(
    "value", [None, True, 3, 1.5, "text", b"bytes", [1, "two"], {"a": (1, 2)}, "\ud800", 10**40, {1, 2}]
)
def test_every_kind_of_value_goes_and_comes(host: Host, value: Any) -> None:
    [outcome] = host.map(lambda x: x, [value])
    assert outcome.result() == value
    assert type(outcome.value) is type(value)


def test_functions_of_the_program_itself_and_what_they_capture(host: Host) -> None:
    factor = 7
    assert values(host.map(lambda x: factor * x, [1, 2])) == [7, 14]
    assert values(host.map(functools.partial(max, 5), [3, 8])) == [5, 8]
    assert host.call(pow, (2, 10)) == 1024
    assert host.call(sorted, ([3, 1, 2],), {"reverse": True}) == [3, 2, 1]


@pytest.mark.parametrize("size", [10, 20_000, 1_000_000])
def test_arrays_arrive_whole_and_read_only(host: Host, size: int) -> None:
    arrays = [numpy.arange(size) + n for n in range(3)]
    assert values(host.map(functions.total, arrays)) == [float(array.sum()) for array in arrays]
    for array, outcome in zip(arrays, host.map(functions.double, arrays)):
        assert (outcome.result() == 2 * array).all()
        assert not outcome.value.flags.writeable


def test_a_large_function_and_a_long_text(host: Host) -> None:
    table = numpy.ones(500_000)
    text = "x" * 3_000_000
    assert values(host.map(lambda n: float(table[:n].sum()), [10, 500_000])) == [10, 500_000]
    assert host.call(len, (text,)) == len(text)
    assert host.call(str.upper, (text,)) == text.upper()


def test_no_elements(host: Host) -> None:
    assert list(host.map(functions.double, [])) == []


def test_an_endless_input_is_read_no_further_than_needed(host: Host) -> None:
    numbers = itertools.count()
    outcomes = host.map(functions.double, numbers)
    assert values(itertools.islice(outcomes, 10_000)) == list(range(0, 20_000, 2))
    outcomes.close()
    assert next(numbers) < 1_000_000


def test_a_generator_that_raises_ends_the_map_with_its_error(host: Host) -> None:
    def numbers() -> Iterator[int]:
        yield 1
        raise KeyError("out of numbers")

    with pytest.raises(KeyError, match="out of numbers"):
        values(host.map(functions.double, numbers()))
    assert host.call(functions.double, (4,)) == 8


# --- errors ----------------------------------------------------------------------------------------------


def test_an_error_keeps_its_type_and_says_where(host: Host) -> None:
    outcomes = list(host.map(functions.refuse_odd, range(4)))
    assert [outcome.error is None for outcome in outcomes] == [True, False, True, False]
    failed = outcomes[3]
    assert isinstance(failed.error, functions.OwnError)
    assert isinstance(failed.error, TaskError)
    assert failed.error.code == 3
    assert str(failed.error) == "3 is odd"
    assert "in refuse_odd" in failed.traceback_text
    assert "parcels" not in failed.traceback_text
    assert failed.index == 3
    assert failed.attempts == 1
    assert failed.pid in list_hosts()[0].replicas
    with pytest.raises(functions.OwnError):
        failed.result()


def test_a_class_of_the_program_itself_is_the_same_class_when_it_comes_back(host: Host) -> None:
    class LocalError(Exception):
        pass

    def fail(_: int) -> None:
        raise LocalError("here")

    [outcome] = host.map(fail, [0])
    assert isinstance(outcome.error, LocalError)


def test_retries_count_attempts(host: Host, tmp_path: Path) -> None:
    [outcome] = host.map(functions.succeed_at_third, [str(tmp_path)], retries=4)
    assert (outcome.result(), outcome.attempts) == (3, 3)
    [outcome] = host.map(functions.refuse_odd, [1], retries=2)
    assert isinstance(outcome.error, functions.OwnError)
    assert outcome.attempts == 3


def test_time_is_bounded_for_each_attempt(host: Host, tmp_path: Path) -> None:
    flag = str(tmp_path / "begun")
    [outcome] = host.map(functions.run_for_ever, [flag], timeout_s=0.2)
    assert isinstance(outcome.error, TaskTimeoutError)
    assert outcome.attempts == 1
    [outcome] = host.map(functions.refuse_odd, [1], timeout_s=30, retries=1)
    assert isinstance(outcome.error, functions.OwnError)
    assert outcome.attempts == 2


def test_what_cannot_be_pickled_is_named(host: Host) -> None:
    lock = threading.Lock()
    first, second, third = host.map(str, [1, {"lock": lock}, 3])
    assert (first.value, third.value) == ("1", "3")
    assert isinstance(second.error, SerializationError)
    assert "item['lock']" in str(second.error)
    [outcome] = host.map(lambda _: {"deep": [threading.Lock()]}, [0])
    assert isinstance(outcome.error, SerializationError)
    assert "result['deep'][0]" in str(outcome.error)
    with pytest.raises(SerializationError, match="the function"):
        host.map(lambda _: lock, [0])


def test_a_replica_that_always_dies_fails_its_element_alone(host: Host) -> None:
    def die_at_two(x: int) -> int:
        if x == 2:
            os.kill(os.getpid(), 9)
        return x

    outcomes = list(host.map(die_at_two, range(5)))
    assert [outcome.value for outcome in outcomes] == [0, 1, None, 3, 4]
    assert isinstance(outcomes[2].error, WorkerCrashedError)
    assert outcomes[2].attempts == 2


def test_bad_arguments_name_themselves(host: Host) -> None:
    with pytest.raises(TypeError, match="expected a function, got int"):
        host.map(3, [1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="retries=-1"):
        host.map(str, [1], retries=-1)
    with pytest.raises(ValueError, match="concurrency=0"):
        host.map(str, [1], concurrency=0)
    with pytest.raises(ValueError, match="timeout_s=0"):
        host.map(str, [1], timeout_s=0)
    with pytest.raises(ValueError, match="replicas"):
        Definition("wrong", replicas=(3, 2))
    with pytest.raises(ValueError, match="ttl_s"):
        Definition("wrong", ttl_s=-1)


# --- several at once -------------------------------------------------------------------------------------


def test_many_threads_share_a_host(host: Host) -> None:
    found: dict[int, list[int]] = {}

    def run(number: int) -> None:
        found[number] = values(host.map(functions.double, range(number, number + 50)))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: [2 * x for x in range(n, n + 50)] for n in range(8)}


def test_concurrency_bounds_what_runs_at_once(host: Host, tmp_path: Path) -> None:
    flag = str(tmp_path / "go")
    outcomes = host.map(functions.wait_for, [flag] * 4, concurrency=1)
    thread = threading.Thread(target=lambda: values(outcomes))
    thread.start()
    second = host.call(functions.double, (1,))  # the other replica is free
    assert second == 2
    assert len(list(tmp_path.iterdir())) <= 1
    Path(flag).touch()
    thread.join()


def test_leaving_a_map_early_cancels_the_rest(host: Host, tmp_path: Path) -> None:
    flag = str(tmp_path / "begun")
    outcomes = host.map(lambda path: functions.run_for_ever(path) if path else 1, ["", flag, flag, flag])
    assert next(outcomes).value == 1
    outcomes.close()
    assert values(host.map(functions.double, range(10))) == list(range(0, 20, 2))  # both replicas are free
    assert wait_until_idle(host)


def wait_until_idle(host: Host) -> bool:
    """Wait until nothing runs there; a test that waits in vain ends at its time limit."""
    while any(status.num_busy for status in list_hosts() if status.fingerprint == host.fingerprint):
        pass
    return True


# --- state -----------------------------------------------------------------------------------------------


def test_a_model_is_loaded_once_in_each_replica(host: Host) -> None:
    loaded = values(host.map(functions.load_and_count, ["model-a"] * 50))
    assert {count for _, count in loaded} == {1}
    again = values(host.map(functions.load_and_count, ["model-a"] * 50))
    assert {count for _, count in again} == {1}


def test_hooks_run_once_in_each_replica(tmp_path: Path) -> None:
    def note(path: Path) -> None:
        with path.open("a") as file:
            file.write("x")

    def enter() -> None:
        note(tmp_path / f"enter-{os.getpid()}")

    def leave() -> None:
        note(tmp_path / f"exit-{os.getpid()}")

    host = find_or_start(Definition("hooks", replicas=(2, 3), on_enter=enter, on_exit=leave))
    pids = set(values(host.map(functions.pid_of, range(20))))
    host.close()
    stop("hooks")
    entered = {int(path.name[6:]): path.read_text() for path in tmp_path.glob("enter-*")}
    left = {int(path.name[5:]): path.read_text() for path in tmp_path.glob("exit-*")}
    assert pids <= entered.keys()
    assert len(entered) >= 2
    assert entered == left
    assert set(entered.values()) == {"x"}


def test_a_hook_that_fails_fails_the_elements_with_its_error() -> None:
    def enter() -> None:
        raise LookupError("no model")

    host = find_or_start(Definition("broken", on_enter=enter))
    outcomes = list(host.map(functions.double, range(2)))
    assert [isinstance(outcome.error, LookupError) for outcome in outcomes] == [True, True]


def test_replicas_have_the_folder_and_variables_of_the_definition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    host = find_or_start(Definition("variables", variables={"MODEL": "small"}, cpus=2.5))
    assert host.call(os.getcwd) == str(tmp_path)
    assert host.call(os.getenv, ("MODEL",)) == "small"
    assert host.call(os.getenv, ("OMP_NUM_THREADS",)) == "3"
    host.close()


@pytest.mark.skipif(sys.platform != "linux", reason="nothing bounds it")
def test_a_task_cannot_allocate_more_than_its_environment_allows() -> None:
    host = find_or_start(Definition("bounded", memory_bytes=100 << 20))
    small, large = host.map(lambda nbytes: len(bytearray(nbytes)), [50 << 20, 200 << 20])
    assert small.value == 50 << 20
    assert isinstance(large.error, MemoryError)
    assert host.call(functions.double, (3,)) == 6


def test_the_log_does_not_grow_without_bound(host: Host) -> None:
    log = Path(Place(host.fingerprint).path, "log")
    host.call(print, ("x" * 6_000_000,))
    host.call(print, ("the end",))
    while log.stat().st_size > process.LOG_BYTES or not log.read_bytes().endswith(b"the end\n"):
        pass  # what replicas print arrives after their results, and the host looks once a second


def test_a_task_that_waits_for_its_own_environment_does_not_starve() -> None:
    definition = Definition("nested", replicas=(1, 1))

    def parent(x: int) -> int:
        inner = find_or_start(definition)
        return sum(values(inner.map(functions.double, range(x)))) + int(inner.call(functions.double, (x,)))

    host = find_or_start(definition)
    assert values(host.map(parent, [3, 4])) == [6 + 6, 12 + 8]
    host.close()


# --- the interpreter -------------------------------------------------------------------------------------


def test_an_interpreter_that_is_not_there_is_named() -> None:
    with pytest.raises(HostError, match="/no/such/python"):
        find_or_start(Definition("nowhere", interpreter="/no/such/python"))


def test_a_host_that_cannot_start_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho this interpreter is broken >&2\n")
    broken.chmod(0o700)
    with pytest.raises(HostError, match="this interpreter is broken"):
        find_or_start(Definition("broken interpreter", interpreter=str(broken)))
