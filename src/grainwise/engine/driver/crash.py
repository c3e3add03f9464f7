"""Ends that nobody planned: dead workers, a dead template, cancellation, shutdown.

A worker's death has one suspect: the item that it had started (it published its index before it called the
function). Reported results stand. Items that had finished unreported run again free of charge, un-started
ones go elsewhere, and the suspect is charged a retry, or fails with `WorkerCrashedError` when it has none
left. After that its spec runs one task at a time until one succeeds: batch-mates of a poison task are never
in the same boat twice. Tasks that must not run twice (`max_retries=0`) are reported one by one, so for them
no item is ever finished and unreported.
"""

from __future__ import annotations

import os
from time import monotonic

from ...errors import GrainwiseError, InternalError, TaskCancelledError, WorkerCrashedError, WorkerStartError
from ..processes import template
from ..processes.process import read_crash
from ..wire import control
from ..wire.tasks import CAREFUL, EXIT, Call, TaskSpec
from . import nested

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any

    from ...objects.ref import ObjectRef
    from ..processes.pool import WorkerHandle
    from ..processes.template_handle import TemplateHandle
    from .batches import SentBatch
    from .engine import Engine
    from .runs import Run

if not TYPE_CHECKING:
    import _signal

_SIGINT = int(_signal.SIGINT)
_SIGURG = int(_signal.SIGURG)
_KILLED = 9
UNCLAIM_S = 0.02


class Verdict:
    """Why we kill a process, and what becomes of the item that it runs.

    Attributes:
        error: what the item fails with, unless it runs again.
        item: batch and index of the one that was meant; another one that has begun since may not be blamed.
        again_s: it runs again, uncharged, after so long; None for never.
    """

    __slots__ = ("again_s", "error", "item")

    def __init__(
        self, error: GrainwiseError, item: tuple[int, int] | None = None, again_s: float | None = None
    ) -> None:
        self.error = error
        self.item = item
        self.again_s = again_s


# -- processes -----------------------------------------------------------------------------------------


def on_template_message(engine: Engine, message: tuple[int, int, int, int]) -> None:
    """Take a message of the template. The caller has the turn."""
    operation, uid, pid, status = message
    handle = engine.pool.workers.get(uid)
    if handle is None:
        return
    if operation == template.FORKED:
        handle.pid = pid
    elif operation == template.EXITED:
        _worker_ended(engine, handle, status)


def on_template_lost(engine: Engine, template: TemplateHandle) -> None:
    """A template has ended, and its workers with it: start anew, unless it does so again and again."""
    detail = template.output()
    engine.pool.lose_template(template)
    has_failed = engine.environments.gives_up(
        template.environment, detail, is_certain=template.environment is not None and not template.is_booted
    )
    for handle in list(engine.pool.workers.values()):
        if handle.template is template:
            handle.is_up = template.is_booted or template.environment is None  # not its own failure to start
            _worker_ended(engine, handle, _KILLED)
    if has_failed and template.environment is None:
        fail_everything(engine, WorkerStartError(detail=detail))


def _worker_ended(engine: Engine, handle: WorkerHandle, status: int) -> None:
    """A worker is gone: keep what it has reported, blame one item, give the rest to others."""
    engine.results.read(handle)  # what it sent before it died is in the socket still
    handle.is_exited = True
    handle.status = status
    engine.output.forget(handle)
    if handle.batches and handle.actor is None:
        engine.counters.crashes += 1
        engine.record.crashed(handle.uid)
        engine.dispatcher.num_sent -= len(handle.batches)
    for wait in list(handle.waits.values()):
        wait.is_over = True
        nested.unwatch(engine, wait)
    running = handle.words[control.SEQ] if handle.is_up else 0
    started = handle.words[control.STARTED]
    if handle.actor is not None:
        engine.actors.worker_ended(handle, running, started)
        engine.borders.end_loans(handle)
        engine.pool.remove(handle)
        return
    blames_task = not handle.batches or os.WIFSIGNALED(handle.status)  # nobody's code ended it then
    for batch in reversed(list(handle.batches.values())):
        engine.record.lost(batch.stop - batch.base)
        blames_task |= _settle(engine, handle, batch, started if batch.seq == running else None)
    engine.reserved.died(handle)
    detail = "" if handle.is_up else _last_words(engine, handle)
    engine.dispatcher.policy.died(handle.number)
    engine.dispatcher.by_number.pop(handle.number, None)
    engine.borders.end_loans(handle)
    engine.pool.remove(handle)
    if not (handle.is_up and blames_task) and handle.verdict is None:
        engine.environments.note_start_failure(handle.environment, detail or _last_words(engine, handle))


def _last_words(engine: Engine, handle: WorkerHandle) -> str:
    if handle.status < 0:
        return f"fork failed: {os.strerror(-handle.status)}"
    words = handle.last_words or handle.template.output()
    return words or f"no output; {how_it_ended(handle.status)}"


