"""The options of actors and their methods: checked, and put together for the engine."""

from __future__ import annotations

from ..engine.calls import STREAMING, ActorOptions
from ..engine.generators import is_generator_function
from ..engine.needs import NOTHING
from ..engine.signatures import describe
from ..errors import ArgumentError
from . import session
from .ray_arguments import wrong_type
from .task_options import (
    LIMIT,
    check_limit,
    check_num_returns,
    check_retry_exceptions,
    check_runtime_env,
    with_limit,
)  # fmt: skip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..engine.needs import Needs

ACTOR_OPTIONS = (
    "concurrency_groups", "get_if_exists", "lifetime", "max_concurrency", "max_pending_calls", "max_restarts",
    "max_task_retries", "name", "namespace", "num_cpus", "accelerator_type", "memory", "num_gpus",
    "placement_group", "placement_group_bundle_index", "placement_group_capture_child_tasks", "resources",
    "runtime_env", "scheduling_strategy",
)  # fmt: skip
ASYNC_CONCURRENCY = 1000
"""Calls of an actor with `async def` methods that run at once, unless it says otherwise."""
MARK = "__grainwise_method__"
"""Where `method` leaves the options of a method."""
_ASYNC_FLAGS = 0x80 | 0x200  # inspect.CO_COROUTINE | CO_ASYNC_GENERATOR
_OBJECT_NAMES = frozenset(dir(object)) | {"__copy__", "__deepcopy__", "__getattr__", "__getattribute__"}
"""What a handle does itself, whatever the class says."""


def actor_options(cls: Any, class_name: str, given: dict[str, Any]) -> ActorOptions:
    """Return the options of an actor as the engine takes them.

    Raises:
        ArgumentError: a method is of a concurrency group that the actor does not have.
        ValueError: it shall take the actor of a name, and has none.
    """
    if given.get("get_if_exists") and not given.get("name"):
        raise ValueError("The actor name must be specified to use `get_if_exists` - expected a name")
    methods, is_async = _methods_of(cls)
    needs = _needs_of(given)
    num_cpus = given.get("num_cpus")
    if num_cpus is None:  # as Ray has it: nothing is said, or one that has other things has a CPU, too
        num_cpus = 1.0 if any(name != "memory" for name, _ in needs[0]) else 0.0
    groups = given.get("concurrency_groups") or {}
    for name, (_, _, _, group, *_) in methods.items():
        if group and group not in groups:
            raise ArgumentError(
                f"method {class_name}.{name} is of concurrency group {group!r}, which the actor does not "
                f"have - expected one of concurrency_groups={groups!r:.200}"
            )
    concurrency = given.get("max_concurrency") or (ASYNC_CONCURRENCY if is_async else 1)
    return ActorOptions(
        class_name,
        float(num_cpus),
        given.get("name") or "",
        given.get("namespace") or session.namespace(),
        given.get("lifetime") == "detached",
        bool(given.get("get_if_exists")),
        given.get("max_restarts") or 0,
        concurrency,
        tuple(groups.items()),
        is_async,
        (class_name, given.get("max_task_retries") or 0, methods, given.get("max_pending_calls") or -1),
        given.get("runtime_env") or "",
        needs,
    )


def _needs_of(given: dict[str, Any]) -> Needs:
    """Return what an actor takes beside CPUs."""
    from .resources import RESOURCE_OPTIONS, changed

    needs = NOTHING
    for name in RESOURCE_OPTIONS:
        if given.get(name) is not None:
            needs = changed(needs, name, given[name])
    return needs


def constructor_signature(cls: Any) -> str | None:
    """Return what the constructor of a class takes, see `engine.signatures`; None for anything."""
    init = cls.__init__
    if init is object.__init__:
        return "" if cls.__new__ is object.__new__ else None
    return describe(init, skips_first=True)


def _methods_of(cls: Any) -> tuple[dict[str, tuple[Any, ...]], bool]:
    """Return the methods of a class with their options, and whether one of them is `async def`."""
    methods: dict[str, tuple[Any, ...]] = {}
    is_async = False
    for name in dir(cls):
        if name in _OBJECT_NAMES:
            continue
        found = getattr(cls, name, None)
        if not callable(found) or isinstance(found, type):
            continue
        function: Any = found
        marked: dict[str, Any] = {}
        while function is not None:
            marked = marked or getattr(function, MARK, {})
            flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
            is_async = is_async or bool(flags & _ASYNC_FLAGS)
            function = getattr(function, "__wrapped__", None)
        is_generator = is_generator_function(found)
        num_returns = marked.get("num_returns")
        if num_returns is None:
            num_returns = STREAMING if is_generator else 1
        methods[name] = (
            with_limit(num_returns, marked.get(LIMIT) or 0),
            marked.get("max_task_retries"),
            marked.get("retry_exceptions") or False,
            marked.get("concurrency_group") or "",
            _method_signature(cls, name, found),
            is_generator,
        )
    return methods, is_async


