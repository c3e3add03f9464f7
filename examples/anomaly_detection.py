"""Find anomalies among measured points: one map over 10, 20, 100 and 1,000,000 elements.

    python examples/anomaly_detection.py [NUMBER ...]

An element is one point and costs a microsecond or less; nobody picks a batch size.
"""

from __future__ import annotations

import functools
import random
import statistics
import sys
from time import perf_counter
from typing import NamedTuple

from grainwise.flow import map_task, task, workflow


class Model(NamedTuple):
    """What points are compared with."""

    mean: float
    deviation: float


@task
def measure(n_points: int, seed: int) -> list[float]:
    """Return points around 20, of which one in a thousand is far off."""
    chance = random.Random(seed)
    return [chance.gauss(20, 2) + (30 if chance.random() < 0.001 else 0) for _ in range(n_points)]


@task
def fit(points: list[float]) -> Model:
    """Return the mean and the deviation of a sample of points."""
    sample = points[:10_000]
    return Model(statistics.fmean(sample), statistics.pstdev(sample))


@task
def is_anomaly(point: float, mean: float, deviation: float) -> bool:
    """Say whether a point is more than four deviations from the mean."""
    return abs(point - mean) > 4 * deviation


@task
def count(flags: list[bool]) -> int:
    """Return how many anomalies there are."""
    return sum(flags)


@workflow
def find_anomalies(n_points: int = 100, seed: int = 1) -> int:
    """Return the number of anomalies among so many points."""
    points = measure(n_points=n_points, seed=seed)
    mean, deviation = fit(points=points)
    detect = map_task(is_anomaly, bound_inputs={"mean", "deviation"})
    return count(flags=detect(point=points, mean=mean, deviation=deviation))


detect_with = functools.partial(is_anomaly, mean=20.0, deviation=2.0)

if __name__ == "__main__":
    for number in [int(word) for word in sys.argv[1:]] or [10, 20, 100, 1_000_000]:
        start = perf_counter()
        n_found = find_anomalies(n_points=number)
        print(f"{number:>9,} points: {n_found:>5,} anomalies in {perf_counter() - start:.3f} s")
