"""The record that every run of this program has."""

from __future__ import annotations

from typing import Any

from .places import record_folder
from .recorder import RunRecord

_records: dict[str, RunRecord] = {}
_origin: tuple[str | None, str | None] = (None, None)


def attached_recorders() -> list[Any]:
    """Return the recorder of a run that begins now; none in tasks, and if the record is off."""
    from ..running.mode import _is_in_task

    if _is_in_task.get():  # what a task calls is part of it
        return []
    record = current_record()
    return [] if record is None else [record]


def current_record() -> RunRecord | None:
    """Return the record in the folder that is set now, None if it is off."""
    folder = record_folder()
    if folder is None:
        return None
    record = _records.get(folder)
    if record is None:
        record = _records[folder] = RunRecord(folder)
    return record


def origin() -> tuple[str | None, str | None]:
    """Return the file and the entity that `grainwise run` was given; None twice in other programs."""
    return _origin


def set_origin(file: str | None, entity: str | None) -> None:
    """Note what this program runs, so that the record says how to resume it."""
    global _origin
    _origin = file, entity
