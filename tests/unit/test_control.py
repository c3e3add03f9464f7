"""The control page: claims against take-back, step by step, in every order, and between two processes."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import grainwise
from grainwise.engine.driver.dispatcher import NO_LIMIT
from grainwise.engine.wire import claims, control
from grainwise.engine.wire.claims import take_back
from grainwise.engine.worker.batch import Batch
from grainwise.engine.worker.loop import Worker

SEQ = 7
CLAIM = control.claim_word(SEQ)
LIMIT = CLAIM + 1


class ScriptedBarrier(claims.Barrier):
    """Passes, and runs a step of the worker's each time."""

    def __init__(self, *steps: Callable[[], None], is_there: bool = True) -> None:
        super().__init__()
        self._steps = list(steps)
        self._is_there = is_there

    def pass_all(self) -> bool:
        if self._steps:
            self._steps.pop(0)()
        return self._is_there


def words_of(claim: int, limit: int = NO_LIMIT) -> memoryview:
    words = memoryview(bytearray(8 * control.SLOT_WORDS)).cast("Q")
    words[CLAIM], words[LIMIT] = claim, limit
    return words


def worker_on(words: Any) -> Worker:
    worker = Worker.__new__(Worker)
    worker.words = words
    worker.claim_lock = None
    worker.batch = None
    return worker


# -- the page ------------------------------------------------------------------------------------------------


def test_batches_on_their_way_have_words_of_their_own() -> None:
    fixed = {control.SEQ, control.STARTED, control.USED, control.CANCEL}
    words = [
        word
        for seq in range(control.DEPTH)
        for word in (control.claim_word(seq), control.claim_word(seq) + 1)
    ]
    assert len(set(words)) == 2 * control.DEPTH
    assert not fixed & set(words)
    assert max(words) < control.SLOT_WORDS
    assert control.claim_word(control.DEPTH + 3) == control.claim_word(3)


def test_two_mappings_of_the_page_are_one_and_slots_are_apart() -> None:
    fd = control.create()
    try:
        assert os.fstat(fd).st_size == control.NBYTES
        pages = [control.open_page(fd) for _ in range(2)]
        near, far = (memoryview(page).cast("Q") for page in pages)
        control.slot_words(near, 3)[control.STARTED] = 41
        assert control.slot_words(far, 3)[control.STARTED] == 41
        assert not any(control.slot_words(far, 2))
        assert not any(control.slot_words(far, 4))
        assert len(control.slot_words(far, control.NUM_SLOTS - 1)) == control.SLOT_WORDS
        near.release()
        far.release()
        for page in pages:
            page.close()
    finally:
        os.close(fd)


# -- take_back against a scripted worker ---------------------------------------------------------------------


def test_what_is_not_claimed_is_taken() -> None:
    words = words_of(claim=4)
    assert take_back(words, SEQ, 6, ScriptedBarrier()) == 6
    assert words[LIMIT] == 6


def test_what_is_claimed_is_left() -> None:
    words = words_of(claim=4)
    assert take_back(words, SEQ, 2, ScriptedBarrier()) == 4
    assert words[LIMIT] == 4


def test_a_claim_made_meanwhile_is_respected() -> None:
    words = words_of(claim=4)

    def claim_more() -> None:
        words[CLAIM] = 9

    assert take_back(words, SEQ, 6, ScriptedBarrier(claim_more)) == 9
    assert words[LIMIT] == 9


def test_a_worker_that_is_too_quick_three_times_keeps_its_items() -> None:
    words = words_of(claim=0)

    def claim(upto: int) -> Callable[[], None]:
        def step() -> None:
            words[CLAIM] = upto

        return step

    assert take_back(words, SEQ, 2, ScriptedBarrier(claim(4), claim(6), claim(8))) is None
    # The last limit holds: the worker stops there at the latest, and its report says where.
    assert words[LIMIT] == 6


def test_without_a_barrier_nothing_is_taken_and_earlier_limits_hold() -> None:
    words = words_of(claim=0)
    assert take_back(words, SEQ, 5, ScriptedBarrier(is_there=False)) is None
    assert words[LIMIT] == NO_LIMIT
    assert take_back(words, SEQ, 5, ScriptedBarrier()) == 5
    assert take_back(words, SEQ, 2, ScriptedBarrier(is_there=False)) is None
    assert words[LIMIT] == 5


