"""What hosts there are, and how to end one: `grainwise env ls` and `stop`."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

from .failures import HostError
from .places import Place, fingerprints
from .starting import Link, greet
from .wire import REPORT, STATUS, STOP, control_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ANSWER_LIMIT_S = 5.0
STOP_LIMIT_S = 20.0


@dataclass(frozen=True)
class HostStatus:
    """A host that runs.

    Attributes:
        name: of its environment.
        fingerprint: of its definition; two of one name differ in it.
        pid: its process.
        replicas: processes that have served.
        num_clients: programs that are connected.
        num_busy: maps and calls under way.
        idle_s: seconds since the last one ended; 0 while there are any.
        ttl_s: it ends when it has been idle so long.
        began_s: when it was started, in seconds since the epoch.
        memory_bytes: what it and its replicas have in memory; pages that they share are counted for each.
    """

    name: str
    fingerprint: str
    pid: int
    replicas: tuple[int, ...]
    num_clients: int
    num_busy: int
    idle_s: float
    ttl_s: float
    began_s: float
    memory_bytes: int


def list_hosts() -> list[HostStatus]:
    """Return all hosts of this user that answer, by name; forget what dead ones have left."""
    found = []
    for fingerprint in fingerprints():
        place = Place(fingerprint)
        link = _reach(place)
        if link is not None:
            try:
                found.append(_ask(link))
            except (HostError, OSError):
                continue
            finally:
                link.close()
    return sorted(found, key=lambda status: (status.name, status.fingerprint))


def show_hosts(hosts: list[HostStatus]) -> list[str]:
    """Return hosts as lines of a table."""
    if not hosts:
        return ["No environment is warm."]
    rows: list[tuple[str, ...]] = [
        ("NAME", "FINGERPRINT", "PID", "REPLICAS", "CLIENTS", "BUSY", "IDLE", "TTL", "MEMORY")
    ]
    for each in hosts:
        numbers = (each.pid, len(each.replicas), each.num_clients, each.num_busy)
        times = (f"{each.idle_s:.0f} s", f"{each.ttl_s:g} s", f"{each.memory_bytes / 1e6:.0f} MB")
        rows.append((each.name, each.fingerprint, *map(str, numbers), *times))
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def stop(name: str) -> list[HostStatus]:
    """End the hosts of an environment, by its name or fingerprint; maps under way fail with `HostError`.

    Returns:
        Those that were ended.

    Raises:
        HostError: one of them does not end; says which process.
    """
    stopped = []
    for status in list_hosts():
        if name not in (status.name, status.fingerprint):
            continue
        link = _reach(Place(status.fingerprint))
        if link is None:
            continue
        try:
            link.set_timeout(STOP_LIMIT_S)
            link.send(control_frame(STOP))
            _wait_for_end(link, status)
        finally:
            link.close()
        stopped.append(status)
    return stopped


def _reach(place: Place) -> Link | None:
    try:
        link = greet(place, ANSWER_LIMIT_S)
        if link is None:
            with place.locked(0):
                if (link := greet(place, ANSWER_LIMIT_S)) is None:
                    place.remove()
    except (HostError, BlockingIOError):
        return None
    return link


def _ask(link: Link) -> HostStatus:
    link.set_timeout(ANSWER_LIMIT_S)
    link.send(control_frame(STATUS))
    frame = link.read()
    if frame.kind != REPORT:
        raise HostError(f"the host {link.pid} does not say how it is")
    told: dict[str, Any] = json.loads(bytes(frame.payload))
    return HostStatus(**{**told, "replicas": tuple(told["replicas"])})


def _wait_for_end(link: Link, status: HostStatus) -> None:
    """Wait until the process is gone, not only its socket."""
    import select

    try:
        fd = os.pidfd_open(status.pid)
    except (AttributeError, OSError):
        fd = -1
    try:
        if fd >= 0:
            poller = select.poll()
            poller.register(fd, select.POLLIN)
            if not poller.poll(1000 * STOP_LIMIT_S):
                raise HostError(f"the host of {status.name!r}, process {status.pid}, does not end")
        else:
            while True:
                link.read()
    except HostError:
        if fd >= 0:
            raise
    finally:
        if fd >= 0:
            os.close(fd)
