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
    ActorAlreadyExistsError,
    ActorDiedError,
    EngineClosedError,
    WorkerStartError,
)  # fmt: skip
from ...objects.codec import ATOM_LIMIT, ATOMS, TEXTS, Packed, pack
from ...objects.ref import FAILED, PACKED, ObjectRef, actor_bytes
from ..calls import pending_limit
from ..needs import is_special, normal
from ..signatures import Signature
from ..wire.tasks import Call, TaskSpec
from .actor import ALIVE, DEAD, NEW, Actor, ActorFacts, ActorRef
from .actor_sending import ActorSending
from .environment import FAILED as FAILED_TO_MAKE
from .submissions import point_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..calls import ActorOptions, MethodOptions
    from ..current import Exportable
    from ..needs import Needs
    from ..processes.pool import WorkerHandle
    from ..wire.tasks import Function
    from .engine import Engine
    from .environment import Environment

_new_ref = ObjectRef.__new__
MAX_ENDED = 1000
"""Dead actors that listings still show."""


class Actors(ActorSending):
    """All actors of a session.

    Attributes:
        active: those with something in their queue, or without a process that they could have.
        by_id: those that are not dead.
        names: those that can be found, by namespace and name.
        ended: the last that have died, for listings.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.active: dict[Actor, None] = {}
        self.missed: deque[Actor] = deque()
        self.by_id: dict[int, Actor] = {}
        self.names: dict[tuple[str, str], Actor] = {}
        self.ended: deque[ActorFacts] = deque(maxlen=MAX_ENDED)
        self.refused: set[tuple[float, Needs]] = set()
        self.dropped: deque[int] = deque()
        self._dead: weakref.WeakKeyDictionary[ActorRef, Actor] = weakref.WeakKeyDictionary()

    def drop(self, identity: int) -> None:
        """Note that the last handle of an actor is gone; called by finalizers, in the middle of anything."""
        self.dropped.append(identity)
        self.engine.backstop.ring()

    def has_work(self) -> bool:
        """Say whether `send` has something to look at."""
        return bool(self.active or self.missed or self.dropped)

    # -- making ----------------------------------------------------------------------------------------

    def create(
        self, exported: Exportable, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions
    ) -> tuple[ActorRef, Any]:
        """Make an actor, or find the one of its name; return its ref and description. Takes the turn itself.

        Raises:
            SerializationError: the class or an argument can't be pickled.
            InfeasibleTaskError: more CPUs are asked for than the engine has.
            ActorAlreadyExistsError: the name is taken.
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
            ref = self.add(
                engine.borders.new_identity(), function, options, call, has_refs=has_refs,
                parent=engine.environments.own,
            )  # fmt: skip
        engine.backstop.wake()
        return ref, options.description

    def add(
        self, identity: int, function: Function, options: ActorOptions, call: Call, *, has_refs: bool,
        parent: Environment | None,
    ) -> ActorRef:  # fmt: skip
        """Enter a new actor and start it; `parent` is the environment of who has made it.

        Raises:
            InfeasibleTaskError: more is asked for than the engine has.
            ActorAlreadyExistsError: the name is taken.
        """
        options.needs = normal(options.needs)
        self.engine.reserved.check_feasible(options.num_cpus, options.needs, f"actor {options.class_name!r}")
        key = (options.namespace, options.name)
        if options.name and self._find(options.name, options.namespace) is not None:
            raise ActorAlreadyExistsError(
                f"The name {options.name} (namespace={options.namespace}) is already taken, its actor "
                f"exists already - expected a free one - use get_if_exists=True to take that actor"
            )
        actor = Actor(identity, function, options, call)
        actor.environment = self.engine.environments.of(parent, options.runtime_env)
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
                f"The actor died because of an error raised in its creation task - actor "
                f"{actor.options.class_name!r} was never made, its constructor failed: "
                f"{type(error).__name__}: {error}"[:2000],
                actor_name=actor.options.class_name,
                actor_init_failed=True,
                actor_id=actor_bytes(actor.id).hex(),
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
        """Start an actor's process, once there is what it occupies, and its environment."""
        engine, options, environment = self.engine, actor.options, actor.environment
        if environment is not None and not engine.environments.is_there(environment):
            if environment.error is not None and environment.state == FAILED_TO_MAKE:
                self.die(actor, environment.error)
            return None
        if actor.lease is None and (options.num_cpus or is_special(options.needs)):
            error = engine.reserved.removed(options.needs, "actor")
            if error is not None:
                self.die(actor, error)
                return None
            engine.dispatcher.is_reserving = True
            actor.lease = engine.reserved.admit(actor, options.num_cpus, options.needs)
            if actor.lease is None:
                self.refused.add((options.num_cpus, options.needs))
                return None  # until others have ended
        try:
            handle = engine.pool.start_worker(-1, environment)
        except (OSError, WorkerStartError) as error:
            self.die(actor, self._died(actor, f"its process could not be started: {error}"))
            return None
        handle.actor = actor
        actor.handle = handle
        if actor.lease is not None:
            handle.limit_bytes = actor.lease.limit_bytes()
            engine.reserved.equip(handle, actor.lease)
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
                f"Failed to look up actor with name {name!r} in namespace {namespace!r} - expected one that "
                f"was made there with options(name=...) and is alive"
            )
        return ref, self.by_id[ref._id].options.description

    def existing(self, options: ActorOptions) -> ActorRef | None:
        """Return the actor that has a name already."""
        return self._find(options.name, options.namespace)

    def describe(self, ref: ActorRef) -> Packed:
        """Return a ref and its description as they travel."""
        return pack((ref, self.by_id[ref._id].options.description), self.engine.store)

    def answer_find(
        self, handle: WorkerHandle, identity: int, which: str | int | None, namespace: str
    ) -> None:
        """Answer a worker that looks for an actor by name, for itself by identity, or for all (None)."""
        answer: ObjectRef[Any] = _new_ref(ObjectRef)
        answer._id = identity
        try:
            if which is None:
                found = pack(self.named(namespace or None), self.engine.store)
            elif isinstance(which, int):
                found = self.describe(self._ref_again(which))
            else:
                found = self.describe(self.find(which, namespace)[0])
            answer._value, answer._state = found, PACKED
        except (ValueError, ActorDiedError) as error:
            answer._value, answer._state = error, FAILED
        self.engine.borders.lend_ref(answer, handle)

    def named(self, namespace: str | None) -> list[tuple[str, str]]:
        """Return namespace and name of each actor that can be found, in one namespace or in all."""
        return [key for key in self.names if namespace is None or key[0] == namespace]

    def listed(self) -> list[ActorFacts]:
        """Return what listings show: all that are alive, and the last that have died."""
        return [*(actor.facts() for actor in self.by_id.values()), *self.ended]

    def _ref_again(self, identity: int) -> ActorRef:
        """Return the ref of a live actor; the last handle may be gone while its last call runs.

        Raises:
            ActorDiedError: it is dead.
        """
        actor = self.by_id.get(identity)
        if actor is None:
            raise ActorDiedError(actor_id=actor_bytes(identity).hex())
        known: ActorRef | None = actor.ref()
        if known is not None:
            return known
        actor.is_dropped = False
        return actor.new_ref(self)

    # -- calls -----------------------------------------------------------------------------------------

    def bind(self, handle_ref: ObjectRef[Any], options: MethodOptions) -> Callable[..., Any]:
        """Return what submits a call of a method; used in any thread.

        Raises:
            EngineClosedError: the actor belonged to a session that has ended.
        """
        engine = self.engine
        actor = self._actor_of(handle_ref)
        spec = actor.spec_of(options)
        limit_pending = options.max_pending
        submissions = engine.submissions
        signature = Signature(options.signature, options.method)
        check, least, most = signature.check, signature.least, signature.most

        held = actor, handle_ref  # whoever keeps this keeps the actor

        def slow(*args: Any, **kwargs: Any) -> Any:
            check(args, kwargs)
            actor = held[0]
            if limit_pending >= 0:
                self._check_pending(actor, limit_pending, spec.name)
            call, _, has_refs = submissions.pack_call(args, kwargs, spec.function.code, spec.name)
            return self.submit(actor, spec, call, has_refs)

        if options.num_returns != 1 or least > 1 or limit_pending >= 0:
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
                if size(args) != 1 or not most:
                    return slow(*args)
                (value,) = args
                value_kind = kind_of(value)
                if value_kind not in atoms and (value_kind not in texts or size(value) > limit):
                    return slow(*args)
            elif least:
                return slow()
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
        if spec.num_returns == 1 or spec.num_returns < 0:
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

    def _check_pending(self, actor: Actor, most: int, name: str) -> None:
        """Refuse a call of an actor that has as many under way as it may have.

        Raises:
            PendingCallsLimitExceeded: it has.
        """

        def is_free() -> bool:
            with self.engine.turn:
                return actor.num_pending() < most

        if not is_free() and not self.engine.wait_until(is_free, 0):
            raise pending_limit(name, most)

    def submit(self, actor: Actor, spec: TaskSpec, call: Call, has_refs: bool) -> Any:
        """Queue a call; return its ref, its refs or None. Takes the turn itself where that is needed."""
        ref, result = self.engine.submissions.open_call(spec, call)
        actor.has_calls = True
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
