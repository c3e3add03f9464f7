"""Settings of a session: one frozen object; every field has a unit, a default and a GRAINWISE_* variable.

| field | `init` argument | variable | default |
|---|---|---|---|
| `num_cpus` | `num_cpus` | `GRAINWISE_NUM_CPUS` | CPUs that this process may use (affinity, cgroup quota) |
| `object_store_memory_bytes` | `object_store_memory` | `GRAINWISE_OBJECT_STORE_MEMORY` | 30 % of the memory |
| `spill_directory` | `spill_dir` | `GRAINWISE_SPILL_DIR` | the temp folder; "off" turns spilling off |
| `batching` | `batching` | `GRAINWISE_BATCHING` | "auto" |
| `cache_directory` | - | `GRAINWISE_CACHE_DIR` | the user's cache folder, `~/.cache/grainwise` |
| `environment_ttl_s` | - | `GRAINWISE_ENVIRONMENT_TTL_S` | 300 |
| `take_back` | - | `GRAINWISE_TAKE_BACK` | "barriers" where the kernel has them, else "locks" |
| `threads_per_worker` | - | `GRAINWISE_THREADS_PER_WORKER` | 1 |
| `report` | `report` | `GRAINWISE_REPORT` | false |
| `log_to_driver` | `log_to_driver` | `GRAINWISE_LOG_TO_DRIVER` | true |
| `tag_output` | `tag_output` | `GRAINWISE_TAG_OUTPUT` | true |
| `gpu_ids` | `num_gpus` | `GRAINWISE_NUM_GPUS` | those of NVIDIA that the program may see |
| `resources` | `resources` | `GRAINWISE_RESOURCES` (JSON) | none |
| `memory_bytes` | `_memory` | `GRAINWISE_MEMORY` | the memory, less the object store |
| `memory_usage_threshold` | - | `GRAINWISE_MEMORY_USAGE_THRESHOLD` | 0.95 of the memory |
| `memory_monitor_refresh_s` | - | `GRAINWISE_MEMORY_MONITOR_REFRESH_S` | 0.25; 0 for no monitor |
| `task_oom_retries` | - | `GRAINWISE_TASK_OOM_RETRIES` | -1: no limit |
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ADDRESS = "127.0.0.1"
"""Nothing of ours can be reached from elsewhere."""
STORE_SHARE = 0.3
MIN_STORE_BYTES = 1 << 20
FLAGS = {"1": True, "true": True, "0": False, "false": False}


class Settings:
    """What a session runs with; frozen. Use `resolve`.

    Attributes:
        num_cpus: tasks of one CPU that run at once, > 0.
        object_store_memory_bytes: what large objects may fill in shared memory before they spill.
        spill_directory: folder for what does not fit, None to raise `ObjectStoreFullError` instead.
        batching: tasks per batch, 0 for as many as is good; a task's own option goes first.
        cache_directory: folder for what is kept from one program to the next: environments.
        environment_ttl_s: so long the processes of a runtime environment that nobody uses stay, in seconds.
        take_back: how driver and workers agree on who runs what: "barriers" (locks where there are none) or
            "locks".
        threads_per_worker: limit for the thread pools of native libraries (BLAS, OpenMP) in each worker.
        report: print `grainwise.report()` on standard error when the session ends.
        log_to_driver: what workers print, log and warn of reaches the program.
        tag_output: each line of it begins with the task's name and the worker's pid.
        gpu_ids: the GPUs that tasks and actors may have, as CUDA_VISIBLE_DEVICES names them.
        resources: custom resources, by name.
        memory_bytes: what tasks and actors may reserve with `memory=`.
        memory_usage_threshold: from this share of the machine's memory in use on, tasks are killed.
        memory_monitor_refresh_s: how often it is looked at, 0 for never.
        task_oom_retries: runs of a task beyond the first after it was killed for that, -1 for no limit.
    """

    __slots__ = (
        "batching", "cache_directory", "environment_ttl_s", "gpu_ids", "log_to_driver", "memory_bytes",
        "memory_monitor_refresh_s", "memory_usage_threshold", "num_cpus", "object_store_memory_bytes",
        "report", "resources", "spill_directory", "tag_output", "take_back", "task_oom_retries",
        "threads_per_worker",
    )  # fmt: skip

    batching: int
    cache_directory: str
    environment_ttl_s: float
    gpu_ids: tuple[str, ...]
    log_to_driver: bool
    memory_bytes: int
    memory_monitor_refresh_s: float
    memory_usage_threshold: float
    resources: dict[str, float]
    task_oom_retries: int
    num_cpus: float
    object_store_memory_bytes: int
    report: bool
    spill_directory: str | None
    tag_output: bool
    take_back: str
    threads_per_worker: int

    def __init__(self, **fields: Any) -> None:
        for name in self.__slots__:
            object.__setattr__(self, name, fields[name])

    def totals(self) -> dict[str, float]:
        """Return all that tasks and actors may take, by Ray's names."""
        found = {
            "CPU": float(self.num_cpus),
            "memory": float(self.memory_bytes),
            "object_store_memory": float(self.object_store_memory_bytes),
            f"node:{ADDRESS}": 1.0,
            "node:__internal_head__": 1.0,
            **self.resources,
        }
        if self.gpu_ids:
            found["GPU"] = float(len(self.gpu_ids))
        return found

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"Settings are frozen - expected init({name}=...) before the engine starts")

    def __repr__(self) -> str:
        return f"Settings({', '.join(f'{name}={getattr(self, name)!r}' for name in self.__slots__)})"


