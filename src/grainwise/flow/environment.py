"""Reusable environments: tasks that run in replicas which keep what they have loaded.

`place` of a task says which environment it belongs to. The replicas are those of a background host, which
outlives the program: see `flow.hosts`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from .declared.image import ImageSpec
from .declared.options import read_options
from .declared.resources import Resources, read_bytes, read_cpus
from .replicas.images import variables_of
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

    In a workflow or map on the engine its tasks run in its replicas, processes that keep what they have
    loaded (see `actor_cache`), also from one program to the next: they stay for `ttl_seconds` after their
    last task. Programs share them if they run in the same folder with the same `sys.path` and the same
    definition; what is different gets replicas of its own. A direct call of a task, and inline runs, stay in
    this process.

    Args:
        name: of the environment: small letters, digits and dashes, at most 63.
        container_image: an `ImageSpec`, whose packages and Python the replicas have: built once, with uv. The
            name of an image is taken, without effect.
        replica_count: how many replicas there are, or a pair (fewest, most); default 1. The fewest are
            started ahead.
        ttl_seconds: how long idle replicas stay, in seconds from 0 up; None for 90.
        environment: variables that are set in the replicas.
        requests: of each replica: `cpu` bounds the thread pools of native libraries, one thread by default.
        limits: of each replica: `mem` is what tasks may allocate beyond what it begins with (Linux).
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
        self.variables = {**variables_of(container_image), **self.environment}
        """All variables of the replicas, those of the image included."""
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
        wanted, most = (None if each is None else read_cpus(each.cpu) for each in (requests, limits))
        self.cpus = most if wanted is None else wanted
        self.memory_bytes = None if limits is None else read_bytes(limits.mem)
        self.enter_hook: Callable[[], Any] | None = None
        self.exit_hook: Callable[[], Any] | None = None

    def on_enter(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Have a function called in each replica before its first task: `@env.on_enter`.

        The last one that is given counts. It is part of the definition: another one means other replicas.

        Raises:
            TypeError: it is no function.
        """
        self.enter_hook = _check_hook("on_enter", function)
        return function

    def on_exit(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """Have a function called in each replica before it ends, unless it is killed: `@env.on_exit`.

        Raises:
            TypeError: it is no function.
        """
        self.exit_hook = _check_hook("on_exit", function)
        return function

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
        arguments = (
            self.name, self.container_image, self.replica_count, self.ttl_seconds, self.environment,
            self.requests, self.limits, None, None, None, self.interruptible,
        )  # fmt: skip
        return ActorEnvironment, arguments, {"enter_hook": self.enter_hook, "exit_hook": self.exit_hook}

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


def _check_hook(name: str, function: Any) -> Callable[[], Any]:
    if not callable(function):
        raise TypeError(f"ActorEnvironment.{name}() expected a function, got {type(function).__name__}")
    hook: Callable[[], Any] = function
    return hook
