"""Asking for the next piece of work before the present one is done: workers and a queue, an actor.

What the manuals advise: a worker that asks, waits and then works leaves its CPU idle for a round trip each
time; ask for the next piece first, then work on the present one.

What happens here: a round trip to an actor takes a tenth of a millisecond and less, so the naive loop is
about as good unless pieces take less than that.
"""

import hashlib

from side_by_side import compare, size

import grainwise as ray

PIECES = size(300, 40)
WORKERS = 2


@ray.remote
class Queue:
    """Hands out numbers."""

    def __init__(self, num):
        self.left = list(range(num))

    def next(self):
        """Return the next number, None when there is none."""
        return self.left.pop() if self.left else None


def work(piece):
    """Hash for some milliseconds."""
    return hashlib.pbkdf2_hmac("sha256", str(piece).encode(), b"salt", 3_000).hex()


@ray.remote
class Worker:
    """Asks, waits, works."""

    def run(self, queue):
        """Return what it made."""
        made = {}
        while (piece := ray.get(queue.next.remote())) is not None:
            made[piece] = work(piece)
        return made


@ray.remote
class PipelinedWorker:
    """Asks for the next piece, works on this one."""

    def run(self, queue):
        """Return what it made."""
        made, coming = {}, queue.next.remote()
        while (piece := ray.get(coming)) is not None:
            coming = queue.next.remote()
            made[piece] = work(piece)
        return made


def run_all(kind):
    """Return what all workers made, sorted."""
    queue = Queue.remote(PIECES)
    workers = [kind.remote() for _ in range(WORKERS)]
    made = ray.get([worker.run.remote(queue) for worker in workers])
    return sorted(pair for each in made for pair in each.items())


def naive():
    """One thing after the other."""
    return run_all(Worker)


def recommended():
    """One ahead."""
    return run_all(PipelinedWorker)


compare(naive, recommended)
