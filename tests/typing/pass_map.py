# pyright: strict
"""What a user's type checker must know of `map` and `starmap`. Checked, never run."""

from __future__ import annotations

from collections.abc import Iterator

from typing_extensions import assert_type

import grainwise
from grainwise import MapResults, remote


def length(text: str) -> int:
    return len(text)


def power(base: int, exponent: int) -> float:
    return float(base * exponent)


class Model:
    def predict(self, text: str) -> float:
        return float(len(text))


@remote(num_cpus=1)
def half(x: int) -> float:
    return x / 2


def texts() -> Iterator[str]:
    while True:
        yield "text"


assert_type(grainwise.map(length, ["a", "b"]), MapResults[int])
assert_type(list(grainwise.map(length, texts())), list[int])
assert_type(grainwise.map(power, range(3), [1, 2, 3]), MapResults[float])
assert_type(grainwise.map(Model().predict, ["a"]), MapResults[float])
assert_type(grainwise.map(half, range(3)), MapResults[float])
assert_type(grainwise.map(lambda x: str(x), range(3)), MapResults[str])
assert_type(grainwise.starmap(power, [(1, 2)]), MapResults[float])
assert_type(grainwise.map(length, ["a"], return_exceptions=True), MapResults[int | BaseException])
assert_type(next(grainwise.map(length, ["a"])), int)

for result in grainwise.map(
    length, ["a"], ordered=False, retries=2, timeout=1.5, progress=False, seed=3, max_workers=2
):
    assert_type(result, int)

for squared in grainwise.map(power, range(3), exponent=2, progress=lambda done, total: None):
    assert_type(squared, float)

for predicted in grainwise.map(Model.predict, ["a"], setup=Model):
    assert_type(predicted, float)

with grainwise.map(length, ["a"]) as results:
    for result in results:
        assert_type(result, int)


async def main() -> None:
    async for result in grainwise.map(length, ["a"]):
        assert_type(result, int)
