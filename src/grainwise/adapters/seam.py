"""What adapters need of the engine beyond the public words; the only file here that knows its inside.

Ray's `cancel` interrupts a task that runs, and a ref's `future()` says that the program waits. The futures of
the standard library want neither: `Future.cancel` must leave a running task alone and say so, and a loop of
`submit` must not send crumbs. Inside a task the driver's state is out of reach: there nothing that has been
submitted is withdrawn.
"""

from __future__ import annotations

from ..engine import current
from ..errors import TaskCancelledError
from ..objects.codec import is_atom
from ..objects.ref import FAILED, PACKED, ObjectRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ..engine.driver.batches import SentBatch
    from ..engine.driver.engine import Engine
    from ..engine.processes.pool import WorkerHandle

_new_ref = ObjectRef.__new__


def _driver() -> Engine | None:
    """Return the engine of the program, None if there is none or this is a task of it."""
    engine: Any = current.current()
    return None if engine is None or engine.is_closed or not hasattr(engine, "shutdown") else engine


def is_inside_task() -> bool:
    """Say whether this process is a worker."""
    engine = current.current()
    return engine is not None and not hasattr(engine, "shutdown")


def num_cpus() -> float:
    """Return the CPUs of the session, or those that it would have; starts nothing."""
    engine: Any = current.current()
    if engine is not None and not engine.is_closed:
        found: float = engine.num_cpus if is_inside_task() else engine.settings.num_cpus
        return found
    from ..config import resolve

    return resolve().num_cpus


def read(ref: ObjectRef[Any]) -> Any:
    """Return the value of a resolved ref or raise its error; starts no session if its own has ended."""
    engine = current.current()
    if engine is not None and not engine.is_closed:
        return engine.get((ref,), None)[0]
    if ref._state == FAILED:
        from ..engine.wire.failures import fresh

        raise fresh(ref._value)
    if ref._state != PACKED:
        return ref._value
    from ..engine.wire.failures import read_value

    return read_value(ref._value)


def has_failed(ref: ObjectRef[Any]) -> bool:
    """Say whether a ref has resolved to an error."""
    return ref._state.__class__ is int and ref._state == FAILED


def watch(ref: ObjectRef[Any], settle: Callable[[], None]) -> bool:
    """Have `settle()` called once a ref is resolved, in whichever thread reads results.

    Unlike `ref.future()` it does not count as waiting: what is open goes on collecting.

    Returns:
        False if the ref is resolved already, or if this process is a worker: then nobody will call.
    """
    engine = _driver()
    if engine is None:
        return False

    def resolved(_: ObjectRef[Any]) -> None:
        engine.num_callbacks -= 1
        engine.callbacks.append(settle)

    with engine.turn:
        if ref._state.__class__ is int:
            return False
        engine.num_callbacks += 1
        engine.results.watch(ref, resolved)
    engine.backstop.wake()
    return True


def nudge() -> None:
    """Send what is open: from now on somebody waits for it."""
    engine = _driver()
    if engine is not None:
        with engine.turn:
            engine.dispatcher.dispatch(waiting=True)
        engine.backstop.wake()


def snapshot(value: Any) -> Any:
    """Return what stands for a value as it is now: itself, or a ref; equal large parts are stored once.

    Raises:
        SerializationError: the value can't be pickled.
    """
    if is_atom(value) or isinstance(value, ObjectRef):
        return value
    engine = _driver()
    if engine is None:
        from ..api.values import put

        return put(value)
    from ..engine.wire.failures import pack_or_name

    ref: ObjectRef[Any] = _new_ref(ObjectRef)
    ref._value = pack_or_name(value, engine.store, what="argument", name="argument", task_name="submit")
    ref._state = PACKED
    return ref


def withdraw(refs: Iterable[ObjectRef[Any]]) -> None:
    """Cancel those tasks that no worker has begun; the others go on."""
    engine = _driver()
    if engine is None:
        return
    with engine.turn:
        wanted = {ref: None for ref in refs if ref._state.__class__ is not int}
        if wanted:
            for handle in list(engine.pool.workers.values()):
                for batch in list(handle.batches.values()):
                    _take_back(engine, handle, batch, wanted)
        for ref in wanted:
            engine.results.fail(ref, TaskCancelledError(task_name=ref._state.name))
    if wanted:
        engine.kick()
        engine.run_callbacks()


def _take_back(engine: Engine, handle: WorkerHandle, batch: SentBatch, wanted: dict[Any, None]) -> None:
    """Take what is wanted out of a batch as far as its worker has not claimed it; strike the rest off."""
    if batch.run is not None:
        return  # items of `map`, which are no refs
    held = [index for index in range(batch.base, batch.stop) if batch.refs[index] in wanted]
    if not held:
        return
    if not batch.is_blocked:
        start = engine.dispatcher.claim_back(handle, batch, held[0])
        if start is not None and start < batch.stop:
            engine.dispatcher.requeue(handle, batch, start)
    for index in held:
        if index < batch.stop:
            wanted.pop(batch.refs[index], None)


def has_begun(ref: ObjectRef[Any]) -> bool:
    """Say whether a worker runs a task now; inside a task nobody knows, which reads as no."""
    engine = _driver()
    if engine is None or ref._state.__class__ is int:
        return False
    from ..engine.driver.crash import _index
    from ..engine.wire import control

    with engine.turn:
        for handle in engine.pool.workers.values():
            for batch in handle.batches.values():
                index = _index(batch, ref)
                if index is not None:
                    words = handle.words
                    is_current = words[control.SEQ] == batch.seq and words[control.STARTED] >= index
                    return is_current or bool(batch.is_blocked)
    return False
