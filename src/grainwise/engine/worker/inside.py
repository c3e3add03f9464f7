"""The engine as a task sees it: `remote`, `get`, `wait`, `put` and `cancel` inside a worker.

Children are collected and leave together: when their parent blocks, when its item ends, when there are many,
or at the reporter's next tick. The driver owns and schedules them; this process only borrows their refs.

A task that blocks gives its un-started batch-mates back and tells the driver what it waits for; the driver
lends its CPU to others. While it waits, it may be sent children of its own, which run on top of its stack:
that can't deadlock, because it would have waited for them anyway, and it bounds the number of processes.
"""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections import deque
from time import monotonic, perf_counter

from ...errors import GetTimeoutError, TaskCancelledError
from ...objects import ref as refs_module
from ...objects.codec import ERROR_WIRE, PACKED_WIRE, Packed, is_atom, known_ref, serialize, unpack
from ...objects.ref import FAILED, PACKED, READY, ObjectRef
from ...objects.reuse import Reuse
from .. import current
from ..wire import control
from ..wire.failures import pack_or_name, read_error, read_value, unreadable
from ..wire.tasks import (
    CANCEL_REF,
    EXIT,
    FUSED,
    IN_PLACE,
    LOCAL_WIRE,
    PUT,
    RUN,
    SUBMIT,
    UNWANT,
    WANT,
    argument_name,
    packed_wire,
)
from .own_children import LATENT, SENT, OwnChildren

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from ..current import Exportable, Options
    from .loop import Batch, Worker

MULTI_WIRE = 4
REF_WIRE = 3
SHIP_AT = 64
SLICE_S = 0.05
KEEP_BYTES = 8 << 20
"""Free pages that an idle worker keeps warm."""
FORGET_AFTER = 5
"""Idle looks, a second apart, after which kept arguments are let go."""
UID_SHIFT = 40


class BorrowedRef(ObjectRef["Any"]):
    """A ref of the driver's that this worker holds; dropping it gives the loan back."""

    __slots__ = ("__weakref__", "count", "dropped", "place")

    count: int
    dropped: deque[tuple[int, int]]
    place: int
    """Where its value comes from: see `own_children`."""

    def __del__(self) -> None:
        try:
            self.dropped.append((self._id, self.count))
        except AttributeError:
            pass  # never finished


class Child:
    """A submitted task in the buffer: what will be sent, and what it was made of."""

    __slots__ = ("args", "function", "kept", "names", "options", "packed_function", "refs", "wire")

    def __init__(
        self,
        wire: tuple[Any, ...],
        function: Exportable,
        options: Options,
        args: list[Any],
        names: tuple[str, ...],
        packed_function: Packed | None,
        refs: list[BorrowedRef],
        kept: tuple[Any, ...],
    ) -> None:
        self.wire = wire
        self.function = function
        self.options = options
        self.args = args
        self.names = names
        self.packed_function = packed_function
        self.refs = refs
        self.kept = kept  # the plain arguments: values and refs must outlive the frame


class Answer:
    """What a waiting thread is told: values, or None when its task is cancelled."""

    __slots__ = ("event", "is_there", "values")

    def __init__(self) -> None:
        self.event = threading.Lock()
        self.event.acquire()
        self.is_there = False
        self.values: list[tuple[int, Any]] | None = None


