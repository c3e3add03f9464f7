"""One actor as the driver sees it, and the ref that stands for it wherever a handle travels."""

from __future__ import annotations

from collections import deque

from ...objects.codec import Packed
from ...objects.ref import READY, ObjectRef
from ..wire.tasks import Function, TaskSpec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...errors import GrainwiseError
    from ..calls import ActorOptions, MethodOptions
    from ..processes.pool import WorkerHandle
    from ..wire.tasks import Call
    from .actors import Actors
    from .environment import Environment
    from .reserved import Lease

NEW = 0  # no process yet
STARTING = 1  # its process is to make it
ALIVE = 2
DEAD = 3

_NO_FUNCTION = Packed(b"", (), (), ())


class ActorRef(ObjectRef["Any"]):
    """Stands for an actor: every handle holds it, in this process or as a loan, and the last one ends it.

    It travels as any ref does, so whatever counts refs counts handles.
    """

    __slots__ = ("__weakref__", "actors")

    actors: Actors

    def __del__(self) -> None:
        try:
            self.actors.drop(self._id)
        except AttributeError:
            pass  # never finished


class ActorFacts:
    """What listings show of an actor; it outlives the actor.

    Attributes:
        id: its identity.
        class_name, name, namespace: how it is called; an empty name for none.
        state: "PENDING_CREATION", "ALIVE", "RESTARTING" or "DEAD".
        pid: its process, 0 if there is none.
        num_cpus: what it occupies.
        is_detached: it does not end with its handles.
        num_restarts: how often it was made again.
        error: why it is dead, empty if it is not.
    """

    __slots__ = (
        "class_name", "error", "id", "is_detached", "name", "namespace", "num_cpus", "num_restarts", "pid",
        "state",
    )  # fmt: skip

    def __init__(
        self, identity: int, class_name: str, name: str, namespace: str, state: str, pid: int,
        num_cpus: float, is_detached: bool, num_restarts: int, error: str,
    ) -> None:  # fmt: skip
        self.id = identity
        self.class_name = class_name
        self.name = name
        self.namespace = namespace
        self.state = state
        self.pid = pid
        self.num_cpus = num_cpus
        self.is_detached = is_detached
        self.num_restarts = num_restarts
        self.error = error


class Actor:
    """See the module docstring. Changes under the engine's turn; anyone may append to `open`.

    Attributes:
        id: its identity, and that of its `ActorRef`.
        function: the pickled class.
        creation: the arguments of its constructor, kept for as long as it may be made again.
        state: NEW, STARTING, ALIVE or DEAD; error: why it is dead.
        handle: its process.
        open: refs of calls in order of arrival: those not sent, of all methods. Anyone appends.
        send_at: a submitter that finds the queue this long calls `wake`; 0 has each do so.
        has_calls: some call in the queue carries a `Call`.
        held: calls that wait for others, and those behind them of the same caller, by caller; where calls may
            pass each other, one by one.
        num_restarts: how often it was made again.
        specs: its methods with their options.
        keep: its own ref, for one that nobody needs to hold.
        is_concurrent: its calls may run at once.
        is_dropped: the last handle is gone: it ends with its last call.
        is_leaving: it ends itself: why.
        is_starting: the ref of its constructor's call, until that has ended.
        environment: that of its process, None for the program's own.
        lease: what it occupies, if that is anything.
    """

    __slots__ = (
        "__weakref__", "creation", "environment", "error", "function", "handle", "has_calls", "held", "id",
        "is_concurrent", "is_dropped", "is_leaving", "is_starting", "keep", "lease", "num_restarts",
        "open", "options", "ref", "send_at", "specs", "state",
    )  # fmt: skip

    def __init__(self, identity: int, function: Function, options: ActorOptions, creation: Call) -> None:
        self.id = identity
        self.function = function
        self.options = options
        self.is_concurrent = options.is_concurrent()
        self.creation: Call | None = creation
        self.state = NEW
        self.error: GrainwiseError | None = None
        self.handle: WorkerHandle | None = None
        self.environment: Environment | None = None
        self.open: deque[ObjectRef[Any]] = deque()
        self.send_at = 1
        self.has_calls = False
        self.held: dict[Any, deque[ObjectRef[Any]]] = {}
        self.num_restarts = 0
        self.specs: dict[tuple[Any, ...], TaskSpec] = {}
        self.ref: Any = None  # a weak reference to the ActorRef
        self.keep: ActorRef | None = None
        self.is_dropped = False
        self.is_leaving = ""
        self.lease: Lease | None = None
        self.is_starting: ObjectRef[Any] | None = None

    def spec_of(self, options: MethodOptions) -> TaskSpec:
        """Return the spec of a method with options; it shares the actor's queue."""
        key = options.astuple()
        spec = self.specs.get(key)
        if spec is None:
            spec = self.specs[key] = self._new_spec(
                Function(b"", _NO_FUNCTION, options.name, None),
                options.name, options.num_returns, options.max_task_retries, options.retry_exceptions,
            )  # fmt: skip
            spec.method = options.method
            spec.group = options.group
        return spec

    def creation_spec(self) -> TaskSpec:
        """Return the spec of its constructor."""
        return self._new_spec(self.function, f"{self.options.class_name}.__init__", 1, 0, False)

    def _new_spec(
        self, function: Function, name: str, num_returns: int, max_retries: int, retry_exceptions: Any
    ) -> TaskSpec:
        spec = TaskSpec(
            function, num_cpus=0.0, num_returns=num_returns, max_retries=max_retries,
            retry_exceptions=retry_exceptions, name=name,
        )  # fmt: skip
        spec.open = self.open
        spec.actor = self
        return spec

    def new_ref(self, actors: Actors) -> ActorRef:
        """Make the ref that stands for it."""
        from weakref import ref as weak

        ref = ActorRef()
        ref._id, ref._state, ref._value = self.id, READY, None
        ref.actors = actors
        self.ref = weak(ref)
        if self.options.is_detached:
            self.keep = ref
        return ref

    def is_waiting_for_lease(self) -> bool:
        """Say whether it can't begin before it has what it is to occupy."""
        return self.state == NEW and self.lease is None

    def may_restart(self) -> bool:
        """Say whether it is made again when its process dies now."""
        if self.state == DEAD or self.is_leaving:
            return False
        return self.options.max_restarts < 0 or self.num_restarts < self.options.max_restarts

    def key_of(self, ref: ObjectRef[Any], call: Call) -> Any:
        """Return under what a call that waits is held."""
        return ref if self.is_concurrent else call.caller

    def num_pending(self) -> int:
        """Return how many of its calls have not ended."""
        batches = () if self.handle is None else tuple(self.handle.batches.values())
        sent = [ref for batch in batches for ref in batch.refs[batch.base : batch.stop]]
        return sum(
            ref._state.__class__ is TaskSpec and ref is not self.is_starting for ref in (*sent, *self.refs())
        )

    def facts(self) -> ActorFacts:
        """Return what listings show of it."""
        options = self.options
        restarting = "RESTARTING" if self.num_restarts else "PENDING_CREATION"
        state = {DEAD: "DEAD", ALIVE: "ALIVE"}.get(self.state, restarting)
        pid = 0 if self.handle is None else self.handle.pid
        return ActorFacts(
            self.id, options.class_name, options.name, options.namespace, state, pid, options.num_cpus,
            options.is_detached, self.num_restarts, "" if self.error is None else str(self.error),
        )  # fmt: skip

    def refs(self) -> list[ObjectRef[Any]]:
        """Return all its calls that are not sent."""
        return [*(ref for held in self.held.values() for ref in held), *self.open]
