"""The backstop: one thread that keeps things moving while nobody waits.

It is parked while nothing is outstanding. While something is, it looks every 5 ms whether anybody has pumped
since its last look, and pumps if not; a driver that has fallen silent between two looks counts as waiting, so
that a lonely task starts without a `get`. Futures and `await` have no thread that waits: for them it blocks
on the sockets like any other leader.
"""

from __future__ import annotations

import _thread
import sys
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .engine import Engine

TICK_S = 5e-3
LINGER_S = 1.5
"""After so long without work: give memory back, end surplus workers, and park."""
IDLE_TICK_S = 0.25


class Backstop:
    """See the module docstring."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bell = _thread.allocate_lock()
        self._bell.acquire()
        self._done = _thread.allocate_lock()
        self._is_parked = True
        self._is_dozing = False
        self._is_started = False
        self._is_stopped = False
        self._seen = -1
        self._is_silent = False

    def wake(self) -> None:
        """Note that there is work."""
        if not self._is_parked or self._is_stopped:
            if self._is_dozing:
                self._is_dozing = False
                self._ring_bell()
            return
        self._is_parked = False
        if not self._is_started:
            self._is_started = True
            self._done.acquire()
            try:
                _thread.start_new_thread(self._run, ())
            except RuntimeError:  # the interpreter is ending
                self._is_started = False
                self._done.release()
            return
        self._ring()

    def ring(self) -> None:
        """Have a parked thread look again; safe in finalizers: takes no lock and starts nothing."""
        if self._is_parked and self._is_started and not self._is_stopped:
            self._is_parked = False
            self._ring()

    def _ring(self) -> None:
        self._engine.ring()
        self._ring_bell()

    def _ring_bell(self) -> None:
        try:
            self._bell.release()
        except RuntimeError:
            pass  # rung already

    def is_silent(self) -> bool:
        """Say whether the program had submitted nothing between the last two looks."""
        return self._is_silent

    def stop(self) -> None:
        """End the thread, unless it is the one that asks."""
        self._is_stopped = True
        self._ring()
        if self._is_started and self._thread_ident != _thread.get_ident():
            self._done.acquire(timeout=2.0)

    _thread_ident = 0

    def _run(self) -> None:
        self._thread_ident = _thread.get_ident()
        try:
            self._loop()
        finally:
            self._done.release()

    def _loop(self) -> None:
        engine = self._engine
        idle_since: float | None = None
        rounds = -1
        while not self._is_stopped:
            if engine.num_callbacks:
                self._lead()
            elif idle_since is None:
                self._bell.acquire(timeout=TICK_S)
            else:
                self._is_dozing = True
                if engine.is_idle() and not engine.num_callbacks:  # nothing came before the line above
                    self._bell.acquire(timeout=IDLE_TICK_S)
                self._is_dozing = False
            if self._is_stopped:
                return
            is_over = False
            try:
                self._look()
                if engine.leadership.rounds == rounds:
                    engine.leadership.round(0.0)
                rounds = engine.leadership.rounds
                engine.output.collect()
                with engine.turn:
                    if engine.is_closed:
                        return
                    is_idle = engine.is_idle() and not engine.num_callbacks
                    if not is_idle:
                        idle_since = None
                    elif idle_since is None:
                        idle_since = monotonic()
                    is_over = idle_since is not None and monotonic() - idle_since > LINGER_S
                    engine.tidy(is_idle=is_over)
            except BaseException as error:  # a user's callback, or a bug of ours: else all would hang
                sys.excepthook(type(error), error, error.__traceback__)
            if is_over and self._park():
                idle_since = None

    def _lead(self) -> None:
        """Read for those who wait by a callback."""
        engine = self._engine
        try:
            engine.leadership.until(
                lambda: not engine.num_callbacks or self._is_stopped, monotonic() + TICK_S
            )
        except BaseException as error:
            sys.excepthook(type(error), error, error.__traceback__)

    def _look(self) -> None:
        """Find out whether the program submitted anything since the last look."""
        engine = self._engine
        seen = engine.counters.tasks + sum(len(spec.open) for spec in list(engine.dispatcher.active))
        seen += sum(len(actor.open) for actor in list(engine.actors.active))
        self._is_silent = seen == self._seen
        self._seen = seen

    def _park(self) -> bool:
        """Sleep until there is work."""
        self._is_parked = True
        if not self._engine.is_idle() or self._engine.num_callbacks:
            self._is_parked = False
            return False
        self._engine.listen()  # a thread that a task has left behind may speak up at any time
        self._is_parked = False
        return True
