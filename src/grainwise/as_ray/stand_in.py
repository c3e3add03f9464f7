# pyright: reportUnsupportedDunderAll=false
"""The module that stands for `ray`: Ray's public names, each leading to grainwise's own."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = "2.60.0+grainwise"
"""That of the Ray whose behaviour is offered."""

__path__: list[str] = []  # a package, so that `import ray.util` asks the finder
__name__ = "ray"  # and `from ray import tune`, too
__version__ = VERSION
__commit__ = "grainwise"

SCRIPT_MODE, WORKER_MODE, LOCAL_MODE = 0, 1, 2

_PUBLIC = (
    "DynamicObjectRefGenerator", "ObjectRef", "ObjectRefGenerator", "available_resources", "cancel",
    "cluster_resources", "get", "get_actor", "get_gpu_ids", "get_runtime_context", "is_initialized", "kill",
    "method", "nodes", "put", "remote", "shutdown", "timeline", "wait",
)  # fmt: skip
_IDS = (
    "ActorClassID", "ActorID", "FunctionID", "JobID", "NodeID", "PlacementGroupID", "TaskID", "UniqueID",
    "WorkerID",
)  # fmt: skip
_MODULES = (
    "_common", "_private", "_raylet", "actor", "cloudpickle", "exceptions", "experimental", "remote_function",
    "runtime_context", "runtime_env", "types", "util",
)  # fmt: skip

__all__ = ["LoggingConfig", "ObjectID", "__version__", "exceptions", "init", "util"]  # noqa: F822
__all__ += list(_PUBLIC)
__all__ += list(_IDS)


def init(address: str | None = None, **options: Any) -> Any:
    """Start a session: see `grainwise.init`. Ray's options without an effect here are taken and left.

    Raises:
        NotImplementedError: `address` is that of a cluster, or something else is not offered.
        RuntimeError: there is a session already.
        TypeError: an option is unknown to Ray, too, or of the wrong type.
    """
    import grainwise

    kept = {
        name: value
        for name, value in options.items()
        if name == "_memory" or (name not in _IGNORED and name[:1] != "_")
    }
    return grainwise.init(address, **kept)


_IGNORED = frozenset((
    "cgroup_path", "enable_resource_isolation", "proxy_server_url", "redis_max_memory", "system_reserved_cpu",
    "system_reserved_memory",
))  # fmt: skip


class LoggingConfig:
    """How Ray would log; kept and not used: the program's own `logging` holds, in tasks as well."""

    def __init__(self, encoding: str = "TEXT", log_level: str = "INFO", **options: Any) -> None:
        self.encoding = encoding
        self.log_level = log_level
        self.options = options


def __getattr__(name: str) -> object:
    from importlib import import_module

    import grainwise

    from .refusals import refused_name

    if name in _PUBLIC:
        value: object = getattr(grainwise, name)
    elif name == "ObjectID":
        value = grainwise.ObjectRef
    elif name in _IDS:
        value = getattr(grainwise, name)
    elif name in _MODULES:
        try:
            value = import_module(f"ray.{name}")
        except ImportError as error:
            raise AttributeError(str(error)) from error
    else:
        raise refused_name("ray", name) or AttributeError(f"module 'ray' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*__all__, *_MODULES})
