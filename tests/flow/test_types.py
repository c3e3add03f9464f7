"""Annotations are checked, and say where the culprit is."""

from __future__ import annotations

# ruff: noqa: E501, UP007, UP045 -- tables, and annotations as users write them
import dataclasses
import datetime
import enum
import pathlib
import typing
from typing import Any, Literal, NamedTuple, Optional, Union

import numpy
import pytest

from grainwise.errors import GrainwiseError
from grainwise.flow import (
    FlyteDirectory,
    FlyteFile,
    MissingReturnValueError,
    MissingTypeError,
    RestrictedTypeError,
    TypeMismatchError,
    task,
)
from grainwise.flow.types.annotations import compile_type
from grainwise.flow.types.checker import Mismatch
from grainwise.flow.types.compatible import can_be


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Inner:
    n: int


@dataclasses.dataclass
class Outer:
    inner: Inner
    names: list[str] = dataclasses.field(default_factory=list)
    next: Outer | None = None


class Point(NamedTuple):
    x: int
    y: float


class Settings(typing.TypedDict):
    depth: int


NOW = datetime.datetime(2024, 1, 2, 3, 4)

GOOD = [
    (int, 1), (float, 1.5), (str, "a"), (bool, True), (bytes, b"a"), (datetime.datetime, NOW),
    (datetime.date, NOW.date()), (datetime.timedelta, datetime.timedelta(1)), (type(None), None), (Any, object()),
    (list[int], [1, 2]), (list, [1, "a"]), (dict[str, list[int]], {"a": [1]}), (dict, {1: "a"}),
    (set[int], {1}), (frozenset[str], frozenset("a")), (tuple[int, str], (1, "a")), (tuple[int, ...], (1, 2, 3)),
    (Optional[int], None), (Union[int, str], "a"), (int | None, 3), (list[int | None], [1, None]),
    (Literal["a", 3], 3), (Colour, Colour.RED), (Outer, Outer(Inner(1))), (Point, Point(1, 2.0)),
    (Settings, {"depth": 1}), (numpy.ndarray, numpy.zeros(3)), (pathlib.Path, pathlib.Path("a")),
    (typing.Callable[[int], int], abs), (type[int], bool), (typing.Iterator[int], iter([1])),
    (typing.Annotated[int, "metres"], 3), (typing.NewType("UserId", int), 3),
    (typing.Sequence[int], (1, 2)), (typing.Mapping[str, int], {"a": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("annotation", "value"), GOOD, ids=lambda case: str(case)[:40])
def test_what_fits_passes_as_it_is(annotation: Any, value: Any) -> None:
    assert compile_type(annotation).check(value) is value or isinstance(value, tuple)


BAD = [
    (int, "a", "", "int", "str"), (int, True, "", "int", "bool"), (int, 1.0, "", "int", "float"),
    (float, 1, "", "float", "int"), (str, None, "", "str", "None"), (bool, 1, "", "bool", "int"),
    (datetime.date, NOW, "", "date", "datetime"), (list[int], [1, 2, 3, "a"], "[3]", "int", "str"),
    (list[int], (1,), "", "list[int]", "tuple"), (dict[str, int], {"a": "b"}, "['a']", "int", "str"),
    (dict[str, int], {1: 1}, ".keys()[1]", "str", "int"), (set[int], {"a"}, "{'a'}", "int", "str"),
    (dict[str, list[int]], {"a": [1, None]}, "['a'][1]", "int", "None"),
    (tuple[int, str], (1, 2), "[1]", "str", "int"), (tuple[int, str], (1,), "", "tuple[int, str]", "a tuple of 1"),
    (Optional[int], "a", "", "Optional[int]", "str"), (Union[int, list[int]], ["a"], "[0]", "int", "str"),
    (Literal["a"], "b", "", "Literal['a']", "'b'"), (Colour, "green", "", "Colour", "'green'"),
    (Outer, Outer(Inner("a")), ".inner.n", "int", "str"), (Outer, 3, "", "Outer", "int"),  # type: ignore[arg-type]
    (Outer, Outer(Inner(1), ["a", 2]), ".names[1]", "str", "int"),  # type: ignore[list-item]
    (list[Outer], [Outer(Inner(1), next=Outer(Inner(None)))], "[0].next.inner.n", "int", "None"),  # type: ignore[arg-type]
    (Settings, {"depth": "a"}, "['depth']", "int", "str"), (Settings, {}, "", "Settings", "dict without 'depth'"),
    (numpy.ndarray, [1], "", "ndarray", "list"), (typing.Callable[[], int], 3, "", "Callable", "int"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("annotation", "value", "path", "expected", "got"), BAD, ids=lambda case: str(case)[:30]
)
def test_what_does_not_fit_is_named(annotation: Any, value: Any, path: str, expected: str, got: str) -> None:
    with pytest.raises(Mismatch) as raised:
        compile_type(annotation).check(value)
    assert (raised.value.path, raised.value.expected, raised.value.got) == (path, expected, got)


def test_what_stands_for_a_value_is_converted() -> None:
    assert compile_type(Colour).check("blue") is Colour.BLUE
    assert compile_type(Colour).check("RED") is Colour.RED
    assert compile_type(Outer).check({"inner": {"n": 2}}) == Outer(Inner(2))
    assert compile_type(list[Colour]).check(["red", Colour.BLUE]) == [Colour.RED, Colour.BLUE]
    assert compile_type(dict[str, Colour]).check({"a": "red"}) == {"a": Colour.RED}
    assert compile_type(pathlib.Path).check("a/b") == pathlib.Path("a/b")
    assert compile_type(Point).check((1, 2.0)) == Point(1, 2.0)


def test_files_must_be_there(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hello")
    file = compile_type(FlyteFile["txt"]).check(str(path))
    assert isinstance(file, FlyteFile)
    with file.open() as opened:
        assert opened.read() == "hello"
    assert FlyteFile["txt"] is FlyteFile["txt"]
    assert FlyteFile["txt"].extension() == "txt"
    assert FlyteDirectory.listdir(compile_type(FlyteDirectory).check(tmp_path)) == [file]
    for wrong in (tmp_path, tmp_path / "none"):
        with pytest.raises(Mismatch, match="FlyteFile"):
            compile_type(FlyteFile).check(wrong)


def test_a_mismatch_names_task_argument_and_path() -> None:
    @task
    def total(data: list[int]) -> int:
        return sum(data)

    with pytest.raises(TypeMismatchError) as raised:
        total(data=[1, 2, 3, "4"])  # type: ignore[list-item]
    error = raised.value
    assert "total'" in str(error)
    assert "argument 'data': expected `int`, got `str` at `data[3]`" in str(error)
    assert (error.path, error.expected, error.got) == ("data[3]", "int", "str")
    for kind in (TypeError, ValueError, AssertionError, GrainwiseError):
        assert isinstance(error, kind)


def test_outputs_are_checked() -> None:
    @task
    def wrong(a: int) -> str:
        return a  # type: ignore[return-value]

    @task
    def pair(a: int) -> tuple[int, str]:
        return a, a  # type: ignore[return-value]

    @task
    def too_many() -> tuple[int, int]:
        return 1, 2, 3  # type: ignore[return-value]

    @task
    def none() -> int:
        return None  # type: ignore[return-value]

    for call, words in (
        (lambda: wrong(a=1), "output 'o0': expected `str`, got `int`"),
        (lambda: pair(a=1), "output 'o1': expected `str`, got `int`"),
        (too_many, "expected 2 values, got 3"),
        (none, "expected `int`, got `None`"),
    ):
        with pytest.raises(TypeMismatchError, match=words):
            call()


def test_what_can_be_no_task_is_refused() -> None:
    with pytest.raises(RestrictedTypeError):

        @task
        def plain_tuple(a: int) -> tuple:  # type: ignore[type-arg]
            return (a,)

    with pytest.raises(RestrictedTypeError):

        @task
        def takes_tuple(a: tuple[int, str]) -> int:
            return 1

    with pytest.raises(MissingTypeError, match="'b'"):

        @task
        def untyped(a: int, b) -> int:  # type: ignore[no-untyped-def]
            return a

    with pytest.raises(MissingReturnValueError, match="forgets"):

        @task
        def forgets(a: int) -> int:  # type: ignore[empty-body]
            print(a)

    with pytest.raises(TypeError, match="args"):

        @task
        def variadic(*args: int) -> int:
            return 1


def test_edges_are_compared_by_annotation() -> None:
    assert can_be(int, Optional[int])
    assert can_be(Optional[int], int)
    assert can_be(list[int], typing.List[int])  # noqa: UP006
    assert can_be(Any, int)
    assert can_be(str, Colour)
    assert not can_be(int, str)
    assert not can_be(list[int], list[str])
    assert not can_be(int, list[int])
    assert not can_be(Union[int, float], str)


def test_pydantic_models() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        n: int

    assert compile_type(Model).check({"n": 3}) == Model(n=3)
    with pytest.raises(Mismatch, match="Model"):
        compile_type(Model).check({"n": "x"})
