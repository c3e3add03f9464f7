"""What a worker tells the driver while it runs, and how it is interrupted.

    main thread      shield ─► send ─► unshield: was the item cancelled meanwhile?
    reporter thread  while a batch runs: sends finished results that wait behind a long item, and lets the
                     driver have what is claimed behind it

Guarantees: no frame is torn by a cancellation, no result is sent twice, a signal that comes late hits nobody.
"""

from __future__ import annotations

import os
import threading

from ...objects.codec import ATOMS
from ..wire import control
from ..wire.channel import Channel, receive_fds, send_fd
from ..wire.tasks import FUSED, IN_PLACE, RESULTS, RETURNED
from .batch import Batch, Cancelled
from .meter import Meter

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    import socket
    from typing import Any
else:
    import _signal

REPORT_S = 5e-3
"""Finished results wait at most about so long."""
EAGER_S = 150e-6
"""The same, when somebody waits for single ones."""
IDLE_TICKS = 20


def intervals(num_cpus: float, quantum_s: float, message_s: float) -> tuple[float, float]:
    """Return after how long results are reported, and after how long if somebody waits for single ones.

    Of hundreds of workers, each with a message every 5 ms, the driver would do nothing but read them.
    """
    return max(REPORT_S, quantum_s), max(EAGER_S, 2 * num_cpus * message_s)


