"""An expensive start: a fitted model of over 100 MB passed by value with every batch."""

from __future__ import annotations

import pickle
from multiprocessing import Pool
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import grainwise
from grainwise.demo.bundled import picture
from grainwise.demo.story import Reasons, Story

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.ensemble import ExtraTreesRegressor

    Pixels = NDArray[np.float64]
    Windows = NDArray[np.float32]

N_TREES = 24
N_TREES_QUICK = 6
N_FITTED = 36_000
N_BATCHES = 32
REACH = 2  # a window is 5 × 5
NOISE = 20.0  # standard deviation, of 255


class Job(NamedTuple):
    """A fitted model and the batches of windows to predict."""

    model: ExtraTreesRegressor
    batches: list[Windows]


def denoise(model: ExtraTreesRegressor, windows: Windows) -> Pixels:
    """Predict the pixels in the middle of windows, each window turned four ways."""
    turned = [np.rot90(windows, turn, axes=(1, 2)) for turn in range(4)]
    guesses = [model.predict(each.reshape(len(each), -1)) for each in turned]
    return np.asarray(np.mean(guesses, axis=0))


def in_plain_python(job: Job) -> Pixels:
    """Call it once for each batch."""
    pixels = [denoise(job.model, windows) for windows in job.batches]
    return np.concatenate(pixels)


def with_pool(job: Job) -> Pixels:
    """Pass the model with each batch."""
    with Pool() as pool:
        pixels = pool.starmap(denoise, [(job.model, windows) for windows in job.batches])
    return np.concatenate(pixels)


def with_grainwise(job: Job) -> Pixels:
    """Pass the model with each batch."""
    denoised = grainwise.remote(denoise)
    pixels = grainwise.get([denoised.remote(job.model, windows) for windows in job.batches])
    return np.concatenate(pixels)


def fitted_model_and_batches(is_quick: bool) -> Job:
    """Fit on one noisy photo that scikit-learn ships, to take the noise off the other."""
    from sklearn.ensemble import ExtraTreesRegressor  # here: the tasks need no more than the model's modules

    random = np.random.default_rng(0)
    china, flower = grey("china.jpg"), grey("flower.jpg")
    n_trees = N_TREES_QUICK if is_quick else N_TREES
    model = ExtraTreesRegressor(n_trees, max_features=5, random_state=0, n_jobs=-1)
    fitted = random.choice(china.size, N_FITTED, replace=False)
    model.fit(windows_of(noisy(china, random))[fitted].reshape(N_FITTED, -1), china.ravel()[fitted])
    model.n_jobs = None  # a form shall use one CPU for each of its tasks, not all of them
    return Job(model, np.array_split(windows_of(noisy(flower, random)), N_BATCHES))


def grey(name: str) -> Pixels:
    """Read a photo and give its brightness."""
    return np.asarray(picture(name).mean(axis=2))


def noisy(photo: Pixels, random: np.random.Generator) -> Pixels:
    """Add the noise of a small sensor in the dark."""
    return photo + random.normal(0, NOISE, photo.shape)


def windows_of(photo: Pixels) -> Windows:
    """Cut out the surroundings of each pixel."""
    padded = np.pad(photo, REACH, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * REACH + 1, 2 * REACH + 1))
    return windows.reshape(photo.size, *windows.shape[2:]).astype(np.float32)


def describe(job: Job) -> str:
    """Say how large the model is."""
    n_bytes = len(pickle.dumps(job.model, protocol=pickle.HIGHEST_PROTOCOL))
    n_pixels = sum(map(len, job.batches))
    model = f"a forest of {len(job.model.estimators_)} trees, {n_bytes / 1e6:.0f} MB, fitted on a photo"
    return f"{model}; {n_pixels:,} pixels of another in {len(job.batches)} batches; both scikit-learn's"


def finding(denoised: Pixels) -> str:
    """Say how much noise is left."""
    left = np.std(denoised - grey("flower.jpg").ravel())
    return f"the noise of the photo went from {NOISE:.1f} down to {left:.1f} of 255"


STORY: Story[Job, Pixels] = Story(
    name="forest",
    title="An expensive start: take the noise off a photo with a large fitted model, passed by value",
    prepare=fitted_model_and_batches,
    describe=describe,
    count_tasks=lambda job: len(job.batches),
    task=denoise,
    plain=in_plain_python,
    pool=with_pool,
    naive=with_grainwise,
    finding=finding,
    reasons=Reasons(
        ahead_of_plain="the model is stored once, its arrays are read in place, and every CPU predicts",
        ahead_of_pool="Pool pickles the model for each of its pieces, sends it and loads it there",
        handing_over="each pickles the model to see whether it has changed",
        waiting="the workers import scikit-learn and predict",
    ),
    by_itself="saw the same model in all calls, stored it once, let the workers read its arrays in place",
    is_same=np.array_equal,
)
