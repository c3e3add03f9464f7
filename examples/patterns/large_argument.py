"""The same large argument to many tasks, by value: rows of a distance table.

What the manuals advise: `put` it once and pass the ref. By value it is stored anew with each call.

What happens here: it is recognised as stored. Changing it between two calls is noticed, and stores the
changed one.
"""

import numpy as np
from side_by_side import compare, size

import grainwise as ray

POINTS = np.random.default_rng(4).random((size(300_000, 10_000), 8))
TASKS = 16


@ray.remote
def nearest(points, number):
    """Return which point lies nearest to one of them."""
    distances = np.abs(points - points[number]).sum(axis=1)
    distances[number] = np.inf
    return int(distances.argmin())


def naive():
    """Pass the table."""
    return ray.get([nearest.remote(POINTS, number) for number in range(TASKS)])


def recommended():
    """Put the table, pass the ref."""
    points = ray.put(POINTS)
    return ray.get([nearest.remote(points, number) for number in range(TASKS)])


compare(naive, recommended)
