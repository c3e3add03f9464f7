"""The runtime environments of a session: which there are, how they are made, and when they go.

    spec with an environment ──► NEW ──► MAKING (a thread) ──► THERE ──► template, at the first worker
                                                          └──► FAILED ─► its tasks fail; made again later

Tasks of an environment that is not there stay in their queues, and others pass them. Nobody waits for it but
they: it is made in a thread of its own, outside of the turn.

An idle template ends after a while, with its workers; the next task starts another, of what is made already.
So do the ones used longest ago when there are more than `MAX_TEMPLATES`. That of the session stays.
"""

from __future__ import annotations

import _thread
import os
from time import monotonic

from ...errors import EngineClosedError, GrainwiseError, RuntimeEnvSetupError, WorkerStartError
from . import crash
from .environment import FAILED, MAKING, NEW, THERE, Environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from ..environments.cache import Cache
    from ..processes.template_handle import TemplateHandle
    from ..wire.tasks import TaskSpec
    from .engine import Engine

KEEP_ERROR_S = 10.0
"""So long tasks of an environment that could not be made fail at once; then it is tried again."""
CLOSE_S = 5.0
MAX_START_FAILURES = 3
MAX_TEMPLATES = 8
"""So many idle environments keep their template."""


class Environments:
    """All environments of a session. Used under the engine's turn, unless stated otherwise.

    Args:
        engine: the engine.
        text: what the session's own environment says, "" for nothing.

    Attributes:
        own: the session's, which all tasks inherit; None if it says nothing.
        unsettled: those that are not there, or not yet.
    """

    def __init__(self, engine: Engine, text: str) -> None:
        self._engine = engine
        self._lock = _thread.RLock()
        self._known: dict[str, Environment] = {}
        self._inherited: dict[tuple[Environment | None, str], Environment | None] = {}
        self._cache: Cache | None = None
        self._makers: list[Any] = []  # locks that are released as threads end
        self.unsettled: dict[Environment, None] = {}
        self.own = self.of(None, text)

    def of(self, parent: Environment | None, text: str) -> Environment | None:
        """Return the environment of a task that says `text`, submitted in `parent`. In any thread."""
        if not text:
            return parent
        from ..environments.spec import identity, merge

        found = self._inherited.get((parent, text))
        if found is None:
            merged = merge("" if parent is None else parent.text, text)
            key = identity(merged)
            with self._lock:
                found = self._known.get(key)
                if found is None and key:
                    found = self._known[key] = self._add(merged)
                self._inherited[parent, text] = found
        return found

    def _add(self, text: str) -> Environment:
        from ..environments.prepared import Prepared
        from ..environments.spec import fields, needs_making

        found = Environment(text, Prepared())
        if not needs_making(text):
            found.prepared.variables = fields(text).get("env_vars", {})
            found.state = THERE
        else:
            self.unsettled[found] = None
        return found

    def all(self) -> list[Environment]:
        """Return all environments that the session has seen."""
        return list(self._known.values())

    def begin(self) -> None:
        """Start what the session's own environment needs: the first task will need it."""
        if self.own is not None and self.is_there(self.own):
            try:
                self._engine.pool.start_template(self.own)
            except WorkerStartError:
                pass  # the first task tries again, and says so

    # -- making ----------------------------------------------------------------------------------------

    def is_there(self, environment: Environment) -> bool:
        """Say whether workers can be started in it; if nobody has begun to make it, have that done."""
        if environment.state == FAILED and monotonic() - environment.failed_at > KEEP_ERROR_S:
            environment.state = NEW
        if environment.state == NEW:
            environment.state = MAKING
            is_over = _thread.allocate_lock()
            is_over.acquire()
            try:
                _thread.start_new_thread(self._run, (environment, is_over))
            except RuntimeError as error:  # the interpreter is ending, or there are too many
                self._fail(environment, RuntimeEnvSetupError(f"the environment can't be made: {error}"))
                return False
            self._makers = [each for each in self._makers if each.locked()]
            self._makers.append(is_over)
        return environment.state == THERE

    def hold(self, specs: Iterable[TaskSpec]) -> set[TaskSpec]:
        """Return those of some specs that can't be sent now; fail what is queued where none ever can."""
        held: set[TaskSpec] = set()
        for spec in list(specs):
            environment = spec.environment
            if environment is None or not spec.open or self.is_there(environment):
                continue
            held.add(spec)
            if environment.state == FAILED and environment.error is not None:
                crash.fail_queue(self._engine, spec, environment.error)
        return held

    def _run(self, environment: Environment, is_over: Any) -> None:
        """Make an environment; in a thread of its own."""
        try:
            self._make(environment)
        except Exception as error:  # a bug of ours: else its tasks would hang
            with self._engine.turn:
                self._fail(environment, crash.internal(error))
            raise
        finally:
            is_over.release()

    def _checker(self, environment: Environment) -> Callable[[], None]:
        """Return what raises when an environment need not be made any more, or has taken too long."""
        from ..environments.spec import timeout_s

        engine = self._engine
        limit_s = timeout_s(environment.text)
        deadline = None if limit_s is None else monotonic() + limit_s

        def check() -> None:
            if engine.is_closed:
                raise EngineClosedError("the engine was shut down while an environment was made")
            if deadline is not None and monotonic() > deadline:
                raise RuntimeEnvSetupError(
                    f"the runtime environment was not made within {limit_s:g} s - set "
                    "config={'setup_timeout_seconds': ...} if it takes longer"
                )

        return check

    def _make(self, environment: Environment) -> None:
        from ..environments.prepared import Prepared, prepare

        engine = self._engine
        made: Prepared | None = None
        error: GrainwiseError | None = None
        try:
            made = prepare(environment.text, self._open_cache(), self._checker(environment))
        except GrainwiseError as failure:
            error = failure
        except Exception as failure:  # such as a full disk
            error = RuntimeEnvSetupError(
                f"the runtime environment can't be made: {type(failure).__name__}: {failure}"
            )
            error.__cause__ = failure
        with engine.turn:
            if engine.is_closed:
                if made is not None:
                    made.close()
                return
            if made is not None:
                environment.prepared.close()  # of an earlier time, before its processes failed to start
                environment.prepared = made
                environment.state = THERE
                environment.error = None
                environment.used_at = monotonic()
                self.unsettled.pop(environment, None)
            elif error is not None:
                self._fail(environment, error)
            engine.dispatcher.dispatch(waiting=True)
        engine.backstop.wake()
        engine.kick()
        engine.run_callbacks()

    def _open_cache(self) -> Cache:
        from ..environments.cache import Cache

        with self._lock:
            if self._cache is None:
                self._cache = Cache(os.path.join(self._engine.settings.cache_directory, "environments"))
            return self._cache

    def _fail(self, environment: Environment, error: GrainwiseError) -> None:
        environment.state = FAILED
        environment.error = error
        environment.failed_at = monotonic()
        self.unsettled[environment] = None

    # -- processes -------------------------------------------------------------------------------------

    def gives_up(
        self, environment: Environment | None, detail: str = "", *, is_certain: bool = False
    ) -> bool:
        """A process ended before it could take a task; say whether that has happened too often.

        Args:
            environment: whose process; None for the program's own.
            detail: what is known of its end.
            is_certain: the next one would end as well.
        """
        if environment is None:
            return self._engine.pool.note_start_failure()
        environment.num_start_failures += 1
        if environment.num_start_failures < MAX_START_FAILURES and not is_certain:
            return False
        environment.num_start_failures = 0
        words = f"processes of the runtime environment fail to start\n{detail}".rstrip()
        self._fail(environment, RuntimeEnvSetupError(words))
        return True

    def note_start_failure(self, environment: Environment | None, detail: str) -> None:
        """As `gives_up`; if so, fail all tasks that would need such a process."""
        if self.gives_up(environment, detail) and environment is None:
            crash.fail_everything(self._engine, WorkerStartError(detail=detail))

    def next_end_s(self) -> float | None:
        """Return in how many seconds a template will have been idle for too long; None if there is none."""
        ends = [
            template.environment.used_at + self._engine.settings.environment_ttl_s
            for template in self._engine.pool.templates.values()
            if template.environment not in (None, self.own)
        ]
        return max(0.0, min(ends) - monotonic()) if ends else None

    def tidy(self) -> None:
        """End templates that have been idle for too long, and those that are too many."""
        engine = self._engine
        engine.pool.reap_ended()
        templates = [
            each for each in engine.pool.templates.values() if each.environment not in (None, self.own)
        ]
        if not templates:
            return
        templates.sort(key=lambda each: each.environment.used_at if each.environment else 0.0)
        too_many = len(templates) - MAX_TEMPLATES
        now = monotonic()
        for number, template in enumerate(templates):
            environment = template.environment
            assert environment is not None
            is_old = now - environment.used_at > engine.settings.environment_ttl_s
            if (is_old or number < too_many) and not self._end(template):
                too_many += 1

    def _end(self, template: TemplateHandle) -> bool:
        """End a template if none of its workers is in use, and these first; say whether it will end."""
        engine = self._engine
        workers = [each for each in engine.pool.workers.values() if each.template is template]
        if any(each.actor is not None or each.batches or each.waits for each in workers):
            if template.environment is not None:
                template.environment.used_at = monotonic()
            return False
        for each in workers:
            if engine.dispatcher.by_number.get(each.number) is each:
                crash.retire(engine, each)
        if not workers:
            engine.pool.end_template(template)
        return True

    def close(self) -> None:
        """The session has ended: let go of the cache, once nothing is being made any more."""
        for is_over in self._makers:
            is_over.acquire(timeout=CLOSE_S)
        with self._lock:
            for environment in self._known.values():
                environment.prepared.close()
