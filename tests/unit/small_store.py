"""A store with a fake usage, and a sink that keeps everything in plain memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from grainwise.objects.arena import layout
from grainwise.objects.store import Store
from grainwise.objects.usage import Usage

MIB = 1 << 20
DRIVER_WORD, OTHER_WORD = 2, 5


class FakeUsage(Usage):
    """Counts the driver's bytes, and as many as a test says that others hold."""

    def __init__(self, mine: int = DRIVER_WORD) -> None:
        self.words = memoryview(bytearray(64)).cast("Q")
        super().__init__(self.words, mine, lambda: (DRIVER_WORD, OTHER_WORD), 1)

    @property
    def mine(self) -> int:
        return self.words[DRIVER_WORD]

    def set_others(self, nbytes: int, freed_bytes: int = 0) -> None:
        self.words[OTHER_WORD], self.words[OTHER_WORD + 1] = nbytes, freed_bytes


class SmallStore(Store):
    """A store of a few MiB that notes what it asks workers to free."""

    def __init__(self, capacity_bytes: int = 8 * MIB, spill: Path | None = None) -> None:
        self.usage = FakeUsage()
        self.released: list[tuple[int, int, int, int]] = []
        super().__init__(
            capacity_bytes,
            None if spill is None else str(spill),
            self.usage,
            lambda *released: self.released.append(released),
        )

    def place(self, arena_id: int) -> object:
        return self._arenas.get(arena_id) or self._readers.get(arena_id)

    def validate(self) -> None:
        self.collect()
        for arena in self._arenas.values():
            arena.validate()


class ListBlob:
    """Bytes in plain memory that look like a blob."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.nbytes = len(data)

    def view(self, offset: int, nbytes: int) -> memoryview:
        return memoryview(self.data)[offset : offset + nbytes]


class ListSink:
    """Keeps what is interned in a list."""

    def __init__(self) -> None:
        self.blobs: list[ListBlob] = []
        self.values: list[object] = []

    def intern(self, parts: Sequence[memoryview], value: object) -> tuple[ListBlob, list[int]]:
        offsets, total = layout([part.nbytes for part in parts])
        data = bytearray(total)
        for offset, part in zip(offsets, parts, strict=True):
            data[offset : offset + part.nbytes] = part
        self.blobs.append(ListBlob(bytes(data)))
        self.values.append(value)
        return self.blobs[-1], offsets
