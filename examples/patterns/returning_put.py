"""Returning `put(value)` from a task instead of the value: tiles of a picture.

What the manuals advise: return the values, by `num_returns` where there are several. A ref inside a result
must be looked up by a second `get`, small values lose their way in the answer itself, and what its maker
owned is lost with it.

What happens here: the refs belong to the session, not to the worker, and are there when their task's result
is: the second `get` costs no message. Values are still the shorter program.
"""

import numpy as np
from side_by_side import compare, size

import grainwise as ray

TILES = size(64, 8)


@ray.remote
def draw_and_put(number):
    """Return refs of a tile and of its mean."""
    tile = draw(number)
    return ray.put(tile), ray.put(float(tile.mean()))


@ray.remote(num_returns=2)
def draw_and_return(number):
    """Return a tile and its mean."""
    tile = draw(number)
    return tile, float(tile.mean())


def draw(number):
    """Draw a tile of waves."""
    y, x = np.mgrid[0:256, 0:256]
    return np.sin(x / (number + 1)) * np.cos(y / (number + 2))


def naive():
    """Get refs, then what they refer to."""
    pairs = ray.get([draw_and_put.remote(number) for number in range(TILES)])
    return [(float(ray.get(tile)[1, 2]), ray.get(mean)) for tile, mean in pairs]


def recommended():
    """Get the values."""
    pairs = [draw_and_return.remote(number) for number in range(TILES)]
    return [(float(ray.get(tile)[1, 2]), ray.get(mean)) for tile, mean in pairs]


compare(naive, recommended)
