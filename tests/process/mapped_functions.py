"""What the tests of `map` call; apart from them: workers import nothing but this."""

from __future__ import annotations

import functools


def double(x: int) -> int:
    return 2 * x


@functools.lru_cache
def cached(x: int) -> int:
    return 2 * x


class Scaler:
    """Multiplies, in several ways to be called."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def scale(self, x: int) -> int:
        return self.factor * x

    @classmethod
    def named(cls, x: int) -> str:
        return f"{cls.__name__} {x}"

    @staticmethod
    def plain(x: int) -> int:
        return 3 * x

    def __call__(self, x: int) -> int:
        return self.factor * x


class Number(int):
    pass


class Text(str):
    pass


class Pair(tuple[int, int]):
    pass


class Row(list[int]):
    pass


class Config(dict[str, int]):
    pass
