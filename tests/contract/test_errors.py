"""Errors: what a task's error is where it is caught, and what is raised when something ends."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest

from .backend import exceptions, ray

# --- what a task raises -------------------------------------------------------------------------------------


def caught(ref: Any) -> BaseException:
    with pytest.raises(exceptions.RayError) as info:
        ray.get(ref)
    return info.value


def test_an_error_is_a_ray_task_error_and_of_its_own_class() -> None:
    class OwnError(Exception):
        pass

    @ray.remote
    def fail() -> None:
        raise OwnError("the reason")

    error = caught(fail.remote())
    assert isinstance(error, exceptions.RayTaskError)
    assert isinstance(error, OwnError)
    assert isinstance(error, exceptions.RayError)
    assert isinstance(error.cause, OwnError)  # type: ignore[attr-defined]
    assert "the reason" in str(error)
    assert error.as_instanceof_cause() is not None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "kind", [ValueError, KeyError, ZeroDivisionError, AttributeError, OSError, RuntimeError]
)
def test_except_clauses_name_the_builtin_class(kind: type[Exception]) -> None:
    @ray.remote
    def fail() -> None:
        raise kind("x")

    with pytest.raises(kind):
        ray.get(fail.remote())


def test_fields_of_an_error_arrive() -> None:
    class OwnError(Exception):
        def __init__(self, code: int) -> None:
            super().__init__(code)
            self.code = code

    @ray.remote
    def fail() -> None:
        raise OwnError(7)

    error: Any = caught(fail.remote())
    assert error.code == 7
    assert error.cause.code == 7


def test_a_traceback_tells_the_line_of_the_task() -> None:
    @ray.remote
    def fail() -> None:
        raise ValueError("here I am")

    error = caught(fail.remote())
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert "here I am" in text
    assert "in fail" in text
    assert Path(__file__).name in text


def test_get_of_a_list_raises_the_error_of_one() -> None:
    @ray.remote
    def maybe(x: int) -> int:
        if x == 3:
            raise ValueError("three")
        return x

    with pytest.raises(ValueError, match="three"):
        ray.get([maybe.remote(x) for x in range(6)])


def test_an_error_goes_through_the_tasks_that_need_the_value() -> None:
    @ray.remote
    def fail() -> int:
        raise ValueError("the first")

    @ray.remote
    def double(x: int) -> int:
        return 2 * x

    with pytest.raises(ValueError, match="the first"):
        ray.get(double.remote(double.remote(fail.remote())))


def test_an_error_goes_through_get_in_a_task() -> None:
    @ray.remote
    def fail() -> int:
        raise ValueError("the inner")

    @ray.remote
    def outer() -> Any:
        return ray.get(fail.remote())

    with pytest.raises(ValueError, match="the inner"):
        ray.get(outer.remote())


def test_an_error_can_be_caught_in_a_task() -> None:
    @ray.remote
    def fail() -> int:
        raise ValueError

    @ray.remote
    def outer() -> str:
        try:
            ray.get(fail.remote())
        except ValueError as error:
            return type(error).__name__
        return "nothing"

    assert "ValueError" in ray.get(outer.remote())


def test_each_get_raises_anew() -> None:
    @ray.remote
    def fail() -> None:
        raise ValueError("again")

    ref = fail.remote()
    for _ in range(3):
        with pytest.raises(ValueError, match="again"):
            ray.get(ref)


def test_an_error_without_a_pickle_is_an_error_all_the_same() -> None:
    @ray.remote
    def fail() -> None:
        import threading

        class OwnError(Exception):
            def __init__(self) -> None:
                super().__init__("locked")
                self.lock = threading.Lock()

        raise OwnError

    assert isinstance(caught(fail.remote()), exceptions.RayTaskError)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="there are no groups of exceptions")
def test_groups_of_exceptions() -> None:
    @ray.remote
    def fail() -> None:
        group = __builtins__["ExceptionGroup"] if isinstance(__builtins__, dict) else ExceptionGroup  # noqa: F821
        raise group("several", [ValueError("one"), TypeError("two")])

    error: Any = caught(fail.remote())
    assert isinstance(error, exceptions.RayTaskError)
    assert isinstance(error, ExceptionGroup)  # noqa: F821
    assert [type(each).__name__ for each in error.exceptions] == ["ValueError", "TypeError"]


# --- retries ------------------------------------------------------------------------------------------------


def test_a_task_is_retried_after_an_error_if_asked(tmp_path: Path) -> None:
    @ray.remote(max_retries=3, retry_exceptions=True)
    def third_time(folder: str) -> int:
        count = len(os.listdir(folder))
        open(os.path.join(folder, str(count)), "w").close()
        if count < 2:
            raise ValueError(count)
        return count

    assert ray.get(third_time.remote(str(tmp_path))) == 2


def test_only_listed_errors_are_retried(tmp_path: Path) -> None:
    @ray.remote(max_retries=3, retry_exceptions=[KeyError])
    def fail(folder: str) -> None:
        open(os.path.join(folder, str(len(os.listdir(folder)))), "w").close()
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        ray.get(fail.remote(str(tmp_path)))
    assert len(os.listdir(tmp_path)) == 1


def test_errors_are_not_retried_by_default(tmp_path: Path) -> None:
    @ray.remote(max_retries=3)
    def fail(folder: str) -> None:
        open(os.path.join(folder, str(len(os.listdir(folder)))), "w").close()
        raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011
        ray.get(fail.remote(str(tmp_path)))
    assert len(os.listdir(tmp_path)) == 1


def test_a_task_whose_worker_dies_is_retried(tmp_path: Path) -> None:
    @ray.remote(max_retries=1)
    def die_once(path: str) -> str:
        if not os.path.exists(path):
            open(path, "w").close()
            os._exit(1)
        return "second"

    assert ray.get(die_once.remote(str(tmp_path / "mark"))) == "second"


def test_the_death_of_a_worker_is_an_error() -> None:
    @ray.remote(max_retries=0)
    def die() -> None:
        os._exit(1)

    with pytest.raises(exceptions.WorkerCrashedError):
        ray.get(die.remote())


# --- actors -------------------------------------------------------------------------------------------------


def test_a_method_s_error_leaves_its_actor_alive() -> None:
    @ray.remote
    class Counter:
        def __init__(self) -> None:
            self.n = 0

        def fail(self) -> None:
            self.n += 1
            raise ValueError("in a method")

        def count(self) -> int:
            return self.n

    counter = Counter.remote()
    with pytest.raises(ValueError, match="in a method"):
        ray.get(counter.fail.remote())
    assert ray.get(counter.count.remote()) == 1


def test_a_constructor_s_error_is_that_of_each_call() -> None:
    @ray.remote
    class Broken:
        def __init__(self) -> None:
            raise ValueError("can't begin")

        def one(self) -> int:
            return 1

    broken = Broken.remote()
    for _ in range(2):
        with pytest.raises(exceptions.ActorDiedError, match="can't begin") as info:
            ray.get(broken.one.remote())
    assert info.value.actor_init_failed
    assert info.value.actor_id == broken._actor_id.hex()
    assert "The actor died because of an error raised in its creation task" in str(info.value)


def test_the_death_of_an_actor() -> None:
    @ray.remote
    class Mortal:
        def die(self) -> None:
            os._exit(1)

        def one(self) -> int:
            return 1

    mortal = Mortal.remote()
    assert ray.get(mortal.one.remote()) == 1
    for call in (mortal.die, mortal.one):
        with pytest.raises(exceptions.RayActorError) as info:
            ray.get(call.remote())
    assert isinstance(info.value, exceptions.ActorDiedError)
    assert info.value.actor_id == mortal._actor_id.hex()
    assert not info.value.actor_init_failed
    assert not info.value.preempted


# --- the tree -----------------------------------------------------------------------------------------------

TREE = {
    "RayError": [Exception],
    "RayTaskError": ["RayError"],
    "TaskCancelledError": ["RayError"],
    "WorkerCrashedError": ["RayError"],
    "GetTimeoutError": ["RayError", TimeoutError],
    "RayActorError": ["RayError"],
    "ActorDiedError": ["RayActorError"],
    "ActorUnavailableError": ["RayActorError"],
    "ActorUnschedulableError": ["RayError"],
    "ActorAlreadyExistsError": ["RayError", ValueError],
    "PendingCallsLimitExceeded": ["RayError"],
    "AsyncioActorExit": ["RayError"],
    "ObjectStoreFullError": ["RayError"],
    "OutOfDiskError": ["RayError"],
    "OutOfMemoryError": ["RayError"],
    "ObjectLostError": ["RayError"],
    "ObjectFetchTimedOutError": ["ObjectLostError"],
    "ObjectFreedError": ["ObjectLostError"],
    "ObjectReconstructionFailedError": ["ObjectLostError"],
    "OwnerDiedError": ["ObjectLostError"],
    "ReferenceCountingAssertionError": ["ObjectLostError", AssertionError],
    "RaySystemError": ["RayError"],
    "RayChannelError": ["RaySystemError"],
    "RayChannelTimeoutError": ["RayChannelError", TimeoutError],
    "RuntimeEnvSetupError": ["RayError"],
    "TaskUnschedulableError": ["RayError"],
    "TaskPlacementGroupRemoved": ["RayError"],
    "ActorPlacementGroupRemoved": ["RayError"],
    "LocalRayletDiedError": ["RayError"],
    "NodeDiedError": ["RayError"],
    "CrossLanguageError": ["RayError"],
    "UnserializableException": ["RayError"],
    "UserCodeException": ["RayError"],
    "PlasmaObjectNotAvailable": ["RayError"],
    "RpcError": ["RayError"],
}


@pytest.mark.parametrize("name", TREE)
def test_names_and_bases(name: str) -> None:
    kind = getattr(exceptions, name)
    for base in TREE[name]:
        assert issubclass(kind, getattr(exceptions, base) if isinstance(base, str) else base)


def test_errors_can_be_made_as_a_program_would() -> None:
    assert "gone" in str(exceptions.RayActorError(actor_id="ab", error_msg="gone"))
    assert exceptions.RayActorError(actor_id="ab").actor_id == "ab"
    assert exceptions.RayActorError().actor_id is None
    assert str(exceptions.TaskCancelledError(error_message="stopped")) == "stopped"
    made = exceptions.RayTaskError("f", "its traceback", ValueError("x"))
    assert made.function_name == "f"
    assert str(made) == "its traceback"
    assert isinstance(made.as_instanceof_cause(), ValueError)
    assert exceptions.RpcError("text", rpc_code=3).rpc_code == 3
    assert "ab" * 28 in str(exceptions.ObjectLostError("ab" * 28, None, ""))
