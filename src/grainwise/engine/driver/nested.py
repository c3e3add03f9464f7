"""The driver's side of tasks that submit, wait and store: see `inside` for the worker's side.

A blocked task lends its CPU: its un-started batch-mates go back to the queue, the policy counts its worker as
not running, and other workers (new ones if need be) take over. To keep the number of processes down to CPUs
plus depth, a blocked worker is first offered its own un-started children, to run on top of its stack.

Never in place: tasks that once killed a worker or must not be run twice, and anything on top of a task that
must not be run twice or whose child has killed its worker.
"""

from __future__ import annotations

from collections import deque

from ...errors import GrainwiseError
from ...objects.codec import ERROR_WIRE, PACKED_WIRE, loads
from ...objects.ref import FAILED, PACKED, READY, ObjectRef
from ..calls import ActorOptions, MethodOptions
from ..current import Options
from ..needs import NOTHING, is_special
from ..wire import control
from ..wire.failures import known_error_wire, read_error
from ..wire.tasks import (
    ASK,
    CANCEL_REF,
    EACH,
    FIND_ACTOR,
    IN_PLACE,
    KILL_ACTOR,
    LEAVING,
    MULTI_WIRE,
    PUT,
    REF_WIRE,
    SUBMIT,
    UNWANT,
    VALUES,
    WANT,
    Call,
    TaskSpec,
)
from . import deadlocks, questions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..processes.pool import WorkerHandle
    from .batches import SentBatch
    from .engine import Engine

MAX_LOOKS = 256
IN_PLACE_S = 2e-3
"""Estimated work that a blocked worker is sent at once."""


class Wait:
    """What a thread of a worker waits for.

    Attributes:
        seq: the batch of the blocked task, 0 when it is a thread of its own that waits.
        left: how many more of the refs must be resolved; resolved: what counts them down.
        needs_all: it can't go on without every one of them, so running one in place costs it nothing.
        is_foreign: it is a thread that belongs to a task, but not the one that runs it.
        needed: what the policy was told to send first.
    """

    __slots__ = (
        "handle",
        "is_foreign",
        "is_over",
        "left",
        "needed",
        "needs_all",
        "refs",
        "resolved",
        "seq",
        "token",
    )  # fmt: skip

    def __init__(
        self, handle: WorkerHandle, token: int, refs: list[ObjectRef[Any]], count: int, seq: int
    ) -> None:
        self.handle = handle
        self.token = token
        self.refs = refs
        self.left = count - sum(1 for ref in refs if ref._state.__class__ is int)
        self.resolved: Any = None
        self.seq = seq
        self.is_foreign = False
        self.needs_all = False
        self.is_over = False
        self.needed: list[int] = []


MAX_NEEDED = 16
"""Kinds of tasks that one wait makes urgent."""


def on_message(engine: Engine, handle: WorkerHandle, message: tuple[Any, ...]) -> None:
    """Take a message about nested work. The caller has the turn."""
    kind = message[0]
    if kind == SUBMIT:
        ready: list[tuple[TaskSpec, ObjectRef[Any]]] = []
        for child in message[1]:
            try:
                _submit(engine, handle, ready, *child)
            except Exception as error:  # such as exception classes that can't be loaded here
                _refuse(engine, handle, child[0], error)
        for spec, ref in reversed(ready):
            spec.open.appendleft(ref)
            engine.dispatcher.active[spec] = None
        for blocked in list(engine.pool.workers.values()):
            if blocked.stack:
                offer(engine, blocked)
    elif kind == WANT:
        _want(engine, handle, *message[1:])
    elif kind == UNWANT:
        wait = handle.waits.get(message[1])
        if wait is not None:
            _end_wait(engine, wait)
    elif kind == PUT:
        _put(engine, handle, message[1], message[2])
    elif kind == CANCEL_REF:
        from . import crash

        crash.cancel(engine, engine.borders.named(message[1]), force=message[2], recursive=message[3])
    elif kind == LEAVING:
        if handle.actor is not None:
            engine.actors.end_gracefully(handle.actor, message[1])
    elif kind == FIND_ACTOR:
        engine.actors.answer_find(handle, *message[1:])
    elif kind == KILL_ACTOR:
        engine.actors.kill_by_id(message[1], no_restart=message[2])
    elif kind == ASK:
        questions.answer(engine, handle, *message[1:])
    else:
        engine.streams.on_message(handle, message)


