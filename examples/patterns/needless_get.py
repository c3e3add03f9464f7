"""`get` of a result that is only passed on: a table that one task makes and the next ones read.

What the manuals advise: pass the ref. `get` brings the table into the program, and passing it stores it once
more for each call.

What happens here: `get` maps the table, without a copy, and the call finds that it is stored already.
"""

import numpy as np
from side_by_side import compare, size

import grainwise as ray

ROWS = size(4_000_000, 50_000)


@ray.remote
def make():
    """Make a large table of random numbers."""
    return np.random.default_rng(3).random(ROWS)


@ray.remote
def power_sum(table, power):
    """Add up a power of all numbers."""
    return float((table**power).sum())


def naive():
    """Get the table, pass the table."""
    table = ray.get(make.remote())
    return ray.get([power_sum.remote(table, power) for power in range(1, 9)])


def recommended():
    """Pass the ref."""
    table = make.remote()
    return ray.get([power_sum.remote(table, power) for power in range(1, 9)])


compare(naive, recommended)
