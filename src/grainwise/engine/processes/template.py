"""The template process: it imports once what workers need, then forks one of them in a millisecond.

    driver ── control socket ──► template ── fork ──► worker, worker, ...
              FORK, KILL               └── SIGCHLD: EXITED, with the status

It is started by exec, never by forking the user's threaded program, and it has one thread, because a worker
asks the kernel to be killed when the *thread* that forked it ends. It is the only parent of workers, so it
alone may signal them by number: a process that has not been waited for keeps its number.

It ends with the driver (end of file, or the driver's process descriptor, should a forked child hold the
socket), and takes all workers and what they started with it: each worker leads a process group.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import Any
else:
    import _signal

MESSAGE = struct.Struct("<qqqq")
"""Operation, the worker's uid, and two values."""

# From the driver.
FORK = 1  # uid, slot; with descriptors: socket, side socket, output, errors, crash file
KILL = 2  # uid, signal
CONTROL = 3  # with the control page's descriptor
IMPORT = 4  # followed by so many bytes, the name of a module

# To the driver.
FORKED = 16  # uid, process id
EXITED = 17  # uid, process id, status as of os.waitpid
BOOTED = 18

WARM_AFTER_MS = 50
"""So long without a request, and the template of an environment imports one more module."""
KEPT_BYTES = 64 << 20
"""Free memory at the end of a worker's heap that it keeps."""

MAX_FDS = 8
CONTROL_FD = 3

BOOTSTRAP = """\
import sys
sys.path[:] = [{path!r}, *(entry for entry in sys.path if entry)]
from grainwise.engine.processes.template import main
main()
"""


def main() -> None:
    """Run the template until the driver is gone."""
    highest = os.sysconf("SC_OPEN_MAX")
    os.closerange(CONTROL_FD + 1, highest if 0 < highest <= 1 << 20 else 1 << 20)  # the program's own
    Template(socket.socket(fileno=CONTROL_FD)).run()
    os._exit(0)


def read_exactly(sock: socket.socket, nbytes: int) -> bytes:
    """Read so many bytes, or fewer at the end of file."""
    data = b""
    while len(data) < nbytes:
        more = sock.recv(nbytes - len(data))
        if not more:
            break
        data += more
    return data