def _submit(
    engine: Engine, handle: WorkerHandle, ready: list[tuple[TaskSpec, ObjectRef[Any]]], identities: list[int],
    uid: Any, name: str, with_function: Any, astuple: tuple[Any, ...], wires: list[Any],
    names: tuple[str, ...], parent: tuple[int, int] | None, is_actor: bool = False,
) -> None:  # fmt: skip
    """Take a child; if it can run at once, it goes to `ready`."""
    borders, submissions = engine.borders, engine.submissions
    if uid.__class__ is int:
        _submit_method(engine, handle, identities, uid, astuple, wires, names, parent)
        return
    if with_function is not None:
        packed = borders.adopt(with_function, handle)
        # Kept for as long as that worker believes that we know it.
        handle.taught[uid] = submissions.find(uid) or submissions.learn_function(uid, packed, name)
    if is_actor:
        function = handle.taught.get(uid) or submissions.find(uid)
        args, nbytes = _arguments(engine, handle, wires)
        _create_actor(engine, handle, identities, function, astuple, args, nbytes, names)
        return
    num_cpus, num_returns, max_retries, retry_exceptions, task_name, batching, runtime_env, needs = astuple
    if isinstance(retry_exceptions, bytes):
        retry_exceptions = loads(retry_exceptions)
    options = Options(
        num_cpus, num_returns, max_retries, retry_exceptions, task_name, batching, runtime_env, needs
    )  # fmt: skip
    if needs is not NOTHING and is_special(needs):
        submissions.check_feasible(options)  # a group's bundles are known here only
    function = handle.taught.get(uid) or submissions.find(uid)
    if function is None:
        raise LookupError(f"task {task_name!r}: its function was dropped before a worker submitted it")
    spec = submissions.known_spec(function, options, handle.environment)
    args, nbytes = _arguments(engine, handle, wires)
    refs = _lent_refs(engine, handle, identities, spec)
    call = Call(tuple(args), names, nbytes)
    if num_returns < 0:
        refs = engine.streams.open_lent(spec, call, refs)
    batch = _note_child(handle, call, refs, parent)
    queued = submissions.submit_child(spec, call, refs)
    if parent is not None and batch is not None and parent[1] in batch.cancelled:
        from . import crash

        crash.cancel(engine, refs[0], force=False, recursive=True)
    elif queued is not None:
        ready.append((queued._state, queued))


def _arguments(engine: Engine, handle: WorkerHandle, wires: list[Any]) -> tuple[list[Any], int]:
    """Return the arguments that a worker has sent, and how many bytes of them travel inline."""
    borders = engine.borders
    args = []
    nbytes = 0
    for wire in wires:
        if wire.__class__ is not tuple:
            args.append(wire)
        elif wire[0] == REF_WIRE:
            args.append(borders.named(wire[1]))
        else:
            packed = borders.adopt(wire, handle)
            nbytes += packed.nbytes() if not packed.blobs else 256
            args.append(packed)
    return args, nbytes


def _lent_refs(
    engine: Engine, handle: WorkerHandle, identities: list[int], spec: TaskSpec
) -> list[ObjectRef[Any]]:
    """Make the refs of a call as the worker that has submitted it knows them."""
    refs: list[ObjectRef[Any]] = []
    for identity in identities:
        ref: ObjectRef[Any] = ObjectRef.__new__(ObjectRef)
        ref._id, ref._state, ref._value = identity, spec, None
        engine.borders.lend_ref(ref, handle)
        refs.append(ref)
    return refs


def _note_child(
    handle: WorkerHandle, call: Call, refs: list[ObjectRef[Any]], parent: tuple[int, int] | None
) -> SentBatch | None:
    """Note which item has submitted a call; return that item's batch."""
    if parent is None:
        return None
    call.parent = (handle.uid, *parent)
    batch = handle.batches.get(parent[0])
    if batch is not None:
        if batch.children is None:
            batch.children = {}
        batch.children.setdefault(parent[1], {}).update(dict.fromkeys(refs))
    return batch


def _submit_method(
    engine: Engine, handle: WorkerHandle, identities: list[int], actor_id: int, astuple: tuple[Any, ...],
    wires: list[Any], names: tuple[str, ...], parent: tuple[int, int] | None,
) -> None:  # fmt: skip
    """Take a call of an actor's method."""
    method, name, num_returns, retries, retry_exceptions, group = astuple
    if isinstance(retry_exceptions, bytes):
        retry_exceptions = loads(retry_exceptions)
    args, nbytes = _arguments(engine, handle, wires)
    actor = engine.actors.known(actor_id)
    spec = actor.spec_of(MethodOptions(method, name, num_returns, retries, retry_exceptions, group))
    refs = _lent_refs(engine, handle, identities, spec)
    call = Call(tuple(args), names, nbytes)
    call.caller = handle.uid
    if num_returns < 0:
        refs = engine.streams.open_lent(spec, call, refs)
    batch = _note_child(handle, call, refs, parent)
    ref = engine.actors.enter(actor, spec, call, refs)
    if parent is not None and batch is not None and parent[1] in batch.cancelled:
        from . import crash

        crash.cancel(engine, ref, force=False, recursive=True)


