"""`ray._common.test_utils`, `ray._private.test_utils`: what tests of programs of Ray's take from there.

Actors with which tests hold tasks back, waiting for a condition, and programs run beside the test. What looks
into Ray's own processes and services is not here: there are none.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time

from ..api.actors import kill
from ..api.tasks import remote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

POLL_S = 0.1
"""How often a condition is looked at by default; programs say it in milliseconds, as Ray does."""


# -- actors ------------------------------------------------------------------------------------------------


@remote(num_cpus=0)
class SignalActor:
    """Holds back whoever calls `wait` until somebody calls `send`."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._num_waiting = 0

    async def send(self, clear: bool = False) -> None:
        """Let all go that wait; and those that come later, too, unless `clear`."""
        self._event.set()
        if clear:
            self._event.clear()

    async def wait(self, should_wait: bool = True) -> None:
        """Return when somebody has called `send`, or at once."""
        if not should_wait:
            return
        self._num_waiting += 1
        try:
            await self._event.wait()
        finally:
            self._num_waiting -= 1

    async def cur_num_waiters(self) -> int:
        """Return how many wait now."""
        return self._num_waiting


@remote(num_cpus=0)
class Semaphore:
    """Lets so many callers through `acquire` at a time."""

    def __init__(self, value: int = 1) -> None:
        self._semaphore = asyncio.Semaphore(value)

    async def acquire(self) -> bool:
        """Return when there is room."""
        return await self._semaphore.acquire()

    async def release(self) -> None:
        """Make room for one."""
        self._semaphore.release()

    async def locked(self) -> bool:
        """Say whether there is no room."""
        return self._semaphore.locked()


# -- waiting -----------------------------------------------------------------------------------------------


def wait_for_condition(
    condition_predictor: Callable[..., Any],
    timeout: float = 10,
    retry_interval_ms: float = 1000 * POLL_S,
    raise_exceptions: bool = False,
    **kwargs: Any,
) -> None:
    """Return when a condition holds.

    Args:
        condition_predictor: the condition; is called with `kwargs` until it returns something true. What it
            raises counts as false.
        timeout: seconds for that.
        retry_interval_ms: milliseconds between two calls.
        raise_exceptions: what it raises is raised.
        **kwargs: for the condition.

    Raises:
        RuntimeError: it did not hold in time; says what it raised last, if it did.
    """
    end = time.monotonic() + timeout
    raised: Exception | None = None
    while True:
        try:
            if condition_predictor(**kwargs):
                return
            raised = None
        except Exception as error:
            if raise_exceptions:
                raise
            raised = error
        if time.monotonic() > end:
            raise _too_late(timeout, raised) from raised
        time.sleep(retry_interval_ms / 1000)


async def async_wait_for_condition(
    condition_predictor: Callable[..., Any],
    timeout: float = 10,
    retry_interval_ms: float = 1000 * POLL_S,
    **kwargs: Any,
) -> None:
    """Do as `wait_for_condition` in an event loop; the condition may be `async def`.

    Raises:
        RuntimeError: it did not hold in time.
    """
    end = time.monotonic() + timeout
    raised: Exception | None = None
    while True:
        try:
            found = condition_predictor(**kwargs)
            if await found if asyncio.iscoroutine(found) else found:
                return
            raised = None
        except Exception as error:
            raised = error
        if time.monotonic() > end:
            raise _too_late(timeout, raised) from raised
        await asyncio.sleep(retry_interval_ms / 1000)


def wait_for_assertion(
    assertion_predictor: Callable[..., Any],
    timeout: float = 10,
    retry_interval_ms: float = 1000 * POLL_S,
    raise_exceptions: bool = False,
    **kwargs: Any,
) -> None:
    """Return when a function has run without an error.

    Raises:
        RuntimeError: it has not in time.
    """

    def holds() -> bool:
        assertion_predictor(**kwargs)
        return True

    wait_for_condition(holds, timeout, retry_interval_ms, raise_exceptions)


def wait_for_pid_to_exit(pid: int, timeout: float = 20) -> None:
    """Return when there is no process of this number.

    Raises:
        RuntimeError: there still is one after `timeout` seconds.
    """
    wait_for_condition(lambda: not _is_running(pid), timeout=timeout)


def wait_for_num_actors(num_actors: int, state: Any = None, timeout: float = 10) -> None:
    """Return when the session has so many actors, or more, of a state such as "ALIVE".

    Raises:
        RuntimeError: it has less after `timeout` seconds.
    """
    from ..util.state import list_actors

    def are_there() -> bool:
        rows = list_actors(limit=1 << 62)
        return sum(1 for actor in rows if state is None or actor["state"] == state) >= num_actors

    wait_for_condition(are_there, timeout=timeout)


