"""The lane that runs tasks in workers.

A plain task is a remote call, and the scheduler waits for its ref. What needs somebody to stand by (a map, a
time limit, calls that must not run twice at once, or in the replicas of an environment) has a thread, which
reports into a queue. Where there are both, the wait for refs is cut into slices.
"""

from __future__ import annotations

import queue
import threading
from time import monotonic
from typing import Any

from ...api.map import map as map_items
from ...api.tasks import remote
from ...api.values import cancel, get, wait
from ..mapping.elements import ElementsRun
from ..replicas.images import place_of
from .attempt import attempt_of, remote_options, run_function, surroundings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ...objects.ref import ObjectRef
    from ..environment import ActorEnvironment
    from ..replicas.calls import Crew
    from ..running.jobs import Job
    from ..running.scheduler import Scheduler

    Ended = tuple[Job, Any, BaseException | None]

SLICE_S = 0.005


class EngineLane:
    """See the module docstring."""

    is_immediate = False
    """Whether jobs have ended when `submit` returns."""

    def __init__(self) -> None:
        self._refs: dict[ObjectRef[Any], Job] = {}
        self._results: dict[int, ObjectRef[Any]] = {}
        self._facts: dict[int, ObjectRef[Any]] = {}
        """What somebody wants to hear of the runs: by job."""
        self._told: dict[int, dict[str, Any]] = {}
        """The same of runs in replicas, which is here already."""
        self._done: queue.SimpleQueue[Ended | None] = queue.SimpleQueue()
        self._threads: dict[int, Job] = {}
        """Jobs that a thread runs, or will, by their ids."""
        self._crews: dict[Any, Crew] = {}

    def submit(self, job: Job, scheduler: Scheduler) -> None:
        """Hand a job on."""
        task = job.entity
        if task.kind == "map":
            run = ElementsRun(job, scheduler, is_inline=False)
            job.cancel = run.cancel
            self._in_thread(job, run.run)
        elif task.stand_in is not None:  # a test's mock: it can't travel
            self._done.put(_run_here(job))
        elif (place := place_of(task, job.options)) is not None:
            self._in_replica(job, place)
        elif _is_watched(job):
            watched = _Watched(job)
            job.cancel = watched.cancel
            self._in_thread(job, watched.run)
        else:
            ref = self._submit(job, has_facts=bool(scheduler.telling))
            self._refs[ref] = job
            job.cancel = lambda: cancel(ref)

    def _submit(self, job: Job, *, has_facts: bool) -> ObjectRef[Any]:
        function = remote_of(job.entity, job.options, form="with_facts" if has_facts else "")
        called = function.remote(**{**job.values, **job.refs})
        if not has_facts:
            ref: ObjectRef[Any] = called
            return ref
        ref, self._facts[id(job)] = called
        return ref

    def _in_thread(self, job: Job, act: Any) -> None:
        import contextvars

        self._threads[id(job)] = job
        context = contextvars.copy_context()
        name = f"flow {job.path}"
        threading.Thread(target=context.run, args=(self._end, job, act), name=name, daemon=True).start()

    def _in_replica(self, job: Job, place: ActorEnvironment) -> None:
        from ..replicas.calls import Crew

        crew = self._crews.get(place)
        if crew is None:
            crew = self._crews[place] = Crew(place.max_replicas)
        hosted = _Hosted(job, place, self._told)
        job.cancel = hosted.cancel
        self._threads[id(job)] = job
        crew.run(lambda: self._end(job, hosted.run), f"flow environment {place.name}")

    def _end(self, job: Job, act: Any) -> None:
        """Run a job in a thread, and report its end."""
        try:
            ended: Ended = (job, act(), None)
        except BaseException as error:
            ended = (job, None, error)
        self._done.put(ended)

    def wait(self, timeout_s: float | None) -> list[Ended]:
        """Return what has ended, at least one job, or nothing when the time is over or `wake` was called."""
        deadline = None if timeout_s is None else monotonic() + timeout_s
        while True:
            ended = self._drain()
            if ended is not None:
                return ended
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return []
            if not self._refs:
                try:
                    first = self._done.get(timeout=left)
                except queue.Empty:
                    return []
                return self._counted([first])
            if self._threads:
                left = SLICE_S if left is None else min(SLICE_S, left)
            ready = wait(list(self._refs), num_returns=1, timeout=left)[0]
            if ready:
                more = wait(list(self._refs), num_returns=len(self._refs), timeout=0)[0]
                return [self._fetched(ref) for ref in more or ready]

    def _drain(self) -> list[Ended] | None:
        """Return what is in the queue, None if it is empty."""
        found = []
        try:
            while True:
                found.append(self._done.get_nowait())
        except queue.Empty:
            return self._counted(found) if found else None

    def _counted(self, found: list[Ended | None]) -> list[Ended]:
        ended = [each for each in found if each is not None]
        for job, _, _ in ended:
            self._threads.pop(id(job), None)
        return ended

    def _fetched(self, ref: ObjectRef[Any]) -> Ended:
        job = self._refs.pop(ref)
        try:
            value = get(ref)
        except Exception as error:
            return job, None, error
        self._results[id(job)] = ref
        return job, value, None

    def wake(self) -> None:
        """End a `wait`; any thread may call it."""
        self._done.put(None)

    def facts(self, job: Job) -> dict[str, Any]:
        """Return what is known of the process that ran a job."""
        told = self._told.pop(id(job), None)
        if told is not None:
            return told
        ref = self._facts.pop(id(job), None)
        if ref is None or id(job) not in self._results:  # it did not get to the end
            return {}
        facts: dict[str, Any] = get(ref)
        return facts

    def ref_of(self, job: Job) -> Any:
        """Return the ref of a job's result, if the engine holds it."""
        return self._results.pop(id(job), None)

    def close(self) -> None:
        """Cancel what is left."""
        for ref in self._refs:
            cancel(ref)
        self._refs.clear()
        for job in self._threads.values():
            job.cancel()
        self._threads.clear()


