"""Taking back what has not begun, for workers that have nothing to do, and behind tasks that wait.

All of it happens under the engine's turn.
"""

from __future__ import annotations

from time import perf_counter

from ...grain.policy import Policy, Progress
from ...objects.ref import FAILED
from ..wire import claims, control
from ..wire.tasks import Call, TaskSpec
from .runs import unlend

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ...objects.ref import ObjectRef
    from ..processes.pool import WorkerHandle
    from .batches import SentBatch
    from .engine import Engine


class TakingBack:
    """The part of the dispatcher that takes back.

    Attributes:
        has_unstarted: at the last look a worker was free and others had tasks that they had not begun.
    """

    engine: Engine
    policy: Policy
    barrier: claims.Barrier
    active: dict[TaskSpec, None]
    suspects: set[TaskSpec]
    by_number: dict[int, WorkerHandle]
    has_unstarted: bool

    def dispatch(self, waiting: bool) -> None:
        """Send what the policy says."""
        raise NotImplementedError

    def rebalance(self) -> None:
        """Take un-started tasks back for workers that have nothing to do."""
        self.has_unstarted = False
        if not self.policy.may_take_back():
            return
        progress: dict[int, Progress] = {}
        now = perf_counter()
        for handle in self.engine.pool.workers.values():
            is_open = handle.is_up and handle.number >= 0  # others are an actor's, or a specialist's
            unstarted, tied = self._unstarted(handle) if is_open else (0, 0)
            if unstarted:
                mark = (handle.words[control.SEQ], handle.words[control.STARTED])
                if mark != handle.last_progress[:2]:
                    handle.last_progress = (*mark, now)
                progress[handle.number] = Progress(unstarted, now - handle.last_progress[2], tied)
        self.has_unstarted = bool(progress)
        if not progress:
            return
        taken = False
        for take in self.policy.rebalance(progress):
            taken |= self.take_back(self.by_number[take.worker], take.count) > 0
        if taken:
            self.dispatch(waiting=True)

    def _unstarted(self, handle: WorkerHandle) -> tuple[int, int]:
        """Return how many items a worker has not begun, and how many of those are followers."""
        words = handle.words
        count = tied = 0
        for batch in handle.batches.values():
            if not batch.is_blocked and not batch.has_suspect(self.suspects):
                first = max(words[control.claim_word(batch.seq)], batch.base)
                count += max(0, batch.stop - first)
                tied += max(0, batch.stop - max(first, batch.num_free))
        return count, tied

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
            start = self.claim_back(handle, batch, wanted)
            if start is not None and start < batch.stop:
                taken += batch.stop - start
                self.requeue(handle, batch, start)
        self.engine.counters.taken_back += taken
        if taken:
            self.engine.record.taken(handle.uid, taken)
        return taken

    def claim_back(self, handle: WorkerHandle, batch: SentBatch, wanted: int) -> int | None:
        """Take the items of a batch from `wanted` on, as far as its worker has not claimed them."""
        if handle.words[control.MODE] == claims.LOCK:
            lock = claims.SlotLock(self.engine.pool.control_fd, handle.slot)
            return claims.take_back_locked(handle.words, batch.seq, wanted, lock)
        return claims.take_back(handle.words, batch.seq, wanted, self.barrier)

    def requeue(self, handle: WorkerHandle, batch: SentBatch, start: int) -> None:
        """Put the items of a batch from `start` on back to the front of their queues."""
        self.engine.record.requeued(batch.stop - start)
        if batch.run is not None:
            unlend(self.engine, handle, batch, start)
            batch.run.put_back(batch, start, batch.stop)
            self.policy.returned(handle.number, batch.spec.number, batch.stop - start)
            batch.stop = start
            return
        refs = batch.refs[start : batch.stop]
        for call in (batch.calls or ())[start : batch.stop]:
            if call.__class__ is Call:
                self.engine.borders.unlend(call, handle)
        for spec, count in batch.counts(start, batch.stop):
            self.policy.returned(handle.number, spec.number, count)
        batch.stop = start
        self.queue_first(refs)

    def queue_first(self, refs: Sequence[ObjectRef[Any]]) -> None:
        """Queue tasks ahead of all others of their specs; those that miss an input go on waiting for it."""
        for ref in reversed(refs):
            spec = ref._state
            if spec.__class__ is not TaskSpec:
                continue
            if ref._value.__class__ is Call:
                ref._value.is_sent = False
                if ref._value.wants:
                    continue
                if any(arg._state == FAILED for arg in ref._value.dependencies()):
                    self.engine.submissions.arguments_ready(spec, ref, ref._value)
                    continue
            spec.open.appendleft(ref)
            if spec.actor is not None:
                self.engine.actors.active[spec.actor] = None
            else:
                self.active[spec] = None
