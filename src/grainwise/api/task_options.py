"""The options of tasks, checked; some of them are those of actors' methods, too."""

from __future__ import annotations

from ..config import check_batching
from ..engine.calls import DYNAMIC, STREAMING, limit_of, streaming
from ..engine.current import Options
from ..engine.generators import is_generator_function
from ..errors import ArgumentError
from .ray_arguments import wrong_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

TASK_OPTIONS = (
    "batching", "max_retries", "name", "num_cpus", "num_returns", "retry_exceptions", "runtime_env"
)  # fmt: skip
LIMIT = "_generator_backpressure_num_objects"


def check_task_options(changes: dict[str, Any], start: Options) -> Options:
    """Return options with some changed, checked.

    Raises:
        ArgumentError: one is unknown.
        TypeError: one is of the wrong type.
        ValueError: one is out of range.
    """
    checks = {
        "num_cpus": _check_num_cpus,
        "num_returns": check_num_returns,
        "max_retries": _check_max_retries,
        "retry_exceptions": check_retry_exceptions,
        "name": _check_name,
        "batching": _check_batching,
        "runtime_env": check_runtime_env,
    }
    values: dict[str, Any] = dict(zip(checks, start.astuple()))
    limit = check_limit(changes.get(LIMIT), values["num_returns"])
    values["needs"] = start.needs
    for name, value in changes.items():
        if name not in checks:
            from .ray_arguments import takes_option
            from .resources import RESOURCE_OPTIONS, changed

            if name in RESOURCE_OPTIONS:
                if value is not None:
                    values["needs"] = changed(values["needs"], name, value)
                continue
            if takes_option(name, value):
                continue
            raise ArgumentError(
                f"Invalid option keyword {name} for remote functions - expected one of "
                f"{', '.join(TASK_OPTIONS)}"
            )
        if value is not None:
            values[name] = checks[name](value)
    values["num_returns"] = with_limit(values["num_returns"], limit)
    return Options(**values)


def _check_num_cpus(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(wrong_type("num_cpus", "float int", value))
    if not 0 <= value < float("inf"):
        raise ValueError(f"The quantity of resource num_cpus cannot be negative or endless, got {value}")
    if 0 < value < 1e-4:
        raise ValueError(f"option num_cpus expected parts of 0.0001 at least, got {value}")
    return float(value)


def check_num_returns(value: Any) -> int:
    """Return the option as a number; see `engine.calls`."""
    if value == "streaming" or value == "dynamic":
        return STREAMING if value == "streaming" else DYNAMIC
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(wrong_type("num_returns", "int str", value))
    if isinstance(value, str) or value < 0:
        raise ValueError(
            f"The keyword 'num_returns' only accepts None, a non-negative integer, \"streaming\" or "
            f'"dynamic", got {value!r:.200}'
        )
    return value


def check_generator(function: Any, num_returns: Any) -> None:
    """Refuse the options of generators for other functions."""
    if num_returns in ("streaming", "dynamic") and not is_generator_function(function):
        raise ValueError(
            f"num_returns={num_returns!r} can only be used with generator functions - expected one with a "
            f"`yield`, got {getattr(function, '__qualname__', type(function).__name__)!r}"
        )


def check_limit(value: Any, before: int) -> int:
    """Return how many values of a generator may wait, 0 for any number; `before` says what held so far."""
    if value is None:
        return limit_of(before)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"option {LIMIT} expected an int, got {type(value).__name__}")
    if value < 1 and value != -1:
        raise ValueError(
            f"{LIMIT}={value} is not allowed - expected at least 1: so many values wait at most, and with 1 "
            f"each is made when the one before it is taken; or -1 for any number"
        )
    return max(0, value)


def with_limit(num_returns: int, limit: int) -> int:
    """Return `num_returns`, where it says that values are streamed, with the limit."""
    return num_returns if num_returns >= 0 or num_returns == DYNAMIC else streaming(limit)


def _check_max_retries(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(wrong_type("max_retries", "int", value))
    if value < -1:
        raise ValueError(
            f"The keyword 'max_retries' only accepts None, 0, -1 or a positive integer, where -1 "
            f"represents infinity, got {value}"
        )
    return value


def check_retry_exceptions(value: Any) -> bool | tuple[type[BaseException], ...]:
    """Return the option as a bool or a tuple of classes."""
    if isinstance(value, bool):
        return value
    if isinstance(value, (list, tuple)) and all(
        isinstance(v, type) and issubclass(v, BaseException) for v in value
    ):
        return tuple(value)
    raise TypeError(
        f"The type of keyword 'retry_exceptions' must be a bool or a list of exception classes, got "
        f"{value!r:.200}"
    )


def check_runtime_env(value: Any) -> str:
    """Return the canonical text of a runtime environment."""
    from ..engine.environments.spec import canonical

    return canonical(value, "option")


def _check_name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(wrong_type("name", "str", value))
    return value


def _check_batching(value: Any) -> int:
    return check_batching("option batching", value)
