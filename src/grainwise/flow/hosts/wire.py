"""Frames between a program and a host: a header of fixed form, and a payload.

    header    kind, flags, a number, the payload's length
    payload   of control frames: fixed structures, or text
              of frames that carry values: sizes, a pickle stream, its buffers, each at a multiple of 64

A payload of up to `INLINE_BYTES` follows its header. A longer one lies in a memfd that comes with the header
and is mapped by who receives it; so no length that a peer claims is ever allocated.

Before both sides have proved that they know the key nothing but a few hundred bytes is read, and nothing
unpickled:

    host     CHALLENGE   its nonce
    program  HELLO       a nonce of its own, and the keyed hash of both
    host     WELCOME     the keyed hash of both the other way round; its version of Python
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
import sys

from ...objects.codec import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HEADER = struct.Struct("<BBHIQ")
"""Kind, flags, zero, number, length of the payload in bytes."""

# Both ways of greeting.
CHALLENGE = 1
HELLO = 2
WELCOME = 3
# From a program.
FUNCTION = 16  # values: digest, the function's entry
START = 17  # START_FORM, name
ITEMS = 18  # values: a list of entries
STATUS = 19
STOP = 20
# From a host.
RESULTS = 32  # values: a list of entries, in order
CREDIT = 33  # number: that many frames of items have been taken
UNKNOWN = 34  # it does not have the function; send it, and start again
RENEWED = 35  # it is leaving, or its replicas are out of date: another one serves
REFUSED = 36  # values: the Failure of the map as a whole
DONE = 37
REPORT = 38  # JSON
STOPPED = 39  # somebody stopped it

IN_MEMORY = 1
"""Flag: the payload is in a memfd."""
LAST = 2
"""Flag of ITEMS: no more follow."""

START_FORM = struct.Struct("<32sqdIB")
"""Digest of the function, retries, seconds of an attempt (0: any), how many at once (0: all), starred."""
MAC_BYTES = 32
NONCE_BYTES = 32
VERSION = b"grainwise host 1"

INLINE_BYTES = 1 << 20
"""Longer payloads go through shared memory: above it a copy more costs more than two system calls."""
GREETING_BYTES = 256
"""No payload is longer before the peer is known."""
SIZES_LIMIT = 1 << 20
ALIGNMENT = 64
_CLOEXEC = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class ProtocolError(Exception):
    """The peer says what nobody of ours would say."""


class Frame:
    """A frame that has come.

    Attributes:
        kind, flags, number: from the header.
        payload: bytes, or a view of the mapped memory.
    """

    __slots__ = ("flags", "kind", "number", "payload")

    def __init__(self, kind: int, flags: int, number: int, payload: Any) -> None:
        self.kind = kind
        self.flags = flags
        self.number = number
        self.payload = payload

    def value(self) -> Any:
        """Unpickle the payload; large parts are read where they are. Only for authenticated peers."""
        view = memoryview(self.payload)
        try:
            count, stream_size = struct.unpack_from("<IQ", view)
            if count > SIZES_LIMIT:
                raise ProtocolError(f"a frame claims {count} buffers")
            sizes = struct.unpack_from(f"<{count}Q", view, 12)
        except struct.error as error:
            raise ProtocolError(f"a frame is cut short: {error}") from None
        at = 12 + 8 * count
        parts = []
        for size in (stream_size, *sizes):
            if at + size > len(view):
                raise ProtocolError("a frame claims more bytes than it has")
            parts.append(view[at : at + size])
            at = _align(at + size)
        return loads(parts[0], buffers=parts[1:])


class Outgoing:
    """A frame to be sent: its first bytes, and the descriptor that goes with them, -1 for none."""

    __slots__ = ("data", "fd")

    def __init__(self, data: bytes, fd: int = -1) -> None:
        self.data = data
        self.fd = fd

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def control_frame(kind: int, payload: bytes = b"", number: int = 0) -> Outgoing:
    """Return a frame without values."""
    return Outgoing(HEADER.pack(kind, 0, 0, number, len(payload)) + payload)


def values_frame(kind: int, value: Any, flags: int = 0, number: int = 0) -> Outgoing:
    """Return a frame with a value, made of entries: plain pickle is enough for those."""
    buffers: list[Any] = []
    stream = pickle.dumps(value, 5, buffer_callback=buffers.append)
    parts = [memoryview(stream), *(buffer.raw() for buffer in buffers)]
    sizes = [part.nbytes for part in parts]
    head = struct.pack(f"<IQ{len(buffers)}Q", len(buffers), *sizes)
    total = at = len(head)
    pieces: list[Any] = [head]
    for part, size in zip(parts, sizes):
        pad = at - total
        if pad:
            pieces.append(bytes(pad))
        pieces.append(part)
        total = at + size
        at = _align(total)
    if total <= INLINE_BYTES:
        return Outgoing(b"".join([HEADER.pack(kind, flags, 0, number, total), *pieces]))
    fd = _memory(pieces)
    return Outgoing(HEADER.pack(kind, flags | IN_MEMORY, 0, number, total), fd)


def _align(at: int) -> int:
    return (at + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def _memory(pieces: list[Any]) -> int:
    """Return the descriptor of a nameless file that holds these bytes and cannot change any more."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("grainwise-frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        import tempfile

        fd, path = tempfile.mkstemp(prefix="grainwise-")
        os.unlink(path)
    try:
        for piece in pieces:
            view = memoryview(piece).cast("B")
            while view.nbytes:
                view = view[os.write(fd, view) :]
        _seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


