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

import json
import os
import selectors
import socket
import time
from collections import OrderedDict, deque

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
    Outgoing,
    ProtocolError,
    Reader,
    control_frame,
    is_same,
    peer_uid,
    proof,
    values_frame,
)
from .replica import Enter, Prepare, signature
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
MAX_FUNCTION_BYTES = 256 << 20
MAX_FUNCTIONS = 256
FRAME_BYTES = 64 << 20
"""Results of one frame."""
WRITE_BYTES = 4 << 20
"""Bytes that may wait for a program that does not read; then its results stay where they are."""


class Connection:
    """A program.

    Attributes:
        sock, reader: to it.
        nonce: of the challenge; b"" once the program has answered it.
        outgoing: frames that are not sent, the first perhaps in part.
        request: what is under way, None if it is idle.
        begun_s: when it connected.
        is_fresh: it has asked for nothing yet.
        is_writing: the selector says when the socket takes more.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.reader = Reader(sock)
        self.nonce = os.urandom(NONCE_BYTES)
        self.outgoing: deque[Outgoing] = deque()
        self.request: Request | None = None
        self.begun_s = time.monotonic()
        self.is_fresh = True
        self.is_writing = False

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.sock.fileno()

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have not been sent."""
        return sum(len(frame.data) for frame in self.outgoing)


