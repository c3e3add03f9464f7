"""Whose turn it is: the lock around the engine's state, Ctrl-C, and who reads the sockets.

Two things are shared by all threads of the driver.

*The state.* Every change happens under `Turn` (a context manager): short stretches that never block. A Ctrl-C
that arrives in the middle of one would tear it (a task popped from its queue and not yet sent would be lost),
so the handler only makes a note, and `KeyboardInterrupt` is raised when the stretch is over. A signal handler
or finalizer of the user's that calls into the engine from within such a stretch can't wait for it: it is
told so instead of hanging.

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


class Turn:
    """The lock around the engine's state; not reentrant; defers Ctrl-C. Use as a context manager."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._owner = 0
        self._main_ident = _main_thread_ident()
        self._is_main_inside = False
        self._is_interrupted = False
        self._handler: Any = None
        self.deferred: Callable[[], None] | None = None

    def __enter__(self) -> None:
        me = _thread.get_ident()
        if self._owner == me:
            raise RuntimeError(
                "grainwise was called from a signal handler or finalizer that interrupted grainwise itself - "
                "expected such code only to set a flag or put() to a queue"
            )
        if me == self._main_ident:
            self._is_main_inside = True
        self._lock.acquire()
        self._owner = me

    def __exit__(self, *_: object) -> None:
        me = self._owner
        self._owner = 0
        self._lock.release()
        if me == self._main_ident:
            self._is_main_inside = False
            if self._is_interrupted:
                self._is_interrupted = False
                raise KeyboardInterrupt
        if self.deferred is not None:
            deferred, self.deferred = self.deferred, None
            deferred()

    def is_mine(self) -> bool:
        """Say whether this very thread is inside (then it was interrupted by the caller)."""
        return self._owner == _thread.get_ident()

    def shield(self) -> None:
        """Take over Ctrl-C from Python's default handler; a handler of the user's own is left alone."""
        if _thread.get_ident() != self._main_ident or self._handler is not None:
            return
        before = _signal.getsignal(_signal.SIGINT)
        deferral = getattr(before, "__self__", None)
        if before is _signal.default_int_handler:
            self._handler = self._on_interrupt
            _signal.signal(_signal.SIGINT, self._handler)
        elif isinstance(deferral, Deferral):
            self._handler = self._on_interrupt
            deferral.hand_over(self._handler)

    @property
    def is_shielding(self) -> bool:
        """Say whether Ctrl-C is in our hands."""
        return self._handler is not None

    def unshield(self) -> None:
        """Give Ctrl-C back."""
        handler, self._handler = self._handler, None
        if handler is None or _thread.get_ident() != self._main_ident:
            return
        if _signal.getsignal(_signal.SIGINT) == handler:
            _signal.signal(_signal.SIGINT, _signal.default_int_handler)

    def _on_interrupt(self, number: int, frame: Any) -> None:
        if self._is_main_inside:
            self._is_interrupted = True
        else:
            _signal.default_int_handler(number, frame)


class Deferral:
    """Keeps Ctrl-C waiting while something is started or ended that must not be left half done.

    For the main thread and Python's own (or our) handler only; a handler of the user's is left alone.
    """

    def __init__(self) -> None:
        self._before: Any = None
        self._is_interrupted = False

    def __enter__(self) -> None:
        if _thread.get_ident() != _main_thread_ident():
            return
        before = _signal.getsignal(_signal.SIGINT)
        owner = getattr(before, "__self__", None)
        if before is _signal.default_int_handler or isinstance(owner, Turn):
            self._before = before
            _signal.signal(_signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        before, self._before = self._before, None
        if before is None:
            return
        now = _signal.getsignal(_signal.SIGINT)
        if now == self._note:
            # A Turn that was closed meanwhile has no handler to give back to.
            owner = getattr(before, "__self__", None)
            is_stale = isinstance(owner, Turn) and not owner.is_shielding
            _signal.signal(_signal.SIGINT, _signal.default_int_handler if is_stale else before)
        if self._is_interrupted:
            raise KeyboardInterrupt

    def hand_over(self, handler: Any) -> None:
        """Have this handler installed in the end."""
        self._before = handler

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
            self._lead.release()
            if self._followers:
                self.wake()
        self._after()
        return True

    def _follow(self, timeout_s: float) -> None:
        bell = _thread.allocate_lock()
        bell.acquire()
        self._followers.append(bell)
        if self._lead.locked():
            bell.acquire(timeout=timeout_s)

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
