"""Tasks of environments that the tests run in replicas; replicas import them by their module's name."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from grainwise.flow import ActorEnvironment, Cache, Resources, actor_cache, map_task, task, workflow
from tests.flow.hosted_functions import First, OwnError

env = ActorEnvironment(
    name="shared", replica_count=2, ttl_seconds=60, environment={"GREETING": "hello"},
    limits=Resources(mem="1Gi"),
)  # fmt: skip
single = ActorEnvironment(name="single", ttl_seconds=60)


@env.on_enter
def greet() -> None:
    os.environ["ENTERED"] = os.environ["GREETING"] + str(os.getpid())


@actor_cache
def load(name: str) -> str:
    return f"{os.getpid()} {time.time()}"


@env.task
def where(x: int) -> int:
    return os.getpid()


@env.task
def entered(x: int) -> str:
    return os.environ["ENTERED"]


@env.task
def loaded(name: str) -> str:
    return load(name)


@env.task
def double(x: int) -> int:
    return 2 * x


@env.task
def add(x: int, y: int, scale: float = 1.0) -> float:
    return scale * (x + y)


class Both(NamedTuple):
    n: int
    text: str


@env.task
def both(x: int) -> Both:
    return Both(x, str(x))


@env.task
def wrong(x: int) -> int:
    return str(x)  # type: ignore[return-value]


@env.task
def refuse_odd(x: int) -> int:
    if x % 2:
        raise OwnError(f"{x} is odd", code=x)
    return x


@env.task(retries=3)
def third_time(folder: str, x: int) -> int:
    """Succeed at the third attempt for each element."""
    attempt = 1
    while not First(f"{folder}/{x}-{attempt}").__enter__():
        attempt += 1
    if attempt < 3:
        raise ValueError(f"attempt {attempt}")
    return attempt


@env.task
def die_once(path: str) -> int:
    with First(path) as is_first:
        if is_first:
            os.kill(os.getpid(), 9)
    return os.getpid()


@env.task(cache=Cache(version="1"))
def counted(folder: str, x: int) -> int:
    with open(f"{folder}/runs", "a") as file:
        file.write("x")
    return 2 * x


@env.task(environment={"OWN": "mine"}, limits=Resources(mem="64Mi"))
def limited(nbytes: int) -> str:
    return os.environ["OWN"] + os.environ["GREETING"] + str(len(bytearray(nbytes)))


@single.task
def run_for_ever(path: str) -> int:
    Path(path).touch()
    try:
        while Path(path).exists():
            time.sleep(0.005)
    finally:
        Path(path + ".interrupted").touch()
    return 0


@single.task(timeout=0.2)
def too_slow(path: str) -> int:
    Path(path).touch()
    while Path(path).exists():
        time.sleep(0.005)
    return 0


@single.task
def alone(x: int) -> int:
    return x + 1


@single.task
def parent(n: int) -> int:
    """Sit in the only replica and run tasks of the same environment."""
    return sum(map_task(alone)(x=list(range(n)))) + few(n=n)


@workflow
def few(n: int) -> int:
    return alone(x=n)


@env.task
def meet_two(folder: str, x: int) -> int:
    """Wait until two run at once; return how many do."""
    Path(folder, f"in-{x}").touch()
    deadline = time.monotonic() + 20
    n_met = 0
    while n_met < 2 and time.monotonic() < deadline:
        n_met = len(list(Path(folder).glob("in-*")))
        time.sleep(0.001)
    return n_met


@env.task
def meet_in(folder: str, x: int) -> int:
    """Return how many run at once."""
    mine = Path(folder, f"now-{x}-{os.getpid()}")
    mine.touch()
    time.sleep(0.002)
    n_met = len(list(Path(folder).glob("now-*")))
    mine.unlink()
    return n_met


@dataclass
class Point:
    x: int
    y: float


@env.task
def shift(point: Point) -> Point:
    return Point(point.x + 1, point.y)


@task
def plus_one(x: int) -> int:
    return x + 1


@task
def python_version(x: int) -> str:
    return f"{sys.version_info[0]}.{sys.version_info[1]}"
