"""Finding the host of a definition, and starting one where there is none.

Programs that want the same environment at once agree by a lock: the first makes the folder and the socket, on
which connections are taken from that moment on, and starts the process; the others connect, and wait for its
challenge like the first. If the host dies as it starts, all of them see the end of file and try again.
"""

from __future__ import annotations

import json
import os
import socket
import sys

from .definition import fingerprint_of
from .failures import HostError, HostLostError
from .places import Place
from .wire import (
    CHALLENGE,
    HELLO,
    MAC_BYTES,
    NONCE_BYTES,
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
    send,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .definition import Definition

GREETING_LIMIT_S = 60.0
MAX_STARTS = 3
MAX_TRIES = 50


class Link:
    """A connection to a host that has proved to be the one.

    Attributes:
        pid: the host's process id.
        python: the version of Python of its replicas, such as (3, 12).
        known: digests of functions that this host has, as far as this program has sent them.
    """

    def __init__(self, sock: socket.socket, reader: Reader, pid: int, python: tuple[int, ...]) -> None:
        self._sock = sock
        self._reader = reader
        self.pid = pid
        self.python = python
        self.known: set[bytes] = set()

    def send(self, frame: Outgoing) -> None:
        """Send a frame.

        Raises:
            HostLostError: the host is gone.
        """
        try:
            send(self._sock, frame)
        except OSError as error:
            raise HostLostError(f"the host {self.pid} has gone: {error}") from error

    def read(self) -> Frame:
        """Wait for the next frame.

        Raises:
            HostLostError: the host is gone.
        """
        try:
            return self._reader.read()
        except (EOFError, OSError) as error:
            raise HostLostError(f"the host {self.pid} has gone: {str(error) or 'end of file'}") from error

    def is_readable(self) -> bool:
        """Say whether something has come."""
        import select

        poller = select.poll()
        poller.register(self._sock, select.POLLIN)
        return bool(poller.poll(0))

    def set_timeout(self, timeout_s: float | None) -> None:
        """Bound each read and write; None for no bound."""
        self._sock.settimeout(timeout_s)

    def hang_up(self) -> None:
        """End the connection under a thread that reads from it, which then finds the host gone."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended

    def close(self) -> None:
        """Close the connection; what is under way is cancelled."""
        self._sock.close()
        self._reader.close()


def greet(place: Place, timeout_s: float = GREETING_LIMIT_S) -> Link | None:
    """Connect to a host; None if there is none, or if it is just leaving.

    Raises:
        HostError: it does not answer.
    """
    sock = place.connect(timeout_s)
    if sock is None:
        return None
    reader = Reader(sock)
    try:
        if peer_uid(sock) != os.geteuid():
            raise HostError(f"the host at {place.path} belongs to another user")
        pid, python = _greet(place, sock, reader)
        sock.settimeout(None)
        reader.trust()
        return Link(sock, reader, pid, python)
    except TimeoutError:
        sock.close()
        raise HostError(
            f"the host at {place.path} has not answered for {timeout_s:g} s - end it with: grainwise env stop"
        ) from None
    except (EOFError, ConnectionError):
        sock.close()
        return None
    except ProtocolError as error:
        sock.close()
        raise HostError(f"the host at {place.path} does not speak as expected: {error}") from error
    except BaseException:
        sock.close()
        raise


def _greet(place: Place, sock: socket.socket, reader: Reader) -> tuple[int, tuple[int, ...]]:
    challenge = reader.read()
    payload = bytes(challenge.payload)
    if challenge.kind != CHALLENGE or payload[:-NONCE_BYTES] != VERSION:
        raise ProtocolError("no challenge")
    host_nonce, nonce = payload[-NONCE_BYTES:], os.urandom(NONCE_BYTES)
    key = place.read("key")
    if not key:
        raise EOFError  # it is leaving
    send(sock, control_frame(HELLO, nonce + proof(key, b"program", host_nonce, nonce)))
    welcome = reader.read()
    answer, python = bytes(welcome.payload)[:MAC_BYTES], bytes(welcome.payload)[MAC_BYTES:]
    expected = proof(key, b"host", host_nonce, nonce)
    if welcome.kind != WELCOME or len(answer) != MAC_BYTES or not is_same(answer, expected):
        raise ProtocolError("it does not know the key")
    return welcome.number, tuple(python)


def reach(definition: Definition) -> tuple[str, Link]:
    """Return the fingerprint of a definition and a connection to its host, started if need be.

    Raises:
        HostError: it can't be started, or does not answer.
    """
    hooks = definition.hooks()
    description = definition.description(hooks)
    place = Place(fingerprint_of(description))
    num_starts = 0
    for _ in range(MAX_TRIES):
        link = greet(place)
        if link is not None:
            return place.fingerprint, link
        if num_starts == MAX_STARTS:
            break
        try:
            with place.locked():
                if (link := greet(place)) is not None:
                    return place.fingerprint, link
                _start(place, description, hooks)
                num_starts += 1
        except BlockingIOError:
            raise HostError(f"the lock of the host at {place.path} is held by somebody who hangs") from None
    raise HostError(
        f"the host of {definition.name!r} ended {num_starts} times as it started; its last words:\n"
        f"{place.log_tail() or 'none'}"
    )


def _start(place: Place, description: dict[str, object], hooks: bytes) -> None:
    """Start a host. The caller has the lock."""
    place.prepare({"definition.json": json.dumps(description).encode(), "hooks": hooks})
    listener = place.listen()
    try:
        _spawn(place, description, listener)
    finally:
        listener.close()


def _spawn(place: Place, description: dict[str, object], listener: socket.socket) -> None:
    from .inside.process import BOOTSTRAP, LISTENER_FD

    executable = str(description["interpreter"])
    root = __file__.rsplit(os.sep + "grainwise" + os.sep, 1)[0]
    variables = description["variables"]
    assert isinstance(variables, dict)
    environment = {**os.environ, **variables, "GRAINWISE_RUNTIME_DIR": _runtime_folder(place)}
    code = BOOTSTRAP.format(root=root, fingerprint=place.fingerprint)
    null = os.devnull
    try:
        pid = os.posix_spawn(
            executable,
            [executable, *_flags(), "-c", code],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, null, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.path.join(place.path, "log"), os.O_WRONLY | os.O_CREAT, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
                (os.POSIX_SPAWN_DUP2, listener.fileno(), LISTENER_FD),
            ],
            setpgroup=0,
            setsigmask=(),
        )
    except OSError as error:
        raise HostError(
            f"the interpreter {executable!r} of environment {description['name']!r} can't be started: {error}"
        ) from error
    os.waitpid(pid, 0)  # it forks the host at once and ends


def _flags() -> list[str]:
    flags = ["-B"] if sys.dont_write_bytecode else []
    if sys.flags.optimize:
        flags.append("-" + "O" * sys.flags.optimize)
    return flags


def _runtime_folder(place: Place) -> str:
    return os.path.dirname(os.path.dirname(place.path))
