"""Checkers of lists, dicts, sets, tuples and unions."""

from __future__ import annotations

from typing import Any

from .checker import ANYTHING, NOTHING, Checker, Mismatch, show_kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def passes_all(element: Checker, values: Any) -> bool:
    """Say whether all elements pass unchanged, by their classes alone; False leaves it open."""
    exact = element.exact
    return exact is ANYTHING or (exact is not NOTHING and exact.issuperset(map(type, values)))


def of_list(element: Checker, name: str, kinds: tuple[Any, ...] = (list,)) -> Checker:
    """Return the checker of lists and other sequences; an element that is converted makes a new list."""

    def check(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise Mismatch(name, value)
        if passes_all(element, value):
            return value
        checked = check_each(element, value)
        if all(one is other for one, other in zip(checked, value)):
            return value
        return checked if isinstance(value, list) else type(value)(checked)

    return Checker(check, name, frozenset(kinds) if element.exact is ANYTHING else NOTHING)


def check_each(element: Checker, values: Any) -> list[Any]:
    """Check elements one by one."""
    check = element.check
    checked: list[Any] = []
    append = checked.append
    try:
        for value in values:
            append(check(value))
    except Mismatch as mismatch:
        raise mismatch.inside(f"[{len(checked)}]") from None
    return checked


def of_set(element: Checker, name: str, kinds: tuple[Any, ...]) -> Checker:
    """Return the checker of sets."""

    def check(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise Mismatch(name, value)
        if passes_all(element, value):
            return value
        for item in value:
            try:
                element.check(item)
            except Mismatch as mismatch:
                raise mismatch.inside(f"{{{item!r:.50}}}") from None
        return value

    return Checker(check, name, frozenset(kinds) if element.exact is ANYTHING else NOTHING)


def of_dict(key: Checker, element: Checker, name: str, kinds: tuple[Any, ...] = (dict,)) -> Checker:
    """Return the checker of dictionaries; an element that is converted makes a new one."""

    def check(value: Any) -> Any:
        if not isinstance(value, kinds):
            raise Mismatch(name, value)
        if not passes_all(key, value):
            for item in value:
                try:
                    key.check(item)
                except Mismatch as mismatch:
                    raise mismatch.inside(f".keys()[{item!r:.50}]") from None
        if passes_all(element, value.values()):
            return value
        changed: dict[Any, Any] = {}
        for item, held in value.items():
            try:
                checked = element.check(held)
            except Mismatch as mismatch:
                raise mismatch.inside(f"[{item!r:.50}]") from None
            if checked is not held:
                changed[item] = checked
        return {**value, **changed} if changed else value

    is_plain = key.exact is ANYTHING and element.exact is ANYTHING
    return Checker(check, name, frozenset(kinds) if is_plain else NOTHING)


def of_tuple(elements: Sequence[Checker], name: str) -> Checker:
    """Return the checker of tuples of a fixed length."""
    length = len(elements)

    def check(value: Any) -> Any:
        if not isinstance(value, tuple):
            raise Mismatch(name, value)
        if len(value) != length:
            raise Mismatch(name, value, got=f"a tuple of {len(value)}")
        return tuple(_check_at(element, value, i) for i, element in enumerate(elements))

    return Checker(check, name)


def _check_at(element: Checker, values: Any, index: int) -> Any:
    try:
        return element.check(values[index])
    except Mismatch as mismatch:
        raise mismatch.inside(f"[{index}]") from None


def of_union(members: Sequence[Checker], name: str) -> Checker:
    """Return the checker of values that are of one of several types: the first that takes the value."""
    exacts: frozenset[type] = frozenset().union(*(member.exact for member in members))
    if object in exacts:
        return Checker(lambda value: value, name, ANYTHING)
    is_all_exact = all(member.exact is not NOTHING for member in members)

    def check(value: Any) -> Any:
        if value.__class__ in exacts:
            return value
        deepest: Mismatch | None = None
        for member in members:
            try:
                return member.check(value)
            except Mismatch as mismatch:
                if mismatch.path and (deepest is None or len(mismatch.path) > len(deepest.path)):
                    deepest = mismatch
        if deepest is not None:  # the container was right, and something in it is wrong
            raise deepest from None
        raise Mismatch(name, value, got=show_kind(value))

    return Checker(check, name, exacts if is_all_exact else NOTHING)
