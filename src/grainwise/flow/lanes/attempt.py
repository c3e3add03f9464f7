"""One run of a task: what travels to a worker, and what is done around the function there."""

from __future__ import annotations

import os
from contextlib import contextmanager
from time import perf_counter, time
from typing import Any

from ...api.session import engine
from ..graph.tracing import tracing
from ..running.mode import in_task

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..declared.options import TaskOptions
    from ..tasks.task import Task


class Attempt:
    """Runs a task in a worker: with its variables and memory limit, and checks what it returns."""

    def __init__(self, task: Any, variables: dict[str, str], memory_bytes: int | None) -> None:
        self.task = task
        self.variables = variables
        self.memory_bytes = memory_bytes
        self.__name__ = task.name
        self.__qualname__ = task.name

    def __call__(self, **values: Any) -> Any:
        """Run the function; return its result, checked."""
        with surroundings(self.variables, self.memory_bytes):
            return run_function(self.task, values)

    def of_dict(self, values: dict[str, Any]) -> Any:
        """Do the same with the arguments as one item."""
        return self(**values)

    def with_facts(self, **values: Any) -> tuple[Any, dict[str, Any]]:
        """Do the same, and say where and when it ran, and for how long: two results."""
        started_s, began_s = time(), perf_counter()
        result = self(**values)
        return result, {"pid": os.getpid(), "started_s": started_s, "run_s": perf_counter() - began_s}

    def of_dict_with_facts(self, values: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Do that with the arguments as one item."""
        return self.with_facts(**values)

    def __reduce__(self) -> tuple[Any, ...]:
        return Attempt, (self.task, self.variables, self.memory_bytes)


def run_function(task: Task[..., Any], values: dict[str, Any]) -> Any:
    """Run a task's function here, with checked arguments; return its result, checked."""
    with in_task(), tracing(None):
        result = task.execute(**values)
        if task.is_async:
            result = run_coroutine(result)
    return task.interface.check_result(result)


def run_coroutine(coroutine: Any) -> Any:
    """Run a coroutine to its end, in a thread of its own if this one has a loop that runs."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def feasible_cpus(num_cpus: float) -> float:
    """Return the CPUs that a task gets: what it asks for, or all that the engine has if that is less."""
    running: Any = engine()
    most = getattr(getattr(running, "settings", None), "num_cpus", None)
    return num_cpus if most is None else min(num_cpus, most)


def remote_options(task: Task[..., Any], options: TaskOptions) -> dict[str, Any]:
    """Return the options of the remote function that runs a task: CPUs, and the packages of its image."""
    given = {"num_cpus": feasible_cpus(options.num_cpus), "max_retries": 0, "name": task.name}
    image = options.container_image
    if image is not None and not isinstance(image, str):
        from ..replicas.images import runtime_env_of

        given["runtime_env"] = runtime_env_of(image)
    return given


def attempt_of(task: Task[..., Any], options: TaskOptions) -> Attempt:
    """Return what runs a task with these options in a worker."""
    return Attempt(task, options.variables, options.memory_bytes)


@contextmanager
def surroundings(variables: dict[str, str], memory_bytes: int | None) -> Iterator[None]:
    """Set variables and a memory limit, and take them back."""
    if not variables and memory_bytes is None:
        yield
        return
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        with limited_memory(memory_bytes):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def limited_memory(memory_bytes: int | None) -> Iterator[None]:
    """Have allocations fail that go beyond so many bytes more than this process has now (Linux).

    The limit is on private memory (`RLIMIT_DATA`): what is mapped from the store, shared, does not count.

    Raises:
        MemoryError: of the function's own, with the limit in its notes.
    """
    import sys

    if memory_bytes is None or not sys.platform.startswith("linux"):
        yield
        return
    import resource

    with open("/proc/self/statm", encoding="ascii") as file:
        data_bytes = int(file.read().split()[5]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = data_bytes + memory_bytes
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
    try:
        yield
    except MemoryError as error:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
        text = f"the task may allocate {memory_bytes:,} bytes: limits=Resources(mem=...)"
        if str(error) == "":
            raise MemoryError(text) from error
        raise
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