def _settle(engine: Engine, handle: WorkerHandle, batch: SentBatch, started: int | None) -> bool:
    """Decide about the items of a dead worker's batch; say whether one of them may be to blame."""
    if batch.base >= batch.stop:
        return False
    if batch.run is not None:
        return _settle_run(engine, handle, batch, batch.run, started)
    rest = batch.refs[batch.base : batch.stop]
    found = batch.is_blocked  # a child on top of it died, or somebody killed the worker
    if found and started is None:
        # Next time nothing runs on top of it: children that differ each time would kill it for ever.
        batch.spec_at(batch.stop - 1).sends_children = True
    if started is not None and batch.base <= started < batch.stop:
        suspect = batch.refs[started]
        spec = batch.spec_at(started)
        if handle.verdict is not None:
            _carry_out(engine, handle.verdict, batch, started)
            rest.remove(suspect)
            engine.dispatcher.queue_first(rest)
            return True
        if handle.words[control.IN_CHILD]:
            # It ran a child of its own: not its doing. Next time it leaves them to us, and we learn which.
            spec.sends_children = True
            engine.dispatcher.queue_first(rest)
            return True
        rest.remove(suspect)
        spec.has_killed = True
        if suspect._state.__class__ is TaskSpec:
            if engine.results.charge(spec, suspect):
                engine.dispatcher.suspect(spec)
                engine.dispatcher.queue_first([suspect])
            else:
                engine.results.fail(suspect, _crashed(handle, batch, started))
        found = True
    engine.dispatcher.queue_first(rest)
    return found


def _carry_out(engine: Engine, verdict: Verdict, batch: SentBatch, started: int) -> None:
    """Do to the running item of a process that we have killed what was decided."""
    suspect, spec = batch.refs[started], batch.spec_at(started)
    if suspect._state.__class__ is not TaskSpec:
        return
    if verdict.item not in (None, (batch.seq, started)) and spec.max_retries:
        engine.dispatcher.queue_first([suspect])
    elif verdict.again_s is not None:
        engine.memory.put_off(suspect, verdict.again_s)
    else:
        engine.results.fail(suspect, verdict.error)


def _settle_run(
    engine: Engine, handle: WorkerHandle, batch: SentBatch, run: Run, started: int | None
) -> bool:
    """Decide about the items of a run's batch; say whether one of them may be to blame."""
    is_known = started is not None and batch.base <= started < batch.stop
    in_child = is_known and handle.words[control.IN_CHILD]
    if in_child or (batch.is_blocked and not is_known):  # as for tasks: see `_settle`
        batch.spec.sends_children = True
    if is_known and handle.words[control.LOOSE]:
        run.put_back(batch, batch.base, batch.stop, CAREFUL)
        return True
    if not is_known or in_child or started is None:
        run.put_back(batch, batch.base, batch.stop)
        return bool(batch.is_blocked or in_child)
    run.put_back(batch, started + 1, batch.stop)
    run.put_back(batch, batch.base, started)
    error = _crashed(handle, batch, started) if handle.verdict is None else handle.verdict.error
    run.died(batch, started, error)
    return True


def _crashed(handle: WorkerHandle, batch: SentBatch, index: int) -> WorkerCrashedError:
    """Return the error of the task that was running, with what is known of the end."""
    status = handle.status
    by_signal = os.WIFSIGNALED(status)
    lines = [f"it was running item {index + 1} of {len(batch.refs)} of a batch"]
    if batch.is_blocked:
        lines = ["it was waiting for other tasks"]
    tail = read_crash(handle.crash_fd)
    if tail:
        lines.append(tail)
    if handle.last_words:
        lines.append("last lines of its error output:\n" + handle.last_words)
    return WorkerCrashedError(
        task_name=batch.spec_at(index).name,
        pid=handle.pid or None,
        exit_code=None if by_signal else os.WEXITSTATUS(status),
        signal=os.WTERMSIG(status) if by_signal else None,
        detail="\n".join(lines),
    )


def how_it_ended(status: int) -> str:
    """Say how a process ended."""
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit code {os.WEXITSTATUS(status)}"


def last_lines(handle: WorkerHandle) -> str:
    """Return what is known of a process's end beside its status."""
    lines = []
    tail = read_crash(handle.crash_fd)
    if tail:
        lines.append(tail)
    if handle.last_words:
        lines.append("last lines of its error output:\n" + handle.last_words)
    return "\n".join(lines)


def retire(engine: Engine, handle: WorkerHandle) -> None:
    """End an idle worker that is not needed any more."""
    engine.dispatcher.policy.died(handle.number)
    engine.dispatcher.by_number.pop(handle.number, None)
    engine.dispatcher.post(handle, (EXIT,))


# -- errors --------------------------------------------------------------------------------------------


def is_worth_retrying(error: BaseException, which: Any) -> bool:
    """Say whether `retry_exceptions` covers an error."""
    return which is True or (isinstance(which, (tuple, list)) and isinstance(error, tuple(which)))


