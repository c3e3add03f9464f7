"""Exceptions survive pickling, and a task's exception is what the task raised."""

from __future__ import annotations

import abc
import asyncio
import builtins
import copy
import gc
import json
import pickle
import subprocess
import sys
import threading
import traceback
from typing import Any

import cloudpickle
import pytest

from grainwise import errors
from grainwise.errors import GrainwiseError, TaskError, dual, trim_traceback

PROTOCOLS = range(
    3, pickle.HIGHEST_PROTOCOL + 1
)  # below 3, pickle itself turns FileNotFoundError into OSError
TEXT = "Traceback (most recent call last):\n  remote line\nValueError: boom"


def wrap(cause: BaseException | None) -> TaskError:
    return TaskError.wrap(cause, task_name="job", traceback_text=TEXT, pid=77)


def clones(exc: Any) -> list[Any]:
    by_pickle = [pickle.loads(pickle.dumps(exc, protocol)) for protocol in PROTOCOLS]
    by_cloudpickle = pickle.loads(cloudpickle.dumps(exc))
    return [*by_pickle, by_cloudpickle, copy.copy(exc), copy.deepcopy(exc)]


# --- our own classes ------------------------------------------------------------------------------------

OWN = [
    errors.GrainwiseError("plain"),
    errors.TaskError("plain", task_name="t", traceback_text="text", pid=4),
    errors.WorkerCrashedError(task_name="t", pid=4, signal=11, detail="last words"),
    errors.WorkerCrashedError(task_name="t", pid=4, exit_code=3),
    errors.OutOfMemoryError(task_name="t", pid=4, used_bytes=2 << 20, limit_bytes=1 << 20, detail="who"),
    errors.OutOfMemoryError(
        task_name="t", pid=4, machine_used_bytes=9, machine_total_bytes=10, threshold=0.9
    ),
    errors.WorkerStartError(detail="ImportError: no module"),
    errors.RuntimeEnvSetupError("no such package"),
    errors.TaskCancelledError(task_name="t"),
    errors.TaskTimeoutError(task_name="t", timeout_s=2.0),
    errors.GetTimeoutError("no result after 3 s"),
    errors.ObjectStoreFullError(requested_bytes=3 << 30, capacity_bytes=2 << 30, used_bytes=1 << 30),
    errors.OutOfDiskError("disk full"),
    errors.ObjectLostError("gone"),
    errors.SerializationError("cannot pickle it", task_name="t", what="argument 'x'", path="x._lock"),
    errors.EngineClosedError("closed"),
    errors.ActorError(actor_name="A", actor_id="0f", pid=7, detail="why"),
    errors.ActorDiedError("died", actor_name="A"),
    errors.ActorUnavailableError("wait", actor_name="A", pid=7),
    errors.ActorAlreadyExistsError("taken"),
    errors.ActorDeadlockError("cycle", actor_name="A"),
    errors.InfeasibleTaskError("9 CPUs"),
    errors.ArgumentError("no such option"),
    errors.InternalError("our bug"),
]


@pytest.mark.parametrize("exc", OWN, ids=lambda exc: type(exc).__name__)
def test_own_errors_survive_pickling_and_copying(exc: GrainwiseError) -> None:
    for clone in clones(exc):
        assert type(clone) is type(exc)
        assert str(clone) == str(exc)
        assert clone.args == exc.args
        assert vars(clone) == vars(exc)


def test_every_public_class_is_exported_drawn_and_tested() -> None:
    classes = {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, GrainwiseError)
    }
    assert set(classes) | {"trim_traceback"} == set(errors.__all__)
    assert {type(exc).__name__ for exc in OWN} == set(classes)
    for name, cls in classes.items():
        assert cls.__module__ == "grainwise.errors"
        assert errors.__doc__ is not None
        assert f"{name} " in errors.__doc__ or f"{name}\n" in errors.__doc__


@pytest.mark.parametrize(
    ("cls", "builtin"),
    [
        (errors.GetTimeoutError, TimeoutError),
        (errors.SerializationError, TypeError),
        (errors.EngineClosedError, RuntimeError),
        (errors.InfeasibleTaskError, ValueError),
        (errors.ArgumentError, TypeError),
        (errors.ArgumentError, ValueError),
        (errors.ArgumentError, AssertionError),
    ],
)
def test_own_errors_are_also_the_builtin_that_one_would_expect(cls: type, builtin: type) -> None:
    assert issubclass(cls, builtin)


