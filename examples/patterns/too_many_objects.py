"""Fetching all results at once: pictures that are reduced to one number each.

What the manuals advise: get and use results by small groups. All at once they must fit into the memory of the
program, and none can be dropped before the last has come.

What happens here: results lie in shared memory and `get` maps them, so that a list of all of them takes no
memory of its own. They still must fit there: what does not goes to disk, and the report says how much.
"""

import numpy as np
from side_by_side import compare, size

import grainwise as ray

PICTURES = size(40, 8)
PIXELS = size(500, 200)


@ray.remote
def draw(number):
    """Return a picture of rings."""
    y, x = np.mgrid[-1 : 1 : PIXELS * 1j, -1 : 1 : PIXELS * 1j]
    return np.sin((number + 5) * np.hypot(x, y)).astype(np.float32)


def naive():
    """Get all, then use them."""
    return [float(picture.max()) for picture in ray.get([draw.remote(number) for number in range(PICTURES)])]


def recommended():
    """Get five at a time."""
    found = []
    for first in range(0, PICTURES, 5):
        refs = [draw.remote(number) for number in range(first, min(first + 5, PICTURES))]
        found += [float(picture.max()) for picture in ray.get(refs)]
    return found


compare(naive, recommended)
