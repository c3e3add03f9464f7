"""Results of tasks on disk, shared by all programs of a user.

One SQLite file in the folder that `GRAINWISE_FLOW_CACHE` names, by default `~/.cache/grainwise/flow`. It is
in WAL mode, so readers and one writer, of any number of processes, do not wait for each other long. Each
value is kept with a hash of its bytes: what is corrupt is not found. A cache that can't be used (corrupt,
read-only, locked, a full disk) is warned of once, and the run goes on without it.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import threading
import warnings
from contextlib import contextmanager
from time import time
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

VARIABLE = "GRAINWISE_FLOW_CACHE"
WAIT_S = 10.0
"""How long a writer waits for another process."""
_SCHEMA = """
CREATE TABLE IF NOT EXISTS results (
    key BLOB PRIMARY KEY,  -- blake2b of inputs, code and options
    task TEXT NOT NULL,
    value BLOB NOT NULL,   -- pickled
    digest BLOB NOT NULL,  -- blake2b of value
    made_s REAL NOT NULL   -- seconds since the epoch
) WITHOUT ROWID
"""
_BATCH = 500


class CacheStore:
    """The cache in a folder. Any thread may use it; after a fork the child opens it anew."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._is_broken = False

    def get(self, key: bytes) -> tuple[bool, Any]:
        """Return whether there is a result, and the result."""
        found = self.get_many([key])
        return (True, found[key]) if key in found else (False, None)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Any]:
        """Return the results that are there, by key."""
        rows: list[tuple[bytes, bytes, bytes]] = []
        for start in range(0, len(keys), _BATCH):
            part = keys[start : start + _BATCH]
            marks = ",".join("?" * len(part))
            rows += self._do(
                lambda c, marks=marks, part=part: c.execute(
                    f"SELECT key, value, digest FROM results WHERE key IN ({marks})", part
                ).fetchall(),
                [],
            )
        found = {}
        for key, value, digest in rows:
            if _digest(key, value) != digest:
                self._warn(f"a result is corrupt and is not used: {key.hex()}")
                continue
            try:
                found[key] = pickle.loads(value)
            except Exception as error:  # of a class that is no more
                self._warn(f"a result can't be read and is not used: {type(error).__name__}: {error}")
        return found

    def put(self, key: bytes, value: Any, task: str) -> None:
        """Keep a result."""
        self.put_many([(key, value)], task)

    def put_many(self, results: Sequence[tuple[bytes, Any]], task: str) -> None:
        """Keep results; what can't be pickled is warned of."""
        import cloudpickle

        rows = []
        for key, value in results:
            try:
                data = cloudpickle.dumps(value, protocol=5)
            except Exception as error:
                self._warn(f"a result of {task!r} can't be kept: {type(error).__name__}: {error}")
                continue
            rows.append((key, task, data, _digest(key, data), time()))

        def write(connection: sqlite3.Connection) -> None:
            with connection:
                connection.executemany("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?)", rows)

        if rows:
            self._do(write, None)

    def count(self) -> dict[str, int]:
        """Return the number of results of each task."""
        sql = "SELECT task, count(*) FROM results GROUP BY task ORDER BY task"
        return dict(self._do(lambda c: c.execute(sql).fetchall(), []))

    def summary(self) -> list[tuple[str, int, int, float, float]]:
        """Return of each task: name, number and bytes of its results, when the first and last came."""
        sql = (
            "SELECT task, count(*), sum(length(value)), min(made_s), max(made_s) FROM results GROUP BY task "
            "ORDER BY task"
        )
        rows: list[tuple[str, int, int, float, float]] = self._do(lambda c: c.execute(sql).fetchall(), [])
        return rows

    def entries(self, task: str, limit: int) -> list[tuple[bytes, int, float]]:
        """Return the latest results of a task: key, bytes, and when it came."""
        sql = "SELECT key, length(value), made_s FROM results WHERE task = ? ORDER BY made_s DESC LIMIT ?"
        rows: list[tuple[bytes, int, float]] = self._do(
            lambda c: c.execute(sql, (task, limit)).fetchall(), []
        )
        return rows

    def clear(self, task: str | None = None) -> int:
        """Forget all results, or those of one task; return how many there were."""

        def delete(connection: sqlite3.Connection) -> int:
            with connection:
                if task is None:
                    return connection.execute("DELETE FROM results").rowcount
                return connection.execute("DELETE FROM results WHERE task = ?", (task,)).rowcount

        n_deleted: int = self._do(delete, 0)
        return n_deleted

    @contextmanager
    def one_at_a_time(self, key: bytes, *, is_wanted: bool) -> Iterator[None]:
        """Hold other threads and processes off a key in the meantime."""
        if not is_wanted or self._is_broken:
            yield
            return
        try:
            os.makedirs(self.folder, mode=0o700, exist_ok=True)
            file = os.open(os.path.join(self.folder, "locks"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._warn(f"calls with the same inputs do not wait for each other: {error}")
            yield
            return
        try:
            _lock_byte(file, int.from_bytes(key[:7], "little"))
            yield
        finally:
            os.close(file)

    # -- the file --------------------------------------------------------------------------------------

    def _do(self, act: Any, otherwise: Any) -> Any:
        if self._is_broken:
            return otherwise
        import sqlite3

        with self._lock:
            try:
                return act(self._open())
            except (sqlite3.Error, OSError) as error:
                self._is_broken = not isinstance(error, sqlite3.OperationalError) or "locked" not in str(
                    error
                )
                self._warn(f"the run goes on without it: {type(error).__name__}: {error}")
                return otherwise

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        if self._connection is not None and self._pid == os.getpid():
            return self._connection
        os.makedirs(self.folder, mode=0o700, exist_ok=True)
        path = os.path.join(self.folder, "results.sqlite")
        connection = sqlite3.connect(path, timeout=WAIT_S, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        # A connection that was inherited by a fork is left alone: closing it would drop the parent's locks.
        self._connection, self._pid = connection, os.getpid()
        return connection

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None
            self._is_broken = False

    def _warn(self, text: str) -> None:
        warnings.warn(f"cache of task results in {self.folder!r}: {text}", RuntimeWarning, stacklevel=4)


def _lock_byte(file: int, offset: int) -> None:
    """Lock one byte of a file, beyond its end: no file per key, and no two keys that wait for each other."""
    import fcntl
    import struct

    command = getattr(fcntl, "F_OFD_SETLKW", None)
    if command is None:  # not Linux: all keys wait for each other
        fcntl.flock(file, fcntl.LOCK_EX)
        return
    fcntl.fcntl(file, command, struct.pack("@hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0))


def _digest(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16, key=key).digest()


_stores: dict[str, CacheStore] = {}


def cache_folder() -> str:
    """Return the folder that results are kept in."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return os.path.abspath(os.path.expanduser(chosen))
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(root, "grainwise", "flow")


def cache_store() -> CacheStore:
    """Return the cache of this program."""
    folder = cache_folder()
    store = _stores.get(folder)
    if store is None:
        store = _stores[folder] = CacheStore(folder)
    return store


class LocalTaskCache:
    """The cache by Flyte's name, for tests that begin with an empty one."""

    @staticmethod
    def initialize() -> None:
        """Do nothing: the cache opens at its first use."""

    @staticmethod
    def clear() -> None:
        """Forget all results."""
        cache_store().clear()
