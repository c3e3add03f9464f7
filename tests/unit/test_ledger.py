"""The books of resources: what is taken is gone, what is given back is there, to the ten-thousandth."""

from __future__ import annotations

import random

import pytest

from grainwise.engine.driver.ledger import Grant, Pool
from grainwise.engine.needs import (
    NO_GROUP,
    NOTHING,
    UNIT,
    amounts_of,
    describe,
    infeasible,
    is_special,
    normal,
    to_units,
    told,
    with_cpus,
)


def make_pool(num_gpus: int = 0, **amounts: float) -> Pool:
    totals = {name: to_units(amount) for name, amount in amounts.items()}
    if num_gpus:
        totals["GPU"] = num_gpus * UNIT
    return Pool(totals, dict.fromkeys(range(num_gpus), UNIT))


def take(pool: Pool, **amounts: float) -> Grant | None:
    return pool.take(amounts_of(amounts))


def gpus_of(grant: Grant | None) -> dict[int, float]:
    assert grant is not None
    return {index: units / UNIT for index, units in grant.gpus.items()}


def test_what_is_taken_is_gone_until_it_is_given_back() -> None:
    pool = make_pool(disk=2)
    first, second = take(pool, disk=1.5), take(pool, disk=1)
    assert second is None
    assert first is not None
    assert told(pool.free.items()) == {"disk": 0.5}
    pool.give(first)
    pool.give(first)
    assert told(pool.free.items()) == {"disk": 2.0}


def test_all_is_taken_or_nothing() -> None:
    pool = make_pool(1, disk=1)
    assert take(pool, disk=1, GPU=2) is None
    assert take(pool, disk=1, other=1) is None
    assert pool.free == pool.totals
    assert take(pool, disk=1, GPU=1) is not None


def test_parts_add_up_exactly() -> None:
    pool = make_pool(disk=1)
    tenths = [take(pool, disk=0.1) for _ in range(10)]
    assert None not in tenths
    assert pool.free["disk"] == 0
    assert take(pool, disk=0.0001) is None
    thirds = make_pool(1)
    assert [take(thirds, GPU=1 / 3) is not None for _ in range(4)] == [True, True, True, False]


def test_a_whole_gpu_is_one_that_nobody_has_a_part_of() -> None:
    pool = make_pool(2)
    half = take(pool, GPU=0.5)
    assert gpus_of(half) == {0: 0.5}
    assert gpus_of(take(pool, GPU=1)) == {1: 1.0}
    assert take(pool, GPU=1) is None
    assert gpus_of(take(pool, GPU=0.5)) == {0: 0.5}


def test_parts_go_where_they_leave_the_least() -> None:
    pool = make_pool(3)
    first, second = take(pool, GPU=0.8), take(pool, GPU=0.4)
    assert gpus_of(first) == {0: 0.8}
    assert gpus_of(second) == {1: 0.4}
    assert gpus_of(take(pool, GPU=0.2)) == {0: 0.2}
    assert gpus_of(take(pool, GPU=0.6)) == {1: 0.6}
    assert gpus_of(take(pool, GPU=1)) == {2: 1.0}


def test_free_parts_of_two_gpus_are_no_gpu() -> None:
    pool = make_pool(2)
    assert gpus_of(take(pool, GPU=0.6)) == {0: 0.6}
    assert gpus_of(take(pool, GPU=0.6)) == {1: 0.6}
    assert pool.free["GPU"] == to_units(0.8)
    assert take(pool, GPU=0.5) is None


def test_several_whole_gpus() -> None:
    pool = make_pool(4)
    assert gpus_of(take(pool, GPU=3)) == {0: 1.0, 1: 1.0, 2: 1.0}
    assert take(pool, GPU=2) is None


def test_who_waits_lends_cpus_and_keeps_the_rest() -> None:
    pool = make_pool(CPU=1, disk=1)
    grant = take(pool, CPU=1, disk=1)
    assert grant is not None
    pool.lend_cpus(grant, True)
    pool.lend_cpus(grant, True)
    assert told(pool.free.items()) == {"CPU": 1.0, "disk": 0.0}
    other = take(pool, CPU=1)
    assert other is not None
    pool.lend_cpus(grant, False)  # it goes on, whoever has its CPU now
    assert told(pool.free.items()) == {"CPU": -1.0, "disk": 0.0}
    pool.give(other)
    pool.lend_cpus(grant, True)
    pool.give(grant)  # it has ended while it waited
    assert told(pool.free.items()) == {"CPU": 1.0, "disk": 1.0}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_is_taken_and_given_back_the_books_agree(seed: int) -> None:
    chance = random.Random(seed)
    pool = make_pool(3, CPU=4, disk=2.5)
    held: list[Grant] = []
    for _ in range(300):
        if held and chance.random() < 0.45:
            pool.give(held.pop(chance.randrange(len(held))))
        else:
            wanted = {
                "CPU": chance.choice([0, 0.1, 1]),
                "disk": chance.choice([0, 0.3]),
                "GPU": chance.choice([0, 0.25, 0.5, 1, 2]),
            }
            grant = take(pool, **wanted)
            if grant is not None:
                held.append(grant)
                assert sum(grant.gpus.values()) == to_units(wanted["GPU"])
        for name, total in pool.totals.items():
            assert 0 <= pool.free[name] == total - sum(grant.amounts.get(name, 0) for grant in held)
        for index, free in pool.free_gpus.items():
            assert 0 <= free == UNIT - sum(grant.gpus.get(index, 0) for grant in held)
    for grant in held:
        pool.give(grant)
    assert pool.free == pool.totals
    assert set(pool.free_gpus.values()) == {UNIT}


def test_needs_and_their_names() -> None:
    amounts = amounts_of({"disk": 2, "GPU": 0.5, "none": 0})
    assert amounts == (("GPU", 5000), ("disk", 20000))
    assert with_cpus(amounts, 1.5)[0] == ("CPU", 15000)
    assert with_cpus(amounts, 0) == amounts
    assert describe(amounts) == "GPU=0.5, disk=2"
    assert describe([("memory", 3_000_000_000 * UNIT)]) == "memory=3000000000"
    assert describe([]) == "nothing"
    assert not is_special(NOTHING)
    assert not is_special(((), NO_GROUP, -1, False))
    assert is_special(((), "ab", 0, False))
    assert is_special((amounts, "", -1, False))
    assert normal((amounts, NO_GROUP, 3, True)) == (amounts, "", -1, False)


def test_what_can_not_be_had_says_what_there_is() -> None:
    error = infeasible("task 'f'", "disk", 2 * UNIT, {"CPU": 2.0, "disk": 1.0, "node:here": 1.0})
    assert str(error) == (
        "task 'f' asks for resources={'disk': 2} - expected at most 1, which is what the engine has - in all "
        "it has CPU=2, disk=1"
    )
    assert "nothing of the kind" in str(infeasible("task 'f'", "GPU", UNIT, {"CPU": 2.0}))
