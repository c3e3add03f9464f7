"""Refs that travel inside bytes: a letter that one task writes and another opens.

What the manuals advise: never pickle a ref by yourself. The library can't see it in the bytes: its value may
be gone when somebody unpickles it, or is kept until the end.

What happens here: the second. A value whose ref was pickled outside a call stays for as long as the session,
so the bytes stay valid; a ref inside an argument is counted, and its value goes with the last one. Use
arguments.
"""

import pickle

from side_by_side import compare, size

import grainwise as ray

LETTERS = size(400, 40)


@ray.remote
def write(number):
    """Write a letter."""
    return f"letter {number}: " + "dear reader, " * 1_000


@ray.remote
def open_bytes(packed):
    """Count the words of a letter, whose ref was pickled."""
    return len(ray.get(pickle.loads(packed)).split())


@ray.remote
def open_letter(refs):
    """Count the words of a letter, whose ref is in a list."""
    return len(ray.get(refs[0]).split())


def naive():
    """Pickle the refs."""
    return ray.get([open_bytes.remote(pickle.dumps(letter)) for letter in written()])


def recommended():
    """Pass the refs."""
    return ray.get([open_letter.remote([letter]) for letter in written()])


def written():
    """Return the refs of letters that have been written."""
    letters = [write.remote(number) for number in range(LETTERS)]
    ray.wait(letters, num_returns=LETTERS)
    return letters


compare(naive, recommended)
