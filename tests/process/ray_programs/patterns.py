"""Ways of working: a bound on pending calls, results as they come, batches by hand, `put` before a loop."""

import numpy as np
import ray
from ray.util import as_completed, map_unordered

ray.init(num_cpus=2)


@ray.remote
def work(x):
    return x + 1


@ray.remote
def work_on_many(items):
    return [x + 1 for x in items]


MAX_PENDING = 8
pending, results = [], []
for i in range(50):
    if len(pending) >= MAX_PENDING:
        ready, pending = ray.wait(pending, num_returns=1)
        results += ray.get(ready)
    pending.append(work.remote(i))
results += ray.get(pending)
assert sorted(results) == list(range(1, 51))

assert sorted(as_completed([work.remote(i) for i in range(20)], chunk_size=3)) == list(range(1, 21))
assert sorted(map_unordered(work, range(30), backpressure_size=10, chunk_size=5)) == list(range(1, 31))

parts = ray.get([work_on_many.remote(list(range(i, i + 10))) for i in range(0, 50, 10)])
assert [x for part in parts for x in part] == list(range(1, 51))


@ray.remote
def row_sum(matrix, row):
    return int(matrix[row].sum())


matrix = np.arange(10_000).reshape(100, 100)
shared = ray.put(matrix)
assert ray.get([row_sum.remote(shared, i) for i in range(100)]) == matrix.sum(axis=1).tolist()

config = {"step": 1}


@ray.remote
def read_config():
    return config["step"]


assert ray.get(read_config.remote()) == 1
print("done")
