"""Tasks sent behind what they depend on, in the same batch: nobody can tell it from the results."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

import grainwise as ray
from grainwise.engine.current import current
from grainwise.errors import EngineClosedError

from .full_pool import LIMIT_S
from .sent_together import SentBatches, make_known, sent_together
from .shared_memory import shared_bytes, wait_until
from .signposts import Sign

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="measures memory in /proc")

MB = 1 << 20


@pytest.fixture(autouse=True)
def num_cpus(request: pytest.FixtureRequest) -> Iterator[int]:
    """One CPU unless a test asks for more: everything that is sent together is one batch."""
    count: int = getattr(request, "param", 1)
    ray.init(num_cpus=count)
    yield count
    ray.shutdown()


both = pytest.mark.parametrize("num_cpus", [1, 2], ids=["one cpu", "two cpus"], indirect=True)


@ray.remote
def add(*values: int) -> int:
    return sum(values) + 1


@ray.remote
def double(x: int) -> int:
    return 2 * x


@ray.remote
def wrap(*values: Any) -> list[Any]:
    return list(values)


def test_a_chain_travels_as_one() -> None:
    make_known(add.remote)
    sent = SentBatches()
    with sent_together():
        refs = [add.remote(0)]
        for _ in range(50):
            refs.append(add.remote(refs[-1]))
    assert ray.get(refs, timeout=LIMIT_S) == list(range(1, 52))
    assert sent.num_followers >= 40


def test_a_chain_of_twenty_thousand() -> None:
    ref = add.remote(0)
    refs = [ref]
    for _ in range(20_000):
        ref = add.remote(ref)
        refs.append(ref)
    assert ray.get(refs[10_000], timeout=LIMIT_S) == 10_001  # the rest may still run
    assert ray.get(ref, timeout=LIMIT_S) == 20_001
    assert ray.get(refs[::1000], timeout=0) == list(range(1, 20_002, 1000))


def test_a_chain_whose_middle_nobody_holds() -> None:
    make_known(wrap.remote)
    for length in (3, 300):
        ref = wrap.remote("a" * 1000)
        for i in range(length):
            ref = wrap.remote(ref, i)
        value: Any = ray.get(ref, timeout=LIMIT_S)
        for i in reversed(range(length)):
            value, number = value
            assert number == i
        assert value == ["a" * 1000]
    engine: Any = current()
    assert wait_until(lambda: not engine.results.dependents and not engine.borders.refs, LIMIT_S)


@both
def test_fan_in_fan_out_and_diamonds(num_cpus: int) -> None:
    make_known(add.remote, double.remote)
    sent = SentBatches()
    with sent_together():
        heads = [double.remote(i) for i in range(8)]
        level: list[Any] = heads
        while len(level) > 1:
            level = [add.remote(*level[i : i + 2]) for i in range(0, len(level), 2)]
        fans = [add.remote(heads[1], i) for i in range(30)]
        sides = [double.remote(fans[0]), add.remote(fans[0])]
        tips = [add.remote(*sides), add.remote(sides[0], heads[7], sides[1], sides[0])]
    assert ray.get(level, timeout=LIMIT_S) == [2 * sum(range(8)) + 7]
    assert ray.get(fans, timeout=LIMIT_S) == [3 + i for i in range(30)]
    assert ray.get(tips, timeout=LIMIT_S) == [6 + 4 + 1, 6 + 14 + 4 + 6 + 1]
    assert sent.num_followers


def test_the_same_input_twice_by_position_and_by_name() -> None:
    @ray.remote
    def compare(a: list[int], b: list[int], *, c: list[int]) -> tuple[bool, int]:
        a.append(1)
        return a is b or b is c, len(b) + len(c)

    make_known(wrap.remote)
    with sent_together():
        head = wrap.remote(7)
        ref = compare.remote(head, head, c=head)
        plain = add.remote(one := add.remote(1), one)
    assert ray.get(ref, timeout=LIMIT_S) == (False, 2)
    assert ray.get(plain, timeout=LIMIT_S) == 5
    assert ray.get(head, timeout=LIMIT_S) == [7]


@both
def test_what_one_consumer_changes_is_seen_by_no_other(num_cpus: int) -> None:
    @ray.remote
    def grow(values: list[Any], *_: Any) -> int:
        values.append(values)
        values[0].append("changed")
        return len(values)

    make_known(wrap.remote)
    sent = SentBatches()
    with sent_together():
        inner = wrap.remote(1)
        head = wrap.remote(inner, "x" * 30)
        # Two, and then two more behind them: an unknown function sends few followers at first.
        sizes = [grow.remote(head), grow.remote(head)]
        sizes += [grow.remote(head, size) for size in sizes]
        after = wrap.remote(head, *sizes)
    assert ray.get(after, timeout=LIMIT_S) == [[[1], "x" * 30], 3, 3, 3, 3]
    assert ray.get([head, inner], timeout=LIMIT_S) == [[[1], "x" * 30], [1]]
    assert sent.num_followers


def test_a_producer_that_keeps_and_changes_what_it_has_returned() -> None:
    kept: list[int] = []

    @ray.remote
    def count_up(*_: Any) -> list[int]:
        kept.append(len(kept))
        return kept

    make_known(lambda i: double.remote(i))
    with sent_together():
        first = count_up.remote()
        seen = wrap.remote(first)
        second = count_up.remote(seen)
        both = wrap.remote(first, seen, second)
    [value], then = ray.get([seen, second], timeout=LIMIT_S)
    assert value == [0]
    assert ray.get(first, timeout=LIMIT_S) == [0]
    assert ray.get(both, timeout=LIMIT_S) == [[0], [[0]], then]


@pytest.mark.parametrize("size", [100, 3000, 70_000, 5 * MB], ids=["tiny", "inline", "near", "shared"])
def test_results_of_every_size_are_passed_on(size: int) -> None:
    @ray.remote
    def make(i: int) -> bytearray:
        return bytearray([i % 256]) * size

    @ray.remote
    def look(data: bytearray, *_: Any) -> tuple[int, int]:
        first = data[0]
        data[0] = 255 - first  # its own copy
        return first, len(data)

    make_known(double.remote)
    with sent_together():
        heads = [make.remote(i) for i in range(4)]
        looks = [look.remote(head) for head in heads]
        again = [look.remote(head, seen) for head, seen in zip(heads, looks)]
    assert ray.get(again + looks, timeout=LIMIT_S) == [(i, size) for i in range(4)] * 2
    assert [len(value) for value in ray.get(heads, timeout=LIMIT_S)] == [size] * 4


@both
def test_a_large_result_in_the_middle_of_a_chain(num_cpus: int) -> None:
    import numpy as np

    @ray.remote
    def stretch(x: int) -> Any:
        return np.full(MB, x, np.uint8)

    @ray.remote
    def last(array: Any) -> int:
        return int(array[-1])

    make_known(add.remote)
    with sent_together():
        refs = []
        for start in range(5):
            ref = add.remote(add.remote(start))
            refs.append(add.remote(add.remote(last.remote(stretch.remote(ref)))))
    assert ray.get(refs, timeout=LIMIT_S) == [start + 4 for start in range(5)]
    del ref, refs
    assert ray.get(add.remote(0), timeout=LIMIT_S) == 1
    assert wait_until(lambda: shared_bytes() < 64 * MB, LIMIT_S)


@both
def test_refs_and_containers_of_refs_are_passed_on(num_cpus: int) -> None:
    @ray.remote
    def give(x: int) -> Any:
        return {"put": ray.put([x]), "task": double.remote(x)}

    @ray.remote
    def read(refs: dict[str, Any]) -> list[Any]:
        return [ray.get(refs["put"]), ray.get(refs["task"])]

    @ray.remote
    def pass_on(value: Any) -> Any:
        return value

    make_known(double.remote, pass_on.remote)
    with sent_together():
        refs = [read.remote(pass_on.remote(give.remote(double.remote(x)))) for x in range(5)]
        alone = pass_on.remote(pass_on.remote(ray.put("value")))
    assert ray.get(refs, timeout=LIMIT_S) == [[[2 * x], 4 * x] for x in range(5)]
    assert ray.get(alone, timeout=LIMIT_S) == "value"
    del refs, alone
    engine: Any = current()
    assert wait_until(lambda: not engine.borders.refs, LIMIT_S)


def test_several_results_and_none() -> None:
    split: Any = ray.remote(num_returns=2)(lambda x: (x, [x, x]))
    silent: Any = ray.remote(num_returns=0)(lambda x: None)
    make_known(add.remote)
    with sent_together():
        head = add.remote(1)
        one, two = split.remote(head)
        assert silent.remote(head) is None
        tips = [add.remote(one), wrap.remote(two), add.remote(one, one)]
    assert ray.get(tips, timeout=LIMIT_S) == [3, [[2, 2]], 5]


@both
def test_neighbours_with_other_demands(num_cpus: int) -> None:
    """What needs other CPUs or must not run twice is no follower; results are the same."""
    kinds: list[Any] = [
        add.options(max_retries=0),
        add.options(num_cpus=0),
        add.options(num_cpus=0.5),
        add.options(num_cpus=num_cpus),
        add.options(batching="off"),
        add.options(batching=2),
        add.options(retry_exceptions=True),
    ]
    make_known(add.remote)
    with sent_together():
        tips = []
        for first in [*kinds, add]:
            for second in [*kinds, add]:
                tips.append(add.remote(second.remote(first.remote(0), add.remote(1))))
    assert ray.get(tips, timeout=LIMIT_S) == [5] * len(tips)


@both
def test_followers_that_get_submit_and_wait(num_cpus: int) -> None:
    @ray.remote
    def ask(x: int, inside: list[Any]) -> int:
        return x + ray.get(inside[0]) + ray.get(double.remote(x))

    make_known(add.remote, double.remote)
    with sent_together():
        head = add.remote(0)
        behind = [add.remote(head, i) for i in range(5)]
        asks = [ask.remote(each, [behind[-1]]) for each in behind]
        last = add.remote(*asks)
    assert ray.get(last, timeout=LIMIT_S) == sum(3 * (2 + i) + 6 for i in range(5)) + 1


@pytest.mark.parametrize("num_cpus", [2], indirect=True)
def test_followers_that_wait_for_each_other_do_not_stay_in_one_batch(num_cpus: int, tmp_path: Any) -> None:
    signs = [Sign(tmp_path / name) for name in "ab"]

    @ray.remote
    def meet(x: int, k: int = -1) -> int:
        if k >= 0:
            signs[k].put_up()
            signs[1 - k].wait()
        return x

    make_known(meet.remote, double.remote)
    sent = SentBatches()
    with sent_together():
        head = double.remote(1)
        behind = [meet.remote(head), meet.remote(head, 0), meet.remote(head, 1)]
        behind += [meet.remote(each) for each in behind]
    assert ray.get(behind, timeout=LIMIT_S) == [2] * 6
    assert sent.num_followers


def test_the_head_is_there_long_before_its_followers_end(tmp_path: Any) -> None:
    gate = Sign(tmp_path / "gate")

    @ray.remote
    def hold(x: int, holds: bool = False) -> int:
        if holds:
            gate.wait()
        return x

    make_known(hold.remote, double.remote)
    with sent_together():
        head = double.remote(1)
        middle = hold.remote(head)
        held = hold.remote(middle, True)
        last = hold.remote(held)
    assert ray.get([head, middle], timeout=LIMIT_S) == [2, 2]
    assert ray.wait([last, held], timeout=0)[0] == []
    gate.put_up()
    assert ray.get(last, timeout=LIMIT_S) == 2


def test_the_session_ends_in_the_middle_of_a_chain(tmp_path: Any) -> None:
    gate, begun = Sign(tmp_path / "gate"), Sign(tmp_path / "begun")

    @ray.remote
    def hold(x: int, holds: bool = False) -> int:
        if holds:
            begun.put_up()
            gate.wait()
        return x

    make_known(hold.remote)
    with sent_together():
        refs = [hold.remote(1)]
        for i in range(100):
            refs.append(hold.remote(refs[-1], i == 50))
    ray.get(refs[50], timeout=LIMIT_S)
    begun.wait()
    ray.shutdown()
    for ref in refs[51:]:
        with pytest.raises(EngineClosedError):
            ray.get(ref, timeout=LIMIT_S)
