"""Which dependent tasks join the batch of the tasks that they depend on.

A chain of tiny tasks that pays a round trip for each edge is hundreds of times slower than its work. Behind a
task whose only dependent it is, a task loses nothing by running on the same worker: a chain has no
parallelism. Where tasks fan out, the batch's fair share limits how many of them stay together, unless what
would break off is not worth a message.

    a ─► b ─► c          one batch: a b c
    a ─┐
    b ─┴► c ─► d         one batch: a b c d, if a and b are in it
    a ─┬► b1 .. b99      a and as many of the b as a fair share holds
    a ─┬► b1 .. b9 ─► c  all of them, if few of the b are beyond the share
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from typing import TypeVar

    Task = TypeVar("Task", bound=Hashable)


EPSILON = 1e-9


def may_share(cpus: float, batch_cpus: float) -> bool:
    """Say whether a task that needs `cpus` may run in the place of one that occupies `batch_cpus`."""
    return cpus <= batch_cpus + EPSILON and (cpus > 0) == (batch_cpus > 0)


def find_followers(
    tasks: Sequence[Task],
    dependents: Callable[[Task], Iterable[Task]],
    num_missing: Callable[[Task], int],
    key_of: Callable[[Task], tuple[Hashable, float]],
    room_for: Callable[[Hashable], tuple[float | None, int]],
    batch_cpus: float,
    chain_s: float,
    share_s: float,
    crumbs_s: float,
) -> list[Task]:
    """Return the tasks that run behind `tasks` in one batch, each behind all that it needs.

    Args:
        tasks: what the batch holds already.
        dependents: tasks that wait for a task; each is given once for each task that it waits for.
        num_missing: how many tasks a task waits for.
        key_of: a task's key and its CPUs.
        room_for: a key's estimated cost in seconds (None if unknown) and how many of it a batch may hold.
        batch_cpus: what the batch occupies; who needs more can't follow.
        chain_s: estimated time that the batch has left for followers without siblings.
        share_s: the same for those with siblings, which other workers might take.
        crumbs_s: if all siblings beyond that take no longer, they are not worth a batch of their own: they
            stay, so that who waits for all of them waits for no message. A batch takes so much at most.
    """
    followers: list[Task] = []
    inside: dict[Task, int] = {}
    counts: dict[Hashable, int] = {}
    spent_s = 0.0
    fresh = list(tasks)
    while fresh:
        crumbs: list[tuple[Task, Hashable, float]] = []
        rest_s = 0.0
        for task in fresh:  # grows as it goes
            found = list(dependents(task))
            left_s = chain_s if len(found) == 1 else share_s
            for each in found:
                there = inside[each] = inside.get(each, 0) + 1
                if there < num_missing(each):
                    continue
                name, cpus = key_of(each)
                if not may_share(cpus, batch_cpus):
                    continue
                mean_s, most = room_for(name)
                count = counts.get(name, 0)
                if count >= most:
                    continue
                if spent_s + (mean_s or 0.0) > left_s:
                    if mean_s is not None and len(found) > 1:
                        rest_s += mean_s
                        if rest_s <= crumbs_s:
                            crumbs.append((each, name, mean_s))
                    continue
                counts[name] = count + 1
                spent_s += mean_s or 0.0
                fresh.append(each)
                followers.append(each)
        if not crumbs or rest_s > crumbs_s or spent_s + rest_s > chain_s:
            break
        crumbs_s -= rest_s
        fresh = []
        for each, name, mean_s in crumbs:
            if counts.get(name, 0) < room_for(name)[1]:
                counts[name] = counts.get(name, 0) + 1
                spent_s += mean_s
                fresh.append(each)
        followers += fresh
    return followers
