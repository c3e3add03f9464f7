"""Starting and ending a session: `init`, `shutdown`, `is_initialized`, and the automatic start."""

from __future__ import annotations

import _thread
import os
import sys

from ..engine import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal

    from ..engine.current import EngineLike
    from .ray_arguments import SessionContext

_start_lock = _thread.allocate_lock()
_has_exit_hooks = False
_is_exiting = False
_namespace = ""
"""What the last `init` said, or what was made in its place."""


def init(
    address: str | None = None,
    *,
    num_cpus: float | None = None,
    object_store_memory: int | None = None,
    spill_dir: str | None = None,
    batching: Literal["auto", "off"] | int | None = None,
    log_to_driver: bool | None = None,
    tag_output: bool | None = None,
    report: bool | None = None,
    ignore_reinit_error: bool = False,
    num_gpus: float | None = None,
    resources: dict[str, float] | None = None,
    _memory: float | None = None,
    runtime_env: dict[str, Any] | None = None,
    namespace: str | None = None,
    local_mode: bool = False,
    labels: dict[str, str] | None = None,
    include_dashboard: bool | None = None,
    dashboard_host: str | None = None,
    dashboard_port: int | None = None,
    job_config: Any = None,
    configure_logging: bool = True,
    logging_level: int | str | None = None,
    logging_format: str | None = None,
    logging_config: Any = None,
) -> SessionContext:
    """Start the engine. Optional: the first task, `put` or `get` starts it with defaults.

    Returns at once; worker processes are forked when the first task needs them.

    The arguments from `num_gpus` on are Ray's, so that its programs need not change them; those from `labels`
    on have no effect.

    Args:
        address: None or "local": a session of this program's own.
        num_cpus: tasks that run at once (a task takes one CPU unless its options say otherwise); by default
            the CPUs that this process may use.
        object_store_memory: bytes of shared memory for large objects before they spill to disk; by default
            30 % of the memory.
        spill_dir: folder for objects that don't fit; "off" raises `ObjectStoreFullError` instead. Files
            there have no name and go with the program, however it ends.
        batching: "auto" (default) sizes batches by measured cost; "off" sends each task by itself; a number
            sends batches of so many. A task's own option goes first. Rarely worth setting.
        log_to_driver: what tasks print, log and warn of arrives in this program (default True): standard
            output and error in `sys.stdout` and `sys.stderr`, log records in the loggers of the same name,
            with `task_name` and `worker_pid`, warnings in `warnings`.
        tag_output: begin each line with the task's name and the worker's pid, `(double pid=123) ...`, and
            end warnings with the task's name (default True).
        report: print `grainwise.report()` on standard error when the session ends; by default what
            `GRAINWISE_REPORT` (0 or 1) says.
        ignore_reinit_error: do nothing if the engine is running already.
        num_gpus: GPUs for tasks and actors; by default those of NVIDIA that the program may see. They are
            named as in CUDA_VISIBLE_DEVICES, else by number.
        resources: custom resources, `{"name": amount}`: whatever tasks and actors should not have more of at
            the same time.
        _memory: bytes that tasks and actors may reserve with `memory=`; by default the memory less the object
            store.
        runtime_env: what all tasks and actors have: a dict with `env_vars`, `working_dir`, `py_modules`,
            `pip` or `uv`, ...; what their own option says is added. It is made at once.
        namespace: what `get_runtime_context().namespace` says.
        local_mode: warns: tasks run in workers all the same.
        labels: no effect.
        include_dashboard: no effect: there is none.
        dashboard_host: no effect.
        dashboard_port: no effect.
        job_config: no effect.
        configure_logging: no effect: the program's own `logging` is used as it is.
        logging_level: no effect.
        logging_format: no effect.
        logging_config: no effect.

    Returns:
        A context manager that ends the session; needed by few.

    Raises:
        NotImplementedError: an argument of Ray's asks for what is not offered, such as a cluster.
        RuntimeError: the engine is running already.
        TypeError: an argument is of the wrong type.
        ValueError: an argument is out of range.
    """
    from ..config import resolve
    from .ray_arguments import SessionContext, check_init

    with _start_lock:
        if is_initialized():
            if ignore_reinit_error:
                return SessionContext()
            raise RuntimeError(
                "Maybe you called ray.init twice by accident? init() was called while the engine is "
                "running - expected one session at a time - call shutdown() first, or "
                "init(ignore_reinit_error=True)"
            )
        current.check_not_foreign()
        settings = resolve(
            num_cpus, object_store_memory, spill_dir, batching, log_to_driver, tag_output, report, num_gpus,
            resources, _memory,
        )  # fmt: skip
        if address or namespace is not None or local_mode:
            check_init(
                address,
                namespace=namespace,
                local_mode=local_mode,
            )
        environment = ""
        if runtime_env is not None:
            from ..engine.environments.spec import canonical

            environment = canonical(runtime_env, "init")
        global _namespace
        _namespace = namespace or ""
        _start(settings, environment)
    return SessionContext()