class Inside:
    """See the module docstring. Offers what `current.EngineLike` names."""

    def __init__(self, worker: Worker, settings: dict[str, Any]) -> None:
        self.worker = worker
        self.num_cpus = settings["num_cpus"]
        self.is_closed = False
        self.is_waiting = False
        self.waited_s = 0.0
        self.dropped: deque[tuple[int, int]] = deque()
        self.reuse = Reuse()
        self._refs: weakref.WeakValueDictionary[int, BorrowedRef] = weakref.WeakValueDictionary()
        self._ids = itertools.count(1)
        self._tokens = itertools.count(1)
        self.nowhere: deque[tuple[int, int]] = deque(maxlen=0)
        self.buffer: deque[Child] = deque()
        self.untaught: dict[bytes, Any] = {}
        """Functions for the driver that left the buffer with a child that ran here."""
        self.own = OwnChildren(self)
        self._told: set[bytes] = set()
        self._answers: dict[int, Answer] = {}
        self._read_lock = threading.RLock()
        self._main = threading.get_ident()

    def install(self) -> None:
        """Make this the engine of the process."""
        current.install(self)
        refs_module.hooks.restore = self.ref
        refs_module.hooks.future = self.future
        refs_module.hooks.identify = None

    # -- values ----------------------------------------------------------------------------------------

    def ref(self, identity: int) -> ObjectRef[Any]:
        """Return the ref that has arrived under this identity; each arrival counts as one loan."""
        known = known_ref(identity)
        return known if known is not None else self._borrow(identity)

    def _borrow(self, identity: int, count: int = 1) -> BorrowedRef:
        ref = self._refs.get(identity)
        if ref is None:
            ref = BorrowedRef()
            ref._id = identity
            ref._state = None
            ref._value = None
            ref.count = 0
            ref.dropped = self.dropped
            ref.place = SENT
            self._refs[identity] = ref
        ref.count += count
        return ref

    def forget(self, identity: bytes) -> None:
        """Drop a function that the driver has dropped, and what it had captured."""
        self.worker.functions.pop(identity, None)

    def load(self, wire: tuple[Any, ...]) -> Any:
        """Unpack a packed wire."""
        return unpack(self._packed(wire))

    def _packed(self, wire: tuple[Any, ...]) -> Packed:
        _, stream, pieces, blobs, refs = wire
        borrow = self.worker.outpost.borrow
        return Packed(
            stream,
            pieces,
            tuple(borrow(blob) for blob in blobs),
            tuple(self._borrow(identity) for identity in refs),
        )

    def call(self, function: Callable[..., Any], wire: tuple[Any, ...]) -> Any:
        """Unpack the arguments of a call and run it."""
        _, wires, names = wire
        batch = self.worker.batch
        if batch is not None and batch.flags & FUSED:
            wires = self._fill_in(batch, wires)
        packs = [self._packed(arg) if arg.__class__ is tuple else arg for arg in wires]  # all loans, first
        args = []
        for position, arg in enumerate(packs):
            if arg.__class__ is Packed:
                try:
                    arg = self.reuse.take(arg)
                except (KeyboardInterrupt, MemoryError):
                    raise
                except BaseException as error:
                    what = argument_name(position, len(wires), names, getattr(function, "__code__", None))
                    raise unreadable(error, what, self.worker.task_name) from error
            args.append(arg)
        del packs
        if names:
            first = len(args) - len(names)
            return function(*args[:first], **dict(zip(names, args[first:])))
        return function(*args)

    def _fill_in(self, batch: Batch, wires: list[Any]) -> list[Any]:
        """Put results of the same batch in their places.

        Raises:
            HandBackError: one of them holds what only the driver can pass on: large objects or refs.
            InheritedError: one of them is an error.
        """
        from .loop import HandBackError, InheritedError

        filled: list[Any] = []
        failed: tuple[Any, ...] | None = None
        for arg in wires:
            if arg.__class__ is tuple and arg[0] == LOCAL_WIRE:
                arg = batch.results[arg[1]]
                if arg.__class__ is tuple:
                    if arg[0] == ERROR_WIRE:
                        failed = failed or arg
                        arg = None
                    elif arg[0] != PACKED_WIRE or arg[3] or arg[4]:
                        raise HandBackError
            filled.append(arg)
        if failed is not None:
            for arg in filled:
                if arg.__class__ is tuple:
                    self._packed(arg)  # the loans have arrived
            raise InheritedError(failed)
        return filled

    def pack_result(self, value: object) -> Any:
        """Return the wire of a result that is not an atom.

        Raises:
            SerializationError: names what in it can't be pickled.
        """
        return self._wire(self._pack(value, "result", "result"))

    def pack_results(self, num_returns: int) -> Callable[[Any], tuple[Any, ...]]:
        """Return what packs the value of a task with several results."""

        def pack_each(value: Any) -> tuple[Any, ...]:
            if not num_returns:
                return (MULTI_WIRE, [])
            try:
                values = list(value)
            except TypeError:
                values = [value]
            if len(values) != num_returns:
                raise ValueError(
                    f"task {self.worker.task_name!r} returned {len(values)} values - expected {num_returns} "
                    f"(its num_returns)"
                )
            packed = [
                v if is_atom(v) else self._pack(v, f"result {i}", f"result[{i}]")
                for i, v in enumerate(values)
            ]
            return (MULTI_WIRE, [self._wire(part) for part in packed])

        return pack_each

    def _pack(self, value: object, what: str, name: str) -> Packed:
        worker, batch = self.worker, self.worker.batch
        sink = worker.outpost.results
        packed = pack_or_name(value, sink, what=what, name=name, task_name=worker.task_name)
        if batch is not None and (packed.refs or packed.blobs):
            batch.kept.append((len(batch.results), packed))
        return packed

    # -- submitting ------------------------------------------------------------------------------------

    def bind(
        self, function: Exportable, options: Options, again: Callable[..., Any] | None = None
    ) -> Callable[..., Any]:
        """Return what submits a call of a function."""
        if options.num_cpus > self.num_cpus:
            from ...errors import InfeasibleTaskError

            raise InfeasibleTaskError(
                f"task {options.name!r} asks for num_cpus={options.num_cpus:g} - expected at most "
                f"{self.num_cpus:g}, which is what the engine has"
            )
        num_cpus, num_returns, max_retries, classes, name, batching = options.astuple()
        if isinstance(classes, tuple):
            classes = serialize(classes)  # nothing of the user's enters a frame as it is
        astuple = (num_cpus, num_returns, max_retries, classes, name, batching)

        def submit(*args: Any, **kwargs: Any) -> Any:
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
        uid = function.identify()
        outpost, name = self.worker.outpost, options.name
        packed_function = None
        if not function.is_exported and uid not in self._told:
            packed_function = pack_or_name(
                function.function, outpost, what="function", name=function.name, task_name=name
            )
        names = tuple(kwargs)
        count = len(args) + len(names)
        code = getattr(function.function, "__code__", None)
        # First everything is packed, then it is lent: what can't be sent must not be owned by nobody.
        packed_args = [
            self._pack_arg(arg, argument_name(i, count, names, code), name)
            for i, arg in enumerate((*args, *kwargs.values()))
        ]
        base = self.worker.uid << UID_SHIFT
        refs = [self._borrow(base | next(self._ids)) for _ in range(max(1, options.num_returns))]
        batch = self.worker.batch
        child = (
            [ref._id for ref in refs],
            uid,
            function.name,
            None if packed_function is None else self._wire(packed_function),
            astuple,
            [self._wire(arg) for arg in packed_args],
            names,
            None if batch is None else (batch.seq, self.worker.words[control.STARTED]),
        )
        for ref in refs:
            ref.place = LATENT
        self.buffer.append(
            Child(child, function, options, packed_args, names, packed_function, refs, (args, kwargs))
        )
        if packed_function is not None:
            self._told.add(uid)
        if len(self.buffer) >= SHIP_AT:
            self.send_open()
        else:
            self.worker.wake_reporter()
        if options.num_returns == 0:
            return None
        return refs[0] if options.num_returns == 1 else list(refs)

    def _pack_arg(self, arg: Any, what: str, task_name: str) -> Any:
        """Return an atom or a ref as it is, and everything else packed."""
        if is_atom(arg) or isinstance(arg, ObjectRef):
            return arg
        name = what.removeprefix("argument ").strip("'")
        return pack_or_name(arg, self.worker.outpost, what=what, name=name, task_name=task_name)

    def _wire(self, arg: Any) -> Any:
        """Return what travels; own blobs become the driver's."""
        if isinstance(arg, ObjectRef):
            self.own.tell(arg)
            return (REF_WIRE, arg._id)
        if arg.__class__ is not Packed:
            return arg
        for ref in arg.refs:
            self.own.tell(ref)
        return packed_wire(arg, [blob.lend() for blob in arg.blobs], [ref._id for ref in arg.refs])

    def _check_open(self) -> None:
        if self.is_closed:
            current.check_not_foreign()

    def has_unsent(self) -> bool:
        """Say whether children wait to be sent."""
        return bool(self.buffer)

    def ship(self, most: int = 1 << 30) -> None:
        """Send the collected children, the oldest first. The caller holds the worker's send lock."""
        taken: list[Child] = []
        while self.buffer and len(taken) < most:
            try:
                taken.append(self.buffer.popleft())
            except IndexError:
                break
        if not taken:
            return
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
            raise TypeError("put() got an ObjectRef - expected a value; pass the ref itself instead")
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
            wire = self._wire(value)
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

    def pack_value(self, value: object) -> Packed:
        """Pack what a child that ran here has returned.

        Raises:
            SerializationError: names what in it can't be pickled.
        """
        worker = self.worker
        return pack_or_name(value, worker.outpost, what="result", name="result", task_name=worker.task_name)

    # -- waiting ---------------------------------------------------------------------------------------

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Return the values of refs, waiting for them."""
        missing = {ref._id: ref for ref in refs if ref._state.__class__ is not int}
        if missing and timeout_s is None and self.buffer and threading.get_ident() == self._main:
            self.own.run(missing)
        if missing and not self._await(missing, len(missing), timeout_s):
            left = sum(ref._state.__class__ is not int for ref in missing.values())
            raise GetTimeoutError(
                f"get() waited {timeout_s:g} s - {left} of {len(refs)} values were not there yet"
            )
        return [self._value(ref) for ref in refs]

    def _value(self, ref: ObjectRef[Any]) -> Any:
        if ref._state == READY:
            return ref._value
        if ref._state == PACKED:
            return read_value(ref._value)
        raise ref._value

    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait until so many refs are resolved or the time is over."""
        missing = {ref._id: ref for ref in refs if ref._state.__class__ is not int}
        wanted = num_returns - (len(refs) - len(missing))
        if missing:
            self._await(missing, max(0, wanted), timeout_s)
        ready = [ref for ref in refs if ref._state.__class__ is int][:num_returns]
        chosen = set(map(id, ready))
        return ready, [ref for ref in refs if id(ref) not in chosen]

    def cancel(self, ref: ObjectRef[Any], *, force: bool, recursive: bool) -> None:
        """Ask the driver to cancel a task."""
        self._check_open()
        if ref._state.__class__ is int:
            return
        self.send_open()
        self.worker.send((CANCEL_REF, ref._id, force, recursive))

    def future(self, ref: ObjectRef[Any]) -> Any:
        """Return a future that a thread of its own resolves."""
        from concurrent.futures import Future

        result: Any = Future()
        result.set_running_or_notify_cancel()

        def resolve() -> None:
            try:
                result.set_result(self.get([ref], None)[0])
            except BaseException as error:
                result.set_exception(error)

        threading.Thread(target=resolve, name="grainwise-future", daemon=True).start()
        return result

    def _await(self, missing: dict[int, ObjectRef[Any]], count: int, timeout_s: float | None) -> bool:
        """Tell the driver what is wanted and wait until `count` of it is there; false on a timeout."""
        worker = self.worker
        self._check_open()
        is_main = threading.get_ident() == self._main
        batch = worker.batch
        is_task = is_main and batch is not None
        begin, waited_s = perf_counter(), self.waited_s
        token = next(self._tokens)
        answer = self._answers[token] = Answer()
        item = None if batch is None else (batch.seq, worker.words[control.STARTED])
        if is_task and batch is not None:
            worker.give_back()
            worker.report(batch, -1)
        was_waiting = self.is_waiting
        try:
            self.is_waiting = is_task or was_waiting
            self.send_open()
            must_wait = timeout_s is None and count == len(missing)
            worker.send((WANT, token, list(missing), count, item, is_main, must_wait))
            deadline = None if timeout_s is None else monotonic() + timeout_s
            while not answer.is_there:
                if is_task and worker.inbox and self._run_in_place():
                    continue
                left = SLICE_S if deadline is None else min(SLICE_S, deadline - monotonic())
                if left <= 0 and not self._read(answer, is_task, 0.0):
                    break
                self._read(answer, is_task, max(0.0, left))
        finally:
            del self._answers[token]
            if not answer.is_there:
                worker.send((UNWANT, token))
            if is_task:
                self.is_waiting = was_waiting
                self.waited_s = waited_s + perf_counter() - begin
        if answer.is_there and answer.values is None:
            from .loop import Cancelled

            raise Cancelled
        for identity, wire in answer.values or ():
            self._resolve(missing[identity], wire)
        return answer.is_there

    def _read(self, answer: Answer, is_task: bool, timeout_s: float) -> bool:
        """Read one frame, or let whoever reads already find the answer."""
        worker = self.worker
        if not self._read_lock.acquire(blocking=False):
            return answer.event.acquire(timeout=timeout_s) if timeout_s else False
        try:
            if answer.is_there:
                return True
            if not worker.channel.spin() and not worker.channel.wait(timeout_s):
                return False
            worker.shield()  # a cancellation must not lose a frame that was taken
            try:
                try:
                    message = worker.channel.receive(spin=False)
                except BlockingIOError:
                    return False  # half a frame: the driver pauses in the middle
                if message is None or message[0] == EXIT:
                    os._exit(0)
                is_runnable = message[0] == RUN and is_task and message[2] & IN_PLACE
                if message[0] == RUN:
                    worker.inbox.append(message)
                else:
                    worker.handle(message)
            finally:
                worker.unshield()
        finally:
            self._read_lock.release()
        if is_runnable:
            self._run_in_place()
        return True

    def _run_in_place(self) -> bool:
        """Run a batch on top of the waiting task, whichever thread has read it; false if there is none."""
        worker = self.worker
        message = next((each for each in list(worker.inbox) if each[2] & IN_PLACE), None)
        if message is None:
            return False
        worker.inbox.remove(message)
        self.is_waiting = False  # something runs: the reporter looks after it
        try:
            worker.handle(message)
        finally:
            self.is_waiting = True
        return True

    def answered(self, token: int, values: list[tuple[int, Any]] | None) -> None:
        """Hand the driver's answer to the thread that asked."""
        answer = self._answers.get(token)
        if answer is None:
            for _, wire in values or ():  # too late: nobody wants it, but the loans must be given back
                if wire.__class__ is tuple and wire[0] != ERROR_WIRE:
                    self._packed(wire)
            return
        answer.values = values
        answer.is_there = True
        answer.event.release()

    def _resolve(self, ref: ObjectRef[Any], wire: Any) -> None:
        if wire.__class__ is not tuple:
            ref._value, ref._state = wire, READY
        elif wire[0] == ERROR_WIRE:
            error = TaskCancelledError(task_name=wire[2]) if wire[3] == "cancelled" else read_error(wire)
            ref._value, ref._state = error, FAILED
        else:
            ref._value, ref._state = self._packed(wire), PACKED

    def next_message(self) -> tuple[Any, ...] | None:
        """Read the next frame for the main loop; tidy up when none comes for a while."""
        worker = self.worker
        num_idle = 0
        while True:
            if worker.inbox:
                return worker.inbox.pop(0)
            with self._read_lock:
                try:
                    return worker.channel.receive()
                except BlockingIOError:
                    pass
            num_idle += 1
            if num_idle == FORGET_AFTER:
                self.reuse.clear()
            worker.outpost.trim(KEEP_BYTES)
            with worker.send_lock:
                self.ship()
                worker.send_returned()
