"""The engine in the user's program: takes submissions, decides with the policy, resolves refs.

    remote() ──append──► spec.open ──dispatch──► worker's socket ··· results ──► ref._value
                             ▲                                          │
               dependencies that became ready ◄──────── watchers ◄──────┘

There is no thread in the critical path. Submitting is one append; whoever waits reads the sockets (`turn`);
a backstop thread ticks only while work is outstanding and nobody waits (`backstop`).

Who may change what: `spec.open` is appended to by anyone and popped under the turn; everything else here
changes under the turn only.
"""

from __future__ import annotations

import select
from collections import deque
from time import monotonic, perf_counter

from ..errors import EngineClosedError, GetTimeoutError, InfeasibleTaskError, TaskCancelledError
from ..grain.policy import Policy, Progress
from ..objects import ref as refs_module
from ..objects.codec import ATOM_LIMIT, ATOMS, ERROR_WIRE, TEXTS, Packed, is_atom, unpack
from ..objects.ref import FAILED, PACKED, READY, ObjectRef
from ..objects.store import Store, Usage
from . import control, crash, current, nested
from .backstop import Backstop
from .batches import SentBatch
from .borders import Borders
from .channel import SPIN_S, encode
from .failures import pack_or_name, read_error
from .inside import MULTI_WIRE, _argument_name
from .output import Output
from .pool import Pool, WorkerHandle, driver_settings
from .tasks import (
    EACH,
    FREE,
    FUNCTION,
    READY_TO_RUN,
    RESULTS,
    RETURNED,
    RUN,
    Call,
    Function,
    TaskSpec,
    function_identity,
    packed_wire,
)
from .turn import Leadership, Turn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from ..config import Settings
    from .current import Exportable, Options

INLINE_BATCH_BYTES = 1 << 20
"""Arguments that travel inline with one batch."""
LATE_CHECK_S = 5e-3
SPIN_MISSES = 3
"""So many spins in vain, and the next waits block at once until traffic shows that spinning pays."""
_new_ref = ObjectRef.__new__


class Counters:
    """What happened, for reports and tests."""

    __slots__ = ("batches", "crashes", "retries", "taken_back", "tasks")

    def __init__(self) -> None:
        self.batches = 0
        self.tasks = 0
        self.taken_back = 0
        self.crashes = 0
        self.retries = 0


