"""Calls that wait for each other for ever: an actor that waits for a call of its own, perhaps by a detour.

    A.f ──get──► B.g ──get──► A.h        A.h can't begin before A.f ends, which waits for it

Tasks alone can't do that: a task that waits lends its CPU, and others go on. An actor runs one call at a
time, so a chain of waits that comes back to it never ends. The last link of such a chain is always somebody
who begins to wait, so it is enough to look then; that `get` raises, and the rest unwinds. Actors whose calls
run at once are no links: something else may still happen there.

All of it happens under the engine's turn.
"""

from __future__ import annotations

from ...errors import ActorDeadlockError
from ..wire.tasks import Call, TaskSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ...objects.ref import ObjectRef
    from ..processes.pool import WorkerHandle
    from .actor import Actor
    from .engine import Engine
    from .nested import Wait

MAX_STEPS = 1000
"""A look goes no further."""


def find_cycle(engine: Engine, wait: Wait, name: str) -> ActorDeadlockError | None:
    """Return what to raise if a wait that has just begun can never end.

    Args:
        engine: the engine.
        wait: the wait.
        name: what it is that waits.
    """
    if not engine.actors.by_id or not wait.needs_all:
        return None
    seen: set[ObjectRef[Any]] = set()
    for ref in wait.refs:
        way = _way_back(engine, ref, wait.handle, seen)
        if way is not None:
            chain = ", which waits for ".join(repr(other._state.name) for other in way)
            return ActorDeadlockError(
                f"{name!r} would wait for ever: it waits for {chain}, which can't go on before {name!r} has "
                f"ended - expected no actor to wait for a call of its own - make its methods `async def`, or "
                f"set max_concurrency",
                actor_name=name,
            )
    return None


def _way_back(
    engine: Engine, ref: ObjectRef[Any], goal: WorkerHandle, seen: set[ObjectRef[Any]]
) -> list[ObjectRef[Any]] | None:
    """Return the calls from `ref` on that wait for each other, the last one for who waits for `ref`."""
    ways: list[list[ObjectRef[Any]]] = [[ref]]
    while ways and len(seen) < MAX_STEPS:
        way = ways.pop()
        last = way[-1]
        if last in seen or last._state.__class__ is not TaskSpec:
            continue
        seen.add(last)
        handle = _holder(engine, last)
        if handle is goal:
            return way
        ways += [[*way, other] for other in _needed(last, handle)]
    return None


def _holder(engine: Engine, ref: ObjectRef[Any]) -> WorkerHandle | None:
    """Return the process whose waits must end before a call can end; None if there is none such."""
    actor = ref._state.actor
    if actor is not None:
        return None if actor.is_concurrent else actor.handle
    for handle in engine.pool.workers.values():
        for seq in handle.stack:
            batch = handle.batches.get(seq)
            if batch is not None and batch.run is None and batch.refs[batch.stop - 1] is ref:
                return handle
    return None


def _needed(ref: ObjectRef[Any], handle: WorkerHandle | None) -> Iterator[ObjectRef[Any]]:
    """Yield what a call can't end without."""
    call = ref._value
    if call.__class__ is Call and call.wants:
        yield from call.dependencies()
    elif call.__class__ is Call and not call.is_sent and ref._state.actor is not None:
        yield from _needed_before(ref, call, ref._state.actor)
    if handle is not None:
        for wait in handle.waits.values():
            if wait.needs_all and wait.seq in handle.stack:
                yield from wait.refs


def _needed_before(ref: ObjectRef[Any], call: Call, actor: Actor) -> Iterator[ObjectRef[Any]]:
    """Yield what an earlier call of the same caller waits for: they keep their order."""
    for other in (*actor.held.get(call.caller, ()), *actor.open):
        if other is ref:
            return
        earlier = other._value
        if earlier.__class__ is Call and earlier.caller == call.caller and earlier.wants:
            yield from earlier.dependencies()
            return
