"""Tasks and objects: calls at once, results by `get`, refs as arguments, several results, readiness."""

import time

import numpy as np
import ray

ray.init(num_cpus=2)


@ray.remote
def slow_square(x):
    time.sleep(0.01)
    return x * x


@ray.remote
def add(a, b):
    return a + b


@ray.remote(num_returns=3)
def three():
    return 0, 1, 2


@ray.remote
def total(array):
    assert not array.flags.writeable
    return float(array.sum())


assert ray.get([slow_square.remote(i) for i in range(4)]) == [0, 1, 4, 9]

chained = add.remote(slow_square.remote(3), 1)
assert ray.get(chained) == 10
nested = ray.put({"refs": [chained]})
assert ray.get(ray.get(nested)["refs"]) == [10]

assert ray.get(list(three.remote())) == [0, 1, 2]
first, _, third = three.options(name="renamed").remote()
assert ray.get(first) + ray.get(third) == 2

ones = ray.put(np.ones((1000, 100)))
assert ray.get([total.remote(ones) for _ in range(3)]) == [100_000.0] * 3

pending = [slow_square.remote(i) for i in range(6)]
seen = []
while pending:
    ready, pending = ray.wait(pending, num_returns=min(2, len(pending)), timeout=10)
    seen += ray.get(ready)
assert sorted(seen) == [0, 1, 4, 9, 16, 25]

try:
    slow_square(3)
except TypeError:
    pass
else:
    raise AssertionError("a direct call must be refused")

assert ray.is_initialized()
ray.shutdown()
assert not ray.is_initialized()
print("done")
