"""A pool in the place of multiprocessing's, and joblib's backend."""

import random

import joblib
import ray
from ray.util.joblib import register_ray
from ray.util.multiprocessing import Pool

ray.init(num_cpus=2)


def inside(_):
    x, y = random.random(), random.random()
    return x * x + y * y <= 1


def power(base, exponent):
    return base**exponent


def double(x):
    return 2 * x


with Pool(2) as pool:
    hits = sum(pool.map(inside, range(2000)))
    assert 2.5 < 4 * hits / 2000 < 3.8
    assert pool.starmap(power, [(2, 3), (3, 2)]) == [8, 9]
    assert list(pool.imap(double, range(5))) == [0, 2, 4, 6, 8]
    assert sorted(pool.imap_unordered(double, range(5), chunksize=2)) == [0, 2, 4, 6, 8]
    result = pool.apply_async(power, (2,), {"exponent": 5})
    result.wait()
    assert result.ready()
    assert result.successful()
    assert result.get(timeout=30) == 32

register_ray()
with joblib.parallel_backend("ray", n_jobs=2):
    assert joblib.Parallel()(joblib.delayed(double)(i) for i in range(10)) == [2 * i for i in range(10)]
print("done")
