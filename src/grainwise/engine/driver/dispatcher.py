"""Sending: what the policy says, put into frames.

All of it happens under the engine's turn.
"""

from __future__ import annotations

from collections import deque

from ...errors import GrainwiseError, WorkerStartError
from ...grain.policy import Policy, Send, may_share
from ...objects.ref import FAILED
from ..wire import claims, control
from ..wire.channel import encode
from ..wire.slices import Slice
from ..wire.tasks import (
    CALLS,
    CAREFUL,
    EACH,
    EAGER,
    FORGET,
    FREE,
    FUNCTION,
    FUSED,
    LENDS_CPU,
    LOOSE,
    RUN,
    Call,
    TaskSpec,
    dead_functions,
    dead_keys,
)  # fmt: skip
from . import crash
from .batches import SentBatch, parts_of
from .taking_back import TakingBack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ...objects.ref import ObjectRef
    from ..processes.pool import WorkerHandle
    from .engine import Engine
    from .environment import Environment

INLINE_BATCH_BYTES = 1 << 20
"""Arguments that travel inline with one batch."""
NO_LIMIT = (1 << 63) - 1
BLOCK_S = 200e-6
"""Estimated work of the first sub-block that a worker claims of a batch."""


class Dispatcher(TakingBack):
    """Carries out the policy's instructions.

    Attributes:
        active: specs with something in their queue; a queue that is not empty has its spec here.
        suspects: specs whose task killed a worker: their tasks run one at a time until one succeeds.
        by_number: workers by the number that the policy gave them.
        num_sent: batches sent and not ended.
        has_unstarted: at the last look a worker was free and others had tasks that they had not begun.
        is_reserving: something takes more than CPUs, see `reserved`.
    """

    def __init__(self, engine: Engine, num_cpus: float) -> None:
        self.engine = engine
        self.policy = Policy(num_cpus)
        self.barrier = claims.Barrier()
        self.active: dict[TaskSpec, None] = {}
        self.missed: deque[TaskSpec] = deque()
        self.num_sent = 0
        self.has_unstarted = False
        self.is_reserving = False
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
        actors = self.engine.actors
        if actors.active or actors.missed or actors.dropped:
            actors.send(waiting)
        while dead_keys:
            policy.forget(dead_keys.popleft())
        if dead_functions:
            self.forget_functions()
        if self.is_reserving:
            self.engine.reserved.look()
        if active and not (waiting and len(active) == 1 and self._dispatch_lone()):
            specs: dict[Any, TaskSpec] = {}
            unsettled = self.engine.environments.unsettled
            held = self.engine.environments.hold(active) if unsettled else ()
            for spec in active:
                if spec in held:
                    policy.ready(spec.number, 0)
                    continue
                specs[spec.number] = spec
                policy.ready(
                    spec.number,
                    len(spec.open),
                    spec.num_cpus,
                    cost=spec.cost,
                    limit=spec.batching,
                    home=spec.home,
                    is_alone=spec.run is not None,
                    max_workers=0 if spec.run is None else spec.run.max_workers,
                    environment=spec.environment,
                )
            sends = policy.dispatch(waiting)
            try:
                while sends:
                    self._send(sends.pop(0), specs)
            finally:
                for send in sends:  # one could not be sent: the others stay in their queues
                    self._unsend(send, ())
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
        if len(spec.open) != 1 or not spec.num_cpus or spec in self.suspects:
            return False
        if spec.environment is not None and spec.environment in self.engine.environments.unsettled:
            return False
        number = self.policy.lone(spec.number, spec.num_cpus)
        if number is None:
            return False
        self.active.clear()
        spec.send_at = 1
        mean_s = self.policy.mean_s(spec.number) or 0.0
        self._send(Send(number, [(spec.number, 1)], mean_s, self.policy.floor_s), {spec.number: spec})
        if spec.open:  # a submitter was quicker than the line above
            self.active[spec] = None
        return True

    def _send(self, send: Send, specs: dict[Any, TaskSpec]) -> None:
        """Send tasks to the worker that the policy knows under a number, with what may follow them."""
        handle = self.by_number.get(send.worker)
        if handle is None:
            handle = self._start(send.worker, specs[send.parts[0][0]].environment)
        if handle is None or not handle.can_take():
            self._unsend(send, ())
            return
        first = specs[send.parts[0][0]]
        if first.run is not None:
            self.send_run(handle, first, send)
            return
        refs: list[ObjectRef[Any]] = []
        parts: list[tuple[int, TaskSpec]] = []
        room = INLINE_BATCH_BYTES
        for key, count in send.parts:
            spec = specs[key]
            taken, room = self.pop(spec, count, room)
            if len(taken) < count:
                self.policy.returned(send.worker, key, count - len(taken))
            if taken:
                refs += taken
                parts.append((len(refs), spec))
        if not refs:
            self.policy.ended(send.worker)
            return
        num_free = len(refs)
        try:
            if self.engine.results.dependents:
                parts = self._add_followers(send, refs, parts)
            self.send_batch(handle, refs, parts, num_free=num_free)
        except BaseException as error:  # no worker may seem busy for ever
            self._unsend(send, refs)
            if not isinstance(error, GrainwiseError):
                self.queue_first(refs)  # a signal handler of the program's raised, or a bug of ours
                raise
            for ref in refs:
                self.engine.results.fail(ref, error)  # such as a value of an earlier session

    def _unsend(self, send: Send, refs: Sequence[ObjectRef[Any]]) -> None:
        """Tell the policy that a batch did not go out: of `refs`, or of what it said itself."""
        if refs:
            for ref in refs:
                self.policy.returned(send.worker, ref._state.number, 1)
        else:
            for key, count in send.parts:
                self.policy.returned(send.worker, key, count)
        self.policy.ended(send.worker)

    def _add_followers(
        self, send: Send, refs: list[ObjectRef[Any]], parts: list[tuple[int, TaskSpec]]
    ) -> list[tuple[int, TaskSpec]]:
        """Add to a batch the tasks that wait for nothing but its results; return its parts."""
        first = parts[0][1]
        each = not first.max_retries
        waiting, suspects = self.engine.results.dependents, self.suspects
        if first in suspects or first.has_killed:
            return parts

        def dependents(ref: ObjectRef[Any]) -> Sequence[ObjectRef[Any]]:
            found = waiting.get(ref)
            spec = ref._state
            if found is None or spec.num_returns != 1 or spec.retry_exceptions:
                return ()
            return [
                other
                for other in found
                if (follower := other._state).__class__ is TaskSpec
                and follower.actor is None
                and follower.needs is None
                and not other._value.is_sent
                and may_share(follower.num_cpus, first.num_cpus)
                and follower.environment is first.environment
                and follower not in suspects
                and not follower.has_killed
                and (not follower.max_retries) == each
                and not any(arg._state == FAILED for arg in other._value.dependencies())
            ]

        followers = self.policy.follow(
            send,
            refs,
            dependents,
            lambda ref: ref._value.wants,
            lambda ref: (ref._state.number, ref._state.num_cpus),
        )
        if not followers:
            return parts
        begins = [0, *(end for end, _ in parts)]
        specs = [spec for begin, (end, spec) in zip(begins, parts) for _ in range(begin, end)]
        for ref in followers:
            ref._value.is_sent = True
            ref._state.has_calls = True
            refs.append(ref)
            specs.append(ref._state)
        return parts_of(specs)

    def _start(self, number: int, environment: Environment | None) -> WorkerHandle | None:
        """Start a worker; one that can't be started counts as one that failed to."""
        try:
            handle = self.by_number[number] = self.engine.pool.start_worker(number, environment)
        except (OSError, WorkerStartError) as error:
            self.policy.died(number)
            self.engine.environments.note_start_failure(environment, str(error))
            return None
        for other in self.policy.crowd():
            idle = self.by_number.get(other)
            if idle is not None and not idle.waits:
                crash.retire(self.engine, idle)
        return handle

    def pop(self, spec: TaskSpec, count: int, room: int) -> tuple[list[ObjectRef[Any]], int]:
        """Take refs off a queue, passing over what was cancelled or sent otherwise.

        Returns:
            The refs, and what is left of the `room` for arguments in bytes.
        """
        queue = spec.open
        refs: list[ObjectRef[Any]] = []
        if not spec.has_calls:
            pop = queue.popleft
            while queue and len(refs) < count:
                taken = [pop() for _ in range(min(count - len(refs), len(queue)))]
                refs += [ref for ref in taken if ref._state is spec]
            if not spec.has_calls:  # as it was before the first of them
                return refs, room
            queue.extendleft(reversed(refs))
            refs = []
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
        return refs, room

    def send_batch(
        self,
        handle: WorkerHandle,
        refs: list[ObjectRef[Any]],
        parts: list[tuple[int, TaskSpec]],
        flags: int = 0,
        num_free: int = -1,
    ) -> None:
        """Send refs to a worker as one batch. The caller has the turn and has told the policy.

        Args:
            handle: the worker.
            refs: the tasks.
            parts: (end, spec) of each run of tasks of one spec.
            flags: see `tasks`.
            num_free: how many of them, the first ones, need nothing of the others; all by default.
        """
        seq = handle.next_seq
        _open_claims(handle, seq)
        wire_parts: list[tuple[Any, ...]] = []
        begin = 0
        has_calls, lends_cpu = False, LENDS_CPU
        for end, spec in parts:
            self.teach(handle, spec, seq, begin)
            wire_parts.append((end, spec.function.id, self._hint(spec), spec.num_returns, spec.name))
            has_calls = has_calls or spec.has_calls
            if not spec.max_retries:
                flags |= EACH
            if spec.num_cpus != 1 or spec.sends_children or spec.needs is not None:
                lends_cpu = 0
                wire_parts[-1] += (spec.num_cpus,)
            begin = end
        if not flags & EACH:
            flags |= lends_cpu
        values = [ref._value for ref in refs]
        calls = None
        if has_calls:
            calls = values
            lend = self.engine.borders.lender(handle)
            for value in values:
                if value.__class__ is Call:
                    value.where = (handle.uid, seq)
            places = None
            if 0 <= num_free < len(refs):
                flags |= FUSED
                places = {ref: index for index, ref in enumerate(refs)}
            values = [value.wire(lend, places) if value.__class__ is Call else value for value in values]
            dependents = self.engine.results.dependents
            if dependents and any(
                other._value.__class__ is Call and not other._value.is_sent
                for ref in refs[:-1]  # the last one is reported with the end of the batch
                for other in dependents.get(ref, ())
            ):
                flags |= EAGER
        self.post(handle, (RUN, seq, flags, values, wire_parts))
        batch = self.note_sent(handle, SentBatch(seq, refs, parts, flags, num_free))
        batch.calls = calls

    def send_run(self, handle: WorkerHandle, spec: TaskSpec, send: Send) -> None:
        """Send items of a run."""
        run = spec.run
        ((key, wanted),) = send.parts
        if run is None or not run.pieces:
            self._unsend(send, ())
            return
        first, items, item_flags = run.pieces.take(wanted)
        count = len(items)
        if count < wanted:
            self.policy.returned(send.worker, key, wanted - count)
        seq = handle.next_seq
        calls = None
        is_loose = not item_flags & CAREFUL and run.timeout_s is None
        try:
            self.teach(handle, spec, seq, 0)
            values = items
            if isinstance(items, Slice):
                values = items.wire(self.engine.borders.lender(handle))
            elif item_flags & CALLS:
                calls = items
                is_loose = False
                lend = self.engine.borders.lender(handle)
                values = [item.wire(lend) if item.__class__ is Call else item for item in items]
            part = (count, spec.function.id, self._hint(spec), 1, spec.name, spec.num_cpus)
            flags = item_flags & ~(CALLS | CAREFUL) | (
                LENDS_CPU if spec.num_cpus == 1 and not spec.sends_children and spec.needs is None else 0
            )
            _open_claims(handle, seq)
            if is_loose:
                flags |= LOOSE
            self.post(handle, (RUN, seq, flags, values, [part], first))
        except BaseException as error:  # no worker may seem busy for ever
            self.policy.returned(send.worker, key, count)
            self.policy.ended(send.worker)
            if not isinstance(error, GrainwiseError):
                run.pieces.put_first(first, items, item_flags)
                raise
            run.fail(error)  # such as an argument of an earlier session
            return
        batch = self.note_sent(handle, SentBatch(seq, items, [(count, spec)], flags, -1))
        batch.first, batch.item_flags, batch.calls = first, item_flags, calls

    def note_sent(self, handle: WorkerHandle, batch: SentBatch) -> SentBatch:
        """Count a batch that was posted to a worker."""
        handle.next_seq = batch.seq + 1
        if not handle.batches:
            handle.last_progress = (-1, -1, 0.0)  # its time of rest is not the run time of what comes now
        if batch.num_free < 0:
            batch.num_free = batch.stop
        handle.batches[batch.seq] = batch
        self.num_sent += 1
        self.engine.counters.batches += 1
        self.engine.counters.tasks += batch.stop
        batch.sent_s = self.engine.record.sent(batch.stop)
        return batch

    def teach(self, handle: WorkerHandle, spec: TaskSpec, seq: int, index: int) -> None:
        """Send a worker the function of a spec, ahead of the first batch with it."""
        function = spec.function
        if function.id not in handle.functions:
            wire = self.engine.borders.lender(handle)(function.packed)
            self.post(handle, (FUNCTION, function.id, wire, seq, index))
            handle.functions.add(function.id)

    def _hint(self, spec: TaskSpec) -> int:
        """Return how many items a worker should claim first."""
        mean_s = self.policy.mean_s(spec.number)
        if mean_s is None:
            return 1
        # One quick sample must not bind a thousand slow ones: the worker grows it.
        return max(1, min(int(BLOCK_S / max(mean_s, 1e-8)), 4 * self.policy.largest_batch(spec.number)))

    def post(self, handle: WorkerHandle, message: tuple[Any, ...]) -> None:
        """Send a frame to a worker without blocking."""
        if handle.pending_free:
            ranges, handle.pending_free = handle.pending_free, []
            self.post(handle, (FREE, ranges))
        self.engine.pool.watch_writes(handle, handle.channel.post(encode(message)))

    def suspect(self, spec: TaskSpec) -> None:
        """A task of a spec killed its worker: from now on they run one at a time."""
        self.suspects.add(spec)
        self.policy.suspect(spec.number, True)

    def clear(self, spec: TaskSpec) -> None:
        """A task of a suspect spec has succeeded."""
        self.suspects.discard(spec)
        self.policy.suspect(spec.number, False)

    def want(self, ref: ObjectRef[Any] | None) -> None:
        """Have a result reported as soon as it is there, or the next one of each worker; only a hint."""
        for handle in self.engine.pool.workers.values():
            for batch in handle.batches.values():
                if batch.stop <= 1 or batch.run is not None:
                    continue  # its end is its report
                try:
                    index = batch.base if ref is None else batch.refs.index(ref, batch.base, batch.stop)
                except ValueError:
                    continue
                handle.words[control.WANTED] = (batch.seq << 32 | index) + 1
                break


def _open_claims(handle: WorkerHandle, seq: int) -> None:
    """Leave all items of a batch that is about to be sent to its worker."""
    at = control.claim_word(seq)
    handle.words[at] = 0
    handle.words[at + 1] = NO_LIMIT
