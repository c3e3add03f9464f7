"""Items that travel as a slice of what they stand in: one pickle for thousands of them, or none at all.

An array or table lies in shared memory once and each batch names a range of it; a piece of a list is pickled
in one go. The worker makes the items: what iterating over the source would yield, and rows as dictionaries
where it is a table.
"""

from __future__ import annotations

from .tasks import SLICE_WIRE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from ...objects.codec import Packed

ITEMS = 0
"""Lists and arrays: what indexing with a slice and iterating yields."""
PANDAS = 1
POLARS = 2
ARROW = 3


class Slice:
    """A range of a source that is packed as a whole; a sequence as far as batches need it.

    Attributes:
        packed: the source.
        form: what it is, and so how items are made of it.
        start: the first item.
        stop: the one behind the last.
        again: packs one item by itself, in case the source can't be unpickled; None where that is no help.
    """

    __slots__ = ("again", "form", "packed", "start", "stop")

    def __init__(
        self, packed: Packed, form: int, start: int, stop: int, again: Callable[[int], Any] | None = None
    ) -> None:
        self.again = again
        self.packed = packed
        self.form = form
        self.start = start
        self.stop = stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> Slice:
        start, stop, _ = part.indices(len(self))
        return Slice(self.packed, self.form, self.start + start, self.start + max(start, stop), self.again)

    def wire(self, lend: Callable[[Packed], tuple[Any, ...]]) -> tuple[Any, ...]:
        """Return what travels."""
        return (SLICE_WIRE, lend(self.packed), self.form, self.start, self.stop)


def items_of(source: Any, form: int, start: int, stop: int) -> Any:
    """Return the items of a slice, as a sequence."""
    if form == ITEMS:
        items = source[start:stop]
    elif form == PANDAS:
        items = source.iloc[start:stop].to_dict("records")
    elif form == POLARS:
        items = source.slice(start, stop - start).to_dicts()
    else:
        items = source.slice(start, stop - start).to_pylist()
    return items if len(items) == stop - start else [{} for _ in range(stop - start)]  # rows without columns
