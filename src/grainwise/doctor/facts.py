"""What this machine offers that the engine makes use of, or has to do without."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from ..config import available_cpus, available_memory_bytes, resolve
from ..engine.wire.claims import register_for_barriers
from ..objects.writewatch import WriteWatch

if TYPE_CHECKING:
    from ..config import Settings

BUSY = 0.5
"""Load per CPU from which measurements are doubtful."""


def find_facts() -> list[tuple[str, str]]:
    """Return (what, how it is here) in the order in which they are shown."""
    settings = resolve()
    return [
        ("grainwise", _version()),
        ("Python", f"{platform.python_implementation()} {platform.python_version()} at {sys.executable}"),
        ("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        ("CPUs", _cpus(settings)),
        ("memory", f"{_gigabytes(available_memory_bytes())}; {_gigabytes(_total_bytes())} in the machine"),
        ("object store", _store(settings)),
        ("taking tasks back", _take_back(settings)),
        ("unchanged arguments", _write_watch()),
        ("batches", "as large as is good" if not settings.batching else f"of {settings.batching} tasks"),
        ("variables", _variables()),
        ("load", _load()),
    ]


def is_busy() -> bool:
    """Say whether other programs have kept the CPUs busy during the last minute."""
    return os.getloadavg()[0] > BUSY * available_cpus()


def _version() -> str:
    try:
        return version("grainwise")
    except PackageNotFoundError:
        return "from its source tree"


def _cpus(settings: Settings) -> str:
    text = f"{available_cpus()} for this process, {os.cpu_count() or 1} in the machine"
    if settings.num_cpus != available_cpus():
        text += f"; num_cpus={settings.num_cpus:g} is set"
    return text


def _store(settings: Settings) -> str:
    spill = settings.spill_directory
    where = "raises ObjectStoreFullError beyond" if spill is None else f"spills to {spill} beyond"
    return f"{_gigabytes(settings.object_store_memory_bytes)} of shared memory; {where}"


def _take_back(settings: Settings) -> str:
    if settings.take_back == "locks":
        return "by locks, as GRAINWISE_TAKE_BACK says"
    if register_for_barriers():
        return "by barriers (membarrier): workers pay nothing for it"
    return "by locks: this system has no membarrier; two system calls for each 200 µs of work"


def _write_watch() -> str:
    watch = WriteWatch()
    try:
        is_there = watch.probe()
    finally:
        watch.close()
    if is_there:
        return "recognised without reading them (userfaultfd)"
    return "compared byte by byte: no userfaultfd in asynchronous mode here (Linux 6.7 and later have it)"


def _variables() -> str:
    found = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("GRAINWISE_")]
    return ", ".join(found) or "none set"


def _load() -> str:
    loads = ", ".join(f"{load:.2f}" for load in os.getloadavg())
    return f"{loads} (1, 5, 15 minutes)"


def _total_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB"
