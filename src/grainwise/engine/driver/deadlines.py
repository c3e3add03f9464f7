"""Time limits of items: whoever runs longer is interrupted, and its worker killed if that does not help.

Items of runs that nobody wants any more are interrupted as well, whichever they are when we look.

The driver sees when an item began (`control.STARTED`) a few milliseconds late at most, because somebody looks
every 5 ms while work is outstanding. All of it happens under the engine's turn.
"""

from __future__ import annotations

from time import monotonic

from ..wire import control
from . import crash, runs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..processes.pool import WorkerHandle
    from .batches import SentBatch
    from .engine import Engine
    from .runs import Run

GRACE_S = 0.5
"""An interrupted item that is deep in native code, or hides from its interruption, has so long to end."""
_KILLED = 9


class Deadlines:
    """Watches the items of runs that must end.

    Attributes:
        runs: those of them that have a time limit, and those that are over and still have items under way.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.runs: set[Run] = set()

    def look(self) -> None:
        """Interrupt what runs for too long, or for nobody."""
        if not self.runs:
            return
        now = monotonic()
        alive: set[Run | None] = set()
        for handle in list(self._engine.pool.workers.values()):
            for batch in list(handle.batches.values()):
                if batch.run not in self.runs:
                    continue
                alive.add(batch.run)
                at = _running(handle, batch)
                if at is None:
                    continue
                if batch.run.is_over:
                    self._end(handle, batch, at)
                if batch.timeout_s is not None:  # nobody else would kill what hangs
                    self._check(handle, batch, at, batch.timeout_s, now)
        self.runs -= {run for run in self.runs if run.is_over and run not in alive}

    def _end(self, handle: WorkerHandle, batch: SentBatch, at: int) -> None:
        """Interrupt an item that nobody wants, once, and what it has submitted."""
        if at in batch.cancelled:
            return
        batch.cancelled.add(at)
        for child in list((batch.children or {}).get(at, ())):
            crash.cancel(self._engine, child, force=False, recursive=True)
        runs.interrupt(self._engine, handle, batch, at)

    def _check(self, handle: WorkerHandle, batch: SentBatch, at: int, timeout_s: float, now: float) -> None:
        if at != batch.watched_item or handle.words[control.ASIDE]:
            batch.watched_item, batch.watched_since = at, now
            return
        late_s = now - batch.watched_since - timeout_s
        if late_s > 0 and at not in batch.timed_out:
            batch.timed_out.add(at)
            runs.interrupt(self._engine, handle, batch, at)
        elif late_s > GRACE_S:
            self._engine.pool.kill(handle, _KILLED)


def _running(handle: WorkerHandle, batch: SentBatch) -> int | None:
    """Return the item of a batch that its worker runs, None if it runs none of them."""
    if handle.words[control.SEQ] == batch.seq:
        at: int = handle.words[control.STARTED]
    elif batch.is_blocked:
        at = batch.stop - 1  # something runs on top of it
    else:
        return None
    if not batch.base <= at < batch.stop or handle.words[control.claim_word(batch.seq)] <= at:
        return None  # it has not begun
    return at
