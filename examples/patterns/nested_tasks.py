"""Tasks that start tasks: a quicksort whose halves are sorted by tasks of their own.

What the manuals advise: nest tasks only down to a size that is worth one, and sort what is smaller in place;
a tree of small tasks costs more than the sorting.

What happens here: a task that waits for children of its own runs them itself where they have not begun,
without a message. The tree may go down to lists of a thousand numbers.
"""

import random

from side_by_side import compare, size

import grainwise as ray

NUMBERS = random.Random(1).choices(range(10**9), k=size(200_000, 20_000))


def split(numbers):
    """Return the numbers below, equal to and above one of them."""
    pivot = sorted(numbers[:: max(1, len(numbers) // 9)])[4]
    return (
        [number for number in numbers if number < pivot],
        [number for number in numbers if number == pivot],
        [number for number in numbers if number > pivot],
    )


@ray.remote
def quicksort(numbers, smallest):
    """Sort; lists longer than `smallest` by two tasks."""
    if len(numbers) <= smallest:
        return sorted(numbers)
    below, equal, above = split(numbers)
    halves = ray.get([quicksort.remote(below, smallest), quicksort.remote(above, smallest)])
    return halves[0] + equal + halves[1]


def naive():
    """Start a task for every list of more than a thousand numbers."""
    return ray.get(quicksort.remote(NUMBERS, 1_000))


def recommended():
    """Start tasks only for lists that are worth one."""
    return ray.get(quicksort.remote(NUMBERS, len(NUMBERS) // 4))


compare(naive, recommended)
