"""How each system is started and stopped: one entry per system, its workers warm before any timing.

Every starter is a context manager that yields the handle which forms use as `bench.system`.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

STORE_BYTES = 4_000_000_000  # room for the largest row (F6: five arrays of 200 MB) without spilling


def touch(x: int) -> int:
    """The task that warms a pool up."""
    return x


class PlainProcesses:
    """Forked processes with a pipe each and no library: the reference for limits."""

    def __init__(self, n_workers: int) -> None:
        context = multiprocessing.get_context("fork")
        self.pipes = []
        self._processes = []
        for _ in range(n_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=self._serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self._processes.append(process)

    @staticmethod
    def _serve(pipe: Any) -> None:
        while (message := pipe.recv()) is not None:
            function, arguments = message
            pipe.send(function(*arguments))

    def run(self, function: Callable[..., Any], arguments_of_each: list[tuple[Any, ...]]) -> list[Any]:
        """Call `function` once in each process, all at the same time: one message there, one back."""
        for pipe, arguments in zip(self.pipes, arguments_of_each, strict=True):
            pipe.send((function, arguments))
        return [pipe.recv() for pipe in self.pipes]

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(5)


@contextmanager
def _nothing(n_workers: int) -> Iterator[None]:
    yield None


@contextmanager
def _plain(n_workers: int) -> Iterator[PlainProcesses]:
    processes = PlainProcesses(n_workers)
    try:
        yield processes
    finally:
        processes.close()


@contextmanager
def _grainwise(n_workers: int) -> Iterator[Any]:
    import grainwise

    grainwise.init(num_cpus=n_workers, object_store_memory=STORE_BYTES)
    try:
        task = grainwise.remote(touch)
        grainwise.get([task.remote(x) for x in range(100)])
        yield grainwise
    finally:
        grainwise.shutdown()


@contextmanager
def _pool(n_workers: int) -> Iterator[Any]:
    with multiprocessing.Pool(n_workers) as pool:
        pool.map(touch, range(100), chunksize=1)
        yield pool


@contextmanager
def _executor(n_workers: int) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(n_workers) as executor:
        list(executor.map(touch, range(100)))
        yield executor


@contextmanager
def _ray(n_workers: int) -> Iterator[Any]:
    os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO="0")
    import ray

    # In TMPDIR, where Ray does not look by itself; it leaves its logs behind.
    folder = tempfile.mkdtemp(prefix="ray")
    try:
        ray.init(
            address="local",
            num_cpus=n_workers,
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _temp_dir=folder,
        )
        task = ray.remote(touch)
        ray.get([task.remote(x) for x in range(100)])
        yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _joblib(n_workers: int) -> Iterator[Any]:
    import joblib

    parallel = partial(joblib.Parallel, n_jobs=n_workers)
    parallel()(joblib.delayed(touch)(x) for x in range(100))
    try:
        yield parallel
    finally:
        joblib.externals.loky.get_reusable_executor().shutdown(wait=True)


@contextmanager
def _dask(n_workers: int) -> Iterator[Any]:
    import dask

    with ProcessPoolExecutor(n_workers) as executor:
        list(executor.map(touch, range(100)))
        compute = partial(dask.compute, scheduler="processes", pool=executor)
        compute(*[dask.delayed(touch)(x) for x in range(10)])
        yield compute


@contextmanager
def _distributed(n_workers: int) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    folder = tempfile.mkdtemp(prefix="dask")
    options = {"threads_per_worker": 1, "dashboard_address": None, "local_directory": folder}
    try:
        with (
            LocalCluster(n_workers=n_workers, processes=True, silence_logs=40, **options) as cluster,
            Client(cluster) as client,
        ):
            client.gather(client.map(touch, range(100)))
            yield client
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _mpire(n_workers: int) -> Iterator[Any]:
    from mpire import WorkerPool

    with WorkerPool(n_jobs=n_workers, keep_alive=True) as pool:
        pool.map(touch, range(100))
        yield pool


Starter = Callable[[int], AbstractContextManager[Any]]

# Name → (shown as, packages it needs, starter). `serial` and `limit` need no package and always run.
SYSTEMS: dict[str, tuple[str, tuple[str, ...], Starter]] = {
    "serial": ("plain Python", (), _nothing),
    "limit": ("limit", (), _plain),
    "grainwise": ("grainwise", ("grainwise", "cloudpickle"), _grainwise),
    "pool": ("multiprocessing.Pool", (), _pool),
    "executor": ("ProcessPoolExecutor", (), _executor),
    "ray": ("Ray", ("ray",), _ray),
    "joblib": ("joblib", ("joblib",), _joblib),
    "dask": ("Dask (processes)", ("dask",), _dask),
    "distributed": ("Dask distributed", ("dask", "distributed"), _distributed),
    "mpire": ("mpire", ("mpire",), _mpire),
}

PEERS = tuple(name for name in SYSTEMS if name not in ("serial", "limit", "grainwise"))


def missing_packages(packages: tuple[str, ...]) -> list[str]:
    """Which of `packages` cannot be imported here (looked up, not imported)."""
    return [name for name in packages if importlib.util.find_spec(name) is None]
