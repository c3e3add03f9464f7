"""What runs now, in the form of Ray's state listings: `list_tasks`, `list_workers`, `summarize_tasks`, ...

From what the driver knows, asking nobody. It notes nothing for each task (`watch.events`), so `list_tasks`
has those that have not ended; `summarize_tasks` counts the others too, by function. `grainwise.report()` says
more.
"""

from __future__ import annotations

import os

from ..api import context
from ..engine import current
from ..engine.wire import control
from ..objects.ref import actor_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    Filters = Sequence[tuple[str, str, Any]] | None

LIMIT = 100


class State(dict[str, "Any"]):
    """One row of a listing: a dictionary whose fields are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"a {type(self).__name__} has no field {name!r}") from None


def list_tasks(
    address: str | None = None, filters: Filters = None, limit: int = LIMIT, **_: Any
) -> list[State]:
    """Return the tasks that have not ended.

    `state` is `PENDING_ARGS_AVAIL` (its arguments are not there), `PENDING_NODE_ASSIGNMENT` (waits for a
    worker), `SUBMITTED_TO_WORKER` (lies in a worker's batch), `RUNNING`, or `RUNNING_IN_RAY_GET` (waits for
    others). `task_id` is what the task itself gets of its runtime context, "" before a worker has it.

    Args:
        address: accepted; there is one session.
        filters: `(field, "=" or "!=", value)`; text is compared without regard to case.
        limit: rows at most.
        **_: Ray's other arguments, without an effect.

    Raises:
        RuntimeError: there is no session, or this is a task.
        ValueError: a filter has another operator.
    """
    engine = _driver()
    with engine.turn:
        rows = [*_sent(engine), *_unsent(engine)]
    return _select(rows, filters, limit)


def summarize_tasks(address: str | None = None, **_: Any) -> dict[str, Any]:
    """Return how many tasks of each name there are in each state, those that have ended included.

    Failed tasks are among the `FINISHED` ones of their name: only their sum is known,
    `grainwise.report().num_failed`.
    """
    engine = _driver()
    counts: dict[str, dict[str, int]] = {}
    with engine.turn:
        for row in (*_sent(engine), *_unsent(engine)):
            states = counts.setdefault(row["name"], {})
            states[row["state"]] = states.get(row["state"], 0) + 1
        for name, function in engine.record.functions.items():
            if function.num_tasks:
                counts.setdefault(name, {})["FINISHED"] = function.num_tasks
    summary = {
        name: {"func_or_class_name": name, "type": "NORMAL_TASK", "state_counts": states}
        for name, states in counts.items()
    }
    total = sum(sum(states.values()) for states in counts.values())
    node = {
        "summary": summary,
        "total_tasks": total,
        "total_actor_tasks": 0,
        "total_actor_scheduled": 0,
        "summary_by": "func_name",
    }
    return {"cluster": node}


def list_workers(
    address: str | None = None, filters: Filters = None, limit: int = LIMIT, **_: Any
) -> list[State]:
    """Return the program and the worker processes that are alive; arguments as for `list_tasks`."""
    engine = _driver()
    with engine.turn:
        pids = [handle.pid for handle in engine.pool.workers.values() if handle.is_up]
    kinds = [("DRIVER", os.getpid()), *(("WORKER", pid) for pid in pids)]
    rows = [
        State(
            worker_id=context.worker_id(pid),
            is_alive=True,
            worker_type=kind,
            exit_type=None,
            node_id=context.node_id(),
            ip=context.ADDRESS,
            pid=pid,
        )
        for kind, pid in kinds
    ]
    return _select(rows, filters, limit)


def list_objects(
    address: str | None = None, filters: Filters = None, limit: int = LIMIT, **_: Any
) -> list[State]:
    """Return the large objects in shared memory or on disk, with their sizes in bytes.

    Small values live in their refs, and have no row. Arguments as for `list_tasks`.
    """
    engine = _driver()
    rows = []
    for place in engine.store.places():
        rows.append(
            State(
                object_id=f"{place.arena_id:08x}{place.offset:016x}".zfill(32),
                object_size=place.nbytes,
                task_status="FINISHED",
                attempt_number=1,
                reference_type="LOCAL_REFERENCE",
                call_site="",
                type="DRIVER",
                pid=os.getpid(),
                ip=context.ADDRESS,
            )
        )
    return _select(rows, filters, limit)


def summarize_objects(address: str | None = None, **_: Any) -> dict[str, Any]:
    """Return how many large objects there are, and their bytes together."""
    rows = list_objects(limit=1 << 62)
    return {
        "cluster": {
            "summary": {},
            "total_objects": len(rows),
            "total_size_mb": sum(row["object_size"] for row in rows) / 2**20,
            "callsite_enabled": False,
            "summary_by": "callsite",
        }
    }


def list_nodes(
    address: str | None = None, filters: Filters = None, limit: int = LIMIT, **_: Any
) -> list[State]:
    """Return the one machine; arguments as for `list_tasks`."""
    _driver()
    row = State(
        node_id=context.node_id(),
        node_ip=context.ADDRESS,
        is_head_node=True,
        state="ALIVE",
        state_message=None,
        node_name=context.ADDRESS,
        resources_total=context.cluster_resources(),
        labels={},
    )
    return _select([row], filters, limit)


def list_jobs(
    address: str | None = None, filters: Filters = None, limit: int = LIMIT, **_: Any
) -> list[State]:
    """Return the one job, this program; arguments as for `list_tasks`."""
    import sys

    _driver()
    row = State(
        job_id=context.JOB_ID,
        submission_id=None,
        type="DRIVER",
        status="RUNNING",
        entrypoint=" ".join(sys.argv),
        driver_info={"id": context.JOB_ID, "node_ip_address": context.ADDRESS, "pid": str(os.getpid())},
    )
    return _select([row], filters, limit)


def list_actors(
    address: str | None = None, filters: Filters = None, limit: int = LIMIT, **_: Any
) -> list[State]:
    """Return the actors that are alive and the last that have died; arguments as for `list_tasks`.

    `state` is `PENDING_CREATION`, `ALIVE`, `RESTARTING` or `DEAD`, and then `death_cause` says why.
    """
    engine = _driver()
    with engine.turn:
        found = engine.actors.listed()
    return _select([_actor_row(facts) for facts in found], filters, limit)


def summarize_actors(address: str | None = None, **_: Any) -> dict[str, Any]:
    """Return how many actors of each class there are in each state."""
    summary: dict[str, Any] = {}
    rows = list_actors(limit=1 << 62)
    for row in rows:
        entry = summary.setdefault(row["class_name"], {"class_name": row["class_name"], "state_counts": {}})
        counts = entry["state_counts"]
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    return {"cluster": {"summary": summary, "total_actors": len(rows), "summary_by": "class"}}


def get_actor(id: str | Any, address: str | None = None, **_: Any) -> State | None:
    """Return the actor of this identity, None if it is not known (any more)."""
    text = id if isinstance(id, str) else id.hex()
    found = list_actors(filters=[("actor_id", "=", text)], limit=1)
    return found[0] if found else None


def list_placement_groups(
    address: str | None = None, filters: Filters = None, limit: int = LIMIT, **_: Any
) -> list[State]:
    """Return the placement groups, and those that were removed; arguments as for `list_tasks`.

    `state` is `PENDING`, `CREATED` or `REMOVED`.
    """
    from ..api.placement_groups import placement_group_table

    _driver()
    rows = [
        State(
            placement_group_id=group["placement_group_id"],
            name=group["name"],
            creator_job_id=context.JOB_ID,
            state=group["state"],
            bundles=[
                {"bundle_id": {"bundle_index": index}, "unit_resources": resources}
                for index, resources in group["bundles"].items()
            ],
            is_detached=False,
            stats=None,
        )
        for group in placement_group_table().values()
    ]
    return _select(rows, filters, limit)


def get_placement_group(id: str | Any, address: str | None = None, **_: Any) -> State | None:
    """Return the placement group of this identity, None if there is none."""
    text = id if isinstance(id, str) else id.hex()
    found = list_placement_groups(filters=[("placement_group_id", "=", text)], limit=1)
    return found[0] if found else None


def list_runtime_envs(
    address: str | None = None, filters: Filters = None, limit: int = LIMIT, **_: Any
) -> list[State]:
    """Return the runtime environments of the session.

    `success` is None while one is being made, `error` says why it can't be.
    """
    engine = _driver()
    with engine.turn:
        rows = [
            State(
                runtime_env=environment.fields(),
                success=environment.is_made(),
                error=None if environment.error is None else str(environment.error),
                node_id=context.node_id(),
            )
            for environment in engine.environments.all()
        ]
    return _select(rows, filters, limit)


def get_task(id: str | Any, address: str | None = None, **_: Any) -> State | None:
    """Return the task of this identity, None if there is none that has not ended."""
    found = list_tasks(filters=[("task_id", "=", str(id))], limit=1)
    return found[0] if found else None


def get_worker(id: str, address: str | None = None, **_: Any) -> State | None:
    """Return the process of this identity, None if there is none."""
    found = list_workers(filters=[("worker_id", "=", id)], limit=1)
    return found[0] if found else None


def get_node(id: str, address: str | None = None, **_: Any) -> State | None:
    """Return the machine of this identity, None if it is another."""
    found = list_nodes(filters=[("node_id", "=", id)], limit=1)
    return found[0] if found else None


# -- inside ------------------------------------------------------------------------------------------------


def _driver() -> Any:
    running: Any = current.current()
    if running is None or running.is_closed:
        raise RuntimeError("a listing was asked for without a session - expected one - call init() first")
    if not hasattr(running, "shutdown"):
        raise RuntimeError("a listing was asked for in a task - expected the program: it alone knows")
    return running


def _sent(engine: Any) -> Iterator[State]:
    """Yield the tasks that workers hold. The caller has the turn."""
    for handle in engine.pool.workers.values():
        for batch in handle.batches.values():
            is_current = handle.words[control.SEQ] == batch.seq
            running = handle.words[control.STARTED] if is_current else -1
            for index in range(batch.base, batch.stop):
                spec = batch.spec_at(index)
                state = "SUBMITTED_TO_WORKER"
                if batch.is_blocked and index == batch.base:
                    state = "RUNNING_IN_RAY_GET"
                elif is_current and index <= running:
                    state = "RUNNING"
                task_id = context.task_id(handle.pid, batch.seq, batch.first + index)
                yield _row(spec.name, state, task_id, handle.pid, handle.actor)


def _unsent(engine: Any) -> Iterator[State]:
    """Yield the tasks that no worker has yet. The caller has the turn."""
    for spec in engine.submissions.specs():
        for _ in range(len(spec.open)):
            yield _row(spec.name, "PENDING_NODE_ASSIGNMENT", "", None)
    for actor in engine.actors.by_id.values():
        for ref in actor.refs():
            name = getattr(ref._state, "name", None)
            if name is not None:
                yield _row(name, "PENDING_NODE_ASSIGNMENT", "", None, actor)
    waiting: dict[Any, None] = {}
    for refs in engine.results.dependents.values():
        waiting.update(dict.fromkeys(refs))
    for ref in waiting:
        name = getattr(ref._state, "name", None)
        if name is not None and ref._state.actor is None:
            yield _row(name, "PENDING_ARGS_AVAIL", "", None)


def _actor_row(facts: Any) -> State:
    why = {"actor_died_error_context": {"error_message": facts.error}}
    return State(
        actor_id=actor_bytes(facts.id).hex(),
        class_name=facts.class_name,
        state=facts.state,
        job_id=context.JOB_ID,
        name=facts.name,
        node_id=context.node_id() if facts.pid else None,
        pid=facts.pid,
        ray_namespace=facts.namespace,
        serialized_runtime_env="{}",
        required_resources={"CPU": facts.num_cpus} if facts.num_cpus else {},
        death_cause=why if facts.error else None,
        is_detached=facts.is_detached,
        placement_group_id=None,
        repr_name="",
        num_restarts=str(facts.num_restarts),
    )


def _row(name: str, state: str, task_id: str, pid: int | None, actor: Any = None) -> State:
    kind = "ACTOR_CREATION_TASK" if name.endswith(".__init__") else "ACTOR_TASK"
    return State(
        task_id=task_id,
        attempt_number=0,
        name=name,
        state=state,
        job_id=context.JOB_ID,
        actor_id=None if actor is None else actor_bytes(actor.id).hex(),
        type="NORMAL_TASK" if actor is None else kind,
        func_or_class_name=name,
        parent_task_id="",
        node_id=None if pid is None else context.node_id(),
        worker_id=None if pid is None else context.worker_id(pid),
        worker_pid=pid,
        error_type=None,
    )


def _select(rows: Iterable[State], filters: Filters, limit: int) -> list[State]:
    chosen = list(rows)
    for field, operator, wanted in filters or ():
        if operator not in ("=", "!="):
            raise ValueError(f'a filter expected "=" or "!=", got {operator!r}')
        chosen = [row for row in chosen if (_plain(row.get(field)) == _plain(wanted)) == (operator == "=")]
    return chosen[:limit]


def _plain(value: Any) -> str:
    return str(value).lower()
