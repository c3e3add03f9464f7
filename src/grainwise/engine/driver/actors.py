"""Actors: processes of their own that hold an object and run calls of its methods, in order.

    handle.method.remote(x) ──append──► actor.open ──send──► its process ··· results ──► ref._value
                                            │
                  a call that waits for a ref, and those behind it of the same caller: actor.held

An actor is a worker that is forked for it and that the policy does not know: nobody else can run its calls,
so there is nothing to choose. Its constructor is the first item that this worker gets, and a call is a ref
whose spec is a method: what holds for batches of tasks holds for batches of calls.

Guarantees:

* Calls of one caller (the driver, or one worker) run in the order in which they were submitted, also if an
  earlier one must wait for its arguments. Where calls may run at once (`async def`, `max_concurrency`,
  groups), they begin as soon as they can.
* An actor ends when its last handle is gone and its calls have ended; handles are refs (`actor.ActorRef`) and
  counted as such, wherever they are. A detached one holds its own.
* When its process dies, the call that was running, and those that had ended within the last fraction of a
  millisecond without being reported, are run again if they may be (`max_task_retries`), else they fail. What
  had not begun waits for the actor's restart, if there is one (`max_restarts`).

All of it happens under the engine's turn, unless stated otherwise.
"""

from __future__ import annotations

import weakref
from collections import deque

from ...errors import (
    ActorDiedError,
    ActorUnavailableError,
    EngineClosedError,
    GrainwiseError,
    InfeasibleTaskError,
    TaskCancelledError,
    WorkerStartError,
)  # fmt: skip
from ...objects.codec import ATOM_LIMIT, ATOMS, TEXTS, Packed, pack
from ...objects.ref import FAILED, PACKED, ObjectRef
from ..wire import control
from ..wire.tasks import ACT, CANCEL_CALL, CREATES, EAGER, EXIT, RUN, Call, TaskSpec
from . import crash
from .actor import ALIVE, DEAD, NEW, STARTING, Actor, ActorRef
from .batches import SentBatch, parts_of
from .submissions import point_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..calls import ActorOptions, MethodOptions
    from ..current import Exportable
    from ..processes.pool import WorkerHandle
    from ..wire.tasks import Function
    from .engine import Engine

BATCH_BYTES = 1 << 20
"""Arguments that travel inline with one batch."""
BATCH_S = 20e-3
"""A batch is worth at most so much: what runs behind it can't be cancelled as easily."""
MAX_BATCH = 4096
FIRST_BATCH = 64
"""While it is unknown what a method costs."""
MAX_UNDER_WAY = 2
MAX_CONCURRENT = 1 << 20
BLOCK_S = 200e-6
NO_LIMIT = (1 << 63) - 1
_new_ref = ObjectRef.__new__