if sys.platform == "linux":
    import fcntl

    _SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

    def _seal(fd: int) -> None:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)

    def _is_sealed(fd: int) -> bool:
        try:
            return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SEALS == _SEALS
        except OSError:
            return False  # no memfd

else:

    def _seal(fd: int) -> None:
        pass

    def _is_sealed(fd: int) -> bool:
        return True


class Reader:
    """Reads frames from a socket, blocking or not.

    Attributes:
        limit: the longest payload that may follow a header.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.limit = GREETING_BYTES
        self._sock = sock
        self._header = b""
        self._fds: list[int] = []
        self._payload: bytearray | None = None
        self._filled = 0

    def trust(self) -> None:
        """The peer has proved who it is."""
        self.limit = INLINE_BYTES

    def read(self) -> Frame:
        """Return the next frame.

        Raises:
            BlockingIOError: there is none yet; of a non-blocking socket.
            EOFError: there will be none.
            ProtocolError: it is none of ours.
        """
        while len(self._header) < HEADER.size:
            data, fds, flags, _ = socket.recv_fds(self._sock, HEADER.size - len(self._header), 4, _CLOEXEC)
            self._fds += fds
            if not data:
                raise EOFError
            if flags & socket.MSG_CTRUNC:
                raise ProtocolError("too many descriptors")
            self._header += data
        kind, flags, _, number, length = HEADER.unpack(self._header)
        if flags & IN_MEMORY:
            payload = self._map(length)
        else:
            payload = self._read_payload(length)
        if self._fds:
            raise ProtocolError("descriptors that nobody wants")
        self._header, self._payload, self._filled = b"", None, 0
        return Frame(kind, flags & ~IN_MEMORY, number, payload)

    def _read_payload(self, length: int) -> bytearray:
        if self._payload is None:
            if length > self.limit:
                raise ProtocolError(f"a frame claims {length} bytes - expected at most {self.limit}")
            self._payload = bytearray(length)
        view = memoryview(self._payload)
        while self._filled < length:
            count = self._sock.recv_into(view[self._filled :])
            if not count:
                raise EOFError
            self._filled += count
        return self._payload

    def _map(self, length: int) -> Any:
        if self.limit == GREETING_BYTES or len(self._fds) != 1:
            raise ProtocolError("a frame without its memory")
        fd = self._fds.pop()
        try:
            if not _is_sealed(fd) or os.fstat(fd).st_size < length or not length:
                raise ProtocolError("memory that could change or is too small")
            return memoryview(mmap.mmap(fd, length, prot=mmap.PROT_READ))
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close descriptors that have come with half a frame."""
        while self._fds:
            os.close(self._fds.pop())


def send(sock: socket.socket, frame: Outgoing) -> None:
    """Send a frame over a blocking socket."""
    try:
        if frame.fd >= 0:
            count = socket.send_fds(sock, [frame.data], [frame.fd])
            if count < len(frame.data):
                sock.sendall(frame.data[count:])
        else:
            sock.sendall(frame.data)
    finally:
        frame.close()


def proof(key: bytes, who: bytes, host_nonce: bytes, program_nonce: bytes) -> bytes:
    """Return what only who knows the key can say."""
    import hmac

    return hmac.digest(key, VERSION + who + host_nonce + program_nonce, "sha256")


def is_same(first: bytes, second: bytes) -> bool:
    """Compare two proofs in constant time."""
    import hmac

    return hmac.compare_digest(first, second)


def peer_uid(sock: socket.socket) -> int:
    """Return the user at the other end."""
    if sys.platform == "linux":
        found: int = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        return found
    uid: int = struct.unpack_from("=II", sock.getsockopt(0, 1, 76))[1]  # LOCAL_PEERCRED, struct xucred
    return uid
