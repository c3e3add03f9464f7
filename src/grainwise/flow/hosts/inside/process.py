"""The host's process: from its start to its end.

It is started by exec, with the listening socket and nothing else of the program that starts it, and leaves
that program's session: it is nobody's child, and a signal from the terminal does not reach it. Its replicas
are the workers of an engine of its own, so they end with it however it ends.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
import traceback

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ..places import Place
    from .loop import Loop
    from .replica import Enter

LISTENER_FD = 3
LOG_BYTES = 4 << 20
KEPT_LOG_BYTES = 1 << 20
EXIT_LIMIT_S = 10.0
"""So long all exit hooks together may take."""

BOOTSTRAP = """\
import os, sys
if os.fork():
    os._exit(0)
os.setsid()
sys.path[:] = [{root!r}, *(entry for entry in sys.path if entry)]
from grainwise.flow.hosts.inside.process import main
main({fingerprint!r})
"""


def main(fingerprint: str) -> None:
    """Be the host of an environment until it is time to leave."""
    began_ns = time.time_ns()
    from ..places import Place

    place = Place(fingerprint)
    log = Log(os.path.join(place.path, "log"))
    os.chdir("/")
    highest = os.sysconf("SC_OPEN_MAX")
    os.closerange(LISTENER_FD + 1, highest if 0 < highest <= 1 << 20 else 1 << 20)
    listener = socket.socket(fileno=LISTENER_FD)
    os.set_inheritable(LISTENER_FD, False)
    try:
        _serve(place, listener, log, began_ns)
    except BaseException:
        traceback.print_exc()
        status = 1
    else:
        status = 0
    from ....api.session import shutdown

    shutdown()
    sys.stdout.flush()
    os._exit(status)


def _serve(place: Place, listener: socket.socket, log: Log, began_ns: int) -> None:
    from ....api.session import init

    description = json.loads(place.read("definition.json") or b"{}")
    root = sys.path[0]
    sys.path[:] = [*description["path"], *_own_path(description, root)]
    os.environ["GRAINWISE_THREADS_PER_WORKER"] = str(description["threads"])
    os.environ["GRAINWISE_REPORT"] = "0"
    _import_ahead(description["modules"])
    init(num_cpus=description["replicas"][1], batching="auto")
    listener.listen(128)  # once more: now the kernel tells programs this process's number
    from .loop import Loop
    from .replica import Enter

    hooks, memory_bytes = place.read("hooks") or b"", description["memory_bytes"]
    enter = Enter(place.fingerprint, description["folder"], hooks, began_ns, memory_bytes)
    loop = Loop(place, listener, enter, description, log.trim)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: loop.stop())
    if description["replicas"][0]:
        arguments = (place, enter, description["replicas"][0], loop)
        loop.is_warming_up = True
        threading.Thread(target=_warm_up, args=arguments, name="warm-up", daemon=True).start()
    loop.run()
    if description["has_exit_hook"]:
        loop.replicas.end(EXIT_LIMIT_S)


def _own_path(description: dict[str, Any], root: str) -> list[str]:
    """Return what this interpreter imports from by itself, where the program's path leaves it out."""
    known = {*description["path"], root}
    return [entry for entry in sys.path if entry not in known]


def _import_ahead(modules: list[str]) -> None:
    """Import packages once, for the template of the replicas to import them, too, before it forks."""
    from importlib import import_module

    for name in modules:
        try:
            import_module(name)
        except Exception:
            traceback.print_exc()  # who needs it will say so


def _warm_up(place: Place, enter: Enter, count: int, loop: Loop) -> None:
    """Start replicas ahead of requests."""
    from ....api.map import map as engine_map
    from .replica import WarmUp

    path = os.path.join(place.path, "warm")
    try:
        results = engine_map(WarmUp(enter, path, count), range(count), return_exceptions=True)
        for noted in results:
            if isinstance(noted, BaseException):
                sys.stderr.write(f"a replica could not be warmed up: {noted}\n")
            else:
                loop.tell(noted)
        loop.is_warming_up = False
        os.unlink(path)
    except Exception:  # such as the end of the host
        pass


class Log:
    """Standard output and error of the host, in a file that does not grow without bound."""

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (fd, 1), (fd, 2)):
            os.dup2(source, target)
        os.close(null)
        os.close(fd)

    def trim(self) -> None:
        """Keep the end of a log that has grown too long."""
        size = os.fstat(1).st_size
        if size > LOG_BYTES:
            tail = os.pread(1, KEPT_LOG_BYTES, size - KEPT_LOG_BYTES)
            os.ftruncate(1, 0)
            os.write(1, tail)
