"""An expensive start: a fitted model of over 100 MB passed by value with every small batch."""

from __future__ import annotations

import pickle
from multiprocessing import Pool
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import grainwise
from grainwise.demo.story import Reasons, Story

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.ensemble import ExtraTreesClassifier

N_TREES = 700
N_TREES_QUICK = 150
N_BATCHES = 64


class Job(NamedTuple):
    """A fitted model and the batches to predict."""

    model: ExtraTreesClassifier
    batches: list[NDArray[np.float64]]


def predict(model: ExtraTreesClassifier, batch: NDArray[np.float64]) -> NDArray[np.int64]:
    """Tell which digits the images of one batch show."""
    return np.asarray(model.predict(batch), np.int64)


def in_plain_python(job: Job) -> NDArray[np.int64]:
    """Call it once for each batch."""
    digits = [predict(job.model, batch) for batch in job.batches]
    return np.concatenate(digits)


def with_pool(job: Job) -> NDArray[np.int64]:
    """Pass the model with each batch."""
    with Pool() as pool:
        digits = pool.starmap(predict, [(job.model, batch) for batch in job.batches])
    return np.concatenate(digits)


def with_grainwise(job: Job) -> NDArray[np.int64]:
    """Pass the model with each batch."""
    prediction = grainwise.remote(predict)
    digits = grainwise.get([prediction.remote(job.model, batch) for batch in job.batches])
    return np.concatenate(digits)


def fitted_model_and_batches(is_quick: bool) -> Job:
    """Fit on one half of the handwritten digits that scikit-learn ships, to predict the other half."""
    from sklearn.datasets import load_digits  # here: the tasks need no more than the model's own modules
    from sklearn.ensemble import ExtraTreesClassifier

    images, digits = load_digits(return_X_y=True)
    n_trees = N_TREES_QUICK if is_quick else N_TREES
    model = ExtraTreesClassifier(n_trees, random_state=0, n_jobs=-1)
    # Splits drawn at random make the largest trees in the shortest time: the fit takes about a second.
    model.set_params(max_features=1)
    model.fit(images[::2], digits[::2])
    model.n_jobs = None  # a form shall use one CPU for each of its tasks, not all of them
    return Job(model, np.array_split(images[1::2], N_BATCHES))


def describe(job: Job) -> str:
    """Say how large the model is."""
    n_bytes = len(pickle.dumps(job.model, protocol=pickle.HIGHEST_PROTOCOL))
    n_rows = sum(map(len, job.batches))
    model = f"a forest of {len(job.model.estimators_)} trees, {n_bytes / 1e6:.0f} MB"
    return f"{model}, fitted on scikit-learn's digits; {n_rows} new ones in {len(job.batches)} batches"


def finding(predicted: NDArray[np.int64]) -> str:
    """Give the part of digits that were told right."""
    from sklearn.datasets import load_digits

    _, digits = load_digits(return_X_y=True)
    return f"{np.mean(predicted == digits[1::2]):.1%} of {len(predicted)} handwritten digits told right"


STORY: Story[Job, NDArray[np.int64]] = Story(
    name="forest",
    title="An expensive start: a large fitted model, passed by value with every small batch",
    prepare=fitted_model_and_batches,
    describe=describe,
    count_tasks=lambda job: len(job.batches),
    task=predict,
    plain=in_plain_python,
    pool=with_pool,
    naive=with_grainwise,
    finding=finding,
    reasons=Reasons(
        ahead_of_plain="the model is stored once, its arrays are read in place, and every CPU predicts",
        ahead_of_pool="Pool pickles the model for each of its pieces, sends it and loads it there",
        handing_over="each pickles the model to see whether it has changed",
        waiting="the workers predict, each task with a model built anew over the arrays in shared memory",
    ),
    by_itself="saw the same model in all calls, stored it once, let the workers read its arrays in place",
    is_same=np.array_equal,
)
