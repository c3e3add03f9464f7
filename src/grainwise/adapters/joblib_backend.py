"""joblib's tasks on the session's workers: `joblib.parallel_config("grainwise")`.

joblib hands over batches of calls, keeps a few of them ahead (`pre_dispatch`) and polls for what is done. The
batches are its own: with so few in flight the engine has nothing to batch, so joblib's sizes stay, aimed at
a twentieth of what it takes for its own processes. A large array in the calls is stored once, however many
there are.

A nested `Parallel` goes to the same workers: a task that waits for others lends its CPU, so there is neither
deadlock nor oversubscription. As with joblib's other backends it runs in place unless it asks for `n_jobs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase, SequentialBackend

from ..api.values import cancel
from . import seam
from .futures.executor import Executor

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from .futures.future import TaskFuture

# For its own processes joblib aims at 0.2 to 2 s. With two calls in flight for each worker that leaves one
# of them idle at the end; a batch costs us half a millisecond, so 10 ms are worth it already.
MIN_BATCH_S = 0.01
MAX_BATCH_S = 0.1


class GrainwiseBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """The backend; joblib makes it from its name.

    `n_jobs` bounds the tasks that run at once; -1 means the CPUs of the session. Processes are never more
    than those, and they stay when `Parallel` has ended.

    Args:
        **options: as joblib passes them: `nesting_level`, `inner_max_num_threads`.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    MIN_IDEAL_BATCH_DURATION = MIN_BATCH_S
    MAX_IDEAL_BATCH_DURATION = MAX_BATCH_S

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.parallel: Any = None
        self._executor: Executor | None = None
        self._futures: set[TaskFuture[Any]] = set()
        self._num_threads: int | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return how many tasks run at once; starts nothing.

        Raises:
            ValueError: `n_jobs` is 0.
        """
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, int(seam.num_cpus()) + 1 + n_jobs)

    def configure(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, n_jobs: int = 1, parallel: Any = None, **_: Any
    ) -> int:
        """Prepare for calls of one `Parallel`; return how many of its tasks run at once.

        Raises:
            FallbackToBackend: one task at a time needs no workers.
            ImportError: `inner_max_num_threads` is given and threadpoolctl is missing.
        """
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1:
            raise FallbackToBackend(SequentialBackend(nesting_level=self.nesting_level))
        self.parallel = parallel
        self._executor = Executor(max_workers=n_jobs)
        self._num_threads = self._choose_threads(n_jobs)
        return n_jobs

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Run a batch of calls; `callback` is told its future when it is done."""
        assert self._executor is not None
        future = self._executor.submit(run_batch, func, self._num_threads)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def apply_async(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Any:
        """Do what `submit` does, for joblib before 1.5."""
        return self.submit(func, callback)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return the results of a batch that is done, or raise its error."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the tasks of this `Parallel`: what runs is interrupted at its next bytecode."""
        futures = [future for future in list(self._futures) if not future.drop()]
        refs = [ref for future in futures if (ref := future.ref) is not None]
        seam.withdraw(refs)
        for ref in refs:
            if not ref.is_resolved():
                cancel(ref)

    def terminate(self) -> None:
        """Forget what was learnt of this `Parallel`; workers stay."""
        self.reset_batch_stats()

    def get_nested_backend(self) -> tuple[GrainwiseBackend, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return the backend for calls inside a task: the same workers, one task at a time if not asked."""
        return GrainwiseBackend(nesting_level=(self.nesting_level or 0) + 1), None

    def _choose_threads(self, n_jobs: int) -> int | None:
        """Return how many threads native libraries may use in a task, None for the session's setting."""
        if self.inner_max_num_threads is not None:
            import threadpoolctl

            return int(self.inner_max_num_threads)
        share = int(seam.num_cpus()) // n_jobs
        if share <= 1 or (self.nesting_level or 0) > 0:
            return None
        try:
            import threadpoolctl  # noqa: F401
        except ImportError:
            return None
        return share


def run_batch(batch: Callable[[], Any], num_threads: int | None) -> Any:
    """Run a batch of joblib's in a worker."""
    if num_threads is None:
        return batch()
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=num_threads):
        return batch()