def _create_actor(
    engine: Engine, handle: WorkerHandle, identities: list[int], function: Any, astuple: tuple[Any, ...],
    args: list[Any], nbytes: int, names: tuple[str, ...],
) -> None:  # fmt: skip
    """Make an actor for a worker, which has named the actor's ref and one for the answer."""
    borders, actors = engine.borders, engine.actors
    options = ActorOptions(*astuple)
    answer = ObjectRef.__new__(ObjectRef)
    answer._id, answer._state, answer._value = identities[1], READY, None
    borders.lend_ref(answer, handle)
    try:
        if function is None:
            raise LookupError(f"actor {options.class_name!r}: its class was dropped before it was made")
        ref = actors.existing(options) if options.may_exist else None
        if ref is None:
            has_refs = any(isinstance(arg, ObjectRef) for arg in args)
            ref = actors.add(
                identities[0], function, options, Call(tuple(args), names, nbytes), has_refs=has_refs,
                parent=handle.environment,
            )  # fmt: skip
            borders.lend_ref(ref, handle)
        else:
            nobody: ObjectRef[Any] = ObjectRef.__new__(ObjectRef)
            nobody._id, nobody._state, nobody._value = identities[0], READY, None
            borders.lend_ref(nobody, handle)
    except Exception as error:
        _refuse(engine, handle, identities[:1], error)
        answer._value, answer._state = error, FAILED
        return
    if options.name:
        answer._value, answer._state = actors.describe(ref), PACKED


def _refuse(engine: Engine, handle: WorkerHandle, identities: list[int], error: Exception) -> None:
    """A child can't be taken: that is its result, and nobody else's."""
    from . import crash

    for identity in identities:
        ref = engine.borders.refs.get(identity)
        if ref is None:
            ref = ObjectRef.__new__(ObjectRef)
            ref._id, ref._state, ref._value = identity, FAILED, crash.internal(error)
            engine.borders.lend_ref(ref, handle)
        else:
            engine.results.fail(ref, crash.internal(error))


def _put(engine: Engine, handle: WorkerHandle, identity: int, wire: Any) -> None:
    ref: ObjectRef[Any] = ObjectRef.__new__(ObjectRef)
    ref._id = identity
    if wire.__class__ is not tuple:
        ref._value, ref._state = wire, READY
    elif wire[0] == ERROR_WIRE:  # of a task that ran in place of another, without our help
        ref._value, ref._state = read_error(wire), FAILED
    else:
        ref._value, ref._state = engine.borders.adopt(wire, handle), PACKED
    engine.borders.lend_ref(ref, handle)


# -- waiting -------------------------------------------------------------------------------------------


def _want(
    engine: Engine, handle: WorkerHandle, token: int, identities: list[int], count: int,
    item: tuple[int, int] | None, is_main: bool, must_wait: bool,
) -> None:  # fmt: skip
    """A thread of a worker waits for refs; `item` is the task it belongs to, if it belongs to one.

    With no task, and `is_main`, no thread waits: the main one will resolve a future when it reads the answer.
    """
    refs = [engine.borders.named(identity) for identity in identities]
    wait = Wait(handle, token, refs, count, item[0] if item and is_main else 0)
    wait.needs_all = must_wait
    if item is not None and is_main and handle.actor is None:
        _give_back(engine, handle, *item)
    if wait.left <= 0:
        _answer(engine, wait)
        return
    handle.waits[token] = wait

    def resolved(_: ObjectRef[Any]) -> None:
        wait.left -= 1
        if wait.left <= 0 and not wait.is_over:
            _end_wait(engine, wait)
            _answer(engine, wait)

    wait.resolved = resolved
    for ref in refs:
        if ref._state.__class__ is not int:
            engine.results.watch(ref, resolved)
    if item is None:
        if handle.actor is not None and handle.actor.is_concurrent and not is_main:
            wait.is_foreign = True  # one of its calls, and what it waits for may need its CPUs
            _count_blocked(engine, handle)
        return
    _urge(engine, wait)
    if is_main:
        batch = handle.batches[item[0]]
        batch.is_blocked = True
        handle.stack.append(item[0])
        name = batch.spec_at(item[1]).name
        engine.record.blocked(handle.uid, token, name)
        _count_blocked(engine, handle)
        deadlock = deadlocks.find_cycle(engine, wait, name)
        if deadlock is not None:
            _end_wait(engine, wait)
            wire = known_error_wire(deadlock)
            unresolved = [ref for ref in refs if ref._state.__class__ is not int]
            engine.dispatcher.post(handle, (VALUES, token, [(ref._id, wire) for ref in unresolved]))
            return
        offer(engine, handle)
    else:
        # A thread of the task waits; its main thread most likely waits for that thread, and can't say so.
        wait.is_foreign = True
        _count_blocked(engine, handle)
        if handle.actor is not None:
            return
        engine.dispatcher.take_back(handle, sum(len(batch.refs) for batch in handle.batches.values()))


