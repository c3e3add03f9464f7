"""Tasks that start tasks: an integral whose halves are tasks of their own, until they are exact enough.

What the manuals advise: nest tasks only down to a size that is worth one, and do what is smaller in place; a
tree of small tasks costs more than its work.

What happens here: a task that waits for children of its own runs them itself where they have not begun,
without a message, so the tree may go all the way down. What is passed down is copied at each level, though: a
sort that hands its halves on as lists is better off with few levels.
"""

import math

from side_by_side import compare, size

import grainwise as ray

TOLERANCE = size(1e-8, 1e-4)
POINTS = 1_000
LEVELS = 4


def area(begin, end):
    """Return the area below a wave that gets narrower and narrower, by the trapezoidal rule."""
    step = (end - begin) / POINTS
    inner = sum(math.sin(1 / (begin + step * number)) for number in range(1, POINTS))
    return step * (inner + (math.sin(1 / begin) + math.sin(1 / end)) / 2)


def integrate(begin, end, whole, levels, both):
    """Return the integral; `both` integrates the halves where the whole is not exact enough."""
    middle = (begin + end) / 2
    first, second = area(begin, middle), area(middle, end)
    if abs(first + second - whole) < TOLERANCE * (end - begin):
        return first + second
    return sum(both((begin, middle, first, levels - 1), (middle, end, second, levels - 1)))


@ray.remote
def by_tasks(begin, end, whole, levels):
    """Integrate; the halves by two tasks while there are levels left, then here."""

    def both(*halves):
        if levels > 0:
            return ray.get([by_tasks.remote(*half) for half in halves])
        return [here(*half) for half in halves]

    return integrate(begin, end, whole, levels, both)


def here(begin, end, whole, levels):
    """Integrate in this process."""
    return integrate(begin, end, whole, levels, lambda *halves: [here(*half) for half in halves])


def naive():
    """Start tasks all the way down."""
    return ray.get(by_tasks.remote(0.01, 1.0, area(0.01, 1.0), 1_000))


def recommended():
    """Start tasks down to a few levels."""
    return ray.get(by_tasks.remote(0.01, 1.0, area(0.01, 1.0), LEVELS))


compare(naive, recommended)
