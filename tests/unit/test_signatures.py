"""What a function takes, as a short text; and the calls that are refused because of it."""

from __future__ import annotations

import functools
import inspect
import re
from typing import Any

import pytest

from grainwise.engine.signatures import MAX_SHAPES, Signature, describe


def plain(a, b=1, *rest, c, d=2, **more): ...


def strict(a, /, b, *, c): ...


def only_positional(a, b, /): ...


def nothing(): ...


class Methods:
    def method(self, a, b=1): ...

    def positional(self, /, a): ...

    def any_self(*args): ...

    @classmethod
    def of_class(cls, a): ...

    @staticmethod
    def static(a): ...


@functools.wraps(nothing)
def wrapper(*args, **kwargs): ...


@pytest.mark.parametrize(
    ("function", "skips_first", "text"),
    [
        (plain, False, "a,b=,*rest,c,d=,**more"),
        (strict, False, "a,/,b,*,c"),
        (only_positional, False, "a,b,/"),
        (nothing, False, ""),
        (Methods.method, True, "a,b="),
        (Methods.positional, True, "a"),
        (Methods.any_self, True, "*args"),
        (Methods.static, False, "a"),
        (Methods.of_class, False, "a"),
        (wrapper, False, "*args,**kwargs"),
        (functools.partial(plain, 1, c=3), False, None),
        (lambda x, *, y=1: x, False, "x,*,y="),
        (dict, False, None),
    ],
)
def test_signatures_as_text(function: Any, skips_first: bool, text: str | None) -> None:
    found = describe(function, skips_first=skips_first)
    if text is None:
        assert found is None or "," in found  # what Python knows of it differs from version to version
    else:
        assert found == text


CALLS: list[tuple[Any, Any]] = [
    ((), {}), ((1,), {}), ((1, 2), {}), ((1, 2, 3), {}), ((), {"a": 1}), ((1,), {"a": 1}), ((1,), {"b": 2}),
    ((1,), {"c": 3}), ((1, 2), {"c": 3}), ((1, 2, 3), {"c": 3}), ((1,), {"x": 1}),
    ((), {"a": 1, "b": 2, "c": 3}),
]  # fmt: skip


@pytest.mark.parametrize("function", [plain, strict, only_positional, nothing, lambda x, *, y=1: x, wrapper])
def test_a_call_passes_if_python_would_take_it(function: Any) -> None:
    signature = Signature(describe(function, skips_first=False), "function")
    for _ in range(2):  # from the memory, too
        for args, kwargs in CALLS:
            try:
                inspect.signature(function, follow_wrapped=False).bind(*args, **kwargs)
            except TypeError as error:
                with pytest.raises(TypeError, match=f"^function.*{re.escape(str(error))}"):
                    signature.check(args, kwargs)
            else:
                signature.check(args, kwargs)


def test_what_python_does_not_know_is_not_checked() -> None:
    signature = Signature(None, "unknown")
    for args, kwargs in CALLS:
        signature.check(args, kwargs)


def test_ever_new_names_do_not_fill_the_memory() -> None:
    signature = Signature("**names", "function")
    for number in range(2 * MAX_SHAPES):
        signature.check((), {f"name_{number}": 1})
    assert len(signature._shapes) == MAX_SHAPES
