"""What only the driver knows or may do, for whoever asks: the program itself, or a task by a message.

    task: ask("available") ──► ASK, a ref for the answer ──► driver ── the ref's value ──► task

All of it happens under the engine's turn.
"""

from __future__ import annotations

from ...objects.codec import pack
from ...objects.ref import FAILED, PACKED, ObjectRef

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ..needs import Amounts
    from ..processes.pool import WorkerHandle
    from .engine import Engine

READY = "group_ready"
"""The one whose answer is a ref that may resolve much later."""


def answer(engine: Engine, handle: WorkerHandle, identity: int, what: str, *args: Any) -> None:
    """Answer a worker."""
    ref: ObjectRef[Any] = ObjectRef.__new__(ObjectRef)
    ref._id = identity
    if what == READY:
        identity_of_group, stream = args
        engine.reserved.groups.ready(identity_of_group, stream, ref)
    else:
        try:
            ref._value, ref._state = pack(ANSWERS[what](engine, *args), engine.store), PACKED
        except Exception as error:  # it is what the one who asks gets
            ref._value, ref._state = error, FAILED
    engine.borders.lend_ref(ref, handle)


def _available(engine: Engine) -> dict[str, float]:
    """Return what nobody has of the machine."""
    found = engine.reserved.available()
    found["object_store_memory"] = max(0.0, found["object_store_memory"] - engine.store._usage.total())
    return found


def _create_group(engine: Engine, bundles: list[Amounts], strategy: str, name: str) -> tuple[str, str]:
    """Make a placement group; return its identity, and why it can never be created, "" if it can."""
    made = engine.reserved.groups.create(bundles, strategy, name)
    engine.backstop.wake()
    return made


def _remove_group(engine: Engine, identity: str) -> None:
    engine.reserved.groups.remove(identity)


def _group_ready(engine: Engine, identity: str, stream: bytes) -> ObjectRef[Any]:
    return engine.reserved.groups.ready(identity, stream)


def _named_group(engine: Engine, name: str) -> dict[str, Any]:
    return engine.reserved.groups.named(name)


def _group_table(engine: Engine, identity: str = "") -> dict[str, Any]:
    return engine.reserved.groups.table(identity)


ANSWERS: dict[str, Callable[..., Any]] = {
    "available": _available,
    "create_group": _create_group,
    "remove_group": _remove_group,
    READY: _group_ready,
    "named_group": _named_group,
    "group_table": _group_table,
}
