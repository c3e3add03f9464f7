"""A large argument: a 200 MB table passed by value to every resampling task."""

from __future__ import annotations

from multiprocessing import Pool
from typing import TYPE_CHECKING

import numpy as np

import grainwise
from grainwise.demo.bundled import measurements
from grainwise.demo.story import Reasons, Story

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_BYTES = 200_000_000
N_BYTES_QUICK = 50_000_000
N_SAMPLES = 24
N_DRAWN = 100_000


def trimmed_mean(table: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Draw rows with replacement and average their columns without the outer tenths."""
    rows = np.random.default_rng(seed).integers(len(table), size=N_DRAWN)
    n_outer = N_DRAWN // 10
    middle = np.sort(table[rows], axis=0)[n_outer:-n_outer]
    return np.asarray(middle.mean(axis=0))


def in_plain_python(table: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Call it once for each sample."""
    return [trimmed_mean(table, seed) for seed in range(N_SAMPLES)]


def with_pool(table: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Pass the table with each sample's seed."""
    with Pool() as pool:
        return pool.starmap(trimmed_mean, [(table, seed) for seed in range(N_SAMPLES)])


def with_grainwise(table: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Pass the table with each sample's seed."""
    mean = grainwise.remote(trimmed_mean)
    return grainwise.get([mean.remote(table, seed) for seed in range(N_SAMPLES)])


def table_of_measurements(is_quick: bool) -> NDArray[np.float64]:
    """Repeat the 569 rows of the breast cancer data that scikit-learn ships until they fill the table."""
    measured = measurements()
    n_rows = (N_BYTES_QUICK if is_quick else N_BYTES) // (measured.shape[1] * measured.itemsize)
    return np.resize(measured, (n_rows, measured.shape[1]))


def describe(table: NDArray[np.float64]) -> str:
    """Say how large the table is."""
    n_rows, n_columns = table.shape
    size = f"{table.nbytes / 1e6:.0f} MB"
    return f"a table of {n_rows:,} × {n_columns}, {size}: scikit-learn's breast cancer measurements, repeated"


def finding(means: list[NDArray[np.float64]]) -> str:
    """Give the first column's mean with its spread over the resamples."""
    radii = [float(mean[0]) for mean in means]
    return f"mean radius {np.mean(radii):.3f} ± {np.std(radii):.3f} over {len(radii)} resamples (bootstrap)"


def is_same(one: list[NDArray[np.float64]], other: list[NDArray[np.float64]]) -> bool:
    """Compare exactly: the same seed draws the same rows in any process."""
    return np.array_equal(one, other)


STORY: Story[NDArray[np.float64], list[NDArray[np.float64]]] = Story(
    name="argument",
    title="A large argument: one table, passed by value to every task",
    prepare=table_of_measurements,
    describe=describe,
    count_tasks=lambda table: N_SAMPLES,
    task=trimmed_mean,
    plain=in_plain_python,
    pool=with_pool,
    naive=with_grainwise,
    finding=finding,
    reasons=Reasons(
        ahead_of_plain="the table is stored once and read in place, and every CPU draws samples",
        ahead_of_pool="Pool pickles the table again for each of its pieces and pushes it through a pipe",
        handing_over="the first copies the table into shared memory, the others check that it is the same",
        waiting="the workers draw samples from the table in shared memory",
    ),
    by_itself="saw the same table in all calls, stored it once, let the workers read it in place",
    is_same=is_same,
)