def _method_signature(cls: Any, name: str, found: Any) -> str | None:
    if type(found).__name__ == "method":  # of the class
        return describe(found.__func__, skips_first=True)
    for kind in cls.__mro__:
        plain = vars(kind).get(name)
        if plain is not None:
            return describe(found, skips_first=not isinstance(plain, staticmethod))
    return None


# -- checks ------------------------------------------------------------------------------------------------


def check_actor_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an actor, checked.

    Raises:
        ArgumentError: one is unknown.
        TypeError: one is of the wrong type.
        ValueError: one is out of range.
    """
    checks: dict[str, Any] = {
        "num_cpus": _check_num_cpus,
        "name": _check_text,
        "namespace": _check_text,
        "lifetime": _check_lifetime,
        "get_if_exists": _check_bool,
        "max_restarts": _check_count,
        "max_task_retries": _check_count,
        "max_concurrency": _check_natural,
        "max_pending_calls": _check_count,
        "concurrency_groups": _check_groups,
        "runtime_env": lambda _, value: check_runtime_env(value),
    }
    checked = _check("actor", options, checks)
    _needs_of(options)
    return checked


def check_method_options(options: dict[str, Any], *, is_generator: bool = True) -> dict[str, Any]:
    """Return the options of a method, checked; those of generators only where it is one.

    Raises:
        ArgumentError: one is unknown.
        NotImplementedError: one is Ray's and not offered.
        TypeError: one is of the wrong type.
        ValueError: one is out of range.
    """
    num_returns = options.get("num_returns")
    if not is_generator and num_returns in ("streaming", "dynamic"):
        raise ValueError(
            f"num_returns={num_returns!r} can only be used with generator functions - expected a method with "
            f"a `yield`"
        )
    checks: dict[str, Any] = {
        LIMIT: lambda _, value: check_limit(value, 1),
        "num_returns": lambda _, value: check_num_returns(value),
        "max_task_retries": _check_count,
        "retry_exceptions": lambda _, value: check_retry_exceptions(value),
        "concurrency_group": _check_text,
        "name": _check_text,
    }
    return _check("method", options, checks)


def _check(what: str, options: dict[str, Any], checks: dict[str, Any]) -> dict[str, Any]:
    from .ray_arguments import takes_method_option, takes_option
    from .resources import RESOURCE_OPTIONS

    takes: Callable[[str, Any], bool] = takes_option if what == "actor" else takes_method_option
    checked = {}
    for name, value in options.items():
        if name not in checks:
            if what == "actor" and name in RESOURCE_OPTIONS:
                checked[name] = value
                continue
            if not (what == "actor" and name == "max_calls") and takes(name, value):
                continue
            raise ArgumentError(
                f"Invalid option keyword {name} for {what}s - expected one of {', '.join(sorted(checks))}"
            )
        checked[name] = None if value is None else checks[name](name, value)
    return checked


def check_whole(name: str, value: Any, *, may_be_endless: bool) -> int:
    """Return a count.

    Args:
        name: of the option.
        value: what was given.
        may_be_endless: -1 stands for no limit.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is negative, and not -1 where that is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(wrong_type(name, "int", value))
    if value < (-1 if may_be_endless else 0):
        expected = (
            "None, 0, -1 or a positive integer, where -1 represents infinity"
            if may_be_endless
            else ("None, 0 or a positive integer")
        )
        raise ValueError(f"The keyword '{name}' only accepts {expected}, got {value}")
    return value


def _check_num_cpus(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(wrong_type(name, "float int", value))
    if not 0 <= value < float("inf"):
        raise ValueError(f"The quantity of resource {name} cannot be negative or endless, got {value}")
    if 0 < value < 1e-4:
        raise ValueError(f"option {name} expected parts of 0.0001 at least, got {value}")
    return float(value)


def _check_count(name: str, value: Any) -> int:
    number = check_whole(name, value, may_be_endless=True)
    return number


def _check_natural(name: str, value: Any) -> int:
    return check_whole(name, value, may_be_endless=False)


def _check_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(wrong_type(name, "str", value))
    if name == "name" and not value:
        raise ValueError("Actor name cannot be an empty string - leave it out for none")
    if name == "namespace":
        session.check_namespace(value)
    return value


def _check_bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(wrong_type(name, "bool", value))
    return value


def _check_lifetime(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(wrong_type(name, "str", value))
    if value not in ("detached", "non_detached"):
        raise ValueError(
            f"actor `{name}` argument must be one of 'detached', 'non_detached' and None, got {value!r:.200}"
        )
    return str(value)


def _check_groups(name: str, value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise TypeError(
            f"The type of keyword '{name}' must be a dict of names and numbers, got {value!r:.200}"
        )
    for key, number in value.items():
        if check_whole(f"{name}[{key!r}]", number, may_be_endless=False) < 1:
            raise ValueError(f"concurrency group {key!r} expected room for at least one call, got {number}")
    return dict(value)