class Actors:
    """All actors of a session.

    Attributes:
        active: those with something in their queue, or without a process that they could have.
        by_id: those that are not dead.
        names: those that can be found, by namespace and name.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.active: dict[Actor, None] = {}
        self.missed: deque[Actor] = deque()
        self.by_id: dict[int, Actor] = {}
        self.names: dict[tuple[str, str], Actor] = {}
        self.reserved_cpus = 0.0
        self._dropped: deque[int] = deque()
        self._dead: weakref.WeakKeyDictionary[ActorRef, Actor] = weakref.WeakKeyDictionary()

    def drop(self, identity: int) -> None:
        """Note that the last handle of an actor is gone; called by finalizers, in the middle of anything."""
        self._dropped.append(identity)
        self.engine.backstop.ring()

    def has_work(self) -> bool:
        """Say whether `send` has something to look at."""
        return bool(self.active or self.missed or self._dropped)

    # -- making ----------------------------------------------------------------------------------------

    def create(
        self, exported: Exportable, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions
    ) -> tuple[ActorRef, Any]:
        """Make an actor, or find the one of its name; return its ref and description. Takes the turn itself.

        Raises:
            SerializationError: the class or an argument can't be pickled.
            InfeasibleTaskError: more CPUs are asked for than the engine has.
            ValueError: the name is taken.
        """
        engine = self.engine
        engine.check_open()
        if options.may_exist:
            with engine.turn:
                known = self._find(options.name, options.namespace)
            if known is not None:
                return known, self.by_id[known._id].options.description
        function = engine.submissions.export(exported)
        name = f"{options.class_name}.__init__"
        call, _, has_refs = engine.submissions.pack_call(args, kwargs, None, name)
        with engine.turn:
            engine.check_open()
            ref = self.add(engine.borders.new_identity(), function, options, call, has_refs=has_refs)
        engine.backstop.wake()
        return ref, options.description

    def add(
        self, identity: int, function: Function, options: ActorOptions, call: Call, *, has_refs: bool
    ) -> ActorRef:
        """Enter a new actor and start it.

        Raises:
            InfeasibleTaskError: more CPUs are asked for than the engine has.
            ValueError: the name is taken.
        """
        have = self.engine.settings.num_cpus
        if options.num_cpus > have:
            raise InfeasibleTaskError(
                f"actor {options.class_name!r} asks for num_cpus={options.num_cpus:g} - expected at most "
                f"{have:g}, which is what the engine has"
            )
        key = (options.namespace, options.name)
        if options.name and self._find(options.name, options.namespace) is not None:
            raise ValueError(
                f"an actor named {options.name!r} exists already in namespace {options.namespace!r} - "
                f"expected a free name - use get_if_exists=True to take the one that exists"
            )
        actor = Actor(identity, function, options, call)
        ref = actor.new_ref(self)
        self.by_id[identity] = actor
        if options.name:
            self.names[key] = actor
        self._make(actor, has_refs=has_refs)
        return ref

    def _make(self, actor: Actor, *, has_refs: bool = False) -> None:
        """Have an actor's constructor run, before everything else that it has to do."""
        call = actor.creation
        assert call is not None
        call.is_sent = False
        spec = actor.creation_spec()
        ref: ObjectRef[Any] = _new_ref(ObjectRef)
        ref._value, ref._state = call, spec
        actor.has_calls = spec.has_calls = True
        actor.state = NEW
        actor.is_starting = ref
        self.engine.results.watch(ref, lambda _: self._made(actor, ref))
        if has_refs:
            self.engine.submissions.await_arguments(spec, ref, call)
        self.active[actor] = None
        self._send(actor, waiting=True)

    def _made(self, actor: Actor, ref: ObjectRef[Any]) -> None:
        """The constructor has returned or raised."""
        if actor.is_starting is not ref:
            return
        actor.is_starting = None
        if ref._state == FAILED:
            error = ref._value
            made = ActorDiedError(
                f"actor {actor.options.class_name!r} was never made - its constructor failed: "
                f"{type(error).__name__}: {error}"[:2000],
                actor_name=actor.options.class_name,
                actor_id=f"{actor.id:032x}",
                pid=getattr(error, "pid", None),
                detail=str(getattr(error, "traceback_text", "")),
            )
            made.__cause__ = error
            self.die(actor, made)
            return
        actor.state = ALIVE
        if not actor.options.max_restarts:
            actor.creation = None  # and with it what it was given
        self.active[actor] = None

    def _place(self, actor: Actor) -> WorkerHandle | None:
        """Start an actor's process, once there are CPUs for it."""
        cpus = actor.options.num_cpus
        engine = self.engine
        if cpus and not actor.is_reserved:
            if self.reserved_cpus + cpus > engine.settings.num_cpus + 1e-9:
                return None  # until another actor ends
            actor.is_reserved = True
            self.reserved_cpus += cpus
            engine.dispatcher.policy.reserve(cpus)
        try:
            handle = engine.pool.start_worker(-1)
        except (OSError, WorkerStartError) as error:
            self.die(actor, self._died(actor, f"its process could not be started: {error}"))
            return None
        handle.actor = actor
        actor.handle = handle
        return handle

    # -- finding ---------------------------------------------------------------------------------------

    def _find(self, name: str, namespace: str) -> ActorRef | None:
        actor = self.names.get((namespace, name))
        ref: ActorRef | None = None if actor is None else actor.ref()
        return ref

    def find(self, name: str, namespace: str) -> tuple[ActorRef, Any]:
        """Return the ref and the description of the actor of a name.

        Raises:
            ValueError: there is none.
        """
        ref = self._find(name, namespace)
        if ref is None:
            raise ValueError(
                f"there is no actor named {name!r} in namespace {namespace!r} - expected one that was made "
                f"with options(name=...) and is alive"
            )
        return ref, self.by_id[ref._id].options.description

    def existing(self, options: ActorOptions) -> ActorRef | None:
        """Return the actor that has a name already."""
        return self._find(options.name, options.namespace)

    def describe(self, ref: ActorRef) -> Packed:
        """Return a ref and its description as they travel."""
        return pack((ref, self.by_id[ref._id].options.description), self.engine.store)

    def answer_find(self, handle: WorkerHandle, identity: int, name: str, namespace: str) -> None:
        """Answer a worker that looks for an actor."""
        answer: ObjectRef[Any] = _new_ref(ObjectRef)
        answer._id = identity
        try:
            answer._value, answer._state = self.describe(self.find(name, namespace)[0]), PACKED
        except ValueError as error:
            answer._value, answer._state = error, FAILED
        self.engine.borders.lend_ref(answer, handle)

    # -- calls -----------------------------------------------------------------------------------------

    def bind(self, handle_ref: ObjectRef[Any], options: MethodOptions) -> Callable[..., Any]:
        """Return what submits a call of a method; used in any thread.

        Raises:
            EngineClosedError: the actor belonged to a session that has ended.
        """
        engine = self.engine
        actor = self._actor_of(handle_ref)
        spec = actor.spec_of(options)
        submissions = engine.submissions

        held = actor, handle_ref  # whoever keeps this keeps the actor

        def slow(*args: Any, **kwargs: Any) -> Any:
            actor = held[0]
            call, _, has_refs = submissions.pack_call(args, kwargs, spec.function.code, spec.name)
            return self.submit(actor, spec, call, has_refs)

        if options.num_returns != 1:
            return slow
        queue = actor.open
        append, wake = queue.append, engine.wake_actor
        new, kind, atoms, texts, size, kind_of = _new_ref, ObjectRef, ATOMS, TEXTS, len, type
        limit = ATOM_LIMIT
        nothing: Any = ()

        def submit(*args: Any, **kwargs: Any) -> Any:
            if kwargs:
                return slow(*args, **kwargs)
            if args:
                if size(args) != 1:
                    return slow(*args)
                (value,) = args
                value_kind = kind_of(value)
                if value_kind not in atoms and (value_kind not in texts or size(value) > limit):
                    return slow(*args)
            else:
                value = nothing
            ref = new(kind)
            ref._value = value
            ref._state = spec
            append(ref)
            if size(queue) >= actor.send_at:
                wake(actor)
            return ref

        return submit

    def known(self, identity: int) -> Actor:
        """Return the actor of an identity, which a worker has a handle of."""
        ref = self.engine.borders.refs[identity]
        if not isinstance(ref, ActorRef):
            raise ref._value if ref._state == FAILED else LookupError(f"{identity:#x} is no actor")
        return self._actor_of(ref)

    def enter(self, actor: Actor, spec: TaskSpec, call: Call, refs: list[ObjectRef[Any]]) -> ObjectRef[Any]:
        """Take a call that a worker has submitted, with the refs that it made; return what stands for it."""
        if spec.num_returns == 1:
            ref = refs[0]
        else:
            ref = _new_ref(ObjectRef)
            call.outs = tuple(refs[: spec.num_returns])
            point_to(call.outs, spec, ref)
        ref._value, ref._state = call, spec
        self.queue(actor, ref, call)
        return ref

    def _actor_of(self, ref: ObjectRef[Any]) -> Actor:
        actor = self.by_id.get(ref._id)
        if actor is None and isinstance(ref, ActorRef):
            actor = self._dead.get(ref)
        if actor is None:
            self.engine.check_open()
            raise EngineClosedError(
                "a handle of an actor was used whose session has ended - expected one of the running session"
            )
        return actor

    def submit(self, actor: Actor, spec: TaskSpec, call: Call, has_refs: bool) -> Any:
        """Queue a call; return its ref, its refs or None. Takes the turn itself where that is needed."""
        ref: ObjectRef[Any] = _new_ref(ObjectRef)
        ref._value = call
        ref._state = spec
        actor.has_calls = spec.has_calls = True
        result: Any = ref
        if spec.num_returns != 1:
            call.outs = tuple(_new_ref(ObjectRef) for _ in range(spec.num_returns))
            point_to(call.outs, spec, ref)
            result = list(call.outs) if call.outs else None
        if has_refs:
            with self.engine.turn:
                self.queue(actor, ref, call)
        else:
            actor.open.append(ref)
        if len(actor.open) >= actor.send_at:
            self.engine.wake_actor(actor)
        return result

    def queue(self, actor: Actor, ref: ObjectRef[Any], call: Call) -> None:
        """Queue a call that may wait for refs."""
        actor.has_calls = ref._state.has_calls = True
        if actor.state == DEAD:
            self.engine.results.fail(ref, actor.error or self._died(actor, "it is dead"))
            return
        actor.open.append(ref)
        self.active[actor] = None
        if any(isinstance(arg, ObjectRef) for arg in call.args):
            self.engine.submissions.await_arguments(ref._state, ref, call)

    def settled(self, actor: Actor, ref: ObjectRef[Any], call: Call) -> None:
        """A call waits no more: its arguments are there, or it has failed."""
        key = actor.key_of(ref, call)
        held = actor.held.get(key)
        if held:
            first = held[0]
            if first._state.__class__ is TaskSpec and first._value.wants:
                return
            del actor.held[key]
            actor.open.extendleft(reversed(held))
        if actor.state != DEAD:
            self.active[actor] = None

    # -- sending ---------------------------------------------------------------------------------------

    def look_at(self, actor: Actor) -> None:
        """A submitter has found the queue of an actor long enough for a look."""
        self.active[actor] = None
        self._send(actor, waiting=False)

    def send(self, waiting: bool) -> None:
        """Send what can be sent."""
        while self.missed:
            self.active[self.missed.popleft()] = None
        if self._dropped:
            self._collect()
        for actor in list(self.active):
            self._send(actor, waiting)

    def _send(self, actor: Actor, waiting: bool) -> None:
        if actor.state == DEAD:
            self._fail_queue(actor)
            return
        if actor.state == NEW:
            ref = actor.is_starting
            if ref is None or (ref._state.__class__ is TaskSpec and ref._value.wants):
                return
            handle = actor.handle or self._place(actor)
            if handle is None:
                return
            actor.state = STARTING
            if actor.is_concurrent:
                options = actor.options
                self.engine.dispatcher.post(
                    handle,
                    (ACT, options.class_name, options.is_async, options.max_concurrency, options.groups),
                )
            self._post(actor, handle, [ref], CREATES)
        handle = actor.handle
        assert handle is not None
        policy = self.engine.dispatcher.policy
        most_batches = MAX_CONCURRENT if actor.is_concurrent else MAX_UNDER_WAY
        while actor.open and len(handle.batches) < most_batches:
            key = actor.open[0]._state
            mean_s = policy.mean_s(key.number) if key.__class__ is TaskSpec else None
            if not waiting and mean_s is not None and len(actor.open) < policy.next_look(key.number):
                break
            most = FIRST_BATCH if mean_s is None else max(1, min(MAX_BATCH, int(BATCH_S / max(mean_s, 1e-7))))
            refs = self._pop(actor, most)
            if not refs:
                break
            self._post(actor, handle, refs, 0)
        left = len(actor.open)
        if left:
            key = actor.open[0]._state
            actor.send_at = left + (policy.next_look(key.number) if key.__class__ is TaskSpec else 1)
            return
        self.active.pop(actor, None)
        actor.send_at = 1
        if actor.open:  # a submitter was quicker than the line above
            self.active[actor] = None
        elif actor.is_dropped:
            self._end_if_done(actor)

    def _pop(self, actor: Actor, most: int) -> list[ObjectRef[Any]]:
        """Take calls off a queue: those that may be sent, as many as fit into a batch."""
        queue = actor.open
        refs: list[ObjectRef[Any]] = []
        if not actor.has_calls:
            pop = queue.popleft
            refs = [pop() for _ in range(min(most, len(queue)))]
            if not actor.has_calls:  # as it was before the first of them
                return [ref for ref in refs if ref._state.__class__ is TaskSpec]
            queue.extendleft(reversed(refs))
            refs = []
        held, room = actor.held, BATCH_BYTES
        while queue and len(refs) < most and room > 0:
            ref = queue.popleft()
            if ref._state.__class__ is not TaskSpec:
                continue  # cancelled
            call = ref._value
            if call.__class__ is not Call:
                if 0 in held:
                    held[0].append(ref)
                else:
                    refs.append(ref)
            elif call.caller in held:
                held[call.caller].append(ref)
            elif call.wants:
                held[actor.key_of(ref, call)] = deque([ref])
            else:
                call.is_sent = True
                room -= call.nbytes
                refs.append(ref)
        return refs

    def _post(self, actor: Actor, handle: WorkerHandle, refs: list[ObjectRef[Any]], flags: int) -> None:
        """Send calls as one batch."""
        engine, dispatcher = self.engine, self.engine.dispatcher
        specs = [ref._state for ref in refs]
        count = len(specs)
        parts = [(count, specs[0])] if specs.count(specs[0]) == count else parts_of(specs)
        seq = handle.next_seq
        at = control.claim_word(seq)
        handle.words[at] = 0
        handle.words[at + 1] = NO_LIMIT
        values = [ref._value for ref in refs]
        calls = None
        try:
            if flags & CREATES:
                dispatcher.teach(handle, specs[0], seq, 0)
            if actor.has_calls:
                calls = values
                lend = engine.borders.lender(handle)
                for value in values:
                    if value.__class__ is Call:
                        value.is_sent = True
                        value.where = (handle.uid, seq)
                values = [value.wire(lend) if value.__class__ is Call else value for value in values]
            at_once = actor.is_concurrent and not flags & CREATES
            wire_parts = [
                (
                    end, spec.method or spec.function.id, spec.group if at_once else self._hint(spec),
                    spec.num_returns, spec.name,
                )
                for end, spec in parts
            ]  # fmt: skip
            dispatcher.post(handle, (RUN, seq, flags | EAGER, values, wire_parts))
        except BaseException as error:
            if not isinstance(error, GrainwiseError):
                actor.open.extendleft(reversed(refs))
                raise
            for ref in refs:
                engine.results.fail(ref, error)  # such as a value of an earlier session
            return
        batch = dispatcher.note_sent(handle, SentBatch(seq, refs, parts, flags, -1))
        batch.calls = calls

    def _hint(self, spec: TaskSpec) -> int:
        """Return how many calls are claimed at once, at first: what is claimed can't be taken back."""
        mean_s = self.engine.dispatcher.policy.mean_s(spec.number)
        return 1 if mean_s is None else max(1, int(BLOCK_S / max(mean_s, 1e-7)))

    # -- what has come back ----------------------------------------------------------------------------

    def done(self, handle: WorkerHandle, items: list[tuple[int, int, int, Any, float]]) -> None:
        """Calls that run at once have ended: (batch, index, part, result, seconds) of each."""
        results, record, policy = self.engine.results, self.engine.record, self.engine.dispatcher.policy
        now = record.clock()
        for seq, index, part, value, spent_s in items:
            batch = handle.batches.get(seq)
            if batch is None:
                continue
            batch.num_left -= 1
            is_end = not batch.num_left
            times = ((part, 1, spent_s, spent_s),)
            record.reported(handle.uid, batch, 1, times, now, is_end)
            results.resolve(handle, batch.refs[index], value)
            spec = batch.spec_at(index)
            policy.finished(handle.number, spec.number, 0, 1, 0.0, 0.0)
            if is_end:
                batch.base = batch.stop
                results.end_batch(handle, batch, batch.stop)

    def batch_ended(self, actor: Actor) -> None:
        """A batch of an actor has ended."""
        if actor.open:
            self.active[actor] = None
        elif actor.is_dropped:
            self._end_if_done(actor)

    def lend(self, actor: Actor, is_waiting: bool) -> None:
        """An actor's call waits for others, or goes on: meanwhile the CPUs that it has are others'."""
        if is_waiting != actor.is_lending and actor.is_reserved:
            actor.is_lending = is_waiting
            cpus = actor.options.num_cpus
            self.engine.dispatcher.policy.reserve(-cpus if is_waiting else cpus)

    # -- ends ------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Look after actors whose last handle is gone."""
        while self._dropped:
            actor = self.by_id.get(self._dropped.popleft())
            if actor is not None and actor.ref() is None:
                actor.is_dropped = True
                self._end_if_done(actor)

    def _end_if_done(self, actor: Actor) -> None:
        """End an actor that nobody can call any more, behind its last call."""
        if actor.state == DEAD or actor.open or actor.held or actor.state == NEW:
            if actor.state == NEW and not actor.open and not actor.held and actor.handle is None:
                self.die(actor, self._died(actor, "its last handle is gone"))
            return
        handle = actor.handle
        if handle is None or handle.batches:
            return
        self.engine.dispatcher.post(handle, (EXIT,))
        self.die(actor, self._died(actor, "its last handle is gone"), is_ending=True)

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
            self.die(actor, self._died(actor, "it was killed by kill()", handle))
        elif handle is not None:
            self.engine.pool.kill(handle)

    def die(self, actor: Actor, error: ActorDiedError, *, is_ending: bool = False) -> None:
        """End an actor for good: all its calls fail, and all later ones."""
        if actor.state == DEAD:
            return
        engine = self.engine
        actor.state = DEAD
        actor.error = error
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
        if actor.is_reserved:
            self.lend(actor, False)
            actor.is_reserved = False
            self.reserved_cpus -= actor.options.num_cpus
            self.engine.dispatcher.policy.reserve(-actor.options.num_cpus)
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
            may_restart = not engine.pool.note_start_failure()
        else:
            may_restart = actor.may_restart()
            actor.num_restarts += may_restart
        if was_crash and handle.batches:
            engine.counters.crashes += 1
            engine.record.crashed(handle.uid)
        if not may_restart:
            died = self._died(actor, actor.is_leaving or "its process died", handle)
            for ref in (*begun, *rest):
                engine.results.fail(ref, died)
            self.die(actor, died)
            return
        error = ActorUnavailableError(
            f"actor {actor.options.class_name!r} died while it ran this call and is being restarted - "
            f"{self._story(actor, handle)} - set max_task_retries if it is safe to run calls again",
            actor_name=actor.options.class_name, actor_id=f"{actor.id:032x}", pid=handle.pid or None,
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
                engine.results.fail(ref, error)
        engine.dispatcher.queue_first([ref for ref in (*again, *rest) if ref is not starting])
        actor.is_starting = None
        if starting is not None:
            engine.results.watchers.pop(starting, None)
        if actor.is_dropped and not actor.open and not actor.held:
            self.die(actor, self._died(actor, "its last handle is gone"))
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
            f"actor {name!r} does not answer any more - {why}{story}" + (f"\n{detail}" if detail else ""),
            actor_name=name,
            actor_id=f"{actor.id:032x}",
            pid=handle.pid or None if handle is not None else None,
            detail=detail,
        )

    def _story(self, actor: Actor, handle: WorkerHandle) -> str:
        """Say how a process ended, and how often that has happened."""
        text = f"process {handle.pid} ended by {crash.how_it_ended(handle.status)}"
        if actor.options.max_restarts:
            text += f", {actor.num_restarts} of max_restarts={actor.options.max_restarts} used"
        return text

    # -- cancelling ------------------------------------------------------------------------------------

    def cancel(self, ref: ObjectRef[Any], *, recursive: bool) -> None:
        """Cancel a call: one that has not begun never runs; what a running one has submitted is cancelled."""
        spec = ref._state
        actor = spec.actor
        call = ref._value
        error = TaskCancelledError(task_name=spec.name)
        handle = actor.handle
        batches = [] if handle is None else list(handle.batches.values())
        for number, batch in enumerate(batches):
            if ref not in batch.refs[batch.base : batch.stop]:
                continue
            index = batch.refs.index(ref, batch.base, batch.stop)
            assert handle is not None
            if actor.is_concurrent:
                self.engine.dispatcher.post(handle, (CANCEL_CALL, batch.seq, index))
                return  # its result will say
            if self._take_back(handle, batches[number + 1 :], batch, index):
                break
            if recursive:
                batch.cancelled.add(index)
                for child in list((batch.children or {}).get(index, ())):
                    crash.cancel(self.engine, child, force=False, recursive=True)
            return  # it runs, or has run: a call is not interrupted, its object must stay whole
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
