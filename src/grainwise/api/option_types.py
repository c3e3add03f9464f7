"""The options of tasks and actors as type checkers see them; never imported when a program runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from typing_extensions import TypedDict


class Resources(TypedDict, total=False):
    """What a task or an actor takes, and where it runs."""

    num_cpus: float | None
    num_gpus: float | None
    resources: dict[str, float] | None
    memory: float | None
    accelerator_type: str | None
    scheduling_strategy: Any
    runtime_env: dict[str, Any] | None


class TaskOptions(Resources, total=False):
    """Options of a function, but for `num_returns`, on which the result depends."""

    max_retries: int | None
    retry_exceptions: bool | Sequence[type[BaseException]] | None
    name: str | None
    batching: Literal["auto", "off"] | int | None


class StreamOptions(TaskOptions, total=False):
    """Options of a function that may be a generator."""

    _generator_backpressure_num_objects: int | None


class ActorOptions(Resources, total=False):
    """Options of a class."""

    name: str | None
    namespace: str | None
    lifetime: Literal["detached", "non_detached"] | None
    get_if_exists: bool | None
    max_restarts: int | None
    max_task_retries: int | None
    max_pending_calls: int | None
    max_concurrency: int | None
    concurrency_groups: dict[str, int] | None