class Loop:
    """See the module docstring.

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
        self._functions: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        self._connections: dict[int, Connection] = {}
        self._ending: list[Request] = []
        self._told: deque[Noted] = deque()
        self._files: dict[str, Any] = {}
        self._replicas: dict[int, int] = {}
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
        return max(self._used_s + self._description["ttl_s"], self._keep_s) - time.monotonic()

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
            self._post(connection, control_frame(STOPPED))
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
            connection = Connection(sock)
            self._connections[connection.fileno()] = connection
            self._selector.register(sock, selectors.EVENT_READ)
            self._keep_s = max(self._keep_s, time.monotonic() + FRESH_S)
            self._post(connection, control_frame(CHALLENGE, VERSION + connection.nonce))
        return is_any

    def _drop(self, connection: Connection) -> None:
        self._connections.pop(connection.fileno(), None)
        self._selector.unregister(connection.sock)
        connection.sock.close()
        connection.reader.close()
        while connection.outgoing:
            connection.outgoing.popleft().close()
        self._cancel(connection)

    def _cancel(self, connection: Connection) -> None:
        request, connection.request = connection.request, None
        if request is not None:
            self._ending.append(request)
            request.cancel()
            self._used_s = time.monotonic()

    def _serve(self, connection: Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._write(connection)
            if events & selectors.EVENT_READ:
                while connection.fileno() >= 0:
                    self._handle(connection, connection.reader.read())
        except BlockingIOError:
            pass
        except (EOFError, OSError, ProtocolError):
            if connection.fileno() >= 0:
                self._drop(connection)

    def _post(self, connection: Connection, frame: Outgoing) -> None:
        connection.outgoing.append(frame)
        if len(connection.outgoing) == 1:
            try:
                self._write(connection)
            except OSError:
                pass  # the end of file is on the way

    def _write(self, connection: Connection) -> None:
        outgoing = connection.outgoing
        try:
            while outgoing:
                frame = outgoing[0]
                if frame.fd >= 0:
                    count = socket.send_fds(connection.sock, [frame.data], [frame.fd])
                    frame.close()
                else:
                    count = connection.sock.send(frame.data)
                if count < len(frame.data):
                    frame.data = frame.data[count:]
                else:
                    outgoing.popleft()
        except BlockingIOError:
            pass
        if bool(outgoing) != connection.is_writing:
            connection.is_writing = bool(outgoing)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if outgoing else 0)
            self._selector.modify(connection.sock, events)

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
            self._keep(digest, entry)
        elif frame.kind == START:
            self._start(connection, Start(frame.payload))
        elif frame.kind == STATUS:
            self._post(connection, control_frame(REPORT, json.dumps(self._status()).encode()))
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
        self._post(connection, control_frame(WELCOME, answer, os.getpid()))

    def _keep(self, digest: bytes, entry: Any) -> None:
        """Keep a function, and forget those that were not used for longest."""
        nbytes = entry.nbytes if isinstance(entry, Parcel) else len(entry)
        self._functions[digest] = entry, nbytes
        total = sum(each[1] for each in self._functions.values())
        while len(self._functions) > 1 and (
            total > MAX_FUNCTION_BYTES or len(self._functions) > MAX_FUNCTIONS
        ):
            _, (_, gone) = self._functions.popitem(last=False)
            total -= gone

    def _start(self, connection: Connection, start: Start) -> None:
        if self._listener is None or self._is_stale():
            self._make_way()
            self._post(connection, control_frame(RENEWED))
            return
        found = self._functions.get(start.digest)
        if found is None:
            self._post(connection, control_frame(UNKNOWN))
            return
        self._functions.move_to_end(start.digest)
        prepare = Prepare(self._enter, start.digest, found[0])
        connection.request = Request(start, prepare, self.wake)

    def _is_stale(self) -> bool:
        """Say whether a file that a replica has loaded is another one now."""
        return any(loaded is None or signature(file) != loaded for file, loaded in self._files.items())

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
                self._post(connection, control_frame(CREDIT, number=num_taken))
            for part in _parts(entries):
                self._post(connection, values_frame(RESULTS, part))
            if is_done:
                self._finish(connection, request)
        for request in self._ending:
            if request.is_done:
                self._keep_notes(request.replicas, request.files)
        self._ending = [request for request in self._ending if not request.is_done]
        while self._told:
            noted = self._told.popleft()
            self._keep_notes({noted.pid}, noted.files)

    def _finish(self, connection: Connection, request: Request) -> None:
        self._keep_notes(request.replicas, request.files)
        connection.request = None
        self._used_s = time.monotonic()
        if request.failure is not None:
            self._post(connection, values_frame(REFUSED, request.failure))
        else:
            self._post(connection, control_frame(DONE))

    # -- replicas ------------------------------------------------------------------------------------------

    def tell(self, noted: Noted) -> None:
        """Take what a replica says of itself; from any thread."""
        self._told.append(noted)
        self.wake()

    def _keep_notes(self, replicas: set[int], files: dict[str, Any]) -> None:
        for pid in replicas - self._replicas.keys():
            try:
                self._replicas[pid] = os.pidfd_open(pid)
            except (AttributeError, OSError):  # macOS; or it is gone
                self._replicas[pid] = -1
        for file, loaded in files.items():
            if file not in self._files or self._files[file] == loaded:
                self._files[file] = loaded
            else:
                self._files[file] = None  # two replicas have loaded different contents of it

    def end_replicas(self, limit_s: float) -> None:
        """Have the replicas run their exit hooks, and wait for them."""
        import select
        import signal

        poller, left = select.poll(), 0
        for fd in self._replicas.values():
            if fd >= 0:
                try:
                    signal.pidfd_send_signal(fd, signal.SIGTERM)
                except OSError:
                    continue
                poller.register(fd, select.POLLIN)
                left += 1
        deadline = time.monotonic() + limit_s
        while left and time.monotonic() < deadline:
            for fd, _ in poller.poll(1000 * limit_s):
                poller.unregister(fd)
                left -= 1

    def _status(self) -> dict[str, Any]:
        replicas = {pid: size for pid in self._replicas if (size := _resident_bytes(pid))}
        return {
            "name": self._description["name"],
            "fingerprint": self._place.fingerprint,
            "pid": os.getpid(),
            "replicas": sorted(replicas),
            "num_clients": sum(not each.nonce for each in self._connections.values()) - 1,
            "num_busy": len(self._busy()),
            "idle_s": 0.0 if self._busy() else time.monotonic() - self._used_s,
            "ttl_s": self._description["ttl_s"],
            "began_s": self._begun_s,
            "memory_bytes": sum(replicas.values()) + _resident_bytes(os.getpid()),
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


def _resident_bytes(pid: int) -> int:
    """Return the memory of a process; 0 if it is gone, or where nobody can tell."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