def resolve(
    num_cpus: float | None = None,
    object_store_memory: int | None = None,
    spill_dir: str | None = None,
    batching: str | int | None = None,
    log_to_driver: bool | None = None,
    tag_output: bool | None = None,
    report: bool | None = None,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    memory: float | None = None,
) -> Settings:
    """Return settings from arguments, then variables, then defaults.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument or variable is out of range.
    """
    cpus = _number("num_cpus", num_cpus, "GRAINWISE_NUM_CPUS")
    if cpus is None:
        cpus = available_cpus()
    if cpus <= 0:
        raise ValueError(f"{_source('num_cpus', num_cpus)} must be more than 0, got {cpus:g}")
    store = _number("object_store_memory", object_store_memory, "GRAINWISE_OBJECT_STORE_MEMORY")
    if store is None:
        store = int(available_memory_bytes() * STORE_SHARE)
    if store < MIN_STORE_BYTES:
        source = _source("object_store_memory", object_store_memory)
        raise ValueError(f"{source} must be at least {MIN_STORE_BYTES:,} bytes, got {int(store):,}")
    threads = _number("threads_per_worker", None, "GRAINWISE_THREADS_PER_WORKER")
    if threads is not None and (threads < 1 or threads != int(threads)):
        raise ValueError(f"GRAINWISE_THREADS_PER_WORKER must be a whole number from 1 up, got {threads:g}")
    take_back = os.environ.get("GRAINWISE_TAKE_BACK") or "barriers"
    if take_back not in ("barriers", "locks"):
        raise ValueError(f'GRAINWISE_TAKE_BACK expected "barriers" or "locks", got {take_back!r}')
    if batching is not None:
        size = check_batching("init(batching=...)", batching)
    else:
        size = check_batching("GRAINWISE_BATCHING", os.environ.get("GRAINWISE_BATCHING") or "auto")
    all_memory = available_memory_bytes()
    memory = _number("memory", memory, "GRAINWISE_MEMORY")
    threshold = _number("memory_usage_threshold", None, "GRAINWISE_MEMORY_USAGE_THRESHOLD")
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(
            f"GRAINWISE_MEMORY_USAGE_THRESHOLD expected a share above 0 and up to 1, got {threshold:g}"
        )
    refresh_s = _number("memory_monitor_refresh_s", None, "GRAINWISE_MEMORY_MONITOR_REFRESH_S")
    oom_retries = _number("task_oom_retries", None, "GRAINWISE_TASK_OOM_RETRIES")
    return Settings(
        batching=size,
        cache_directory=find_cache_directory(),
        environment_ttl_s=_ttl_s(),
        gpu_ids=find_gpus(num_gpus),
        memory_bytes=int(memory if memory is not None else max(0, all_memory - store)),
        memory_monitor_refresh_s=0.25 if refresh_s is None else max(0.0, refresh_s),
        memory_usage_threshold=0.95 if threshold is None else threshold,
        resources=_resources(resources),
        task_oom_retries=-1 if oom_retries is None else int(oom_retries),
        log_to_driver=_flag("log_to_driver", log_to_driver),
        num_cpus=cpus,
        object_store_memory_bytes=int(store),
        report=_flag("report", report, default=False),
        spill_directory=_spill_directory(spill_dir),
        tag_output=_flag("tag_output", tag_output),
        take_back=take_back,
        threads_per_worker=int(threads or 1),
    )


