"""A task for every element: the number of steps that the Collatz rule takes from each number to 1.

What the manuals advise: put a thousand elements into a task by hand. A task of microseconds costs more to
send than to run.

What happens here: the loop is batched by measured cost.
"""

from side_by_side import compare, size

import grainwise as ray

NUMBERS = range(1, size(30_000, 2_000))
BATCH = 1_000


def steps(number):
    """Count the steps to 1."""
    count = 0
    while number != 1:
        number = 3 * number + 1 if number % 2 else number // 2
        count += 1
    return count


@ray.remote
def steps_of_one(number):
    """Count the steps from one number."""
    return steps(number)


@ray.remote
def steps_of_many(numbers):
    """Count the steps from many numbers."""
    return [steps(number) for number in numbers]


def naive():
    """A task for every number."""
    return ray.get([steps_of_one.remote(number) for number in NUMBERS])


def recommended():
    """Batches by hand."""
    batches = [NUMBERS[first : first + BATCH] for first in range(0, len(NUMBERS), BATCH)]
    counts = ray.get([steps_of_many.remote(batch) for batch in batches])
    return [count for each in counts for count in each]


compare(naive, recommended)