def test_messages_say_what_where_and_what_to_do() -> None:
    crashed = str(errors.WorkerCrashedError(task_name="job", pid=7, signal=11, detail="Fatal Python error\n"))
    assert "task 'job'" in crashed
    assert "signal 11 (SIGSEGV)" in crashed
    assert "worker 7" in crashed
    assert crashed.endswith("\nFatal Python error")
    assert "exit code 0" in str(errors.WorkerCrashedError(task_name="job", exit_code=0))
    assert "job" in str(errors.WorkerCrashedError(task_name="job"))
    assert "(unknown)" in str(errors.WorkerCrashedError(task_name="job", signal=250))
    full = str(errors.ObjectStoreFullError(requested_bytes=3 << 30, capacity_bytes=2 << 30, used_bytes=512))
    assert "3.0 GiB" in full
    assert "512 B of 2.0 GiB" in full
    assert "object_store_memory" in full
    unpicklable = str(
        errors.SerializationError("bad lock", task_name="job", what="argument 'x'", path="x[0]")
    )
    assert unpicklable.startswith("argument 'x' of task 'job' cannot be pickled — bad lock — at x[0]")
    loading = str(errors.SerializationError("bad", what="result", action="unpickled"))
    assert loading == "result cannot be unpickled — bad"


class KeywordOnlyError(GrainwiseError):
    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


def test_subclasses_of_ours_with_another_signature_survive() -> None:
    for clone in clones(KeywordOnlyError(code=3)):
        assert (type(clone), clone.code, str(clone)) == (KeywordOnlyError, 3, "code 3")


def test_import_is_light() -> None:
    script = (
        "import sys, types, __future__, importlib.machinery as m; new = types.ModuleType('new');"
        "load = m.SourceFileLoader('new', sys.argv[1]); before = set(sys.modules); load.exec_module(new);"
        "print(' '.join(set(sys.modules) - before))"
    )
    run = [sys.executable, "-c", script, errors.__file__]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip() == ""


# --- hostile exceptions of users ------------------------------------------------------------------------


class RequiredArgsError(Exception):
    def __init__(self, code: int, where: str) -> None:
        super().__init__(f"code {code} at {where}")
        self.code = code
        self.where = where


class KeywordError(ValueError):
    def __init__(self, *, code: int) -> None:
        self.code = code


class SlotsError(Exception):
    __slots__ = ("__hidden", "code", "unset")

    def __init__(self, code: int) -> None:
        self.code = code
        self.__hidden = code + 1

    def hidden(self) -> int:
        return self.__hidden


class StrError(Exception):
    def __str__(self) -> str:
        return f"custom {self.args[0]}"


class NewError(Exception):
    def __new__(cls, first: int, second: int) -> NewError:
        self = super().__new__(cls, first)
        self.second = second
        return self

    second: int

    def __init__(self, first: int, second: int) -> None:
        pass


class FinalError(Exception):
    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses")


class FussyMeta(type):
    def __new__(mcs, name: str, bases: Any, namespace: Any) -> Any:
        if any(isinstance(base, FussyMeta) for base in bases):
            raise TypeError("no subclasses")
        return super().__new__(mcs, name, bases, namespace)


class MetaError(Exception, metaclass=FussyMeta):
    pass


class AbstractError(Exception, abc.ABC):
    @abc.abstractmethod
    def explain(self) -> str: ...


class ConcreteError(AbstractError):
    def explain(self) -> str:
        return "explained"


class FrozenError(Exception):
    def __init__(self, code: int) -> None:
        object.__setattr__(self, "code", code)

    code: int

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("frozen")

    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            raise AttributeError("no dict for you")
        return super().__getattribute__(name)


class FalsyError(Exception):
    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no comparison")


class OwnReduceError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__("own")
        self.code = code

    def __reduce__(self) -> Any:
        return OwnReduceError, (self.code,)


class ProcessError(Exception):
    """Has fields of the same names as ours, as psutil's do."""

    task_name = "theirs"

    def __init__(self, pid: int) -> None:
        super().__init__(pid)
        self.pid = pid

    @property
    def cause(self) -> str:
        return "their cause"


class PathError(FileNotFoundError):
    def __init__(self, path: str) -> None:
        super().__init__(2, "no such thing", path)
        self.path = path


