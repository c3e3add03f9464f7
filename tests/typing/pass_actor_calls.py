# pyright: strict
"""What every type checker must know of actors without the decorator of classes. Checked, never run."""

from __future__ import annotations

from typing_extensions import assert_type

import grainwise as ray
from grainwise import ActorClass, ActorHandle, ActorMethod, get_actor, kill, method, remote


class Counter:
    def incr(self, by: int = 1) -> int:
        return by

    @method(num_returns=2)
    def pair(self) -> tuple[int, int]:
        return 1, 2


def use() -> None:
    assert_type(Counter().pair(), tuple[int, int])
    assert_type(remote(Counter), ActorClass[Counter])
    handle: ActorHandle[Counter] = remote(Counter).remote()
    assert_type(handle.incr, ActorMethod)
    ray.get(handle.incr.options(num_returns=1).remote(2))
    kill(handle, no_restart=False)
    get_actor("log", namespace="x").write.remote("text")
