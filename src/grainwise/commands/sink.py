"""Where `grainwise map` writes, so that it can go on after an interruption at any point.

    OUTPUT         one line per row that went well, in the order of the input
    OUTPUT.state   while it is under way: a line that says what is mapped, then one per row that failed

Rows are done in order, and a failure is written before any line of a later row. So the number of complete
lines and the indices of the failures tell with certainty how far it came: no position needs to be kept up to
date.
"""

from __future__ import annotations

import json
import os
import sys
from time import monotonic
from typing import Any

import click

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO

WRITE_S = 0.1
"""A line that comes so soon after others were written waits for the next."""
WRITE_BYTES = 1 << 16


class Failure:
    """A row that failed, as it stands in the state file and the file of errors."""

    def __init__(self, index: int, error: str, traceback: str, row: str) -> None:
        self.index = index
        self.error = error
        self.traceback = traceback
        self.row = row

    def as_line(self) -> str:
        """Return its line of JSON."""
        facts = {"index": self.index, "error": self.error, "traceback": self.traceback, "row": self.row}
        return json.dumps(facts) + "\n"


class Sink:
    """Takes lines in order. Standard output has no state.

    Args:
        path: of the output; None for standard output.
        facts: what is mapped; a state that says something else is not gone on from.

    Attributes:
        n_done: rows that were done before.
        failures: those that failed, of this and earlier calls.
    """

    def __init__(self, path: str | None, facts: dict[str, Any]) -> None:
        self.path = path
        self.n_done = 0
        self.failures: list[Failure] = []
        self._facts = facts
        self._lines: list[str] = []
        self._failed: list[str] = []
        self._n_bytes = 0
        self._due_s = 0.0
        self._out: IO[Any] | None = None
        self._state: IO[Any] | None = None

    @property
    def state_path(self) -> str:
        """The file beside the output."""
        return f"{self.path}.state"

    @property
    def errors_path(self) -> str:
        """The file of failed rows, for `--errors record`."""
        return f"{self.path}.errors.jsonl"

    def open(self, *, is_resumed: bool, is_restarted: bool) -> bool:
        """Open the files; return False if an earlier call has done everything already.

        Raises:
            UsageError: there is a state and nobody said what to do with it, or it is of another map.
        """
        if self.path is None:
            self._out = _bytes_to(sys.stdout.fileno(), "wb")
            return True
        has_state = os.path.exists(self.state_path)
        if has_state and not is_resumed and not is_restarted:
            raise click.UsageError(
                f"{self.path} was interrupted - expected --resume to go on with it, or --restart"
            )
        try:
            if is_resumed and has_state:
                self._resume()
            elif is_resumed and os.path.exists(self.path):
                return False
            else:
                self._state = _text_to(self.state_path)
                self._state.write(json.dumps(self._facts) + "\n")
                self._state.flush()
                self._out = _bytes_to(self.path, "wb")
        except OSError as error:
            raise click.UsageError(f"the output can't be written: {error}") from None
        return True

    def _resume(self) -> None:
        assert self.path is not None
        failures = self._read_state()
        n_lines = 0
        self._out = _bytes_to(self.path, "r+b" if os.path.exists(self.path) else "w+b")
        end = at = 0
        while block := self._out.read(1 << 20):
            n_lines += block.count(b"\n")
            last = block.rfind(b"\n")
            end = at + last + 1 if last >= 0 else end
            at += len(block)
        self._out.truncate(end)
        self._out.seek(end)
        # Rows up to here: as many lines, and the failures between and right behind them.
        self.n_done = n_lines
        for failure in sorted(failures, key=lambda failure: failure.index):
            if failure.index > self.n_done:
                break
            self.failures.append(failure)
            self.n_done += 1
        part = f"{self.state_path}.part"
        self._state = _text_to(part)
        self._state.write(json.dumps(self._facts) + "\n")
        self._state.writelines(failure.as_line() for failure in self.failures)
        self._state.flush()
        os.replace(part, self.state_path)

    def _read_state(self) -> list[Failure]:
        with open(self.state_path, encoding="utf-8") as file:
            lines = file.read().split("\n")[:-1]  # without one that was cut short
        try:
            facts = json.loads(lines[0]) if lines else self._facts
            failures = [Failure(**json.loads(line)) for line in lines[1:]]
        except (ValueError, TypeError):
            raise click.UsageError(f"{self.state_path} can't be read - expected --restart") from None
        for name, value in self._facts.items():
            if facts.get(name) != value:
                raise click.UsageError(
                    f"{self.path} is of a map with another {name.replace('_', ' ')}: {facts.get(name)!r}, "
                    f"not {value!r} - expected the same command, or --restart"
                )
        return failures

    # -- writing ---------------------------------------------------------------------------------------

    def take(self, line: str) -> None:
        """Take the line of the next row."""
        self._lines.append(line)
        self._n_bytes += len(line)
        now_s = monotonic()
        if now_s > self._due_s or self._n_bytes > WRITE_BYTES:
            self.flush()
            self._due_s = now_s + WRITE_S

    def take_failure(self, failure: Failure) -> None:
        """Take the next row's failure instead."""
        self.failures.append(failure)
        self._failed.append(failure.as_line())

    def flush(self) -> None:
        """Write what has come.

        Raises:
            OSError: it can't be written.
        """
        if self._state is not None and self._failed:
            self._state.writelines(self._failed)
            self._state.flush()
        self._failed.clear()
        if not self._lines or self._out is None:
            return
        data = memoryview(("\n".join(self._lines) + "\n").encode("utf-8", "surrogateescape"))
        self._lines.clear()
        self._n_bytes = 0
        while data:
            data = data[self._out.write(data) :]

    def close(self, *, is_complete: bool, is_recorded: bool) -> None:
        """Write the rest; at the end of all rows the state goes, and failures have a file if wanted."""
        self.flush()
        for file in (self._out, self._state):
            if file is not None:
                file.close()
        if self.path is None or not is_complete:
            return
        if is_recorded and self.failures:
            with open(self.errors_path, "w", encoding="utf-8") as file:
                file.writelines(failure.as_line() for failure in self.failures)
        os.unlink(self.state_path)


def _bytes_to(path: str | int, mode: str) -> IO[Any]:
    """Open a file, or a descriptor that is not ours to close, without a buffer."""
    return open(path, mode, buffering=0, closefd=isinstance(path, str))


def _text_to(path: str) -> IO[Any]:
    return open(path, "w", encoding="utf-8")