def test_the_limit_of_a_batch_never_rises() -> None:
    """Items from 5 on were taken back before; a claim that is about to be retracted must not bring them back.

    The worker writes that it claims up to 7, is put to sleep by the scheduler, and wakes up after the driver.
    """
    words = words_of(claim=3, limit=5)

    def claim_too_much() -> None:
        words[CLAIM] = 7

    start = take_back(words, SEQ, 4, ScriptedBarrier(claim_too_much))
    assert start is None or start <= 5
    assert words[LIMIT] <= 5


# -- the real claim ------------------------------------------------------------------------------------------


def test_a_claim_stops_at_the_limit_and_at_the_end() -> None:
    words = words_of(claim=0)
    worker, batch = worker_on(words), Batch(SEQ, list(range(10)), 0)
    assert worker._claim(batch, 0, 4) == 4 == words[CLAIM]
    words[LIMIT] = 6
    assert worker._claim(batch, 4, 4) == 6 == words[CLAIM]
    assert worker._claim(batch, 6, 4) == 6 == words[CLAIM]
    words[LIMIT] = NO_LIMIT
    assert worker._claim(batch, 6, 100) == 10 == words[CLAIM]


def test_a_limit_below_what_was_run_takes_nothing_back() -> None:
    words = words_of(claim=8, limit=2)
    worker, batch = worker_on(words), Batch(SEQ, list(range(10)), 0)
    assert worker._claim(batch, 8, 2) == 8


def run_items(worker: Worker, batch: Batch, size: int, ran: list[int], unclaim_at: int) -> None:
    """Run a batch as `Worker._run_items` does; at one item the reporter finds that it takes long."""
    while True:
        first = len(batch.results)
        stop = worker._claim(batch, first, size)
        if stop <= first:
            return
        batch.claimed = batch.values[first:stop]
        for value in batch.claimed:
            worker.words[control.STARTED] = len(batch.results)
            ran.append(value)
            if value == unclaim_at:
                worker.unclaim()
            batch.results.append(value)
        batch.claimed = []


class Turnstile:
    """Lets one of two threads go on at a time and changes between them by chance, at every word touched."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._locks = [threading.Lock(), threading.Lock()]
        for lock in self._locks:
            lock.acquire()
        self._alive = [True, True]

    def begin(self, me: int) -> None:
        if me:
            self._locks[1].acquire()

    def step(self, me: int) -> None:
        if self._alive[1 - me] and self._rng.random() < 0.5:
            self._locks[1 - me].release()
            self._locks[me].acquire()

    def end(self, me: int) -> None:
        self._alive[me] = False
        if self._alive[1 - me]:
            self._locks[1 - me].release()


class SteppedWords:
    """Words that change hands before each load and store."""

    def __init__(self, words: memoryview, turnstile: Turnstile, me: int) -> None:
        self._words, self._turnstile, self._me = words, turnstile, me

    def __getitem__(self, at: int) -> int:
        self._turnstile.step(self._me)
        return self._words[at]

    def __setitem__(self, at: int, value: int) -> None:
        self._turnstile.step(self._me)
        self._words[at] = value


@pytest.mark.parametrize("seed", range(0, 2000, 250))
def test_no_item_is_lost_or_owned_twice_in_any_order_of_steps(seed: int) -> None:
    for each in range(seed, seed + 250):
        _interleave(each)


def _interleave(seed: int) -> None:
    rng = random.Random(seed)
    count, size, unclaim_at = rng.randrange(1, 14), rng.choice((1, 2, 4, 8)), rng.randrange(20)
    counts = [rng.randrange(1, count + 1) for _ in range(4)]
    turnstile = Turnstile(seed)
    words = words_of(claim=0)
    batch = Batch(SEQ, list(range(count)), 0)
    worker = worker_on(SteppedWords(words, turnstile, 1))
    worker.batch = batch
    ran: list[int] = []

    def work() -> None:
        turnstile.begin(1)
        run_items(worker, batch, size, ran, unclaim_at)
        turnstile.end(1)

    thread = threading.Thread(target=work)
    thread.start()
    seen: Any = SteppedWords(words, turnstile, 0)
    stop, taken = count, list[int]()
    for wanted_count in counts:  # as `Dispatcher.take_back` does
        wanted = max(seen[CLAIM], stop - wanted_count)
        if wanted >= stop:
            continue
        start = take_back(seen, SEQ, wanted, ScriptedBarrier())
        if start is not None and start < stop:
            taken += range(start, stop)
            stop = start
    turnstile.end(0)
    thread.join(10)
    assert not thread.is_alive()
    requeued = list(range(len(batch.results), stop))
    assert sorted(ran + taken + requeued) == list(range(count)), f"seed {seed}"


# -- two processes -------------------------------------------------------------------------------------------

ROUND, DONE, MARKS = 0, 1, 512
"""Words of another slot: which round goes on, where the worker stopped in it, who ran which item in which."""

WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from os import sched_yield
from grainwise.engine.wire import claims, control
from grainwise.engine.worker.batch import Batch
from grainwise.engine.worker.loop import Worker

fd, count, rounds = map(int, sys.argv[2:5])
words = memoryview(control.open_page(fd)).cast("Q")
worker = Worker.__new__(Worker)
worker.words = words[:control.SLOT_WORDS]
signals = words[control.SLOT_WORDS * 8:]
worker.claim_lock = claims.SlotLock(fd, 0) if sys.argv[5] == "locks" else None
claims.register_for_barriers()
signals[1] = 1
for round in range(1, rounds + 1):
    while signals[0] != round:
        if signals[0] == 1 << 40:
            sys.exit()
        sched_yield()
    batch = Batch(round, [None] * count, 0)
    size = 1 + round % 5
    first = 0
    while True:
        stop = worker._claim(batch, first, size)
        if stop <= first:
            break
        for index in range(first, stop):
            signals[512 + index] = round
        first = stop
    signals[1] = (round << 32) | first
"""