class ReduceExError(Exception):
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("must not be asked")

    def __copy__(self) -> Any:
        raise RuntimeError("must not be asked")


HOSTILE: list[tuple[Exception, tuple[str, ...]]] = [
    (ValueError("boom", 3), ()),
    (KeyError("missing"), ()),
    (OSError(2, "no such file", "a.txt"), ("errno", "strerror", "filename", "filename2")),
    (PermissionError(13, "denied", "a", None, "b"), ("errno", "strerror", "filename", "filename2")),
    (OSError("only text"), ("errno", "filename")),
    (PathError("x/y"), ("errno", "strerror", "filename", "path")),
    (UnicodeDecodeError("utf-8", b"\xff1", 0, 1, "bad"), ("encoding", "object", "start", "end", "reason")),
    (UnicodeEncodeError("ascii", "é", 0, 1, "bad"), ("encoding", "object", "start", "end", "reason")),
    (ImportError("no", name="m", path="p"), ("msg", "name", "path")),
    (SyntaxError("bad", ("f.py", 3, 4, "x = (", 3, 5)), ("msg", "filename", "lineno", "offset", "text")),
    (NameError("n", name="n"), ("name",)),
    (AttributeError("a", name="a"), ("name",)),
    (json.JSONDecodeError("bad", "{x", 1), ("msg", "doc", "pos", "lineno", "colno")),
    (asyncio.IncompleteReadError(b"ab", 5), ("partial", "expected")),
    (subprocess.CalledProcessError(3, ["a"], b"out", b"err"), ("returncode", "cmd", "output", "stderr")),
    (RequiredArgsError(3, "here"), ("code", "where")),
    (KeywordError(code=3), ("code",)),
    (SlotsError(3), ("code",)),
    (StrError("text"), ()),
    (NewError(1, 2), ("second",)),
    (FinalError("final"), ()),
    (MetaError("meta"), ()),
    (ConcreteError("concrete"), ()),
    (FrozenError(3), ("code",)),
    (FalsyError("falsy"), ()),
    (OwnReduceError(3), ("code",)),
    (errors.WorkerCrashedError(task_name="inner", pid=1, signal=9), ("signal", "task_name", "pid")),
]


@pytest.mark.parametrize(("cause", "fields"), HOSTILE, ids=lambda x: type(x).__name__)
def test_wrapped_error_is_what_the_task_raised(cause: Exception, fields: tuple[str, ...]) -> None:
    error = wrap(cause)
    for each in [error, *clones(error)]:
        assert isinstance(each, TaskError)
        assert isinstance(each, type(cause))
        assert type(each).__name__ == f"TaskError({type(cause).__name__})"
        assert type(each).__module__ == "grainwise.errors"
        assert str(each) == str(cause)
        assert each.args == cause.args
        assert each.traceback_text == TEXT
        assert type(each.cause) is type(cause)
        for field in fields:
            assert getattr(each, field) == getattr(cause, field), field
            assert getattr(each.cause, field) == getattr(cause, field), field
    assert error.cause is cause


def test_labels_arrive() -> None:
    for each in [wrap(ValueError("x")), *clones(wrap(ValueError("x")))]:
        assert (each.task_name, each.pid, each.traceback_text) == ("job", 77, TEXT)


def test_the_class_is_cached_and_can_go() -> None:
    class LocalError(Exception):
        pass

    assert type(wrap(LocalError())) is type(wrap(LocalError()))
    key = id(LocalError)
    assert key in dual._dual_classes
    del LocalError
    gc.collect()
    assert key not in dual._dual_classes


def test_no_code_of_the_class_runs() -> None:
    ran: list[str] = []

    class Meta(type):
        def __init__(cls, *args: Any, **kwargs: Any) -> None:
            ran.append("meta")
            super().__init__(*args, **kwargs)

    class NoisyError(Exception, metaclass=Meta):
        def __new__(cls, *args: Any) -> Any:
            ran.append("new")
            return super().__new__(cls, *args)

        def __init__(self, *args: Any) -> None:
            ran.append("init")

        def __init_subclass__(cls, **kwargs: Any) -> None:
            ran.append("subclass")

    cause = NoisyError("x")
    ran.clear()
    error = wrap(cause)
    pickle.loads(cloudpickle.dumps(error))
    copy.copy(error)
    assert [event for event in ran if event != "meta"] == []  # cloudpickle makes the local class anew


