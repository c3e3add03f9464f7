"""A program's side of an environment: `find_or_start`, and the maps and calls that its host runs.

One connection carries one map at a time; those that are free are kept for the next. So threads may share
a `Host`, a map that is left early ends by closing its connection, and what a program has under way ends with
the program.

When the host is gone (killed, at the end of its time to live, renewed because a module was edited), the
elements that have not come back are sent to another one: results come in order, so these are the last ones.
"""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections import deque
from time import perf_counter

from .cancellation import Cancellation
from .definition import Definition
from .failures import HostError, HostLostError, RenewedError
from .outcome import Outcome
from .parcels import Parcel, encode, encode_or_name, failure_of, outcome_of
from .starting import Link, reach
from .wire import (
    CREDIT,
    DONE,
    FUNCTION,
    ITEMS,
    LAST,
    REFUSED,
    RENEWED,
    RESULTS,
    START,
    START_FORM,
    STOPPED,
    UNKNOWN,
    Outgoing,
    control_frame,
    values_frame,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
    from typing import Any

MAX_LOSSES = 3
"""Hosts that are lost one after the other without a single result."""
MAX_RENEWALS = 20
"""The same of those that make way for others."""
FRAMES_AHEAD = 4
"""Frames of elements that the host has not begun with."""
FRAME_ITEMS = 4096
FRAME_BYTES = 1 << 20
READ_S = 1e-3
"""A slow input is read so long, then what is there is sent."""
MAX_IDLE_LINKS = 16


def find_or_start(definition: Definition) -> Host:
    """Return the host of an environment, starting it if it does not run.

    Inside a replica of that environment it is the pool itself: its tasks are nested ones, and one that waits
    for others lends its replica to them.

    Cost: about 1 ms if it runs; 0.2 s and what its replicas import if not.

    Raises:
        HostError: it can't be started.
    """
    from .inside import replica

    if replica.fingerprint:
        from .definition import fingerprint_of

        fingerprint = fingerprint_of(definition.description(definition.hooks()))
        if fingerprint == replica.fingerprint:
            return Host(definition, fingerprint, None)
    fingerprint, link = reach(definition)
    return Host(definition, fingerprint, link)


class Host:
    """The host of an environment, whichever process that is at the moment. Threads may share it.

    Attributes:
        definition: the environment.
        fingerprint: names the host; see `list_hosts`.
    """

    def __init__(self, definition: Definition, fingerprint: str, link: Link | None) -> None:
        self.definition = definition
        self.fingerprint = fingerprint
        self._is_inside = link is None
        self._links: list[Link] = [] if link is None else [link]
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def __repr__(self) -> str:
        return f"<Host of environment {self.definition.name!r}, {self.fingerprint}>"

    def map(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        retries: int = 0,
        timeout_s: float | None = None,
        concurrency: int | None = None,
    ) -> Iterator[Outcome]:
        """Call a function on every item in the replicas; yield what became of each, in order, as it comes.

        Nothing is raised for an element that failed: its outcome says so. Closing the iterator, or dropping
        it, cancels the rest. Elements are batched by measured cost; large arrays go through shared memory and
        arrive read-only. An element whose replica died runs once more, even without `retries`.

        Args:
            function: any function; sent once, by content.
            items: read no further than the replicas need.
            retries: how often an element that raised, or ran out of time, is tried again.
            timeout_s: how long an attempt may take, in seconds; None for no limit.
            concurrency: how many elements of this map run at once; None for as many as there are replicas.

        Raises:
            HostError: no host can be started, or somebody stopped it.
            SerializationError: the function can't be pickled.
        """
        outcomes = self.arrivals(
            function, items, retries=retries, timeout_s=timeout_s, concurrency=concurrency
        )
        return _one_by_one(outcomes)

    def arrivals(
        self,
        function: Callable[[Any], Any],
        items: Iterable[Any],
        *,
        retries: int = 0,
        timeout_s: float | None = None,
        concurrency: int | None = None,
        cancellation: Cancellation | None = None,
    ) -> Generator[list[Outcome], None, None]:
        """Do the same as `map`, and yield outcomes in lists: all that have come together.

        Args:
            function: as for `map`, like all that follow.
            items: see there.
            retries: see there.
            timeout_s: see there.
            concurrency: see there.
            cancellation: ends the map when it is set; then what has not come back does not come.
        """
        start = _Start(function, retries, timeout_s, concurrency, is_starred=False)
        if self._is_inside:
            return _map_inside(start, function, items)
        return self._run(start, iter(items), cancellation or Cancellation())

    def call(
        self, function: Callable[..., Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call a function in a replica and return its result.

        Raises:
            TaskError: it raised; the error is of that type, too.
            HostError: see `map`.
        """
        start = _Start(function, 0, None, None, is_starred=True)
        item = (tuple(args), dict(kwargs or {}))
        if self._is_inside:
            [[outcome]] = _map_inside(start, function, [item])
        else:
            [[outcome]] = self._run(start, iter([item]), Cancellation())
        return outcome.result()

    def close(self) -> None:
        """Close free connections. The host stays, for its time to live; using this object again is fine."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.close()

    # -- connections ---------------------------------------------------------------------------------------

    def _take_link(self) -> Link:
        with self._lock:
            if os.getpid() != self._pid:  # a fork: these are its parent's
                for link in self._links:
                    link.close()
                self._links, self._pid = [], os.getpid()
            if self._links:
                return self._links.pop()
        self.fingerprint, link = reach(self.definition)
        return link

    def _give_link(self, link: Link) -> None:
        with self._lock:
            if len(self._links) < MAX_IDLE_LINKS and os.getpid() == self._pid:
                self._links.append(link)
                return
        link.close()

    # -- a map ---------------------------------------------------------------------------------------------

    def _run(
        self, start: _Start, items: Iterator[Any], cancellation: Cancellation
    ) -> Generator[list[Outcome], None, None]:
        sending = _Sending(start, items)
        num_losses = 0
        while not cancellation.is_set:
            num_before = sending.num_back
            link = self._take_link()
            is_free = False
            try:
                cancellation.hold(link)
                yield from sending.run(link)
                is_free = True
            except HostLostError as lost:
                if cancellation.is_set:
                    return
                num_losses = num_losses + 1 if sending.num_back == num_before else 1
                if num_losses > (MAX_RENEWALS if isinstance(lost, RenewedError) else MAX_LOSSES):
                    raise HostError(
                        f"environment {self.definition.name!r} lost its host {num_losses} times in a row "
                        f"without a result - see `grainwise env ls` - {lost}"
                    ) from lost
                self.close()  # others are of the same host
                continue
            finally:
                cancellation.hold(None)
                if is_free and not cancellation.is_set:
                    self._give_link(link)
                else:
                    link.close()
            return


class _Start:
    """What a map asks for, in the form of the wire."""

    def __init__(
        self,
        function: Callable[..., Any],
        retries: int,
        timeout_s: float | None,
        concurrency: int | None,
        *,
        is_starred: bool,
    ) -> None:
        if not callable(function):
            raise TypeError(f"map() expected a function, got {type(function).__name__}")
        bound = 1 if concurrency is None else concurrency
        for name, number, least in (("retries", retries, 0), ("concurrency", bound, 1)):
            if isinstance(number, bool) or not isinstance(number, int):
                raise TypeError(f"map({name}=...) expected an int, got {type(number).__name__}")
            if number < least:
                raise ValueError(f"map({name}={number}) expected at least {least}")
        if timeout_s is not None and not timeout_s > 0:
            raise ValueError(f"map(timeout_s={timeout_s}) expected more than 0 seconds")
        self.retries = retries
        self.timeout_s = timeout_s
        self.concurrency = concurrency
        self.is_starred = is_starred
        name = str(getattr(function, "__qualname__", None) or type(function).__name__)
        self.name = name.replace("<locals>.", "")
        self.entry = encode_or_name(function, what="the function", name="function", function_name=self.name)
        digest = hashlib.blake2b(digest_size=32)
        if isinstance(self.entry, Parcel):
            digest.update(self.entry.stream)
            for buffer in self.entry.buffers:
                digest.update(buffer)
        else:
            digest.update(self.entry)
        self.digest = digest.digest()

    def frame(self) -> bytes:
        """Return the payload of START."""
        form = START_FORM.pack(
            self.digest, self.retries, self.timeout_s or 0.0, self.concurrency or 0, self.is_starred
        )
        return form + self.name.encode("utf-8", "replace")


class _Sending:
    """The elements of a map on their way: what is out, what has come back.

    Attributes:
        num_back: elements whose outcome has been handed on.
    """

    def __init__(self, start: _Start, items: Iterator[Any]) -> None:
        self._start = start
        self._items = items
        self._is_exhausted = False
        self._is_foreign = False  # the host has another version of Python
        self._out: deque[list[Any]] = deque()
        self._num_first = 0  # results of the first frame in `_out` that have come
        self.num_back = 0

    def run(self, link: Link) -> Iterator[list[Outcome]]:
        """Send elements to a host and yield their outcomes, as many at once as have come.

        Raises:
            HostLostError: it is gone, or leaves.
        """
        self._is_foreign = link.python != tuple(sys.version_info[:2])
        start = self._begin(link)
        credit = FRAMES_AHEAD
        if self._out or self._is_exhausted:
            link.send(start)
            is_last_sent = self._send_again(link)
        else:
            is_last_sent = self._send_next(link, start.data)
            credit -= 1
        while True:
            if credit > 0 and not is_last_sent and not link.is_readable():
                is_last_sent = self._send_next(link)
                credit -= 1
                continue
            frame = link.read()
            if frame.kind == RESULTS:
                yield self._outcomes(frame.value())
            elif frame.kind == CREDIT:
                credit += frame.number
            elif frame.kind == DONE:
                return
            elif frame.kind == UNKNOWN:
                link.known.discard(self._start.digest)
                raise RenewedError("the host has forgotten the function")
            elif frame.kind == RENEWED:
                raise RenewedError("the host made way for another one")
            elif frame.kind == STOPPED:
                raise HostError("the environment was stopped while a map was under way")
            elif frame.kind == REFUSED:
                outcome_of(frame.value(), 0).result()
            else:
                raise HostError(f"the host sent a frame of kind {frame.kind}, which is not expected here")

    def _begin(self, link: Link) -> Outgoing:
        """Send the function if the host does not have it; return what begins the map."""
        start = self._start
        if self._is_foreign and _is_by_value(start.entry):
            raise HostError(
                f"{start.name!r} travels by value, which needs one version of Python on both sides, got "
                f"{'.'.join(map(str, link.python))} in the environment and {sys.version_info[0]}."
                f"{sys.version_info[1]} here - put it into a module that can be imported"
            )
        if start.digest not in link.known:
            link.send(values_frame(FUNCTION, (start.digest, start.entry)))
            link.known.add(start.digest)
        return control_frame(START, start.frame())

    def _send_next(self, link: Link, before: bytes = b"") -> bool:
        """Send more elements behind what begins the map, if so; say whether they are the last."""
        entries = self._read()
        self._out.append(entries)
        frame = values_frame(ITEMS, entries, LAST if self._is_exhausted else 0)
        if frame.fd < 0:
            frame.data = before + frame.data
        elif before:
            link.send(Outgoing(before))
        link.send(frame)
        return self._is_exhausted

    def _send_again(self, link: Link) -> bool:
        """Send what another host has not given back."""
        if self._out and self._num_first:
            self._out[0] = self._out[0][self._num_first :]
            self._num_first = 0
        frames = list(self._out)
        for number, entries in enumerate(frames, 1):
            is_last = self._is_exhausted and number == len(frames)
            link.send(values_frame(ITEMS, entries, LAST if is_last else 0))
        return self._is_exhausted and bool(frames)

    def _outcomes(self, entries: list[Any]) -> list[Outcome]:
        outcomes = [outcome_of(entry, index) for index, entry in enumerate(entries, self.num_back)]
        for _ in outcomes:
            self._count_back()
        return outcomes

    def _count_back(self) -> None:
        self.num_back += 1
        self._num_first += 1
        if self._num_first == len(self._out[0]):
            self._out.popleft()
            self._num_first = 0
            while self._out and not self._out[0]:
                self._out.popleft()

    def _read(self) -> list[Any]:
        """Return the next elements, ready to be sent; notes whether they are the last."""
        entries: list[Any] = []
        nbytes, deadline = 0, perf_counter() + READ_S
        for item in self._items:
            try:
                entry = encode(item)
                if self._is_foreign and _is_by_value(entry):
                    raise TypeError("a class or function by value is no use to another version of Python")
            except Exception as error:
                entry = self._unsendable(item, error)
            entries.append(entry)
            if entry.__class__ is bytes:
                nbytes += len(entry)
            elif entry.__class__ is Parcel:
                nbytes += entry.nbytes
            if len(entries) >= FRAME_ITEMS or nbytes >= FRAME_BYTES or perf_counter() > deadline:
                return entries
        self._is_exhausted = True
        return entries

    def _unsendable(self, item: Any, error: Exception) -> Any:
        """Return what stands for an element that can't be pickled: it fails, in its turn."""
        try:
            encode_or_name(item, what="an element", name="item", function_name=self._start.name)
        except Exception as named:
            error = named
        return failure_of(error, self._start.name, 1)


def _is_by_value(entry: Any) -> bool:
    """Say whether a pickle holds code, which other versions of Python can't run."""
    stream = entry.stream if entry.__class__ is Parcel else entry
    return stream.__class__ is bytes and b"cloudpickle" in stream


def _one_by_one(arrivals: Generator[list[Outcome], None, None]) -> Iterator[Outcome]:
    try:
        for outcomes in arrivals:
            yield from outcomes
    finally:
        arrivals.close()


def _map_inside(
    start: _Start, function: Callable[..., Any], items: Iterable[Any]
) -> Generator[list[Outcome], None, None]:
    """Run a map in the pool that this process is a replica of."""
    from ...api.map import map as engine_map
    from .inside.replica import Inside

    results = engine_map(
        Inside(function, start.name, start.retries, start.is_starred),
        items,
        return_exceptions=True,
        retries=max(1, start.retries),
        timeout=start.timeout_s,
        max_workers=start.concurrency,
    )
    with results:
        for index, entry in enumerate(results):
            if isinstance(entry, BaseException):
                text, pid = str(getattr(entry, "traceback_text", "")), getattr(entry, "pid", None)
                yield [Outcome(index, None, entry, text, 1 + max(1, start.retries), pid)]
            else:
                yield [outcome_of(entry, index)]
