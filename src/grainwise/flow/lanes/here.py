"""A call of a task in the caller's own process that needs more than its function, such as the cache."""

from __future__ import annotations

from typing import Any

from .attempt import run_function, surroundings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..declared.options import TaskOptions
    from ..tasks.task import Task


def call_with_options(task: Task[..., Any], values: dict[str, Any]) -> Any:
    """Run a task here with checked arguments: from the cache where it can, with its variables."""
    options = task.options
    if options.cache is None:
        return _call(task, options, values)
    from ..kept.keys import result_key
    from ..kept.store import cache_store

    key = result_key(task, options, values)
    store = cache_store()
    with store.one_at_a_time(key, is_wanted=options.cache.serialize):
        found, result = store.get(key)
        if found:
            return task.interface.check_result(result)
        result = _call(task, options, values)
        store.put(key, result, task.name)
    return result


def _call(task: Task[..., Any], options: TaskOptions, values: dict[str, Any]) -> Any:
    if task.is_async and options.cache is None:
        return _await_checked(task, options, values)
    with surroundings(options.variables, None):
        return run_function(task, values)


async def _await_checked(task: Task[..., Any], options: TaskOptions, values: dict[str, Any]) -> Any:
    with surroundings(options.variables, None):
        return task.interface.check_result(await task.execute(**values))
