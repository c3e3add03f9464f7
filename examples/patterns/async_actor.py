"""An actor that answers while it works: a catalogue that many ask at once, and that waits for each answer.

What the manuals advise: make the methods of an actor that waits `async def`, so that one call runs while
others wait for a network or a disk. A method without it holds the actor until it returns.

What happens here: the same, and no library may change it, as calls that never ran together may rely on that.
The report tells which actor's calls waited for each other.
"""

import asyncio
import time

from side_by_side import compare, size

import grainwise as ray

ANSWER_S = 0.005
QUESTIONS = range(size(60, 20))


@ray.remote
class Catalogue:
    """Waits for each answer, alone."""

    def ask(self, number):
        """Return what is known of a number, after a while."""
        time.sleep(ANSWER_S)  # a network
        return number, bin(number)


@ray.remote
class AsyncCatalogue:
    """Waits for many answers at once."""

    async def ask(self, number):
        """Return what is known of a number, after a while."""
        await asyncio.sleep(ANSWER_S)
        return number, bin(number)


def ask_all(catalogue):
    """Ask all questions, each of them by itself."""
    return ray.get([catalogue.ask.remote(number) for number in QUESTIONS])


def naive():
    """One answer at a time."""
    return ask_all(Catalogue.remote())


def recommended():
    """All that are asked for."""
    return ask_all(AsyncCatalogue.remote())


compare(naive, recommended)
