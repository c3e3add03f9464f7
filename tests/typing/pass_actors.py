# pyright: strict
# mypy: ignore-errors
"""What a user's type checker must know of actors. Checked, never run.

mypy takes a decorated class for the class itself, whatever the decorator returns; what it can see is in
`pass_actor_calls.py`.
"""

from __future__ import annotations

from typing_extensions import assert_type

import grainwise as ray
from grainwise import ActorClass, ActorHandle, ActorMethod, get_actor, kill, method, remote


@remote
class Counter:
    def __init__(self, start: int = 0) -> None:
        self.n = start

    def incr(self, by: int = 1) -> int:
        self.n += by
        return self.n

    @method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return self.n, self.n


@remote(max_restarts=3, lifetime="detached", name="log", concurrency_groups={"io": 2})
class Log:
    async def write(self, text: str) -> None: ...


@remote(num_cpus=1)
class Heavy: ...


class Plain: ...


def use() -> None:
    counter = Counter.remote(3)
    assert_type(counter.incr, ActorMethod)
    ray.get(counter.incr.remote(2))
    counter.incr.options(num_returns=1).remote()
    Log.options(get_if_exists=True).remote()
    Heavy.remote()
    assert_type(remote(Plain), ActorClass[Plain])
    handle: ActorHandle[Plain] = remote(Plain).remote()
    kill(handle, no_restart=False)
    get_actor("log", namespace="x").write.remote("text")
