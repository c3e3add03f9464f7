"""Sending: what the policy says, put into frames; and taking back what has not begun.

All of it happens under the engine's turn.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter

from ...errors import GrainwiseError, WorkerStartError
from ...grain.policy import Policy, Progress
from ..wire import control
from ..wire.channel import encode
from ..wire.tasks import EACH, FORGET, FREE, FUNCTION, RUN, Call, TaskSpec, dead_functions, dead_keys
from . import crash
from .batches import SentBatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ...objects.ref import ObjectRef
    from ..processes.pool import WorkerHandle
    from .engine import Engine

INLINE_BATCH_BYTES = 1 << 20
"""Arguments that travel inline with one batch."""
NO_LIMIT = (1 << 63) - 1
BLOCK_S = 200e-6
"""Estimated work of the first sub-block that a worker claims of a batch."""


class Dispatcher:
    """Carries out the policy's instructions.

    Attributes:
        active: specs with something in their queue; a queue that is not empty has its spec here.
        suspects: specs whose task killed a worker: their tasks run one at a time until one succeeds.
        by_number: workers by the number that the policy gave them.
        num_sent: batches sent and not ended.
    """

    def __init__(self, engine: Engine, num_cpus: float) -> None:
        self.engine = engine
        self.policy = Policy(num_cpus)
        self.barrier = control.Barrier()
        self.active: dict[TaskSpec, None] = {}
        self.missed: deque[TaskSpec] = deque()
        self.num_sent = 0
        self.suspects: set[TaskSpec] = set()
        self.by_number: dict[int, WorkerHandle] = {}

    def look_at(self, spec: TaskSpec) -> None:
        """A submitter has found the queue of a spec long enough for a look."""
        self.active[spec] = None
        enough = self.policy.next_look(spec.number)
        if len(spec.open) >= enough or self.policy.is_long(spec.number):
            self.dispatch(waiting=False)
        else:
            spec.send_at = enough

    def dispatch(self, waiting: bool) -> None:
        """Send what the policy says. The caller has the turn."""
        if self.engine.is_closed:
            return
        policy = self.policy
        active = self.active
        if self.engine.store.dropped:
            self.engine.store.collect()  # so that workers find the room
        while self.missed:
            active[self.missed.popleft()] = None
        while dead_keys:
            policy.forget(dead_keys.popleft())
        if dead_functions:
            self.forget_functions()
        if active and not (waiting and len(active) == 1 and self._dispatch_lone()):
            specs: dict[Any, TaskSpec] = {}
            for spec in active:
                specs[spec.number] = spec
                policy.ready(spec.number, len(spec.open), spec.num_cpus)
            sends = policy.dispatch(waiting)
            try:
                while sends:
                    send = sends.pop(0)
                    self._send(send.worker, specs[send.key], send.count)
            finally:
                for send in sends:  # one could not be sent: the others stay in their queues
                    policy.returned(send.worker, send.key, send.count)
                    policy.ended(send.worker)
            for spec in list(active):
                left = len(spec.open)
                if left:
                    spec.send_at = left + policy.next_look(spec.number)
                else:
                    del active[spec]
                    spec.send_at = 1
                    policy.ready(spec.number, 0)
                    if spec.open:  # a submitter was quicker than the line above
                        active[spec] = None

    def forget_functions(self) -> None:
        """Have workers drop functions that are gone, and with them what those had captured."""
        while dead_functions:
            identity = dead_functions.popleft()
            for handle in self.engine.pool.workers.values():
                if identity in handle.functions:
                    handle.functions.discard(identity)
                    self.post(handle, (FORGET, identity))

    def _dispatch_lone(self) -> bool:
        """Send the one task that is open to a worker that is idle, if that is how things are."""
        (spec,) = self.active
        if len(spec.open) != 1 or not spec.num_cpus:
            return False
        number = self.policy.lone(spec.number, spec.num_cpus)
        if number is None:
            return False
        self.active.clear()
        spec.send_at = 1
        self._send(number, spec, 1)
        if spec.open:  # a submitter was quicker than the line above
            self.active[spec] = None
        return True

    def _send(self, number: int, spec: TaskSpec, count: int) -> None:
        """Send so many tasks to the worker that the policy knows under this number."""
        handle = self.by_number.get(number)
        if handle is None:
            handle = self._start(number)
        if handle is None or not handle.can_take():
            self.policy.returned(number, spec.number, count)
            self.policy.ended(number)
            return
        refs = self._pop(spec, 1 if spec in self.suspects else count)
        if len(refs) < count:
            self.policy.returned(number, spec.number, count - len(refs))
        if not refs:
            self.policy.ended(number)
            return
        try:
            self.send_batch(handle, spec, refs)
        except BaseException as error:  # no worker may seem busy for ever
            self.policy.returned(number, spec.number, len(refs))
            self.policy.ended(number)
            if not isinstance(error, GrainwiseError):
                self.queue_first(spec, refs)  # a signal handler of the program's raised, or a bug of ours
                raise
            for ref in refs:
                self.engine.results.fail(ref, error)  # such as a value of an earlier session

    def _start(self, number: int) -> WorkerHandle | None:
        """Start a worker; one that can't be started counts as one that failed to."""
        try:
            handle = self.by_number[number] = self.engine.pool.start_worker(number)
        except (OSError, WorkerStartError) as error:
            self.policy.died(number)
            if self.engine.pool.note_start_failure():
                detail = str(error)
                crash.fail_everything(self.engine, WorkerStartError(detail=detail))
            return None
        return handle

    def _pop(self, spec: TaskSpec, count: int) -> list[ObjectRef[Any]]:
        """Take refs off a queue, passing over what was cancelled or sent otherwise."""
        queue = spec.open
        refs: list[ObjectRef[Any]] = []
        if not spec.has_calls:
            pop = queue.popleft
            while queue and len(refs) < count:
                taken = [pop() for _ in range(min(count - len(refs), len(queue)))]
                refs += [ref for ref in taken if ref._state is spec]
            return refs
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

    def send_batch(
        self, handle: WorkerHandle, spec: TaskSpec, refs: list[ObjectRef[Any]], flags: int = 0
    ) -> None:
        """Send refs to a worker as one batch. The caller has the turn and has told the policy."""
        seq = handle.next_seq
        at = control.claim_word(seq)
        handle.words[at] = 0
        handle.words[at + 1] = NO_LIMIT
        function = spec.function
        if function.id not in handle.functions:
            wire = self.engine.borders.lender(handle)(function.packed)
            self.post(handle, (FUNCTION, function.id, wire, seq))
            handle.functions.add(function.id)
        values = [ref._value for ref in refs]
        calls = None
        if spec.has_calls:
            calls = values
            lend = self.engine.borders.lender(handle)
            for value in values:
                if value.__class__ is Call:
                    value.where = (handle.uid, seq)
            values = [value.wire(lend) if value.__class__ is Call else value for value in values]
        if not spec.max_retries:
            flags |= EACH
        estimates = self.policy.estimates
        mean_s = estimates.mean_s(spec.number)
        hint = 1
        if mean_s is not None:  # one quick sample must not bind a thousand slow ones: the worker grows it
            hint = max(1, min(int(BLOCK_S / max(mean_s, 1e-8)), 4 * estimates.largest_batch(spec.number)))
        self.post(handle, (RUN, seq, function.id, hint, flags, values, spec.num_returns, spec.name))
        handle.next_seq = seq + 1
        if not handle.batches:
            handle.last_progress = (-1, -1, 0.0)  # its time of rest is not the run time of what comes now
        batch = handle.batches[seq] = SentBatch(seq, spec, refs, flags)
        batch.calls = calls
        self.num_sent += 1
        self.engine.counters.batches += 1
        self.engine.counters.tasks += len(refs)

    def post(self, handle: WorkerHandle, message: tuple[Any, ...]) -> None:
        """Send a frame to a worker without blocking."""
        if handle.pending_free:
            ranges, handle.pending_free = handle.pending_free, []
            self.post(handle, (FREE, ranges))
        self.engine.pool.watch_writes(handle, handle.channel.post(encode(message)))

    # -- taking back -----------------------------------------------------------------------------------

    def rebalance(self) -> None:
        """Take un-started tasks back for workers that have nothing to do."""
        progress: dict[int, Progress] = {}
        now = perf_counter()
        for handle in self.engine.pool.workers.values():
            unstarted = self._unstarted(handle) if handle.is_up else 0
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
        self.engine.counters.taken_back += taken
        return taken

    def requeue(self, handle: WorkerHandle, batch: SentBatch, start: int) -> None:
        """Put the items of a batch from `start` on back to the front of their queue."""
        spec = batch.spec
        refs = batch.refs[start : batch.stop]
        for call in (batch.calls or ())[start : batch.stop]:
            if call.__class__ is Call:
                self.engine.borders.unlend(call, handle)
        batch.stop = start
        self.policy.returned(handle.number, spec.number, len(refs))
        self.queue_first(spec, refs)

    def queue_first(self, spec: TaskSpec, refs: Sequence[ObjectRef[Any]]) -> None:
        """Queue tasks ahead of all others of their spec."""
        for ref in reversed(refs):
            if ref._state is spec:
                if ref._value.__class__ is Call:
                    ref._value.is_sent = False
                spec.open.appendleft(ref)
        self.active[spec] = None
