"""What runs in a replica: the function of a request, loaded once, its values taken apart and put together.

A replica is a worker of the host's engine. What it keeps between requests is here: the functions that it has
loaded, by content, and what it has told the host of itself.
"""

from __future__ import annotations

import os
import sys
from collections import OrderedDict
from time import monotonic, sleep, time_ns

from ....objects.codec import loads
from ..parcels import PLAIN, Failure, Noted, Stale, decode, encode_or_name, failure_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

MAX_FUNCTIONS = 256
WARM_UP_LIMIT_S = 5.0

fingerprint = ""
"""Of the environment that this process is a replica of; "" in a program and in a host."""

_functions: OrderedDict[bytes, Callable[..., Any]] = OrderedDict()
_is_entered = False
_on_exit: Callable[[], Any] | None = None
_looked_at: set[str] = set()
"""Modules that the host has been told of, or that are none of the user's."""
_loaded: dict[str, Any] = {}
"""Files of the user's modules that this process has loaded, with their signatures."""
_looked_ns = 0
"""When nothing but those was loaded."""
_news: dict[str, Any] = {}
"""Files that the host has not been told of."""
_is_told = False
"""The host knows this process."""


class FailedError(Exception):
    """An element failed and the engine shall try again: carries what became of it, and the files loaded."""

    def __init__(self, entry: Failure, files: dict[str, Any] | None) -> None:
        super().__init__(entry, files)
        self.entry = entry
        self.files = files


class Enter:
    """Makes a worker a replica; the first thing that it does.

    Attributes:
        fingerprint: of the environment.
        folder: the working folder.
        hooks: pickled enter and exit hooks.
        began_ns: before it, nothing was loaded.
        memory_bytes: what tasks may allocate, None for no limit.
    """

    def __init__(
        self, fingerprint: str, folder: str, hooks: bytes, began_ns: int, memory_bytes: int | None
    ) -> None:
        self.fingerprint = fingerprint
        self.folder = folder
        self.hooks = hooks
        self.began_ns = began_ns
        self.memory_bytes = memory_bytes

    def __call__(self) -> None:
        """Enter, unless it is done.

        Raises:
            Exception: whatever the enter hook raised, or unpickling it.
        """
        global _is_entered, _on_exit, fingerprint
        if _is_entered:
            return
        fingerprint = self.fingerprint
        os.chdir(self.folder)
        if self.memory_bytes is not None:
            bound_memory(self.memory_bytes)
        on_enter, _on_exit = loads(self.hooks)
        if on_enter is not None:
            on_enter()
        _is_entered = True
        if _on_exit is not None:
            import signal

            signal.signal(signal.SIGTERM, _leave)


def bound_memory(nbytes: int) -> None:
    """Let this process allocate so much more than it has; beyond that, allocations fail with `MemoryError`.

    What is mapped from others, such as large arguments, does not count. Elsewhere than on Linux nothing does.
    """
    if sys.platform != "linux":
        return
    import resource

    with open("/proc/self/status", encoding="ascii") as file:
        held = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmData"))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    bound = held + nbytes
    if most == resource.RLIM_INFINITY or bound <= most:
        resource.setrlimit(resource.RLIMIT_DATA, (bound, most))


class WarmUp:
    """Makes so many workers replicas: each call waits until as many others have come.

    Args:
        enter: makes a worker a replica.
        path: a file; who has come writes its number there.
        count: how many there shall be.
    """

    def __init__(self, enter: Enter, path: str, count: int) -> None:
        self._enter = enter
        self._path = path
        self._count = count

    def __call__(self, _: int) -> Noted:
        """Enter, and wait for the others; not for ever: a worker may have died."""
        if not _looked_at:
            look(self._enter.began_ns)
        self._enter()
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, os.getpid().to_bytes(8, "little"))
            deadline = monotonic() + WARM_UP_LIMIT_S
            while os.fstat(fd).st_size < 8 * self._count and monotonic() < deadline:
                sleep(0.001)
        finally:
            os.close(fd)
        return Noted(None, 1, os.getpid(), take_news() or {})


def _leave(*_: object) -> None:
    """Run the exit hook and end; the host asks for it when nothing runs here."""
    import traceback

    try:
        if _on_exit is not None:
            _on_exit()
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        os._exit(0)


STALE = "stale"
"""Stands for the function where it must not be run: this replica has loaded what has been edited since."""


class Prepare:
    """What a map does once in each replica: look whether it is still good, enter it, load the function.

    Attributes:
        enter: makes it a replica.
        epoch: makes this one of its own for requests before which replicas must look whether they are stale;
            0 if the host knows that they are not.
        digest: of the function's entry.
        entry: the function.
    """

    def __init__(self, enter: Enter, epoch: int, digest: bytes, entry: Any) -> None:
        self.enter = enter
        self.epoch = epoch
        self.digest = digest
        self.entry = entry

    def __call__(self) -> Callable[..., Any] | str | None:
        """Return the function, or STALE; None if something failed: each element tries again and says what."""
        if not _looked_at:
            look(self.enter.began_ns)
        elif self.epoch and is_stale():
            return STALE
        try:
            return self.load()
        except Exception:
            return None

    def load(self) -> Callable[..., Any]:
        """Return the function.

        Raises:
            Exception: whatever the enter hook raised, or unpickling the function.
        """
        self.enter()
        function = _functions.get(self.digest)
        if function is None:
            function = _functions[self.digest] = decode(self.entry)
            if len(_functions) > MAX_FUNCTIONS:
                _functions.popitem(last=False)
        else:
            _functions.move_to_end(self.digest)
        return function


