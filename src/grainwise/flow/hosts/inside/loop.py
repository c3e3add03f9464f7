"""The host's loop: one thread that accepts, reads, writes, and decides when the host ends.

States of a connection: *greeting* until the program has proved that it knows the key, then *idle*, and *busy*
from START to DONE. The host is *leaving* once it takes no more connections: it was told to stop, nothing has
been asked of it for its time to live, or the modules that its replicas have loaded have changed. A host that
is leaving serves what is under way, then ends.

How the end of its time to live meets a program that connects, in this order, under the host's lock:

1. The host takes the lock, or tries again later: who holds it is starting a host, and will find this one.
2. It accepts whatever waits. If there was anything, it stays.
3. It removes its folder. From now on nobody finds it, and whoever wants the environment waits for the lock.
4. It closes the listener. A program that connected between 2 and 3 finds an end of file instead of a
   challenge, and looks again.
"""

from __future__ import annotations

import itertools
import json
import os
import selectors
import socket
import sys
import time
from collections import deque

from ..parcels import Noted, Parcel
from ..places import Place
from ..wire import (
    CHALLENGE,
    CREDIT,
    DONE,
    FUNCTION,
    HELLO,
    ITEMS,
    LAST,
    MAC_BYTES,
    NONCE_BYTES,
    REFUSED,
    RENEWED,
    REPORT,
    RESULTS,
    START,
    STATUS,
    STOP,
    STOPPED,
    UNKNOWN,
    VERSION,
    WELCOME,
    Frame,
    ProtocolError,
    control_frame,
    is_same,
    peer_uid,
    proof,
    values_frame,
)
from .connection import Connection
from .known import Functions, Replicas, resident_bytes
from .replica import Enter, Prepare
from .request import Request, Start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

GREETING_LIMIT_S = 10.0
FRESH_S = 1.0
"""So long the host waits for the first request of who has connected."""
LOOK_S = 1.0
LOCK_WAIT_S = 0.05
FRAME_BYTES = 64 << 20
"""Results of one frame."""
WRITE_BYTES = 4 << 20
"""Bytes that may wait for a program that does not read; then its results stay where they are."""