def kill_actor_and_wait_for_failure(actor: Any, timeout: float = 10, retry_interval_ms: float = 100) -> None:
    """Kill an actor and return when its process is gone; it is not restarted.

    Raises:
        RuntimeError: it is still there after `timeout` seconds.
    """
    from ..api.values import get

    pid: int = get(actor.__ray_call__.remote(_pid))
    kill(actor)
    wait_for_condition(lambda: not _is_running(pid), timeout, retry_interval_ms)


def _pid(_: Any) -> int:
    return os.getpid()


def _too_late(timeout: float, raised: Exception | None) -> RuntimeError:
    why = "" if raised is None else f" Last exception: {raised!r:.200}"
    return RuntimeError(f"The condition wasn't met before the timeout expired, {timeout} s.{why}")


def _is_running(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        if os.path.exists("/proc/self"):
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# -- programs ----------------------------------------------------------------------------------------------


def run_string_as_driver(driver_script: str, env: dict[str, str] | None = None, encode: str = "utf-8") -> str:
    """Run a program of its own, with a session of its own, and return what it printed, errors included.

    Args:
        driver_script: the program's text.
        env: its environment; by default this one's.
        encode: how its output is decoded.

    Raises:
        subprocess.CalledProcessError: it ended with an error; `output` is what it printed.
    """
    process = _start(driver_script, env, subprocess.STDOUT)
    printed = process.communicate()[0].decode(encode)
    _check(process, printed)
    return printed


def run_string_as_driver_stdout_stderr(
    driver_script: str, env: dict[str, str] | None = None, encode: str = "utf-8"
) -> tuple[str, str]:
    """Run a program of its own and return what it printed on standard output and on standard error.

    Raises:
        subprocess.CalledProcessError: it ended with an error.
    """
    process = _start(driver_script, env, subprocess.PIPE)
    printed, errors = (text.decode(encode) for text in process.communicate())
    _check(process, printed + errors)
    return printed, errors


def run_string_as_driver_nonblocking(
    driver_script: str, env: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a program of its own and return its process, with pipes for its output."""
    return _start(driver_script, env, subprocess.PIPE)


def _start(program: str, env: dict[str, str] | None, errors: int) -> subprocess.Popen[bytes]:
    """Start a program that comes through a pipe, so that no file has to be taken away again."""
    process = subprocess.Popen(
        [sys.executable, "-m", "grainwise.as_ray", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=env,
    )
    assert process.stdin is not None
    process.stdin.write(program.encode())
    process.stdin.close()
    process.stdin = None  # else communicate() would flush it
    return process


def _check(process: subprocess.Popen[bytes], printed: str) -> None:
    if process.returncode:
        sys.stdout.write(printed)  # where a failing test shows it
        raise subprocess.CalledProcessError(process.returncode, process.args, printed)


# -- comparing ---------------------------------------------------------------------------------------------


def same_elements(elems_a: Any, elems_b: Any) -> bool:
    """Say whether two collections have the same elements, in any order, each as often."""
    rest = list(elems_b)
    for element in elems_a:
        if element not in rest:
            return False
        rest.remove(element)
    return not rest


def is_named_tuple(cls: type) -> bool:
    """Say whether a class was made by `namedtuple`."""
    fields = getattr(cls, "_fields", None)
    return cls.__bases__ == (tuple,) and isinstance(fields, tuple) and all(type(f) is str for f in fields)


def client_test_enabled() -> bool:
    """Say no: tests do not run through Ray Client."""
    return False


def external_redis_test_enabled() -> bool:
    """Say no: there is no Redis."""
    return False


def chdir(d: str) -> Any:
    """Return a context manager that works in another folder."""
    from contextlib import contextmanager

    @contextmanager
    def there() -> Iterator[None]:
        before = os.getcwd()
        os.chdir(d)
        try:
            yield
        finally:
            os.chdir(before)

    return there()


__all__ = [
    "Semaphore",
    "SignalActor",
    "async_wait_for_condition",
    "chdir",
    "client_test_enabled",
    "external_redis_test_enabled",
    "is_named_tuple",
    "kill_actor_and_wait_for_failure",
    "run_string_as_driver",
    "run_string_as_driver_nonblocking",
    "run_string_as_driver_stdout_stderr",
    "same_elements",
    "wait_for_assertion",
    "wait_for_condition",
    "wait_for_num_actors",
    "wait_for_pid_to_exit",
]