@pytest.mark.parametrize("mode", ["barriers", "locks"])
def test_two_processes_never_own_the_same_item(mode: str) -> None:
    """A litmus test: without the barrier it fails within some ten thousand rounds (seconds) on x86."""
    count, max_rounds = 24, 40_000
    barrier = claims.Barrier()
    if mode == "barriers" and not barrier.pass_all():
        pytest.skip("this kernel or sandbox has no membarrier")
    fd = control.create()
    lock = claims.SlotLock(fd, 0)

    def take(words: memoryview, seq: int, wanted: int) -> int | None:
        if mode == "locks":
            return claims.take_back_locked(words, seq, wanted, lock)
        return take_back(words, seq, wanted, barrier)

    words = memoryview(control.open_page(fd)).cast("Q")
    slot, signals = words[: control.SLOT_WORDS], words[control.SLOT_WORDS * 8 :]
    source = str(Path(grainwise.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, source, str(fd), str(count), str(max_rounds), mode], pass_fds=[fd]
    )
    try:
        _play(process, slot, signals, take, count, max_rounds)
    finally:
        signals[ROUND] = 1 << 40
        assert process.wait(timeout=30) == 0
        slot.release()
        signals.release()
        words.release()
        os.close(fd)


def _wait_for(process: subprocess.Popen[bytes], is_done: Callable[[], bool]) -> None:
    while not is_done():
        assert process.poll() is None, "the worker has ended"
        os.sched_yield()


def _play(
    process: subprocess.Popen[bytes], slot: memoryview, signals: memoryview,
    take: Callable[[memoryview, int, int], int | None], count: int, max_rounds: int,
) -> None:  # fmt: skip
    rng = random.Random(1)
    _wait_for(process, lambda: signals[DONE] == 1)
    until = monotonic() + 1.5
    num_taken = 0
    for round_ in range(1, max_rounds + 1):
        at = control.claim_word(round_)
        slot[at], slot[at + 1] = 0, NO_LIMIT
        signals[ROUND] = round_
        stop, taken = count, list[int]()
        for _ in range(rng.randrange(300)):
            pass
        for share in (rng.randrange(1, count), rng.randrange(1, 8), rng.randrange(1, 4)):
            wanted = max(slot[at], stop - share)
            start = take(slot, round_, wanted) if wanted < stop else None
            if start is not None and start < stop:
                taken += range(start, stop)
                stop = start
        _wait_for(process, lambda: signals[DONE] >> 32 == round_)  # noqa: B023
        stopped = signals[DONE] & 0xFFFFFFFF
        ran = [index for index in range(count) if signals[MARKS + index] == round_]
        assert sorted(ran + taken + list(range(stopped, stop))) == list(range(count)), f"round {round_}"
        num_taken += len(taken)
        if monotonic() > until:
            break
    assert num_taken, "the two never met"
