"""Which ranges of an arena are free: bookkeeping alone, without pages, bytes or locks.

    0 ──── live ── free ── live ───── free ──┐ top                         capacity
                     └─ a bin for each power of two of the size ─┘   behind it all is free

Free ranges never touch: what is freed is joined with its neighbours. All is in dicts, so that taking and
adding cost the same however many ranges there are; the search looks at a few ranges of each size class before
it tries a larger one, and at all of them only before it gives up.
"""

from __future__ import annotations

TYPE_CHECKING = False  # checkers take it for true; importing typing costs milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Free ranges looked at per size class before a larger class is tried: bounds the time of an allocation.
_LOOKS_PER_CLASS = 8


class FreeRanges:
    """The free ranges of `capacity_bytes` bytes. Used under its owner's lock.

    Attributes:
        top: everything from here on is free and has never been taken since the top last came down to it.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity_bytes = capacity_bytes
        self.top = 0
        self._ends: dict[int, int] = {}  # start -> end of each range; no two touch
        self._starts: dict[int, int] = {}  # end -> start of the same
        self._bins: list[dict[int, None]] = [
            {} for _ in range(64)
        ]  # by size.bit_length(): starts, newest last

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of every range below the top, in no order."""
        return iter(self._ends.items())

    def find(self, size: int, align: int, score: Callable[[int, int], int], best_score: int) -> int | None:
        """Return the start of a free range, or the top, that has room for `size` bytes after aligning.

        Args:
            size: in bytes.
            align: the place within the range is a multiple of this.
            score: says how good a place (offset, size) is; the best of those looked at is taken.
            best_score: nothing can be better: the search ends.
        """
        exact = size.bit_length()
        best, best_found = None, -1
        for bin_ in self._bins[exact:]:
            n_looks = _LOOKS_PER_CLASS
            for start in reversed(bin_):
                offset = -(-start // align) * align
                if offset + size <= self._ends[start]:
                    found = score(offset, size)
                    if found > best_found:
                        best, best_found = start, found
                n_looks -= 1
                if not n_looks or best_found == best_score:
                    break
            if best_found == best_score:
                break
        if best is not None:
            return best
        # A free range at the end grows into the fresh space behind it.
        last = self._starts.get(self.top, self.top)
        if -(-last // align) * align + size <= self.capacity_bytes:
            return last
        # Before giving up, look at those that the bound left out.
        for bin_ in self._bins[exact:]:
            for start in bin_:
                if -(-start // align) * align + size <= self._ends[start]:
                    return start
        return None

    def take(self, start: int, offset: int, end: int) -> None:
        """Cut `offset` to `end` out of the free range at `start` or of the fresh space, raising the top."""
        free_end = self._ends.get(start)
        if free_end is None:
            free_end = self.top
        else:
            self._remove(start, free_end)
        if end > self.top:
            free_end = self.top = end
        if start < offset:
            self._insert(start, offset)
        if end < free_end:
            self._insert(end, free_end)

    def add(self, start: int, end: int) -> None:
        """Take a range back, joined with free neighbours."""
        before = self._starts.get(start)
        if before is not None:
            self._remove(before, start)
            start = before
        after = self._ends.get(end)
        if after is not None:
            self._remove(end, after)
            end = after
        self._insert(start, end)

    def last_start(self) -> int | None:
        """Return the start of the free range that ends at the top, if there is one."""
        return self._starts.get(self.top)

    def lower_top(self) -> None:
        """Turn the free range that ends at the top into fresh space."""
        start = self._starts[self.top]
        self._remove(start, self.top)
        self.top = start

    def _insert(self, start: int, end: int) -> None:
        self._ends[start] = end
        self._starts[end] = start
        self._bins[(end - start).bit_length()][start] = None

    def _remove(self, start: int, end: int) -> None:
        del self._ends[start], self._starts[end], self._bins[(end - start).bit_length()][start]

    def validate(self, live: dict[int, int]) -> None:
        """Check that free ranges and live ones (start -> bytes) fill everything below the top.

        Raises:
            AssertionError: they do not.
        """
        ranges = [(start, start + size, True) for start, size in live.items()]
        ranges += [(start, end, False) for start, end in self._ends.items()]
        position, was_live = 0, True
        for start, end, is_live in sorted(ranges):
            assert start == position < end, f"gap or overlap at {position}: next range is {start}-{end}"
            assert is_live or was_live, f"free ranges touch at {start}"
            position, was_live = end, is_live
        assert position == self.top <= self.capacity_bytes, (position, self.top)
        assert self._starts == {end: start for start, end in self._ends.items()}
        binned = {start: index for index, bin_ in enumerate(self._bins) for start in bin_}
        assert binned == {start: (end - start).bit_length() for start, end in self._ends.items()}
        assert sum(map(len, self._bins)) == len(binned)
