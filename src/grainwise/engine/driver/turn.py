"""Whose turn it is: the lock around the engine's state, Ctrl-C, and who reads the sockets.

Two things are shared by all threads of the driver.

*The state.* Every change happens under `Turn` (a context manager): short stretches that never block. A signal
handler that raises in the middle of one (Ctrl-C, or the program's own) would tear it: a task popped from its
queue and not yet sent would be lost. So handlers of `WATCHED` signals are called when the stretch is over. A
signal handler or finalizer of the user's that calls into the engine from within such a stretch can't wait for
it: it is told so instead of hanging.

*The sockets.* Whoever waits pumps: the first thread that waits becomes the leader, reads for everybody, and
wakes the followers whenever something has changed, one of which takes over when it leaves. No reader thread
stands between a result and the thread that wants it.
"""

from __future__ import annotations

import _thread
from collections import deque
from time import monotonic

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable
    from typing import Any
else:
    import _signal  # signal imports enum and makes three of them

SLICE_S = 0.05
"""Nobody waits longer without looking around: Ctrl-C and a lost leader cost at most so much."""


ORPHAN_S = 0.25

WATCHED = tuple(
    getattr(_signal, name)
    for name in ("SIGINT", "SIGALRM", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP")
    if hasattr(_signal, name)
)
"""Signals whose handlers programs let raise: time limits, clean ends."""


class _Guarded:
    """Stands before a handler of the program's: calls it at once, or when the main thread leaves the turn."""

    __slots__ = ("handler", "turn")

    def __init__(self, turn: Turn, handler: Any) -> None:
        self.turn = turn
        self.handler = handler

    def __call__(self, number: int, frame: Any) -> None:
        if self.turn.is_main_inside:
            self.turn.late_signals[number] = self.handler
        else:
            self.handler(number, frame)


class Turn:
    """The lock around the engine's state; not reentrant; defers signal handlers. Use as a context manager."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._owner = 0
        self._main_ident = _main_thread_ident()
        self.is_main_inside = False
        self.late_signals: dict[int, Any] = {}
        """Handlers to run at the end of the stretch; as in Python itself, a signal counts once."""
        self._is_shielding = False
        self.deferred: Callable[[], None] | None = None

    def __enter__(self) -> None:
        me = _thread.get_ident()
        if self._owner == me or (me == self._main_ident and self.is_main_inside):
            raise RuntimeError(
                "grainwise was called from a signal handler or finalizer that interrupted grainwise itself - "
                "expected such code only to set a flag or put() to a queue"
            )
        if me == self._main_ident:
            self.is_main_inside = True
        self._lock.acquire()
        self._owner = me

    def try_enter(self, timeout_s: float) -> bool:
        """Enter, unless that takes too long; for finalizers, which are not inside, and leave by `__exit__`.

        They may have interrupted somebody who holds a lock that the one inside waits for.
        """
        me = _thread.get_ident()
        if me == self._main_ident:
            self.is_main_inside = True
        if self._lock.acquire(timeout=timeout_s):
            self._owner = me
            return True
        if me == self._main_ident:
            self.is_main_inside = False
            if self.late_signals:
                self._run_late()
        return False

    def __exit__(self, *_: object) -> None:
        me = self._owner
        self._owner = 0
        self._lock.release()
        if me == self._main_ident:
            self.is_main_inside = False
            if self.late_signals:
                self._run_late()
        if self.deferred is not None:
            deferred, self.deferred = self.deferred, None
            deferred()

    def _run_late(self) -> None:
        """Run what was put off, all of it, though one may raise."""
        while self.late_signals:
            number, handler = self.late_signals.popitem()
            try:
                handler(number, None)
            finally:
                self._run_late()

    def abandon(self) -> None:
        """In a forked child: nobody is inside, and the program's handlers are its own again."""
        self.is_main_inside = False
        self.late_signals.clear()
        self._owner = 0
        self._lock = _thread.allocate_lock()
        self._main_ident = _thread.get_ident()
        self.unshield()

    def is_mine(self) -> bool:
        """Say whether this very thread is inside (then it was interrupted by the caller)."""
        me = _thread.get_ident()
        return self._owner == me or (me == self._main_ident and self.is_main_inside)

    def shield(self) -> None:
        """Stand before the program's signal handlers, which may raise; later ones are met at the next call.

        A handler that raises in the middle of a turn would tear it.
        """
        if _thread.get_ident() != self._main_ident:
            return
        self._is_shielding = True
        for number in WATCHED:
            handler = _signal.getsignal(number)
            if isinstance(handler, _Guarded):
                if handler.turn is self:
                    continue
                handler = handler.handler  # left by a session that ended in another thread
            if callable(handler) and not _is_deferral(handler):
                _signal.signal(number, _Guarded(self, handler))

    @property
    def is_shielding(self) -> bool:
        """Say whether we stand before the program's handlers."""
        return self._is_shielding

    def unshield(self) -> None:
        """Give the program its handlers back."""
        self._is_shielding = False
        if _thread.get_ident() != self._main_ident:
            return
        for number in WATCHED:
            handler = _signal.getsignal(number)
            if isinstance(handler, _Guarded) and handler.turn is self:
                _signal.signal(number, handler.handler)


def _is_deferral(handler: Any) -> bool:
    return isinstance(getattr(handler, "__self__", None), Deferral)


class Deferral:
    """Keeps Ctrl-C waiting while something is started or ended that must not be left half done.

    In the main thread, and only where Ctrl-C raises KeyboardInterrupt; a handler of the user's is left alone.
    """

    def __init__(self) -> None:
        self._before: Any = None
        self._is_interrupted = False

    def __enter__(self) -> None:
        if _thread.get_ident() != _main_thread_ident():
            return
        before = _signal.getsignal(_signal.SIGINT)
        if isinstance(before, _Guarded):
            before = before.handler
        if before is _signal.default_int_handler:
            self._before = before
            _signal.signal(_signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        before, self._before = self._before, None
        if before is None:
            return
        if _signal.getsignal(_signal.SIGINT) == self._note:
            _signal.signal(_signal.SIGINT, before)  # a session that goes on guards it again at its next wait
        if self._is_interrupted:
            raise KeyboardInterrupt

    def _note(self, *_: object) -> None:
        self._is_interrupted = True


class Leadership:
    """Lets one waiting thread read for all. `pump(timeout_s)` is what the leader calls again and again.

    `after()` follows each round when the lead is free again: it may run the user's code, which may wait.
    """

    def __init__(self, pump: Callable[[float], None], after: Callable[[], None]) -> None:
        self._pump = pump
        self._after = after
        self._lead = _thread.allocate_lock()
        self._leader = 0
        self._orphan: tuple[int, float] | None = None
        self._followers: deque[Any] = deque()
        self.rounds = 0

    def until(self, is_done: Callable[[], bool], deadline: float | None) -> bool:
        """Pump, or follow who pumps, until `is_done()`; false when the deadline passes first."""
        while not is_done():
            left_s = SLICE_S if deadline is None else min(SLICE_S, deadline - monotonic())
            if left_s <= 0:
                self.round(0.0)
                return is_done()
            if not self.round(left_s):
                self._follow(left_s)
        return True

    def round(self, timeout_s: float) -> bool:
        """Pump once if nobody else does; false if somebody does."""
        me = _thread.get_ident()
        if self._leader == me:  # a signal handler or finalizer on top of our own poll
            self._pump(timeout_s)
            self.rounds += 1
            self._after()
            return True
        if not self._lead.acquire(False):
            return False
        try:
            self._leader = me
            self._pump(timeout_s)
            self.rounds += 1
        finally:
            self._leader = 0
            self._release()
            if self._followers:
                self.wake()
        self._after()
        return True

    def _follow(self, timeout_s: float) -> None:
        bell = _thread.allocate_lock()
        bell.acquire()
        self._followers.append(bell)
        if self._lead.locked() and not bell.acquire(timeout=timeout_s):
            self._rescue()

    def _rescue(self) -> None:
        """A handler that raised right behind `acquire` would leave a lead that nobody has: take it back.

        A living leader sets its name microseconds later and finishes its round within milliseconds, so a
        lead without a name in the same round over several slices is an orphan.
        """
        orphan = (self.rounds, monotonic())
        if not self._lead.locked() or self._leader or self._orphan is None or self._orphan[0] != orphan[0]:
            self._orphan = orphan
        elif orphan[1] - self._orphan[1] > ORPHAN_S:
            self._orphan = None
            self._release()

    def _release(self) -> None:
        try:
            self._lead.release()
        except RuntimeError:
            pass  # somebody took it for an orphan's

    def wake(self) -> None:
        """Have every follower look again."""
        followers = self._followers
        while followers:
            try:
                followers.popleft().release()
            except (IndexError, RuntimeError):
                break


def _main_thread_ident() -> int:
    import threading

    return threading.main_thread().ident or 0
