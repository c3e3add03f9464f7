"""Children that a blocked task runs itself, before the driver has heard of them.

A task that submits tiny tasks and waits for them would pay a message and a switch of processes for each. Its
children lie in a buffer until somebody sends them, so when it blocks, it takes them out of there again, the
latest first, and runs them on top of its stack. What is not tiny goes to the driver, where other workers can
have it:

* What a function usually costs is measured, as processor time. While that is unknown or large, all children
  are sent but one.
* Every `BEAT_S` the oldest in the buffer is sent: a child of the outermost task, which is the largest. A
  child that takes long without having children is noticed by the reporter, which sends them all.

That is heartbeat scheduling (Acar, Charguéraud, Guatto, Rainey and Sieczkowski, PLDI 2018): the cost of
sending is paid only by time that was spent working.

To the user it looks as if a worker had run them. Arguments, functions and results are copied as on their way
through the driver. Only children are run whose failure can't be told from that elsewhere: if one of them
ends the process, the driver finds `IN_CHILD` set, and the task that waited runs again, uncharged, and sends
all its children. A ref whose value lies here alone is told to the driver as soon as it leaves this process.
"""

from __future__ import annotations

import threading
from time import perf_counter, thread_time

from ...errors import TaskCancelledError
from ...objects.codec import Packed, is_atom, unpack
from ...objects.ref import FAILED, PACKED, READY, ObjectRef
from ..needs import NOTHING
from ..wire import control
from ..wire.failures import error_wire, known_error_wire, pack_or_name, read_error, unreadable
from ..wire.tasks import LENDS_CPU, argument_name
from .captured import carries_data

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .submitting import Child, Submitting
    from .values import BorrowedRef

TINY_S = 500e-6
"""Children worth more together are not kept from others."""
BEAT_S = 1e-3
MAX_DEPTH = 40
MAX_FUNCTIONS = 256

# Where the value of a ref comes from.
SENT = 0  # the driver knows the ref
LATENT = 1  # its task lies in the buffer
NAMED = 2  # as before, and something that goes to the driver refers to it
RUNNING = 3
HERE = 4  # its task has run here, and the driver has never heard of it


