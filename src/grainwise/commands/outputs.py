"""Outputs as text: plain for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import math
import os
from typing import Any


def show_outputs(entity: Any, result: Any, *, is_json: bool) -> str | None:
    """Return the outputs of a run as text; None if there are none and it is for people."""
    interface = entity.interface
    if is_json:
        if interface.output_class is None:
            return to_json(result)
        return to_json(dict(zip(interface.outputs, interface.split(result))))
    if not interface.outputs:
        return None
    if interface.output_class is None:
        return show_value(result)
    pairs = zip(interface.outputs, interface.split(result))
    return "\n".join(f"{name}: {show_value(value)}" for name, value in pairs)


def show_value(value: Any) -> str:
    """Return a value for people: text as it is, plain values as JSON, the rest as its author shows it."""
    if isinstance(value, str):
        return value
    if isinstance(value, (os.PathLike, enum.Enum, datetime.date, datetime.timedelta)):
        return str(plain(value))
    try:
        return json.dumps(plain(value, is_strict=True), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return str(value)


def to_json(value: Any) -> str:
    """Return a value as one line of JSON; what JSON has not is text."""
    return json.dumps(plain(value), ensure_ascii=False, allow_nan=False)


def plain(value: Any, *, is_strict: bool = False) -> Any:
    """Return a value as JSON can have it: dataclasses as objects, arrays and sets as lists, NaN as null.

    Args:
        value: any.
        is_strict: refuse what is not known instead of taking its text.

    Raises:
        TypeError: it is strict, and there is something that is not known.
    """
    if isinstance(value, enum.Enum):
        return plain(value.value, is_strict=is_strict)
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(plain(key)): plain(each, is_strict=is_strict) for key, each in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        named: Any = value
        return plain(named._asdict(), is_strict=is_strict)
    if isinstance(value, (list, tuple)):
        return [plain(each, is_strict=is_strict) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(each, is_strict=is_strict) for each in value), key=repr)
    if isinstance(value, (datetime.date, datetime.time)):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return plain(fields, is_strict=is_strict)
    return _plain_of_others(value, is_strict=is_strict)


def _plain_of_others(value: Any, *, is_strict: bool) -> Any:
    if isinstance(value, (bytes, bytearray)):
        import base64

        return base64.b64encode(value).decode()
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_strict and hasattr(value, "columns"):
        raise TypeError("a table is shown as its library shows it")
    for name, arguments in (("to_pylist", ()), ("to_dicts", ()), ("tolist", ()), ("to_dict", ("records",))):
        method = getattr(value, name, None)
        if callable(method):
            return plain(method(*arguments), is_strict=is_strict)
    if is_strict:
        raise TypeError(f"{type(value).__name__} has no plain form")
    return str(value)
