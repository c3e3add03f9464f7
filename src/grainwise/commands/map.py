"""`grainwise map MODULE:FUNCTION INPUT`: a Python function over the lines or rows of a file."""

from __future__ import annotations

import itertools
import os
from typing import Any

import click

from .loading import attribute_of, load_module
from .rows import FORMATS, RowFunction, format_of, read_rows
from .sink import Failure, Sink

INTERRUPTED = 130
MAX_ROW = 500


@click.command("map")
@click.argument("function", metavar="MODULE:FUNCTION")
@click.argument("input_path", metavar="INPUT", default="-")
@click.option("-o", "--output", metavar="PATH", help="Write there; by default to standard output.")
@click.option(
    "--format", "format_", type=click.Choice(FORMATS), help="Of the input; by default as its name says."
)
@click.option(
    "--output-format", type=click.Choice(("lines", "jsonl")), help="By default as the output's name says."
)
@click.option(
    "--errors", type=click.Choice(("raise", "skip", "record")), default="raise",
    help="Rows that fail: end it (default), leave them out, or write them to OUTPUT.errors.jsonl as well.",
)  # fmt: skip
@click.option(
    "--retries", type=click.IntRange(0), default=0, help="Runs beyond the first for a row that fails."
)
@click.option("--timeout", type=float, help="Seconds that one row may take.")
@click.option(
    "--max-workers", type=click.IntRange(1), help="So many rows at once; by default one for each CPU."
)
@click.option(
    "--progress/--no-progress", default=None, help="A bar on standard error; by default in terminals."
)
@click.option("--resume", "is_resumed", is_flag=True, help="Go on with a map that was interrupted.")
@click.option("--restart", "is_restarted", is_flag=True, help="Begin anew where one was interrupted.")
def map(function: str, input_path: str, output: str | None, **options: Any) -> None:
    """Call FUNCTION on every line or row of INPUT ("-": standard input), in workers; results in order.

    MODULE is a module or a file: `grainwise map clean.py:lower corpus.txt -o clean.txt`. Lines of text come
    without their end; lines of JSON are parsed; rows of CSV and Parquet files are dictionaries. Text is
    written as it is, anything else as JSON. The input is read no further than workers need.

    Exits with 0 when all rows are done, 1 if one failed, 2 if the command is wrong, 130 if it was
    interrupted.
    """
    if options["is_resumed"] and output is None:
        raise click.UsageError("--resume needs the output of before: -o PATH")
    if options["errors"] == "record" and output is None:
        raise click.UsageError("--errors record needs an output to stand beside: -o PATH")
    format_ = format_of(input_path, options["format_"])
    is_json_out = options["output_format"] == "jsonl"
    if options["output_format"] is None:
        is_json_out = format_of(output, None) == "jsonl" if output else format_ != "lines"
    called = _find(function)
    sink = Sink(output, _facts_of(function, input_path, format_, is_json_out, options["errors"]))
    rows = read_rows(input_path, format_)
    first = next(rows, None)  # what can't be read is said before the output is touched
    rows = rows if first is None else itertools.chain([first], rows)
    if not sink.open(is_resumed=options["is_resumed"], is_restarted=options["is_restarted"]):
        click.echo(f"{output} is complete", err=True)
        return
    if sink.n_done:
        click.echo(f"going on behind row {sink.n_done:,}", err=True)
    row_function = RowFunction(called, is_json_in=format_ == "jsonl", is_json_out=is_json_out)
    code = _run(row_function, itertools.islice(rows, sink.n_done, None), sink, options)
    click.get_current_context().exit(code)


def _find(text: str) -> Any:
    module, sign, name = text.rpartition(":")
    if not sign or not module or not name:
        raise click.UsageError(f"expected MODULE:FUNCTION, such as clean.py:lower, got {text!r}")
    found = attribute_of(load_module(module), name, "function")
    if not callable(found):
        raise click.UsageError(f"{text!r} is a {type(found).__name__} - expected a function")
    return found


def _facts_of(function: str, input_path: str, format_: str, is_json_out: bool, errors: str) -> dict[str, Any]:
    """Return what must be the same for a map to go on."""
    facts: dict[str, Any] = {
        "function": function, "input": os.path.abspath(input_path) if input_path != "-" else "-",
        "format": format_, "output_format": "jsonl" if is_json_out else "lines", "errors": errors,
    }  # fmt: skip
    try:
        found = os.stat(input_path)
    except OSError:  # standard input, or it is said later what is wrong
        return facts
    return {**facts, "input_bytes": found.st_size, "input_changed": found.st_mtime_ns}


def _run(function: RowFunction, rows: Any, sink: Sink, options: dict[str, Any]) -> int:
    """Map the rows and return the exit code."""
    import grainwise

    kept = _Kept(rows, is_wanted=options["errors"] != "raise")
    results = grainwise.map(
        function, kept, return_exceptions=True, retries=options["retries"], timeout=options["timeout"],
        max_workers=options["max_workers"], progress=options["progress"],
    )  # fmt: skip
    code = 0
    is_complete = False
    try:
        for index, result in enumerate(results, sink.n_done):
            row = kept.take()
            if not isinstance(result, BaseException):
                sink.take(result)
                continue
            failure = _failure_of(index, result, row)
            if options["errors"] == "raise":
                click.echo(f"{failure.traceback.rstrip()}\nrow {index + 1} failed: {failure.error}", err=True)
                code = 1
                break
            sink.take_failure(failure)
        else:
            is_complete = True
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        code = INTERRUPTED
    except BrokenPipeError:  # who read it has enough
        code = 1
    except OSError as error:
        click.echo(f"the output can't be written: {error}", err=True)
        code = 1
    finally:
        results.close()
        _close(sink, options, is_complete=is_complete)
    return code


def _close(sink: Sink, options: dict[str, Any], *, is_complete: bool) -> None:
    try:
        sink.close(is_complete=is_complete, is_recorded=options["errors"] == "record")
    except OSError:  # it was said already
        return
    if not is_complete and sink.path is not None:
        click.echo("the same command with --resume goes on", err=True)
    if sink.failures:
        where = f", see {sink.errors_path}" if options["errors"] == "record" and is_complete else ""
        plural = "row" if len(sink.failures) == 1 else "rows"
        click.echo(f"{len(sink.failures):,} {plural} failed{where}", err=True)


class _Kept:
    """The rows under way, for what is told of those that fail."""

    def __init__(self, rows: Any, *, is_wanted: bool) -> None:
        from collections import deque

        self._rows = rows
        self._under_way: Any = deque()
        self._is_wanted = is_wanted

    def __iter__(self) -> Any:
        if not self._is_wanted:
            return iter(self._rows)
        return self._noted()

    def _noted(self) -> Any:
        append = self._under_way.append
        for row in self._rows:
            append(row)
            yield row

    def take(self) -> Any:
        """Return the row of the next result, None if they are not kept."""
        return self._under_way.popleft() if self._is_wanted else None


def _failure_of(index: int, error: BaseException, row: Any) -> Failure:
    import traceback

    text = str(getattr(error, "traceback_text", "")) or "".join(traceback.format_exception(error))
    cause = getattr(error, "cause", None) or error
    shown = row if isinstance(row, str) else repr(row)
    return Failure(index, f"{type(cause).__name__}: {cause}", text, shown.rstrip("\n")[:MAX_ROW])
