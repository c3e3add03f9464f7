"""F5: one tiny task, from the call to its result in hand.

`blocking` sleeps 10 ms before each call, so that nobody spins any more and both sides must be woken up;
`back to back` makes one call after another. Both limits are a socket pair between two bare processes: for
`blocking` both sides block in `recv`; for `back to back` both spin (yielding the CPU) for up to 50 µs first.

Goal: at most 0.08 ms blocking, at most 0.02 ms back to back when CPUs are free.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples

PAUSE_S = 0.010
SERIES_S, QUICK_SERIES_S = (
    1.5,
    0.6,
)  # a series ends at this time or at its number of calls, whichever is first
OURS = "grainwise: get(task.remote(x))"


def double(x: int) -> int:
    return 2 * x


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    """Two series of round trips; their medians and 99th percentiles."""
    duration_s = QUICK_SERIES_S if bench.is_quick else SERIES_S
    blocking = series(run, check, n_calls=100, pause_s=PAUSE_S, duration_s=duration_s)
    spinning = series(run, check, n_calls=2000, pause_s=0.0, duration_s=duration_s)
    return {
        "blocking": [statistics.median(blocking)],
        "back to back": [statistics.median(spinning)],
        "blocking p99": [percentile_99(blocking)],
        "back to back p99": [percentile_99(spinning)],
    }


def series(
    run: Run, check: Callable[[Any], None], n_calls: int, pause_s: float, duration_s: float
) -> list[float]:
    for _ in range(3):
        check(run())
    times = []
    deadline = time.perf_counter() + duration_s
    while len(times) < n_calls and time.perf_counter() < deadline:
        if pause_s:
            time.sleep(pause_s)
        start = time.perf_counter()
        result = run()
        times.append(time.perf_counter() - start)
        check(result)
    return times


def percentile_99(times: list[float]) -> float:
    return sorted(times)[int(0.99 * (len(times) - 1))]


def check(result: int) -> None:
    assert result == 42, "wrong result"


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.at_most("≤ 0.08 ms blocking", OURS, 80e-6, "blocking"),
        figures.at_most("≤ 0.02 ms back to back", OURS, 20e-6, "back to back"),
    ]


ROW = Row(
    id="F5",
    title="one task, round trip",
    reference=OURS,
    rounds=4,
    quick_rounds=1,
    units={
        "blocking": "us",
        "back to back": "us",
        "blocking p99": "us",
        "back to back p99": "us",
    },
    check=check,
    measure=measure,
    judge=judge,
)


def _echo_form(spin_s: float) -> Callable[[Bench], Run]:
    def set_up(bench: Bench) -> Run:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _echo(theirs, spin_s)
            os._exit(0)
        theirs.close()
        bench.closing.callback(os.waitpid, pid, 0)
        bench.closing.callback(ours.close)
        ours.setblocking(spin_s == 0)

        def run() -> int:
            ours.send(b"\x15")
            return _receive(ours, spin_s)[0]

        return run

    return set_up


def _echo(peer: socket.socket, spin_s: float) -> None:
    """Double the byte that comes in, until end of file."""
    peer.setblocking(spin_s == 0)
    while data := _receive(peer, spin_s):
        peer.send(bytes([2 * data[0]]))


def _receive(peer: socket.socket, spin_s: float) -> bytes:
    """Receive from a socket: try for `spin_s` seconds, yielding the CPU in between, then block."""
    if spin_s == 0:
        return peer.recv(1)
    deadline = time.perf_counter() + spin_s
    while time.perf_counter() < deadline:
        try:
            return peer.recv(1)
        except BlockingIOError:
            os.sched_yield()
    peer.setblocking(True)
    try:
        return peer.recv(1)
    finally:
        peer.setblocking(False)


ROW.form("limit", "socket pair, blocking", kind="limit")(_echo_form(0))
ROW.form("limit", "socket pair, spin 50 µs then block", kind="limit")(_echo_form(50e-6))


@ROW.form("grainwise", "get(task.remote(x))", kind="ours")
def _(bench: Bench) -> Run:
    grainwise = bench.system
    task = grainwise.remote(double)
    return lambda: grainwise.get(task.remote(21))


@ROW.form("pool", "apply", kind="tuned")
def _(bench: Bench) -> Run:
    return lambda: bench.system.apply(double, (21,))


@ROW.form("executor", "submit().result()", kind="tuned")
def _(bench: Bench) -> Run:
    return lambda: bench.system.submit(double, 21).result()


@ROW.form("ray", "get(task.remote(x))", kind="tuned", quick_rounds=0)
def _(bench: Bench) -> Run:
    ray = bench.system
    task = ray.remote(double)
    return lambda: ray.get(task.remote(21))


@ROW.form("joblib", "one delayed call", kind="tuned")
def _(bench: Bench) -> Run:
    from joblib import delayed

    return lambda: bench.system()([delayed(double)(21)])[0]


@ROW.form("dask", "compute one delayed", kind="tuned")
def _(bench: Bench) -> Run:
    from dask import delayed

    task = delayed(double)
    return lambda: bench.system(task(21))[0]


@ROW.form("distributed", "submit().result()", kind="tuned")
def _(bench: Bench) -> Run:
    return lambda: bench.system.submit(double, 21, pure=False).result()


@ROW.form("mpire", "apply", kind="tuned")
def _(bench: Bench) -> Run:
    return lambda: bench.system.apply(double, (21,))
