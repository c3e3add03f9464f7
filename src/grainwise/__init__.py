"""Write the naive parallel code; it runs as if an expert had tuned it.

    import grainwise as ray

    @ray.remote
    def double(x):
        return x * 2

    results = ray.get([double.remote(x) for x in range(100_000)])

Tiny tasks are batched by measured cost, large arguments are stored once in shared memory and read without a
copy, workers start in milliseconds and stay.
"""

from __future__ import annotations

from .adapters.joblib_hook import install as _install_joblib_hook

TYPE_CHECKING = False
if TYPE_CHECKING:
    from . import errors as errors
    from . import exceptions as exceptions
    from . import flow as flow
    from . import runtime_env as runtime_env
    from . import util as util
    from .adapters.dask_scheduler import dask_get as dask_get
    from .adapters.futures.executor import Executor as Executor
    from .adapters.joblib_hook import register_joblib as register_joblib
    from .api.actors import ActorClass as ActorClass
    from .api.actors import ActorHandle as ActorHandle
    from .api.actors import ActorMethod as ActorMethod
    from .api.actors import exit_actor as exit_actor
    from .api.actors import get_actor as get_actor
    from .api.actors import kill as kill
    from .api.actors import method as method
    from .api.context import RuntimeContext as RuntimeContext
    from .api.context import available_resources as available_resources
    from .api.context import cluster_resources as cluster_resources
    from .api.context import get_gpu_ids as get_gpu_ids
    from .api.context import get_runtime_context as get_runtime_context
    from .api.context import nodes as nodes
    from .api.map import MapResults as MapResults
    from .api.map import map as map
    from .api.map import starmap as starmap
    from .api.reports import report as report
    from .api.reports import timeline as timeline
    from .api.session import init as init
    from .api.session import is_initialized as is_initialized
    from .api.session import shutdown as shutdown
    from .api.tasks import RemoteFunction as RemoteFunction
    from .api.tasks import remote as remote
    from .api.values import cancel as cancel
    from .api.values import get as get
    from .api.values import put as put
    from .api.values import wait as wait
    from .as_ray import install_as_ray as install_as_ray
    from .engine.generators import DynamicObjectRefGenerator as DynamicObjectRefGenerator
    from .engine.generators import ObjectRefGenerator as ObjectRefGenerator
    from .flow.tasks.dynamic import dynamic as dynamic
    from .flow.tasks.map_task import map_task as map_task
    from .flow.tasks.task import task as task
    from .flow.workflows.workflow import workflow as workflow
    from .objects.ids import ActorClassID as ActorClassID
    from .objects.ids import ActorID as ActorID
    from .objects.ids import FunctionID as FunctionID
    from .objects.ids import JobID as JobID
    from .objects.ids import NodeID as NodeID
    from .objects.ids import PlacementGroupID as PlacementGroupID
    from .objects.ids import TaskID as TaskID
    from .objects.ids import UniqueID as UniqueID
    from .objects.ids import WorkerID as WorkerID
    from .objects.ref import ObjectRef as ObjectRef

_WHERE = {
    "ActorClass": "api.actors",
    "ActorHandle": "api.actors",
    "ActorMethod": "api.actors",
    "exit_actor": "api.actors",
    "get_actor": "api.actors",
    "kill": "api.actors",
    "method": "api.actors",
    "RuntimeContext": "api.context",
    "available_resources": "api.context",
    "cluster_resources": "api.context",
    "get_gpu_ids": "api.context",
    "get_runtime_context": "api.context",
    "nodes": "api.context",
    "ActorClassID": "objects.ids",
    "ActorID": "objects.ids",
    "FunctionID": "objects.ids",
    "JobID": "objects.ids",
    "NodeID": "objects.ids",
    "PlacementGroupID": "objects.ids",
    "TaskID": "objects.ids",
    "UniqueID": "objects.ids",
    "WorkerID": "objects.ids",
    "install_as_ray": "as_ray",
    "report": "api.reports",
    "timeline": "api.reports",
    "Executor": "adapters.futures.executor",
    "dask_get": "adapters.dask_scheduler",
    "register_joblib": "adapters.joblib_hook",
    "map": "api.map",
    "starmap": "api.map",
    "MapResults": "api.map",
    "init": "api.session",
    "shutdown": "api.session",
    "is_initialized": "api.session",
    "RemoteFunction": "api.tasks",
    "remote": "api.tasks",
    "put": "api.values",
    "get": "api.values",
    "wait": "api.values",
    "cancel": "api.values",
    "DynamicObjectRefGenerator": "engine.generators",
    "ObjectRefGenerator": "engine.generators",
    "dynamic": "flow.tasks.dynamic",
    "map_task": "flow.tasks.map_task",
    "task": "flow.tasks.task",
    "workflow": "flow.workflows.workflow",
    "ObjectRef": "objects.ref",
}

__all__ = [
    "ActorClass",
    "ActorClassID",
    "ActorHandle",
    "ActorID",
    "ActorMethod",
    "DynamicObjectRefGenerator",
    "Executor",
    "FunctionID",
    "JobID",
    "MapResults",
    "NodeID",
    "ObjectRef",
    "ObjectRefGenerator",
    "PlacementGroupID",
    "RemoteFunction",
    "RuntimeContext",
    "TaskID",
    "UniqueID",
    "WorkerID",
    "available_resources",
    "cancel",
    "cluster_resources",
    "dask_get",
    "dynamic",
    "errors",
    "exceptions",
    "exit_actor",
    "flow",
    "get",
    "get_actor",
    "get_gpu_ids",
    "get_runtime_context",
    "init",
    "install_as_ray",
    "is_initialized",
    "kill",
    "map",
    "map_task",
    "method",
    "nodes",
    "put",
    "register_joblib",
    "remote",
    "report",
    "runtime_env",
    "shutdown",
    "starmap",
    "task",
    "timeline",
    "util",
    "wait",
    "workflow",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name == "__version__":
        from importlib.metadata import version

        return version("grainwise")
    if name in ("errors", "exceptions", "flow", "runtime_env", "util"):
        return import_module(f".{name}", __name__)
    if name in ("actor", "remote_function", "runtime_context", "types"):  # Ray's modules, for `ray.actor.…`
        return import_module(f".as_ray.{name}", __name__)
    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{where}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


_install_joblib_hook()