def test_slots_with_private_names_and_unset_ones() -> None:
    for each in clones(wrap(SlotsError(3))):
        assert each.hidden() == 4
        assert not hasattr(each, "unset")


def test_fields_of_the_same_name_as_ours_keep_the_value_of_the_original() -> None:
    error: Any = wrap(ProcessError(4711))
    for each in [error, *clones(error)]:
        assert (each.pid, each.cause, each.task_name) == (4711, "their cause", "theirs")
        assert each.traceback_text == TEXT


def test_an_original_with_its_own_reduce_ex_does_not_take_over() -> None:
    error = wrap(ReduceExError("x"))
    with pytest.raises(RuntimeError, match="must not be asked"):
        pickle.dumps(error)  # the original's own way of pickling is honoured
    for clone in clones(error.portable(_can_pickle)):
        assert isinstance(clone, ReduceExError)
        assert str(clone) == "x"


def test_making_another_of_the_same_type_makes_the_originals_class() -> None:
    error = wrap(OSError("no number"))
    another = type(error)(13, "denied")  # type: ignore[call-arg, arg-type]
    assert type(another) is PermissionError
    assert type(wrap(RequiredArgsError(1, "a")))(2, "b").args == ("code 2 at b",)  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize(
    "cause",
    [
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        asyncio.CancelledError(),
        StopIteration(5),
        StopAsyncIteration(),
        type("MyStop", (StopIteration,), {})(1),
        BaseException("raw"),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_what_must_not_fly_raw_becomes_a_plain_task_error(cause: BaseException) -> None:
    error = wrap(cause)
    assert type(error) is TaskError
    assert error.cause is cause
    assert f"task 'job' raised {type(cause).__name__}" in str(error)
    assert "in worker 77" in str(error)
    for clone in [pickle.loads(cloudpickle.dumps(error)), copy.copy(error), copy.deepcopy(error)]:
        assert type(clone) is TaskError
        assert str(clone) == str(error)
        assert type(clone.cause).__name__ == type(cause).__name__
        assert clone.cause.args == cause.args
        assert (clone.task_name, clone.pid, clone.traceback_text) == ("job", 77, TEXT)
        assert isinstance(clone.__cause__, errors.RemoteTraceback)


def test_c_fields_of_plain_causes_arrive() -> None:
    assert pickle.loads(pickle.dumps(wrap(SystemExit(3)))).cause.code == 3
    assert pickle.loads(pickle.dumps(wrap(StopIteration(5)))).cause.value == 5


def test_class_that_cannot_be_derived_from() -> None:
    class Unrelated(type):
        def mro(cls) -> list[type]:
            found = super().mro()
            if any(base.__name__ == "TaskError" for base in found):
                raise TypeError("no")
            return found

    class SealedError(Exception, metaclass=Unrelated):
        pass

    error = wrap(SealedError("sealed"))
    assert type(error) is TaskError
    assert isinstance(error.cause, SealedError)
    assert "SealedError: sealed" in str(error)


def test_no_cause_only_text() -> None:
    error = wrap(None)
    assert type(error) is TaskError
    assert "ValueError: boom" in str(error)
    for clone in clones(error):
        assert clone.cause is None
        assert str(clone) == str(error)


def test_unprintable() -> None:
    class UnprintableError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

        __repr__ = __str__

    assert str(wrap(UnprintableError())) == "<unprintable UnprintableError>"


def test_nested_task_errors_keep_the_original_and_take_the_outer_label() -> None:
    inner = wrap(RequiredArgsError(3, "here"))
    inner.note = "added by the outer task"  # type: ignore[attr-defined]
    vars(inner)["__notes__"] = ["a note"]
    inner = pickle.loads(pickle.dumps(inner))
    outer: Any = TaskError.wrap(inner, task_name="outer", traceback_text="outer text", pid=5)
    for each in [outer, *clones(outer)]:
        assert type(each).__name__ == "TaskError(RequiredArgsError)"
        assert type(each.cause) is RequiredArgsError
        assert (each.code, each.note) == (3, "added by the outer task")
        assert (each.task_name, each.pid, each.traceback_text) == ("outer", 5, "outer text")
        assert each.__notes__ == ["a note"]
    plain = TaskError.wrap(wrap(SystemExit(2)), task_name="outer", traceback_text="", pid=5)
    assert type(plain) is TaskError
    assert type(plain.cause) is SystemExit


def test_a_task_may_raise_task_error_itself() -> None:
    class MyTaskError(TaskError):
        pass

    assert isinstance(wrap(MyTaskError("mine")), MyTaskError)
    assert str(wrap(MyTaskError("mine"))) == "mine"
    assert "mine" in str(wrap(TaskError("mine")))


def test_notes_are_kept_and_not_shared() -> None:
    cause = ValueError("x")
    vars(cause)["__notes__"] = ["one"]
    error: Any = wrap(cause)
    error.__notes__.append("two")
    assert vars(cause)["__notes__"] == ["one"]
    for clone in clones(error):
        assert clone.__notes__ == ["one", "two"]


# --- groups ---------------------------------------------------------------------------------------------

needs_groups = pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")


@needs_groups
def test_exception_groups() -> None:
    group_class: Any = getattr(builtins, "ExceptionGroup")  # noqa: B009 -- unknown to the checkers' 3.10
    cause = group_class("several", [ValueError("a"), RequiredArgsError(3, "b")])
    for each in [wrap(cause), *clones(wrap(cause))]:
        assert isinstance(each, group_class)
        assert each.message == "several"
        assert [type(e) for e in each.exceptions] == [ValueError, RequiredArgsError]
        assert each.exceptions[1].code == 3
        matched, rest = each.split(ValueError)
        assert str(matched.exceptions[0]) == "a"
        assert len(rest.exceptions) == 1
        assert each.derive([KeyError()]).message == "several"


@needs_groups
def test_groups_with_their_own_derive_and_groups_of_base_exceptions() -> None:
    script = """
import pickle
from grainwise.errors import TaskError
class Mine(ExceptionGroup):
    def __new__(cls, message, excs, code):
        self = super().__new__(cls, message, excs); self.code = code; return self
    def derive(self, excs): return Mine(self.message, excs, self.code)
mine = Mine("m", [ValueError("a"), KeyError("b")], 7)
error = TaskError.wrap(mine, task_name="t", traceback_text="", pid=1)
error = pickle.loads(pickle.dumps(error))
caught = []
try:
    raise error
except* ValueError as some:
    caught.append(some)
except* KeyError as some:
    caught.append(some)
assert [type(c) is Mine and c.code for c in caught] == [7, 7], caught
raw = BaseExceptionGroup("raw", [KeyboardInterrupt(), ValueError()])
error = TaskError.wrap(raw, task_name="t", traceback_text="", pid=1)
error = pickle.loads(pickle.dumps(error))
assert type(error) is TaskError and len(error.cause.exceptions) == 2
"""
    source = errors.__file__.rsplit("grainwise", 1)[0]
    run = [sys.executable, "-c", f"import sys; sys.path.insert(0, {source!r})\n{script}"]
    assert subprocess.run(run, capture_output=True, text=True).stderr == ""


# --- portable -------------------------------------------------------------------------------------------


class ConnectionHeldError(ConnectionError):
    def __init__(self, message: str) -> None:
        super().__init__(message, threading.Lock())
        self.connection = threading.Lock()
        self.host = "example"


class LoadFailsError(Exception):
    def __reduce__(self) -> Any:
        return LoadFailsError._explode, ("x",)

    @staticmethod
    def _explode(text: str) -> Any:
        raise RuntimeError(text)


def _can_pickle(value: object) -> bool:
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:
        return False
    return True


def test_portable_keeps_class_and_fields_that_can_travel() -> None:
    error = wrap(ConnectionHeldError("lost"))
    assert not _can_pickle(error)
    sent = pickle.loads(pickle.dumps(error.portable(_can_pickle)))
    assert isinstance(sent, ConnectionHeldError)
    assert sent.args == ("lost", "<lock that cannot be pickled>")
    assert (sent.host, sent.connection) == ("example", "<lock that cannot be pickled>")
    assert (sent.task_name, sent.pid, sent.traceback_text) == ("job", 77, TEXT)


def test_portable_goes_around_a_reduce_that_fails_on_load() -> None:
    error = wrap(LoadFailsError("text"))
    assert not _can_pickle(error)
    sent = pickle.loads(pickle.dumps(error.portable(_can_pickle)))
    assert isinstance(sent, LoadFailsError)
    assert str(sent) == "text"


def test_portable_without_the_class_is_the_text() -> None:
    class LocalError(Exception):
        pass

    sent = pickle.loads(pickle.dumps(wrap(LocalError()).portable(_can_pickle)))
    assert type(sent) is TaskError
    assert sent.cause is None
    assert "ValueError: boom" in str(sent)


# --- tracebacks -----------------------------------------------------------------------------------------


def test_an_uncaught_error_shows_the_remote_traceback_first() -> None:
    error = pickle.loads(pickle.dumps(wrap(ValueError("boom"))))
    try:
        raise error
    except TaskError:
        shown = traceback.format_exc()
    assert shown.index("remote line") < shown.index("direct cause") < shown.index("test_errors.py")
    assert shown.rstrip().endswith("grainwise.errors.TaskError(ValueError): boom")


def _raise_through(file: str, error: BaseException) -> BaseException:
    """Return `error` raised below a frame that claims to be in `file`."""
    namespace: dict[str, Any] = {"inner": _raiser(error)}
    exec(compile("def outer():\n    inner()\n", file, "exec"), namespace)
    try:
        namespace["outer"]()
    except BaseException as caught:
        return caught
    raise AssertionError


def _raiser(error: BaseException) -> Any:
    def user_function() -> None:
        raise error

    return user_function


def test_our_frames_are_trimmed_in_the_whole_chain() -> None:
    first = _raise_through("/lib/engine/worker.py", KeyError("first"))
    second = ValueError("second")
    second.__cause__ = first
    error = _raise_through("/lib/engine/worker.py", second)
    text = trim_traceback(error, ["/lib/engine"])
    assert text.startswith("Traceback (most recent call last):")
    assert "worker.py" not in text
    assert text.count("in user_function") == 2
    assert "direct cause" in text
    assert text.rstrip().endswith("ValueError: second")
    assert "worker.py" not in trim_traceback(error, ["/lib/engine/worker.py"])
    assert "worker.py" in trim_traceback(error, ["/lib/eng"])
    assert "worker.py" in trim_traceback(error, [])


def test_the_innermost_frame_stays_if_all_would_go() -> None:
    error = _raise_through("/lib/engine/worker.py", ValueError("x"))
    text = trim_traceback(error, ["/lib/engine", __file__])
    assert text.count("  File ") == 1
    assert "in user_function" in text


def test_default_skips_pickle() -> None:
    class Exploding:
        def __reduce__(self) -> Any:
            raise ValueError("from reduce")

    with pytest.raises(ValueError, match="from reduce") as caught:
        pickle._dumps(Exploding())  # type: ignore[attr-defined]
    text = trim_traceback(caught.value)
    assert "pickle.py" not in text
    assert "in __reduce__" in text


@pytest.mark.parametrize("what", ["__str__", "__repr__", "both", "__cause__", "SystemExit"])
def test_hostile_text(what: str) -> None:
    def explode(self: object) -> str:
        raise RuntimeError("no text")

    def leave(self: object) -> str:
        raise SystemExit(1)

    bodies: dict[str, dict[str, Any]] = {
        "__str__": {"__str__": explode},
        "__repr__": {"__repr__": explode},
        "both": {"__str__": explode, "__repr__": explode},
        "__cause__": {"__cause__": property(explode), "__str__": explode},
        "SystemExit": {"__str__": leave},
    }
    error = _raise_through("x.py", type("HostileError", (Exception,), bodies[what])("x"))
    text = trim_traceback(error, [])
    assert "HostileError" in text
    assert "in user_function" in text
    assert "HostileError" in type(wrap(error)).__name__
    str(wrap(error))


@needs_groups
def test_notes_and_groups_in_the_text() -> None:
    group_class: Any = getattr(builtins, "ExceptionGroup")  # noqa: B009 -- unknown to the checkers' 3.10
    member = _raise_through("/lib/engine/worker.py", ValueError("member"))
    group = group_class("group", [member])
    group.add_note("a note")
    text = trim_traceback(_raise_through("/lib/engine/worker.py", group), ["/lib/engine"])
    for part in ("group (1 sub-exception)", "a note", "ValueError: member", "in user_function"):
        assert part in text
    assert "worker.py" not in text


def test_deep_recursion_is_short() -> None:
    def down() -> None:
        down()

    with pytest.raises(RecursionError) as caught:
        down()
    text = trim_traceback(caught.value)
    assert "RecursionError" in text
    assert len(text) < 20_000
