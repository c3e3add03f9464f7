"""The driver's side of its processes: the template, the workers, and what the poller watches.

A worker begins to exist as an entry here: its sockets are made, its first batch may already be in them, and
the template is asked to fork it; nobody waits for that. Its end is always told by the template, which is its
parent, never guessed from a silent socket; the end of the template itself shows as an end of file.
"""

from __future__ import annotations

import _pickle
import itertools
import os
import select
import socket
import sys

from ...errors import WorkerStartError
from ..wire import control
from ..wire.channel import NO_SIGNAL, Channel, fd_pair, pair, send_fd
from . import template
from .process import anonymous_file, read_tail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...config import Settings
    from ..driver.actor import Actor
    from ..driver.batches import SentBatch

MAX_START_FAILURES = 5
IDLE_TIMEOUT_S = 1
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
)
KEPT_X_OPTIONS = ("utf8", "dev", "int_max_str_digits", "warn_default_encoding", "no_debug_ranges", "gil")
"""Options that change what code does; those that print are the program's own."""
WARM_MODULES = (
    "numpy", "pandas", "scipy", "sklearn", "sklearn.ensemble", "sklearn.linear_model", "PIL",
    "grainwise.flow.tasks.task", "grainwise.flow.mapping.elements",
)  # fmt: skip
"""Imported by the template when the driver has them: then no worker has to."""
STANDARD_FINDERS = (
    "BuiltinImporter",
    "FrozenImporter",
    "PathFinder",
    "_SixMetaPathImporter",
    "AssertionRewritingHook",
    "JoblibFinder",
)


_uids = itertools.count(1)
"""Shared by all sessions of the process, so that refs of an earlier one are never mistaken for others."""


class WorkerHandle:
    """What the driver knows of one worker process.

    Attributes:
        uid: never used twice; slot: its words in the control page.
        number: the identity under which the policy knows it.
        taught: functions that it has sent, by uid.
        batches: sent and not ended, by sequence number, in order.
        loans: blob id -> [blob, how often it was sent]; ref_loans: ref identity -> how often.
        actor: the one that it was started for, None for a worker that runs tasks.
        stack: sequence numbers of batches whose running task is blocked, outermost first.
    """

    __slots__ = (
        "actor", "batches", "channel", "crash_fd", "error_fd", "fd_socket", "functions", "is_exited", "is_up",
        "known_arenas", "last_progress", "last_words", "loans", "next_seq", "number", "output_fd",
        "own_arenas", "pending_free", "pid", "ref_loans", "slot", "stack", "status", "taught", "uid",
        "used_at", "waits", "words", "write_blocked",
    )  # fmt: skip

    def __init__(self, uid: int, number: int, slot: int, words: memoryview, files: list[int]) -> None:
        self.uid = uid
        self.number = number
        self.slot = slot
        self.words = words
        self.pid = 0
        self.is_up = False
        self.is_exited = False
        self.status = 0
        self.next_seq = 1
        self.batches: dict[int, SentBatch] = {}
        self.stack: list[int] = []
        self.actor: Actor | None = None
        self.functions: set[bytes] = set()
        self.known_arenas: set[int] = {uid * 2 + 2, uid * 2 + 3}
        self.own_arenas: list[int] = []
        self.loans: dict[int, list[Any]] = {}
        self.ref_loans: dict[int, int] = {}
        self.waits: dict[int, Any] = {}
        self.pending_free: list[tuple[int, int, int]] = []
        self.last_progress: tuple[int, int, float] = (-1, -1, 0.0)
        self.used_at = 0.0
        self.taught: dict[bytes, Any] = {}
        self.write_blocked = False
        self.last_words = ""
        self.output_fd, self.error_fd, self.crash_fd = files
        self.channel: Channel
        self.fd_socket: socket.socket

    def can_take(self) -> bool:
        """Say whether one more batch has claim words of its own."""
        return not self.batches or self.next_seq - next(iter(self.batches)) < control.DEPTH

    def close(self) -> None:
        """Close everything but the output files, which are read to their end first."""
        self.channel.close()
        self.fd_socket.close()
        os.close(self.crash_fd)


