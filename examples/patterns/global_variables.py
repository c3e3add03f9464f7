"""A global variable that tasks change: how many words of a text are palindromes.

What the manuals advise: keep shared state in an actor, or add up what tasks return. Every worker has a copy
of a global variable of its own, so what a task adds to it is seen by some later tasks and never by the
program.

What happens here: the same, and no library may change it. The report names the function and the variable.
"""

from pydoc_data.topics import topics

from side_by_side import compare, size

import grainwise as ray

TEXTS = [*topics.values()][: size(80, 20)]
found = 0


def palindromes(text):
    """Count the words that read the same from both ends."""
    words = (word.strip(".,:;()\"'`*").lower() for word in text.split())
    return sum(len(word) > 2 and word == word[::-1] for word in words)


@ray.remote
def add_to_global(text):
    """Add to the global variable."""
    global found
    found += palindromes(text)


@ray.remote
class Counter:
    """Holds what is shared."""

    def __init__(self):
        self.found = 0

    def add(self, number):
        """Add to it."""
        self.found += number

    def read(self):
        """Return it."""
        return self.found


@ray.remote
def add_to_actor(counter, text):
    """Add to the actor's count."""
    ray.get(counter.add.remote(palindromes(text)))


def naive():
    """Change a global variable; read it."""
    ray.get([add_to_global.remote(text) for text in TEXTS])
    return found


def recommended():
    """Tell an actor; ask it."""
    counter = Counter.remote()
    ray.get([add_to_actor.remote(counter, text) for text in TEXTS])
    return ray.get(counter.read.remote())


def is_lost(naive_count, actor_count):
    """Say whether the program's own variable stayed as it was, and the actor has counted."""
    return naive_count == 0 and actor_count == sum(map(palindromes, TEXTS)) > 0


findings = compare(naive, recommended, is_lost)
assert "globals" in findings or not hasattr(ray, "report"), findings
