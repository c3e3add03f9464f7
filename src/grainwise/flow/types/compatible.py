"""Whether the output of one task may be the input of another, by their annotations alone."""

from __future__ import annotations

import datetime
import enum
import typing
from typing import Any

from .annotations import is_union, strip

_PLAIN = (int, float, str, bool, bytes, datetime.datetime, datetime.date, datetime.timedelta)
_KINDS: tuple[type, ...] = (list, dict, set, frozenset)


def can_be(source: Any, target: Any) -> bool:
    """Say whether a value of one annotation may be of another; True where only the value can tell."""
    source, target = strip(source), strip(target)
    if source == target:
        return True
    if is_union(source):
        return any(can_be(member, target) for member in typing.get_args(source))
    if is_union(target):
        return any(can_be(source, member) for member in typing.get_args(target))
    source_kind, target_kind = _kind(source), _kind(target)
    if source_kind is None or target_kind is None:
        return True
    if source_kind is not target_kind:
        return False
    if source_kind not in _KINDS:
        return True
    ours, theirs = typing.get_args(source), typing.get_args(target)
    return len(ours) != len(theirs) or all(map(can_be, ours, theirs))


def _kind(annotation: Any) -> Any:
    """Return the class of which all values of an annotation are; None if there is more to know."""
    if annotation is None or annotation is type(None):
        return type(None)
    if annotation in _PLAIN or annotation in _KINDS:
        return annotation
    origin = typing.get_origin(annotation)
    if origin in _KINDS:
        return origin
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return None  # its value will do as well
    return None
