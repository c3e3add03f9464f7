"""The options of tasks: what `@task(...)` takes, checked once."""

from __future__ import annotations

import dataclasses
import datetime
from enum import Enum
from typing import Any

from .resources import Resources, ResourceSpec, read_bytes, read_cpus


@dataclasses.dataclass
class Cache:
    """How the results of a task are kept on disk.

    A result is found again by the content of the inputs, the code of the function and of the functions of its
    own module that it calls, its signature, and what stands here.

    Attributes:
        version: change it for a fresh start.
        serialize: of calls with the same inputs one runs, and the others wait for it.
        ignored_inputs: names of inputs that do not count.
        salt: counts like the version.
        policies: objects with `get_version(salt, params)`; what they return counts like the version.
    """

    version: str | None = None
    serialize: bool = False
    ignored_inputs: tuple[str, ...] | str = ()
    salt: str = ""
    policies: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.ignored_inputs, (list, set, frozenset)):
            self.ignored_inputs = tuple(self.ignored_inputs)
        policies = [] if self.policies is None else self.policies
        self._policies: list[Any] = policies if isinstance(policies, list) else [policies]
        for policy in self._policies:
            if not hasattr(policy, "get_version"):
                raise ValueError(
                    f"Cache(policies=...) expected objects with get_version(), got {policy!r:.80}"
                )

    def get_ignored_inputs(self) -> tuple[str, ...]:
        """Return the names of the inputs that do not count."""
        ignored = self.ignored_inputs
        return (ignored,) if isinstance(ignored, str) else tuple(ignored)

    def get_version(self, params: Any) -> str:
        """Return the version, or one that the policies make of the function (`params.func`)."""
        if self.version is not None:
            return self.version
        return "/".join(str(policy.get_version(self.salt, params)) for policy in self._policies)


@dataclasses.dataclass
class VersionParameters:
    """What a cache policy is given.

    Attributes:
        func: the function.
        container_image: where it is to run.
    """

    func: Any
    container_image: Any = None
    pod_template: Any = None
    pod_template_name: str | None = None


@dataclasses.dataclass
class TaskMetadata:
    """Options of a task, by Flyte's names; `timeout` is a `timedelta` or seconds.

    Raises:
        ValueError: a value is out of range, or options of caching stand without `cache`.
    """

    cache: bool = False
    cache_serialize: bool = False
    cache_version: str = ""
    cache_ignore_input_vars: tuple[str, ...] = ()
    interruptible: bool | None = None
    deprecated: str = ""
    retries: int = 0
    timeout: Any = 0
    pod_template_name: str | None = None
    generates_deck: bool = False
    is_eager: bool = False
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None

    def __post_init__(self) -> None:
        self.timeout = read_timeout(self.timeout)
        self.retries = read_retries(self.retries)
        if self.cache_serialize and not self.cache:
            raise ValueError("cache_serialize=True needs cache=True or Cache(serialize=True)")
        if self.cache_ignore_input_vars and not self.cache:
            raise ValueError("cache_ignore_input_vars needs cache=True or Cache(ignored_inputs=...)")
        if self.interruptible is not None and not isinstance(self.interruptible, bool):
            raise ValueError(f"interruptible expected True, False or None, got {self.interruptible!r:.50}")


class WorkflowFailurePolicy(Enum):
    """What a workflow does when one of its nodes fails: end at once, or run all that does not need it."""

    FAIL_IMMEDIATELY = 0
    FAIL_AFTER_EXECUTABLE_NODES_COMPLETE = 1


@dataclasses.dataclass
class Options:
    """Options of a run of a workflow.

    Attributes:
        max_parallelism: how many tasks and elements of maps run at once, in the whole run; None for as many
            as there are CPUs.
        overwrite_cache: run what is cached, and keep the new results.
    """

    labels: Any = None
    annotations: Any = None
    raw_output_data_config: Any = None
    security_context: Any = None
    max_parallelism: int | None = None
    notifications: Any = None
    disable_notifications: bool | None = None
    overwrite_cache: bool | None = None


def read_timeout(value: Any) -> Any:
    """Return a time limit as a `timedelta`, or 0 for none.

    Raises:
        ValueError: it is neither a `timedelta` nor seconds.
    """
    if isinstance(value, datetime.timedelta):
        limit = value
    elif value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        limit = datetime.timedelta(seconds=value or 0)
    else:
        raise ValueError(f"timeout expected seconds or a timedelta, got {value!r:.50}")
    if limit < datetime.timedelta(0):
        raise ValueError(f"timeout expected at least 0, got {value!r}")
    return limit or 0


