"""A bound on the tasks that wait: counting words in pieces of text, a hundred calls ahead at most.

What the manuals advise: use `wait` to keep a window of pending tasks. Submitted all at once they pile up,
with their arguments, until the memory is gone.

What happens here: a pending call takes some two hundred bytes, so a loop may submit a hundred thousand; the
window costs a `wait` for each. Endless input is for `grainwise.map`, which reads only as far ahead as its
workers need.
"""

from collections import Counter
from pydoc_data.topics import topics

from side_by_side import compare, size

import grainwise as ray

MAX_PENDING = 100
LINES = "\n".join(topics.values()).splitlines()[: size(10_000, 1_000)]


@ray.remote
def count_words(line):
    """Count the words of a line."""
    return Counter(line.lower().split())


def naive():
    """Submit all, then get all."""
    words = Counter()
    for counted in ray.get([count_words.remote(line) for line in LINES]):
        words.update(counted)
    return words


def recommended():
    """Submit one more when one has come back."""
    words, pending = Counter(), []
    for line in LINES:
        if len(pending) >= MAX_PENDING:
            done, pending = ray.wait(pending, num_returns=1)
            words.update(ray.get(done[0]))
        pending.append(count_words.remote(line))
    for counted in ray.get(pending):
        words.update(counted)
    return words


compare(naive, recommended)
