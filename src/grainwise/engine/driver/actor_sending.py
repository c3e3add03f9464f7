"""Sending an actor's calls, in order, and taking what has come back. See `actors`.

All of it happens under the engine's turn.
"""

from __future__ import annotations

from collections import deque

from ...errors import GrainwiseError
from ..wire import control
from ..wire.tasks import ACT, CREATES, EAGER, RUN, Call, TaskSpec
from .actor import DEAD, NEW, STARTING
from .actor_ends import ActorEnds
from .batches import SentBatch, parts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...objects.ref import ObjectRef
    from ..needs import Needs
    from ..processes.pool import WorkerHandle
    from .actor import Actor

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
"""Estimated work that an actor claims at once: what is claimed can't be taken back."""
NO_LIMIT = (1 << 63) - 1


class ActorSending(ActorEnds):
    """The part of `Actors` that sends.

    Attributes:
        refused: CPUs and needs that the last look had no room for: hundreds of actors may wait for the same.
    """

    missed: deque[Actor]
    refused: set[tuple[float, Needs]]

    def _place(self, actor: Actor) -> WorkerHandle | None:
        """Start an actor's process, once there are CPUs for it."""
        raise NotImplementedError

    # -- sending ---------------------------------------------------------------------------------------

    def look_at(self, actor: Actor) -> None:
        """A submitter has found the queue of an actor long enough for a look."""
        self.active[actor] = None
        self._send(actor, waiting=False)

    def send(self, waiting: bool) -> None:
        """Send what can be sent."""
        while self.missed:
            self.active[self.missed.popleft()] = None
        if self.dropped:
            self._collect()
        refused = self.refused
        refused.clear()
        for actor in list(self.active):
            if refused and actor.is_waiting_for_lease():
                options = actor.options
                if (options.num_cpus, options.needs) in refused and not self.engine.reserved.is_next(actor):
                    continue
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
            options = actor.options
            facts = (actor.id, options.name, options.namespace, actor.num_restarts)
            at_once = (options.is_async, options.max_concurrency, options.groups)
            self.engine.dispatcher.post(
                handle, (ACT, options.class_name, facts, at_once if actor.is_concurrent else None)
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