def check_batching(source: str, value: Any) -> int:
    """Return the tasks per batch that "auto" (0), "off" (1) or a number asks for.

    Raises:
        TypeError: it is neither text nor a whole number.
        ValueError: it is no such text, or below 1.
    """
    if isinstance(value, str):
        if value in ("auto", "off"):
            return int(value == "off")
        if not value.isdecimal():
            raise ValueError(f'{source} expected "auto", "off" or a number, got {value!r}')
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f'{source} expected "auto", "off" or an int, got {type(value).__name__}')
    if value < 1:
        raise ValueError(f"{source} expected at least 1 task per batch, got {value}")
    return value


def _number(name: str, value: Any, variable: str) -> float | None:
    """Return an argument or its variable as a finite number."""
    if value is not None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"init({name}=...) expected a number, got {type(value).__name__}")
        number: float = value
    else:
        text = os.environ.get(variable)
        if not text:
            return None
        try:
            number = float(text)
        except ValueError:
            raise ValueError(f"{variable} expected a number, got {text!r}") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"{_source(name, value)} expected a finite number, got {number}")
    return number


def _flag(name: str, value: Any, *, default: bool = True) -> bool:
    """Return a switch that is as its argument says, else its variable, else `default`."""
    if value is not None:
        if not isinstance(value, bool):
            raise TypeError(f"init({name}=...) expected True or False, got {type(value).__name__}")
        return value
    text = os.environ.get(f"GRAINWISE_{name.upper()}")
    if not text:
        return default
    if text.lower() not in FLAGS:
        raise ValueError(f"GRAINWISE_{name.upper()} expected 1 or 0, got {text!r}")
    return FLAGS[text.lower()]


def _source(name: str, argument: object) -> str:
    """Return what the user must change: the argument if there is one, else the variable."""
    return name if argument is not None else f"GRAINWISE_{name.upper()}"


def find_gpus(asked: float | None) -> tuple[str, ...]:
    """Return the names of the GPUs that there are, as CUDA_VISIBLE_DEVICES has them.

    Args:
        asked: how many; by default what GRAINWISE_NUM_GPUS says, else as many as there are, of those that
            the program may see.

    Raises:
        ValueError: it is no whole number, or more than the program may see.
    """
    number = _number("num_gpus", asked, "GRAINWISE_NUM_GPUS")
    if number is not None and (number < 0 or number != int(number)):
        raise ValueError(f"{_source('num_gpus', asked)} expected a whole number, at least 0, got {number:g}")
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = None if variable is None else [each.strip() for each in variable.split(",") if each.strip()]
    if visible in (["NoDevFiles"], ["-1"]):
        visible = []
    if number is None:
        if not os.path.exists("/dev/nvidia0") and not os.path.exists("/dev/nvidia1"):
            return ()
        number = sum(name[6:].isdecimal() for name in os.listdir("/dev") if name.startswith("nvidia"))
        if visible is not None:
            number = min(number, len(visible))
    elif visible is not None and number > len(visible):
        raise ValueError(
            f"{_source('num_gpus', asked)}={number:g} is more than the program may see - expected at most "
            f"{len(visible)}: CUDA_VISIBLE_DEVICES contains {visible}"
        )
    names = visible if visible is not None else [str(index) for index in range(int(number))]
    return tuple(names[: int(number)])


