"""From an annotation to its checker."""

from __future__ import annotations

import collections.abc
import datetime
import enum
import os
import pathlib
import types
import typing
from typing import Any, TypeVar, Union

from . import classes, containers, paths
from .checker import Checker, Mismatch, anything, of_class, of_none, show_type

_CHECKERS: dict[Any, Checker] = {}
_LISTS: dict[Any, tuple[type, ...]] = {
    list: (list,),
    collections.abc.Sequence: (collections.abc.Sequence,),
    collections.abc.MutableSequence: (collections.abc.MutableSequence,),
    collections.abc.Collection: (collections.abc.Collection,),
    collections.deque: (collections.deque,),
}
_SETS: dict[Any, tuple[type, ...]] = {
    set: (set,),
    frozenset: (frozenset,),
    collections.abc.Set: (collections.abc.Set,),
    collections.abc.MutableSet: (collections.abc.MutableSet,),
}
_DICTS: dict[Any, tuple[type, ...]] = {
    dict: (dict,),
    collections.abc.Mapping: (collections.abc.Mapping,),
    collections.abc.MutableMapping: (collections.abc.MutableMapping,),
    collections.OrderedDict: (collections.OrderedDict,),
    collections.defaultdict: (collections.defaultdict,),
}


def compile_type(annotation: Any) -> Checker:
    """Return the checker of an annotation; compiled once.

    Raises:
        TypeError: it is not something that can stand as a type.
    """
    try:
        found = _CHECKERS.get(annotation)
    except TypeError:  # an annotation with something unhashable in `Annotated`
        return _compile(annotation)
    if found is None:
        found = _CHECKERS[annotation] = _compile(annotation)
    return found


def strip(annotation: Any) -> Any:
    """Return what stands in `Annotated[...]`, `NewType`, `Required[...]` and the like."""
    while True:
        if hasattr(annotation, "__metadata__"):
            annotation = annotation.__origin__
        elif hasattr(annotation, "__supertype__"):
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # `type X = ...`, from Python 3.12 on
            annotation = annotation.__value__
        else:
            return annotation


def is_union(annotation: Any) -> bool:
    """Say whether an annotation is `Union[...]`, `Optional[...]` or `X | Y`."""
    return typing.get_origin(annotation) in (Union, getattr(types, "UnionType", Union))


def _compile(annotation: Any) -> Checker:
    annotation = strip(annotation)
    if annotation is Any or annotation is object or isinstance(annotation, (TypeVar, str, typing.ForwardRef)):
        return anything()
    if annotation is None or annotation is type(None):
        return of_none()
    if is_union(annotation):
        members = [compile_type(member) for member in typing.get_args(annotation)]
        return containers.of_union(members, show_type(annotation))
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _compile_generic(annotation, origin, typing.get_args(annotation))
    if isinstance(annotation, type):
        return _compile_class(annotation)
    if callable(annotation):
        return anything()
    raise TypeError(f"expected a type, got {annotation!r:.100}")


def _compile_generic(annotation: Any, origin: Any, args: tuple[Any, ...]) -> Checker:
    name = show_type(annotation)
    if origin is typing.Literal:
        return classes.of_literal(args)
    if origin in _LISTS and len(args) == 1:
        return containers.of_list(compile_type(args[0]), name, _LISTS[origin])
    if origin in _SETS and len(args) == 1:
        return containers.of_set(compile_type(args[0]), name, _SETS[origin])
    if origin in _DICTS and len(args) == 2:
        return containers.of_dict(compile_type(args[0]), compile_type(args[1]), name, _DICTS[origin])
    if origin is tuple:
        if len(args) == 2 and args[1] is Ellipsis:
            return containers.of_list(compile_type(args[0]), name, (tuple,))
        return containers.of_tuple([compile_type(arg) for arg in args if arg != ()], name)
    if origin is type:
        return of_class(type)
    if origin is collections.abc.Callable:
        return _of_callable()
    if isinstance(origin, type):  # ndarray[...], Iterator[...], a generic class of the user's
        return _compile_class(origin)
    return anything()


def _of_callable() -> Checker:
    def check(value: Any) -> Any:
        if not callable(value):
            raise Mismatch("Callable", value)
        return value

    return Checker(check, "Callable")


def _compile_class(cls: Any) -> Checker:
    if cls is int:
        return of_class(int, but=(bool,))
    if cls is datetime.date:
        return of_class(datetime.date, but=(datetime.datetime,))
    if cls in _LISTS:
        return containers.of_list(anything(), show_type(cls), _LISTS[cls])
    if cls in _DICTS:
        return containers.of_dict(anything(), anything(), show_type(cls), _DICTS[cls])
    if issubclass(cls, enum.Enum):
        return classes.of_enum(cls)
    if issubclass(cls, (paths.FlyteFile, paths.FlyteDirectory)):
        return paths.of_path_type(cls)
    if cls is os.PathLike or issubclass(cls, pathlib.PurePath):
        return paths.of_path(cls)
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return classes.of_named_tuple(cls, compile_type)
    if hasattr(cls, "__dataclass_fields__"):
        return classes.of_dataclass(cls, compile_type)
    if hasattr(cls, "model_validate") or hasattr(cls, "__fields_set__"):
        return classes.of_model(cls)
    if issubclass(cls, dict) and hasattr(cls, "__total__"):
        return classes.of_typed_dict(cls, compile_type)
    if typing.is_typeddict(cls):
        return classes.of_typed_dict(cls, compile_type)
    return classes.of_protocol(cls)