class Loop:
    """See the module docstring.

    Attributes:
        replicas: those that were heard of.
        is_warming_up: some are being started ahead.

    Args:
        place: where this host lives.
        listener: takes connections already.
        enter: what makes a worker a replica.
        description: the definition.
        look: called about once a second.
    """

    def __init__(
        self,
        place: Place,
        listener: socket.socket,
        enter: Enter,
        description: dict[str, Any],
        look: Callable[[], None],
    ) -> None:
        self._look = look
        self._looked_s = 0.0
        self._place = place
        self._listener: socket.socket | None = listener
        self._enter = enter
        self._description = description
        self._key = place.read("key") or b""
        self._functions = Functions()
        self.replicas = Replicas()
        self._epochs = itertools.count(1)
        self._is_all_told = True  # no result has been dropped with what its replica had to say
        self.is_warming_up = False
        self._connections: dict[int, Connection] = {}
        self._ending: list[Request] = []
        self._told: deque[Noted] = deque()
        self._used_s = time.monotonic()
        self._keep_s = self._used_s + GREETING_LIMIT_S  # who started it will come
        self._begun_s = time.time()
        self._is_stopped = False
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = os.pipe()
        self._is_woken = False
        for fd in (self._wake_in, self._wake_out):
            os.set_blocking(fd, False)
        listener.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._selector.register(listener, selectors.EVENT_READ)

    def wake(self) -> None:
        """Have the loop look at all requests; from any thread, or a signal handler."""
        if not self._is_woken:
            self._is_woken = True
            try:
                os.write(self._wake_out, b"x")
            except BlockingIOError:
                pass

    def stop(self) -> None:
        """End soon: what is under way is cancelled, and its programs are told."""
        self._is_stopped = True
        self._is_woken = False
        self.wake()

    def run(self) -> None:
        """Serve until it is time to leave."""
        while not self._is_over():
            for key, events in self._selector.select(self._patience()):
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fd == self._wake_in:
                    os.read(self._wake_in, 4096)
                else:
                    connection = self._connections.get(key.fd)
                    if connection is not None:
                        self._serve(connection, events)
            self._is_woken = False
            self._collect()
            self._tidy()
        for connection in list(self._connections.values()):
            self._drop(connection)
        self._selector.close()
        os.close(self._wake_in)
        os.close(self._wake_out)

    # -- the end -------------------------------------------------------------------------------------------

    def _busy(self) -> list[Connection]:
        return [each for each in self._connections.values() if each.request is not None]

    def _is_busy(self) -> bool:
        return bool(self._ending or self._busy())

    def _is_over(self) -> bool:
        if self._is_stopped:
            self._tell_all_stopped()
            return True
        if self._is_busy():
            return False
        if self._listener is None:
            return True
        return self._left_s() <= 0 and self._leave()

    def _left_s(self) -> float:
        """Return for how many seconds it stays if nobody asks for anything."""
        end_s: float = max(self._used_s + self._description["ttl_s"], self._keep_s)
        return end_s - time.monotonic()

    def _patience(self) -> float:
        return LOOK_S if self._is_busy() else min(max(self._left_s(), 0.001), LOOK_S)

    def _leave(self) -> bool:
        """Stop listening at the end of the time to live; false if somebody came, or holds the lock."""
        try:
            with self._place.locked(0):
                if self._accept():
                    return False
                self._place.remove()
                self._stop_listening()
        except BlockingIOError:
            self._keep_s = time.monotonic() + LOCK_WAIT_S
            return False
        return True

    def _make_way(self) -> None:
        """Stop listening at once. Who starts the next host removes what is left if the lock is not free."""
        if self._listener is None:
            return
        try:
            with self._place.locked(LOCK_WAIT_S):
                if self._place.read("key") == self._key:
                    self._place.remove()
                self._stop_listening()
        except BlockingIOError:
            self._stop_listening()

    def _stop_listening(self) -> None:
        assert self._listener is not None
        self._selector.unregister(self._listener)
        self._listener.close()
        self._listener = None

    def _tell_all_stopped(self) -> None:
        self._make_way()
        for connection in self._busy():
            connection.post(control_frame(STOPPED))
            self._cancel(connection)
        for request in self._ending:
            request.join(LOOK_S)

    def _tidy(self) -> None:
        now = time.monotonic()
        if now - self._looked_s < LOOK_S:
            return
        self._looked_s = now
        self._look()
        for connection in list(self._connections.values()):
            if connection.nonce and now - connection.begun_s > GREETING_LIMIT_S:
                self._drop(connection)

    # -- connections ---------------------------------------------------------------------------------------

    def _accept(self) -> bool:
        """Greet whoever waits; false if there was nobody."""
        is_any = False
        while self._listener is not None:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # nobody waits, or there is no descriptor left
                break
            if peer_uid(sock) != os.geteuid():
                sock.close()
                continue
            is_any = True
            sock.setblocking(False)
            connection = Connection(sock, self._selector)
            self._connections[connection.fileno()] = connection
            self._keep_s = max(self._keep_s, time.monotonic() + FRESH_S)
            connection.post(control_frame(CHALLENGE, VERSION + connection.nonce))
        return is_any

    def _drop(self, connection: Connection) -> None:
        self._connections.pop(connection.fileno(), None)
        connection.close()
        self._cancel(connection)

    def _cancel(self, connection: Connection) -> None:
        request, connection.request = connection.request, None
        if request is not None:
            self._is_all_told = False
            self._ending.append(request)
            request.cancel()
            self._used_s = time.monotonic()

    def _serve(self, connection: Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                connection.write()
            if events & selectors.EVENT_READ:
                while connection.fileno() >= 0:
                    self._handle(connection, connection.reader.read())
        except BlockingIOError:
            pass
        except (EOFError, OSError, ProtocolError):
            if connection.fileno() >= 0:
                self._drop(connection)

    # -- frames --------------------------------------------------------------------------------------------

    def _handle(self, connection: Connection, frame: Frame) -> None:
        if connection.nonce:
            self._greet(connection, frame)
        elif frame.kind == ITEMS and connection.request is not None:
            connection.request.put(frame.value(), is_last=bool(frame.flags & LAST))
        elif frame.kind == ITEMS:
            pass  # of a request that was refused: more may have been under way
        elif connection.request is not None:
            raise ProtocolError(f"frame {frame.kind} while a map is under way")
        elif frame.kind in (START, STATUS) and connection.is_fresh:
            connection.is_fresh = False
            if not any(each.is_fresh for each in self._connections.values()):
                self._keep_s = 0.0
            self._handle(connection, frame)
        elif frame.kind == FUNCTION:
            digest, entry = frame.value()
            self._functions.keep(digest, entry)
        elif frame.kind == START:
            self._start(connection, Start(frame.payload))
        elif frame.kind == STATUS:
            connection.post(control_frame(REPORT, json.dumps(self._status()).encode()))
        elif frame.kind == STOP:
            self._is_stopped = True
        else:
            raise ProtocolError(f"frame {frame.kind}")

    def _greet(self, connection: Connection, frame: Frame) -> None:
        payload = bytes(frame.payload)
        nonce, mac = payload[:NONCE_BYTES], payload[NONCE_BYTES:]
        expected = proof(self._key, b"program", connection.nonce, nonce)
        if frame.kind != HELLO or len(mac) != MAC_BYTES or not is_same(mac, expected):
            raise ProtocolError("the peer does not know the key")
        answer = proof(self._key, b"host", connection.nonce, nonce)
        connection.nonce = b""
        connection.reader.trust()
        self._keep_s = time.monotonic() + FRESH_S
        connection.post(control_frame(WELCOME, answer + bytes(sys.version_info[:2]), os.getpid()))

    def _start(self, connection: Connection, start: Start) -> None:
        if self._listener is None or self.replicas.are_stale():
            self._make_way()
            connection.post(control_frame(RENEWED))
            return
        entry = self._functions.find(start.digest)
        if entry is None:
            connection.post(control_frame(UNKNOWN))
            return
        prepare = Prepare(self._enter, self._epoch(), start.digest, entry)
        connection.request = Request(start, prepare, self.wake)

    def _epoch(self) -> int:
        """Return what makes replicas look whether they are stale; 0 if all that they have loaded is known."""
        is_known = self._is_all_told and not self.is_warming_up and not self._is_busy()
        return 0 if is_known else next(self._epochs)

    # -- results -------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Send what requests have ready."""
        for connection in list(self._connections.values()):
            request = connection.request
            if request is None or connection.waiting_bytes > WRITE_BYTES:
                continue
            is_done = request.is_done  # before the last results are taken
            entries, num_taken = request.take()
            if num_taken and not is_done:
                connection.post(control_frame(CREDIT, number=num_taken))
            for part in _parts(entries):
                connection.post(values_frame(RESULTS, part))
            if is_done:
                self._finish(connection, request)
        for request in self._ending:
            if request.is_done:
                self.replicas.note(request.replicas, request.files)
        self._ending = [request for request in self._ending if not request.is_done]
        while self._told:
            noted = self._told.popleft()
            self.replicas.note({noted.pid} if noted.pid else set(), noted.files)

    def _finish(self, connection: Connection, request: Request) -> None:
        self.replicas.note(request.replicas, request.files)
        connection.request = None
        self._used_s = time.monotonic()
        if request.is_stale:
            self._make_way()
            connection.post(control_frame(RENEWED))
        elif request.failure is not None:
            self._is_all_told = False
            connection.post(values_frame(REFUSED, request.failure))
        else:
            connection.post(control_frame(DONE))

    # -- replicas ------------------------------------------------------------------------------------------

    def tell(self, noted: Noted) -> None:
        """Take what a replica says of itself; from any thread."""
        self._told.append(noted)
        self.wake()

    def _status(self) -> dict[str, Any]:
        replicas = self.replicas.sizes()
        return {
            "name": self._description["name"],
            "fingerprint": self._place.fingerprint,
            "pid": os.getpid(),
            "replicas": list(replicas),
            "num_clients": sum(not each.nonce for each in self._connections.values()) - 1,
            "num_busy": len(self._busy()),
            "idle_s": 0.0 if self._busy() else time.monotonic() - self._used_s,
            "ttl_s": self._description["ttl_s"],
            "began_s": self._begun_s,
            "memory_bytes": sum(replicas.values()) + resident_bytes(os.getpid()),
        }


def _parts(entries: list[Any]) -> list[list[Any]]:
    """Cut results into frames."""
    if not entries:
        return []
    parts: list[list[Any]] = [[]]
    nbytes = 0
    for entry in entries:
        size = entry.nbytes if isinstance(entry, Parcel) else len(entry) if isinstance(entry, bytes) else 0
        if nbytes and nbytes + size > FRAME_BYTES:
            parts.append([])
            nbytes = 0
        parts[-1].append(entry)
        nbytes += size
    return parts
