"""Submitting inside a task: `remote`, `put` and `cancel`.

Children are collected in a buffer and leave together: when their parent blocks, when its item ends, when
there are many, or at the reporter's next tick. The driver owns and schedules them, unless the parent runs
them itself (`own_children`).
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque

from ...objects.codec import Packed, is_atom, serialize
from ...objects.ref import READY, ObjectRef
from .. import current
from ..calls import DYNAMIC, limit_of, num_refs, pending_limit
from ..generators import ObjectRefGenerator
from ..needs import NO_GROUP, infeasible, to_units, with_cpus
from ..signatures import Signature, signature_of
from ..wire import control
from ..wire.failures import pack_or_name
from ..wire.tasks import ASK, CANCEL_REF, FIND_ACTOR, KILL_ACTOR, PUT, SUBMIT, argument_name
from .own_children import LATENT, SENT, OwnChildren
from .values import BorrowedRef, Values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ..calls import ActorOptions, MethodOptions
    from ..current import Exportable, Options
    from ..needs import Needs
    from .loop import Worker
    from .yielding import Flow

SHIP_AT = 64
LATE = "group_ready"
"""What is asked for where the answer may come much later: see `driver.questions`."""
UID_SHIFT = 40


class Child:
    """A submitted task in the buffer: what will be sent, and what it was made of."""

    __slots__ = ("args", "function", "kept", "names", "options", "packed_function", "refs", "wire")

    def __init__(
        self,
        wire: tuple[Any, ...],
        function: Exportable | None,
        options: Any,
        args: list[Any],
        names: tuple[str, ...],
        packed_function: Packed | None,
        refs: list[BorrowedRef],
        kept: tuple[Any, ...],
    ) -> None:
        self.wire = wire
        self.function: Any = function  # None for a call of an actor
        self.options = options
        self.args = args
        self.names = names
        self.packed_function = packed_function
        self.refs = refs
        self.kept = kept  # the plain arguments: values and refs must outlive the frame


class Submitting(Values):
    """Takes what a task submits.

    Attributes:
        buffer: children that have not been sent.
        untaught: functions for the driver that left the buffer with a child that ran here.
        own: runs children out of the buffer.
        flows: the generators that run; changes under the worker's send lock.
        waited_s: how long the running item has waited for others.
        totals: what the session has.
        assigned: what this task or actor has, None if that is CPUs only; gpu_ids: its GPUs; group: its
            placement group and whether what it submits goes there, too.
        are_gpus_named: the program had them named by CUDA_VISIBLE_DEVICES.
        _pending: calls from here that may be under way, by the actor, where their number is limited.
    """

    def __init__(self, worker: Worker, num_cpus: float, totals: dict[str, float]) -> None:
        super().__init__(worker)
        self.num_cpus = num_cpus
        self.totals = totals
        self.assigned: dict[str, float] | None = None
        self.gpu_ids: list[str] = []
        self.are_gpus_named = "CUDA_VISIBLE_DEVICES" in os.environ
        self.group: tuple[str, bool] | None = None
        self.is_closed = False
        self.waited_s = 0.0
        self.buffer: deque[Child] = deque()
        self.untaught: dict[bytes, Any] = {}
        self.own = OwnChildren(self)
        self.flows: list[Flow] = []
        self._pending: dict[int, list[ObjectRef[Any]]] = {}
        self._ids = itertools.count(1)
        self._told: set[bytes] = set()

    def bind(
        self, function: Exportable, options: Options, again: Callable[..., Any] | None = None
    ) -> Callable[..., Any]:
        """Return what submits a call of a function."""
        self.check_feasible(options.num_cpus, options.needs, f"task {options.name!r}")
        num_cpus, num_returns, max_retries, classes, name, batching, runtime_env, needs = options.astuple()
        if isinstance(classes, tuple):
            classes = serialize(classes)  # nothing of the user's enters a frame as it is
        astuple = (num_cpus, num_returns, max_retries, classes, name, batching, runtime_env, needs)

        check = signature_of(function.function, options.name).check

        def submit(*args: Any, **kwargs: Any) -> Any:
            check(args, kwargs)
            return self._submit(function, astuple, options, args, kwargs)

        return submit

    def _submit(
        self,
        function: Exportable,
        astuple: tuple[Any, ...],
        options: Options,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        self._check_open()
        if self.group is not None:
            astuple = (*astuple[:-1], self.captured(options.needs))
        # First everything is packed, then it is lent: what can't be sent must not be owned by nobody.
        packed_function = self._pack_function(function, options.name)
        code = getattr(function.function, "__code__", None)
        packed_args = self._pack_args(args, kwargs, code, options.name)
        refs = self._new_refs(num_refs(options.num_returns))
        self._append(
            function.identify(), function, astuple, options, packed_args, tuple(kwargs), packed_function,
            refs, (args, kwargs),
        )  # fmt: skip
        return self._outcome(options.num_returns, refs)

    def _outcome(self, num_returns: int, refs: list[BorrowedRef]) -> Any:
        """Return what a call returns whose refs these are."""
        if num_returns == 0:
            return None
        if num_returns < 0 and num_returns != DYNAMIC:
            from .consuming import Inlet

            return ObjectRefGenerator(Inlet(self, refs, limit_of(num_returns)))
        return refs[0] if len(refs) == 1 else list(refs)

    def _pack_function(self, function: Exportable, name: str) -> Packed | None:
        """Return a function or class packed, None if the driver knows it."""
        if function.is_exported or function.identify() in self._told:
            return None
        return pack_or_name(
            function.function, self.worker.outpost, what="function", name=function.name, task_name=name
        )

    def _pack_args(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], code: Any, task_name: str
    ) -> list[Any]:
        names = tuple(kwargs)
        count = len(args) + len(names)
        return [
            self._pack_arg(arg, argument_name(i, count, names, code), task_name)
            for i, arg in enumerate((*args, *kwargs.values()))
        ]

    def _new_refs(self, count: int) -> list[BorrowedRef]:
        base = self.worker.uid << UID_SHIFT
        return [self._borrow(base | next(self._ids)) for _ in range(max(1, count))]

    def _append(
        self, uid: bytes | int, function: Exportable | None, astuple: tuple[Any, ...], options: Any,
        packed_args: list[Any], names: tuple[str, ...], packed_function: Packed | None,
        refs: list[BorrowedRef], kept: tuple[Any, ...], *, is_actor: bool = False,
    ) -> None:  # fmt: skip
        """Put a child into the buffer; its uid is an actor's identity if it is a call of a method."""
        batch = self.worker.batch
        self.worker.sync()
        child = (
            [ref._id for ref in refs],
            uid,
            "" if function is None else function.name,
            None if packed_function is None else self.wire(packed_function),
            astuple,
            [self.wire(arg) for arg in packed_args],
            names,
            None if batch is None else (batch.seq, self.worker.words[control.STARTED]),
            is_actor,
        )
        for ref in refs:
            ref.place = LATENT
        self.buffer.append(Child(child, function, options, packed_args, names, packed_function, refs, kept))
        if packed_function is not None and function is not None:
            self._told.add(function.identify())
        if len(self.buffer) >= SHIP_AT:
            self.send_open()
        else:
            self.worker.wake_reporter()

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Return the values of refs, waiting for them."""
        raise NotImplementedError

    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait until so many refs are resolved or the time is over."""
        raise NotImplementedError

    # -- actors ----------------------------------------------------------------------------------------

    def create_actor(
        self, exported: Exportable, args: tuple[Any, ...], kwargs: dict[str, Any], options: ActorOptions
    ) -> tuple[ObjectRef[Any], Any]:
        """Make an actor, or find the one of its name; return its ref and description."""
        self._check_open()
        options.needs = self.captured(options.needs)
        self.check_feasible(options.num_cpus, options.needs, f"actor {options.class_name!r}")
        name = f"{options.class_name}.__init__"
        packed_function = self._pack_function(exported, name)
        packed_args = self._pack_args(args, kwargs, None, name)
        refs = self._new_refs(2)  # the actor's, and that of the answer where its name may be taken
        self._append(
            exported.identify(), exported, options.astuple(), options, packed_args, tuple(kwargs),
            packed_function, refs, (args, kwargs), is_actor=True,
        )  # fmt: skip
        if options.name:
            self.send_open()
            found: tuple[ObjectRef[Any], Any] = self.get([refs[1]], None)[0]
            return found
        return refs[0], options.description

    def bind_method(self, ref: ObjectRef[Any], options: MethodOptions) -> Callable[..., Any]:
        """Return what submits a call of an actor's method."""
        method, name, num_returns, retries, classes, group = options.astuple()
        check = Signature(options.signature, method).check
        if isinstance(classes, tuple):
            classes = serialize(classes)
        astuple = (method, name, num_returns, retries, classes, group)

        most = options.max_pending
        pending = self._pending.setdefault(ref._id, []) if most >= 0 else []

        def submit(*args: Any, **kwargs: Any) -> Any:
            self._check_open()
            check(args, kwargs)
            if most >= 0:
                self._check_pending(pending, most, name)
            packed_args = self._pack_args(args, kwargs, None, name)
            refs = self._new_refs(num_refs(num_returns))
            if most >= 0:
                pending.append(refs[0])
            self._append(
                ref._id, None, astuple, options, packed_args, tuple(kwargs), None, refs, (args, kwargs, ref)
            )
            return self._outcome(num_returns, refs)

        return submit

    def _check_pending(self, pending: list[ObjectRef[Any]], most: int, name: str) -> None:
        """Refuse a call if as many are under way as may be; forget those that have ended.

        Raises:
            PendingCallsLimitExceeded: they are.
        """
        while len(pending) >= most:
            ready, pending[:] = self.wait(pending, 1, 0.0) if pending else ([], [])
            if not ready:
                raise pending_limit(name, most)

    def find_actor(self, name: str, namespace: str) -> tuple[ObjectRef[Any], Any]:
        """Return the ref and the description of the actor of a name."""
        found: tuple[ObjectRef[Any], Any] = self._ask_for_actor(name, namespace)
        return found

    def _ask_for_actor(self, which: str | int | None, namespace: str) -> Any:
        self._check_open()
        (ref,) = self._new_refs(1)
        self.send_open()
        self.worker.send((FIND_ACTOR, ref._id, which, namespace))
        return self.get([ref], None)[0]

    def own_actor(self) -> tuple[ObjectRef[Any], Any]:
        """Return the ref and the description of the actor that this worker is."""
        facts = self.worker.acting.facts
        assert facts is not None
        found: tuple[ObjectRef[Any], Any] = self._ask_for_actor(facts[0], "")
        return found

    def list_actors(self, namespace: str | None) -> list[tuple[str, str]]:
        """Return namespace and name of each actor that can be found, in one namespace or in all."""
        found: list[tuple[str, str]] = self._ask_for_actor(None, namespace or "")
        return found

    def kill_actor(self, ref: ObjectRef[Any], *, no_restart: bool) -> None:
        """Have the driver end an actor's process."""
        self._check_open()
        self.send_open()
        self.worker.send((KILL_ACTOR, ref._id, no_restart))

    # -- resources -------------------------------------------------------------------------------------

    def equip(self, assigned: dict[str, float], gpu_ids: list[str], group: tuple[str, bool] | None) -> None:
        """Note what the calls that follow have; have libraries see the GPUs among it, and no others."""
        self.assigned, self.gpu_ids, self.group = assigned, gpu_ids, group
        if gpu_ids:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpu_ids)

    def captured(self, needs: Needs) -> Needs:
        """Return what a child needs: in the group of this task, if that captures and it asks for none."""
        if self.group is None or not self.group[1] or needs[1]:
            return needs
        return (needs[0], self.group[0], -1, True)

    def check_feasible(self, num_cpus: float, needs: Needs, what: str) -> None:
        """Refuse what the machine can never give; the driver knows what a group can.

        Raises:
            InfeasibleTaskError: it asks for more than there is.
        """
        if needs[1] and needs[1] != NO_GROUP:
            return
        totals = self.totals
        for name, units in with_cpus(needs[0], num_cpus):
            have = totals.get(name, 0.0)
            if units > to_units(have):
                raise infeasible(what, name, units, totals)

    def ask(self, what: str, *args: Any) -> Any:
        """Ask the driver, or have it do something: see `driver.questions`."""
        self._check_open()
        (ref,) = self._new_refs(1)
        self.send_open()
        self.worker.send((ASK, ref._id, what, *args))
        return ref if what == LATE else self.get([ref], None)[0]

    def _check_open(self) -> None:
        if self.is_closed:
            current.check_not_foreign()

    def has_unsent(self) -> bool:
        """Say whether children or values of generators wait to be sent."""
        return bool(self.buffer) or any(flow.values for flow in self.flows)

    def ship(self, most: int = 1 << 30) -> None:
        """Send the collected children, the oldest first. The caller holds the worker's send lock."""
        taken: list[Child] = []
        while self.buffer and len(taken) < most:
            try:
                taken.append(self.buffer.popleft())
            except IndexError:
                break
        if taken:
            self._ship(taken)
        for flow in self.flows:
            flow.send()

    def _ship(self, taken: list[Child]) -> None:
        wires = []
        for child in taken:
            wire = child.wire
            if self.untaught:
                function = self.untaught.pop(wire[1], None)
                if function is not None:
                    wire = (*wire[:3], function, *wire[4:])
            wires.append(wire)
            for ref in child.refs:
                ref.place = SENT
        self.worker.channel.send((SUBMIT, wires))

    def send_open(self, most: int = 1 << 30) -> None:
        """Send the collected children now, or only the oldest."""
        worker = self.worker
        worker.shield()
        try:
            with worker.send_lock:
                self.ship(most)
        finally:
            worker.unshield()

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value and return a ref to it."""
        if isinstance(value, ObjectRef):
            raise TypeError(
                "Calling 'put' on an ObjectRef is not allowed - expected a value; pass the ref itself, or "
                "put it in a list"
            )
        self._check_open()
        packed = self._pack_arg(value, "value", "put")
        ref = self._borrow(self.worker.uid << UID_SHIFT | next(self._ids))
        self.send_value(ref, packed)
        if is_atom(value):
            ref._state, ref._value = READY, value
        return ref

    def send_value(self, ref: BorrowedRef, value: Any) -> None:
        """Tell the driver the value of a ref that it does not know: an atom, packed, or an error's wire."""
        self.worker.shield()  # what is lent, and a ref that counts as sent, must arrive
        try:
            wire = self.wire(value)
            self.send_open()  # the value may hold refs of tasks that lie in the buffer
            self.worker.send((PUT, ref._id, wire))
        finally:
            self.worker.unshield()

    def untell(self) -> None:
        """Forget the functions of children that have all run here, which the driver has never heard of."""
        with self.worker.send_lock:
            if not self.buffer and threading.active_count() <= 2:  # nobody is about to submit one
                self._told.difference_update(self.untaught)
                self.untaught.clear()

    def cancel(self, ref: ObjectRef[Any], *, force: bool, recursive: bool) -> None:
        """Ask the driver to cancel a task."""
        self._check_open()
        if ref._state.__class__ is int:
            return
        self.send_open()
        self.worker.send((CANCEL_REF, ref._id, force, recursive))
