"""The same argument is stored once: found by content, never on trust, kept as long as its source lives."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Iterator
from pickle import PickleBuffer
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grainwise.objects import dedup
from grainwise.objects.blob import Blob
from grainwise.objects.codec import pack, unpack
from grainwise.objects.dedup import (
    MAX_CANDIDATES,
    SAMPLE_BYTES,
    SAMPLES,
    Dedup,
    fingerprint,
    roots,
    same_content,
)
from tests.unit.small_store import MIB, SmallStore

LARGE = 200_000


@pytest.fixture
def store() -> Iterator[SmallStore]:
    made = SmallStore()
    yield made
    made.validate()
    made.close()


def raw(value: Any) -> memoryview:
    return PickleBuffer(value).raw()


def intern(store: SmallStore, array: np.ndarray[Any, Any], value: object = None) -> Blob:
    return store.intern([raw(array)], array if value is None else value)[0]


def live_blobs(store: SmallStore) -> int:
    gc.collect()
    store.collect()
    return sum(len(live) for live in store._live.values())


# -- fingerprints --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size", [0, 1, 63, 64, 65, SAMPLES * SAMPLE_BYTES, SAMPLES * SAMPLE_BYTES + 1, LARGE]
)
def test_equal_buffers_have_equal_fingerprints(size: int) -> None:
    content = random.Random(size).randbytes(size)
    assert fingerprint([memoryview(content)]) == fingerprint([memoryview(bytearray(content))])


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=80))
def test_fingerprints_of_any_number_of_parts(sizes: list[int]) -> None:
    parts = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
    print_ = fingerprint([memoryview(part) for part in parts])
    assert print_ == fingerprint([memoryview(bytearray(part)) for part in parts])
    assert print_[:2] == (len(sizes), sum(sizes))


def test_the_beginning_and_the_size_are_in_the_fingerprint() -> None:
    content = bytearray(LARGE)
    prints = {fingerprint([memoryview(content)]), fingerprint([memoryview(content)[:-1]])}
    content[0] = 1
    prints.add(fingerprint([memoryview(content)]))
    assert len(prints) == 3


def test_the_fingerprint_of_a_large_buffer_reads_little_of_it() -> None:
    content = bytearray(LARGE)
    before = fingerprint([memoryview(content)])
    changed = 0
    for at in range(0, LARGE, 97):
        content[at] = 1
        changed += fingerprint([memoryview(content)]) != before
        content[at] = 0
    assert 0 < changed < 100


# -- found by content ----------------------------------------------------------------------------------------


def test_the_same_array_again_is_the_same_blob(store: SmallStore) -> None:
    array = np.arange(LARGE)
    blob = intern(store, array)
    assert intern(store, array) is blob
    assert intern(store, array) is blob
    assert store.saved_bytes == 2 * blob.nbytes


def test_an_equal_array_of_another_identity_is_the_same_blob(store: SmallStore) -> None:
    one, other = np.arange(LARGE), np.arange(LARGE)
    blob = intern(store, one)
    assert intern(store, other) is blob
    del one
    assert live_blobs(store) == 1
    del other, blob
    assert live_blobs(store) == 0


@pytest.mark.parametrize("at", [0, 1, 777, LARGE // 2, LARGE - 1])
def test_a_changed_array_is_another_blob(store: SmallStore, at: int) -> None:
    """Also where no sample of the fingerprint looks."""
    array = np.zeros(LARGE, dtype=np.uint8)
    before = intern(store, array)
    array[at] = 1
    after = intern(store, array)
    assert after is not before
    assert before.view(at, 1)[0] == 0
    assert after.view(at, 1)[0] == 1
    array[at] = 0
    assert intern(store, array) is before


def test_arrays_changed_between_calls_are_never_matched(store: SmallStore) -> None:
    """A long walk of small changes in place, some of them undone: each call sees the content of its moment.

    The array is large enough for the kernel to watch its pages, where the kernel can.
    """
    rng = random.Random(4)
    array = np.zeros(2 * MIB, dtype=np.uint8)
    for _ in range(60):
        kind = rng.randrange(4)
        if kind == 1:
            array[rng.randrange(array.size)] ^= 1
        elif kind == 2:
            array[:] = 0
        elif kind == 3:
            memoryview(array)[rng.randrange(array.size)] = 7  # through another object over the same memory
        blob = intern(store, array)
        assert blob.view(0, blob.nbytes) == raw(array)


def test_equal_bytes_in_other_parts_are_not_mixed_up(store: SmallStore) -> None:
    """100 + 200 zeros and 200 + 100 zeros have one fingerprint and two layouts."""
    parts = [bytes(100), bytes(200)]
    one, _ = store.intern([memoryview(part) for part in parts], parts)
    other, offsets = store.intern([memoryview(part) for part in reversed(parts)], parts)
    assert other.view(offsets[1], 100) == bytes(100)
    assert same_content(one, [0, 128], [memoryview(part) for part in parts])
    assert not same_content(one, [0, 256], [memoryview(part) for part in reversed(parts)])


def test_the_type_of_an_array_is_not_in_its_bytes(store: SmallStore) -> None:
    ints = np.arange(LARGE, dtype=np.int64)
    first, second = pack(ints, store), pack(ints.view(np.float64), store)
    assert first.blobs == second.blobs
    assert unpack(first).dtype == np.int64
    assert unpack(second).dtype == np.float64


def test_views_of_one_array_are_told_apart(store: SmallStore) -> None:
    base = np.arange(2 * LARGE)
    left, right = base[:LARGE], base[LARGE:]
    blobs = [intern(store, part) for part in (left, right, base)]
    assert len(set(blobs)) == 3
    assert [intern(store, part) for part in (base[:LARGE], base[LARGE:], base)] == blobs


def test_a_model_that_makes_fresh_arrays_at_each_pickling_is_stored_once(store: SmallStore) -> None:
    class Model:
        def __init__(self) -> None:
            self.trees = [np.arange(i, i + 500) for i in range(300)]

        def __getstate__(self) -> Any:
            return {"trees": [tree.copy() for tree in self.trees]}

    model = Model()
    first = pack(model, store)
    assert len(first.blobs) == 1
    assert pack(model, store).blobs == first.blobs
    model.trees[100][3] = -1
    assert pack(model, store).blobs != first.blobs


def test_only_so_many_look_alikes_are_compared(store: SmallStore, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = []
    blobs = []
    for i in range(2 * MAX_CANDIDATES):
        array = np.zeros(LARGE, dtype=np.uint8)
        array[100] = i  # between two samples
        assert fingerprint([raw(array)]) == fingerprint([raw(np.zeros(LARGE, dtype=np.uint8))])
        arrays.append(array)
        blobs.append(intern(store, array))
    compared = []
    real = dedup.same_bytes
    monkeypatch.setattr(dedup, "same_bytes", lambda *both: compared.append(1) or real(*both))
    assert intern(store, arrays[-1]) is blobs[-1]
    assert len(compared) == 1  # the most recent first
    assert intern(store, arrays[0]) is not blobs[0]
    assert len(compared) == 1 + MAX_CANDIDATES


# -- kept as long as the source lives ------------------------------------------------------------------------


def test_a_copy_stays_while_its_array_lives(store: SmallStore) -> None:
    array = np.arange(LARGE)
    blob = intern(store, array)
    reference = weakref.ref(blob)
    del blob
    assert live_blobs(store) == 1
    assert intern(store, array) is reference()
    del array
    assert live_blobs(store) == 0
    assert store.usage.mine == 0


def test_a_copy_stays_while_the_owner_of_a_view_lives(store: SmallStore) -> None:
    base = np.arange(LARGE)
    intern(store, base[: LARGE // 2].reshape(2, -1))
    assert live_blobs(store) == 1  # the view is gone, the next loop makes it again
    del base
    assert live_blobs(store) == 0


def test_a_copy_stays_while_any_of_its_sources_lives(store: SmallStore) -> None:
    one, other = np.arange(LARGE), np.arange(LARGE)
    intern(store, one)
    intern(store, other)
    del one
    assert live_blobs(store) == 1
    del other
    assert live_blobs(store) == 0


def test_a_copy_stays_while_the_object_around_the_array_lives(store: SmallStore) -> None:
    class Model:
        def weights(self) -> Any:
            return np.arange(LARGE)  # made at each pickling

    model = Model()
    intern(store, model.weights(), value=model)
    assert live_blobs(store) == 1
    del model
    assert live_blobs(store) == 0


def test_what_nothing_can_refer_to_weakly_is_not_kept(store: SmallStore) -> None:
    content = bytes(LARGE)
    blob, _ = store.intern([memoryview(content)], content)
    assert store.intern([memoryview(content)], content)[0] is blob
    del blob
    assert live_blobs(store) == 0


def test_copies_that_are_only_kept_go_first_and_least_recently_used(store: SmallStore) -> None:
    arrays = [np.full(MIB // 2, i, dtype=np.uint8) for i in range(3)]
    blobs = [weakref.ref(intern(store, array)) for array in arrays]
    intern(store, arrays[0])
    assert store._dedup.kept_bytes() == 3 * MIB // 2
    assert store._dedup.release_kept(1) == MIB // 2
    assert [blob() is not None for blob in blobs] == [True, False, True]
    assert store._dedup.release_kept() == MIB
    assert live_blobs(store) == 0
    assert store._dedup.kept_bytes() == 0


def test_kept_copies_fill_a_share_of_the_store_only(store: SmallStore) -> None:
    arrays = [np.full(MIB // 4, i, dtype=np.uint8) for i in range(40)]
    for array in arrays:
        intern(store, array)
    assert store._dedup.kept_bytes() <= store.capacity_bytes * 0.4
    assert store.usage.mine <= store.capacity_bytes * 0.4


def test_versions_of_a_large_array_do_not_fill_the_store(store: SmallStore) -> None:
    """Changed in place and passed again and again, each more than a quarter of the store."""
    array = np.zeros(5 * MIB // 2, dtype=np.uint8)
    for i in range(3):
        array[:] = i
        intern(store, array)
    assert store._dedup.kept_bytes() == array.nbytes
    assert intern(store, array).nbytes == array.nbytes == store.saved_bytes


def test_letting_go_leaves_what_is_in_use(store: SmallStore) -> None:
    array = np.arange(LARGE)
    packed = pack(array, store)
    store._dedup.release_kept()
    assert (unpack(packed) == array).all()
    assert pack(array, store).blobs == packed.blobs  # and it is still found


def test_copies_that_are_gone_are_not_walked_through_again(store: SmallStore) -> None:
    for i in range(300):
        intern(store, np.full(70_000, i % 251, dtype=np.uint8) + np.uint8(i // 251))
        store._dedup.kept_bytes()
    assert len(store._dedup._recent) < 10
    assert not store._dedup._entries


def test_the_table_forgets_blobs_that_died() -> None:
    table = Dedup()
    assert table.candidates((1, 2, 3)) == []
    assert table.release_kept() == 0


# -- roots ---------------------------------------------------------------------------------------------------


def test_the_root_of_a_view_is_the_owner_of_the_memory() -> None:
    base = np.arange(10)
    view = base[2:5].reshape(3, 1)
    assert roots(view, view)[0] is base
    assert len(roots(base, base)) == 1


def test_an_array_over_shared_memory_is_its_own_root() -> None:
    over = np.frombuffer(memoryview(bytes(80)), dtype="i8")
    assert roots(over[1:], "value")[0] is over


def test_an_exporter_without_a_base_is_its_own_root() -> None:
    data = bytearray(10)
    assert roots(data, [data]) == [data, [data]]