class Template:
    """The template's state: its children by process id."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.children: dict[int, int] = {}  # process id -> uid
        self.pids: dict[int, int] = {}  # uid -> process id
        self.control_page = -1
        self.settings: dict[str, Any] = {}
        self.later: list[str] = []  # modules to import when there is time

    def run(self) -> None:
        """Serve fork requests; return when the driver is gone."""
        import gc

        self._boot()
        gc.collect()
        gc.freeze()
        wake_in, wake_out = os.pipe()
        for fd in (wake_in, wake_out):
            os.set_blocking(fd, False)
        _signal.set_wakeup_fd(wake_out)
        _signal.signal(_signal.SIGCHLD, lambda *_: None)
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        self._tell(BOOTED, 0, os.getpid())
        poller = select.poll()
        watched = [self.control.fileno(), wake_in]
        driver = _open_pidfd(self.settings["driver_pid"])
        if driver is not None:
            watched.append(driver)
        for fd in watched:
            poller.register(fd, select.POLLIN)
        while True:
            events = poller.poll(WARM_AFTER_MS if self.later else None)
            if not events:
                _import_what_is_there([self.later.pop(0)])
                gc.freeze()
            for fd, _ in events:
                if fd == wake_in:
                    os.read(wake_in, 4096)
                    self._reap()
                elif fd == driver or not self._serve():
                    self._end()
                    return

    def _boot(self) -> None:
        """Load all that workers run, then become like the driver: its path, its arguments, its imports.

        What a worker imported after its fork, each would import again, and from what is on disk by then.
        """
        import ctypes
        import faulthandler  # noqa: F401
        import traceback  # noqa: F401

        from ...errors import dual, tracebacks  # noqa: F401
        from ...grain import costs, sizes  # noqa: F401
        from ...objects import culprit, outpost, usage  # noqa: F401
        from ..printed import streams  # noqa: F401
        from ..wire import failures  # noqa: F401
        from ..worker import inside, loop  # noqa: F401
        from . import process  # noqa: F401

        if sys.platform.startswith("linux"):
            # Temporaries of a task are made anew in the next one: pages that stay need no page faults.
            mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # glibc; musl has none
            if mallopt is not None and not any(name.startswith("MALLOC_") for name in os.environ):
                mallopt(-3, KEPT_BYTES // 2)  # M_MMAP_THRESHOLD
                mallopt(-1, KEPT_BYTES)  # M_TRIM_THRESHOLD

        size = int.from_bytes(read_exactly(self.control, 8), "little")
        import _pickle

        self.settings = settings = _pickle.loads(read_exactly(self.control, size))
        sys.path[:] = settings["path"]
        sys.prefix, sys.exec_prefix = settings["prefix"]
        sys.argv[:] = settings["argv"]
        if settings["needs_site"]:
            import site

            site.main()
            sys.path[:] = settings["path"]
        else:
            import _sitebuiltins
            import builtins

            for name in ("exit", "quit"):
                setattr(builtins, name, _sitebuiltins.Quitter(name, "Ctrl-D (i.e. EOF)"))
            builtins.help = _sitebuiltins._Helper()
        self._enter_environment()
        modules = settings["modules"]
        if settings.get("runtime_env"):  # its first worker is waited for: what takes long comes behind it
            modules, self.later = [], list(modules)
        _import_what_is_there(["cloudpickle", *settings["stand_ins"], *modules])
        try:
            from ...objects import by_value  # noqa: F401  # needs cloudpickle, which the new path leads to
        except ImportError:
            pass  # as above
        if settings["log_to_driver"]:
            import binascii  # noqa: F401

            from ..printed import forwarding  # noqa: F401  # logging is there, cloudpickle has imported it
        # Last: modules of the user's may have the names of those that we need.
        first = settings.get("first_path", [])
        sys.path[:] = [*first, *(entry for entry in sys.path if entry not in first)]

    def _enter_environment(self) -> None:
        """Become what the runtime environment says beyond path and variables: folder, .pth files."""
        settings = self.settings
        if settings.get("python_path"):  # for programs that tasks start
            os.environ["PYTHONPATH"] = settings["python_path"]
        if settings.get("folder"):
            os.chdir(settings["folder"])
        for folder in settings.get("site_folders", ()):
            names = sorted(name for name in os.listdir(folder) if name.endswith(".pth"))
            names = [
                name for name in names if name != settings["own_pth"]
            ]  # for other processes than workers
            if names:
                import site

                before, known = len(sys.path), set(sys.path)
                for name in names:
                    site.addpackage(folder, name, known)
                added = sys.path[before:]
                del sys.path[before:]
                at = sys.path.index(folder) + 1
                sys.path[at:at] = added

    def _serve(self) -> bool:
        """Take one request; false at the end of file."""
        from ..wire.channel import receive_fds

        try:
            data, fds = receive_fds(self.control, MESSAGE.size, MAX_FDS)
        except OSError:
            return False
        if not data:
            return False
        operation, uid, value, _ = MESSAGE.unpack(data)
        if operation == CONTROL:
            self.control_page = fds[0]
        elif operation == FORK:
            self._fork(uid, value, fds)
        elif operation == IMPORT:
            _import_what_is_there([read_exactly(self.control, value).decode()])
        elif operation == KILL and uid in self.pids:
            self._kill(self.pids[uid], value)
        return True

    def _fork(self, uid: int, slot: int, fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            for fd in fds:
                os.close(fd)
            self._tell(EXITED, uid, 0, -(error.errno or 1))
            return
        if pid == 0:
            self._become_worker(uid, slot, fds)
        try:
            os.setpgid(pid, pid)
        except OSError:
            pass
        self.children[pid] = uid
        self.pids[uid] = pid
        for fd in fds:
            os.close(fd)
        self._tell(FORKED, uid, pid)

    def _become_worker(self, uid: int, slot: int, fds: list[int]) -> None:
        """In the child: leave the template's descriptors and signals behind, and run."""
        status = 1
        try:
            parent = os.getppid()
            _signal.set_wakeup_fd(-1)
            _signal.signal(_signal.SIGCHLD, _signal.SIG_DFL)
            os.setpgid(0, 0)
            self.control.close()
            from ..worker.loop import run_worker

            run_worker(uid, slot, parent, self.control_page, fds, self.settings)
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except Exception:
                    pass
            os._exit(status)

    def _reap(self) -> None:
        """Wait for ended children and report them; what they started in their group goes too."""
        for pid in list(self.children):
            try:
                info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                info = None
            if info is None:
                continue
            self._kill(-pid, _signal.SIGKILL)  # before the number can be given to anyone else
            _, status = os.waitpid(pid, 0)
            uid = self.children.pop(pid)
            del self.pids[uid]
            self._tell(EXITED, uid, pid, status)

    def _kill(self, pid: int, number: int) -> None:
        try:
            os.kill(pid, number)
        except OSError:
            pass

    def _end(self) -> None:
        """The driver is gone: so is everybody else."""
        for pid in self.children:
            self._kill(-pid, _signal.SIGKILL)
            self._kill(pid, _signal.SIGKILL)
        for pid in self.children:
            try:
                os.waitpid(pid, 0)
            except OSError:
                pass

    def _tell(self, operation: int, uid: int, value: int = 0, status: int = 0) -> None:
        try:
            self.control.sendall(MESSAGE.pack(operation, uid, value, status))
        except OSError:
            pass


def _open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the driver ends."""
    try:
        fd = os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
    return fd if os.getppid() == pid else None


def _import_what_is_there(names: list[str]) -> None:
    for name in names:
        try:
            __import__(name)
        except Exception:
            continue  # the task that needs it will say so