class Work:
    """What a request maps over entries: the user's function between opening and closing them.

    Args:
        name: the user's function, for messages.
        prepare: loads it.
        retries: how often an element that raised is tried again here.
        is_timed: the engine watches the time: then it tries again, too.
        is_starred: an element is a pair of positional and keyword arguments.
    """

    def __init__(self, name: str, prepare: Prepare, retries: int, is_timed: bool, is_starred: bool) -> None:
        self.__name__ = self.__qualname__ = name
        self._prepare = prepare
        self._retries = retries
        self._is_timed = is_timed
        self._is_starred = is_starred

    def __reduce__(self) -> tuple[Any, ...]:
        return Work, (self.__name__, self._prepare, self._retries, self._is_timed, self._is_starred)

    def __call__(self, function: Any, entry: Any) -> Any:
        """Return the entry of what the function makes of an entry."""
        if function.__class__ is str:  # STALE
            return Stale()
        if len(sys.modules) != len(_looked_at) and is_stale():
            return Stale()
        attempts = 1
        while True:
            result = self._attempt(function, entry, attempts)
            if result.__class__ is not Failure or attempts > self._retries:
                break
            attempts += 1
        files = take_news()
        if result.__class__ is Failure and self._is_timed:
            raise FailedError(result, files)
        if files is None and attempts == 1:
            return result
        return Noted(result, attempts, os.getpid(), files or {})

    def _attempt(self, function: Callable[..., Any] | None, entry: Any, attempt: int) -> Any:
        try:
            if function is None:
                function = self._prepare.load()
            value = entry if type(entry) in PLAIN else decode(entry)
            if value.__class__ is Failure:  # an element that could not be pickled
                return value
            if self._is_starred:
                args, kwargs = value
                result = function(*args, **kwargs)
            else:
                result = function(value)
            if type(result) in PLAIN:
                return result
            return encode_or_name(result, what="the result", name="result", function_name=self.__name__)
        except Exception as error:
            return failure_of(error, self.__name__, attempt)


def look(looked_ns: int = 0) -> None:
    """Note the files of the user's modules that were loaded since the last look.

    Args:
        looked_ns: at the first look, a time before which nothing was loaded.
    """
    global _looked_ns
    begin_ns, looked_ns = time_ns(), _looked_ns or looked_ns
    for name, module in list(sys.modules.items()):
        if name not in _looked_at:
            file = getattr(module, "__file__", None)
            if isinstance(file, str) and is_users(file):
                _news[file] = _loaded[file] = signature(file, looked_ns)
            _looked_at.add(name)
    _looked_at.intersection_update(sys.modules)
    _looked_ns = begin_ns


def take_news() -> dict[str, Any] | None:
    """Return the files that were noted since the last call; None if there is nothing to tell."""
    global _is_told, _looked_ns, _news
    if len(sys.modules) != len(_looked_at):
        look()
    else:
        _looked_ns = time_ns()
        if _is_told and not _news:
            return None
    news, _news, _is_told = _news, {}, True
    return news


def is_stale() -> bool:
    """Say whether a file that this process has loaded is another one now, or may be."""
    look()
    return any(loaded is None or signature(file) != loaded for file, loaded in _loaded.items())


def is_users(file: str) -> bool:
    """Say whether a module's file is one that its author may be editing: not installed, not Python's own."""
    if "site-packages" in file or "dist-packages" in file or file.startswith("<"):
        return False
    return not file.startswith(_standard_folders())


def _standard_folders() -> tuple[str, ...]:
    return tuple({os.path.dirname(os.__file__) + os.sep, sys.base_prefix + os.sep + "lib" + os.sep})


COARSE_NS = 100_000_000
"""The kernel's clock for files is behind by some milliseconds."""


def signature(file: str, looked_ns: int = 0) -> list[int] | None:
    """Return what tells a file from any other content of it: None if there is none.

    The time of the last change of the inode can't be set by programs, unlike that of its content.

    Args:
        file: the path.
        looked_ns: it was loaded after this time: if it has changed since, what was loaded is not known, None.
    """
    try:
        found = os.stat(file)
    except OSError:
        return None
    if looked_ns and found.st_ctime_ns > looked_ns - COARSE_NS:
        return None
    return [found.st_ctime_ns, found.st_mtime_ns, found.st_size, found.st_ino]


class Inside:
    """What a map of a replica over its own pool runs; the engine takes care of values.

    Args:
        function: the user's.
        name: its name, for messages.
        retries: how often an element that raised is tried again.
        is_starred: an element is a pair of positional and keyword arguments.
    """

    def __init__(self, function: Callable[..., Any], name: str, retries: int, is_starred: bool) -> None:
        self.__name__ = self.__qualname__ = name
        self._function = function
        self._retries = retries
        self._is_starred = is_starred

    def __reduce__(self) -> tuple[Any, ...]:
        return Inside, (self._function, self.__name__, self._retries, self._is_starred)

    def __call__(self, item: Any) -> Any:
        """Return the entry of what the function makes of an item."""
        attempt = 1
        while True:
            try:
                if self._is_starred:
                    args, kwargs = item
                    value = self._function(*args, **kwargs)
                else:
                    value = self._function(item)
                entry = encode_or_name(value, what="the result", name="result", function_name=self.__name__)
            except Exception as error:
                entry = failure_of(error, self.__name__, attempt)
            if entry.__class__ is not Failure or attempt > self._retries:
                return entry if attempt == 1 else Noted(entry, attempt, os.getpid(), {})
            attempt += 1
