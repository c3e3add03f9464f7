"""The driver's side of its processes: the templates, the workers, and what the poller watches.

A worker begins to exist as an entry here: its sockets are made, its first batch may already be in them, and
the template is asked to fork it; nobody waits for that. Its end is always told by the template, which is its
parent, never guessed from a silent socket; the end of a template itself shows as an end of file.

There is one template for the program's own environment, started with the session, and one for each runtime
environment, started with its first worker.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import sys
from time import monotonic

from ...errors import WorkerStartError
from ..wire import control
from ..wire.channel import Channel, fd_pair, pair
from . import template
from .process import anonymous_file
from .template_handle import TemplateHandle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ...config import Settings
    from ..driver.actor import Actor
    from ..driver.batches import SentBatch
    from ..driver.crash import Verdict
    from ..driver.environment import Environment
    from ..driver.reserved import Lease

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
WARM_MODULES = (
    "numpy", "pandas", "scipy", "sklearn", "sklearn.ensemble", "sklearn.linear_model", "PIL",
    "grainwise.flow.tasks.task", "grainwise.flow.mapping.elements",
)  # fmt: skip
"""Imported by the template when the driver has them: then no worker has to."""
STAND_INS = ("grainwise.as_ray.loaded",)
"""The same, but by no means left out: what changes the meaning of an import."""
STANDARD_FINDERS = (
    "BuiltinImporter",
    "FrozenImporter",
    "PathFinder",
    "_SixMetaPathImporter",
    "AssertionRewritingHook",
    "JoblibFinder",
    "RayFinder",
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
        template: its parent; environment: the one that it serves, None for the program's own.
        stack: sequence numbers of batches whose running task is blocked, outermost first.
        lease: what its call has beside CPUs, see `driver.reserved`; None for other workers.
        limit_bytes: what it may take of the memory, 0 for any amount.
        verdict: why it is being killed, see `driver.crash`.
    """

    __slots__ = (
        "actor", "batches", "channel", "crash_fd", "environment", "error_fd", "fd_socket", "functions",
        "is_exited", "is_up", "known_arenas", "last_progress", "last_words", "lease", "limit_bytes", "loans",
        "next_seq", "number", "output_fd", "own_arenas", "pending_free", "pid", "ref_loans", "slot", "stack",
        "status", "taught", "template", "uid", "used_at", "verdict", "waits", "words", "write_blocked",
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
        self.lease: Lease | None = None
        self.limit_bytes = 0
        self.verdict: Verdict | None = None
        self.output_fd, self.error_fd, self.crash_fd = files
        self.environment: Environment | None = None
        self.template: TemplateHandle
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
    """The templates and the workers of one engine. Used under the engine's turn.

    Args:
        settings: what templates and workers are told.
        num_threads: limit for the native thread pools of each worker.

    Attributes:
        templates: those that are there, by descriptor.
        own: that of the program's own environment.
        ending: those that were told to end.
    """

    def __init__(self, settings: dict[str, Any], num_threads: int) -> None:
        self.settings = settings
        self.control_fd = control.create()
        self._page = control.open_page(self.control_fd)
        self.words = memoryview(self._page).cast("Q")
        self.workers: dict[int, WorkerHandle] = {}  # by uid
        self.by_fd: dict[int, WorkerHandle] = {}
        self.templates: dict[int, TemplateHandle] = {}
        self.own: TemplateHandle | None = None
        self.ending: list[TemplateHandle] = []
        self._num_threads = num_threads
        self._slots = list(range(control.NUM_SLOTS - 1, 0, -1))
        self.num_start_failures = 0
        """In a row; the first worker that comes up resets it."""
        self.poller: Any = select.epoll() if hasattr(select, "epoll") else select.poll()

    # -- templates -------------------------------------------------------------------------------------

    def start_template(self, environment: Environment | None = None) -> TemplateHandle:
        """Start the template of an environment; returns at once.

        Raises:
            WorkerStartError: it can't be started.
        """
        handle = TemplateHandle(environment)
        variables = dict(os.environ)
        for name in THREAD_VARIABLES:
            variables.setdefault(name, str(self._num_threads))
        settings, executable = self.settings, sys.executable or "python3"
        if environment is not None:
            settings = environment.settings(settings, warm_modules())
            executable = environment.prepared.executable or executable
            variables = environment.prepared.variables_over(variables)
        handle.start(executable, variables, settings, self.control_fd)
        self.templates[handle.fd] = handle
        self.poller.register(handle.fd, select.POLLIN)
        if environment is None:
            self.own = handle
        else:
            environment.template = handle
        return handle

    def _template_of(self, environment: Environment | None) -> TemplateHandle:
        handle = self.own if environment is None else environment.template
        return self.start_template(environment) if handle is None else handle

    def lose_template(self, handle: TemplateHandle) -> None:
        """Clean up after a template that ended by itself; its workers are gone with it."""
        self._forget_template(handle)
        handle.reap(0.5)

    def end_template(self, handle: TemplateHandle) -> None:
        """End a template that has no workers; returns at once."""
        self._forget_template(handle)
        self.ending.append(handle)

    def reap_ended(self) -> None:
        """Let go of templates that were told to end and have done so."""
        self.ending = [handle for handle in self.ending if not handle.reap(0)]

    def _forget_template(self, handle: TemplateHandle) -> None:
        if self.templates.pop(handle.fd, None) is not None:
            self.poller.unregister(handle.fd)
        handle.close()
        if self.own is handle:
            self.own = None
        environment = handle.environment
        if environment is not None and environment.template is handle:
            environment.template = None

    # -- workers ---------------------------------------------------------------------------------------

    def start_worker(self, number: int, environment: Environment | None = None) -> WorkerHandle:
        """Ask a template for a worker; frames may be sent to it at once.

        Raises:
            WorkerStartError: its template can't be started, or there are too many workers.
            OSError: there are no descriptors left.
        """
        parent = self._template_of(environment)
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
        handle.template, handle.environment = parent, environment
        if environment is not None:
            environment.used_at = monotonic()
        parent.warm_up(warm_modules())
        parent.has_forked = True
        fds = [far.fileno(), far_side.fileno(), *files]
        parent.send(template.MESSAGE.pack(template.FORK, uid, slot, 0), fds)
        far.close()
        far_side.close()
        self.workers[uid] = handle
        self.by_fd[near.fileno()] = handle
        self.poller.register(near.fileno(), select.POLLIN)
        return handle

    def kill(self, handle: WorkerHandle, number: int = 9) -> None:
        """Send a signal to a worker, through its parent."""
        handle.template.send(template.MESSAGE.pack(template.KILL, handle.uid, number, 0), [])

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
        """End all processes and wait for the templates."""
        for each in list(self.templates.values()):
            self.end_template(each)
            if not each.has_forked:
                each.kill()  # nothing depends on it yet: don't wait for it to boot
        for handle in list(self.workers.values()):
            handle.channel.close()
            handle.fd_socket.close()
        for each in self.ending:
            each.reap(5.0)
        self.ending.clear()

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

    def abandon(self) -> None:
        """In a forked child: close our copies of the descriptors, so that ends of file still arrive."""
        for each in self.templates.values():
            each.close()
        for handle in self.workers.values():
            handle.channel.sock.close()
            handle.fd_socket.close()
        if hasattr(self.poller, "close"):
            self.poller.close()


def open_pool(settings: Settings, namespace: str = "", *, is_own: bool = True) -> Pool:
    """Start a pool's template, which boots while the rest of the engine is still being imported.

    Args:
        settings: of the session.
        namespace: where its tasks look up actors by default.
        is_own: tasks run in the program's own environment; else its template is not started yet.

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
        totals=settings.totals(),
        namespace=namespace,
    )
    pool = Pool(told, settings.threads_per_worker)
    try:
        if is_own:
            pool.start_template()
    except BaseException:
        pool.close()
        raise
    return pool


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
        "stand_ins": [name for name in STAND_INS if name in sys.modules],
        "modules": warm_modules(),
        "driver_pid": os.getpid(),
    }


def warm_modules() -> list[str]:
    """Return what templates import because the program has it."""
    return [name for name in WARM_MODULES if name in sys.modules]


def _timeval(seconds: int) -> bytes:
    import struct

    return struct.pack("@ll", seconds, 0)