class Engine:
    """One session of the library in the user's program. Thread-safe. See the module docstring."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.is_closed = False
        self.counters = Counters()
        self.turn = Turn()
        self.leadership = Leadership(self._pump)
        self.policy = Policy(settings.num_cpus)
        worker_settings = driver_settings()
        worker_settings.update(
            num_cpus=settings.num_cpus,
            num_slots=control.NUM_SLOTS,
            capacity_bytes=settings.object_store_memory_bytes,
            spill_directory=settings.spill_directory,
        )
        self.pool = Pool(worker_settings, settings.threads_per_worker)
        self.store = Store(
            settings.object_store_memory_bytes,
            settings.spill_directory,
            Usage(self.pool.words, control.USED, self._used_words),
            self._release_remote,
        )
        self.borders = Borders(self.store)
        self.output = Output(self.pool)
        self.barrier = control.Barrier()
        self.backstop = Backstop(self)
        self.active: dict[TaskSpec, None] = {}
        """Specs with something in their queue."""
        self.watchers: dict[ObjectRef[Any], list[Callable[[ObjectRef[Any]], None]]] = {}
        self.attempts: dict[ObjectRef[Any], int] = {}
        """Runs that a task has been charged for beyond the first."""
        self.suspects: set[TaskSpec] = set()
        """Specs whose task killed a worker: their tasks run one at a time until one succeeds."""
        self.missed: deque[TaskSpec] = deque()
        self.num_waiting = 0
        self.num_callbacks = 0
        self.callbacks: deque[Callable[[], None]] = deque()
        self.functions: dict[bytes, Function] = {}
        self.specs: dict[tuple[Any, ...], TaskSpec] = {}
        self.by_number: dict[int, WorkerHandle] = {}
        self._rebinders: list[Callable[[], None]] = []
        self._spin_misses = 0
        self._wake_fds = _pipe()
        self.pool.poller.register(self._wake_fds[0], select.POLLIN)
        self.turn.shield()
        refs_module.hooks.identify = self.borders.identify
        refs_module.hooks.restore = self.borders.restore
        refs_module.hooks.future = self.future
        self.pool.start_template()

    # -- submitting ------------------------------------------------------------------------------------

    def bind(self, function: Exportable, options: Options) -> Callable[..., Any]:
        """Return what submits a call of a function: the hot path of the whole library."""
        spec = self.spec_of(function, options)
        if options.num_returns != 1:
            return lambda *args, **kwargs: self._submit_call(spec, args, kwargs)
        queue = spec.open
        append, wake, slow = queue.append, self.wake, self._submit_call
        new, kind, atoms, texts, size = _new_ref, ObjectRef, ATOMS, TEXTS, len

        def submit(*args: Any, **kwargs: Any) -> ObjectRef[Any]:
            if not kwargs and size(args) == 1:
                (value,) = args
                value_kind = value.__class__
                if value_kind in atoms or (value_kind in texts and size(value) <= ATOM_LIMIT):
                    ref = new(kind)
                    ref._value = value
                    ref._state = spec
                    append(ref)
                    if size(queue) >= spec.send_at:
                        wake(spec)
                    return ref
            return slow(spec, args, kwargs)

        return submit

    def spec_of(self, function: Exportable, options: Options) -> TaskSpec:
        """Return the spec of a function with options, pickling the function at its first use.

        Raises:
            InfeasibleTaskError: it asks for more CPUs than there are.
            SerializationError: the function can't be pickled.
        """
        if options.num_cpus > self.settings.num_cpus:
            raise InfeasibleTaskError(
                f"task {options.name!r} asks for num_cpus={options.num_cpus:g} - expected at most "
                f"{self.settings.num_cpus:g}, which is what the engine has"
            )
        key = (function.identify(), *options.astuple())
        spec = self.specs.get(key)
        if spec is None:
            spec = self.new_spec(key, self._export(function), options)
        return spec

    def new_spec(self, key: tuple[Any, ...], function: Function, options: Options) -> TaskSpec:
        """Make the spec of a function whose pickle is known."""
        spec = self.specs[key] = TaskSpec(
            function,
            num_cpus=options.num_cpus,
            num_returns=options.num_returns,
            max_retries=options.max_retries,
            retry_exceptions=options.retry_exceptions,
            name=options.name,
        )
        return spec

    def _export(self, function: Exportable) -> Function:
        known = self.functions.get(function.identify())
        if known is not None:
            return known
        function.is_exported = True  # before pickling: a recursive function meets itself
        try:
            packed = pack_or_name(
                function.function, self.store, what="function", name=function.name, task_name=function.name
            )
        except BaseException:
            function.is_exported = False
            raise
        return self.learn_function(function.uid, packed, function.name)

    def learn_function(self, uid: bytes, packed: Packed, name: str) -> Function:
        """Remember a pickled function under its uid."""
        learnt = self.functions[uid] = Function(function_identity(packed), packed, name)
        return learnt

    def _submit_call(self, spec: TaskSpec, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Submit a call that needs more than a bare atom."""
        self.check_open()
        names = tuple(kwargs)
        count = len(args) + len(names)
        packed: list[Any] = []
        nbytes = 0
        has_refs = False
        for position, arg in enumerate((*args, *kwargs.values()) if names else args):
            if isinstance(arg, ObjectRef):
                has_refs = True
            elif not is_atom(arg):
                what = _argument_name(position, count, names)
                arg = pack_or_name(
                    arg, self.store, what=what, name=what.removeprefix("argument ").strip("'"), task_name=spec.name
                )
                nbytes += arg.nbytes() if not arg.blobs else 256
            packed.append(arg)
        return self.submit(spec, Call(tuple(packed), names, nbytes), has_refs)

    def submit(self, spec: TaskSpec, call: Call, has_refs: bool, refs: list[ObjectRef[Any]] | None = None) -> Any:
        """Queue a call, or have it wait for its arguments; return its ref or refs.

        Args:
            spec: the function and its options.
            call: the arguments.
            has_refs: some argument is a ref.
            refs: the refs of the results, where they exist already (a worker made them).
        """
        ref: ObjectRef[Any] = _new_ref(ObjectRef)
        ref._value = call
        ref._state = spec
        spec.has_calls = True
        result: Any = ref
        if spec.num_returns != 1:
            count = spec.num_returns
            call.outs = tuple(refs[:count] if refs is not None else (_pending(spec) for _ in range(count)))
            result = list(call.outs) if call.outs else None
        elif refs is not None:
            ref = refs[0]
            ref._value = call
            ref._state = spec
        if has_refs and refs is None:
            with self.turn:
                self._await_arguments(spec, ref, call)
        elif has_refs:
            self._await_arguments(spec, ref, call)
        elif call.parent is None:
            spec.open.append(ref)
        else:
            spec.open.appendleft(ref)
        if refs is None and len(spec.open) >= spec.send_at:
            self.wake(spec)
        return result

    def _await_arguments(self, spec: TaskSpec, ref: ObjectRef[Any], call: Call) -> None:
        """Queue a call once the refs among its arguments are resolved."""
        waiting = [arg for arg in call.dependencies() if arg._state.__class__ is not int]
        call.wants = len(waiting)
        if not waiting:
            self._arguments_ready(spec, ref, call)
            return

        def resolved(_: ObjectRef[Any]) -> None:
            call.wants -= 1
            if not call.wants:
                self._arguments_ready(spec, ref, call)

        for arg in waiting:
            self.watch(arg, resolved)

    def _arguments_ready(self, spec: TaskSpec, ref: ObjectRef[Any], call: Call) -> None:
        if ref._state is not spec:
            return  # cancelled meanwhile
        for arg in call.dependencies():
            if arg._state == FAILED:
                self.fail(ref, arg._value)
                return
        if call.parent is None:
            spec.open.append(ref)
        else:
            spec.open.appendleft(ref)
        self.active[spec] = None

    def watch(self, ref: ObjectRef[Any], callback: Callable[[ObjectRef[Any]], None]) -> None:
        """Call back, under the turn, when a ref is resolved. The caller has the turn."""
        self.watchers.setdefault(ref, []).append(callback)

    def wake(self, spec: TaskSpec) -> None:
        """A submitter found its queue worth a look."""
        if self.is_closed:
            self._refuse(spec)
        if self.turn.is_mine():  # submitted by a finalizer or signal handler that interrupted us
            self.missed.append(spec)
            return
        with self.turn:
            self.active[spec] = None
            self.dispatch(waiting=False)
        self.backstop.wake()

    def _refuse(self, spec: TaskSpec) -> None:
        spec.open.clear()
        self.check_open()

    def check_open(self) -> None:
        """Refuse work after the end.

        Raises:
            EngineClosedError: after shutdown, or in a forked child.
        """
        current.check_not_foreign()
        if self.is_closed:
            raise EngineClosedError(
                "the engine has been shut down - expected a running engine - call grainwise.init() again and "
                "use its new refs"
            )

    # -- sending ---------------------------------------------------------------------------------------

    def dispatch(self, waiting: bool) -> None:
        """Send what the policy says. The caller has the turn."""
        policy = self.policy
        active = self.active
        while self.missed:
            active[self.missed.popleft()] = None
        if active:
            for spec in active:
                policy.ready(spec, len(spec.open), spec.num_cpus)
            for send in policy.dispatch(waiting):
                self._send(send.worker, send.key, send.count)  # type: ignore[arg-type]
            for spec in list(active):
                left = len(spec.open)
                if left:
                    spec.send_at = left + policy.next_look(spec)
                else:
                    del active[spec]
                    spec.send_at = 1
                    policy.ready(spec, 0)
                    if spec.open:  # a submitter was quicker than the line above
                        active[spec] = None
        if not active and waiting:
            self._rebalance()

    def _send(self, number: int, spec: TaskSpec, count: int) -> None:
        """Send so many tasks to the worker that the policy knows under this number."""
        handle = self.by_number.get(number)
        if handle is None:
            handle = self.by_number[number] = self.pool.start_worker(number)
        if not handle.can_take():
            self.policy.returned(number, spec, count)
            self.policy.ended(number)
            return
        refs = self._pop(spec, 1 if spec in self.suspects else count)
        if len(refs) < count:
            self.policy.returned(number, spec, count - len(refs))
        if refs:
            self.send_batch(handle, spec, refs)
        else:
            self.policy.ended(number)

    def _pop(self, spec: TaskSpec, count: int) -> list[ObjectRef[Any]]:
        """Take refs off a queue, passing over what was cancelled or sent otherwise."""
        queue = spec.open
        refs: list[ObjectRef[Any]] = []
        room = INLINE_BATCH_BYTES
        popleft = queue.popleft
        while queue and len(refs) < count and room > 0:
            ref = popleft()
            if ref._state is not spec:
                continue
            value = ref._value
            if value.__class__ is Call:
                if value.is_sent:
                    continue
                value.is_sent = True
                room -= value.nbytes
            refs.append(ref)
        return refs

    def send_batch(self, handle: WorkerHandle, spec: TaskSpec, refs: list[ObjectRef[Any]], flags: int = 0) -> None:
        """Send refs to a worker as one batch. The caller has the turn and has told the policy."""
        function = spec.function
        if function.id not in handle.functions:
            handle.functions.add(function.id)
            wire = self.borders.lender(handle)(function.packed)
            self.post(handle, (FUNCTION, function.id, wire, function.name))
        values = [ref._value for ref in refs]
        if spec.has_calls:
            lend = self.borders.lender(handle)
            values = [value.wire(lend) if value.__class__ is Call else value for value in values]
        if not spec.max_retries:
            flags |= EACH
        seq = handle.next_seq
        handle.next_seq = seq + 1
        handle.batches[seq] = SentBatch(seq, spec, refs, flags)
        at = control.claim_word(seq)
        handle.words[at] = 0
        handle.words[at + 1] = (1 << 63) - 1
        mean_s = self.policy.estimates.mean_s(spec)
        hint = 1 if mean_s is None else max(1, int(50e-6 / max(mean_s, 1e-8)))
        self.post(handle, (RUN, seq, function.id, hint, flags, values, spec.num_returns))
        self.counters.batches += 1
        self.counters.tasks += len(refs)

    def post(self, handle: WorkerHandle, message: tuple[Any, ...]) -> None:
        """Send a frame to a worker without blocking."""
        if handle.pending_free:
            ranges, handle.pending_free = handle.pending_free, []
            self.post(handle, (FREE, ranges))
        self.pool.watch_writes(handle, handle.channel.post(encode(message)))

    # -- taking back -----------------------------------------------------------------------------------

    def _rebalance(self) -> None:
        """Take un-started tasks back for workers that have nothing to do."""
        progress: dict[int, Progress] = {}
        now = perf_counter()
        for handle in self.pool.workers.values():
            unstarted = self._unstarted(handle)
            if unstarted:
                mark = (handle.words[control.SEQ], handle.words[control.STARTED])
                if mark != handle.last_progress[:2]:
                    handle.last_progress = (*mark, now)
                progress[handle.number] = Progress(unstarted, now - handle.last_progress[2])
        if not progress:
            return
        taken = False
        for take in self.policy.rebalance(progress):
            taken |= self.take_back(self.by_number[take.worker], take.count) > 0
        if taken:
            self.dispatch(waiting=True)

    def _unstarted(self, handle: WorkerHandle) -> int:
        words = handle.words
        count = 0
        for batch in handle.batches.values():
            if not batch.is_blocked and batch.spec not in self.suspects:
                first = words[control.claim_word(batch.seq)]
                count += max(0, batch.stop - max(first, batch.base))
        return count

    def take_back(self, handle: WorkerHandle, count: int) -> int:
        """Take up to `count` un-started tasks back from the end of what a worker holds; return how many."""
        taken = 0
        for batch in reversed(list(handle.batches.values())):
            if batch.is_blocked or taken >= count:
                continue
            first = max(handle.words[control.claim_word(batch.seq)], batch.base)
            wanted = max(first, batch.stop - (count - taken))
            if wanted >= batch.stop:
                continue
            start = control.take_back(handle.words, batch.seq, wanted, self.barrier)
            if start is not None and start < batch.stop:
                taken += batch.stop - start
                self.requeue(handle, batch, start)
        self.counters.taken_back += taken
        return taken

    def requeue(self, handle: WorkerHandle, batch: SentBatch, start: int) -> None:
        """Put the items of a batch from `start` on back to the front of their queue."""
        spec = batch.spec
        refs = batch.refs[start : batch.stop]
        batch.stop = start
        self.policy.returned(handle.number, spec, len(refs))
        self.queue_first(spec, refs)

    def queue_first(self, spec: TaskSpec, refs: Sequence[ObjectRef[Any]]) -> None:
        """Queue tasks ahead of all others of their spec."""
        for ref in reversed(refs):
            if ref._state is spec:
                if ref._value.__class__ is Call:
                    ref._value.is_sent = False
                spec.open.appendleft(ref)
        self.active[spec] = None

    # -- receiving -------------------------------------------------------------------------------------

    def _pump(self, timeout_s: float) -> None:
        """Read what has arrived, resolve refs, send what became possible. Only the leader is here."""
        events = self._poll(timeout_s)
        with self.turn:
            if self.is_closed:
                return
            for fd, _ in events:
                self._on_event(fd)
            self.dispatch(self.num_waiting > 0 or self.backstop.is_silent())
        self.run_callbacks()

    def _poll(self, timeout_s: float) -> Any:
        """Wait for sockets: look again for a few dozen microseconds when that has paid lately, then block."""
        poll = self.pool.poller.poll
        scale = 1.0 if hasattr(select, "epoll") else 1000.0
        try:
            events = poll(0)
            if events or not timeout_s:
                return events
            if self._spin_misses < SPIN_MISSES:
                from os import sched_yield

                end = perf_counter() + SPIN_S
                while perf_counter() < end:
                    sched_yield()
                    events = poll(0)
                    if events:
                        self._spin_misses = 0
                        return events
                self._spin_misses += 1
            begin = perf_counter()
            events = poll(min(timeout_s, LATE_CHECK_S) * scale)
            if events and perf_counter() - begin < SPIN_S:
                self._spin_misses = 0
            return events
        except ValueError:
            return ()  # closed by a shutdown in another thread

    def _on_event(self, fd: int) -> None:
        if fd == self.pool.template_fd:
            self._on_template()
        elif fd == self._wake_fds[0]:
            _drain_pipe(fd)
        else:
            handle = self.pool.by_fd.get(fd)
            if handle is not None:
                self.read(handle)

    def read(self, handle: WorkerHandle) -> None:
        """Take a worker's messages."""
        channel = handle.channel
        if handle.write_blocked:
            self.pool.watch_writes(handle, channel.flush())
        inbox = channel.read()
        while inbox:
            self._on_message(handle, inbox.popleft())
        if not channel.is_open and not handle.is_exited:
            self.pool.stop_watching(handle)  # its parent will say how it ended

    def _on_message(self, handle: WorkerHandle, message: tuple[Any, ...]) -> None:
        kind = message[0]
        if kind == RESULTS:
            self._on_results(handle, *message[1:])
        elif kind == RETURNED:
            self.borders.returned(handle, message[1], message[2])
        elif kind == READY_TO_RUN:
            handle.is_up = True
        else:
            nested.on_message(self, handle, message)

    def _on_results(
        self, handle: WorkerHandle, seq: int, start: int, values: list[Any], is_plain: bool,
        count: int, total_s: float, worst_s: float, stopped: int,
    ) -> None:  # fmt: skip
        """Resolve the refs of a batch, in order; `stopped` >= 0 ends it."""
        batch = handle.batches.get(seq)
        if batch is None:
            return
        spec = batch.spec
        end = start + len(values)
        refs = batch.refs if start == 0 and end == len(batch.refs) else batch.refs[start:end]
        if is_plain and not spec.has_calls and not self.watchers and not self.attempts:
            for ref, value in zip(refs, values):
                if ref._state is spec:
                    ref._value = value
                    ref._state = READY
        else:
            for ref, value in zip(refs, values):
                self._resolve(handle, spec, ref, value)
        batch.base = end
        if count or values:
            self.policy.finished(handle.number, spec, len(values), total_s, worst_s)
        if spec in self.suspects and values:
            self.suspects.discard(spec)
        if stopped >= 0:
            self._end_batch(handle, batch, stopped)

    def _end_batch(self, handle: WorkerHandle, batch: SentBatch, stopped: int) -> None:
        del handle.batches[batch.seq]
        handle.used_at = monotonic()
        if stopped < batch.stop:
            self.requeue(handle, batch, stopped)
        self.policy.ended(handle.number)
        nested.batch_ended(self, handle, batch)

    def _resolve(self, handle: WorkerHandle, spec: TaskSpec, ref: ObjectRef[Any], value: Any) -> None:
        """Give one ref its result."""
        if ref._state is not spec:
            if value.__class__ is tuple and value[0] != ERROR_WIRE:
                nested.discard(self, handle, value)
            return
        if value.__class__ is not tuple:
            outs = ref._value.outs if ref._value.__class__ is Call else None
            if outs:
                error = ValueError(f"task {spec.name!r} returned one value - expected {spec.num_returns}")
                self.fail(ref, error)
                return
            ref._value, ref._state = value, READY
        elif value[0] == ERROR_WIRE:
            self._on_error(spec, ref, value)
            return
        elif value[0] == MULTI_WIRE:
            outs = ref._value.outs
            for out, part in zip(outs, value[1]):
                self._resolve(handle, spec, out, part)
            ref._value, ref._state = None, READY
        else:
            ref._value, ref._state = self.borders.adopt(value, handle), PACKED
        self.resolved(ref)

    def _on_error(self, spec: TaskSpec, ref: ObjectRef[Any], wire: tuple[Any, ...]) -> None:
        if wire[3] == "cancelled":
            self.fail(ref, TaskCancelledError(task_name=spec.name))
            return
        error = read_error(wire)
        if spec.retry_exceptions and crash.is_worth_retrying(error, spec.retry_exceptions) and self.charge(spec, ref):
            self.queue_first(spec, [ref])
        else:
            self.fail(ref, error)

    def charge(self, spec: TaskSpec, ref: ObjectRef[Any]) -> bool:
        """Charge a task one retry; false when it has none left."""
        used = self.attempts.get(ref, 0)
        if spec.max_retries >= 0 and used >= spec.max_retries:
            return False
        self.attempts[ref] = used + 1
        self.counters.retries += 1
        return True

    def fail(self, ref: ObjectRef[Any], error: BaseException) -> None:
        """Resolve a ref with an error, and its parts where there are several results."""
        if ref._state.__class__ is int:
            return
        call = ref._value
        ref._value, ref._state = error, FAILED
        self.resolved(ref)
        if call.__class__ is Call and call.outs:
            for out in call.outs:
                self.fail(out, error)

    def resolved(self, ref: ObjectRef[Any]) -> None:
        """Tell who waits for a ref. The caller has the turn."""
        self.attempts.pop(ref, None)
        watchers = self.watchers.pop(ref, None)
        if watchers:
            for callback in watchers:
                callback(ref)

    def _on_template(self) -> None:
        messages, is_open = self.pool.read_template()
        for message in messages:
            crash.on_template_message(self, message)
        if not is_open:
            crash.on_template_lost(self)

    # -- the words -------------------------------------------------------------------------------------

    def put(self, value: Any) -> ObjectRef[Any]:
        """Store a value and return a ref to it."""
        self.check_open()
        if isinstance(value, ObjectRef):
            raise TypeError("put() got an ObjectRef - expected a value; pass the ref itself instead")
        ref: ObjectRef[Any] = _new_ref(ObjectRef)
        if is_atom(value):
            ref._value, ref._state = value, READY
        else:
            ref._value = pack_or_name(value, _PutSink(self.store), what="value", name="value", task_name="put")
            ref._state = PACKED
        return ref

    def get(self, refs: Sequence[ObjectRef[Any]], timeout_s: float | None) -> list[Any]:
        """Return the values of refs, waiting for them; raise the first error in their order."""
        position = 0
        count = len(refs)

        def is_done() -> bool:
            nonlocal position
            while position < count and refs[position]._state.__class__ is int:
                if refs[position]._state == FAILED:
                    return True
                position += 1
            return position == count

        if not is_done() and not self.wait_until(is_done, timeout_s):
            left = sum(ref._state.__class__ is not int for ref in refs)
            raise GetTimeoutError(f"get() waited {timeout_s:g} s - {left} of {count} values were not there yet")
        return [ref._value if ref._state == READY else self.value(ref) for ref in refs]

    def value(self, ref: ObjectRef[Any]) -> Any:
        """Return the value of a resolved ref, made anew if it is mutable."""
        state, value = ref._state, ref._value
        if state == READY:
            return value
        if state == PACKED:
            return unpack(value)
        raise crash.fresh(value)

    def wait(
        self, refs: Sequence[ObjectRef[Any]], num_returns: int, timeout_s: float | None
    ) -> tuple[list[ObjectRef[Any]], list[ObjectRef[Any]]]:
        """Wait until so many refs are resolved or the time is over."""

        def is_done() -> bool:
            return sum(1 for ref in refs if ref._state.__class__ is int) >= num_returns

        if not is_done():
            self.wait_until(is_done, timeout_s)
        ready = [ref for ref in refs if ref._state.__class__ is int][:num_returns]
        chosen = set(map(id, ready))
        return ready, [ref for ref in refs if id(ref) not in chosen]

    def wait_until(self, is_done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Send what is open and wait; false on a timeout."""
        self.check_open()
        deadline = None if timeout_s is None else monotonic() + timeout_s
        with self.turn:
            self.num_waiting += 1
            self.dispatch(waiting=True)
        try:
            return self.leadership.until(lambda: self.is_closed or is_done(), deadline) and self._still_open(is_done)
        finally:
            self.num_waiting -= 1  # a lost race with another thread only makes the hint late

    def _still_open(self, is_done: Callable[[], bool]) -> bool:
        if not is_done():
            self.check_open()
        return True

    def cancel(self, ref: ObjectRef[Any], *, force: bool, recursive: bool) -> None:
        """Cancel a task; see `api`."""
        self.check_open()
        with self.turn:
            crash.cancel(self, ref, force=force, recursive=recursive)
        self.kick()
        self.run_callbacks()

    def future(self, ref: ObjectRef[Any]) -> Any:
        """Return a `concurrent.futures.Future` that resolves with a ref."""
        from concurrent.futures import Future

        self.check_open()
        future: Any = Future()
        future.set_running_or_notify_cancel()

        def settle() -> None:
            try:
                future.set_result(self.value(ref))
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever asks
                future.set_exception(error)

        def resolved(_: ObjectRef[Any]) -> None:
            self.num_callbacks -= 1
            self.callbacks.append(settle)

        with self.turn:
            is_there = ref._state.__class__ is int
            if not is_there:
                self.num_callbacks += 1
                self.watch(ref, resolved)
                self.dispatch(waiting=True)
        if is_there:
            settle()
        else:
            self.backstop.wake()
        return future

    def run_callbacks(self) -> None:
        """Run what resolved futures have to do, outside the turn: it may be the user's code."""
        while self.callbacks:
            try:
                callback = self.callbacks.popleft()
            except IndexError:
                break
            callback()

    def kick(self) -> None:
        """Have the leader look again."""
        import os

        try:
            os.write(self._wake_fds[1], b"!")
        except OSError:
            pass
        self.leadership.wake()

    # -- upkeep ----------------------------------------------------------------------------------------

    def _used_words(self) -> Iterable[int]:
        step = control.SLOT_WORDS
        return [control.USED, *(h.slot * step + control.USED for h in list(self.pool.workers.values()))]

    def _release_remote(self, arena_id: int, offset: int) -> None:
        handle = self.pool.workers.get((arena_id - 2) // 2)
        if handle is not None:
            handle.pending_free.append((arena_id, offset))

    def is_idle(self) -> bool:
        """Say whether nothing is outstanding."""
        return not self.active and not any(handle.batches for handle in self.pool.workers.values())

    def tidy(self, *, is_idle: bool) -> None:
        """Free, spill ahead and end surplus workers; called by the backstop. The caller has the turn."""
        self.store.collect()
        self.store.make_room()
        for handle in self.pool.workers.values():
            if handle.pending_free:
                ranges, handle.pending_free = handle.pending_free, []
                self.post(handle, (FREE, ranges))
        if is_idle:
            self.store.trim(32 << 20)
            now = monotonic()
            for number in self.policy.surplus():
                handle = self.by_number.get(number)  # type: ignore[assignment]
                if handle is not None and now - handle.used_at > 2.0:
                    crash.retire(self, handle)

    def on_close(self, rebind: Callable[[], None]) -> None:
        """Have something done when this engine ends."""
        self._rebinders.append(rebind)

    def shutdown(self) -> None:
        """End the engine: unfinished refs fail, processes end, memory goes back."""
        import os

        if self.is_closed:
            return
        if self.turn.is_mine():
            self.turn.deferred = self.shutdown
            return
        with self.turn:
            if self.is_closed:
                return
            self.is_closed = True
            for spec in self.specs.values():
                spec.send_at = 0
        self.kick()
        self.backstop.stop()
        with self.turn:
            crash.fail_everything(self, EngineClosedError("the engine was shut down before this task had finished"))
            self.pool.end_processes()
            for handle in self.pool.workers.values():
                self.output.forget(handle)
            self.pool.close()
            self.store.close()
            for fd in self._wake_fds:
                os.close(fd)
        self.turn.unshield()
        self.leadership.wake()
        self.run_callbacks()
        self.output.close()
        for rebind in self._rebinders:
            rebind()
        self._rebinders.clear()

    def abandon(self) -> None:
        """In a forked child: let go of what belongs to the parent, and touch nothing else."""
        import os

        self.is_closed = True
        self.pool.abandon()
        for spec in self.specs.values():
            spec.send_at = 0
        for fd in self._wake_fds:
            os.close(fd)


class _PutSink:
    """Stores parts without looking for equal ones: `put` is an explicit copy."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def intern(self, parts: Sequence[memoryview], value: object) -> Any:
        return self._store.put(parts)


def _pending(spec: TaskSpec) -> ObjectRef[Any]:
    ref: ObjectRef[Any] = _new_ref(ObjectRef)
    ref._value = None
    ref._state = spec
    return ref


def _pipe() -> tuple[int, int]:
    import os

    fds = os.pipe()
    for fd in fds:
        os.set_blocking(fd, False)
    return fds


def _drain_pipe(fd: int) -> None:
    import os

    try:
        os.read(fd, 4096)
    except OSError:
        pass


__all__ = ["Engine", "packed_wire"]
