"""Workers' log records and warnings, handed to the program's own `logging` and `warnings`.

Called by the printing thread. The program's configuration decides what becomes of them: levels, handlers,
formatters; filters, `logging.captureWarnings`, a replaced `warnings.showwarning`.
"""

from __future__ import annotations

import sys

from .frames import LOG, read_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_registries: dict[str, dict[Any, Any]] = {}
"""What has been warned of in modules that only workers have."""


def handle(kind: bytes, payload: bytes, *, is_tagged: bool) -> None:
    """Hand over one record; a damaged one is passed over.

    Args:
        kind: what it is, as in its frame.
        payload: the rest of the frame.
        is_tagged: add the task's name to warnings. Log records have it as an attribute.
    """
    try:
        value = read_record(payload)
    except ValueError:
        return
    if kind == LOG:
        _log(value)
    else:
        _warn(*value, is_tagged=is_tagged)


def _log(fields: dict[str, Any]) -> None:
    import logging

    record = logging.makeLogRecord({})
    started = record.created - record.relativeCreated / 1000
    vars(record).update(fields)
    record.relativeCreated = (record.created - started) * 1000
    if record.levelname == f"Level {record.levelno}":
        record.levelname = logging.getLevelName(record.levelno)  # workers know no names of the program's own
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _warn(
    text: str, names: list[tuple[str, str]], filename: str, lineno: int, module: str | None, task_name: str,
    worker_pid: int, *, is_tagged: bool,
) -> None:  # fmt: skip
    """Warn as if the line had been run here; what would raise by a filter is shown instead."""
    import warnings

    category, is_known = _category(names)
    if not is_known:
        text = f"{names[0][1]}: {text}"
    if is_tagged and task_name:
        text = f"{text} (in task {task_name})"
    try:
        message = category(text)
    except TypeError:  # a class with arguments of its own
        message = UserWarning(f"{names[0][1]}: {text}")
    message.task_name, message.worker_pid = task_name, worker_pid  # type: ignore[attr-defined]
    try:
        warnings.warn_explicit(
            message, message.__class__, filename, lineno, module, registry=_registry(module or filename)
        )
    except Warning as error:  # nobody could catch it in this thread
        warnings.showwarning(error, error.__class__, filename, lineno)


def _registry(module: str) -> dict[Any, Any]:
    """Return where `warnings` remembers what it has shown for a module."""
    here = sys.modules.get(module)
    if here is not None:
        registry: dict[Any, Any] = vars(here).setdefault("__warningregistry__", {})
        return registry
    return _registries.setdefault(module, {})


def _category(names: list[tuple[str, str]]) -> tuple[type[Warning], bool]:
    """Return the warning's class, or its nearest ancestor that the program has loaded."""
    for module, name in names:
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type) and issubclass(found, Warning):
            return found, (module, name) == tuple(names[0])
    return UserWarning, False
