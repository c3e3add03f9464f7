"""`get` right behind each submission: prime sieves, one at a time.

What the manuals advise: submit everything first, then get everything. A `get` in the loop that submits waits
for each task before the next one begins, so nothing runs beside anything else.

What happens here: the same; the program says that it wants this result before it goes on. The report tells
how often it waited for the only task under way. (A loop of `get` behind the loop that submits is fine here:
it costs no message.)
"""

from side_by_side import QUICK, compare, size

import grainwise as ray


@ray.remote
def count_primes(end):
    """Count the primes below `end`."""
    is_prime = bytearray(b"\1") * end
    is_prime[:2] = b"\0\0"
    for number in range(2, int(end**0.5) + 1):
        if is_prime[number]:
            is_prime[number * number :: number] = bytes(len(range(number * number, end, number)))
    return sum(is_prime)


ENDS = [size(150_000, 50_000) + 1_000 * number for number in range(size(80, 20))]


def naive():
    """Get each before the next is submitted."""
    return [ray.get(count_primes.remote(end)) for end in ENDS]


def recommended():
    """Submit all, then get each."""
    refs = [count_primes.remote(end) for end in ENDS]
    return [ray.get(ref) for ref in refs]


findings = compare(naive, recommended)
assert "get_in_loop" in findings or QUICK or not hasattr(ray, "report"), findings
