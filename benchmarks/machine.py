"""What the figures were measured on: the header of every table."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

LIBRARIES = (
    "grainwise", "cloudpickle", "numpy", "scikit-learn", "pillow",
    "ray", "joblib", "dask", "distributed", "mpire",
)  # fmt: skip


def n_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def describe(program: str = "benchmarks") -> dict[str, Any]:
    """Machine, interpreter and library versions, in the order in which they are shown."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "CPUs": f"{n_cpus()} × {_cpu_model()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "libraries": ", ".join(f"{name} {_version(name)}" for name in LIBRARIES),
        "command": " ".join(["python -m", program, *sys.argv[1:]]),
        "load average before": load_average(),
    }


def is_busy() -> bool:
    """Whether something else has kept a good part of a CPU busy for the last minute."""
    return os.getloadavg()[0] > 0.5


def load_average() -> str:
    return " ".join(f"{load:.2f}" for load in os.getloadavg())


def cpu_ticks() -> tuple[int, int]:
    """(busy or idle, stolen) clock ticks since boot of all CPUs; zeros off Linux."""
    path = Path("/proc/stat")
    if not path.exists():
        return 0, 0
    ticks = [int(word) for word in path.read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks), ticks[7]


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed" if importlib.util.find_spec(distribution) is None else "from its source tree"