class Reporting:
    """The half of a worker that talks. See the module docstring."""

    def __init__(self, uid: int, words: memoryview, channel: Channel, fd_socket: socket.socket) -> None:
        self.uid = uid
        self.words = words
        self.channel = channel
        self.batch: Batch | None = None
        self.shielded = 0  # main thread only
        self.inside: Any = None  # set by run_worker
        self.outpost: Any = None
        self.report_s = REPORT_S
        self.eager_s = EAGER_S
        self.send_lock = threading.RLock()
        self.meter = Meter()
        self._main = threading.get_ident()
        self._fd_socket = fd_socket
        self._fds: dict[int, tuple[int, int]] = {}
        self._reporter_lock = threading.Lock()
        self._reporter_lock.acquire()
        self._reporter_parked = False
        self._reporter: threading.Thread | None = None

    def send(self, message: tuple[Any, ...]) -> None:
        """Send a frame; safe from any thread and from cancellation in the middle."""
        self.shield()
        try:
            with self.send_lock:
                self.channel.send(message)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)  # the driver is gone
        finally:
            self.unshield()

    # -- interruptions ---------------------------------------------------------------------------------

    def shield(self) -> None:
        """Begin a stretch that cancellation must not tear apart; only the main thread is ever interrupted."""
        if threading.get_ident() == self._main:
            self.shielded += 1

    def unshield(self) -> None:
        """Leave such a stretch.

        Raises:
            Cancelled: the running item was cancelled meanwhile.
        """
        if threading.get_ident() == self._main:
            self.shielded -= 1
            if not self.shielded and self.words[control.CANCEL]:
                self.check_cancelled()

    def check_cancelled(self) -> None:
        """Raise if the item that is running is the one that the driver wants to end.

        Raises:
            Cancelled: it is.
        """
        batch, words = self.batch, self.words
        if batch is None or not batch.is_open:
            return
        if words[control.SPARE_CHILD] and words[control.IN_CHILD]:
            return  # `own_children` looks again
        started = words[control.STARTED]
        if words[control.CANCEL] == (batch.seq << 32 | started) + 1 and len(batch.results) <= started:
            words[control.CANCEL] = 0
            raise Cancelled

    def sync(self) -> None:
        """Publish which item runs, if that is known of its sub-block only. Main thread only."""
        words, batch = self.words, self.batch
        if words[control.LOOSE] and batch is not None and threading.get_ident() == self._main:
            words[control.STARTED] = len(batch.results)

    def on_interrupt(self, *_: object) -> None:
        """Signal handler, SIGINT: end the item that is meant and only that; un-claim one not begun yet."""
        batch, words = self.batch, self.words
        if batch is None or words[control.CANCEL] - 1 >> 32 != batch.seq:
            return
        if words[control.LOOSE]:  # a run as a whole is cancelled: whichever item it is
            self.sync()
            words[control.CANCEL] = (batch.seq << 32 | words[control.STARTED]) + 1
        if words[control.CANCEL] - 1 & 0xFFFFFFFF > words[control.STARTED]:
            self.unclaim()
        elif not self.shielded:
            self.check_cancelled()

    def unclaim(self, *_: object) -> None:
        """Signal handler, SIGURG: the running item takes long; let the driver have those claimed behind it.

        Handlers run in the main thread, between two bytecodes, so this can't race with the loop over
        `claimed`; outside of that loop `claimed` is empty. The item that the loop may have fetched already is
        the one after the results.
        """
        batch = self.batch
        if batch is not None and batch.claimed:
            del batch.claimed[:]
            self.sync()
            words = self.words
            words[control.claim_word(batch.seq)] = max(words[control.STARTED], len(batch.results)) + 1

    # -- reports ---------------------------------------------------------------------------------------

    def _is_wanted(self, batch: Batch) -> bool:
        """Say whether somebody waits for a result that is there."""
        wanted = self.words[control.WANTED]
        if wanted >> 32 != batch.seq or wanted - 1 & 0xFFFFFFFF >= len(batch.results):
            return False
        self.words[control.WANTED] = 0
        return True

    def report(self, batch: Batch, stopped: int) -> None:
        """Send the results that have not been sent; `stopped` >= 0 ends the batch."""
        self.shield()
        try:
            with self.send_lock:
                start, results = batch.sent, batch.results
                end = len(results)
                raw = batch.raw_from
                if raw >= 0 and not set(map(type, results[max(raw, start) : end])) <= ATOMS:
                    end = max(raw, start)  # not packed yet
                if end == start and stopped < 0:
                    self.inside.ship()
                    self.send_returned()
                    return
                values = results[start:end]
                if not batch.flags & FUSED:  # else items further on may need them
                    results[start:end] = [None] * (end - start)
                batch.sent = end
                is_plain = not batch.has_wires or tuple not in set(map(type, values))
                times, batch.times = batch.times, []
                if batch.timed:
                    times.append((batch.part, batch.timed, batch.spent_s, batch.worst_s))
                    batch.timed, batch.spent_s, batch.worst_s = 0, 0.0, 0.0
                self.inside.ship()
                usage = self.meter.take(batch.begin_s, is_on_top=bool(batch.flags & IN_PLACE))
                self.channel.send((RESULTS, batch.seq, start, values, is_plain, times, stopped, usage))
                kept = batch.kept
                while kept and kept[0][0] < end:
                    kept.popleft()
                self.send_returned()
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)
        finally:
            self.unshield()

    def send_returned(self) -> None:
        """Give back loans that died."""
        blobs, refs = self.outpost.returned, self.inside.dropped
        if blobs or refs:
            self.channel.send((RETURNED, _drain(blobs), _drain(refs)))

    def wake_reporter(self) -> None:
        """Have the reporter thread look after results and children for a while."""
        if self._reporter is None:
            self._reporter = threading.Thread(
                target=self._report_late, name="grainwise-reporter", daemon=True
            )
            self._reporter.start()
        elif self._reporter_parked:
            self._reporter_parked = False
            try:
                self._reporter_lock.release()
            except RuntimeError:
                pass  # another thread was quicker

    def _report_late(self) -> None:
        """Reporter thread: send what has waited for a tick, and free what is claimed behind a long item."""
        quiet = 0
        seen: tuple[Batch | None, int] = (None, 0)
        while True:
            if quiet > IDLE_TICKS:
                self._reporter_parked = True
                if not self.inside.flows:  # none has begun before the line above
                    self._reporter_lock.acquire()
                quiet = 0
            self._reporter_lock.acquire(timeout=self.report_s)
            batch = self.batch
            if batch is None:
                if self.inside.has_unsent():  # of a thread that belongs to no task
                    self.inside.send_open()
                quiet = 0 if self.inside.flows else quiet + 1
                seen = (None, 0)
                continue
            quiet = 0
            if self.inside.is_waiting:
                continue
            num_done = len(batch.results)
            if seen == (batch, num_done) and len(batch.claimed) > 1:
                _signal.pthread_kill(self._main, _signal.SIGURG)
            seen = (batch, num_done)
            if num_done > batch.sent or self.inside.has_unsent():
                self.report(batch, -1)

    # -- descriptors of arenas -------------------------------------------------------------------------

    def announce_arena(self, arena_id: int, fd: int, capacity_bytes: int) -> None:
        """Send an own arena's descriptor to the driver, ahead of the first object in it."""
        send_fd(self._fd_socket, b"%d %d" % (arena_id, capacity_bytes), [fd])

    def obtain_arena(self, arena_id: int) -> tuple[int, int]:
        """Receive a foreign arena's descriptor, which the driver has sent ahead of the object."""
        while arena_id not in self._fds:
            data, fds = receive_fds(self._fd_socket, 64, 1)
            number, capacity = map(int, data.split())
            self._fds[number] = (fds[0], capacity)
        return self._fds.pop(arena_id)


def _drain(queue: Any) -> list[Any]:
    taken = []
    while queue:
        try:
            taken.append(queue.popleft())
        except IndexError:
            break
    return taken
