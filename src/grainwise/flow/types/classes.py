"""Checkers of enumerations, dataclasses, pydantic models, named tuples and typed dictionaries.

A dataclass or model is checked field by field. A dictionary is accepted in its place, so that JSON will do.
"""

from __future__ import annotations

import dataclasses
from typing import Any, get_type_hints

from .checker import ANYTHING, Checker, Mismatch, of_class, show_type

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Compile = Callable[[Any], Checker]


def of_enum(cls: Any) -> Checker:
    """Return the checker of members; the value of one is accepted in its place, and so is its name."""
    name = show_type(cls)

    def check(value: Any) -> Any:
        if isinstance(value, cls):
            return value
        try:
            return cls(value)
        except (ValueError, TypeError, KeyError):
            members: dict[str, Any] = cls.__members__
            if isinstance(value, str) and value in members:
                return members[value]
        raise Mismatch(name, value, got=f"{value!r:.80}")

    return Checker(check, name, frozenset((cls,)))


def of_literal(values: tuple[Any, ...]) -> Checker:
    """Return the checker of `Literal[...]`."""
    name = f"Literal[{', '.join(map(repr, values))}]"

    def check(value: Any) -> Any:
        for allowed in values:
            if value.__class__ is allowed.__class__ and value == allowed:
                return value
        raise Mismatch(name, value, got=f"{value!r:.80}")

    return Checker(check, name)


def _hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls, include_extras=True)
    except (NameError, TypeError, AttributeError):  # a name that is known only where the class was made
        return {}


def of_dataclass(cls: Any, compile_type: Compile) -> Checker:
    """Return the checker of a dataclass; a dictionary of its fields is accepted in its place."""
    name = show_type(cls)
    fields: list[tuple[str, Checker]] | None = None  # at first need: the class may name itself

    def known() -> list[tuple[str, Checker]]:
        nonlocal fields
        if fields is None:
            hints = _hints(cls)
            fields = []
            for field in dataclasses.fields(cls):
                if field.init:
                    checker = compile_type(hints.get(field.name, Any))
                    if checker.exact is not ANYTHING:
                        fields.append((field.name, checker))
        return fields

    def check(value: Any) -> Any:
        if isinstance(value, dict):
            value = _from_dict(cls, name, value)
        elif not isinstance(value, cls):
            raise Mismatch(name, value)
        changed = {}
        for field, checker in known():
            held = getattr(value, field)
            if held.__class__ in checker.exact:
                continue
            try:
                checked = checker.check(held)
            except Mismatch as mismatch:
                raise mismatch.inside(f".{field}") from None
            if checked is not held:
                changed[field] = checked
        return dataclasses.replace(value, **changed) if changed else value

    return Checker(check, name)


def _from_dict(cls: Any, name: str, value: dict[str, Any]) -> Any:
    try:
        return cls(**value)
    except TypeError as error:
        raise Mismatch(name, value, got=f"dict ({error})") from None


def of_model(cls: Any) -> Checker:
    """Return the checker of a pydantic model; it validates a dictionary in its place by itself."""
    name = show_type(cls)

    def check(value: Any) -> Any:
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            raise Mismatch(name, value)
        validate = getattr(cls, "model_validate", None) or cls.parse_obj
        try:
            return validate(value)
        except ValueError as error:
            first = str(error).partition("\n")[2].replace("\n", " ") or str(error)
            raise Mismatch(name, value, got=f"dict ({first[:150]})") from None

    return Checker(check, name, frozenset((cls,)))


def of_named_tuple(cls: Any, compile_type: Compile) -> Checker:
    """Return the checker of a named tuple; a plain tuple of its fields is accepted in its place."""
    name = show_type(cls)
    hints = _hints(cls)
    fields = [(field, compile_type(hints.get(field, Any))) for field in cls._fields]

    def check(value: Any) -> Any:
        if not isinstance(value, tuple):
            raise Mismatch(name, value)
        if len(value) != len(fields):
            raise Mismatch(name, value, got=f"a tuple of {len(value)}")
        checked = []
        for (field, checker), held in zip(fields, value):
            try:
                checked.append(checker.check(held))
            except Mismatch as mismatch:
                raise mismatch.inside(f".{field}") from None
        return cls(*checked)

    return Checker(check, name)


def of_typed_dict(cls: Any, compile_type: Compile) -> Checker:
    """Return the checker of a `TypedDict`."""
    name = show_type(cls)
    hints = _hints(cls)
    required = getattr(cls, "__required_keys__", frozenset(hints))
    fields = {key: compile_type(hint) for key, hint in hints.items()}

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Mismatch(name, value)
        missing = sorted(required - value.keys())
        if missing:
            raise Mismatch(name, value, got=f"dict without {missing[0]!r}")
        for key, held in value.items():
            if key not in fields:
                raise Mismatch(name, value, got=f"dict with {key!r}")
            try:
                fields[key].check(held)
            except Mismatch as mismatch:
                raise mismatch.inside(f"[{key!r}]") from None
        return value

    return Checker(check, name)


def of_protocol(cls: Any) -> Checker:
    """Return the checker of a class by `isinstance`, or of nothing where that can't be asked."""
    try:
        isinstance(None, cls)
    except TypeError:
        return Checker(lambda value: value, show_type(cls), ANYTHING)
    return of_class(cls)
