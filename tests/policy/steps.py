"""What tests of single rules do with a policy, in one word each."""

from __future__ import annotations

from collections.abc import Hashable

from grainwise.grain.policy import Policy, Send, TakeBack

MS = 1e-3
US = 1e-6


def sends_of(sends: list[Send]) -> list[tuple[int, Hashable, int]]:
    return [(send.worker, key, count) for send in sends for key, count in send.parts]


def takes_of(takes: list[TakeBack]) -> list[tuple[int, int]]:
    return [(take.worker, take.count) for take in takes]


def finish(
    policy: Policy, worker: int, key: Hashable, count: int, mean_s: float, *, is_end: bool = True
) -> None:
    policy.finished(worker, key, count, count, count * mean_s, mean_s)
    if is_end:
        policy.ended(worker)


def finish_all(policy: Policy, send: Send, mean_s: float) -> None:
    """Report the parts of a batch and its end."""
    for key, count in send.parts:
        finish(policy, send.worker, key, count, mean_s, is_end=False)
    policy.ended(send.worker)


def teach(policy: Policy, key: Hashable, mean_s: float, cpus: float = 1.0, largest_batch: int = 1000) -> None:
    """Have a worker run tasks of a key, until the estimate is settled."""
    for _ in range(6):
        policy.ready(key, 1, cpus)
        (send,) = policy.dispatch(waiting=True)
        policy.estimates.learn(key, largest_batch, largest_batch * mean_s, mean_s)
        finish(policy, send.worker, key, 1, mean_s)


def start(policy: Policy, key: Hashable, count: int, cpus: float = 1.0) -> list[tuple[int, Hashable, int]]:
    policy.ready(key, count, cpus)
    return sends_of(policy.dispatch(waiting=True))