class Pool:
    """The template and the workers of one engine. Used under the engine's turn.

    Args:
        settings: what the template and the workers are told.
        num_threads: limit for the native thread pools of each worker.
    """

    def __init__(self, settings: dict[str, Any], num_threads: int) -> None:
        self.settings = settings
        self.control_fd = control.create()
        self._page = control.open_page(self.control_fd)
        self.words = memoryview(self._page).cast("Q")
        self.workers: dict[int, WorkerHandle] = {}  # by uid
        self.by_fd: dict[int, WorkerHandle] = {}
        self.template_fd = -1
        self._num_threads = num_threads
        self._slots = list(range(control.NUM_SLOTS - 1, 0, -1))
        self.num_start_failures = 0
        """In a row; the first worker that comes up resets it."""
        self._template_pid = 0
        self._has_forked = False
        self._template_error_fd = -1
        self._partial = b""
        self._control: socket.socket | None = None
        self.poller: Any = select.epoll() if hasattr(select, "epoll") else select.poll()

    # -- the template ----------------------------------------------------------------------------------

    def start_template(self) -> None:
        """Start the template; returns at once."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._template_error_fd = anonymous_file("template")
        root = __file__.rsplit(os.sep + "grainwise" + os.sep, 1)[0]
        executable = sys.executable or "python3"
        try:
            self._template_pid = os.posix_spawn(
                executable,
                [executable, *_interpreter_flags(), "-c", template.BOOTSTRAP.format(path=root)],
                self._environment(),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, self._template_error_fd, 1),
                    (os.POSIX_SPAWN_DUP2, self._template_error_fd, 2),
                    (os.POSIX_SPAWN_DUP2, far.fileno(), template.CONTROL_FD),
                ],
                setpgroup=0,
                setsigmask=(),  # a program that blocks SIGCHLD or SIGINT does so for itself
            )
        except OSError as error:
            near.close()
            os.close(self._template_error_fd)
            self._template_error_fd = -1
            raise WorkerStartError(f"the template process can't be started: {error}") from error
        finally:
            far.close()
        hello = _pickle.dumps(self.settings, 5)
        try:
            near.sendall(len(hello).to_bytes(8, "little") + hello, NO_SIGNAL)
            send_fd(near, template.MESSAGE.pack(template.CONTROL, 0, 0, 0), [self.control_fd])
        except OSError:
            pass  # it has ended already: its end of file says so, and its output why
        near.setblocking(False)
        self._control = near
        self.template_fd = near.fileno()
        self.poller.register(self.template_fd, select.POLLIN)

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        for name in THREAD_VARIABLES:
            environment.setdefault(name, str(self._num_threads))
        return environment

    def read_template(self) -> tuple[list[tuple[int, int, int, int]], bool]:
        """Return the template's messages and whether it is still there."""
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
            messages.append(template.MESSAGE.unpack(self._partial[:size]))
            self._partial = self._partial[size:]
        return messages, is_open

    def lose_template(self) -> None:
        """Clean up after a template that ended by itself; its workers are gone with it."""
        if self._control is not None:
            self.poller.unregister(self.template_fd)
            self._control.close()
            self._control = None
        self._wait_template(0.5)

    def template_output(self) -> str:
        """Return the last words of the template."""
        return read_tail(self._template_error_fd) if self._template_error_fd >= 0 else ""

    # -- workers ---------------------------------------------------------------------------------------

    def start_worker(self, number: int) -> WorkerHandle:
        """Ask the template for a worker; frames may be sent to it at once."""
        if self._control is None:
            self.start_template()
        if not self._slots:
            raise WorkerStartError(f"more than {control.NUM_SLOTS - 1} workers at once")
        uid, slot = next(_uids), self._slots.pop()
        words = control.slot_words(self.words, slot)
        for index in range(control.SLOT_WORDS):
            words[index] = 0
        files: list[int] = []
        sockets: list[socket.socket] = []
        try:
            for name in ("output", "errors", "crash"):
                files.append(anonymous_file(name))
            sockets += pair()
            sockets += fd_pair()
        except BaseException:  # no descriptors left: worse with each try if they were kept
            self._slots.append(slot)
            for fd in files:
                os.close(fd)
            for each in sockets:
                each.close()
            raise
        near, far, near_side, far_side = sockets
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(IDLE_TIMEOUT_S))
        near_side.setblocking(False)
        handle = WorkerHandle(uid, number, slot, words, files)
        handle.channel = Channel(near, blocking=False)
        handle.fd_socket = near_side
        self._has_forked = True
        fds = [far.fileno(), far_side.fileno(), *files]
        self._send_to_template(template.MESSAGE.pack(template.FORK, uid, slot, 0), fds)
        far.close()
        far_side.close()
        self.workers[uid] = handle
        self.by_fd[near.fileno()] = handle
        self.poller.register(near.fileno(), select.POLLIN)
        return handle

    def _send_to_template(self, message: bytes, fds: list[int]) -> None:
        assert self._control is not None
        self._control.setblocking(True)
        try:
            send_fd(self._control, message, fds) if fds else self._control.sendall(message, NO_SIGNAL)
        except OSError:
            pass  # its end of file is on the way
        finally:
            self._control.setblocking(False)

    def kill(self, handle: WorkerHandle, number: int = 9) -> None:
        """Send a signal to a worker, through its parent."""
        if self._control is not None:
            self._send_to_template(template.MESSAGE.pack(template.KILL, handle.uid, number, 0), [])

    def watch_writes(self, handle: WorkerHandle, is_blocked: bool) -> None:
        """Have the poller say when a worker's socket takes data again, or no longer."""
        if is_blocked != handle.write_blocked and not handle.is_exited:
            handle.write_blocked = is_blocked
            events = select.POLLIN | (select.POLLOUT if is_blocked else 0)
            self.poller.modify(handle.channel.fileno(), events)

    def remove(self, handle: WorkerHandle) -> None:
        """Forget a worker that has ended."""
        self.stop_watching(handle)
        self.workers.pop(handle.uid, None)
        self._slots.append(handle.slot)
        handle.words[control.USED] = handle.words[control.FREED] = 0
        handle.words.release()
        handle.close()

    def stop_watching(self, handle: WorkerHandle) -> None:
        """Take a worker's socket out of the poller."""
        fd = handle.channel.fileno()
        if self.by_fd.pop(fd, None) is not None:
            self.poller.unregister(fd)

    def note_start_failure(self) -> bool:
        """Count a process that ended before it could take a task; true when it is time to give up."""
        self.num_start_failures += 1
        return self.num_start_failures >= MAX_START_FAILURES

    # -- the end ---------------------------------------------------------------------------------------

    def end_processes(self) -> None:
        """End all processes and wait for the template."""
        if self._control is not None:
            self.poller.unregister(self.template_fd)
            self._control.close()  # the template kills what is left and ends
            self._control = None
            if not self._has_forked and self._template_pid:
                os.kill(self._template_pid, 9)  # nothing depends on it yet: don't wait for it to boot
        for handle in list(self.workers.values()):
            handle.channel.close()
            handle.fd_socket.close()
        self._wait_template(5.0)

    def close(self) -> None:
        """Close what is left. The processes have ended, and their output has been read."""
        for handle in list(self.workers.values()):
            os.close(handle.crash_fd)
            handle.words.release()
        self.workers.clear()
        self.by_fd.clear()
        if hasattr(self.poller, "close"):
            self.poller.close()
        self.words.release()
        self._page.close()
        os.close(self.control_fd)

    def _wait_template(self, timeout_s: float) -> None:
        """Reap the template, and only it; kill it if it does not end."""
        from time import monotonic, sleep

        pid, self._template_pid = self._template_pid, 0
        if self._template_error_fd >= 0 and not timeout_s:
            return
        deadline, pause_s = monotonic() + timeout_s, 0.0002
        while pid:
            try:
                done, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                break  # the program reaps its children itself
            if done:
                break
            if monotonic() > deadline:
                os.kill(pid, 9)
                deadline += timeout_s
            sleep(pause_s)
            pause_s = min(2 * pause_s, 0.01)
        if self._template_error_fd >= 0:
            os.close(self._template_error_fd)
            self._template_error_fd = -1

    def abandon(self) -> None:
        """In a forked child: close our copies of the descriptors, so that ends of file still arrive."""
        if self._control is not None:
            self._control.close()
        for handle in self.workers.values():
            handle.channel.sock.close()
            handle.fd_socket.close()
        if hasattr(self.poller, "close"):
            self.poller.close()


