"""Options of `grainwise run` from the inputs of what is run, and their values from text."""

from __future__ import annotations

import dataclasses
import datetime
import enum
import json
import os
import pathlib
import re
import typing
from typing import Any

import click

from grainwise.flow.types.annotations import is_union, strip
from grainwise.flow.types.checker import show_type
from grainwise.flow.types.paths import FlyteDirectory, FlyteFile
from grainwise.flow.types.signature import REQUIRED

_UNITS_S = {
    "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "m": 60.0, "min": 60.0,
    "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hour": 3600.0, "hours": 3600.0, "d": 86400.0,
    "day": 86400.0, "days": 86400.0, "w": 604800.0, "week": 604800.0, "weeks": 604800.0,
}  # fmt: skip
_PATHS = (FlyteFile, FlyteDirectory, pathlib.PurePath)
_PART = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([a-z]+)\s*,?")


def options_of(interface: Any) -> list[click.Option]:
    """Return an option for each input."""
    helps = helps_in(interface.docs)
    return [_option_of(each, helps.get(each.name, "")) for each in interface.inputs.values()]


def _option_of(each: Any, text: str) -> click.Option:
    spellings = dict.fromkeys([each.name, each.name.replace("_", "-")])
    kind = strip(each.annotation)
    members = [strip(member) for member in typing.get_args(kind)] if is_union(kind) else [kind]
    told = f"{text} " if text else ""
    if each.default is REQUIRED:
        told += "[required]"
    elif each.default is not None:
        told += f"[default: {getattr(each.default, 'value', each.default)!s:.80}]"
    if members in ([bool], [bool, type(None)]):
        names = [f"--{spelling}/--no-{spelling}" for spelling in spellings]
        return click.Option([*names, _variable(each.name)], default=None, help=told.strip())
    names = [f"--{spelling}" for spelling in spellings]
    return click.Option([*names, _variable(each.name)], type=InputType(kind), default=None, help=told.strip())


def _variable(name: str) -> str:
    return f"input_{name}"


def values_in(parsed: dict[str, Any], interface: Any) -> dict[str, Any]:
    """Return the inputs that options gave, by name."""
    given = {name: parsed.get(_variable(name).lower()) for name in interface.inputs}
    return {name: _untagged(value) for name, value in given.items() if value is not None}


class _Null:
    """What an option says that gives None: click takes None itself for `not given`."""


def _untagged(value: Any) -> Any:
    return None if isinstance(value, _Null) else value


