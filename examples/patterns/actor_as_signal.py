"""An actor that holds others back: eight tasks that may not begin before a table has been made.

What the manuals advise: let the tasks wait in a method of an actor, an asyncio event, rather than ask again
and again whether they may go on.

What happens here: that works. Tasks that wait lend their CPU, so there may be more of them than CPUs. The
naive form asks every millisecond, which costs the actor a call each time, and wakes up late by a millisecond
at most.
"""

import asyncio
import time

from side_by_side import compare, size

import grainwise as ray

LARGEST = size(4_000_000, 5_000)
PARTS = 8


@ray.remote
class Gate:
    """Opened once; tells whoever waits."""

    def __init__(self):
        self.opened = asyncio.Event()
        self.primes = []

    async def open(self, primes):
        """Let everybody go on."""
        self.primes = primes
        self.opened.set()

    async def is_open(self):
        """Say whether it has been opened."""
        return self.opened.is_set()

    async def wait(self):
        """Return when it has been opened."""
        await self.opened.wait()

    async def read(self):
        """Return what was brought."""
        return self.primes


@ray.remote
def sieve(gate):
    """Find the primes up to the root of the largest number, then open."""
    root = int(LARGEST**0.5) + 1
    primes = [number for number in range(2, root) if all(number % divisor for divisor in range(2, number))]
    ray.get(gate.open.remote(primes))


@ray.remote
def count_asking(gate, part):
    """Count the primes of a part; ask again and again when it may begin."""
    while not ray.get(gate.is_open.remote()):
        time.sleep(0.001)
    return count(ray.get(gate.read.remote()), part)


@ray.remote
def count_waiting(gate, part):
    """Count the primes of a part; wait until it may begin."""
    ray.get(gate.wait.remote())
    return count(ray.get(gate.read.remote()), part)


def count(primes, part):
    """Count the numbers of a part that none of the primes divides."""
    begin, end = part * LARGEST // PARTS, (part + 1) * LARGEST // PARTS
    is_prime = bytearray(b"\1") * (end - begin)
    for prime in primes:
        first = max(prime * prime, -(-begin // prime) * prime) - begin
        is_prime[first::prime] = bytes(len(range(first, end - begin, prime)))
    return sum(is_prime) - (2 if begin == 0 else 0)


def naive():
    """Ask whether to begin."""
    return run_all(count_asking)


def recommended():
    """Wait to be told."""
    return run_all(count_waiting)


def run_all(counter):
    """Start those that wait first, and then what they wait for."""
    gate = Gate.remote()
    counts = [counter.remote(gate, part) for part in range(PARTS)]
    ray.get(sieve.remote(gate))
    return sum(ray.get(counts))


compare(naive, recommended)
