"""Reading results in the order of submission: integrals that take from a moment to some milliseconds.

What the manuals advise: use `wait` to read whatever is done. In the order of submission the program waits for
a slow task while others are ready, and works on their results later than it could.

What happens here: tasks begin in order, results come in while the program is busy with others, and reading
one that is there costs no message. So the loop seldom waits, and then not for long. Where one task takes as
long as all others, and comes first, `wait` is still the better form: the program itself says what it wants
first.
"""

import math
import random

from side_by_side import compare, size

import grainwise as ray

LENGTHS = random.Random(5).choices(range(200, size(20_000, 5_000)), k=size(100, 20))


@ray.remote
def integrate(number, steps):
    """Return the integral of a sine wave, by so many steps."""
    return number, sum(math.sin(number * step / steps) for step in range(steps)) / steps


def use(integral):
    """Take some time over a result."""
    return sum(math.cos(integral * step) for step in range(1_000))


def naive():
    """Read in the order of submission."""
    refs = [integrate.remote(number, steps) for number, steps in enumerate(LENGTHS)]
    return sorted((number, use(integral)) for number, integral in map(ray.get, refs))


def recommended():
    """Read what is done."""
    pending = [integrate.remote(number, steps) for number, steps in enumerate(LENGTHS)]
    used = []
    while pending:
        [done], pending = ray.wait(pending)
        number, integral = ray.get(done)
        used.append((number, use(integral)))
    return sorted(used)


compare(naive, recommended)
