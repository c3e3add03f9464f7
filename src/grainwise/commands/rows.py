"""The rows of a file for `grainwise map`, and the text of results.

Lines of JSON are parsed, and results are turned into text, in workers: the program itself only moves lines.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from typing import Any

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

FORMATS = ("lines", "jsonl", "csv", "parquet")
_BY_EXTENSION = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet", ".pq": "parquet",
}  # fmt: skip
ROWS_AT_ONCE = 4096


def format_of(path: str, chosen: str | None) -> str:
    """Return the format of a file: the one chosen, else by its extension, else lines."""
    return chosen or _BY_EXTENSION.get(os.path.splitext(path)[1].lower(), "lines")


def read_rows(path: str, format_: str) -> Iterator[Any]:
    """Yield the rows of a file ("-": standard input): lines as text without their end, or dictionaries.

    Raises:
        UsageError: it can't be read, or the format needs what is not installed.
    """
    if format_ == "parquet":
        yield from _parquet_rows(path)
        return
    try:
        file = _text_of(path, newline="" if format_ == "csv" else None)
    except OSError as error:
        raise click.UsageError(f"the input can't be read: {error}") from None
    with file:
        if format_ == "csv":
            yield from csv.DictReader(file, delimiter="\t" if path.lower().endswith(".tsv") else ",")
        elif format_ == "jsonl":
            yield from (line for line in file if not line.isspace())
        else:
            yield from (line.removesuffix("\n") for line in file)


def _text_of(path: str, newline: str | None) -> IO[str]:
    """Open a file, or standard input; what is no UTF-8 comes out of a line as it went in."""
    where: Any = sys.stdin.fileno() if path == "-" else path
    return open(where, encoding="utf-8", errors="surrogateescape", newline=newline, closefd=path != "-")


def _parquet_rows(path: str) -> Iterator[dict[str, Any]]:
    from importlib import import_module

    try:
        parquet: Any = import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise click.UsageError("rows of Parquet files need `pip install pyarrow`") from None
    if path == "-":
        raise click.UsageError("Parquet can't be read from standard input - expected a file")
    try:
        table = parquet.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"the input can't be read: {error}") from None
    with table:
        for batch in table.iter_batches(batch_size=ROWS_AT_ONCE):
            yield from batch.to_pylist()


class RowFunction:
    """A function from row to line, for workers.

    Args:
        function: the user's.
        is_json_in: rows are lines of JSON.
        is_json_out: results become JSON whatever they are; else text stays as it is.
    """

    def __init__(self, function: Any, *, is_json_in: bool, is_json_out: bool) -> None:
        self._function = function
        self._is_json_in = is_json_in
        self._is_json_out = is_json_out
        self.__name__ = self.__qualname__ = getattr(function, "__name__", type(function).__name__)

    def __call__(self, row: Any) -> str:
        """Return the line of a row's result."""
        from .outputs import to_json

        result = self._function(json.loads(row) if self._is_json_in else row)
        if self._is_json_out or not isinstance(result, str):
            return to_json(result)
        if "\n" in result or "\r" in result:
            raise ValueError(
                "the result has line breaks, so it is not one line - expected text without them, or "
                "--output-format jsonl"
            )
        return result

    def __reduce__(self) -> Any:
        return _make, (self._function, self._is_json_in, self._is_json_out)


def _make(function: Any, is_json_in: bool, is_json_out: bool) -> RowFunction:
    return RowFunction(function, is_json_in=is_json_in, is_json_out=is_json_out)
