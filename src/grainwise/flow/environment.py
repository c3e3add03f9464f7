"""Reusable environments: tasks that run in replicas which keep what they have loaded.

For now tasks of an environment run on the engine's own workers, each of which keeps the state of the process
between tasks; `place` of a task says which environment it belongs to, and is where replicas attach.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from .declared.image import ImageSpec
from .declared.options import read_options
from .declared.resources import Resources
from .tasks.task import Task, task

P = ParamSpec("P")
R = TypeVar("R")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
MAX_NAME = 63


class ActorEnvironment:
    """Where tasks run that share loaded models, connections and the like.

        env = ActorEnvironment(name="gpu-pool", replica_count=2, ttl_seconds=300)

        @env.task
        def embed(text: str) -> list[float]: ...

    Args:
        name: of the environment: small letters, digits and dashes, at most 63.
        container_image: the name of an image or an `ImageSpec`.
        replica_count: how many replicas there are, or a pair (fewest, most); default 1.
        ttl_seconds: how long idle replicas stay, in seconds from 0 up; None for as long as the default says.
        environment: variables that are set in the replicas.
        requests: what a task asks for, by default.
        limits: what a task may have at most, by default.
        accelerator: kept, without effect.
        secret_requests: kept, without effect.
        pod_template: kept, without effect.
        interruptible: kept, without effect.

    Raises:
        ValueError: a name or number is out of range.
        TypeError: a value is of the wrong type.
    """

    def __init__(
        self,
        name: str,
        container_image: str | ImageSpec | None = None,
        replica_count: int | tuple[int, int] = 1,
        ttl_seconds: int | None = None,
        environment: dict[str, str] | None = None,
        requests: Resources | None = None,
        limits: Resources | None = None,
        accelerator: Any = None,
        secret_requests: Any = None,
        pod_template: Any = None,
        interruptible: bool | None = None,
    ) -> None:
        given: Any = name
        if not isinstance(given, str) or len(given) > MAX_NAME or _NAME.match(given) is None:
            raise ValueError(
                f"ActorEnvironment(name={name!r:.80}) expected small letters, digits and dashes, a letter or "
                f"digit at both ends, at most {MAX_NAME}"
            )
        self.name = name
        self.container_image = container_image
        self.replica_count = replica_count
        self.min_replicas, self.max_replicas = _read_replicas(replica_count)
        self.ttl_seconds = _read_ttl(ttl_seconds)
        self.environment = dict(environment or {})
        self.requests = requests
        self.limits = limits
        self.accelerator = accelerator
        self.secret_requests = secret_requests
        self.pod_template = pod_template
        self.interruptible = interruptible
        read_options(
            cache=False, retries=0, interruptible=interruptible, deprecated="", timeout=0,
            container_image=container_image, environment=environment, requests=requests, limits=limits,
            resources=None, cache_version="", cache_serialize=False, cache_ignore_input_vars=(), others={},
        )  # fmt: skip

    @overload
    def task(self, _task_function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, _task_function: None = None, **options: Any) -> Callable[[Callable[P, R]], Task[P, R]]: ...
    def task(self, _task_function: Any = None, **options: Any) -> Any:
        """Make a task that runs in this environment: `@env.task`, or `@env.task(retries=2)`.

        Takes the options of `task`, but for what the environment says: image, resources and the like.

        Raises:
            ValueError: an option is unknown, or the environment's.
        """
        owned = sorted({"container_image", "accelerator", "pod_template", "task_config"} & set(options))
        if owned:
            raise ValueError(f"task() of an ActorEnvironment got {owned[0]!r}, which the environment says")
        if "resources" not in options:
            options.setdefault("requests", self.requests)
            options.setdefault("limits", self.limits)
        options["environment"] = {**self.environment, **(options.get("environment") or {})}
        options.setdefault("interruptible", self.interruptible)
        return task(_task_function, container_image=self.container_image, _place=self, **options)

    def __reduce__(self) -> tuple[Any, ...]:
        return ActorEnvironment, (
            self.name, self.container_image, self.replica_count, self.ttl_seconds, self.environment,
            self.requests, self.limits, None, None, None, self.interruptible,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"ActorEnvironment(name={self.name!r}, replica_count={self.replica_count!r})"


def _read_replicas(value: Any) -> tuple[int, int]:
    counts = value if isinstance(value, (tuple, list)) else (value, value)
    if len(counts) != 2 or any(isinstance(count, bool) or not isinstance(count, int) for count in counts):
        raise TypeError(
            f"ActorEnvironment(replica_count={value!r:.80}) expected a whole number or a pair of them"
        )
    least, most = counts
    if least < 0 or most < 1 or least > most:
        raise ValueError(f"ActorEnvironment(replica_count={value!r:.80}) expected at least 1, and min <= max")
    return least, most


def _read_ttl(value: Any) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"ActorEnvironment(ttl_seconds={value!r:.80}) expected seconds")
    if not 0 <= value < float("inf"):
        raise ValueError(f"ActorEnvironment(ttl_seconds={value!r}) expected seconds from 0 up")
    return value


def actor_cache(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function once per replica and arguments, and remember what it returned, such as a model.

        @actor_cache
        def load(path: str) -> Model: ...

    Arguments must be hashable. The result is kept as long as the replica lives, and is not copied.
    """
    import threading

    cached = functools.lru_cache(maxsize=None)(function)
    lock = threading.RLock()  # functools.lru_cache runs twice what two threads ask for at once

    @functools.wraps(function)
    def once(*args: P.args, **kwargs: P.kwargs) -> R:
        with lock:
            return cached(*args, **kwargs)  # type: ignore[arg-type]

    return once
