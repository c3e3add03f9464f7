"""A tree of tiny tasks that take each other's results: a hash tree, pair by pair.

What the manuals advise: let each task make a large part of the tree. Each edge between tasks costs a message,
a look-up, and the wait for it.

What happens here: a task whose argument is not there yet joins the batch of the one that makes it. An edge
costs ten to thirty microseconds.
"""

import hashlib

from side_by_side import compare, size

import grainwise as ray

LEAVES = [str(number).encode() for number in range(size(2_048, 256))]
PARTS = 8


def slow_hash(first, second):
    """Hash two values into one, in some hundred microseconds."""
    return hashlib.pbkdf2_hmac("sha256", first, second, 150)


@ray.remote
def parent(first, second):
    """Hash two nodes."""
    return slow_hash(first, second)


@ray.remote
def root(nodes):
    """Hash a whole tree."""
    while len(nodes) > 1:
        nodes = [slow_hash(*nodes[i : i + 2]) for i in range(0, len(nodes), 2)]
    return nodes[0]


def naive():
    """Make a task of each node."""
    nodes = LEAVES
    while len(nodes) > 1:
        nodes = [parent.remote(*nodes[i : i + 2]) for i in range(0, len(nodes), 2)]
    return ray.get(nodes[0])


def recommended():
    """Make a task of each of a few trees."""
    length = len(LEAVES) // PARTS
    refs = [root.remote(LEAVES[part * length : (part + 1) * length]) for part in range(PARTS)]
    return ray.get(root.remote(ray.get(refs)))


compare(naive, recommended)
