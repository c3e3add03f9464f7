"""How actors end: politely, by force, by accident; and how their calls are cancelled. See `actors`.

All of it happens under the engine's turn.
"""

from __future__ import annotations

from ...errors import ActorDiedError, ActorUnavailableError, GrainwiseError, TaskCancelledError
from ...objects.ref import actor_bytes
from ..wire import control
from ..wire.tasks import CANCEL_CALL, EXIT, Call, TaskSpec
from . import crash
from .actor import DEAD, NEW

TYPE_CHECKING = False
if TYPE_CHECKING:
    import weakref
    from collections import deque
    from typing import Any

    from ...objects.ref import ObjectRef
    from ..processes.pool import WorkerHandle
    from .actor import Actor, ActorFacts, ActorRef
    from .batches import SentBatch
    from .engine import Engine


_DROPPED = "all references to it were removed, its last handle is gone"


class ActorEnds:
    """The part of `Actors` that ends them.

    Attributes:
        active: those with something in their queue, or without a process that they could have.
        by_id: those that are not dead.
        names: those that can be found, by namespace and name.
    """

    engine: Engine
    active: dict[Actor, None]
    by_id: dict[int, Actor]
    names: dict[tuple[str, str], Actor]
    ended: deque[ActorFacts]
    dropped: deque[int]
    _dead: weakref.WeakKeyDictionary[ActorRef, Actor]

    def _make(self, actor: Actor, *, has_refs: bool = False) -> None:
        """Have an actor's constructor run, before everything else that it has to do."""
        raise NotImplementedError

    def settled(self, actor: Actor, ref: ObjectRef[Any], call: Call) -> None:
        """A call waits no more."""
        raise NotImplementedError

    def _collect(self) -> None:
        """Look after actors whose last handle is gone."""
        while self.dropped:
            actor = self.by_id.get(self.dropped.popleft())
            if actor is not None and actor.ref() is None:
                actor.is_dropped = True
                self._end_if_done(actor)

    def _end_if_done(self, actor: Actor) -> None:
        """End an actor that nobody can call any more, behind its last call."""
        if actor.state == DEAD or actor.open or actor.held or actor.state == NEW:
            if actor.state == NEW and not actor.open and not actor.held and actor.handle is None:
                self.die(actor, self._died(actor, _DROPPED))
            return
        handle = actor.handle
        if handle is None or handle.batches:
            return
        self.engine.dispatcher.post(handle, (EXIT,))
        self.die(actor, self._died(actor, _DROPPED), is_ending=True)

    def end_gracefully(self, actor: Actor, why: str) -> None:
        """An actor ends itself, and says why; its process is on its way out."""
        actor.is_leaving = why

    def kill_by_id(self, identity: int, *, no_restart: bool) -> None:
        """Kill an actor that may be dead already."""
        actor = self.by_id.get(identity)
        if actor is not None:
            self.kill(actor, no_restart=no_restart)

    def kill(self, actor: Actor, *, no_restart: bool) -> None:
        """Kill an actor's process; unless it may be restarted, that is its end."""
        handle = actor.handle
        if no_restart or not actor.may_restart():
            self.die(actor, self._died(actor, "it was killed by `ray.kill`", handle))
        elif handle is not None:
            self.engine.pool.kill(handle)

    def die(self, actor: Actor, error: GrainwiseError, *, is_ending: bool = False) -> None:
        """End an actor for good: all its calls fail, and all later ones."""
        if actor.state == DEAD:
            return
        engine = self.engine
        actor.state = DEAD
        actor.error = error
        self.ended.append(actor.facts())
        actor.send_at = 0
        self.by_id.pop(actor.id, None)
        ref = actor.ref()
        if ref is not None:
            self._dead[ref] = actor
        key = (actor.options.namespace, actor.options.name)
        if self.names.get(key) is actor:
            del self.names[key]
        actor.keep = actor.creation = None
        starting, actor.is_starting = actor.is_starting, None
        if starting is not None:
            engine.results.fail(starting, error)
        handle = actor.handle
        if handle is not None:
            for batch in list(handle.batches.values()):
                for item in batch.refs[batch.base :]:
                    engine.results.fail(item, error)
            if not is_ending:
                engine.pool.kill(handle)
        else:
            self._unreserve(actor)
        self._fail_queue(actor)
        actor.specs.clear()

    def _fail_queue(self, actor: Actor) -> None:
        self.active.pop(actor, None)
        refs = actor.refs()
        actor.open.clear()
        actor.held.clear()
        error = actor.error or self._died(actor, "it is dead")
        for ref in refs:
            self.engine.results.fail(ref, error)

    def fail_all(self, error: BaseException) -> None:
        """Fail all calls of all actors: something is wrong with the engine, or it ends."""
        for actor in [*self.by_id.values(), *self.active]:
            for ref in actor.refs():
                self.engine.results.fail(ref, error)
            actor.open.clear()
            actor.held.clear()
        self.active.clear()

    def close(self) -> None:
        """The session ends: have later calls ask first."""
        for actor in [*self.by_id.values(), *self._dead.values()]:
            actor.send_at = 0
            actor.keep = None

    def _unreserve(self, actor: Actor) -> None:
        lease, actor.lease = actor.lease, None
        if lease is not None:
            self.engine.reserved.release(lease)
            for other in self.by_id.values():
                if other.state == NEW:
                    self.active[other] = None

    def worker_ended(self, handle: WorkerHandle, running: int, started: int) -> None:
        """The process of an actor is gone.

        Args:
            handle: the process.
            running: the batch that it ran; 0 for none.
            started: the item of it that it had started last.
        """
        actor = handle.actor
        assert actor is not None
        actor.handle = None
        engine = self.engine
        begun: list[ObjectRef[Any]] = []
        rest: list[ObjectRef[Any]] = []
        for batch in handle.batches.values():
            items = batch.refs[batch.base : batch.stop]
            engine.dispatcher.num_sent -= 1
            if actor.is_concurrent and batch.spec.method:  # any of them may have begun
                engine.record.lost(batch.num_left)
                begun += [ref for ref in items if ref._state.__class__ is TaskSpec]
                continue
            engine.record.lost(len(items))
            at = started + 1 - batch.base if batch.seq == running else 0
            begun += items[: max(0, at)]
            rest += items[max(0, at) :]
        self.lend(actor, False)
        if actor.state == DEAD:
            self._unreserve(actor)
            return
        starting = actor.is_starting
        was_crash = not actor.is_leaving
        if not handle.is_up:  # it never was one
            may_restart = not engine.environments.gives_up(handle.environment, crash.last_lines(handle))
        else:
            may_restart = actor.may_restart()
            actor.num_restarts += may_restart
        if was_crash and handle.batches:
            engine.counters.crashes += 1
            engine.record.crashed(handle.uid)
        if not may_restart:
            why = actor.is_leaving or "its process died"
            environment = actor.environment
            if handle.verdict is not None:
                why = str(handle.verdict.error).partition("\n")[0]
            died: GrainwiseError = self._died(actor, why, handle)
            if handle.verdict is not None:
                died.__cause__ = handle.verdict.error
            elif not handle.is_up and environment is not None and environment.error is not None:
                died = environment.error
            for ref in begun:
                engine.results.fail(ref, died if handle.verdict is None else handle.verdict.error)
            for ref in rest:
                engine.results.fail(ref, died)
            self.die(actor, died)
            return
        error = ActorUnavailableError(
            f"The actor is temporarily unavailable - actor {actor.options.class_name!r} died while it ran "
            f"this call and is being restarted - {self._story(actor, handle)} - set max_task_retries if it "
            f"is safe to run calls again",
            actor_name=actor.options.class_name, actor_id=actor_bytes(actor.id).hex(), pid=handle.pid or None,
        )  # fmt: skip
        again: list[ObjectRef[Any]] = []
        last = begun[-1] if begun else None
        for ref in begun:
            spec = ref._state
            if ref is starting or spec.__class__ is not TaskSpec:
                continue
            is_free = ref is not last and not actor.is_concurrent
            if spec.max_retries and (is_free or engine.results.charge(spec, ref)):
                again.append(ref)
            else:
                engine.results.fail(ref, error if handle.verdict is None else handle.verdict.error)
        engine.dispatcher.queue_first([ref for ref in (*again, *rest) if ref is not starting])
        actor.is_starting = None
        if starting is not None:
            engine.results.watchers.pop(starting, None)
        if actor.is_dropped and not actor.open and not actor.held:
            self.die(actor, self._died(actor, _DROPPED))
            return
        self._make(actor)

    def _died(self, actor: Actor, why: str, handle: WorkerHandle | None = None) -> ActorDiedError:
        """Return the error of all calls from here on."""
        name = actor.options.class_name
        story = "" if handle is None or not handle.is_exited else f" - {self._story(actor, handle)}"
        detail = ""
        if handle is not None and handle.is_exited:
            detail = crash.last_lines(handle)
        return ActorDiedError(
            f"The actor died - actor {name!r} does not answer any more: {why}{story}"
            + (f"\n{detail}" if detail else ""),
            actor_name=name,
            actor_id=actor_bytes(actor.id).hex(),
            pid=handle.pid or None if handle is not None else None,
            detail=detail,
        )

    def _story(self, actor: Actor, handle: WorkerHandle) -> str:
        """Say how a process ended, and how often that has happened."""
        text = f"process {handle.pid} ended by {crash.how_it_ended(handle.status)}"
        if actor.options.max_restarts:
            text += f", {actor.num_restarts} of max_restarts={actor.options.max_restarts} used"
        return text

    def lend(self, actor: Actor, is_waiting: bool) -> None:
        """An actor's call waits for others, or goes on: meanwhile the CPUs that it has are others'."""
        if actor.lease is not None:
            self.engine.reserved.lend(actor.lease, is_waiting)

    # -- cancelling ------------------------------------------------------------------------------------

    def cancel(self, ref: ObjectRef[Any], *, recursive: bool) -> None:
        """Cancel a call: one that has not begun never runs, of a running one nobody hears any more.

        A call on a thread is not interrupted, because the object must stay whole; what it has submitted is
        cancelled. On an event loop its coroutine is, and its result says so. A generator ends at a `yield`.
        """
        actor, call = ref._state.actor, ref._value
        error = TaskCancelledError(task_name=ref._state.name)
        handle = actor.handle
        batches = [] if handle is None else list(handle.batches.values())
        for number, batch in enumerate(batches):
            if ref not in batch.refs[batch.base : batch.stop]:
                continue
            index = batch.refs.index(ref, batch.base, batch.stop)
            assert handle is not None
            if actor.is_concurrent:
                self.engine.dispatcher.post(handle, (CANCEL_CALL, batch.seq, index))
                if actor.options.is_async:
                    return
            elif not self._take_back(handle, batches[number + 1 :], batch, index):
                handle.words[control.TOLD] = (batch.seq << 32 | index) + 1
                if recursive:
                    batch.cancelled.add(index)
                    for child in list((batch.children or {}).get(index, ())):
                        crash.cancel(self.engine, child, force=False, recursive=True)
            break
        self.engine.results.fail(ref, error)
        if call.__class__ is Call:
            self.settled(actor, ref, call)

    def _take_back(self, handle: WorkerHandle, later: list[SentBatch], batch: SentBatch, index: int) -> bool:
        """Take back all that an actor has not begun, from an item on, and keep its order."""
        dispatcher = self.engine.dispatcher
        for each, wanted in (*((other, 0) for other in reversed(later)), (batch, index)):
            if each.stop <= wanted:
                continue
            start = dispatcher.claim_back(handle, each, wanted)
            if start is None:
                return False
            if start < each.stop:
                dispatcher.requeue(handle, each, start)
            if start > wanted:
                return False
        return True
