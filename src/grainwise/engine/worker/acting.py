"""A worker that is an actor: it holds an object, and the functions of its items are that object's methods."""

from __future__ import annotations

import os

from ..wire.tasks import LEAVING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .concurrent import Concurrent
    from .loop import Worker


class ActorExit(SystemExit):
    """Raised by `exit_actor`: ends the actor's process; no `except Exception` stops it."""


class Acting:
    """The object of an actor's process.

    Attributes:
        facts: of the actor: identity, name, namespace, how often it was made again; None of another worker.
        instance: the object, once its constructor has returned.
        is_actor: this worker was started for an actor.
        known: methods that have run here.
        concurrent: runs its calls, where they may run at once.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.facts: tuple[int, str, str, int] | None = None
        self.instance: Any = None
        self.is_actor = False
        self.known: set[str] = set()
        self.concurrent: Concurrent | None = None

    def prepare(
        self, class_name: str, facts: tuple[int, str, str, int],
        at_once: tuple[bool, int, tuple[tuple[str, int], ...]] | None,
    ) -> None:  # fmt: skip
        """Learn which actor this is, and make ready for calls that run at once, if they may."""
        self.facts = facts
        self._worker.task_name = class_name
        if at_once is None:
            return
        from .concurrent import OnLoop, OnThreads

        is_async, limit, groups = at_once
        self.concurrent = (OnLoop if is_async else OnThreads)(self._worker, limit, groups)

    def cancel(self, seq: int, index: int) -> None:
        """Cancel a call that may run with others."""
        if self.concurrent is not None:
            self.concurrent.cancel(seq, index)

    def creator(self, kind: Callable[..., Any]) -> Callable[..., None]:
        """Return what makes the object."""
        self.is_actor = True

        def create(*args: Any, **kwargs: Any) -> None:
            self.instance = kind(*args, **kwargs)

        return create

    def method(self, name: str) -> Callable[..., Any]:
        """Return a method of the object, as it is now."""
        built_in = _BUILT_IN.get(name)
        if built_in is not None:
            return lambda *args, **kwargs: built_in(self.instance, *args, **kwargs)
        try:
            found: Callable[..., Any] = getattr(self.instance, name)
        except BaseException as error:  # every call of it fails with that
            failure = error

            def fail(*_: object, **__: object) -> None:
                raise failure

            return fail
        return found

    def leave(self, error: BaseException) -> None:
        """End this process because a method said so."""
        code = error.code if isinstance(error, SystemExit) else 1
        if isinstance(error, ActorExit):
            status, why = 0, "it called exit_actor()"
        else:
            status = code if isinstance(code, int) else int(code is not None)
            why = "" if status else "it called sys.exit()"
        worker = self._worker
        worker.shielded += 1
        if why:
            worker.send((LEAVING, why))
        self.end()
        worker.tags.end()
        os._exit(status)

    def end(self) -> None:
        """Do what an object may expect of the end of its process: its hook, finalizers, exit handlers."""
        import atexit

        instance, self.instance = self.instance, None
        try:
            hook = getattr(instance, "__ray_shutdown__", None)
            if hook is not None:
                hook()
            del instance, hook
            atexit._run_exitfuncs()
        except BaseException:
            import traceback

            traceback.print_exc()
        self._worker.flush_output()


def _ready(_: object) -> bool:
    return True


def _terminate(_: object) -> None:
    raise ActorExit


def _call(instance: object, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    return function(instance, *args, **kwargs)


_BUILT_IN: dict[str, Callable[..., Any]] = {
    "__ray_ready__": _ready,
    "__ray_terminate__": _terminate,
    "__ray_call__": _call,
}
