"""A program's connection, as the host's loop has it: frames in, frames out, nothing that waits."""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections import deque

from ..wire import NONCE_BYTES, Outgoing, Reader

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .request import Request


class Connection:
    """A program.

    Attributes:
        sock, reader: to it.
        nonce: of the challenge; b"" once the program has answered it.
        request: what is under way, None if it is idle.
        begun_s: when it connected.
        is_fresh: it has asked for nothing yet.

    Args:
        sock: accepted, non-blocking.
        selector: says when it can be read, and while frames wait also when it can be written.
    """

    def __init__(self, sock: socket.socket, selector: selectors.BaseSelector) -> None:
        self.sock = sock
        self.reader = Reader(sock)
        self.nonce = os.urandom(NONCE_BYTES)
        self.request: Request | None = None
        self.begun_s = time.monotonic()
        self.is_fresh = True
        self._selector = selector
        self._outgoing: deque[Outgoing] = deque()  # the first one perhaps in part
        self._is_writing = False
        selector.register(sock, selectors.EVENT_READ)

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once it is closed."""
        return self.sock.fileno()

    @property
    def waiting_bytes(self) -> int:
        """Bytes that have not been sent."""
        return sum(len(frame.data) for frame in self._outgoing)

    def post(self, frame: Outgoing) -> None:
        """Send a frame, now or when the program reads."""
        self._outgoing.append(frame)
        if len(self._outgoing) == 1:
            try:
                self.write()
            except OSError:
                pass  # the end of file is on the way

    def write(self) -> None:
        """Send as much as the socket takes.

        Raises:
            OSError: the program is gone.
        """
        outgoing = self._outgoing
        try:
            while outgoing:
                frame = outgoing[0]
                if frame.fd >= 0:
                    count = socket.send_fds(self.sock, [frame.data], [frame.fd])
                    frame.close()
                else:
                    count = self.sock.send(frame.data)
                if count < len(frame.data):
                    frame.data = frame.data[count:]
                else:
                    outgoing.popleft()
        except BlockingIOError:
            pass
        if bool(outgoing) != self._is_writing:
            self._is_writing = bool(outgoing)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if outgoing else 0)
            self._selector.modify(self.sock, events)

    def close(self) -> None:
        """Close it, and the descriptors of what was not sent or not read."""
        self._selector.unregister(self.sock)
        self.sock.close()
        self.reader.close()
        while self._outgoing:
            self._outgoing.popleft().close()
