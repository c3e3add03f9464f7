"""Results that are made one after the other: the rows of a picture, by a generator.

What the manuals advise: where a task has many large results, yield them. A list of all of them must fit into
the memory of the worker, beside what is already stored.

What happens here: the same. What is yielded is stored, and can be read, while the next is made. The list is
as fast where it fits, and is gone from the worker's memory once it is stored.
"""

import numpy as np
from side_by_side import compare, size

import grainwise as ray

ROWS = size(40, 6)
PIXELS = size(250_000, 20_000)


def draw(number):
    """Return a row of waves."""
    return np.sin(np.arange(PIXELS) / (number + 1))


@ray.remote
def rows_in_a_list():
    """Return all rows."""
    return [draw(number) for number in range(ROWS)]


@ray.remote
def rows_one_by_one():
    """Yield the rows."""
    for number in range(ROWS):
        yield draw(number)


def naive():
    """Have a list of all."""
    refs = rows_in_a_list.options(num_returns=ROWS).remote()
    return [float(ray.get(ref).max()) for ref in refs]


def recommended():
    """Have one after the other, while the next is made."""
    return [float(ray.get(ref).max()) for ref in rows_one_by_one.remote()]


compare(naive, recommended)