def cancel_wait(engine: Engine, handle: WorkerHandle, seq: int) -> None:
    """The task of a batch waits for others and is cancelled: its wait ends with an error."""
    for wait in list(handle.waits.values()):
        if wait.seq == seq:
            _end_wait(engine, wait)
            engine.dispatcher.post(handle, (VALUES, wait.token, None))


def _give_back(engine: Engine, handle: WorkerHandle, seq: int, index: int) -> None:
    """Take back everything that a worker whose task is about to wait has not begun.

    The worker ends its batch after the waiting item by itself, and begins nothing else before it is answered,
    so the limits of batches that wait behind need no barrier.
    """
    for batch in list(handle.batches.values()):
        if batch.seq == seq:
            if index + 1 < batch.stop:
                engine.dispatcher.requeue(handle, batch, index + 1)
        elif batch.seq > seq and not batch.is_blocked and batch.stop:
            handle.words[control.claim_word(batch.seq) + 1] = 0
            engine.dispatcher.requeue(handle, batch, batch.base)


def _urge(engine: Engine, wait: Wait) -> None:
    """Have what a task waits for run before others: most of them may be about to wait as well."""
    needed = engine.dispatcher.policy.needed
    for ref in wait.refs:
        number = getattr(ref._state, "number", None)
        if number is not None and number not in wait.needed and needed(number, 1):
            wait.needed.append(number)
            if len(wait.needed) == MAX_NEEDED:
                break


def _end_wait(engine: Engine, wait: Wait) -> None:
    handle = wait.handle
    wait.is_over = True
    handle.waits.pop(wait.token, None)
    engine.record.resumed(handle.uid, wait.token)
    unwatch(engine, wait)
    if wait.seq in handle.stack:
        handle.stack.remove(wait.seq)
        batch = handle.batches.get(wait.seq)
        if batch is not None:
            batch.is_blocked = False
    _count_blocked(engine, handle)


def unwatch(engine: Engine, wait: Wait) -> None:
    """Forget a wait that has ended, perhaps early: it hears of its refs no more, and they are not urgent."""
    for number in wait.needed:
        engine.dispatcher.policy.needed(number, -1)
    wait.needed.clear()
    if wait.left > 0:
        for ref in wait.refs:
            if ref._state.__class__ is not int:
                engine.results.unwatch(ref, wait.resolved)
    wait.resolved = None  # a cycle: the refs would live until the collector comes


def _answer(engine: Engine, wait: Wait) -> None:
    """Send what is resolved of what a worker waits for."""
    handle = wait.handle
    lend = engine.borders.lender(handle)
    values: list[tuple[int, Any]] = []
    for ref in wait.refs:
        state = ref._state
        if state == READY:
            values.append((ref._id, ref._value))
        elif state == PACKED:
            try:
                values.append((ref._id, lend(ref._value)))
            except GrainwiseError as error:  # of a session that has ended
                values.append((ref._id, known_error_wire(error)))
        elif state == FAILED:
            values.append((ref._id, known_error_wire(ref._value)))
    engine.dispatcher.post(handle, (VALUES, wait.token, values))


def _count_blocked(engine: Engine, handle: WorkerHandle) -> None:
    """Tell the policy whether a worker runs anything: it does while a child runs on top of a blocked task."""
    if handle.actor is not None:
        is_waiting = bool(handle.stack) or any(wait.is_foreign for wait in handle.waits.values())
        engine.actors.lend(handle.actor, is_waiting)
        return
    if handle.lease is not None:
        engine.reserved.waits(
            handle, bool(handle.stack) or any(wait.is_foreign for wait in handle.waits.values())
        )
        return
    if handle.number not in engine.dispatcher.by_number:
        return
    is_running = any(batch.flags & IN_PLACE and not batch.is_blocked for batch in handle.batches.values())
    is_lending = any(wait.is_foreign for wait in handle.waits.values())
    if (handle.stack and not is_running) or is_lending:
        engine.dispatcher.policy.blocked(handle.number)
    else:
        engine.dispatcher.policy.resumed(handle.number)


