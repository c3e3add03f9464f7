"""F11: tiny tasks that need each other: a chain of 10,000, and a tree that sums 100,000 leaves.

Every link of the chain takes the ref of the one before; every sum of the tree takes two refs, every leaf is a
task, too. There is no work in it, so this is the cost of an edge: of a round trip each where every task waits
at the driver for its inputs, of next to nothing where dependants travel with what they depend on.
Slow peers run a tenth of both, which their names say: figures are per edge and per leaf.

Goal: at most 20 µs per edge of the chain; the tree in at most 1 s.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.figures import Figures, Goal
from benchmarks.row import Bench, Form, Row, Run, Samples

N_CHAIN, N_LEAVES = 10_000, 100_000
CHAIN, TREE = "per edge of the chain", "per leaf of the tree"
OURS = "grainwise: naive loop"


def increment(x: int) -> int:
    return x + 1


def leaf(x: int) -> int:
    return x


def add(x: int, y: int) -> int:
    return x + y


def reduce_pairs(level: list[Any], combine: Callable[[Any, Any], Any]) -> Any:
    """Combine two by two until one is left."""
    while len(level) > 1:
        pairs = [combine(x, y) for x, y in zip(level[::2], level[1::2])]
        level = pairs + level[len(pairs) * 2 :]
    return level[0]


def programs(
    call: Callable[..., Any],
    get: Callable[[Any], Any],
    shrink: int = 1,
    has_tree: bool = True,
) -> Run:
    """A form's run: chain and tree; `call(function, *arguments)` makes a ref, `get` resolves one."""
    n_chain, n_leaves = N_CHAIN // shrink, N_LEAVES // shrink

    def chain() -> Any:
        ref = call(increment, 0)
        for _ in range(n_chain - 1):
            ref = call(increment, ref)
        return get(ref)

    def tree() -> Any:
        leaves = [call(leaf, i) for i in range(n_leaves)]
        return get(reduce_pairs(leaves, lambda x, y: call(add, x, y)))

    def run() -> Iterator[tuple[str, int, int, Callable[[], Any]]]:
        yield CHAIN, n_chain, n_chain, chain
        if has_tree:
            yield TREE, n_leaves, n_leaves * (n_leaves - 1) // 2, tree

    return run


def measure(form: Form, run: Run, check: Callable[[Any], None], bench: Bench) -> Samples:
    samples: Samples = {}
    for name, divisor, expected, program in run():
        gc.collect()
        start = time.perf_counter()
        result = program()
        samples[name] = [(time.perf_counter() - start) / divisor]
        assert result == expected, "wrong result"
    return samples


def judge(figures: Figures) -> list[Goal]:
    return [
        figures.at_most("≤ 20 µs per edge of the chain", OURS, 20e-6, CHAIN),
        figures.at_most("tree ≤ 1 s (10 µs per leaf)", OURS, 1.0 / N_LEAVES, TREE),
    ]


ROW = Row(
    id="F11",
    title="a chain of 10,000 dependent tiny tasks; a tree sum of 100,000 leaves",
    reference=OURS,
    rounds=7,
    quick_rounds=2,
    units={CHAIN: "us", TREE: "us"},
    measure=measure,
    judge=judge,
)


@ROW.form("serial", "function calls", kind="serial")
def _(bench: Bench) -> Run:
    return programs(lambda function, *arguments: function(*arguments), lambda value: value)


@ROW.form("limit", "chain: a socket round trip per edge", kind="limit", rounds=3)
def _(bench: Bench) -> Run:
    def call(function: Callable[..., Any], x: int) -> int:
        pipe = bench.system.pipes[0]
        pipe.send((function, (x,)))
        return pipe.recv()  # type: ignore[no-any-return]

    return programs(call, lambda value: value, has_tree=False)


@ROW.form("grainwise", "naive loop", kind="ours")
def _(bench: Bench) -> Run:
    grainwise = bench.system
    tasks = {function: grainwise.remote(function) for function in (increment, leaf, add)}
    return programs(lambda function, *arguments: tasks[function].remote(*arguments), grainwise.get)


@ROW.form("ray", "naive loop, a tenth of it", kind="naive", rounds=2, quick_rounds=1)
def _(bench: Bench) -> Run:
    ray = bench.system
    tasks = {function: ray.remote(function) for function in (increment, leaf, add)}
    return programs(lambda function, *arguments: tasks[function].remote(*arguments), ray.get, shrink=10)


@ROW.form("dask", "delayed, a tenth of it", kind="naive", rounds=2, quick_rounds=1)
def _(bench: Bench) -> Run:
    from dask import delayed

    tasks = {function: delayed(function) for function in (increment, leaf, add)}
    return programs(
        lambda function, *arguments: tasks[function](*arguments),
        lambda ref: bench.system(ref)[0],
        shrink=10,
        has_tree=False,
    )


@ROW.form("distributed", "submit loop, a tenth of it", kind="naive", rounds=2, quick_rounds=1)
def _(bench: Bench) -> Run:
    client = bench.system
    return programs(
        lambda function, *arguments: client.submit(function, *arguments, pure=False),
        lambda ref: ref.result(),
        shrink=10,
    )
