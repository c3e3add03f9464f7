"""Ray's `util`: pools, listings and serializers, under Ray's names, on this session's workers.

grainwise.util.multiprocessing.Pool      the interface of multiprocessing.Pool
grainwise.util.joblib.register_ray       the name "ray" for joblib's backend
grainwise.util.state                     what runs now
inspect_serializability, register_serializer, deregister_serializer
grainwise.util.queue.Queue               a queue between processes
ActorPool, list_named_actors             of actors
as_completed, map_unordered, get_node_ip_address, log_once
placement_group, remove_placement_group  resources set aside together; strategies in scheduling_strategies
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .actor_pool import ActorPool as ActorPool
    from .completion import as_completed as as_completed
    from .completion import map_unordered as map_unordered
    from .machine import get_node_instance_id as get_node_instance_id
    from .machine import get_node_ip_address as get_node_ip_address
    from .names import list_named_actors as list_named_actors
    from .once import disable_log_once_globally as disable_log_once_globally
    from .once import enable_periodic_logging as enable_periodic_logging
    from .once import log_once as log_once
    from .placement_group import get_current_placement_group as get_current_placement_group
    from .placement_group import get_placement_group as get_placement_group
    from .placement_group import placement_group as placement_group
    from .placement_group import placement_group_table as placement_group_table
    from .placement_group import remove_placement_group as remove_placement_group
    from .serializability import inspect_serializability as inspect_serializability
    from .serializers import deregister_serializer as deregister_serializer
    from .serializers import register_serializer as register_serializer

_WHERE = {
    "ActorPool": "actor_pool",
    "as_completed": "completion",
    "map_unordered": "completion",
    "get_node_instance_id": "machine",
    "get_node_ip_address": "machine",
    "list_named_actors": "names",
    "disable_log_once_globally": "once",
    "enable_periodic_logging": "once",
    "log_once": "once",
    "placement_group": "placement_group",
    "get_current_placement_group": "placement_group",
    "get_placement_group": "placement_group",
    "placement_group_table": "placement_group",
    "remove_placement_group": "placement_group",
    "inspect_serializability": "serializability",
    "deregister_serializer": "serializers",
    "register_serializer": "serializers",
}
_MODULES = (
    "actor_pool", "dask", "joblib", "multiprocessing", "placement_group", "queue", "scheduling_strategies",
    "state",
)  # fmt: skip

__all__ = [
    "ActorPool",
    "as_completed",
    "deregister_serializer",
    "disable_log_once_globally",
    "enable_periodic_logging",
    "get_current_placement_group",
    "get_node_instance_id",
    "get_node_ip_address",
    "get_placement_group",
    "inspect_serializability",
    "list_named_actors",
    "log_once",
    "map_unordered",
    "placement_group",
    "placement_group_table",
    "register_serializer",
    "remove_placement_group",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    where = _WHERE.get(name)
    if where is None and name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = import_module(f"{__name__}.{where or name}")
    value = found if where is None else getattr(found, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
