"""Time limits of items: whoever runs longer is interrupted, and its worker killed if that does not help.

The driver sees when an item began (`control.STARTED`) a few milliseconds late at most, because somebody looks
every 5 ms while work is outstanding. All of it happens under the engine's turn.
"""

from __future__ import annotations

from time import monotonic

from ..wire import control
from . import nested, runs

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
    """Watches the items of runs that have a time limit.

    Attributes:
        runs: those runs.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.runs: set[Run] = set()

    def look(self) -> None:
        """Interrupt what runs for too long."""
        if not self.runs:
            return
        now = monotonic()
        for handle in list(self._engine.pool.workers.values()):
            for batch in list(handle.batches.values()):
                if batch.timeout_s is not None:
                    self._check(handle, batch, batch.timeout_s, now)

    def _check(self, handle: WorkerHandle, batch: SentBatch, timeout_s: float, now: float) -> None:
        if handle.words[control.SEQ] == batch.seq:
            at = handle.words[control.STARTED]
        elif batch.is_blocked:
            at = batch.stop - 1  # something runs on top of it
        else:
            return
        if not batch.base <= at < batch.stop or handle.words[control.claim_word(batch.seq)] <= at:
            return  # it has not begun
        if at != batch.watched_item or handle.words[control.ASIDE]:
            batch.watched_item, batch.watched_since = at, now
            return
        late_s = now - batch.watched_since - timeout_s
        if late_s > 0 and at not in batch.timed_out:
            batch.timed_out.add(at)
            if batch.is_blocked:
                nested.cancel_wait(self._engine, handle, batch.seq)
            else:
                runs.interrupt(self._engine, handle, batch, at)
        elif late_s > GRACE_S:
            self._engine.pool.kill(handle, _KILLED)
