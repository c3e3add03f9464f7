"""What an environment is: all that decides which host serves a program."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from dataclasses import dataclass, field

from ...objects.codec import serialize

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

DEFAULT_TTL_S = 90.0
INHERITED = (
    "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONDONTWRITEBYTECODE",
    "PYTHONHASHSEED", "PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONPATH", "PYTHONUTF8", "TZ", "VIRTUAL_ENV",
)  # fmt: skip
"""Variables of the program that change what code means: programs that differ in them share no host."""
FINGERPRINT_BYTES = 8


@dataclass(frozen=True)
class Definition:
    """A reusable environment.

    Two programs share its host if all of this is equal, and with it their working folder, `sys.path`, version
    of grainwise, and the installed packages.

    Attributes:
        name: the environment's.
        replicas: how many replicas it has at least and at most. So many are started ahead; more come when
            there is work for them.
        ttl_s: the host ends so many seconds after the last request.
        interpreter: of the replicas, "" for the program's own.
        packages: names what the interpreter has installed, such as the digest of an image; "" for its own.
        variables: environment variables of the replicas, on top of the program's.
        cpus: of each replica; bounds the thread pools of native libraries. None: one thread.
        memory_bytes: what tasks may allocate in a replica, beyond what it begins with; more fails with
            `MemoryError`. None for no limit. Linux only.
        modules: imported once, ahead of the replicas, which share them: packages, not the user's own.
        on_enter: called in each replica before its first element.
        on_exit: called in each replica before it ends, unless it is killed.
    """

    name: str
    replicas: tuple[int, int] = (1, 1)
    ttl_s: float = DEFAULT_TTL_S
    interpreter: str = ""
    packages: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    cpus: float | None = None
    memory_bytes: int | None = None
    modules: tuple[str, ...] = ()
    on_enter: Callable[[], Any] | None = None
    on_exit: Callable[[], Any] | None = None

    def __post_init__(self) -> None:
        least, most = self.replicas
        if not 0 <= least <= most or most < 1:
            raise ValueError(
                f"environment {self.name!r}: replicas={self.replicas} expected (min, max), 0 <= min <= max"
            )
        if not self.ttl_s >= 0:
            raise ValueError(f"environment {self.name!r}: ttl_s={self.ttl_s} expected 0 or more seconds")
        for hook in (self.on_enter, self.on_exit):
            if hook is not None and not callable(hook):
                raise TypeError(
                    f"environment {self.name!r}: a hook expected a function, got {type(hook).__name__}"
                )

    def hooks(self) -> bytes:
        """Return the enter and exit hooks as replicas get them."""
        return serialize((self.on_enter, self.on_exit))

    def threads(self) -> int:
        """Return the limit for the thread pools of native libraries in each replica."""
        return max(1, math.ceil(self.cpus or 1))

    def description(self, hooks: bytes) -> dict[str, Any]:
        """Return what decides, and what the host is told, as JSON takes it."""
        executable = self.interpreter or sys.executable or "python3"
        return {
            "name": self.name,
            "replicas": list(self.replicas),
            "ttl_s": self.ttl_s,
            "interpreter": executable,
            "packages": self.packages,
            "variables": dict(sorted(self.variables.items())),
            "inherited": {name: os.environ[name] for name in INHERITED if name in os.environ},
            "threads": self.threads(),
            "memory_bytes": self.memory_bytes,
            "modules": list(self.modules),
            "has_exit_hook": self.on_exit is not None,
            "hooks": hashlib.blake2b(hooks, digest_size=16).hexdigest(),
            "library": _library(),
            "python": sys.version,
            "path": _path(executable),
            "folder": os.getcwd(),
        }


def fingerprint_of(description: dict[str, Any]) -> str:
    """Return the name of the host of a description, and of the packages that are installed now."""
    stamps = [stamp_of(entry) for entry in description["path"]]
    text = json.dumps([description, stamps], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=FINGERPRINT_BYTES).hexdigest()


def _path(executable: str) -> list[str]:
    """Return where replicas import from: as the program does; for another one, what is the user's."""
    path = [os.path.abspath(entry) for entry in sys.path]
    if os.path.abspath(executable) == os.path.abspath(sys.executable or ""):
        return path
    return [entry for entry in path if not _is_installed(entry)]


def _is_installed(entry: str) -> bool:
    """Say whether a folder of `sys.path` belongs to this interpreter."""
    roots = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    parts = entry.split(os.sep)
    if "site-packages" in parts or "dist-packages" in parts:
        return True
    in_root = any(entry.startswith(os.path.join(root, "lib") + os.sep) for root in roots)
    return in_root or entry.endswith(".zip")


def stamp_of(entry: str) -> int:
    """Return when packages were last installed into a folder; 0 if it holds none."""
    if "site-packages" not in entry and "dist-packages" not in entry:
        return 0
    try:
        return os.stat(entry).st_mtime_ns
    except OSError:
        return 0


def _library() -> str:
    """Return where grainwise is: what is installed has a stamp, a checkout counts as the user's modules."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