def _is_watched(job: Job) -> bool:
    """Say whether somebody must stand by: it has a time limit, or must not run twice at once."""
    cache = job.options.cache
    return job.options.timeout_s is not None or bool(job.key and cache is not None and cache.serialize)


def _run_here(job: Job) -> Ended:
    try:
        with surroundings(job.options.variables, None):
            return job, run_function(job.entity, job.values), None
    except Exception as error:
        return job, None, error


class _Watched:
    """Runs a job that has a time limit, or that must not run twice at once."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._results: Any = None
        self._is_cancelled = False

    def run(self) -> Any:
        job = self._job
        if job.key is None or job.options.cache is None or not job.options.cache.serialize:
            return self._attempt()
        from ..kept.store import cache_store

        store = cache_store()
        with store.one_at_a_time(job.key, is_wanted=True):
            found, value = store.get(job.key)
            if not found:
                value = self._attempt()
                store.put(job.key, value, job.entity.name)
            return value

    def _attempt(self) -> Any:
        job = self._job
        function = remote_of(job.entity, job.options, form="of_dict")
        self._results = map_items(
            function, [job.values], timeout=job.options.timeout_s, progress=False, return_exceptions=False
        )
        if self._is_cancelled:
            self._results.close()
        return next(self._results)

    def cancel(self) -> None:
        """Stop it."""
        self._is_cancelled = True
        if self._results is not None:
            self._results.close()


class _Hosted(_Watched):
    """Runs a job in the replicas of its environment; `told` gets what is known of the run, by job."""

    def __init__(self, job: Job, place: ActorEnvironment, told: dict[int, dict[str, Any]]) -> None:
        from ..replicas.calls import Reach

        super().__init__(job)
        self._place = place
        self._told = told
        self._reach = Reach(place)

    def _attempt(self) -> Any:
        from ..replicas.calls import attempt_in

        job = self._job
        function = attempt_in(self._place, job.entity, job.options).of_dict_with_facts
        result, self._told[id(job)] = self._reach.call(function, job.values, job.options.timeout_s)
        return result

    def cancel(self) -> None:
        """Stop it."""
        self._reach.cancellation.set()


# -- remote functions of tasks ---------------------------------------------------------------------------


def remote_of(task: Any, options: Any, *, form: str = "") -> Any:
    """Return the remote function that runs a task with these options; each is made once.

    Args:
        task: the task.
        options: of the call.
        form: "of_dict" takes the arguments as one item, "with_facts" returns how it ran as well.
    """
    made = task.__dict__.setdefault("_remotes", {})
    given = remote_options(task, options)
    key = (repr(given), tuple(sorted(options.variables.items())), options.memory_bytes, form)
    function = made.get(key)
    if function is None:
        attempt = attempt_of(task, options)
        called = getattr(attempt, form) if form else attempt
        function = made[key] = remote(**given, num_returns=2 if form == "with_facts" else 1)(called)
    return function
