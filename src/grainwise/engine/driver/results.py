"""Receiving: what workers report, put into refs; and telling those who wait for them.

All of it happens under the engine's turn.
"""

from __future__ import annotations

from collections import deque
from time import monotonic

from ...errors import TaskCancelledError
from ...objects.codec import ERROR_WIRE
from ...objects.ref import FAILED, PACKED, READY
from ..wire.failures import read_error
from ..wire.tasks import (
    DONE,
    MULTI_WIRE,
    PRINTED,
    READY_TO_RUN,
    RESULTS,
    RETURNED,
    SHORT_WIRE,
    STREAM_WIRE,
    YIELDED,
    Call,
    TaskSpec,
)  # fmt: skip
from . import crash, nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ...objects.ref import ObjectRef
    from ...watch.events import Usage
    from ..processes.pool import WorkerHandle
    from .batches import SentBatch
    from .engine import Engine


_NO_TIME = (0, 0, 0.0, 0.0)


class Results:
    """Resolves refs.

    Attributes:
        watchers: what to call when a ref is resolved.
        dependents: refs of calls that wait for a ref, those under way behind it in its batch included.
        attempts: runs beyond the first that a task has been charged for.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.watchers: dict[ObjectRef[Any], list[Callable[[ObjectRef[Any]], None]]] = {}
        self.dependents: dict[ObjectRef[Any], list[ObjectRef[Any]]] = {}
        self.attempts: dict[ObjectRef[Any], int] = {}
        self._news: deque[ObjectRef[Any]] = deque()
        self._is_telling = False

    def read(self, handle: WorkerHandle) -> None:
        """Take a worker's messages."""
        channel = handle.channel
        if handle.write_blocked:
            self.engine.pool.watch_writes(handle, channel.flush())
        inbox = channel.read()
        while inbox:
            try:
                self._on_message(handle, inbox.popleft())
            except Exception as error:  # our bug: it must neither hang anybody nor look like the task's error
                crash.fail_everything(self.engine, crash.internal(error))
                self.engine.pool.kill(handle)  # it may wait for an answer that nobody can give any more
        if not channel.is_open and not handle.is_exited:
            self.engine.pool.stop_watching(handle)  # its parent will say how it ended

    def _on_message(self, handle: WorkerHandle, message: tuple[Any, ...]) -> None:
        kind = message[0]
        if kind == RESULTS:
            self._on_results(handle, *message[1:])
        elif kind == DONE:
            self.engine.actors.done(handle, message[1])
        elif kind == RETURNED:
            self.engine.borders.returned(handle, message[1], message[2])
        elif kind == READY_TO_RUN:
            handle.is_up = True
        elif kind == YIELDED:
            self.engine.streams.deliver(handle, *message[1:])
        elif kind == PRINTED:
            self.engine.output.collect_from(handle)
        else:
            nested.on_message(self.engine, handle, message)

    def _on_results(
        self, handle: WorkerHandle, seq: int, start: int, values: list[Any], is_plain: bool,
        times: tuple[tuple[int, int, float, float], ...], stopped: int, usage: float | Usage,
    ) -> None:  # fmt: skip
        """Resolve the refs of a batch, in order; `stopped` >= 0 ends it."""
        batch = handle.batches.get(seq)
        if batch is None:
            return
        self.engine.record.reported(handle.uid, batch, len(values), times, usage, stopped >= 0)
        end = start + len(values)
        if batch.run is not None:
            self._on_run_results(handle, batch, start, values, is_plain, times, stopped)
            return
        refs = batch.refs if start == 0 and end == len(batch.refs) else batch.refs[start:end]
        is_quiet = not self.watchers and not self.dependents and not self.attempts
        if is_plain and is_quiet and not batch.spec.has_calls and batch.parts is None:
            for ref, value in zip(refs, values):
                if ref._state.__class__ is not int:
                    ref._value = value
                    ref._state = READY
        else:
            for ref, value in zip(refs, values):
                self.resolve(handle, ref, value)
        batch.base = end
        dispatcher = self.engine.dispatcher
        if batch.parts is None:
            if times or values:
                spec = batch.spec
                _, count, total_s, worst_s = times[0] if times else _NO_TIME
                dispatcher.policy.finished(handle.number, spec.number, len(values), count, total_s, worst_s)
                if values and spec in dispatcher.suspects:
                    dispatcher.clear(spec)
        else:
            self._learn(handle, batch, start, end, times)
        if stopped >= 0:
            self.end_batch(handle, batch, stopped)

    def _on_run_results(
        self, handle: WorkerHandle, batch: SentBatch, start: int, values: list[Any], is_plain: bool,
        times: tuple[tuple[int, int, float, float], ...], stopped: int,
    ) -> None:  # fmt: skip
        """Hand the results of a batch to the run that it belongs to."""
        run, count = batch.run, len(values)
        assert run is not None
        batch.base = start + count
        if count:
            run.deliver(handle, batch, start, values, is_plain=is_plain)
        if times or count:
            _, num_timed, total_s, worst_s = times[0] if times else _NO_TIME
            self.engine.dispatcher.policy.finished(
                handle.number, batch.spec.number, count, num_timed, total_s, worst_s
            )
        if stopped >= 0:
            self.end_batch(handle, batch, stopped)

    def _learn(
        self, handle: WorkerHandle, batch: SentBatch, start: int, end: int,
        times: tuple[tuple[int, int, float, float], ...],
    ) -> None:  # fmt: skip
        """Tell the policy what came back of a batch with several parts, and what it cost."""
        dispatcher = self.engine.dispatcher
        for spec, count in batch.counts(start, end):
            dispatcher.policy.finished(handle.number, spec.number, count, 0, 0.0, 0.0)
            if spec in dispatcher.suspects:
                dispatcher.clear(spec)
        parts = batch.parts or ()
        for part, count, total_s, worst_s in times:
            dispatcher.policy.finished(handle.number, parts[part][1].number, 0, count, total_s, worst_s)

    def end_batch(self, handle: WorkerHandle, batch: SentBatch, stopped: int) -> None:
        """A batch is over; its items from `stopped` on go back to their queue."""
        del handle.batches[batch.seq]
        self.engine.pool.num_start_failures = 0
        if handle.environment is not None:
            handle.environment.num_start_failures = 0
        self.engine.dispatcher.num_sent -= 1
        handle.used_at = now = monotonic()
        if handle.environment is not None:
            handle.environment.used_at = now
        if stopped < batch.stop:
            self.engine.dispatcher.requeue(handle, batch, stopped)
        self.engine.dispatcher.policy.ended(handle.number)
        nested.batch_ended(self.engine, handle, batch)
        if handle.actor is not None:
            self.engine.actors.batch_ended(handle.actor)
        elif handle.lease is not None and not handle.batches:
            self.engine.reserved.ended(handle)

    def resolve(self, handle: WorkerHandle, ref: ObjectRef[Any], value: Any) -> None:
        """Give one ref its result."""
        spec = ref._state
        if spec.__class__ is int:
            if value.__class__ is tuple and value[0] != ERROR_WIRE:
                nested.discard(self.engine, handle, value)
            return
        if value.__class__ is tuple and value[0] == ERROR_WIRE:
            self._on_error(spec, ref, value)
            return
        call = ref._value
        if value.__class__ is not tuple:
            ref._value, ref._state = value, READY
        elif value[0] == MULTI_WIRE:
            outs = call.outs
            for out, part in zip(outs, value[1]):
                self.resolve(handle, out, part)
            ref._value, ref._state = None, READY
        elif value[0] == STREAM_WIRE:
            self.engine.streams.end(ref, value[1])
        elif value[0] == SHORT_WIRE:
            self._resolve_short(handle, spec, ref, value)
            return
        else:
            ref._value, ref._state = self.engine.borders.adopt(value, handle), PACKED
        if call.__class__ is Call:
            nested.child_ended(self.engine, call, ref)
        self.resolved(ref)

    def _resolve_short(
        self, handle: WorkerHandle, spec: TaskSpec, ref: ObjectRef[Any], wire: tuple[Any, ...]
    ) -> None:
        """Give the refs of a call what its generator yielded before it failed, and the others the error."""
        _, parts, error = wire
        outs = ref._value.outs
        self._on_error(spec, ref, error, keep=len(parts))
        is_over = ref._state.__class__ is int
        for out, part in zip(outs, parts):
            if is_over:
                self.resolve(handle, out, part)
            elif part.__class__ is tuple:
                nested.discard(self.engine, handle, part)  # it runs again

    def _on_error(self, spec: TaskSpec, ref: ObjectRef[Any], wire: tuple[Any, ...], keep: int = 0) -> None:
        for origin in ref._value.tied if ref._value.__class__ is Call else ():
            if origin._state == FAILED:  # no exception of its own: it has not run
                self.fail(ref, origin._value)
                return
        if wire[3] == "cancelled":
            self.fail(ref, TaskCancelledError(task_name=spec.name))
            return
        error = read_error(wire)
        if (
            spec.retry_exceptions
            and crash.is_worth_retrying(error, spec.retry_exceptions)
            and self.charge(spec, ref)
        ):
            self.engine.dispatcher.queue_first([ref])
        elif spec.num_returns < 0:
            self.engine.streams.raised(ref, error)
        else:
            self.fail(ref, error, keep)

    def charge(self, spec: TaskSpec, ref: ObjectRef[Any]) -> bool:
        """Charge a task one retry; false when it has none left."""
        used = self.attempts.get(ref, 0)
        if spec.max_retries >= 0 and used >= spec.max_retries:
            return False
        self.attempts[ref] = used + 1
        self.engine.counters.retries += 1
        self.engine.record.retried(spec.name)
        return True

    def fail(self, ref: ObjectRef[Any], error: BaseException, keep: int = 0) -> None:
        """Resolve a ref with an error; where there are several results, all but the first `keep`."""
        if ref._state.__class__ is int:
            return
        call = ref._value
        ref._value, ref._state = error, FAILED
        self.engine.record.num_failed += not self.engine.is_closed
        if call.__class__ is Call:
            nested.child_ended(self.engine, call, ref)
            if call.stream is not None:
                self.engine.streams.close(call.stream, error)
        self.resolved(ref)
        if call.__class__ is Call and call.outs:
            for out in call.outs[keep:]:
                if out._state.__class__ is not int:
                    out._value, out._state = error, FAILED
                    self.resolved(out)

    def resolved(self, ref: ObjectRef[Any]) -> None:
        """Tell who waits for a ref. The caller has the turn.

        A failure may travel down a chain of a thousand dependants: the outermost call does it, in a loop.
        """
        if self.attempts:
            self.attempts.pop(ref, None)
        if ref not in self.watchers and ref not in self.dependents:
            return
        self._news.append(ref)
        if self._is_telling:
            return
        self._is_telling = True
        try:
            while self._news:
                news = self._news.popleft()
                for dependent in self.dependents.pop(news, ()):
                    self.engine.submissions.input_ready(dependent)
                for callback in self.watchers.pop(news, ()):
                    callback(news)
        finally:
            self._is_telling = False

    def watch(self, ref: ObjectRef[Any], callback: Callable[[ObjectRef[Any]], None]) -> None:
        """Call back, under the turn, when a ref is resolved. The caller has the turn."""
        self.watchers.setdefault(ref, []).append(callback)

    def unwatch(self, ref: ObjectRef[Any], callback: Callable[[ObjectRef[Any]], None]) -> None:
        """Undo `watch`. The caller has the turn."""
        callbacks = self.watchers.get(ref)
        if callbacks is not None and callback in callbacks:
            callbacks.remove(callback)
            if not callbacks:
                del self.watchers[ref]
