"""A limit on the tasks that run at once: sorts that need much memory each.

What the manuals advise: a task counts as one CPU, and as many run as there are CPUs. Where that is too many,
because each takes much memory, let each ask for a part of a resource, of which there is so much in all: fewer
run at once.

What happens here: the same. How much memory a task is going to take can't be known before it runs, so the
naive form is as fast and takes as much more memory as more tasks run at once; the limit is for when that is
too much.
"""

import time

import numpy as np
from side_by_side import compare, size

import grainwise as ray

NUMBERS = size(400_000, 50_000)
TASKS = size(6, 4)


@ray.remote
def middle(seed):
    """Sort many numbers; return the one in the middle, and when that began and ended."""
    begin = time.time()
    numbers = np.sort(np.random.default_rng(seed).random(NUMBERS))
    return float(numbers[NUMBERS // 2]), (begin, time.time())


def naive():
    """As many at once as there are CPUs."""
    return ray.get([middle.remote(seed) for seed in range(TASKS)])


def recommended():
    """Each asks for the only one of what the session has: one at a time."""
    return ray.get([middle.options(resources={"large": 1}).remote(seed) for seed in range(TASKS)])


def is_same_one_by_one(found, expected):
    """Say whether the results are the same, and the limited tasks ran one after the other."""
    times = sorted(spent for _, spent in expected)
    assert all(end <= begin for (_, end), (begin, _) in zip(times, times[1:]))  # noqa: RUF007 - from 3.10 on
    return [result for result, _ in found] == [result for result, _ in expected]


compare(naive, recommended, is_same_one_by_one, resources={"large": 1})