def internal(error: Exception) -> GrainwiseError:
    """Return the error that says that it is our bug, unless it says something better already."""
    if isinstance(error, GrainwiseError):
        return error
    wrapped = InternalError(f"{type(error).__name__}: {error} - this is a bug in grainwise, please report it")
    wrapped.__cause__ = error
    return wrapped


def fail_everything(engine: Engine, error: BaseException) -> None:
    """Resolve all that is outstanding with an error. The caller has the turn."""
    for handle in engine.pool.workers.values():
        for batch in list(handle.batches.values()):
            if batch.run is not None:
                batch.run.fail(error)
                continue
            for ref in batch.refs[batch.base :]:
                if ref._state.__class__ is TaskSpec:
                    engine.results.fail(ref, error)
    engine.actors.fail_all(error)
    engine.memory.fail_all(error)
    engine.reserved.groups.fail_all(error)
    for spec in {*engine.submissions.specs(), *engine.dispatcher.active}:
        fail_queue(engine, spec, error)
    engine.leadership.wake()


def fail_queue(engine: Engine, spec: TaskSpec, error: BaseException) -> None:
    """Resolve what is submitted and not sent with an error. The caller has the turn."""
    if spec.run is not None:
        spec.run.fail(error)
        return
    while spec.open:
        ref = spec.open.popleft()
        if ref._state is spec:
            engine.results.fail(ref, error)


# -- cancellation --------------------------------------------------------------------------------------


def cancel(engine: Engine, ref: ObjectRef[Any], *, force: bool, recursive: bool) -> None:
    """Cancel a task: one that has not begun never runs, a running one is interrupted (or killed)."""
    spec = ref._state
    if spec.__class__ is not TaskSpec:
        return  # finished, or not a task
    if ref._value.__class__ is not Call and isinstance(ref._value, type(ref)):
        ref = ref._value  # one of several results: this one stands for the call
        if ref._state.__class__ is not TaskSpec:
            return
    if spec.actor is not None:
        engine.actors.cancel(ref, recursive=recursive)
        return
    error = TaskCancelledError(task_name=spec.name)
    call = ref._value
    if call.__class__ is not Call or call.is_sent:
        for handle in list(engine.pool.workers.values()):
            for batch in list(handle.batches.values()):
                index = _index(batch, ref)
                if index is not None:
                    _cancel_sent(engine, handle, batch, index, error, force=force, recursive=recursive)
                    return
    engine.results.fail(ref, error)


def _index(batch: SentBatch, ref: ObjectRef[Any]) -> int | None:
    if batch.run is not None:
        return None
    try:
        index: int = batch.refs.index(ref, batch.base, batch.stop)
        return index
    except ValueError:
        return None


def _cancel_sent(
    engine: Engine, handle: WorkerHandle, batch: SentBatch, index: int, error: TaskCancelledError,
    *, force: bool, recursive: bool,
) -> None:  # fmt: skip
    """Cancel an item that a worker holds."""
    item = batch.refs[index]
    words = handle.words
    if recursive:
        batch.cancelled.add(index)  # there may be more on their way
        for child in list((batch.children or {}).get(index, ())):
            cancel(engine, child, force=force, recursive=True)
    if batch.is_blocked and not force:
        nested.cancel_wait(engine, handle, batch.seq)  # its `get` raises
        return
    if not batch.is_blocked:
        start = engine.dispatcher.claim_back(handle, batch, index)
        if start is not None and start < batch.stop:
            engine.dispatcher.requeue(handle, batch, start)
            if start <= index:
                engine.results.fail(item, error)
                return
    is_running = words[control.SEQ] == batch.seq and words[control.STARTED] == index
    if force:
        engine.results.fail(item, error)
        if is_running or batch.is_blocked:
            engine.pool.kill(handle, _KILLED)
    else:
        # Either it runs and is interrupted, or it is claimed behind the running one, which the worker then
        # un-claims; the limit that the attempt to take it back has set keeps it from being claimed again.
        if is_running:
            interrupt(engine, handle, batch, index, spares_child=not recursive)
            return
        at = control.claim_word(batch.seq) + 1
        words[at] = min(words[at], index)  # what lies behind comes back with the batch's end
        engine.results.fail(item, error)
        engine.pool.kill(handle, _SIGURG)
        _await_unclaim(words, batch.seq, index)


def interrupt(
    engine: Engine, handle: WorkerHandle, batch: SentBatch, index: int, *, spares_child: bool = False
) -> None:
    """Have a running item raise; `spares_child`: a child that it runs itself may end first."""
    handle.words[control.SPARE_CHILD] = int(spares_child)
    handle.words[control.CANCEL] = (batch.seq << 32 | index) + 1
    engine.pool.kill(handle, _SIGINT)


def _await_unclaim(words: memoryview, seq: int, index: int) -> None:
    """Give a worker a moment to let go of an item: it should not begin after `cancel` has returned."""
    at = control.claim_word(seq)
    end = monotonic() + UNCLAIM_S
    while words[at] > index and words[control.SEQ] == seq and words[control.STARTED] < index:
        if monotonic() > end:
            return  # it is deep in C code, where no handler runs
        os.sched_yield()