# -- children in place ---------------------------------------------------------------------------------


def offer(engine: Engine, handle: WorkerHandle) -> None:
    """Send a blocked worker un-started children of its own that it waits for, if there are any."""
    if not handle.stack or not handle.can_take() or not handle.waits or handle.number < 0:
        return
    if any(batch.flags & IN_PLACE and not batch.is_blocked for batch in handle.batches.values()):
        return
    below = [handle.batches[seq] for seq in handle.stack if seq in handle.batches]
    if any(batch.flags & EACH or batch.spec_at(batch.stop - 1).sends_children for batch in below):
        return
    top = handle.stack[-1]
    wait = next(wait for wait in handle.waits.values() if wait.seq == top)
    if not wait.needs_all:
        return
    lent_cpus = handle.batches[top].spec.num_cpus
    chosen: list[ObjectRef[Any]] = []
    spec: TaskSpec | None = None
    room = 1
    for ref in _unstarted(engine, wait):
        if not _is_offerable(engine, ref) or ref._state.num_cpus != lent_cpus:
            continue
        if ref._state.environment is not handle.environment:
            continue
        if spec is None:
            spec = first = ref._state
            mean_s = engine.dispatcher.policy.mean_s(first.number)
            if mean_s is not None:
                share = len(wait.refs) / (2 * engine.settings.num_cpus)
                room = max(1, int(min(IN_PLACE_S / max(mean_s, 1e-8), share)))
        if ref._state is spec:
            chosen.append(ref)
            if len(chosen) >= room:
                break
    if spec is None:
        return
    for ref in chosen:
        ref._value.is_sent = True
    engine.dispatcher.policy.resumed(handle.number)
    engine.dispatcher.policy.sent(handle.number, spec.number, len(chosen))
    engine.dispatcher.send_batch(handle, chosen, [(len(chosen), spec)], IN_PLACE)


def _unstarted(engine: Engine, wait: Wait) -> Iterator[ObjectRef[Any]]:
    """Yield un-started tasks that a wait can't end without: what it waits for, then what those submitted.

    Descendants too, because a worker whose last own child runs elsewhere would otherwise stand idle while a
    new process is started (leapfrogging, Wagner and Calder 1993).
    """
    queue = deque(wait.refs)
    for _ in range(MAX_LOOKS):
        if not queue:
            return
        ref = queue.popleft()
        call = ref._value
        if ref._state.__class__ is int or call.__class__ is not Call:
            continue
        if not call.is_sent:
            yield ref
        elif call.where is not None:
            handle = engine.pool.workers.get(call.where[0])
            batch = handle.batches.get(call.where[1]) if handle is not None else None
            if batch is not None and batch.children:
                try:
                    queue.extend(batch.children.get(batch.refs.index(ref, batch.base), ()))
                except ValueError:
                    continue


def _is_offerable(engine: Engine, ref: ObjectRef[Any]) -> bool:
    spec, call = ref._state, ref._value
    return (
        spec.__class__ is TaskSpec
        and spec.actor is None
        and spec.needs is None
        and not call.wants
        and spec.num_returns == 1
        and bool(spec.max_retries)  # its death would have the task below run again, and submit it again
        and not spec.has_killed
        and call.parent is not None
    )


def batch_ended(engine: Engine, handle: WorkerHandle, batch: SentBatch) -> None:
    """A batch has ended: a worker that is still blocked below it may be offered more."""
    if handle.stack:
        _count_blocked(engine, handle)
        offer(engine, handle)


def child_ended(engine: Engine, call: Call, ref: ObjectRef[Any]) -> None:
    """A child is resolved: its parent's batch need not keep it, and its value with it."""
    if call.parent is None:
        return
    uid, seq, index = call.parent
    handle = engine.pool.workers.get(uid)
    batch = handle.batches.get(seq) if handle is not None else None
    mine = (batch.children or {}).get(index) if batch is not None else None
    if mine:
        for each in (ref, *(call.outs or ())):
            mine.pop(each, None)


def discard(engine: Engine, handle: WorkerHandle, wire: tuple[Any, ...]) -> None:
    """Free what a result that nobody wants any more has brought along."""
    if wire[0] == PACKED_WIRE:
        engine.borders.adopt(wire, handle)
    elif wire[0] == MULTI_WIRE:
        for part in wire[1]:
            if part.__class__ is tuple:
                discard(engine, handle, part)
