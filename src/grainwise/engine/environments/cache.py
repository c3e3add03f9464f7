"""The cache of what takes long to make: one folder for each thing, found by the hash of what it is made from.

    <cache>/<kind>/<name>/        the thing
                   <name>.json    written last, and in one step: the thing is whole
                   <name>.lock    locked by who makes it (alone), and by all who use it (together, or alone)

Guarantees, whatever dies when: what is not whole is never used, and is removed before it is made again;
nobody removes what somebody uses, because the kernel lets go of a lock when its process ends, not before. The
folder is its owner's alone (0700).

A thing is made where it will stay, not moved there: a virtual environment holds its own path.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
from time import monotonic, sleep, time

from ...errors import RuntimeEnvSetupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

LOOK_S = 0.05
"""Who waits for another program that makes the same thing looks so often."""
MAX_AGE_S = 30 * 86400.0
"""What nobody has used for so long is removed."""


class Entry:
    """One thing in the cache, locked for as long as this object is open.

    Attributes:
        path: its folder.
        num_users: it is open until as many have closed it.
        info: what was noted of it when it was whole; None while it is not.
    """

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.num_users = 1
        self._fd = fd
        self.info = self._read()

    def begin(self) -> None:
        """Have an empty folder to make the thing in. The lock must be held alone."""
        self._remove()
        os.mkdir(self.path, 0o700)

    def finish(self, info: dict[str, Any]) -> None:
        """Note that the thing is whole."""
        part = f"{self.path}.json.part"
        with open(part, "w", encoding="utf-8") as file:
            json.dump(info, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, f"{self.path}.json")
        self.info = info

    def abandon(self) -> None:
        """Remove what was begun, and let go."""
        self._remove()
        self.close()

    def share(self) -> None:
        """Let others use it, too."""
        fcntl.flock(self._fd, fcntl.LOCK_SH)

    def touch(self) -> None:
        """Note that it is in use."""
        try:
            os.utime(f"{self.path}.json")
        except OSError:
            pass  # gone, as a cache may be

    def close(self) -> None:
        """Let go of it."""
        self.num_users -= 1
        if self.num_users > 0:
            return
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def age_s(self) -> float:
        """Return for how long nobody has used it."""
        try:
            return time() - os.stat(f"{self.path}.json").st_mtime
        except OSError:
            return float("inf")

    def remove(self) -> None:
        """Remove it for good. The lock must be held alone."""
        self._remove()
        os.unlink(f"{self.path}.lock")
        self.close()

    def _read(self) -> dict[str, Any] | None:
        try:
            with open(f"{self.path}.json", encoding="utf-8") as file:
                found: dict[str, Any] = json.load(file)
        except (OSError, ValueError):
            return None
        return found if os.path.isdir(self.path) else None

    def _remove(self) -> None:
        self.info = None
        for path in (f"{self.path}.json", f"{self.path}.json.part"):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
        shutil.rmtree(self.path, ignore_errors=True)


class Cache:
    """See the module docstring.

    Args:
        folder: where; made at first need.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.copying = threading.RLock()
        """Who looks for something that is to be this program's alone, and makes it, has this lock."""
        self._mine: dict[tuple[str, str], Entry] = {}
        self._swept: set[str] = set()

    def claim(
        self, kind: str, name: str, *, may_share: bool, deadline: float | None = None,
        waiting: Callable[[], None] | None = None,
    ) -> Entry:  # fmt: skip
        """Return an entry, locked: alone if it is not whole, or if `may_share` is false.

        Args:
            kind: of what.
            name: hash of what it is made from.
            may_share: one that is whole may be used by others as well.
            deadline: when to give up, in monotonic seconds.
            waiting: called as long as another program has it, which makes it; may raise.

        Raises:
            RuntimeEnvSetupError: the time is over, or the folder can't be used.
        """
        path = os.path.join(self._folder_of(kind), name)
        while True:
            entry = _lock(path, fcntl.LOCK_SH if may_share else fcntl.LOCK_EX)
            if entry is not None and (entry.info is not None or not may_share):
                return entry
            if entry is not None:
                entry.close()
                entry = _lock(path, fcntl.LOCK_EX)
                if entry is not None:
                    return entry
            if deadline is not None and monotonic() > deadline:
                raise RuntimeEnvSetupError(
                    f"environment {name[:12]} was not there in time - another program has been making it"
                )
            if waiting is not None:
                waiting()
            sleep(LOOK_S)

    def claim_free(self, kind: str, name: str) -> Entry:
        """Return an entry that is this object's alone: the one that it has, or one that nobody has.

        The caller has `copying`.

        Raises:
            RuntimeEnvSetupError: the folder can't be used.
        """
        mine = self._mine.get((kind, name))
        if mine is not None and mine.num_users > 0:
            mine.num_users += 1
            return mine
        folder = self._folder_of(kind)
        number = 0
        while True:
            entry = _lock(os.path.join(folder, f"{name}-{number}"), fcntl.LOCK_EX)
            if entry is not None:
                self._mine[kind, name] = entry
                return entry
            number += 1

    def sweep(self, kind: str) -> None:
        """Remove what is old or half made; once in the life of this object."""
        if kind in self._swept:
            return
        self._swept.add(kind)
        folder = self._folder_of(kind)
        for name in sorted(os.listdir(folder)):
            if not name.endswith(".lock"):
                continue
            entry = _lock(os.path.join(folder, name[: -len(".lock")]), fcntl.LOCK_EX)
            if entry is None:
                continue
            if entry.info is None or entry.age_s() > MAX_AGE_S:
                entry.remove()
            entry.close()

    def _folder_of(self, kind: str) -> str:
        path = os.path.join(self.folder, kind)
        try:
            os.makedirs(path, mode=0o700, exist_ok=True)
            for each in (self.folder, path):
                found = os.lstat(each)
                if found.st_uid != os.geteuid() or not os.path.isdir(each):
                    raise PermissionError(f"{each} does not belong to this user")
                if found.st_mode & 0o077:
                    os.chmod(each, 0o700)
        except OSError as error:
            raise RuntimeEnvSetupError(
                f"the cache of environments can't be used: {error} - set GRAINWISE_CACHE_DIR to another one"
            ) from error
        return path


def _lock(path: str, how: int) -> Entry | None:
    """Return an entry locked, None if somebody else has it."""
    lock = f"{path}.lock"
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        try:
            if os.path.samestat(os.fstat(fd), os.stat(lock)):
                return Entry(path, fd)
        except FileNotFoundError:
            pass
        os.close(fd)  # it was removed between the two