def shutdown() -> None:
    """End the session: unfinished tasks are abandoned, all processes end, shared memory is given back.

    Arrays that came out of `get` stay valid. Calling it again, or without a session, does nothing.
    """
    engine = current.current()
    end = getattr(engine, "shutdown", None)
    if end is None:
        return  # there is no session, or we are inside a task of one
    is_running = is_initialized()
    from ..engine.driver.turn import Deferral

    with Deferral():
        end()
        if current.current() is engine:
            current.install(None)
    settings: Any = getattr(engine, "settings", None)
    if settings is not None and settings.report and is_running:
        from .reports import print_report

        print_report()


def is_initialized() -> bool:
    """Say whether the engine is running in this process (inside a task it always is)."""
    engine = current.current()
    return engine is not None and not engine.is_closed


def engine() -> EngineLike:
    """Return the running engine, starting it with defaults if there is none.

    Raises:
        EngineClosedError: in a process that was forked off a program with an engine.
    """
    running = current.current()
    if running is not None and not running.is_closed:
        return running
    if _is_exiting:
        from ..engine.driver.words import freeze_daemon

        freeze_daemon()  # a thread that goes on at the end of the program starts no new session
    with _start_lock:
        running = current.current()
        if running is not None and not running.is_closed:
            return running
        current.check_not_foreign()
        from ..config import resolve

        global _namespace
        _namespace = ""
        return _start(resolve())


def namespace() -> str:
    """Return where names of actors are looked up by default: what `init` said, else one that nobody else has.

    The same in the program and in all its tasks.
    """
    global _namespace
    running: Any = engine()
    inside = getattr(running, "settings", None)
    if isinstance(inside, dict):
        return str(inside["namespace"])
    return _namespace


def check_namespace(value: str) -> None:
    """Refuse what is no namespace.

    Raises:
        ValueError: it is empty.
    """
    if not value:
        raise ValueError('"" is not a valid namespace - expected a text, or None for the session\'s')


def _start(settings: Any, runtime_env: str = "") -> EngineLike:
    from ..engine.driver.turn import Deferral
    from ..engine.processes.pool import open_pool

    global _namespace
    if not _namespace:
        digits = os.urandom(16).hex()
        _namespace = "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    with Deferral():  # a Ctrl-C between starting processes and knowing them would leave them alive
        pool = open_pool(settings, _namespace, is_own=not runtime_env)
        from ..engine.driver.engine import Engine  # while the template boots

        try:
            started = Engine(settings, pool, runtime_env)
        except BaseException:  # such as: no descriptors left
            pool.end_processes()
            pool.close()
            raise
        current.install(started)
        _add_exit_hooks()
        if "IPython" in sys.modules:
            from .cells import follow

            follow()
    return started


def _shutdown_at_exit() -> None:
    global _is_exiting
    _is_exiting = True
    engine: Any = current.current()
    if engine is not None and hasattr(engine, "is_exiting"):
        engine.is_exiting = True
    shutdown()


def _add_exit_hooks() -> None:
    global _has_exit_hooks
    if _has_exit_hooks:
        return
    _has_exit_hooks = True
    import atexit

    # Last in, first out: handlers that the program registers later, and its non-daemon threads, still work.
    atexit.register(_shutdown_at_exit)
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _after_fork_in_child() -> None:
    """A child of a fork must not act on its parent's engine."""
    global _start_lock
    _start_lock = _thread.allocate_lock()
    engine = current.current()
    if engine is None:
        return
    current.mark_foreign()
    abandon = getattr(engine, "abandon", None)
    if abandon is not None:
        abandon()
