"""Where hosts can be found: a folder that only the user may enter, with one folder for each host.

    <runtime folder>/hosts/            0700, owner and mode checked before each use
        <fingerprint>.lock             held while a host is started, and while one leaves
        <fingerprint>/socket           the host listens here
                      key              32 bytes, 0600
                      definition.json  what it was started with
                      hooks            pickled enter and exit hooks; only replicas open them
                      log              its output and that of its replicas

What a host that was killed has left is removed by the next one's start, or by who lists hosts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import time

from .failures import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLE = "GRAINWISE_RUNTIME_DIR"
LOCK_LIMIT_S = 60.0
SOCKET_PATH_BYTES = 100
KEY_BYTES = 32


def runtime_folder() -> str:
    """Return the folder for what lives as long as processes: made if need be, and of nobody else.

    `GRAINWISE_RUNTIME_DIR`, else `grainwise` in `XDG_RUNTIME_DIR`, else `grainwise-UID` in the temp folder.

    Raises:
        HostError: it belongs to somebody else, or others may enter it.
    """
    chosen = os.environ.get(VARIABLE)
    if chosen:
        path = os.path.abspath(chosen)
    elif os.environ.get("XDG_RUNTIME_DIR"):
        path = os.path.join(os.environ["XDG_RUNTIME_DIR"], "grainwise")
    else:
        import tempfile

        path = os.path.join(tempfile.gettempdir(), f"grainwise-{os.getuid()}")
    _make_private(path)
    return path


def hosts_folder() -> str:
    """Return the folder of all hosts of this user.

    Raises:
        HostError: see `runtime_folder`.
    """
    path = os.path.join(runtime_folder(), "hosts")
    _make_private(path)
    return path


def _make_private(path: str) -> None:
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise HostError(f"the runtime folder can't be made: {error} - set {VARIABLE} to another") from error
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise HostError(
            f"the runtime folder {path} must be a folder of this user that nobody else may enter, mode 0700, "
            f"got owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o} - mend it, or set {VARIABLE}"
        )


class QuietSocket(socket.socket):
    """A socket that a program may drop: that ends what it stands for, and is nothing to warn of."""

    def __del__(self) -> None:
        self.close()


class Place:
    """The folder of one host.

    Args:
        fingerprint: of the definition; names the folder.
    """

    def __init__(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._root = hosts_folder()
        self.path = os.path.join(self._root, fingerprint)
        self._lock_path = f"{self.path}.lock"

    # -- the lock ----------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self, limit_s: float = LOCK_LIMIT_S) -> Iterator[None]:
        """Hold the host's lock.

        Raises:
            BlockingIOError: others have held it for so long.
        """
        fd = self._lock(limit_s)
        try:
            yield
        finally:
            os.close(fd)

    def _lock(self, limit_s: float) -> int:
        import fcntl

        deadline, pause_s = time.monotonic() + limit_s, 0.001
        while True:
            fd = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(fd, self._lock_path):
                    return fd
                os.close(fd)  # a host that left has removed it in between
                continue
            except BlockingIOError:
                os.close(fd)
                if time.monotonic() >= deadline:
                    raise
            except BaseException:
                os.close(fd)
                raise
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.02)

    # -- files; under the lock -----------------------------------------------------------------------------

    def prepare(self, files: dict[str, bytes]) -> None:
        """Make the folder anew with a new key and these files."""
        self.remove(with_lock=False)
        os.mkdir(self.path, 0o700)
        for name, data in {"key": os.urandom(KEY_BYTES), **files}.items():
            fd = os.open(os.path.join(self.path, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(data)

    def remove(self, *, with_lock: bool = True) -> None:
        """Remove the folder, and the lock, which stays held."""
        import shutil

        shutil.rmtree(self.path, ignore_errors=True)
        if with_lock:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._lock_path)

    def listen(self) -> socket.socket:
        """Make the socket. It takes connections from now on; whoever gets it serves them."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with self._address() as address:
                listener.bind(address)
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
        return listener

    # -- others --------------------------------------------------------------------------------------------

    def connect(self, timeout_s: float) -> socket.socket | None:
        """Connect to the host; None if nobody listens."""
        sock = QuietSocket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout_s)
        try:
            with self._address() as address:
                sock.connect(address)
        except (FileNotFoundError, ConnectionError):
            sock.close()
            return None
        except BaseException:
            sock.close()
            raise
        return sock

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes; None if there is none."""
        try:
            with open(os.path.join(self.path, name), "rb") as file:
                return file.read()
        except OSError:
            return None

    def log_tail(self) -> str:
        """Return the last lines of the host's output."""
        data = self.read("log") or b""
        return data[-4096:].decode("utf-8", "backslashreplace").strip()

    @contextlib.contextmanager
    def _address(self) -> Iterator[str]:
        """Give the socket's address; through a descriptor of the folder where its path is too long."""
        path = os.path.join(self.path, "socket")
        if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
            yield path
            return
        if sys.platform != "linux":
            raise HostError(f"the path {path} is too long for a socket - set {VARIABLE} to a shorter one")
        folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{folder}/socket"
        finally:
            os.close(folder)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def fingerprints() -> list[str]:
    """Return the fingerprints of all hosts that have a folder, of dead ones too."""
    suffix = ".lock"
    return sorted(name for name in os.listdir(hosts_folder()) if not name.endswith(suffix))