class OwnChildren:
    """Runs children out of the buffer; in the main thread only."""

    def __init__(self, inside: Submitting) -> None:
        self._inside = inside
        self._functions: dict[bytes, Callable[..., Any] | None] = {}
        self._usual_s: dict[bytes, float] = {}
        self._depth = 0
        self._beat = 0.0

    def run(self, missing: dict[int, ObjectRef[Any]]) -> None:
        """Run children that the running task waits for, as long as they are tiny and nobody else has them."""
        inside = self._inside
        worker, buffer = inside.worker, inside.buffer
        batch = worker.batch
        if batch is None or not batch.flags & LENDS_CPU or self._depth >= MAX_DEPTH or not buffer:
            return
        if worker.is_twin:
            return
        if not self._depth:
            self._beat = perf_counter()
        self._depth += 1
        words = worker.words
        words[control.IN_CHILD] += 1  # this item's children only: one of the driver's may run on top of them
        try:
            while buffer and not (words[control.CANCEL] and words[control.IN_CHILD] == 1):
                if threading.active_count() > 2:  # a thread of the task's might pass on what is being run
                    break
                try:
                    child = buffer.pop()
                except IndexError:
                    break
                function = self._function_of(child) if child.refs[0]._id in missing else None
                if function is None:
                    buffer.append(child)
                    break
                if child.packed_function is not None:
                    inside.untaught[child.function.identify()] = child.wire[3]
                if not self._are_tiny(child, len(missing)):
                    inside.send_open()
                elif perf_counter() - self._beat > BEAT_S:
                    inside.send_open(1)
                    self._beat = perf_counter()
                self._run(child, function)
                if child.refs[0]._state.__class__ is int:
                    del missing[child.refs[0]._id]
        finally:
            self._depth -= 1
            words[control.IN_CHILD] -= 1
        if words[control.CANCEL]:
            worker.check_cancelled()

    def tell(self, ref: ObjectRef[Any]) -> None:
        """Let the driver know a ref that something on its way there refers to.

        Raises:
            RuntimeError: a task passes on the ref of its own result.
        """
        place = getattr(ref, "place", SENT)
        if place == LATENT:
            ref.place = NAMED  # type: ignore[attr-defined]
        elif place == RUNNING:
            raise RuntimeError("a task passes on the ref of its own result - expected refs of other tasks")
        elif place == HERE:
            borrowed: Any = ref
            borrowed.place = SENT
            borrowed.dropped = self._inside.dropped
            self._inside.send_value(
                borrowed, known_error_wire(ref._value) if ref._state == FAILED else ref._value
            )

    def _function_of(self, child: Child) -> Callable[..., Any] | None:
        """Return what a child calls, if it may run here."""
        options, ref = child.options, child.refs[0]
        if child.function is None or child.wire[8]:
            return None  # an actor's
        if (
            ref.place != LATENT
            or options.num_cpus != 1.0
            or options.needs is not NOTHING
            or options.num_returns != 1
            or not options.max_retries
            or options.retry_exceptions
            or options.batching
            or options.runtime_env
        ):
            return None
        for arg in child.args:
            if isinstance(arg, ObjectRef):
                if arg._state != READY:
                    return None
            elif arg.__class__ is Packed and (arg.blobs or arg.refs):
                return None
        uid = child.function.identify()
        if uid not in self._functions:
            if len(self._functions) >= MAX_FUNCTIONS:
                self._functions.clear()
                self._usual_s.clear()
            self._functions[uid] = self._copy(child)
        return self._functions[uid]

    def _copy(self, child: Child) -> Callable[..., Any] | None:
        """Return a child's function as another process would get it; None if it must be loaded there."""
        packed = child.packed_function
        try:
            if packed is None:
                if carries_data(child.function.function):
                    return None  # what the driver has may be older than what lies here
                name = child.function.name
                packed = pack_or_name(
                    child.function.function,
                    self._inside.worker.outpost,
                    what="function",
                    name=name,
                    task_name=name,
                )
            if packed.blobs or packed.refs:
                return None
            function: Callable[..., Any] = unpack(packed)
        except Exception:
            return None  # whoever runs it will say so
        return function

    def _are_tiny(self, child: Child, count: int) -> bool:
        usual_s = self._usual_s.get(child.function.identify())
        return usual_s is not None and usual_s * count <= TINY_S

    def _run(self, child: Child, function: Callable[..., Any]) -> None:
        """Run one child and resolve its ref."""
        from .batch import Cancelled

        inside = self._inside
        worker = inside.worker
        ref = child.refs[0]
        ref.place = RUNNING
        batch: Any = worker.batch
        outer_name, outer_function, outer_waited_s = worker.task_name, batch.function, inside.waited_s
        worker.task_name, batch.function = child.options.name, function
        failure: BaseException | None = None
        begin, begin_cpu = perf_counter(), thread_time()
        try:
            args = _arguments(child)
            first = len(args) - len(child.names)
            value = function(*args[:first], **dict(zip(child.names, args[first:])))
            if not worker.is_twin:
                self._resolve(ref, value)
        except Cancelled:  # it is the task that waits that is cancelled: the driver knows of no other
            ref._value, ref._state = TaskCancelledError(task_name=child.options.name), FAILED
            raise
        except BaseException as error:  # it is the child's result
            failure = error
        finally:
            if ref.place == RUNNING:
                ref.place = HERE
            spent_s = perf_counter() - begin
            worker.meter.ran_own(spent_s - (inside.waited_s - outer_waited_s))
            worker.task_name, batch.function = outer_name, outer_function
            inside.waited_s = outer_waited_s + spent_s
        if worker.is_twin:
            worker.leave(failure)
        if failure is not None:
            ref._value, ref._state = read_error(error_wire(failure, child.options.name)), FAILED
        ref.dropped = inside.nowhere if ref.place == HERE else inside.dropped
        uid = child.function.identify()
        cpu_s = thread_time() - begin_cpu
        usual_s = self._usual_s.get(uid, cpu_s)
        # Steps towards the median: in a recursion a few tasks that contain all others would rule a mean.
        self._usual_s[uid] = min(cpu_s, 1.5 * usual_s) if cpu_s > usual_s else max(cpu_s, usual_s / 2)

    def _resolve(self, ref: BorrowedRef, value: Any) -> None:
        if is_atom(value):
            ref._value, ref._state = value, READY
            return
        packed = self._inside.pack_value(value)
        if packed.blobs or packed.refs:  # the driver's to hand out
            ref.place = SENT
            self._inside.send_value(ref, packed)
        else:
            ref._value, ref._state = packed, PACKED


def _arguments(child: Child) -> list[Any]:
    """Return a child's arguments as they would arrive."""
    args: list[Any] = []
    for position, arg in enumerate(child.args):
        if arg.__class__ is Packed:
            try:
                arg = unpack(arg)
            except (KeyboardInterrupt, MemoryError):
                raise
            except BaseException as error:
                code = getattr(child.function.function, "__code__", None)
                what = argument_name(position, len(child.args), child.names, code)
                raise unreadable(error, what, child.options.name) from error
        elif isinstance(arg, ObjectRef):
            arg = arg._value
        args.append(arg)
    return args
