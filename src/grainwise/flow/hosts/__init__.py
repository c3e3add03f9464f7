"""Reusable environments: pools of warm replicas that outlive the program that made them.

    program ──┐   unix socket in a 0700 folder    host (one process per environment)
              ├──────────────────────────────►  ┌───────────────────────────────────┐
    program ──┘   frames; large ones by memfd   │ one loop: sockets, time to live   │
                                                │ a thread per request: grainwise.map├──► replicas
                                                └───────────────────────────────────┘    (its workers)

Guarantees: two programs that start one environment at once get one host; a host that dies, or leaves as a
program calls, is replaced and what it owed is run again; a replica never serves another definition than the
caller's, nor modules that have been edited since it loaded them; only the same user can connect, and nothing
is unpickled before both sides have proved that they know the host's key.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .cached import actor_cache as actor_cache
    from .client import Host as Host
    from .client import find_or_start as find_or_start
    from .definition import Definition as Definition
    from .failures import HostError as HostError
    from .listing import HostStatus as HostStatus
    from .listing import list_hosts as list_hosts
    from .listing import stop as stop
    from .outcome import Outcome as Outcome

_WHERE = {
    "Definition": "definition",
    "Host": "client",
    "HostError": "failures",
    "HostStatus": "listing",
    "Outcome": "outcome",
    "actor_cache": "cached",
    "find_or_start": "client",
    "list_hosts": "listing",
    "stop": "listing",
}

__all__ = [
    "Definition",
    "Host",
    "HostError",
    "HostStatus",
    "Outcome",
    "actor_cache",
    "find_or_start",
    "list_hosts",
    "stop",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    where = _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{where}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
