"""Memory of a child with all its descendants: system-wide shared memory plus their own share of the rest.

`Shmem` of `/proc/meminfo` counts every page of memfds, `/dev/shm` files and shared mappings once, mapped or
not; `Pss − Pss_Shmem` of each process adds what is private or shared by fork. Linux only: elsewhere
`can_measure()` is False and the row says so.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

MARKER = "GRAINS_BENCHMARK_CHILD"  # environment variable that all descendants of one child inherit


def can_measure() -> bool:
    return Path("/proc/self/smaps_rollup").exists()


def marked_pids(marker: str) -> list[int]:
    """Pids of all processes whose environment holds this child's marker; empty off Linux."""
    wanted = f"{MARKER}={marker}".encode()
    pids = []
    for entry in os.scandir("/proc") if os.path.isdir("/proc/self") else ():
        if entry.name.isdigit():
            try:
                environment = Path(entry.path, "environ").read_bytes()
            except OSError:  # it has just ended, or belongs to someone else
                continue
            if wanted in environment.split(b"\0"):
                pids.append(int(entry.name))
    return pids


def footprint_bytes(marker: str) -> int:
    """Shared memory of the whole system plus the proportional rest of the marked processes."""
    total = _fields(Path("/proc/meminfo"))["Shmem"]
    for pid in marked_pids(marker):
        try:
            fields = _fields(Path(f"/proc/{pid}/smaps_rollup"))
        except OSError:
            continue
        if "Pss" in fields:
            total += fields["Pss"] - fields.get("Pss_Shmem", 0)
    return total


def _fields(path: Path) -> dict[str, int]:
    """`Name:  123 kB` lines of a /proc file, in bytes."""
    fields = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB":
            fields[words[0].rstrip(":")] = int(words[1]) * 1024
    return fields


class Sampler:
    """Watch a child's footprint every 20 ms in a thread of the parent: `with Sampler(marker) as s`.

    Attributes:
        before_bytes: Footprint at the start.
        peak_bytes: Largest footprint seen.
    """

    PERIOD_S = 0.02

    def __init__(self, marker: str) -> None:
        self._marker = marker
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.before_bytes = self.peak_bytes = footprint_bytes(marker)

    def _watch(self) -> None:
        while not self._is_over.wait(self.PERIOD_S):
            self.peak_bytes = max(self.peak_bytes, footprint_bytes(self._marker))

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()
