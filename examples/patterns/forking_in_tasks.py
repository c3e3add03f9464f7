"""Processes that tasks start: a pool of multiprocessing inside a task, to find words that look alike.

What the manuals advise: start no processes from a worker by fork, which has threads and connections that a
copy can't use; start tasks from tasks.

What happens here: a copy knows that it is none of ours, and closes what it must not touch, so a pool inside a
task works. It starts anew for each task, while tasks of tasks run on workers that are there.
"""

import difflib
import multiprocessing
from pydoc_data.topics import topics

from side_by_side import compare, size

import grainwise as ray

KNOWN = sorted(set(" ".join(topics.values()).split()))[: size(4_000, 500)]
WORDS = sorted(topics)[: size(60, 8)]
PARTS = 4


@ray.remote
def alike_by_fork(words):
    """Use a pool of its own."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.starmap(difflib.get_close_matches, [(word, KNOWN, 1) for word in words])


@ray.remote
def alike(word, known):
    """Return the known word that looks most like this one, if there is any, in a list."""
    return difflib.get_close_matches(word, known, 1)


@ray.remote
def alike_by_tasks(words):
    """Use tasks of its own."""
    return ray.get([alike.remote(word, KNOWN) for word in words])


def naive():
    """Fork."""
    return run_all(alike_by_fork)


def recommended():
    """Nest tasks."""
    return run_all(alike_by_tasks)


def run_all(function):
    """Give each of a few tasks its share of the words."""
    return ray.get([function.remote(WORDS[part::PARTS]) for part in range(PARTS)])


compare(naive, recommended)