class InputType(click.ParamType):  # type: ignore[type-arg]
    """The type of an option: what an annotation says.

    Plain types are read from text; lists, dictionaries, dataclasses and the like are JSON, or `@file` for a
    file of JSON.
    """

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation
        self.name = show_type(annotation)

    def get_metavar(self, param: click.Parameter, ctx: Any = None) -> str:
        """Return what stands behind the option in the help."""
        kind = self.annotation
        if is_class(kind) and issubclass(kind, enum.Enum):
            return f"[{'|'.join(str(member.value) for member in kind)}]"
        if typing.get_origin(kind) is typing.Literal:
            return f"[{'|'.join(map(str, typing.get_args(kind)))}]"
        return f"{self.name} as JSON" if takes_json(kind) else self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value of a text."""
        if not isinstance(value, str):
            return value
        try:
            read = from_text(self.annotation, value)
        except (ValueError, TypeError, OSError) as error:
            self.fail(f"expected `{self.name}`, got {value[:100]!r} - {error}", param, ctx)
        return _Null() if read is None else read


def is_class(annotation: Any) -> bool:
    """Say whether an annotation is a plain class; on Python 3.10 `list[int]` says that it is one."""
    return isinstance(annotation, type) and typing.get_origin(annotation) is None


def takes_json(annotation: Any) -> bool:
    """Say whether a type is given as JSON."""
    kind = strip(annotation)
    if is_union(kind):
        return any(takes_json(member) for member in typing.get_args(kind) if member is not type(None))
    if kind is Any or typing.get_origin(kind) not in (None, typing.Literal):
        return True
    if not is_class(kind):
        return typing.get_origin(kind) is not typing.Literal
    return not (kind in _READERS or issubclass(kind, enum.Enum) or _is_path(kind) or _is_table(kind))


def _is_path(kind: Any) -> bool:
    return is_class(kind) and (kind is os.PathLike or issubclass(kind, _PATHS))


def _path(kind: Any, text: str) -> Any:
    return pathlib.Path(text) if kind is os.PathLike else kind(text)


def _is_table(kind: type) -> bool:
    return kind.__name__ in ("DataFrame", "Table") and not dataclasses.is_dataclass(kind)


# -- from text -------------------------------------------------------------------------------------------


def from_text(annotation: Any, text: str) -> Any:
    """Return the value that a text on the command line stands for.

    Raises:
        ValueError: it is none of the type; `OSError` if a file can't be read.
    """
    kind = strip(annotation)
    if is_union(kind):
        return _from_union(kind, text)
    reader = _READERS.get(kind) if is_class(kind) else None
    if reader is not None:
        return reader(text)
    if is_class(kind) and issubclass(kind, enum.Enum):
        return _member(kind, text)
    if typing.get_origin(kind) is typing.Literal:
        for allowed in typing.get_args(kind):
            if str(allowed) == text:
                return allowed
        raise ValueError(f"expected one of {', '.join(map(str, typing.get_args(kind)))}")
    if _is_path(kind):
        return _path(kind, text)
    if is_class(kind) and _is_table(kind):
        return _read_table(kind, text.removeprefix("@"))
    return from_json(kind, _read_json(text, is_lenient=kind is Any))


def _from_union(kind: Any, text: str) -> Any:
    members = typing.get_args(kind)
    if type(None) in members and text.lower() in ("null", "none"):
        return None
    problem: Exception | None = None
    # Text is what every text is, so it comes last.
    for member in sorted(
        (m for m in members if m is not type(None)), key=lambda member: strip(member) is str
    ):
        try:
            return from_text(member, text)
        except (ValueError, TypeError, OSError) as error:
            problem = error
    raise problem or ValueError("expected null")


def _read_json(text: str, *, is_lenient: bool = False) -> Any:
    if text.startswith("@"):
        return read_file(text[1:])
    try:
        return json.loads(text)
    except ValueError as error:
        if is_lenient:
            return text
        raise ValueError(f"it is no JSON: {error}") from None


def read_file(path: str) -> Any:
    """Return what a file of JSON or YAML holds.

    Raises:
        OSError: it can't be read.
        ValueError: it is neither.
    """
    with open(path, encoding="utf-8") as file:
        text = file.read()
    if not path.endswith((".yaml", ".yml")):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {error}") from None
    try:
        from importlib import import_module

        yaml: Any = import_module("yaml")
    except ModuleNotFoundError:
        raise ValueError(f"{path} needs `pip install pyyaml` - or give JSON") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {error}") from None


def _read_table(kind: Any, path: str) -> Any:
    from importlib import import_module

    module: Any = import_module(kind.__module__.partition(".")[0])
    extension = os.path.splitext(path)[1].lstrip(".")
    if module.__name__ == "pyarrow":
        reader: Any = import_module("pyarrow.parquet" if extension == "parquet" else f"pyarrow.{extension}")
        return reader.read_table(path) if extension == "parquet" else reader.read_csv(path)
    read = getattr(module, f"read_{extension}", None)
    if read is None:
        raise ValueError(f"expected a file that {module.__name__} can read, such as .csv or .parquet")
    return read(path)


def read_bool(text: str) -> bool:
    """Return True or False."""
    if text.lower() in ("true", "1", "yes", "on", "t", "y"):
        return True
    if text.lower() in ("false", "0", "no", "off", "f", "n"):
        return False
    raise ValueError("expected true or false")


def read_datetime(text: str) -> datetime.datetime:
    """Return a time: ISO 8601, or now, today (midnight)."""
    if text == "now":
        return datetime.datetime.now()
    if text == "today":
        return datetime.datetime.combine(datetime.date.today(), datetime.time())
    return datetime.datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith(("Z", "z")) else text)


def read_date(text: str) -> datetime.date:
    """Return a day: ISO 8601, or today."""
    return datetime.date.today() if text == "today" else datetime.date.fromisoformat(text)


def read_duration(text: str) -> datetime.timedelta:
    """Return a duration: `90`, `1.5h`, `2 days, 3 min`, `1:30:00`.

    Raises:
        ValueError: it is none.
    """
    bare = text.strip().lower()
    sign = -1.0 if bare.startswith("-") else 1.0
    bare = bare.lstrip("+-")
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", bare):
        return datetime.timedelta(seconds=sign * float(bare))
    if clock := re.fullmatch(r"([0-9]+):([0-9]{1,2})(?::([0-9]{1,2}(?:\.[0-9]*)?))?", bare):
        hours, minutes, seconds = clock.groups()
        total_s = 3600.0 * int(hours) + 60.0 * int(minutes) + float(seconds or 0)
        return datetime.timedelta(seconds=sign * total_s)
    total_s, at = 0.0, 0
    while at < len(bare):
        part = _PART.match(bare, at)
        if part is None or part[2] not in _UNITS_S:
            raise ValueError("expected seconds, or numbers with units such as 90s, 1.5h, 2 days")
        total_s += float(part[1]) * _UNITS_S[part[2]]
        at = part.end()
    if not at:
        raise ValueError("expected a duration")
    return datetime.timedelta(seconds=sign * total_s)


def _member(kind: Any, text: str) -> Any:
    for member in kind:
        if str(member.value) == text:
            return member
    if text in kind.__members__:
        return kind[text]
    raise ValueError(f"expected one of {', '.join(str(member.value) for member in kind)}")


_READERS: dict[type, Any] = {
    int: int,
    float: float,
    str: str,
    bool: read_bool,
    bytes: str.encode,
    datetime.datetime: read_datetime,
    datetime.date: read_date,
    datetime.timedelta: read_duration,
    type(None): lambda text: _read_json(text),
}


# -- from JSON -------------------------------------------------------------------------------------------


def from_json(annotation: Any, data: Any) -> Any:
    """Return the value of a type that JSON stands for; what does not fit stays, and is refused by the check.

    Raises:
        ValueError: a text in it is no time, member or the like.
    """
    kind = strip(annotation)
    if is_union(kind):
        return _from_json_union(kind, data)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(data, list):
        return _from_json_list(kind, origin, args, data)
    if isinstance(data, dict):
        if len(args) == 2:
            return {_key(args[0], key): from_json(args[1], value) for key, value in data.items()}
        if is_class(kind) and dataclasses.is_dataclass(kind):
            hints = typing.get_type_hints(kind)
            fields = {key: from_json(hints.get(key, Any), value) for key, value in data.items()}
            return fields
        return data
    if is_class(kind):
        if kind is float and type(data) is int:
            return float(data)
        if issubclass(kind, enum.Enum) and not isinstance(data, kind):
            return _member(kind, str(data))
        if isinstance(data, str) and kind in _READERS and kind not in (int, float, bool, str):
            return _READERS[kind](data)
        if kind is datetime.timedelta and isinstance(data, (int, float)) and not isinstance(data, bool):
            return datetime.timedelta(seconds=data)
        if isinstance(data, str) and _is_path(kind):
            return _path(kind, data)
    return data


def _from_json_union(kind: Any, data: Any) -> Any:
    from grainwise.flow.types.annotations import compile_type
    from grainwise.flow.types.checker import Mismatch

    for member in typing.get_args(kind):
        try:
            value = from_json(member, data)
            compile_type(member).check(value)
        except (ValueError, TypeError, Mismatch):
            continue
        return value
    return data


def _from_json_list(kind: Any, origin: Any, args: tuple[Any, ...], data: list[Any]) -> Any:
    if getattr(origin or kind, "__module__", "") == "numpy":
        from importlib import import_module

        numpy: Any = import_module("numpy")
        return numpy.asarray(data)
    if origin is tuple and args:
        kinds = [args[0]] * len(data) if args[-1] is Ellipsis else args
        return (
            tuple(from_json(each, value) for each, value in zip(kinds, data))
            if len(kinds) == len(data)
            else data
        )
    element = args[0] if len(args) == 1 else Any
    values = [from_json(element, value) for value in data]
    made = origin or kind
    return made(values) if made in (set, frozenset, tuple) else values


def _key(kind: Any, text: str) -> Any:
    return from_text(kind, text) if strip(kind) in _READERS else text


# -- help ------------------------------------------------------------------------------------------------


def helps_in(docs: str) -> dict[str, str]:
    """Return what a docstring says of each parameter: Google's `Args:`, NumPy's or `:param name:`."""
    import inspect

    text = inspect.cleandoc(docs or "")
    found = {
        match[1]: " ".join(match[2].split())
        for match in re.finditer(r"^:param\s+(?:\S+\s+)?(\w+):\s*(.*(?:\n[ \t]+.+)*)", text, re.MULTILINE)
    }
    section = re.search(
        r"^(?:Args|Arguments|Parameters|Inputs):\s*\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE
    )
    if section is not None:
        body = inspect.cleandoc("\n" + section[1])
        for match in re.finditer(r"^\*?(\w+)\s*(?:\([^)]*\))?:\s*(.*(?:\n[ \t]+.+)*)", body, re.MULTILINE):
            found.setdefault(match[1], " ".join(match[2].split()))
    return found


def summary_of(docs: str) -> str:
    """Return a docstring up to what it says of parameters."""
    import inspect

    text = inspect.cleandoc(docs or "")
    return re.split(
        r"^(?:Args|Arguments|Parameters|Inputs|Returns|Raises):|^:param|^:return", text, flags=re.M
    )[0].strip()