def read_retries(value: Any) -> int:
    """Return a number of retries.

    Raises:
        ValueError: it is not a whole number from 0 up.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"retries expected a whole number from 0 up, got {value!r:.50}")
    return value


@dataclasses.dataclass
class TaskOptions:
    """All that is declared about a task, checked.

    Attributes:
        metadata: by Flyte's names.
        cache: how results are kept, None for not at all.
        requests: what it asks for.
        limits: what it may have at most.
        environment: variables that are set while it runs.
        container_image: an image, or the name of one.
        others: what is accepted and has no effect here.
    """

    metadata: TaskMetadata
    cache: Cache | None = None
    requests: Resources = dataclasses.field(default_factory=Resources)
    limits: Resources = dataclasses.field(default_factory=Resources)
    environment: dict[str, str] = dataclasses.field(default_factory=dict)
    container_image: Any = None
    others: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted, most = read_cpus(self.requests.cpu), read_cpus(self.limits.cpu)
        chosen = most if wanted is None else wanted
        self.num_cpus: float = 1.0 if chosen is None else chosen
        self.memory_bytes = read_bytes(self.limits.mem)
        read_bytes(self.requests.mem)
        self.timeout_s = self.metadata.timeout.total_seconds() if self.metadata.timeout else None
        self.variables = dict(self.environment)
        if isinstance(getattr(self.container_image, "env", None), dict):
            self.variables = {**self.container_image.env, **self.variables}

    @property
    def resources(self) -> ResourceSpec:
        """Requests and limits."""
        return ResourceSpec(self.requests, self.limits)

    def overridden(self, overrides: dict[str, Any]) -> TaskOptions:
        """Return the options with what `with_overrides` changes.

        Raises:
            ValueError: a value is out of range.
        """
        changes = {
            name: overrides[name] for name in ("retries", "timeout", "interruptible") if name in overrides
        }
        cache = self.cache
        if "cache" in overrides:
            cache = as_cache(overrides["cache"], overrides.get("cache_version"), False, ())
        if cache is not None and "cache_version" in overrides:
            cache = dataclasses.replace(cache, version=overrides["cache_version"])
        if cache is not None and "cache_serialize" in overrides:
            cache = dataclasses.replace(cache, serialize=bool(overrides["cache_serialize"]))
        metadata = dataclasses.replace(self.metadata, **changes, **_cache_fields(cache))
        requests, limits = self.requests, self.limits
        if overrides.get("resources") is not None:
            if "requests" in overrides or "limits" in overrides:
                raise ValueError("resources can't stand beside requests or limits")
            requests, limits = overrides["resources"].part(0), overrides["resources"].part(1)
        for name in ("requests", "limits"):
            given = overrides.get(name)
            if given is not None and (not isinstance(given, Resources) or given.has_pairs()):
                raise AssertionError(
                    f"with_overrides({name}=...) expected Resources without pairs, got {given!r}"
                )
        return dataclasses.replace(
            self,
            metadata=metadata,
            cache=cache,
            requests=overrides.get("requests") or requests,
            limits=overrides.get("limits") or limits,
            container_image=overrides.get("container_image") or self.container_image,
        )


def _cache_fields(cache: Cache | None) -> dict[str, Any]:
    return {
        "cache": cache is not None,
        "cache_version": (cache.version or "") if cache is not None else "",
        "cache_serialize": cache is not None and cache.serialize,
        "cache_ignore_input_vars": cache.get_ignored_inputs() if cache is not None else (),
    }


def as_cache(cache: Any, version: Any, serialize: Any, ignored: Any) -> Cache | None:
    """Return what `cache=`, `cache_version=`, ... ask for.

    Raises:
        ValueError: they contradict each other.
    """
    if isinstance(cache, Cache):
        if version or serialize or ignored:
            raise ValueError(
                "cache_version, cache_serialize and cache_ignore_input_vars can't stand beside a Cache - say "
                "it in Cache(version=..., serialize=..., ignored_inputs=...)"
            )
        return cache
    if not isinstance(cache, bool):
        raise ValueError(f"cache expected True, False or a Cache, got {type(cache).__name__}")
    if cache:
        return Cache(version=version or None, serialize=bool(serialize), ignored_inputs=ignored or ())
    if serialize:
        raise ValueError("cache_serialize=True needs cache=True or Cache(serialize=True)")
    if ignored:
        raise ValueError("cache_ignore_input_vars needs cache=True or Cache(ignored_inputs=...)")
    return None


ACCEPTED = (
    "accelerator", "annotations", "deck_fields", "disable_deck", "docs", "enable_deck", "execution_mode",
    "labels", "node_dependency_hints", "pickle_untyped", "pod_template", "pod_template_name",
    "secret_requests", "shared_memory", "task_config", "task_resolver",
)  # fmt: skip
"""Arguments of `task` that say what a cluster does; taken, and without effect here."""


def read_options(
    *, cache: Any, retries: Any, interruptible: Any, deprecated: Any, timeout: Any, container_image: Any,
    environment: Any, requests: Any, limits: Any, resources: Any, cache_version: Any, cache_serialize: Any,
    cache_ignore_input_vars: Any, others: dict[str, Any],
) -> TaskOptions:  # fmt: skip
    """Return the options of a task, checked.

    Raises:
        ValueError: an option is unknown, of the wrong type or out of range.
    """
    unknown = sorted(set(others) - set(ACCEPTED))
    if unknown:
        raise ValueError(f"task() got the unknown argument {unknown[0]!r}")
    if resources is not None and (requests is not None or limits is not None):
        raise ValueError("task(resources=...) can't stand beside requests or limits - expected one of both")
    for name, given in (("requests", requests), ("limits", limits), ("resources", resources)):
        if given is not None and not isinstance(given, Resources):
            raise ValueError(f"task({name}=...) expected Resources, got {type(given).__name__}")
    if any(given is not None and given.has_pairs() for given in (requests, limits)):
        raise ValueError("pairs of request and limit are for task(resources=...)")
    if resources is not None:
        requests, limits = resources.part(0), resources.part(1)
    if environment is not None and not (
        isinstance(environment, dict)
        and all(isinstance(key, str) and isinstance(text, str) for key, text in environment.items())
    ):
        raise ValueError(f"task(environment=...) expected names and texts, got {environment!r:.100}")
    chosen = as_cache(cache, cache_version, cache_serialize, cache_ignore_input_vars)
    metadata = TaskMetadata(
        interruptible=interruptible, deprecated=deprecated or "", retries=retries, timeout=timeout,
        pod_template_name=others.get("pod_template_name"), labels=others.get("labels"),
        annotations=others.get("annotations"), **_cache_fields(chosen),
    )  # fmt: skip
    return TaskOptions(
        metadata, chosen, requests or Resources(), limits or Resources(), dict(environment or {}),
        container_image, others,
    )  # fmt: skip
