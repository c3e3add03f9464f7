"""Signal handlers of the program's own that raise: a timeout by SIGALRM, an exit by SIGTERM.

Python runs them in the main thread between any two bytecodes, ours included. Whatever the engine was doing
then must be done, or not begun, when the exception has passed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grainwise as ray
from grainwise.engine.current import current

from .full_pool import LIMIT_S, assert_pool_is_full

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts on Linux's signals")


class Alarm(Exception):  # noqa: N818 -- it is a signal, not an error
    """What the program's handler raises."""


@pytest.fixture(autouse=True)
def _session() -> Iterator[None]:
    def ring(*_: object) -> None:
        raise Alarm

    # Not SIGALRM: the tests' own time limit needs it.
    previous = signal.signal(signal.SIGUSR1, ring)
    ray.init(num_cpus=2)
    yield
    ray.shutdown()
    signal.signal(signal.SIGUSR1, previous)


PLACES = {
    "taking tasks from their queue": "dispatcher.pop",
    "sending a batch": "dispatcher.send_batch",
    "writing to a worker": "dispatcher.post",
    "asking the policy": "dispatcher.policy.dispatch",
    "reading from a worker": "results.read",
    "handling a message": "results._on_message",
    "ending a batch": "results.end_batch",
    "starting a worker": "pool.start_worker",
}


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("place", PLACES)
def test_a_handler_that_raises_in_the_middle_of_ours(
    place: str, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal comes at a certain place; afterwards the very same refs get their values."""
    task = ray.remote(lambda x: 2 * x)
    if place != "starting a worker":
        assert_pool_is_full(tmp_path)
    *path, name = PLACES[place].split(".")
    owner: Any = functools.reduce(getattr, path, current())
    method = getattr(owner, name)
    rings = iter([True])

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if moment == "before" and next(rings, False):
            signal.raise_signal(signal.SIGUSR1)
        result = method(*args, **kwargs)
        if moment == "after" and next(rings, False):
            signal.raise_signal(signal.SIGUSR1)
        return result

    monkeypatch.setattr(owner, name, interrupted)
    refs = []
    alarms = 0
    for i in range(100):
        try:
            refs.append((i, task.remote(i)))
        except Alarm:
            alarms += 1
    for i, ref in refs:
        try:
            value = ray.get(ref, timeout=LIMIT_S)
        except Alarm:
            alarms += 1
            value = ray.get(ref, timeout=LIMIT_S)
        assert value == 2 * i
    assert alarms <= 1
    assert_pool_is_full(tmp_path)


@contextlib.contextmanager
def ringing_after(delay_s: float) -> Iterator[None]:
    """Send this process the signal after a while, as an interval timer does."""
    timer = threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        yield
    finally:
        timer.join()


def test_a_timeout_around_get(tmp_path: Path) -> None:
    """The way in which many programs wait at most so long."""
    never = ray.remote(lambda: threading.Event().wait()).remote()
    with pytest.raises(Alarm), ringing_after(0.1):
        ray.get(never)
    ray.cancel(never, force=True)
    assert_pool_is_full(tmp_path)


def test_alarms_at_any_moment(tmp_path: Path) -> None:
    """At 60 different moments of a busy loop; each time it works again afterwards."""
    task = ray.remote(lambda x: 2 * x)
    for k in range(60):
        with contextlib.suppress(Alarm), ringing_after(1e-4 * (1 + k % 30)):
            while True:
                ray.get([task.remote(i) for i in range(200)], timeout=LIMIT_S)
        values = ray.get([task.remote(i) for i in range(200)], timeout=LIMIT_S)
        assert values == [2 * i for i in range(200)]
    assert_pool_is_full(tmp_path)
