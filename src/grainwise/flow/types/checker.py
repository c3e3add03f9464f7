"""A checker: what an annotation has been compiled to.

Each annotation is compiled once. A checker is a closure that returns the value (or what it is converted to)
or raises `Mismatch`. Containers of plain elements are checked in C, by the set of the classes of their
elements: a list of a million numbers costs 10 ms. The way to the culprit is put together only when there is
one.
"""

from __future__ import annotations

from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ANYTHING: frozenset[type] = frozenset((object,))
"""`exact` of a checker that accepts whatever comes."""
NOTHING: frozenset[type] = frozenset()


class Mismatch(Exception):  # noqa: N818 -- it never leaves this package
    """A value is not of its type; containers on the way out put themselves before the path."""

    def __init__(self, expected: str, value: Any, *, got: str = "") -> None:
        super().__init__(expected)
        self.expected = expected
        self.got = got or show_kind(value)
        self.path = ""

    def inside(self, step: str) -> Mismatch:
        """Put a step before the path."""
        self.path = step + self.path
        return self


class Checker:
    """A compiled annotation.

    Attributes:
        check: returns the value or what it is converted to, or raises `Mismatch`.
        exact: classes whose very instances pass unchanged, without a look at what they hold; `ANYTHING` if
            that is all of them, `NOTHING` if each value must be looked at.
        name: for messages.
    """

    __slots__ = ("check", "exact", "name")

    def __init__(self, check: Callable[[Any], Any], name: str, exact: frozenset[type] = NOTHING) -> None:
        self.check = check
        self.exact = exact
        self.name = name

    def __repr__(self) -> str:
        return f"<Checker of {self.name}>"


def show_type(annotation: Any) -> str:
    """Return an annotation as its author writes it."""
    if annotation is None or annotation is type(None):
        return "None"
    if annotation is Ellipsis:
        return "..."
    arguments = getattr(annotation, "__args__", None)
    if isinstance(annotation, type) and not arguments:
        return annotation.__qualname__.rpartition("<locals>.")[2]
    text = str(annotation)
    for prefix in ("typing.", "typing_extensions.", "types.", "builtins."):
        text = text.replace(prefix, "")
    return text[:200]


def show_kind(value: Any) -> str:
    """Return the class of a value as text."""
    if value is None:
        return "None"
    kind = type(value)
    return kind.__qualname__.rpartition("<locals>.")[2]


def anything() -> Checker:
    """Return the checker that accepts whatever comes."""
    return Checker(lambda value: value, "Any", ANYTHING)


def of_class(cls: type, *, but: tuple[type, ...] = (), name: str = "") -> Checker:
    """Return the checker of instances of a class, without those of some of its subclasses."""
    shown = name or show_type(cls)

    def check(value: Any) -> Any:
        if value.__class__ is cls:
            return value
        if isinstance(value, cls) and not (but and isinstance(value, but)):
            return value
        raise Mismatch(shown, value)

    return Checker(check, shown, frozenset((cls,)))


def of_none() -> Checker:
    """Return the checker of None."""

    def check(value: Any) -> None:
        if value is not None:
            raise Mismatch("None", value)

    return Checker(check, "None", frozenset((type(None),)))