def open_pool(settings: Settings) -> Pool:
    """Start a pool's template, which boots while the rest of the engine is still being imported.

    Raises:
        WorkerStartError: it can't be started; nothing is left open.
    """
    told = driver_settings()
    told.update(
        num_cpus=settings.num_cpus,
        num_slots=control.NUM_SLOTS,
        capacity_bytes=settings.object_store_memory_bytes,
        spill_directory=settings.spill_directory,
        take_back=settings.take_back,
        log_to_driver=settings.log_to_driver,
        tag_output=settings.tag_output,
    )
    pool = Pool(told, settings.threads_per_worker)
    try:
        pool.start_template()
    except BaseException:
        pool.close()
        raise
    return pool


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


def driver_settings() -> dict[str, Any]:
    """Return what a template must know to become like this program."""
    finders = {
        type(finder).__name__ if not isinstance(finder, type) else finder.__name__ for finder in sys.meta_path
    }
    return {
        "path": [os.getcwd() if entry == "" else entry for entry in sys.path],
        "prefix": (sys.prefix, sys.exec_prefix),
        "argv": list(sys.argv),
        "needs_site": bool(finders - set(STANDARD_FINDERS))
        or not {"sitecustomize", "usercustomize"}.isdisjoint(sys.modules),
        "modules": [name for name in WARM_MODULES if name in sys.modules],
        "driver_pid": os.getpid(),
    }


def _timeval(seconds: int) -> bytes:
    import struct

    return struct.pack("@ll", seconds, 0)
