"""What a dead worker has left behind goes piece by piece: each page that nothing live lies on, no other."""

from __future__ import annotations

import mmap
import os
import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grainwise.objects import orphan as orphan_module
from grainwise.objects.arena import ArenaReader, create_memory
from grainwise.objects.orphan import Orphan

PAGE = mmap.PAGESIZE
NUM_PAGES = 64
FULL = bytes(range(1, 256)) * (NUM_PAGES * PAGE // 255 + 1)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="punches holes")


@pytest.fixture
def reader() -> Iterator[ArenaReader]:
    made = full_reader()
    yield made
    made.close()


def full_reader() -> ArenaReader:
    """Return an arena all of whose pages are there."""
    fd = create_memory(NUM_PAGES * PAGE)
    os.pwrite(fd, FULL[: NUM_PAGES * PAGE], 0)
    return ArenaReader(fd, NUM_PAGES * PAGE)


def present_bytes(reader: ArenaReader) -> int:
    return os.fstat(reader.fd).st_blocks * 512


def check(reader: ArenaReader, live: dict[int, int]) -> None:
    """Fail unless exactly the pages of the live ranges are there, with their content."""
    pages = {p for offset, size in live.items() for p in range(offset // PAGE, -(-(offset + size) // PAGE))}
    assert present_bytes(reader) == len(pages) * PAGE
    for offset, size in live.items():
        assert reader.view(offset, size) == FULL[offset : offset + size]


def test_what_is_not_live_goes_at_once(reader: ArenaReader) -> None:
    live = {3 * PAGE: 5 * PAGE, 10 * PAGE + 64: 100}
    orphan = Orphan(reader, live.items())
    assert orphan.live_bytes == 5 * PAGE + 100
    check(reader, live)


def test_a_page_goes_with_the_last_object_on_it(reader: ArenaReader) -> None:
    live = {PAGE - 64: 128, PAGE + 64: 64, PAGE + 1024: PAGE}
    orphan = Orphan(reader, live.items())
    for offset in (PAGE + 64, PAGE + 1024, PAGE - 64):
        del live[offset]
        assert orphan.free(offset) == (not live)
        check(reader, live)
    assert orphan.live_bytes == 0


def test_freeing_twice_changes_nothing(reader: ArenaReader) -> None:
    orphan = Orphan(reader, [(0, PAGE), (PAGE, PAGE)])
    assert not orphan.free(0)
    assert not orphan.free(0)
    assert orphan.live_bytes == PAGE
    check(reader, {PAGE: PAGE})


def test_where_holes_cannot_be_punched_what_is_live_still_counts_and_stays(
    reader: ArenaReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("no holes")

    monkeypatch.setattr(orphan_module, "punch_hole", refuse)
    orphan = Orphan(reader, [(0, PAGE), (8 * PAGE, PAGE)])
    assert not orphan.free(0)
    assert orphan.live_bytes == PAGE
    assert present_bytes(reader) == NUM_PAGES * PAGE
    assert reader.view(8 * PAGE, PAGE) == FULL[8 * PAGE : 9 * PAGE]
    assert orphan.free(8 * PAGE)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3 * PAGE // 64)), max_size=25), st.randoms())
def test_any_ranges_freed_in_any_order(pieces: list[tuple[int, int]], chance: random.Random) -> None:
    """Gaps and sizes in units of 64 bytes."""
    live: dict[int, int] = {}
    end = 0
    for gap, size in pieces:
        offset = end + gap * 64
        end = offset + size * 64
        if end <= NUM_PAGES * PAGE:
            live[offset] = size * 64
    reader = full_reader()
    try:
        orphan = Orphan(reader, live.items())
        check(reader, live)
        order = list(live)
        chance.shuffle(order)
        for offset in order:
            del live[offset]
            assert orphan.free(offset) == (not live)
            assert orphan.live_bytes == sum(live.values())
            check(reader, live)
    finally:
        reader.close()
