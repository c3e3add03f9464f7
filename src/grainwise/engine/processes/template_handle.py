"""The driver's side of one template process: how it is started, spoken to, and known to have ended."""

from __future__ import annotations

import _pickle
import os
import socket
import sys

from ...errors import WorkerStartError
from ..wire.channel import NO_SIGNAL, send_fd
from . import template
from .process import anonymous_file, read_tail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..driver.environment import Environment

KEPT_X_OPTIONS = ("utf8", "dev", "int_max_str_digits", "warn_default_encoding", "no_debug_ranges", "gil")
"""Options that change what code does; those that print are the program's own."""


class TemplateHandle:
    """What the driver knows of one template.

    Attributes:
        environment: whose workers it forks; None for those of the program's own.
        fd: of the control socket, -1 when that is closed.
        has_forked: it was asked for a worker; is_booted: it has said that it is ready.
        warm: the modules that it was told to import.
    """

    __slots__ = (
        "_control", "_error_fd", "_partial", "_pid", "environment", "fd", "has_forked", "is_booted", "warm",
    )  # fmt: skip

    def __init__(self, environment: Environment | None) -> None:
        self.environment = environment
        self.fd = -1
        self.has_forked = False
        self.is_booted = False
        self.warm: set[str] = set()
        self._control: socket.socket | None = None
        self._pid = 0
        self._error_fd = -1
        self._partial = b""

    def start(
        self, executable: str, variables: dict[str, str], settings: dict[str, Any], control_fd: int
    ) -> None:
        """Start the process; returns at once.

        Args:
            executable: the interpreter.
            variables: its environment variables, all of them.
            settings: what it is told.
            control_fd: descriptor of the control page.

        Raises:
            WorkerStartError: it can't be started; nothing is left open.
        """
        self.warm = set(settings["modules"])
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._error_fd = anonymous_file("template")
        root = __file__.rsplit(os.sep + "grainwise" + os.sep, 1)[0]
        try:
            self._pid = os.posix_spawn(
                executable,
                [executable, *_interpreter_flags(), "-c", template.BOOTSTRAP.format(path=root)],
                variables,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, self._error_fd, 1),
                    (os.POSIX_SPAWN_DUP2, self._error_fd, 2),
                    (os.POSIX_SPAWN_DUP2, far.fileno(), template.CONTROL_FD),
                ],
                setpgroup=0,
                setsigmask=(),  # a program that blocks SIGCHLD or SIGINT does so for itself
            )
        except OSError as error:
            near.close()
            os.close(self._error_fd)
            self._error_fd = -1
            raise WorkerStartError(f"the template process can't be started: {error}") from error
        finally:
            far.close()
        hello = _pickle.dumps(settings, 5)
        try:
            near.sendall(len(hello).to_bytes(8, "little") + hello, NO_SIGNAL)
            send_fd(near, template.MESSAGE.pack(template.CONTROL, 0, 0, 0), [control_fd])
        except OSError:
            pass  # it has ended already: its end of file says so, and its output why
        near.setblocking(False)
        self._control = near
        self.fd = near.fileno()

    def is_open(self) -> bool:
        """Say whether it may be asked."""
        return self._control is not None

    def send(self, message: bytes, fds: list[int]) -> None:
        """Send it a request."""
        if self._control is None:
            return
        self._control.setblocking(True)
        try:
            send_fd(self._control, message, fds) if fds else self._control.sendall(message, NO_SIGNAL)
        except OSError:
            pass  # its end of file is on the way
        finally:
            self._control.setblocking(False)

    def warm_up(self, modules: list[str]) -> None:
        """Have it import what the program has imported since it was started."""
        for module in modules:
            if module not in self.warm:
                self.warm.add(module)
                name = module.encode()
                self.send(template.MESSAGE.pack(template.IMPORT, 0, len(name), 0) + name, [])

    def read(self) -> tuple[list[tuple[int, int, int, int]], bool]:
        """Return its messages and whether it is still there."""
        messages = []
        is_open = True
        while self._control is not None:
            try:
                data = self._control.recv(4096)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                is_open = False
                break
            self._partial += data
        size = template.MESSAGE.size
        while len(self._partial) >= size:
            message = template.MESSAGE.unpack(self._partial[:size])
            self._partial = self._partial[size:]
            self.is_booted = self.is_booted or message[0] == template.BOOTED
            messages.append(message)
        return messages, is_open

    def output(self) -> str:
        """Return its last words."""
        return read_tail(self._error_fd) if self._error_fd >= 0 else ""

    def close(self) -> None:
        """Close the socket: it kills what is left of its workers and ends."""
        if self._control is not None:
            self._control.close()
            self._control = None
            self.fd = -1

    def kill(self) -> None:
        """End it at once, if nothing depends on it."""
        if self._pid:
            os.kill(self._pid, 9)

    def reap(self, timeout_s: float) -> bool:
        """Wait for its end, and only its; kill it if it does not come in time. False if it is alive.

        With no time at all it is looked at once and let live.
        """
        from time import monotonic, sleep

        deadline, pause_s = monotonic() + timeout_s, 0.0002
        while self._pid:
            try:
                done, _ = os.waitpid(self._pid, os.WNOHANG)
            except ChildProcessError:
                break  # the program reaps its children itself
            if done:
                break
            if not timeout_s:
                return False
            if monotonic() > deadline:
                os.kill(self._pid, 9)
                deadline += timeout_s
            sleep(pause_s)
            pause_s = min(2 * pause_s, 0.01)
        self._pid = 0
        if self._error_fd >= 0:
            os.close(self._error_fd)
            self._error_fd = -1
        return True


def _interpreter_flags() -> list[str]:
    """Return the flags with which workers mean the same by the same code as the program."""
    flags = ["-S"]
    if sys.dont_write_bytecode:
        flags.append("-B")
    for letter, count in (("O", sys.flags.optimize), ("b", sys.flags.bytes_warning)):
        if count:
            flags.append("-" + letter * count)
    if sys.flags.isolated:
        flags.append("-I")
    elif sys.flags.ignore_environment:
        flags.append("-E")
    flags += [f"-W{option}" for option in sys.warnoptions]
    for name, value in sys._xoptions.items():
        if name in KEPT_X_OPTIONS:
            flags.append(f"-X{name}" if value is True else f"-X{name}={value}")
    return flags