def _resources(argument: dict[str, float] | None) -> dict[str, float]:
    """Return the custom resources."""
    source = "init(resources=...)"
    if argument is None:
        text = os.environ.get("GRAINWISE_RESOURCES")
        if not text:
            return {}
        import json

        source = "GRAINWISE_RESOURCES"
        try:
            argument = json.loads(text)
        except ValueError:
            raise ValueError(f'{source} expected JSON such as {{"disk": 2}}, got {text!r:.200}') from None
    return check_resources(source, argument)


def check_resources(source: str, value: Any) -> dict[str, float]:
    """Return amounts of custom resources, checked.

    Raises:
        TypeError: it is no dict of names and numbers.
        ValueError: a name is one of the machine's own, or an amount out of range.
    """
    if not isinstance(value, dict):
        raise TypeError(f"{source} expected a dict of names and amounts, got {type(value).__name__}")
    found: dict[str, float] = {}
    for name, amount in value.items():
        if not isinstance(name, str):
            raise TypeError(f"{source} expected names as keys, got {type(name).__name__}")
        if name in ("CPU", "GPU"):
            raise ValueError(
                f"{source} got {name!r} - Use the 'num_cpus' and 'num_gpus' keyword instead of 'CPU' and "
                f"'GPU' in 'resources' keyword"
            )
        if name in ("memory", "object_store_memory"):
            raise ValueError(f"{source} got {name!r} - expected the argument of that name instead")
        found[name] = check_amount(f"{source}[{name!r}]", amount)
    return found


def check_amount(source: str, value: Any) -> float:
    """Return an amount of a resource, checked.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative or not finite, or too small a part.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{source} expected a number, got {type(value).__name__}")
    if not 0 <= value < float("inf"):
        raise ValueError(f"{source} expected at least 0, got {value} - it cannot be negative")
    if value and value * 10_000 < 1:
        raise ValueError(
            f"{source} expected parts of 0.0001 at least, got {value} - it cannot go beyond 0.0001"
        )
    return float(value)


def _spill_directory(argument: str | None) -> str | None:
    if argument is not None and not isinstance(argument, (str, os.PathLike)):
        raise TypeError(f"init(spill_dir=...) expected a path, got {type(argument).__name__}")
    chosen = argument if argument is not None else os.environ.get("GRAINWISE_SPILL_DIR")
    if chosen == "off":
        return None
    if not chosen:
        return next(
            (p for p in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp") if p and os.path.isdir(p)), os.getcwd()
        )
    path = os.path.abspath(os.fspath(chosen))
    if not os.path.isdir(path):
        raise ValueError(f"{_source('spill_dir', argument)} expected an existing folder, got {path!r}")
    return path


def find_cache_directory() -> str:
    """Return the user's cache folder for us; it need not exist."""
    chosen = os.environ.get("GRAINWISE_CACHE_DIR")
    if chosen:
        return os.path.abspath(os.path.expanduser(chosen))
    import sys

    where = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return os.path.join(os.path.abspath(os.path.expanduser(where)), "grainwise")


def _ttl_s() -> float:
    seconds = _number("environment_ttl_s", None, "GRAINWISE_ENVIRONMENT_TTL_S")
    if seconds is not None and seconds < 0:
        raise ValueError(f"GRAINWISE_ENVIRONMENT_TTL_S must be at least 0, got {seconds:g}")
    return 300.0 if seconds is None else seconds


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, bounded by the cgroup's quota."""
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    try:
        with open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, max(1, round(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    return max(1, count)


def available_memory_bytes() -> int:
    """Return the memory of this machine, bounded by the cgroup's limit."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        with open("/sys/fs/cgroup/memory.max", encoding="ascii") as file:
            limit = file.read().strip()
        if limit != "max":
            total = min(total, int(limit))
    except (OSError, ValueError):
        pass
    return total
