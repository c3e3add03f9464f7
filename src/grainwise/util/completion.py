"""Results as they come: `as_completed` over refs, `map_unordered` over items."""

from __future__ import annotations

from itertools import islice

from ..api.values import get, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from ..api.tasks import RemoteFunction
    from ..objects.ref import ObjectRef

CHUNK_SIZE = 10
BACKPRESSURE_SIZE = 100


def as_completed(
    refs: Sequence[ObjectRef[Any]],
    *,
    chunk_size: int = CHUNK_SIZE,
    yield_obj_refs: bool = False,
    **options: Any,
) -> Iterator[Any]:
    """Yield the values of refs as they become available, some at a time.

    Args:
        refs: different refs.
        chunk_size: how many to wait for each time, >= 1; those come in the order of `refs`.
        yield_obj_refs: yield the refs themselves.
        **options: for `wait`: `timeout`, after which what is there is yielded, and `fetch_local`.

    Raises:
        ValueError: `chunk_size` is below 1, or `num_returns` is given.
    """
    _check(chunk_size, options)
    return _in_chunks(list(refs), chunk_size, yield_obj_refs, options)


def _in_chunks(
    refs: list[ObjectRef[Any]], chunk_size: int, yields_refs: bool, options: dict[str, Any]
) -> Iterator[Any]:
    while refs:
        ready, refs = wait(refs, num_returns=min(chunk_size, len(refs)), **options)
        yield from ready if yields_refs else get(ready)


def map_unordered(
    fn: RemoteFunction[..., Any, Any],
    items: Iterable[Any],
    *,
    backpressure_size: int | None = BACKPRESSURE_SIZE,
    chunk_size: int = CHUNK_SIZE,
    yield_obj_refs: bool = False,
    **options: Any,
) -> Iterator[Any]:
    """Call a remote function on items and yield the results as they come.

    `grainwise.map(f, items, ordered=False)` does the same with less for each item.

    Args:
        fn: a `@remote` function of one argument.
        items: may be endless.
        backpressure_size: calls under way at most, >= `chunk_size`; None submits all items at once.
        chunk_size: how many results to wait for each time, >= 1.
        yield_obj_refs: yield refs instead of values.
        **options: for `wait`, as with `as_completed`.

    Raises:
        ValueError: a size is out of range, or `num_returns` is given.
    """
    _check(chunk_size, options)
    if backpressure_size is None:
        return as_completed(
            [fn.remote(item) for item in items],
            chunk_size=chunk_size,
            yield_obj_refs=yield_obj_refs,
            **options,
        )
    if backpressure_size < chunk_size:
        raise ValueError(
            f"backpressure_size must be at least chunk_size, {chunk_size}, got {backpressure_size}"
        )
    return _with_backpressure(fn, iter(items), backpressure_size, chunk_size, yield_obj_refs, options)


def _with_backpressure(
    fn: Any, items: Iterator[Any], most: int, chunk_size: int, yields_refs: bool, options: dict[str, Any]
) -> Iterator[Any]:
    refs: list[Any] = []
    while True:
        refs += [fn.remote(item) for item in islice(items, most - len(refs))]
        if not refs:
            return
        ready, refs = wait(refs, num_returns=min(chunk_size, len(refs)), **options)
        yield from ready if yields_refs else get(ready)


def _check(chunk_size: int, options: dict[str, Any]) -> None:
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    if "num_returns" in options:
        raise ValueError("chunk_size says how many to wait for - expected no num_returns beside it")
