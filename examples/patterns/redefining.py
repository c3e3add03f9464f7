"""A remote function that is defined inside the loop: caesar's cipher with every key.

What the manuals advise: decorate once, outside. Each definition is another function, which is pickled, sent
and loaded again.

What happens here: the same, in a fraction of a millisecond for each, and the report counts them. That two
definitions do the same can't be known, as they may differ in what they capture.
"""

from pydoc_data.topics import topics

from side_by_side import compare, size

import grainwise as ray

TEXT = topics["dynamic-features"] + topics["imaginary"]
KEYS = range(size(400, 60))


def naive():
    """Define it for every key."""
    refs = []
    for key in KEYS:

        @ray.remote
        def encrypt():
            return "".join(chr((ord(letter) + key) % 0x300) for letter in TEXT)

        refs.append(encrypt.remote())
    return ray.get(refs)


@ray.remote
def encrypt_with(key, text):
    """Move all letters by the key."""
    return "".join(chr((ord(letter) + key) % 0x300) for letter in text)


def recommended():
    """Define it once, and pass what differs."""
    return ray.get([encrypt_with.remote(key, TEXT) for key in KEYS])


findings = compare(naive, recommended)
assert "redefined" in findings or not hasattr(ray, "report"), findings
