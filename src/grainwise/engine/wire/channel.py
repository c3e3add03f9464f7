"""Frames over a stream socket: eight bytes of length, then a pickled tuple.

The driver's end never blocks: what the socket does not take waits in a buffer and goes out when the poller
says so. A worker's end may block in `send`, because the driver reads whenever anything is outstanding.

A worker that waits for a frame spins for a few dozen microseconds when traffic was recent (waking a
sleeping processor costs more than the round trip), then blocks.
"""

from __future__ import annotations

import _pickle
import os
import select
import socket
from collections import deque
from time import perf_counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADER_BYTES = 8
CHUNK_BYTES = 1 << 16
"""Read at once: below the size from which every allocation is a system call."""
LONG_CHUNK_BYTES = 1 << 20
"""Read at once while a long frame is on its way."""
SOCKET_BUFFER_BYTES = 1 << 20
SPIN_S = 40e-6
"""How long to look again before blocking. `benchmarks` row F5 shows both."""

NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)
"""Programs that end by SIGPIPE (`| head`) must not end because a worker did."""

_dumps = _pickle.dumps
_loads = _pickle.loads


def encode(message: tuple[Any, ...]) -> bytes:
    """Return a message as one frame."""
    body: bytes = _dumps(message, 5)
    return len(body).to_bytes(HEADER_BYTES, "little") + body


class Channel:
    """One end of a connection. Used by one thread at a time."""

    __slots__ = ("_chunks", "_inbox", "_missing", "_outbox", "is_open", "sock")

    def __init__(self, sock: socket.socket, *, blocking: bool) -> None:
        sock.setblocking(blocking)
        self.sock = sock
        self.is_open = True
        self._chunks: list[bytes] = []  # an unfinished frame, joined once when it is whole
        self._missing = 0  # bytes until then, 0 while its header is cut, too
        self._inbox: deque[tuple[Any, ...]] = deque()
        self._outbox: deque[memoryview] = deque()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.sock.fileno()

    # -- the side that never blocks --------------------------------------------------------------------

    def post(self, frame: bytes) -> bool:
        """Send as much as the socket takes and keep the rest; return whether something is left over."""
        if self._outbox:
            self._outbox.append(memoryview(frame))
            return True
        try:
            sent = self.sock.send(frame, NO_SIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False  # the other side is gone: its end of file will say so
        if sent == len(frame):
            return False
        self._outbox.append(memoryview(frame)[sent:])
        return True

    def flush(self) -> bool:
        """Send what was kept; return whether something is still left over."""
        outbox = self._outbox
        while outbox:
            try:
                sent = self.sock.send(outbox[0], NO_SIGNAL)
            except BlockingIOError:
                return True
            except OSError:
                outbox.clear()
                return False
            if sent < outbox[0].nbytes:
                outbox[0] = outbox[0][sent:]
                return True
            outbox.popleft()
        return False

    def read(self) -> deque[tuple[Any, ...]]:
        """Return the messages that have arrived, without blocking; at the end of file `is_open` is false."""
        while self.is_open:
            room = self._room()
            try:
                data = self.sock.recv(room)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.is_open = False
                break
            self._split(data)
            if len(data) < room:
                break
        return self._inbox

    # -- the side that may block -----------------------------------------------------------------------

    def send(self, message: tuple[Any, ...]) -> None:
        """Send a message, blocking until the socket has taken it."""
        self.sock.sendall(encode(message), NO_SIGNAL)

    def receive(self, spin: bool = True) -> tuple[Any, ...] | None:
        """Wait for a message; None at the end of file.

        Raises:
            BlockingIOError: the socket has a time limit and nothing came; what has come so far is kept.
        """
        if self._inbox:
            return self._inbox.popleft()
        if spin and self.spin():
            return self._inbox.popleft() if self._inbox else self.receive(spin=False)
        while not self._inbox:
            try:
                data = self.sock.recv(self._room())
            except ConnectionError:
                return None
            if not data:
                return None
            self._split(data)
        return self._inbox.popleft()

    def spin(self) -> bool:
        """Look for data again and again for a short while; true if some came."""
        end = perf_counter() + SPIN_S
        recv, pause = self.sock.recv, os.sched_yield
        while perf_counter() < end:
            try:
                data = recv(CHUNK_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                pause()
                continue
            except OSError:
                return False  # the other side is gone: `receive` will find out
            if data:
                self._split(data)
                return True
            return False
        return False

    def wait(self, timeout_s: float) -> bool:
        """Wait until a message may be there; false on a timeout."""
        if self._inbox:
            return True
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))

    # -- both ------------------------------------------------------------------------------------------

    def _split(self, data: bytes) -> None:
        """Cut the stream into messages; an unfinished one is kept in pieces: a long one is copied once."""
        if self._chunks:
            self._chunks.append(data)
            if len(data) < self._missing:
                self._missing -= len(data)
                return
            data = b"".join(self._chunks)
            self._chunks.clear()
        at, end = 0, len(data)
        view = memoryview(data)
        self._missing = 0
        while end - at >= HEADER_BYTES:
            size = int.from_bytes(view[at : at + HEADER_BYTES], "little")
            if end - at - HEADER_BYTES < size:
                self._missing = at + HEADER_BYTES + size - end
                break
            at += HEADER_BYTES
            self._inbox.append(_loads(view[at : at + size]))
            at += size
        if at < end:
            self._chunks.append(data[at:])

    def _room(self) -> int:
        """Return how much to read at once."""
        return max(CHUNK_BYTES, min(self._missing, LONG_CHUNK_BYTES))

    def close(self) -> None:
        """Close the socket."""
        self.is_open = False
        self._outbox.clear()
        self.sock.close()


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a connection with roomy buffers."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for sock in (near, far):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
    return near, far


def fd_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of the side connection that passes descriptors of arenas."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)


def send_fd(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send descriptors with a short message."""
    import array

    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))], NO_SIGNAL)


def receive_fds(sock: socket.socket, nbytes: int, max_fds: int) -> tuple[bytes, list[int]]:
    """Receive a short message and its descriptors, closed on exec."""
    import array

    fds = array.array("i")
    flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    data, ancillary, _, _ = sock.recvmsg(nbytes, socket.CMSG_SPACE(max_fds * fds.itemsize), flags)
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    if not flags:
        for fd in fds:
            os.set_inheritable(fd, False)
    return data, list(fds)
