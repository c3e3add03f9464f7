"""Flow: typed tasks and workflows, with Flyte's names.

    from grainwise.flow import task, workflow, map_task

    @task
    def double(x: int) -> int:
        return 2 * x

    @workflow
    def double_all(xs: list[int]) -> list[int]:
        return map_task(double)(x=xs)

Arguments and results are checked against the annotations. A direct call of a task runs in the caller's
process; a workflow runs on the engine, or, under `with inline():`, in the caller's process.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .batching import batched as batched
    from .context import ExecutionParameters as ExecutionParameters
    from .context import current_context as current_context
    from .declared.described import Annotations as Annotations
    from .declared.described import CachePolicy as CachePolicy
    from .declared.described import CronSchedule as CronSchedule
    from .declared.described import Description as Description
    from .declared.described import Documentation as Documentation
    from .declared.described import Email as Email
    from .declared.described import FixedRate as FixedRate
    from .declared.described import Labels as Labels
    from .declared.described import Notification as Notification
    from .declared.described import PagerDuty as PagerDuty
    from .declared.described import PodTemplate as PodTemplate
    from .declared.described import Secret as Secret
    from .declared.described import Slack as Slack
    from .declared.described import SourceCode as SourceCode
    from .declared.described import WorkflowExecutionPhase as WorkflowExecutionPhase
    from .declared.image import ImageSpec as ImageSpec
    from .declared.options import Cache as Cache
    from .declared.options import Options as Options
    from .declared.options import TaskMetadata as TaskMetadata
    from .declared.options import VersionParameters as VersionParameters
    from .declared.options import WorkflowFailurePolicy as WorkflowFailurePolicy
    from .declared.resources import Resources as Resources
    from .environment import ActorEnvironment as ActorEnvironment
    from .errors import BranchError as BranchError
    from .errors import CallError as CallError
    from .errors import DefinitionError as DefinitionError
    from .errors import FailureNodeError as FailureNodeError
    from .errors import FlowError as FlowError
    from .errors import FlyteFailureNodeInputMismatchException as FlyteFailureNodeInputMismatchException
    from .errors import FlyteMissingReturnValueException as FlyteMissingReturnValueException
    from .errors import FlyteMissingTypeException as FlyteMissingTypeException
    from .errors import FlyteRecoverableException as FlyteRecoverableException
    from .errors import MapError as MapError
    from .errors import MissingReturnValueError as MissingReturnValueError
    from .errors import MissingTypeError as MissingTypeError
    from .errors import NonRecoverableError as NonRecoverableError
    from .errors import RecoverableError as RecoverableError
    from .errors import RestrictedTypeError as RestrictedTypeError
    from .errors import TypeMismatchError as TypeMismatchError
    from .errors import TypeTransformerFailedError as TypeTransformerFailedError
    from .graph.conditional import conditional as conditional
    from .graph.node import Node as Node
    from .graph.promise import PathError as PathError
    from .graph.promise import Promise as Promise
    from .graph.promise import VoidPromise as VoidPromise
    from .hosts.cached import actor_cache as actor_cache
    from .hosts.failures import HostError as HostError
    from .kept.store import CacheStore as CacheStore
    from .kept.store import LocalTaskCache as LocalTaskCache
    from .kept.store import cache_store as cache_store
    from .mapping.budget import Concurrency as Concurrency
    from .mapping.elements import ElementFailure as ElementFailure
    from .record.reading import RecordError as RecordError
    from .record.reading import RunInfo as RunInfo
    from .record.reading import list_runs as list_runs
    from .resume import resume as resume
    from .running.failure import FlyteError as FlyteError
    from .running.mode import inline as inline
    from .running.recorder import Recorder as Recorder
    from .running.recorder import add_recorder as add_recorder
    from .running.recorder import remove_recorder as remove_recorder
    from .tasks.dynamic import Dynamic as Dynamic
    from .tasks.dynamic import dynamic as dynamic
    from .tasks.map_task import MapTask as MapTask
    from .tasks.map_task import map_task as map_task
    from .tasks.task import Task as Task
    from .tasks.task import task as task
    from .testing import patch as patch
    from .testing import task_mock as task_mock
    from .types.hints import BatchSize as BatchSize
    from .types.hints import HashMethod as HashMethod
    from .types.hints import kwtypes as kwtypes
    from .types.paths import FlyteDirectory as FlyteDirectory
    from .types.paths import FlyteFile as FlyteFile
    from .workflows.creation import create_node as create_node
    from .workflows.imperative import ImperativeWorkflow as ImperativeWorkflow
    from .workflows.imperative import Workflow as Workflow
    from .workflows.imperative import WorkflowStateError as WorkflowStateError
    from .workflows.launch_plan import LaunchPlan as LaunchPlan
    from .workflows.workflow import FunctionWorkflow as FunctionWorkflow
    from .workflows.workflow import workflow as workflow

_NAMES = {
    "batching": ["batched"],
    "context": ["ExecutionParameters", "current_context"],
    "declared.described": [
        "Annotations", "CachePolicy", "CronSchedule", "Description", "Documentation", "Email", "FixedRate",
        "Labels", "Notification", "PagerDuty", "PodTemplate", "Secret", "Slack", "SourceCode",
        "WorkflowExecutionPhase",
    ],
    "declared.image": ["ImageSpec"],
    "declared.options": ["Cache", "Options", "TaskMetadata", "VersionParameters", "WorkflowFailurePolicy"],
    "declared.resources": ["Resources"],
    "environment": ["ActorEnvironment"],
    "errors": [
        "BranchError", "CallError", "DefinitionError", "FailureNodeError", "FlowError", "MapError",
        "MissingReturnValueError", "MissingTypeError", "NonRecoverableError", "RecoverableError",
        "RestrictedTypeError", "TypeMismatchError", "FlyteFailureNodeInputMismatchException",
        "FlyteMissingReturnValueException", "FlyteMissingTypeException", "FlyteRecoverableException",
        "TypeTransformerFailedError",
    ],
    "graph.conditional": ["conditional"],
    "graph.node": ["Node"],
    "graph.promise": ["PathError", "Promise", "VoidPromise"],
    "hosts.cached": ["actor_cache"],
    "hosts.failures": ["HostError"],
    "record.reading": ["RecordError", "RunInfo", "list_runs"],
    "resume": ["resume"],
    "mapping.budget": ["Concurrency"],
    "kept.store": ["CacheStore", "LocalTaskCache", "cache_store"],
    "mapping.elements": ["ElementFailure"],
    "running.failure": ["FlyteError"],
    "running.mode": ["inline"],
    "running.recorder": ["Recorder", "add_recorder", "remove_recorder"],
    "tasks.dynamic": ["Dynamic", "dynamic"],
    "tasks.map_task": ["MapTask", "map_task"],
    "tasks.task": ["Task", "task"],
    "testing": ["patch", "task_mock"],
    "types.hints": ["BatchSize", "HashMethod", "kwtypes"],
    "types.paths": ["FlyteDirectory", "FlyteFile"],
    "workflows.creation": ["create_node"],
    "workflows.imperative": ["ImperativeWorkflow", "Workflow", "WorkflowStateError"],
    "workflows.launch_plan": ["LaunchPlan"],
    "workflows.workflow": ["FunctionWorkflow", "workflow"],
}  # fmt: skip
_WHERE = {name: where for where, names in _NAMES.items() for name in names}

__all__ = [*_WHERE]  # noqa: PLE0604  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    from importlib import import_module

    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{where}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
